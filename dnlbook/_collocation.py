r"""Collocation for Volterra equations: a march over panels, refined until the defect is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dnlbook._equation import ConvergenceError, Equation, Pullback, check_forcing, implicit
from dnlbook._panels import History, Panel, check_sampler, tables

FIRST_DEGREE, LAST_DEGREE = 16, 128
#: unknowns of a panel up to which Newton's method may form its matrix
_NEWTON_UNKNOWNS = 1100
#: state sizes for which Newton's method is cheaper than Picard sweeps even when nothing is stiff
_NEWTON_FIRST = 4
#: numbers that a panel may sample at a time while Newton's method or a higher degree is considered
_SAMPLES = 1 << 22
#: panels shorter than this share of the interval are not tried
_SHORTEST = 1e-10
#: share of the tolerance that the iteration may leave
_ITERATION = 0.01
#: how often the whole march may be repeated with a smaller allowance, and the margin it then aims for
_MARCHES, _MARGIN = 4, 0.3
#: sweeps for the equation of the error, which needs no accuracy, and for the adjoint, which does
_ERROR_SWEEPS, _ADJOINT_SWEEPS = 30, 200


@lru_cache(maxsize=32)
def identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.eye(size, dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _shifts(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return no shift, and then a unit shift of each component, shape (size + 1, 1, size)."""
    unit = identity(size, dtype, device)
    return torch.cat([torch.zeros_like(unit[:1]), unit])[:, None]


def inverse_of(matrix: Tensor) -> Tensor | None:
    """Return the inverse of a small matrix, None for a singular one."""
    try:
        inverse = np.linalg.inv(matrix.cpu().numpy())
    except np.linalg.LinAlgError:
        return None
    return torch.from_numpy(inverse).to(matrix.device)


@dataclass
class Attempt:
    """What became of a panel: nodal values, defects at the check points, and by how much defects grow."""

    values: Tensor
    checks: Tensor
    amplification: float = math.nan
    inverse: Tensor | None = None
    #: size of the terms that cancel in the defect
    terms: float = math.nan
    #: why there is no solution, empty if there is one
    cause: str = ""

    @property
    def defect(self) -> float:
        return self.checks.abs().max().item()


