"""Several noise draws in one batched pass: what 4, 16 and 64 of them cost against one.

For sampling alone and for a whole step of training. "pooled" gives every rollout of a group another draw, so that the
rollouts of a prompt cannot share one reading of it: with one draw, 16 rollouts do.
"""

from clock import finish, interleave, options, show, start
from floor import Countdown, Sizes, batch_options

from psn_tutorial.config import TrainConfig
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import sample, spread_draws
from psn_tutorial.trainer import Trainer

SIGMA = {"mlp": 0.2, "head": 0.2, "all": 0.05}  # times each tensor's RMS


def samplers(shared: Countdown, sizes: Sizes, targets: str, spread: str, counts: list[int]) -> dict:
    """One sampling program per number of draws; each call uses new draws."""
    generator, calls = stream(0, "benchmark"), iter(range(10**9))
    noise = NoiseConfig(SIGMA[targets], targets, relative=True)

    def program(count: int):
        plan = spread_draws(sizes.prompts, sizes.group, count, spread)
        return lambda: sample(
            shared.policy,
            shared.prompts,
            sizes.group,
            sizes.new,
            generator,
            ends=False,
            noise=noise,
            draws=plan + count * next(calls),
        )

    return {f"{count} draws": program(count) for count in counts}


def trainers(sizes: Sizes, targets: str, spread: str, counts: list[int]) -> dict:
    """One whole step of training per number of draws, each on a policy of its own that hardly moves."""

    def program(count: int):
        config = TrainConfig(
            prompts=sizes.prompts,
            group=sizes.group,
            sigma=SIGMA[targets],
            targets=targets,
            relative=True,
            draws=count,
            spread=spread,
            lr=1e-9,
        )
        shared = Countdown(sizes)
        return Trainer(config, shared.policy, shared.task, shared.problems).step

    return {f"{count} draws": program(count) for count in counts}


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__))
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4, 16, 64], help="(%(default)s)")
    parser.add_argument("--targets", nargs="+", default=list(SIGMA), choices=SIGMA, help="(%(default)s)")
    args = parser.parse_args(words)
    start(args)
    sizes, results = Sizes(args.prompts, args.group), []
    shared = Countdown(sizes)
    for targets in args.targets:
        for spread in ("pooled", "per_group"):
            counts = [n for n in args.draws if (sizes.prompts if spread == "per_group" else sizes.rows) % n == 0]
            first, *more = [f"{n} draws" for n in counts]
            for what, programs in (
                ("sampling", samplers(shared, sizes, targets, spread, counts)),
                ("a whole step", trainers(sizes, targets, spread, counts)),
            ):
                seconds = interleave(programs, args)
                goals = [(name, first, "<= 1.25" if name == "16 draws" else "") for name in more]
                results.append(show(f"{what}, targets {targets}, {spread}: {sizes}", seconds, goals))
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
