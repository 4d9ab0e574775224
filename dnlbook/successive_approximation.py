r"""Successive approximations: minimize the Hamiltonian at every pair of layers, then look again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook._control_problem import (
    ControlProblem,
    FeatureControl,
    Minimizer,
    PerceptronControl,
    PointwiseHamiltonian,
)
from dnlbook.dense import pair_count

__all__ = [
    "ControlProblem",
    "FeatureControl",
    "PerceptronControl",
    "PointwiseHamiltonian",
    "SuccessiveApproximation",
    "descent",
    "over",
    "successive_approximation",
]

AUGMENTATIONS = ("extended", "proximal")
#: how a run ended
STATUSES = ("converged", "oscillating", "diverged", "max_iterations")


def over(candidates: Tensor) -> Minimizer:
    r"""Return the minimizer over a finite set U of controls, such as binary weights.

    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    candidates : Tensor, shape ``(C, p)``

    Raises
    ------
    ValueError, TypeError
        If there is no candidate or an entry is not finite.

    Examples
    --------
    >>> over(torch.tensor([[-1.0], [1.0]]))(lambda theta: theta[:, 0], torch.ones(2, 1))
    tensor([[-1.],
            [-1.]])
    """
    _checks.finite("candidates", _checks.shape("candidates", candidates, ("C", "p")))
    if not len(candidates):
        raise ValueError("candidates: expected at least one control, received none")

    def minimizer(H: Callable[[Tensor], Tensor], old: Tensor) -> Tensor:
        with torch.no_grad():
            values = torch.stack([H(candidate.expand_as(old)) for candidate in candidates])
        return candidates[values.argmin(0)]

    return minimizer


def descent(steps: int = 20, *, rate: float = 1.0) -> Minimizer:
    r"""Return a minimizer that follows the gradient of every Hamiltonian, halving a step that does not descend.

    It finds a point that is no worse than the old control, which is what the extended method needs, and not a
    global minimizer.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    steps : int
    rate : float
        The first step length; it doubles after a success.

    Raises
    ------
    ValueError, TypeError
        If steps or rate is not positive.

    Examples
    --------
    >>> f"{descent(40)(lambda theta: (theta - 3).square().sum(1), torch.zeros(1, 1)).item():.4f}"
    '3.0000'
    """
    count, first = _checks.positive_int("steps", steps), _checks.positive_float("rate", rate)

    def minimizer(H: Callable[[Tensor], Tensor], old: Tensor) -> Tensor:
        theta, length = old.detach().clone(), old.new_full((len(old), 1), first)
        for _ in range(count):
            with torch.enable_grad():
                leaf = theta.requires_grad_(True)
                value = H(leaf)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            theta, value = theta.detach(), value.detach()
            trial = theta - length * slope
            with torch.no_grad():
                enough = H(trial) <= value - 0.5 * length[:, 0] * slope.square().sum(1) * 0.2
            theta = torch.where(enough.unsqueeze(1), trial, theta)
            length = torch.where(enough.unsqueeze(1), 2 * length, length / 2)
        return theta

    return minimizer


@dataclass(frozen=True, eq=False)
class SuccessiveApproximation:
    r"""What a run of :func:`successive_approximation` found.

    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Attributes
    ----------
    control : Tensor, shape ``(P, p)``
        The last iterate; if it is not finite, the one before.
    values, residuals : tuple of float
        Cost and residual of every iterate, the start included; always finite.
    status : {"converged", "oscillating", "diverged", "max_iterations"}
        The residual fell below the tolerance; or all iterations were used and the cost rose in their second
        half; or the cost grew beyond the bound or overflowed; or all iterations were used without either.

    Examples
    --------
    >>> problem = FeatureControl(torch.ones(1, 1), torch.zeros(1, 1), 1.0, features=(torch.eye(1), torch.zeros(1)))
    >>> run = successive_approximation(problem, 8, rho=1.0)
    >>> run.status, run.increases, f"{run.value:.4f}"
    ('converged', 0, '0.3145')
    """

    control: Tensor
    values: tuple[float, ...]
    residuals: tuple[float, ...]
    status: str

    @property
    def value(self) -> float:
        """The cost of the control."""
        return self.values[-1]

    @property
    def iterations(self) -> int:
        """How many times the Hamiltonian was minimized."""
        return len(self.values) - 1

    @property
    def increases(self) -> int:
        """In how many iterations the cost rose by more than rounding."""
        return _increases(self.values, self.control.dtype)


def _increases(values: Sequence[float], dtype: torch.dtype) -> int:
    rounding = 1e3 * torch.finfo(dtype).eps
    return sum(new > old + rounding * max(1.0, abs(old)) for old, new in pairwise(values))


def successive_approximation(
    problem: ControlProblem,
    depth: int,
    *,
    rho: float = 0.0,
    augmentation: str = "extended",
    start: Tensor | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 100,
    divergence: float = 1e3,
) -> SuccessiveApproximation:
    r"""Iterate: states forward, costates backward, minimize the Hamiltonian at every pair,

    .. math:: \theta_{j+1}^{l,k}\in\arg\min_{\theta\in U}\;H_j^{l,k}(\theta)+\tfrac\rho2\,d_j^{l,k}(\theta),

    where :math:`d=0` in the method of successive approximations (:math:`\rho=0`),
    :math:`d=|\delta f|^2+|\delta K^\top p|^2` in the extended method and :math:`d=|\theta-\theta_j|^2` in the
    proximal one.  For :math:`\rho` large enough the last two never increase the cost.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*; for differential equations
    the extended method is that of arXiv 1710.09513.

    Parameters
    ----------
    problem : ControlProblem
    depth : int
    rho : float
        At least 0.
    augmentation : {"extended", "proximal"}
    start : Tensor, shape ``(P, p)``, optional
        Zero unless given, which is a critical point if all weights are controlled.
    tolerance : float
        The run has converged when :math:`\max_{l,k}[H(\theta_j)-\min_UH]` is at most this.
    max_iterations : int
    divergence : float
        The run has diverged when the cost is above this multiple of its first value, or not finite.

    Returns
    -------
    SuccessiveApproximation

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, start is not a control of that depth, or its cost is not finite.

    Examples
    --------
    >>> one, features = torch.ones(1, 1), (torch.eye(1), torch.zeros(1))
    >>> problem = FeatureControl(one, -3 * one, 0.3, features=features)
    >>> [successive_approximation(problem, 8, rho=rho).status for rho in (0.0, 1.0)]
    ['oscillating', 'converged']
    >>> problem = FeatureControl(one, -3 * one, 0.1, features=features)
    >>> successive_approximation(problem, 8, divergence=10.0).status
    'diverged'
    """
    if not isinstance(problem, ControlProblem):
        raise TypeError(f"problem: expected a ControlProblem, received {type(problem).__name__}")
    rho = _checks.nonnegative_float("rho", rho)
    _checks.choice("augmentation", augmentation, AUGMENTATIONS)
    tolerance = _checks.nonnegative_float("tolerance", tolerance)
    steps = _checks.positive_int("max_iterations", max_iterations)
    limit = _checks.positive_float("divergence", divergence)
    shape = (pair_count(depth), problem.width_of_control)
    theta = problem.x0.new_zeros(shape) if start is None else _checks.shape("start", start, shape).detach().clone()
    value, H = problem._look(theta)
    values, residuals = [value], [float(problem.gap(H).max())]
    while residuals[-1] > tolerance and len(values) <= steps:
        new = problem.minimize(H.augmented(rho, augmentation))
        seen = _try(problem, new)
        if seen is None:
            return SuccessiveApproximation(theta, tuple(values), tuple(residuals), "diverged")
        theta, (value, H) = new, seen
        values.append(value)
        residuals.append(float(problem.gap(H).max()))
        if value > limit * max(values[0], torch.finfo(theta.dtype).eps):
            return SuccessiveApproximation(theta, tuple(values), tuple(residuals), "diverged")
    status = "converged" if residuals[-1] <= tolerance else "max_iterations"
    if status == "max_iterations" and _increases(values[len(values) // 2 :], theta.dtype):
        status = "oscillating"
    return SuccessiveApproximation(theta, tuple(values), tuple(residuals), status)


def _try(problem: ControlProblem, theta: Tensor) -> tuple[float, PointwiseHamiltonian] | None:
    """Cost and Hamiltonians of a control that fits, or None if something overflows."""
    if not bool(torch.isfinite(theta).all()):
        return None
    try:
        value, H = problem._look(theta)
    except ValueError:  # shapes were checked before: only states that are not finite are left
        return None
    return (value, H) if math.isfinite(value) and bool(torch.isfinite(H.p).all()) else None
