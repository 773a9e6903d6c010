"""More than a thousand wrong inputs, made from tables of fields, values and damages.

Each is told in one sentence with exit code 2, and changes nothing on the disk; or, where it happens to be right, the
run starts, and then with exactly the settings, problems and weights that were asked for.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch

from psn_tutorial.cli import main
from psn_tutorial.cli.flags import flags_of
from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.training import TrainingJob, export
from psn_tutorial.models.bases import BASES, base_folder
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task

Files = dict[str, bytes]  # path -> content


@dataclass(frozen=True)
class Case:
    """A command line in a folder with ``files``.

    asked: the settings that it must have where it starts; None: it must not start.
    holds: does the started job hold what was asked besides?
    """

    words: list[str]
    files: Files = field(default_factory=dict)
    asked: Mapping[str, Any] | None = None
    holds: Callable[[Any], bool] = lambda job: True


class Started(Exception):
    """Everything is checked, and the computing would begin now. settings: of the job or the comparison."""

    def __init__(self, job: Any = None):
        self.job = job
        comparison = Path("out/comparison.json")
        if job is not None or comparison.is_file():
            self.settings = to_mapping(job.config) if job is not None else json.loads(comparison.read_text())
            return
        found = [path for path in Path().rglob("config.json") if (path.parent / "provenance.json").is_file()]
        self.settings = json.loads(max(found, key=lambda path: path.stat().st_mtime_ns).read_text())


@pytest.fixture(autouse=True)
def little_is_computed(monkeypatch):
    """Training ends after its first step, and before it where that would be a large one."""

    def first_step(job, *rest, **more):
        config = job.config
        if config.prompts * config.group * config.updates <= 64 and config.draws <= 64:
            next(job.train(Stop()), None)
        raise Started(job)

    def nothing(*rest, **more):
        raise Started

    monkeypatch.setattr("psn_tutorial.jobs.progress.follow", first_step)
    monkeypatch.setattr("psn_tutorial.jobs.evaluating.evaluate", nothing)
    monkeypatch.setattr("psn_tutorial.jobs.pretraining.PretrainingJob.make", nothing)


# Flags

TRAIN = {"task": "chain", "prompts": 2, "group": 4, "samples": 4}
EVALUATE = {"task": "chain", "samples": 4}
PRETRAIN = {"task": "chain", "problems": 1, "demonstrations": 20, "steps": 2, "warmup": 1, "batch": 4}
TEXTS = (*"x none nan inf 1e999 -1 0 1.5 1e3 -- [1] \u0663".split(), "", "a\0b", "9" * 30, "9" * 400)


def words_of(settings: Mapping[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def flags(command: str, start: Any, given: Mapping[str, Any]) -> Iterator[Case]:
    """Every flag: mistyped, alone, and with every text of TEXTS; what a number is, Python says.

    start: the settings that stand where no flag is given.
    """
    for flag in flags_of(start):
        name = "--" + flag.name.replace(".", "-").replace("_", "-")
        rest = {other: value for other, value in given.items() if other != flag.name}
        words = [command, *words_of(rest)]
        yield Case([*words, f"{name[:-2]}{name[-1]}{name[-2]}q", "1"])
        if flag.kind is bool:
            yield Case([*words, f"{name}=1"])
            yield Case([*words, name, "yes"])
        elif flag.kind in (int, float, str):
            yield Case([*words, name])
            for text in TEXTS:
                asked = None
                if flag.optional and text == "none":
                    asked = {**rest, flag.name: None}
                elif not (flag.name in ("problems", "demonstrations") and len(text) > 5):  # right, and takes forever
                    try:
                        asked = {**rest, flag.name: flag.kind(text)}
                    except ValueError:
                        pass
                else:
                    continue
                yield Case([*words, f"{name}={text}"], asked=asked and laid_over(start, asked))


def laid_over(start: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings ``start`` with some changed; "model.hidden" is nested."""
    settings = to_mapping(start)
    for name, value in changes.items():
        *parents, last = name.split(".")
        inner = settings
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return settings


