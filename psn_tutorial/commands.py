"""The commands. Each builds its parser, does the work and prints what came of it.

A command takes its words and returns the exit code. Heavy imports wait inside.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.flags import NAME, Parser, add_grouped_flags, only, whole_number
from psn_tutorial.settings import add_flags, from_flags

# --- pretrain -------------------------------------------------------------------------------------


def pretrain(words: list[str]) -> int:
    """Make a base policy."""
    from psn_tutorial.jobs.pretraining import BASES, PretrainConfig

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
        config = from_flags(PretrainConfig, args, {base.task: base for base in BASES.values()}.get(task))
    from psn_tutorial.jobs.interrupt import Stop
    from psn_tutorial.jobs.policies import require_new
    from psn_tutorial.jobs.pretraining import BaseJob

    record = Path(args.resume or args.record or f"runs/base-{config.task}")
    out = Path(args.out or f"bases/{config.task if not args.resume else record.name}")
    require_new(out)
    if args.resume:
        job = BaseJob.resume(record)
    else:
        job = BaseJob.start(record, config, [NAME, "pretrain", *words])
    with _resumable(_command("pretrain", "--resume", record, "--out", out)), Stop() as stop:
        made = job.make(out, stop, sys.stderr.isatty())
    _print_summary(made.last, f"{out} on {made.task}")
    print(f"policy: {out}    record: {record}")
    return 0


# --- train ----------------------------------------------------------------------------------------

TRAIN_GROUPS = {
    "the task": ("task", "difficulty", "base", "train_file", "seed"),
    "the model": ("lora_rank", "lora_alpha", "four_bit", "compute", "device"),
    "the batch": ("steps", "prompts", "group", "temperature", "updates", "micro_batch", "recompute"),
    "exploration: parameter-space or action-space noise": (
        "sigma", "targets", "relative", "draws", "spread", "antithetic", "carrier", "noise_rank",
        "sampling_temperature",
    ),
    "how sigma moves": (
        "schedule", "sigma_end", "sigma_steps", "sigma_shape", "kl_target", "kl_tolerance",
        "kl_factor", "realtime_target", "realtime_mix", "realtime_factor", "similarity_scale", "probes", "encoder",
        "certainty", "sigma_low", "sigma_high",
    ),
    "importance correction": ("correction", "correction_mode", "cap", "mixture"),
    "GRPO": (
        "advantage", "pass_k", "aggregation", "clip_low", "clip_high", "kl_coef", "entropy_coef",
        "lr", "grad_clip",
    ),
    "evaluation and checkpoints": (
        "evaluate", "eval_every", "eval_file", "eval_problems", "samples", "batch",
        "save_every",
    ),
}  # fmt: skip


def train(words: list[str]) -> int:
    """Train one policy and evaluate it."""
    from psn_tutorial.config import RunConfig

    parser = Parser(
        f"{NAME} train",
        "Train a policy with GRPO, or with PSN-GRPO where --sigma is above 0, into a run folder.",
        f"""examples:
  plain GRPO on Countdown, the shipped base, everything by default
      {NAME} train --out runs/grpo
  PSN-GRPO as in the demo, with half of its noise
      {NAME} train --preset demo --task rules --arm psn --sigma 0.4 --out runs/psn
  the released code's setting: one absolute draw on all weights per step, KL target
      {NAME} train --sigma 0.004 --targets all --schedule kl_target --out runs/released
  a 4-bit Qwen2.5-0.5B on GSM8K, which wants a GPU and the hub; ask `preflight` first
      {NAME} train --task math --difficulty source=gsm8k --base qwen2.5-0.5b-instruct --four-bit --lora-rank 16 \\
          --compute bfloat16 --sigma 0.004 --prompts 8 --group 8 --micro-batch 2 --recompute --out runs/gsm8k
  go on after Ctrl-C, or after the machine went down
      {NAME} train --resume runs/psn

