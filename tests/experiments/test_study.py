"""A study's file: what it says is what is run, and every mistake in it is told in a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.cost import Costs, units, weights
from psn_tutorial.experiments.plan import duration, jobs_of, plan_of
from psn_tutorial.experiments.study import PRESETS, read_study, study_from_json
from psn_tutorial.experiments.study_jobs import BaseJob, MeasureJob, TrainJob
from psn_tutorial.experiments.tuning import choices
from psn_tutorial.models.bases import BASES
from psn_tutorial.models.tiny import build_model, build_tokenizer
from psn_tutorial.runs.files import write_json
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task

OUT = Path("somewhere")


def content(**changes):
    """A study's file, as YAML gives it, with some sections replaced."""
    return {
        "question": "What is so?",
        "tuning_seeds": [100, 101],
        "bases": {"long": {"task": "rules", "difficulty": {"steps": 8}, "model": {"positions": 128}}},
        "arms": {
            "grpo": {"label": "GRPO", "tune": {"lr": [1e-4, 1e-3]}},
            "psn": {
                "label": "PSN",
                "changes": {"sigma": 0.5, "relative": True, "lr": 3e-4},
                "tune": {"sigma": [0.2, 0.8]},
            },
            "bare": {"label": "PSN without TIS", "like": "psn", "changes": {"correction": "none"}},
            "small": {"label": "half", "like": "psn", "changes": {"sigma": 0.1}},
            "plain": {"label": "GRPO"},
        },
        "experiments": {
            "rules": {
                "task": "rules",
                "question": "?",
                "base": "long",
                "common": {"difficulty": {"steps": 8}, "samples": 0, "steps": 3, "prompts": 2, "group": 4},
                "seeds": [0, 1, 2],
                "arms": ["grpo", "psn", "bare", "small"],
                "metrics": ["success"],
            }
        },
    } | changes


def read(**changes):
    return study_from_json(content(**changes), "my.yaml", OUT)


def experiment(**changes):
    """``content`` with other fields in its experiment."""
    return {"experiments": {"rules": content()["experiments"]["rules"] | changes}}


# --- what is run --------------------------------------------------------------------------------------


def test_before_tuning_every_arm_has_its_first_candidate_and_its_followers_too():
    (made,) = read().experiments.values()
    assert made.arms["grpo"].changes == {"lr": 1e-4}
    assert made.arms["psn"].changes == {"sigma": 0.2, "relative": True, "lr": 3e-4}
    assert made.arms["bare"].changes == {"sigma": 0.2, "relative": True, "lr": 3e-4, "correction": "none"}
    assert made.arms["small"].changes == {"sigma": 0.1, "relative": True, "lr": 3e-4}


def test_the_chosen_candidates_reach_the_arms_and_their_followers():
    made = read().settled({"rules": {"grpo": 1, "psn": 1}})["rules"]
    assert made.arms["grpo"].changes == {"lr": 1e-3}
    assert [made.arms[arm].changes["sigma"] for arm in ("psn", "bare", "small")] == [0.8, 0.8, 0.1]
    config = made.config("bare", 2)
    assert (config.sigma, config.correction, config.seed, config.lr) == (0.8, "none", 2, 3e-4)
    assert config.base == "somewhere/bases/long/weights"


def test_candidates_are_arms_on_the_tuning_seeds_and_nothing_else_differs():
    study = read()
    tuning, final = study.tuning["rules"], study.experiments["rules"]
    assert list(tuning.arms) == ["grpo.0", "grpo.1", "psn.0", "psn.1"]
    assert tuning.seeds == (100, 101) and not set(tuning.seeds) & set(final.seeds)
    assert [tuning.arms[f"psn.{i}"].changes["sigma"] for i in (0, 1)] == [0.2, 0.8]
    assert tuning.arms["psn.1"].label == "PSN, sigma 0.8"
    assert tuning.config("psn.0", 100) == type(tuning.config("psn.0", 100))(
        **{**vars(final.config("psn", 0)), "seed": 100}
    )


def test_a_grid_of_two_settings_is_every_combination():
    arms = {"grpo": {"label": "GRPO", "tune": {"lr": [1e-4, 1e-3], "clip_high": [0.2, 0.3, 0.4]}}}
    study = read(arms=arms, **experiment(arms=["grpo"]))
    assert len(study.tuning["rules"].arms) == 6
    assert study.settled({"rules": {"grpo": 5}})["rules"].arms["grpo"].changes == {"lr": 1e-3, "clip_high": 0.4}


