"""psn-tutorial pretrain: make a base policy."""

import sys
from pathlib import Path

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.output import command_line, folder_part, print_summary, resumable
from psn_tutorial.cli.parser import NAME, Parser, only
from psn_tutorial.models.bases import BASES, PretrainConfig


def run(words: list[str]) -> int:
    """Make a base policy."""
    parser = Parser(
        f"{NAME} pretrain",
        "Make a tiny base policy: supervised training on a task's demonstrations, from a seed.",
        f"""examples:
  the shipped base of the rule task, again (minutes)
      {NAME} pretrain --task rules --out my-base
  one that is half as wide, for a task with three rules
      {NAME} pretrain --task rules --difficulty rules=3 --model-hidden 32 --out small-base
  use it
      {NAME} train --task rules --base my-base
  the small language model for worded sums, again
      {NAME} pretrain --task math --out sums-base

The defaults are those of the shipped base of the task. The problems that policies are trained and
evaluated on are never demonstrated.""",
    )
    parser.add_argument("--out", metavar="FOLDER", help="new checkpoint folder [default: bases/<task>]")
    parser.add_argument("--record", metavar="FOLDER", help="its run record [default: runs/base-<task>]")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with this run record, as it was set")
    add_flags(parser, PretrainConfig)
    args = parser.parse_args(words)
    if args.resume:
        only(args, "resume", "out")
    else:
        task = getattr(args, "task", "countdown")
        config = from_flags(PretrainConfig, args, next((base for base in BASES.values() if base.task == task), None))

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.jobs.interrupt import Stop
    from psn_tutorial.jobs.policies import require_new
    from psn_tutorial.jobs.pretraining import PretrainingJob

    record = Path(args.resume or args.record or f"runs/base-{folder_part(config.task)}")
    out = Path(args.out or f"bases/{folder_part(config.task) if not args.resume else record.name}")
    require_new(out)
    if args.resume:
        job = PretrainingJob.resume(record)
    else:
        job = PretrainingJob.start(record, config, [NAME, "pretrain", *words])
    with resumable(command_line("pretrain", "--resume", record, "--out", out), record), Stop() as stop:
        made = job.make(out, stop, sys.stderr.isatty())
    print_summary(made.last, f"{out} on {made.task}")
    print(f"policy: {out}    record: {record}")
    return 0
