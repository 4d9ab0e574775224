r"""The networks' own rules: :math:`x_l=g_l+\sum_{k\le l}w_{lk}\,k(t_l,t_k,x_k)`, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dnlbook._equation import ConvergenceError, Equation, Pullback, check_forcing, fixed_point, implicit
from dnlbook.quadrature import row_weights

#: a change of this many units in the last place is a fixed point
_ROUNDING = 8


class RuleSolver:
    """A rule on a grid: forward by rows, adjoint by columns."""

    def __init__(
        self, equation: Equation, grid: Tensor, rule: str, rtol: float, atol: float, max_iterations: int
    ) -> None:
        self.equation, self.grid, self.rule = equation, grid, rule
        self.rtol = max(rtol, _ROUNDING * torch.finfo(grid.dtype).eps)
        self.atol, self.max_iterations = atol, max_iterations
        self.steps = grid.diff()
        self.residual = 0.0
        #: the largest state so far: what is below its rounding errors is not iterated further
        self.scale = 0.0
        #: the weights of sources that are not the last one; Gregory's change with the row
        self._past = row_weights(rule, self.steps, len(self.steps))[:-1]

    def _row(self, l: int) -> tuple[Tensor, float]:
        """Return the weights of the sources before l, and the weight of l."""
        if self.rule == "rectangle":
            return self._past[:l], 0.0
        if self.rule == "trapezoid":
            return self._past[:l], 0.5 * self.steps[l - 1].item()
        row = row_weights(self.rule, self.steps, l)
        return row[:-1], row[-1].item()

    def solve(self) -> Tensor:
        """Return the states at the grid, shape (N + 1, size)."""
        equation, grid = self.equation, self.grid
        x = equation.forcing(grid).clone()
        check_forcing(grid, x)
        for l in range(1, len(grid)):
            weights, last = self._row(l)
            values = equation.kernel(grid[l], grid[:l], x[:l])
            state = x[l].add_(weights @ values)
            if not math.isfinite(state.sum().item()):
                equation.blame(grid[l], grid[:l], x[:l], values)
                raise ConvergenceError(
                    f"kernel: the states leave the range of {x.dtype} at t = {grid[l].item():g}; "
                    "the solution may blow up: shorten the interval or take a finer grid"
                )
            if last:
                self.scale = max(self.scale, x[l - 1].abs().max().item())
                guess = 3 * (x[l - 1] - x[l - 2]) + x[l - 3] if l > 2 else x[l - 1]
                state.copy_(self._implicit(l, state.clone(), last, guess))
        return x

    def _implicit(self, l: int, known: Tensor, weight: float, guess: Tensor) -> Tensor:
        """Return the y with y = known + weight k(t_l, t_l, y)."""
        time = self.grid[l]

        def step(y: Tensor) -> Tensor:
            values = self.equation.kernel(time, time[None], y[None])
            if not math.isfinite(values.sum().item()):
                self.equation.blame(time, time[None], y[None], values)
            return known + weight * values[0]

        y, change = fixed_point(
            step,
            guess,
            rtol=self.rtol,
            atol=self.atol,
            scale=self.scale,
            max_iterations=self.max_iterations,
            where=f"the {self.rule} rule at t = {time.item():g}",
        )
        self.residual = max(self.residual, change)
        return y

    def attach(self, x: Tensor) -> Tensor:
        """Return the states as functions of what the kernel and the forcing depend on."""
        forcing = self.equation.forcing(self.grid, attached=True)
        rows = [forcing[0]]
        for l in range(1, len(self.grid)):
            rows.append(forcing[l] + checkpoint(self._memory, x[: l + 1], l, use_reentrant=False))
        return implicit(torch.stack(rows), self._adjoint(x))

    def _memory(self, x: Tensor, l: int) -> Tensor:
        """Return the sum of row l over the sources 0 .. l, without the last one when its weight is zero."""
        weights = row_weights(self.rule, self.steps, l)[: l if self.rule == "rectangle" else l + 1]
        sources = len(weights)
        return weights @ self.equation.kernel(self.grid[l], self.grid[:sources], x[:sources], attached=True)

    def _last(self, x: Tensor, l: int) -> Tensor:
        values = self.equation.kernel(self.grid[l], self.grid[l : l + 1], x[None], attached=True)
        return self._row(l)[1] * values[0]

    def _adjoint(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        r"""Return the map to :math:`q_k=\bar x_k+\sum_{l\ge k}w_{lk}\,\partial_xk(t_l,t_k,x_k)^\top q_l`."""

        def solve(cotangent: Tensor) -> Tensor:
            q, scale = cotangent.clone(), cotangent.abs().max().item()
            for l in range(len(x) - 1, 0, -1):
                if self.rule != "rectangle":
                    last = Pullback(partial(self._last, l=l), x[l])
                    q[l] = self._implicit_cotangent(l, q[l].clone(), last, scale)
                memory = Pullback(partial(self._memory, l=l), x[: l + 1])
                q[:l] += memory(q[l])[:l]
            return q

        return solve

    def _implicit_cotangent(self, l: int, known: Tensor, last: Pullback, scale: float) -> Tensor:
        """Return the q with q = known + w_ll d_x k(t_l, t_l, x_l)^T q: it contracts where the states do."""
        q, _ = fixed_point(
            lambda q: known + last(q),
            known,
            rtol=_ROUNDING * torch.finfo(known.dtype).eps,
            atol=0.0,
            scale=scale,
            max_iterations=self.max_iterations,
            where=f"the adjoint of the {self.rule} rule at t = {self.grid[l].item():g}",
        )
        return q