def test_the_best_candidate_is_chosen_of_equals_the_first_and_none_before_all_are_there():
    figures = {"rules": {"grpo": [0.1, 0.3, 0.3], "psn": [0.2, None, 0.1]}, "other": {"psn": [0.5, 0.5]}}
    assert choices(figures) == {"rules": {"grpo": 1}, "other": {"psn": 0}}


def test_a_base_has_the_settings_of_the_shipped_one_where_none_are_given():
    (base,) = read().bases.values()
    assert base.model.positions == 128 and base.difficulty == {"steps": 8}
    assert (base.steps, base.model.tied, base.problems) == (2500, False, 50_000)


def test_every_job_once_an_experiment_with_its_tuning_before_the_next():
    study = read()
    parts = jobs_of(study, OUT, ["psn-tutorial", "study"], study.experiments)
    names = {part: [job.name for job in jobs] for part, jobs in parts.items()}
    assert list(names) == ["bases", "tuning/rules", "rules"], "a part without jobs is none"
    assert names["bases"] == ["bases/long"]
    assert names["tuning/rules"][:4] == [f"tuning/rules/{c}/seed-100" for c in ("grpo.0", "grpo.1", "psn.0", "psn.1")]
    assert len(names["tuning/rules"]) == 8 and len(names["rules"]) == 1 + 4 * 3
    assert names["rules"][0] == "rules/base"
    assert names["rules"][1:5] == [f"rules/{arm}/seed-0" for arm in ("grpo", "psn", "bare", "small")]
    assert parts["rules"][1].command == ("psn-tutorial", "study")
    study = read_study(PRESETS["quick"], OUT)
    order = ["bases", "tuning/chain-3", "chain-3", "countdown", "coherence"]
    assert list(jobs_of(study, OUT, (), study.experiments)) == order


def test_a_run_of_the_settings_and_seed_of_an_earlier_one_knows_it():
    """Of two experiments that differ in their learning rate alone, one arm undoes the difference."""
    arms = {
        "plain": {"label": "GRPO"},
        "four": {"label": "GRPO, 4 updates a batch", "changes": {"updates": 4}},
        "undone": {"label": "GRPO at the first rate", "changes": {"lr": 3.0e-4}},
    }
    one = content()["experiments"]["rules"] | {"seeds": [0, 1], "arms": ["plain", "four"], "reference": "plain"}
    common = one["common"]
    one, other = one | {"common": common | {"lr": 3.0e-4}}, one | {"common": common | {"lr": 1.0e-4}}
    study = read(arms=arms, experiments={"one": one, "other": other | {"arms": ["plain", "undone"]}})
    parts = jobs_of(study, OUT, (), study.experiments)
    twins = {job.name: job.twin for part in ("one", "other") for job in parts[part][1:]}
    assert {name: twin for name, twin in twins.items() if twin} == {
        "other/undone/seed-0": "one/plain/seed-0",
        "other/undone/seed-1": "one/plain/seed-1",
    }
    hidden = jobs_of(study, OUT, (), study.experiments, untuned=["other"])
    assert not any(job.twin for job in hidden["other"][1:]), "what is not settled yet is not compared"
    twin = next(job for job in parts["other"] if job.name == "other/undone/seed-0")
    assert Costs([]).seconds(twin) == 1 < Costs([]).seconds(replace(twin, twin=None))


def test_the_quick_preset_is_a_study():
    study = read_study(PRESETS["quick"], OUT)
    assert list(study.experiments) == ["chain-3", "countdown"] and list(study.coherence) == ["chain-3"]
    assert study.coherence["chain-3"].policy == "somewhere/bases/chain-3/weights"


# --- what is recorded, and what is left ---------------------------------------------------------------


def train_job(tmp_path, seed=0):
    config = read().experiments["rules"].config("psn", seed)
    return TrainJob(tmp_path, f"rules/psn/seed-{seed}", (), config)


def record(job, seconds=31.0, **changes):
    """What a finished job leaves, as far as a plan looks at it."""
    job.place.mkdir(parents=True)
    write_json(job.place / "config.json", job.settings | {"base_sha256": "x"} | changes)
    write_json(job.place / "provenance.json", {"wall_seconds": seconds})


def test_a_record_is_recognised_by_its_settings(tmp_path):
    job = train_job(tmp_path)
    assert not job.recorded
    record(job)
    assert job.recorded and not train_job(tmp_path, seed=1).recorded


