"""The dense non-local network against a floor and against plain PyTorch: time forward, and forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.groups.dense_problem import DenseProblem, loop_fused, loop_in_place, loop_linear, stacked
from benchmarks.groups.floor import NAME as FLOOR
from benchmarks.groups.floor import gemm_floor
from benchmarks.groups.gradients import distance, gradient
from benchmarks.groups.ideas import for_dense
from benchmarks.record import Goal
from benchmarks.timing import Candidate, Case
from dnlbook.dense import dense_forward

LOOP = "PyTorch double loop"
_TOLERANCE = 2e-5
_WIDTHS = {16: (2.6, 3.5, 7.0), 32: (1.9, 2.6, 4.0), 64: (1.5, 2.2, 1.7)}


def _sizes(quick: bool) -> tuple[int, int, dict[int, tuple[float, float, float]]]:
    return (8, 4, {16: _WIDTHS[16]}) if quick else (256, 64, _WIDTHS)


def forward_cases(quick: bool) -> Iterator[Case]:
    """All states, without gradients."""
    batch, depth, widths = _sizes(quick)
    for width, (times_floor, _, _) in widths.items():
        problem = DenseProblem.sample(batch, width, depth)
        exact = problem.double()
        with torch.no_grad():
            reference = torch.stack(loop_linear(exact.x0, *exact.nested(), exact.step))
        nested, by_target = problem.nested(), problem.by_target()

        def error(states: Tensor | Sequence[Tensor], reference: Tensor = reference) -> float:
            value = states if isinstance(states, Tensor) else torch.stack(list(states))
            return distance([value], [reference])

        def plain(function, parts, setting, name, problem=problem, error=error) -> Candidate:  # type: ignore[no-untyped-def]
            run = torch.no_grad()(lambda: function(problem.x0, *parts, problem.step))
            return Candidate(name, run, error, _TOLERANCE, setting)

        def ours(problem: DenseProblem = problem) -> Tensor:
            return dense_forward(problem.x0, (problem.V, problem.W, problem.b), step=problem.step)

        subject = Candidate("dnlbook", torch.no_grad()(ours), error, _TOLERANCE, "dense_forward", "subject")
        yield Case(
            f"dense-forward-{width}",
            f"n = {width}",
            f"all states of a dense non-local network, B = {batch}, L = {depth}, n = m = {width}, float32",
            "states against a double loop in float64, relative to the largest entry",
            (
                subject,
                [
                    plain(loop_in_place, nested, "in place, sum fused into the product", LOOP),
                    plain(loop_fused, nested, "sum fused into the product", LOOP),
                    plain(loop_linear, nested, "functional.linear", LOOP),
                ],
                plain(stacked, by_target, "torch.stack and baddbmm", "PyTorch batched over sources"),
                gemm_floor(problem.operations, size=64 if quick else 1024),
                *for_dense(subject),
            ),
            (Goal(times_floor, at_most=FLOOR),),
        )


def training_cases(quick: bool) -> Iterator[Case]:
    """The gradient of |x^L|²/2 with respect to input and parameters: a forward and a backward pass."""
    batch, depth, widths = _sizes(quick)
    for width, (_, times_floor, times_loop) in widths.items():
        problem = DenseProblem.sample(batch, width, depth)
        reference = _reference(problem)
        subject = ours(problem, reference, "recompute", "subject")
        yield Case(
            f"dense-training-{width}",
            f"n = {width}",
            f"gradient of half the squared norm of the output, B = {batch}, L = {depth}, n = m = {width}, float32",
            "gradients of input and parameters against a double loop in float64, relative to the largest entry",
            (
                subject,
                ours(problem, reference, "store", "variant"),
                [loop(problem, reference, fused) for fused in (True, False)],
                batched(problem, reference),
                gemm_floor(3 * problem.operations, size=64 if quick else 1024),
                *for_dense(subject),
            ),
            (Goal(times_floor, at_most=FLOOR), Goal(times_loop, at_least=LOOP)),
        )


def _reference(problem: DenseProblem) -> tuple[Tensor, ...]:
    exact = problem.double()
    return _loop_gradient(exact, loop_linear)[0]()


def _loop_gradient(problem: DenseProblem, function):  # type: ignore[no-untyped-def]
    """The packed gradient of a double loop, to be compared, and its gradients as they come, to be timed."""
    x0 = problem.x0.clone().requires_grad_()
    parts = problem.nested(leaves=True)
    flat = [x0, *(pair for part in parts for row in part for pair in row)]

    def run() -> tuple[Tensor, ...]:
        return gradient(lambda: function(x0, *parts, problem.step)[-1], flat)

    def pack(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rest = iter(gradients[1:])
        nested = [[[next(rest) for _ in row] for row in part] for part in parts]
        return (gradients[0], *(problem.packed(part) for part in nested))

    return (lambda: pack(run())), run, pack


def ours(problem: DenseProblem, reference: Sequence[Tensor], memory: str, kind: str) -> Candidate:
    x0, V, W, b = problem.leaves()
    return Candidate(
        "dnlbook" if kind == "subject" else f"dnlbook, memory={memory!r}",
        lambda: gradient(lambda: dense_forward(x0, (V, W, b), step=problem.step, memory=memory)[-1], (x0, V, W, b)),
        lambda gradients: distance(gradients, reference),
        _TOLERANCE,
        f"dense_forward, memory={memory!r}",
        kind,
    )


def loop(problem: DenseProblem, reference: Sequence[Tensor], fused: bool) -> Candidate:
    _, run, pack = _loop_gradient(problem, loop_fused if fused else loop_linear)
    return Candidate(
        LOOP,
        run,
        lambda gradients: distance(pack(gradients), reference),
        _TOLERANCE,
        "one leaf tensor per pair, " + ("sum fused into the product" if fused else "functional.linear"),
    )


def batched(problem: DenseProblem, reference: Sequence[Tensor]) -> Candidate:
    x0 = problem.x0.clone().requires_grad_()
    parts = problem.by_target(leaves=True)
    flat = [x0, *(tensor for part in parts for tensor in part)]

    def pack(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        depth = problem.depth
        V, W, b = (gradients[1 + i * depth : 1 + (i + 1) * depth] for i in range(3))
        turned = [problem.packed([list(row.mT) for row in part]) for part in (V, W)]
        return (gradients[0], *turned, problem.packed([list(row.squeeze(1)) for row in b]))

    return Candidate(
        "PyTorch batched over sources",
        lambda: gradient(lambda: stacked(x0, *parts, problem.step)[-1], flat),
        lambda gradients: distance(pack(gradients), reference),
        _TOLERANCE,
        "torch.stack and baddbmm, one leaf tensor per target",
    )
