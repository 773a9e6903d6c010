"""Tables, their marks and notes, and the conclusions, of records whose figures are known."""

from pathlib import Path

from psn_tutorial.evaluation.intervals import paired_difference
from psn_tutorial.evaluation.probes import Sampler
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.results import ProblemResult
from psn_tutorial.experiments.experiment import Arm, Experiment
from psn_tutorial.experiments.results import Results
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting.tables import Table, conclusions, difference_table, matched_table, signals_table, tables
from psn_tutorial.reporting.terminal import print_table
from tests.evaluation.probes_by_hand import made


def evaluation(counts, n=16):
    return [ProblemResult(f"problem {i}", n, c, total_solutions=4, total_families=2) for i, c in enumerate(counts)]


def run(steps, temperature=1.0):
    """A run whose evaluations are given, step -> correct of 16 for each problem."""
    record = EvaluationRecord("countdown", 16, temperature, 0, {s: evaluation(c) for s, c in steps.items()})
    log = [
        {
            "step": i,
            "reward": 0.25 * (i == 2),
            "zero_contrast": 0.5,
            "ess": 0.9,
            "clipped_fraction": 0.0,
            "kl_k3": 0.01,
            "tokens": 100,
            "seconds": 0.5,
        }
        for i in (1, 2)
    ]
    return RunRecord(Path("x"), {"prompts": 2, "group": 4}, {}, log, record)


def results(base, grpo, psn, frontier=("pass@1", "pass@16")):
    """One seed per given run."""
    arms = {"grpo": Arm("GRPO"), "psn": Arm("PSN-GRPO", {"sigma": 0.5})}
    experiment = Experiment(
        "countdown",
        "?",
        arms,
        {"steps": 2, "samples": 16},
        tuple(range(len(grpo))),
        metrics=("pass@1",),
        frontier=frontier,
    )
    return Results("numbers", experiment, run({0: base}), {"grpo": grpo, "psn": psn})


BASE = [2, 2, 2, 2, 2, 2, 2, 2]
SHARP = [16, 16, 0, 0, 0, 0, 0, 0]  # pass@1 .25, pass@16 .25


def test_the_frontier_is_told_apart_from_equal_steps():
    """A slower arm: ahead at equal steps, exactly on the other's path at equal pass@1."""
    half = [9, 9, 1, 1, 1, 1, 1, 1]
    grpo = run({1: half, 2: SHARP})
    said = {f.text.split(":")[0]: f for f in conclusions(results(BASE, [grpo], [run({2: half})]))}
    assert said["PSN-GRPO against GRPO at equal steps, pass@16"].verdict == "higher"
    at_equal = said["PSN-GRPO against GRPO at equal pass@1 (.188), pass@16"]
    assert at_equal.verdict == "undecided" and "difference .000 [.000, .000]" in at_equal.text


def test_a_point_above_the_path_is_higher():
    point = [12, 12, 1, 1, 1, 1, 1, 1]  # pass@1 .234, every problem solved
    (*_, at_equal) = conclusions(results(BASE, [run({1: SHARP, 2: SHARP})], [run({2: point})]))
    assert at_equal.verdict == "higher" and at_equal.text.startswith("PSN-GRPO against GRPO at equal pass@1 (.234)")


def test_nothing_is_extrapolated():
    (*_, at_equal) = conclusions(results(BASE, [run({1: SHARP, 2: SHARP})], [run({2: [16] * 8})]))
    assert str(at_equal) == (
        "PSN-GRPO against GRPO at equal pass@1: its pass@1 of 1.000 lies outside the .125 to .250 that GRPO passed, "
        "and nothing is extrapolated: no comparison."
    )


def test_the_note_says_what_the_intervals_are_over():
    one = tables(results(BASE, [run({2: SHARP})], [run({2: BASE})], ()))[0]
    assert one.note == (
        "95 % intervals: bootstrap over 8 problems. One training seed per arm: they say nothing of how another seed "
        "would have trained"
    )
    three = tables(results(BASE, [run({2: SHARP})] * 3, [run({2: BASE})] * 3, ()))[0]
    assert three.note == (
        "95 % intervals: t over 3 training seeds; of the base, which is one policy, bootstrap over 8 problems"
    )
    assert three.rows[1] == ("GRPO", ".250 [.250, .250]", ".250; .250; .250")


