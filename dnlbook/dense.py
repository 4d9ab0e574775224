"""The engine of the dense network: forward pass by pushing from each source, adjoint by the costate recursion.

A source k is read once: one wide product gives its features for all later targets l, one batched product
adds them up.  The adjoint runs the same loop backwards and recomputes the features, so that it keeps one
state per layer where autograd keeps one hidden layer per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnlbook import _checks
from dnlbook._phi import phi_of
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation

Triple = tuple[Tensor, Tensor, Tensor]

#: features of one source that are in flight at a time: they should stay in a second-level cache
_SCRATCH_BYTES = 1 << 19
_MAX_SWEEPS = 200


def pair_count(depth: int, *, diagonal: bool = False) -> int:
    r"""Return how many pairs (l, k) carry parameters: :math:`L(L+1)/2` with k < l, or also those with k = l.

    Source: the triangle of the notation page; the diagonal belongs to implicit quadrature.

    Raises
    ------
    ValueError
        If depth is not a positive int.

    Examples
    --------
    >>> pair_count(4), pair_count(4, diagonal=True)
    (10, 15)
    """
    sources = _checks.positive_int("depth", depth) + diagonal
    return sources * (sources + 1) // 2


def pair_index(l: int, k: int, depth: int, *, diagonal: bool = False) -> int:
    """Return the place of the pair (target l, source k) in packed parameters, which are ordered by source.

    Source: the triangle of the notation page.

    Raises
    ------
    IndexError
        If the pair is not in the triangle.

    Examples
    --------
    >>> [pair_index(l, 0, 3) for l in (1, 2, 3)], pair_index(2, 1, 3), pair_index(3, 2, 3)
    ([0, 1, 2], 3, 5)
    """
    depth = _checks.positive_int("depth", depth)
    first = k if diagonal else k + 1
    if not 0 <= k < depth + diagonal or not first <= l <= depth:
        triangle = "0 <= k <= l" if diagonal else "0 <= k < l"
        raise IndexError(f"(l, k): expected {triangle} <= {depth}, received ({l}, {k})")
    return _Triangle(depth, diagonal).start(k) + l - first


@dataclass(frozen=True)
class _Triangle:
    """Where the pairs of a source lie in packed parameters."""

    depth: int
    diagonal: bool

    @property
    def sources(self) -> int:
        return self.depth + self.diagonal

    def start(self, k: int) -> int:
        return k * self.sources - k * (k - 1) // 2

    def block(self, k: int) -> slice:
        return slice(self.start(k), self.start(k + 1))

    def tiles(self, k: int, size: int) -> Iterator[tuple[slice, slice]]:
        """Split the targets l > k of a source: slices of targets and of pairs."""
        shift = self.start(k) - k - (not self.diagonal)
        for first in range(k + 1, self.depth + 1, size):
            last = min(first + size, self.depth + 1)
            yield slice(first, last), slice(first + shift, last + shift)


class _Pass:
    """One sweep over the triangle: weights, the coefficients step * quadrature weight, and the tiles."""

    def __init__(self, V: Tensor, W: Tensor, b: Tensor, coefficients: Tensor, batch: int, sigma: Activation) -> None:
        self.V, self.W, self.b, self.c = V, W, b, coefficients
        self.depth, self.batch = len(coefficients) - 1, batch
        self.triangle = _Triangle(self.depth, len(V) != pair_count(self.depth))
        self.phi = phi_of(sigma)
        _, self.n, self.m = V.shape
        self.size = max(1, _SCRATCH_BYTES // max(1, self.m * batch * V.element_size()))
        row, column = torch.tril_indices(self.depth + 1, self.depth + 1, -1, device=V.device)
        below = coefficients[row, column]
        # the usual network weighs all pairs alike: then the coefficient is a factor of the products
        self.uniform = float(below[0]) if bool((below == below[0]).all()) else None
        self.own = [float(value) for value in coefficients.diagonal()]

    def tiles(self, k: int) -> Iterator[tuple[slice, slice]]:
        return self.triangle.tiles(k, self.size)

    def scratch(self, targets: int | None = None) -> Tensor:
        return self.V.new_empty((targets or min(self.size, self.depth)) * self.m * self.batch)

    def outer(self, pairs: slice, targets: slice, k: int) -> tuple[Tensor, float]:
        """Outer weights of a tile and a factor, whose product includes the coefficients."""
        if self.uniform is not None:
            return self.V[pairs], self.uniform * self.phi.outer
        return self.V[pairs] * self.c[targets, k].view(-1, 1, 1), self.phi.outer

    def features(self, pairs: slice, x: Tensor, out: Tensor) -> Tensor:
        """phi(inner (W x + b)) of all targets of a tile, shape (j, m, B)."""
        j, scale = pairs.stop - pairs.start, self.phi.inner
        z = out[: j * self.m * self.batch].view(j * self.m, self.batch)
        weight, bias = self.W[pairs].reshape(-1, self.n), self.b[pairs].reshape(-1, 1)
        torch.addmm(bias, weight, x, beta=scale, alpha=scale, out=z)
        self.phi.phi_(z)
        return z.view(j, self.m, self.batch)

    def offsets(self) -> Tensor | None:
        """What the constant part of the activation adds to each target in all, shape (L + 1, n, 1)."""
        if not self.phi.offset:
            return None
        total = self.V.new_zeros(self.depth + 1, self.n)
        for k in range(self.triangle.sources):
            for targets, pairs in self.triangle.tiles(k, self.depth):
                total[targets] += self.c[targets, k].unsqueeze(1) * self.V[pairs].sum(2)
        return (self.phi.offset * total).unsqueeze(2)

    def diagonal_term(self, k: int, x: Tensor) -> Tensor:
        """c_kk f(x, theta^{k,k}), shape (n, B)."""
        at = self.triangle.start(k)
        h = self.features(slice(at, at + 1), x, self.V.new_empty(self.m * self.batch))[0]
        return self.own[k] * (self.V[at] @ (self.phi.outer * h + self.phi.offset))

    def diagonal_slope(self, k: int, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The value of sigma on the diagonal and the map q -> cotangent of W x + b from c_kk f."""
        at = self.triangle.start(k)
        h = self.features(slice(at, at + 1), x, self.V.new_empty(self.m * self.batch))[0]

        def pull_back(q: Tensor) -> Tensor:
            u = (self.own[k] * self.phi.outer * self.phi.inner) * (self.V[at].mT @ q)
            self.phi.pull_back_(u, h)
            return u

        return self.phi.outer * h + self.phi.offset, pull_back


