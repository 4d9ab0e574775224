"""Smooth Volterra equations to an error of 1e-8: collocation against its peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.groups.ideas import for_volterra
from benchmarks.record import Goal
from benchmarks.timing import Candidate, Case
from dnlbook.volterra import solve_vie

VOLES = "voles"
TRAPEZOID = "trapezoid, NumPy"
TRAPEZOID_TORCH = "trapezoid, PyTorch"
_HORIZON = 5.0
_CHECKS = 33
_RATE = -0.5


def _linear_forcing(t: Any, lib: Any) -> Any:
    """g for the solution cos t of x = g + int exp(s - t) x(s) ds."""
    return lib.cos(t) - (lib.cos(t) + lib.sin(t) - lib.exp(-t)) / 2


def _nonlinear_solution(t: Any, lib: Any) -> Any:
    return 1 + lib.sin(t) / 2


def _nonlinear_forcing(t: Any, lib: Any) -> Any:
    """g for the solution 1 + sin(t)/2 of x = g - 1/2 int exp(s - t) x(s)² ds."""
    fade = lib.exp(-t)
    square = (1 - fade) + (lib.sin(t) - lib.cos(t) + fade) / 2
    square = square + ((1 - fade) / 2 - (lib.cos(2 * t) + 2 * lib.sin(2 * t) - fade) / 10) / 4
    return _nonlinear_solution(t, lib) - _RATE * square


def _times(count: int = _CHECKS) -> np.ndarray:
    return np.linspace(0, _HORIZON, count)


def _said(tolerance: float) -> str:
    """A power of ten as the page prints it."""
    return "10⁻" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[round(-math.log10(tolerance))]


def _largest(values: Any, exact: np.ndarray) -> float:
    """Largest error at the check times; a finer grid contains them."""
    array = np.asarray(values, dtype=float).ravel()
    return float(np.abs(array[:: (len(array) - 1) // (_CHECKS - 1)] - exact).max())


def _ours(
    kernel: Callable[..., Tensor],
    forcing: Callable[[Tensor], Tensor],
    exact: np.ndarray,
    tolerance: float,
    **settings: Any,
) -> Candidate:
    t = torch.from_numpy(_times())
    said = ", ".join(f"{key}={value}" for key, value in settings.items()) or "default tolerances"
    return Candidate(
        "dnlbook",
        lambda: solve_vie(kernel, forcing, t, **settings).x,
        lambda x: _largest(x, exact),
        tolerance,
        f"solve_vie, {said}",
        "subject",
    )


def linear_cases(quick: bool) -> Iterator[Case]:
    import voles

    tolerance, exact = 1e-8, np.cos(_times())

    def values(intervals: int, **options: Any) -> Candidate:
        def run() -> Any:
            t = _times(intervals + 1)
            return voles.solve_VIE_2(
                kernel_values=np.exp(-t),
                g_values=_linear_forcing(t, np),
                time_step=_HORIZON / intervals,
                show_warnings=False,
                **options,
            )

        said = ", ".join(f"{key}={value}" for key, value in options.items())
        setting = f"solve_VIE_2, {intervals} intervals" + (f", {said}" if said else "")
        return Candidate(VOLES, run, lambda x: _largest(x, exact), tolerance, setting)

    def functions(nodes: int) -> Candidate:
        """Radau nodes end at the end of an interval, where they are most accurate."""
        t = _times()

        def run() -> Any:
            inside = voles.function_solve_VIE_2(
                kernel=lambda lag: np.exp(-lag),
                g=lambda t: _linear_forcing(t, np),
                mesh_breakpoints=t,
                coll_nodes=voles.radau_iia_nodes(nodes),
                show_warnings=False,
            )
            return np.concatenate([[_linear_forcing(0.0, np)], np.asarray(inside)[:, -1]])

        setting = f"function_solve_VIE_2, {_CHECKS - 1} intervals, {nodes} Radau nodes"
        return Candidate(VOLES, run, lambda x: _largest(x, exact), tolerance, setting)

    settings = [values(n, **options) for n in (32, 64, 96, 128, 192, 256, 320, 384) for options in _VOLES_OPTIONS]
    settings += [functions(nodes) for nodes in (2, 3, 4, 5)]

    def kernel(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        return torch.exp(s - t) * x

    def forcing(t: Tensor) -> Tensor:
        return _linear_forcing(t, torch)

    subject = _ours(kernel, forcing, exact, tolerance)
    yield Case(
        "volterra-linear",
        "linear",
        "x(t) = g(t) + ∫ exp(s − t) x(s) ds on [0, 5] with solution cos t: values at 33 times, error at most 10⁻⁸",
        "largest error at the 33 times; a setting that misses 10⁻⁸ is not timed",
        (
            subject,
            _variant(_ours(kernel, forcing, exact, tolerance, degree=12), "dnlbook, degree told"),
            settings,
            *for_volterra(subject),
        ),
        (Goal(6.0, at_least=VOLES),),
    )


_VOLES_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"coll_divs": 2},
    {"coll_divs": 3},
    {"coll_divs": 4},
    {"coll_divs": 8, "kernel_interp_degree": 8},
)


def _variant(candidate: Candidate, name: str) -> Candidate:
    return Candidate(name, candidate.run, candidate.error, candidate.tolerance, candidate.setting, "variant")


def trapezoid_numpy(intervals: int) -> np.ndarray:
    """The trapezoid rule with one vectorized sum per step and Newton's method for the last term."""
    h, t = _HORIZON / intervals, _times(intervals + 1)
    g, x = _nonlinear_forcing(t, np), np.empty(intervals + 1)
    x[0] = g[0]
    for i in range(1, intervals + 1):
        past = np.exp(t[:i] - t[i])
        past *= x[:i]
        past *= x[:i]
        known = g[i] + h * _RATE * (past.sum() - past[0] / 2)
        y = x[i - 1]
        for _ in range(2):
            y -= (y - known - h / 2 * _RATE * y * y) / (1 - h * _RATE * y)
        x[i] = y
    return x


