"""Pictures of built pages, for looking at them.

    .venv/bin/python tests/book/screenshots.py OUTDIR [page ...] [--site _build/html] [--window]

A page is named as in _toc.yml (``notebooks/residual/euler``); without names all pages are taken.  Each
gives four files, ``PAGE-1280-light.png``, ``-1280-dark``, ``-390-light`` and ``-390-dark``: the whole page,
or with ``--window`` what fits into one window.  Complaints (requests to other hosts, missing files, errors,
overflow) are printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "book" / "_ext")]

import browser  # noqa: E402
from pages import PAGES  # noqa: E402


def take(outdir: Path, names: list[str], html: Path, *, whole: bool = True) -> int:
    """Photograph pages; the number of complaints."""
    complaints = 0
    outdir.mkdir(parents=True, exist_ok=True)
    with browser.serve(html) as base, browser.launch() as chromium:
        for name in names:
            for width in (browser.WIDE, browser.NARROW):
                with browser.visit(chromium, base, f"{name}.html", width) as (tab, look):
                    found = look.complaints() + browser.math_errors(tab) + browser.overflow(tab)
                    for theme in ("light", "dark"):
                        browser.set_theme(tab, theme)
                        path = outdir / f"{name.replace('/', '-')}-{width}-{theme}.png"
                        tab.screenshot(path=path, full_page=whole)
                        print(path)
                print(f"{name} at {width} px: {look.weight / 1e6:.2f} MB", *found, sep="\n  ")
                complaints += len(found)
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("pages", nargs="*", metavar="page", help="as in _toc.yml; all if none is named")
    parser.add_argument("--site", type=Path, default=HERE.parents[1] / "_build" / "html", help="a built site")
    parser.add_argument("--window", action="store_true", help="one window instead of the whole page")
    options = parser.parse_args()
    names = [page.removesuffix(".html").removesuffix(".md").removesuffix(".ipynb") for page in options.pages] or PAGES
    if missing := [name for name in names if not (options.site / f"{name}.html").is_file()]:
        parser.error(f"{options.site} has no page {', '.join(missing)}; build the book with `make book`")
    if browser.chromium() is None:
        parser.error(browser.NO_CHROMIUM)
    return min(take(options.outdir, names, options.site, whole=not options.window), 1)


if __name__ == "__main__":
    sys.exit(main())
