"""The groups of measurements, by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import memory
from benchmarks.record import CaseResult
from benchmarks.timing import Pace, measure


@dataclass(frozen=True)
class Group:
    """Cases of one kind: where they are made, and which packages they compare with."""

    title: str
    source: str
    needs: tuple[str, ...] = ()
    own_process: bool = False

    def missing(self) -> list[str]:
        """What this group needs and this environment does not have."""
        lacking = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return lacking + (["a system that reports peak memory"] if self.own_process and not memory.available() else [])

    def results(self, quick: bool, pace: Pace) -> Iterator[CaseResult]:
        """Measure case after case: the inputs of one are gone when the next begins."""
        module, _, name = self.source.partition(":")
        function: Callable[..., Iterator[Any]] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        if name.endswith("results"):
            yield from function(quick, pace)
        else:
            for case in function(quick):
                yield measure(case, pace)


GROUPS = {
    "dense-forward": Group("Dense network, forward", "dense:forward_cases"),
    "dense-training": Group("Dense network, forward and backward", "dense:training_cases"),
    "dense-memory": Group("Dense network, memory", "dense_memory:results", own_process=True),
    "concatenation": Group("Network by concatenation", "concatenation:cases"),
    "volterra-linear": Group("Linear Volterra equation", "volterra:linear_cases", ("voles",)),
    "volterra-nonlinear": Group("Nonlinear Volterra equation", "volterra:nonlinear_cases"),
    "convolution": Group("Convolution equation on a long grid", "convolution:cases"),
    "residual": Group("Residual network", "residual:cases", ("torchdiffeq", "torchode", "jax", "diffrax")),
    "growth-time": Group("Growth of time with depth", "growth:time_results"),
    "growth-memory": Group("Growth of memory with depth", "growth:memory_results", own_process=True),
}
