"""Nothing is fetched from another host when a page is viewed: MathJax comes with the site.

At the end of an HTML build the part of MathJax that the book uses is copied from the installed package
sphinx-mathjax-offline into ``_static/vendor/mathjax``.  The site then also opens from a folder.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

VENDOR = "vendor/mathjax"
ENTRY = "tex-chtml.js"
#: fonts, and what MathJax loads only when it meets a rare command or a reader asks its menu for speech
PARTS = (
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",
    "a11y",
    "ui",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
)
NOTICE = """MathJax 3.2.2, https://www.mathjax.org
Copyright (c) 2009-2022 The MathJax Consortium.
Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
"""


def mathjax_source() -> Path:
    """The folder of MathJax inside the installed package."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("offline: the package sphinx-mathjax-offline is not installed; run `make book`")
    return Path(spec.origin).parent / "static" / "mathjax"


def point_to_vendored(app: Sphinx, config: Config) -> None:
    """Sphinx would load MathJax from a content network; load our copy instead."""
    config.mathjax_path = f"{VENDOR}/{ENTRY}"


def vendor_mathjax(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    source, target = mathjax_source(), Path(app.outdir) / "_static" / VENDOR
    for part in (ENTRY, *PARTS):
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)
    (target / "NOTICE").write_text(NOTICE, encoding="utf-8")


def drop_repeated_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """sphinx-thebe registers its constants twice, which is a syntax error on every page; keep the first."""
    seen: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
        if body is not None:
            seen.add(body)
    context["script_files"] = kept


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", point_to_vendored)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("build-finished", vendor_mathjax)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
