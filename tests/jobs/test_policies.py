"""What a run may start from and what is evaluated: adapters, earlier runs, models of the hub."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.cli import main  # noqa: E402
from psn_tutorial.config import RunConfig  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.jobs.policies import fingerprint, load_policy, policy_and_step, starting_policy  # noqa: E402
from psn_tutorial.jobs.records import RunRecord  # noqa: E402
from psn_tutorial.jobs.training import TrainingJob  # noqa: E402
from psn_tutorial.models.bases import base_folder  # noqa: E402
from psn_tutorial.models.decoder import forward  # noqa: E402
from psn_tutorial.models.loading import MODELS  # noqa: E402
from psn_tutorial.models.qlora import QLoRAConfig, four_bit_layers, learned_weights, load_base  # noqa: E402
from psn_tutorial.rollout import completion_logps  # noqa: E402
from psn_tutorial.runs.folder import RunFolder  # noqa: E402

IDS = torch.arange(1, 13)[None]
# The entropy bonus moves the weights even where nothing is right.
FULL = (
    "--task rules --steps 2 --prompts 2 --group 4 --samples 4 --eval-problems 3 --entropy-coef 0.01 --lr 0.01".split()
)
ADAPTER = [*FULL, "--lora-rank", "4"]


@pytest.fixture
def psn(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder; returns the exit code and the last line of the error output."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, (err.splitlines() or [""])[-1]

    return run


def settings(folder):
    return RunRecord.read(folder).settings


def logits(policy):
    with torch.no_grad():
        return forward(policy.model, IDS)


def timeless(folder):
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in RunFolder.open(folder).steps()]


def counts(folder):
    return [(r.problem, r.n, r.c) for r in RunRecord.read(folder).evaluations.last]


# --- going on from an adapter -----------------------------------------------------------------------


@pytest.mark.parametrize("four_bit", [["--four-bit"], []])
@pytest.mark.parametrize("base", ["one/policy", "one"])
def test_training_goes_on_from_an_adapter_or_from_the_run_that_made_it(psn, base, four_bit):
    assert psn("train", *ADAPTER, *four_bit, "--out", "one")[0] == 0
    assert psn("train", *ADAPTER, *four_bit, "--base", base, "--seed", 1, "--kl-coef", 0.1, "--out", "two")[0] == 0
    start, end = starting_policy(settings("two")), logits(load_policy("one"))
    assert torch.equal(logits(start), end)
    assert not torch.allclose(logits(start), logits(starting_policy(settings("one"))), atol=1e-3)
    assert set(learned_weights(start.model)) == {n for n, p in start.model.named_parameters() if p.requires_grad}
    assert bool(four_bit_layers(start.model)) == bool(four_bit)
    assert RunFolder.open("two").config["base_sha256"] == fingerprint(start.model)
    assert not torch.equal(logits(load_policy("two")), end)
    # Killed after its first step and taken up again, it ends as it did.
    assert (
        psn(
            "train",
            *ADAPTER,
            *four_bit,
            "--base",
            base,
            "--seed",
            1,
            "--kl-coef",
            0.1,
            "--save-every",
            1,
            "--out",
            "cut",
        )[0]
        == 0
    )
    shutil.rmtree("cut/checkpoints/step-000002")
    assert psn("train", "--resume", "cut")[0] == 0
    assert timeless("cut") == timeless("two") and counts("cut") == counts("two")
    assert fingerprint(load_policy("cut").model) == fingerprint(load_policy("two").model)
    # And so on: the third run lies on the same base.
    assert psn("train", *ADAPTER, *four_bit, "--base", "two/policy", "--out", "three")[0] == 0
    assert torch.equal(logits(starting_policy(settings("three"))), logits(load_policy("two")))


def test_the_kl_is_taken_to_the_policy_that_the_run_starts_from(psn, tmp_path):
    """And not to the bare base: a run that goes on from an adapter begins with a KL of 0."""
    psn("train", *ADAPTER, "--four-bit", "--out", "one")
    config = replace(settings("one"), base="one", kl_coef=0.1, seed=1)
    job = TrainingJob.start(tmp_path / "two", config)
    first = job.trainer.step()
    assert first["kl_ref"] == pytest.approx(0.0, abs=1e-9)
    rollouts = job.trainer.roll_out(job.trainer.pick_problems())
    rows = torch.arange(len(rollouts.tokens))
    with torch.no_grad():
        expected = completion_logps(starting_policy(config).model, rollouts, rows, 1.0)[0]
    assert torch.equal(job.trainer.reference_logps(rollouts, rows), expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (FULL, "must be those of the adapter in one/policy, 4 and 32, got 0 and 32"),
        ([*FULL, "--lora-rank", 8], "must be those of the adapter in one/policy, 4 and 32, got 8 and 32"),
        ([*ADAPTER, "--lora-alpha", 8], "must be those of the adapter in one/policy, 4 and 32, got 4 and 8"),
    ],
)
def test_rank_and_alpha_are_those_of_the_adapter(psn, tmp_path, words, said):
    psn("train", *ADAPTER, "--out", "one")
    assert psn("train", *words, "--base", "one/policy", "--out", "two") == (
        2,
        f"psn-tutorial: lora_rank and lora_alpha {said}",
    )
    assert not (tmp_path / "two").exists()


def test_a_run_whose_start_has_changed_is_not_gone_on_with(psn):
    psn("train", *ADAPTER, "--out", "one")
    psn("train", *ADAPTER, "--base", "one", "--out", "two")
    shutil.rmtree("one")
    psn("train", *ADAPTER, "--seed", 5, "--out", "one")
    assert psn("train", "--resume", "two") == (
        2,
        "psn-tutorial: two was started from another base policy than the one in one",
    )


# --- evaluating an adapter --------------------------------------------------------------------------


def test_an_adapter_is_evaluated_as_its_run_trained_it(psn):
    words = "--task rules --samples 4 --eval-problems 3".split()
    psn("train", *ADAPTER, "--four-bit", "--compute", "bfloat16", "--out", "one")
    assert psn("evaluate", "one/policy", *words, "--out", "inside")[0] == 0
    assert counts("inside") == counts("one")
    model, step = policy_and_step("one/policy")[0].model, policy_and_step("one")[1]
    assert (len(four_bit_layers(model)), step) == (14, 2)
    assert fingerprint(model) == fingerprint(load_policy("one").model)
    # Away from its run nothing says how it was trained.
    shutil.move("one/policy", "alone")
    assert not four_bit_layers(load_policy("alone").model)
    assert psn("evaluate", "alone", *words, "--four-bit", "--out", "rounded")[0] == 0
    rounded = policy_and_step("alone", four_bit=True)[0].model
    assert len(four_bit_layers(rounded)) == 14
    assert RunFolder.open("rounded").config["policy_sha256"] == fingerprint(rounded)


def test_any_model_is_evaluated_in_four_bits(psn):
    words = "--task rules --samples 4 --eval-problems 3 --four-bit".split()
    assert psn("evaluate", base_folder("rules"), *words, "--out", "rounded")[0] == 0
    expected = load_base(QLoRAConfig(str(base_folder("rules")), compute="float32")).model
    assert RunFolder.open("rounded").config["policy_sha256"] == fingerprint(expected)
    psn("train", *FULL, "--out", "full")
    code, said = psn("evaluate", "full", "--four-bit", "--out", "no")
    assert code == 2 and said.endswith("four_bit is for checkpoint folders and adapters: name full/policy, got full")


# --- going on from a run whose weights learn --------------------------------------------------------


def test_training_goes_on_from_the_newest_weights_of_a_run(psn):
    psn("train", *FULL, "--out", "one")
    assert psn("train", *FULL, "--base", "one", "--out", "two")[0] == 0
    assert torch.equal(logits(starting_policy(settings("two"))), logits(load_policy("one/policy")))
    assert psn("train", *ADAPTER, "--four-bit", "--base", "one", "--out", "three")[0] == 0
    bare = load_base(QLoRAConfig("one/policy", compute="float32"))
    assert torch.equal(logits(starting_policy(settings("three"))), logits(bare))
    assert torch.equal(logits(load_policy("three/policy")), logits(load_policy("three")))
    shutil.rmtree("one/policy")
    assert psn("train", *ADAPTER, "--base", "one", "--out", "four") == (
        2,
        "psn-tutorial: the run one has not written its policy yet: finish it with --resume one",
    )


def test_a_run_without_a_checkpoint_is_no_start(psn):
    for words in (FULL, ADAPTER):
        psn("train", *words, "--out", "one")
        shutil.rmtree("one/checkpoints")
        assert psn("train", *words, "--base", "one", "--out", "two") == (
            2,
            "psn-tutorial: the run one has no checkpoint yet",
        )
        shutil.rmtree("one")


# --- models of the hub ------------------------------------------------------------------------------


def test_all_weights_of_a_hub_model_learn_in_float32(language_model, tmp_path):
    """As where it was downloaded once: no network is needed."""
    name = "qwen2.5-0.5b-instruct"
    kept = tmp_path / f"models--{MODELS[name].replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    shutil.copytree(language_model, kept / "snapshots" / ("0" * 40))
    words = "train --task math --difficulty source=sums completion=8 --steps 2 --prompts 2 --group 4 --no-evaluate"
    run = ["--entropy-coef", "0.01", "--base", name, "--out", "run"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    code = "import sys; from psn_tutorial.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words.split(), *run]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    learned = RunFolder.open(tmp_path / "run").latest_checkpoint().tensors["model"]
    before = load_policy(language_model).model.state_dict()
    assert learned.keys() == before.keys() and all(tensor.dtype == torch.float32 for tensor in learned.values())
    assert sum(not torch.equal(learned[n], before[n]) for n in learned) > len(learned) / 2


@pytest.mark.parametrize("words", [FULL, ADAPTER])
def test_without_a_network_a_hub_model_is_a_sentence(psn, monkeypatch, words, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, said = psn("train", *words, "--base", "qwen2.5-1.5b", "--out", "run")
    assert code == 2 and said.startswith("psn-tutorial: checkpoint 'qwen2.5-1.5b' cannot be loaded: ")
    assert not (tmp_path / "run").exists()


def test_a_name_of_the_hub_needs_an_adapter_or_a_short_name():
    with pytest.raises(UserError, match="checkpoint must be a folder with a config.json .*, got 'owner/name'"):
        starting_policy(RunConfig(base="owner/name"))
