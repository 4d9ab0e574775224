"""Every picture says in words what it shows: without ``alt`` there is a warning, which breaks the build."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
SUFFIXES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")


def says_something(alt: str) -> bool:
    """False for nothing, blanks, or the name of a file, which is what a writer falls back to.

    >>> [says_something(alt) for alt in ("Three lines that fall", " ", "img/orders.png")]
    [True, False, False]
    """
    return bool(alt.strip()) and not alt.strip().lower().endswith(SUFFIXES)


def check(app: Sphinx, doctree: nodes.document) -> None:
    for image in doctree.findall(nodes.image):
        if not says_something(image.get("alt", "")):
            LOGGER.warning(
                "picture without alt text: %s",
                image.get("uri", "?"),
                location=image,
                type="dnlbook",
                subtype="alt",
            )


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("doctree-read", check)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
