"""The checking machine itself: each change that must be caught is caught, each that must pass passes.

A small chapter is executed once; every mutant is a copy of it with one change.
All mutants go through the real plugin in one pytest of their own, whose report these tests read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import compare_claims
import execute
import jupytext
import nbformat
import pytest

HERE = Path(__file__).resolve().parent
CLAIM = "application/vnd.dnlbook.claim+json"
GLUED = "application/papermill.record/text/plain"
RULES = ("pair", "stored outputs", "conventions")
Failures = dict[str, str]  # name of the failed item -> its message


@dataclass
class Chapter:
    """A copy of the chapter that a mutation changes: the source, the stored notebook or both."""

    source: str
    notebook: Any

    def cell(self, text: str) -> Any:
        """The one code cell whose source holds a text."""
        (found,) = [c for c in self.notebook.cells if c.cell_type == "code" and text in c.source]
        return found

    def replace(self, old: str, new: str) -> None:
        """Change the code in the source and in the stored notebook, as if it had been executed."""
        assert old in self.source
        self.source = self.source.replace(old, new)
        for cell in self.notebook.cells:
            cell.source = cell.source.replace(old, new)

    def tag(self, text: str, tag: str) -> None:
        """Add a tag to a cell, in the source and in the stored notebook."""
        cell = self.cell(text)
        first = cell.source.splitlines()[0]
        self.source = self.source.replace(first, f":tags: [{tag}]\n\n{first}")
        cell.metadata["tags"] = [tag]

    def printed(self, text: str) -> Any:
        """The stream that a cell stored."""
        (stream,) = [o for o in self.cell(text).outputs if o.output_type == "stream"]
        return stream

    def prints(self, text: str, line: str, stream: str = "stdout") -> None:
        """Let the first cell print a line, and store it."""
        first = "torch.set_default_dtype(torch.float64)"
        target = ", file=__import__('sys').stderr" if stream == "stderr" else ""
        self.replace(first, f"{first}\nprint({text}{target})")
        self.cell(first).outputs.append(nbformat.v4.new_output("stream", name=stream, text=f"{line}\n"))

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "machine.md").write_text(self.source)
        nbformat.write(self.notebook, folder / "machine.ipynb")


ERRORS, FIRST, GLUE, CLAIMS = 'print(f"L = {depth:3d}', "import matplotlib", "glue(", "machine-round-off"
TABLE, FIGURE = "HTML(f'<table", "plt.show()"
Mutation = Callable[[Chapter], None]


def change_last_but_one_digit(chapter: Chapter, number: str) -> None:
    """Change one printed number by ten units of its last digit."""
    stream = chapter.printed(ERRORS)
    digits = re.search(number, stream.text)[0]
    mantissa, exponent, power = digits.partition("e")
    digit = "1" if mantissa[-2] == "0" else str(int(mantissa[-2]) - 1)
    changed = mantissa[:-2] + digit + mantissa[-1] + exponent + power
    assert changed != digits
    stream.text = stream.text.replace(digits, changed)


def change_output(chapter: Chapter, where: str, mime: str, change: Callable[[Any], Any]) -> None:
    (output, *_) = [o for o in chapter.cell(where).outputs if mime in o.get("data", {})]
    output.data[mime] = change(output.data[mime])


def change_record(chapter: Chapter, **fields: str) -> None:
    change_output(chapter, GLUE, CLAIM, lambda record: {**record, **fields})


def remove_stored_figure(chapter: Chapter) -> None:
    chapter.cell(FIGURE).outputs = []


def never_execute(chapter: Chapter) -> None:
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []


def execute_partly(chapter: Chapter) -> None:
    (last,) = [c for c in chapter.notebook.cells if c.get("execution_count") == 7]
    last.execution_count, last.outputs = None, []


def execute_out_of_order(chapter: Chapter) -> None:
    chapter.cell(TABLE).execution_count = 9


def edit_prose(chapter: Chapter) -> None:
    assert "The error halves" in chapter.source
    chapter.source = chapter.source.replace("The error halves", "The error vanishes")


def edit_code(chapter: Chapter) -> None:
    chapter.source = chapter.source.replace("depths = [8, 16, 32, 64]", "depths = [8, 16, 32, 65]")


def edit_caption(chapter: Chapter) -> None:
    chapter.source = chapter.source.replace("Exponentially;", "Linearly;")


def remove_source_cell(chapter: Chapter) -> None:
    head, tail = chapter.source.split("```{code-cell} ipython3\nrows")
    chapter.source = head + tail.split("```\n", 1)[1]


def remove_alternative_text(chapter: Chapter) -> None:
    line = next(line for line in chapter.source.splitlines() if line.startswith("    alt:"))
    chapter.source = chapter.source.replace(f"  image:\n{line}\n", "")
    del chapter.cell(FIGURE).metadata["mystnb"]["image"]


def duplicate_id(chapter: Chapter) -> None:
    chapter.replace("machine-last-error", "machine-ratio-0")
    for output in chapter.cell(CLAIMS).outputs:
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == "machine-last-error":
            output.metadata["scrapbook"]["name"] = "machine-ratio-0"
        for mime, value in output.data.items():
            if mime == CLAIM:
                output.data[mime] = {
                    k: v.replace("machine-last-error", "machine-ratio-0") for k, v in value.items()
                }
            else:
                output.data[mime] = value.replace("machine-last-error", "machine-ratio-0")


def reduce_claims(chapter: Chapter) -> None:
    chapter.replace(
        "for k, (coarse, fine) in enumerate(zip(errors, errors[1:], strict=False)):", "for k in []:"
    )
    chapter.cell(GLUE).outputs = chapter.cell(GLUE).outputs[:1]


def scale_printed(chapter: Chapter, factor: float) -> None:
    """Change the first printed error by a factor in a cell that allows five per cent."""
    stream = chapter.printed(ERRORS)
    number = re.search(r"\d\.\d+e-\d+", stream.text)[0]
    stream.text = stream.text.replace(number, f"{float(number) * factor:.4e}")
    chapter.tag(ERRORS, "rtol-0.05")


def with_stderr(chapter: Chapter, tag: str) -> None:
    chapter.prints("'a word'", "a word", stream="stderr")
    chapter.source = chapter.source.replace(
        ":tags: [hide-input]\n\nimport os", f":tags: [{tag}]\n\nimport os"
    )
    chapter.cell(FIRST).metadata["tags"] = [tag]


def replacing(old: str, new: str) -> Mutation:
    return lambda chapter: chapter.replace(old, new)


def printing(code: str, line: str) -> Mutation:
    return lambda chapter: chapter.prints(code, line)


# name -> (mutation, the item that catches it, what the message says)
CAUGHT: dict[str, tuple[Mutation, str, str]] = {
    "curve-by-2-percent": (
        replacing("torch.exp(-t) *", "0.98 * torch.exp(-t) *"),
        "Cell 5",
        "figure changed",
    ),
    "figure-title": (replacing('"decay"', '"growth"'), "Cell 5", "figure changed"),
    "figure-size": (replacing("(5.2, 3.2)", "(5.3, 3.2)"), "Cell 5", "figure changed"),
    "number-in-scientific-notation": (
        partial(change_last_but_one_digit, number=r"\d\.\d+e-\d+"),
        "Cell 1",
        "stdout differs",
    ),
    "number-with-eight-digits": (
        partial(change_last_but_one_digit, number=r"\d\.\d{8}"),
        "Cell 1",
        "stdout differs",
    ),
    "whole-number": (
        lambda chapter: chapter.printed(ERRORS).update(text=chapter.printed(ERRORS).text.replace("64", "65")),
        "Cell 1",
        "stdout differs",
    ),
    "word-in-a-stored-output": (
        lambda chapter: chapter.printed(ERRORS).update(
            text=chapter.printed(ERRORS).text.replace("list", "tuple")
        ),
        "Cell 1",
        "stdout differs",
    ),
    "number-in-a-table": (
        partial(
            change_output, where=TABLE, mime="text/html", change=lambda html: html.replace("e-03", "e-02")
        ),
        "Cell 4",
        "text/html differs",
    ),
    "glued-number": (
        partial(change_output, where=GLUE, mime=GLUED, change=lambda text: text.replace("0.00", "0.01")),
        "Cell 2",
        f"{GLUED} differs",
    ),
    "measured-in-a-record": (partial(change_record, measured="1.9"), "Cell 2", f"{CLAIM} differs"),
    "expected-in-a-record": (partial(change_record, expected="2.00 ± 0.16"), "Cell 2", f"{CLAIM} differs"),
    "figure-missing-in-the-notebook": (
        remove_stored_figure,
        "Cell 5",
        "not in the stored notebook: image/png",
    ),
    "figure-missing-in-the-new-run": (
        replacing("plt.show()", "plt.close()"),
        "Cell 5",
        "missing from the new run",
    ),
    "exception": (replacing("rows = ", "raise KeyError('rows')\nrows = "), "Cell 4", "KeyError"),
    "false-claim": (replacing("below=0.01", "below=0.001"), "Cell 3", "claim machine-last-error fails"),
    "not-a-number": (
        replacing("errors[-1], below", "float('nan'), below"),
        "Cell 3",
        "needs a finite number",
    ),
    "five-percent-allowed-ten-changed": (partial(scale_printed, factor=1.1), "Cell 1", "stdout differs"),
    "prose-edited": (edit_prose, "pair", "cell 4: source differs"),
    "code-edited": (edit_code, "pair", "cell 3: source differs"),
    "caption-edited": (edit_caption, "pair", "metadata differs"),
    "source-block-removed": (remove_source_cell, "pair", "run: make notebooks ONLY="),
    "never-executed": (never_execute, "stored outputs", "never executed"),
    "partly-executed": (execute_partly, "stored outputs", "not executed once each"),
    "executed-out-of-order": (execute_out_of_order, "stored outputs", "not executed once each"),
    "stderr": (partial(with_stderr, tag="hide-input"), "stored outputs", "wrote to stderr: a word"),
    "exempt-by-comment": (
        replacing("rows = ", "# NBVAL_IGNORE_OUTPUT\nrows = "),
        "stored outputs",
        "asks not to be checked",
    ),
    "exempt-by-tag": (
        lambda chapter: chapter.tag(TABLE, "nbval-skip"),
        "stored outputs",
        "asks not to be checked",
    ),
    "stored-false-claim": (partial(change_record, status="fails"), "conventions", "does not hold"),
    "duplicate-claim": (duplicate_id, "conventions", "machine-ratio-0 is used 2 times"),
    "too-few-claims": (reduce_claims, "conventions", "at least 5 claims, this one has 2"),
    "timing": (printing("'done in 1.2 s'", "done in 1.2 s"), "conventions", "prints a time: '1.2 s'"),
    "nine-digits": (printing("3.14159265", "3.14159265"), "conventions", "more than 8 significant digits"),
    "no-alternative-text": (remove_alternative_text, "conventions", "no alternative text"),
    "wide-tolerance": (lambda chapter: chapter.tag(TABLE, "rtol-0.5"), "conventions", "'rtol-0.5' must be"),
}

# name -> (mutation, the item that tolerates it)
TOLERATED: dict[str, tuple[Mutation, str]] = {
    "last-digit": (
        lambda chapter: chapter.printed(ERRORS).update(
            text=chapter.printed(ERRORS).text.replace("0.36787944", "0.36787945")
        ),
        "Cell 1",
    ),
    "five-percent-allowed-three-changed": (partial(scale_printed, factor=1.03), "Cell 1"),
    "address": (printing("object()", "<object object at 0x7f0123456789>"), "Cell 0"),
    "temporary-path": (printing("__import__('tempfile').mkdtemp()", f"{os.sep}tmp{os.sep}another"), "Cell 0"),
    "stderr-allowed": (partial(with_stderr, tag="allow-stderr"), "Cell 0"),
}

DISTURBANCES: dict[str, dict[str, str]] = {
    "rerun": {},
    "noise-of-1e-12": {"MACHINE_NOISE": "1e-12"},
    "two-threads": {"OMP_NUM_THREADS": "2"},
    "other-kernels": {"ATEN_CPU_CAPABILITY": "default"},
}


def check(folder: Path, *arguments: str, **variables: str) -> dict[str, Failures]:
    """Run pytest with the plugin on a folder of notebooks: what failed, by the name of the mutant."""
    report = folder / f"report-{len(list(folder.glob('report-*')))}.xml"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(HERE), str(execute.ROOT / "book"), str(execute.ROOT)])}
    options = [
        "-p",
        "checked_notebooks",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:cov",
        "--color=no",
        "-q",
        "--nbval",
    ]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    failures: dict[str, Failures] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        mutant = case.attrib["classname"].split(".")[1]
        found = failures.setdefault(mutant, {})
        for failure in (*case.iter("failure"), *case.iter("error")):
            found[case.attrib["name"]] = failure.text or ""
    assert (done.returncode != 0) == any(failures.values()), done.stdout + done.stderr
    return failures


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the chapter, executed."""
    folder = tmp_path_factory.mktemp("original") / "notebooks" / "unchanged"
    folder.mkdir(parents=True)
    shutil.copy(HERE / "fixture" / "machine.md", folder)
    assert execute.main(["--folder", str(folder.parent)]) == 0
    return folder


