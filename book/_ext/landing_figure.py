"""The directive ``landing-figure``: one numbered figure with a wide and a narrow picture, of which a page loads one.

::

    :::{landing-figure}
    :wide: img/landing.png
    :narrow: img/landing-narrow.png
    :name: fig-landing
    :alt: What both pictures show.

    The caption.
    :::

The page holds a ``<picture>`` element, so a phone downloads the narrow file and nothing else.  Outside of HTML
the wide picture stands alone.
"""

from __future__ import annotations

import posixpath
from urllib.parse import quote

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

NARROW_UP_TO = 560


class picture(nodes.General, nodes.Element):
    """Two images of one thing: the wide one first."""


class LandingFigure(SphinxDirective):
    """A figure that holds a picture node."""

    has_content = True
    option_spec = {
        "wide": directives.uri,
        "narrow": directives.uri,
        "alt": directives.unchanged_required,
        "name": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        for option in ("wide", "narrow", "alt"):
            if not self.options.get(option):
                raise self.error(f"landing-figure: expected the option {option}, received none")
        images = [nodes.image(uri=self.options[size], alt=self.options["alt"]) for size in ("wide", "narrow")]
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        if len(parsed) != 1 or not isinstance(parsed[0], nodes.paragraph):
            raise self.error("landing-figure: expected one paragraph as caption")
        figure = nodes.figure("", picture("", *images), nodes.caption("", "", *parsed[0].children), classes=["landing"])
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


def visit_picture(self: HTML5Translator, node: picture) -> None:
    wide, narrow = (
        posixpath.join(self.builder.imgpath, quote(self.builder.images[image["uri"]])) for image in node.children
    )
    alt = self.attval(node[0]["alt"])
    self.body.append(f'<picture><source media="(max-width: {NARROW_UP_TO}px)" srcset="{narrow}">')
    self.body.append(f'<img src="{wide}" alt="{alt}"></picture>\n')
    raise nodes.SkipNode


def visit_elsewhere(self: nodes.NodeVisitor, node: picture) -> None:
    del node[1]


def depart_elsewhere(self: nodes.NodeVisitor, node: picture) -> None:
    pass


def setup(app: Sphinx) -> dict[str, object]:
    other = (visit_elsewhere, depart_elsewhere)
    app.add_node(picture, html=(visit_picture, None), latex=other, text=other)
    app.add_directive("landing-figure", LandingFigure)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
