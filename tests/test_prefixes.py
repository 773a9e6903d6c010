"""Noise in the prompt: what is sampled, what is learned from, and the ratio between them."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.advantages import group_advantages
from psn_tutorial.cli import main
from psn_tutorial.config import RunConfig, TrainConfig, check_effects
from psn_tutorial.errors import UserError
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.models.tiny import load
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.prefixes import WORDS, prefix
from psn_tutorial.rollout import completion_logps
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.transcripts import read_transcripts
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.base import Verdict
from psn_tutorial.trainer import Batch, Trainer

SMALL = TrainConfig(
    task="math", prompts=3, group=4, steps=4, lr=1e-3, save_every=2, prefix_words=6, draws=2, entropy_coef=0.01,
    grad_clip=1e9,
)  # fmt: skip
TASK = get_task("math", source="sums", completion=5)


@pytest.fixture(params=["conversation", "plain"])
def made(request, language_model, monkeypatch):
    """A function that makes a trainer; of the same task as a conversation, and as a plain prompt."""
    if request.param == "plain":
        monkeypatch.setattr(type(TASK), "messages", lambda self, problem: None)
    monkeypatch.setattr(
        type(TASK), "verify_many", lambda self, texts, problems: [Verdict(sum(map(ord, t)) % 2 == 0, "") for t in texts]
    )

    def make(config=SMALL, run=None):
        model, tokenizer = load(language_model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.mul_(4.0)  # a model that a prefix matters to
        return Trainer(config, Policy(model, tokenizer), TASK, TASK.generate(0, 6), run)

    return make


def logps(trainer, text, tokens, mask):
    """Log-probs of a completion behind a text, by transformers' own forward pass, one row without any padding."""
    ids = trainer.tokenizer(text)["input_ids"]
    tokens = tokens[mask]
    logits = trainer.model(torch.tensor([[*ids, *tokens.tolist()]])).logits[0, len(ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 60))
def test_a_prefix_is_a_function_of_seed_and_draw(seed, draw, words):
    text = prefix(seed, draw, words)
    assert text == prefix(seed, draw, words) and set(text.split(" ")) <= set(WORDS) and len(text.split(" ")) == words
    assert prefix(seed, draw, 0) == ""
    if words > 8:  # by chance alike less than once in 10^14
        assert text not in (prefix(seed + 2**32, draw, words), prefix(seed, draw + 1, words))


def test_its_words_are_drawn_evenly():
    counts = Counter(prefix(0, 0, 20_000).split())
    expected = 20_000 / len(WORDS)
    assert len(set(WORDS)) == len(WORDS) == len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < len(WORDS) + 5 * (2 * len(WORDS)) ** 0.5


def test_it_stands_before_the_first_message_or_the_prompt_and_nowhere_else(language_model):
    tokenizer, problems = load(language_model)[1], TASK.generate(0, 2)
    plain = asked(tokenizer, TASK, problems)
    behind = asked(tokenizer, TASK, problems, ["lorem ipsum", ""])
    system = TASK.messages(problems[0])[0]["content"]
    assert behind == [plain[0].replace(system, f"lorem ipsum\n\n{system}"), plain[1]]
    assert behind[0].count("lorem ipsum") == 1 and TASK.messages(problems[0])[0]["content"] == system
    plain = get_task("chain")  # is no conversation
    [problem] = plain.generate(0, 1)
    assert asked(tokenizer, plain, [problem], ["lorem"]) == [f"lorem\n\n{plain.prompt(problem)}"]


