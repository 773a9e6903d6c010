"""A task and a scheduler of one's own, in a module of the current folder, from the command line."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import EntryPoint

import pytest

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.tasks import get_task, registry
from psn_tutorial.tasks.countdown import Countdown
from tests.cli.own_module import MODULE, NOISY, SMALL
from tests.cli.tiny_runs import process, timeless, weights


def train(psn, *words, out="runs/one"):
    return psn("train", "--task", "own_tasks:Parity", "--base", "base", *SMALL, *words, "--out", out)


def test_it_is_pretrained_trained_resumed_evaluated_and_probed_by_being_named(own, psn, tmp_path):
    small = "--problems 3 --demonstrations 20 --steps 3 --batch 4 --model-hidden 16".split()
    said = psn("pretrain", "--task", "own_tasks:Parity", *small)
    assert said.code == 0 and (tmp_path / "bases/own_tasks-Parity/config.json").is_file(), said.err
    said = train(psn, *NOISY, "--eval-every", 2, "--transcripts", 2, "--base", "bases/own_tasks-Parity")
    assert said.code == 0, said.err
    assert "runs/one, step 4" in said.out
    config = json.loads((tmp_path / "runs/one/config.json").read_text())
    assert config["task"] == "own_tasks:Parity"
    for words in (
        ["evaluate", "runs/one", "--against", "runs/one", "--samples", 8],
        ["evaluate", "base", "--task", "own_tasks:Parity", "--samples", 2],
        ["probe", "base", "--task", "own_tasks:Parity", "--answers", 2, "--sets", 2, "--sampler", "clean", "mlp=0.5"],
    ):
        said = psn(*words)
        assert said.code == 0, (words, said)
    assert "log-probs" in psn("preflight", "--task", "own_tasks:Parity", "--base", "base", *SMALL).out
    made = {path.name.replace("-own_tasks-Parity", "") for path in (tmp_path / "runs").iterdir()}
    assert made == {"one", "base", "eval-one", "eval-base", "probe-base"}


def test_a_process_of_its_own_finds_the_module_and_goes_on_to_the_same_weights(own, psn, tmp_path):
    assert train(psn, *NOISY, out="whole").code == 0
    run = process(
        *f"train --task own_tasks:Parity --base base --out cut {' '.join(map(str, [*SMALL, *NOISY]))}".split()
    )
    assert run.wait() == 0, run.communicate()
    shutil.rmtree(tmp_path / "cut/checkpoints/step-000004")
    assert psn("train", "--resume", "cut").code == 0
    assert timeless("cut") == timeless("whole") and (weights("cut") == weights("whole")).all()


def test_a_comparison_of_it_is_run_and_reported_without_its_module(own, psn, tmp_path):
    arms = {"grpo": {"label": "GRPO"}, "psn": {"label": "PSN", "changes": {"sigma": 0.5, "relative": True}}}
    common = {"base": "base", "prompts": 2, "group": 4, "samples": 4, "steps": 2}
    made = {"task": "own_tasks:Parity", "question": "?", "arms": arms, "common": common}
    (tmp_path / "c.json").write_text(json.dumps({"mine": made}))
    assert psn("compare", "--file", "c.json", "--out", "compared").code == 0
    own("raise SystemExit('imported')")
    assert psn("report", "compared").code == 0
    said = psn("compare", "--resume", "compared")
    assert (
        said.code == 2
        and "the module own_tasks cannot be imported: SystemExit: imported (own_tasks.py, line 1)" in (said.err)
    )
    (tmp_path / "c.json").write_text(json.dumps({"mine": made | {"metrics": ["success"]}}))
    own(MODULE)
    said = psn("compare", "--file", "c.json", "--out", "other")
    assert (said.code, "metrics: own_tasks:Parity has no exact success" in said.err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_no_reader_imports_what_a_record_names(own, psn, tmp_path):
    arms = {"grpo": {"label": "GRPO"}, "psn": {"label": "PSN", "changes": {"sigma": 0.5, "relative": True}}}
    common = {"prompts": 2, "group": 4, "samples": 4, "steps": 2}
    made = {"task": "chain", "question": "?", "arms": arms, "common": common}
    (tmp_path / "c.json").write_text(json.dumps({"mine": made}))
    assert psn("compare", "--file", "c.json", "--out", "compared").code == 0
    own("from pathlib import Path\nPath('imported').touch()\nclass Task: name = 'evil'", "evil")
    for path in [*(tmp_path / "compared").rglob("config.json"), tmp_path / "compared/comparison.json"]:
        content = path.read_text().replace('"chain"', '"evil:Task"')
        path.write_text(content.replace('"schedule": "constant"', '"schedule": "evil:Task"'))
    run = "compared/mine/psn/seed-0"
    assert '"evil:Task"' in (tmp_path / run / "config.json").read_text()
    assert psn("report", "compared").code == 0
    assert psn("evaluate", "--task", "chain", "--samples", 2, "--against", run).code == 0
    assert psn("train", "--task", "evil:Task", "--group", 1).code == 2  # nor does a mistake in another setting
    assert not (tmp_path / "imported").exists() and "evil" not in sys.modules
    for words in (["train", "--resume", run], ["evaluate", run]):
        said = psn(*words)
        assert said.code == 2 and "a task must be a class derived from psn_tutorial.tasks.Task" in said.err
    assert (tmp_path / "imported").exists()


MISTAKES = (
    ("own_tasks:Party", MODULE, "own_tasks.py) has no Party"),
    ("own_task:Parity", MODULE, "there is no module own_task, neither installed nor in the current folder"),
    ("own_tasks.deeper:Parity", MODULE, "there is no module own_tasks.deeper"),
    ("own_tasks.py:Parity", MODULE, "there is no module own_tasks.py"),
    ("./own_tasks.py:Parity", MODULE, "or module:name with the module as Python imports it, such as my_module:MyClass"),
    (":Parity", MODULE, "or module:name with"),
    ("own_tasks:", MODULE, "or module:name with"),
    ("own_tasks:Parity:Parity", MODULE, "or module:name with"),
    ("own_tasks", MODULE, "task must be one of 'countdown'"),
    ("own_tasks:Task", MODULE, "the task Task lacks from_json, generate"),
    ("own_tasks:Verdict", MODULE, "a task must be a class derived from psn_tutorial.tasks.Task"),
    ("json:dumps", MODULE, "a task must be a class derived from psn_tutorial.tasks.Task"),
    ("own_tasks:Parity", MODULE.replace("    name = ", "    other = "), "the task Parity needs a name"),
    ("own_tasks:Parity", MODULE.replace('"own_parity"', '"rules"'), "a task called 'rules' already: choose another"),
    ("own_tasks:Parity", MODULE.replace("def verify", "def judge"), "the task Parity lacks verify"),
    ("own_tasks:Parity", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("own_tasks:Parity", "\nclass Parity(", "SyntaxError: '(' was never closed (own_tasks.py, line 2)"),
    ("own_tasks:Parity", "x = 1 / 0", "ZeroDivisionError: division by zero (own_tasks.py, line 1)"),
    ("own_tasks:Parity", "import sys\nsys.exit(3)", "the module own_tasks cannot be imported: SystemExit: 3"),
    ("own_tasks:Parity", "raise SystemExit", "the module own_tasks cannot be imported: SystemExit"),
)
FAULTS = (  # each in the place of what the module has
    ("return Verdict(right, ", "return right  # ", "verify of own_parity must return a Verdict, got False"),
    (
        "return Verdict(right, ",
        "return 1 / len(response)  # ",
        "the method verify of Parity fails: ZeroDivisionError: division by zero (own_tasks.py, line ",
    ),
    ('"count": 3}', '"count": 0}', "own_parity must have problems to evaluate on, got none"),
    (
        "% len(left)]",
        "% 0]",
        "the method generate of Parity fails: ZeroDivisionError: integer modulo by zero (own_tasks",
    ),
    (
        "return str(problem)",
        "return str(1 / 0)",
        "the method prompt of Parity fails: ZeroDivisionError: division by zero",
    ),
    ("return str(problem)", "return problem", "the method prompt of Parity must return a text, got "),
    ("return 2", "return self.limit", "the method max_tokens of Parity fails: AttributeError: 'Parity' object has no"),
    ("words = ", "__init__ = lambda self, limit: None; words = ", "task own_tasks:Parity cannot be made: TypeError: "),
)


@pytest.mark.parametrize(("old", "new", "sentence"), FAULTS)
def test_a_fault_in_its_methods_is_a_sentence_and_leaves_no_folder(own, psn, tmp_path, old, new, sentence):
    assert old in MODULE
    own(MODULE.replace(old, new))
    for command in (["train", "--base", "base", *SMALL], ["evaluate", "base"], ["probe", "base"]):
        said = psn(*command, "--task", "own_tasks:Parity", "--out", "out")
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert sentence in said.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "content", "sentence"), MISTAKES)
def test_a_mistake_is_a_sentence_and_leaves_no_folder(own, psn, tmp_path, name, content, sentence):
    own(content)
    for command in (["train", "--base", "base", *SMALL], ["evaluate", "base"], ["probe", "base"], ["pretrain"]):
        said = psn(*command, "--task", name, "--out", "out")
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert sentence in said.err and not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_without_exact_probabilities_it_wants_samples(own, psn, tmp_path):
    said = train(psn, "--samples", 0)
    assert (said.code, "samples must be >= 1: own_tasks:Parity has no exact" in said.err) == (2, True)
    assert not (tmp_path / "runs").exists()
    assert train(psn, "--difficulty", "limit=3").err.endswith("has no field 'limit'; it has none\n")


def test_a_module_of_the_folder_does_not_hide_an_installed_one(own, psn, tmp_path):
    own(MODULE, "calendar")  # of the standard library
    said = psn("train", "--task", "calendar:Parity", "--base", "base", *SMALL)
    assert said.code == 2 and "has no Parity" in said.err and str(tmp_path) not in said.err


# A scheduler


def test_its_scheduler_moves_sigma_and_is_resumed(own, psn, tmp_path):
    assert train(psn, *NOISY, "--schedule", "own_tasks:Halving").code == 0
    assert [step["sigma"] for step in timeless("runs/one")] == [0.5, 0.25, 0.125, 0.0625]
    shutil.rmtree(tmp_path / "runs/one/checkpoints/step-000004")
    assert psn("train", "--resume", "runs/one").code == 0
    assert [step["sigma"] for step in timeless("runs/one")] == [0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "own_tasks:Parity",
            "schedule must be a class derived from psn_tutorial.schedulers.Scheduler, got own_tasks:Par",
        ),
        ("own_tasks:Halvin", "own_tasks.py) has no Halvin"),
        ("own_task:Halving", "schedule own_task:Halving: there is no module own_task"),
        ("own-tasks:Halving", "schedule must be one of constant, annealed, kl_target, realtime, or module:name"),
        ("halving", "schedule must be one of 'constant', 'annealed', 'kl_target', 'realtime', got 'halving'"),
    ],
)
def test_a_mistake_in_the_name_of_a_scheduler(own, psn, tmp_path, name, sentence):
    said = train(psn, *NOISY, "--schedule", name)
    assert (said.code, said.err.count("\n")) == (2, 1) and sentence in said.err
    assert not (tmp_path / "runs").exists()


def test_a_fault_in_its_scheduler_is_a_sentence_and_keeps_what_was_saved(own, psn):
    own(MODULE.replace("self.sigma /= 2", 'self.sigma /= 2 - signals["step"]'))
    said = train(psn, *NOISY, "--schedule", "own_tasks:Halving")
    assert said.code == 2 and said.err.count("\n") <= 3, said.err
    assert (
        "the method update of Halving fails: ZeroDivisionError: float division by zero (own_tasks.py, line" in said.err
    )
    assert [step["step"] for step in timeless("runs/one")] == [1]


def test_methods_and_properties_of_ones_own_tell_what_they_raise_and_keep_their_cause(own):
    sys.path.append("")
    from own_tasks import Parity

    class Faulty(Parity):
        @property
        def ends(self):
            return {}["ends"]

        def max_tokens(self, problem):
            """Documented."""
            return [][problem]

    assert Faulty.max_tokens.__doc__ == "Documented." and Faulty().prompt(3) == "3"
    with pytest.raises(
        UserError, match="the method ends of .*Faulty fails: KeyError: 'ends' .test_own_task.py"
    ) as told:
        _ = Faulty().ends
    assert isinstance(told.value.__cause__, KeyError)
    with pytest.raises(UserError, match="the method max_tokens of .*Faulty fails: IndexError: list index out of range"):
        Faulty().max_tokens(3)
    assert not hasattr(Countdown.prompt, "__wrapped__")  # ours are as they are written


def test_a_record_says_which_code_of_ones_own_it_was_made_with(own, psn, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"own_other": ["my-dist"]})
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"my-dist": "1.2.3"}.get(name) or "0")
    own("from own_tasks import Halving\ndef mlp(name):\n    return '.mlp.' in name\n", "own_other")
    words = [*NOISY, "--schedule", "own_other:Halving", "--targets", "own_other:mlp"]
    assert train(psn, *words).code == 0
    sums = {name: sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest() for name in ("own_tasks", "own_other")}
    known = {
        "own_other": {"distribution": "my-dist 1.2.3", "sha256": sums["own_other"]},
        "own_tasks": {"sha256": sums["own_tasks"]},
    }
    made = json.loads((tmp_path / "runs/one/provenance.json").read_text())
    assert made["modules"] == known
    assert psn("evaluate", "runs/one", "--samples", 2, "--out", "ev").code == 0
    assert json.loads((tmp_path / "ev/provenance.json").read_text())["modules"] == {"own_tasks": known["own_tasks"]}
    assert train(psn, "--task", "chain", "--base", "none", out="plain").code == 0
    assert "modules" not in json.loads((tmp_path / "plain/provenance.json").read_text())


def test_it_needs_noise_and_may_read_every_setting_of_a_schedule(own, psn):
    assert "schedule must stay constant without noise" in train(psn, "--schedule", "own_tasks:Halving").err
    own(MODULE + "    @classmethod\n    def of(cls, config):\n        return cls(config.sigma_end)\n")
    assert train(psn, *NOISY, "--schedule", "own_tasks:Halving", "--sigma-end", 0.2).code == 0
    assert timeless("runs/one")[0]["sigma"] == 0.2


def test_a_scheduler_that_cannot_be_made_is_told(own, psn, tmp_path):
    own(MODULE.replace("def __init__(self, sigma)", "def __init__(self, sigma, factor)"))
    said = train(psn, *NOISY, "--schedule", "own_tasks:Halving")
    assert said.code == 2 and not (tmp_path / "runs").exists()
    assert "schedule own_tasks:Halving cannot be made: TypeError: Halving.__init__() missing 1 required" in said.err


# Entry points


@pytest.fixture
def installed(own, monkeypatch):
    """The entry points of packages that are installed."""
    points = []
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: points if group == registry.ENTRY_POINTS else []
    )
    registry.offered.cache_clear()
    yield lambda name, value: points.append(EntryPoint(name, value, registry.ENTRY_POINTS))
    registry.offered.cache_clear()


def test_a_task_that_a_package_offers_is_known_by_its_name(installed, psn):
    installed("own_parity", "own_tasks:Parity")
    installed("rules", "own_tasks:Parity")  # ours stands first
    assert "math, judged, habit, own_parity, or module:name" in " ".join(psn("train", "--help").out.split())
    assert "'judged', 'habit', 'own_parity', got 'own_parit' (did you" in psn("train", "--task", "own_parit").err
    (line,) = [line for line in psn("doctor", "--offline").out.splitlines() if "tasks of other packages" in line]
    assert line.endswith(" own_parity")
    assert RunConfig(task="own_parity") and EvaluationConfig("own_parity", samples=0)
    assert "own_tasks" not in sys.modules  # so far it is a name
    assert psn("train", "--task", "own_parity", "--base", "base", *SMALL, "--out", "run").code == 0
    assert type(get_task("rules")).__module__ == "psn_tutorial.tasks.rules"


def test_an_entry_point_must_have_the_name_of_its_task(installed):
    installed("parity", "own_tasks:Parity")
    installed("gone", "own_gone:Task")
    with pytest.raises(UserError, match="the entry point of the task 'own_parity' must have its name, got 'parity'"):
        get_task("parity")
    with pytest.raises(
        UserError, match="task gone of an installed package, own_gone:Task: there is no module own_gone"
    ):
        get_task("gone")


def test_the_package_alone_searches_no_entry_points():
    code = "import sys, psn_tutorial, psn_tutorial.tasks; print('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
