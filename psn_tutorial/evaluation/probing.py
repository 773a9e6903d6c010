"""Sample answers with noise, at a temperature or with top-p, and see what becomes of a policy that nobody trains.

The premise of exploring with weight noise is that near the weights of a policy lie other good policies, and that their
answers are of more kinds than a temperature's. :func:`probe` measures it: how far the sampler is from the policy (KL,
ESS), what its answers are worth (form, pass@k), and whether one draw keeps to its way (consistency).
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.evaluation.calibrate import find_setting
from psn_tutorial.evaluation.probes import Probe, Sampler
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import Rollouts, read_completions, responses, sample
from psn_tutorial.tasks.base import Task

RANGES = {"temperature": (1.0001, 3.0), "top_p": (0.05, 0.9999)}  # where a setting of equal KL is looked for


def probe(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    sampler: Sampler,
    answers: int = 8,
    sets: int = 4,
    seed: int = 0,
    batch: int = 256,
    matches: str = "",
    progress: bool = False,
) -> Probe:
    """Answer every problem ``answers`` * ``sets`` times, each time with another draw of the sampler's noise.

    Args:
        policy: as it stands; it is the same bit for bit afterwards.
        answers, sets: G and R, see :class:`psn_tutorial.evaluation.probes.Probe`.
        seed: of the noise and of the sampling. All samplers use the same random numbers for the same answer.
        batch: answers sampled at once; bounds the memory, and is part of the random stream.
        matches: a note for the record.

    Raises:
        UserError: no problem, or a count below 1; a noise filter that matches nothing.
    """
    for name, value in (("answers", answers), ("sets", sets), ("batch", batch)):
        check_count(name, value)
    if not problems:
        raise UserError("problems must hold at least one problem, got none")
    begin, columns = time.perf_counter(), []
    for draw in tqdm(range(answers * sets), str(sampler), disable=not progress, leave=False):
        columns.append(_one_draw(policy, task, problems, sampler, draw, seed, batch))
    texts = [[column["texts"][place] for column in columns] for place in range(len(problems))]
    right = [[column["right"][place] for column in columns] for place in range(len(problems))]
    return Probe(
        sampler,
        matches,
        answers,
        tuple("".join(str(int(correct)) for correct in row) for row in right),
        tuple(tuple(round(100 * task.strategy(text)) for text in row) for row in texts),
        tuple(
            len({" ".join(text.split()) for text, correct in zip(*rows, strict=True) if correct})
            for rows in zip(texts, right, strict=True)
        ),
        *(tuple(column[name] for column in columns) for name in ("formed", "tokens", "k1", "k3", "ratios", "squares")),
        round(time.perf_counter() - begin, 1),
    )


def matched(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    target: float,
    setting: str,
    seed: int = 0,
    batch: int = 256,
) -> Sampler:
    """The sampler whose ``setting``, "temperature" or "top_p", gives it the KL ``target`` (nats per token, > 0).

    Raises UserError where none in RANGES does.
    """
    low, high = RANGES[setting]

    def measure(value: float) -> float:
        found = probe(policy, task, problems, Sampler(**{setting: value}), 1, 1, seed, batch)
        return max(found.kl[0], 0.0)

    if setting == "top_p":  # the KL falls where it rises: look for what is left out
        value = 1 - find_setting(lambda left_out: measure(1 - left_out), target, 1 - high, 1 - low, 0.02)
    else:
        value = 1 + find_setting(lambda hotter: measure(1 + hotter), target, low - 1, high - 1, 0.02)
    return Sampler(**{setting: value})


def _one_draw(
    policy: Policy, task: Task, problems: Sequence[Any], sampler: Sampler, draw: int, seed: int, batch: int
) -> dict[str, Any]:
    """One answer to every problem under one draw: texts, verdicts, and sums over the tokens."""
    texts: list[str] = []
    ended: list[bool] = []
    tokens, sums = 0, torch.zeros(4, dtype=torch.float64)
    noise = NoiseConfig(
        sampler.sigma, sampler.targets, sampler.relative, seed, carrier=sampler.carrier, rank=sampler.rank
    )
    for start in range(0, len(problems), batch):
        some = problems[start : start + batch]
        rollouts = sample(
            policy,
            encode(policy.tokenizer, asked(policy.tokenizer, task, some)),
            1,
            max(map(task.max_tokens, some)),
            stream(seed, "probe", draw, start),
            sampler.temperature,
            noise,
            torch.full((len(some), 1), draw),
            task.ends,
            sampler.top_p,
        )
        texts += responses(policy.tokenizer, rollouts)
        ended += rollouts.ended.tolist() if task.ends else [True] * len(some)
        tokens += int(rollouts.mask.sum())
        sums += _ratio_sums(policy, rollouts, sampler)
    verdicts = task.verify_many(texts, problems)
    formed = [end and task.answered(text) for end, text in zip(ended, texts, strict=True)]
    k1, k3, ratios, squares = sums.tolist()
    return {
        "texts": texts,
        "right": [verdict.correct for verdict in verdicts],
        "formed": sum(formed) / len(formed),
        "tokens": tokens,
        "k1": k1 / tokens,
        "k3": k3 / tokens,
        "ratios": ratios,
        "squares": squares,
    }


@torch.no_grad()
def _ratio_sums(policy: Policy, rollouts: Rollouts, sampler: Sampler) -> torch.Tensor:
    """Sums over the tokens of k1, k3, w and w^2, w = pi / mu with pi the policy at temperature 1."""
    count = int(rollouts.mask.sum())
    if not sampler.sigma and sampler.temperature == sampler.top_p == 1:
        return torch.tensor([0.0, 0.0, count, count], dtype=torch.float64)
    reading = read_completions(policy.model, rollouts, torch.arange(len(rollouts.tokens)), 1.0)
    log_w = (reading.logps.double() - rollouts.logps.double())[rollouts.mask]
    w = log_w.clamp(max=80).exp()
    return torch.stack([-log_w.sum(), (w - 1 - log_w).sum(), w.sum(), w.square().sum()]).cpu()
