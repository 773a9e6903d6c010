"""A noise target and a carrier of one's own, in a module of the current folder, from the command line."""

import json
import re
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch

from psn_tutorial.carriers import carried, change_since, check_carrier, left_out
from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.errors import UserError
from psn_tutorial.models.decoder import forward
from psn_tutorial.noise import NoiseConfig, gaussian
from tests.cli.own_module import MODULE, NOISY, SMALL
from tests.cli.tiny_runs import timeless, weights


def train(psn, *words, out="runs/one"):
    return psn("train", "--task", "own_tasks:Parity", "--base", "base", *SMALL, *words, "--out", out)


@pytest.mark.parametrize(
    "words",
    [
        ["--targets", "own_tasks:second_matrices", *NOISY],
        ["--targets", "own_tasks:second_matrices", *NOISY, "--carrier", "lowrank"],
        ["--carrier", "own_tasks:last_norm", "--sigma", 0.5],
    ],
)
def test_it_is_trained_and_resumed_by_being_named(own, psn, tmp_path, words):
    said = train(psn, *words)
    assert said.code == 0, said.err
    config = json.loads((tmp_path / "runs/one/config.json").read_text())
    assert words[1] in (config["targets"], config["carrier"])
    steps, end = timeless("runs/one"), weights("runs/one")
    assert all(step["kl_k3"] > 0 and step["sigma_realised"] > 0 for step in steps)
    shutil.rmtree(tmp_path / "runs/one/checkpoints/step-000004")
    assert psn("train", "--resume", "runs/one").code == 0
    assert timeless("runs/one") == steps and torch.equal(weights("runs/one"), end)


def test_a_filter_of_ones_own_that_says_what_a_role_says_is_that_role(own, psn):
    own(MODULE + "\ndef feed_forward(name):\n    return '.mlp.' in name\n")
    assert train(psn, *NOISY, out="role").code == train(psn, *NOISY, "--targets", "own_tasks:feed_forward").code == 0
    assert timeless("role") == timeless("runs/one") and torch.equal(weights("role"), weights("runs/one"))


def test_probes_and_preflight_take_them_and_reading_a_record_does_not_import_them(own, psn, tmp_path):
    said = psn(
        "probe", "base", "--task", "own_tasks:Parity", "--answers", 2, "--sets", 2,
        "--sampler", "own_tasks:second_matrices=0.5", "mlp=0.5:own_tasks:last_norm", "mlp=0.5:middle:absolute",
    )  # fmt: skip
    assert said.code == 2 and "layers 'middle' leaves nothing" in said.err
    said = psn(
        "probe", "base", "--task", "own_tasks:Parity", "--answers", 2, "--sets", 2,
        "--sampler", "own_tasks:second_matrices=0.5", "mlp=0.5:own_tasks:last_norm", "mlp=0.5:last:absolute",
    )  # fmt: skip
    assert said.code == 0, said.err
    for word in ("own_tasks:second_matrices=0.5", "mlp=0.5:own_tasks:last_norm", "mlp=0.5:last:absolute"):
        assert word in said.err
    said = psn(
        "preflight",
        "--task",
        "own_tasks:Parity",
        "--base",
        "base",
        *SMALL,
        "--sigma",
        0.5,
        "--carrier",
        "own_tasks:last_norm",
    )
    assert re.search(r"noise +sigma 0.5, 0\.\d+ realised", said.out), said
    arms = {"grpo": {"label": "GRPO"}, "psn": {"label": "PSN", "changes": {"sigma": 0.5, "carrier": "own_gone:x"}}}
    made = {"task": "chain", "question": "?", "arms": arms, "common": {"prompts": 2, "group": 4, "samples": 4}}
    (tmp_path / "c.json").write_text(json.dumps({"mine": made}))
    said = psn("compare", "--file", "c.json", "--out", "compared")
    assert said.code == 2 and "carrier own_gone:x: there is no module own_gone" in said.err
    RunConfig(carrier="own_gone:x", targets="own_gone:y", sigma=0.1)
    assert "own_gone" not in sys.modules


