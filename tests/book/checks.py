"""Checks of a built site that need no browser.  Each returns its complaints; an empty list is a pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CSS_URL = re.compile(r"""url\(\s*["']?([^"')]+)["']?\s*\)|@import\s+["']([^"']+)["']""")
FETCHED = {
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "script": ("src",),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "embed": ("src",),
    "input": ("src",),
    "object": ("data",),
}
FETCHING_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
PICTURE_NAMES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")


@dataclass(frozen=True)
class Build:
    """What ``jupyter-book build`` left behind."""

    html: Path
    returncode: int
    log: str

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.log.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]


def build_site(source: Path, output: Path, **environment: str) -> Build:
    """Build the book in ``source`` as the Makefile does, into ``output/_build``."""
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(source),
        "--path-output",
        str(output),
    ]
    command += ["-W", "-n", "--keep-going"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=source,
        timeout=600,
        check=False,
    )
    return Build(output / "_build" / "html", result.returncode, COLOUR.sub("", result.stdout + result.stderr))


class Site:
    """The pages of a built site, each read once."""

    def __init__(self, html: Path) -> None:
        self.html = html.resolve()
        self._soups: dict[Path, BeautifulSoup] = {}

    def pages(self) -> list[Path]:
        return sorted(p for p in self.html.rglob("*.html") if "_static" not in p.relative_to(self.html).parts)

    def soup(self, page: Path) -> BeautifulSoup:
        if page not in self._soups:
            self._soups[page] = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        return self._soups[page]

    def anchors(self, page: Path) -> set[str]:
        soup = self.soup(page)
        return {tag["id"] for tag in soup.find_all(id=True)} | {
            tag["name"] for tag in soup.find_all("a", attrs={"name": True})
        }

    def name(self, page: Path) -> str:
        return page.relative_to(self.html).as_posix()


def is_external(url: str) -> bool:
    parts = urlsplit(url.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "ws", "wss")


def fetched_urls(soup: BeautifulSoup) -> Iterator[str]:
    """What a browser fetches by itself when it opens a page: not the links that a reader may follow."""
    for name, attributes in FETCHED.items():
        for tag in soup.find_all(name):
            for attribute in attributes:
                value = str(tag.get(attribute) or "")
                if attribute == "srcset":
                    yield from (part.split()[0] for part in value.split(",") if part.strip())
                elif value:
                    yield value
    for tag in soup.find_all("link", href=True):
        if FETCHING_RELATIONS & set(tag.get("rel") or ()):
            yield str(tag["href"])
    styles = [str(tag.string or "") for tag in soup.find_all("style")] + [
        str(tag["style"]) for tag in soup.find_all(style=True)
    ]
    for style in styles:
        yield from css_urls(style)


def css_urls(text: str) -> Iterator[str]:
    yield from (first or second for first, second in CSS_URL.findall(re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)))


def external_resources(site: Site) -> list[str]:
    """Pictures, scripts, styles, frames and fonts from another host, in pages and in style sheets."""
    found = [
        f"{site.name(page)}: {url}"
        for page in site.pages()
        for url in fetched_urls(site.soup(page))
        if is_external(url)
    ]
    for sheet in sorted(site.html.rglob("*.css")):
        urls = css_urls(sheet.read_text(encoding="utf-8", errors="replace"))
        found += [f"{site.name(sheet)}: {url}" for url in urls if is_external(url)]
    return found


def broken_links(site: Site) -> list[str]:
    """Links, anchors and files inside the site that do not exist."""
    broken = []
    for page in site.pages():
        soup = site.soup(page)
        links = {str(tag["href"]) for tag in soup.find_all(["a", "area", "link"], href=True)} | set(fetched_urls(soup))
        for link in sorted(links):
            if is_external(link) or urlsplit(link).scheme:
                continue
            path, fragment = urldefrag(link)
            path = path.split("?")[0]
            target = (page.parent / unquote(path)).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(site.html):
                broken.append(f"{site.name(page)}: {link} does not exist")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in site.anchors(target):
                broken.append(f"{site.name(page)}: {link} has no such anchor")
    for sheet in sorted(site.html.rglob("*.css")):
        for url in css_urls(sheet.read_text(encoding="utf-8", errors="replace")):
            if not is_external(url) and not urlsplit(url).scheme and not url.startswith("#"):
                if not (sheet.parent / unquote(url.split("?")[0].split("#")[0])).is_file():
                    broken.append(f"{site.name(sheet)}: {url} does not exist")
    return broken


def pictures_without_alt(site: Site) -> list[str]:
    """Pictures in an article whose alternative text is missing, blank or the name of their file."""
    silent = []
    for page in site.pages():
        for image in site.soup(page).select("article img"):
            alt = str(image.get("alt") or "").strip()
            if not alt or alt.lower().endswith(PICTURE_NAMES):
                silent.append(f"{site.name(page)}: {image.get('src')} has the alternative text {alt!r}")
    return silent


def repeated_ids(site: Site) -> list[str]:
    """Ids that occur twice in a page: links to them are ambiguous."""
    repeated = []
    for page in site.pages():
        ids = [str(tag["id"]) for tag in site.soup(page).find_all(id=True)]
        repeated += [f"{site.name(page)}: {name}" for name in sorted({i for i in ids if ids.count(i) > 1})]
    return repeated
