"""psn-tutorial study: many experiments in parallel, tuned, recorded, and judged together."""

from pathlib import Path

from psn_tutorial.cli.flags import reader
from psn_tutorial.cli.output import command_line, resumable
from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.cli.report import show_study
from psn_tutorial.errors import UserError, check_choice, check_range
from psn_tutorial.experiments.study import PRESETS, read_study


def run(words: list[str]) -> int:
    """Run what is left of a study and write its report."""
    parser = Parser(
        f"{NAME} study",
        "Run a study: experiments by arms by seeds in parallel processes of one thread each, its arms tuned first.",
        f"""examples:
  does everything work here? (half a minute)
      {NAME} study --preset quick --out runs/quick-study
  what would it cost?
      {NAME} study my-study.yaml --dry-run
  run it, or go on with it, into the folder my-study
      {NAME} study my-study.yaml

The file says what to run; psn_tutorial/experiments/study.py explains it, and quick.yaml beside it is an example.
What stands in the folder is always complete and can be committed at any time: run the command again, there or in a
checkout of it, and it does what is missing. Ctrl-C finishes the steps, saves and stops; twice stops at once.""",
        "FILE ",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="the study, as YAML")
    parser.add_argument("--preset", metavar="NAME", help=f"instead of a file: {', '.join(PRESETS)}")
    parser.add_argument("--out", metavar="FOLDER", help="where to [default: the file's name without its ending]")
    parser.add_argument("--workers", metavar="N", type=reader(int), help="processes at once [default: one per core]")
    parser.add_argument("--dry-run", action="store_true", help="say what is left and what it will take, and do nothing")
    args = parser.parse_args(words)
    if (args.file is None) == (args.preset is None):
        raise UserError(f"name either a file or --preset; see {NAME} study --help")
    if args.preset is not None:
        check_choice("preset", args.preset, PRESETS)
    if args.workers is not None:
        check_range("workers", args.workers, low=1, whole=True)
    file = PRESETS[args.preset] if args.preset else Path(args.file)
    out = Path(args.out or (f"runs/study-{args.preset}" if args.preset else file.with_suffix("")))
    if out.is_file():  # a study's file without an ending
        raise UserError(f"the study's folder cannot be {out}, which is a file: name another with --out")
    study = read_study(file, out)

    from psn_tutorial.experiments.study_run import plan, run_study

    print(plan(study, out, args.workers))
    if args.dry_run:
        return 0
    again = ["study", *([args.file] if args.file else ["--preset", args.preset]), *(["--out", out] if args.out else [])]
    with resumable(command_line(*again)):
        failures = run_study(study, out, args.workers, [NAME, "study", *words])
    for failure in failures:
        print(f"failed: {failure}")
    show_study(out)
    return 1 if failures else 0
