"""The names of trl that the integration stands on: after an upgrade of trl this says in a sentence which have moved.

They are read from the integration's own source, so that the list is complete; nothing of it is imported before.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

trl = pytest.importorskip("trl")

from trl import GRPOConfig, GRPOTrainer  # noqa: E402
from trl.generation.vllm_generation import VLLMGeneration  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other
ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "psn_tutorial" / "integrations" / "trl").glob("*.py"))
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SOURCE = "".join(inspect.getsource(cls) for cls in GRPOTrainer.__mro__ if cls is not object)
CALLED = {  # what the integration overrides or calls, and the arguments that it gives or expects
    GRPOTrainer.__init__: ("model", "reward_funcs", "args", "rollout_func", "tools", "environment_factory"),
    GRPOTrainer.compute_loss: ("model", "inputs"),
    GRPOTrainer.log: ("logs", "start_time"),
    GRPOTrainer.train: ("resume_from_checkpoint",),
    VLLMGeneration.generate: ("prompts", "images", "num_generations"),
    VLLMGeneration.sync_weights: ("self",),
}
INPUTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps")


def imports():
    """(module, name) of everything that is imported from trl."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {(node.module, alias.name) for node in nodes if node.module.split(".")[0] == "trl" for alias in node.names}


def attributes(tree, of):
    """The names in ``of``.name, where they are read and where they are set."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == of]
    return [{node.attr for node in nodes if isinstance(node.ctx, kind)} for kind in (ast.Load, ast.Store)]


def defined(tree):
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def inherited():
    """What PSNGRPOTrainer reads of itself and does not make itself, and what RewardSums reads and sets of it."""
    (trainer,) = [n for n in TREES["trainer"].body if isinstance(n, ast.ClassDef) and n.name == "PSNGRPOTrainer"]
    read, own = attributes(trainer, "self")
    listened = set().union(*attributes(TREES["rewards"], "trainer"), *attributes(TREES["rewards"], "self.trainer"))
    return (read - own - defined(trainer)) | listened


def settings():
    """What the integration reads of the settings, or sets: under these three names, and by getattr."""
    config, trainer = TREES["config"], TREES["trainer"]
    named = set().union(*attributes(config, "self"), *attributes(trainer, "self.args"), *attributes(trainer, "args"))
    (check,) = [n for n in ast.walk(config) if isinstance(n, ast.FunctionDef) and n.name == "_check_sampling"]
    pairs = [n.elts[0] for n in ast.walk(check) if isinstance(n, ast.Tuple) and len(n.elts) == 2]
    by_name = {node.value for node in pairs if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return (named | by_name) - defined(config)


def test_trl_still_has_what_is_built_on():
    missing = [f"{module}.{name}" for module, name in sorted(imports()) if not _there(module, name)]
    missing += [
        f"the argument {name} of {function.__qualname__}"
        for function, names in CALLED.items()
        for name in names
        if name not in inspect.signature(function).parameters
    ]
    missing += [
        f"the attribute {name} of GRPOTrainer"
        for name in sorted(inherited())
        if not hasattr(GRPOTrainer, name) and not re.search(rf"self\.{name}\b[^=\n]*=[^=]", SOURCE)
    ]
    missing += [
        f"the loss input {name}"
        for name in (*INPUTS, "sampling_per_token_logps", "importance_sampling_ratio")
        if f'"{name}"' not in SOURCE
    ]
    missing += [f"{name} of a model's own pass" for name in ("fused_lm_head", "log_probs") if name not in SOURCE]
    assert not missing, f"trl {trl.__version__} no longer has {', '.join(missing)}"


def _there(module, name):
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def test_its_settings_are_there_and_ours_have_names_of_their_own():
    from psn_tutorial.integrations.trl import PSNConfig

    own, theirs = set(PSNConfig.__annotations__), {*GRPOConfig.__dataclass_fields__, *dir(GRPOConfig)}
    missing = sorted(settings() - own - theirs)
    assert not missing, f"GRPOConfig of trl {trl.__version__} no longer has {', '.join(missing)}"
    taken = sorted(own & theirs)
    assert not taken, f"trl {trl.__version__} has settings of its own called {', '.join(taken)}"


def test_the_lists_are_those_of_the_source():
    """So that they are not empty where the code is written in another way."""
    assert ("trl.trainer.utils", "pad") in imports() and len(imports()) >= 7
    assert {"accelerator", "eos_token_ids", "num_generations_eval", "vllm_generation"} <= inherited()
    assert {"reward_funcs", "reward_weights"} <= inherited()
    assert not {"scheduler", "roll_out", "generation"} & inherited()
    assert {"steps_per_generation", "vllm_importance_sampling_mode", "ds3_gather_for_generation", "min_p"} <= settings()
