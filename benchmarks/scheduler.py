"""What the schedules cost: Variant I (KL target) and Variant II (real time, rollouts reused or separate probes).

Whole steps of the same PSN-GRPO run on Countdown, which differ in nothing but the schedule, and sigma stays where it
is; then the parts of Variant II alone: sentence encoders on the texts of one batch, and certainty on its logits.
"""

import torch
from clock import finish, interleave, options, show, start
from floor import Countdown, Sizes, batch_options

from psn_tutorial.config import TrainConfig
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.rollout import completion_logits, responses
from psn_tutorial.signals import DIRECTIONS, semantic_similarity, token_certainty
from psn_tutorial.trainer import Trainer

CONSTANT, VARIANT_I = "a step, sigma constant", "a step, Variant I (KL target)"
REUSE, SEPARATE = "a step, Variant II, rollouts reused", "a step, Variant II, two probes per prompt"
SCHEDULES = {
    CONSTANT: {},
    VARIANT_I: {"schedule": "kl_target"},
    REUSE: {"schedule": "realtime"},
    SEPARATE: {"schedule": "realtime", "probes": "separate"},
}


def trainer_of(sizes: Sizes, **schedule: str) -> Trainer:
    """A trainer with a policy of its own; every step learns next to nothing, and sigma hardly moves."""
    shared, still = Countdown(sizes), 1 + 1e-12
    config = TrainConfig(
        prompts=sizes.prompts,
        group=sizes.group,
        lr=1e-9,
        sigma=0.2,
        relative=True,
        kl_factor=still,
        realtime_factor=still,
        **schedule,
    )
    return Trainer(config, shared.policy, shared.task, shared.problems)


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__, rounds=25))
    parser.add_argument(
        "--encoders",
        nargs="*",
        default=["bag-of-words", "countdown"],
        help="names as sentence_encoder takes them (%(default)s)",
    )
    args = parser.parse_args(words)
    start(args)
    sizes = Sizes(args.prompts, args.group)

    trainers = {name: trainer_of(sizes, **schedule) for name, schedule in SCHEDULES.items()}
    seconds = interleave({name: trainer.step for name, trainer in trainers.items()}, args)
    goals = [(VARIANT_I, CONSTANT, "<= 1.01"), (REUSE, CONSTANT, "<= 1.03"), (SEPARATE, CONSTANT, "")]
    results = [show(f"Steps by schedule: {sizes}", seconds, goals)]

    trainer = trainers[CONSTANT]
    rollouts = trainer.roll_out(trainer.pick_problems())
    texts = responses(trainer.tokenizer, rollouts)
    with torch.no_grad():
        logits = completion_logits(trainer.model, rollouts, torch.arange(sizes.rows), 1.0)
    programs = {CONSTANT: trainer.step}
    for name in args.encoders:
        encoder = sentence_encoder(name)
        programs[f"similarity, encoder {encoder.name}"] = lambda encoder=encoder: semantic_similarity(
            encoder.encode(texts), sizes.group
        )
    for direction in DIRECTIONS:
        programs[f"certainty, {direction}"] = lambda direction=direction: token_certainty(logits, direction)
    seconds = interleave(programs, args)
    title = f"Parts of Variant II: {sizes}, {len(set(texts))} different texts"
    results.append(show(title, seconds, [(name, CONSTANT, "") for name in programs if name != CONSTANT]))
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
