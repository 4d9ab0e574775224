"""Costates: what a state contributes to the loss through all later layers, in a network and in its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.dense import Triple, pair_index
from dnlbook.flows import read_path
from dnlbook.networks import DenseNonLocal, ResNet
from dnlbook.volterra import VIESolution, solve_vie

Network = DenseNonLocal | ResNet
Kernel = Callable[[Any, Any], Triple]


def _linearize(sigma: Activation, theta: Triple, x: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(Wx + b) and the cotangent of Wx + b of j features of one source, both ``(j, B, m)``.

    theta has j features, x is ``(B, n)`` and later, the cotangents of the features, ``(j, B, n)``.
    """
    V, W, b = theta
    z = x @ W.mT + b.unsqueeze(1)
    h = sigma(z)
    return h, (later @ V) * sigma.slope(z, h)


@dataclass(frozen=True)
class _Source:
    """One step of the recursion: features and cotangents of all pairs that read the state x^k."""

    pairs: slice
    x: Tensor
    h: Tensor
    u: Tensor
    later: Tensor


def _recursion(net: Network, states: Tensor, q: Tensor) -> Iterator[_Source]:
    """Fill in q^k for k = L - 1, ..., 0; states and q are ``(L + 1, B, n)``, and q^L is given."""
    arrived = q[-1]  # the sum of all later q: what a residual layer, which adds to all of them, receives
    for k in reversed(range(net.depth)):
        if isinstance(net, DenseNonLocal):
            first = pair_index(k + 1, k, net.depth)
            pairs, later = slice(first, first + net.depth - k), q[k + 1 :]
        else:
            pairs, later = slice(k, k + 1), arrived.unsqueeze(0)
        h, u = _linearize(net.activation, (net.V[pairs], net.W[pairs], net.b[pairs]), states[k], later)
        q[k] = net.step * (u @ net.W[pairs]).sum(0)
        arrived = arrived + q[k]
        yield _Source(pairs, states[k], h, u, later)


