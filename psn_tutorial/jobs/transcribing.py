"""Ask a policy in training a fixed set of held-out questions, and keep its answers."""

import math
from collections.abc import Sequence
from typing import Any

from psn_tutorial.models.policy import asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.prefixes import sample_behind_prefixes
from psn_tutorial.rollout import responses, sample, spread_draws
from psn_tutorial.runs.transcripts import Transcript
from psn_tutorial.trainer import Trainer

ANSWERS = 4  # of each sampler to each question


def transcribe(trainer: Trainer, problems: Sequence[Any]) -> list[Transcript]:
    """ANSWERS answers to each problem of the clean policy as it is now, and as many of what training samples from,
    where that is another distribution: the same policy with the noise of the next step, hotter, or behind prefixes.

    The random numbers are those of the step, for both samplers and in every run of a seed alike; none is taken from the
    training's own streams.
    """
    config = trainer.config
    found = _answers(trainer, problems, "clean", config.temperature, None)
    if trainer.noise.sigma or config.hot or config.prefix_words:
        hot = config.sampling_temperature or config.temperature
        found += _answers(trainer, problems, "exploring", hot, trainer.noise, config.prefix_words)
    return found


def _answers(
    trainer: Trainer,
    problems: Sequence[Any],
    sampler: str,
    temperature: float,
    noise: NoiseConfig | None,
    words: int = 0,
) -> list[Transcript]:
    config, task, tokenizer, step = trainer.config, trainer.task, trainer.tokenizer, trainer.step_number
    number = math.gcd(config.draws, ANSWERS if words else len(problems) * ANSWERS)
    draws = spread_draws(len(problems), ANSWERS, number, "pooled") + step * config.draws
    length, generator = max(map(task.max_tokens, problems)), stream(config.seed, "transcripts", step)
    if words:
        how = (config.seed, words, draws, length, generator, temperature, noise)
        rollouts = sample_behind_prefixes(trainer.policy, task, problems, *how)
    else:
        prompts = encode(tokenizer, asked(tokenizer, task, problems))
        rollouts = sample(trainer.policy, prompts, ANSWERS, length, generator, temperature, noise, draws)
    texts = responses(tokenizer, rollouts)
    places = [place for place in range(len(problems)) for _ in range(ANSWERS)]
    verdicts = task.verify_many(texts, [problems[place] for place in places])
    sigma = noise.sigma if noise else 0.0
    return [
        Transcript(
            step,
            sampler,
            sigma,
            temperature,
            place,
            task.prompt(problems[place]),
            str(getattr(problems[place], "answer", "")),
            text,
            verdict.correct,
            verdict.reason,
        )
        for place, text, verdict in zip(places, texts, verdicts, strict=True)
    ]
