r"""Online convolution: :math:`y_i=r_i+\sum_{j\le i}c_{i-j}\,\varphi_j(y_j)` in O(N log^2 N).

Blocks are solved one after the other.  Eight blocks are a part of the next level, eight of these a part of
the one above.  When a part is complete its FFT is taken, and the next part of its group receives what all
earlier ones contribute to it, in one inverse FFT.  E. Hairer, C. Lubich, M. Schlichte, SIAM J. Sci. Stat.
Comput. 6 (1985), with eight parts for their two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnlbook._equation import ConvergenceError, Pullback, fixed_point, implicit, runaway

#: steps of a block, which Picard sweeps solve together, for narrow and for wide states
_BLOCK, _WIDE_BLOCK, _WIDE = 256, 64, 4
#: parts of a level that become one part of the next
_RADIX = 8
#: sweeps after which a block is solved step by step instead
_SWEEPS = 24
#: degree of the polynomial that predicts a block from the block before
_PREDICTOR = 7
#: a change of this many units in the last place is a fixed point
_ROUNDING = 8

#: the values of phi for the states at i, i + 1, ..., shape (m, size)
Local = Callable[[int, Tensor], Tensor]


class Online:
    """The solution of an online convolution, its images under phi, and the defect that iterations leave.

    The weights (n,) belong to the lags 0 .. n - 1, known is r of shape (n, size), times name the steps.
    """

    def __init__(
        self, weights: Tensor, known: Tensor, local: Local, times: Tensor, *, max_iterations: int
    ) -> None:
        n, size = known.shape
        self.block = min(_WIDE_BLOCK if size > _WIDE else _BLOCK, n)
        self._weights, self._local, self._times = weights, local, times
        self._max_iterations = max_iterations
        self._eps = _ROUNDING * torch.finfo(known.dtype).eps
        self.values = known.clone()
        self.images = torch.empty_like(known)
        self.residual = 0.0
        #: the largest state so far: what is below its rounding errors is not iterated further
        self._scale = 0.0
        lags = torch.arange(self.block, device=known.device)
        self._toeplitz = weights[(lags[:, None] - lags).clamp_(min=0)].tril_()
        self._fit, self._continue = self._predictor()
        #: per length of the parts: spectra of the kernel by distance, spectra of the finished parts
        self._kernels: dict[int, Tensor] = {}
        self._parts: dict[int, list[Tensor]] = {}
        for start in range(0, n, self.block):
            end = min(start + self.block, n)
            self._solve_block(start, end)
            if end < n:
                self._contribute(end)

    def _predictor(self) -> tuple[Tensor, Tensor]:
        """Return a least-squares fit of polynomials to a block, and their values on the next block."""
        x = np.linspace(-1, 1, self.block)
        degree = min(_PREDICTOR, self.block - 1)
        fit = np.linalg.pinv(np.polynomial.legendre.legvander(x, degree))
        spacing = 2 / max(self.block - 1, 1)
        following = np.polynomial.legendre.legvander(x + self.block * spacing, degree)
        like = self.values
        return torch.as_tensor(fit).to(like), torch.as_tensor(following).to(like)

    def _solve_block(self, start: int, end: int) -> None:
        known = self.values[start:end]
        if start:
            predicted = self._continue[: end - start] @ (self._fit @ self.images[start - self.block : start])
            if self._sweep(start, end, predicted):
                return
        # no prediction, or one so far off that the sweeps left the range of the nonlinearity
        if not self._sweep(start, end, self._local(start, known)):
            self._solve_steps(start, end)

    def _sweep(self, start: int, end: int, images: Tensor) -> bool:
        """Solve a block by Picard sweeps from a guess of its images; return whether they settled."""
        known, size = self.values[start:end], end - start
        toeplitz = self._toeplitz[:size, :size]
        y = torch.addmm(known, toeplitz, images)
        # the guess may be far off, and says nothing about the size of the states once there are any
        level = max(self._scale, (known if start else y).abs().max().item())
        for _ in range(_SWEEPS):
            images = self._local(start, y)
            following = torch.addmm(known, toeplitz, images)
            change = (following - y).abs().max().item()
            y = following
            if change <= self._eps * level:
                self._scale = max(self._scale, y.abs().max().item())
                self.values[start:end], self.images[start:end] = y, images
                self.residual = max(self.residual, change)
                return True
            if not math.isfinite(change):
                return False
        return False

    def _solve_steps(self, start: int, end: int) -> None:
        """Solve a block that is too stiff for sweeps: step by step, implicit in the weight of lag 0."""
        implicit = self._weights[0].item()
        for i in range(start, end):
            y = self.values[i : i + 1].clone()
            if implicit:
                y, change = self._implicit(i, y, implicit)
                self.residual = max(self.residual, change)
            self._scale = max(self._scale, y.abs().max().item())
            images = self._finite(i, y)
            self.values[i], self.images[i] = y[0], images[0]
            self.values[i + 1 : end] += self._weights[1 : end - i, None] * images

    def _implicit(self, i: int, known: Tensor, weight: float) -> tuple[Tensor, float]:
        """Return the y with y = known + weight phi(y), and the last change."""
        return fixed_point(
            lambda y: known + weight * self._finite(i, y),
            known,
            rtol=self._eps,
            atol=0.0,
            scale=self._scale,
            max_iterations=self._max_iterations,
            where=f"the trapezoid rule at t = {self._times[i].item():g}",
        )

    def _finite(self, i: int, y: Tensor) -> Tensor:
        """Return phi of the state of step i, or raise when the state or phi of it is not finite."""
        place = f"at t = {self._times[i].item():g}"
        if bool(runaway(y).any()):
            raise ConvergenceError(
                f"kernel: the states leave the range of {y.dtype} {place}; the solution may blow up"
            )
        images = self._local(i, y)
        if not math.isfinite(images.sum().item()):
            raise ValueError(
                f"nonlinearity: expected finite values, received nan or inf {place} for a state of norm "
                f"{y.norm().item():g}"
            )
        return images

    def _contribute(self, end: int) -> None:
        """Add to the next part what the earlier parts of its group contribute, at the level that is due.

        A cyclic convolution of length 2m wraps around into its first half, which is not used.
        """
        m = self.block
        while end % (_RADIX * m) == 0:
            self._parts.pop(m, None)
            m *= _RADIX
        parts = self._parts.setdefault(m, [])
        parts.append(torch.fft.rfft(self.images[end - m : end], n=2 * m, dim=0))
        stop = min(end + m, self.values.shape[0])
        total = parts[0] * self._kernel(m, len(parts))
        for distance, part in enumerate(reversed(parts[1:]), 1):
            total.addcmul_(part, self._kernel(m, distance))
        self.values[end:stop] += torch.fft.irfft(total, n=2 * m, dim=0)[m : m + stop - end]

    def _kernel(self, m: int, distance: int) -> Tensor:
        """Return the spectrum of the weights from a part of length m to the one at that distance."""
        key = m * _RADIX + distance
        if key not in self._kernels:
            lags = self._weights[(distance - 1) * m : (distance + 1) * m]
            self._kernels[key] = torch.fft.rfft(lags, n=2 * m)[:, None]
        return self._kernels[key]


def convolve(weights: Tensor, images: Tensor) -> Tensor:
    """Return the causal convolution of weights (n,) with images (n, size) by one FFT."""
    n = len(images)
    length = 2 ** (2 * n - 1).bit_length()
    product = torch.fft.rfft(images, n=length, dim=0) * torch.fft.rfft(weights, n=length)[:, None]
    result: Tensor = torch.fft.irfft(product, n=length, dim=0)[:n]
    return result


class ConvolutionSolver:
    r"""The networks' rules for :math:`x(t)=g(t)+\int_0^t\kappa(t-s)f(x(s))\,ds`, forward and adjoint.

    The weights (N + 1,) belong to all lags and contain the step; first is the share with which the rule
    takes the source at 0.
    """

    def __init__(
        self,
        weights: Tensor,
        first: float,
        nonlinearity: Any,
        state: torch.Size,
        grid: Tensor,
        iterations: int,
    ) -> None:
        self._attached_weights, self._first = weights, first
        self._weights = weights.detach()
        self._nonlinearity, self._state, self._grid = nonlinearity, state, grid
        self._iterations = iterations
        self.evaluations = 0
        self.residual = 0.0
        self.tracked = weights.requires_grad

    def images(self, x: Tensor, *, attached: bool = False) -> Tensor:
        """Return f at states (m, size)."""
        values = self._nonlinearity(x.view(-1, *self._state))
        expected = (x.shape[0], *self._state)
        if not isinstance(values, Tensor) or values.shape != expected or values.dtype != x.dtype:
            got = (
                f"{tuple(values.shape)} of {values.dtype}"
                if isinstance(values, Tensor)
                else type(values).__name__
            )
            raise ValueError(
                f"nonlinearity: expected shape {expected} of {x.dtype} like the states, received {got}"
            )
        self.evaluations += x.shape[0]
        if values.requires_grad and not attached:
            self.tracked = True
            values = values.detach()
        return values.reshape(x.shape)

    def solve(self, forcing: Tensor) -> Tensor:
        """Return the states, shape (N + 1, size)."""
        start = self.images(forcing[:1])
        known = forcing[1:] + self._first * self._weights[1:, None] * start
        online = Online(
            self._weights[:-1],
            known,
            lambda i, y: self.images(y),
            self._grid[1:],
            max_iterations=self._iterations,
        )
        self.residual = online.residual
        return torch.cat([forcing[:1], online.values])

    def attach(self, x: Tensor, forcing: Tensor) -> Tensor:
        """Return the states as functions of kernel, forcing and what the nonlinearity depends on."""
        weights, images = self._attached_weights, self.images(x, attached=True)
        memory = convolve(weights[:-1], images[1:]) + self._first * weights[1:, None] * images[:1]
        return implicit(
            torch.cat([forcing[:1], forcing[1:] + memory]), lambda cotangent: self._adjoint(x, cotangent)
        )

    def _adjoint(self, x: Tensor, cotangent: Tensor) -> Tensor:
        r"""Return q, :math:`q_j=\bar x_j+f'(x_j)^\top\sum_{i\ge j}c_{i-j}q_i`: it runs backwards in time."""
        states, cotangents = x[1:].flip(0), cotangent[1:].flip(0)
        pulls: dict[tuple[int, int], Pullback] = {}

        def local(i: int, p: Tensor) -> Tensor:
            key = i, i + p.shape[0]
            if key not in pulls:
                pulls.clear()
                pulls[key] = Pullback(lambda y: self.images(y, attached=True), states[slice(*key)])
            return cotangents[slice(*key)] + pulls[key](p)

        online = Online(
            self._weights[:-1],
            torch.zeros_like(states),
            local,
            self._grid[1:].flip(0),
            max_iterations=self._iterations,
        )
        q = online.images.flip(0)
        start = Pullback(lambda y: self.images(y, attached=True), x[:1])
        first = cotangent[:1] + start(self._first * (self._weights[1:] @ q)[None])
        return torch.cat([first, q])
