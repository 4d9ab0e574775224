"""The directive ``depth-slider``: one picture per depth, and a slider to move through them.

::

    :::{depth-slider} img/frames/depth-{}.png
    ---
    name: fig-depth
    start: 16
    frames: |
      4: The residual paths are polygons of four edges and leave the frame.
      16: The residual paths bend in sixteen straight pieces around the centre.
      64: The residual paths look like half circles.
    ---
    How deep is deep enough? The caption asks and answers.
    :::

The argument is the path of the pictures, with ``{}`` where the depth goes.  ``frames`` names each depth
and says what its picture shows; a sentence that only repeats another is refused, since it tells a blind
reader nothing.  Options: ``start`` (the depth shown first; the middle one), ``label`` (of the slider;
"Depth L"), ``symbol`` (under each small picture; "L"), ``name`` (to refer to the figure).

With scripts the figure is one picture and a range input that mouse, finger and keyboard move.  Without
scripts, in print and in LaTeX all pictures stand side by side, each with its depth.  Plain text prints
what each picture shows.
"""

from __future__ import annotations

import re

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator
from sphinx.writers.latex import LaTeXTranslator
from sphinx.writers.text import TextTranslator

FRAME = re.compile(r"^\s*(?P<depth>[^:\s]+)\s*:\s*(?P<alt>\S.*?)\s*$")


class slider(nodes.figure):
    """A figure whose pictures are frames of one parameter."""


class frame(nodes.General, nodes.Element):
    """One picture and its value."""


def parse_frames(text: str) -> dict[str, str]:
    """``depth: what the picture shows``, one per line, as a dictionary in order.

    >>> parse_frames("4: Polygons.\\n16: Nearly circles.")
    {'4': 'Polygons.', '16': 'Nearly circles.'}
    """
    frames: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        match = FRAME.match(line)
        if match is None:
            raise ValueError(
                f"frames: expected lines 'depth: what the picture shows', received {line.strip()!r}"
            )
        if match["depth"] in frames:
            raise ValueError(f"frames: the depth {match['depth']} is given twice")
        frames[match["depth"]] = match["alt"]
    if len(frames) < 2:
        raise ValueError(f"frames: expected at least two depths, received {len(frames)}")
    generic = [re.sub(r"\d+", "#", alt) for alt in frames.values()]
    for depth, alt in zip(frames, generic, strict=True):
        if generic.count(alt) > 1:
            raise ValueError(
                f"frames: the text of depth {depth} fits another picture too; say what this one shows"
            )
    return frames


class DepthSlider(SphinxDirective):
    required_arguments = 1
    has_content = True
    final_argument_whitespace = True
    option_spec = {
        "frames": directives.unchanged_required,
        "start": directives.unchanged,
        "label": directives.unchanged,
        "symbol": directives.unchanged,
        "name": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        pattern = self.arguments[0]
        if "{}" not in pattern:
            raise self.error(f"depth-slider: expected {{}} in the path of the pictures, received {pattern!r}")
        try:
            frames = parse_frames(self.options.get("frames", ""))
        except ValueError as error:
            raise self.error(f"depth-slider: {error}") from error
        depths = list(frames)
        start = self.options.get("start", depths[len(depths) // 2])
        if start not in depths:
            raise self.error(f"depth-slider: start={start} is not one of the depths {', '.join(depths)}")
        caption, legend = self.parse_caption()
        figure = slider(start=depths.index(start), label=self.options.get("label", "Depth L"))
        for depth, alt in frames.items():
            picture = nodes.image(uri=pattern.replace("{}", depth), alt=alt, loading="lazy")
            value = nodes.paragraph(
                "", f"{self.options.get('symbol', 'L')} = {depth}", classes=["frame-value"]
            )
            figure += frame("", picture, value, depth=depth)
        figure += [caption, *legend]
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]

    def parse_caption(self) -> tuple[nodes.caption, list[nodes.Node]]:
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        if not parsed.children or not isinstance(parsed.children[0], nodes.paragraph):
            raise self.error("depth-slider: expected a caption that asks a question and answers it")
        return nodes.caption("", "", *parsed.children[0].children), parsed.children[1:]


def visit_slider_html(self: HTML5Translator, node: slider) -> None:
    attributes = {"class": "depth-slider", "data-start": node["start"], "data-label": node["label"]}
    self.body.append(self.starttag(node, "figure", **attributes))


def depart_slider_html(self: HTML5Translator, node: slider) -> None:
    self.body.append("</figure>\n")


def visit_frame_html(self: HTML5Translator, node: frame) -> None:
    self.body.append(self.starttag(node, "div", **{"class": "frame", "data-depth": node["depth"]}))


def depart_frame_html(self: HTML5Translator, node: frame) -> None:
    self.body.append("</div>\n")


def visit_slider_latex(self: LaTeXTranslator, node: slider) -> None:
    self.body.append("\n\\begin{figure}[htbp]\n\\centering\n" + self.hypertarget_to(node))


def depart_slider_latex(self: LaTeXTranslator, node: slider) -> None:
    self.body.append("\\end{figure}\n")


def visit_frame_latex(self: LaTeXTranslator, node: frame) -> None:
    self.body.append("\\begin{minipage}{0.48\\linewidth}\\centering\n")


def depart_frame_latex(self: LaTeXTranslator, node: frame) -> None:
    self.body.append("\n\\end{minipage}\n")


def visit_slider_text(self: TextTranslator, node: slider) -> None:
    self.new_state(2)


def depart_slider_text(self: TextTranslator, node: slider) -> None:
    self.end_state()


def visit_frame_text(self: TextTranslator, node: frame) -> None:
    picture, value = node.children
    self.new_state(0)
    self.add_text(f"[{value.astext()}: {picture['alt']}]")
    self.end_state()
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, object]:
    app.add_enumerable_node(
        slider,
        "figure",
        html=(visit_slider_html, depart_slider_html),
        latex=(visit_slider_latex, depart_slider_latex),
        text=(visit_slider_text, depart_slider_text),
    )
    app.add_node(
        frame,
        html=(visit_frame_html, depart_frame_html),
        latex=(visit_frame_latex, depart_frame_latex),
        text=(visit_frame_text, None),
    )
    app.add_directive("depth-slider", DepthSlider)
    app.add_js_file("depth-slider.js", loading_method="defer")
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
