"""Coherence against analysis of variance by another way, against known components, and against a model by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation import shifts
from psn_tutorial.evaluation.coherence import (
    Coherence,
    CoherenceConfig,
    figures,
    figures_at_kl,
    parts,
    ratios_at_kl,
    read_coherence,
    variances,
)
from psn_tutorial.evaluation.probes import consistency
from psn_tutorial.evaluation.sampling import exact_success, text_logps
from psn_tutorial.evaluation.shifts import clean_answers, coherence, sigma_of_kl
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import build_model, build_text_tokenizer, build_tokenizer
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.settings import from_mapping, to_mapping
from psn_tutorial.tasks import get_task

# --- figures ------------------------------------------------------------------------------------------


def record(shifts, kl=0.5):
    """A record of ``shifts`` [D, N]."""
    shift, spread = parts(np.array(shifts, dtype=float))
    kls, others = (kl,) * len(shift), (0.25,) * len(shift)
    return Coherence("head", 0.1, 10, 5, len(shifts[0]), tuple(shift), tuple(spread), kls, others, others, 1e-6)


def test_two_draws_at_two_places_by_hand():
    """Draws +1, +3 and -1, +1 around the places' means 0, 2: +1, +1 and -1, -1. Nothing is left within a draw; the
    draws' means 2 and 0 have the variance 2."""
    found = figures(record([[1, 3], [-1, 1]]))
    assert found["coherent sd"].value == pytest.approx(math.sqrt(2)) and found["within sd"].value == 0
    assert found["ICC"].value == 1 and found["efficiency"].value == pytest.approx(2 / 0.5)
    # What one draw does to one place it undoes at the other: nothing in common, squared residuals 1 with one degree of
    # freedom are 4, and the component between draws is estimated below 0.
    coherent, within = variances(*parts(np.array([[1.0, -1.0], [-1.0, 1.0]])), 2)
    assert (coherent, within) == (-2, 4)
    assert figures(record([[1, -1], [-1, 1]]))["ICC"].value == 0


@settings(deadline=None, max_examples=50)
@given(draws=st.integers(2, 6), places=st.integers(2, 6), seed=st.integers(0, 999))
def test_the_share_is_the_intraclass_correlation_of_the_probes(draws, places, seed):
    shifts = np.random.default_rng(seed).normal(size=(draws, places)) + np.arange(places)
    coherent, within = variances(*parts(shifts), places)
    assert coherent / (coherent + within) == pytest.approx(consistency(shifts.T).value)


def test_known_components_are_found_without_bias():
    """Means over 4000 samples of 6 draws at 4 places; 5 standard errors. Each place's own mean plays no part."""
    chance = np.random.default_rng(0)
    shifts = chance.normal(0, 2, (4000, 6, 1)) + chance.normal(0, 1, (4000, 6, 4)) + np.array([5.0, -3, 0, 1])
    found = np.array([variances(*parts(x), 4) for x in shifts])
    error = found.std(0) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - [4, 1]) < 5 * error).all() and (error < 0.1).all()


def test_most_intervals_hold_the_truth():
    """95 % are meant, and a bootstrap of 30 draws falls a little short of it."""
    chance, held = np.random.default_rng(1), 0
    for _ in range(200):
        shifts = chance.normal(0, 2, (30, 1)) + chance.normal(0, 1, (30, 20))
        held += 2 in figures(record(shifts))["coherent sd"]
    assert 0.85 < held / 200 < 0.995


def test_a_record_survives_its_line(tmp_path):
    found = record(np.random.default_rng(0).normal(size=(3, 4)))
    (tmp_path / "coherence.jsonl").write_text(json.dumps(to_mapping(found)) + "\n")
    assert read_coherence(tmp_path / "coherence.jsonl") == [found]
    assert read_coherence(tmp_path / "none.jsonl") == []


# --- at equal KL --------------------------------------------------------------------------------------