def test_a_record_of_other_settings_is_refused_by_name(tmp_path):
    job = train_job(tmp_path)
    record(job, lr=2e-3)
    with pytest.raises(UserError, match="rules/psn/seed-0 was made with lr 0.002, and not 0.0003: choose another"):
        plan_of({"rules": [job]}, 2)


def test_a_record_made_before_a_setting_existed_counts(tmp_path):
    job = train_job(tmp_path)
    job.place.mkdir(parents=True)
    old = {name: value for name, value in job.settings.items() if name != "probes"}
    write_json(job.place / "config.json", old)
    assert job.recorded


def test_what_half_a_run_has_left_is_no_record(tmp_path):
    job = train_job(tmp_path)
    job.scratch.mkdir(parents=True)
    (job.scratch / "steps.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert not job.recorded and job.taken == 2 and job.scratch == tmp_path / ".running/rules/psn/seed-0"


def test_records_tell_what_is_left(tmp_path):
    """One run of 31 s, 1 s of it for every job: two more like it take 62 s, with two workers 31."""
    jobs = [train_job(tmp_path, seed) for seed in range(3)]
    record(jobs[0])
    plan = plan_of({"rules": jobs}, 2)
    (part,) = plan.parts
    assert (part.name, part.jobs, part.recorded) == ("rules", 3, 1)
    assert part.seconds == pytest.approx(62) and plan.seconds == pytest.approx(31)
    assert "in all 3 records, 1 there; about 31 s left with 2 processes of one thread" in str(plan)


def test_before_any_record_the_shipped_ones_tell(tmp_path):
    """The demo's own settings are estimated at what the shipped run of them took; half the steps at about half."""
    from psn_tutorial.experiments.presets import COUNTDOWN, RULES

    for name, demo, recorded in (("rules", RULES, (16, 22)), ("countdown", COUNTDOWN, (105, 110))):
        config = demo.config("psn", 0)
        whole = Costs([]).seconds(TrainJob(tmp_path, f"{name}/psn/seed-0", (), config))
        assert recorded[0] < whole - 1 < recorded[1] * 1.01
        half = type(config)(**{**vars(config), "steps": config.steps // 2})
        assert 0.4 < Costs([]).seconds(TrainJob(tmp_path, f"{name}/psn/seed-0", (), half)) / whole < 0.6
    base = BaseJob(tmp_path, "bases/rules", (), BASES["rules"])
    assert Costs([]).seconds(base) == pytest.approx(234.2, abs=2)  # data/runs/base-rules


def test_the_most_similar_record_counts_most(tmp_path):
    slow, fast = train_job(tmp_path, 0), train_job(tmp_path, 1)
    other = TrainJob(tmp_path, "rules/grpo/seed-0", (), read().experiments["rules"].config("grpo", 0))
    costs = Costs([])
    costs.learn(slow, 101.0)
    assert costs.seconds(other) == pytest.approx(101.0 - 1 + 1)  # the same experiment, the same tokens
    costs.learn(other, 11.0)
    assert costs.seconds(fast) == pytest.approx(101.0) and costs.seconds(other) == pytest.approx(11.0)


@pytest.mark.parametrize("name", ["rules", "chain", "countdown"])
def test_weights_are_counted_but_for_the_norms(name):
    config = BASES[name]
    model = build_model(config.model, build_tokenizer(get_task(config.task).words), 0)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    special = 3 * config.model.hidden * (1 if config.model.tied else 2)  # rows of the tokens <pad>, <bos>, <end>
    assert weights(config) == matrices - special


def test_an_evaluation_costs_with_its_samples(tmp_path):
    study = read_study(PRESETS["quick"], OUT)
    countdown = study.experiments["countdown"]
    config = countdown.config("psn-mlp", 0)
    measured = units(MeasureJob(tmp_path, "countdown/base", (), countdown))
    answer = 18
    assert measured == pytest.approx(12 * 32 * answer / 3)
    assert units(TrainJob(tmp_path, "x", (), config)) == pytest.approx(4 * 4 * 8 * answer + 2 * 12 * 16 * answer / 3)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5300, "88 min"), (11100, "3 h 05 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


# --- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": ""}, "my.yaml: question must be a text, got ''"),
        ({"tuning_seeds": [1.5]}, "my.yaml: tuning_seeds must be a list of whole numbers"),
        ({"tuning_seeds": [2]}, r"experiments, rules: seeds must differ from the tuning_seeds \[2\], got \[0, 1, 2\]"),
        ({"tuning_seeds": []}, "experiments, rules: an arm is tuned, and the study has no tuning_seeds"),
        ({"experimets": {}}, "a field must be one of .*, got 'experimets'.*did you mean 'experiments'"),
        ({"bases": {"base": {"task": "rules"}}}, "base must be named with letters"),
        ({"bases": {"long": {"task": "rulse"}}}, "task"),
        ({"bases": {}}, "my.yaml, experiments, rules: base must be one of , got 'long'"),
        ({"arms": {"grpo": {"lable": "x"}}}, "my.yaml, arms, grpo: unknown field 'lable'"),
        (experiment(arms=[]), "experiments, rules: arms must be a list of names, at least one"),
        (experiment(arms=["grpo", "psm"]), "experiments, rules: an arm must be one of .*, got 'psm'"),
        (experiment(arms=["grpo", "bare"]), "experiments, rules, bare: like must be one of 'grpo', got 'psn'"),
        (experiment(reference="plain"), "reference must be one of .*, got 'plain'"),
        (experiment(margin=0), "margin must be > 0"),
        (experiment(common={"sgima": 1}), "unknown field 'sgima'"),
        (experiment(common=3), "common must be an object, got 3"),
        ({"experiments": {"tuning": content()["experiments"]["rules"]}}, "cannot be named tuning, which is a folder"),
        ({"experiments": {"a/b": content()["experiments"]["rules"]}}, "an experiment must be named with letters"),
        ({"coherence": {"x": {"polcy": "long"}}}, "my.yaml, coherence, x: unknown field 'polcy'"),
    ],
)
def test_a_mistake_in_the_file_is_told(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        read(**changes)


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ({"tune": {"sigma": [0.1, 0.2, 0.3]}}, "all arms that are tuned must have equally many .*, got grpo 2, psn 3"),
        ({"tune": {"sigma": 0.1}}, "rules, psn: tune must hold a list of values for sigma, got 0.1"),
        ({"tune": {"sigma": []}}, "rules, psn: tune must hold a list of values for sigma"),
        ({"like": "grpo", "tune": {"lr": [1, 2]}}, "an arm that is like another is not tuned"),
        ({"like": "bare"}, "an arm that is like another is not tuned, and is like none that is itself"),
        ({"like": "psn"}, "rules, psn: like must be one of 'grpo', 'bare', 'small', got 'psn'"),
    ],
)
def test_a_mistake_in_an_arm_is_told(arm, sentence):
    with pytest.raises(UserError, match=sentence):
        read(arms=content()["arms"] | {"psn": {"label": "PSN", "changes": {"relative": True}} | arm})


