"""Peak memory of a training step against its number of tokens; with --preset, of a whole comparison.

Every point is a process of its own: a policy with random weights (139k parameters), one GRPO step in which every group
learns. Printed is the peak of its resident memory less what it held before the step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from clock import finish, options, start

MEGABYTE = 1 << 20


def peak_memory() -> int:
    """Bytes of resident memory this process has held at most."""
    try:  # not getrusage: a child's count begins with what its parent held
        words = Path("/proc/self/status").read_text().split()
        return int(words[words.index("VmHWM:") + 1]) << 10
    except (OSError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def one_step(prompts: int, new: int, micro_batch: int) -> dict:
    """One step of ``prompts`` x 16 rollouts of 8 + ``new`` tokens, in this process."""
    from floor import Countdown, Sizes
    from step import Contrasted

    from psn_tutorial.config import TrainConfig
    from psn_tutorial.models.bases import TinyConfig
    from psn_tutorial.models.policy import Policy
    from psn_tutorial.models.tiny import build_model
    from psn_tutorial.trainer import Trainer

    sizes = Sizes(prompts=prompts, new=new)
    shared = Countdown(sizes)
    model = build_model(TinyConfig(positions=1024), shared.tokenizer)
    config = TrainConfig(prompts=prompts, group=sizes.group, micro_batch=micro_batch)
    trainer = Trainer(config, Policy(model, shared.tokenizer), Contrasted(shared.task), shared.problems)
    trainer.max_tokens = new
    before = peak_memory()
    trainer.step()
    return {"before": before, "step": peak_memory() - before}


def whole_preset(preset: str) -> dict:
    """``psn-tutorial compare`` with this preset, in this process."""
    from psn_tutorial.cli import main as command

    with tempfile.TemporaryDirectory() as folder:
        code = command(["compare", "--preset", preset, "--out", f"{folder}/run"])
    return {"code": code, "peak": peak_memory()}


def in_a_new_process(*words: object) -> dict:
    """Run this script with other words; what it prints last is the answer."""
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def points(title: str, settings: list[tuple[int, int, int]], goal: str) -> dict:
    """Measure and print one row of (prompts, new tokens, micro-batch)."""
    print(f"\n{title}")
    result: dict = {"title": title, "goal": goal, "points": []}
    for prompts, new, micro_batch in settings:
        measured = in_a_new_process("--point", prompts, new, micro_batch)
        tokens, step = prompts * 16 * (8 + new), measured["step"] / MEGABYTE
        growth = ""
        if result["points"]:
            last = result["points"][-1]
            growth = f"x {tokens / last['tokens']:.2f} tokens, x {step / last['megabytes']:.2f} memory"
        batch = f"{prompts * 16:5d} rollouts of 8 + {new:3d}, micro-batch {min(micro_batch, prompts * 16):5d}"
        print(f"  {batch}: {tokens:7d} tokens {step:8.0f} MB   {growth}", flush=True)
        point = {"rollouts": prompts * 16, "new": new, "micro_batch": micro_batch, "tokens": tokens}
        result["points"].append({**point, "megabytes": step})
    print(f"  goal: {goal}")
    return result


def main(words: list[str] | None = None) -> list[dict]:
    parser = options(__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 32, 64, 128], help="(%(default)s)")
    parser.add_argument(
        "--new", type=int, nargs="+", default=[18, 44, 96, 200], help="completion tokens; a prompt has 8 (%(default)s)"
    )
    parser.add_argument("--preset", help="also the peak of `psn-tutorial compare` with this preset, e.g. demo")
    parser.add_argument("--point", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--whole", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.point or args.whole:
        print(json.dumps(one_step(*args.point) if args.point else whole_preset(args.whole)))
        return []
    start(args)
    everything = 10**6
    first, longest = args.prompts[0], max(args.prompts)
    results = [
        points("More rollouts", [(p, 18, everything) for p in args.prompts], "memory grows as the tokens do"),
        points("Longer rollouts", [(first, n, everything) for n in args.new], "memory grows as the tokens do"),
        points("The same rollouts in micro-batches", [(longest, 18, m) for m in (1024, 512, 256)], "less memory"),
    ]
    if args.preset:
        measured = in_a_new_process("--whole", args.preset)
        gigabytes = measured["peak"] / 1e9
        print(f"\npsn-tutorial compare --preset {args.preset}: peak {gigabytes:.2f} GB   goal < 2 GB")
        results.append({"title": f"compare --preset {args.preset}", "gigabytes": gigabytes, "code": measured["code"]})
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
