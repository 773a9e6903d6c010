"""What a study is: bases, experiments with arms that may have to be tuned first, and where it is read from.

    question: what the study asks
    tuning_seeds: [100, 101]          # tuning trains on these, which no experiment uses
    bases:                            # policies to make first: settings of `pretrain`
      rules-12: {task: rules, difficulty: {steps: 12}}
    arms:                             # by name, for all experiments
      grpo: {label: GRPO}
      psn: {label: PSN, changes: {draws: 16}, tune: {sigma: [0.4, 0.8], lr: [1.0e-4, 3.0e-4]}}
      psn-no-tis: {label: PSN without TIS, like: psn, changes: {correction: none}}
    experiments:                      # as those of `compare`, with the names of their arms
      rules-12:
        {task: rules, base: rules-12, question: ..., common: {...}, seeds: [0, 1, 2], arms: [grpo, psn, psn-no-tis]}
    coherence:                        # where noise is coherent (psn_tutorial.evaluation.coherence)
      rules-12: {policy: rules-12, task: rules, difficulty: {steps: 12}}

``tune``: settings of the arm and the values to choose from; every combination is a candidate, trained on the tuning
seeds, and the best by the experiment's first metric is taken. All arms of an experiment that tune must have equally
many candidates. ``like``: take the settings of another arm, as tuned, and change these. An entry with ``each`` stands
for several (:mod:`psn_tutorial.experiments.grid`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from psn_tutorial.errors import UserError, check_choice, shown
from psn_tutorial.evaluation.coherence import CoherenceConfig
from psn_tutorial.experiments.experiment import Arm, Experiment, check_name
from psn_tutorial.experiments.grid import expanded
from psn_tutorial.models.bases import BASES, PretrainConfig
from psn_tutorial.settings import from_mapping

SECTIONS = ("question", "tuning_seeds", "bases", "arms", "experiments", "coherence")
STUDY = "study.json"
TUNING, BASES_FOLDER, COHERENCE = "tuning", "bases", "coherence"  # folders of a study beside its experiments
FAILED = "failed.json"  # in the record of a run that training itself ended: {"step": its last one, "error": why}
WEIGHTS = "weights"  # a base's checkpoint folder, inside its record


@dataclass(frozen=True)
class Draft(Arm):
    """An arm that is not settled yet. like: the arm whose settings it starts from; tune: setting -> values to try."""

    like: str | None = None
    tune: dict[str, Any] = field(default_factory=dict)

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """The settings to choose from, each to be laid over ``changes``; [] where nothing is tuned."""
        values = product(*self.tune.values()) if self.tune else ()
        return [dict(zip(self.tune, combination, strict=True)) for combination in values]


@dataclass(frozen=True)
class Study:
    """A study, read. drafts: experiment -> arm -> Draft; in ``experiments`` every arm that is tuned has its first
    candidate."""

    question: str
    bases: dict[str, PretrainConfig]
    experiments: dict[str, Experiment]
    drafts: dict[str, dict[str, Draft]]
    tuning_seeds: tuple[int, ...]
    coherence: dict[str, CoherenceConfig]

    @property
    def tuning(self) -> dict[str, Experiment]:
        """What is run in order to tune: each candidate is an arm, <arm>.<number>, on the tuning seeds."""
        made = {}
        for name, drafts in self.drafts.items():
            tried = {
                f"{arm}.{number}": Arm(_with_values(draft.label, values), draft.changes | values)
                for arm, draft in drafts.items()
                for number, values in enumerate(draft.candidates)
            }
            if tried:
                made[name] = replace(
                    self.experiments[name],
                    arms=tried,
                    seeds=self.tuning_seeds,
                    reference=next(iter(tried)),
                    frontier=(),
                )
        return made

    def settled(self, chosen: Mapping[str, Mapping[str, int]]) -> dict[str, Experiment]:
        """The experiments with the chosen candidates: experiment -> arm -> number."""
        return {
            name: replace(experiment, arms=_settled(self.drafts[name], chosen.get(name, {})))
            for name, experiment in self.experiments.items()
        }


def _settled(drafts: Mapping[str, Draft], chosen: Mapping[str, int]) -> dict[str, Arm]:
    def changes(arm: str) -> dict[str, Any]:
        draft = drafts[arm]
        inherited = changes(draft.like) if draft.like else {}
        picked = draft.candidates[chosen.get(arm, 0)] if draft.tune else {}
        return inherited | draft.changes | picked

    return {arm: Arm(draft.label, changes(arm)) for arm, draft in drafts.items()}


def _with_values(label: str, values: Mapping[str, Any]) -> str:
    return ", ".join([label, *(f"{name.replace('_', ' ')} {value}" for name, value in values.items())])


PRESETS = {"quick": Path(__file__).with_name("quick.yaml")}


def read_study(path: str | Path, out: Path) -> Study:
    """Read a study's file, whose folder will be ``out``: there lie the bases that it makes.

    Raises UserError, naming the file and the entry, for anything that is not one.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return study_from_json(content, str(path), out)


