"""Rollouts as a table that can be read: prompt, verdict, advantage, weight, and the answer, token by token.

In a notebook a :class:`RolloutTable` shows itself as a table, in a terminal as text. What a colour says, a number, a
line and a sign say too, and the colours are thin layers over the page's own, dark or light.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import short
from psn_tutorial.reporting.side_by_side import MARKS, templates
from psn_tutorial.rollout import Rollouts

STEPS = {  # what is shaded -> the values at which a shade gets deeper
    "weight": (1.1, 2.0, 4.0, 10.0),  # as factors, up or down
    "KL": (0.01, 0.1, 0.5, 2.0),  # nats
}


class Judged(Protocol):
    """A verdict of a task, or a transcript of a record."""

    correct: bool
    reason: str


class Token(NamedTuple):
    """A token, its value ("" where there is nothing to say of it), its shade from -4 to 4."""

    text: str
    value: str = ""
    shade: int = 0


@dataclass(frozen=True)
class Row:
    """One rollout. advantage, weight: as text, "" where there is none."""

    prompt: str
    verdict: Judged
    tokens: tuple[Token, ...]
    advantage: str = ""
    weight: str = ""


@dataclass(frozen=True)
class RolloutTable:
    """What :func:`rollout_table` returns. shaded: "weight", "KL" or "" for no shades."""

    rows: tuple[Row, ...]
    shaded: str = ""

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """Neighbouring rows of one prompt stand together."""
        return [(prompt, list(rows)) for prompt, rows in groupby(self.rows, lambda row: row.prompt)]

    @property
    def note(self) -> str:
        """What the shades mean."""
        if self.shaded == "weight":
            return (
                "Below a token its importance weight, where it is not 1 to a tenth: brown over a dashed line below 1, "
                "green over a solid line above 1."
            )
        if self.shaded == "KL":
            return "Below a token its part of the KL in nats, from .01: the more, the deeper the shade and the line."
        return ""

    def __str__(self) -> str:
        lines = []
        for prompt, rows in self.groups:
            lines.append(prompt)
            for row in rows:
                facts = [f"A {row.advantage}"] * bool(row.advantage) + [f"w {row.weight}"] * bool(row.weight)
                words = " ".join(f"{' '.join(t.text.split())}{f'({t.value})' if t.value else ''}" for t in row.tokens)
                why = f"  [{row.verdict.reason}]" if row.verdict.reason else ""
                lines.append("  ".join([f"  {MARKS[row.verdict.correct]}", *facts, words]) + why)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return templates().get_template("rollout_table.html").render(table=self, styles=STYLES)


# Colours of ColorBrewer's BrBG, which no arm has; see-through, so that the page's own text stays legible on them.
BELOW, ABOVE = "140, 81, 10", "1, 140, 125"
STYLES = {0: ""} | {
    sign * depth: f"background: rgba({colour}, {0.12 * depth:.2f}); border-bottom: {depth}px {line} rgb({colour})"
    for sign, colour, line in ((-1, BELOW, "dashed"), (1, ABOVE, "solid"))
    for depth in (1, 2, 3, 4)
}


def rollout_table(
    prompts: Sequence[str],
    answers: Sequence[str] | Sequence[Sequence[str]],
    verdicts: Sequence[Judged],
    advantages: Any = None,
    weights: Any = None,
    kl: Any = None,
    rows: Sequence[int] | None = None,
) -> RolloutTable:
    """B rollouts as a table; tokens are shaded by ``kl`` if it is given, else by ``weights``.

    Args:
        prompts: B texts; neighbours with one prompt are shown as a group.
        answers: B texts, or B lists of tokens (:func:`token_texts`), which shades need.
        verdicts: B of them, each with ``correct`` and ``reason``: of ``task.verify``, or transcripts of a record.
        advantages: [B], or [P, G] with P G = B.
        weights: [B, T] importance weights, as ``importance_weights(...).weights``; a row's column shows their mean.
        kl: [B, T] each token's part of the KL in nats, which may be negative.
        rows: which of the B to show, in this order; all of them if None.

    Raises:
        UserError: lengths that differ, shades of texts that are not split into tokens, a row that is not there.
    """
    count, shaded = len(prompts), "KL" if kl is not None else "weight" if weights is not None else ""
    given = {"answers": answers, "verdicts": verdicts, "weights": _lists(weights), "kl": _lists(kl)}
    given["advantages"] = _flat(_lists(advantages))
    for name, value in given.items():
        if value is not None and len(value) != count:
            raise UserError(f"{name} must hold one entry for each of the {count} prompts, got {len(value)}")
    if shaded and any(isinstance(answer, str) for answer in answers):
        raise UserError(f"answers must be lists of tokens to be shaded by {shaded}; token_texts gives them")
    shown = range(count) if rows is None else rows
    if wrong := [i for i in shown if not 0 <= i < count]:
        raise UserError(f"rows must be 0 to {count - 1}, got {wrong[0]}")
    every = [given[name] or [None] * count for name in ("answers", "advantages", "weights", "kl")]
    return RolloutTable(tuple(_row(i, prompts[i], verdicts[i], *(v[i] for v in every)) for i in shown), shaded)


def token_texts(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[list[str]]:
    """The B completions as lists of their tokens, each as text, the end token with them: as many as its mask has."""
    lengths = rollouts.mask.sum(1).tolist()
    rows = zip(rollouts.tokens.tolist(), lengths, strict=True)
    return [[tokenizer.decode([token]) for token in row[:length]] for row, length in rows]


def _row(
    i: int,
    prompt: str,
    verdict: Judged,
    answer: str | Sequence[str],
    advantage: float | None,
    weights: Sequence[float] | None,
    kl: Sequence[float] | None,
) -> Row:
    texts = [answer] if isinstance(answer, str) else answer
    tokens = tuple(map(Token, texts))
    for name, values in (("weight", weights), ("KL", kl)):  # the KL last: it is what is shaded
        if values is not None:
            if len(values) < len(texts):
                raise UserError(f"{name} of row {i} must cover its {len(texts)} tokens, got {len(values)}")
            tokens = tuple(_token(text, values[t], name) for t, text in enumerate(texts))
    mean = "" if weights is None else _value(sum(weights[: len(texts)]) / max(len(texts), 1))
    return Row(prompt, verdict, tokens, "" if advantage is None else f"{advantage:+.2f}", mean)


def _token(text: str, value: float, shaded: str) -> Token:
    """With its value and shade, where the value reaches the first step."""
    size = abs(value) if shaded == "KL" else math.exp(abs(math.log(value))) if value > 0 else math.inf
    depth = sum(size >= step for step in STEPS[shaded])
    above = value > (0 if shaded == "KL" else 1)
    return Token(text, _value(value) if depth else "", depth if above else -depth)


def _value(value: float) -> str:
    """Two decimals, or an exponent where they would show nothing."""
    return short(value, ".2f" if abs(value) >= 0.005 or value == 0 else ".0e")


def _lists(value: Any) -> Any:
    """Tensors and arrays as nested lists, whose entries are Python's numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _flat(value: Any) -> Any:
    """[P, G] as [P G]."""
    nested = value is not None and any(isinstance(entry, list | tuple) for entry in value)
    return [entry for row in value for entry in row] if nested else value
