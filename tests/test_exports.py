"""The names that ``psn_tutorial`` itself offers: the modules' own, loaded when asked for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import psn_tutorial
from psn_tutorial.cli import COMMANDS


@pytest.mark.parametrize("name", psn_tutorial.__all__)
def test_an_exported_name_is_the_modules_own(name):
    module = importlib.import_module(f"psn_tutorial.{psn_tutorial._MODULE[name]}")
    assert getattr(psn_tutorial, name) is getattr(module, name)
    assert getattr(module, name).__doc__
    assert name in dir(psn_tutorial)


def test_no_name_is_also_that_of_a_submodule():
    """The import of the submodule would replace the function under the same name."""
    modules = {path.stem for path in Path(psn_tutorial.__file__).parent.iterdir()}
    assert not modules & set(psn_tutorial.__all__)


READERS = (
    "import psn_tutorial",
    "import psn_tutorial.evaluation",
    "from psn_tutorial.runs.folder import RunFolder; RunFolder.open('data/runs/base-rules').steps()",
    "from psn_tutorial.jobs.records import RunRecord; RunRecord.read('data/runs/base-rules').steps",
    "from psn_tutorial import read_comparison; read_comparison('data/runs/qlora').to_json()",
    "from psn_tutorial.reporting.tables import tables",
    "from psn_tutorial.reporting import readme; readme.results_in_markdown()",
    "from psn_tutorial.cli import main; main(['--help'])",
    *(f"from psn_tutorial.cli import main; main([{command!r}, '--help'])" for command in COMMANDS),
)


@pytest.mark.parametrize("code", READERS)
def test_help_and_reading_records_load_neither_torch_nor_transformers(code):
    """They take seconds to import."""
    code += "; import sys; print('loaded', sorted({'torch', 'transformers'} & set(sys.modules)))"
    root = Path(psn_tutorial.__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert shown.stdout.splitlines()[-1] == "loaded []"


def test_a_name_that_is_not_there_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="module 'psn_tutorial' has no attribute 'perturb'"):
        _ = psn_tutorial.perturb
    with pytest.raises(ImportError):
        exec("from psn_tutorial import perturb")


def test_names_of_the_design_that_stand_elsewhere_are_reachable_where_it_says():
    from psn_tutorial import evaluation
    from psn_tutorial.evaluation import intervals

    assert evaluation.paired_difference is intervals.paired_difference is psn_tutorial.paired_difference
