"""A convolution equation on a long grid: online FFT against the direct sum and against one offline FFT."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from benchmarks.groups.ideas import for_convolution
from benchmarks.record import Goal
from benchmarks.timing import Candidate, Case
from dnlbook.volterra import solve_convolution_vie

DIRECT = "direct sum, PyTorch"
DIRECT_NUMPY = "direct sum, NumPy"
OFFLINE = "one offline FFT"
POWER = "one offline FFT, power of two"
_HORIZON = 10.0
_TOLERANCE = 1e-10
_GOALS = {10_000: 25.0, 100_000: 140.0}


def kernel(lag: Tensor) -> Tensor:
    return torch.cos(lag) / torch.sqrt(1 + lag)


def direct_numpy(weights: np.ndarray, g: np.ndarray) -> np.ndarray:
    """x_i = g_i + sum_{j<i} w_{i-j} tanh x_j, one scalar product per step."""
    n = len(g)
    backwards = np.ascontiguousarray(weights[::-1])
    x, images = np.empty(n), np.empty(n)
    x[0] = g[0]
    images[0] = np.tanh(x[0])
    for i in range(1, n):
        x[i] = g[i] + backwards[n - 1 - i : n - 1].dot(images[:i])
        images[i] = np.tanh(x[i])
    return x


@torch.no_grad()
def direct_torch(weights: Tensor, g: Tensor) -> Tensor:
    n = len(g)
    backwards = weights.flip(0)
    x, images = g.clone(), torch.empty_like(g)
    images[0] = torch.tanh(x[0])
    for i in range(1, n):
        x[i] += torch.dot(backwards[n - 1 - i : n - 1], images[:i])
        images[i] = torch.tanh(x[i])
    return x


def cases(quick: bool) -> Iterator[Case]:
    for intervals, goal in {300: 25.0}.items() if quick else _GOALS.items():
        t = torch.linspace(0, _HORIZON, intervals + 1, dtype=torch.float64)
        weights = kernel(t) * (_HORIZON / intervals)
        forcing = torch.sin(t)
        reference = direct_numpy(weights.numpy(), forcing.numpy())
        images = np.tanh(reference)
        memory = reference - forcing.numpy()

        def error(x: np.ndarray | Tensor, reference: np.ndarray = reference) -> float:
            return float(np.abs(np.asarray(x) - reference).max())

        def offline(
            length: int,
            transform: str,
            images: np.ndarray = images,
            weights: Tensor = weights,
            memory: np.ndarray = memory,
        ) -> Candidate:
            count, lags = len(images), weights.numpy().copy()
            lags[0] = 0.0
            tensors = torch.from_numpy(lags), torch.from_numpy(images)

            def run_scipy() -> np.ndarray:
                product = scipy.fft.rfft(lags, n=length) * scipy.fft.rfft(images, n=length)
                return np.asarray(scipy.fft.irfft(product, n=length)[:count])

            def run_torch() -> Tensor:
                product = torch.fft.rfft(tensors[0], n=length) * torch.fft.rfft(tensors[1], n=length)
                return torch.fft.irfft(product, n=length)[:count]

            return Candidate(
                OFFLINE,
                run_torch if transform == "torch.fft" else run_scipy,
                lambda x: float(np.abs(np.asarray(x) - memory).max()),
                _TOLERANCE,
                f"{transform}, length {length}",
                "floor",
            )

        power = 2 ** (2 * intervals).bit_length()
        smooth = scipy.fft.next_fast_len(2 * intervals + 1, real=True)
        lengths = (power, smooth)
        subject = Candidate(
            "dnlbook",
            lambda t=t: solve_convolution_vie(kernel, torch.tanh, lambda times: torch.sin(times), t).x,  # type: ignore[misc]
            error,
            _TOLERANCE,
            "solve_convolution_vie, rectangle rule",
            "subject",
        )
        yield Case(
            f"convolution-{intervals}",
            f"N = {intervals}",
            f"x(t) = g(t) + ∫ κ(t − s) tanh x(s) ds by the rectangle rule, N = {intervals}, one component, float64",
            "states against the direct sum in NumPy; the offline FFT convolves the finished solution once",
            (
                subject,
                Candidate(
                    DIRECT,
                    lambda weights=weights, forcing=forcing: direct_torch(weights, forcing),  # type: ignore[misc]
                    error,
                    _TOLERANCE,
                    "one scalar product per step",
                ),
                Candidate(
                    DIRECT_NUMPY,
                    lambda weights=weights, forcing=forcing: direct_numpy(weights.numpy(), forcing.numpy()),  # type: ignore[misc]
                    error,
                    _TOLERANCE,
                    "one scalar product per step",
                ),
                [offline(length, transform) for length in lengths for transform in ("torch.fft", "scipy.fft")],
                Candidate(
                    POWER,
                    offline(power, "torch.fft").run,
                    offline(power, "torch.fft").error,
                    _TOLERANCE,
                    f"torch.fft, length {power}",
                    "floor",
                ),
                *for_convolution(subject),
            ),
            (
                Goal(goal, at_least=DIRECT),
                Goal(goal, at_least=DIRECT_NUMPY),
                Goal(2.0, at_most=OFFLINE),
                Goal(2.0, at_most=POWER),
            ),
        )
