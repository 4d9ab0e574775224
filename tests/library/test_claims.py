"""Claims: true statements are recorded, false or ill-posed ones never pass."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from dnlbook.claims import MIME, ClaimError, claim, glue

GLUED = "application/papermill.record/text/plain"
SOURCE = "Theorem 1"


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A running IPython, as in a notebook, that is gone after the test."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def outputs_of(*args: Any, **kwargs: Any) -> list[Any]:
    with capture_output() as captured:
        claim(*args, **kwargs)
    return list(captured.outputs)


def test_a_claim_shows_a_row_stores_a_record_and_glues_its_value(shell: InteractiveShell) -> None:
    row, glued = outputs_of("euler-order", "Order one.", 0.99912, expected=1, within=0.01, source=SOURCE)
    assert row.data[MIME] == {
        "id": "euler-order",
        "statement": "Order one.",
        "source": SOURCE,
        "expected": "1.00 ± 0.01",
        "measured": "0.9991",
        "tolerance": "± 0.01",
        "status": "holds",
    }
    assert json.loads(json.dumps(row.data[MIME])) == row.data[MIME]
    assert 'id="claim-euler-order"' in row.data["text/html"]
    assert "✓" in row.data["text/html"] and "holds" in row.data["text/html"]
    assert "style=" not in row.data["text/html"]
    assert "euler-order" in row.data["text/plain"]
    assert glued.data == {GLUED: "0.9991"}
    assert glued.metadata["scrapbook"] == {
        "name": "euler-order",
        "mime_prefix": "application/papermill.record/",
    }


def test_myst_nb_finds_the_glued_value(shell: InteractiveShell) -> None:
    from myst_nb.ext.glue import extract_glue_data_cell
    from nbformat.v4 import new_code_cell, new_output

    outputs = outputs_of("euler-order", "Order one.", 0.99912, below=1, source=SOURCE)
    cell = new_code_cell(outputs=[new_output("display_data", data=o.data, metadata=o.metadata or {}) for o in outputs])
    ((key, output),) = extract_glue_data_cell(cell)
    assert key == "euler-order" and output["data"] == {"text/plain": "0.9991"}
    assert len(cell.outputs) == 1, "the glued value is not shown a second time"


def test_html_is_escaped(shell: InteractiveShell) -> None:
    statement, source = 'a < b & "c" <script>alert(1)</script>', "<b>x</b>"
    row, _ = outputs_of("euler-html", statement, 0.5, below=1, source=source)
    assert "<script>" not in row.data["text/html"] and "<b>" not in row.data["text/html"]
    assert html.escape(statement) in row.data["text/html"]
    assert row.data[MIME]["statement"] == statement


@pytest.mark.parametrize(
    ("measured", "form"),
    [
        (1.02, {"expected": 1, "within": 0.01}),
        (0.98, {"expected": 1, "within": 0.01}),
        (1.0, {"below": 1.0}),
        (1.0, {"above": 1.0}),
        (0.98, {"between": (0.99, 1.01)}),
        (1.02, {"between": (0.99, 1.01)}),
        (math.nan, {"below": 1}),
        (math.nan, {"expected": 0, "within": 1}),
        (math.inf, {"above": 0}),
        (-math.inf, {"below": 0}),
        (torch.tensor(math.nan), {"between": (-1, 1)}),
    ],
)
def test_a_false_claim_raises_and_says_so_in_the_record(
    shell: InteractiveShell, measured: Any, form: dict[str, Any]
) -> None:
    with capture_output() as captured, pytest.raises(ClaimError, match="euler-false fails: Not so"):
        claim("euler-false", "Not so.", measured, source=SOURCE, **form)
    (row,) = captured.outputs
    assert row.data[MIME]["status"] == "fails", "and nothing is glued"
    assert "✗" in row.data["text/html"]


@pytest.mark.parametrize(
    ("measured", "form"),
    [
        (1.01, {"expected": 1, "within": 0.011}),
        (0.999, {"below": 1.0}),
        (1.001, {"above": 1.0}),
        (0.99, {"between": (0.99, 1.01)}),
        (1.01, {"between": [0.99, 1.01]}),
        (3, {"expected": 3, "within": 0}),
        (np.float32(0.5), {"below": 1}),
        (np.int64(5), {"above": 4}),
        (np.array(0.5), {"below": 1}),
        (torch.tensor(0.5, requires_grad=True), {"below": torch.tensor(1.0)}),
        (torch.tensor(5), {"expected": 5, "within": 0}),
    ],
)
def test_a_true_claim_holds(shell: InteractiveShell, measured: Any, form: dict[str, Any]) -> None:
    row, _ = outputs_of("euler-true", "So.", measured, source=SOURCE, **form)
    assert row.data[MIME]["status"] == "holds"


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(0, 1e6),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
)
def test_the_verdict_is_the_inequality(expected: float, within: float, measured: float) -> None:
    truth = expected - within <= measured <= expected + within
    try:
        claim("euler-verdict", "Within.", measured, expected=expected, within=within, source=SOURCE)
        verdict = True
    except ClaimError:
        verdict = False
    assert verdict == truth


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.0, 4, "1.000"),
        (0.99949, 3, "0.999"),
        (1234.56, 4, "1235"),
        (123456.7, 3, "1.23e+05"),
        (2e-7, 1, "2e-07"),
        (9.9e-13, 4, "< 1e-12"),
        (-9.9e-13, 4, "< 1e-12"),
        (0.0, 4, "< 1e-12"),
        (0, 4, "0"),
        (123456789, 4, "123456789"),
        (-1.5, 2, "-1.5"),
    ],
)
def test_measured_values_print_with_significant_digits(
    shell: InteractiveShell, value: float, digits: int, text: str
) -> None:
    row, glued = outputs_of("euler-print", "Printed.", value, above=-2, source=SOURCE, digits=digits)
    assert row.data[MIME]["measured"] == text == glued.data[GLUED]


@pytest.mark.parametrize(
    ("form", "text", "tolerance"),
    [
        ({"expected": 1, "within": 0.5}, "1.0 ± 0.5", "± 0.5"),
        ({"expected": 0.35887, "within": 0.001}, "0.35887 ± 0.001", "± 0.001"),
        ({"expected": 1e-7, "within": 1e-8}, "1e-07 ± 1e-08", "± 1e-08"),
        ({"below": 1}, "< 1", "upper bound"),
        ({"above": -1e-12}, "> -1e-12", "lower bound"),
        ({"between": (0, 1.01)}, "in [0, 1.01]", "interval"),
    ],
)
def test_expectations_are_readable(shell: InteractiveShell, form: dict[str, Any], text: str, tolerance: str) -> None:
    row, _ = outputs_of("euler-text", "Readable.", form.get("expected", 0.5), source=SOURCE, **form)
    assert row.data[MIME]["expected"] == text and row.data[MIME]["tolerance"] == tolerance


@pytest.mark.parametrize(
    "identifier",
    ["", "euler", "Euler-order", "euler_order", "euler-", "-euler", "euler--order", "4-order", "a b", 3],
)
def test_malformed_ids_are_refused(identifier: Any) -> None:
    with pytest.raises(ClaimError, match="id must be lower-case words joined by hyphens"):
        claim(identifier, "So.", 0.5, below=1, source=SOURCE)
    with pytest.raises(ClaimError, match="key must be lower-case words joined by hyphens"):
        glue(identifier, 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "exactly one of .* received none"),
        ({"below": 1, "above": 0}, TypeError, "exactly one of .* received below, above"),
        ({"expected": 1, "within": 1, "below": 2}, TypeError, "received expected and within, below"),
        ({"expected": 1}, TypeError, "belong together"),
        ({"within": 1}, TypeError, "belong together"),
        ({"expected": 1, "within": -1}, ValueError, "within must not be negative"),
        ({"expected": math.nan, "within": 1}, ValueError, "expected must be finite"),
        ({"below": math.inf}, ValueError, "below must be finite"),
        ({"above": "0"}, TypeError, "above must be a real number"),
        ({"between": (1, 0)}, ValueError, "low <= high"),
        ({"between": 3}, TypeError, "between must be a pair"),
        ({"between": (0, 1, 2)}, TypeError, "between must be a pair"),
        ({"below": 1, "digits": 0}, ValueError, "digits must lie in 1..8"),
        ({"below": 1, "digits": 9}, ValueError, "digits must lie in 1..8"),
        ({"below": 1, "digits": 2.0}, TypeError, "digits must be an int"),
        ({"below": 1, "source": " "}, ValueError, "source must not be blank"),
        ({"below": 1, "source": None}, TypeError, "source must be a text"),
        ({"below": 1, "statement": ""}, ValueError, "statement must not be blank"),
    ],
)
def test_ill_posed_claims_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    settings = {"id": "euler-posed", "statement": "So.", "measured": 0.5, "source": SOURCE, **arguments}
    with pytest.raises(error, match=message):
        claim(**settings)


@pytest.mark.parametrize("measured", [True, np.bool_(True), "1", None, 1j, torch.ones(2), np.ones((1, 1)), [1.0]])
def test_only_real_numbers_are_measured(measured: Any) -> None:
    with pytest.raises(TypeError, match="measured must be a real number or a tensor without axes, received"):
        claim("euler-type", "So.", measured, below=2, source=SOURCE)
    if not isinstance(measured, str):
        with pytest.raises(TypeError, match="value must be a real number"):
            glue("euler-type", measured)


@pytest.mark.parametrize(
    ("value", "fmt", "text"),
    [
        (0.123456, {}, "0.1235"),
        (7.0034e-4, {"fmt": ".2e"}, "7.00e-04"),
        (12345, {}, "12345"),
        (12345, {"fmt": ","}, "12,345"),
        (1e-13, {}, "< 1e-12"),
        (torch.tensor(0.5), {}, "0.5"),
        ("1.9 times", {}, "1.9 times"),
    ],
)
def test_glue_formats_numbers_and_keeps_texts(
    shell: InteractiveShell, value: Any, fmt: dict[str, str], text: str
) -> None:
    with capture_output() as captured:
        glue("euler-glued", value, **fmt)
    (output,) = captured.outputs
    assert output.data == {GLUED: text} and output.metadata["scrapbook"]["name"] == "euler-glued"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_glue_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ClaimError, match="value must be finite"):
        glue("euler-glued", value)


def test_a_script_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    claim("euler-order", "Order one.", 0.99912, expected=1, within=0.01, source=SOURCE)
    glue("euler-glued", 1.0)
    printed = capsys.readouterr().out
    assert printed == "✓ euler-order holds: Order one. (expected 1.00 ± 0.01, measured 0.9991)\n"


def test_the_module_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'IPython', 'matplotlib'}"
    program = f"import sys, dnlbook.claims; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
