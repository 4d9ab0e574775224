"""Residual networks by Euler's method, with the discrete adjoint written out by hand.

The adjoint keeps one state per layer and recomputes the hidden layer: memory O(L), gradients exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation


class _ResidualStates(torch.autograd.Function):
    """The states x^1 .. x^L as separate outputs, so that a state nobody uses costs nothing backwards."""

    @staticmethod
    def forward(
        ctx: Any, x0: Tensor, V: Tensor, W: Tensor, b: Tensor, step: float, sigma: Activation
    ) -> tuple[Tensor, ...]:
        states = [x0]
        for k in range(len(V)):
            hidden = sigma(torch.addmm(b[k], states[k], W[k].mT))
            states.append(torch.addmm(states[k], hidden, V[k].mT, alpha=step))
        ctx.save_for_backward(*states[:-1], V, W, b)
        ctx.step, ctx.sigma = step, sigma
        ctx.set_materialize_grads(False)
        return tuple(states[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *states, V, W, b = ctx.saved_tensors
        sigma: Activation = ctx.sigma
        grad_V, grad_W, grad_b = torch.zeros_like(V), torch.zeros_like(W), torch.zeros_like(b)
        a = torch.zeros_like(states[0])
        for k in reversed(range(len(V))):
            cotangent = cotangents[k]
            if cotangent is not None:
                a = a + cotangent
            # a^l = a^{l+1} + tau d_x f(x^l)^T a^{l+1}: left state, right costate
            z = torch.addmm(b[k], states[k], W[k].mT)
            h = sigma(z)
            scaled = ctx.step * a
            u = (scaled @ V[k]) * sigma.slope(z, h)
            torch.mm(scaled.mT, h, out=grad_V[k])
            torch.mm(u.mT, states[k], out=grad_W[k])
            torch.sum(u, 0, out=grad_b[k])
            a = torch.addmm(a, u, W[k])
        return a, grad_V, grad_W, grad_b, None, None


def _checked(
    x0: Tensor, V: Tensor, W: Tensor, b: Tensor, step: float, activation: str | Activation
) -> tuple[Tensor, float, Activation]:
    sigma = named_activation(activation)
    tau = _checks.finite_float("step", step)
    _checks.shape("V", V, ("L", "n", "m"))
    depth, width, hidden = V.shape
    _checks.positive_int("the depth V.shape[0]", depth)
    _checks.shape("W", W, (depth, hidden, width))
    _checks.shape("b", b, (depth, hidden))
    for name, value in (("W", W), ("b", b)):
        _checks.same_kind(name, value, "V", V)
    return _checks.state("x0", x0, width, "V", V).reshape(-1, width), tau, sigma


def _states(
    x0: Tensor, V: Tensor, W: Tensor, b: Tensor, step: float, activation: str | Activation
) -> tuple[Tensor, ...]:
    flat, tau, sigma = _checked(x0, V, W, b, step, activation)
    outputs: tuple[Tensor, ...] = _ResidualStates.apply(flat, V, W, b, tau, sigma)  # type: ignore[no-untyped-call]
    return outputs


def residual_forward(
    x0: Tensor, V: Tensor, W: Tensor, b: Tensor, *, step: float, activation: str | Activation = "tanh"
) -> Tensor:
    r"""Return all states of the residual network
    :math:`x^{l+1}=x^l+\tau V^l\sigma(W^lx^l+b^l)`.

    Gradients come from the discrete adjoint

    .. math:: a^l=a^{l+1}+\tau\,\partial_xf(x^l,\theta^l)^{\top}a^{l+1},\qquad
              \partial\Phi/\partial\theta^l=\tau\,\partial_\theta f(x^l,\theta^l)^{\top}a^{l+1},

    which is exact for the network, keeps L states and recomputes the hidden layer.
    Source: chapter *Neural ODEs and two adjoints*, the theorem on the discrete adjoint.

    Parameters
    ----------
    x0 : Tensor, shape ``(..., n)``
    V, W, b : Tensor, shapes ``(L, n, m)``, ``(L, m, n)``, ``(L, m)``
        Of the dtype and device of x0.
    step : float
        :math:`\tau=T/L` for a discretization of a differential equation.
    activation : str or Activation

    Returns
    -------
    Tensor, shape ``(L + 1, ..., n)``

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together, L = 0, or x0 is not finite.
    RuntimeError
        If the gradient is differentiated again; :func:`residual_loop` supports that.

    Examples
    --------
    >>> V, W, b = torch.ones(4, 1, 1), torch.ones(4, 1, 1), torch.zeros(4, 1)
    >>> residual_forward(torch.ones(1, 1), V, W, b, step=0.25, activation="identity")[-1]
    tensor([[2.4414]])
    """
    states = _states(x0, V, W, b, step, activation)
    return torch.stack([x0, *(state.reshape(x0.shape) for state in states)])


def residual_map(
    x0: Tensor, V: Tensor, W: Tensor, b: Tensor, *, step: float, activation: str | Activation = "tanh"
) -> Tensor:
    r"""Return the last state :math:`x^L` of :func:`residual_forward`, shape ``(..., n)``.

    After the forward pass the graph holds L states and nothing else: during the backward pass the peak
    is L + 1.  Equation, arguments, errors and source are those of :func:`residual_forward`.

    Examples
    --------
    >>> V, W, b = torch.ones(4, 1, 1), torch.ones(4, 1, 1), torch.zeros(4, 1)
    >>> residual_map(torch.ones(1, 1), V, W, b, step=0.25, activation="identity")
    tensor([[2.4414]])
    """
    return _states(x0, V, W, b, step, activation)[-1].reshape(x0.shape)


def residual_loop(
    x0: Tensor, V: Tensor, W: Tensor, b: Tensor, *, step: float, activation: str | Activation = "tanh"
) -> Tensor:
    r"""Return the states of :func:`residual_forward` by a plain loop that autograd records.

    It keeps :math:`L(1+m/n)` states, supports derivatives of any order, and serves as reference.
    Equation, arguments, errors and source are those of :func:`residual_forward`.

    Examples
    --------
    >>> V, W, b = torch.ones(4, 1, 1), torch.ones(4, 1, 1), torch.zeros(4, 1)
    >>> residual_loop(torch.ones(1, 1), V, W, b, step=0.25, activation="identity")[:, 0, 0]
    tensor([1.0000, 1.2500, 1.5625, 1.9531, 2.4414])
    """
    x, tau, sigma = _checked(x0, V, W, b, step, activation)
    states = [x]
    for k in range(len(V)):
        x = x + tau * (sigma(torch.addmm(b[k], x, W[k].mT)) @ V[k].mT)
        states.append(x)
    return torch.stack(states).reshape(len(V) + 1, *x0.shape)
