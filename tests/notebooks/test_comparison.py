"""Tolerance of printed numbers, exactness of the rest, distance of figures."""

from __future__ import annotations

import base64
import io

import comparison
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_output
from PIL import Image


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("1.234", "1.235"),
        ("1.234e-05", "1.235e-05"),
        ("0.9999", "1"),
        ("-0.00", "0.00"),
        ("−1.50", "-1.51"),
        ("0.25", "0.2499"),
        ("3e-07", "4e-07"),
        ("+64", "64"),
    ],
)
def test_numbers_that_agree(stored: str, new: str) -> None:
    assert comparison.numbers_agree(stored, new) and comparison.numbers_agree(new, stored)


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("1.234", "1.236"),
        ("1.234e-05", "1.234e-06"),
        ("64", "65"),
        ("1", "0.9998"),
        ("0.68799869", "0.68799879"),
        ("1.5", "-1.5"),
        ("0.25", "0.2505"),
    ],
)
def test_numbers_that_differ(stored: str, new: str) -> None:
    assert not comparison.numbers_agree(stored, new) and not comparison.numbers_agree(new, stored)


def test_a_relative_tolerance_widens_but_never_for_whole_numbers() -> None:
    assert comparison.numbers_agree("0.940", "0.970", rtol=0.05)
    assert not comparison.numbers_agree("0.940", "0.999", rtol=0.05)
    assert not comparison.numbers_agree("94", "95", rtol=0.05)


@given(
    st.floats(-1e6, 1e6).filter(lambda value: abs(value) > 1e-9),
    st.floats(-1e-12, 1e-12),
    st.sampled_from([".4g", ".8g", ".3e", ".2f", "#.4g"]),
)
def test_round_off_never_matters(value: float, noise: float, fmt: str) -> None:
    stored, new = format(value, fmt), format(value * (1 + noise), fmt)
    if "." in stored + new or "e" in stored + new or stored == new:
        assert comparison.texts_agree(f"x = {stored};", f"x = {new};")


@given(st.floats(1e-6, 1e6), st.sampled_from([".3e", ".7e"]), st.integers(10, 1000))
def test_ten_units_in_the_last_place_always_matter(value: float, fmt: str, units: int) -> None:
    stored = format(value, fmt)
    mantissa, exponent = stored.split("e")
    decimals = len(mantissa.partition(".")[2])
    new = f"{float(mantissa) + units * 10.0**-decimals:.{decimals}f}e{exponent}"
    assert not comparison.texts_agree(stored, new)


@pytest.mark.parametrize(
    ("stored", "new", "agree"),
    [
        ("error 9.99e-02 at L = 8", "error 1.00e-01 at L = 8", True),
        ("value   9.99", "value  10.00", True),
        ("order 1.00", "Order 1.00", False),
        ("rk4 and x0", "rk4 and x1", False),
        ("< 1e-12", "> 1e-12", False),
        ("a 1.0", "a 1.0 2.0", False),
        ("nan", "nan", True),
        ("nan", "1.0", False),
        ("L=64", "L=65", False),
        ("two\nlines", "two lines", False),
    ],
)
def test_texts(stored: str, new: str, agree: bool) -> None:
    assert comparison.texts_agree(stored, new) is agree


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("<object at 0x7fa1b2c3d4>", "<object at 0x55d0aabbcc>"),
        ("in /tmp/ipykernel_12/3456.py:3", "in /var/run/ipykernel_7/89.py:3"),
        ("wrote '/tmp/tmpabc/x.txt'", "wrote '/var/folders/q/T/y.txt'"),
    ],
)
def test_places_do_not_count(stored: str, new: str) -> None:
    assert comparison.texts_agree(stored, new)


def test_html_is_tolerant_between_tags_only() -> None:
    row = '<td class="w1.50">{}</td>'
    assert comparison.html_agrees(row.format("1.50"), row.format("1.51"))
    assert not comparison.html_agrees(row.format("1.50"), '<td class="w1.51">1.50</td>')


def png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def test_figures_are_compared_by_block_means() -> None:
    paper = np.full((60, 90, 3), 250.0)
    speckled, marked, small = paper.copy(), paper.copy(), paper[:-1]
    speckled[::8, ::8] -= 60
    marked[50:58, 80:88] = 0
    figure = comparison.pixels(png(paper))
    assert comparison.figure_distance(figure, figure) == (0, 0)
    assert comparison.figure_distance(figure, comparison.pixels(png(speckled)))[1] < comparison.WORST
    assert comparison.figure_distance(figure, comparison.pixels(png(marked)))[1] > comparison.WORST
    assert comparison.figure_distance(figure, small)[1] == float("inf")


def test_a_change_in_the_incomplete_last_block_is_seen() -> None:
    paper = np.full((60, 90, 3), 250.0)
    marked = paper.copy()
    marked[56:, 88:] = 0
    assert comparison.figure_distance(paper, marked)[1] > comparison.WORST


def test_an_unreadable_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="a stored figure cannot be read"):
        comparison.pixels("bm90IGEgcG5n")


def test_outputs_are_compared_kind_by_kind() -> None:
    stream = new_output("stream", name="stdout", text="a 1.00\n")
    result = new_output("execute_result", data={"text/plain": "2.00"})
    error = new_output("error", ename="ValueError", evalue="depth 0", traceback=["x"])
    glued = new_output("display_data", data={"g": "1.0"}, metadata={"scrapbook": {"name": "a-b"}})
    renamed = new_output("display_data", data={"g": "1.0"}, metadata={"scrapbook": {"name": "a-c"}})
    split = [new_output("stream", name="stdout", text=text) for text in ("a ", "1.01\n")]
    assert comparison.compare([stream, result, error], [*split, result, error]) == []
    assert comparison.compare([stream], []) == ["missing from the new run: stdout"]
    assert comparison.compare([], [result]) == ["not in the stored notebook: text/plain"]
    assert comparison.compare([result, result], [result]) == ["text/plain: 2 stored, 1 in the new run"]
    assert comparison.compare([glued], [renamed])[0] == "key of a glued value differs:"
    other = new_output("error", ename="TypeError", evalue="depth 0", traceback=["y"])
    assert comparison.compare([error], [other])[0] == "name of the exception differs:"
