"""Residual networks by Euler's method, with the discrete adjoint written out by hand.

The adjoint keeps one state per layer and recomputes the hidden layer: memory O(L), gradients exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook._phi import Phi, phi_of
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation


class _ResidualStates(torch.autograd.Function):
    """The states x^1 .. x^L as separate outputs, so that a state nobody uses costs nothing backwards."""

    @staticmethod
    def forward(
        ctx: Any, x0: Tensor, V: Tensor, W: Tensor, b: Tensor, step: float, sigma: Activation
    ) -> tuple[Tensor, ...]:
        phi, states = phi_of(sigma), [x0]
        hidden, scaled_b = x0.new_empty(len(x0), V.shape[2]), phi.inner * b
        # tau V sigma = tau V (outer phi + offset): the constant part is the same for the whole batch
        constant = (step * phi.offset * V.sum(2)).unbind()
        for V_k, W_k, b_k, c_k in zip(V.mT.unbind(), W.mT.unbind(), scaled_b.unbind(), constant, strict=True):
            torch.addmm(b_k, states[-1], W_k, alpha=phi.inner, out=hidden)
            phi.phi_(hidden)
            state = states[-1] + c_k if phi.offset else states[-1].clone()
            states.append(state.addmm_(hidden, V_k, alpha=step * phi.outer))
        ctx.save_for_backward(*states[:-1], V, W, b)
        ctx.step, ctx.phi = step, phi
        ctx.set_materialize_grads(False)
        return tuple(states[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *states, V, W, b = ctx.saved_tensors
        phi: Phi = ctx.phi
        grad_V, grad_W, grad_b = torch.empty_like(V), torch.empty_like(W), torch.empty_like(b)
        sums, ones = V.new_empty(V.shape[:2]), V.new_ones(len(states[0]))
        a = torch.zeros_like(states[0])
        h, u = (a.new_empty(len(a), V.shape[2]) for _ in range(2))
        layers = zip(states, cotangents, *(p.unbind() for p in (V, W, phi.inner * b)), strict=True)
        gradients = zip(*(g.unbind() for g in (grad_V, grad_W, grad_b, sums)), strict=True)
        for (x, cotangent, V_k, W_k, b_k), (on_V, on_W, on_b, on_sum) in reversed(
            list(zip(layers, gradients, strict=True))
        ):
            if cotangent is not None:
                a += cotangent
            # a^l = a^{l+1} + tau d_x f(x^l)^T a^{l+1}; u is the cotangent of W x + b up to tau, inner and outer
            torch.addmm(b_k, x, W_k.mT, alpha=phi.inner, out=h)
            phi.phi_(h)
            torch.mm(a, V_k, out=u)
            torch.mm(a.mT, h, out=on_V)
            torch.mv(a.mT, ones, out=on_sum)
            phi.pull_back_(u, h)
            torch.mm(u.mT, x, out=on_W)
            torch.mv(u.mT, ones, out=on_b)
            a.addmm_(u, W_k, alpha=ctx.step * phi.inner * phi.outer)
        grad_V.mul_(ctx.step * phi.outer).add_(sums.unsqueeze(2), alpha=ctx.step * phi.offset)
        grad_W *= ctx.step * phi.inner * phi.outer
        grad_b *= ctx.step * phi.inner * phi.outer
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
    Source: chapter *A neural ODE has two adjoints*, the theorem on the discrete adjoint.

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
