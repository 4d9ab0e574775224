"""The rules of the design guide: contrast, colour vision, size, and bytes that do not change."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook import figures as look

ROLES = {"plain": look.GREY, "residual": look.BLUE, "dense": look.EMBER, "proved": look.INK}
VISION = {  # Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
HUE_180 = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])  # the dark-mode filter


@pytest.fixture(autouse=True)
def _closed_figures():
    look.theme()
    yield
    plt.close("all")
    mpl.rcdefaults()


def rgb(code):
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(c):
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def inverted(c, amount=0.92):
    return np.clip(HUE_180 @ (c * (1 - 2 * amount) + amount), 0, 1)


def contrast(a, b):
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def oklab(lin):
    cone = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return lab @ np.cbrt(cone @ np.clip(lin, 0, 1))


@pytest.mark.parametrize("code", [*ROLES.values(), look.MUTED])
def test_text_contrast_on_paper_and_on_the_inverted_page(code):
    paper = rgb(look.PAPER)
    assert contrast(rgb(code), paper) >= 4.5
    assert contrast(inverted(rgb(code)), inverted(paper)) >= 4.5


def test_the_dark_page_is_the_inverted_paper():
    css = (look.Path(__file__).parents[2] / "book/assets/dnlbook.css").read_text()
    dark = "#" + "".join(f"{round(255 * part):02X}" for part in inverted(rgb(look.PAPER)))
    assert dark in css and look.PAPER in css


@pytest.mark.parametrize(("vision", "matrix"), VISION.items())
def test_roles_stay_apart_for_every_colour_vision(vision, matrix):
    seen = {role: oklab(matrix @ linear(rgb(code))) for role, code in ROLES.items()}
    apart = min(100 * np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2))
    assert apart > (7 if vision == "tritanopia" else 12)


def test_markers_are_computed_and_bare_lines_are_proved():
    assert all(look.role(name)["marker"] for name in ("plain", "residual", "dense"))
    assert not any(look.role(name)["marker"] for name in ("limit", "bound"))
    look.role("dense")["color"] = "white"
    assert look.MARK["dense"]["color"] == look.EMBER


@given(columns=st.integers(1, 2), rows=st.integers(1, 3))
@settings(max_examples=6, deadline=None)
def test_labels_are_at_least_ten_pixels_on_a_phone(columns, rows):
    fig, axes = look.panels(columns, rows)
    assert np.size(axes) == columns * rows
    smallest = min(mpl.rcParams[f"{axis}tick.labelsize"] for axis in "xy")
    assert 350 * smallest / (72 * fig.get_size_inches()[0]) >= 10
    plt.close(fig)


def test_convergence_plot_marks_labels_and_draws_the_slope():
    fig, ax = look.single()
    look.convergence_plot(ax, [8, 16, 32], [0.4, 0.2, 0.1], role="dense", order=1, label="dense", marker="v")
    line = ax.get_lines()[0]
    assert line.get_color() == look.EMBER and line.get_marker() == "v"
    assert {text.get_text() for text in ax.texts} == {"1", "dense"}
    corner = ax.patches[0].get_xy()
    assert np.log2(corner[0, 1] / corner[2, 1]) == pytest.approx(-1) or np.log2(
        corner[2, 1] / corner[0, 1]
    ) == pytest.approx(1)


def test_intervals_carry_the_role_and_their_half_width():
    fig, ax = look.single()
    look.interval(ax, [1.0, 2.0], [0.9, 0.8], [0.05, 0.1], role="residual", linestyle="none")
    data_line, caps, bars = ax.containers[0]
    assert data_line.get_markerfacecolor() == look.PAPER and data_line.get_color() == look.BLUE
    low, high = bars[0].get_segments()[1][:, 1]
    assert (low, high) == (pytest.approx(0.7), pytest.approx(0.9))


@given(depth=st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_the_mesh_covers_the_triangle_once(depth):
    mesh = look.triangle_mesh(depth)
    corners = np.stack([mesh.x[mesh.triangles], mesh.y[mesh.triangles]], -1)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    assert len(areas) == depth**2 and areas.sum() == pytest.approx(0.5)


@pytest.mark.parametrize("depth", [1, 4, 64, 65])
def test_heat_maps_of_every_depth(depth):
    fig, ax = look.single()
    mesh = look.triangle_mesh(depth)
    image = look.triangle_heatmap(ax, mesh.x - mesh.y, depth, levels=[0.5])
    assert image.get_array().min() >= -1e-12 and image.get_array().max() <= 1 + 1e-12


def test_paths_start_open_and_end_full():
    fig, ax = look.single()
    look.draw_paths(ax, np.random.default_rng(0).normal(size=(5, 3, 2)), color=look.EMBER)
    assert len(ax.collections) == 3 and len(ax.get_lines()) == 3
    assert ax.get_lines()[1].get_markerfacecolor() == look.PAPER


def test_a_saved_picture_is_small_and_always_the_same(tmp_path):
    for name in ("a.png", "b.png"):
        fig, ax = look.single()
        ax.imshow(np.random.default_rng(0).random((40, 40)))
        look.save(fig, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size <= 150_000
    with pytest.raises(ValueError, match="fig: expected a picture of at most 100 bytes"):
        look.save(fig, tmp_path / "c.png", limit=100)
    assert not (tmp_path / "c.png").exists()


def test_the_package_alone_does_not_load_matplotlib():
    code = "import sys, dnlbook, dnlbook.networks; sys.exit('matplotlib' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ax: look.role("recurrent"), "role: expected one of 'plain', 'residual'"),
        (lambda ax: look.single(0.0), "width: expected a number above 0"),
        (
            lambda ax: look.panels(3),
            "columns: expected 1 or 2, so that labels can be read on a phone, received 3",
        ),
        (lambda ax: look.panels(2, height=-1), "height"),
        (lambda ax: look.slope_triangle(ax, 0.0, 1.0, 1), "x: expected a number above 0"),
        (lambda ax: look.slope_triangle(ax, 1.0, 1.0, 1, width=1.0), "width: expected a factor above 1"),
        (
            lambda ax: look.convergence_plot(ax, [1, 2], [0.1, 0.0]),
            "errors: expected numbers above 0 for a logarithmic",
        ),
        (lambda ax: look.convergence_plot(ax, [], []), "depths: expected a non-empty list"),
        (
            lambda ax: look.convergence_plot(ax, [1, 2], [0.1]),
            "errors: expected 2 numbers like depths, received 1",
        ),
        (lambda ax: look.convergence_plot(ax, [1, 2], [0.1, np.nan]), "errors: expected numbers above 0"),
        (lambda ax: look.convergence_plot(ax, [1], [0.1], role="bond"), "role: expected one of"),
        (
            lambda ax: look.interval(ax, [1], [1], [-0.1]),
            "half: expected numbers of at least 0, received -0.1",
        ),
        (lambda ax: look.interval(ax, [1, 2], [1], [0.1]), "x, mean, half: expected the same shape"),
        (lambda ax: look.triangle_mesh(0), "depth: expected an int of at least 1"),
        (
            lambda ax: look.triangle_heatmap(ax, [0.0, 1.0], 1),
            r"values: expected shape \(3,\) for depth 1, received \(2,\)",
        ),
        (lambda ax: look.triangle_heatmap(ax, [0.0, 1.0, np.nan], 1), "values: expected finite numbers"),
        (
            lambda ax: look.draw_paths(ax, np.zeros((3, 2))),
            r"paths: expected shape \(L \+ 1, B, 2\), received \(3, 2\)",
        ),
        (lambda ax: look.draw_paths(ax, np.full((3, 2, 2), np.inf)), "paths: expected finite numbers"),
    ],
)
def test_bad_arguments_are_named(call, message):
    fig, ax = look.single()
    with pytest.raises(ValueError, match=message):
        call(ax)
