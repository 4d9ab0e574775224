"""What every stored notebook of the book must satisfy, as functions that return a list of problems."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import execute
import nbformat
from comparison import CLAIM, NUMBER, sanitize

SIGNIFICANT_DIGITS = 8
FIGURE_BYTES = 150_000
NOTEBOOK_BYTES = 1_200_000  # of outputs; a page may weigh 1.5 MB with its text
CLAIMS_PER_CHAPTER = 5
LINE, LINE_IN_SOLUTION = 84, 75  # characters of code that a page shows without a scroll bar
FRONT = "front"  # the part whose pages are no chapters
RTOL_TAG = re.compile(r"rtol-(\d+(?:\.\d+)?)")
LARGEST_RTOL = 0.2
EXEMPT_TAGS = {"nbval-skip", "nbval-ignore-output", "pytest-validate-ignore-output"}
EXEMPT_COMMENTS = re.compile(
    r"^\s*#+\s*(NBVAL_SKIP|NBVAL_IGNORE_OUTPUT|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE
)
TIMING = (
    re.compile(
        r"(?<![\w.])\d+(?:\.\d+)?[ \u00a0\u202f]?"
        r"(?:ns|µs|μs|us|ms|s|secs?|seconds?|minutes?|hours?)(?![\w/^*])"
    ),
    re.compile(r"\b(?:elapsed|wall[- ]?time|wall[- ]?clock|cpu times?|per loop|it/s|runtime)\b", re.IGNORECASE),
)
GLUED = "application/papermill.record/text/plain"
TEXTS = ("text/plain", "text/html", "text/markdown", "text/latex", GLUED)
TAG = re.compile(r"<[^<>]*>")


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def relative_tolerance(cell: Any) -> float:
    """The largest tolerance that a tag ``rtol-0.05`` of the cell asks for, 0 without one."""
    found = [RTOL_TAG.fullmatch(tag) for tag in tags(cell)]
    return max((float(match[1]) for match in found if match), default=0.0)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def claims(notebook: Any) -> list[dict[str, str]]:
    """The claim records that a notebook stores, in order."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.data[CLAIM] for output in outputs if CLAIM in output.get("data", {})]


def glued_keys(notebook: Any) -> list[str]:
    """The keys under which a notebook stores numbers for its prose, in order."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    records = [output.get("metadata", {}).get("scrapbook") for output in outputs]
    return [record["name"] for record in records if record]


def pair_problems(notebook: Any, path: Path) -> list[str]:
    """The source and the stored notebook must have the same cells and the same metadata."""
    source = path.with_suffix(".md")
    if not source.exists():
        return [f"{source.name} is missing: the notebook has no source"]
    expected = execute.read_source(source)
    advice = f"run: make notebooks ONLY={execute.chapter_name(path)}"
    if len(expected.cells) != len(notebook.cells):
        return [f"{source.name} has {len(expected.cells)} cells, {path.name} has {len(notebook.cells)}; {advice}"]
    problems = []
    pairs = [("notebook", ("metadata",), expected, notebook)]
    pairs += [
        (f"cell {number}", ("cell_type", "source", "metadata"), *cells)
        for number, cells in enumerate(zip(expected.cells, notebook.cells, strict=True))
    ]
    for where, fields, wanted, stored in pairs:
        for field in fields:
            if wanted[field] != stored[field]:
                texts = [_lines(part[field]) for part in (wanted, stored)]
                lines = difflib.unified_diff(*texts, source.name, path.name, lineterm="", n=0)
                problems.append("\n  ".join([f"{where}: {field} differs; {advice}", *lines]))
    return problems


def _lines(value: Any) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    return text.splitlines()


def _short(value: str, width: int = 300) -> str:
    return value if len(value) <= width else value[:width] + "…"


def execution_problems(notebook: Any, path: Path) -> list[str]:
    """Every code cell was run once, in order, in a fresh kernel, without error and with nothing on stderr."""
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if not cells:
        return ["the notebook has no code cell"]
    if not any(counts):
        return ["the notebook was never executed"]
    problems = []
    if counts != list(range(1, len(cells) + 1)):
        problems.append(f"the cells were not executed once each, in order: execution counts {counts}")
    for number, cell in enumerate(cells):
        if not cell.source.strip():
            problems.append(f"code cell {number} is empty")
        exempt = EXEMPT_TAGS.intersection(tag.replace("_", "-").lower() for tag in tags(cell))
        if exempt or EXEMPT_COMMENTS.search(cell.source):
            problems.append(f"code cell {number} asks not to be checked: every output of the book is checked")
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr" and "allow-stderr" not in tags(cell):
                problems.append(f"code cell {number} wrote to stderr: {_short(output.text)}")
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                problems.append(f"code cell {number} stores an error: {output.ename}: {_short(output.evalue)}")
    return problems


def convention_problems(notebook: Any, path: Path) -> list[str]:
    """Printed numbers, figures, claims and weight."""
    problems = []
    for number, cell in enumerate(code_cells(notebook)):
        where = f"code cell {number}"
        problems += [f"{where}: {problem}" for text in printed(cell) for problem in text_problems(text)]
        problems += [f"{where}: {problem}" for problem in figure_problems(cell)]
        problems += [f"{where}: {problem}" for problem in tag_problems(cell)]
    return problems + width_problems(notebook) + claim_problems(notebook, path) + weight_problems(notebook)


def width_problems(notebook: Any) -> list[str]:
    """Lines of code that a reader would have to scroll."""
    problems, limit = [], LINE
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            marks = re.findall(r"\{solution-(start|end)\}", cell.source)
            limit = {"start": LINE_IN_SOLUTION, "end": LINE}[marks[-1]] if marks else limit
        elif cell.cell_type == "code":
            wide = [line for line in cell.source.splitlines() if len(line) > limit]
            problems += [f"code of {len(line)} characters, limit {limit}: {_short(line.strip(), 60)}" for line in wide]
    return problems


def printed(cell: Any) -> Iterator[str]:
    """Every text that a cell shows or stores for the prose."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for mime, value in output.get("data", {}).items():
            if mime in TEXTS:
                text = "".join(value) if isinstance(value, list) else value
                yield TAG.sub(" ", text) if mime == "text/html" else text
            elif mime == CLAIM:
                yield "\n".join(str(item) for item in value.values())