def of_sigma(sigma, kl, success):
    """A record of which only the KL and the success [D] of its draws are known."""
    shift, none = tuple(sigma * (-1) ** i for i in range(len(kl))), (0.0,) * len(kl)
    return Coherence("head", sigma, 10, 5, 2, shift, none, tuple(kl), none, tuple(success), 1e-6)


def power_law(count, power, factor, seed, spread=0.5):
    """Records at four sigmas: the KL of a draw is sigma^2 times its own chi^2, its success factor * KL^power."""
    own = np.random.default_rng(seed).chisquare(2 / spread**2, count) * spread**2 / 2
    kls = [sigma**2 * own for sigma in (0.1, 0.2, 0.4, 0.8)]
    return [of_sigma(sigma, kl, factor * kl**power) for sigma, kl in zip((0.1, 0.2, 0.4, 0.8), kls, strict=True)]


def test_between_two_sigmas_a_figure_is_a_straight_line_in_logarithms():
    """All draws have one KL, so that the intervals have no width. The shifts are +sigma and -sigma in turn, of variance
    sigma^2 n / (n - 1); sigma is the root of the KL. Values are never right: 0 stays 0."""
    even = power_law(4, 2, 5.0, 0, spread=1e-6)
    for kl in (0.0101, 0.02, 0.1, 0.5, 0.639):
        found = figures_at_kl(even, kl)
        assert found["success"].value == pytest.approx(5 * kl**2, rel=1e-4)
        assert found["success"].high == pytest.approx(found["success"].low, rel=1e-4)
        assert found["coherent sd"].value == pytest.approx(math.sqrt(kl * 4 / 3), rel=1e-4)
        assert found["KL"].value == pytest.approx(kl) and found["ICC"].value == pytest.approx(1)
        assert found["right values"].value < 1e-200
    ratios = ratios_at_kl(even, power_law(4, 2, 2.0, 1, spread=1e-6), 0.1)
    assert ratios["success"].value == pytest.approx(2.5, rel=1e-4) and ratios["KL"].value == pytest.approx(1)


def test_at_the_kl_of_a_sigma_it_is_that_sigmas():
    found = power_law(50, 3, 1.0, 2)
    here, there = figures_at_kl(found, float(np.mean(found[2].kl))), figures(found[2])
    for name in ("success", "coherent sd", "ICC"):
        assert here[name].value == pytest.approx(there[name].value), name
    assert here["success"].low < here["success"].value < here["success"].high
    assert here["success"].units == "50 draws"


def test_most_intervals_at_equal_kl_hold_the_truth():
    """E[chi^2] = 1 and E[(chi^2)^2] = 1 + spread^2: the mean success at a mean KL is 1.25 KL^2 times the factor. 95 %
    are meant, for the ratio too."""
    held, held_ratio = 0, 0
    for seed in range(60):
        found, other = power_law(30, 2, 1.0, seed), power_law(30, 2, 2.0, 1000 + seed)
        held += 1.25 * 0.05**2 in figures_at_kl(found, 0.05)["success"]
        held_ratio += 0.5 in ratios_at_kl(found, other, 0.05)["success"]
    assert held >= 48 and held_ratio >= 48


