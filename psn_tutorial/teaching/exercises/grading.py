"""How an exercise is graded: every case against the oracle, the first fault in one sentence."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grade:
    """What became of a reader's function.

    Attributes:
        passed: every case came out right; also the truth of the grade itself.
        message: one sentence; what ``print`` shows.
    """

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Attributes:
        oracle: the right answer, computed independently of the library; its parameters are the
            function's, its docstring says what the function must do.
        cases: tuples of arguments, the plainest first.
        mistakes: what it looks like -> a function that makes just this mistake.
        rtol, atol: how close an answer must be.
    """

    oracle: Callable[..., Any]
    cases: Sequence[tuple[Any, ...]]
    mistakes: Mapping[str, Callable[..., Any]]
    rtol: float = 1e-5
    atol: float = 1e-7

    @property
    def task(self) -> str:
        """What the function must do."""
        return inspect.getdoc(self.oracle)

    def close(self, got: Tensor, wanted: Tensor) -> Tensor:
        """Entry by entry: near enough? Tensors of one shape -> bool."""
        return torch.isclose(got, wanted, rtol=self.rtol, atol=self.atol, equal_nan=True)


def grade(name: str, exercise: Exercise, function: Callable[..., Any]) -> Grade:
    """Run the function on every case up to its first fault."""
    for case in exercise.cases:
        wanted = _numbers(exercise.oracle(*deepcopy(case)))
        call = f"{name}({_arguments(exercise, case)})"
        entry = f"{call} must be {_shown(wanted)}"
        try:
            result = function(*deepcopy(case))  # a copy: it may change its arguments
        except NotImplementedError:
            return Grade(False, f"not yet: {entry}, got NotImplementedError")
        except (Exception, SystemExit) as error:
            return Grade(False, f"{entry}, but it raised {_told(error)}")
        if result is None or result is ...:
            return Grade(False, f"not yet: {entry}, got {'...' if result is ... else 'None'}")
        try:
            got = _numbers(result)
        except Exception:
            return Grade(False, f"{entry}, got a {type(result).__name__} that is not made of numbers")
        if got.shape != wanted.shape:
            return Grade(False, f"{entry} ({_form(wanted)}), got {_form(got)}")
        close = exercise.close(got, wanted)
        if not close.all():
            hint = _hint(exercise, function)
            if wanted.dim():
                first = tuple((~close).nonzero()[0].tolist())
                entry = f"entry {list(first)} of {call} must be {_shown(wanted[first])}"
                got = got[first]
            return Grade(False, f"{entry}, got {_shown(got)}{f': {hint}' if hint else ''}")
    return Grade(True, f"passed: {name} is right in all {len(exercise.cases)} cases")


def _hint(exercise: Exercise, function: Callable[..., Any]) -> str:
    """The known mistake that gives the same as the function in every case, or ""."""
    try:
        answers = [_numbers(function(*deepcopy(case))) for case in exercise.cases]
        for description, mistake in exercise.mistakes.items():
            same = [_numbers(mistake(*deepcopy(case))) for case in exercise.cases]
            if all(a.shape == s.shape and exercise.close(a, s).all() for a, s in zip(answers, same, strict=True)):
                return description
    except (Exception, SystemExit):  # the function crashes in a later case
        pass
    return ""


def _numbers(result: Any) -> Tensor:
    """A number, array, tensor or nested list of them as a float64 tensor; raises for anything else."""
    if isinstance(result, list | tuple):
        return torch.stack([_numbers(entry) for entry in result]) if result else torch.zeros(0).double()
    if isinstance(result, np.ndarray):
        result = torch.tensor(result)
    if isinstance(result, Tensor) and not result.is_complex():
        return result.detach().to_dense().to(torch.float64).cpu()
    if isinstance(result, str | bytes | complex | Tensor | np.complexfloating):
        raise TypeError("not a real number")
    return torch.tensor(float(result), dtype=torch.float64)


def _arguments(exercise: Exercise, case: tuple[Any, ...]) -> str:
    names = inspect.signature(exercise.oracle).parameters
    return ", ".join(f"{name}={_shown(value)}" for name, value in zip(names, case, strict=True))


def _shown(value: Any) -> str:
    """Numbers to six digits, tensors as nested lists, truth values as 0 and 1."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value + 0:.6g}"


def _form(value: Tensor) -> str:
    return f"the shape {list(value.shape)}" if value.dim() else "one number"


def _told(error: BaseException) -> str:
    """The error's kind and its first line."""
    try:
        text = str(error).strip().splitlines()
    except Exception:
        text = []
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
