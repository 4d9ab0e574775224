"""The ledger of claims, the table of claims of a chapter, and links to single claims.

A claim leaves a machine-readable record in the stored output of its cell (``dnlbook.claims``).  Before
anything is read, this extension collects the records of all notebooks in the reading order of
``_toc.yml`` and writes ``book/claims.md``, one row per claim.  The build stops with an error if an id
occurs twice, if an id does not belong to its chapter, if a stored claim does not hold, or if a cell
stored the error of a claim.

- ``{claims-table}`` shows the claims of the notebook in which it stands.
- ``{claim}`euler-order-rk4``` links to the row of one claim, from any page.
- ``{measured}`euler-order-rk4``` is the number that the claim measured, with the same link.

Numbers in sentences, measured or glued, keep their digits and get a minus sign and powers of ten.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError, NoUri
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.parsing import parse_toc_yaml

MIME = "application/vnd.dnlbook.claim+json"
GLUED = "application/papermill.record/text/plain"
LEDGER = "book/claims"
HEAD = """\
% This page is generated when the site is built.  Its source are the stored notebooks.

# Ledger of claims

A claim is a sentence with a number in it: a checked theorem, a rate, a counter-example, a negative result.
It is compared with its expectation whenever its chapter runs; a chapter with a false claim cannot be stored.
The page shows the {total} claims of {chapters} chapters in reading order.
Each id leads to the cell that measured it.
"""


@dataclass(frozen=True)
class StoredClaim:
    """One record as it stands in a notebook, and the page it stands on."""

    id: str
    statement: str
    source: str
    expected: str
    measured: str
    tolerance: str
    status: str
    docname: str


class LedgerError(ExtensionError):
    """The stored claims contradict each other or themselves."""


def outputs(notebook: dict) -> Iterator[dict]:
    for cell in notebook["cells"]:
        yield from cell.get("outputs", [])


def title(notebook: dict, default: str) -> str:
    """The first heading of a notebook."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and (
            match := re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        ):
            return match[1].strip()
    return default


def stored_claims(notebook: dict, docname: str) -> list[StoredClaim]:
    """The claims in the stored outputs of a notebook, in order; raises if one of them is false."""
    names = [field.name for field in fields(StoredClaim) if field.name != "docname"]
    claims = []
    for output in outputs(notebook):
        if output["output_type"] == "error" and output["ename"] == "ClaimError":
            raise LedgerError(f"claims: {docname} stores a claim that did not hold: {output['evalue']}")
        record = output.get("data", {}).get(MIME)
        if record is None:
            continue
        if missing := [name for name in names if not isinstance(record.get(name), str)]:
            raise LedgerError(f"claims: {docname} stores a record without {', '.join(missing)}: {record}")
        claim = StoredClaim(**{name: record[name] for name in names}, docname=docname)
        if claim.status != "holds":
            raise LedgerError(
                f"claims: {docname} stores the claim {claim.id} that did not hold: {claim.statement} "
                f"Expected {claim.expected}, measured {claim.measured}."
            )
        prefix = docname.rsplit("/", 1)[-1].replace("_", "-") + "-"
        if not claim.id.startswith(prefix):
            raise LedgerError(f"claims: expected ids of {docname} to start with {prefix!r}, received {claim.id!r}")
        claims.append(claim)
    return claims


def reading_order(toc: Path) -> list[str]:
    """The pages of a table of contents in order, without suffixes."""
    site = parse_toc_yaml(toc)

    def walk(name: str) -> Iterator[str]:
        yield name
        for child in site[name].child_files() if name in site else ():
            yield from walk(child)

    return [re.sub(r"\.(md|ipynb)$", "", name) for name in walk(site.root.docname)]


def collect(folder: Path, pages: list[str]) -> dict[str, tuple[str, list[StoredClaim]]]:
    """Title and claims of every notebook that has claims; raises if an id occurs twice."""
    chapters: dict[str, tuple[str, list[StoredClaim]]] = {}
    owner: dict[str, str] = {}
    for page in pages:
        path = folder / f"{page}.ipynb"
        if not path.exists():
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        claims = stored_claims(notebook, page)
        for claim in claims:
            if claim.id in owner:
                raise LedgerError(f"claims: the id {claim.id} is used twice, in {owner[claim.id]} and in {page}")
            owner[claim.id] = page
        if claims:
            chapters[page] = (title(notebook, page), claims)
    return chapters