def test_a_kl_that_no_sigma_has_is_refused():
    with pytest.raises(UserError, match="kl must be .* to .*, the mean KLs there are, got 0.9"):
        figures_at_kl(power_law(50, 2, 1.0, 3), 0.9)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sites": ["mlps"]}, "a site must be one of 'mlp', .*, got 'mlps'"),
        ({"sites": []}, "sites must be different ones, at least one"),
        ({"draws": 1}, "draws must be a whole number >= 2, got 1"),
        ({"task": "countdown"}, "task must be one of 'rules', 'chain', 'habit', got 'countdown'"),
        ({"kl": 0}, "kl must be > 0, got 0"),
        ({"task": "habit"}, "policy must name a language model where the task is habit, got none"),
    ],
)
def test_wrong_settings_are_told(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        from_mapping(CoherenceConfig, fields, "here")


# --- measuring ----------------------------------------------------------------------------------------


@pytest.fixture(params=[("rules", {"steps": 3, "mixed": 4}), ("chain", {"steps": 4})], ids=["rules", "chain"])
def setting(request):
    """(policy, task, problems): an untrained model; what it does has no structure that could hide a mistake."""
    name, difficulty = request.param
    task = get_task(name, **difficulty)
    tokenizer = build_tokenizer(task.words)
    model = build_model(TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2, layers=2, tied=False), tokenizer, 0)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() == 2):
            matrix.mul_(10)  # initialised at .02 it prefers nothing
    return Policy(model.eval(), tokenizer), task, task.generate(3, 5 if task.values else 1)


def next_words(policy, prompt, words):
    """Log-probabilities {word: .} of the word after ``prompt`` and ``words``, by transformers' own forward pass."""
    model, tokenizer = policy
    ids = [*tokenizer(prompt)["input_ids"], *tokenizer.convert_tokens_to_ids(words)]
    logits = model(torch.tensor([ids])).logits[0, -1].double()
    return logits.log_softmax(-1)


