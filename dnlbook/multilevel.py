"""Training on a ladder of depths: L-BFGS in Sobolev variables, many starts at the coarsest depth, exact prolongation.

The penalty is a quadratic form of the nodal values.  In the variables z with |z|^2 = |theta|^2 it is the
identity, so that the number of iterations does not grow with the depth.  Level L starts from the minimizer of
level L/2, which a piecewise linear function on the finer mesh represents exactly.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from dnlbook import _checks
from dnlbook._learning import LearningProblem, data_term
from dnlbook.triangle import TriangleMesh

#: how a run of the optimizer ended
STATUSES = ("converged", "max_iterations", "stalled")
_SAVE_EVERY = 50


class NonFiniteObjective(ArithmeticError):
    """The objective, its gradient or a state of the network is not finite during training.

    Attributes
    ----------
    depth, iteration : int
        Where it happened; iteration 0 is the start.
    what : str
        What was not finite.
    theta : Tensor
        Nodal values of the last good iterate, of the start at iteration 0.
    """

    def __init__(self, depth: int, iteration: int, what: str, theta: Tensor) -> None:
        self.depth, self.iteration, self.what, self.theta = depth, iteration, what, theta
        place = "at the start" if iteration == 0 else f"in iteration {iteration}"
        super().__init__(
            f"{what} not finite at depth {depth} {place}; the last good iterate is kept in .theta; "
            "use smaller starts, a larger alpha, or an activation that is bounded"
        )


@dataclass(frozen=True)
class TrainedControl:
    """One run of the optimizer.

    Attributes
    ----------
    depth : int
    value : float
        The objective at ``theta``.
    theta : Tensor, shape ``(N, p)``
        Nodal values on ``TriangleMesh(depth)``.
    gradient_norm : float
        Euclidean norm of the gradient in Sobolev variables, the dual norm of the penalty's norm.
    iterations, evaluations : int
    status : {"converged", "max_iterations", "stalled"}
        Stalled means that the line search found no decrease: the gradient is at rounding level, or wrong.
    """

    depth: int
    value: float
    theta: Tensor = field(repr=False)
    gradient_norm: float
    iterations: int
    evaluations: int
    status: str


@dataclass(frozen=True)
class MultilevelHistory:
    """What :func:`train_multilevel` did: all starts at the coarsest depth, then one control for each depth.

    Attributes
    ----------
    starts : tuple of TrainedControl
        In the order of the seeds or starts.
    best : int
        Which of them has the smallest value; the ladder goes on from it.
    levels : tuple of TrainedControl
        In the order of the depths.
    """

    starts: tuple[TrainedControl, ...]
    best: int
    levels: tuple[TrainedControl, ...]

    @property
    def values(self) -> list[float]:
        """The value of the objective on each level."""
        return [level.value for level in self.levels]

    @property
    def theta(self) -> Tensor:
        """Nodal values on the finest mesh."""
        return self.levels[-1].theta


class _Coordinates:
    """The variables z of one mesh, in which the penalty is |z|^2."""

    def __init__(self, problem: LearningProblem, depth: int) -> None:
        self.problem, self.mesh = problem, TriangleMesh(depth, problem.horizon)
        if problem.penalty == "l2":
            self.scale = self.mesh.mass("reflected").sqrt()[:, None]

    def nodal(self, z: Tensor) -> Tensor:
        if self.problem.penalty == "l2":
            return z / self.scale
        return self.mesh.sobolev_to_nodal(z)

    def variables(self, theta: Tensor) -> Tensor:
        if self.problem.penalty == "l2":
            return theta * self.scale
        return self.mesh.nodal_to_sobolev(theta)


class _Run:
    """The objective as scipy sees it: a function of a flat vector with its gradient, which guards finiteness."""

    def __init__(self, problem: LearningProblem, depth: int, theta: Tensor) -> None:
        self.problem, self.depth = problem, depth
        self.coordinates = _Coordinates(problem, depth)
        self.shape = theta.shape
        self.start = self.coordinates.variables(theta.detach().to(torch.float64)).numpy().ravel()
        self.accepted, self.iterations, self.evaluations = self.start, 0, 0
        self.last: tuple[np.ndarray, float, np.ndarray] | None = None

    def theta(self, z: np.ndarray) -> Tensor:
        return self.coordinates.nodal(torch.from_numpy(z.reshape(self.shape))).detach()

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        if not np.isfinite(z).all():
            raise self._failed("the step of the optimizer is")
        variables = torch.from_numpy(z.reshape(self.shape).copy()).requires_grad_()
        try:
            data = data_term(self.problem, self.coordinates.nodal(variables).to(self.problem.x0))
        except ValueError as error:  # the engine refuses states that overflow; all arguments were checked before
            raise self._failed("the states of the network are") from error
        if not bool(torch.isfinite(data)):
            raise self._failed("the data term is")
        (slope,) = torch.autograd.grad(data, variables)
        value = data.item() + 0.5 * self.problem.alpha * float(z @ z)
        gradient = slope.numpy().ravel() + self.problem.alpha * z
        if not np.isfinite(gradient).all():
            raise self._failed("the gradient is")
        if not np.isfinite(value):
            raise self._failed("the penalty is")
        self.last = (z.copy(), value, gradient)
        return value, gradient

    def at(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient at z, without a new evaluation when z is the point of the last one."""
        if self.last is not None and np.array_equal(self.last[0], z):
            return self.last[1:]
        return self(z)

    def _failed(self, what: str) -> NonFiniteObjective:
        iteration = 0 if self.last is None else self.iterations + 1
        return NonFiniteObjective(self.depth, iteration, what, self.theta(self.accepted))


