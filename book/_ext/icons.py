"""Ship the icons that the pages show, not the two thousand that exist.

The theme loads every Font Awesome icon as one script of 1.5 MB, the heaviest file of a page.  After an
HTML build this extension collects the icon names that occur in the pages and in the theme's own scripts,
and cuts all others out of the built copy.  If the script does not look as expected it is left alone (the
test of the page weight tells).
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = Path("_static/scripts/fontawesome.js")
USED = re.compile(r"\bfa-([a-z0-9-]+)")
#: name:[width,height,[other names],"code point","path"]  (a duotone icon has a list of two paths)
ICON = re.compile(
    r'(?P<name>"[\w-]+"|[A-Za-z_$][\w$]*):\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\["[^"]*"(?:,"[^"]*")*\])\](?P<comma>,?)'
)


def used_icons(site: Path) -> set[str]:
    """Icon names without their ``fa-`` in the pages and scripts of a built site."""
    files = [*site.rglob("*.html"), *(f for f in (site / "_static").rglob("*.js") if f != site / SCRIPT)]
    return {
        name for file in files for name in USED.findall(file.read_text(encoding="utf-8", errors="ignore"))
    }


def keep_icons(script: str, names: set[str]) -> str:
    """The script without the icons whose name and other names are all outside ``names``."""

    def choose(match: re.Match[str]) -> str:
        known_as = {match["name"].strip('"'), *re.findall(r'"([^"]+)"', match["aliases"])}
        return match[0] if known_as & names else ""

    return re.sub(r",\}", "}", ICON.sub(choose, script))


def slim(app: Sphinx, exception: Exception | None) -> None:
    path = Path(app.outdir) / SCRIPT
    if exception is None and app.builder.format == "html" and path.exists():
        path.write_text(
            keep_icons(path.read_text(encoding="utf-8"), used_icons(Path(app.outdir))), encoding="utf-8"
        )


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("build-finished", slim, priority=900)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