@torch.no_grad()
@pytest.mark.parametrize(("spread", "draws"), [("pooled", 1), ("pooled", 2), ("pooled", 4), ("per_group", 3)])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_sampler_reads_the_prefix_of_its_draw_and_the_update_the_clean_prompt(made, spread, draws, sigma):
    """Row by row against transformers: behind the prefix what was sampled from, without it what is updated."""
    trainer = made(replace(SMALL, spread=spread, draws=draws, sigma=sigma, relative=True))
    trainer.step_number = 5
    problems = trainer.pick_problems()
    rollouts = trainer.roll_out(problems)
    numbers = [5 * draws + n for n in range(draws)]
    groups = rollouts.draws.view(3, 4).tolist()
    pooled = sorted(numbers * (4 // draws)) if spread == "pooled" else None
    assert groups == ([pooled] * 3 if pooled else [[number] * 4 for number in numbers])
    clean = encode(trainer.tokenizer, asked(trainer.tokenizer, TASK, problems))
    assert torch.equal(rollouts.prompts, clean.ids.repeat_interleave(4, 0))
    assert torch.equal(rollouts.prompt_mask, clean.mask.repeat_interleave(4, 0))
    now, _ = completion_logps(trainer.model, rollouts, torch.arange(12), 1.0)
    for row, draw in enumerate(rollouts.draws.tolist()):
        what = rollouts.tokens[row], rollouts.mask[row]
        [behind] = asked(trainer.tokenizer, TASK, [problems[row // 4]], [prefix(0, draw, 6)])
        [plain] = asked(trainer.tokenizer, TASK, [problems[row // 4]])
        with perturbed(trainer.model, NoiseConfig.of(trainer.config, sigma), draw):
            sampled = logps(trainer, behind, *what)
        torch.testing.assert_close(rollouts.logps[row][what[1]], sampled, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(now[row][what[1]], logps(trainer, plain, *what), atol=2e-4, rtol=1e-4)
    assert (now - rollouts.logps)[rollouts.mask].abs().max() > 0.05  # the prefix matters to this model


def test_the_gradient_is_that_of_the_clean_prompt_with_the_ratio_to_the_prefixed_one(made):
    """mean over rollouts of mean over tokens of -min(w, C) A log pi(o | p), w = pi(o | p) / pi(o | prefix, p)."""
    trainer = made(replace(SMALL, entropy_coef=0.0, cap=1.1))
    problems = trainer.pick_problems()
    rollouts = trainer.roll_out(problems)
    advantages = group_advantages(torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 1]])).flatten()
    loss, ratios = 0.0, []
    for row, draw in enumerate(rollouts.draws.tolist()):
        what = rollouts.tokens[row], rollouts.mask[row]
        [behind] = asked(trainer.tokenizer, TASK, [problems[row // 4]], [prefix(0, draw, 6)])
        [plain] = asked(trainer.tokenizer, TASK, [problems[row // 4]])
        pi, mu = logps(trainer, plain, *what), logps(trainer, behind, *what)
        w = (pi - mu).exp().detach()
        ratios.append(w)
        loss = loss - (w.clamp(max=1.1) * advantages[row] * pi).mean() / 12
    assert (torch.cat(ratios) > 1.1).any() and (torch.cat(ratios) < 1.1).any()
    trainer.model.zero_grad()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    seen = []
    trainer.optimizer.step = lambda: seen.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    trainer.optimizer.zero_grad()
    batch = Batch.of(rollouts, advantages, trainer.sampler_logps(rollouts))
    trainer.update(batch)
    torch.testing.assert_close(seen[0], expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
    statistics = trainer.importance(batch)
    assert statistics.clipped_fraction == pytest.approx(float((torch.cat(ratios) > 1.1).float().mean()), abs=0.02)


def test_a_step_without_weight_noise_is_off_policy_and_says_so(made):
    record = made().step()
    assert record["sigma"] == 0 and record["sigma_realised"] == 0 and record["unchanged_fraction"] is None
    assert record["kl_k3"] > 1e-3 and record["ess"] < 0.999
    plain = made(replace(SMALL, prefix_words=0, draws=1)).step()
    assert plain["kl_k3"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "realtime"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(made, tmp_path, schedule):
    config = replace(SMALL, sigma=0.05, schedule=schedule, probes="separate")
    whole = made(config)
    records = list(whole.train())
    first = made(config, RunFolder.create(tmp_path / "run", to_mapping(config)))
    for record in first.train():
        if record["step"] == 3:
            break
    run = RunFolder.open(tmp_path / "run")
    second = made(config, run)
    second.restore(run.resume())
    list(second.train())
    assert torch.equal(weights(second.model), weights(whole.model))
    seen = [[{k: v for k, v in r.items() if not k.startswith("seconds")} for r in rs] for rs in (run.steps(), records)]
    assert seen[0] == seen[1]


# Settings


def test_what_cannot_go_with_a_prefix_is_a_sentence(policy):
    for wrong in (-1, 1.5):
        with pytest.raises(UserError, match=f"prefix_words must be a whole number >= 0, got {wrong}"):
            replace(SMALL, prefix_words=wrong)
    with pytest.raises(UserError, match="draws must divide group 4 with prefix_words and spread 'pooled', got 3"):
        replace(SMALL, draws=3)
    assert replace(SMALL, draws=3, spread="per_group").draws == 3
    with pytest.raises(UserError, match="mixture must be False with prefix_words"):
        replace(SMALL, mixture=True)
    task, tokenizer, model = policy("chain")
    with pytest.raises(UserError, match="prefix_words must be 0 for the task chain, .* its own words alone, got 6"):
        Trainer(replace(SMALL, task="chain"), Policy(model, tokenizer), task, task.generate(0, 2))


def test_draws_and_correction_have_an_effect_with_a_prefix_alone():
    named = {"prefix_words": 5, "draws": 2, "spread": "per_group", "correction": "sequence", "cap": 3.0}
    check_effects(RunConfig(task="math", **named), named)
    with pytest.raises(UserError, match=re.escape("draws must stay 1 without noise (sigma 0), got 2")):
        check_effects(RunConfig(task="math", draws=2), {"draws"})
    with pytest.raises(UserError, match="targets must stay mlp without noise"):
        check_effects(RunConfig(task="math", prefix_words=5, targets="all"), {"targets"})


def test_the_command_line_trains_behind_prefixes_and_keeps_answers_of_both_samplers(
    language_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--task", "math", "--difficulty", "source=sums", "completion=6", "--base", str(language_model)]
    words += "--prefix-words 5 --draws 2 --prompts 2 --group 4 --steps 2 --samples 2 --eval-problems 2".split()
    assert main(["train", *words, "--transcripts", "2", "--entropy-coef", "0.01"]) == 0, capsys.readouterr().err
    run = RunFolder.open(tmp_path / "runs/math-grpo-prefix5-seed0")
    assert all(step["kl_k3"] > 0 and step["sigma"] == 0 for step in run.steps())
    assert {t.sampler for t in read_transcripts(run.path)} == {"clean", "exploring"}
    assert main(["preflight", *words]) == 1
    said = capsys.readouterr().out
    assert re.search(r"noise +KL [\d.e-]+ nats per token", said), said
    assert main(["train", *words, "--prefix-words", "400", "--out", "long"]) == 2
    assert "prompts must have fewer than 512 tokens" in capsys.readouterr().err and not (tmp_path / "long").exists()
