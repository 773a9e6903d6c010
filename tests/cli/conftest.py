"""A command line, run in process."""

from typing import NamedTuple

import pytest

from psn_tutorial.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def psn(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run
