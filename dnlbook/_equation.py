"""The parts of a Volterra equation as the solvers see them: kernel, forcing, grid, adjoint.

States are flat inside: a state of any shape is a row of ``size`` numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dnlbook import _checks

KernelFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
ForcingFunction = Callable[[Tensor], Tensor]


class ConvergenceError(RuntimeError):
    """The equation is well posed, but the iteration or the refinement did not reach what was asked."""


def checked_grid(t: Any) -> Tensor:
    """Return t when it is a grid: a vector from 0 upwards, strictly increasing, at least two points."""
    grid = _checks.shape("t", t, ("points",)).detach()
    if grid.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"t: expected dtype torch.float32 or torch.float64, received {grid.dtype}")
    if len(grid) < 2:
        raise ValueError(f"t: expected a grid of at least 2 points, received {len(grid)}")
    if grid[0].item() == 0.0 and grid.diff().min().item() > 0.0 and math.isfinite(grid[-1].item()):
        return grid
    _checks.finite("t", grid)
    if grid[0] != 0:
        raise ValueError(f"t: expected a grid that starts at 0, received t[0] = {grid[0].item():g}")
    k = int((grid.diff() <= 0).nonzero()[0])
    raise ValueError(
        "t: expected a strictly increasing grid, "
        f"received t[{k}] = {grid[k].item():g}, t[{k + 1}] = {grid[k + 1].item():g}"
    )


def uniform_step(grid: Tensor, purpose: str) -> float:
    """Return the step of a uniform grid, or raise."""
    step = grid[-1].item() / (len(grid) - 1)
    nodes = torch.arange(len(grid), dtype=grid.dtype, device=grid.device) * step
    slack = 64 * torch.finfo(grid.dtype).eps * grid[-1].item() + 1e-9 * step
    gap = (grid - nodes).abs()
    if gap.max().item() > slack:
        k = int(gap.argmax())
        raise ValueError(
            f"t: expected a uniform grid for {purpose}, received t[{k}] = {grid[k].item():.10g} "
            f"where {nodes[k].item():.10g} is due"
        )
    return step


class Forcing:
    """g as a function of many times, checked; a function is tried on a vector of times first."""

    def __init__(self, forcing: Any, grid: Tensor) -> None:
        self._function: ForcingFunction | None = None
        if isinstance(forcing, Tensor):
            first = forcing
        elif callable(forcing):
            self._function = forcing
            first = forcing(grid[0])
        else:
            raise TypeError(
                f"forcing: expected a tensor or a function of t, received {type(forcing).__name__}"
            )
        name = "forcing" if self._function is None else "forcing(0)"
        _checks.same_kind(name, _checks.tensor(name, first), "t", grid)
        if not math.isfinite(first.detach().sum().item()):
            _checks.finite(name, first)
        self._first = first
        self.state = first.shape
        self._vectorized: bool | None = None

    def __call__(self, times: Tensor) -> Tensor:
        """Return the values at times (m,), shape (m, *state), attached to what g depends on."""
        if self._function is None:
            return self._first.expand(len(times), *self.state)
        # a state whose first axis is as long as the times could hide a transposed result
        if self._vectorized is not False and len(times) > 1 and self.state[:1] != times.shape:
            values = self._together(self._function, times)
            if values is not None:
                return values
        return torch.stack([self._single(self._function, time) for time in times])

    def _together(self, function: ForcingFunction, times: Tensor) -> Tensor | None:
        try:
            values = function(times)
        except Exception:  # a function of one time may fail in any way on many: it is then called on each
            self._vectorized = False
            return None
        fits = (
            isinstance(values, Tensor)
            and values.shape == (len(times), *self.state)
            and values.dtype == times.dtype
        )
        if fits and self._vectorized is None and self.state:
            alone = self._single(function, times[-1])
            fits = torch.allclose(values[-1], alone, rtol=1e-4, atol=1e-6, equal_nan=True)
        self._vectorized = fits
        return values if fits else None

    def _single(self, function: ForcingFunction, time: Tensor) -> Tensor:
        value = function(time)
        if not isinstance(value, Tensor) or value.shape != self.state or value.dtype != self._first.dtype:
            got = (
                f"{tuple(value.shape)} of {value.dtype}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ValueError(
                f"forcing: expected shape {tuple(self.state)} of {self._first.dtype} at t = {time.item():g} "
                f"as at t = 0, received {got}"
            )
        return value


def runaway(x: Tensor) -> Tensor:
    """Return which states (m, size) are so large that a small power of them overflows."""
    large: Tensor = ~(x.abs() < torch.finfo(x.dtype).max ** 0.25).all(1)
    return large


def check_forcing(times: Tensor, values: Tensor) -> None:
    """Raise when the forcing, shape (m, size), is not finite: at which t."""
    good = torch.isfinite(values).all(1)
    if not bool(good.all()):
        k = int((~good).nonzero()[0])
        raise ValueError(
            f"forcing: expected finite values, received nan or inf at t = {times[k].item():.10g}"
        )


class Equation:
    r"""The equation :math:`x(t)=g(t)+\int_0^tk(t,s,x(s))\,ds` with flat states, counted and checked."""

    def __init__(self, kernel: Any, forcing: Any, grid: Tensor) -> None:
        if not callable(kernel):
            raise TypeError(f"kernel: expected a function of (t, s, x), received {type(kernel).__name__}")
        self._kernel: KernelFunction = kernel
        self._forcing = Forcing(forcing, grid)
        self.state = self._forcing.state
        self.size = math.prod(self.state)
        self.like = grid
        self.evaluations = 0
        #: whether a result depended on something that requires grad
        self.tracked = False

    def forcing(self, times: Tensor, *, attached: bool = False) -> Tensor:
        """Return g at many times, shape (m, size)."""
        values = self._forcing(times)
        if values.requires_grad:
            self.tracked = True
            if not attached:
                values = values.detach()
        return values.reshape(len(times), self.size)

    def kernel(self, t: Tensor, s: Tensor, x: Tensor, *, attached: bool = False) -> Tensor:
        """Return k at m sources, shapes (m,) or scalar, (m,), (m, size) -> (m, size)."""
        sources = len(s)
        values = self._kernel(t, s, x.reshape(sources, *self.state))
        if (
            not isinstance(values, Tensor)
            or values.shape != (sources, *self.state)
            or values.dtype != x.dtype
        ):
            got = (
                f"{tuple(values.shape)} of {values.dtype}"
                if isinstance(values, Tensor)
                else type(values).__name__
            )
            raise ValueError(
                f"kernel: expected shape {(sources, *self.state)} of {x.dtype} for s of shape ({sources},) "
                f"and x of shape {(sources, *self.state)}, received {got}"
            )
        self.evaluations += sources
        if values.requires_grad and not attached:
            self.tracked = True
            values = values.detach()
        return values.reshape(sources, self.size)

    def blame(self, t: Tensor, s: Tensor, x: Tensor, values: Tensor) -> None:
        """Raise when the kernel is not finite: at which t and s, for which x.

        States so large that a small power of them overflows are not held against the kernel.
        """
        good = torch.isfinite(values).all(1) | runaway(x)
        if not bool(good.all()):
            k = int((~good).nonzero()[0])
            entry = values[k][~torch.isfinite(values[k])][0].item()
            time = (t if t.ndim == 0 else t[k]).item()
            state = f"{x[k].item():g}" if self.size == 1 else f"a state of norm {x[k].norm().item():g}"
            raise ValueError(
                f"kernel: expected finite values, received {entry} at t = {time:.10g}, "
                f"s = {s[k].item():.10g} for x = {state}"
            )


class _Once(torch.autograd.Function):
    """The first argument, with an error where a derivative through the second would be."""

    @staticmethod
    def forward(ctx: Any, cotangent: Tensor, origin: Tensor) -> Tensor:
        return cotangent.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        raise RuntimeError("second derivatives of the solution of a Volterra equation are not available")


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(value)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        with torch.no_grad():
            solved: Tensor = ctx.solve(cotangents[0])
        if torch.is_grad_enabled():  # somebody may differentiate again, and the solve is no part of the graph
            solved = _Once.apply(solved, ctx.saved_tensors[0])  # type: ignore[no-untyped-call]
        return solved, None


def implicit(value: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Return value, so that a cotangent :math:`\bar x` passes through it as :math:`(I-J^\top)^{-1}\bar x`.

    With :math:`x=\Phi(x,\theta)` solved, value :math:`=\Phi(x,\theta)` evaluated once at a constant x and
    :math:`J=\partial_x\Phi`, the gradient in :math:`\theta` becomes that of the implicit function theorem.
    """
    result: Tensor = _Implicit.apply(value, solve)  # type: ignore[no-untyped-call]
    return result


