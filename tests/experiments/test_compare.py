"""A comparison: run, stopped, gone on with, and read back from nothing but its records."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from psn_tutorial.cli import main
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import Arm, Experiment, experiments_to_json
from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.experiments.run import _check_policies, run_comparison
from psn_tutorial.jobs.interrupt import Interrupted, Stop
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.tiny import load
from psn_tutorial.reporting.tables import conclusions, tables
from psn_tutorial.runs.files import read_json, write_json
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.trainer import Trainer

NOISE = {"sigma": 1.0, "relative": True, "targets": "head", "draws": 4}
ARMS = {"grpo": Arm("GRPO"), "hot": Arm("T = 2", {"sampling_temperature": 2.0}), "psn": Arm("PSN", NOISE)}
TINY = {
    "rules": Experiment(
        "rules",
        "Is it kept?",
        ARMS,
        {"prompts": 2, "group": 8, "steps": 4, "eval_every": 2, "samples": 0, "eval_problems": 3, "lr": 1e-3},
        seeds=(0, 3),
        metrics=("success",),
    ),
    "numbers": Experiment(
        "countdown",
        "Is it found?",
        {name: ARMS[name] for name in ("grpo", "psn")},
        {
            "prompts": 4,
            "group": 8,
            "steps": 3,
            "eval_every": 1,
            "samples": 8,
            "eval_problems": 6,
            "lr": 1e-3,
            "entropy_coef": 0.01,
        },
        metrics=("pass@1", "coverage"),
        frontier=("pass@1", "pass@8"),
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison, to be read only."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    run_comparison(TINY, folder, progress=False, command=["psn-tutorial", "compare", "--some"])
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "out")


def exact(folder, run, step):
    """Mean success probability by hand, from the text of eval.json."""
    content = json.loads((folder / run / "eval.json").read_text())
    (problems,) = [e["problems"] for e in content["evaluations"] if e["step"] == step]
    return np.mean([problem["exact"] for problem in problems])


def correct(folder, run, step):
    """Correct samples of each problem, from the text of eval.json."""
    content = json.loads((folder / run / "eval.json").read_text())
    (problems,) = [e["problems"] for e in content["evaluations"] if e["step"] == step]
    return [problem.get("c", 0) for problem in problems]


# --- what it leaves and what it says ----------------------------------------------------------------


def test_every_run_is_an_ordinary_run_folder(finished):
    runs = sorted(str(p.parent.relative_to(finished)) for p in finished.rglob("provenance.json"))
    expected = [f"rules/{arm}/seed-{seed}" for arm in ARMS for seed in (0, 3)] + ["rules/base"]
    assert runs == sorted([*expected, "numbers/base", "numbers/grpo/seed-0", "numbers/psn/seed-0"])
    run = RunFolder.open(finished / "rules/psn/seed-3")
    assert run.config["sigma"] == 1.0 and run.config["seed"] == 3 and len(run.steps()) == 4
    assert run.provenance["command"] == ["psn-tutorial", "compare", "--some"]
    assert run.latest_checkpoint().step == 4


def test_the_final_figures_are_means_of_the_records(finished):
    summary = read_comparison(finished).to_json()
    rules = summary["rules"]["final"]
    assert rules["base"]["success"]["value"] == pytest.approx(exact(finished, "rules/base", 0))
    for arm in ARMS:
        seeds = [exact(finished, f"rules/{arm}/seed-{seed}", 4) for seed in (0, 3)]
        assert rules[arm]["success"]["value"] == pytest.approx(np.mean(seeds))
        assert (rules[arm]["success"]["unit"], rules[arm]["success"]["n"]) == ("seeds", 2)
    numbers = summary["numbers"]["final"]
    for arm, run, step in (("base", "base", 0), ("grpo", "grpo/seed-0", 3), ("psn", "psn/seed-0", 3)):
        c = np.array(correct(finished, f"numbers/{run}", step))
        assert numbers[arm]["pass@1"]["value"] == pytest.approx((c / 8).mean())
        assert numbers[arm]["pass@8"]["value"] == pytest.approx((c > 0).mean())
        assert (numbers[arm]["pass@1"]["unit"], numbers[arm]["pass@1"]["n"]) == ("problems", 6)


def test_differences_are_paired_by_seed(finished):
    summary = read_comparison(finished).to_json()["rules"]
    psn, grpo = ([exact(finished, f"rules/{arm}/seed-{s}", 4) for s in (0, 3)] for arm in ("psn", "grpo"))
    differences = np.subtract(psn, grpo)
    half = stats.t.ppf(0.975, 1) * differences.std(ddof=1) / np.sqrt(2)
    found = summary["minus_grpo"]["psn"]["success"]
    assert found["value"] == pytest.approx(differences.mean())
    assert (found["low"], found["high"]) == pytest.approx((differences.mean() - half, differences.mean() + half))
    base = exact(finished, "rules/base", 0)
    assert summary["minus_base"]["grpo"]["success"]["value"] == pytest.approx(np.mean(grpo) - base)
    assert set(summary["minus_grpo"]) == {"hot", "psn"} and set(summary["minus_base"]) == set(ARMS)


def test_the_frontier_path_begins_at_the_base(finished):
    results = read_comparison(finished).results["numbers"]
    assert [list(path) for path in results.paths("grpo")] == [[0, 1, 2, 3]]
    gap = results.frontier("psn")
    grpo = [("base", 0), *((f"{arm}/seed-0", step) for arm, step in zip(["grpo"] * 3, (1, 2, 3), strict=True))]
    x = [np.mean(correct(finished, f"numbers/{run}", step)) / 8 for run, step in grpo]
    assert (gap.path_low, gap.path_high) == pytest.approx((min(x), max(x)))


def test_what_training_met_is_counted_over_all_steps_and_seeds(finished):
    steps = [r for seed in (0, 3) for r in RunFolder.open(finished / f"rules/psn/seed-{seed}").steps()]
    met = read_comparison(finished).to_json()["rules"]["training"]["psn"]
    assert met["rollouts"] == 2 * 4 * 16
    assert met["correct"] == sum(round(r["reward"] * 16) for r in steps)
    assert met["ess"] == pytest.approx(np.mean([r["ess"] for r in steps]))
    first = next((r["step"] for r in steps[:4] if r["reward"] > 0), None)
    assert met["first_correct"][0] == first and len(met["first_correct"]) == 2


def test_tables_and_sentences_say_the_same_as_the_summary(finished):
    comparison = read_comparison(finished)
    for results in comparison.results.values():
        text = " ".join(cell for table in tables(results) for row in table.rows for cell in row)
        for arm, metrics in results.summaries.items():
            assert all(interval.brackets() in text for interval in metrics.values()), arm
        for arm in results.others:
            for interval in results.difference(arm, "grpo").values():
                assert interval.brackets() in text
    said = [str(conclusion) for conclusion in conclusions(comparison.results["numbers"])]
    assert len(said) == 3  # pass@1 and pass@8 at equal steps, and pass@8 at equal pass@1
    assert all(sentence.startswith("PSN against GRPO at equal ") for sentence in said)


def test_records_alone_are_enough(copy):
    """Shipped without checkpoints, a comparison reads the same."""
    before = read_comparison(copy).to_json()
    for folder in copy.rglob("checkpoints"):
        shutil.rmtree(folder)
    assert read_comparison(copy).to_json() == before


# --- stopping and going on --------------------------------------------------------------------------


def forbid(monkeypatch):
    def step(self):
        raise AssertionError("a finished run must not train again")

    monkeypatch.setattr(Trainer, "step", step)


def test_finished_runs_are_kept(copy, monkeypatch, capsys):
    forbid(monkeypatch)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    run_comparison(TINY, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8 and all(line.endswith(": finished before") for line in lines)
    assert lines[0] == "rules grpo seed-0 [1/8]: finished before"


class Impatient(Stop):
    """Asks to stop when its share of looks is used up: at every place where a stop can happen."""

    looks = 0
    limit = 1

    @property
    def asked(self):
        Impatient.looks += 1
        return signal.SIGINT if Impatient.looks >= Impatient.limit else None

    @asked.setter
    def asked(self, value):
        pass


def test_stopped_anywhere_it_ends_in_the_same_records(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("psn_tutorial.experiments.run.Stop", Impatient)
    out, stops = tmp_path / "out", 0
    while True:
        Impatient.looks, Impatient.limit = 0, 14
        try:
            run_comparison(TINY, out, progress=False)
            break
        except Interrupted:
            stops += 1
            with pytest.raises(UserError, match="is not finished: .* is missing or incomplete; go on with"):
                read_comparison(out)
            assert stops < 60
    assert stops > 5
    assert timeless(read_comparison(out).to_json()) == timeless(read_comparison(finished).to_json())
    for path in finished.rglob("eval.json"):
        assert (out / path.relative_to(finished)).read_bytes() == path.read_bytes()
    for run in finished.glob("*/*/seed-*"):
        one, other = (RunFolder.open(p).latest_checkpoint() for p in (run, out / run.relative_to(finished)))
        assert one.step == other.step
        assert all(torch.equal(one.tensors["model"][n], t) for n, t in other.tensors["model"].items())


def timeless(summary):
    for parts in summary.values():
        for met in parts["training"].values():
            del met["tokens_per_second"], met["seconds_per_step"]
    return summary


def test_the_command_stops_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_json("mine.json", experiments_to_json({"rules": replace(TINY["rules"], seeds=(0,))}))
    monkeypatch.setattr("psn_tutorial.experiments.run.Stop", Impatient)
    Impatient.looks, Impatient.limit = 0, 12
    assert main(["compare", "--file", "mine.json"]) == 130
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1] == (
        "psn-tutorial: stopped and saved; go on with: psn-tutorial compare --resume runs/mine"
    )
    monkeypatch.setattr("psn_tutorial.experiments.run.Stop", Stop)
    assert main(["compare", "--resume", "runs/mine"]) == 0
    said = capsys.readouterr()
    assert "Is it kept?" in said.out and "The clean policy after the last step" in said.out
    assert said.out.splitlines()[-1].startswith("report: runs/mine/report.html")
    assert (tmp_path / "runs/mine/report.html").is_file() and (tmp_path / "runs/mine/summary.json").is_file()
    before = said.out
    assert main(["report", "runs/mine"]) == 0
    assert capsys.readouterr().out == before


def test_the_quick_preset_shows_that_everything_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--preset", "quick"]) == 0
    out = capsys.readouterr().out
    for words in ("PSN-GRPO", "GRPO, sampled at T = 2", "success probability", "families found", "at equal pass@1"):
        assert words in out
    assert (tmp_path / "runs/quick/report.html").stat().st_size > 100_000


# --- refusals ---------------------------------------------------------------------------------------


def test_another_comparison_in_the_folder_is_refused(copy):
    changed = {"rules": TINY["rules"]}
    with pytest.raises(UserError, match="holds another comparison; choose another folder, or continue that one with"):
        run_comparison(changed, copy, progress=False)


def test_a_run_made_with_other_settings_is_refused(copy):
    changed = {n: replace(e, common=e.common | {"lr": 2e-3}) for n, e in TINY.items()}
    write_json(copy / "comparison.json", experiments_to_json(changed))
    with pytest.raises(UserError, match="rules/grpo/seed-0 was made with lr 0.001, and not 0.002: choose another"):
        run_comparison(changed, copy, progress=False)


def test_a_run_made_before_a_setting_existed_is_gone_on_with(copy):
    path = copy / "rules/grpo/seed-0/config.json"
    config = json.loads(path.read_text())
    assert config.pop("probes") == "reuse"
    path.write_text(json.dumps(config))
    run_comparison(TINY, copy, progress=False)
    path.write_text(json.dumps(config | {"probes": "separate"}))
    with pytest.raises(UserError, match="was made with probes 'separate', and not 'reuse'"):
        run_comparison(TINY, copy, progress=False)


def test_a_base_that_has_changed_is_noticed(copy, tmp_path):
    shutil.copytree(base_folder("rules"), tmp_path / "base")
    model, _ = load(tmp_path / "base")
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(tmp_path / "base")
    rules = replace(TINY["rules"], common=TINY["rules"].common | {"base": str(tmp_path / "base")})
    write_json(copy / "comparison.json", experiments_to_json({"rules": rules}))
    with pytest.raises(UserError, match="rules/base was made with policy_sha256 '.*', and not '.*'"):
        run_comparison({"rules": rules}, copy, progress=False)


def test_a_mistake_in_the_last_experiment_is_told_before_the_first_is_run(tmp_path):
    wrong = replace(TINY["numbers"], common=TINY["numbers"].common | {"base": str(base_folder("chain"))})
    with pytest.raises(UserError, match="the policy does not know"):
        run_comparison({"rules": TINY["rules"], "numbers": wrong}, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_arm_whose_changes_could_not_have_an_effect_is_told_before_the_first_is_run(tmp_path):
    """What all arms share may well be idle in one of them."""
    shared = replace(TINY["rules"], common=TINY["rules"].common | {"draws": 2})
    idle = replace(shared, arms=shared.arms | {"many": Arm("many draws", {"draws": 4})})
    with pytest.raises(UserError, match="^arm many: draws must stay 1 without noise .sigma 0., got 4$"):
        run_comparison({"rules": idle}, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    _check_policies({"rules": shared})


def test_an_unfinished_comparison_names_what_is_missing(copy):
    path = copy / "numbers/psn/seed-0/steps.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    with pytest.raises(UserError, match="numbers/psn/seed-0 is missing or incomplete; go on with `psn-tutorial comp"):
        read_comparison(copy)
    shutil.rmtree(copy / "numbers/base")
    path.write_text("".join(lines))
    with pytest.raises(UserError, match="numbers/base is missing or incomplete"):
        read_comparison(copy)


def test_a_comparison_file_is_what_was_asked_for(finished):
    assert read_json(finished / "comparison.json") == experiments_to_json(TINY)
