"""psn-tutorial evaluate: a recorded answer, another difficulty."""

from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.tasks import get_task, load_split
from tests.cli.tiny_runs import TINY


def test_a_finished_run_is_evaluated_again_and_compared(psn, tmp_path):
    psn("train", *TINY, "--out", "run")
    said = psn("evaluate", "run", "--against", "run")
    assert said.code == 0 and "record: runs/eval-run-chain" in said.out
    assert "minus run" in said.out and "undecided" in said.out
    again = RunRecord.read("runs/eval-run-chain")
    assert again.evaluations == RunRecord.read("run").evaluations
    # The same question gets the recorded answer; another one is refused in the same folder.
    assert psn("evaluate", "run").out.endswith("record: runs/eval-run-chain\n")
    refused = psn("evaluate", "run", "--samples", 8)
    assert refused.code == 2 and "runs/eval-run-chain was made with samples 4, and not 8" in refused.err
    base = psn("evaluate", "--task", "chain", "--samples", 0)
    assert base.code == 0 and "record: runs/eval-base-chain" in base.out and "pass@256" in base.out


def test_a_task_at_another_difficulty(psn):
    """Reward for the rare rule at the first step only: the base succeeds now and then."""
    words = ["--difficulty", "consistency=1", "--task", "rules", "--samples", 64, "--eval-problems", 3]
    said = psn("evaluate", *words)
    assert said.code == 0
    record = RunRecord.read("runs/eval-base-rules").evaluations
    assert record.last[0].exact > 0.01 and record.last[0].total_solutions == 2**5
    shipped = load_split("rules", "eval")[:3]
    assert [r.problem for r in record.last] == [get_task("rules").prompt(p) for p in shipped]
