"""Noise in the prompt: while answers are sampled, random words stand before it.

Source: LoPE, Lorem Perturbation for Exploration (arXiv 2605.05566, Nonsense Helps: Prompt Space Perturbation Broadens
Reasoning Exploration); read were the abstract and the README and data set of its repository (shrango/LoPE), not the
paper's text. What a prefix delta does to a policy holds for the whole answer, like a draw of weight noise:

    sampler  mu(o_t) = pi(o_t | delta, p, o_<t)        updated is  pi(o_t | p, o_<t), the policy of the clean prompt

and their ratio is what the importance weights of every other sampler correct, capped in the same way (TIS). Here draw j
of a step has prefix j, so that ``draws`` and ``spread`` mean for prefixes what they mean for weight noise; with both,
a draw is a prefix and a perturbation.

Not taken over: LoPE samples again only for groups that all failed, and regroups; here every rollout has a prefix. Its
prefixes have 100 to 300 words (in the code; tokens in the README) and end with an instruction; here they have
``words`` words, and the task's own instruction follows. Its reshaped ratio rho / (rho + .1) is left out.

It costs the reading of longer prompts, once for each draw of a group (weight noise takes as many readings, of the
prompt alone), and room for them in the cache. The policy must read plain language: a task with words of its own is
refused. The longer an answer, the further the ratio of its sequence is from 1: see the effective sample size in the
record.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import Rollouts, sample
from psn_tutorial.tasks.base import Task

# The words of the printers' placeholder text, each once.
WORDS = tuple(
    """lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna
    aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis aute
    irure in reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint occaecat cupidatat non
    proident sunt culpa qui officia deserunt mollit anim id est laborum""".split()
)


def prefix(seed: int, draw: int, words: int) -> str:
    """``words`` words, drawn independently from WORDS: the same for a seed and draw on every machine; "" for none."""
    places = torch.randint(len(WORDS), (words,), generator=stream(seed, "prefix", draw))
    return " ".join(WORDS[place] for place in places)


def sample_behind_prefixes(
    policy: Policy,
    task: Task[Any],
    problems: Sequence[Any],
    seed: int,
    words: int,
    draws: Tensor,
    max_tokens: int,
    generator: torch.Generator,
    temperature: float,
    noise: NoiseConfig,
) -> Rollouts:
    """As :func:`psn_tutorial.rollout.sample`, each rollout behind the prefix of its draw.

    Args:
        problems: P of them, of a ``task`` in plain language.
        draws: [P, G] the draw of each rollout; each draw of a group equally often.
        noise: of the same draws; sigma 0: the prefix is all that differs.

    Returns:
        Rollouts with the CLEAN prompts, and the log-probs of their tokens behind the prefixes. The rollouts of a group
        stand in the order of their draws.
    """
    parts = len(draws[0].unique())  # draws in a group
    blocks = draws.sort(1).values.view(len(problems) * parts, -1)  # [P * parts, G / parts], one draw in each row
    tokenizer = policy.tokenizer
    shown = [problem for problem in problems for _ in range(parts)]
    before = [prefix(seed, draw, words) for draw in blocks[:, 0].tolist()]
    read = encode(tokenizer, asked(tokenizer, task, shown, before))
    made = sample(policy, read, blocks.shape[1], max_tokens, generator, temperature, noise, blocks)
    clean, device = encode(tokenizer, asked(tokenizer, task, problems)), made.tokens.device
    rows = torch.arange(len(problems)).repeat_interleave(draws.shape[1])
    return replace(
        made,
        prompts=clean.ids[rows].to(device),
        prompt_mask=clean.mask[rows].to(device),
        draws=blocks.flatten().to(device),
    )