@torch.no_grad()
def test_every_figure_is_that_of_the_model_by_hand(setting):
    policy, task, problems = setting
    noise, draws = NoiseConfig(0.4, "mlp", relative=True, seed=7), 3
    found = coherence(policy, task, problems, noise, draws, seed=5)
    answers = clean_answers(policy, task, problems, 5)
    stride = 2 if task.values else 1
    table = []  # [draw, place] of the log-odds; draw 0 is the clean policy
    for draw in range(-1, draws):
        odds, kls, right_values, success = [], [], [], []

        def look(odds=odds, kls=kls, right_values=right_values, success=success):
            for row, problem in enumerate(problems):
                prompt = task.prompt(problem)
                words = policy.tokenizer.convert_ids_to_tokens(answers.ids[row, -answers.length :])
                chosen = []
                for place, word in enumerate(words):
                    logps = next_words(policy, prompt, words[:place])
                    kls.append(logps)
                    by_word = {w: float(logps[policy.tokenizer.convert_tokens_to_ids(w)]) for w in task.words}
                    if place % stride == 0:
                        turned = task.mixed and problem.digits[place // stride] < task.mixed
                        rare, other = ("A", "B") if turned else ("B", "A")
                        odds.append(by_word[rare] - by_word[other])
                    else:
                        chosen.append(by_word[word])
                right_values.append(math.exp(sum(chosen)))
                success.append(exact_success(policy, task, problem))

        if draw < 0:
            look()
            clean = kls
        else:
            with perturbed(policy.model, noise, draw):
                look()
            kl = np.mean([float((p.exp() * (p - q)).sum()) for p, q in zip(clean, kls, strict=True)])
            assert found.kl[draw] == pytest.approx(kl, rel=1e-4)
            assert found.right_values[draw] == pytest.approx(np.mean(right_values), rel=1e-4)
            assert found.success[draw] == pytest.approx(np.mean(success), rel=1e-4)
        table.append(odds)
        if draw < 0:
            assert found.clean_success == pytest.approx(np.mean(success), rel=1e-4)
    shifts = np.array(table[1:]) - np.array(table[0])
    shift, spread = parts(shifts)
    assert found.shift == pytest.approx(tuple(shift), abs=1e-4) and found.spread == pytest.approx(
        tuple(spread), rel=1e-2
    )
    assert found.places == shifts.shape[1] == len(problems) * task.steps
    assert found.parameters == policy.model.num_parameters() and found.perturbed == 2 * 3 * 16 * 32
    assert np.std(shift) > 0.01


def test_the_answers_are_right_whatever_was_sampled_and_the_policy_is_what_it_was(setting):
    policy, task, problems = setting
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    answers = clean_answers(policy, task, problems, 1)
    texts = [" ".join(policy.tokenizer.convert_ids_to_tokens(row[-answers.length :])) for row in answers.ids]
    for text, problem in zip(texts, problems, strict=True):
        reason = task.verify(text, problem).reason
        assert reason == "" or "rule" in reason, "only a rule is another than the rewarded one"
        assert math.isfinite(text_logps(policy, task.prompt(problem), [text], task.ends)[0])
    coherence(policy, task, problems, NoiseConfig(0.5, "all", relative=True), 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())


def check_alone_and_together(policy, task, problems, site, carrier):
    """Five draws, one by one and three at once."""
    noise = NoiseConfig(0.4, site, relative=True, seed=7, carrier=carrier)
    alone, together = (coherence(policy, task, problems, noise, 5, at_once=n) for n in (1, 3))
    for name in ("shift", "spread", "kl", "right_values", "success", "clean_success"):
        assert getattr(together, name) == pytest.approx(getattr(alone, name), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("carrier", ["weights", "dense", "lowrank"])
@pytest.mark.parametrize("site", ["mlp", "head"])
def test_draws_that_share_a_pass_are_what_they_are_alone(setting, site, carrier):
    check_alone_and_together(*setting, site, carrier)


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("carrier", ["weights", "dense"])
def test_noise_on_the_head_is_read_as_it_is_wherever_it_goes(carrier, tied):
    """In the weights of a tied head the noise is in the embeddings too, beside them it is not."""
    task = get_task("chain", steps=4)
    tokenizer = build_tokenizer(task.words)
    sizes = TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2, layers=1, tied=tied)
    policy, problems = Policy(build_model(sizes, tokenizer, 0).eval(), tokenizer), task.generate(3, 1)
    noise = NoiseConfig(0.5, "head", relative=True, carrier=carrier)
    found = coherence(policy, task, problems, noise, 2, at_once=2)
    for draw in range(2):
        with carried(policy.model, noise, [draw]):
            assert found.success[draw] == pytest.approx(exact_success(policy, task, problems[0]), rel=1e-4)


def test_a_sigma_is_found_that_has_the_wanted_kl(setting):
    policy, task, problems = setting
    sigma = sigma_of_kl(policy, task, problems, "head", 0.01, seed=2)
    found = coherence(policy, task, problems, NoiseConfig(sigma, "head", relative=True, seed=2), 8, seed=2)
    assert np.mean(found.kl) == pytest.approx(0.01, rel=0.06)


def test_where_the_first_guess_is_far_off_the_whole_range_is_searched(setting, monkeypatch):
    """The KL of a very large sigma no longer goes with its square, and tells nothing of a small one."""
    policy, task, problems = setting
    near = sigma_of_kl(policy, task, problems, "head", 0.01)
    monkeypatch.setattr(shifts, "NEAR", 50.0)
    assert sigma_of_kl(policy, task, problems, "head", 0.01) == pytest.approx(near, rel=0.05)


@pytest.mark.parametrize(
    ("name", "difficulty"), [("countdown", {}), ("rules", {"rules": 3}), ("rules", {"consistency": 2})]
)
def test_other_tasks_are_refused(name, difficulty):
    task = get_task(name, **difficulty)
    with pytest.raises(
        UserError, match="coherence is measured on rules, chain and habit, with two rules and none free"
    ):
        clean_answers(None, task, task.generate(0, 1))


@pytest.fixture
def lists():
    """(policy, task, problems): lists of words, and an untrained model that splits them as a pretrained one does."""
    task = get_task("habit", steps=3, examples=4)
    tokenizer = build_text_tokenizer([task.prompt(10) + task.completion(["cat", "dog", "dog"], 10)] * 9)
    model = build_model(TinyConfig("qwen2", hidden=16, ff=32, heads=2, kv_heads=2, layers=2), tokenizer, 0)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() == 2):
            matrix.mul_(10)
    return Policy(model.eval(), tokenizer), task, [37, 12, 80]