def text_problems(text: str) -> list[str]:
    """Numbers that cannot be the same on another machine: times, and digits beyond the eighth."""
    text = sanitize(text)
    problems = [f"prints a time: {match[0]!r}" for pattern in TIMING for match in pattern.finditer(text)]
    for number in NUMBER.findall(text):
        if significant_digits(number) > SIGNIFICANT_DIGITS:
            problems.append(f"prints more than {SIGNIFICANT_DIGITS} significant digits: {number}")
    return problems


def significant_digits(number: str) -> int:
    """How many digits of a printed number carry information; a whole number is exact and counts 0."""
    mantissa = number.lower().partition("e")[0]
    return len(re.sub(r"\D", "", mantissa).lstrip("0")) if "." in mantissa else 0


def figure_problems(cell: Any) -> list[str]:
    """A figure is one PNG of limited size per cell, alone with its name, caption and alternative text."""
    bundles = [output for output in cell.outputs if any(m.startswith("image/") for m in output.get("data", {}))]
    if not bundles:
        return []
    problems = []
    if len(bundles) > 1:
        problems.append(f"shows {len(bundles)} figures: one per cell, since name and caption belong to the cell")
    for output in bundles:
        kinds = [mime for mime in output.data if mime.startswith("image/")]
        if kinds != ["image/png"]:
            problems.append(f"a figure is stored as {', '.join(kinds)}: only image/png is compared")
            continue
        size = len(base64.b64decode(output.data["image/png"]))
        if size > FIGURE_BYTES:
            problems.append(f"a figure has {size / 1e3:.0f} kB, at most {FIGURE_BYTES / 1e3:.0f} are allowed")
    for output in cell.outputs:
        if output.output_type == "execute_result" and output not in bundles:
            problems.append(f"prints {_short(output.data.get('text/plain', ''), 60)!r} beside a figure")
    settings = cell.metadata.get("mystnb", {})
    figure, image = settings.get("figure", {}), settings.get("image", {})
    texts = {
        "name": figure.get("name"),
        "caption": figure.get("caption"),
        "alternative text": image.get("alt"),
    }
    problems += [f"the figure has no {name}" for name, text in texts.items() if not str(text or "").strip()]
    if "darker" in str(texts["caption"]):
        problems.append("the caption says 'darker', which is wrong on a dark page: say 'stronger'")
    return problems


def tag_problems(cell: Any) -> list[str]:
    problems = []
    for tag in tags(cell):
        if tag.startswith("rtol"):
            match = RTOL_TAG.fullmatch(tag)
            if not match or not 0 < float(match[1]) <= LARGEST_RTOL:
                problems.append(f"the tag {tag!r} must be rtol- and a number in (0, {LARGEST_RTOL}]")
    return problems


def claim_problems(notebook: Any, path: Path) -> list[str]:
    records = claims(notebook)
    prefix = path.stem.replace("_", "-") + "-"
    keys = Counter(glued_keys(notebook))
    problems = [f"claim {r['id']} does not hold in the stored notebook" for r in records if r["status"] != "holds"]
    problems += [f"the key {key} is used {count} times" for key, count in keys.items() if count > 1]
    problems += [f"claim {r['id']} is stored without its glued value" for r in records if r["id"] not in keys]
    problems += [f"the key {key} must start with {prefix!r}" for key in keys if not key.startswith(prefix)]
    if path.parent.name != FRONT:
        if len(records) < CLAIMS_PER_CHAPTER:
            problems.append(f"a chapter has at least {CLAIMS_PER_CHAPTER} claims, this one has {len(records)}")
        if not any("{claims-table}" in cell.source for cell in notebook.cells if cell.cell_type == "markdown"):
            problems.append("the chapter does not show its claims: it has no {claims-table}")
    return problems


def weight_problems(notebook: Any) -> list[str]:
    weight = sum(len(json.dumps(cell.outputs)) for cell in code_cells(notebook))
    if weight > NOTEBOOK_BYTES:
        return [f"the outputs weigh {weight / 1e6:.2f} MB, at most {NOTEBOOK_BYTES / 1e6:.1f} MB are allowed"]
    return []


def unpaired(folder: Path) -> list[str]:
    """Sources without a stored notebook, and stored notebooks without a source."""
    stems = {suffix: {p.with_suffix("") for p in folder.rglob(f"*{suffix}")} for suffix in (".md", ".ipynb")}
    pairs = [
        f"{stem.relative_to(folder)}{has} has no {lacks} beside it"
        for has, lacks in ((".md", ".ipynb"), (".ipynb", ".md"))
        for stem in sorted(stems[has] - stems[lacks])
        if ".ipynb_checkpoints" not in stem.parts
    ]
    return pairs


def duplicates(folder: Path) -> list[str]:
    """Keys of claims and glued values that more than one notebook of the book uses."""
    homes: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            notebook = nbformat.read(path, as_version=4)
            for key in {*glued_keys(notebook), *(record["id"] for record in claims(notebook))}:
                homes.setdefault(key, set()).add(execute.chapter_name(path))
    return [f"{key} is used in {', '.join(sorted(used))}" for key, used in homes.items() if len(used) > 1]
