"""A learning problem that is solved exactly at every depth and in the limit: linear dynamics, quadratic cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from dnlbook import _checks
from dnlbook.quadrature import RULES, quadrature_weights
from dnlbook.triangle import TriangleMesh

Array = np.ndarray
_DEGREES = (8, 12, 16, 20)
_LARGEST_RATE = 30.0


@dataclass(frozen=True)
class LinearQuadraticProblem:
    r"""Steer a scalar state with memory to a target,

    .. math::

        x(t)&=x^0+\int_0^t\bigl(a\,x(s)+u(t,s)\bigr)\,ds,\\
        J(u)&=\tfrac12\bigl(x(T)-y\bigr)^2+\tfrac\alpha2\|u\|^2_{H^1(\Delta)} .

    The final state is :math:`x^0e^{aT}+c(u)` with a functional c that is continuous on :math:`H^1(\Delta)`, so with
    :math:`d=y-x^0e^{aT}` and :math:`\kappa=\|c\|^2` in the dual norm

    .. math:: J^*=\frac{d^2}2\,\frac\alpha{\alpha+\kappa},\qquad u^*=\frac d{\alpha+\kappa}\,r,

    where r represents c.  The same formulas hold for the network of any depth.
    Source: chapter *Optimal values converge with depth*.

    Parameters
    ----------
    a : float
        Growth rate of the uncontrolled state.
    x0, target : float
        :math:`x^0` and :math:`y`.
    alpha : float
        :math:`\alpha>0`, the weight of the penalty.
    horizon : float
        :math:`T>0`.

    Raises
    ------
    ValueError, TypeError
        If a number is not finite, alpha or the horizon not positive, or :math:`|a|T>30`.

    Examples
    --------
    >>> problem = LinearQuadraticProblem(0.0, 0.3, 1.5, 0.5)
    >>> value, control = problem.solve(64, "trapezoid")
    >>> control.shape, round(problem.limit_value, 8), round(value - problem.limit_value, 7)
    (torch.Size([2145]), 0.12797564, 1.7e-06)
    """

    a: float
    x0: float
    target: float
    alpha: float
    horizon: float = 1.0

    def __post_init__(self) -> None:
        for name in ("a", "x0", "target"):
            object.__setattr__(self, name, _checks.finite_float(name, getattr(self, name)))
        for name in ("alpha", "horizon"):
            object.__setattr__(self, name, _checks.positive_float(name, getattr(self, name)))
        if abs(self.a) * self.horizon > _LARGEST_RATE:
            raise ValueError(
                f"a: expected abs(a) * horizon of at most {_LARGEST_RATE:g}, received {abs(self.a) * self.horizon:g}; "
                "the state would change by more than a double can follow"
            )

    def solve(self, depth: int, rule: str = "rectangle", *, penalty: str = "h1") -> tuple[float, Tensor]:
        r"""Return minimal value and minimizer of the network problem of a depth,

        .. math::

            x^l=x^0+\tau\sum_{k\le l}w_{lk}(a\,x^k+u^{l,k}),\qquad
            J_L(u)=\tfrac12(x^L-y)^2+\tfrac\alpha2R_L(u),

        where :math:`R_L` is the squared H1 norm with the lumped mass, or the lumped mass alone.

        Parameters
        ----------
        depth : int
        rule : {"rectangle", "trapezoid", "gregory"}
            The weights :math:`w_{lk}`; the rectangle rule is the usual dense network.
        penalty : {"h1", "l2"}

        Returns
        -------
        float, Tensor of shape ``(N,)``
            The value, and nodal values on ``TriangleMesh(depth, horizon)``, float64.

        Raises
        ------
        ValueError
            If depth, rule or penalty is not known, or an implicit rule meets :math:`\tau aw_{ll}\ge1`.

        Examples
        --------
        >>> problem = LinearQuadraticProblem(0.0, 0.3, 1.5, 0.5)
        >>> value, _ = problem.solve(8, penalty="l2")
        >>> abs(value - 0.5 * 1.2**2 * 0.5 / (0.5 + 2 * 8 + 4)) < 1e-15
        True
        """
        mesh = TriangleMesh(depth, self.horizon)
        _checks.choice("penalty", penalty, ("h1", "l2"))
        functional, free = self._functional(mesh, _checks.choice("rule", rule, RULES))
        riesz = mesh.riesz(functional, "lumped") if penalty == "h1" else functional / mesh.mass("lumped")
        kappa = float(functional @ riesz)
        missing = self.target - free
        return self._value(missing, kappa), missing / (self.alpha + kappa) * riesz

    def _functional(self, mesh: TriangleMesh, rule: str) -> tuple[Tensor, float]:
        """How the last state depends on nodal values of the control, and the last state without control."""
        weights = quadrature_weights(rule, mesh.depth, dtype=torch.float64)
        system = torch.eye(mesh.depth + 1, dtype=torch.float64) - mesh.step * self.a * weights
        if bool((system.diagonal() <= 0).any()):
            smallest = math.floor(self.horizon * self.a * float(weights.diagonal().max())) + 1
            raise ValueError(
                f"depth: expected at least {smallest} for the rule {rule!r} and a = {self.a:g}, received {mesh.depth}"
            )
        last = torch.zeros(mesh.depth + 1, 1, dtype=torch.float64)
        last[-1] = 1.0
        costate = torch.linalg.solve_triangular(system.mT, last, upper=True)
        l, k = torch.tril_indices(mesh.depth + 1, mesh.depth + 1)
        functional = torch.zeros(mesh.size, dtype=torch.float64)
        rows = torch.cat([mesh.row(target) for target in range(mesh.depth + 1)])
        functional[rows] = (mesh.step * weights * costate)[l, k]
        return functional, self.x0 * float(costate.sum())

    def _value(self, missing: float, kappa: float) -> float:
        return 0.5 * missing**2 * self.alpha / (self.alpha + kappa)

    @property
    def _missing(self) -> float:
        return self.target - self.x0 * math.exp(self.a * self.horizon)

    @property
    def limit_value(self) -> float:
        r"""The minimal value of the limit problem.

        For a = 0 it is closed, :math:`\kappa=1+T\coth T`.  Otherwise it is the middle of two bounds: polynomials
        for the control give :math:`\kappa` from below, polynomials for its dual variable from above.

        Examples
        --------
        >>> round(LinearQuadraticProblem(1.0, 0.3, 1.5, 0.5).limit_value, 10)
        0.0175804909
        """
        low, high = self._bounds()
        return 0.5 * (low + high)

    @property
    def limit_error(self) -> float:
        """A bound for the error of the limit value: half the distance of the two bounds, plus rounding.

        Examples
        --------
        >>> LinearQuadraticProblem(1.0, 0.3, 1.5, 0.5).limit_error < 1e-12
        True
        """
        low, high = self._bounds()
        return 0.5 * abs(high - low) + 1e-13 * max(high, low)

    def _bounds(self) -> tuple[float, float]:
        if self.a == 0:
            value = self._value(self._missing, 1 + self.horizon / math.tanh(self.horizon))
            return value, value
        limit = _limit_functional(self.a * self.horizon, self.horizon)
        return self._value(self._missing, limit.upper), self._value(self._missing, limit.lower)

    def limit_control(self, t: Tensor, s: Tensor) -> Tensor:
        r"""Return the minimizer of the limit problem at points of the triangle, in the shape of t and s.

        For a = 0 it is :math:`\frac d{\alpha+\kappa}\frac{\cosh t+\cosh s}{\sinh T}`, otherwise a polynomial.

        Raises
        ------
        ValueError
            If the shapes differ or a point is not in the triangle.

        Examples
        --------
        >>> problem = LinearQuadraticProblem(0.0, 0.3, 1.5, 0.5)
        >>> problem.limit_control(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([0.9231])
        """
        _checks.shape("s", s, _checks.tensor("t", t).shape)
        slack = 1e-9 * self.horizon if t.dtype == torch.float64 else 1e-5 * self.horizon
        if not bool(((s >= -slack) & (s <= t + slack) & (t <= self.horizon + slack)).all()):
            raise ValueError(f"t, s: expected points with 0 <= s <= t <= {self.horizon:g}, received others")
        if self.a == 0:
            kappa = 1 + self.horizon / math.tanh(self.horizon)
            return self._missing / (self.alpha + kappa) * (t.cosh() + s.cosh()) / math.sinh(self.horizon)
        limit = _limit_functional(self.a * self.horizon, self.horizon)
        unit_t, unit_s = (part.detach().double().flatten().numpy() / self.horizon for part in (t, s))
        values = _products(unit_t, unit_s, limit.degree)[0] @ limit.riesz
        return torch.as_tensor(self._missing / (self.alpha + limit.lower) * values).to(t).view(t.shape)


@dataclass(frozen=True)
class _LimitFunctional:
    """Bounds of kappa and the polynomial that gives the lower one."""

    lower: float
    upper: float
    degree: int
    riesz: Array


def _products(t: Array, s: Array, degree: int) -> tuple[Array, Array, Array]:
    """Legendre products of total degree <= degree on the unit square, and their two derivatives."""
    slopes = np.zeros((degree + 1, degree + 1))
    for order in range(1, degree + 1):
        slopes[order, :order] = legendre.legder(np.eye(degree + 1)[order])[:order]
    pairs = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    i, j = np.array(pairs).T
    P, Q = (legendre.legvander(2 * x - 1, degree) for x in (t, s))
    dP, dQ = 2 * P @ slopes.T, 2 * Q @ slopes.T
    return P[:, i] * Q[:, j], dP[:, i] * Q[:, j], P[:, i] * dQ[:, j]


def _gauss(count: int) -> tuple[Array, Array]:
    nodes, weights = legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=32)
def _limit_functional(rate: float, horizon: float) -> _LimitFunctional:
    """Raise the degree until the two bounds agree to rounding, or the highest degree is reached."""
    for degree in _DEGREES:
        limit = _bounds_of_degree(rate, horizon, degree)
        if abs(limit.upper - limit.lower) <= 1e-12 * limit.upper:
            break
    return limit


def _bounds_of_degree(rate: float, horizon: float, degree: int) -> _LimitFunctional:
    r"""Both bounds of kappa on the unit triangle, where c(v) = T (int r0 v + int v(1, s)), r0 = rate e^{rate (1 - t)}.

    Lower: c restricted to polynomials.  Upper: |q|^2 + |r|^2 for any q, r with c(v) = int q grad v + r v; these are
    r = r0 + div q and q with flux 1 through t = 1 and none through the other edges.
    """
    nodes, weights = _gauss(degree + 12 + math.ceil(abs(rate)))
    t, s = np.repeat(nodes, len(nodes)), np.outer(nodes, nodes).ravel()
    root = np.sqrt((np.outer(nodes * weights, weights)).ravel())[:, None]
    source = rate * np.exp(rate * (1 - t))[:, None]

    # the squared norm is int |grad v|^2 + T^2 v^2 in unit variables
    v, v_t, v_s = _products(t, s, degree)
    stacked = np.concatenate([horizon * root * v, root * v_t, root * v_s])
    functional = (root**2 * source * v).sum(0) + weights @ _products(np.ones_like(nodes), nodes, degree)[0]
    functional = horizon * functional
    _, sizes, modes = np.linalg.svd(stacked, full_matrices=False)
    sizes, modes = sizes[sizes > 1e-10 * sizes[0]], modes[sizes > 1e-10 * sizes[0]]
    riesz = modes.T @ (modes @ functional / sizes**2)
    lower = 2 * functional @ riesz - np.sum((stacked @ riesz) ** 2)  # a bound for any polynomial, rounded or not

    lower_degree = degree - 2
    w, w_t, w_s = _products(t, s, lower_degree)
    T, S = t[:, None], s[:, None]
    zero = np.zeros_like(w)
    fields = [  # (q_t, q_s, div q): flux through no edge
        ((1 - T) * S * w, (1 - T) * S * w, (1 - T) * S * (w_t + w_s) + (1 - T - S) * w),
        ((1 - T) * (T - S) * w, zero, (1 - T) * (T - S) * w_t + (1 - 2 * T + S) * w),
        (zero, S * (T - S) * w, S * (T - S) * w_s + (T - 2 * S) * w),
    ]
    columns = np.concatenate(
        [np.concatenate([horizon * root * q_t, horizon * root * q_s, root * div]) for q_t, q_s, div in fields], 1
    )
    start = np.concatenate([horizon * root * T, horizon * root * S, root * (source + 2)])[:, 0]
    best = np.linalg.lstsq(columns, -start, rcond=1e-9)[0]
    rest = start + columns @ best
    return _LimitFunctional(float(lower), float(rest @ rest), degree, riesz)
