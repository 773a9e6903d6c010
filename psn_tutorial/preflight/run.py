"""Before hours are spent: two steps of a run, looked at closely. Nothing is written and nothing is kept.

Many mistakes with language models raise no error: a chat template that was not applied, answers that all end
at the limit, groups without contrast, a trainer that reads other log-probs than the sampler drew from, a card that
is too small. Each is a finding here.
"""

from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from psn_tutorial.carriers import left_out
from psn_tutorial.config import RunConfig
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.models.decoder import decoder_of
from psn_tutorial.models.policy import asked, encode, end_tokens, prompt_ids
from psn_tutorial.noise import stream
from psn_tutorial.prefixes import prefix
from psn_tutorial.preflight.budget import CARDS, GIB, Load, Shape, fastest_step, memory
from psn_tutorial.preflight.findings import Finding
from psn_tutorial.rollout import read_completions, sample, token_logps
from psn_tutorial.sites import role
from psn_tutorial.trainer import Trainer

# How far the sampler's and the trainer's log-probs of one token may lie apart, in nats: rounding, by type.
PARITY = {torch.float32: 1e-3, torch.bfloat16: 0.25}
MANY_CLIPPED = 0.2
MANY_UNCHANGED = 0.5  # of the weights, by noise that their type is too coarse for


def preflight(config: RunConfig) -> list[Finding]:
    """Look at the prompt, the answers, the log-probs, the memory and the time of a run with these settings.

    The noise of an annealed schedule is looked at where it is largest.

    Raises:
        UserError: the run could not even start.
    """
    if config.schedule == "annealed":
        config = replace(config, sigma=max(config.sigma, config.sigma_end))
    job = TrainingJob(config)
    trainer = job.trainer
    shape, load = Shape.of(decoder_of(trainer.model).config), _load(config, trainer)
    findings = [_template(trainer), _parity(trainer)]
    rows = trainer.roll_out(trainer.pick_problems())
    clipped = float((~rows.ended).float().mean())
    missed = left_out(trainer.model, trainer.noise) if config.noisy else []
    record, warm = trainer.step(), trainer.step()  # of a model that is thrown away; the first one warms the machine up
    findings += [_lengths(trainer, clipped, load), _contrast(record), *_noise(record, config, missed)]
    findings += [_memory(shape, load), _time(warm, config), *_cards(shape, load)]
    if config.evaluate and config.samples:
        findings.append(_evaluation(warm, config, len(job.held_out), shape, load))
    return findings


def _template(trainer: Trainer) -> Finding:
    """Does the model's chat template take part?"""
    tokenizer, messages = trainer.tokenizer, trainer.task.messages(trainer.problems[0])
    if not getattr(tokenizer, "chat_template", None):
        return Finding("chat template", "the tokenizer has none: the prompt is read as it is")
    if messages is None:
        advice = f"The task {trainer.task.name} is not a conversation; a chat model answers it badly."
        return Finding("chat template", "the tokenizer has one, and the task does not use it", "bad", advice)
    shots = sum(turn["role"] == "assistant" for turn in messages)
    return Finding("chat template", "applied" + (f", with {shots} worked example{'s' * (shots > 1)}" if shots else ""))


def _parity(trainer: Trainer) -> Finding:
    """The clean policy's own samples, read again here and by transformers: the largest difference of a token's
    log-prob. Transformers' own forward pass tells whether the model computes something that ours does not know of."""
    config = trainer.config
    prompts = encode(trainer.tokenizer, asked(trainer.tokenizer, trainer.task, trainer.problems[:1]))
    length, generator = min(trainer.max_tokens, 64), stream(config.seed, "preflight")
    rollouts = sample(trainer.policy, prompts, 4, length, generator, config.temperature)
    with torch.no_grad():
        reading = read_completions(trainer.model, rollouts, torch.arange(4), config.temperature)
        ids = torch.cat([rollouts.prompts, rollouts.tokens], 1)
        logits = trainer.model(ids, logits_to_keep=length + 1).logits[:, :-1]
    theirs, _ = token_logps(logits.float() / config.temperature, rollouts.tokens)
    trainer_off, transformers_off = (
        float((logps - rollouts.logps)[rollouts.mask].abs().max()) for logps in (reading.logps, theirs)
    )
    limit = PARITY[decoder_of(trainer.model).model.norm.weight.dtype]
    value = f"sampler and trainer differ by at most {trainer_off:.1g} nats per token, "
    value += f"sampler and transformers by {transformers_off:.1g}"
    if trainer_off > limit:
        advice = f"At most {limit:g} is rounding: the importance weights would be wrong."
        return Finding("log-probs", value, "bad", advice)
    if transformers_off > limit:
        advice = f"At most {limit:g} is rounding: the model computes something that the sampler does not know of."
        return Finding("log-probs", value, "bad", advice)
    return Finding("log-probs", value)


def _lengths(trainer: Trainer, clipped: float, load: Load) -> Finding:
    """Do answers end, with what, and is there room for them?"""
    value, advice = f"every answer has {trainer.max_tokens} tokens", []
    if trainer.task.ends:
        ends = [repr(trainer.tokenizer.decode([token])) for token in end_tokens(trainer.policy)]
        value = f"{clipped:.0%} of the answers are cut off at {trainer.max_tokens} tokens; "
        value += f"they end with {' or '.join(ends)}" if ends else "no token ends them"
        if clipped > MANY_CLIPPED:
            advice.append("They can hardly be right: allow longer ones, or take a model that ends.")
    longest, room = load.prompt + load.completion, decoder_of(trainer.model).config.max_position_embeddings
    if longest > room:
        value += f"; {longest} tokens with the prompt"
        advice.append(f"The model was made for at most {room} tokens, prompt included: allow shorter answers.")
    return Finding("length", value, "bad" if advice else "good", " ".join(advice))


