"""A real browser for tests that look at pages; they skip, and say why, where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium(what: str) -> Iterator[Any]:
    """Playwright's browser, closed at the end. what: what is not looked at without one."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"playwright is not installed: {what}")
    if CHROMIUM is None:
        pytest.skip(f"no Chromium on this machine: {what}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