Ctrl-C finishes the step, saves and says how to go on; pressed twice, it stops at once.""",
    )
    parser.add_argument("--out", metavar="FOLDER", help="new run folder [default: by its settings]")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with this run, as it was set")
    parser.add_argument("--preset", metavar="NAME", help="settings of quick, demo, full or qlora ...")
    parser.add_argument("--arm", metavar="NAME", help="... of this arm: grpo, hot or psn")
    parser.add_argument(
        "--tensorboard", action="store_true", default=None, help="also draw curves for TensorBoard in the run folder"
    )
    add_grouped_flags(parser, RunConfig, TRAIN_GROUPS)
    args = parser.parse_args(words)

    if args.resume:
        only(args, "resume", "tensorboard")
    else:
        config = from_flags(RunConfig, args, _preset_settings(args))
        folder = Path(args.out or _folder_name(config))
    from psn_tutorial.jobs.board import Board, summary_writer
    from psn_tutorial.jobs.interrupt import Stop
    from psn_tutorial.jobs.progress import follow
    from psn_tutorial.jobs.training import Job, export

    if args.tensorboard:
        summary_writer()
    if args.resume:
        folder = Path(args.resume)
        job = Job.resume(folder)
    else:
        job = Job.start(folder, config, [NAME, "train", *words])
    board = Board(job.run.path / "tensorboard", job.trainer.step_number) if args.tensorboard else None
    with _resumable(_command("train", "--resume", folder)), Stop() as stop:
        follow(job, stop, str(folder), sys.stderr.isatty(), lines=True, board=board)
        policy = export(job)
    if job.config.evaluate:
        _print_summary(job.record.last, f"{folder}, step {job.config.steps}")
    print(f"run: {folder}    policy: {policy}")
    return 0


def _preset_settings(args: argparse.Namespace) -> Any:
    """The arm of a preset that flags are laid over; None without --preset."""
    if args.preset is None and args.arm is None:
        return None
    from psn_tutorial.experiments.presets import preset

    experiments = preset(args.preset or "demo").values()
    tasks = {experiment.task: experiment for experiment in experiments}
    task = getattr(args, "task", None)
    if task not in tasks:
        raise UserError(f"--preset needs --task, one of {', '.join(tasks)}, got {task}")
    arms = tasks[task].arms
    arm = args.arm or "psn"
    if arm not in arms:
        raise UserError(f"arm must be one of {', '.join(arms)}, got {arm!r}{suggest(arm, arms)}")
    return tasks[task].config(arm, seed=0)


def _folder_name(config: Any) -> str:
    kind = f"psn{config.sigma:g}" if config.sigma else "grpo"
    if config.sampling_temperature not in (None, config.temperature):
        kind += f"-hot{config.sampling_temperature:g}"
    return f"runs/{config.task}-{kind}-seed{config.seed}"


# --- evaluate -------------------------------------------------------------------------------------


def evaluate(words: list[str]) -> int:
    """Sample answers from a policy and tell pass@k and coverage."""
    from psn_tutorial.config import MeasureConfig

    parser = Parser(
        f"{NAME} evaluate",
        "Evaluate a clean policy: pass@k, coverage of solutions, exact success where it exists.",
        f"""examples:
  the shipped base of Countdown
      {NAME} evaluate --task countdown
  the newest checkpoint of a run, on its own task, and compared with the base
      {NAME} evaluate runs/psn --against runs/eval-base-countdown
  100 samples of your own problems
      {NAME} evaluate runs/psn --eval-file my-problems.jsonl --samples 100""",
        "[POLICY] ",
    )
    parser.add_argument(
        "policy", nargs="?", metavar="POLICY",
        help="checkpoint folder or run folder [default: the shipped base of the task]",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="record of the evaluation [default: runs/eval-...]")
    parser.add_argument("--against", metavar="FOLDER", help="another evaluation or run: paired differences")
    add_flags(parser, MeasureConfig)
    args = parser.parse_args(words)
    own = _own_measure(args.policy)
    config = from_flags(MeasureConfig, args, own)
    other = _read_evaluation(args.against) if args.against else None
    from psn_tutorial.jobs.evaluating import evaluate_policy
    from psn_tutorial.jobs.policies import base_of

    policy = args.policy or base_of(config)
    out = Path(args.out or f"runs/eval-{_short_name(args.policy)}-{config.task}")
    command = [NAME, "evaluate", *words]
    record = evaluate_policy(out, policy, config, command, sys.stderr.isatty())
    _print_summary(record.last, f"{policy} on {config.task}")
    if other is not None:
        _print_differences(record.last, other, f"minus {args.against}")
    print(f"record: {out}")
    return 0


def _short_name(policy: str | None) -> str:
    """runs/demo/rules/psn/seed-0 -> demo-rules-psn-seed-0."""
    parts = [part for part in Path(policy or "base").parts if part not in ("/", "..", "runs")]
    return "-".join(parts[-4:])


def _own_measure(policy: str | None) -> Any:
    """How a run evaluates itself: the starting point of --task and the like."""
    if policy is None or not (Path(policy) / "provenance.json").is_file():
        return None
    from psn_tutorial.jobs.records import RunRecord

    return RunRecord.read(policy).settings.measure()


def _read_evaluation(folder: str) -> Any:
    from psn_tutorial.jobs.records import RunRecord

    record = RunRecord.read(folder)
    if record.evaluations is None:
        raise UserError(f"{folder} holds no evaluation")
    return record.evaluations.last


# --- compare, report, doctor ----------------------------------------------------------------------


def compare(words: list[str]) -> int:
    """Train all arms of a preset and write the report."""
    from psn_tutorial.experiments import presets

    parser = Parser(
        f"{NAME} compare",
        "Train every arm of an experiment from the same base, evaluate, compare, and report.",
        f"""presets:
  quick   seconds: does everything work here?
  demo    minutes: GRPO, hotter sampling and PSN-GRPO on both tasks
  full    the same with more seeds
  qlora   the three arms on a small language model in 4 bits (an hour; needs the extras qlora and math)

