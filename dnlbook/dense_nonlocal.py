"""The dense engine for any feature transformation, local or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook.dense import pair_count, quadrature_coefficients

Transform = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


class _NonlocalStates(torch.autograd.Function):
    """The same two sweeps for any transformation: the adjoint re-runs one source at a time."""

    @staticmethod
    def forward(
        ctx: Any, x0: Tensor, coefficients: Tensor, transform: Transform, counts: tuple[int, ...], *flat: Tensor
    ) -> Tensor:
        x = x0.expand(len(coefficients), *x0.shape).clone()
        start = 0
        for k, count in enumerate(counts):
            features = _all_targets(transform, x[k], flat[start : start + count])
            if features.shape != x[k + 1 :].shape or features.dtype != x.dtype:
                raise ValueError(
                    f"transform: expected shape {tuple(x0.shape)} of {x.dtype} per target, "
                    f"received {tuple(features.shape[1:])} of {features.dtype}"
                )
            x[k + 1 :] += features * _column(coefficients, k, features)
            start += count
        if not bool(torch.isfinite(x).all()):
            layer = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"transform: expected finite states, received nan or inf in layer {layer}")
        ctx.save_for_backward(x, coefficients, *flat)
        ctx.transform, ctx.counts = transform, counts
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, coefficients, *flat = ctx.saved_tensors
        q, start = cotangents.clone(), len(flat)
        grads: list[Tensor] = []
        for k in reversed(range(len(ctx.counts))):
            theta = flat[start - ctx.counts[k] : start]
            start -= ctx.counts[k]
            later = q[k + 1 :] * _column(coefficients, k, q[k + 1 :])
            pull_back = torch.func.vjp(lambda y, *p: _all_targets(ctx.transform, y, p), x[k], *theta)[1]
            own, *parameters = pull_back(later)
            q[k] += own
            grads = [*parameters, *grads]
        return (q.sum(0), None, None, None, *grads)


def _column(coefficients: Tensor, k: int, like: Tensor) -> Tensor:
    return coefficients[k + 1 :, k].view(-1, *(1,) * (like.ndim - 1))


def _all_targets(transform: Transform, x: Tensor, theta: Sequence[Tensor]) -> Tensor:
    return torch.func.vmap(lambda *p: transform(x, p))(*theta)


def nonlocal_forward(
    x0: Tensor,
    sources: Sequence[Sequence[Tensor]],
    *,
    transform: Transform,
    step: float,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Return all states of the dense network :math:`x^l=x^0+\tau\sum_{k<l}w_{lk}f(x^k,\theta^{l,k})` for any f.

    Forward pass and adjoint are those of :func:`dnlbook.dense.dense_forward`, with one state per layer kept; the
    derivative of f comes from autograd, one source at a time.
    Source: chapter *The dense non-local framework*.

    Parameters
    ----------
    x0 : Tensor, any shape
    sources : sequence of sequences of Tensor
        Entry k holds the parameters of source k, each with the L - k targets in front.
    transform : callable ``(x, theta) -> Tensor of the shape of x``
        It is mapped over targets by ``torch.func.vmap``.
    step : float
    weights : Tensor, shape ``(L + 1, L + 1)``, optional
        An explicit quadrature rule; 1 for k < l unless given.

    Returns
    -------
    Tensor, shape ``(L + 1, *x0.shape)``

    Raises
    ------
    ValueError
        If the number of targets or the shape of f does not fit, the rule is implicit, or a state is not finite.

    Examples
    --------
    >>> scale = lambda x, theta: theta[0] * x
    >>> nonlocal_forward(torch.ones(2), [(torch.ones(2),), (torch.ones(1),)], transform=scale, step=0.5)[-1]
    tensor([2.2500, 2.2500])
    """
    depth = _checks.positive_int("the number of sources", len(sources))
    _checks.finite("x0", _checks.tensor("x0", x0))
    for k, theta in enumerate(sources):
        for i, part in enumerate(theta):
            name = f"sources[{k}][{i}]"
            if _checks.tensor(name, part).ndim == 0 or len(part) != depth - k:
                raise ValueError(f"{name}: expected {depth - k} targets in front, received shape {tuple(part.shape)}")
    coefficients = quadrature_coefficients(pair_count(depth), step, weights, x0)
    flat = [part for theta in sources for part in theta]
    counts = tuple(len(theta) for theta in sources)
    states: Tensor = _NonlocalStates.apply(x0, coefficients, transform, counts, *flat)  # type: ignore[no-untyped-call]
    return states