@dataclass(frozen=True)
class _Optimizer:
    """L-BFGS-B without bounds, stopped by the Euclidean norm of the gradient."""

    max_iterations: int
    corrections: int
    progress: bool

    def run(
        self,
        problem: LearningProblem,
        depth: int,
        theta: Tensor,
        tolerance: float,
        name: str,
        *,
        taken: tuple[int, int] = (0, 0),
        save: Callable[[Tensor, int, int], None] | None = None,
    ) -> TrainedControl:
        """Minimize from theta; taken counts iterations and evaluations of an interrupted run."""
        run = _Run(problem, depth, theta)
        run.iterations, run.evaluations = taken
        norm = float(np.linalg.norm(run.at(run.start)[1]))
        z, done = run.start, norm <= tolerance

        def after_iteration(intermediate_result: OptimizeResult) -> None:
            nonlocal norm, done
            run.accepted, run.iterations = intermediate_result.x.copy(), run.iterations + 1
            value, gradient = run.at(run.accepted)
            norm = float(np.linalg.norm(gradient))
            self._show(f"{name}: iteration {run.iterations}, value {value:.8f}, gradient {norm:.1e}")
            done = norm <= tolerance
            if save is not None and run.iterations % _SAVE_EVERY == 0:
                save(run.theta(run.accepted), run.iterations, run.evaluations)
            if done:
                raise StopIteration

        if not done and run.iterations < self.max_iterations:
            left = self.max_iterations - run.iterations
            options = {"maxcor": self.corrections, "ftol": 0.0, "gtol": 0.0, "maxiter": left, "maxfun": 20 * left + 20}
            found = minimize(run, z, jac=True, method="L-BFGS-B", callback=after_iteration, options=options)
            z = found.x
        value, gradient = run.at(z)
        norm = float(np.linalg.norm(gradient))
        full = run.iterations >= self.max_iterations
        status = "converged" if norm <= tolerance else "max_iterations" if full else "stalled"
        self._show(f"{name}: {status} after {run.iterations} iterations, value {value:.8f}, gradient {norm:.1e}", "\n")
        return TrainedControl(depth, value, run.theta(z), norm, run.iterations, run.evaluations, status)

    def _show(self, text: str, end: str = "") -> None:
        if self.progress:
            sys.stderr.write(f"\r{text:<78}{end}")
            sys.stderr.flush()


