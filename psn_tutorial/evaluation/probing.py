"""Sample answers with noise, at a temperature or with top-p, and see what becomes of a policy that nobody trains.

The premise of exploring with weight noise is that near the weights of a policy lie other good policies, and that their
answers are of more kinds than a temperature's. :func:`probe` measures it: how far the sampler is from the policy (KL,
ESS), what its answers are worth (form, pass@k), and whether one draw keeps to its way (consistency).
"""

import math
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from tqdm.auto import tqdm

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.evaluation.probes import Probe, Sampler
from psn_tutorial.importance import LOG_RATIO_LIMIT
from psn_tutorial.models.encoders import SentenceEncoder
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import Rollouts, read_completions, responses, sample
from psn_tutorial.signals import group_similarities
from psn_tutorial.tasks.base import Task

MEANS, SUMS = ("k1", "k3", "uniform_to_policy", "policy_to_uniform"), ("ratios", "squares")  # over tokens


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
    encoder: SentenceEncoder | None = None,
    progress: bool = False,
) -> Probe:
    """Answer every problem ``answers`` * ``sets`` times, each time with another draw of the sampler's noise.

    Args:
        policy: as it stands; it is the same bit for bit afterwards.
        answers, sets: G and R, see :class:`psn_tutorial.evaluation.probes.Probe`.
        seed: of the noise and of the sampling. All noisy samplers use the same random numbers for the same answer, and
            so do all others.
        batch: answers sampled at once; bounds the memory, and is part of the random stream.
        matches: a note for the record.
        encoder: what tells how similar the answers to a problem are; None: nobody does.

    Raises:
        UserError: no problem, or a count below 1; a noise filter that matches nothing.
    """
    for name, value in (("answers", answers), ("sets", sets), ("batch", batch)):
        check_count(name, value)
    if not problems:
        raise UserError("problems must hold at least one problem, got none")
    begin, draws = time.perf_counter(), answers * sets
    texts = [[""] * draws for _ in problems]
    ended = [[True] * draws for _ in problems]
    tokens, sums = torch.zeros(draws, dtype=torch.long), torch.zeros(draws, len(MEANS) + len(SUMS), dtype=torch.float64)
    parts = _parts(len(problems), draws, batch, bool(sampler.sigma))
    for places, numbers in tqdm(parts, str(sampler), disable=not progress, leave=False):
        rollouts = _answers(policy, task, [problems[place] for place in places], sampler, numbers, seed, places[0])
        rows = zip(responses(policy.tokenizer, rollouts), rollouts.ended.tolist(), strict=True)
        for (place, number), (text, end) in zip(product(places, numbers), rows, strict=True):
            texts[place][number], ended[place][number] = text, end or not task.ends
        draw = torch.tensor(numbers).repeat(len(places))
        tokens.index_add_(0, draw, rollouts.mask.sum(1).cpu())
        if len(read := (draw < answers).nonzero()[:, 0]):
            sums.index_add_(0, draw[read], _token_sums(policy, rollouts, read))
    right = _verdicts(task, texts, problems)
    formed = [
        [end and task.answered(text) for end, text in zip(*row, strict=True)] for row in zip(ended, texts, strict=True)
    ]
    found = dict(zip((*MEANS, *SUMS), sums[:answers].T, strict=True))
    found |= {name: found[name] / tokens[:answers] for name in MEANS}
    return Probe(
        sampler,
        matches,
        answers,
        tuple("".join(str(int(correct)) for correct in row) for row in right),
        tuple(tuple(round(100 * task.strategy(text)) for text in row) for row in texts),
        tuple(_different(row) for row in texts),
        tuple(
            _different([text for text, correct in zip(*rows, strict=True) if correct])
            for rows in zip(texts, right, strict=True)
        ),
        tuple(sum(column) / len(problems) for column in zip(*formed, strict=True)),
        tuple(tokens.tolist()),
        *(tuple(found[name].tolist()) for name in (*MEANS[:2], *SUMS, *MEANS[2:])),
        tuple(_similarities(encoder, texts)) if encoder else None,
        round(time.perf_counter() - begin, 1),
    )


def _parts(problems: int, draws: int, batch: int, noisy: bool) -> list[tuple[list[int], list[int]]]:
    """What is sampled at once, as the places of problems and the numbers of draws. Under noise each draw reads all
    prompts anew, and takes many problems; without, all draws of a problem are answers to one reading of it."""
    together = 1 if noisy else min(draws, batch)
    size = batch // together
    return [
        (list(range(start, min(start + size, problems))), list(range(first, min(first + together, draws))))
        for first in range(0, draws, together)
        for start in range(0, problems, size)
    ]


def _answers(
    policy: Policy, task: Task, problems: Sequence[Any], sampler: Sampler, draws: Sequence[int], seed: int, place: int
) -> Rollouts:
    """One answer to each problem under each of the draws, prompt-major; ``place`` is that of the first problem."""
    how = {name: getattr(sampler, name) for name in ("targets", "relative", "carrier", "rank", "layers")}
    return sample(
        policy,
        encode(policy.tokenizer, asked(policy.tokenizer, task, problems)),
        len(draws),
        max(map(task.max_tokens, problems)),
        stream(seed, "probe", draws[0], place),
        sampler.temperature,
        NoiseConfig(sampler.sigma, seed=seed, **how),
        torch.tensor(draws).expand(len(problems), -1),
        task.ends,
        sampler.top_p,
    )


def _verdicts(task: Task, texts: Sequence[Sequence[str]], problems: Sequence[Any]) -> list[list[bool]]:
    """Which answers of each problem are right; equal ones are judged once."""
    distinct = list(dict.fromkeys((place, text) for place, row in enumerate(texts) for text in row))
    judged = task.verify_many([text for _, text in distinct], [problems[place] for place, _ in distinct])
    correct = {answer: verdict.correct for answer, verdict in zip(distinct, judged, strict=True)}
    return [[correct[place, text] for text in row] for place, row in enumerate(texts)]


@torch.no_grad()
def _token_sums(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> torch.Tensor:
    """Sums over the tokens of each of some rows, in the order of MEANS and SUMS: [b, 6]; w = pi / mu with pi the
    policy at temperature 1."""
    reading = read_completions(policy.model, rollouts, rows, 1.0, "value", "uniform_to_policy")
    mask = rollouts.mask[rows.to(rollouts.mask.device)]
    log_w = (reading.logps.double() - rollouts.logps[rows.to(mask.device)].double()).masked_fill(~mask, 0)
    w = log_w.clamp(max=LOG_RATIO_LIMIT).exp()
    size = math.log(policy.model.get_input_embeddings().weight.shape[0])
    certain, entropy = reading.certainty.double(), reading.entropy.double()
    columns = (-log_w, w - 1 - log_w, certain, size - entropy, w, w.square())
    return torch.stack([column.masked_fill(~mask, 0).sum(1) for column in columns], 1).cpu()


def _different(texts: Sequence[str]) -> int:
    return len({" ".join(text.split()) for text in texts})


def _similarities(encoder: SentenceEncoder, texts: Sequence[Sequence[str]]) -> list[float]:
    """Of each problem's answers, to 4 digits."""
    embeddings = encoder.encode([text for row in texts for text in row])
    return [round(value, 4) for value in group_similarities(embeddings, len(texts[0])).tolist()]
