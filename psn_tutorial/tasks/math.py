"""Mathematics in words: benchmarks from the hub or from a file, Qwen's boxed prompt, answers read by math-verify.

    load_problems("gsm8k", split="test")            from the hub (needs the library datasets and, once, a network)
    load_problems("gsm8k", path="gsm8k_test.jsonl") the same from a file
    load_problems("word_problems", split="train")   the problems written for this project, shipped with it
    load_problems("sums", split="train")            worded sums (:mod:`psn_tutorial.tasks.sums`), made from a seed

``Math``, which is ``get_task("math")``, makes a task of them. It has no vocabulary for a tiny tokenizer: it wants a
language model. The one that is shipped, ``base_folder("sums")``, can do worded sums and nothing else.
"""

import random
import re
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from psn_tutorial.errors import UserError, check_choice, check_integer, check_range, check_seed, shown, suggest
from psn_tutorial.tasks import sums
from psn_tutorial.tasks.answers import last_box
from psn_tutorial.tasks.base import Demonstration, Task, Verdict, folded
from psn_tutorial.tasks.files import DATA, hub_rows, read_problems
from psn_tutorial.tasks.notation import NUMBER
from psn_tutorial.tasks.questions import Problem, read_row
from psn_tutorial.tasks.verifier import Verifier


class Style(NamedTuple):
    """How an answer is asked for. Fields of a Problem stand in braces: {0.question}."""

    system: str
    question: str
    answer: str  # of a worked example


STYLES = {
    # "qwen-boxed" of SimpleRL-Zoo (hkust-nlp/simpleRL-reason, examples/simplelr_math_eval/utils.py)
    "steps": Style(
        "You are a helpful assistant.",
        "{0.question}\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
        "{0.solution} The answer is \\boxed{{{0.answer}}}.",
    ),
    # short answers, for models and machines that cannot afford long ones
    "line": Style(
        "Answer in one line: the calculation, then the result in \\boxed{}.",
        "{0.question}",
        "{0.solution} \\boxed{{{0.answer}}}",
    ),
}
ROLES = ("user", "assistant")
EXAMPLES = (  # of no data set
    Problem("Tom has 3 pens. He buys 4 more and gives 2 away. How many pens has Tom now?", "5", "3 + 4 - 2 = 5."),
    Problem("A box holds 6 cans. How many cans do 4 boxes hold?", "24", "4 * 6 = 24."),
    Problem("Five friends share 30 nuts evenly. How many nuts does each get?", "6", "30 / 5 = 6."),
    Problem("Mia reads 12 pages a day for 3 days, and 5 more. How many is that?", "41", "3 * 12 + 5 = 41."),
)

VERIFIER = Verifier()  # its processes start with the first answer


class UnclearAnswerWarning(UserWarning):
    """A reference answer cannot be compared with any answer: its problem is left out."""


class ContradictionWarning(UserWarning):
    """A question stands in a file twice, with different answers."""


class Source(NamedTuple):
    """A data set on the hub: its name, its configuration, its splits; the first is the usual one."""

    hub: str
    config: str | None
    splits: tuple[str, ...]


SOURCES = {
    "gsm8k": Source("openai/gsm8k", "main", ("test", "train")),
    "math500": Source("HuggingFaceH4/MATH-500", None, ("test",)),
    "aime2024": Source("HuggingFaceH4/aime_2024", None, ("train",)),
    "aime2025": Source("math-ai/aime25", None, ("test",)),
    "amc23": Source("math-ai/amc23", None, ("test",)),
    "minerva": Source("math-ai/minervamath", None, ("test",)),
    "olympiadbench": Source("math-ai/olympiadbench", None, ("test",)),
}
OWN = ("word_problems", "sums")  # made for this project
OWN_SPLITS = ("train", "eval")
SUMS = {"seed": 0, "count": 600}  # the sums to train and to evaluate on
EVERY = 5  # one in five of the own problems is for evaluation; 5 and the 12 topics have no common factor


