"""The rules for stored outputs that the mutants of ``test_machine.py`` do not show."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import rules
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

CHAPTER = Path("notebooks/residual/neural_ode.ipynb")
METADATA = {"mystnb": {"figure": {"name": "fig-a", "caption": "Why? So."}, "image": {"alt": "A line."}}}


def figure(size: int = 1000, mime: str = "image/png") -> Any:
    data = {mime: base64.b64encode(bytes(size)).decode(), "text/plain": "<Figure size 520x320 with 1 Axes>"}
    return new_output("display_data", data=data)


@pytest.mark.parametrize(
    "text",
    [
        "1.2 s",
        "done in 12ms",
        "3 seconds",
        "0.5 µs each",
        "12 minutes",
        "elapsed: 3",
        "Wall time 4",
        "31.4 it/s",
        "2 ms ± 1 µs per loop",
    ],
)
def test_times_are_found(text: str) -> None:
    assert any("prints a time" in problem for problem in rules.text_problems(text))


@pytest.mark.parametrize(
    "text",
    [
        "L = 64 steps",
        "t = 0.5, s = 1.5",
        "order 1.99 (rk4)",
        "3 samples",
        "x(1) = 0.68799869",
        "scale 1 and 3",
        "1 m/s",
        "h = 0.01",
        "5 seeds",
        "2 hidden layers",
        "scale 1    s",
        "error 0.04\ns = 3",
    ],
)
def test_other_numbers_are_no_times(text: str) -> None:
    assert rules.text_problems(text) == []


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        ("1.2345678", 8),
        ("0.00012345", 5),
        ("-123456.789", 9),
        ("1.00000000e-05", 9),
        ("123456789", 0),
        ("0.000", 0),
        ("1e-12", 0),
    ],
)
def test_significant_digits(number: str, digits: int) -> None:
    assert rules.significant_digits(number) == digits
    assert bool(rules.text_problems(f"x = {number}")) == (digits > 8)


@pytest.mark.parametrize(("inside", "limit"), [(False, 84), (True, 75)])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_line_of_code_fits_its_page(inside: bool, limit: int, excess: int) -> None:
    marks = ["Text.", ":::{solution-start} ex-a-1\n:::"] if inside else [":::{solution-end}\n:::"]
    code = new_code_cell("x = 1\n" + "y" * (limit + excess))
    notebook = new_notebook(cells=[*map(new_markdown_cell, marks), code])
    assert len(rules.width_problems(notebook)) == excess


def test_a_good_figure_has_no_problem() -> None:
    assert rules.figure_problems(new_code_cell(outputs=[figure()], metadata=METADATA)) == []


@pytest.mark.parametrize(
    ("outputs", "metadata", "problem"),
    [
        ([figure(160_000)], METADATA, "has 160 kB"),
        ([figure(mime="image/svg+xml")], METADATA, "only image/png is compared"),
        ([figure(), figure()], METADATA, "2 figures"),
        ([figure()], {}, "no name"),
        ([figure()], {"mystnb": {"figure": {"name": "fig-a"}, "image": {"alt": "A line."}}}, "no caption"),
        ([figure()], {"mystnb": {**METADATA["mystnb"], "image": {"alt": " "}}}, "no alternative text"),
        (
            [figure()],
            {"mystnb": {**METADATA["mystnb"], "figure": {"name": "fig-a", "caption": "The darker line."}}},
            "darker",
        ),
        (
            [figure(), new_output("execute_result", data={"text/plain": "Text(0, 0)"})],
            METADATA,
            "'Text(0, 0)' beside a figure",
        ),
    ],
)
def test_figure_problems(outputs: list[Any], metadata: dict[str, Any], problem: str) -> None:
    found = rules.figure_problems(new_code_cell(outputs=outputs, metadata=metadata))
    assert any(problem in text for text in found), found


def claimed(identifier: str, glued: str | None = None) -> list[Any]:
    record = {"id": identifier, "status": "holds"}
    outputs = [new_output("display_data", data={rules.CLAIM: record})]
    if glued:
        outputs.append(new_output("display_data", data={rules.GLUED: "1"}, metadata={"scrapbook": {"name": glued}}))
    return outputs


def test_ids_start_with_the_name_of_the_chapter() -> None:
    notebook = new_notebook(cells=[new_code_cell(outputs=claimed("euler-a", "euler-a"))])
    assert "the key euler-a must start with 'neural-ode-'" in rules.claim_problems(notebook, CHAPTER)


def test_a_claim_glues_its_value() -> None:
    notebook = new_notebook(cells=[new_code_cell(outputs=claimed("neural-ode-a"))])
    assert "claim neural-ode-a is stored without its glued value" in rules.claim_problems(notebook, CHAPTER)


def test_a_chapter_shows_its_claims_and_a_front_page_need_not() -> None:
    notebook = new_notebook()
    assert len(rules.claim_problems(notebook, CHAPTER)) == 2
    assert rules.claim_problems(notebook, Path("notebooks/front/landing.ipynb")) == []


def test_heavy_outputs_are_refused() -> None:
    notebook = new_notebook(cells=[new_code_cell(outputs=[figure(950_000)])])
    (problem,) = rules.weight_problems(notebook)
    assert "the outputs weigh 1.27 MB" in problem


@pytest.mark.parametrize(
    ("tag", "accepted"),
    [("rtol-0.05", True), ("rtol-0", False), ("rtol-0.5", False), ("rtol0.05", False), ("hide-input", True)],
)
def test_tolerance_tags(tag: str, accepted: bool) -> None:
    cell = new_code_cell(metadata={"tags": [tag]})
    assert (rules.tag_problems(cell) == []) is accepted
    assert rules.relative_tolerance(new_code_cell(metadata={"tags": ["rtol-0.05", "hide-input"]})) == 0.05


def test_a_notebook_without_code_is_refused() -> None:
    assert rules.execution_problems(new_notebook(), CHAPTER) == ["the notebook has no code cell"]


def test_a_notebook_without_source_is_refused(tmp_path: Path) -> None:
    assert rules.pair_problems(new_notebook(), tmp_path / "a.ipynb") == ["a.md is missing: the notebook has no source"]
