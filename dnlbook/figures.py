"""One look for the whole book: colours, marks, and the few helpers that every figure uses.

Grammar: a marker is something a finite network computed; a bare line is something proved.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.tri import LinearTriInterpolator, Triangulation, UniformTriRefiner
from numpy.typing import ArrayLike

from dnlbook import _checks

INK, PAPER, RULE, MUTED = "#1B2130", "#FCFBF7", "#E4E1D8", "#4A505B"
BLUE, EMBER, GREY = "#1F66CC", "#C6480E", "#6C737D"

#: colour, marker and line of each role, everywhere
MARK: dict[str, dict[str, Any]] = {
    "plain": {"color": GREY, "marker": "s", "linestyle": (0, (1, 1.6))},
    "residual": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "dense": {"color": EMBER, "marker": "^", "linestyle": "-"},
    "limit": {"color": INK, "marker": "", "linestyle": "-", "linewidth": 1.5},
    "bound": {"color": INK, "marker": "", "linestyle": (0, (5, 2.5)), "linewidth": 1.4},
}
for _role in ("plain", "residual", "dense"):
    MARK[_role] |= {"markerfacecolor": PAPER, "markeredgecolor": MARK[_role]["color"]}

_MEMORY = [PAPER, "#F9DDB8", "#F3AC6C", "#E0702C", "#B23A0E", "#6E1F0C", "#2E1010"]
_SIGNED = ["#083C46", "#12707A", "#5FA9A8", "#BBD9D2", PAPER, "#F6D2AE", "#EC955A", "#C64A12", "#6A1D08"]
#: size of a kernel: no weight, no ink
MEMORY: Colormap = LinearSegmentedColormap.from_list("memory", _MEMORY)
#: a signed kernel, centred on the paper colour
SIGNED: Colormap = LinearSegmentedColormap.from_list("signed", _SIGNED)

_DPI = 160
_LIMIT = 150_000


def theme() -> None:
    """Apply the style of the book and make the pictures of a notebook reproducible; call once per notebook.

    Source: the design guide of the book.  Figures become PNG files of 160 dots per inch without timestamps,
    in the size that they ask for.

    Examples
    --------
    >>> theme()
    >>> plt.rcParams["font.family"]
    ['STIXGeneral']
    """
    plt.style.use(Path(__file__).with_name("dnlbook.mplstyle"))
    _configure_inline_backend()


def _configure_inline_backend() -> None:
    """Inside a notebook: fixed resolution, no cropping to the text, no software name in the file."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:  # pragma: no cover - IPython is a dependency
        return
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from matplotlib_inline.backend_inline import set_matplotlib_formats  # pragma: no cover - runs in kernels

    mpl.rcParams["figure.dpi"] = _DPI  # pragma: no cover
    options = {"bbox_inches": None, "metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    set_matplotlib_formats("png", **options)  # type: ignore[no-untyped-call]  # pragma: no cover


def role(name: str) -> dict[str, Any]:
    """Return a copy of the marks of a role, to be passed to ``plot``.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If the role is not one of plain, residual, dense, limit, bound.

    Examples
    --------
    >>> role("dense")["marker"]
    '^'
    """
    return dict(MARK[_checks.choice("role", name, MARK)])


def single(width: float = 5.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure with one panel; one inch is 100 CSS pixels, so 5.2 in read well in the text column.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> fig, ax = single()
    >>> [float(size) for size in fig.get_size_inches()]
    [5.2, 3.6]
    """
    size = (_checks.positive_float("width", width), _checks.positive_float("height", height))
    fig, ax = plt.subplots(figsize=size)
    return fig, ax


def panels(columns: int = 2, rows: int = 1, *, height: float = 3.0, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure with panels side by side whose text still reads on a phone.

    On a screen of 390 pixels a picture is about 350 pixels wide; type of s points in a figure of w inches
    then measures 350 s / (72 w) pixels.  Two columns are 5.2 inches wide like a single panel, so that
    tick labels of 11 points measure 10 pixels; more than two columns are refused, use rows.

    Parameters
    ----------
    columns, rows : int
        One or two columns, any number of rows.
    height : float
        Height of a row in inches.
    options
        Passed to ``matplotlib.pyplot.subplots``, such as ``sharey=True``.

    Returns
    -------
    Figure, array of Axes of shape ``(rows, columns)``, without axes of length one

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If there are more than two columns, or a size is not positive.

    Examples
    --------
    >>> fig, axes = panels(2)
    >>> axes.shape, float(fig.get_size_inches()[0])
    ((2,), 5.2)
    """
    if _checks.positive_int("columns", columns) > 2:
        raise ValueError(f"columns: expected 1 or 2, so that labels can be read on a phone, received {columns}")
    size = (5.2, _checks.positive_float("height", height) * _checks.positive_int("rows", rows))
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    return fig, np.asarray(axes).squeeze() if axes.size > 1 else axes.ravel()


def slope_triangle(
    ax: Axes, x: float, y: float, order: float, *, width: float = 2.0, color: str = INK, label: str | None = None
) -> None:
    """Draw the triangle of slope -order under the point (x, y) of a log-log plot.

    Parameters
    ----------
    x, y : float
        Its upper left corner, above 0.
    order : float
        The order of convergence.
    width : float
        The run, as a factor above 1.
    label : str, optional
        The order unless given.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If a coordinate is not positive or the run is not above 1.

    Examples
    --------
    >>> fig, ax = single()
    >>> slope_triangle(ax, 8, 0.1, 2)
    """
    x, y = _checks.positive_float("x", x), _checks.positive_float("y", y)
    if _checks.finite_float("width", width) <= 1:
        raise ValueError(f"width: expected a factor above 1, received {width!r}")
    low = y * width**-order
    ax.fill([x, x * width, x], [low, low, y], facecolor=color, alpha=0.18, linewidth=0, zorder=1)
    ax.plot([x, x * width, x, x], [low, low, y, low], color=color, linewidth=0.9, zorder=1)
    ax.annotate(
        label or f"{order:g}",
        (x, math.sqrt(y * low)),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=11,
        color=color,
    )


def label_end(
    ax: Axes, x: float, y: float, text: str, *, color: str = INK, dx: float = 7, dy: float = 0, ha: str = "left"
) -> None:
    """Name a curve at its end, dx and dy points away: no legend to look up.

    Source: the design guide of the book.

    Examples
    --------
    >>> fig, ax = single()
    >>> label_end(ax, 1.0, 0.5, "Euler", color=BLUE)
    """
    ax.annotate(
        text,
        (x, y),
        xytext=(dx, dy),
        textcoords="offset points",
        color=color,
        ha=ha,
        va="center",
        annotation_clip=False,
    )


def _positive(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty list of numbers, received shape {array.shape}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(
            f"{name}: expected numbers above 0 for a logarithmic axis, received {array.min():g} as smallest"
        )
    return array


def convergence_plot(
    ax: Axes,
    depths: ArrayLike,
    errors: ArrayLike,
    *,
    role: str = "residual",
    order: float | None = None,
    label: str | None = None,
    marker: str | None = None,
) -> None:
    """Plot errors against depths on logarithmic axes, with a slope triangle and a label at the end.

    Parameters
    ----------
    depths, errors : sequences of positive numbers of one length
    role : str
        Whose error it is: colour and marker.
    order : float, optional
        Draws a slope triangle under the curve.
    label : str, optional
        Written at the end of the curve.
    marker : str, optional
        Another marker for a second curve of the same role.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If the lists are empty, differ in length or hold numbers that are not positive, or the role is unknown.

    Examples
    --------
    >>> fig, ax = single()
    >>> convergence_plot(ax, [4, 8, 16], [0.4, 0.2, 0.1], order=1, label="Euler")
    >>> ax.get_xscale(), ax.get_yscale()
    ('log', 'log')
    """
    x, y = _positive("depths", depths), _positive("errors", errors)
    if len(x) != len(y):
        raise ValueError(f"errors: expected {len(x)} numbers like depths, received {len(y)}")
    style = MARK[_checks.choice("role", role, MARK)] | ({} if marker is None else {"marker": marker})
    ax.loglog(x, y, **style)
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.grid(axis="x", visible=False)
    if order is not None and len(x) > 2:
        slope_triangle(ax, x[-3], y[-3] * 2.0**-order * 0.8, order, color=style["color"])
    if label:
        label_end(ax, x[-1], y[-1], label, color=style["color"])


def interval(
    ax: Axes, x: ArrayLike, mean: ArrayLike, half: ArrayLike, *, role: str = "residual", **options: Any
) -> None:
    """Plot measurements with intervals: open markers in the colour of their architecture, mean ± half.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If the role is unknown, the lengths differ or a half width is negative.

    Examples
    --------
    >>> fig, ax = single()
    >>> interval(ax, [1, 2], [0.9, 0.8], [0.01, 0.02], role="dense")
    """
    style = MARK[_checks.choice("role", role, MARK)]
    positions, centre, reach = (np.atleast_1d(np.asarray(values, dtype=float)) for values in (x, mean, half))
    if not positions.shape == centre.shape == reach.shape:
        shapes = f"{positions.shape}, {centre.shape} and {reach.shape}"
        raise ValueError(f"x, mean, half: expected the same shape, received {shapes}")
    if (reach < 0).any():
        raise ValueError(f"half: expected numbers of at least 0, received {reach.min():g}")
    ax.errorbar(positions, centre, yerr=reach, capsize=3, elinewidth=1.2, **(style | options))


def triangle_mesh(depth: int) -> Triangulation:
    """Return the P1 mesh of the triangle 0 <= s <= t <= 1, nodes (l, k) row by row, t to the right, s upwards.

    Source: the mesh of the notation page.

    Raises
    ------
    ValueError
        If depth is not a positive int.

    Examples
    --------
    >>> triangle_mesh(2).triangles.shape
    (4, 3)
    """
    size = _checks.positive_int("depth", depth)
    row = np.concatenate([np.full(i + 1, i) for i in range(size + 1)])
    column = np.concatenate([np.arange(i + 1) for i in range(size + 1)])

    def node(i: Any, j: Any) -> Any:
        return i * (i + 1) // 2 + j

    below = row < size
    a, b = row[below], column[below]
    cells = [np.c_[node(a, b), node(a + 1, b), node(a + 1, b + 1)]]
    inside = below & (column < row)
    a, b = row[inside], column[inside]
    cells.append(np.c_[node(a, b), node(a, b + 1), node(a + 1, b + 1)])
    return Triangulation(row / size, column / size, np.concatenate(cells))


def triangle_heatmap(
    ax: Axes,
    values: ArrayLike,
    depth: int,
    *,
    cmap: Colormap = SIGNED,
    norm: Normalize | None = None,
    mesh: bool = True,
    levels: Sequence[float] | None = None,
) -> Any:
    """Draw a P1 function on the triangle; level lines are broken at small depth and smooth at large depth.

    Parameters
    ----------
    values : array, shape ``((depth + 1)(depth + 2)/2,)``
        Nodal values row by row: (0, 0), (1, 0), (1, 1), (2, 0), ...
    depth : int
    cmap, norm : Colormap, Normalize
    mesh : bool
        Draw the mesh up to depth 16, beyond it would be a grey wash.
    levels : sequence of float, optional
        Level lines.

    Source: the design guide of the book.

    Returns
    -------
    The image, for a colour bar

    Raises
    ------
    ValueError
        If the number of values does not fit to the depth, or a value is not finite.

    Examples
    --------
    >>> fig, ax = single()
    >>> image = triangle_heatmap(ax, np.arange(6.0), 2)
    """
    nodal = np.asarray(values, dtype=float)
    size = _checks.positive_int("depth", depth)
    count = (size + 1) * (size + 2) // 2
    if nodal.shape != (count,):
        raise ValueError(f"values: expected shape ({count},) for depth {size}, received {nodal.shape}")
    if not np.isfinite(nodal).all():
        raise ValueError("values: expected finite numbers, received nan or inf")
    mesh_of = triangle_mesh(size)
    fine, fine_values = mesh_of, nodal  # refine first: the shader mixes colours, not values
    if size < 64:
        halvings = max(1, int(np.log2(64 / size)))
        refiner, linear = UniformTriRefiner(mesh_of), LinearTriInterpolator(mesh_of, nodal)
        fine, fine_values = refiner.refine_field(nodal, linear, subdiv=halvings)
    image = ax.tripcolor(fine, fine_values, shading="gouraud", cmap=cmap, norm=norm, rasterized=True)
    if mesh and size <= 16:
        ax.triplot(mesh_of, color=INK, linewidth=0.4, alpha=0.25)
    if levels is not None:
        ax.tricontour(mesh_of, nodal, levels=levels, colors=INK, linewidths=0.8, linestyles="solid", alpha=0.75)
    ax.plot([0, 1, 1, 0], [0, 0, 1, 0], color=INK, linewidth=0.9, solid_joinstyle="miter")
    ax.set_aspect("equal")
    ax.set_axis_off()
    return image


def draw_paths(
    ax: Axes, paths: ArrayLike, *, color: str = BLUE, dots: bool = True, size: float = 4.4, width: float = 1.25
) -> None:
    """Draw paths of points through depth: open circles at the start, full ones at the end, stronger with depth.

    Parameters
    ----------
    paths : array, shape ``(L + 1, B, 2)``
    color : str
        Of the architecture.
    dots : bool
        Mark the states between.
    size, width : float
        Of the end points and of the lines, in points.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If the paths do not lie in the plane or are not finite.

    Examples
    --------
    >>> fig, ax = single()
    >>> draw_paths(ax, np.zeros((3, 2, 2)))
    """
    path = np.asarray(paths, dtype=float)
    if path.ndim != 3 or path.shape[2] != 2 or path.shape[0] < 2:
        raise ValueError(f"paths: expected shape (L + 1, B, 2), received {path.shape}")
    if not np.isfinite(path).all():
        raise ValueError("paths: expected finite numbers, received nan or inf")
    fade = LinearSegmentedColormap.from_list("fade", [PAPER, color])
    for i in range(path.shape[1]):
        pieces = np.stack([path[:-1, i], path[1:, i]], 1)
        lines = LineCollection(
            list(pieces), cmap=fade, norm=Normalize(-0.55, 1.0), linewidths=width, capstyle="round", zorder=2
        )
        lines.set_array(np.linspace(0, 1, len(pieces)))
        ax.add_collection(lines)
    if dots and len(path) > 2:
        ax.plot(*path[1:-1].reshape(-1, 2).T, "o", color=color, markersize=size / 2, markeredgewidth=0, zorder=3)
    start: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.0, "zorder": 4}
    ax.plot(*path[0].T, "o", markersize=size, **start)
    ax.plot(*path[-1].T, "o", markersize=size, color=color, markeredgewidth=0, zorder=5)
    ax.set_aspect("equal")


def save(fig: Figure, path: str | Path, *, limit: int = _LIMIT) -> None:
    """Write a PNG of at most limit bytes without timestamps, so that a rerun is byte-identical.

    A larger picture is reduced to 256 colours.

    Source: the design guide of the book.

    Raises
    ------
    ValueError
        If the picture stays above the limit; nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> fig, ax = single()
    >>> save(fig, Path(tempfile.mkdtemp()) / "empty.png")
    """
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI)
    image = Image.open(buffer).convert("RGB")
    for candidate in (image, image.quantize(256, method=Image.Quantize.MEDIANCUT)):
        packed = io.BytesIO()
        candidate.save(packed, format="PNG", optimize=True)
        if packed.tell() <= limit:
            Path(path).write_bytes(packed.getvalue())
            return
    raise ValueError(f"fig: expected a picture of at most {limit} bytes, received {packed.tell()}; simplify it")
