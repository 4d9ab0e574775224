"""Train the networks of the chapter "Does density stabilize training?" and store what became of them.

    python notebooks/control/stability_training.py

tunes the learning rate of every design on seeds of its own, trains ten other seeds with it, and writes
stability_training.npz beside this file.  What the file holds already is kept: delete it to begin anew.
Networks that differ in the seed are trained in one stack: Adam acts on each entry alone, so this is the same
as training them one by one.  The chapter repeats a part of the trainings and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dnlbook.data import Dataset, two_spirals
from dnlbook.dense import pair_index

STORE = Path(__file__).with_suffix(".npz")
WIDTH = 8
STEPS = 200  # of the optimizer
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TUNING, SEEDS = tuple(range(100, 104)), tuple(range(10))
NOISE, DRAWS = 0.02, 8  # standard deviation added to every parameter, and how often
BEGIN = 10  # steps after which losses are stored, so that the chapter can repeat the start of every training
NUDGE = 1e-12  # relative change of the first weights, to see whether a training forgets its rounding errors
MEASURED = ("loss", "correct", "test", "noisy", "slope")

Weights = list[Tensor]


@dataclass(frozen=True)
class Design:
    """An architecture, the factor in front of a layer, its sizes and how long it is trained."""

    kind: str  # "plain", "residual" or "dense"
    scaling: str  # "none", "sqrt" or "euler", as in the library
    depth: int
    hidden: int = WIDTH
    steps: int = STEPS

    @property
    def key(self) -> str:
        return f"{self.kind}-{self.scaling}-{self.depth}-{self.hidden}-{self.steps}"

    @property
    def factor(self) -> float:
        return {"none": 1.0, "sqrt": self.depth**-0.5, "euler": 1 / self.depth}[self.scaling]

    @property
    def sets(self) -> int:
        """How many triples (V, W, b) there are."""
        return self.depth * (self.depth + 1) // 2 if self.kind == "dense" else self.depth

    @property
    def parameters(self) -> int:
        return self.sets * (2 * WIDTH + 1) * self.hidden

    @property
    def work(self) -> int:
        """Multiplications of all forward passes of the training, for one point."""
        return self.sets * 2 * WIDTH * self.hidden * self.steps

    @property
    def wide(self) -> Design:
        """The residual network of this depth with as many parameters, and as much work, as the dense one."""
        return replace(self, kind="residual", hidden=WIDTH * (self.depth + 1) // 2)

    @property
    def long(self) -> Design:
        """The residual network of this depth and width, trained with as much work as the dense one."""
        return replace(self, kind="residual", steps=STEPS * (self.depth + 1) // 2)


SCALINGS = ("none", "sqrt", "euler")
DEPTHS = (4, 8, 16, 32)
PLAIN = [Design("plain", "none", depth) for depth in (*DEPTHS, 64)]
RESIDUAL = [Design("residual", scaling, depth) for scaling in SCALINGS for depth in (*DEPTHS, 64)]
DENSE = [Design("dense", scaling, depth) for scaling in SCALINGS for depth in DEPTHS]
DESIGNS = [*PLAIN, *RESIDUAL, *DENSE, *(d.wide for d in DENSE), *(d.long for d in DENSE if d.depth > 4)]


def targets_first(depth: int) -> list[int]:
    """Positions in the order of the library (by source) of the pairs ordered by target."""
    return [pair_index(l, k, depth) for l in range(1, depth + 1) for k in range(l)]


def initial(design: Design, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """V ~ N(0, 1/m), W ~ N(0, 1/n), b = 0, in the shapes and the order of the library."""
    source, m = torch.Generator().manual_seed(seed), design.hidden
    V = torch.randn(design.sets, WIDTH, m, generator=source, dtype=torch.float64) / math.sqrt(m)
    W = torch.randn(design.sets, m, WIDTH, generator=source, dtype=torch.float64) / math.sqrt(WIDTH)
    return V, W, torch.zeros(design.sets, m, dtype=torch.float64)


def stacked(design: Design, seeds: tuple[int, ...]) -> Weights:
    """First weights of one network per seed, transposed; V of a dense network is ordered by target."""
    V, W, b = (torch.stack(parts) for parts in zip(*(initial(design, seed) for seed in seeds), strict=True))
    if design.kind == "dense":
        V = V[:, targets_first(design.depth)]
    return [V.mT.contiguous(), W.mT.contiguous(), b[:, :, None]]


def output(design: Design, weights: Weights, x0: Tensor) -> Tensor:
    """x^L of a stack of networks, for x0 of shape (networks, B, n)."""
    V, W, b = weights
    if design.kind == "dense":
        return dense(x0, V, W, b, design.factor)
    x = x0
    for v, w, bias in zip(V.unbind(1), W.unbind(1), b.unbind(1), strict=True):
        feature = torch.tanh(torch.baddbmm(bias, x, w)) @ v
        x = feature if design.kind == "plain" else x + design.factor * feature
    return x


def dense(x0: Tensor, V: Tensor, W: Tensor, b: Tensor, factor: float) -> Tensor:
    """Each source makes the hidden layers of all its targets, each target reads those of all its sources."""
    m, depth = V.shape[2], round(math.sqrt(2 * V.shape[1] + 0.25) - 0.5)
    sources = [(depth - k) * m for k in range(depth)]
    maps, biases = (part.transpose(1, 2).flatten(2).split(sources, 2) for part in (W, b))
    rows = V.flatten(1, 2).split([l * m for l in range(1, depth + 1)], 1)
    offers: list[list[Tensor]] = [[] for _ in range(depth)]
    x = x0
    for k in range(depth):
        hidden = torch.tanh(torch.baddbmm(biases[k], x, maps[k]))
        for target, part in zip(offers[k:], hidden.split(m, 2), strict=True):
            target.append(part)
        x = torch.baddbmm(x0, torch.cat(offers[k], 2), rows[k], alpha=factor)
    return x


def spirals() -> tuple[Dataset, Tensor, Tensor]:
    """The data, and inputs (64, n) and targets (64,) of the training."""
    data = two_spirals(samples=64)
    return data, lifted(data.x_train), 1 - 2.0 * data.y_train


def lifted(points: Tensor) -> Tensor:
    """Points of the disk of radius 2 as first states: halved, with zeros as further coordinates."""
    return pad(points / 2, (0, WIDTH - 2))


def losses(design: Design, weights: Weights, x0: Tensor, y: Tensor) -> Tensor:
    """Half the mean squared distance of the first coordinate of x^L from the sign y, for each network."""
    return (output(design, weights, x0.expand(len(weights[0]), -1, -1))[..., 0] - y).square().mean(1) / 2


def train(
    design: Design, seeds: tuple[int, ...], rate: float, *, stop: int | None = None, nudge: float = 0.0
) -> Weights:
    """Adam on full batches with a learning rate that falls to zero like a cosine, one network per seed."""
    weights = [(part * (1 + nudge)).requires_grad_() for part in stacked(design, seeds)]
    _, x0, y = spirals()
    moments = [(torch.zeros_like(part), torch.zeros_like(part)) for part in weights]
    for step in range(design.steps if stop is None else stop):
        gradients = torch.autograd.grad(losses(design, weights, x0, y).sum(), weights)
        size = rate * (0.5 + 0.5 * math.cos(math.pi * step / design.steps))
        size *= math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        with torch.no_grad():
            for part, gradient, (first, second) in zip(weights, gradients, moments, strict=True):
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                part -= size * first / (second.sqrt() + 1e-8)
    return [part.detach() for part in weights]


def correct(design: Design, weights: Weights, x0: Tensor, y: Tensor) -> Tensor:
    """Share of points on the right side, for each network."""
    outputs = output(design, weights, x0.expand(len(weights[0]), -1, -1))[..., 0]
    return (outputs * y > 0).double().mean(1)


def noisy(design: Design, weights: Weights, x0: Tensor, y: Tensor) -> Tensor:
    """Mean increase of the loss when noise is added to all parameters."""
    source, total = torch.Generator().manual_seed(1), torch.zeros(len(weights[0]), dtype=torch.float64)
    for _ in range(DRAWS):
        moved = [part + NOISE * torch.randn(part.shape, generator=source, dtype=part.dtype) for part in weights]
        total += losses(design, moved, x0, y) / DRAWS
    return total - losses(design, weights, x0, y)


def slopes(design: Design, weights: Weights, x0: Tensor) -> Tensor:
    """The largest spectral norm of the derivative of x^L by x^0 at the data, for each network."""
    start = x0.expand(len(weights[0]), -1, -1).clone().requires_grad_()
    end = output(design, weights, start)
    rows = [torch.autograd.grad(end[..., i].sum(), start, retain_graph=True)[0] for i in range(WIDTH)]
    return torch.linalg.matrix_norm(torch.stack(rows, 2), 2).amax(1)


def measure(design: Design, weights: Weights) -> Tensor:
    """The numbers named by MEASURED, shape (5, networks)."""
    data, x0, y = spirals()
    with torch.no_grad():
        found = [
            losses(design, weights, x0, y),
            correct(design, weights, x0, y),
            correct(design, weights, lifted(data.x_test), 1 - 2.0 * data.y_test),
            noisy(design, weights, x0, y),
        ]
    return torch.stack([*found, slopes(design, weights, x0)])


def tune(design: Design) -> Tensor:
    """Losses and shares of correct points after training with each rate, shape (2, rates, tuning seeds)."""
    found = []
    for rate in RATES:
        weights = train(design, TUNING, rate)
        found.append(measure(design, weights)[:2])
    return torch.stack(found, 1)


def chosen(tuned: Tensor, rule: str) -> float:
    """The rate whose worst ("cautious") or mean logarithmic ("keen") loss over the tuning seeds is least."""
    loss = tuned[0].log()
    return RATES[int((loss.amax(1) if rule == "cautious" else loss.mean(1)).argmin())]


def load() -> dict[str, Tensor]:
    """All stored arrays: key/tuned as :func:`tune` and key/at-rate as :func:`measure` returned them."""
    with np.load(STORE) as store:
        return {key: torch.from_numpy(store[key]) for key in store}


def tuned_rate(design: Design, held: dict[str, Tensor], rule: str = "cautious") -> float:
    return chosen(held[f"{design.key}/tuned"], rule)


def rates_of(design: Design, held: dict[str, Tensor]) -> list[float]:
    """The rates of both rules, and for networks of width 8 the one that was chosen at depth 4."""
    shallow = replace(design, depth=4)
    found = {tuned_rate(design, held, rule) for rule in ("cautious", "keen")}
    return sorted(found | ({tuned_rate(shallow, held)} if f"{shallow.key}/tuned" in held else set()))


def begun(design: Design, held: dict[str, Tensor], seeds: tuple[int, ...] = SEEDS) -> Tensor:
    """Losses after the first steps of the training at the tuned rate."""
    _, x0, y = spirals()
    return losses(design, train(design, seeds, tuned_rate(design, held), stop=BEGIN), x0, y)


def tasks(design: Design, held: dict[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """What the file holds about a design, and how to compute it; the rates are known once it is tuned."""
    todo: dict[str, Callable[[], Tensor]] = {f"{design.key}/tuned": lambda: tune(design)}
    if f"{design.key}/tuned" in held:
        for rate in rates_of(design, held):
            todo[f"{design.key}/at-{rate}"] = partial(lambda r: measure(design, train(design, SEEDS, r)), rate)
        todo[f"{design.key}/begun"] = lambda: begun(design, held)
        if design.hidden == WIDTH and design.steps == STEPS and design.depth <= 16:
            rate = tuned_rate(design, held)
            todo[f"{design.key}/again"] = lambda: measure(design, train(design, SEEDS, rate, nudge=NUDGE))
    return todo


def main() -> None:
    held = load() if STORE.exists() else {}
    for design in sorted(DESIGNS, key=lambda d: d.work):
        for _ in range(2):  # tuning first, then what depends on the rate
            for name, compute in tasks(design, held).items():
                if name not in held:
                    held[name] = compute()
                    np.savez_compressed(STORE, **{key: part.numpy() for key, part in held.items()})
                    print(name, flush=True)
    print(f"{STORE.name}: {STORE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