def home(name: str) -> str:
    """The copy that carries a mutation: a rule sees one mutation per copy, the cells of a copy one each."""
    item = (CAUGHT.get(name) or TOLERATED[name])[1]
    if item in RULES:
        return name
    kind = "caught" if name in CAUGHT else "tolerated"
    rivals = [
        other for other, (_, place, *_) in (CAUGHT if name in CAUGHT else TOLERATED).items() if place == item
    ]
    return f"{kind}-{rivals.index(name)}"


@pytest.fixture(scope="module")
def outcomes(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Failures]:
    """What failed in every copy; those that a rule must catch are not executed."""
    copies: dict[str, Chapter] = {}
    by_rule = {name for name, (_, item, _) in CAUGHT.items() if item in RULES}
    folders = {True: tmp_path_factory.mktemp("rules"), False: tmp_path_factory.mktemp("cells")}
    for name, (mutation, *_) in (CAUGHT | TOLERATED).items():
        notebook = nbformat.read(original / "machine.ipynb", as_version=4)
        chapter = copies.setdefault(home(name), Chapter((original / "machine.md").read_text(), notebook))
        mutation(chapter)
    for name, chapter in copies.items():
        chapter.write(folders[name in by_rule] / "notebooks" / name)
    return check(folders[True], "-k", "not Cell") | check(folders[False])