@torch.no_grad()
def trapezoid_torch(intervals: int) -> Tensor:
    """The same in PyTorch; the scalar steps are Python numbers."""
    h, t = _HORIZON / intervals, torch.from_numpy(_times(intervals + 1))
    g, x = _nonlinear_forcing(t, torch).tolist(), torch.empty(intervals + 1, dtype=torch.float64)
    x[0] = y = g[0]
    times, first = t.tolist(), g[0] ** 2
    for i in range(1, intervals + 1):
        past = torch.sub(t[:i], times[i]).exp_().mul_(x[:i])
        known = g[i] + h * _RATE * (float(torch.dot(past, x[:i])) - np.exp(-times[i]) * first / 2)
        for _ in range(2):
            y -= (y - known - h / 2 * _RATE * y * y) / (1 - h * _RATE * y)
        x[i] = y
    return x


def nonlinear_cases(quick: bool) -> Iterator[Case]:
    tolerance, exact = 1e-5 if quick else 1e-8, _nonlinear_solution(_times(), np)

    def trapezoid(name: str, function: Callable[[int], Any]) -> Candidate:
        coarse = 256  # the error falls like the square of the step
        wanted = coarse * math.sqrt(_largest(function(coarse), exact) / tolerance)
        intervals = 32 * math.ceil(1.005 * wanted / 32)
        return Candidate(
            name,
            lambda: function(intervals),
            lambda x: _largest(x, exact),
            tolerance,
            f"{intervals} intervals, one vectorized sum per step",
        )

    def kernel(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        return _RATE * torch.exp(s - t) * x * x

    def forcing(t: Tensor) -> Tensor:
        return _nonlinear_forcing(t, torch)

    subject = _ours(kernel, forcing, exact, tolerance)
    yield Case(
        "volterra-nonlinear",
        "nonlinear",
        "x(t) = g(t) − ½ ∫ exp(s − t) x(s)² ds on [0, 5] with solution 1 + ½ sin t: values at 33 times, "
        f"error at most {_said(tolerance)}",
        f"largest error at the 33 times; a candidate that misses {_said(tolerance)} is not timed",
        (
            subject,
            _variant(_ours(kernel, forcing, exact, tolerance, degree=16), "dnlbook, degree told"),
            trapezoid(TRAPEZOID, trapezoid_numpy),
            trapezoid(TRAPEZOID_TORCH, trapezoid_torch),
            *for_volterra(subject),
        ),
        (Goal(1000.0, at_least=TRAPEZOID), Goal(1000.0, at_least=TRAPEZOID_TORCH)),
    )
