"""Forward and backward passes by name, for child processes that measure their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.groups.dense_problem import DenseProblem, loop_fused, stacked
from benchmarks.groups.gradients import gradient
from dnlbook.dense import dense_forward
from dnlbook.residual import residual_map

Pass = Callable[[], tuple[Tensor, ...]]
WARM_UP_DEPTH = 4


def _engine(batch: int, width: int, depth: int, memory: str) -> Pass:
    problem = DenseProblem.sample(batch, width, depth)
    x0, V, W, b = problem.leaves()
    return lambda: gradient(lambda: dense_forward(x0, (V, W, b), step=problem.step, memory=memory)[-1], (x0, V, W, b))


def dense(batch: int, width: int, depth: int) -> Pass:
    """The engine, which computes features again."""
    return _engine(batch, width, depth, "recompute")


def dense_store(batch: int, width: int, depth: int) -> Pass:
    """The engine, which keeps features."""
    return _engine(batch, width, depth, "store")


def loop(batch: int, width: int, depth: int) -> Pass:
    """The double loop that autograd records."""
    problem = DenseProblem.sample(batch, width, depth)
    x0, parts = problem.x0.requires_grad_(), problem.nested(leaves=True)
    leaves = [x0, *(pair for part in parts for row in part for pair in row)]
    return lambda: gradient(lambda: loop_fused(x0, *parts, problem.step)[-1], leaves)


def batched(batch: int, width: int, depth: int) -> Pass:
    """One batched product per layer that autograd records."""
    problem = DenseProblem.sample(batch, width, depth)
    x0, parts = problem.x0.requires_grad_(), problem.by_target(leaves=True)
    leaves = [x0, *(tensor for part in parts for tensor in part)]
    return lambda: gradient(lambda: stacked(x0, *parts, problem.step)[-1], leaves)


def residual(batch: int, width: int, hidden: int, depth: int) -> Pass:
    """The residual network with its hand-written adjoint."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, width, generator=generator)
    V = torch.randn(depth, width, hidden, generator=generator) * hidden**-0.5
    W = torch.randn(depth, hidden, width, generator=generator) * width**-0.5
    leaves = [part.requires_grad_() for part in (x0, V, W, torch.zeros(depth, hidden))]
    return lambda: gradient(lambda: residual_map(leaves[0], *leaves[1:], step=1 / depth), leaves)


#: the last size of each pass is the depth
PASSES: dict[str, Callable[..., Any]] = {
    "dense": dense,
    "dense-store": dense_store,
    "loop": loop,
    "batched": batched,
    "residual": residual,
}
