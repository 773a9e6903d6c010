"""Similarities of transcripts against cosines by hand; the shipped record against its transcripts and its encoder."""

import json
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.similarities import read_similarities, similarities
from psn_tutorial.jobs.similarities import main, measure
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.runs.transcripts import Transcript, read_transcripts, write_transcripts

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "runs" / "qwen-similarity"


def transcript(answer, step=0, sampler="clean", problem=0, correct=False):
    return Transcript(step, sampler, 0.0, 1.0, problem, "a question", "1", answer, correct, "")


# Cosines of word counts: a a / a b -> 2 / (2 sqrt 2) = .7071; a / a -> 1; a / b -> 0.
GIVEN = [
    transcript("a a"),
    transcript("a b", correct=True),
    transcript("a", problem=1),
    transcript(" a ", problem=1),
    transcript("a", sampler="exploring", step=8),
    transcript("b", sampler="exploring", step=8),
]
FOUND = [
    ("psn", 0, "clean", 0, 2, 2, 1, 0.7071),
    ("psn", 0, "clean", 1, 2, 1, 0, 1.0),
    ("psn", 8, "exploring", 0, 2, 2, 0, 0.0),
]


def test_groups_are_told_apart_and_measured_by_hand():
    assert [*map(astuple, similarities(GIVEN, sentence_encoder("bag-of-words"), "psn"))] == FOUND


def test_what_cannot_be_measured_is_refused(tmp_path):
    encoder = sentence_encoder("bag-of-words")
    with pytest.raises(UserError, match="transcripts must hold at least one answer, got none"):
        similarities([], encoder)
    with pytest.raises(UserError, match="group must be"):
        similarities(GIVEN[:1], encoder)
    with pytest.raises(UserError, match=r"must hold a transcripts.jsonl, it has none"):
        measure(tmp_path, "bag-of-words", tmp_path / "new")
    (tmp_path / "run").mkdir()
    write_transcripts(tmp_path / "run", GIVEN)
    with pytest.raises(UserError, match="exists: choose another folder"):
        measure(tmp_path, "bag-of-words", tmp_path / "run")


def test_the_command_measures_every_run_of_a_record_and_says_how(tmp_path, capsys):
    for run in ("psn/seed-0", "psn/seed-1"):
        (tmp_path / "record" / run).mkdir(parents=True)
        write_transcripts(tmp_path / "record" / run, GIVEN)
    out = tmp_path / "new" / "similarity"
    main([str(tmp_path / "record"), "--encoder", "bag-of-words", "--out", str(out)])
    assert capsys.readouterr().out.startswith("6 groups: ")
    found = read_similarities(out)
    assert [astuple(group)[1:] for group in found] == [row[1:] for row in FOUND] * 2
    assert [group.run for group in found] == ["psn/seed-0"] * 3 + ["psn/seed-1"] * 3
    config = json.loads((out / "config.json").read_text())
    assert config == {"record": "record", "encoder": "bag-of-words", "encoder_sha256": None}
    assert json.loads((out / "provenance.json").read_text())["command"][:3] == [
        "python",
        "-m",
        "psn_tutorial.jobs.similarities",
    ]


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no similarity.jsonl"):
        read_similarities(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--encoder", "bag-of-words", "--out", str(tmp_path / "new")])
    assert ended.value.code == 2 and "must hold a transcripts.jsonl, it has none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_shipped_record_fits_its_transcripts():
    groups = read_similarities(RECORD)
    record = ROOT / "data" / "runs" / json.loads((RECORD / "config.json").read_text())["record"]
    for run in {group.run for group in groups}:
        by_words = similarities(read_transcripts(record / run), sentence_encoder("bag-of-words"), run)
        assert [astuple(g)[:-1] for g in groups if g.run == run] == [astuple(g)[:-1] for g in by_words]
    assert all(group.similarity == 1 for group in groups if group.different == 1)
    assert Counter(group.answers for group in groups) == {4: len(groups)}


def test_the_shipped_record_is_what_the_encoder_gives():
    """Where MiniLM is, on a few groups."""
    name = json.loads((RECORD / "config.json").read_text())["encoder"]
    try:
        encoder = sentence_encoder(name)
    except UserError as error:
        pytest.skip(str(error))
    groups = [group for group in read_similarities(RECORD) if group.run == "qwen/psn/seed-0"][:8]
    record = ROOT / "data" / "runs" / "qwen" / "qwen" / "psn" / "seed-0"
    found = similarities(read_transcripts(record)[:32], encoder)
    assert [g.similarity for g in found] == pytest.approx([g.similarity for g in groups], abs=1e-3)
