"""Repairs of the markup that other extensions produce, so that pages are valid and readable by machines.

- sphinx-proof and sphinx-exercise use some ids again and again: they become unique or go.
- A proof with ``:class: dropdown`` has no title, so nothing could be clicked to unfold it: it gets one.
- Every proof ends with a square; the source may write it or leave it out.
- Entries of a bibliography have a deprecated role that does not fit their list: they become its items.
- A number stays on one line with its percent sign, and so do the digits of a long whole number.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_proof.nodes import proof_node

REPEATED = [["proof-content"], ["exercise-content"], ["solution-content"]]
SQUARE = r"\square"
LEAD = "Proof. "  # how sphinx-proof begins the text of a proof


def unique_ids(app: Sphinx, doctree: nodes.document) -> None:
    for section in doctree.findall(nodes.section):
        if section["ids"] in REPEATED:
            section["ids"] = [nodes.make_id(f"{section.parent['label']}-content")]
    for proof in doctree.findall(proof_node):
        proof[0]["ids"] = []


def fold_proofs(app: Sphinx, doctree: nodes.document) -> None:
    for proof in doctree.findall(proof_node):
        block = proof[0]
        if "dropdown" not in block["classes"]:
            continue
        first = next(block.findall(nodes.Text), None)
        if first is not None and first.startswith(LEAD.strip()):
            first.parent.replace(first, nodes.Text(first[len(LEAD.strip()) :].lstrip()))
        block.insert(0, nodes.title("", "Proof"))


def end_proofs(app: Sphinx, doctree: nodes.document) -> None:
    for proof in doctree.findall(proof_node):
        leaf = proof
        while leaf.children and not isinstance(leaf, nodes.paragraph):
            leaf = leaf[-1]
        if not isinstance(leaf, nodes.paragraph):  # a display ends the proof
            leaf = nodes.paragraph()
            proof[-1].append(leaf)
        if not leaf.children or leaf[-1].astext() != SQUARE:
            leaf += [nodes.Text("\N{NO-BREAK SPACE}"), nodes.math("", SQUARE)]


def unbroken(text: str) -> str:
    """No line may end inside a number or before a percent sign.

    >>> unbroken("90 % of 40 000 samples in 3 runs, p = 0.5 ± 0.1")
    '90\\xa0% of 40\\xa0000 samples in 3 runs, p\\xa0=\\xa00.5\\xa0±\\xa00.1'
    """
    return re.sub(r" (?=[%=±])|(?<=[=±]) |(?<=\d) (?=\d{3}(?!\d))", "\N{NO-BREAK SPACE}", text)


def keep_numbers(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    for text in list(doctree.findall(nodes.Text)):
        kept = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
        if text.parent and " " in text and not isinstance(text.parent, kept) and (new := unbroken(text)) != text:
            text.parent.replace(text, nodes.Text(new))


def list_items(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("doctree-read", unique_ids)
    app.connect("doctree-read", fold_proofs)
    app.connect("doctree-read", end_proofs)
    app.connect("doctree-resolved", keep_numbers)
    app.connect("html-page-context", list_items)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