class _Store:
    """Finished runs and the current iterate in an npz file that is replaced in one step."""

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self.path = None if path is None else Path(path)
        self.arrays: dict[str, np.ndarray] = {"fingerprint": np.array(fingerprint)}
        if self.path is not None and not self.path.parent.is_dir():
            raise ValueError(f"store: expected a path in an existing folder, received {self.path}")
        if self.path is not None and self.path.exists():
            self.arrays = self._read(self.path, fingerprint)

    @staticmethod
    def _read(path: Path, fingerprint: str) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            found = str(arrays["fingerprint"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"store: expected a file written by train_multilevel, received {path}: {error}") from error
        if found != fingerprint:
            raise ValueError(
                f"store: {path} belongs to another problem, other starts or other tolerances (fingerprint "
                f"{found[:12]}, expected {fingerprint[:12]}); choose another path or remove the file"
            )
        return arrays

    def finished(self, key: str, depth: int) -> TrainedControl | None:
        if f"{key}/theta" not in self.arrays:
            return None
        facts, theta = self.arrays[f"{key}/facts"], torch.from_numpy(self.arrays[f"{key}/theta"].copy())
        value, norm, iterations, evaluations, status = facts.tolist()
        return TrainedControl(depth, value, theta, norm, int(iterations), int(evaluations), STATUSES[int(status)])

    def interrupted(self, key: str) -> tuple[Tensor, int, int] | None:
        if f"{key}/current" not in self.arrays:
            return None
        iterations, evaluations = self.arrays[f"{key}/taken"].tolist()
        return torch.from_numpy(self.arrays[f"{key}/current"].copy()), iterations, evaluations

    def finish(self, key: str, run: TrainedControl) -> None:
        numbers = [run.value, run.gradient_norm, run.iterations, run.evaluations, STATUSES.index(run.status)]
        for part in ("current", "taken"):
            self.arrays.pop(f"{key}/{part}", None)
        self._write({f"{key}/theta": run.theta.numpy(), f"{key}/facts": np.array(numbers, dtype=float)})

    def saver(self, key: str) -> Callable[[Tensor, int, int], None] | None:
        if self.path is None:
            return None

        def save(theta: Tensor, iterations: int, evaluations: int) -> None:
            self._write({f"{key}/current": theta.numpy(), f"{key}/taken": np.array([iterations, evaluations])})

        return save

    def _write(self, new: dict[str, np.ndarray]) -> None:
        self.arrays |= new
        if self.path is None:
            return
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **self.arrays)  # type: ignore[arg-type]
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def train_multilevel(
    problem: LearningProblem,
    depths: Sequence[int],
    *,
    seeds: Sequence[int] | None = None,
    starts: Sequence[Tensor] | None = None,
    gradient_tolerance: float = 1e-7,
    start_tolerance: float | None = None,
    max_iterations: int = 2000,
    corrections: int = 30,
    progress: bool = False,
    store: str | os.PathLike[str] | None = None,
) -> MultilevelHistory:
    r"""Minimize the objective of a dense network on a ladder of nested depths,

    .. math:: \min_{\theta}J_L(\theta),\qquad J_L=\Phi_L+\tfrac\alpha2R_L,\qquad R_L(\theta)=|z|^2 ,

    by L-BFGS in the variables z, see
    :meth:`~dnlbook.triangle.TriangleMesh.nodal_to_sobolev`.  The coarsest depth is trained from
    every start, the best result is prolonged from depth to depth.  L-BFGS finds local minimizers: the
    smallest value over the starts bounds the minimum from above and does not certify it.

    Source: chapter *Minimizers converge along subsequences*.

    Parameters
    ----------
    problem : LearningProblem
    depths : sequence of int
        Ascending, each a power of two times the one before.
    seeds : sequence of int, optional
        A start for each seed: parameters that are constant on the triangle, drawn from a standard normal
        distribution.  One start with seed 0 unless given.
    starts : sequence of Tensor of shape ``(N, p)``, optional
        Nodal values on the coarsest mesh, instead of seeds.
    gradient_tolerance : float
        A level is finished when the Euclidean norm of the gradient with respect to z is at most this.
    start_tolerance : float, optional
        The same for the starts, ``gradient_tolerance`` unless given; only the best one is then trained further.
    max_iterations : int
        Of L-BFGS, for each start and level.
    corrections : int
        Pairs of vectors that L-BFGS remembers.
    progress : bool
        Write a line to stderr that is updated after each iteration.
    store : path, optional
        An npz file that receives every finished start and level, and the current iterate.  A run that was killed
        goes on from there, a longer ladder continues a shorter one; the current level restarts with an empty
        L-BFGS memory.

    Returns
    -------
    MultilevelHistory

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the store belongs to another problem.
    NonFiniteObjective
        If the objective, its gradient or a state overflows; the error says where and carries the last good iterate.

    Examples
    --------
    >>> x0 = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    >>> problem = LearningProblem(x0, -x0, 0.1, hidden=1)
    >>> history = train_multilevel(problem, [2, 4], seeds=[0, 1])
    >>> [level.depth for level in history.levels], len(history.starts), history.theta.shape
    ([2, 4], 2, torch.Size([15, 3]))
    """
    if not isinstance(problem, LearningProblem):
        raise TypeError(f"problem: expected a LearningProblem, received {type(problem).__name__}")
    ladder = _ladder(depths)
    first = _first_controls(problem, ladder[0], seeds, starts)
    tolerance = _checks.positive_float("gradient_tolerance", gradient_tolerance)
    loose = tolerance if start_tolerance is None else _checks.positive_float("start_tolerance", start_tolerance)
    if loose < tolerance:
        raise ValueError(f"start_tolerance: expected at least gradient_tolerance {tolerance:g}, received {loose:g}")
    limit = _checks.positive_int("max_iterations", max_iterations)
    optimizer = _Optimizer(limit, _checks.positive_int("corrections", corrections), bool(progress))
    marks = _fingerprint(problem, ladder[0], first, (tolerance, loose, limit, optimizer.corrections))
    kept = _Store(store, marks)

    def train(key: str, depth: int, theta: Tensor, wanted: float, name: str) -> TrainedControl:
        before = kept.finished(key, depth)
        if before is not None:
            return before
        theta, *taken = kept.interrupted(key) or (theta, 0, 0)
        done = (taken[0], taken[1])
        result = optimizer.run(problem, depth, theta, wanted, name, taken=done, save=kept.saver(key))
        kept.finish(key, result)
        return result

    runs = [
        train(f"start/{number}", ladder[0], theta, loose, f"depth {ladder[0]}, start {number + 1} of {len(first)}")
        for number, theta in enumerate(first)
    ]
    best = min(range(len(runs)), key=lambda number: runs[number].value)
    levels: list[TrainedControl] = []
    theta, depth = runs[best].theta, ladder[0]
    for wanted_depth in ladder:
        while depth < wanted_depth:
            theta, depth = TriangleMesh(depth, problem.horizon).prolong(theta), 2 * depth
        levels.append(train(f"level/{depth}", depth, theta, tolerance, f"depth {depth}"))
        theta = levels[-1].theta
    return MultilevelHistory(tuple(runs), best, tuple(levels))


