"""The answers themselves, transcripts.jsonl: what a policy wrote, and what the verifier said of it.

One line is one answer:

    {"step": 0, "sampler": "clean", "sigma": 0.0, "temperature": 1.0, "problem": 3, "question": "Anna has ...",
     "reference": "14", "answer": "12 + 7 - 5 = 14. \\boxed{14}", "correct": true, "reason": ""}

Counts say how often a policy is right; only its words say how it goes about it. Every run of an experiment is asked the
same questions, so that the lines of two arms, or of one before and after, can be read side by side.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from psn_tutorial.runs.files import read_lines, replace_file

FILE = "transcripts.jsonl"
SAMPLERS = ("clean", "exploring")


@dataclass(frozen=True)
class Transcript:
    """One answer.

    step: training steps that the policy had taken.
    sampler: "clean", the policy itself, or "exploring", what training samples from: with noise, or hotter.
    sigma, temperature: of the sampler.
    problem: its place among the held-out problems, from 0.
    question, reference, answer: as text; the answer without its end token.
    correct, reason: the verifier's verdict.
    """

    step: int
    sampler: str
    sigma: float
    temperature: float
    problem: int
    question: str
    reference: str
    answer: str
    correct: bool
    reason: str


def write_transcripts(run: str | Path, transcripts: Iterable[Transcript]) -> None:
    """Write the file of a run folder, replacing it as a whole. Raises UserError when it cannot be written."""
    lines = [json.dumps(asdict(transcript), ensure_ascii=False) + "\n" for transcript in transcripts]
    replace_file(Path(run) / FILE, "".join(lines).encode())


def read_transcripts(run: str | Path) -> list[Transcript]:
    """All answers of a run folder, in the order in which they were written; [] where none are kept.

    Raises UserError, naming the line, when the file is wrong.
    """
    return read_lines(Path(run) / FILE, Transcript)
