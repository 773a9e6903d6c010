"""PSN-GRPO inside trl: what the noise adds to a step of trl's GRPOTrainer, and our own loop beside both, in one run.

Two models: the shipped policy of Countdown, whose 139k weights all learn, with the noise in them; and SmolLM2-135M with
an adapter, with the noise beside its weights. Batches, rewards and settings are those of step.py and real.py: every
group learns, and no policy moves. Each trainer of trl has a model of its own. The schedule is constant; Variant I, the
default of PSNConfig, does nothing more in a step, for it reads what the correction has found.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clock import finish, interleave, options, show, start
from floor import Countdown, Sizes, batch_options
from real import MICRO_BATCH, SMOLLM2, Sums
from step import THEIRS, Contrasted, has_trl, trl_steps

from psn_tutorial.config import TrainConfig
from psn_tutorial.jobs.policies import device_of
from psn_tutorial.trainer import Trainer

INSIDE, OURS, NOISY = "trl PSNGRPOTrainer, draws: {}", "psn_tutorial GRPO", "psn_tutorial PSN-GRPO, draws: {}"


def compare(make: Callable[[], Any], args: Any, sigma: float, **settings: Any) -> dict:
    """One model. make: gives a Countdown or Sums, a new one with each call; settings: of our own trainer."""
    noises = {n: {"sigma": sigma, "relative": True, "draws": n} for n in args.draws}
    with ExitStack() as stack:

        def model() -> Any:
            made = make()
            made.model.to(device_of("auto"))
            if isinstance(made, Sums):
                stack.enter_context(made.ending(0))
            return made

        shared = model()
        task, programs = Contrasted(shared.task), {}
        inside = {INSIDE.format(n): noise | {"schedule": "constant"} for n, noise in noises.items()}
        for name, noise in {THEIRS: None, **inside}.items():
            steps = trl_steps(model(), task, args, settings.get("micro_batch", 0), noise)
            programs[name] = stack.enter_context(steps).step
        for name, noise in {OURS: {}, **{NOISY.format(n): noise for n, noise in noises.items()}}.items():
            sizes = {"prompts": shared.sizes.prompts, "group": shared.sizes.group}
            config = TrainConfig(**sizes, lr=1e-9, **settings, **noise)
            programs[name] = Trainer(config, shared.policy, task, shared.problems).step
        seconds = interleave(programs, args)
    ratios = [(INSIDE.format(n), THEIRS, "<= 1.05") for n in noises] + [(THEIRS, OURS, "")]
    ratios += [(INSIDE.format(n), NOISY.format(n), "") for n in noises]
    weights = list(shared.model.parameters())
    learn, total = (sum(p.numel() for p in part) for part in ([p for p in weights if p.requires_grad], weights))
    return show(f"A step, {learn:,} of {total:,} weights learn: {shared.sizes}", seconds, ratios)


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__, rounds=5))
    parser.set_defaults(prompts=None, group=None, warmup=1)  # of each model its own
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4], help="noise draws of a step (%(default)s)")
    parser.add_argument("--only", choices=("tiny", "pretrained"), help="one of the two models; else both")
    parser.add_argument("--base", default=str(SMOLLM2), help="a GGUF file, a checkpoint folder (%(default)s)")
    parser.add_argument("--new", type=int, default=40, help="tokens of an answer of that model (%(default)s)")
    args = parser.parse_args(words)
    start(args)
    if not has_trl():
        return []
    tiny, results = Sizes(args.prompts or Sizes.prompts, args.group or Sizes.group), []
    if args.only != "pretrained":
        results.append(compare(lambda: Countdown(tiny), args, sigma=0.2))
    missing = args.base == str(SMOLLM2) and not Path(args.base).is_file()
    if args.only != "tiny" and missing:
        print("SmolLM2 is not here (`make test` fetches it): measured without it")
    elif args.only != "tiny":
        prompts, group = args.prompts or 8, args.group or 8
        made = lambda: Sums(args.base, prompts, group, args.new, adapter=True)  # noqa: E731
        results.append(compare(made, args, sigma=0.03, task="math", micro_batch=min(MICRO_BATCH, prompts * group)))
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
