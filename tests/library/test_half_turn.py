"""The landing example is what its page says, and the committed pictures show it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnlbook import half_turn

ROOT = Path(__file__).parents[2]


def test_limit_factor_solves_its_volterra_equation():
    t = torch.linspace(0, 1, 2001)
    phi = half_turn.limit_factor(t)
    for j in (400, 1200, 2000):
        integral = torch.trapezoid(half_turn.memory(t[j], t[: j + 1]) * phi[: j + 1], t[: j + 1])
        assert phi[j].item() == pytest.approx(1 - integral.item(), abs=2e-6)
    assert phi[0].item() == pytest.approx(1, abs=1e-12) and phi[-1].item() == pytest.approx(-1, abs=1e-12)


def test_both_networks_converge_with_order_one():
    x0 = half_turn.points()
    for paths in (half_turn.residual_paths, half_turn.dense_paths):
        misses = [half_turn.miss(paths(x0, depth)) for depth in (256, 512)]
        assert math.log2(misses[0] / misses[1]) == pytest.approx(1, abs=0.01)


def test_residual_miss_has_a_closed_form():
    for depth in (1, 4, 64):
        exact = abs(1 + (1 + 1j * math.pi / depth) ** depth)
        assert half_turn.miss(half_turn.residual_paths(half_turn.points(), depth)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("paths", [half_turn.residual_paths, half_turn.dense_paths])
def test_bad_arguments_are_named(paths):
    with pytest.raises(ValueError, match=r"x0: expected shape \(B, 2\)"):
        paths(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="depth: expected an int of at least 1"):
        paths(half_turn.points(), 0)
    with pytest.raises(ValueError, match="count: expected an int of at least 1"):
        half_turn.points(0)


def test_committed_pictures_are_the_ones_that_the_code_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    import pictures

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    pictures.main(tmp_path)
    torch.set_default_dtype(before)
    drawn = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png"))
    assert len(drawn) == 3 + len(pictures.FRAMES)
    for name in drawn:
        new, stored = (np.asarray(Image.open(f / name).convert("RGB"), float) for f in (tmp_path, ROOT / "book/img"))
        assert new.shape == stored.shape, name
        height, width = (size // 8 * 8 for size in new.shape[:2])
        difference = (new - stored)[:height, :width].reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
        assert np.sqrt((difference**2).mean()) < 2 and np.abs(difference).max() < 16, name
    sys.modules.pop("pictures", None)