def escape(text: str) -> str:
    """Plain text as MyST that shows it unchanged.

    >>> escape("error < 1e-12 for x_0 * 2")
    'error \\\\< 1e-12 for x\\\\_0 \\\\* 2'
    """
    text = re.sub(r"([\\`*_{}\[\]<>$#|~^&!@])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d+)([.)])(?=\s|$)|^([-+])(?=\s|$)", lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", text)


def readable(number: str) -> str:
    """A printed number as it stands in a sentence.

    >>> readable("-0.40"), readable("5.7e+02"), readable("7.0e-04"), readable("< 1e-12"), readable("euler-2")
    ('−0.40', '570', '7.0·10⁻⁴', '< 10⁻¹²', 'euler-2')
    """

    def power(match: re.Match[str]) -> str:
        digits, exponent = match[1], int(match[2])
        if 0 <= exponent < 5:
            return f"{float(match[0]):.0f}"
        raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"

    number = re.sub(r"\b(\d+(?:\.\d+)?)e([-+]\d+)\b", power, number)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", number)


def table(claims: list[StoredClaim], *, sources: bool) -> str:
    """MyST of a table of claims; ``sources`` adds to each statement where its expectation comes from."""
    lines = [":::{list-table}", ":header-rows: 1", f":class: claims{' ledger' if sources else ''}", ""]
    rows = [("id", "statement", "expected", "measured", "status")]
    for claim in claims:
        statement = escape(claim.statement) + (f" [{escape(claim.source)}]{{.claim-source}}" if sources else "")
        status = "✓ holds" if claim.status == "holds" else "✗ did not hold"
        rows.append((f"{{claim}}`{claim.id}`", statement, escape(claim.expected), escape(claim.measured), status))
    for row in rows:
        lines += [f"{mark} {cell}" for mark, cell in zip(["* -", *["  -"] * 4], row, strict=True)]
    return "\n".join([*lines, ":::", ""])


def ledger(chapters: dict[str, tuple[str, list[StoredClaim]]]) -> str:
    """The MyST source of the ledger page."""
    total = sum(len(claims) for _, claims in chapters.values())
    parts = [HEAD.format(total=total, chapters=len(chapters))]
    for page, (name, claims) in chapters.items():
        parts.append(f"## {name}\n\nFrom {{doc}}`/{page}`.\n\n{table(claims, sources=True)}")
    return "\n".join(parts)


def write_if_changed(path: Path, text: str) -> None:
    """Replace a file in one step, and only if its text is another: an unchanged page is not read again."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def write_ledger(app: Sphinx, config: Config) -> None:
    toc = Path(app.srcdir) / config.external_toc_path
    pages = reading_order(toc)
    chapters = collect(Path(app.srcdir), pages)
    app.claims = {claim.id: claim for _, claims in chapters.values() for claim in claims}  # type: ignore[attr-defined]
    if LEDGER in pages:
        write_if_changed(Path(app.srcdir) / f"{LEDGER}.md", ledger(chapters))


def prepare_outputs(app: Sphinx, docname: str, source: list[str]) -> None:
    """Without the records, which are for machines, and with glued numbers quoted.

    MyST-NB would warn that it cannot show a record, and would evaluate a glued 0.40 to 0.4.
    """
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for output in outputs(notebook):
        data = output.get("data", {})
        data.pop(MIME, None)
        if GLUED in data:
            data[GLUED] = repr(readable("".join(data[GLUED])))
    source[0] = json.dumps(notebook)


class ClaimsTable(SphinxDirective):
    """The claims of the notebook in which the directive stands."""

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname))
        if path.suffix != ".ipynb":
            raise self.error(f"claims-table: expected a notebook, received the page {self.env.docname}")
        claims = stored_claims(json.loads(path.read_text(encoding="utf-8")), self.env.docname)
        if not claims:
            raise self.error(f"claims-table: the notebook {self.env.docname} stores no claim")
        parsed = nodes.Element()
        self.state.nested_parse(StringList(table(claims, sources=False).splitlines()), self.content_offset, parsed)
        return parsed.children


class Measured(XRefRole):
    """A reference to a claim whose text is the measured number; the page is read again when the notebook changes."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        claim: StoredClaim | None = env.app.claims.get(target)  # type: ignore[attr-defined]
        if claim is None:
            return title, target
        env.note_dependency(env.doc2path(claim.docname))
        return readable(claim.measured), target


def link_to_claim(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Sphinx does not see the row of a claim, HTML in the output of a cell: its address follows a rule."""
    if node["reftype"] not in ("claim", "measured"):
        return None
    claim: StoredClaim | None = app.claims.get(node["reftarget"])  # type: ignore[attr-defined]
    if claim is None:
        return None
    docname = claim.docname
    if app.builder.format != "html":  # the text stays
        raise NoUri(node["reftarget"], "claim")
    uri = "" if docname == node["refdoc"] else app.builder.get_relative_uri(node["refdoc"], docname)
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#claim-{node['reftarget']}")


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", write_ledger)
    app.connect("source-read", prepare_outputs)
    app.connect("missing-reference", link_to_claim)
    app.add_role("claim", XRefRole(warn_dangling=True, innernodeclass=nodes.inline))
    app.add_role("measured", Measured(warn_dangling=True, innernodeclass=nodes.inline))
    app.add_directive("claims-table", ClaimsTable)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
