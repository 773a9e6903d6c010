"""Measure how coherent noise is on the rule task: the shift of a policy's preference under each draw.

What the figures mean, and why sites are compared at equal KL, is told in :mod:`psn_tutorial.evaluation.coherence`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError, check_count
from psn_tutorial.evaluation.calibrate import find_setting
from psn_tutorial.evaluation.coherence import Coherence, CoherenceConfig, parts
from psn_tutorial.models.decoder import decoder_of, forward, hidden_states
from psn_tutorial.models.policy import Policy, encode, prompt_ids
from psn_tutorial.noise import NoiseConfig, NoiseReceipt, stream
from psn_tutorial.rollout import sample
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.rules import Problem, Rules

SIGMAS = (1e-3, 100.0)  # between which the sigma of a wanted KL is looked for
FEW = 8  # draws that look for it


class Answers(NamedTuple):
    """R answers of the rule task, as tokens, and what is asked of the policy about them.

    ids [R, S]: prompt and answer; length: T, tokens of an answer.
    rare, other [R, steps]: tokens of the rewarded rule and of the other one, at each step.
    accepted [R, S]: prompt and rewarded answer.
    """

    ids: Tensor
    length: int
    rare: Tensor
    other: Tensor
    accepted: Tensor
    stride: int  # places of rules: every so many tokens


def measure_sites(policy: Policy, task: Task, config: CoherenceConfig) -> list[Coherence]:
    """The coherence of every site that ``config`` names, each at the sigma that gives it the wanted KL.

    Raises UserError as ``coherence`` and ``sigma_of_kl`` do, and for more problems than there are.
    """
    problems = task.problems("eval")[: config.problems]
    if len(problems) < config.problems and not task.single:
        raise UserError(f"problems must be <= {len(problems)}, those there are, got {config.problems}")
    found = []
    for site in config.sites:
        sigma = sigma_of_kl(policy, task, problems, site, config.kl, config.seed)
        noise = NoiseConfig(sigma, site, relative=True, seed=config.seed)
        found.append(coherence(policy, task, problems, noise, config.draws, config.seed))
    return found


def coherence(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    noise: NoiseConfig,
    draws: int = 64,
    seed: int = 0,
    at_once: int = 1,
) -> Coherence:
    """What ``draws`` draws of ``noise`` do to the policy; afterwards it is bit for bit what it was.

    seed: of the clean policy's answers, one to each problem; their rules are kept, with the right values.
    at_once: draws that share a pass of the model; more are faster, take more memory, and change the last digits.

    Raises UserError for another task than rules or chain, more than two rules, rules that are free at some steps
    (consistency < steps), fewer than 2 draws, and a noise filter that matches nothing.
    """
    check_count("draws", draws, low=2)
    check_count("at_once", at_once)
    answers = clean_answers(policy, task, problems, seed)
    with carried(policy.model, noise, [0]) as receipt:
        pass
    read, read_accepted = (_reader(policy, ids, answers.length, receipt) for ids in (answers.ids, answers.accepted))
    (clean,) = read(1)
    columns: dict[str, list[float]] = {"kl": [], "right_values": [], "success": []}
    shifts = []
    for start in range(0, draws, at_once):
        some = range(start, min(start + at_once, draws))
        with carried(policy.model, noise, some):
            every, every_accepted = read(len(some)), read_accepted(len(some))
        for noisy, accepted in zip(every, every_accepted, strict=True):
            shifts.append((_odds(noisy, answers) - _odds(clean, answers)).flatten().numpy())
            columns["kl"].append(float((clean.exp() * (clean - noisy)).sum(-1).mean()))
            columns["right_values"].append(_right_values(noisy, answers))
            columns["success"].append(_success(accepted, answers))
    shift, spread = parts(np.array(shifts))
    return Coherence(
        noise.targets,
        noise.sigma,
        sum(p.numel() for p in policy.model.parameters()),
        receipt.entries,
        shifts[0].size,
        tuple(shift.tolist()),
        tuple(spread.tolist()),
        *(tuple(columns[name]) for name in ("kl", "right_values", "success")),
        _success(read_accepted(1)[0], answers),
    )


@torch.no_grad()
def _reader(policy: Policy, ids: Tensor, length: int, receipt: NoiseReceipt) -> Callable[[int], Tensor]:
    """A function of N that reads ``ids`` [R, S] under the N draws that the model carries when it is called: the
    log-probabilities [N, R, length, V] of their last ``length`` tokens.

    Noise on the head alone leaves what the head reads as it is, which is then computed once.
    """
    if receipt.names != ("lm_head.weight",):
        return lambda count: answer_logps(policy, ids.repeat(count, 1), length).unflatten(0, (count, -1))
    still, head = hidden_states(policy.model, ids[:, :-1], last=length), decoder_of(policy.model).lm_head

    @torch.no_grad()
    def read(count: int) -> Tensor:
        return head(still.repeat(count, 1, 1)).double().log_softmax(-1).unflatten(0, (count, -1))

    return read


def sigma_of_kl(
    policy: Policy, task: Task, problems: Sequence[Problem], site: str, target: float, seed: int = 0
) -> float:
    """The relative sigma at which noise on ``site`` has the mean KL(clean || noisy) ``target``, nats per token > 0, by
    its first few draws. Raises :class:`psn_tutorial.evaluation.calibrate.OutOfReachError` where none has."""
    answers = clean_answers(policy, task, problems, seed)
    clean = answer_logps(policy, answers.ids, answers.length)

    def measure(sigma: float) -> float:
        kls = []
        for draw in range(FEW):
            with carried(policy.model, NoiseConfig(sigma, site, relative=True, seed=seed), [draw]):
                noisy = answer_logps(policy, answers.ids, answers.length)
            kls.append(float((clean.exp() * (clean - noisy)).sum(-1).mean()))
        return float(np.mean(kls))

    return find_setting(measure, target, *SIGMAS, tolerance=0.02)


def clean_answers(policy: Policy, task: Task, problems: Sequence[Problem], seed: int = 0) -> Answers:
    """The clean policy's answer to each problem, its values put right. Raises UserError as ``coherence``."""
    if not isinstance(task, Rules) or task.rules != 2 or task.consistency != task.steps:
        raise UserError(f"coherence is measured on rules and chain, with two rules and none free, got {task}")
    prompts, stride = [task.prompt(problem) for problem in problems], 2 if task.values else 1
    length = task.steps * stride
    encoded = encode(policy.tokenizer, prompts)
    rollouts = sample(policy, encoded, 1, length, stream(seed, "coherence"), ends=task.ends)
    ids, accepted, rare = [], [], []
    for problem, prompt, tokens in zip(problems, prompts, rollouts.tokens.tolist(), strict=True):
        written = policy.tokenizer.convert_ids_to_tokens(tokens[::stride])
        rules = [word if word in task.letters else task.letters[0] for word in written]
        rare.append(task.rare_rules(problem))
        (question,) = prompt_ids(policy.tokenizer, [prompt])
        for rows, answer in ((ids, task.completion(rules, problem)), (accepted, task.accepted(problem)[0])):
            rows.append([*question, *policy.tokenizer.convert_tokens_to_ids(answer.split(" "))])
    letter = dict(zip(task.letters, policy.tokenizer.convert_tokens_to_ids(task.letters), strict=True))
    opposite = dict(zip(task.letters, reversed(task.letters), strict=True))
    return Answers(
        torch.tensor(ids),
        length,
        torch.tensor([[letter[rule] for rule in rules] for rules in rare]),
        torch.tensor([[letter[opposite[rule]] for rule in rules] for rules in rare]),
        torch.tensor(accepted),
        stride,
    )


