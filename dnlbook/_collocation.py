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
    """What became of a panel: nodal values, and the defects at the check points."""

    values: Tensor
    checks: Tensor
    #: the largest defect, and the size of the terms that cancel in it
    defect: float = math.inf
    terms: float = math.nan
    #: of I - J when Newton's method was used; what Picard's sweeps made of their first step otherwise
    inverse: Tensor | None = None
    growth: float = 1.0
    #: why there is no solution, empty if there is one
    cause: str = ""

    @property
    def amplification(self) -> float:
        """By how much the panel may amplify a defect."""
        return self.growth if self.inverse is None else self.inverse.abs().sum(1).max().item()


class PanelSolver:
    """Newton's method or Picard sweeps for the polynomial of one degree on one panel."""

    def __init__(self, equation: Equation, start: float, end: float, degree: int) -> None:
        self.equation = equation
        self.start, self.end, self.degree = start, end, degree
        self.length = end - start
        self.tables = table = tables(degree, equation.like)
        self.times, self.t, self.s = self._place(table.times), self._place(table.t), self._place(table.s)
        self._lengths = table.lengths * self.length

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
        m = x.shape[0]
        whole = m == self.t.shape[0]
        t, s = (self.t, self.s) if whole else (self.t[:m], self.s[:m])
        return self.equation.kernel(t, s, x, attached=attached)

    def at_nodes(self, known: Tensor, values: Tensor) -> Tensor:
        """Return the right-hand side at the nodes after the first, from the kernel's values."""
        n, table = self.degree, self.tables
        points = values[: table.node_sample.shape[0]].view(n, -1, self.equation.size)
        return torch.addcmul(known[1 : n + 1], self._lengths[:n], torch.matmul(table.gauss, points))

    def at_checks(self, known: Tensor, values: Tensor) -> Tensor:
        """Return the right-hand side at the check points, from the kernel's values at all points."""
        n, table = self.degree, self.tables
        points = values[table.node_sample.shape[0] :].view(n, -1, self.equation.size)
        return torch.addcmul(known[n + 1 :], self._lengths[n:], torch.matmul(table.check_gauss, points))

    def matrix(self, slopes: Tensor) -> Tensor:
        """Return I - J for the nodes after the first, from the kernel's slopes (in, m, out)."""
        n, d = self.degree, self.equation.size
        columns = slopes.view(d, n, -1, d).permute(1, 2, 0, 3).reshape(n, -1, d * d)
        inner = torch.bmm(self.tables.integral, columns)  # (row, node, in out)
        if d > 1:
            inner = inner.view(n, n, d, d).permute(0, 3, 1, 2)
        return torch.sub(
            identity(n * d, slopes.dtype, slopes.device), inner.reshape(n * d, n * d), alpha=self.length
        )

    def with_slopes(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Return the kernel (m, size) and its difference quotients (in, m, out), in one call."""
        d, m = self.equation.size, x.shape[0]
        # between rounding errors, which a linear kernel alone would see, and curvature
        step = torch.finfo(x.dtype).eps ** (1 / 3) * (level or 1.0)
        shifted = torch.add(x, _shifts(d, x.dtype, x.device), alpha=step)
        t, s = (torch.cat([times[:m]] * (d + 1)) for times in (self.t, self.s))
        values = self.equation.kernel(t, s, shifted.view(-1, d)).view(d + 1, m, d)
        return values[0], (values[1:] - values[0]).div_(step)

    def solve(
        self, known: Tensor, guess: Tensor, *, rtol: float, atol: float, scale: float, max_iterations: int
    ) -> Attempt:
        """Solve x = known + integral at the nodes, known (2N + 1, size), from the guess (N + 1, size)."""
        table, eps = self.tables, torch.finfo(known.dtype).eps
        newton = self.equation.size <= _NEWTON_FIRST and self.newton_fits
        checking, inverse = newton, None
        stale = 0.01 if newton else 0.1  # a slower contraction calls for another Jacobian
        x = guess.clone()
        x[0] = known[0]
        unknown = x[1:]
        sizes: list[float] = []
        while len(sizes) <= max_iterations:
            fresh = newton and inverse is None
            samples = (table.sample if checking and not fresh else table.node_sample) @ x
            level = max(scale, x.abs().max().item())
            if fresh:
                values, slopes = self.with_slopes(samples, level)
                inverse = inverse_of(self.matrix(slopes))
            else:
                values = self.kernel(samples)
            step = self.at_nodes(known, values) - unknown
            size = step.abs().max().item()
            sizes.append(size)
            if not math.isfinite(size) or (fresh and inverse is None):
                return self._failed(x, self._overflow(known, samples))
            settled = size <= max(_ITERATION * (atol + rtol * level), 16 * eps * level)
            if not settled and len(sizes) > 1 and size > 0.5 * sizes[-2]:  # perhaps for rounding errors alone
                settled = size <= 1e3 * eps * (level + self._terms(known, values))
            if settled and checking and not fresh:
                checks = self.at_checks(known, values) - table.checks @ x
                growth = sum(sizes) / (sizes[0] or 1.0)
                defect = checks.abs().max().item()
                return Attempt(x, checks, defect, self._terms(known, values), inverse, growth)
            if size > 1e6 * sizes[0]:
                break
            checking = checking or settled
            if inverse is not None:
                unknown.view(-1).addmv_(inverse, step.view(-1))
                if not fresh and not settled and size > stale * sizes[-2]:
                    inverse = None
            elif len(sizes) > 4 and size > 0.5 * sizes[-2] and not settled and self.newton_fits:
                newton = checking = True
                if size > sizes[0]:
                    unknown.copy_(guess[1:])
            else:
                unknown += step
        name = "Newton's" if newton else "Picard's"
        return self._failed(
            x, f"{name} iteration leaves a defect of {sizes[-1]:.1e} after {len(sizes)} sweeps"
        )

    def _terms(self, known: Tensor, values: Tensor) -> float:
        return known.abs().max().item() + self.length * values.abs().max().item()

    def _failed(self, x: Tensor, cause: str) -> Attempt:
        return Attempt(x, x, cause=cause)

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
                self.scale = level
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
        carried = history.integral(solver.times[: n + 1])
        if part.history is not None:
            carried -= part.history[: n + 1]
        bumps = check_sampler(n, equation.like) @ checks
        y = carried.clone()
        for _ in range(_ERROR_SWEEPS):
            values = solver.kernel(table.node_sample @ (x + y) + bumps)
            change = carried[1:] + solver.at_nodes(part.known, values) - x[1:] - y[1:]
            if part.attempt.inverse is not None:
                change = (part.attempt.inverse @ change.reshape(-1)).view(change.shape)
            y[1:] += change
            error = torch.cat([y, table.checks @ y + checks])
            size = error.abs().max().item()
            if not change.abs().max().item() > 0.05 * size:
                break
        worst = max(worst, size if math.isfinite(size) else math.inf)
        corrected = torch.empty(2 * n + 1, equation.size, dtype=x.dtype, device=x.device)
        corrected[0::2], corrected[1::2] = x + y, table.checks @ (x + y) + checks
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
        known = equation.forcing(nodes, attached=True) + history.integral(nodes)
        inner = solver.at_nodes(known, solver.kernel(solver.tables.node_sample @ x, attached=True))
        values = implicit(torch.cat([known[:1], inner]), adjoint(solver, x))
        history.push(Panel(part.panel.start, part.panel.end, values))
    return history.panels


def adjoint(solver: PanelSolver, x: Tensor) -> Callable[[Tensor], Tensor]:
    r"""Return the map from a cotangent to :math:`(I-J^\top)^{-1}` of it, J the panel's Jacobian at x."""
    n, d, table = solver.degree, solver.equation.size, solver.tables
    m = table.node_sample.shape[0]

    def solve(cotangent: Tensor) -> Tensor:
        pull = Pullback(lambda samples: solver.kernel(samples, attached=True), table.node_sample @ x)

        def transposed(q: Tensor) -> Tensor:
            spread = (q[1:] * (table.lengths[:n] * solver.length))[:, None] * table.gauss[:, None]
            return table.node_sample.mT @ pull(spread.reshape(m, d))

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
