"""Measure how coherent noise is where one of two words is chosen again and again: the shift of a policy's preference
under each draw, on the rule task, the bare chain, and, for a pretrained model, the lists of ``habit``.

What the figures mean, and why sites are compared at equal KL, is told in :mod:`psn_tutorial.evaluation.coherence`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError, check_count, shown
from psn_tutorial.evaluation.calibrate import OutOfReachError, find_setting
from psn_tutorial.evaluation.coherence import Coherence, CoherenceConfig, parts
from psn_tutorial.models.decoder import decoder_of, hidden_states
from psn_tutorial.models.policy import Policy, completion_ids, encode, prompt_ids
from psn_tutorial.noise import NoiseConfig, NoiseReceipt, stream
from psn_tutorial.rollout import Rollouts, completion_logits, sample
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.habit import Habit
from psn_tutorial.tasks.rules import Rules

SIGMAS = (1e-3, 100.0)  # between which the sigma of a wanted KL is looked for
NEAR = 0.03  # a sigma whose KL tells where to look first
TINY = 1e-12  # nats, in place of a KL of 0 or, by rounding, below
TEMPERATURES = (1.0001, 100.0)  # between which the temperature of a wanted KL is looked for
FEW = 8  # draws that look for it


class Answers(NamedTuple):
    """R answers in which a rule is chosen at each step, as tokens, and what is asked of the policy about them.

    ids [R, S]: prompt and answer; length: T, tokens of an answer.
    rare, other [R, steps]: tokens of the rewarded rule and of the other one, at each step.
    accepted [R, S]: prompt and rewarded answer.
    choices [steps]: which of the T tokens are the chosen rules; the others are values, or what else must be right.
    """

    ids: Tensor
    length: int
    rare: Tensor
    other: Tensor
    accepted: Tensor
    choices: Tensor


def measure_sites(policy: Policy, task: Task, config: CoherenceConfig) -> Iterator[Coherence]:
    """The coherence of every site that ``config`` names, one after the other, each at the sigma of the wanted KL.

    Raises UserError as ``coherence`` and ``sigma_of_kl`` do, and for more problems than there are.
    """
    problems = task.problems("eval")[: config.problems]
    if len(problems) < config.problems and not task.single:
        raise UserError(f"problems must be <= {len(problems)}, those there are, got {config.problems}")
    for site in config.sites:
        sigma = sigma_of_kl(policy, task, problems, site, config.kl, config.seed)
        noise = NoiseConfig(sigma, site, relative=True, seed=config.seed)
        yield coherence(policy, task, problems, noise, config.draws, config.seed)


def coherence(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    noise: NoiseConfig,
    draws: int = 64,
    seed: int = 0,
    at_once: int = 1,
) -> Coherence:
    """What ``draws`` draws of ``noise`` do to the policy; afterwards it is bit for bit what it was.

    seed: of the clean policy's answers, one to each problem; their rules are kept, with the right values.
    at_once: draws that share a pass of the model; more are faster, take more memory, and change the last digits.

    Raises UserError for another task than rules, chain or habit, more than two rules, rules that are free at some steps
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
    clean_accepted = read_accepted(1)[0]
    temperature = _temperature_of_kl(clean, float(np.mean(columns["kl"])))
    return Coherence(
        noise.targets,
        noise.sigma,
        sum(p.numel() for p in policy.model.parameters()),
        receipt.entries,
        shifts[0].size,
        tuple(shift.tolist()),
        tuple(spread.tolist()),
        *(tuple(columns[name]) for name in ("kl", "right_values", "success")),
        _success(clean_accepted, answers),
        temperature,
        None if temperature is None else _success((clean_accepted / temperature).log_softmax(-1), answers),
    )


@torch.no_grad()
def _reader(policy: Policy, ids: Tensor, length: int, receipt: NoiseReceipt) -> Callable[[int], Tensor]:
    """A function of N that reads ``ids`` [R, S] under the N draws that the model carries when it is called: the
    log-probabilities [N, R, length, V] of their last ``length`` tokens.

    Noise on the head alone leaves what the head reads as it is, which is then computed once.
    """
    if receipt.names != ("lm_head.weight",):
        return lambda count: answer_logps(policy, ids, length, count).unflatten(0, (count, -1))
    still, head = hidden_states(policy.model, ids[:, :-1], last=length), decoder_of(policy.model).lm_head

    @torch.no_grad()
    def read(count: int) -> Tensor:
        return head(still.repeat(count, 1, 1)).double().log_softmax(-1).unflatten(0, (count, -1))

    return read


def sigma_of_kl(policy: Policy, task: Task, problems: Sequence[Any], site: str, target: float, seed: int = 0) -> float:
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

    near = NEAR * (target / max(measure(NEAR), TINY)) ** 0.5  # the KL of small noise goes with sigma squared
    try:
        return find_setting(measure, target, max(near / 2, SIGMAS[0]), min(near * 2, SIGMAS[1]), tolerance=0.02)
    except OutOfReachError:
        return find_setting(measure, target, *SIGMAS, tolerance=0.02)