# Answers


def verify_math(response: str, gold: str, tolerance: float = 0.0) -> bool:
    """Does the answer of ``response`` equal ``gold``? math-verify's verdict, from a pool of processes.

    What counts as the answer, and how it is written, see :mod:`psn_tutorial.tasks.answers` and docs/grading.md.

    gold: the reference answer alone, a number or LaTeX. Fractions and symbols are compared exactly, numbers with a
        decimal point to 6 decimals, small ones to as many places behind their first digit.
    tolerance: how far a number may lie from it.

    Returns False for hostile text too, within 2 seconds of processor time. Works in any thread. Raises UserError when
    math-verify is not installed.
    """
    return VERIFIER.verify(response, gold, tolerance).correct


def verify_many(responses: Sequence[str], golds: Sequence[str]) -> list[bool]:
    """``verify_math`` of each response and its gold answer, several at the same time."""
    return [verdict.correct for verdict in VERIFIER.verify_many(responses, golds)]


# Problems


def load_problems(source: str, split: str | None = None, path: str | Path | None = None, **knobs: Any) -> list[Problem]:
    """The problems of ``source``: one of SOURCES from the hub, one of OWN, or with ``path`` those of a file.

    source: upper and lower case and hyphens do not matter ("MATH-500"). With ``path`` it is a name and no more.
    split: None is the usual one of a benchmark, and all of the own problems.
    path: JSON lines with the fields of any of these sets; see ``read_row``.
    knobs: of sums: steps, largest, distractors.

    Raises UserError for an unknown name or split, a file line that is wrong (by its number), an unreachable hub.
    """
    if path is not None:
        return read_problems(path, Math())
    name = _known(source)
    if name in OWN:
        return _own_problems(name, split, knobs)
    usual = SOURCES[name].splits[0]
    check_choice("split", split or usual, SOURCES[name].splits)
    rows = enumerate(_from_hub(name, split or usual), start=1)
    return Math().from_rows([(f"{name} row {number}", row) for number, row in rows])


def _name(source: str) -> str:
    return re.sub(r"[^a-z0-9]", "", source.lower())


def _known(source: str) -> str:
    """The name in OWN or SOURCES that ``source`` means. Raises UserError for none."""
    names = {_name(name): name for name in (*OWN, *SOURCES)}
    if _name(source) not in names:
        listed = ", ".join(names.values())
        raise UserError(f"source must be one of {listed}, got {source!r}{suggest(source, names.values())}")
    return names[_name(source)]


def _own_problems(name: str, split: str | None, knobs: Mapping[str, Any]) -> list[Problem]:
    problems = sums.generate(**SUMS, **knobs) if name == "sums" else read_problems(DATA / f"{name}.jsonl", Math())
    if split is None:
        return problems
    check_choice("split", split, OWN_SPLITS)
    return [p for number, p in enumerate(problems, start=1) if (number % EVERY == 0) is (split == "eval")]


