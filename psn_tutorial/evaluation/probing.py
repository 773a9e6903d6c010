"""Sample answers with noise, at a temperature or with top-p, and see what becomes of a policy that nobody trains.

The premise of exploring with weight noise is that near the weights of a policy lie other good policies, and that their
answers are of more kinds than a temperature's. :func:`probe` measures it: how far the sampler is from the policy (KL,
ESS), what its answers are worth (form, pass@k), and whether one draw keeps to its way (consistency).
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.evaluation.calibrate import find_setting
from psn_tutorial.evaluation.probes import Probe, Sampler, figures
from psn_tutorial.importance import LOG_RATIO_LIMIT
from psn_tutorial.models.encoders import SentenceEncoder
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import Rollouts, read_completions, responses, sample
from psn_tutorial.signals import group_similarities
from psn_tutorial.tasks.base import Task

MEANS, SUMS = ("k1", "k3", "uniform_to_policy", "policy_to_uniform"), ("ratios", "squares")  # over tokens
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
    encoder: SentenceEncoder | None = None,
    progress: bool = False,
) -> Probe:
    """Answer every problem ``answers`` * ``sets`` times, each time with another draw of the sampler's noise.

    Args:
        policy: as it stands; it is the same bit for bit afterwards.
        answers, sets: G and R, see :class:`psn_tutorial.evaluation.probes.Probe`.
        seed: of the noise and of the sampling. All samplers use the same random numbers for the same answer.
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
    begin, columns = time.perf_counter(), []
    for draw in tqdm(range(answers * sets), str(sampler), disable=not progress, leave=False):
        columns.append(_one_draw(policy, task, problems, sampler, draw, seed, batch, read=draw < answers))
    texts = [[column["texts"][place] for column in columns] for place in range(len(problems))]
    right = [[column["right"][place] for column in columns] for place in range(len(problems))]
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
        *(tuple(column[name] for column in columns) for name in ("formed", "tokens")),
        *(tuple(column[name] for column in columns[:answers]) for name in (*MEANS[:2], *SUMS, *MEANS[2:])),
        tuple(_similarities(encoder, texts)) if encoder else None,
        round(time.perf_counter() - begin, 1),
    )


def sampler_of_kl(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    target: float,
    setting: str,
    seed: int = 0,
    batch: int = 256,
    answers: int = 1,
) -> Sampler:
    """The sampler whose ``setting``, "temperature" or "top_p", gives it the KL ``target`` (nats per token, > 0).

    answers: to each problem, from which the KL of a setting is estimated. A small KL lies in few tokens: of a Qwen at
    .02, 240 answers of 18 tokens know it to a fifth.

    Raises :class:`psn_tutorial.evaluation.calibrate.OutOfReachError` where none in RANGES does.
    """
    low, high = RANGES[setting]

    def measure(value: float) -> float:
        found = probe(policy, task, problems, Sampler(**{setting: value}), answers, 1, seed, batch)
        return max(figures(found, ())["KL"].value, 0.0)

    if setting == "top_p":  # the KL falls where it rises: look for what is left out
        value = 1 - find_setting(lambda left_out: measure(1 - left_out), target, 1 - high, 1 - low, 0.02)
    else:
        value = 1 + find_setting(lambda hotter: measure(1 + hotter), target, low - 1, high - 1, 0.02)
    return Sampler(**{setting: value})


def _one_draw(
    policy: Policy, task: Task, problems: Sequence[Any], sampler: Sampler, draw: int, seed: int, batch: int, read: bool
) -> dict[str, Any]:
    """One answer to every problem under one draw: texts, verdicts, and, where the clean policy is to ``read`` them, its
    sums over the tokens."""
    texts: list[str] = []
    ended: list[bool] = []
    tokens, sums = 0, torch.zeros(len(MEANS) + len(SUMS), dtype=torch.float64)
    how = {name: getattr(sampler, name) for name in ("targets", "relative", "carrier", "rank", "layers")}
    noise = NoiseConfig(sampler.sigma, seed=seed, **how)
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
        sums += _token_sums(policy, rollouts) if read else 0
    verdicts = task.verify_many(texts, problems)
    formed = [end and task.answered(text) for end, text in zip(ended, texts, strict=True)]
    found = dict(zip((*MEANS, *SUMS), sums.tolist(), strict=True))
    return {
        "texts": texts,
        "right": [verdict.correct for verdict in verdicts],
        "formed": sum(formed) / len(formed),
        "tokens": tokens,
        **{name: value / tokens if name in MEANS else value for name, value in found.items()},
    }


@torch.no_grad()
def _token_sums(policy: Policy, rollouts: Rollouts) -> torch.Tensor:
    """Sums over the tokens, in the order of MEANS and SUMS; w = pi / mu with pi the policy at temperature 1."""
    rows = torch.arange(len(rollouts.tokens))
    reading = read_completions(policy.model, rollouts, rows, 1.0, "value", "uniform_to_policy")
    log_w = (reading.logps.double() - rollouts.logps.double())[rollouts.mask]
    w = log_w.clamp(max=LOG_RATIO_LIMIT).exp()
    size = math.log(policy.model.get_input_embeddings().weight.shape[0])
    certain, entropy = (x[rollouts.mask].double() for x in (reading.certainty, reading.entropy))
    columns = (-log_w, w - 1 - log_w, certain, size - entropy, w, w.square())
    return torch.stack([column.sum() for column in columns]).cpu()


def _different(texts: Sequence[str]) -> int:
    return len({" ".join(text.split()) for text in texts})


def _similarities(encoder: SentenceEncoder, texts: Sequence[Sequence[str]]) -> list[float]:
    """Of each problem's answers, to 4 digits."""
    embeddings = encoder.encode([text for row in texts for text in row])
    return [round(value, 4) for value in group_similarities(embeddings, len(texts[0])).tolist()]