def all_flags() -> Iterator[Case]:
    yield from flags("train", RunConfig(), TRAIN)
    yield from flags("evaluate", EvaluationConfig(), EVALUATE)
    yield from flags("pretrain", BASES["chain"], PRETRAIN)


# Damage to files

ODD = (None, -1, 0, 1e300, True, "x", "", [], {}, [1], 10**30)
BROKEN = (
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b"7",
    b"\xff\xfe{",
    b"[" * 3000,
    b'{"a": NaN}',
    b'{"a": 1, "a": 2}',
    b"\0" * 20,
)


def damaged_json(content: bytes) -> Iterator[bytes]:
    """A JSON object with each field gone, misnamed or odd, also inside fields; and what is no JSON object at all."""
    yield from BROKEN

    def damaged(value: Any) -> Iterator[Any]:
        for name in value if isinstance(value, dict) else range(min(2, len(value))):
            there = value[name]
            if isinstance(value, dict):
                yield {key: item for key, item in value.items() if key != name}
                yield {f"{key}x" if key == name else key: item for key, item in value.items()}
            others = [odd for odd in ODD if odd != there or type(odd) is not type(there)]
            if isinstance(there, dict | list) and len(there) < 40:
                others += damaged(there)
            for other in others:
                changed = value.copy()
                changed[name] = other
                yield changed

    for changed in damaged(json.loads(content)):
        yield json.dumps(changed).encode()


