"""Docstrings of properties and constants are prose.

Napoleon reads "The step: T/L." as the attribute of type "The step".  Its style for attributes is not used in
this book, so their docstrings go past it.
"""

from __future__ import annotations

from sphinx.application import Sphinx

PROSE = {"attribute", "data", "property"}
held: list[str] = []


def hold(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what in PROSE:
        held[:], lines[:] = lines, []


def release(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what in PROSE:
        lines[:] = held


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("autodoc-process-docstring", hold, priority=400)
    app.connect("autodoc-process-docstring", release, priority=600)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