def test_a_candidate_that_no_run_could_have_is_told_before_anything_is_run():
    arms = content()["arms"] | {"psn": {"label": "PSN", "tune": {"draws": [2, 3]}, "changes": {"sigma": 1.0}}}
    with pytest.raises(UserError, match="draws must divide the 8 rollouts of a step, got 3"):
        _ = read(arms=arms).tuning


def test_a_setting_without_effect_is_told_before_anything_is_run():
    arms = content()["arms"] | {"small": {"label": "x", "changes": {"draws": 4}}}
    study = read(arms=arms)
    with pytest.raises(UserError, match="^rules, arm small: draws must stay 1 without noise .sigma 0., got 4$"):
        jobs_of(study, OUT, (), study.experiments)


def test_a_file_that_is_no_yaml_and_one_that_is_not_there(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="x.yaml is not valid YAML: .* line 1"):
        read_study(tmp_path / "x.yaml", OUT)
    (tmp_path / "x.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="is not valid YAML: could not determine a constructor"):
        read_study(tmp_path / "x.yaml", OUT)
    with pytest.raises(UserError, match="cannot read .*none.yaml: No such file"):
        read_study(tmp_path / "none.yaml", OUT)
    (tmp_path / "x.yaml").write_text("- 1")
    with pytest.raises(UserError, match="expected an object with the fields question, tuning_seeds"):
        read_study(tmp_path / "x.yaml", OUT)


def test_what_the_docstring_shows_is_read():
    import psn_tutorial.experiments.study as module

    text = module.__doc__.split("\n\n")[1].replace("...", "x").replace("common: {x}", "common: {samples: 0}")
    fields = yaml.safe_load(text)
    fields["experiments"]["rules-12"] |= {"metrics": ["success"]}
    fields["experiments"]["rules-12"]["common"] |= {"difficulty": {"steps": 12}}
    fields["arms"]["grpo"]["tune"] = {"lr": [1, 2, 3, 4]}
    study = study_from_json(fields, "doc", OUT)
    assert to_mapping(study.bases["rules-12"])["difficulty"] == {"steps": 12}