def test_what_training_met_is_in_words():
    table = tables(results(BASE, [run({2: SHARP})] * 2, [run({2: BASE})] * 2, ()))[-1]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["correct rollouts"] == ("4 of 32", "4 of 32")  # a quarter of 8 in one of two steps, two seeds
    assert rows["first one at step"] == ("2, 2", "2, 2")
    assert rows["groups without contrast"] == (".500", ".500") and rows["seconds per step"] == (".500", ".500")
    silent = run({2: BASE})
    for record in silent.steps:
        record["reward"] = 0.0
    table = tables(results(BASE, [silent], [silent], ()))[-1]
    assert table.rows[0][1:] == ("0 of 16", "0 of 16") and table.rows[1][1:] == ("never", "never")


def test_two_evaluations_share_the_metrics_they_both_have():
    table = difference_table("a - b", evaluation(BASE), evaluation(SHARP, 16))
    names = [row[0] for row in table.rows]
    assert "pass@16" in names and "solutions found" in names and len(names) == 7
    expected = paired_difference([c / 16 for c in BASE], [c / 16 for c in SHARP])
    assert table.rows[0] == ("pass@1", f"{expected.brackets()} ?") and 0 in expected


def test_a_difference_carries_one_mark_and_the_note_is_its_legend():
    better, base = evaluation([16] * 8), evaluation(BASE)
    one = [evaluation([c]) for c in (16, 2)]
    cases = {"+ higher": (better, base), "- lower": (base, better), "? undecided": (base, base)}
    for legend, sides in cases.items():
        table = difference_table("a - b", *sides)
        assert table.rows[0][1].endswith(f"] {legend[0]}") and legend in table.note
    assert difference_table("a - b", *one).rows[0][1] == ".875 [no interval: 1 problem] ?"


def test_a_table_with_more_columns_than_rows_is_turned():
    wide = Table("t", ("", "a", "b", "c"), (("x", "1", "2", "3"),), "n")
    assert wide.narrow() == Table("t", ("", "x"), (("a", "1"), ("b", "2"), ("c", "3")), "n")
    square = Table("t", ("", "a", "b"), (("x", "1", "2"), ("y", "3", "4")))
    assert square.narrow() is square


def test_a_printed_table_never_wraps_or_cuts_a_figure(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    cells = tuple(f".{i}23 [.{i}00, .{i}99] ?" for i in range(5))
    print_table(Table("A title [with brackets]", ("", *"abcde"), (("a long name of a row", *cells),), "note [x]"))
    out = capsys.readouterr().out
    assert any(all(cell in line for cell in cells) for line in out.splitlines())
    assert "A title [with brackets]" in out and "note [x]" in out


def test_a_noise_is_compared_with_what_was_set_to_its_kl_and_with_nothing_else():
    noise = made(["1111", "1100"], 4, sampler=Sampler("mlp", 0.1), kl_k3=[0.2, 0.3, 0.2, 0.3])
    hot = made(["1000", "0000"], 4, sampler=Sampler(temperature=1.5), matches="mlp=0.1", kl_k3=[0.2, 0.3, 0.24, 0.3])
    free = made(["1111", "1111"], 4, sampler=Sampler(temperature=2.0))
    other = made(["1111", "1111"], 4, sampler=Sampler("head", 0.1))
    table = matched_table("title", [free, noise, hot, other])
    [row] = table.rows
    assert row[:2] == ("mlp=0.1 minus temperature=1.5", ".250 and .260")
    assert table.columns == ("", "KL", "pass@1") and row[2].startswith(".625 [") and row[2].endswith("] +")
    missed = made(["1000", "0000"], 4, sampler=hot.sampler, matches="mlp=0.1", kl_k3=[0.4] * 4)
    assert matched_table("title", [noise, missed]).rows == ((*row[:1], ".250 and .400", "KLs differ"),)
    assert matched_table("title", [free, noise, other]).rows == () == matched_table("title", []).rows


def test_the_signals_of_variant_two_are_shown_with_their_ranges():
    read = {"similarity": [0.5, 0.75], "distinct_answers": [2, 1], "uniform_to_policy": [3.0, 4.0]}
    silent, heard = signals_table("title", [made(["10", "11"]), made(["10", "11"], **read)]).rows
    assert silent[1] == "-" and heard[1:3] == (".500 to .750", "3.000 to 4.000") and heard[4] == ".750"
    assert heard[5].startswith("-1.000")


def test_a_notebook_shows_a_table_with_its_title_and_note():
    table = Table("Two arms", ("", "pass@1"), (("GRPO", ".100"), ("PSN", ".200")), "of 3 seeds")
    assert table._repr_markdown_() == (
        "**Two arms**\n\n|  | pass@1 |\n| --- | ---: |\n| GRPO | .100 |\n| PSN | .200 |\n\nof 3 seeds"
    )
    assert Table("", ("a",), ())._repr_markdown_() == "| a |\n| --- |"