def _from_hub(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    return hub_rows(name, SOURCES[name].hub, SOURCES[name].config, split)


def _comparable(
    rows: Sequence[tuple[str, Any]], problems: Sequence[Problem]
) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """Those whose reference answer is read as a whole. A warning names the others; UserError where all are others."""
    unclear = sorted({p.answer for p in problems if not re.fullmatch(NUMBER, p.answer)})
    reasons = dict(zip(unclear, VERIFIER.check_golds(unclear), strict=True))
    bad = [number for number, problem in enumerate(problems) if reasons.get(problem.answer)]
    if bad:
        answer = problems[bad[0]].answer
        first = f"{rows[bad[0]][0]}: the reference answer {shown(answer)} cannot be judged: {reasons[answer]}"
        if len(bad) == len(problems):
            raise UserError(f"{first}; nor can any other of the {len(bad)}")
        more = f", as {len(bad) - 1} more of the {len(problems)} are" if len(bad) > 1 else ""
        warnings.warn(f"{first}. The problem is left out{more}", UnclearAnswerWarning, stacklevel=4)
    kept = [number for number in range(len(problems)) if number not in set(bad)]
    return [rows[number] for number in kept], [problems[number] for number in kept]


# The task


@dataclass(frozen=True)
class Math(Task[Problem]):
    """Problems of ``load_problems`` as a ``Task`` (see :mod:`psn_tutorial.tasks.base`).

    source, split, path: what ``generate`` draws from, as for ``load_problems``.
    completion: tokens that an answer may have.
    worked: share of the demonstrations that show the solution; the others give the answer at once.
    style: of the answer that the prompt asks for, "steps" or "line" (see STYLES).
    examples: how many of EXAMPLES stand before the question, each with its answer in that style.
    sum_steps, sum_largest, sum_distractors: how hard the sums are, as for :func:`psn_tutorial.tasks.sums.generate`.
    """

    name: ClassVar[str] = "math"

    source: str = "word_problems"
    split: str | None = None
    path: str | None = None
    completion: int = 1024
    worked: float = 1.0
    style: str = "steps"
    examples: int = 0
    sum_steps: int = 0
    sum_largest: int = sums.HIGHEST
    sum_distractors: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("source", str), ("split", str | None), ("path", str | Path | None)):
            value = getattr(self, name)
            if not isinstance(value, kind) or value == "":
                raise UserError(f"{name} must be a text, got {shown(value)}")
        check_integer("completion", self.completion, 1, 10**6)
        check_range("worked", self.worked, low=0, high=1)
        check_choice("style", self.style, STYLES)
        check_integer("examples", self.examples, 0, len(EXAMPLES))
        check_integer("sum_steps", self.sum_steps, 0, sums.MOST_STEPS)
        check_integer("sum_largest", self.sum_largest, sums.LOWEST, 10**6)
        check_range("sum_distractors", self.sum_distractors, low=0, high=1)
        if self.path or _name(self.source) != "sums":
            for name in ("sum_steps", "sum_largest", "sum_distractors"):
                if getattr(self, name) != getattr(Math, name):
                    raise UserError(f"{name} must stay {getattr(Math, name)} for problems that are no sums")

    @property
    def base(self) -> str:
        """The shipped language model of these problems, if there is one: "sums"."""
        return self.source

    def generate(self, seed: int, count: int, exclude: Iterable[Problem] = ()) -> list[Problem]:
        """``count`` different problems of the source, in an order that the seed gives.

        Sums of no split are made on the spot, as many as are wanted (:func:`psn_tutorial.tasks.sums.generate`).
        """
        if not (self.split or self.path) and _known(self.source) == "sums":
            return sums.generate(seed, count, exclude, **self.knobs)
        taken = {self.asks(problem) for problem in exclude}
        pool = [p for p in self._loaded(self.source, self.split) if self.asks(p) not in taken]
        check_integer("count", count, 0, len(pool))
        check_seed(seed)
        return random.Random(seed).sample(pool, count)

    def problems(self, use: str) -> list[Problem]:
        """What to train on ("train") or to evaluate on ("eval"): ``split`` where it is given, else the usual ones.

        Raises UserError where the source has no such part: a benchmark is for evaluation.
        """
        if self.split or self.path:
            return self._loaded(self.source, self.split)
        name = _known(self.source)
        splits = OWN_SPLITS if name in OWN else SOURCES[name].splits
        wanted = ("train",) if use == "train" else ("eval", "test", "train")
        found = [split for split in wanted if split in splits]
        if not found:
            raise UserError(f"source must have problems to train on, got {self.source!r}, which has only {splits[0]}")
        return self._loaded(name, found[0])

    @property
    def knobs(self) -> dict[str, Any]:
        """How hard the sums are."""
        return {"steps": self.sum_steps, "largest": self.sum_largest, "distractors": self.sum_distractors}

    def _loaded(self, source: str, split: str | None) -> list[Problem]:
        return load_problems(source, split, self.path, **(self.knobs if _name(source) == "sums" else {}))

    def asks(self, problem: Problem) -> str:
        """The question alone, its case and spaces aside."""
        return folded(problem.question)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The conversation: what the system says, worked examples, the question."""
        style = STYLES[self.style]
        shown = [(self.prompt(example), style.answer.format(example)) for example in EXAMPLES[: self.examples]]
        turns = [{"role": role, "content": text} for pair in shown for role, text in zip(ROLES, pair, strict=True)]
        system = {"role": "system", "content": style.system}
        return [system, *turns, {"role": "user", "content": self.prompt(problem)}]

    def prompt(self, problem: Problem) -> str:
        """What the user asks; what the model reads is the whole conversation in its own chat template."""
        return STYLES[self.style].question.format(problem)

    def max_tokens(self, problem: Problem) -> int:
        return self.completion

    def answered(self, response: str) -> bool:
        """Is there a complete box, as the prompt asks?"""
        return last_box(response) is not None

    def strategy(self, response: str) -> float:
        """Share of the words that are numbers and signs: 1 of "3 + 4 = 7.", a quarter of "He has 7 pens."."""
        words = response.split()
        return sum(re.search(r"[A-Za-z]{2}", word.replace("\\boxed", "")) is None for word in words) / max(
            1, len(words)
        )

    def verify(self, response: str, problem: Problem) -> Verdict:
        """As ``verify_math``; the reason says what was read, or that the time ran out."""
        return self.verify_many([response], [problem])[0]

    def verify_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The verdict on each response, several at the same time."""
        golds, tolerances = [problem.answer for problem in problems], [problem.tolerance for problem in problems]
        return [
            Verdict(True, "", gold, gold) if verdict.correct else verdict
            for verdict, gold in zip(VERIFIER.verify_many(responses, golds, tolerances), golds, strict=True)
        ]

    def demonstration(self, problem: Problem, rng: random.Random) -> Demonstration:
        """The worked solution if ``worked`` will have it, then the boxed answer.

        Raises UserError if the problem brings no solution to show.
        """
        text = f"The answer is \\boxed{{{problem.answer}}}."
        if rng.random() < self.worked:
            if not problem.solution:
                raise UserError(f"problem {problem.id or problem.question[:40]!r} has no solution to demonstrate")
            text = re.sub(r"<<.*?>>", "", problem.solution) + f" {text}"  # without GSM8K's marks for a calculator
        words = text.split()
        return Demonstration(" ".join(words), loss=(True,) * len(words))

    def to_json(self, problem: Problem) -> dict[str, Any]:
        names = ["id", "level", "topic", "question", "solution", "answer"]
        fields = {name: value for name in names if (value := getattr(problem, name)) or name == "answer"}
        return fields | ({"error": problem.tolerance} if problem.tolerance else {})

    def from_json(self, fields: Mapping[str, Any], where: str) -> Problem:
        return read_row(fields, where)

    def from_rows(self, rows: Sequence[tuple[str, Any]]) -> list[Problem]:
        """Leaves out, with a warning, problems whose reference answer no answer can be compared with; also warns of a
        question that stands there twice with different answers.

        Raises UserError when no problem is left.
        """
        problems = super().from_rows(rows)
        rows, problems = _comparable(rows, problems)
        first: dict[Hashable, int] = {}
        places = [first.setdefault(self.asks(problem), number) for number, problem in enumerate(problems)]
        pairs = [(old, new) for new, old in enumerate(places) if problems[old].answer != problems[new].answer]
        if pairs:
            old, new = pairs[0]
            warnings.warn(
                f"{rows[new][0]} asks what {rows[old][0]} asks, and its answer is {shown(problems[new].answer)}, not "
                f"{shown(problems[old].answer)}" + (f"; {len(pairs) - 1} more do so" if len(pairs) > 1 else ""),
                ContradictionWarning,
                stacklevel=2,
            )
        return problems
