"""The documentation site: built once, crawled, and looked at in a browser where the machine has one."""

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from tests.browser import chromium
from tests.docs.crawler import broken, fetched, read, remote

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOSTS = {"arxiv.org", "github.com", "huggingface.co", "keepachangelog.com", "semver.org", "pradyunsg.me"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as ``make docs`` builds it: with a warning it would not be there."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, str(ROOT / "docs" / "build.py"), str(folder)]
    # a proxy that does not exist: whatever asks the network fails
    nowhere = {name: "http://localhost:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    built = subprocess.run(words, capture_output=True, text=True, env=os.environ | nowhere, timeout=1800)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return read(site)


def text_of(page):
    """What a reader sees of a page, blanks left out."""
    return re.sub(r"\s+", "", unescape(re.sub(r"<[^>]+>", "", page.text)))


def test_no_link_is_broken(site, pages):
    assert len(pages) > 100
    assert list(broken(site, pages)) == []


def test_nothing_is_fetched_from_elsewhere(site, pages):
    assert list(fetched(site, pages)) == []


def test_links_to_elsewhere_are_few_and_known(pages):
    urls = {url for page in pages.values() for url in page.links if remote(url)}
    assert {urlsplit(url).netloc for url in urls} <= HOSTS


def test_every_page_can_be_reached_from_the_first(site, pages):
    seen, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in seen or path not in pages:
            continue
        seen.add(path)
        targets = [urlsplit(url) for url in pages[path].links if not remote(url)]
        waiting += [(path.parent / target.path).resolve() for target in targets if target.path]
    unreached = {str(path.relative_to(site)) for path in pages.keys() - seen}
    assert unreached <= {"search.html", "_modules/index.html"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_stands_there_with_its_stored_outputs(site, pages, notebook):
    page = pages[site / "notebooks" / f"{notebook.stem}.html"]
    text, pictures = text_of(page), 0
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            pictures += "image/png" in output.get("data", {})
            if output.output_type == "stream" and "\x1b" not in output.text and "\r" not in output.text:
                assert re.sub(r"\s+", "", output.text) in text
    assert page.text.count('src="../_images/') >= pictures


def test_every_function_and_every_test_of_the_index_is_linked(site, pages):
    from psn_tutorial.teaching.paper import INDEX

    links = {*pages[site / "paper_to_code.html"].links, *pages[site / "faq.html"].links}
    for entry in INDEX:
        module = f"psn_tutorial.{entry.module}"
        assert f"reference/{module}.html#{module}.{entry.function.partition(':')[2]}" in links, entry
        assert f"checks.html#{entry.test.partition('::')[2].replace('_', '-')}" in links, entry


def test_the_code_of_a_function_is_one_click_away(site, pages):
    page = pages[site / "reference" / "psn_tutorial.importance.html"]
    assert "../_modules/psn_tutorial/importance.html#importance_weights" in page.links


def test_the_search_knows_notebooks_pages_and_docstrings(site):
    script = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))
    assert {"notebooks/00_start_here", "glossary", "reference/psn_tutorial.noise"} <= set(index["docnames"])
    assert "importance_weights" in json.dumps(index["objects"]) and "bfloat16" in index["terms"]


# In a browser


@pytest.fixture(scope="module")
def browser():
    with chromium("no page is looked at") as found:
        yield found


@pytest.fixture
def opened(browser):
    """An empty page, and what went wrong on it or was asked from elsewhere."""
    page, troubles = browser.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url)
    )
    yield page, troubles
    page.close()


PICTURES_SHOWN = "Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)"
TOO_WIDE = """() => Array.from(document.querySelectorAll('article *')).filter(e => {
    for (let p = e; p && p.tagName != 'ARTICLE'; p = p.parentElement)
        if (getComputedStyle(p).overflowX != 'visible' || p.closest('mjx-assistive-mml')) return false;
    return e.getBoundingClientRect().right > window.innerWidth + 1;
}).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_reads_on_a_phone_and_on_a_screen(site, opened, notebook):
    page, troubles = opened
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        if width == 1280:
            page.goto((site / "notebooks" / f"{notebook.stem}.html").as_uri())
            page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
            page.evaluate("MathJax.startup.promise.then(() => true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate(PICTURES_SHOWN)
    formulas, set_formulas = page.locator(".math").count(), page.locator(".math mjx-container").count()
    assert set_formulas >= formulas > 0 and page.locator("mjx-merror").count() == 0
    assert troubles == []


def test_the_search_finds(site, opened):
    page, troubles = opened
    page.goto((site / "search.html").as_uri() + "?q=truncated")
    page.wait_for_selector("#search-results li")
    assert page.locator("#search-results li").count() > 2
