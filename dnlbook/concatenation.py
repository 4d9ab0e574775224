"""Concatenation as people write it, with shared features in one buffer and the adjoint by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.dense import pair_index


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


class DenseNet(nn.Module):
    r"""A densely connected network in the form people know: each layer reads all features before it.

    .. math:: z_0=x,\qquad z_l=A^l\,\sigma([z_0,\dots,z_{l-1}])\in\mathbb R^g,\qquad
              \text{output }[z_0,\dots,z_L]\in\mathbb R^{n_0+Lg} .

    The features :math:`\sigma(z_k)` are computed once and shared by all later layers.
    Source: chapter *Concatenation is a sum*.

    Parameters
    ----------
    width, depth : int
        :math:`n_0` and :math:`L`, at least 1.
    growth : int
        The growth rate g, at least 1.
    activation : str or Activation
    dtype : torch.dtype, optional
        Torch's default unless given.

    Attributes
    ----------
    A : ParameterList
        Entry l - 1 holds :math:`A^l` of shape ``(g, n_0 + (l - 1) g)``, with variance one over its columns.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int, the activation is unknown, or x0 does not fit.

    Examples
    --------
    >>> net = DenseNet(3, 4, growth=2)
    >>> net(torch.zeros(5, 3)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([5, 11]), 48)
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        growth: int,
        activation: str | Activation = "tanh",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.width = _checks.positive_int("width", width)
        self.depth = _checks.positive_int("depth", depth)
        self.growth = _checks.positive_int("growth", growth)
        self.activation = named_activation(activation)
        columns = [self.width + k * self.growth for k in range(self.depth)]
        self.A = nn.ParameterList(torch.randn(self.growth, c, dtype=dtype) / math.sqrt(c) for c in columns)

    def forward(self, x0: Tensor) -> Tensor:
        """Return the concatenation of the input and all layers, shape ``(..., n_0 + L g)``."""
        _checks.state("x0", x0, self.width, "the parameters", self.A[0])
        return concatenation_forward(x0, list(self.A), activation=self.activation)

    def block(self, l: int, k: int) -> Tensor:
        """Return the block of :math:`A^l` that reads :math:`z_k`, shape ``(g, n_0)`` or ``(g, g)``.

        Raises
        ------
        IndexError
            If not 0 <= k < l <= L.

        Examples
        --------
        >>> DenseNet(3, 4, growth=2).block(3, 1).shape
        torch.Size([2, 2])
        """
        pair_index(l, k, self.depth)
        start = 0 if k == 0 else self.width + (k - 1) * self.growth
        columns: Tensor = self.A[l - 1][:, start : self.width + k * self.growth]
        return columns

    def extra_repr(self) -> str:
        return f"width={self.width}, depth={self.depth}, growth={self.growth}, activation={self.activation.name!r}"
