"""The shipped bases are what their records say, measured again here."""

import numpy as np
import pytest

from psn_tutorial.bases import base_folder
from psn_tutorial.config import MeasureConfig
from psn_tutorial.evaluation import summarise
from psn_tutorial.measure import evaluate
from psn_tutorial.models.pretrain import BASES
from psn_tutorial.models.tiny import load
from psn_tutorial.problems import held_out_problems
from psn_tutorial.records import EvaluationRecord
from psn_tutorial.runs import Run
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.tasks.splits import DATA


@pytest.fixture(params=BASES)
def shipped(request):
    name, config = request.param, BASES[request.param]
    model, tokenizer = load(base_folder(name))
    record = EvaluationRecord.read(DATA / "runs" / f"base-{name}" / "eval.json")
    return name, get_task(config.task, **config.difficulty), model, tokenizer, record.last


def test_its_record_was_made_with_its_settings(shipped):
    name = shipped[0]
    assert Run.open(DATA / "runs" / f"base-{name}").config == to_mapping(BASES[name])


def test_it_meets_its_recorded_figures(shipped):
    name, task, model, tokenizer, recorded = shipped
    problems = held_out_problems(task, MeasureConfig(task.name, BASES[name].difficulty))
    again = evaluate(model, tokenizer, task, problems, samples=32, seed=1)
    assert [r.problem for r in again] == [r.problem for r in recorded]
    if name in ("countdown", "sums"):  # other samples: the difference has a standard error that the counts tell
        shares = np.array([r.c / r.n for r in recorded])
        error = np.sqrt((shares * (1 - shares) * (1 / 32 + 1 / 256)).sum()) / len(shares)
        assert abs(np.mean([r.c / r.n for r in again]) - shares.mean()) < 4 * error
    else:
        np.testing.assert_allclose([r.exact for r in again], [r.exact for r in recorded], rtol=1e-2)


def test_countdown_leaves_head_room(shipped):
    name, _, _, _, recorded = shipped
    if name == "countdown":
        figures = summarise([recorded], ks=[1, 256])
        assert 0.05 < figures["pass@1"].value < 0.3 and figures["pass@256"].high < 0.95


def test_the_rule_base_has_the_skill_for_every_rule_and_the_preference_for_one(shipped):
    """Along the all-A and the all-B answer: the rule is chosen by its prior, the value is right whatever the rule."""
    name, task, model, tokenizer, _ = shipped
    if name != "rules":
        return
    import torch

    from psn_tutorial.models.decoder import forward

    problems = load_split(name, "eval")
    for letter, prior in (("A", 0.9), ("B", 0.1)):
        texts = [f"{task.prompt(p)} {task.completion(letter * 6, p)}" for p in problems]
        ids = torch.tensor(tokenizer(texts)["input_ids"])
        with torch.no_grad():
            logps = forward(model, ids[:, :-1], last=12).log_softmax(-1)
        chances = logps.gather(2, ids[:, -12:, None])[..., 0].exp()
        assert (chances[:, ::2].mean(0) - prior).abs().max() < 0.02
        assert chances[:, 1::2].mean(0).min() > 0.99