@pytest.mark.parametrize("name", CAUGHT)
def test_caught(name: str, outcomes: dict[str, Failures]) -> None:
    _, item, message = CAUGHT[name]
    failures = outcomes[home(name)]
    assert item in failures, f"only these failed: {sorted(failures)}"
    assert message in failures[item]


def test_nothing_else_is_caught(outcomes: dict[str, Failures]) -> None:
    expected: dict[str, set[str]] = {}
    for name, (_, item, _) in CAUGHT.items():
        if item not in RULES:
            expected.setdefault(home(name), set()).add(item)
    assert {copy: set(outcomes[copy]) for copy in expected} == expected


@pytest.mark.parametrize("name", TOLERATED)
def test_tolerated(name: str, outcomes: dict[str, Failures]) -> None:
    assert outcomes[home(name)] == {}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbances_are_tolerated(name: str, original: Path) -> None:
    assert check(original.parent.parent, **DISTURBANCES[name]) == {"unchanged": {}}


def test_noise_that_matters_is_caught(original: Path) -> None:
    failures = check(original.parent.parent, MACHINE_NOISE="1e-3")["unchanged"]
    assert {"Cell 1", "Cell 2", "Cell 6"} <= set(failures)


def test_a_second_run_stores_the_same_bytes(original: Path) -> None:
    before = (original / "machine.ipynb").read_bytes()
    assert execute.main(["--folder", str(original.parent), "unchanged/machine"]) == 0
    assert (original / "machine.ipynb").read_bytes() == before


