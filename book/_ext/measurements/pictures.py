"""Pictures of the page, each with its caption and its alternative text, both made from the numbers."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from dnlbook import figures
from dnlbook.figures import BLUE, EMBER, GREY, INK, PAPER, save
from measurements.reading import cases, pick, shortfall
from measurements.tables import escape, factor, number

matplotlib.use("Agg")


def _axes(rows: float) -> tuple[Any, Any]:
    figures.theme()
    return figures.single(5.2, 0.9 + 0.24 * rows)


def _dots(ax: Any, values: list[dict[str, Any]], heights: list[float], color: str, marker: str) -> None:
    for value, y in zip(values, heights, strict=True):
        ax.plot([value["lower"], value["upper"]], [y, y], color=color, linewidth=1.4, zorder=2)
        ax.plot(value["median"], y, marker, color=color, markerfacecolor=PAPER, markersize=6, zorder=3)


def _ticks(ax: Any, low: float, high: float) -> None:
    """Powers of ten, or a few round numbers where the range has no two of them."""
    steps = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for step in steps
    ]
    ticks = [tick for tick in ticks if low * 0.8 <= tick <= high * 1.25]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(low * 0.75, high * 1.35)


def goals(results: dict[str, Any], path: Path) -> tuple[str, str]:
    """How far each goal is met; returns the caption and the alternative text."""
    rows = []
    for group, case in cases(results):
        for goal in case["goals"]:
            met = shortfall(goal)
            if met is not None and goal["against"]:
                measured, value = goal["measured"], goal["goal"]
                ends = [measured[name] / value for name in ("lower", "upper")]
                if goal["direction"] == "at_most":
                    ends = [1 / end for end in reversed(ends)]
                rows.append((f"{group['id']}, {case['label']}", goal["against"], met, *ends))
    places, names = [], []  # a group has a head of its own
    for work, against, *_ in rows:
        head, _, label = work.partition(", ")
        if head not in names:
            names.append(head)
        places.append(-len(names))
        names.append(f"{number(label)}, {against}")
    fig, ax = _axes(len(names))
    for (work, _, met, low, high), place in zip(rows, places, strict=True):
        color = BLUE if work.startswith("residual") else EMBER
        _dots(ax, [{"median": met, "lower": low, "upper": high}], [place], color, "o" if color == BLUE else "^")
    ax.axvline(1, color=INK, linewidth=1.4, linestyle=(0, (5, 2.5)), zorder=1)
    ax.set_yticks([-place for place in range(len(names))], names)
    for place, text in enumerate(ax.get_yticklabels()):
        text.set(fontsize=10.5, weight="normal" if -place in places else "bold")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-len(names) + 0.4, 0.6)
    _ticks(ax, min(row[3] for row in rows), max(row[4] for row in rows))
    ax.set_xlabel("goal met by a factor of")
    save(fig, path)
    plt.close(fig)
    reached = sum(row[2] >= 1 for row in rows)
    caption = (
        f"How far is each goal of a ratio met? Right of the dashed line it is reached; that holds for {reached} of "
        f"{len(rows)}. Dots are medians, bars are quartiles."
    )
    listed = "; ".join(f"{work} against {against}: {factor(met)}" for work, against, met, *_ in rows)
    return caption, f"Goals and the factors by which they are met. {number(listed)}."


def group(measured: dict[str, Any], path: Path) -> tuple[str, str]:
    """Ratios of all candidates to dnlbook; returns the caption and the alternative text."""
    names, entries = [], []
    for case in measured["cases"]:
        for candidate in case["candidates"][1:]:
            if candidate["ratio"] and candidate["kind"] != "idea":
                entries.append((candidate["name"], case["label"], candidate["ratio"], candidate["kind"]))
                if candidate["name"] not in names:
                    names.append(candidate["name"])
    labels = [case["label"] for case in measured["cases"]]
    height = {name: -i * (len(labels) + 0.7) for i, name in enumerate(names)}
    own = BLUE if measured["id"] == "residual" else EMBER
    fig, ax = _axes(len(names) * (len(labels) + 0.7))
    for name, label, ratio, kind in entries:
        y = height[name] - labels.index(label)
        _dots(ax, [ratio], [y], GREY if kind in ("peer", "floor") else own, "s" if kind in ("peer", "floor") else "^")
        left = ratio["upper"] < 1  # on that side the label does not cover the line
        ax.annotate(
            number(label),
            (min(ratio["lower"], ratio["median"] / 1.04) if left else max(ratio["upper"], ratio["median"] * 1.04), y),
            xytext=(-7 if left else 7, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=10.5,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
            zorder=2,
        )
    ax.axvline(1, color=own, linewidth=1.9, zorder=1)
    centre = (len(labels) - 1) / 2
    ax.set_yticks([height[name] - centre for name in names], [textwrap.fill(name, 17) for name in names])
    ax.set_ylim(min(height.values()) - len(labels) + 0.2, 0.9)
    low, high = (choose(ratio[end] for _, _, ratio, _ in entries) for choose, end in ((min, "lower"), (max, "upper")))
    room = max(high, 1.0) / min(low, 1.0)  # for the labels
    _ticks(ax, min(low, 1.0) / (room**0.42 if low < 1 else 1.0), max(high, 1.0) * 2.2)
    what = "memory" if measured["cases"][0]["unit"] == "B" else "time"
    ax.set_xlabel(f"{what} over that of dnlbook")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    save(fig, path)
    plt.close(fig)
    listed = "; ".join(f"{name} ({label}) {factor(ratio['median'])}" for name, label, ratio, _ in entries)
    peers = [(ratio["median"], name, label) for name, label, ratio, kind in entries if kind == "peer"]
    best, name, label = min(peers)
    caption = (
        f"How much {what} do the others take, at {len(labels)} sizes? "
        f"Right of the coloured line it is more than dnlbook's; the fastest of the others is {escape(name)} with "
        f"{factor(best)} at {escape(label)}."
        + (" The floor does only part of the work." if any(kind == "floor" for *_, kind in entries) else "")
    )
    return caption, f"Ratios of {what} to that of dnlbook. {number(listed)}."


def growth(results: dict[str, Any], path: Path) -> tuple[str, str]:
    """Time and memory over depth on logarithmic axes; returns the caption and the alternative text."""
    figures.theme()
    fig, axes = figures.panels(2, height=3.4)
    said = []
    for ax, group_id, unit, what in zip(
        axes, ("growth-time", "growth-memory"), (1e-3, 1e6), ("time, ms", "memory, MB"), strict=True
    ):
        ticks = set()
        for case in pick(results, group_id)["cases"]:
            kind = case["label"]
            depths, values = zip(*case["candidates"][0]["points"], strict=True)
            style = figures.role(kind)
            ax.loglog(depths, [value / unit for value in values], **style)
            exponent = case["candidates"][0]["value"]["median"]
            above = kind == "dense"
            end = -1 if above else -min(3, len(depths))
            figures.label_end(
                ax,
                depths[end],
                values[end] / unit,
                f"{kind} {exponent:.2f}",
                color=style["color"],
                dx=-8 if above else 8,
                dy=5 if above else -10,
                ha="right" if above else "left",
            )
            ticks |= set(depths)
            said.append(f"{what.partition(',')[0]} of the {kind} network grows with exponent {exponent:.2f}")
        ax.set_xticks(sorted(ticks)[::2], [f"{L:g}" for L in sorted(ticks)[::2]])
        ax.minorticks_off()
        ax.set(xlabel="depth $L$", title=what)
        ax.margins(x=0.12, y=0.22)
    save(fig, path)
    plt.close(fig)
    caption = (
        "How do time and memory grow with depth? The numbers are slopes: " + "; ".join(said) + ". "
        "Memory is counted beyond parameters and their gradients."
    )
    return caption, "Two panels with logarithmic axes; all points lie close to straight lines: " + "; ".join(said) + "."