@torch.no_grad()
def answer_logps(policy: Policy, ids: Tensor, length: int) -> Tensor:
    """Log-probabilities [R, length, V] of the last ``length`` tokens of ``ids`` [R, S], in double precision."""
    return forward(policy.model, ids[:, :-1], last=length).double().log_softmax(-1)


def _odds(logps: Tensor, answers: Answers) -> Tensor:
    """Log-odds [R, steps] of the rewarded rule against the other."""
    at_rules = logps[:, :: answers.stride]
    rare, other = (at_rules.gather(2, x[..., None])[..., 0] for x in (answers.rare, answers.other))
    return rare - other


def _right_values(logps: Tensor, answers: Answers) -> float:
    """Mean probability that all values of an answer are right; 1 where none are written."""
    written = answers.ids[:, -answers.length :, None]
    chosen = logps.gather(2, written)[..., 0]
    values = chosen[:, 1 :: answers.stride] if answers.stride > 1 else chosen[:, :0]
    return float(values.sum(1).exp().mean())


def _success(logps: Tensor, answers: Answers) -> float:
    """Mean exact success probability: that of the one rewarded answer of each problem, read in ``logps``."""
    return float(logps.gather(2, answers.accepted[:, -answers.length :, None]).sum((1, 2)).exp().mean())
