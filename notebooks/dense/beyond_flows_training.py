"""Train the networks of the chapter "What a flow cannot do" and store their weights.

    python notebooks/dense/beyond_flows_training.py

trains all of them, five seeds each, and writes beyond_flows_training.npz beside this file.
The chapter loads the weights into the library's networks, measures everything there, and repeats a part of
the training.  Networks that differ in seed and target are trained in one stack: Adam acts on each entry
alone, so this is the same as training them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from dnlbook.data import two_circles
from dnlbook.dense import pair_index

STORE = Path(__file__).with_suffix(".npz")
SEEDS = 5
START = 50  # optimizer steps after which losses are stored, so that the start can be repeated exactly
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"-x": torch.neg, "x^2": torch.square, "|x|": torch.abs}
GAIN = 4.0  # the readout of the plane is 4 (q.x + c) with a unit vector q: the margin has to come from the map

Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Design:
    """An architecture, its sizes, the cap on the Lipschitz constants of its features, and its training."""

    kind: str  # "residual", "dense", or "blocks": a kernel that is constant on all blocks of the triangle
    width: int
    depth: int
    hidden: int
    cap: float = math.inf
    repeats: tuple[int, ...] = (1,)  # steps per layer or block, one number for each phase of the training
    steps: tuple[int, ...] = (1500,)  # of the optimizer, one number for each phase

    @property
    def sets(self) -> int:
        """How many triples (V, W, b) there are."""
        below = self.depth * (self.depth - 1) // 2
        return {"residual": self.depth, "dense": below + self.depth, "blocks": below + self.depth}[self.kind]

    @property
    def parameters(self) -> int:
        return self.sets * (2 * self.width + 1) * self.hidden


DESIGNS = {
    "line": {
        "flow": Design("residual", 1, 9, 7, cap=8.1, repeats=(3,)),
        "homeomorphic": Design("residual", 1, 9, 7, cap=8.1),
        "free": Design("residual", 1, 7, 9),
        "dense": Design("dense", 1, 6, 3),
        "limit": Design("blocks", 1, 6, 3, cap=8.0, repeats=(4, 16), steps=(500, 100)),
    },
    "plane": {
        "flow": Design("residual", 2, 12, 7, cap=4.0, repeats=(2,), steps=(500,)),
        "homeomorphic": Design("residual", 2, 12, 7, cap=10.8, steps=(500,)),
        "free": Design("residual", 2, 6, 14, steps=(500,)),
        "dense": Design("dense", 2, 6, 4, cap=4.0, steps=(500,)),
        "augmented": Design("residual", 3, 12, 5, cap=4.0, repeats=(2,), steps=(500,)),
        "limit": Design("blocks", 2, 6, 4, cap=4.0, repeats=(4, 12), steps=(400, 100)),
    },
}


def lipschitz_bound(V: Tensor, W: Tensor) -> Tensor:
    """At least the Lipschitz constant of V tanh(W x + b), for shapes (..., n, m) and (..., m, n)."""
    if V.shape[-2] == 1:
        return (V * W.mT).abs().sum((-1, -2))
    return torch.linalg.matrix_norm(V) * torch.linalg.matrix_norm(W)


def capped(weights: Triple, cap: float) -> Triple:
    """The weights with V scaled down wherever the bound exceeds the cap."""
    V, W, b = weights
    if math.isinf(cap):
        return weights
    return V * (cap / lipschitz_bound(V, W)).clamp(max=1)[..., None, None], W, b


def features(x: Tensor, V: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """V tanh(W x + b) for stacks of networks, x of shape (..., B, n)."""
    return torch.tanh(x @ W.mT + b[..., None, :]) @ V.mT


def residual(x: Tensor, weights: Triple, repeats: int) -> Tensor:
    """Several Euler steps per layer, x of shape (networks, B, n)."""
    depth = weights[0].shape[1]
    for k in range(depth):
        for _ in range(repeats):
            x = x + features(x, *(part[:, k] for part in weights)) / (depth * repeats)
    return x


def dense(x0: Tensor, weights: Triple, depth: int) -> Tensor:
    """The dense network, weights ordered by target: row l holds the sources 0 .. l - 1."""
    states = [x0]
    for l in range(1, depth + 1):
        row = slice(l * (l - 1) // 2, l * (l + 1) // 2)
        sources = torch.stack(states, 1)
        states.append(x0 + features(sources, *(part[:, row] for part in weights)).sum(1) / depth)
    return states[-1]


def blocks(x0: Tensor, weights: Triple, depth: int, repeats: int) -> Tensor:
    """The left rule with several steps per block; row l of the weights holds the blocks 0 .. l."""
    step, states = 1 / (depth * repeats), [x0]
    for l in range(depth):
        first = l * (l + 1) // 2
        x = x0
        if l:
            row = slice(first, first + l)
            past = torch.stack(states[: l * repeats], 1).unflatten(1, (l, repeats)).flatten(2, 3)
            each = features(past, *(part[:, row] for part in weights))
            x = x0 + step * each.unflatten(2, (repeats, -1)).sum((1, 2))
        for _ in range(repeats):
            x = x + step * features(states[-1], *(part[:, first + l] for part in weights))
            states.append(x)
    return states[-1]


def output(design: Design, weights: Triple, x0: Tensor, repeats: int) -> Tensor:
    """x(T) of every network of a stack."""
    if design.kind == "residual":
        return residual(x0, weights, repeats)
    if design.kind == "dense":
        return dense(x0, weights, design.depth)
    return blocks(x0, weights, design.depth, repeats)


def initial(design: Design) -> Triple:
    """V ~ N(0, 1/m), W ~ N(0, 1), b ~ N(0, 1/4); every seed has a generator of its own."""
    n, m, drawn = design.width, design.hidden, []
    for seed in range(SEEDS):
        source = torch.Generator().manual_seed(seed)
        shapes = ((design.sets, n, m), (design.sets, m, n), (design.sets, m))
        drawn.append([torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes])
    V, W, b = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    return V / math.sqrt(m), W, b / 2


def line_points(count: int = 64) -> Tensor:
    """The midpoints of equal intervals of [-1, 1], shape (count, 1)."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1)[:, None]


