"""Peak memory of the dense engine against what autograd keeps for a loop."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks import memory
from benchmarks.record import CaseResult, Goal, Judged, Outcome, Spread
from benchmarks.timing import Pace, SubjectError

_NAIVE = "PyTorch double loop"
_TOLERANCE = 1e-4
_ROUNDS = 3
#: name on the page, pass in a child process, setting, kind
_CANDIDATES = (
    ("dnlbook", "dense", "dense_forward, memory='recompute'", "subject"),
    ("dnlbook, memory='store'", "dense-store", "dense_forward, memory='store'", "variant"),
    (_NAIVE, "loop", "autograd, sum fused into the product", "peer"),
    ("PyTorch batched over sources", "batched", "autograd, torch.stack and baddbmm", "peer"),
)


def results(quick: bool, pace: Pace) -> Iterator[CaseResult]:
    """Candidates take turns, each in a process of its own."""
    sizes = (256, 32, 12) if quick else (256, 32, 128)
    rounds = [
        {name: memory.measure(source, *sizes) for name, source, _, _ in _CANDIDATES}
        for _ in range(1 if quick else _ROUNDS)
    ]
    exact = rounds[0][_NAIVE]["norm"]
    outcomes, beyond = [], {}
    for name, _, setting, kind in _CANDIDATES:
        error = max(abs(report[name]["norm"] - exact) / exact for report in rounds)
        passes = error <= _TOLERANCE
        if kind == "subject" and not passes:
            raise SubjectError(f"dense-memory: {name} has an error of {error:.3g}, expected at most {_TOLERANCE:g}")
        values = [max(report[name]["beyond"], 4096.0) for report in rounds]
        if passes:
            beyond[name] = values
        own = beyond["dnlbook"]
        outcomes.append(
            Outcome(
                name,
                setting,
                kind,
                error if math.isfinite(error) else None,
                _TOLERANCE,
                Spread.of(values) if passes else None,
                Spread.of([value / base for value, base in zip(values, own, strict=True)]) if passes else None,
            )
        )
    goal = Goal(10.0, at_least=_NAIVE)
    measured = next(outcome.ratio for outcome in outcomes if outcome.name == _NAIVE)
    batch, width, depth = sizes
    yield CaseResult(
        "dense-memory",
        f"L = {depth}",
        f"peak memory beyond parameters and their gradients of a forward and a backward pass of a dense non-local "
        f"network, B = {batch}, L = {depth}, n = m = {width}, float32",
        "squared norm of all gradients against that of the double loop, relative",
        "B",
        tuple(outcomes),
        (Judged(goal, measured),),
    )