def test_a_chapter_that_fails_keeps_its_outputs(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "notebooks" / "broken"
    shutil.copytree(original, folder)
    source = folder / "machine.md"
    source.write_text(source.read_text().replace("below=0.01,", "below=0.001,"))
    before = (folder / "machine.ipynb").read_bytes()
    assert execute.main(["--folder", str(folder.parent), "broken/machine"]) == 1
    printed = capsys.readouterr().out
    assert "broken/machine: FAILED" in printed
    assert "code cell 3 of 7" in printed and "claim machine-last-error fails" in printed
    assert (folder / "machine.ipynb").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["machine.ipynb", "machine.md"]
    elsewhere = tmp_path / "elsewhere"
    assert execute.main(["--folder", str(folder.parent), "--into", str(elsewhere)]) == 1
    assert (folder / "machine.ipynb").read_bytes() == before
    verdicts = {change.id: change.verdict for change in compare_claims.changes(folder.parent, elsewhere)}
    assert verdicts == {"machine-last-error": "fails", "machine-round-off": "missing"}


def test_an_unknown_chapter_is_named(capsys: pytest.CaptureFixture[str], original: Path) -> None:
    with pytest.raises(SystemExit):
        execute.main(["--folder", str(original.parent), "unchanged/nowhere"])
    assert (
        "there is no chapter 'unchanged/nowhere'; expected one of: unchanged/machine"
        in capsys.readouterr().err
    )


def test_the_fixture_is_read_as_jupytext_reads_it(original: Path) -> None:
    stored = nbformat.read(original / "machine.ipynb", as_version=4)
    assert [cell.source for cell in jupytext.read(original / "machine.md").cells] == [
        cell.source for cell in stored.cells
    ]
