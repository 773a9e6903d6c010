"""The crawler notices what it is there to notice."""

import pytest

from tests.docs.crawler import Page, broken, fetched, read

GOOD = '<html><body id="top"><a href="other.html#there">x</a><a href="#top">y</a><img src="a%20b.png"></body></html>'
OTHER = '<html><a name="there"></a><a href="https://example.org/">far</a><a href="mailto:a@example.org">m</a></html>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "other.html").write_text(OTHER)
    (tmp_path / "a b.png").write_bytes(b"")
    return tmp_path


def test_a_whole_site_has_nothing_broken_and_fetches_nothing(site):
    assert list(broken(site, read(site))) == [] == list(fetched(site, read(site)))


@pytest.mark.parametrize(
    "html",
    [
        '<a href="gone.html">x</a>',
        '<a href="other.html#gone">x</a>',
        '<a href="#gone">x</a>',
        '<a href="../outside.html">x</a>',
        '<img src="gone.png"/>',
        '<script src="gone.js"></script>',
        '<link rel="stylesheet" href="gone.css">',
        '<link rel="next" href="gone.html">',
        '<p style="background: url(gone.png)">x</p>',
    ],
)
def test_what_is_not_there_is_told(site, html):
    (site.parent / "outside.html").write_text("")
    (site / "index.html").write_text(html)
    assert len(list(broken(site, read(site)))) == 1


def test_a_style_sheet_is_read_too(site):
    (site / "site.css").write_text("a { background: url('gone.png') } b { background: url(data:image/png;base64,x) }")
    assert list(broken(site, read(site))) == ["site.css: gone.png"]
    (site / "site.css").write_text('@import "https://example.org/x.css";')
    assert list(fetched(site, read(site))) == ["site.css: https://example.org/x.css"]


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/x.js"></script>',
        '<script src="//example.org/x.js"></script>',
        '<link rel="preconnect" href="https://example.org">',
        '<img srcset="https://example.org/x.png 2x" src="a.png">',
        "<style>@import url(https://example.org/x.css)</style>",
        '<iframe src="http://example.org"></iframe>',
    ],
)
def test_what_would_be_fetched_is_told(site, html):
    (site / "index.html").write_text(html)
    assert len(list(fetched(site, read(site)))) == 1


def test_a_link_to_elsewhere_is_a_link_and_nothing_loaded():
    page = Page(OTHER)
    assert page.links == ["https://example.org/", "mailto:a@example.org"] and page.loads == []