def _fixed_point(step: Callable[[Tensor], Tensor], start: Tensor, what: str) -> Tensor:
    """Iterate y = step(y) to rounding level; the map has to contract."""
    y, eps, moved = start, torch.finfo(start.dtype).eps, float("inf")
    for _ in range(_MAX_SWEEPS):
        new = step(y)
        before, moved = moved, float((new - y).abs().max()) if y.numel() else 0.0
        scale = 1.0 + (float(new.abs().max()) if y.numel() else 0.0)
        y = new
        if moved <= 8 * eps * scale or (moved >= before and moved <= 1e3 * eps * scale):
            return y
    raise ValueError(
        f"weights: the implicit term of {what} does not contract (the last two changes were {before:.3g} and "
        f"{moved:.3g}); use a smaller step, that is a larger depth, or an explicit rule"
    )


def _sweep_forward(run: _Pass, x0: Tensor, kept: list[Tensor] | None) -> Tensor:
    """All states, feature-major (L + 1, n, B); features are collected in kept when it is a list."""
    x = x0.expand(run.depth + 1, run.n, run.batch).clone()
    offsets = run.offsets()
    if offsets is not None:
        x += offsets
    scratch = None if kept is not None else run.scratch()
    for k in range(run.depth + 1):
        if run.own[k]:
            past = x[k].clone()
            x[k] = _fixed_point(lambda y, k=k, past=past: past + run.diagonal_term(k, y), past, f"layer {k}")  # type: ignore[misc]
        for targets, pairs in run.tiles(k):
            # what is kept gets storage of its own size: a view would keep all of a larger one alive
            h = run.features(pairs, x[k], run.scratch(pairs.stop - pairs.start) if scratch is None else scratch)
            if kept is not None:
                kept.append(h)
            V, factor = run.outer(pairs, targets, k)
            x[targets].baddbmm_(V, h, alpha=factor)
    if not bool(torch.isfinite(x).all()):
        layer = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"sources: expected finite states, received nan or inf in layer {layer}; the weights are not finite "
            "or the network has blown up: use a smaller step or smaller weights"
        )
    return x