def _ladder(depths: Sequence[int]) -> list[int]:
    """The depths, checked to be nested: each one a power of two times the one before, at least twice."""
    try:
        ladder = [_checks.positive_int(f"depths[{place}]", depth) for place, depth in enumerate(depths)]
    except TypeError as error:
        raise TypeError(f"depths: expected a sequence of ints, received {depths!r} ({error})") from None
    if not ladder:
        raise ValueError("depths: expected at least one depth, received none")
    for coarse, fine in zip(ladder, ladder[1:], strict=False):
        ratio, rest = divmod(fine, coarse)
        if rest or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(
                f"depths: expected nested meshes, each depth 2, 4, 8, ... times the one before, "
                f"received {fine} after {coarse}"
            )
    return ladder


def _first_controls(
    problem: LearningProblem, depth: int, seeds: Sequence[int] | None, starts: Sequence[Tensor] | None
) -> list[Tensor]:
    """Nodal values on the coarsest mesh from which training starts."""
    if seeds is not None and starts is not None:
        raise ValueError("seeds, starts: expected one of them, received both")
    shape = (TriangleMesh(depth, problem.horizon).size, problem.width_of_control)
    if starts is not None:
        given = list(starts)
        if not given:
            raise ValueError("starts: expected at least one control, received none")
        for place, theta in enumerate(given):
            _checks.finite(f"starts[{place}]", _checks.shape(f"starts[{place}]", theta, shape))
        return [theta.detach().to(torch.float64) for theta in given]
    return [torch.from_numpy(np.tile(row, (shape[0], 1))) for row in _normal_rows(seeds, shape[1])]


def _normal_rows(seeds: Sequence[int] | None, width: int) -> Iterator[np.ndarray]:
    numbers = [0] if seeds is None else list(seeds)
    if not numbers:
        raise ValueError("seeds: expected at least one seed, received none")
    for place, seed in enumerate(numbers):
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seeds[{place}]: expected an int of at least 0, received {seed!r}")
        yield np.random.default_rng(int(seed)).normal(size=width)


def _fingerprint(problem: LearningProblem, depth: int, first: list[Tensor], numbers: tuple[Any, ...]) -> str:
    """A hash of everything that decides what the runs compute, apart from the depths beyond the first."""
    digest = hashlib.sha256()
    settings = (problem.alpha, problem.hidden, problem.horizon, problem.penalty, repr(problem.activation), depth)
    digest.update(repr((settings, numbers)).encode())
    readout = torch.eye(problem.width) if problem.readout is None else problem.readout
    for part in (problem.x0, problem.target, readout, *first):
        array = np.ascontiguousarray(part.detach().cpu().numpy())
        digest.update(repr((array.shape, array.dtype.str)).encode() + array.tobytes())
    return digest.hexdigest()