def damaged_bytes(content: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Cut off, with bits turned, bytes put in or taken out, or twice as long."""
    for number in range(count):
        place = rng.randrange(len(content))
        match number % 5:
            case 0:
                yield content[:place]
            case 1:
                yield content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
            case 2:
                yield content[:place] + rng.randbytes(3) + content[place:]
            case 3:
                yield content[:place] + content[place + 1 + rng.randrange(8) :]
            case 4:
                yield content[:place] + content[place - 40 : place] + content[place:]


def damaged_tensors(content: bytes) -> Iterator[bytes]:
    """Each tensor missing, renamed, turned, cut, not a number, of another type, or there twice."""
    tensors = safetensors.torch.load(content)
    for name, tensor in tensors.items():
        rest = {other: value for other, value in tensors.items() if other != name}
        spoiled = tensor.clone()
        spoiled.view(-1)[3] = torch.nan
        for changed in (
            {},
            {f"module.{name}": tensor},
            {name.replace("weight", "wieght"): tensor},
            {name: tensor.t().contiguous()},
            {name: tensor[:-1]},
            {name: tensor[:0]},
            {name: tensor[None]},
            {name: spoiled},
            {name: torch.full_like(tensor, torch.inf)},
            {name: torch.ones(tensor.shape, dtype=torch.int64)},
            {name: tensor.double()},
            {name: -tensor},
            {name: tensor, f"{name}2": tensor.clone()},
        ):
            yield safetensors.torch.save(rest | changed)
    yield safetensors.torch.save({f"module.{name}": tensor for name, tensor in tensors.items()})
    yield safetensors.torch.save({})


def thinned(made: Iterator[bytes], count: int, seed: int) -> list[bytes]:
    """A random ``count`` of them, the same ones each time."""
    made = list(made)
    return random.Random(seed).sample(made, min(count, len(made)))


def folder_files(folder: Path, name: str) -> Files:
    """The files of a folder, as they lie below ``name``."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in paths}


# Checkpoints, adapters and runs


def holds_the_weights(content: bytes, part: str = "") -> Callable[[Any], bool]:
    """Does a job's model begin with these very weights? part: of the names of those that the file holds."""

    def same(job: Any) -> bool:
        if job is None:
            return True
        state = TrainingJob(job.config).policy.model.state_dict()
        found = safetensors.torch.load(content)
        fresh = {name.replace(".default.", "."): tensor for name, tensor in state.items() if part in name}
        return set(found) == set(fresh) and all(torch.equal(found[name].float(), fresh[name]) for name in fresh)

    return same


def checkpoints() -> Iterator[Case]:
    files = folder_files(base_folder("chain"), "base")
    words, asked = ["train", *words_of(TRAIN), "--base", "base"], laid_over(RunConfig(), {**TRAIN, "base": "base"})
    weights = files["base/model.safetensors"]
    for changed in [
        *thinned(damaged_tensors(weights), 160, seed=0),
        *damaged_bytes(weights, random.Random(1), 30),
        *BROKEN,
    ]:
        yield Case(words, files | {"base/model.safetensors": changed}, asked, holds_the_weights(changed))
    for name, count in (("config", 70), ("tokenizer", 40), ("tokenizer_config", 25), ("generation_config", 25)):
        for changed in thinned(damaged_json(files[f"base/{name}.json"]), count, seed=2):
            yield Case(words, files | {f"base/{name}.json": changed}, asked, holds_the_weights(weights))
    for name in files:
        rest = {other: content for other, content in files.items() if other != name}
        asked_still = asked if name == "base/generation_config.json" else None
        yield Case(words, rest, asked_still)
        yield Case(
            ["evaluate", "base", *words_of(EVALUATE)], rest, asked_still and laid_over(EvaluationConfig(), EVALUATE)
        )


@cache
def made_run(**settings: Any) -> Files:
    """A finished run of two steps, with its policy."""
    config = RunConfig(**{**TRAIN, "steps": 2, "save_every": 1, "entropy_coef": 0.01, **settings})
    with TemporaryDirectory() as place:
        job = TrainingJob.start(f"{place}/run", config)
        list(job.train(Stop()))
        export(job)
        return folder_files(Path(place) / "run", "run")


def adapters() -> Iterator[Case]:
    made = made_run(lora_rank=2)
    files = {name.replace("run/policy", "adapter"): made[name] for name in made if name.startswith("run/policy/")}
    changes = {"task": "chain", "base": "adapter", "lora_rank": 2}
    words, asked = ["train", *words_of({**TRAIN, **changes})], laid_over(RunConfig(), {**TRAIN, **changes})
    for changed in thinned(damaged_json(files["adapter/adapter_config.json"]), 90, seed=3):
        yield Case(words, files | {"adapter/adapter_config.json": changed}, asked)
    weights = files["adapter/adapter_model.safetensors"]
    for changed in [*thinned(damaged_tensors(weights), 40, seed=4), *damaged_bytes(weights, random.Random(5), 10)]:
        yield Case(
            words, files | {"adapter/adapter_model.safetensors": changed}, asked, holds_the_weights(changed, "lora_")
        )
    for command in ("train", "evaluate"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            rest = {other: content for other, content in files.items() if not other.endswith(name)}
            given = words_of({**TRAIN, **changes}) if command == "train" else ["adapter", *words_of(EVALUATE)]
            yield Case([command, *given], rest)


def runs() -> Iterator[Case]:
    files = made_run()
    asked = json.loads(files["run/config.json"])
    del asked["base_sha256"]
    resume, evaluate = ["train", "--resume", "run"], ["evaluate", "run", "--out", "new"]
    evaluation = to_mapping(RunConfig(**asked).evaluation())
    for changed in thinned(damaged_json(files["run/config.json"]), 80, seed=6):
        try:
            still = {**to_mapping(RunConfig()), **json.loads(changed)}
            still.pop("base_sha256", None)
        except (ValueError, TypeError, RecursionError):
            still = None
        yield Case(resume, files | {"run/config.json": changed}, still)
    for name, command, started in (
        ("provenance.json", resume, asked),
        ("eval.json", resume, asked),
        ("eval.json", ["evaluate", *words_of(EVALUATE), "--against", "run"], laid_over(EvaluationConfig(), EVALUATE)),
        ("checkpoints/step-000002/state.json", resume, asked),
        ("checkpoints/step-000002/state.json", evaluate, evaluation),
    ):
        for changed in thinned(damaged_json(files[f"run/{name}"]), 15, seed=7):
            yield Case(command, files | {f"run/{name}": changed}, started)
    for name in ("steps.jsonl", "checkpoints/step-000002/model.safetensors", "checkpoints/step-000001/state.json"):
        for changed in damaged_bytes(files[f"run/{name}"], random.Random(8), 15):
            yield Case(resume, files | {f"run/{name}": changed}, asked)
    for name in files:
        rest = {other: content for other, content in files.items() if other != name}
        yield Case(resume, rest, asked)
        yield Case(evaluate, rest, evaluation)


# Difficulties, comparisons, problem files and folders


def difficulties() -> Iterator[Case]:
    """Every field of every task with every odd value."""
    for task in ("countdown", "rules", "chain", "math"):
        for name in vars(get_task(task)):
            for odd in (*ODD, "nan", "0x1", "p.jsonl", -0.5, 0.5, 2, 3, 4, [1, 2], [2, 1], "+", "+-", "B", "1" * 400):
                value = odd if isinstance(odd, str) else json.dumps(odd)
                yield Case(
                    ["train", *words_of({**TRAIN, "task": task, "samples": 1}), "--difficulty", f"{name}={value}"],
                    {"p.jsonl": b"{}"},
                    laid_over(RunConfig(), {**TRAIN, "task": task, "samples": 1, "difficulty": {name: odd}}),
                )


def comparisons() -> Iterator[Case]:
    arms = {"grpo": {"label": "GRPO"}, "psn": {"label": "PSN", "changes": {"sigma": 0.5, "draws": 2, "relative": True}}}
    common = {"prompts": 2, "group": 4, "samples": 0, "steps": 2, "difficulty": {"steps": 12}}
    made = {"task": "chain", "question": "?", "arms": arms, "common": common, "seeds": [0, 1], "metrics": ["success"]}
    for changed in damaged_json(json.dumps({"mine": made | {"frontier": []}}).encode()):
        try:
            asked = json.loads(changed)
        except (ValueError, RecursionError):
            asked = None
        yield Case(["compare", "--file", "c.json", "--out", "out"], {"c.json": changed}, asked)


def problem_files() -> Iterator[Case]:
    """Rows of the tasks with fields gone and odd, and bytes that something went over."""
    rows = {
        "rules": {"digits": [1, 2, 3, 4, 5, 6]},
        "countdown": {"numbers": [1, 2, 3, 4], "target": 10},
        "math": {"question": "Two and two?", "answer": "4"},
    }
    good = {"rules": {"digits": [0] * 6}, "countdown": {"numbers": [9, 9, 1, 1], "target": 20}}
    for task, row in rows.items():
        first = json.dumps(good.get(task, {"question": "Three?", "answer": "3"})).encode() + b"\n"
        second = json.dumps(row).encode()
        changed = [*damaged_json(second), *damaged_bytes(second, random.Random(9), 30)]
        settings = {**TRAIN, "task": task, "train_file": "p.jsonl"}
        words, asked = ["train", *words_of(settings)], laid_over(RunConfig(), settings)
        if task == "math":
            words = [*words, "--difficulty", "source=sums", "completion=2"]
            asked["difficulty"] = {"source": "sums", "completion": 2}
        for line in changed:
            content = first + line + b"\n" + first
            yield Case(words, {"p.jsonl": content}, asked, lambda job, content=content: asks_what_stands(job, content))


def asks_what_stands(job: Any, content: bytes) -> bool:
    """Does a job train on the rows of the file, all and in their order? Those of math may have been made plain."""
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    task = job.trainer.task
    return len(job.trainer.problems) == len(rows) and (
        task.name == "math" or [task.to_json(problem) for problem in job.trainer.problems] == rows
    )


def folders() -> Iterator[Case]:
    """Names of folders and files that lead nowhere, or to something else."""
    files = {"file": b"text", "full/thesis.txt": b"years of work", "half/config.json": b"{}"}
    files |= {"odd/config.json": b"{}", "odd/provenance.json": b"{}", "none/comparison.json": b"{}", "a/policy/x": b""}
    names = (*"nowhere file full half odd none . .. file/x ~ / a".split(), "", "a\0b", "x" * 300)
    train, evaluate, pretrain = (words_of(settings) for settings in (TRAIN, EVALUATE, PRETRAIN))
    for name in names:
        for words in (
            ["train", "--resume", name],
            ["train", *train, f"--base={name}"],
            ["train", *train, f"--train-file={name}"],
            ["train", *train, f"--eval-file={name}"],
            ["train", *train, "--arm", name],
            ["train", *train, "--preset", name],
            ["evaluate", name, *evaluate],
            ["evaluate", *evaluate, f"--against={name}"],
            ["evaluate", *evaluate, f"--eval-file={name}"],
            ["compare", f"--file={name}"],
            ["compare", f"--resume={name}"],
            ["compare", "--preset", "quick", "--experiment", "rules", f"--base={name}"],
            ["pretrain", "--resume", name],
            ["report", name],
            [name],
        ):
            if not words[-1].endswith("=none"):  # that is the default
                yield Case(words, files)
        if name not in ("nowhere", "~", "..", "/", ""):
            yield Case(["train", *train, f"--out={name}"], files)
            yield Case(["evaluate", *evaluate, f"--out={name}"], files)
            yield Case(["pretrain", *pretrain, f"--out={name}"], files)
            yield Case(["compare", "--preset", "quick", f"--out={name}"], files)


KINDS = (all_flags, checkpoints, adapters, runs, difficulties, comparisons, problem_files, folders)


@cache
def cases(kind: Callable[[], Iterator[Case]]) -> list[Case]:
    return list(kind())


# What each must come to


def complaint(case: Case, folder: Path, capsys: Any) -> str:
    """What is wrong with how ``case`` is answered in the new ``folder``; "" where nothing is."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    before = folder_files(folder, "")
    capsys.readouterr()
    try:
        code = main(case.words)
    except Started as started:
        return wrong_start(case, started)
    except BaseException as error:  # what the command line would show as a traceback
        return f"{type(error).__name__}: {str(error)[:200]}"
    said = capsys.readouterr()
    sentence = said.err.removeprefix("psn-tutorial: ").rstrip("\n")
    if code != 2 or said.out or sentence == said.err or "\n" in sentence or "Traceback" in sentence:
        return f"exit code {code}: {said.out[:100]!r} {said.err[:300]!r}"
    if len(sentence) > 1200:
        return f"{len(sentence)} characters: {sentence[:300]!r}"
    after = folder_files(folder, "")
    return f"changed: {[name for name in before | after if before.get(name) != after.get(name)]}" * (before != after)


def wrong_start(case: Case, started: Started) -> str:
    """How a started run differs from what was asked for."""
    if case.asked is None:
        return "started"
    if not covers(started.settings, case.asked):
        return f"started with {started.settings}, asked for {case.asked}"
    return "" if case.holds(started.job) else "started with something else than was asked for"


def covers(there: Any, asked: Any) -> bool:
    """Does ``there`` hold all that was asked for, and perhaps defaults besides?"""
    if isinstance(there, dict) and isinstance(asked, dict):
        return all(name in there and covers(there[name], value) for name, value in asked.items())
    if isinstance(there, float) and type(asked) is int:
        asked = float(asked)
    return there == asked and isinstance(there, bool) == isinstance(asked, bool)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_wrong_input_is_told_in_a_sentence_or_is_right(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    complaints = []
    for number, case in enumerate(cases(kind)):
        if said := complaint(case, tmp_path / str(number), capsys):
            complaints.append(f"{number}: {' '.join(case.words)[:200]}\n    {said}")
        os.chdir(tmp_path)
        shutil.rmtree(tmp_path / str(number))
    assert not complaints, f"{len(complaints)} of {len(cases(kind))}:\n" + "\n".join(complaints)


def test_they_are_more_than_a_thousand():
    assert sum(len(cases(kind)) for kind in KINDS) > 1000
