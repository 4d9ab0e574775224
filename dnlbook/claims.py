"""Claims: statements of the book that are checked whenever they are printed.

A claim is a sentence with a number in it: a rate, a constant, a counter-example, a negative result.
:func:`claim` compares the measured number with what the theory says, shows one row in the notebook, stores a
machine-readable record beside it, and raises :class:`ClaimError` when the sentence is false.
:func:`glue` stores a number so that the prose can quote it; a claim glues its own measured value.

This module imports nothing but the standard library; IPython is loaded when something is displayed.
"""

from __future__ import annotations

import html
import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["MIME", "ClaimError", "Record", "claim", "glue"]

MIME = "application/vnd.dnlbook.claim+json"
"""Media type of the record that :func:`claim` stores in the output of its cell."""

NEGLIGIBLE = 1e-12
"""Numbers below this size are round-off in double precision and print as ``< 1e-12``."""

_GLUED = "application/papermill.record/text/plain"
_IDENTIFIER = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")


class ClaimError(ValueError):
    """A claim is false, its measured value is not a finite number, or its id is malformed."""


@dataclass(frozen=True)
class Record:
    """One checked claim as text: what the notebook stores and the ledger of claims lists."""

    id: str
    statement: str
    source: str
    expected: str
    measured: str
    tolerance: str
    status: str

    def to_json(self) -> dict[str, str]:
        """The record as a dictionary of strings, keys in alphabetical order."""
        return dict(sorted(vars(self).items()))

    def to_text(self) -> str:
        """The record as one line of plain text."""
        sign = "✓" if self.status == "holds" else "✗"
        numbers = f"expected {self.expected}, measured {self.measured}"
        return f"{sign} {self.id} {self.status}: {self.statement} ({numbers})"

    def to_html(self) -> str:
        """The record as a row of HTML; every text is escaped, the look is left to the style sheet."""
        text = {name: html.escape(value) for name, value in vars(self).items()}
        sign = "✓" if self.status == "holds" else "✗"
        return (
            f'<div class="claim claim-{text["status"]}" id="claim-{text["id"]}">'
            f'<p class="claim-head"><span class="claim-status"><span aria-hidden="true">{sign}</span> '
            f'{text["status"]}</span> <span class="claim-statement">{text["statement"]}</span></p>'
            f'<p class="claim-numbers">expected <span class="claim-expected">{text["expected"]}</span>, '
            f'measured <span class="claim-measured">{text["measured"]}</span> '
            f'<span class="claim-source">({text["source"]})</span></p></div>'
        )


@dataclass(frozen=True)
class _Expectation:
    """The interval in which the measured value must lie; the ends belong to it unless ``strict``."""

    low: float
    high: float
    strict: bool
    text: str
    tolerance: str

    def admits(self, measured: float) -> bool:
        if self.strict:
            return self.low < measured < self.high
        return self.low <= measured <= self.high


def claim(
    id: str,
    statement: str,
    measured: Any,
    *,
    expected: Any = None,
    within: Any = None,
    below: Any = None,
    above: Any = None,
    between: tuple[Any, Any] | None = None,
    source: str,
    digits: int = 4,
) -> None:
    r"""Check a statement, show it as a row, record it and glue its measured value.

    Exactly one form of expectation is given, with finite numbers:

    - ``expected=e, within=w``: :math:`|m - e| \le w`
    - ``below=b``: :math:`m < b`
    - ``above=a``: :math:`m > a`
    - ``between=(a, b)``: :math:`a \le m \le b`

    Args:
        id: lower-case words joined by hyphens, first the file name of the chapter (``euler-order-rk4``);
            unique in the book, and the key of the glued value.
        statement: one sentence in plain text.
        measured: number, NumPy scalar or tensor without axes.
        source: where the expectation comes from: a theorem, a section, a paper.
        digits: significant digits that are printed of ``measured``, 1 to 8; an integer is printed in full.

    Raises:
        ClaimError: the statement is false, ``measured`` is NaN or infinite, or ``id`` is malformed.
        TypeError: ``measured`` or a bound is not a real number, or not exactly one form is given.
        ValueError: a bound is not finite, an interval is empty, a text is blank, ``digits`` is out of range.

    Example:
        >>> claim("euler-one", "Euler has order one.", 0.9991, expected=1, within=0.01, source="Theorem 1")
        ✓ euler-one holds: Euler has order one. (expected 1.00 ± 0.01, measured 0.9991)
        >>> claim("euler-two", "It is two.", 0.9991, expected=2, within=0.01, source="nowhere")
        Traceback (most recent call last):
        ...
        dnlbook.claims.ClaimError: claim euler-two fails: It is two. Expected 2.00 ± 0.01, measured 0.9991.
    """
    _check_identifier("id", id)
    _check_text("statement", statement)
    _check_text("source", source)
    if isinstance(digits, bool) or not isinstance(digits, int):
        raise TypeError(f"digits must be an int, received {digits!r}")
    if not 1 <= digits <= 8:
        raise ValueError(f"digits must lie in 1..8, received {digits}")
    expectation = _expectation(expected, within, below, above, between)
    value = _number("measured", measured)
    shown = _significant(value, digits)
    holds = math.isfinite(value) and expectation.admits(value)
    record = Record(
        id=id,
        statement=statement,
        source=source,
        expected=expectation.text,
        measured=shown,
        tolerance=expectation.tolerance,
        status="holds" if holds else "fails",
    )
    if not holds:
        _show(record)
        reason = "" if math.isfinite(value) else " A claim needs a finite number."
        raise ClaimError(f"claim {id} fails: {statement} Expected {expectation.text}, measured {shown}.{reason}")
    _show(record)
    _store(id, shown)


