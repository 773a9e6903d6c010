"""Measure a policy on held-out problems: sample k answers each, verify them, count.

Always the clean policy, always at the temperature it was trained at. What the counts mean is the business of
:mod:`psn_tutorial.evaluation.metrics`.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from tqdm.auto import tqdm

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.evaluation.results import ProblemResult, tally
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy, asked, completion_ids, encode, end_tokens, prompt_ids
from psn_tutorial.noise import stream
from psn_tutorial.rollout import responses, sample
from psn_tutorial.tasks.base import Task


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    samples: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 2048,
    progress: bool = False,
) -> list[ProblemResult]:
    """Sample ``samples`` answers to every problem and tally them.

    Args:
        policy: evaluated as it stands; nothing perturbs it here.
        samples: answers per problem (n of pass@k); 0: exact probabilities alone, without chance.
        batch: rollouts sampled at once; bounds the memory. Part of the random stream: another
            batch size draws other samples.
        progress: show a bar.

    Returns:
        One :class:`ProblemResult` per problem, in order.

    Raises:
        UserError: samples below 0 or batch below 1; no samples of a task without exact probabilities.
    """
    check_count("samples", samples, low=0)
    check_count("batch", batch)
    if samples == 0:
        if not task.exact:
            raise UserError(f"samples must be >= 1: {task.name} has no exact probabilities, got 0")
        exact = [exact_success(policy, task, problem, temperature) for problem in problems]
        return [tally(problem, {}, task, p) for problem, p in zip(problems, exact, strict=True)]
    results = []
    together = max(1, batch // samples)
    for start in tqdm(range(0, len(problems), together), "evaluating", disable=not progress, leave=False):
        some, texts = problems[start : start + together], []
        prompts = encode(policy.tokenizer, asked(policy.tokenizer, task, some))
        for first in range(0, samples, batch):  # several only where a single problem has more samples than that
            rollouts = sample(
                policy,
                prompts,
                min(batch, samples - first),
                max(map(task.max_tokens, some)),
                stream(seed, "evaluation", start, *([first] if first else [])),
                temperature,
            )
            texts += responses(policy.tokenizer, rollouts)
        for i, problem in enumerate(some):
            exact = None
            if task.exact:
                with suppress(UserError):  # too many accepted answers to list: the samples have to do
                    exact = exact_success(policy, task, problem, temperature)
            results.append(tally(problem, Counter(texts[i * samples : (i + 1) * samples]), task, exact))
    return results


@torch.no_grad()
def text_logps(
    policy: Policy, prompt: str, completions: Sequence[str], ends: bool, temperature: float = 1.0
) -> list[float]:
    """Natural log of the probability that the policy answers ``prompt`` with each completion.

    ``ends``: an end token, whichever, is part of the answer. Completions must have equally many tokens.
    """
    model, tokenizer = policy
    (question,) = prompt_ids(tokenizer, [prompt])
    end = end_tokens(policy) if ends else []
    answers = torch.tensor([[*ids, *end[:1]] for ids in completion_ids(tokenizer, completions)])
    ids = torch.cat([torch.tensor(question).expand(len(answers), -1), answers], 1).to(model.device)
    logps = (forward(model, ids[:, :-1], last=answers.shape[1]).double() / temperature).log_softmax(-1)
    chosen = logps.gather(2, ids[:, -answers.shape[1] :, None])
    if end:
        chosen[:, -1, 0] = logps[:, -1, end].logsumexp(-1)
    return chosen.sum((1, 2)).tolist()


def exact_success(policy: Policy, task: Task, problem: Any, temperature: float = 1.0) -> float:
    """The exact probability, in [0, 1], of a right answer to a problem: a sum over all texts that the task accepts.

    Raises:
        UserError: the task does not list its accepted answers (rules, chain and habit do).
    """
    return task.exact_success(lambda prompt, texts: text_logps(policy, prompt, texts, task.ends, temperature), problem)
