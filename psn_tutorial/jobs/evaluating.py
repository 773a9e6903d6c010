"""Evaluate a policy and keep the result."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError, shown
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.extensions import origins
from psn_tutorial.jobs.policies import (
    base_of,
    check_words,
    fingerprint,
    policy_and_step,
    source_of_base,
    starting_policy,
    trained_by,
)
from psn_tutorial.jobs.problems import check_apart, held_out_problems, training_problems
from psn_tutorial.models.decoder import decoder_of
from psn_tutorial.models.policy import Policy, asked, prompt_ids
from psn_tutorial.runs.files import stands
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import Task, get_task


def evaluate_policy(
    folder: str | Path,
    policy: str | Path | RunConfig,
    config: EvaluationConfig,
    command: Sequence[str] | None = None,
    progress: bool = False,
    four_bit: bool = False,
    allow_overlap: bool = False,
) -> EvaluationRecord:
    """Evaluate a policy and keep the result as a run record in ``folder``.

    policy: as for ``load_policy``; or the settings of a run: what it begins with, in its own precision.
    four_bit: hold a language model in 4 bits, also where it was trained in others.
    allow_overlap: evaluate a run also on problems that it was trained on.
    An evaluation of the same policy in the same way that ``folder`` already holds is returned.
    Raises UserError when ``folder`` holds anything else.
    """
    task = get_task(config.task, **config.difficulty)
    problems = held_out_problems(task, config)
    begins = isinstance(policy, RunConfig)
    trained = None if begins or allow_overlap else trained_by(policy)
    if trained is not None and trained.task == config.task:
        before = get_task(trained.task, **trained.difficulty)
        check_apart(before, training_problems(before, trained), problems, replace(trained, evaluate=True))
    loaded, step = (starting_policy(policy), 0) if begins else policy_and_step(policy, config.device, four_bit)
    check_policy(loaded, task, problems)
    settings = {**to_mapping(config), "policy_sha256": fingerprint(loaded.model)}
    source = source_of_base(base_of(policy) if begins else policy) | origins(settings, task)
    run = open_or_create(folder, settings, command, source)
    path = run.path / "eval.json"
    if not stands(path):
        record = EvaluationRecord(config.task, config.samples, config.temperature, config.seed)
        try:
            record.steps[step] = evaluate(loaded, task, problems, **config.sampling, progress=progress)
            record.write(path)
        except BaseException:  # a stop too: half an evaluation is none
            run.discard_if_empty()
            raise
        run.record_time()
    return EvaluationRecord.read(path)


def check_policy(policy: Policy, task: Task, problems: Sequence[Any], before: str = "") -> None:
    """Raise UserError, before anything is written, when a policy cannot read the task's words, its conversation or its
    longest problem, ``before`` which something may stand, or nothing can judge it."""
    check_words(policy.tokenizer, task)
    texts = asked(policy.tokenizer, task, problems, [before] * len(problems))
    lengths = [len(row) for row in prompt_ids(policy.tokenizer, texts)]
    room = decoder_of(policy.model).config.max_position_embeddings
    if max(lengths) >= room:
        raise UserError(
            f"prompts must have fewer than {room} tokens, for which the model was made: problem "
            f"{shown(task.prompt(problems[lengths.index(max(lengths))]))} has {max(lengths)}"
        )
    task.verify_many([""], problems[:1])


def open_or_create(
    folder: str | Path,
    settings: dict[str, Any],
    command: Sequence[str] | None = None,
    facts: dict[str, Any] | None = None,
) -> RunFolder:
    """The run in ``folder``, made now or earlier with the very same settings; ``facts`` join the provenance.

    Raises UserError naming the first setting in which an existing run differs.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return RunFolder.create(folder, settings, command, facts)
    run = RunFolder.open(folder)
    defaults = to_mapping(RunConfig())  # what a setting was before it existed
    for name in dict.fromkeys((*settings, *run.config)):
        old, new = run.config.get(name, defaults.get(name)), settings.get(name)
        if old != new:
            raise UserError(
                f"{folder} was made with {name} {shown(old)}, and not {shown(new)}: "
                f"choose another folder, or remove that one"
            )
    return run
