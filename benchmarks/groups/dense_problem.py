"""The dense non-local network of the benchmarks, and the ways to write it in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dnlbook.dense import pair_count, pair_index

Nested = list[list[Tensor]]


@dataclass(frozen=True)
class DenseProblem:
    """Data and packed parameters, ordered by source; the hidden width is the width."""

    x0: Tensor
    V: Tensor
    W: Tensor
    b: Tensor
    depth: int

    @classmethod
    def sample(cls, batch: int, width: int, depth: int) -> DenseProblem:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*shape, generator=generator)

        pairs = pair_count(depth)
        V = draw(pairs, width, width, scale=width**-0.5)
        W = draw(pairs, width, width, scale=width**-0.5)
        return cls(draw(batch, width), V, W, draw(pairs, width, scale=0.1), depth)

    @property
    def step(self) -> float:
        return 1 / self.depth

    @property
    def operations(self) -> float:
        """Floating-point operations of the products of a forward pass."""
        pairs, n, m = self.V.shape
        return 4.0 * len(self.x0) * n * m * pairs

    def double(self) -> DenseProblem:
        return DenseProblem(self.x0.double(), self.V.double(), self.W.double(), self.b.double(), self.depth)

    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copies of x0, V, W, b that ask for gradients."""
        x0, V, W, b = (part.detach().clone().requires_grad_() for part in (self.x0, self.V, self.W, self.b))
        return x0, V, W, b

    def nested(self, *, leaves: bool = False) -> tuple[Nested, Nested, Nested]:
        """One tensor per pair, by target and source: autograd is slow on slices of one large tensor."""
        V, W, b = (
            [
                [part[pair_index(l, k, self.depth)].clone().requires_grad_(leaves) for k in range(l)]
                for l in range(1, self.depth + 1)
            ]
            for part in (self.V, self.W, self.b)
        )
        return V, W, b

    def by_target(self, *, leaves: bool = False) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """One batch of products per target, transposed as ``baddbmm`` wants it."""
        V, W, b = self.nested()
        turned = [[torch.stack([pair.mT for pair in row]).contiguous() for row in part] for part in (V, W)]
        biases = [torch.stack(row).unsqueeze(1) for row in b]
        first, second, third = ([part.requires_grad_(leaves) for part in parts] for parts in (*turned, biases))
        return first, second, third

    def packed(self, nested: Nested) -> Tensor:
        """Nested tensors by target and source, in the packed order by source."""
        order = ((l, k) for k in range(self.depth) for l in range(k + 1, self.depth + 1))
        return torch.stack([nested[l - 1][k] for l, k in order])


def loop_linear(x0: Tensor, V: Nested, W: Nested, b: Nested, step: float) -> list[Tensor]:
    """The double loop, the step taken out of the inner sum."""
    states = [x0]
    for row_V, row_W, row_b in zip(V, W, b, strict=True):
        total = torch.zeros_like(x0)
        for x, outer, inner, bias in zip(states, row_V, row_W, row_b, strict=True):
            total = total + F.linear(torch.tanh(F.linear(x, inner, bias)), outer)
        states.append(x0 + step * total)
    return states


def loop_fused(x0: Tensor, V: Nested, W: Nested, b: Nested, step: float) -> list[Tensor]:
    """The double loop with the sum fused into the second product."""
    states = [x0]
    for row_V, row_W, row_b in zip(V, W, b, strict=True):
        total = x0
        for x, outer, inner, bias in zip(states, row_V, row_W, row_b, strict=True):
            hidden = torch.tanh(torch.addmm(bias, x, inner.mT))
            total = torch.addmm(total, hidden, outer.mT, alpha=step)
        states.append(total)
    return states


def loop_in_place(x0: Tensor, V: Nested, W: Nested, b: Nested, step: float) -> list[Tensor]:
    """The double loop without gradients: activation and sum in place."""
    states = [x0]
    for row_V, row_W, row_b in zip(V, W, b, strict=True):
        total = x0.clone()
        for x, outer, inner, bias in zip(states, row_V, row_W, row_b, strict=True):
            total.addmm_(torch.addmm(bias, x, inner.mT).tanh_(), outer.mT, alpha=step)
        states.append(total)
    return states


def stacked(x0: Tensor, V: list[Tensor], W: list[Tensor], b: list[Tensor], step: float) -> list[Tensor]:
    """One batched product per layer over all of its sources."""
    states = [x0]
    for outer, inner, bias in zip(V, W, b, strict=True):
        hidden = torch.tanh(torch.baddbmm(bias, torch.stack(states), inner))
        states.append(torch.add(x0, torch.bmm(hidden, outer).sum(0), alpha=step))
    return states