@torch.no_grad()
def test_for_a_language_model_every_figure_is_that_of_the_model_by_hand(lists):
    policy, task, problems = lists
    noise = NoiseConfig(0.4, "mlp", relative=True, seed=7)
    found = coherence(policy, task, problems, noise, 2, seed=5)
    answers = clean_answers(policy, task, problems, 5)
    cat, dog = (policy.tokenizer(f" {word}")["input_ids"][0] for word in ("cat", "dog"))
    seen = []
    for draw in (None, 0, 1):

        def look():
            odds, kls, numbers = [], [], []
            for row, problem in zip(answers.ids, problems, strict=True):
                text = policy.tokenizer.decode(row)
                assert text.startswith(task.prompt(problem))
                logps = policy.model(row[None]).logits[0, -answers.length - 1 : -1].double().log_softmax(-1)
                tokens = row[-answers.length :].tolist()
                assert [token in (cat, dog) for token in tokens] == [True, *4 * [False]] * 2 + [True]
                odds += [float(logps[i, dog] - logps[i, cat]) for i in (0, 5, 10)]
                kls.append(logps)
                numbers.append(math.exp(sum(float(logps[i, t]) for i, t in enumerate(tokens) if t not in (cat, dog))))
            success = [exact_success(policy, task, problem) for problem in problems]
            return np.array(odds), torch.cat(kls), np.mean(numbers), np.mean(success)

        if draw is None:
            seen.append(look())
        else:
            with perturbed(policy.model, noise, draw):
                seen.append(look())
    clean, *noisy = seen
    assert found.clean_success == pytest.approx(clean[3], rel=1e-3)
    for draw, (odds, logps, numbers, success) in enumerate(noisy):
        assert found.shift[draw] == pytest.approx((odds - clean[0]).mean(), abs=1e-4)
        assert found.kl[draw] == pytest.approx(float((clean[1].exp() * (clean[1] - logps)).sum(-1).mean()), rel=1e-3)
        assert found.right_values[draw] == pytest.approx(numbers, rel=1e-3)
        assert found.success[draw] == pytest.approx(success, rel=1e-3)
    by_hand = clean[1] / found.temperature - (clean[1] / found.temperature).logsumexp(-1, keepdim=True)
    assert found.temperature > 1
    assert float((clean[1].exp() * (clean[1] - by_hand)).sum(-1).mean()) == pytest.approx(np.mean(found.kl), rel=1e-2)
    hot = np.mean([exact_success(policy, task, problem, found.temperature) for problem in problems])
    assert found.tempered_success == pytest.approx(hot, rel=1e-3)
    assert found.places == 9 and np.std([odds - clean[0] for odds, *_ in noisy]) > 0.01


@pytest.mark.parametrize("carrier", ["weights", "dense", "lowrank"])
@pytest.mark.parametrize("site", ["mlp", "head"])
def test_draws_that_share_the_reading_of_the_lists_are_what_they_are_alone(lists, site, carrier):
    check_alone_and_together(*lists, site, carrier)


def test_noise_that_no_temperature_equals_in_kl_has_none_beside_it(lists):
    found = coherence(*lists, NoiseConfig(30.0, "head", relative=True), 2)
    assert np.mean(found.kl) > 10 and found.temperature is None and found.tempered_success is None


def test_words_that_a_tokenizer_splits_are_told(lists):
    policy, _, problems = lists
    with pytest.raises(UserError, match="each rule must be one token of the policy, got 4 for ' cow'"):
        clean_answers(policy, get_task("habit", steps=3, usual="cow"), problems)
    policy.tokenizer.add_tokens(["37"])
    with pytest.raises(UserError, match=r"all prompts must have equally many tokens, got \[\d+, \d+\]"):
        clean_answers(policy, lists[1], problems)