def _contrast(record: dict[str, Any]) -> Finding:
    value = (
        f"reward {record['reward']:.3f}; {record['solved']:.0%} of the prompts solved at least once, "
        f"{1 - record['zero_contrast']:.0%} of the groups teach something"
    )
    if record["zero_contrast"] < 1:
        return Finding("contrast", value)
    why = "all answers are wrong" if record["reward"] == 0 else "all answers of each group are alike"
    advice = f"There is nothing to learn from: {why}. Easier problems, or more prompts."
    return Finding("contrast", value, "bad", advice)


def _noise(record: dict[str, Any], config: RunConfig, missed: list[str]) -> list[Finding]:
    """missed: the parameters that were asked for and get no noise."""
    if not config.explores:
        return []
    value = f"KL {record['kl_k3']:.2g} nats per token, ESS {record['ess']:.2f}, largest ratio {record['max_ratio']:.1f}"
    if config.noisy:
        value = f"sigma {config.sigma:g}, {record['sigma_realised']:.2g} realised: {value}"
    if missed:
        kinds = sorted({"biases" if name.endswith("bias") else role(name) for name in missed})
        value += f"; the carrier gives none to {', '.join(kinds)}"
    if record["ess"] < 0.1:
        return [Finding("noise", value, "bad", "Few tokens carry all the weight: a smaller sigma or temperature.")]
    unchanged = record["unchanged_fraction"] or 0.0
    if unchanged > MANY_UNCHANGED:
        value += f"; {unchanged:.0%} of the weights stay as they are"
        advice = "Their type is too coarse for so little noise: a larger sigma, --compute float32 or --carrier lowrank."
        return [Finding("noise", value, "bad", advice)]
    return [Finding("noise", value)]


def _load(config: RunConfig, trainer: Trainer) -> Load:
    some, before = trainer.problems[:100], prefix(config.seed, 0, config.prefix_words)
    prompts = prompt_ids(trainer.tokenizer, asked(trainer.tokenizer, trainer.task, some, [before] * len(some)))
    rollouts = config.prompts * config.group
    return Load(
        rollouts,
        max(map(len, prompts)),
        trainer.max_tokens,
        min(config.micro_batch, rollouts),
        config.draws if config.noisy else 0,
        config.lora_rank or 1,
        config.noise_rank,
        bytes=2 if config.compute == "bfloat16" else 4,
        four_bit=config.four_bit,
        checkpointing=config.recompute,
    )


def _memory(shape: Shape, load: Load) -> Finding:
    parts = memory(shape, load)
    total = parts["total"] / GIB
    smallest = next((card.gigabytes for card in CARDS if card.gigabytes >= total), "more than 80")
    largest = max(("sampling", "updating"), key=parts.get)
    value = f"about {total:.1f} GB, most of it while {largest}; fits a card of {smallest} GB"
    if torch.cuda.is_available():
        value += f"; {torch.cuda.max_memory_allocated() / GIB:.1f} GB were used"
    return _fitting("memory", value, total, "smaller --micro-batch or --prompts, or --recompute")


def _fitting(name: str, value: str, needed: float, instead: str) -> Finding:
    """A finding that is bad where this machine's card has less than the GB ``needed``."""
    if torch.cuda.is_available():
        there = torch.cuda.get_device_properties(0).total_memory / GIB
        if needed > there:
            return Finding(name, value, "bad", f"This card has {there:.0f} GB: {instead}.")
    return Finding(name, value)


def _time(record: dict[str, Any], config: RunConfig) -> Finding:
    shares = {name: record[f"seconds_{name}"] / record["seconds"] for name in ("sample", "verify", "update")}
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    total = tqdm.format_interval(record["seconds"] * config.steps)
    return Finding("time", f"{record['seconds']:.2g} s a step ({words}), so {total} for {config.steps} steps")


def _cards(shape: Shape, load: Load) -> list[Finding]:
    """The floor of a step's time on a card of each size that is large enough; of no use for tiny models."""
    total = memory(shape, load)["total"] / GIB
    floors = {card: fastest_step(shape, load, card)["total"] for card in CARDS if card.gigabytes >= total}
    if max(floors.values(), default=0.0) < 1.0:
        return []
    words = [f"{seconds:.2g} s on {card.gigabytes} GB ({card.name})" for card, seconds in floors.items()]
    return [Finding("cards", f"a step takes at the very least {', '.join(words)}; a real one takes a multiple of it")]


def _evaluation(record: dict[str, Any], config: RunConfig, problems: int, shape: Shape, load: Load) -> Finding:
    """Measuring can cost more than training: so many answers of so many problems, at the speed of this step."""
    answers = problems * config.samples
    at_once = min(config.batch, answers)
    total = memory(shape, replace(load, rollouts=at_once))["total"] / GIB
    seconds = record["seconds_sample"] / (config.prompts * config.group) * answers * len(config.evaluated_steps)
    value = f"{problems} problems x {config.samples} answers, {at_once} at once: about {total:.1f} GB"
    if len(config.evaluated_steps) > 1:
        value += f", {len(config.evaluated_steps)} times"
    value += f"; {tqdm.format_interval(seconds)} at this speed"
    return _fitting("evaluation", value, total, "smaller --batch, --samples or --eval-problems")
