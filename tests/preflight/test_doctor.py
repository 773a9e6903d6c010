"""The doctor looks, tells, and never fails."""

import json
import re
import tomllib
import urllib.request
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from psn_tutorial.cli import main
from psn_tutorial.preflight import machine as doctor
from psn_tutorial.preflight.findings import Finding, show
from psn_tutorial.preflight.machine import EXTRAS, PINNED, examine

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def finding(name, found=None):
    (one,) = [f for f in found or examine(online=False) if f.name == name]
    return one


def test_what_is_looked_at_is_required_by_pyproject():
    for name in PINNED:
        assert any(re.match(rf"{name}\b.*>=.*<", d) for d in PROJECT["dependencies"])
    for package, (extra, _) in EXTRAS.items():
        assert any(re.match(rf"{package}\b", d) for d in PROJECT["optional-dependencies"][extra])
    assert PROJECT["requires-python"] == ">=3.11"


def test_this_machine_can_run_the_demo(capsys):
    assert main(["doctor", "--offline"]) == 0
    out = capsys.readouterr().out
    assert "psn-tutorial compare --preset quick" in out and "! " not in out
    assert f"torch                     {metadata.version('torch')}" in out
    assert "base policy of rules      shipped" in out and "200 eval, 4000 train" in out
    assert "model hub" not in out


def test_json(capsys):
    assert main(["doctor", "--offline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {tuple(f) for f in found} == {("name", "value", "state", "advice")}
    assert {f["state"] for f in found} <= {"good", "absent"}


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.10.1", "bad"),
        ("2.11.0", "good"),
        ("2.13.0+cpu", "good"),
        ("2.14.0rc1", "bad"),
        ("2.14.0", "bad"),
        ("3.0", "bad"),
    ],
)
def test_a_version_outside_the_range_is_in_the_way(monkeypatch, version, state):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "torch" else real(name))
    one = finding("torch")
    assert one.state == state
    if state == "bad":
        assert one.value == f"{version}, outside >=2.11,<2.14" and 'pip install "torch>=2.11,<2.14"' in one.advice


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    found = examine(online=False)
    assert finding("transformers", found).state == "bad"
    assert finding("trl", found).state == "absent"
    assert finding("trl", found).advice.endswith('pip install "psn-tutorial[trl]" brings trl.')


def test_missing_data_is_in_the_way(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("psn_tutorial.tasks.files.DATA", tmp_path)
    found = examine(online=False)
    problems, base = finding("problems of rules", found), finding("base policy of rules", found)
    assert problems.state == base.state == "bad"
    assert "install from a clone" in problems.advice and "psn-tutorial pretrain --task rules" in base.advice
    assert show(found) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Fix what is marked ! first."


def test_little_memory_and_a_full_disk(monkeypatch):
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 200_000)
    one = finding("memory")
    assert (one.value, one.state) == ("0.8 GiB", "bad")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("U", (), {"free": 2**26})())
    assert finding("disk here").state == "bad"


def test_more_threads_than_cores_are_slow(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1000)
    one = finding("threads of torch")
    assert one.state == "absent" and "set OMP_NUM_THREADS=" in one.advice


def test_a_look_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(doctor, "_memory", broken)
    found = examine(online=False)
    assert finding("broken", found) == Finding("broken", "could not be looked at (no such thing here)", "absent")
    assert finding("torch", found).state == "good"


@pytest.fixture
def asked(monkeypatch):
    """Who was asked; nothing leaves this machine."""
    calls = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)

    def install(answer):
        def urlopen(request, timeout):
            calls.append((request.full_url, request.get_method(), timeout))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return calls

    return install


class Answer:
    def close(self):
        pass


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (Answer(), "answers"),
        (HTTPError("u", 403, "no", {}, None), "answers"),
        (URLError("Name or service not known"), "does not answer (Name or service not known)"),
        (TimeoutError("timed out"), "does not answer (timed out)"),
        (ValueError("unknown url type"), "does not answer (unknown url type)"),
    ],
)
def test_the_hub_is_asked_once_and_briefly(asked, answer, value):
    calls = asked(answer)
    one = finding("model hub", examine())
    assert one.value == value and one.state == ("good" if value == "answers" else "absent")
    assert [(url, method) for url, method, _ in calls] == [("https://huggingface.co", "HEAD")]
    assert calls[0][2] <= 3


def test_the_hub_is_not_asked_offline(asked, monkeypatch):
    calls = asked(Answer())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert finding("model hub", examine()).value == "not asked: HF_HUB_OFFLINE is set"
    assert calls == []
