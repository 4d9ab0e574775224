"""Private argument checks: one voice for every error of the library.

Each message names the argument, what was received and what is expected.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def positive_int(name: str, value: Any) -> int:
    """Return value as an int, or raise when it is not a whole number of at least one."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a positive int, received {value!r} of type {type(value).__name__}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name}: expected an int of at least 1, received {value!r}")
    return number


def finite_float(name: str, value: Any) -> float:
    """Return value as a finite float, or raise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, received {value!r} of type {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, received {value!r}")
    return number


def positive_float(name: str, value: Any) -> float:
    """Return value as a float above zero, or raise."""
    number = finite_float(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number above 0, received {value!r}")
    return number


def nonnegative_float(name: str, value: Any) -> float:
    """Return value as a float of at least zero, or raise."""
    number = finite_float(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number of at least 0, received {value!r}")
    return number


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return value when it is one of the options, or raise with the list of options."""
    known = list(options)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, received {value!r}")
    return value


def tensor(name: str, value: Any) -> Tensor:
    """Return value when it is a floating-point tensor, or raise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, received {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, received dtype {value.dtype}")
    return value


def shape(name: str, value: Any, expected: Sequence[int | str]) -> Tensor:
    """Return value when its shape matches; strings in expected stand for any size."""
    array = tensor(name, value)
    fits = array.ndim == len(expected) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"{name}: expected shape ({wanted}), received {tuple(array.shape)}")
    return array


def finite(name: str, value: Tensor) -> Tensor:
    """Return value when every entry is finite, or raise with the index of the first bad entry."""
    finite_entries = torch.isfinite(value.detach())
    if not bool(finite_entries.all()):
        first = tuple(int(i) for i in (~finite_entries).nonzero()[0])
        raise ValueError(f"{name}: expected finite entries, received {value[first].item()} at index {first}")
    return value


def same_kind(name: str, value: Tensor, reference_name: str, reference: Tensor) -> Tensor:
    """Return value when it has the dtype and the device of the reference, or raise."""
    for kind in ("dtype", "device"):
        have, want = getattr(value, kind), getattr(reference, kind)
        if have != want:
            raise ValueError(f"{name}: expected {kind} {want} like {reference_name}, received {have}")
    return value


def state(name: str, value: Any, width: int, reference_name: str, reference: Tensor) -> Tensor:
    """Return value when it is a finite state of that width and of the kind of the reference, or raise."""
    array = tensor(name, value)
    if array.ndim == 0 or array.shape[-1] != width:
        wanted = f"(..., {width}) to match {reference_name} {tuple(reference.shape)}"
        raise ValueError(f"{name}: expected shape {wanted}, received {tuple(array.shape)}")
    return finite(name, same_kind(name, array, reference_name, reference))