def _start(net: Network, x0: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The states and the costates before the recursion, both ``(L + 1, B, n)``."""
    if not isinstance(net, DenseNonLocal | ResNet):
        raise TypeError(f"net: expected a DenseNonLocal or a ResNet, received {type(net).__name__}")
    states = net.trajectory(x0)
    _checks.same_kind("g", _checks.shape("g", g, tuple(x0.shape)), "x0", x0)
    _checks.finite("g", g)
    states = states.reshape(len(states), -1, net.width)
    q = torch.zeros_like(states)
    q[-1] = g.reshape(-1, net.width)
    return states, q


@torch.no_grad()
def costate(net: Network, x0: Tensor, g: Tensor) -> Tensor:
    r"""Return the costates of a network for the cotangent g of its last state,

    .. math:: q^L=g,\qquad q^k=\tau\sum_{l>k}\partial_xf(x^k,\theta^{l,k})^{\top}q^l .

    The derivative of the loss with respect to :math:`x^0` is their sum.  In a residual network, where
    :math:`\theta^{l,k}=\theta^k`, the sum :math:`a^k=\sum_{l\ge k}q^l` is its adjoint.
    Source: chapter *Backpropagation is a Volterra equation in reverse*.

    Parameters
    ----------
    net : DenseNonLocal or ResNet
    x0 : Tensor, shape ``(..., n)``
    g : Tensor, shape ``(..., n)``
        The gradient of the loss in :math:`x^L`.

    Returns
    -------
    Tensor, shape ``(L + 1, ..., n)``
        Constants for autograd.

    Raises
    ------
    TypeError, ValueError
        If net is another network, or x0 or g do not fit to it or are not finite.

    Examples
    --------
    >>> net, x0 = DenseNonLocal(2, 8), torch.ones(5, 2, requires_grad=True)
    >>> net(x0).sum().backward()
    >>> q = costate(net, x0, torch.ones(5, 2))
    >>> q.shape, torch.allclose(q.sum(0), x0.grad, atol=1e-5)
    (torch.Size([9, 5, 2]), True)
    """
    states, q = _start(net, x0, g)
    for _ in _recursion(net, states, q):
        pass
    return q.reshape(len(q), *x0.shape)


@torch.no_grad()
def gradient(net: Network, x0: Tensor, g: Tensor) -> Triple:
    r"""Return the gradient of a loss in the parameters, from the costates,

    .. math:: \frac{\partial\Phi}{\partial\theta^{l,k}}=\tau\,\partial_\theta f(x^k,\theta^{l,k})^{\top}q^l .

    Source: chapter *Backpropagation is a Volterra equation in reverse*.

    Arguments and errors are those of :func:`costate`.

    Returns
    -------
    (V, W, b)
        Tensors of the shapes of ``net.parameters()``, in that order, constants for autograd.

    Examples
    --------
    >>> net, x0 = DenseNonLocal(2, 8), torch.ones(5, 2)
    >>> net(x0).sum().backward()
    >>> by_hand = gradient(net, x0, torch.ones(5, 2))
    >>> all(torch.allclose(part, own.grad, atol=1e-5) for part, own in zip(by_hand, net.parameters()))
    True
    """
    states, q = _start(net, x0, g)
    V, W, b = (torch.empty_like(part) for part in (net.V, net.W, net.b))
    for at in _recursion(net, states, q):
        V[at.pairs] = net.step * (at.later.mT @ at.h)
        W[at.pairs] = net.step * (at.u.mT @ at.x)
        b[at.pairs] = net.step * at.u.sum(1)
    return V, W, b


@dataclass(frozen=True, eq=False)
class CostateSolution:
    r"""State and costate of a Volterra equation at the times of a grid, and at any time between.

    Source: chapter *Backpropagation is a Volterra equation in reverse*.

    Attributes
    ----------
    t : Tensor, shape ``(N + 1,)``
    x, p : Tensor, shape ``(N + 1, ..., n)``
        State and regular part of the costate.
    g : Tensor, shape ``(..., n)``
        The atom of the costate at :math:`t=T`.
    residual : float
        The larger of the defects of the two equations.

    Examples
    --------
    For :math:`x(t)=1+\int_0^tx\,ds` the costate of :math:`x(1)` is :math:`p(s)=e^{1-s}`:

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> solution = costate_equation(
    ...     lambda t, s: (one, one, 0 * one[0]), one, one, torch.linspace(0, 1, 5, dtype=torch.float64),
    ...     activation="identity")
    >>> f"{solution.costate(0.5).item():.6f}"
    '1.648721'
    """

    t: Tensor
    x: Tensor
    p: Tensor
    g: Tensor
    residual: float
    _state: VIESolution
    _reversed: VIESolution

    def state(self, times: Tensor | float) -> Tensor:
        """Return the states at times in [0, T], shape ``(*times.shape, ..., n)``."""
        return self._shaped(self._state(times))

    def costate(self, times: Tensor | float) -> Tensor:
        """Return the costates p at times in [0, T], shape ``(*times.shape, ..., n)``."""
        end = self.t[-1]
        return self._shaped(self._reversed(end - torch.as_tensor(times, dtype=end.dtype, device=end.device)))

    def _shaped(self, values: Tensor) -> Tensor:
        """From one axis of samples to those of x0."""
        return values.reshape(*values.shape[:-2], *self.g.shape)


def _vectorized(path: Kernel, like: Tensor) -> Callable[[Tensor, Tensor], Triple]:
    """The kernel as a function of m pairs of times."""
    if not callable(path):
        raise TypeError(f"path: expected a function of (t, s), received {type(path).__name__}")
    together: Callable[[Tensor, Tensor], Triple] = torch.func.vmap(path)

    def one_by_one(t: Tensor, s: Tensor) -> Triple:
        times = zip(t.tolist(), s.tolist(), strict=True)
        V, W, b = zip(*(read_path(lambda u, v=v: path(u, v), u) for u, v in times), strict=True)  # type: ignore[misc]
        return torch.stack(V), torch.stack(W), torch.stack(b)

    start = like.new_zeros(1)
    try:
        triple = together(start, start)
        fits = isinstance(triple, tuple) and len(triple) == 3
    except Exception:  # a kernel for numbers may fail in any way on tensors: it is then called on each pair
        return one_by_one
    return together if fits else one_by_one


@torch.no_grad()
def costate_equation(
    path: Kernel,
    x0: Tensor,
    g: Tensor | Callable[[Tensor], Tensor],
    t: Tensor,
    *,
    activation: str | Activation = "tanh",
    rtol: float | None = None,
    atol: float | None = None,
    max_evaluations: int = 5 * 10**7,
) -> CostateSolution:
    r"""Solve the Volterra equation of a kernel of parameters and then, backwards, that of its costate,

    .. math:: x(t)&=x^0+\int_0^tf(x(s),\theta(t,s))\,ds,\\
              p(s)&=\partial_xf(x(s),\theta(T,s))^{\top}g+\int_s^T\partial_xf(x(s),\theta(t,s))^{\top}p(t)\,dt .

    The costate of the loss is p plus the atom g at t = T; the derivative in :math:`x^0` is
    :math:`g+\int_0^Tp\,dt`.  Both equations go to :func:`~dnlbook.volterra.solve_vie`, the second in the time
    T - s.
    Source: chapter *Backpropagation is a Volterra equation in reverse*.

    Parameters
    ----------
    path : callable ``(t, s) -> (V, W, b)``
        :math:`\theta(t,s)`, of shapes ``(n, m)``, ``(m, n)``, ``(m,)``.  It is vectorized over the times if its
        operations allow that, and called with numbers otherwise, which is slow.
    x0 : Tensor, shape ``(..., n)``
    g : Tensor of the shape of x0, or callable ``x(T) -> g``
        The gradient of the loss in the final state.
    t : Tensor, shape ``(N + 1,)``
        The times at which x and p are returned, strictly increasing from 0 to T.
    activation : str or Activation
    rtol, atol, max_evaluations
        Settings of the collocation, see :func:`~dnlbook.volterra.solve_vie`; the same for both equations.

    Returns
    -------
    CostateSolution
        Constants for autograd.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, shapes do not fit together or a value is not finite.
    ConvergenceError
        If the tolerances are not reached.

    Examples
    --------
    >>> def path(t, s):
    ...     W = torch.ones(1, 1, dtype=torch.float64)
    ...     return W * torch.exp(torch.as_tensor(s - t)), W, W[0]
    >>> x0, t = torch.ones(1, 1, dtype=torch.float64), torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> solution = costate_equation(path, x0, lambda end: end, t)
    >>> solution.x.shape, solution.p.shape, torch.equal(solution.g, solution.x[-1])
    (torch.Size([3, 1, 1]), torch.Size([3, 1, 1]), True)
    """
    sigma = named_activation(activation)
    grid = _checks.shape("t", t, ("points",))
    array = _checks.tensor("x0", x0)
    if array.ndim == 0 or not array.numel():
        raise ValueError(f"x0: expected shape (..., n) with at least one state, received {tuple(array.shape)}")
    _checks.finite("x0", _checks.same_kind("x0", array, "t", grid))
    theta, batch = _vectorized(path, array), array.reshape(-1, array.shape[-1])
    solve = partial(solve_vie, rtol=rtol, atol=atol, max_evaluations=max_evaluations)

    def parameters(later: Tensor, earlier: Tensor) -> Triple:
        V, W, b = theta(*torch.broadcast_tensors(later, earlier))  # type: ignore[no-untyped-call]
        width, hidden = batch.shape[1], V.shape[-1]
        _checks.shape("path(t, s), V", V, (len(V), width, hidden))
        _checks.shape("path(t, s), W", W, (len(V), hidden, width))
        _checks.shape("path(t, s), b", b, (len(V), hidden))
        for name, part in (("V", V), ("W", W), ("b", b)):
            _checks.same_kind(f"path(t, s), {name}", part, "x0", batch)
        return V, W, b

    def feature(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        V, W, b = parameters(t, s)
        return sigma(x @ W.mT + b.unsqueeze(1)) @ V.mT

    def pulled_back(t: Tensor, s: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
        """The derivative of the feature in x, transposed and applied to a cotangent."""
        V, W, b = parameters(t, s)
        z = x @ W.mT + b.unsqueeze(1)
        return ((cotangent @ V) * sigma.derivative(z)) @ W

    state = solve(feature, batch, grid)
    final = state.x[-1].reshape(array.shape)
    atom = g(final) if callable(g) else g
    _checks.same_kind("g", _checks.shape("g", atom, tuple(array.shape)), "x0", array)
    _checks.finite("g", atom)
    flat, end = atom.reshape(batch.shape), grid[-1]

    def forcing(r: Tensor) -> Tensor:
        s = (end - r).reshape(-1)
        values = pulled_back(end, s, state(s), flat)
        return values.reshape(*r.shape, *batch.shape)

    def kernel(r: Tensor, u: Tensor, p: Tensor) -> Tensor:
        x = state(end - r)
        return pulled_back(end - u, end - r, x.expand_as(p), p)

    backward = solve(kernel, forcing, end - grid.flip(0))
    shape = (len(grid), *array.shape)
    return CostateSolution(
        grid,
        state.x.reshape(shape),
        backward.x.flip(0).reshape(shape),
        atom,
        max(state.residual, backward.residual),
        state,
        backward,
    )
