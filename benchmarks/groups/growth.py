"""How time and memory grow with depth: the slope on logarithmic axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from benchmarks import memory
from benchmarks.groups.passes import PASSES
from benchmarks.record import CaseResult, Goal, Judged, Outcome, Spread
from benchmarks.timing import Pace, sample_times

_GOALS = {"dense": Goal(2.0), "residual": Goal(1.0)}
#: batch, width and, for the residual network, hidden width; then the depths
_TIME = {"dense": ((256, 32), (32, 64, 128, 256)), "residual": ((256, 32, 64), (64, 128, 256, 512))}
_MEMORY = {"dense": ((1024, 32), (32, 64, 128, 256)), "residual": ((1024, 32, 64), (64, 128, 256, 512))}
_QUICK = {"dense": ((8, 4), (2, 4, 8)), "residual": ((8, 4, 4), (2, 4, 8))}
_QUICK_MEMORY = {"dense": ((256, 32), (8, 16)), "residual": ((256, 32, 32), (32, 64))}
_ROUNDS = 3


def slope(depths: tuple[int, ...], values: list[float]) -> float:
    """The least-squares slope of log value over log depth.

    >>> round(slope((2, 4, 8), [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return statistics.linear_regression([math.log(L) for L in depths], [math.log(v) for v in values]).slope


def _result(
    what: str,
    kind: str,
    sizes: tuple[int, ...],
    depths: tuple[int, ...],
    rounds: list[list[float]],
    goal: Goal,
) -> CaseResult:
    """The exponents of the rounds, each a list of one value per depth, against the goal."""
    exponents = Spread.of([slope(depths, values) for values in rounds])
    points = tuple((L, statistics.median(column)) for L, column in zip(depths, zip(*rounds, strict=True), strict=True))
    names = ("B", "n", "m")[: len(sizes)] if kind == "residual" else ("B", "n = m")
    said = ", ".join(f"{name} = {size}" for name, size in zip(names, sizes, strict=True))
    return CaseResult(
        f"growth-{what}-{kind}",
        kind,
        ("time" if what == "time" else "peak memory beyond parameters and their gradients")
        + f" of a forward and a backward pass, {kind} network, {said}, L = {depths[0]} to {depths[-1]}, float32",
        f"slope of log {what} over log L, one per round",
        "exponent",
        (Outcome("dnlbook", "", "subject", None, None, exponents, None, points),),
        (Judged(goal, exponents),),
    )


def time_results(quick: bool, pace: Pace) -> Iterator[CaseResult]:
    """Depths are timed in turns; each round gives a slope."""
    for kind, (sizes, depths) in (_QUICK if quick else _TIME).items():
        times = sample_times([PASSES[kind](*sizes, L) for L in depths], pace, together=True)
        rounds = [[time_of[number] for time_of in times] for number in times[0]]
        yield _result("time", kind, sizes, depths, rounds, _GOALS[kind])


def memory_results(quick: bool, pace: Pace) -> Iterator[CaseResult]:
    """Each depth has a process of its own; each round gives a slope."""
    for kind, (sizes, depths) in (_QUICK_MEMORY if quick else _MEMORY).items():
        count = 1 if quick else _ROUNDS
        rounds = [[memory.measure(kind, *sizes, L)["beyond"] for L in depths] for _ in range(count)]
        yield _result("memory", kind, sizes, depths, rounds, Goal(1.0))
