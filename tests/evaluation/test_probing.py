"""Probes of the shipped base of rules: against exact probabilities, and against the trainer's own statistics."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.cli import main
from psn_tutorial.config import ProbeConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.probes import Sampler, figures, read_probes
from psn_tutorial.evaluation.probing import _parts, probe
from psn_tutorial.evaluation.sampling import exact_success
from psn_tutorial.jobs import probing as job
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.models.policy import encode
from psn_tutorial.models.tiny import load
from psn_tutorial.noise import NoiseConfig, perturbed, stream
from psn_tutorial.rollout import choose, completion_logits, responses, sample
from psn_tutorial.signals import group_similarities, self_certainty
from psn_tutorial.tasks import get_task

TASK = get_task("rules", consistency=1)  # right where the rare rule stands first, and all values are right


@pytest.fixture(scope="module")
def policy():
    return load(base_folder("rules"))


@pytest.fixture(scope="module")
def problems():
    return TASK.generate(3, 30)


def test_the_clean_sampler_is_the_policy(policy, problems):
    found = probe(policy, TASK, problems, Sampler(), answers=8, sets=8)
    exact = sum(exact_success(policy, TASK, problem) for problem in problems) / len(problems)
    error = math.sqrt(exact * (1 - exact) / (30 * 64))
    assert figures(found)["pass@1"].value == pytest.approx(exact, abs=4 * error)
    assert len(found.kl_k1) == len(found.uniform_to_policy) == 8  # of the first set
    assert max(map(abs, (*found.kl_k1, *found.kl_k3))) < 1e-5 and figures(found)["ESS"].value == pytest.approx(1)
    assert found.tokens == (30 * TASK.max_tokens(problems[0]),) * 64 and found.formed == (1.0,) * 64


def test_every_answer_of_a_noisy_sampler_has_a_draw_of_its_own(policy, problems):
    """The success under draws 0 .. 15 is that of the policies so perturbed, exactly; the policy is untouched."""
    before = [p.detach().clone() for p in policy.model.parameters()]
    sampler, exact = Sampler("head", 0.8), []
    found = probe(policy, TASK, problems, sampler, answers=4, sets=4)
    assert all(torch.equal(p, b) for p, b in zip(policy.model.parameters(), before, strict=True))
    for draw in range(16):
        with perturbed(policy.model, NoiseConfig(0.8, "head", relative=True), draw):
            exact.append(sum(exact_success(policy, TASK, problem) for problem in problems) / 30)
    shares = [sum(int(row[draw]) for row in found.right) / 30 for draw in range(16)]
    assert max(exact) - min(exact) > 0.2  # the draws differ, and each is where it says
    for share, expected in zip(shares, exact, strict=True):
        assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 30))
    assert figures(found)["consistency"].low > 0.02


def test_what_variant_two_reads_is_what_training_reads(policy, problems):
    """Similarity and both certainties beside those of signals.py, on the same answers."""
    encoder, sampler = sentence_encoder("bag-of-words"), Sampler(temperature=1.4)
    found = probe(policy, TASK, problems[:5], sampler, answers=3, sets=1, encoder=encoder)
    prompts = encode(policy.tokenizer, [TASK.prompt(problem) for problem in problems[:5]])
    random = stream(0, "probe", 0, 0)
    rollouts = sample(policy, prompts, 3, TASK.max_tokens(problems[0]), random, 1.4, ends=False)
    for draw in range(3):
        rows = torch.arange(5) * 3 + draw
        logits = completion_logits(policy.model, rollouts, rows, 1.0)
        for column, way in (
            (found.uniform_to_policy, "uniform_to_policy"),
            (found.policy_to_uniform, "policy_to_uniform"),
        ):
            assert column[draw] == pytest.approx(self_certainty(logits, rollouts.mask[rows], way), rel=1e-4)
    texts = responses(policy.tokenizer, rollouts)
    groups = [texts[3 * place : 3 * place + 3] for place in range(5)]
    assert found.distinct_answers == tuple(len(set(group)) for group in groups)
    expected = group_similarities(encoder.encode([text for group in groups for text in group]), 3)
    assert found.similarity == pytest.approx(expected.tolist(), abs=1e-4)
    assert figures(found)["similarity"].value == pytest.approx(float(expected.mean()), abs=1e-4)


def test_a_temperature_has_no_draw_that_keeps_to_its_way(policy, problems):
    found = figures(probe(policy, TASK, problems, Sampler(temperature=1.5), answers=8, sets=8))
    assert 0.0 in found["consistency"] and found["KL"].low > 0 and found["ESS"].high < 1


@pytest.mark.parametrize("top_p", [0.3, 0.75, 0.9, 1.0])
def test_top_p_samples_the_fewest_likeliest_tokens(top_p):
    """Against the definition: p = .5, .3, .15, .05; log-probs are those among the tokens that are left."""
    p = torch.tensor([0.15, 0.5, 0.05, 0.3])
    kept = {0.3: [1], 0.75: [1, 3], 0.9: [0, 1, 3], 1.0: [0, 1, 2, 3]}[top_p]
    uniform = torch.linspace(0, 0.9999, 4000, dtype=torch.float64)[:, None]
    ids, logps = choose(p.log().expand(4000, 4), 1.0, uniform, top_p)
    assert sorted(ids.unique().tolist()) == kept
    for token in kept:
        expected = float(p[token] / p[kept].sum())
        assert (ids == token).double().mean() == pytest.approx(expected, abs=0.002)
        assert logps[ids == token].exp().mean() == pytest.approx(expected, abs=1e-5)


def test_top_p_out_of_its_range_is_refused(policy):
    with pytest.raises(UserError, match="top_p must be > 0 and <= 1, got 0"):
        sample(policy, None, 1, 4, stream(0, "x"), top_p=0.0)


@given(problems=st.integers(1, 40), draws=st.integers(1, 40), batch=st.integers(1, 50), noisy=st.booleans())
def test_every_answer_is_sampled_once_and_never_too_many_at_once(problems, draws, batch, noisy):
    parts = _parts(problems, draws, batch, noisy)
    cells = [(place, number) for places, numbers in parts for place in places for number in numbers]
    assert sorted(cells) == [(place, number) for place in range(problems) for number in range(draws)]
    assert all(len(places) * len(numbers) <= batch for places, numbers in parts)
    assert all(len(numbers) == 1 for _, numbers in parts) or not noisy  # a draw reads the prompts under its own noise


@pytest.mark.parametrize("batch", [5, 64, 100])
def test_answers_that_share_a_reading_are_those_of_their_problems(policy, problems, batch):
    """However they are cut: the first draws are read, and every problem's answers repeat its own values."""
    found = probe(policy, TASK, problems[:7], Sampler(temperature=1.2), answers=3, sets=4, batch=batch)
    assert len(found.kl_k3) == 3 and len(found.tokens) == 12 and {len(row) for row in found.right} == {12}
    easy = probe(policy, replace(TASK, rare="A"), problems[:7], Sampler(temperature=0.01), 3, 4, batch=batch)
    assert easy.right == ("1" * 12,) * 7 and easy.distinct_right == (1,) * 7


