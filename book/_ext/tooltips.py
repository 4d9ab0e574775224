"""Hover over a term, an equation, a theorem or a figure's number to see it.

sphinx_tippy collects what the links of a page point to; the script ``tooltip.js`` of this book shows it.
Nothing is looked up anywhere else.  This extension configures sphinx_tippy, and removes the files that
it leaves behind when a page is built again (their names change every time).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

SETTINGS = {
    "tippy_js": ["tooltip.js"],
    "tippy_enable_mathjax": True,  # puts MathJax on every page with a tip
    "tippy_enable_wikitips": False,
    "tippy_enable_doitips": False,
    "tippy_rtd_urls": [],
    # shown as they stand; terms, equations and sections are known to sphinx_tippy
    "tippy_tip_selector": "div.proof, div.exercise, figure, table, div.citation, aside",
    "tippy_anchor_parent_selector": "article.bd-article",
    "tippy_skip_anchor_classes": ["headerlink", "sd-stretched-link", "exercise-link"],
    "tippy_skip_urls": [r"^[^#]*$"],  # a link to a whole page needs no preview
}


def configure(app: Sphinx, config: Config) -> None:
    for name, value in SETTINGS.items():
        config[name] = value


def write_every_page(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Tips quote other pages: all pages are written whenever one is, and the files of the last build go."""
    if app.builder.format != "html":
        return []
    shutil.rmtree(Path(app.outdir) / "_static" / "tippy", ignore_errors=True)
    return sorted(env.found_docs)


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", configure)
    app.connect("env-updated", write_every_page)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": False}