def fixed_point(
    step: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    rtol: float,
    atol: float,
    scale: float,
    max_iterations: int,
    where: str,
) -> tuple[Tensor, float]:
    """Iterate y = step(y) until the change is at most atol + rtol max(|y|, scale); return both."""
    before = ratio = 0.0
    for _ in range(max_iterations):
        following = step(y)
        change = (following - y).abs().max().item()
        y = following
        ratio, before = (change / before if before else 0.0), change
        if not math.isfinite(change):
            break
        if change <= atol + rtol * max(scale, y.abs().max().item()):
            return y, change
    problem = (
        "does not contract"
        if not ratio < 1
        else f"contracts too slowly for max_iterations = {max_iterations}"
    )
    raise ConvergenceError(
        f"method: the implicit last term of {where} {problem}: its last iteration changed it by {ratio:.2g} "
        "times the change before, which is about the step times the rule's last weight times the Lipschitz "
        "constant of the kernel, expected well below 1; take a finer grid, method='rectangle', or collocation"
    )


class Pullback:
    r"""The map :math:`q\mapsto J^\top q` of a function at a point, for as many q as needed."""

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor) -> None:
        with torch.enable_grad():
            self._point = point.detach().requires_grad_()
            self._value = function(self._point)

    def __call__(self, cotangent: Tensor) -> Tensor:
        if not self._value.requires_grad:
            return torch.zeros_like(self._point)
        (slope,) = torch.autograd.grad(
            self._value, self._point, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return slope


def interpolate(t: Tensor, x: Tensor, degree: int, times: Tensor) -> Tensor:
    """Return the piecewise Lagrange interpolant of x (N + 1, size) on the grid t at times (m,)."""
    degree = min(degree, len(t) - 1)
    cell = torch.searchsorted(t, times, right=True) - 1
    first = (cell - degree // 2).clamp(0, len(t) - 1 - degree)
    stencil = first[:, None] + torch.arange(degree + 1, device=t.device)
    nodes = t[stencil]
    gaps = nodes[:, :, None] - nodes[:, None, :] + torch.eye(degree + 1, dtype=t.dtype, device=t.device)
    reach = (times[:, None] - nodes)[:, None, :].expand(-1, degree + 1, -1)
    own = torch.eye(degree + 1, dtype=torch.bool, device=t.device)
    weights = torch.where(own, 1.0, reach / gaps).prod(2)
    return (weights[:, :, None] * x[stencil]).sum(1)