def _temperature_of_kl(clean: Tensor, target: float) -> float | None:
    """The temperature above 1 at which KL(clean || tempered) is ``target``, nats per token, with ``clean`` [R, T, V]
    log-probabilities; None where none is: for no noise at all, or more than that of the hottest."""
    if not 0 < target < math.inf:
        return None

    def measure(temperature: float) -> float:
        return float((clean.exp() * (clean - (clean / temperature).log_softmax(-1))).sum(-1).mean())

    try:
        return find_setting(measure, target, *TEMPERATURES, tolerance=0.001)
    except OutOfReachError:
        return None


def clean_answers(policy: Policy, task: Task, problems: Sequence[Any], seed: int = 0) -> Answers:
    """The clean policy's answer to each problem, as far as it chooses rules: what else it wrote is put right.

    Raises UserError as ``coherence``, and where a tokenizer splits a rule, or two answers into different numbers of
    tokens.
    """
    if not _is_measured(task):
        raise UserError(
            f"coherence is measured on rules, chain and habit, with two rules and none free, got {shown(task)}"
        )
    tokenizer = policy.tokenizer
    letters = _one_token_each(tokenizer, [f" {letter}" for letter in task.letters])
    prompts = [task.prompt(problem) for problem in problems]
    rewarded = _table(tokenizer, prompts, [task.accepted(problem)[0] for problem in problems])
    length = len(completion_ids(tokenizer, task.accepted(problems[0]))[0])
    choices = torch.isin(rewarded[0, -length:], torch.tensor(letters)).nonzero()[:, 0]
    rollouts = sample(policy, encode(tokenizer, prompts), 1, length, stream(seed, "coherence"), ends=task.ends)
    chosen = [
        [task.letters[letters.index(token) if token in letters else 0] for token in row]
        for row in rollouts.tokens[:, choices].tolist()
    ]
    texts = [task.completion(rules, problem) for rules, problem in zip(chosen, problems, strict=True)]
    rare = torch.tensor([[task.letters.index(rule) for rule in task.rare_rules(problem)] for problem in problems])
    token = torch.tensor(letters)
    return Answers(_table(tokenizer, prompts, texts), length, token[rare], token[1 - rare], rewarded, choices)


def _is_measured(task: Task) -> bool:
    return isinstance(task, Habit) or isinstance(task, Rules) and task.rules == 2 and task.consistency == task.steps


def _one_token_each(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    rows = completion_ids(tokenizer, words)
    for word, row in zip(words, rows, strict=True):
        if len(row) != 1:
            raise UserError(f"each rule must be one token of the policy, got {len(row)} for {word!r}")
    return [row[0] for row in rows]


def _table(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """Prompts and their answers, [R, S]."""
    asked, given = prompt_ids(tokenizer, prompts), completion_ids(tokenizer, answers)
    for what, rows in (("prompts", asked), ("answers", given)):
        if len({len(row) for row in rows}) > 1:
            raise UserError(f"all {what} must have equally many tokens, got {sorted({len(row) for row in rows})}")
    return torch.tensor([[*question, *answer] for question, answer in zip(asked, given, strict=True)])


@torch.no_grad()
def answer_logps(policy: Policy, ids: Tensor, length: int, draws: int = 1) -> Tensor:
    """Log-probabilities [N * R, length, V] of the last ``length`` tokens of ``ids`` [R, S], in double precision.

    draws: N, of a carrier of noise; under each of them all rows are read, one draw after the other.
    """
    prompts, tokens = ids[:, :-length], ids[:, -length:]
    every = torch.ones_like(ids, dtype=torch.bool)
    rows = Rollouts(
        prompts, every[:, :-length], tokens, every[:, -length:], torch.zeros(tokens.shape), tokens[:, 0], None
    )
    return completion_logits(policy.model, rows, torch.arange(len(ids)), 1.0, draws).double().log_softmax(-1)


def _odds(logps: Tensor, answers: Answers) -> Tensor:
    """Log-odds [R, steps] of the rewarded rule against the other."""
    at_rules = logps[:, answers.choices]
    rare, other = (at_rules.gather(2, x[..., None])[..., 0] for x in (answers.rare, answers.other))
    return rare - other


def _right_values(logps: Tensor, answers: Answers) -> float:
    """Mean probability that all of an answer but its rules is right; 1 where there is nothing else."""
    chosen = logps.gather(2, answers.ids[:, -answers.length :, None])[..., 0]
    chosen[:, answers.choices] = 0
    return float(chosen.sum(1).exp().mean())


def _success(logps: Tensor, answers: Answers) -> float:
    """Mean exact success probability: that of the one rewarded answer of each problem, read in ``logps``."""
    return float(logps.gather(2, answers.accepted[:, -answers.length :, None]).sum((1, 2)).exp().mean())