def lifted(x: Tensor, width: int) -> Tensor:
    """Points of the plane with zeros as further coordinates."""
    return pad(x, (0, width - x.shape[1]))


def problem(task: str, design: Design) -> tuple[Tensor, Triple, list[Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Inputs, first weights, first readout, and the loss of every network from outputs and readout."""
    start = initial(design)
    if task == "line":
        x = line_points()
        y = torch.stack([target(x) for target in TARGETS.values()]).repeat_interleave(SEEDS, 0)
        start = tuple(part.repeat(len(TARGETS), *(1,) * (part.ndim - 1)) for part in start)
        return x.expand(len(y), -1, -1), start, [], lambda out, _: (out - y).square().mean((1, 2))
    circles = two_circles()
    sign = 2.0 * circles.y_train - 1
    sources = [torch.Generator().manual_seed(100 + seed) for seed in range(SEEDS)]
    q = torch.stack([torch.randn(design.width, generator=source, dtype=torch.float64) for source in sources])
    readout = [q.requires_grad_(), torch.zeros(SEEDS, dtype=torch.float64, requires_grad=True)]
    x0 = lifted(circles.x_train, design.width).expand(SEEDS, -1, -1)
    return x0, start, readout, lambda out, unit: softplus(-sign * logits(out, unit, readout[1])).mean(1)


def logits(out: Tensor, q: Tensor, c: Tensor) -> Tensor:
    """4 (q.x + c) with a unit vector q, shape (networks, B)."""
    return GAIN * ((out @ q[..., None])[..., 0] + c[:, None])


def train(task: str, name: str, *, stop: int | None = None) -> dict[str, Tensor]:
    """Weights V, W, b, readout q, c and losses of every network, after stop steps or at the end.

    The plane has five networks; the line has fifteen, five for each target in the order of TARGETS, and no
    readout: q = 1 and c = 0.
    """
    design = DESIGNS[task][name]
    x0, start, readout, losses = problem(task, design)
    weights: Triple = tuple(part.clone().requires_grad_() for part in start)
    taken, begun = 0, torch.empty(0)

    def loss(repeats: int) -> Tensor:
        unit = readout[0] / readout[0].norm(dim=1, keepdim=True) if readout else x0
        return losses(output(design, capped(weights, design.cap), x0, repeats), unit)

    for phase, (repeats, count) in enumerate(zip(design.repeats, design.steps, strict=True)):
        rate = 0.004 if phase else 0.02
        optimizer = torch.optim.Adam([*weights, *readout], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count, eta_min=rate / 1000)
        for _ in range(count):
            if taken == stop:
                break
            optimizer.zero_grad()
            now = loss(repeats)
            begun = now.detach() if taken == START else begun
            now.sum().backward()
            optimizer.step()
            schedule.step()
            taken += 1
    with torch.no_grad():
        final = loss(design.repeats[-1] if stop is None else design.repeats[0])
        V, W, b = capped(weights, design.cap)
    found = {"V": V, "W": W, "b": b, "loss": final, "begun": begun if stop is None else final}
    q, c = readout or (x0.new_ones(len(V), 1), x0.new_zeros(len(V)))
    return {key: value.detach() for key, value in (found | {"q": q / q.norm(dim=1, keepdim=True), "c": c}).items()}


def by_source(part: Tensor, depth: int) -> Tensor:
    """Parameters of pairs (target, source), ordered by target, in the order of the library: by source."""
    order = [(l, k) for l in range(1, depth + 1) for k in range(l)]
    ordered = torch.empty_like(part)
    ordered[:, [pair_index(l, k, depth) for l, k in order]] = part
    return ordered


def short(values: Tensor) -> np.ndarray:
    """Single precision with 15 binary digits after the point, which compress well."""
    bits = values.numpy().astype(np.float32).view(np.uint32)
    return ((bits + 0x80) & np.uint32(0xFFFFFF00)).view(np.float32)


def pack(found: dict[str, Tensor]) -> Tensor:
    """All weights of each network, and its readout, in one row."""
    return torch.cat([found[key].flatten(1) for key in ("V", "W", "b")] + [found["q"], found["c"][:, None]], 1)


def load(task: str, name: str) -> dict[str, Tensor]:
    """What :func:`train` returned for this row when the file was written; pairs ordered as in the library."""
    design = DESIGNS[task][name]
    sets, n, m = design.sets, design.width, design.hidden
    with np.load(STORE) as store:
        packed = torch.from_numpy(store[f"{task}/{name}/weights"].astype(float))
        begun, loss = torch.from_numpy(store[f"{task}/{name}/losses"])
    V, W, b, q, c = packed.split([sets * n * m, sets * m * n, sets * m, n, 1], 1)
    weights = {"V": V.unflatten(1, (sets, n, m)), "W": W.unflatten(1, (sets, m, n)), "b": b.unflatten(1, (sets, m))}
    return weights | {"q": q, "c": c[:, 0], "loss": loss, "begun": begun}


def main() -> None:
    store: dict[str, np.ndarray] = {}
    for task, designs in DESIGNS.items():
        for name, design in designs.items():
            found = train(task, name)
            if design.kind == "dense":
                found |= {key: by_source(found[key], design.depth) for key in ("V", "W", "b")}
            store[f"{task}/{name}/weights"] = short(pack(found))
            store[f"{task}/{name}/losses"] = torch.stack([found["begun"], found["loss"]]).numpy()
            worst = " ".join(f"{row.max():.2e}" for row in found["loss"].reshape(-1, SEEDS))
            print(f"{task}, {name}: {design.parameters} parameters, largest loss {worst}", flush=True)
    np.savez_compressed(STORE, **store)
    print(f"{STORE.name}: {STORE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
