"""The floor: a large matrix product, in single precision, that does the same number of operations."""

from __future__ import annotations

import torch

from benchmarks.timing import Candidate

_SIZE = 1024
NAME = "matrix product"


def gemm_floor(operations: float, *, size: int = _SIZE) -> Candidate:
    """The time that ``operations`` floating-point operations take at the rate of a product of size³."""
    left, right = torch.randn(2, size, size)
    out = torch.empty_like(left)
    return Candidate(
        NAME,
        lambda: torch.mm(left, right, out=out),
        setting=f"the same number of operations at the rate of a {size}³ product",
        kind="floor",
        scale=operations / (2 * size**3),
    )
