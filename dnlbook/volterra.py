r"""The continuous problem: nonlinear Volterra integral equations of the second kind,

.. math:: x(t)=g(t)+\int_0^tk(t,s,x(s))\,ds,\qquad 0\le t\le T .

A dense non-local network is the rectangle rule for this equation; collocation solves the equation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook._collocation import Control, attach, collocate
from dnlbook._equation import (
    ConvergenceError,
    Equation,
    Forcing,
    ForcingFunction,
    KernelFunction,
    check_forcing,
    checked_grid,
    interpolate,
    uniform_step,
)
from dnlbook._online import ConvolutionSolver
from dnlbook._panels import Panel
from dnlbook._rules import RuleSolver
from dnlbook.quadrature import RULES

__all__ = ["ConvergenceError", "VIESolution", "solve_convolution_vie", "solve_vie"]

METHODS = ("collocation", *RULES)
_DEGREES = (2, 256)


@dataclass(frozen=True, eq=False)
class VIESolution:
    r"""The solution of a Volterra equation at the times of a grid, and at any time between.

    Called with times in [0, T], of any shape, it returns the states there, shape
    ``(*times.shape, *state)``: the polynomials of the collocation panels, or, for the networks' rules, the
    piecewise interpolant that keeps the order of the rule.
    Source: chapter *The deep-layer limit is a Volterra equation*.

    Attributes
    ----------
    t : Tensor, shape ``(N + 1,)``
        The grid.
    x : Tensor, shape ``(N + 1, *state)``
        The states, differentiable in what the kernel and the forcing depend on.
    residual : float
        Collocation: the largest defect of the equation at the check points between the nodes.
        Rules: the largest defect of the rule's own equations, 0 for the explicit one.
    evaluations : int
        How many values of the kernel were computed for the solution, one per (t, s).

    Examples
    --------
    >>> t = torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> solution = solve_vie(lambda t, s, x: x, torch.ones((), dtype=torch.float64), t)
    >>> f"{solution(0.25).item():.8f}"
    '1.28402542'
    """

    t: Tensor
    x: Tensor
    residual: float
    evaluations: int
    _dense: Callable[[Tensor], Tensor] = field(repr=False)

    def __call__(self, times: Tensor | float) -> Tensor:
        """Return the states at times in [0, T]; the result is differentiable like x, not in the times."""
        array = torch.as_tensor(times, dtype=self.t.dtype, device=self.t.device).detach()
        end = self.t[-1].item()
        if not bool(((array >= 0) & (array <= end)).all()):
            outside = array[~((array >= 0) & (array <= end))][0].item()
            raise ValueError(f"times: expected times in [0, {end:g}], received {outside:g}")
        return self._dense(array.reshape(-1)).reshape((*array.shape, *self.x.shape[1:]))


def _on_panels(panels: list[Panel], times: Tensor) -> Tensor:
    if len(panels) == 1:
        return panels[0].at(times)
    starts = torch.tensor([panel.start for panel in panels[1:]], dtype=times.dtype, device=times.device)
    places = torch.searchsorted(starts, times, right=True)
    order = torch.argsort(places, stable=True)
    counts = torch.bincount(places, minlength=len(panels)).tolist()
    parts = zip(panels, torch.split(times[order], counts), strict=True)
    values = torch.cat([panel.at(part) for panel, part in parts if len(part)])
    return values[torch.argsort(order)]


def _tolerances(
    rtol: float | None, atol: float | None, method: str, dtype: torch.dtype
) -> tuple[float, float]:
    eps = torch.finfo(dtype).eps
    if method != "collocation":
        return (
            0.0 if rtol is None else _checks.positive_float("rtol", rtol),
            0.0 if atol is None else _checks.nonnegative_float("atol", atol),
        )
    relative = (
        (1e-8 if dtype == torch.float64 else 1e3 * eps)
        if rtol is None
        else _checks.positive_float("rtol", rtol)
    )
    if relative < 100 * eps:
        raise ValueError(f"rtol: expected at least {100 * eps:.1e} in {dtype}, received {rtol!r}")
    absolute = 0.01 * relative if atol is None else _checks.nonnegative_float("atol", atol)
    return relative, absolute


def _nothing(times: Tensor) -> Tensor:
    """The dense output of a state without components."""
    return times.new_empty(0)


def _by_rule(
    equation: Equation, grid: Tensor, rule: str, rtol: float, atol: float, max_iterations: int
) -> VIESolution:
    solver = RuleSolver(equation, grid, rule, rtol, atol, max_iterations)
    x = solver.solve()
    evaluations = equation.evaluations
    if equation.tracked and torch.is_grad_enabled():
        x = solver.attach(x)
    degree = 3 if rule == "gregory" else 1
    return VIESolution(
        grid,
        x.reshape(len(grid), *equation.state),
        solver.residual,
        evaluations,
        lambda times: interpolate(grid, x, degree, times),
    )


def _by_collocation(equation: Equation, grid: Tensor, edges: list[float], control: Control) -> VIESolution:
    march = collocate(equation, edges, control)
    evaluations = equation.evaluations
    panels = march.history.panels
    if equation.tracked and torch.is_grad_enabled():
        panels = attach(march)
    x = _on_panels(panels, grid).reshape(len(grid), *equation.state)
    residual = max(part.attempt.defect for part in march.finished)
    return VIESolution(grid, x, residual, evaluations, lambda times: _on_panels(panels, times))


def _edges(breaks: Iterable[float], end: float) -> list[float]:
    inner = sorted({_checks.finite_float("breaks", value) for value in breaks})
    for value in inner:
        if not 0 < value < end:
            raise ValueError(f"breaks: expected times inside (0, {end:g}), received {value!r}")
    return [0.0, *inner, end]


def solve_vie(
    kernel: KernelFunction,
    forcing: Tensor | ForcingFunction,
    t: Tensor,
    *,
    method: str = "collocation",
    rtol: float | None = None,
    atol: float | None = None,
    max_iterations: int = 60,
    degree: int | None = None,
    breaks: Iterable[float] = (),
    max_evaluations: int = 5 * 10**7,
) -> VIESolution:
    r"""Solve :math:`x(t)=g(t)+\int_0^tk(t,s,x(s))\,ds` on [0, T].

    ``"collocation"`` finds, on panels of [0, T], the polynomials that satisfy the equation at
    Chebyshev-Lobatto nodes; integrals are Gauss rules on [0, t], so that the kernel is never evaluated at
    s > t.  Each panel is solved by Picard sweeps, or by Newton's method when the state is small or Picard is
    slow.  Between the nodes the defect of the equation is measured at check points, with other quadrature
    nodes for the past; degree and panels are refined until the defect, and the error that it causes through
    the linearized equation, are at most atol + rtol max|x|, the maximum taken over time and components.
    ``"rectangle"`` (explicit), ``"trapezoid"`` and ``"gregory"`` (implicit in the last term, by fixed-point
    iteration) are the networks' own rules on the grid t, of order 1, 2 and 4; Gregory's rule is of order 3 in
    the maximum norm because of its first step.
    Source: chapters *The deep-layer limit is a Volterra equation* and *Memory costs less than its triangle*;
    H. Brunner, Collocation Methods for Volterra Integral and Related Functional Equations.

    The orders are those of smooth kernels.  A kernel that is only Hölder continuous of exponent
    :math:`\beta` in s costs the rules their order (:math:`\tau^\beta` for the rectangle rule), and
    collocation of degree N converges like :math:`N^{-1-\beta}` for a fixed :math:`|s-a|^\beta` inside a
    panel and like :math:`N^{-2(1+\beta)}` for :math:`(t-s)^\beta`.  A kink at a known place belongs into
    breaks, which restores the rate of smooth kernels; a kink at s = t - a does not stay in place and is
    not helped by breaks.

    Parameters
    ----------
    kernel : callable ``(t, s, x) -> Tensor``
        Vectorized over sources: s of shape ``(m,)``, x of shape ``(m, *state)``, t a scalar tensor or of
        shape ``(m,)``; returns shape ``(m, *state)``.  Only called with s <= t.
    forcing : Tensor of shape ``state``, or callable ``t -> state``
        g; a scalar state has shape ``()``.  A callable is tried on a vector of times, and called once per
        time if that fails.  Sets the dtype, which must be that of t.
    t : Tensor, shape ``(N + 1,)``
        Strictly increasing from 0.  For the rules this is the grid itself, uniform for ``"gregory"``; for
        collocation only the times at which x is returned.
    method : str
        ``"collocation"``, ``"rectangle"``, ``"trapezoid"`` or ``"gregory"``.
    rtol, atol : float, optional
        Collocation: tolerances of the estimated error, by default 1e-8 in float64 (1.2e-4 in float32) and a
        hundredth of rtol.  Implicit rules: the change at which the fixed-point iteration stops, by default
        the rounding level.
    max_iterations : int
        Sweeps per panel, or fixed-point iterations per step.
    degree : int, optional
        Collocation of exactly this degree on exactly the panels between the breaks, solved up to rounding,
        instead of a refinement to rtol and atol.
    breaks : iterable of float
        Times inside (0, T) at which panels must end: known kinks of the kernel in s, or of the forcing.
    max_evaluations : int
        How many values of the kernel refinement may compute before it gives up.

    Returns
    -------
    VIESolution
        With gradients in everything the kernel and the forcing depend on, by the implicit function theorem:
        memory does not grow with the number of sweeps.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the kernel returns another shape or dtype than x has, or kernel or
        forcing return nan or inf (the message says at which t and s).
    ConvergenceError
        If a fixed point does not contract, the tolerances are not reached with max_evaluations, they are
        below the rounding errors, or the solution blows up; the message says which.
    RuntimeError
        If a gradient is differentiated again.

    Examples
    --------
    The solution of :math:`x(t)=1+9\int_0^t(t-s)\,x(s)\,ds` is :math:`\cosh3t`:

    >>> t = torch.linspace(0, 1, 5, dtype=torch.float64)
    >>> one = torch.ones((), dtype=torch.float64)
    >>> solution = solve_vie(lambda t, s, x: 9 * (t - s) * x, one, t)
    >>> bool((solution.x - torch.cosh(3 * t)).abs().max() < 1e-8)
    True
    >>> network = solve_vie(lambda t, s, x: 9 * (t - s) * x, one, t, method="trapezoid")
    >>> f"{network.x[-1].item():.3f} {torch.cosh(3 * t)[-1].item():.3f}"
    '9.426 10.068'
    """
    name = _checks.choice("method", method, METHODS)
    grid = checked_grid(t)
    iterations = _checks.positive_int("max_iterations", max_iterations)
    relative, absolute = _tolerances(rtol, atol, name, grid.dtype)
    edges = _edges(breaks, grid[-1].item())
    equation = Equation(kernel, forcing, grid)
    if not equation.size:
        return VIESolution(grid, equation.forcing(grid).reshape(len(grid), *equation.state), 0.0, 0, _nothing)
    if name != "collocation":
        if degree is not None or len(edges) > 2:
            raise ValueError(
                f"degree, breaks: expected only with method='collocation', received them with {name!r}"
            )
        if name == "gregory":
            uniform_step(grid, "method='gregory'")
        return _by_rule(equation, grid, name, relative, absolute, iterations)
    if degree is not None:
        if rtol is not None or atol is not None:
            raise ValueError(
                "degree: fixes the discretization, so that rtol and atol have no effect: expected not both"
            )
        if not _DEGREES[0] <= _checks.positive_int("degree", degree) <= _DEGREES[1]:
            raise ValueError(
                f"degree: expected an int from {_DEGREES[0]} to {_DEGREES[1]}, received {degree!r}"
            )
        relative = absolute = 0.0
    control = Control(
        relative, absolute, iterations, _checks.positive_int("max_evaluations", max_evaluations), degree
    )
    return _by_collocation(equation, grid, edges, control)


def _lag_weights(kernel: Tensor | Callable[[Tensor], Tensor], grid: Tensor, method: str) -> Tensor:
    """Return the kernel at all lags; the rectangle rule does not use lag 0, where it is set to 0."""
    lags = grid[1:] if method == "rectangle" else grid
    if isinstance(kernel, Tensor):
        values = _checks.shape("kernel", kernel, (len(grid),))[len(grid) - len(lags) :]
    elif callable(kernel):
        values = _checks.shape(f"kernel(lags) for {len(lags)} lags", kernel(lags), (len(lags),))
    else:
        raise TypeError(
            f"kernel: expected a tensor or a function of the lag, received {type(kernel).__name__}"
        )
    _checks.same_kind("kernel", values, "t", grid)
    if not bool(torch.isfinite(values).all()):
        k = int((~torch.isfinite(values)).nonzero()[0])
        raise ValueError(
            f"kernel: expected finite values, received {values[k].item()} at lag {lags[k].item():g}"
            + ("; method='rectangle' does not use lag 0" if lags[k] == 0 else "")
        )
    return values if method != "rectangle" else torch.cat([values.new_zeros(1), values])


def solve_convolution_vie(
    kernel: Tensor | Callable[[Tensor], Tensor],
    nonlinearity: Callable[[Tensor], Tensor],
    forcing: Tensor | ForcingFunction,
    t: Tensor,
    *,
    method: str = "rectangle",
    max_iterations: int = 60,
) -> VIESolution:
    r"""Solve :math:`x(t)=g(t)+\int_0^t\kappa(t-s)\,f(x(s))\,ds` by a network's rule in :math:`O(N\log^2N)`.

    The result is that of the rule on the grid,

    .. math:: x_l=g_l+\tau\sum_{k\le l}w_{lk}\,\kappa(t_l-t_k)\,f(x_k),

    up to rounding: blocks of steps are solved by sweeps with a small Toeplitz matrix, the memory of earlier
    blocks is added by FFTs as soon as it is complete.
    Source: E. Hairer, C. Lubich, M. Schlichte, Fast numerical solution of nonlinear Volterra convolution
    equations, SIAM J. Sci. Stat. Comput. 6 (1985); chapter *Memory costs less than its triangle*.

    Parameters
    ----------
    kernel : callable ``lags (m,) -> (m,)``, or Tensor of shape ``(N + 1,)``
        :math:`\kappa`, or its values at the lags :math:`0,\tau,\dots,T`.  ``"rectangle"`` does not use lag 0,
        where the kernel may be singular.
    nonlinearity : callable ``(m, *state) -> (m, *state)``
        f, applied to the states of many times at once.
    forcing, t
        As for :func:`solve_vie`; the grid must be uniform.
    method : str
        ``"rectangle"`` (explicit) or ``"trapezoid"`` (implicit in the last term).
    max_iterations : int
        Fixed-point iterations of the implicit last term, where a block has to be solved step by step.

    Returns
    -------
    VIESolution
        evaluations counts values of the nonlinearity.  Gradients in everything that kernel, nonlinearity
        and forcing depend on, by the implicit function theorem: the adjoint is the same equation in reversed
        time.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or kernel, nonlinearity or forcing return a wrong shape, nan or inf.
    ConvergenceError
        If the implicit last term does not contract, or the states leave the range of the dtype.
    RuntimeError
        If a gradient is differentiated again.

    Examples
    --------
    >>> t = torch.linspace(0, 10, 10001, dtype=torch.float64)
    >>> one = torch.ones((), dtype=torch.float64)
    >>> solution = solve_convolution_vie(lambda lag: -lag, lambda x: x, one, t, method="trapezoid")
    >>> bool((solution.x - torch.cos(t)).abs().max() < 1e-6)
    True
    """
    name = _checks.choice("method", method, ("rectangle", "trapezoid"))
    grid = checked_grid(t)
    step = uniform_step(grid, "the convolution")
    iterations = _checks.positive_int("max_iterations", max_iterations)
    if not callable(nonlinearity):
        raise TypeError(f"nonlinearity: expected a function of x, received {type(nonlinearity).__name__}")
    weights = step * _lag_weights(kernel, grid, name)
    values = Forcing(forcing, grid)
    g = values(grid)
    shape = (len(grid), *values.state)
    if not g.numel():
        return VIESolution(grid, g, 0.0, 0, _nothing)
    g = g.reshape(len(grid), -1)
    check_forcing(grid, g)
    first = 1.0
    if name == "trapezoid":
        first, weights = 0.5, torch.cat([0.5 * weights[:1], weights[1:]])
    solver = ConvolutionSolver(weights, first, nonlinearity, values.state, grid, iterations)
    x = solver.solve(g.detach())
    evaluations = solver.evaluations
    if (solver.tracked or g.requires_grad) and torch.is_grad_enabled():
        x = solver.attach(x, g)
    return VIESolution(
        grid, x.reshape(shape), solver.residual, evaluations, lambda times: interpolate(grid, x, 1, times)
    )
