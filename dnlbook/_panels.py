r"""Panels of Chebyshev nodes, and the finished panels as the history of a Volterra equation.

On a panel [a, b] the solution is the polynomial of degree N through the Chebyshev-Lobatto nodes.  The
integral over [a, t] is a Gauss rule on [a, t] itself, so that the kernel is never evaluated at s > t.
The rows of the tables are the N nodes after a, and then the N check points between the nodes, where the
defect :math:`r=\Phi(x)-x` measures what the nodes do not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dnlbook._equation import Equation

Array = npt.NDArray[np.float64]

#: numbers that one call for the history may return, so that its temporaries stay in the cache
_CALL = 1 << 20
#: how many sources the history may grow to by halving
_SOURCES = 1 << 17


@lru_cache(maxsize=64)
def lobatto(degree: int) -> Array:
    """Return the Chebyshev-Lobatto nodes on [0, 1], symmetric to the last bit."""
    k = np.arange(degree + 1)
    half = np.sin(np.pi * k / (2 * degree)) ** 2
    return np.where(2 * k <= degree, half, 1 - half[::-1])


@lru_cache(maxsize=64)
def _barycentric(degree: int) -> Array:
    weights = np.where(np.arange(degree + 1) % 2, -1.0, 1.0)
    weights[[0, -1]] *= 0.5
    return weights


def lagrange(degree: int, points: Array) -> Array:
    """Return the matrix from values at the Lobatto nodes to values at points of [0, 1]."""
    gaps = points[:, None] - lobatto(degree)
    exact = gaps == 0
    hits = exact.any(1)
    gaps[exact] = 1.0
    rows: Array = _barycentric(degree) / gaps
    rows /= rows.sum(1, keepdims=True)
    rows[hits] = exact[hits]
    return rows


def check_order(order: int) -> int:
    """Return how many Gauss points check a rule of that many: enough to see errors of low algebraic order."""
    return order + order // 2 + 1


@dataclass(frozen=True)
class Tables:
    """Everything about the panel [0, 1] that depends on its degree alone; points are rows, flattened."""

    times: Tensor  # (2N + 1,): 0, the nodes, the check points
    t: Tensor  # the time of each quadrature point's row
    s: Tensor  # the quadrature points: N + 1 for each node, then more for each check point
    sample: Tensor  # (points, N + 1): nodes to quadrature points
    checks: Tensor  # (N, N + 1): nodes to check points
    gauss: Tensor  # (N + 1,): weights of a node's points on [0, 1]
    check_gauss: Tensor  # weights of a check point's points on [0, 1]
    lengths: Tensor  # (2N, 1): the rows' times
    integral: Tensor  # (N, N, N + 1): weights of each row on each quadrature point, by node after the first
    node_sample: Tensor  # the part of sample that belongs to the nodes


def _tensor(values: Array, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _template(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=dtype, device=device)


def _gauss(order: int) -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(order)
    return (points + 1) / 2, weights / 2


@lru_cache(maxsize=24)
def _tables(degree: int, dtype: torch.dtype, device: torch.device) -> Tables:
    fine = lobatto(2 * degree)
    nodes, checks = fine[2::2], fine[1::2]
    (points, weights), (more, more_weights) = _gauss(degree + 1), _gauss(check_order(degree + 1))
    s = np.concatenate([np.outer(nodes, points).ravel(), np.outer(checks, more).ravel()])
    sample = lagrange(degree, s)
    ends = np.concatenate([nodes, checks])
    node_sample = sample[: degree * (degree + 1)].reshape(degree, degree + 1, degree + 1)
    arrays = (
        np.concatenate([[0.0], ends]),
        np.concatenate([np.repeat(nodes, len(points)), np.repeat(checks, len(more))]),
        s,
        sample,
        lagrange(degree, checks),
        weights,
        more_weights,
        ends[:, None],
        np.outer(nodes, weights)[:, None, :] * node_sample.transpose(0, 2, 1)[:, 1:],
        sample[: degree * (degree + 1)],
    )
    with torch.inference_mode(False):  # the tables outlive the mode in which they are first needed
        return Tables(*(_tensor(array, _template(dtype, device)) for array in arrays))


def tables(degree: int, like: Tensor) -> Tables:
    """Return the tables of a degree in the dtype and on the device of like."""
    return _tables(degree, like.dtype, like.device)


@lru_cache(maxsize=8)
def _check_sampler(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    points = np.outer(lobatto(degree)[1:], _gauss(degree + 1)[0]).ravel()
    with torch.inference_mode(False):
        return _tensor(lagrange(2 * degree, points)[:, 1::2], _template(dtype, device))


def check_sampler(degree: int, like: Tensor) -> Tensor:
    """Return the matrix from check points to the nodes' points, for polynomials zero at the nodes."""
    return _check_sampler(degree, like.dtype, like.device)