def _sweep_backward(run: _Pass, x: Tensor, q: Tensor, kept: Sequence[Tensor] | None, grads: Triple) -> None:
    """Turn cotangents q of all states into costates, in place, and write the gradients of the parameters."""
    grad_V, grad_W, grad_b = grads
    scratch, cotangent = run.scratch(), run.scratch()
    inner, outer, offset = run.phi.inner, run.phi.outer, run.phi.offset
    place = len(kept) if kept is not None else 0
    for k in reversed(range(run.depth + 1)):
        tiles = list(run.tiles(k))
        place -= len(tiles)
        for number, (targets, pairs) in enumerate(tiles):
            j, later = pairs.stop - pairs.start, q[targets]
            h = run.features(pairs, x[k], scratch) if kept is None else kept[place + number]
            V, factor = run.outer(pairs, targets, k)
            # q^k += tau d_x f(x^k, theta^{l,k})^T q^l for all l of the tile at once
            u = cotangent[: j * run.m * run.batch].view(j, run.m, run.batch)
            torch.baddbmm(u, V.mT, later, beta=0, alpha=factor * inner, out=u)
            run.phi.pull_back_(u, h)
            constant = later.sum(2, keepdim=True).expand(j, run.n, run.m) if offset else later.new_zeros(1)
            torch.baddbmm(constant, later, h.mT, beta=offset, alpha=outer, out=grad_V[pairs])
            if run.uniform is None:
                grad_V[pairs] *= run.c[targets, k].view(-1, 1, 1)
            elif run.uniform != 1:
                grad_V[pairs] *= run.uniform
            flat = u.view(j * run.m, run.batch)
            torch.mm(flat, x[k].mT, out=grad_W[pairs].view(-1, run.n))
            torch.sum(flat, 1, out=grad_b[pairs].view(-1))
            q[k].addmm_(run.W[pairs].reshape(-1, run.n).mT, flat)
        if run.own[k]:
            at = run.triangle.start(k)
            value, pull_back = run.diagonal_slope(k, x[k])
            arrived = q[k].clone()
            q[k] = _fixed_point(lambda p: arrived + run.W[at].mT @ pull_back(p), arrived, f"the costate of layer {k}")  # noqa: B023
            u = pull_back(q[k])
            grad_V[at], grad_W[at], grad_b[at] = run.own[k] * (q[k] @ value.mT), u @ x[k].mT, u.sum(1)


class _DenseStates(torch.autograd.Function):
    """All states; the gradient is the discrete costate recursion."""

    @staticmethod
    def forward(
        ctx: Any, x0: Tensor, V: Tensor, W: Tensor, b: Tensor, coefficients: Tensor, sigma: Activation, store: bool
    ) -> Tensor:
        run = _Pass(V, W, b, coefficients, len(x0), sigma)
        kept: list[Tensor] | None = [] if store else None
        x = _sweep_forward(run, x0.mT, kept)
        ctx.save_for_backward(x, V, W, b, coefficients, *(kept or ()))
        ctx.sigma, ctx.store = sigma, store
        return x.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, V, W, b, coefficients, *kept = ctx.saved_tensors
        run = _Pass(V, W, b, coefficients, x.shape[2], ctx.sigma)
        q = cotangents.mT.clone(memory_format=torch.contiguous_format)
        diagonal = run.triangle.diagonal
        grads = tuple(torch.zeros_like(p) if diagonal else torch.empty_like(p) for p in (V, W, b))
        _sweep_backward(run, x, q, kept if ctx.store else None, grads)  # type: ignore[arg-type]
        return (q.sum(0).mT, *grads, None, None, None)


