"""A command line, run in process, and a folder with a module of one's own."""

import sys
from typing import NamedTuple

import pytest

from psn_tutorial.cli import main
from psn_tutorial.jobs.policies import save_policy
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import build_model, build_tokenizer
from psn_tutorial.tasks import registry
from tests.cli.own_module import MODULE


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


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module, own_tasks.py, and a small random policy that knows its words: a function that writes
    another module, in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    before = set(sys.modules)

    def write(content, name="own_tasks"):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(content, encoding="utf-8")

    write(MODULE)
    tokenizer = build_tokenizer([*map(str, range(10)), "odd", "even"])
    save_policy(
        Policy(build_model(TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2), tokenizer), tokenizer), tmp_path / "base"
    )
    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "evil")):
            del sys.modules[name]
