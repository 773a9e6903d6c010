"""The names of TRL that the integration stands on: after an upgrade of trl this says which one has moved."""

import inspect

import pytest

trl = pytest.importorskip("trl")

from trl import GRPOConfig, GRPOTrainer  # noqa: E402
from trl.generation.vllm_generation import VLLMGeneration  # noqa: E402

from psn_tutorial.integrations.trl import PSNConfig  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


def test_trl_still_has_what_is_built_on():
    """After an upgrade of trl this says which name has moved."""
    initial = inspect.getsource(GRPOTrainer)
    missing = [
        f"the argument {name} of {function.__qualname__}"
        for function, names in (
            (GRPOTrainer.__init__, ("model", "reward_funcs", "args", "rollout_func", "tools", "environment_factory")),
            (GRPOTrainer.compute_loss, ("model", "inputs")),
            (GRPOTrainer.log, ("logs", "start_time")),
            (VLLMGeneration.generate, ("prompts", "images", "num_generations")),
            (VLLMGeneration.sync_weights, ("self",)),
        )
        for name in names
        if name not in inspect.signature(function).parameters
    ]
    missing += [
        f"the attribute {name} of GRPOTrainer"
        for name in (
            *("temperature", "eos_token_ids", "generation_config", "generation_kwargs", "pad_to_multiple_of"),
            *("chat_template", "chat_template_kwargs", "num_generations", "num_generations_eval", "use_vllm"),
            "vllm_generation",
        )
        if f"self.{name} =" not in initial
    ]
    missing += [
        f"the setting {name} of GRPOConfig"
        for name in (
            *(
                "steps_per_generation",
                "generation_batch_size",
                "num_iterations",
                "loss_type",
                "top_p",
                "top_k",
                "min_p",
            ),
            *(
                "vllm_importance_sampling_correction",
                "vllm_importance_sampling_mode",
                "vllm_importance_sampling_clip_max",
            ),
            *("importance_sampling_level", "cast_lm_head_to_fp32", "ds3_gather_for_generation", "generation_kwargs"),
        )
        if name not in GRPOConfig.__dataclass_fields__
    ]
    missing += [
        f"the loss input {name}"
        for name in ("old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio", "advantages")
        if f'"{name}"' not in initial
    ]
    taken = PSNConfig.__dataclass_fields__.keys() & GRPOConfig.__dataclass_fields__.keys()
    own = set(PSNConfig.__annotations__)
    assert not missing, f"trl {trl.__version__} no longer has {', '.join(missing)}"
    assert not taken & own, f"trl {trl.__version__} has settings of its own called {', '.join(sorted(taken & own))}"
