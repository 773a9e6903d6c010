import math
from itertools import product

import pytest
import torch
from scipy import stats

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation import sampling
from psn_tutorial.evaluation.sampling import evaluate, exact_success, text_logps
from psn_tutorial.models.policy import Policy


def test_text_logps_are_a_distribution(policy):
    """Over all six tokens and both places the probabilities sum to one."""
    task, tokenizer, model = policy("chain", steps=2)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    logps = text_logps(Policy(model, tokenizer), ":", [" ".join(pair) for pair in product(words, repeat=2)], ends=False)
    assert math.fsum(map(math.exp, logps)) == pytest.approx(1, abs=1e-5)


def test_the_end_token_is_part_of_an_answer_that_ends(policy):
    _, tokenizer, model = policy("chain", steps=2)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(": A B")["input_ids"]])).logits[0].log_softmax(-1)
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])
    expected = logits[1, a] + logits[2, b]
    assert text_logps(Policy(model, tokenizer), ":", ["A B"], False) == pytest.approx([float(expected)], abs=1e-4)
    expected += logits[3, tokenizer.eos_token_id]
    assert text_logps(Policy(model, tokenizer), ":", ["A B"], True) == pytest.approx([float(expected)], abs=1e-4)
    model.generation_config.eos_token_id = [2, a]  # whichever of the two comes
    expected += torch.logaddexp(logits[3, 2], logits[3, a]) - logits[3, 2]
    assert text_logps(Policy(model, tokenizer), ":", ["A B"], True) == pytest.approx([float(expected)], abs=1e-4)


def test_sampled_and_exact_success_agree(policy):
    task, tokenizer, model = policy("chain", scale=3.0, steps=2, consistency=1)
    problems = task.generate(0, 1)
    (result,) = evaluate(Policy(model, tokenizer), task, problems, samples=4000)
    assert result.n == 4000 and result.exact == exact_success(Policy(model, tokenizer), task, problems[0])
    assert 0.01 < result.exact < 0.9
    assert stats.binomtest(result.c, result.n, result.exact).pvalue > 0.01


def test_every_problem_gets_its_own_samples(policy):
    task, tokenizer, model = policy("countdown")
    problems = task.generate(0, 5)
    results = evaluate(Policy(model, tokenizer), task, problems, samples=6, batch=12)
    assert [r.problem for r in results] == [task.prompt(p) for p in problems]
    assert all(r.n == 6 and r.total_solutions == len(task.solutions(p)) for r, p in zip(results, problems, strict=True))


def test_no_more_than_a_batch_is_sampled_at_once(policy, monkeypatch):
    task, tokenizer, model = policy("chain", scale=3.0, steps=2, consistency=1)
    honest, rows = sampling.sample, []

    def counted(model, prompts, mask, group, *rest):
        made = honest(model, prompts, mask, group, *rest)
        rows.append(made.tokens)
        return made

    monkeypatch.setattr(sampling, "sample", counted)
    (result,) = evaluate(Policy(model, tokenizer), task, task.generate(0, 1), samples=250, batch=100)
    assert result.n == 250 and [len(tokens) for tokens in rows] == [100, 100, 50]
    assert not torch.equal(rows[0], rows[1])  # each piece has a random stream of its own
    right = sum(
        task.verify(text, task.generate(0, 1)[0]).correct
        for tokens in rows
        for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)
    )
    assert result.c == right > 0


def test_the_seed_decides_the_samples(policy):
    task, tokenizer, model = policy("chain", scale=3.0, steps=2, consistency=1)
    run = lambda seed: evaluate(Policy(model, tokenizer), task, task.generate(0, 1), samples=500, seed=seed)[0].c  # noqa: E731
    assert run(1) == run(1)
    assert len({run(seed) for seed in range(5)}) > 1


def test_temperature_is_used(policy):
    task, tokenizer, model = policy("chain", steps=2, consistency=1)
    cold, hot = (
        evaluate(Policy(model, tokenizer), task, task.generate(0, 1), samples=500, temperature=t)[0].c
        for t in (1e-3, 1.0)
    )
    assert cold in (0, 500) and 0 < hot < 500


def test_mistakes_are_told_in_a_sentence(policy):
    task, tokenizer, model = policy("chain")
    with pytest.raises(UserError, match="samples must be"):
        evaluate(Policy(model, tokenizer), task, task.generate(0, 1), samples=-1)
