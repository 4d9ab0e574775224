"""The checks of the site, checked: each fault that they are there for is put in and must be caught."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import checks
import mini
import pytest
from nbformat.v4 import new_output
from PIL import Image

CHAPTER = "notebooks/part/long_waves"
Edit = Callable[..., Path]


@pytest.fixture
def edited(mini_build: checks.Build, tmp_path: Path) -> Edit:
    """A copy of the small built book in which one piece of one file is replaced."""

    def edit(old: str, new: str, file: str = f"{CHAPTER}.html") -> Path:
        html = shutil.copytree(mini_build.html, tmp_path / "html")
        text = (html / file).read_text(encoding="utf-8")
        assert old in text
        (html / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        return html

    return edit


# ---- the small book itself is in order: what the tests below find is what they put in


def test_small_book_passes_every_check(mini_build: checks.Build) -> None:
    site = checks.Site(mini_build.html)
    assert mini_build.warnings == []
    assert checks.broken_links(site) == []
    assert checks.external_resources(site) == []
    assert checks.pictures_without_alt(site) == []
    assert checks.repeated_ids(site) == []


@pytest.mark.parametrize("page", ["book/intro", CHAPTER, "book/claims"])
def test_small_book_passes_in_the_browser(chromium: Any, mini_address: str, page: str) -> None:
    with browser.visit(chromium, mini_address, f"{page}.html", browser.NARROW) as (tab, look):
        assert look.complaints() == []
        assert browser.math_errors(tab) == []
        assert browser.overflow(tab) + browser.clipped(tab) == []
        assert browser.accessibility(tab) == []
        for theme in ("light", "dark"):
            browser.set_theme(tab, theme)
            assert browser.contrast(tab) == []


# ---- faults in built pages


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ('<a href="nowhere.html">x</a>', "nowhere.html does not exist"),
        ('<a href="tides.html#nothing">x</a>', "tides.html#nothing has no such anchor"),
        ('<a href="#nothing">x</a>', "#nothing has no such anchor"),
        ('<img src="../gone.png" alt="x">', "../gone.png does not exist"),
        ('<script src="../gone.js"></script>', "../gone.js does not exist"),
        ('<p style="background: url(gone.svg)">x</p>', "gone.svg does not exist"),
        ('<a href="../../../outside.html">x</a>', "outside.html does not exist"),
    ],
)
def test_broken_internal_link_is_caught(edited: Edit, link: str, complaint: str) -> None:
    found = checks.broken_links(checks.Site(edited("</article>", f"{link}</article>")))
    assert len(found) == 1 and complaint in found[0]


def test_missing_file_of_a_style_sheet_is_caught(edited: Edit) -> None:
    html = edited("fonts/dnl-serif-regular.woff", "fonts/gone.woff", "_static/dnlbook.css")
    assert checks.broken_links(checks.Site(html)) == ["_static/dnlbook.css: fonts/gone.woff does not exist"]


@pytest.mark.parametrize(
    "element",
    [
        '<img alt="x" src="https://example.org/x.png">',
        '<img alt="x" src="a.png" srcset="//example.org/x.png 2x">',
        '<script src="//example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://example.org/x.css">',
        '<link rel="preconnect" href="https://example.org">',
        '<iframe src="http://example.org/"></iframe>',
        '<p style="background: url(https://example.org/x.png)">x</p>',
        '<style>@import "https://example.org/x.css";</style>',
    ],
)
def test_resource_from_another_host_is_caught(edited: Edit, element: str) -> None:
    found = checks.external_resources(checks.Site(edited("</article>", f"{element}</article>")))
    assert len(found) == 1 and "example.org" in found[0]


def test_font_from_another_host_is_caught(edited: Edit) -> None:
    html = edited("fonts/dnl-serif-regular.woff", "https://example.org/x.woff", "_static/dnlbook.css")
    assert checks.external_resources(checks.Site(html)) == ["_static/dnlbook.css: https://example.org/x.woff"]


def test_a_link_to_another_host_is_no_fault(edited: Edit) -> None:
    site = checks.Site(edited("</article>", '<a href="https://example.org/">x</a></article>'))
    assert checks.external_resources(site) == [] and checks.broken_links(site) == []


@pytest.mark.parametrize(
    "image", ["<img src='x.png'>", "<img src='x.png' alt=' '>", "<img src='x.png' alt='../x.png'>"]
)
def test_missing_alt_text_is_caught_in_a_page(edited: Edit, image: str) -> None:
    assert len(checks.pictures_without_alt(checks.Site(edited("</article>", f"{image}</article>")))) == 1


def test_repeated_id_is_caught(edited: Edit) -> None:
    html = edited("</article>", '<p id="twice"></p><p id="twice"></p></article>')
    assert checks.repeated_ids(checks.Site(html)) == [f"{CHAPTER}.html: twice"]


# ---- faults that only a browser sees


def look_at(
    chromium: Any, html: Path, width: int = browser.NARROW
) -> tuple[list[str], list[str], list[str], list[str]]:
    with browser.serve(html) as base, browser.visit(chromium, base, f"{CHAPTER}.html", width) as (tab, look):
        accessibility = browser.accessibility(tab) + browser.contrast(tab)
        return look.complaints(), browser.math_errors(tab), browser.overflow(tab), accessibility


@pytest.mark.parametrize(
    ("element", "complaint"),
    [
        ('<img alt="x" src="https://example.org/x.png">', "asked another host for https://example.org/x.png"),
        (
            '<script>fetch("https://example.org/data").catch(() => {})</script>',
            "asked another host for https://example.org/data",
        ),
        ('<img alt="x" src="gone.png">', "missing: 404"),
        ("<script>console.error('trouble')</script>", "error in the console: trouble"),
        ("<script>undefined_function()</script>", "undefined_function"),
    ],
)
def test_request_or_error_is_caught_in_the_browser(chromium: Any, edited: Edit, element: str, complaint: str) -> None:
    complaints = look_at(chromium, edited("</article>", f"{element}</article>"))[0]
    assert any(complaint in text for text in complaints)


@pytest.mark.parametrize(
    ("element", "rule"),
    [
        ('<p style="color: #b9b9b9">Hard to read.</p>', "color-contrast"),
        ('<p style="background: #54585f">Hard to read.</p>', "color-contrast"),
        ('<div style="opacity: 0.5"><p>Hard to <b>read</b>.</p></div>', "color-contrast"),
        ('<p><img src="../../_static/logo.svg"></p>', "image-alt"),
        ('<input type="text">', "label"),
    ],
)
def test_accessibility_fault_is_caught(chromium: Any, edited: Edit, element: str, rule: str) -> None:
    found = look_at(chromium, edited("</article>", f"{element}</article>"))[3]
    assert {text.partition(":")[0] for text in found} == {rule}


def test_contrast_fault_in_dark_mode_only_is_caught(chromium: Any, edited: Edit) -> None:
    html = edited("</article>", '<p style="color: #1b2130">Ink on a dark page.</p></article>')
    with (
        browser.serve(html) as base,
        browser.visit(chromium, base, f"{CHAPTER}.html", browser.WIDE) as (tab, _),
    ):
        assert browser.contrast(tab) == []
        browser.set_theme(tab, "dark")
        assert [text.partition(":")[0] for text in browser.contrast(tab)] == ["color-contrast"]


def test_unreadable_formula_is_caught(chromium: Any, edited: Edit) -> None:
    errors = look_at(chromium, edited(r"\lVert x", r"\undefinedmacro x \frac{"))[1]
    assert errors


def test_page_wider_than_a_phone_is_caught(chromium: Any, edited: Edit) -> None:
    wide = look_at(chromium, edited("</article>", '<p style="width: 600px">wide</p></article>'))[2]
    assert wide[0].startswith("the page is") and "in: wide" in wide[1]


@pytest.mark.parametrize("box", ["overflow: hidden", "overflow: auto; display: flex; justify-content: center"])
def test_cut_off_formula_is_caught(chromium: Any, edited: Edit, box: str) -> None:
    wide = '<pre style="overflow: visible; width: 800px; flex: none">x</pre>'
    element = f'<div style="width: 300px; {box}">{wide}</div>'
    html = edited("</article>", f"{element}</article>")
    with browser.serve(html) as base, browser.visit(chromium, base, f"{CHAPTER}.html", browser.NARROW) as (tab, _):
        assert browser.overflow(tab) == []
        assert [text.partition(" at ")[0] for text in browser.clipped(tab)] == ["pre is cut off"]


def test_weight_counts_what_a_view_loads(chromium: Any, edited: Edit) -> None:
    html = edited("</article>", '<img alt="noise" src="noise.png"></article>')
    noise = random.Random(0).randbytes(700 * 500 * 3)  # a picture that nobody can compress
    Image.frombytes("RGB", (700, 500), noise).save(html / "notebooks/part/noise.png")
    with (
        browser.serve(html) as base,
        browser.visit(chromium, base, f"{CHAPTER}.html", browser.WIDE) as (_, look),
    ):
        assert look.weight > 1_500_000 and "noise.png" in look.heaviest(1)


# ---- faults in the sources, which must break the build


def test_one_warning_breaks_the_build(tmp_path: Path) -> None:
    source = mini.write(tmp_path / "source")
    intro = source / "book/intro.md"
    intro.write_text(intro.read_text(encoding="utf-8") + "\nSee {ref}`nothing-there`.\n", encoding="utf-8")
    build = checks.build_site(source, tmp_path, **mini.NO_ADDRESS)
    assert build.returncode != 0
    assert len(build.warnings) == 1 and "undefined label: 'nothing-there'" in build.warnings[0]


FAULTS = {
    "tides-unknown": "See {claim}`tides-unknown`.",
    "tides-unmeasured": "It is {measured}`tides-unmeasured`.",
    "nowhere.md": "See [the next page](nowhere.md).",
    "picture without alt text": "![](img/frame-2.png)",
    "expected a notebook": ":::{claims-table}\n:::",
    "word that is not explained": "A {term}`word that is not explained`.",
    "eq-nowhere": "By {eq}`eq-nowhere`.",
    "thm-nowhere": "By {prf:ref}`thm-nowhere`.",
    "nobody2020": "By {cite:p}`nobody2020`.",
    "gone.png": "![A picture that is not there](img/gone.png)",
}


def test_every_kind_of_fault_is_a_warning(tmp_path: Path) -> None:
    source = mini.write_pages(tmp_path / "source", list(FAULTS.values()))
    build = checks.build_site(source, tmp_path, **mini.NO_ADDRESS)
    assert build.returncode != 0
    for number, message in enumerate(FAULTS):
        assert any(f"page_{number}.md" in line and message in line for line in build.warnings), (
            message,
            build.warnings,
        )


def chapter_with(claims: list[Any]) -> Callable[[Path], object]:
    return lambda source: mini.write_chapter(source, "tides", "# Tides are waves\n", claims)


def store_error(source: Path) -> None:
    mini.write_chapter(source, "tides", "# Tides are waves\n", [mini.record("tides-height")])
    path = source / "notebooks/part/tides.ipynb"
    notebook = mini.nbformat.read(path, as_version=4)
    notebook.cells[1].outputs.append(new_output("error", ename="ClaimError", evalue="tides-low fails", traceback=[]))
    mini.nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            chapter_with([mini.record("tides-height"), mini.record("tides-height")]),
            "the id tides-height is used twice",
        ),
        (chapter_with([mini.record("tides-height", status="fails")]), "tides-height that did not hold"),
        (chapter_with([mini.record("waves-height")]), "to start with 'tides-'"),
        (store_error, "stores a claim that did not hold: tides-low fails"),
    ],
)
def test_false_or_repeated_claim_breaks_the_build(tmp_path: Path, edit: Callable[[Path], object], message: str) -> None:
    source = mini.write(tmp_path / "source")
    edit(source)
    build = checks.build_site(source, tmp_path, **mini.NO_ADDRESS)
    assert build.returncode != 0
    assert message in " ".join(build.log.split()), build.log[-2000:]
    assert not (source / "book/claims.md").exists()
