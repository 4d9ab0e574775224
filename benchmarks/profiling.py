"""Where the time of a function goes, by the functions that it calls.

The profiler sees calls: the operators ``@``, ``+``, ``*`` and slices count to the code that contains them.
"""

from __future__ import annotations

import cProfile
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

_LARGEST = 8


def label(file: str, name: str) -> str:
    """A short name: the operation itself, or the package whose Python code ran.

    >>> label("~", "<built-in method torch.addmm>")
    'torch.addmm'
    >>> label("~", "<method 'sigmoid_' of 'torch._C.TensorBase' objects>")
    'Tensor.sigmoid_'
    >>> label("site-packages/torch/nn/functional.py", "linear")
    'Python of torch'
    """
    if file == "~":
        method = re.match(r"<method '(\w+)' of '([\w.]+)' objects>", name)
        if method:
            return f"{method[2].rpartition('.')[2].removesuffix('Base')}.{method[1]}"
        builtin = re.match(r"<built-in method (?:type )?([\w.]+)>", name)
        return builtin[1].replace("_C._fft.fft_", "fft.").rstrip(".") if builtin else name.strip("<>")
    parts = PurePath(file).parts
    if "site-packages" in parts:
        package = parts[parts.index("site-packages") + 1].removesuffix(".py")
    else:
        package = next((part for part in ("dnlbook", "benchmarks") if part in parts), "the standard library")
    return f"Python of {package}"


def shares(run: Callable[[], Any], *, seconds: float) -> tuple[tuple[str, float], ...]:
    """The largest shares of the time of a function, in its own code and below, with the rest at the end."""
    profile = cProfile.Profile()
    stop = time.perf_counter() + seconds
    while True:
        profile.enable()
        run()
        profile.disable()
        if time.perf_counter() > stop:
            break
    spent: dict[str, float] = defaultdict(float)
    for entry in profile.getstats():
        code = entry.code
        place = ("~", code) if isinstance(code, str) else (code.co_filename, code.co_name)
        spent[label(*place)] += entry.inlinetime
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    head = [(name, value / total) for name, value in ordered[:_LARGEST] if value > 0.01 * total]
    rest = 1 - sum(share for _, share in head)
    return (*head, ("everything else", rest)) if rest > 0.005 else tuple(head)
