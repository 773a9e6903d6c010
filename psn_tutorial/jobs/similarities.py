"""Measure how alike the answers of a record are, once, where the sentence encoder is, and keep the figures.

    python -m psn_tutorial.jobs.similarities RECORD --encoder all-MiniLM-L6-v2 --out runs/similarity

RECORD is the folder of a run, of an experiment or of a comparison: every transcripts.jsonl in it is read. The new
folder holds similarity.jsonl (:mod:`psn_tutorial.evaluation.similarities`), config.json and provenance.json.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.similarities import FILE, Similarity, similarities
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.runs import transcripts
from psn_tutorial.runs.files import in_words, replace_file, write_json
from psn_tutorial.runs.provenance import provenance


def measure(
    record: str | Path, encoder: str, folder: str | Path, command: Sequence[str] | None = None
) -> list[Similarity]:
    """Write ``folder``; returns what stands in its similarity.jsonl, run after run.

    encoder: as :func:`psn_tutorial.models.encoders.sentence_encoder` takes it.

    Raises UserError: a record without transcripts, a folder that exists, an encoder that is not there.
    """
    record, folder, begin = Path(record), Path(folder), time.perf_counter()
    runs = sorted(path.parent for path in record.rglob(transcripts.FILE))
    if not runs:
        raise UserError(f"{record} must hold a {transcripts.FILE}, it has none")
    if folder.exists():
        raise UserError(f"{folder} exists: choose another folder")
    known = sentence_encoder(encoder)
    found = [
        group
        for run in runs
        for group in similarities(transcripts.read_transcripts(run), known, run.relative_to(record).as_posix())
    ]
    weights = Path(encoder) / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    settings = {"record": record.name, "encoder": Path(known.name).name, "encoder_sha256": sha256}
    origin = provenance(command) | {"wall_seconds": round(time.perf_counter() - begin, 1)}
    with in_words(folder, "it is not complete"):
        folder.mkdir(parents=True)
        write_json(folder / "config.json", settings)
        write_json(folder / "provenance.json", origin)
        replace_file(folder / FILE, "".join(json.dumps(asdict(group)) + "\n" for group in found).encode())
    return found


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", help="folder with transcripts.jsonl in it, or below it")
    parser.add_argument("--encoder", required=True, help="a name or a folder, as train --encoder takes it")
    parser.add_argument("--out", required=True, help="the folder to write")
    args = parser.parse_args(words)
    command = ["python", "-m", "psn_tutorial.jobs.similarities", *words]
    try:
        found = measure(args.record, args.encoder, args.out, command)
    except UserError as error:
        parser.error(str(error))
    print(f"{len(found)} groups: {args.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
