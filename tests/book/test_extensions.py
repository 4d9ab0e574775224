"""What the Sphinx extensions of the book do, each on its own and in a small book."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import alt_text
import browser
import checks
import claims_ledger
import depth_slider
import icons
import launch
import mini
import pytest
from PIL import Image, ImageStat
from sphinx.errors import ConfigError

EXTENSIONS = [
    "alt_text",
    "api",
    "claims_ledger",
    "depth_slider",
    "icons",
    "landing_figure",
    "launch",
    "markup",
    "offline",
    "performance",
    "tooltips",
]
INTRO, CHAPTER, LEDGER = "book/intro.html", "notebooks/part/long_waves.html", "book/claims.html"


@pytest.fixture(scope="module")
def site(mini_build: checks.Build) -> checks.Site:
    return checks.Site(mini_build.html)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_examples_in_the_extensions_hold(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert doctest.testmod(module).failed == 0


def test_every_extension_is_tested_and_configured() -> None:
    files = {path.stem for path in (checks.ROOT / "book" / "_ext").glob("*.py")}
    configured = set(
        re.findall(r"^    (\w+): book/_ext$", (checks.ROOT / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert files == configured == set(EXTENSIONS)


# ---- launch


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/owner/name", "https://github.com/owner/name"),
        ("https://github.com/owner/name.git", "https://github.com/owner/name"),
        ("https://github.com/owner/name.github.io/", "https://github.com/owner/name.github.io"),
        ("https://user:word@github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@github.com:22/owner/name.git", "https://github.com/owner/name"),
        ("git@gitlab.com:group/below/name.git\n", "https://gitlab.com/group/below/name"),
        ("git://bitbucket.org/owner/name", "https://bitbucket.org/owner/name"),
        ("/home/me/github.com/name", None),
        ("../github.com/owner/name", None),
        ("github.com/owner/name", None),
        ("file:///home/me/name.git", None),
        ("https://git.example.org/owner/name", None),
        ("https://github.com/owner", None),
        ("", None),
    ],
)
def test_remote_becomes_an_address_for_readers(remote: str, url: str | None) -> None:
    assert launch.normalise(remote) == url


def test_address_is_looked_up_in_order(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path)]
    assert launch.repository({}, tmp_path) is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert launch.repository({}, tmp_path) is None
    subprocess.run([*git, "remote", "add", "origin", str(tmp_path)], check=True)
    assert launch.repository({}, tmp_path) is None
    subprocess.run([*git, "remote", "set-url", "origin", "git@github.com:from/remote.git"], check=True)
    assert launch.repository({}, tmp_path) == "https://github.com/from/remote"
    runner = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "from/runner"}
    assert launch.repository(runner, tmp_path) == "https://github.com/from/runner"
    given = runner | {"DNLBOOK_REPOSITORY": "https://github.com/from/variable"}
    assert launch.repository(given, tmp_path) == "https://github.com/from/variable"


def test_unusable_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DNLBOOK_REPOSITORY: expected .* received 'owner/name'"):
        launch.repository({"DNLBOOK_REPOSITORY": "owner/name"}, tmp_path)


def test_without_an_address_no_page_leads_to_a_repository(site: checks.Site) -> None:
    for page in site.pages():
        text = page.read_text(encoding="utf-8")
        assert not re.search(
            r"mybinder|binder-examples|executablebooks/jupyter-book|THEBE|text/x-thebe|/issues/new", text
        ), page


def test_with_an_address_the_buttons_are_there(tmp_path: Path, chromium: Any) -> None:
    source = mini.write(tmp_path / "source")
    environment = mini.NO_ADDRESS | {"DNLBOOK_REPOSITORY": "git@github.com:owner/name.git"}
    build = checks.build_site(source, tmp_path, **environment)
    assert (build.returncode, build.warnings) == (0, [])
    text = (build.html / CHAPTER).read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/part/long_waves.ipynb" in text
    assert "initThebeSBT()" in text and 'repo: "owner/name"' in text
    assert "https://github.com/owner/name/issues/new" in text
    assert text.count("const THEBE_JS_URL") == 1
    with (
        browser.serve(build.html) as base,
        browser.visit(chromium, base, CHAPTER, browser.WIDE) as (tab, look),
    ):
        assert look.complaints() == []  # Thebe is fetched after a click, not before
        assert browser.accessibility(tab) + browser.contrast(tab) == []


# ---- offline and icons


def test_mathjax_comes_with_the_site_and_its_licence(site: checks.Site) -> None:
    vendored = site.html / "_static" / "vendor" / "mathjax"
    assert (vendored / "startup.js").is_file() and list((vendored / "output/chtml/fonts/woff-v2").glob("*.woff"))
    assert "Apache License" in (vendored / "NOTICE").read_text(encoding="utf-8")
    scripts = [str(tag.get("src")) for tag in site.soup(site.html / CHAPTER).select("script[src]")]
    assert any("vendor/mathjax/startup.js" in src for src in scripts)
    assert not [src for src in scripts if re.search("require|widgets", src)]


def test_formulas_are_read_aloud_and_no_stop_of_the_tab_key(chromium: Any, mini_address: str) -> None:
    with browser.visit(chromium, mini_address, CHAPTER, browser.WIDE) as (tab, _):
        assert tab.locator("mjx-container").count() == tab.locator("mjx-container mjx-assistive-mml math").count() > 0
        assert tab.locator("mjx-container[tabindex]").count() == 0


def test_wide_formula_in_a_sentence_can_be_scrolled(chromium: Any, mini_address: str) -> None:
    formula = "mjx-container.wide-formula"
    with browser.visit(chromium, mini_address, CHAPTER, browser.NARROW) as (tab, _):
        tab.wait_for_function(f"() => document.querySelectorAll('{formula}[tabindex=\"0\"]').length === 1")
        assert browser.overflow(tab) + browser.clipped(tab) == []
        tab.set_viewport_size({"width": browser.WIDE, "height": 900})
        tab.wait_for_function(f"() => document.querySelectorAll('{formula}').length === 0")


def test_icons_are_kept_by_name_or_other_name() -> None:
    script = 'var a={sun:[1,2,[],"f1","M0"],"arrow-up":[1,2,["up"],"f2","M1"],moon:[1,2,[],"f3",["M2","M3"]],x:1};'
    assert icons.keep_icons(script, {"sun"}) == 'var a={sun:[1,2,[],"f1","M0"],x:1};'
    assert (
        icons.keep_icons(script, {"up", "moon"})
        == 'var a={"arrow-up":[1,2,["up"],"f2","M1"],moon:[1,2,[],"f3",["M2","M3"]],x:1};'
    )
    assert icons.keep_icons("unknown()", {"sun"}) == "unknown()"


def test_icons_of_the_page_are_drawn(chromium: Any, mini_address: str) -> None:
    with browser.visit(chromium, mini_address, CHAPTER, browser.WIDE) as (tab, look):
        drawn = tab.evaluate("() => [...document.querySelectorAll('svg.svg-inline--fa')].map((e) => e.dataset.icon)")
        assert {"magnifying-glass", "bars", "download"} <= set(drawn) and "circle-question" not in drawn
        assert not [name for name in look.transferred if "webfonts" in name]


# ---- markup


def test_every_proof_ends_with_a_square(site: checks.Site) -> None:
    proofs = site.soup(site.html / "notebooks/part/long_waves.html").select("div.proof:not(.theorem)")
    assert len(proofs) == 3 and all(p.get_text().rstrip(" \n\xa0)\\").endswith(r"\square") for p in proofs)


def test_folded_proof_has_a_title_and_ids_are_unique(site: checks.Site) -> None:
    soup = site.soup(site.html / CHAPTER)
    titles = [block.select_one(".admonition-title") for block in soup.select("div.proof.proof, div.proof.dropdown")]
    folded = soup.select_one("div.proof.dropdown")
    assert folded is not None and folded.select_one(".admonition-title").text == "Proof"
    assert folded.text.count("Proof") == 1 and titles
    assert checks.repeated_ids(site) == []


def test_folded_proof_unfolds_with_the_keyboard(chromium: Any, mini_address: str) -> None:
    with browser.visit(chromium, mini_address, CHAPTER, browser.WIDE) as (tab, _):
        text = tab.locator("div.proof.dropdown > p").nth(1)
        button = tab.locator("div.proof.dropdown button.toggle-button")
        assert button.get_attribute("aria-expanded") == "false" and not text.is_visible()
        button.press("Enter")
        assert button.get_attribute("aria-expanded") == "true" and text.is_visible()


# ---- alternative text


@pytest.mark.parametrize(
    ("alt", "good"), [("Three lines that fall", True), ("", False), (" \n", False), ("../img/x.PNG", False)]
)
def test_alternative_text_must_say_something(alt: str, good: bool) -> None:
    assert alt_text.says_something(alt) is good


# ---- claims


def test_ledger_has_a_row_per_claim_that_leads_to_its_cell(site: checks.Site) -> None:
    soup = site.soup(site.html / LEDGER)
    rows = [
        [cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in soup.select("table.claims tbody tr")
    ]
    assert [row[0] for row in rows] == ["long-waves-length", "tides-height", "tides-period"]
    assert rows[0][1:] == ["The height is 2_0 * x. Theorem 1.1", "1.00\xa0±\xa00.01", "0.9995", "✓ holds"]
    links = [str(a["href"]) for a in soup.select("table.claims a")]
    assert links[0] == "../notebooks/part/long_waves.html#claim-long-waves-length"
    assert "3 claims of 2 chapters" in soup.select_one("article").get_text(" ", strip=True)


def test_chapter_has_the_table_of_its_own_claims(site: checks.Site) -> None:
    soup = site.soup(site.html / "notebooks/part/tides.html")
    assert [a["href"] for a in soup.select("table.claims a")] == [
        "#claim-tides-height",
        "#claim-tides-period",
    ]
    assert [row["id"] for row in soup.select("div.claim")] == ["claim-tides-height", "claim-tides-period"]
    links = site.soup(site.html / INTRO).select("a[href='../notebooks/part/tides.html#claim-tides-height']")
    assert [link.get_text() for link in links] == ["tides-height", "0.9995"]


def test_glued_number_keeps_its_digits(site: checks.Site) -> None:
    text = site.soup(site.html / "notebooks/part/tides.html").select_one("article").get_text(" ", strip=True)
    assert "The sea rises by −0.40 m or 90\xa0% of that, and falls by 0.40 m." in text


def test_unchanged_ledger_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "claims.md"
    claims_ledger.write_if_changed(path, "one")
    first = path.stat()
    claims_ledger.write_if_changed(path, "one")
    assert path.stat().st_mtime_ns == first.st_mtime_ns and path.stat().st_ino == first.st_ino
    claims_ledger.write_if_changed(path, "two")
    assert path.read_text(encoding="utf-8") == "two" and list(tmp_path.iterdir()) == [path]


def test_record_without_a_field_is_refused() -> None:
    notebook = mini.notebook("# T", [mini.record("tides-height")])
    del notebook.cells[1].outputs[0].data[claims_ledger.MIME]["expected"]
    with pytest.raises(claims_ledger.LedgerError, match="notebooks/tides stores a record without expected"):
        claims_ledger.stored_claims(notebook, "notebooks/tides")


def test_media_type_is_that_of_the_library() -> None:
    assert claims_ledger.MIME == mini.MIME


@pytest.mark.parametrize(
    "text", ["a_b*c*", "`x` < $y$ & [z](w)", "1. one", "- two", "{role}`x` | # @ ~ ^ \\", "2) x\n  y"]
)
def test_statement_is_shown_as_it_is(text: str) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").render(claims_ledger.escape(text))
    import html as entities

    assert entities.unescape(re.sub(r"</?p>", "", html)).strip() == " ".join(text.split())


# ---- depth slider


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("", "at least two depths, received 0"),
        ("2: One picture.", "at least two depths, received 1"),
        ("2: One.\n2: Two.", "the depth 2 is given twice"),
        ("2: One.\nfour", "received 'four'"),
        ("2: One.\n4:", "received '4:'"),
        ("2: Paths at depth 2.\n4: Paths at depth 4.", "the text of depth 2 fits another picture too"),
    ],
)
def test_slider_needs_a_text_for_every_frame(frames: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        depth_slider.parse_frames(frames)


FRAMES = "frames: |\n  2: A.\n  4: B.\n"
WRONG_SLIDERS = {
    "expected {} in the path": f":::{{depth-slider}} img/frame.png\n---\n{FRAMES}---\nWhy?\n:::",
    "at least two depths": ":::{depth-slider} img/frame-{}.png\n:start: 4\n\nWhy?\n:::",
    "start=3 is not one of": f":::{{depth-slider}} img/frame-{{}}.png\n---\nstart: 3\n{FRAMES}---\nWhy?\n:::",
    "expected a caption": f":::{{depth-slider}} img/frame-{{}}.png\n---\n{FRAMES}---\n:::",
}


def test_slider_says_what_is_wrong(tmp_path: Path) -> None:
    build = checks.build_site(
        mini.write_pages(tmp_path / "source", list(WRONG_SLIDERS.values())), tmp_path, **mini.NO_ADDRESS
    )
    assert build.returncode != 0
    for number, message in enumerate(WRONG_SLIDERS):
        assert any(f"page_{number}.md" in line and message in line for line in build.warnings), build.warnings


def visible_frames(tab: Any) -> list[str]:
    return [f.get_attribute("data-depth") for f in tab.locator(".frame").all() if f.is_visible()]


def test_slider_moves_with_the_keyboard_and_says_what_it_shows(chromium: Any, mini_address: str) -> None:
    with browser.visit(chromium, mini_address, INTRO, browser.NARROW) as (tab, _):
        slider = tab.get_by_role("slider", name="Depth L")
        assert visible_frames(tab) == ["4"]
        assert slider.get_attribute("aria-valuetext") == "4. Four edges inside it."
        slider.press("ArrowRight")
        assert visible_frames(tab) == ["8"]
        assert slider.get_attribute("aria-valuetext") == "8. Nearly a circle."
        assert tab.locator(".depth-bar output").inner_text() == "8"
        slider.press("Home")
        assert visible_frames(tab) == ["2"]
        tab.emulate_media(media="print")
        assert visible_frames(tab) == ["2", "4", "8"] and not slider.is_visible()


def test_slider_shows_all_frames_without_scripts(chromium: Any, mini_address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(mini_address + INTRO)
    frames = tab.locator(".frame")
    assert frames.count() == 3 and all(frames.nth(k).is_visible() for k in range(3))
    assert frames.nth(1).inner_text().split() == ["L", "=", "4"]
    assert tab.locator("input[type=range]").count() == 0
    context.close()


def test_slider_is_a_numbered_figure(site: checks.Site) -> None:
    figure = site.soup(site.html / INTRO).select_one("figure.depth-slider")
    assert figure is not None and figure["id"] == "fig-slider"
    assert figure.select_one(".caption-number").get_text(strip=True).startswith("Figure 1")
    assert [image["alt"] for image in figure.select("img")] == [
        "Two edges that leave the frame.",
        "Four edges inside it.",
        "Nearly a circle.",
    ]
    assert {image["loading"] for image in figure.select("img")} == {"lazy"}


@pytest.mark.parametrize("builder", ["latex", "text"])
def test_slider_in_print_and_plain_text(tmp_path: Path, builder: str) -> None:
    source = mini.write(tmp_path / "source")
    (source / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n", encoding="utf-8")
    (source / "book/intro.md").write_text(f"# A page\n\n{mini.SLIDER}", encoding="utf-8")
    choice = ["--builder", "latex"] if builder == "latex" else ["--builder", "custom", "--custom-builder", "text"]
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), *choice]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    if builder == "latex":
        text = next((source / "_build/latex").glob("*.tex")).read_text(encoding="utf-8")
        figure = text[text.index("\\begin{figure}") : text.index("\\end{figure}")]
        assert figure.count("\\includegraphics") == 3 and "frame\\sphinxhyphen{}8" in figure or "{frame-8}" in figure
        assert "L = 8" in figure and "\\caption{" in figure
    else:
        text = (source / "_build/text/book/intro.txt").read_text(encoding="utf-8")
        assert "[L = 8: Nearly a circle.]" in text and "How deep is deep enough?" in text


# ---- performance


def test_page_on_performance_needs_results(tmp_path: Path) -> None:
    source = mini.write_pages(tmp_path / "source", [":::{performance-run}\n:::"])
    build = checks.build_site(source, tmp_path, **mini.NO_ADDRESS)
    assert build.returncode != 0
    assert "performance: results.json is missing; make bench writes it" in build.log


# ---- landing figure


@pytest.mark.parametrize(("width", "loaded"), [(browser.WIDE, "frame-8.png"), (browser.NARROW, "frame-2.png")])
def test_landing_figure_loads_one_picture(chromium: Any, mini_address: str, width: int, loaded: str) -> None:
    with browser.visit(chromium, mini_address, CHAPTER, width) as (_, look):
        assert [name for name in look.transferred if "_images" in name] == [f"_images/{loaded}"]


def test_landing_figure_is_numbered_and_described(site: checks.Site) -> None:
    figure = site.soup(site.html / CHAPTER).select_one("figure.landing")
    assert figure is not None and figure["id"] == "fig-landing"
    assert figure.select_one("img")["alt"] == "A plain square." and figure.select_one(".caption-number")


# ---- tooltips


@pytest.mark.parametrize(
    ("page", "link", "shown"),
    [
        (INTRO, "article a[href='#term-wave']", "A shape that moves."),
        (INTRO, f"article a[href='../{CHAPTER}#thm-waves']", "Waves satisfy"),
        (CHAPTER, "article a[href='#equation-eq-waves'].reference", "≤"),
        (INTRO, "article a[href='#airy1845'], article a.reference[href^='#id']", "Tides and waves"),
    ],
)
def test_hovering_a_link_shows_its_target(chromium: Any, mini_address: str, page: str, link: str, shown: str) -> None:
    with browser.visit(chromium, mini_address, page, browser.WIDE) as (tab, look):
        box = tab.locator(".tooltip-box")
        tab.locator(link).first.hover()
        box.wait_for(state="visible")
        tab.wait_for_function("() => !document.querySelector('.tooltip-box .math:not(:has(mjx-container))')")
        assert shown in box.inner_text()
        assert tab.evaluate("() => document.querySelectorAll('.tooltip-box a, .tooltip-box [id]').length") == 0
        assert browser.accessibility(tab) + browser.contrast(tab) == []
        tab.keyboard.press("Escape")
        assert not box.is_visible()
        assert look.complaints() == []


def test_tooltip_follows_the_keyboard_and_stays_in_the_window(chromium: Any, mini_address: str) -> None:
    with browser.visit(chromium, mini_address, INTRO, browser.NARROW) as (tab, _):
        tab.locator("article a[href='#term-wave']").first.focus()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Shift+Tab")
        box = tab.locator(".tooltip-box")
        box.wait_for(state="visible")
        place = box.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= browser.NARROW
        tab.keyboard.press("Tab")
        assert not box.is_visible()


# ---- screenshots


def test_screenshots_show_a_page_at_two_widths_and_in_two_themes(
    chromium: Any, mini_build: checks.Build, tmp_path: Path
) -> None:
    command = [sys.executable, str(checks.ROOT / "tests/book/screenshots.py"), str(tmp_path), "book/intro.md"]
    result = subprocess.run(
        [*command, "--window", "--site", str(mini_build.html)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pictures = {path.stem: Image.open(path).convert("L") for path in tmp_path.glob("*.png")}
    names = [f"book-intro-{width}-{theme}" for width in (1280, 390) for theme in ("dark", "light")]
    assert sorted(pictures) == sorted(names)
    assert [pictures[name].width for name in names] == [1280, 1280, 390, 390]
    dark, light = (ImageStat.Stat(pictures[name]).mean[0] for name in names[:2])
    assert dark < 80 and light > 200


def test_screenshots_of_a_page_that_is_not_there_are_refused(mini_build: checks.Build, tmp_path: Path) -> None:
    command = [sys.executable, str(checks.ROOT / "tests/book/screenshots.py"), str(tmp_path), "book/gone"]
    result = subprocess.run([*command, "--site", str(mini_build.html)], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "has no page book/gone" in result.stderr