def _pack(sources: Sequence[Any]) -> Triple:
    """Packed (V, W, b) from packed ones or from one triple per source."""
    if len(sources) == 3 and all(isinstance(part, Tensor) for part in sources):
        V, W, b = sources
    else:
        for k, triple in enumerate(sources):
            if not isinstance(triple, tuple | list) or len(triple) != 3:
                raise ValueError(f"sources[{k}]: expected a triple (V, W, b), received {type(triple).__name__}")
            targets = len(sources) - k
            for name, part in zip("VWb", triple, strict=True):
                _checks.tensor(f"sources[{k}], {name}", part)
                if len(part) != targets:
                    raise ValueError(
                        f"sources[{k}], {name}: expected {targets} targets in front, received shape {tuple(part.shape)}"
                    )
        if not sources:
            raise ValueError("sources: expected at least one source, received none")
        V, W, b = (torch.cat(parts) for parts in zip(*sources, strict=True))
    _checks.shape("V", V, ("pairs", "n", "m"))
    _checks.shape("W", W, (V.shape[0], V.shape[2], V.shape[1]))
    _checks.shape("b", b, (V.shape[0], V.shape[2]))
    for name, part in (("W", W), ("b", b)):
        _checks.same_kind(name, part, "V", V)
    return V, W, b


def _depth_of(pairs: int) -> int:
    depth = int((2 * pairs) ** 0.5)
    if pairs < 1 or pair_count(depth) != pairs:
        raise ValueError(f"sources: expected L(L+1)/2 pairs in front, received {pairs}")
    return depth


def quadrature_coefficients(pairs: int, step: float, weights: Tensor | None, like: Tensor) -> Tensor:
    r"""Return :math:`\tau w_{lk}` as an ``(L + 1, L + 1)`` matrix, checked against the number of pairs.

    Source: chapter *The deep-layer limit is a Volterra equation*.

    Raises
    ------
    ValueError
        If the weights are not a lower triangle, or the pairs do not fit to them.

    Examples
    --------
    >>> quadrature_coefficients(3, 0.5, None, torch.ones(1))[2]
    tensor([0.5000, 0.5000, 0.0000])
    """
    tau = _checks.finite_float("step", step)
    if weights is None:
        depth = _depth_of(pairs)
        return like.new_full((depth + 1, depth + 1), tau).tril(-1)
    _checks.finite("weights", _checks.shape("weights", weights, ("L + 1", weights.shape[0])))
    depth = len(weights) - 1
    if bool(weights.triu(1).any()) or bool(weights[0].any()):
        raise ValueError("weights: expected a lower triangle with a zero first row, received entries outside of it")
    implicit = bool(weights.diagonal().any())
    wanted = pair_count(depth, diagonal=implicit)
    if pairs != wanted:
        kind = "implicit" if implicit else "explicit"
        raise ValueError(f"sources: expected {wanted} pairs for an {kind} rule of depth {depth}, received {pairs}")
    return (tau * weights).to(like)


