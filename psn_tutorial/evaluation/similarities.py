"""How alike are the answers that a record holds, to a sentence encoder? One line per group, similarity.jsonl.

It is the signal that Variant II of the paper reads at every step (:func:`psn_tutorial.signals.semantic_similarity`),
measured afterwards on transcripts, so that an encoder is needed once and not by everyone who looks at its figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from psn_tutorial.errors import UserError
from psn_tutorial.models.encoders import SentenceEncoder
from psn_tutorial.runs.files import read_lines
from psn_tutorial.runs.transcripts import Transcript
from psn_tutorial.signals import semantic_similarity

FILE = "similarity.jsonl"


@dataclass(frozen=True)
class Similarity:
    """Of one group: the answers of one sampler to one problem.

    run: whose transcripts they are, such as "psn/seed-0".
    step, sampler, problem: as in :class:`psn_tutorial.runs.transcripts.Transcript`.
    answers, different, right: how many answers; how many of them differ in their words; how many are right.
    similarity: mean cosine similarity of the pairs of answers, -1 to 1.
    """

    run: str
    step: int
    sampler: str
    problem: int
    answers: int
    different: int
    right: int
    similarity: float


def similarities(transcripts: Sequence[Transcript], encoder: SentenceEncoder, run: str = "") -> list[Similarity]:
    """One :class:`Similarity` for each group of a run's transcripts, in their order; the similarity has 4 digits.

    Raises UserError: no transcript, or a group of a single answer.
    """
    if not transcripts:
        raise UserError("transcripts must hold at least one answer, got none")
    embeddings, start, found = encoder.encode([t.answer for t in transcripts]), 0, []
    for key, group in groupby(transcripts, lambda t: (t.step, t.sampler, t.problem)):
        group = list(group)
        alike = semantic_similarity(embeddings[start : start + len(group)], len(group))
        different = len({" ".join(t.answer.split()) for t in group})
        found.append(Similarity(run, *key, len(group), different, sum(t.correct for t in group), round(alike, 4)))
        start += len(group)
    return found


def read_similarities(folder: str | Path) -> list[Similarity]:
    """The file similarity.jsonl of a folder. Raises UserError where there is none, and for a wrong line, naming it."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}")
    return read_lines(path, Similarity)