def glue(key: str, value: Any, fmt: str = ".4g") -> None:
    """Store a number under a key, for ``{glue:text}`` in the prose of the same page.

    Args:
        key: lower-case words joined by hyphens, first the file name of the chapter.
        value: a finite real number, NumPy scalar or tensor without axes; or a text, which is stored as it is.
        fmt: format specification of the number; a whole number is printed in full under the default one.

    Raises:
        ClaimError: ``key`` is malformed or ``value`` is NaN or infinite.
        TypeError: ``value`` is neither a real number nor a text.

    Example:
        >>> glue("euler-error-last", 7.0034e-4, ".2e")
    """
    _check_identifier("key", key)
    if isinstance(value, str):
        _store(key, value)
        return
    number = _number("value", value)
    if not math.isfinite(number):
        raise ClaimError(f"glue {key}: value must be finite, received {number}")
    if isinstance(number, int) and fmt == ".4g":
        _store(key, str(number))
    elif isinstance(number, float) and abs(number) < NEGLIGIBLE:
        _store(key, f"< {NEGLIGIBLE:g}")
    else:
        _store(key, format(number, fmt))


def _expectation(expected: Any, within: Any, below: Any, above: Any, between: Any) -> _Expectation:
    if (expected is None) != (within is None):
        raise TypeError("expected and within belong together: give both or neither")
    forms = {"expected and within": expected, "below": below, "above": above, "between": between}
    given = [name for name, value in forms.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            "give exactly one of expected and within, below, above, between; received "
            + (", ".join(given) if given else "none of them")
        )
    if expected is not None:
        centre, width = _bound("expected", expected), _bound("within", within)
        if width < 0:
            raise ValueError(f"within must not be negative, received {width:g}")
        return _Expectation(
            centre - width,
            centre + width,
            False,
            f"{_aligned(centre, width)} ± {_plain(width)}",
            f"± {_plain(width)}",
        )
    if below is not None:
        high = _bound("below", below)
        return _Expectation(-math.inf, high, True, f"< {_plain(high)}", "upper bound")
    if above is not None:
        low = _bound("above", above)
        return _Expectation(low, math.inf, True, f"> {_plain(low)}", "lower bound")
    if not isinstance(between, (tuple, list)) or len(between) != 2:
        raise TypeError(f"between must be a pair (low, high), received {between!r}")
    low, high = _bound("between[0]", between[0]), _bound("between[1]", between[1])
    if low > high:
        raise ValueError(f"between must be an interval (low, high) with low <= high, received ({low:g}, {high:g})")
    return _Expectation(low, high, False, f"in [{_plain(low)}, {_plain(high)}]", "interval")


def _number(name: str, value: Any) -> float:
    """A real number out of a Python number, a NumPy scalar or a tensor without axes."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        shape = getattr(value, "shape", None)
        received = type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else f" {value!r}")
        raise TypeError(f"{name} must be a real number or a tensor without axes, received {received}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _bound(name: str, value: Any) -> float:
    number = float(_number(name, value))
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, received {number}")
    return number


def _check_identifier(name: str, value: str) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise ClaimError(
            f"{name} must be lower-case words joined by hyphens, like 'euler-order-rk4', received {value!r}"
        )


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, received {value!r}")
    if not value.strip():
        raise ValueError(f"{name} must not be blank")


def _significant(value: float, digits: int) -> str:
    """A number with so many significant digits, trailing zeros kept; round-off is not printed."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if abs(value) < NEGLIGIBLE:
        return f"< {NEGLIGIBLE:g}"
    return format(value, f"#.{digits}g").replace(".e", "e").rstrip(".")


def _plain(value: float) -> str:
    return format(value, ".8g")


def _aligned(centre: float, width: float) -> str:
    """The centre of an interval with at least the decimals of its half-width: 1 and 0.01 give ``1.00``."""
    short, half = _plain(centre), _plain(width)
    if "e" in short + half:
        return short
    decimals = max(len(text.partition(".")[2]) for text in (short, half))
    return format(centre, f".{decimals}f")


def _show(record: Record) -> None:
    """Display the row in a notebook; print the line in a script."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(record.to_text())
        return
    bundle = {"text/plain": record.to_text(), "text/html": record.to_html(), MIME: record.to_json()}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _store(key: str, text: str) -> None:
    """Glue a text in the format that MyST-NB reads; a script stores nothing."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        metadata = {"scrapbook": {"name": key, "mime_prefix": "application/papermill.record/"}}
        display({_GLUED: text}, raw=True, metadata=metadata)  # type: ignore[no-untyped-call]