examples:
  the comparison of `make demo`
      {NAME} compare --preset demo --out runs/demo
  only the task where weight noise helps, two seeds
      {NAME} compare --preset demo --experiment rules --seeds 0 1 --out runs/rules
  your own arms: edit the file that a comparison leaves, and give it back
      {NAME} compare --file my-comparison.json --out runs/mine

Run it again and it goes on where it stopped; finished runs are kept.""",
    )
    parser.add_argument("--preset", metavar="NAME", help="quick, demo, full or qlora [default: demo]")
    parser.add_argument("--file", metavar="FILE", help="experiments of your own, as comparison.json")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with this comparison, as it was set")
    parser.add_argument("--out", metavar="FOLDER", help="where to [default: runs/<preset>]")
    parser.add_argument("--experiment", metavar="NAME", nargs="+", help="only these [default: all]")
    parser.add_argument("--arms", metavar="NAME", nargs="+", help="only these [default: all]")
    parser.add_argument("--seeds", metavar="SEED", nargs="+", type=whole_number, help="instead of the preset's")
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
    from psn_tutorial.runs.files import read_json

    experiments = (
        presets.experiments_from_json(read_json(file), str(file))
        if file
        else presets.preset(args.preset or "demo")
    )
    experiments = presets.narrowed(experiments, args.experiment, args.arms, args.seeds, args.base)
    from psn_tutorial.experiments.run import run_comparison

    with _resumable(_command("compare", "--resume", out)):
        run_comparison(experiments, out, None, [NAME, "compare", *words])
    return _show(out)


def report(words: list[str]) -> int:
    """Write the page of a finished comparison again."""
    parser = Parser(
        f"{NAME} report",
        "Write report.html, summary.json and the pictures of a comparison from its records.",
        f"""example:
  {NAME} report runs/demo""",
        "FOLDER ",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `compare` wrote")
    return _show(Path(parser.parse_args(words).folder))


def _show(folder: Path) -> int:
    """Print the tables of a comparison, write its report, and say where everything is."""
    from psn_tutorial.experiments.results import read_comparison
    from psn_tutorial.reporting.page import write_report
    from psn_tutorial.reporting.tables import print_results

    comparison = read_comparison(folder)
    for results in comparison.results.values():
        print_results(results)
    page = write_report(comparison)
    print(f"report: {page}    figures: {folder / 'summary.json'}    pictures: {folder / 'pictures'}")
    return 0


def doctor(words: list[str]) -> int:
    """Tell what this machine can run."""
    parser = Parser(
        f"{NAME} doctor",
        "Say what this machine can run, and what to do next. Changes nothing.",
        f"""example:
  {NAME} doctor --offline""",
    )
    parser.add_argument("--offline", action="store_true", help="do not ask whether the hub answers")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(words)
    from psn_tutorial.preflight.findings import show
    from psn_tutorial.preflight.machine import examine

    return show(examine(online=not args.offline), as_json=args.json)


# --- preflight ------------------------------------------------------------------------------------


def preflight(words: list[str]) -> int:
    """Take two steps of a run and look at them closely."""
    from psn_tutorial.config import RunConfig

    parser = Parser(
        f"{NAME} preflight",
        "Take two steps with the settings of `train`, keep nothing, and say what would go wrong: prompt, length, "
        "contrast, log-probs, memory, time.",
        f"""examples:
  before a night on a rented card
      {NAME} preflight --task math --base qwen2.5-0.5b-instruct --lora-rank 16 --four-bit \\
          --compute bfloat16 --sigma 0.004 --prompts 8 --group 8 --micro-batch 4
  the same questions to the tiny model
      {NAME} preflight --task rules""",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_grouped_flags(parser, RunConfig, TRAIN_GROUPS)
    args = parser.parse_args(words)
    config = from_flags(RunConfig, args)
    from psn_tutorial.preflight.findings import show
    from psn_tutorial.preflight.run import preflight

    return show(preflight(config), args.json, f"Nothing is in the way of: {_command('train', *words)}")


# --- shared --------------------------------------------------------------------------------------


@contextmanager
def _resumable(command: str) -> Iterator[None]:
    """Say how to go on, whether the work was stopped in order, at once, or by a full disk."""
    from psn_tutorial.jobs.interrupt import Interrupted

    try:
        yield
    except KeyboardInterrupt as stop:
        how = "stopped and saved" if isinstance(stop, Interrupted) else "stopped at once"
        print(f"{NAME}: {how}; go on with: {command}", file=sys.stderr)
        raise SystemExit(128 + getattr(stop, "number", 2)) from None
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise UserError(f"{error}; when that is mended, go on with: {command}") from None
        raise


def _command(*words: str | Path) -> str:
    return shlex.join([NAME, *map(str, words)])


def _print_summary(results: Any, title: str) -> None:
    from psn_tutorial.evaluation.metrics import summarise
    from psn_tutorial.reporting.tables import print_table, summary_table

    print_table(summary_table(title, summarise([results])))


def _print_differences(results: Any, other: Any, title: str) -> None:
    from psn_tutorial.reporting.tables import difference_table, print_table

    print_table(difference_table(title, results, other))


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "pretrain": ("make a base policy from its seed", pretrain),
    "preflight": ("look closely at two steps before many", preflight),
    "train": ("train a policy with GRPO or PSN-GRPO", train),
    "evaluate": ("pass@k, coverage and exact success of a policy", evaluate),
    "compare": ("train all arms of an experiment, compare, report", compare),
    "report": ("write the page of a comparison again", report),
    "doctor": ("what this machine can run, and what to do next", doctor),
}