# The job and the command

CONFIG = ProbeConfig(
    task="rules", difficulty={"consistency": 1}, eval_problems=6, answers=2, sets=2, encoder="bag-of-words"
)
SAMPLERS = [Sampler(), Sampler("head", 0.5)]


def test_a_killed_job_goes_on_and_takes_more_samplers(tmp_path, monkeypatch):
    folder, base = tmp_path / "probe", base_folder("rules")
    whole = list(job.probe_policy(tmp_path / "whole", base, CONFIG, SAMPLERS, ["temperature"]))
    assert [made.matches for made in whole] == ["", "", "head=0.5"]
    honest = job.probe

    def dying(*args, **rest):
        if args[3] == SAMPLERS[1]:
            raise KeyboardInterrupt
        return honest(*args, **rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "probe", dying)
        list(job.probe_policy(folder, base, CONFIG, SAMPLERS, ["temperature"]))
    assert len(read_probes(folder / "probe.jsonl")) == 1
    with (folder / "probe.jsonl").open("a") as file:
        file.write('{"half a line')
    done = list(job.probe_policy(folder, base, CONFIG, SAMPLERS, ["temperature"]))
    timeless = lambda probes: [replace(made, seconds=0.0) for made in probes]  # noqa: E731
    assert timeless(done) == timeless(whole) == timeless(read_probes(folder / "probe.jsonl"))
    more = list(job.probe_policy(folder, base, CONFIG, [*SAMPLERS, Sampler(temperature=2.0)], ["temperature"]))
    assert more[:3] == done and len(more) == 4
    with pytest.raises(UserError, match="was made with answers 2, and not 4"):
        list(job.probe_policy(folder, base, replace(CONFIG, answers=4), SAMPLERS))


def test_the_command_prints_a_row_for_each_and_keeps_the_record(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (
        "probe --task rules --difficulty consistency=1 --eval-problems 6 --answers 8 --sets 2 --sampler clean head=0.5"
    )
    assert main([*words.split(), "--match", "temperature", "top-p", "--out", "here"]) == 0
    out = capsys.readouterr().out
    lines = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert "clean" in lines and "head=0.5" in lines and any(line.startswith("temperature=") for line in lines)
    assert "pass@8" in out and "consistency" in out and out.endswith("record: here\n")
    config = json.loads((tmp_path / "here" / "config.json").read_text())
    assert config["sets"] == 2 and len(config["policy_sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sampler", "hot"], "a sampler must be clean"),
        (["--match", "top-k"], "top-k"),
        (["--match", "top-p", "--sampler", "clean"], "match needs a sampler with noise, got clean"),
        (["--sampler", "norms=0.1", "--four-bit", "--eval-problems", "2"], ""),
        (["--answers", "0"], "answers must be a whole number >= 1, got 0"),
        (["--eval-problems", "100000"], "eval_problems must be <="),
    ],
)
def test_mistakes_are_sentences_and_leave_no_folder(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["probe", "--task", "rules", "--out", "here", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "here").exists()
