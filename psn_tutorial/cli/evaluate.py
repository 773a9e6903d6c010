"""psn-tutorial evaluate: pass@k, coverage and exact success of a policy."""

import sys
from pathlib import Path

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.output import folder_part, print_summary
from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.config import EvaluationConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting.tables import difference_table
from psn_tutorial.reporting.terminal import print_table


def run(words: list[str]) -> int:
    """Sample answers from a policy and tell pass@k and coverage."""
    parser = Parser(
        f"{NAME} evaluate",
        "Evaluate a clean policy: pass@k, coverage of solutions, exact success where it exists.",
        f"""examples:
  the shipped base of Countdown
      {NAME} evaluate --task countdown
  the newest checkpoint of a run, on its own task, and compared with the base
      {NAME} evaluate runs/psn --against runs/eval-base-countdown
  a language model with an adapter of peft, in 4 bits
      {NAME} evaluate my-adapter --task math --four-bit
  100 samples of your own problems
      {NAME} evaluate runs/psn --eval-file my-problems.jsonl --samples 100""",
        "[POLICY] ",
    )
    parser.add_argument(
        "policy",
        nargs="?",
        metavar="POLICY",
        help="checkpoint folder, run folder, adapter's folder of peft, or short name of a model "
        "[default: the shipped base of the task]",
    )
    parser.add_argument("--out", metavar="FOLDER", help="record of the evaluation [default: runs/eval-...]")
    parser.add_argument(
        "--four-bit", action="store_true", help="hold a language model in 4 bits (NF4) [default: as a run trained it]"
    )
    parser.add_argument(
        "--allow-overlap", action="store_true", help="evaluate a run also on problems that it was trained on"
    )
    parser.add_argument("--against", metavar="FOLDER", help="another evaluation or run: paired differences")
    add_flags(parser, EvaluationConfig)
    args = parser.parse_args(words)
    config = from_flags(EvaluationConfig, args, _own_settings(args.policy))
    other = _read_evaluation(args.against) if args.against else None

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.jobs.evaluating import evaluate_policy
    from psn_tutorial.jobs.policies import base_of

    policy = args.policy or base_of(config)
    out = Path(args.out or f"runs/eval-{_short_name(args.policy)}-{folder_part(config.task)}")
    command = [NAME, "evaluate", *words]
    record = evaluate_policy(out, policy, config, command, sys.stderr.isatty(), args.four_bit, args.allow_overlap)
    print_summary(record.last, f"{policy} on {config.task}")
    if other is not None:
        print_table(difference_table(f"minus {args.against}", record.last, other))
    print(f"record: {out}")
    return 0


def _short_name(policy: str | None) -> str:
    """runs/demo/rules/psn/seed-0 -> demo-rules-psn-seed-0."""
    parts = [part for part in Path(policy or "base").parts if part not in ("/", "..", "runs")]
    return "-".join(parts[-4:])


def _own_settings(policy: str | None) -> EvaluationConfig | None:
    """How a run evaluates itself, which flags are laid over; None when ``policy`` is no run."""
    if policy is None or not (Path(policy) / "provenance.json").is_file():
        return None
    return RunRecord.read(policy).settings.evaluation()


def _read_evaluation(folder: str) -> Evaluation:
    """The last evaluation in a run folder. Raises UserError when there is none."""
    record = RunRecord.read(folder)
    if record.evaluations is None:
        raise UserError(f"{folder} holds no evaluation")
    return record.evaluations.last