MISTAKES = (
    (["--carrier", "own_tasks:last_nor"], MODULE, "own_tasks.py) has no last_nor"),
    (["--carrier", "own_task:last_norm"], MODULE, "carrier own_task:last_norm: there is no module own_task"),
    (["--carrier", "lowrnk"], MODULE, "carrier must be one of 'auto', 'weights', 'dense', 'lowrank', got 'lowrnk'"),
    (["--carrier", "own-tasks:x"], MODULE, "carrier must be one of auto, weights, dense, lowrank, or module:name"),
    (["--carrier", "own_tasks:second_matrices"], MODULE, "second_matrices fails: TypeError: second_matrices() takes 1"),
    (["--carrier", "own_tasks:Parity"], MODULE, "the carrier own_tasks:Parity fails: TypeError: "),
    (
        ["--carrier", "own_tasks:last_norm"],
        MODULE.replace("yield tally.receipt()", "yield None"),
        "the carrier own_tasks:last_norm must yield a NoiseReceipt, got None",
    ),
    (
        ["--carrier", "own_tasks:last_norm"],
        MODULE.replace("    weight.data = clean\n", ""),
        "the carrier own_tasks:last_norm must leave the model as it was, bit for bit, but model.norm.weight is another",
    ),
    (
        ["--carrier", "own_tasks:last_norm"],
        MODULE.replace("    weight.data = clean\n", "    weight.data = clean / 0\n    1 / 0\n"),
        "the carrier own_tasks:last_norm fails: ZeroDivisionError: division by zero (own_tasks.py, line ",
    ),
    (
        ["--carrier", "own_tasks:last_norm"],
        MODULE.replace("    weight.data = clean\n", "    model.model.norm.forward = print\n    weight.data = clean\n"),
        "bit for bit, but model.norm is another",
    ),
    (
        ["--carrier", "own_tasks:last_norm"],
        MODULE.replace("    yield", "    model.model.norm.forward = lambda x: x[99, 99, 99, 99]\n    yield").replace(
            "    weight.data = clean\n", "    weight.data = clean\n    del model.model.norm.forward\n"
        ),
        "the carrier own_tasks:last_norm fails: IndexError: ",
    ),
    (["--targets", "own_tasks:Halving"], MODULE, "targets own_tasks:Halving must return True or False, got "),
    (["--targets", "own_tasks:second"], MODULE, "own_tasks.py) has no second"),
    (["--layers", "5-3"], MODULE, "layers must be one of all, first, middle, last, a layer's number from 0, or"),
)  # fmt: skip


@pytest.mark.parametrize(("words", "content", "sentence"), MISTAKES)
def test_a_mistake_is_a_sentence_and_leaves_no_folder(own, psn, tmp_path, words, content, sentence):
    own(content)
    said = train(psn, "--sigma", 0.5, *words, out="out")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    assert sentence in said.err, said.err
    assert not (tmp_path / "out").exists()


# In Python


@pytest.fixture
def carrier(monkeypatch):
    """A function that makes a carrier known as own_carriers:one."""

    def known(made):
        module = type(sys)("own_carriers")
        module.one = made
        monkeypatch.setitem(sys.modules, "own_carriers", module)
        return NoiseConfig(0.5, carrier="own_carriers:one")

    return known


IDS = torch.randint(1, 4, (4, 5), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_draws_reach_it_and_its_noise_is_gone_afterwards_whatever_happens(own, carrier, policy):
    _, _, model = policy("chain", scale=1.0)
    sys.path.append("")
    import own_tasks

    config, clean = carrier(own_tasks.last_norm), forward(model, IDS)
    before = model.model.norm.weight.clone()
    for draw in (0, 7):
        with carried(model, config, [draw]) as receipt:
            expected = before + 0.5 * gaussian(config, draw, "model.norm.weight", before.shape)
            torch.testing.assert_close(model.model.norm.weight, expected)
            assert receipt.names == ("model.norm.weight",) and receipt.entries == len(before)
            assert not torch.equal(forward(model, IDS), clean)
        assert torch.equal(forward(model, IDS), clean)
    with pytest.raises(KeyError), carried(model, config, [0]):
        raise KeyError  # not of the carrier: it is not told as a fault of it
    assert torch.equal(model.model.norm.weight, before)  # although the carrier has no finally
    check_carrier(model, config)
    assert left_out(model, config) == []


def test_the_update_is_measured_on_what_targets_names(carrier, policy):
    @contextmanager
    def nothing(model, config, draws):
        yield None

    _, _, model = policy("chain", scale=1.0)
    config = carrier(nothing)
    moved = change_since(model, config)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.5)
        model.model.norm.weight.add_(1.0)  # not among the targets
    assert moved() == pytest.approx(0.5 * model.model.layers[0].mlp.up_proj.weight.numel() ** 0.5)


def test_the_rank_has_an_effect_for_a_carrier_of_ones_own():
    named = {"carrier": "own_carriers:one", "noise_rank": 3, "sigma": 0.1}
    check_effects(RunConfig(**named), named)
    with pytest.raises(UserError, match="noise_rank must stay 16 unless the carrier is lowrank"):
        check_effects(RunConfig(noise_rank=3, sigma=0.1), {"noise_rank"})