def dense_forward(
    x0: Tensor,
    sources: Sequence[Any],
    *,
    step: float,
    activation: str | Activation = "tanh",
    weights: Tensor | None = None,
    memory: str = "recompute",
) -> Tensor:
    r"""Return all states of the dense non-local network with perceptron features,

    .. math:: x^l=x^0+\tau\sum_{k\le l}w_{lk}\,V^{l,k}\sigma(W^{l,k}x^k+b^{l,k}),\qquad l=1,\dots,L .

    Gradients come from the costate recursion :math:`q^L=g`,
    :math:`q^k=g^k+\tau\sum_{l>k}w_{lk}\,\partial_xf(x^k,\theta^{l,k})^{\top}q^l`, which is exact for the network.
    Source: chapters *The deep-layer limit is a Volterra equation* and *Memory costs less than its triangle*.

    Parameters
    ----------
    x0 : Tensor, shape ``(..., n)``
    sources : packed ``(V, W, b)`` of shapes ``(P, n, m)``, ``(P, m, n)``, ``(P, m)``, or one triple per source
        Packed parameters are ordered by source, see :func:`pair_index`; source k of a list holds the
        targets l = k + 1, ..., L (from l = k on for an implicit rule).
    step : float
        :math:`\tau=T/L` for a discretization of an integral equation.
    activation : str or Activation
    weights : Tensor, shape ``(L + 1, L + 1)``, optional
        Quadrature weights :math:`w_{lk}`, a lower triangle with a zero first row; 1 for k < l unless given.
        With entries on the diagonal the rule is implicit and each layer is solved by fixed-point iteration.
    memory : {"recompute", "store"}
        Recompute the features in the backward pass and keep L + 1 states, or keep all features.

    Returns
    -------
    Tensor, shape ``(L + 1, ..., n)``

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together, x0 or a state is not finite, the weights are
        not a lower triangle, or an implicit rule does not contract.
    RuntimeError
        If the gradient is differentiated again; :func:`dense_loop` supports that.

    Examples
    --------
    >>> V, W, b = torch.ones(3, 1, 1), torch.ones(3, 1, 1), torch.zeros(3, 1)
    >>> dense_forward(torch.ones(1, 1), (V, W, b), step=0.5, activation="identity")[:, 0, 0]
    tensor([1.0000, 1.5000, 2.2500])
    """
    x, V, W, b, coefficients, sigma = _checked(x0, sources, step, weights, activation)
    store = _checks.choice("memory", memory, ("recompute", "store")) == "store"
    states: Tensor = _DenseStates.apply(x, V, W, b, coefficients, sigma, store)  # type: ignore[no-untyped-call]
    return states.reshape(len(states), *x0.shape)


def _checked(
    x0: Tensor, sources: Sequence[Any], step: float, weights: Tensor | None, activation: str | Activation
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Activation]:
    sigma = named_activation(activation)
    V, W, b = _pack(sources)
    coefficients = quadrature_coefficients(len(V), step, weights, V)
    x = _checks.state("x0", x0, V.shape[1], "V", V)
    return x.reshape(-1, V.shape[1]), V, W, b, coefficients, sigma


def dense_loop(
    x0: Tensor,
    sources: Sequence[Any],
    *,
    step: float,
    activation: str | Activation = "tanh",
    weights: Tensor | None = None,
) -> Tensor:
    r"""Return the states of :func:`dense_forward` by a plain double loop that autograd records.

    It keeps a hidden layer per pair, supports derivatives of any order, and serves as reference; its rules
    are explicit.  Equation, arguments, errors and source are those of :func:`dense_forward`.

    Examples
    --------
    >>> V, W, b = torch.ones(3, 1, 1), torch.ones(3, 1, 1), torch.zeros(3, 1)
    >>> dense_loop(torch.ones(1, 1), (V, W, b), step=0.5, activation="identity")[:, 0, 0]
    tensor([1.0000, 1.5000, 2.2500])
    """
    x, V, W, b, coefficients, sigma = _checked(x0, sources, step, weights, activation)
    if bool(coefficients.diagonal().any()):
        raise ValueError("weights: expected an explicit rule without diagonal, received diagonal entries")
    depth = len(coefficients) - 1
    states = [x]
    for l in range(1, depth + 1):
        total = x
        for k in range(l):
            at = pair_index(l, k, depth)
            total = total + coefficients[l, k] * (sigma(torch.addmm(b[at], states[k], W[at].mT)) @ V[at].mT)
        states.append(total)
    return torch.stack(states).reshape(depth + 1, *x0.shape)
