"""Half-open stage times stay in their own layer, however many steps a layer is given."""

from __future__ import annotations

import pytest
import torch

from dnlbook.flows import integrate, interval


@pytest.mark.parametrize("steps_per_piece", [1, 7, 16, 100, 1000])
@pytest.mark.parametrize("scheme", ["heun", "rk4", "rk38"])
def test_no_stage_reads_the_next_piece(steps_per_piece, scheme):
    # x' = 1 on the first half and 0 on the second: every consistent method is exact if it reads its own piece
    speed = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x = integrate(
        lambda t, x: speed[interval(t, 2)].expand_as(x),
        torch.zeros(1, dtype=torch.float64),
        depth=2 * steps_per_piece,
        scheme=scheme,
        half_open=True,
    )
    assert abs(x[-1].item() - 0.5) < 1e-12


@pytest.mark.parametrize("pieces", [1, 3, 7, 64, 1000])
def test_a_time_that_accumulates_rounding_still_finds_its_node(pieces):
    time = 0.0
    for k in range(pieces):
        assert interval(min(time, 1.0), pieces) == k
        time += 1.0 / pieces