@lru_cache(maxsize=64)
def _sampler(
    degree: int, order: int, pieces: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return composite Gauss nodes and weights on [0, 1], and the matrix from Lobatto values to them."""
    points, weights = _gauss(order)
    nodes = ((np.arange(pieces)[:, None] + points) / pieces).ravel()
    arrays = nodes, np.tile(weights / pieces, pieces), lagrange(degree, nodes)
    with torch.inference_mode(False):
        s, w, sample = (_tensor(array, _template(dtype, device)) for array in arrays)
    return s, w, sample


@dataclass(frozen=True)
class Panel:
    """A polynomial on [start, end] by its values at the Lobatto nodes, shape (degree + 1, size)."""

    start: float
    end: float
    values: Tensor

    @property
    def length(self) -> float:
        return self.end - self.start

    @property
    def degree(self) -> int:
        return self.values.shape[0] - 1

    def at(self, times: Tensor) -> Tensor:
        """Return the polynomial at times (m,), which the caller keeps in the panel."""
        relative = (times.double().cpu().numpy() - self.start) / self.length
        matrix = lagrange(self.degree, np.minimum(np.maximum(relative, 0.0), 1.0))
        return torch.from_numpy(matrix).to(times) @ self.values


class History:
    """The finished panels as sources of the integral up to the panel in work.

    There are two families of sources, of different order: what they disagree about is quadrature error.
    """

    def __init__(self, equation: Equation, *, level: int = 0, attached: bool = False) -> None:
        self._equation = equation
        self._attached = attached
        self.level = level
        self.panels: list[Panel] = []
        self._families: list[tuple[int, tuple[Tensor, Tensor, Tensor]] | None] = [None, None]

    def push(self, panel: Panel) -> None:
        """Add a finished panel."""
        self.panels.append(panel)

    @property
    def may_refine(self) -> bool:
        """Whether halving keeps the number of sources within bounds."""
        return bool(2**self.level * sum(panel.degree for panel in self.panels) < _SOURCES)

    def refine(self) -> None:
        """Halve the pieces on which the sources are Gauss rules."""
        self.level += 1
        self._families = [None, None]

    def _sources(self, family: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the times, weights and states of the sources, shapes (M,), (M,), (M, size)."""
        known = self._families[family]
        done, parts = (known[0], [known[1]]) if known else (0, [])
        like = self._equation.like
        for panel in self.panels[done:]:
            order = panel.degree + 1
            order = check_order(order) if family else order
            nodes, weights, sample = _sampler(panel.degree, order, 2**self.level, like.dtype, like.device)
            s = (panel.start + panel.length * nodes).clamp(max=panel.end)
            parts.append((s, panel.length * weights, sample @ panel.values))
        s, w, x = (torch.cat(columns) for columns in zip(*parts, strict=True))
        self._families[family] = (len(self.panels), (s, w, x))
        return s, w, x

    def integral(self, times: Tensor, family: int = 0) -> Tensor:
        """Return the integral over all finished panels of k(t, s, x(s)), shape (m, size)."""
        if not self.panels:
            return self._equation.like.new_zeros(len(times), self._equation.size)
        s, w, x = self._sources(family)
        rows = max(1, _CALL // max(1, x.numel()))
        parts = torch.split(times, rows)
        if self._attached and len(parts) > 1:
            return torch.cat([checkpoint(self._part, part, s, w, x, use_reentrant=False) for part in parts])
        return torch.cat([self._part(part, s, w, x) for part in parts])

    def _part(self, times: Tensor, s: Tensor, w: Tensor, x: Tensor) -> Tensor:
        m, equation = len(times), self._equation
        t, s, x = times.repeat_interleave(len(s)), s.repeat(m), x.repeat(m, 1)
        values = equation.kernel(t, s, x, attached=self._attached)
        total = torch.matmul(w, values.view(m, len(w), equation.size))
        if not self._attached and not math.isfinite(total.sum().item()):
            equation.blame(t, s, x, values)
        return total
