"""The densely connected network in its concatenating form against the ``torch.cat`` idiom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.groups.floor import gemm_floor
from benchmarks.groups.gradients import distance, gradient
from benchmarks.groups.ideas import concatenation_in_blocks
from benchmarks.record import Goal
from benchmarks.timing import Candidate, Case
from dnlbook.concatenation import concatenation_forward

IDIOM = "torch.cat, shared features"
_TOLERANCE = 2e-5
_IDEAS = {
    "activation and slope in place": 1,
    "the same, and products for four layers at a time": 4,
    "the same, and products for eight layers at a time": 8,
}


def shared(x0: Tensor, A: Sequence[Tensor]) -> Tensor:
    """Features computed once, concatenated anew for every layer."""
    values, features = [x0], [torch.tanh(x0)]
    for weight in A:
        values.append(F.linear(torch.cat(features, 1), weight))
        features.append(torch.tanh(values[-1]))
    return torch.cat(values, 1)


def literal(x0: Tensor, A: Sequence[Tensor]) -> Tensor:
    """As it is usually written: concatenate, activate, multiply."""
    values = [x0]
    for weight in A:
        values.append(F.linear(torch.tanh(torch.cat(values, 1)), weight))
    return torch.cat(values, 1)


def cases(quick: bool) -> Iterator[Case]:
    batch, width = (8, 4) if quick else (256, 32)
    for depth in (4,) if quick else (16, 64, 128):
        generator = torch.Generator().manual_seed(0)
        x0 = torch.randn(batch, width, generator=generator)
        A = [
            torch.randn(width, columns, generator=generator) * columns**-0.5
            for columns in range(width, (depth + 1) * width, width)
        ]
        leaves = [part.clone().requires_grad_() for part in (x0, *A)]
        exact = [part.double().requires_grad_() for part in (x0, *A)]
        reference = gradient(lambda exact=exact: literal(exact[0], exact[1:]), exact)  # type: ignore[misc]

        def candidate(
            name: str,
            form: Callable[..., Tensor],
            setting: str,
            kind: str = "peer",
            leaves: list[Tensor] = leaves,
            reference: Sequence[Tensor] = reference,
        ) -> Candidate:
            return Candidate(
                name,
                lambda: gradient(lambda: form(leaves[0], leaves[1:]), leaves),
                lambda gradients: distance(gradients, reference),
                _TOLERANCE,
                setting,
                kind,
            )

        columns = sum(weight.shape[1] for weight in A)
        yield Case(
            f"concatenation-{depth}",
            f"L = {depth}",
            f"gradient of half the squared norm of a concatenating network, B = {batch}, L = {depth}, "
            f"n₀ = g = {width}, float32",
            "gradients of input and weights against the literal form in float64, relative to the largest entry",
            (
                candidate("dnlbook", concatenation_forward, "concatenation_forward", "subject"),
                candidate(IDIOM, shared, "features computed once"),
                candidate("torch.cat, literal form", literal, "features computed by every layer"),
                gemm_floor(3 * 2.0 * batch * width * columns, size=64 if quick else 1024),
                *(
                    candidate(f"dnlbook: {text}", concatenation_in_blocks(block), text, "idea")
                    for text, block in _IDEAS.items()
                ),
            ),
            (Goal(1.8, at_least=IDIOM),),
        )
