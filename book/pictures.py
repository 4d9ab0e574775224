"""Draw the pictures of pages without code: the landing picture, the frames of the depth slider, the neighbours.

    python book/pictures.py [FOLDER]      writes into book/img unless a folder is given

The first two are computed by dnlbook.half_turn and checked in the chapter "One picture, four depths".
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnlbook import figures as look
from dnlbook import half_turn
from dnlbook.figures import BLUE, EMBER, GREY, INK, MEMORY, MUTED, PAPER, RULE

DEPTHS = (4, 16, 64, None)
FRAMES = (2, 4, 8, 16, 32, 64, 128, 256)
TASK = "Task: carry every point \N{WHITE CIRCLE} to its opposite \N{BLACK CIRCLE}"
REACH = 1.70


def pair(depth: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual and the dense paths of that depth, or the two limits."""
    x0 = half_turn.points()
    if depth:
        return half_turn.residual_paths(x0, depth), half_turn.dense_paths(x0, depth)
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    turned = torch.stack([x0[:, 1], -x0[:, 0]], 1)
    flow = torch.cos(torch.pi * t)[:, None, None] * x0 + torch.sin(torch.pi * t)[:, None, None] * turned
    return flow, half_turn.limit_factor(t)[:, None, None] * x0


def cell(fig: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in units of 1/100 inch from the top left corner."""
    w, h = fig.get_size_inches() * 100
    return fig.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def write(fig: Figure, x: float, y: float, text: str, **style: object) -> None:
    w, h = fig.get_size_inches() * 100
    fig.text(x / w, 1 - y / h, text, **({"va": "baseline"} | style))


def name(depth: int | None) -> str:
    return f"$L={depth}$" if depth else r"$L\to\infty$"


def missed(path: torch.Tensor, depth: int | None) -> str:
    return f"misses by {100 * half_turn.miss(path):.0f} %" if depth else "exact"


def draw_paths(ax: Axes, path: torch.Tensor, color: str, depth: int | None, *, size: float = 4.4) -> None:
    look.draw_paths(ax, path.numpy(), color=color, dots=depth is not None and depth <= 16, size=size, width=size / 3.5)
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], facecolor="#FFFFFF")
    for spine in ax.spines.values():
        spine.set(visible=True, color=RULE, linewidth=1.0)


def draw_triangle(ax: Axes, depth: int | None) -> None:
    """Time runs to the right; the column above t holds everything that layer remembers."""
    norm = plt.Normalize(0, float(half_turn.memory(torch.tensor(1.0), torch.tensor(0.0))) * 1.02)
    count = depth or 600
    edge = torch.linspace(0, 1, count + 1)
    t, s = (edge[1:], edge[:-1]) if depth else ((edge[1:] + edge[:-1]) / 2,) * 2
    values = half_turn.memory(t[None, :], s[:, None])
    values[s[:, None] >= t[None, :]] = float("nan")
    if depth:
        line = {2: 2.0, 4: 1.6, 8: 1.0, 16: 0.6, 32: 0.3}.get(depth, 0.0)
        ax.pcolormesh(
            edge.numpy(),
            edge.numpy(),
            values.numpy(),
            cmap=MEMORY,
            norm=norm,
            rasterized=True,
            edgecolors=PAPER,
            linewidth=line,
        )
    else:
        ax.imshow(values.numpy(), origin="lower", extent=(0, 1, 0, 1), cmap=MEMORY, norm=norm, interpolation="nearest")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_aspect("equal")
    ax.set_axis_off()


def draw_line(ax: Axes, depth: int | None) -> None:
    """The weights of a residual network live on a line: one cell per layer."""
    gap = {4: 0.016, 16: 0.010}.get(depth or 0, 0.004) if depth else 0.0
    for k in range(depth or 1):
        width = 1 / (depth or 1)
        ax.add_patch(plt.Rectangle((k * width + gap / 2, 0), width - gap, 1, color=BLUE, linewidth=0))
    ax.set(xlim=(-0.02, 1.02), ylim=(0, 1))
    ax.set_axis_off()


def wide(path: Path) -> None:
    """Four depths side by side, for the text column."""
    fig = plt.figure(figsize=(6.8, 6.84), layout="none")
    size, gap, left, right = 160, 12, 2, 678
    write(fig, left, 22, TASK, fontsize=13.5)
    write(fig, right, 22, "the same data, deeper and deeper", fontsize=13.5, color=MUTED, ha="right")
    for y, kind, color, words in (
        (
            58,
            "Residual network",
            BLUE,
            "one weight per layer: a line. In the limit, a differential equation.",
        ),
        (318, "Dense network", EMBER, "one weight per pair of layers: a triangle. An integral equation."),
    ):
        write(fig, left, y, kind, color=color, fontsize=14, weight="bold")
        write(fig, right, y, words, color=MUTED, ha="right", fontsize=12.5)
    for j, depth in enumerate(DEPTHS):
        x = left + j * (size + gap)
        for top, states, color in zip((70, 330), pair(depth), (BLUE, EMBER), strict=True):
            draw_paths(cell(fig, x, top, size, size), states, color, depth)
            write(fig, x + 7, top + 18, name(depth), fontsize=12.5, zorder=9)
            write(
                fig,
                x + size / 2,
                top + size + 20,
                missed(states, depth),
                ha="center",
                color=color,
                fontsize=12,
            )
        draw_line(cell(fig, x, 262, size, 9), depth)
        draw_triangle(cell(fig, x, 520, size, size), depth)
    write(fig, left + 2, 545, "its memory", color=MUTED, fontsize=11.5)
    look.save(fig, path)
    plt.close(fig)


def narrow(path: Path) -> None:
    """The same four depths below each other, for a phone."""
    fig = plt.figure(figsize=(3.9, 6.5), layout="none")
    size, gap, left = 112, 8, 24
    write(fig, left, 24, TASK, fontsize=13.5)
    for i, (text, color) in enumerate((("Residual", BLUE), ("Dense", EMBER), ("its memory", EMBER))):
        weight = "bold" if i < 2 else "normal"
        write(
            fig,
            left + i * (size + gap) + size / 2,
            54,
            text,
            ha="center",
            color=color,
            fontsize=14,
            weight=weight,
        )
    for j, depth in enumerate(DEPTHS):
        y = 66 + j * 145
        for i, (states, color) in enumerate(zip(pair(depth), (BLUE, EMBER), strict=True)):
            x = left + i * (size + gap)
            draw_paths(cell(fig, x, y, size, size), states, color, depth, size=3.6)
            write(fig, x + size / 2, y + size + 17, missed(states, depth), ha="center", color=color, fontsize=12)
        draw_triangle(cell(fig, left + 2 * (size + gap), y, size, size), depth)
        write(
            fig,
            15,
            y + size / 2,
            name(depth),
            rotation=90,
            ha="center",
            va="center",
            fontsize=13.5,
            color=INK,
        )
    look.save(fig, path)
    plt.close(fig)


def frame(depth: int, path: Path) -> None:
    """One frame of the depth slider."""
    fig = plt.figure(figsize=(5.6, 2.4), layout="none")
    size, gap, left = 168, 16, 12
    heads = zip(("Residual", "Dense"), pair(depth), (BLUE, EMBER), strict=True)
    for i, (head, states, color) in enumerate(heads):
        x = left + i * (size + gap)
        write(fig, x, 23, head, color=color, fontsize=15, weight="bold")
        write(fig, x + size / 2, 226, missed(states, depth), color=color, fontsize=14, ha="center")
        draw_paths(cell(fig, x, 34, size, size), states, color, depth)
    x = left + 2 * (size + gap)
    write(fig, x, 23, "its memory", color=MUTED, fontsize=14.5)
    draw_triangle(cell(fig, x, 34, size, size), depth)
    look.save(fig, path, limit=40_000)
    plt.close(fig)


def icon_flow(ax: Axes) -> None:
    """A polygon approaches a curve."""
    x = np.linspace(-1, 1, 60)
    ax.plot(x, 1 - 1.7 * x**2, color=BLUE, linewidth=2.4)
    nodes = np.linspace(-1, 1, 5)
    ax.plot(nodes, 1 - 1.7 * nodes**2, color=BLUE, linewidth=1, marker="o", markersize=4.5, markerfacecolor=PAPER)


def icon_memory(ax: Axes) -> None:
    """The ten cells of a dense network of depth four."""
    for target in range(4):
        for source in range(target + 1):
            shade = MEMORY(0.75 - 0.14 * (target - source))
            ax.add_patch(plt.Rectangle((target / 2 - 1, source / 2 - 1), 0.44, 0.44, color=shade, linewidth=0))


def icon_training(ax: Axes) -> None:
    """States go forward to a target, costates come back."""
    x = np.linspace(-1, 1, 60)
    ax.plot(x, 0.5 + 0.5 * x - 0.3 * x**2, color=BLUE, linewidth=2.4)
    ax.plot(x, -0.5 + 0.5 * x + 0.2 * x**2, color=EMBER, linewidth=1.8, linestyle=(0, (4, 2.4)))
    ax.plot([-1], [-0.8], color=EMBER, marker="<", markersize=6)
    ax.plot([1.08], [0.7], color=GREY, marker="o", markersize=9, markerfacecolor=PAPER, markeredgewidth=1.6)


def icon_gap(ax: Axes) -> None:
    """What is measured at four depths stays below a bound that does not see the depth."""
    ax.plot([-1, 1], [0.9, 0.9], color=INK, linewidth=1.4, linestyle=(0, (5, 2.5)))
    for x, y in ((-0.75, -0.3), (-0.25, -0.5), (0.25, -0.25), (0.75, -0.4)):
        ax.plot([x, x], [y - 0.4, y + 0.4], color=BLUE, linewidth=1.5)
        ax.plot([x], [y], color=BLUE, marker="o", markersize=4.5, markerfacecolor=PAPER)


def neighbours(path: Path) -> None:
    """The main line of the book from top to bottom, and beside each station the results that leave it there."""
    fig = plt.figure(figsize=(6.0, 5.6), layout="none")
    ax = cell(fig, 0, 0, 600, 560)
    ax.set(xlim=(0, 600), ylim=(560, 0))
    ax.set_axis_off()
    middle, wing, step, top = 300, 132, 145, 62
    ax.plot([middle, middle], [top, top + 3 * step], color=INK, linewidth=1.5, zorder=1)
    for number, (draw, formula, color, half, *sides) in enumerate(STATIONS):
        y = top + number * step
        for side, names in zip((-1, 1), sides, strict=True):
            for j, (who, what) in enumerate(names):
                row = y + (j - (len(names) - 1) / 2) * 66
                ax.plot([middle, middle + side * wing], [y, row], color=GREY, linewidth=1.0, zorder=1)
                text = {"ha": "left" if side > 0 else "right", "x": middle + side * (wing + 8)}
                for line, part in enumerate(reversed(who.split("\n"))):
                    ax.text(y=row - 3 - 18 * line, s=part, fontsize=12.5, weight="bold", **text)
                ax.text(y=row + 15, s=what, fontsize=12, color=MUTED, **text)
        ax.add_patch(plt.Rectangle((middle - half, y - 48), 2 * half, 96, color=PAPER, linewidth=0, zorder=2))
        picture = cell(fig, middle - 50, y - 40, 100, 44)
        picture.set(xlim=(-1.25, 1.25), ylim=(-1.1, 1.25))
        if draw is icon_memory:
            picture.set_aspect("equal")
        picture.set_axis_off()
        draw(picture)
        ax.text(middle, y + 29, formula, ha="center", va="center", fontsize=13, color=color, zorder=4)
    look.save(fig, path)
    plt.close(fig)


#: the main line of the book: picture and formula of a station, and the neighbours that leave it to the left and right
STATIONS = (
    (
        icon_flow,
        r"$\dot x=f(x,\theta(t))$",
        BLUE,
        56,
        (("mean field", "the width grows, too"), ("chaos", "the input is a flow")),
        (("asymmetric", "time has no end"), ("cyclostationary", "find the network")),
    ),
    (
        icon_memory,
        r"$x=x^0+\int_0^t\!f(x(s),\theta(t,s))\,\mathrm{d}s$",
        EMBER,
        106,
        (("connectivity", "some pairs of layers"), ("pruning", "which pairs may go")),
        (("stochastic\nconfiguration", "a triangle, row by row"),),
    ),
    (
        icon_training,
        r"$\min_\theta\,\Phi(x(T))+\alpha\,\Vert\theta\Vert^2$",
        INK,
        90,
        (),
        (("structural equations", "two players"),),
    ),
    (
        icon_gap,
        r"$\mathrm{gap}\leq c\,/\sqrt{S}$",
        INK,
        58,
        (("unrolled", "layers with a threshold"),),
        (),
    ),
)


def main(folder: Path) -> None:
    """Write all pictures into the folder."""
    look.theme()
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    wide(folder / "landing.png")
    narrow(folder / "landing-narrow.png")
    for depth in FRAMES:
        frame(depth, folder / "frames" / f"depth-{depth}.png")
    neighbours(folder / "neighbours.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("img"))
