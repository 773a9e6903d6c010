"""Look at every page of a site on the disk: what it links to, and what a browser would load for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # tag -> the attribute whose file a browser loads for the page
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "object": "data",
    "script": "src",
    "source": "src",
    "track": "src",
    "video": "src",
}
LOADED_LINKS = {"icon", "manifest", "modulepreload", "preconnect", "preload", "prefetch", "stylesheet"}
CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+(?!url))["']?([^"')\s;]+)""")


@dataclass
class Page(HTMLParser):
    """One page: the names that a link can lead to, its links, and the files that it loads."""

    text: str
    names: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.feed(self.text)
        for style in re.findall(r"<style.*?>(.*?)</style>", self.text, re.S):
            self.loads += CSS_URL.findall(style)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[key] for key in ("id", "name") if key in given}
        self.loads += CSS_URL.findall(given.get("style", ""))
        self.loads += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        if tag in LOADED and given.get(LOADED[tag]):
            self.loads.append(given[LOADED[tag]])
        if tag == "link" and LOADED_LINKS & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        elif tag in ("a", "area", "link") and "href" in given:
            self.links.append(given["href"])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)


def read(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def remote(url: str) -> bool:
    """Does the address leave the site? A picture inside the page (data:) does not."""
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def broken(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Links and files of pages and style sheets that are not there, as "page: address"."""
    for path, page in pages.items():
        for url in page.links + page.loads:
            target = urlsplit(url)
            if remote(url) or target.scheme:
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            if not file.is_relative_to(site.resolve()) or not file.is_file():
                yield f"{path.relative_to(site)}: {url}"
            elif target.fragment and file in pages and unquote(target.fragment) not in pages[file].names:
                yield f"{path.relative_to(site)}: {url}"
    for path in sorted(site.rglob("*.css")):
        for url in CSS_URL.findall(path.read_text(encoding="utf-8")):
            if not url.startswith(("data:", "#")) and not (path.parent / urlsplit(url).path).is_file():
                yield f"{path.relative_to(site)}: {url}"


def fetched(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """What a browser would load from elsewhere, as "page: address"."""
    for path, page in pages.items():
        yield from (f"{path.relative_to(site)}: {url}" for url in page.loads if remote(url))
    for path in sorted(site.rglob("*.css")):
        urls = CSS_URL.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)}: {url}" for url in urls if remote(url))
