"""Tables and pictures of the page on performance, made from ``benchmarks/results.json`` when the site is built.

- ``{performance-goals}``: every goal beside what was measured, and a picture of how far each is met.
- ``{performance-group} residual``: the candidates of each case of a group, and a picture of their ratios.
- ``{performance-growth}``: time and memory over depth.
- ``{performance-slower}``: what is faster than dnlbook, and by how much.
- ``{performance-missed}``: for each goal that is not reached, where the time goes and what was tried.
- ``{performance-run}``: machine, versions and date.

No number is written on the page.  A missing or malformed file of results, results of a quick run, or a group
that is not in the file stop the build with an error.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from measurements import tables
from measurements.reading import pick, read, read_ideas
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS, IDEAS = "benchmarks/results.json", "benchmarks/ideas.json"


def _pictures() -> ModuleType:
    """Matplotlib is loaded for a page that has pictures, and for no other."""
    return importlib.import_module("measurements.pictures")


class Performance(SphinxDirective):
    """What all directives share: the results, MyST that is parsed in place, and pictures."""

    def results(self) -> dict[str, Any]:
        self.env.note_dependency(RESULTS)
        return read(Path(self.env.srcdir) / RESULTS)

    def parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines()), self.content_offset, holder)
        return holder.children

    def figure(self, name: str, draw: Callable[..., tuple[str, str]], measured: Any) -> nodes.figure:
        """A numbered figure whose picture is drawn now, beside the other files of the build."""
        folder = Path(self.env.app.doctreedir) / "performance"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        caption, alt = draw(measured, path)
        uri = Path(os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)).as_posix()
        words = self.parsed(caption)[0]
        figure = nodes.figure("", nodes.image(uri=uri, alt=alt), nodes.caption("", "", *words.children))
        self.set_source_info(figure)
        figure["names"].append(f"fig-performance-{name}")
        self.state.document.note_explicit_target(figure, figure)
        return figure


class Goals(Performance):
    def run(self) -> list[nodes.Node]:
        results = self.results()
        return [*self.parsed(tables.goals(results)), self.figure("goals", _pictures().goals, results)]


class Group(Performance):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        group = pick(self.results(), self.arguments[0])
        text = self.parsed(tables.group(group))
        return [self.figure(group["id"], _pictures().group, group), *text] if len(group["cases"]) > 1 else text


class Growth(Performance):
    def run(self) -> list[nodes.Node]:
        return [self.figure("growth", _pictures().growth, self.results())]


class Slower(Performance):
    def run(self) -> list[nodes.Node]:
        return self.parsed(tables.slower(self.results()))


class Missed(Performance):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(IDEAS)
        return self.parsed(tables.missed(self.results(), read_ideas(Path(self.env.srcdir) / IDEAS)))


class Run(Performance):
    def run(self) -> list[nodes.Node]:
        return self.parsed(tables.run(self.results()))


def setup(app: Sphinx) -> dict[str, object]:
    for name, directive in {
        "goals": Goals,
        "group": Group,
        "growth": Growth,
        "slower": Slower,
        "missed": Missed,
        "run": Run,
    }.items():
        app.add_directive(f"performance-{name}", directive)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
