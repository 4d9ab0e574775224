"""Concatenation as people write it, with shared features in one buffer and the adjoint by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation


class _Concatenation(torch.autograd.Function):
    """All layers side by side, feature-major: one prefix product per layer, no copy of what is there already."""

    @staticmethod
    def forward(ctx: Any, x0: Tensor, sigma: Activation, *A: Tensor) -> Tensor:
        n0, g, batch = x0.shape[1], A[0].shape[0], len(x0)
        z = x0.new_empty(n0 + len(A) * g, batch)
        h = x0.new_empty(n0 + (len(A) - 1) * g, batch)
        z[:n0] = x0.mT
        h[:n0] = sigma(z[:n0])
        for l, weight in enumerate(A):
            start = n0 + l * g
            torch.mm(weight, h[:start], out=z[start : start + g])
            if l + 1 < len(A):
                h[start : start + g] = sigma(z[start : start + g])
        ctx.save_for_backward(z, h, *A)
        ctx.sigma = sigma
        return z.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        z, h, *A = ctx.saved_tensors
        g = A[0].shape[0]
        n0 = A[0].shape[1]
        q = cotangent.mT.clone(memory_format=torch.contiguous_format)
        read = torch.zeros_like(h)  # cotangent of the features, summed over the layers that read them
        grads: list[Tensor] = []
        for l in reversed(range(len(A))):
            start = n0 + l * g
            own = q[start : start + g]
            if l + 1 < len(A):
                own += read[start:][:g] * ctx.sigma.slope(z[start : start + g], h[start : start + g])
            grads.append(own @ h[:start].mT)
            read[:start].addmm_(A[l].mT, own)
        first = q[:n0] + read[:n0] * ctx.sigma.slope(z[:n0], h[:n0])
        return (first.mT, None, *reversed(grads))


def concatenation_forward(x0: Tensor, A: Sequence[Tensor], *, activation: str | Activation = "tanh") -> Tensor:
    r"""Return :math:`[z_0,\dots,z_L]` of a densely connected block,

    .. math:: z_0=x^0,\qquad z_l=A^l\,\sigma([z_0,\dots,z_{l-1}]) .

    Source: chapter *Concatenation is a sum*.

    Parameters
    ----------
    x0 : Tensor, shape ``(..., n_0)``
    A : sequence of Tensor
        Entry l - 1 has shape ``(g, n_0 + (l - 1) g)``.
    activation : str or Activation

    Returns
    -------
    Tensor, shape ``(..., n_0 + L g)``

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, there is no layer, or x0 is not finite.
    RuntimeError
        If the gradient is differentiated again.

    Examples
    --------
    >>> concatenation_forward(torch.ones(1, 1), [torch.ones(1, 1), torch.ones(1, 2)], activation="identity")
    tensor([[1., 1., 2.]])
    """
    sigma = named_activation(activation)
    _checks.positive_int("the number of layers len(A)", len(A))
    _checks.tensor("x0", x0)
    if x0.ndim == 0:
        raise ValueError(f"x0: expected shape (..., n_0), received {tuple(x0.shape)}")
    growth = _checks.shape("A[0]", A[0], ("g", x0.shape[-1])).shape[0]
    for k, weight in enumerate(A):
        _checks.shape(f"A[{k}]", weight, (growth, x0.shape[-1] + k * growth))
        _checks.same_kind(f"A[{k}]", weight, "x0", x0)
    _checks.finite("x0", x0)
    flat: Tensor = _Concatenation.apply(x0.reshape(-1, x0.shape[-1]), sigma, *A)  # type: ignore[no-untyped-call]
    return flat.reshape(*x0.shape[:-1], flat.shape[-1])