class PanelSolver:
    """Newton's method or Picard sweeps for the polynomial of one degree on one panel."""

    def __init__(self, equation: Equation, start: float, end: float, degree: int) -> None:
        self.equation = equation
        self.start, self.end, self.degree = start, end, degree
        self.length = end - start
        self.tables = tables(degree, equation.like)
        self.times = self._place(self.tables.times)
        self.t, self.s = self._place(self.tables.t), self._place(self.tables.s)

    def _place(self, relative: Tensor) -> Tensor:
        scaled = relative * self.length
        return scaled.add_(self.start).clamp_(max=self.end) if self.start else scaled

    @property
    def newton_fits(self) -> bool:
        """Whether Newton's matrix and its difference quotients fit in memory."""
        d, m = self.equation.size, self.degree * (self.degree + 1)
        return self.degree * d <= _NEWTON_UNKNOWNS and m * d * (d + 1) <= _SAMPLES

    def kernel(self, x: Tensor, *, attached: bool = False) -> Tensor:
        """Return the kernel at the first quadrature points, given the states x there."""
        return self.equation.kernel(self.t[: x.shape[0]], self.s[: x.shape[0]], x, attached=attached)

    def integral(self, values: Tensor) -> Tensor:
        """Return the integral from the panel's start to each row, from the kernel's values."""
        table, cut, n, d = self.tables, self.tables.node_points, self.degree, self.equation.size
        sums = torch.matmul(table.gauss, values[:cut].view(n, -1, d))
        if values.shape[0] == cut:
            return sums * (table.lengths[:n] * self.length)
        checks = torch.matmul(table.check_gauss, values[cut:].view(n, -1, d))
        return torch.cat([sums, checks]) * (table.lengths * self.length)

    def matrix(self, slopes: Tensor) -> Tensor:
        """Return I - J for the nodes after the first, from the kernel's slopes (in, m, out)."""
        n, d = self.degree, self.equation.size
        columns = slopes.view(d, n, -1, d).permute(1, 2, 0, 3).reshape(n, -1, d * d)
        inner = torch.bmm(self.tables.integral, columns).view(n, n + 1, d, d)  # (node, node, in, out)
        jacobian = inner[:, 1:].permute(0, 3, 1, 2).reshape(n * d, n * d)
        return identity(n * d, slopes.dtype, slopes.device) - self.length * jacobian

    def with_slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernel (m, size) and its difference quotients (in, m, out), in one call."""
        d, m = self.equation.size, x.shape[0]
        step = math.sqrt(torch.finfo(x.dtype).eps) * (x.abs().max().item() or 1.0)
        shifted = x + step * _shifts(d, x.dtype, x.device)
        t, s = (times[:m].expand(d + 1, m).reshape(-1) for times in (self.t, self.s))
        values = self.equation.kernel(t, s, shifted.view(-1, d)).view(d + 1, m, d)
        return values[0], (values[1:] - values[0]) / step

    def solve(
        self, forcing: Tensor, guess: Tensor, *, rtol: float, atol: float, scale: float, max_iterations: int
    ) -> Attempt:
        """Solve x = forcing + integral at the nodes, forcing (2N + 1, size), from the guess (N + 1, size)."""
        n, eps = self.degree, torch.finfo(forcing.dtype).eps
        newton = self.equation.size <= _NEWTON_FIRST and self.newton_fits
        checking, inverse, growth = newton, None, 1.0
        x = guess.clone()
        x[0] = forcing[0]
        sizes: list[float] = []
        while len(sizes) <= max_iterations:
            fresh = newton and inverse is None
            rows = 2 * n if checking and not fresh else n
            samples = (self.tables.sample if rows > n else self.tables.sample[: self.tables.node_points]) @ x
            if fresh:
                values, slopes = self.with_slopes(samples)
                inverse = inverse_of(self.matrix(slopes))
                growth = math.nan if inverse is None else inverse.abs().sum(1).max().item()
            else:
                values = self.kernel(samples)
            defect = forcing[1 : rows + 1] + self.integral(values) - self.tables.rows[:rows] @ x
            size = defect[:n].abs().max().item()
            if not math.isfinite(size + growth):
                return self._failed(x, self._overflow(forcing, samples))
            sizes.append(size)
            level = max(scale, x.abs().max().item())
            settled = size <= max(_ITERATION * (atol + rtol * level), 16 * eps * level)
            if not settled and len(sizes) > 1 and size > 0.5 * sizes[-2]:
                settled = size <= 1e3 * eps * (level + self._terms(forcing, values))
            if settled and rows == 2 * n:
                growth = growth if newton else sum(sizes) / (sizes[0] or 1.0)
                return Attempt(x, defect[n:], growth, inverse, self._terms(forcing, values))
            if not settled and not fresh and len(sizes) > 1:
                slow = size > 0.25 * sizes[-2] if newton else len(sizes) > 4 and size > 0.5 * sizes[-2]
                if slow and self.newton_fits:  # take the Jacobian here, or where the sweeps began
                    x = x if newton or size < sizes[0] else guess.clone()
                    newton, checking, inverse = True, True, None
                    continue
                if size > 1e6 * sizes[0]:
                    break
            checking = checking or settled
            step = defect[:n]
            x[1:] += step if inverse is None else (inverse @ step.reshape(-1)).view(step.shape)
        name = "Newton's" if newton else "Picard's"
        return self._failed(
            x, f"{name} iteration leaves a defect of {sizes[-1]:.1e} after {len(sizes)} sweeps"
        )

    def _terms(self, forcing: Tensor, values: Tensor) -> float:
        return forcing.abs().max().item() + self.length * values.abs().max().item()

    def _failed(self, x: Tensor, cause: str) -> Attempt:
        return Attempt(x, torch.full_like(x[1:], math.inf), cause=cause)

    def _overflow(self, forcing: Tensor, samples: Tensor) -> str:
        """Raise when forcing or kernel are to blame, return the cause when the iteration is."""
        check_forcing(self.times, forcing)
        still = forcing[:1].expand(len(samples), -1)
        self.equation.blame(self.t[: len(samples)], self.s[: len(samples)], still, self.kernel(still))
        return "the iteration leaves the range where the kernel is finite"


@dataclass
class Finished:
    """An accepted panel with what the error estimate needs."""

    panel: Panel
    solver: PanelSolver
    history: Tensor | None  # (2N + 1, size): the integral over earlier panels at the solver's times
    known: Tensor  # (2N + 1, size): the same plus the forcing
    attempt: Attempt


@dataclass(frozen=True)
class Control:
    """What the user asks of the iteration and of the refinement; a degree of None means automatic."""

    rtol: float
    atol: float
    max_iterations: int
    max_evaluations: int
    degree: int | None = None

    def allowed(self, level: float) -> float:
        return self.atol + self.rtol * level


class March:
    """One pass over the interval: panels from left to right, each refined until its defect is allowed."""

    def __init__(
        self, equation: Equation, edges: Sequence[float], control: Control, share: float = 1.0
    ) -> None:
        self.equation, self.control, self.share = equation, control, share
        self.history = History(equation)
        self.finished: list[Finished] = []
        self.scale = 0.0
        self._shortest = _SHORTEST * edges[-1]
        pending = list(pairwise(edges))[::-1]
        while pending:
            start, end = pending.pop()
            done = self._panel(start, end)
            if isinstance(done, Finished):
                self.finished.append(done)
                self.history.push(done.panel)
                self.scale = max(self.scale, done.panel.values.abs().max().item())
            else:
                self._may_split(start, end, done)
                middle = (start + end) / 2
                pending += [(middle, end), (start, middle)]

    def _may_split(self, start: float, end: float, cause: str) -> None:
        control = self.control
        if control.degree is not None:
            raise ConvergenceError(
                f"degree: {control.degree} on the panel [{start:g}, {end:g}] does not converge ({cause}); "
                "try shorter panels through breaks, more max_iterations, or leave degree out"
            )
        if end - start < self._shortest:
            raise ConvergenceError(
                f"kernel: no panel is short enough at t = {start:.6g} ({cause}); the solution may blow up "
                "there, or the kernel may be unbounded or discontinuous in x"
            )
        if self.equation.evaluations > control.max_evaluations:
            raise ConvergenceError(
                f"rtol, atol: {control.rtol:g}, {control.atol:g} need more than max_evaluations = "
                f"{control.max_evaluations} values of the kernel, the march stopped at t = {start:.6g} after "
                f"{len(self.finished)} panels ({cause}); pass known kinks as breaks, loosen the tolerances, "
                "raise max_evaluations, or ask for a fixed degree: for a kernel that is only Hoelder "
                "continuous the error decreases slowly"
            )

    def _panel(self, start: float, end: float) -> Finished | str:
        """Return the finished panel, or why it should be split."""
        control, equation = self.control, self.equation
        degree = control.degree or FIRST_DEGREE
        guess: Tensor | None = None
        before, gap = math.nan, math.inf
        while True:
            solver = PanelSolver(equation, start, end, degree)
            forcing, history = equation.forcing(solver.times), self._history(solver)
            known = forcing if history is None else forcing + history
            attempt = solver.solve(
                known,
                known[: degree + 1] if guess is None else guess,
                rtol=self.share * control.rtol,
                atol=self.share * control.atol,
                scale=self.scale,
                max_iterations=control.max_iterations,
            )
            if attempt.cause:
                return attempt.cause
            defect, level = attempt.defect, max(self.scale, attempt.values.abs().max().item())
            allowed = self.share * control.allowed(level)
            if control.degree is not None or defect <= allowed:
                return Finished(Panel(start, end, attempt.values), solver, history, known, attempt)
            if history is not None and self.history.may_refine:
                gap, gap_before = self._history_gap(solver, history), gap
                if gap > 0.25 * defect and gap < 0.6 * gap_before:
                    self.history.refine()
                    continue
            cause = f"the defect is {defect:.1e} where {allowed:.1e} is allowed"
            if self.share < 1:
                cause += f", {self.share:.0e} of the tolerance because the equation amplifies defects"
            if defect < 50 * torch.finfo(known.dtype).eps * attempt.terms:
                raise ConvergenceError(
                    f"rtol, atol: {control.rtol:g}, {control.atol:g} are below the rounding errors at "
                    f"t = {start:.6g}, where terms of size {attempt.terms:.1e} cancel ({cause}); loosen them"
                )
            if not self._degree_helps(degree, defect, before, allowed, level):
                return cause
            finer = tables(2 * degree, equation.like).times[: 2 * degree + 1]
            guess = Panel(0.0, 1.0, attempt.values).at(finer)
            degree, before, gap = 2 * degree, defect, math.inf

    def _history(self, solver: PanelSolver) -> Tensor | None:
        """Return the integral over earlier panels, by one family of sources at nodes, the other at checks."""
        if not self.history.panels:
            return None
        nodes, checks = solver.times[: solver.degree + 1], solver.times[solver.degree + 1 :]
        return torch.cat([self.history.integral(nodes, 0), self.history.integral(checks, 1)])

    def _history_gap(self, solver: PanelSolver, history: Tensor) -> float:
        """Return by how much the two families of sources disagree at the check points."""
        checks = solver.times[solver.degree + 1 :]
        return (self.history.integral(checks, 0) - history[solver.degree + 1 :]).abs().max().item()

    def _degree_helps(self, degree: int, defect: float, before: float, allowed: float, level: float) -> bool:
        """Predict the defect of higher degrees: by a geometric rate at first, by the observed order then."""
        if 4 * degree * (2 * degree + 1) * self.equation.size > _SAMPLES:
            return False
        if math.isnan(before):
            return defect * defect <= allowed * level
        doublings = int(math.log2(LAST_DEGREE / degree))
        return doublings > 0 and defect * (defect / before) ** doublings <= allowed


def error_estimate(equation: Equation, march: March) -> float:
    r"""Return the estimated error of a march: its defects, carried through the equation.

    The error solves :math:`e=r+\Phi(x+e)-\Phi(x)`.  On each panel e is a polynomial of degree 2N: the
    defect r at the check points, which oscillates, plus what the integral makes of it, y, at the nodes.
    """
    history = History(equation, level=march.history.level)
    worst = 0.0
    for part in march.finished:
        solver, x, checks = part.solver, part.panel.values, part.attempt.checks
        n, table = solver.degree, solver.tables
        m = table.node_points
        carried = history.integral(solver.times[: n + 1])
        if part.history is not None:
            carried -= part.history[: n + 1]
        bumps = check_sampler(n, equation.like)[:m] @ checks
        y = carried.clone()
        for _ in range(_ERROR_SWEEPS):
            values = solver.kernel(table.sample[:m] @ (x + y) + bumps)
            change = carried[1:] + part.known[1 : n + 1] + solver.integral(values) - x[1:] - y[1:]
            if part.attempt.inverse is not None:
                change = (part.attempt.inverse @ change.reshape(-1)).view(change.shape)
            y[1:] += change
            error = torch.cat([y, table.rows[n:] @ y + checks])
            size = error.abs().max().item()
            if not change.abs().max().item() > 0.05 * size:
                break
        worst = max(worst, size if math.isfinite(size) else math.inf)
        corrected = torch.empty(2 * n + 1, equation.size, dtype=x.dtype, device=x.device)
        corrected[0::2], corrected[1::2] = x + y, table.rows[n:] @ (x + y) + checks
        history.push(Panel(part.panel.start, part.panel.end, corrected))
    return worst


def collocate(equation: Equation, edges: Sequence[float], control: Control) -> March:
    """March until the estimated error, not only the defect, is allowed."""
    march = March(equation, edges, control)
    if control.degree is not None:
        return march
    for _ in range(_MARCHES):
        allowed = control.allowed(march.scale)
        (first, *others) = march.finished
        if not others and first.attempt.amplification * first.attempt.defect <= allowed:
            return march
        error = error_estimate(equation, march)
        if error <= allowed:
            return march
        march = March(equation, edges, control, march.share * max(_MARGIN * allowed / error, 1e-6))
    raise ConvergenceError(
        f"rtol, atol: {control.rtol:g}, {control.atol:g} are not reached: the estimated error is {error:.1e} "
        f"where {allowed:.1e} is allowed, although the largest defect is "
        f"{max(part.attempt.defect for part in march.finished):.1e}: the equation amplifies defects; loosen "
        "the tolerances or shorten the interval"
    )


def attach(march: March) -> list[Panel]:
    """Return the panels of a march as functions of what the kernel and the forcing depend on."""
    equation = march.equation
    history = History(equation, level=march.history.level, attached=True)
    for part in march.finished:
        solver, x = part.solver, part.panel.values
        nodes = solver.times[: solver.degree + 1]
        samples = solver.tables.sample[: solver.tables.node_points] @ x
        known = equation.forcing(nodes, attached=True) + history.integral(nodes)
        inner = solver.integral(solver.kernel(samples, attached=True))
        values = implicit(torch.cat([known[:1], known[1:] + inner]), adjoint(solver, x))
        history.push(Panel(part.panel.start, part.panel.end, values))
    return history.panels


def adjoint(solver: PanelSolver, x: Tensor) -> Callable[[Tensor], Tensor]:
    r"""Return the map from a cotangent to :math:`(I-J^\top)^{-1}` of it, J the panel's Jacobian at x."""
    n, d, table = solver.degree, solver.equation.size, solver.tables
    m = table.node_points

    def solve(cotangent: Tensor) -> Tensor:
        pull = Pullback(lambda samples: solver.kernel(samples, attached=True), table.sample[:m] @ x)

        def transposed(q: Tensor) -> Tensor:
            spread = (q[1:] * (table.lengths[:n] * solver.length))[:, None] * table.gauss[:, None]
            return table.sample[:m].mT @ pull(spread.reshape(m, d))

        if solver.newton_fits:
            slopes = torch.stack([pull(one.expand(m, d)) for one in identity(d, x.dtype, x.device)], 2)
            inner = solver.matrix(slopes.permute(1, 0, 2)).mT
            q = torch.linalg.solve(inner, cotangent[1:].reshape(-1)).view(n, d)
            full = torch.cat([cotangent[:1], q])
            return torch.cat([(cotangent + transposed(full))[:1], q])
        q = cotangent
        for _ in range(_ADJOINT_SWEEPS):
            following = cotangent + transposed(q)
            change = (following - q).abs().max().item()
            q = following
            if change <= 8 * torch.finfo(q.dtype).eps * q.abs().max().item():
                return q
        raise ConvergenceError(
            f"gradient: the adjoint on the panel [{solver.start:g}, {solver.end:g}] still changes by "
            f"{change:.1e} after {_ADJOINT_SWEEPS} sweeps; shorten the panels through breaks"
        )

    return solve