def study_from_json(content: Any, where: str, out: Path) -> Study:
    """A study from what its file holds. Raises UserError starting with ``where``."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected an object with the fields {', '.join(SECTIONS)}, got {shown(content)}")
    for name in content:
        check_choice(f"{where}: a field", name, SECTIONS)
    question, seeds = content.get("question"), content.get("tuning_seeds", [])
    if not isinstance(question, str) or not question:
        raise UserError(f"{where}: question must be a text, got {shown(question)}")
    if not isinstance(seeds, list) or any(type(seed) is not int for seed in seeds):
        raise UserError(f"{where}: tuning_seeds must be a list of whole numbers, got {shown(seeds)}")
    bases = _bases(content.get("bases", {}), f"{where}, bases")
    arms = {
        name: from_mapping(Draft, fields, f"{where}, arms, {name}")
        for name, fields in expanded(content.get("arms", {}), f"{where}, arms").items()
    }
    folders = {name: (out / BASES_FOLDER / name / WEIGHTS).as_posix() for name in bases}
    experiments, drafts = {}, {}
    for name, fields in expanded(content.get("experiments", {}), f"{where}, experiments").items():
        here = f"{where}, experiments, {name}"
        _check_folder(name, here)
        drafts[name] = _drafts(fields.get("arms"), arms, here)
        if set(seeds) & set(fields.get("seeds", [0])) and any(draft.tune for draft in drafts[name].values()):
            raise UserError(
                f"{here}: seeds must differ from the tuning_seeds {seeds}, got {shown(fields.get('seeds'))}"
            )
        if not seeds and any(draft.tune for draft in drafts[name].values()):
            raise UserError(f"{here}: an arm is tuned, and the study has no tuning_seeds")
        experiments[name] = _experiment(fields, _settled(drafts[name], {}), folders, here)
    return Study(
        question,
        bases,
        experiments,
        drafts,
        tuple(seeds),
        _coherence(content.get("coherence", {}), folders, f"{where}, coherence"),
    )


def _bases(content: Any, where: str) -> dict[str, PretrainConfig]:
    made = {}
    for name, fields in expanded(content, where).items():
        check_name("base", name)
        shipped = next((base for base in BASES.values() if base.task == fields.get("task")), None)
        made[name] = from_mapping(PretrainConfig, fields, f"{where}, {name}", shipped)
    return made


def _drafts(names: Any, arms: Mapping[str, Draft], where: str) -> dict[str, Draft]:
    """The arms of an experiment by their names."""
    if not isinstance(names, list) or not names:
        raise UserError(f"{where}: arms must be a list of names, at least one, got {shown(names)}")
    for name in names:
        check_choice(f"{where}: an arm", name, arms)
    drafts = {name: arms[name] for name in names}
    for name, draft in drafts.items():
        if draft.like:
            check_choice(f"{where}, {name}: like", draft.like, [other for other in names if other != name])
        for setting, values in draft.tune.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}, {name}: tune must hold a list of values for {setting}, got {shown(values)}")
        if draft.like and (draft.tune or drafts[draft.like].like):
            raise UserError(
                f"{where}, {name}: an arm that is like another is not tuned, and is like none that is itself"
            )
    budgets = {name: len(draft.candidates) for name, draft in drafts.items() if draft.tune}
    if len(set(budgets.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in budgets.items())
        raise UserError(f"{where}: all arms that are tuned must have equally many candidates, got {said}")
    return drafts


def _experiment(fields: Mapping[str, Any], arms: dict[str, Arm], folders: Mapping[str, str], where: str) -> Experiment:
    """base: a policy that the study makes, by its name; the shipped one of the task where none is named."""
    rest = {name: value for name, value in fields.items() if name != "base"}
    common, base = fields.get("common", {}), fields.get("base")
    if base is not None:
        check_choice(f"{where}: base", base, folders)
        common = {**common, "base": folders[base]} if isinstance(common, Mapping) else common
    return from_mapping(Experiment, {**rest, "arms": arms, "common": common}, where)


def _coherence(content: Any, folders: Mapping[str, str], where: str) -> dict[str, CoherenceConfig]:
    made = {}
    for name, fields in expanded(content, where).items():
        check_name("coherence", name)
        policy = fields.get("policy")
        fields = {**fields, "policy": folders.get(policy, policy)} if policy else fields
        made[name] = from_mapping(CoherenceConfig, fields, f"{where}, {name}")
    return made


def _check_folder(name: str, where: str) -> None:
    if name in (TUNING, BASES_FOLDER, COHERENCE):
        raise UserError(f"{where}: an experiment cannot be named {name}, which is a folder of every study")
    check_name(f"{where}: an experiment", name)
