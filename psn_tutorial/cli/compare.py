"""psn-tutorial compare: train all arms of an experiment, compare, report."""

from pathlib import Path

from psn_tutorial.cli.flags import reader
from psn_tutorial.cli.output import command_line, resumable
from psn_tutorial.cli.parser import NAME, Parser, only
from psn_tutorial.cli.report import show_comparison
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import experiments_from_json, narrowed
from psn_tutorial.experiments.presets import preset
from psn_tutorial.runs.files import read_json


def run(words: list[str]) -> int:
    """Train all arms of a preset and write the report."""
    parser = Parser(
        f"{NAME} compare",
        "Train every arm of an experiment from the same base, evaluate, compare, and report.",
        f"""presets:
  quick   seconds: does everything work here?
  demo    minutes: GRPO, hotter sampling and PSN-GRPO on both tasks
  full    the same with more seeds
  qlora   the three arms on a small language model in 4 bits (an hour; needs the extras qlora and math)
  qwen    a pretrained model on worded sums, from the hub or with --base FILE.gguf (hours on a CPU)

examples:
  the comparison of `make demo`
      {NAME} compare --preset demo --out runs/demo
  only the task where weight noise helps, two seeds
      {NAME} compare --preset demo --experiment rules --seeds 0 1 --out runs/rules
  a pretrained Qwen in 4 bits from a GGUF file (also needs the extra gguf)
      {NAME} compare --preset qwen --base qwen2.5-coder-0.5b-instruct.gguf --out runs/qwen
  your own arms: edit the file that a comparison leaves, and give it back
      {NAME} compare --file my-comparison.json --out runs/mine

Run it again and it goes on where it stopped; finished runs are kept.""",
    )
    parser.add_argument("--preset", metavar="NAME", help="quick, demo, full, qlora or qwen [default: demo]")
    parser.add_argument("--file", metavar="FILE", help="experiments of your own, as comparison.json")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with this comparison, as it was set")
    parser.add_argument("--out", metavar="FOLDER", help="where to [default: runs/<preset>]")
    parser.add_argument("--experiment", metavar="NAME", nargs="+", help="only these [default: all]")
    parser.add_argument("--arms", metavar="NAME", nargs="+", help="only these [default: all]")
    parser.add_argument("--seeds", metavar="SEED", nargs="+", type=reader(int), help="instead of the preset's")
    parser.add_argument("--base", metavar="FOLDER", help="start from this policy; with one experiment")
    args = parser.parse_args(words)
    if args.resume:
        only(args, "resume")
        out, file = Path(args.resume), Path(args.resume) / "comparison.json"
        if not file.is_file():
            raise UserError(f"{out} holds no comparison: it has no comparison.json")
    else:
        file = Path(args.file) if args.file else None
        out = Path(args.out or f"runs/{file.stem if file else args.preset or 'demo'}")
    if file and args.preset:
        raise UserError("--preset and --file cannot both say what to compare")
    experiments = experiments_from_json(read_json(file), str(file)) if file else preset(args.preset or "demo")
    experiments = narrowed(experiments, args.experiment, args.arms, args.seeds, args.base)

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.experiments.run import run_comparison

    with resumable(command_line("compare", "--resume", out)):
        run_comparison(experiments, out, None, [NAME, "compare", *words])
    return show_comparison(out)
