"""Gradients of half the squared norm of an output, and how far two sets of them are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradient(output: Callable[[], Tensor], leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradient of |y|²/2 with respect to the leaves: a forward and a backward pass."""
    y = output()
    return torch.autograd.grad(0.5 * (y * y).sum(), leaves)


def distance(values: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest difference over the largest entry, tensor by tensor; the worst of them."""
    if len(values) != len(reference):
        raise ValueError(f"values: expected {len(reference)} tensors, received {len(values)}")
    return max(
        float((value.detach().double() - exact).abs().max() / exact.abs().max())
        for value, exact in zip(values, reference, strict=True)
    )
