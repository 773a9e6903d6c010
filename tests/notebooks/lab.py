"""JupyterLab in a real browser: open a notebook, run all cells, move its slider, see its figure. Minutes.

    python -m pytest tests/notebooks/lab.py

No part of `make test`: `make browser` runs it. NOTEBOOK=02_grpo_from_scratch chooses another notebook. Skipped where
there is no Chromium or no playwright.
"""

import os
import re
import subprocess
import sys

import nbformat
import pytest

from psn_tutorial.cli.notebooks import lay_out
from tests.browser import chromium

NOTEBOOK = os.environ.get("NOTEBOOK", "00_start_here")
MINUTES = 60_000  # milliseconds, as playwright counts


@pytest.fixture
def folder(tmp_path):
    """The notebooks as a reader gets them, the outputs of the one at hand cleared."""
    lay_out(tmp_path / "mine")
    path = tmp_path / "mine" / "notebooks" / f"{NOTEBOOK}.ipynb"
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, path)
    return path.parent


@pytest.fixture
def address(folder):
    """Where a server of JupyterLab, started in the folder, answers."""
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=secret", "--ServerApp.open_browser=False"]
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    words = [sys.executable, "-m", "jupyter", "lab", *options, *root, f"--ServerApp.root_dir={folder}"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            for line in server.stderr:
                if found := re.search(r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab", line):
                    break
            else:
                pytest.fail("JupyterLab did not start")
            yield found[1]
        finally:
            server.terminate()


@pytest.fixture
def page():
    with chromium("JupyterLab is not looked at") as browser:
        found = browser.new_page(viewport={"width": 1280, "height": 1000})
        found.set_default_timeout(5 * MINUTES)
        yield found


def run_all(page):
    """Choose "Run All Cells" once the kernel is there."""
    page.wait_for_function("document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def outputs_when_done(page, path, minutes=30):
    """The outputs of all cells, from the file, which is saved every five seconds until the last cell has run."""
    for _ in range(minutes * 12):
        page.wait_for_timeout(5_000)
        page.keyboard.press("Control+s")
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        if all(cell.execution_count for cell in cells):
            return outputs
    pytest.fail(f"after {minutes} minutes {sum(not cell.execution_count for cell in cells)} cells have not run")


def scroll_to(page, selector):
    """The first such element; JupyterLab draws only the cells in sight."""
    panel = page.locator(".jp-WindowedPanel-outer").first
    panel.evaluate("element => element.scrollTo(0, 0)")
    for _ in range(300):
        if page.locator(selector).count():
            return page.locator(selector).first
        panel.evaluate("element => element.scrollBy(0, 400)")
        page.wait_for_timeout(100)
    pytest.fail(f"{selector} did not come into sight")


def test_it_runs_in_jupyterlab(folder, address, page):
    path = folder / f"{NOTEBOOK}.ipynb"
    page.goto(f"{address}/lab/tree/{path.name}?token=secret&reset")
    run_all(page)
    outputs = outputs_when_done(page, path)
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    figure = scroll_to(page, ".jp-OutputArea-output img")
    page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=figure.element_handle())
    if any("widget-view" in kind for kind in kinds):
        slider = scroll_to(page, ".widget-slider .noUi-handle")
        before = slider.get_attribute("aria-valuenow")
        slider.press("ArrowRight")
        page.wait_for_function("([e, old]) => e.ariaValueNow != old", arg=[slider.element_handle(), before])
