"""A rule's table is exact for the polynomials it promises, and no more."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.quadrature import RULES, quadrature_weights

#: degree up to which a row is exact: everywhere, and from row 2 on
DEGREE = {"rectangle": (0, 0), "trapezoid": (1, 1), "gregory": (1, 3)}


@settings(deadline=None)
@given(rule=st.sampled_from(RULES), depth=st.integers(1, 40))
def test_rows_integrate_polynomials_of_the_promised_degree(rule, depth):
    weights = quadrature_weights(rule, depth, dtype=torch.float64)
    nodes = torch.arange(depth + 1.0, dtype=torch.float64)
    everywhere, later = DEGREE[rule]
    for degree in range(later + 1):
        start = 0 if degree <= everywhere else 2
        exact = nodes ** (degree + 1) / (degree + 1)
        torch.testing.assert_close((weights @ nodes**degree)[start:], exact[start:], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_no_row_is_exact_beyond_the_degree(rule):
    nodes = torch.arange(13.0)
    degree = DEGREE[rule][1] + 1
    gap = quadrature_weights(rule, 12) @ nodes**degree - nodes ** (degree + 1) / (degree + 1)
    assert bool((gap[2:].abs() > 1e-3).all())


def test_gregory_rows_are_the_classical_ones():
    weights = quadrature_weights("gregory", 8)
    expected = torch.tensor([3 / 8, 7 / 6, 23 / 24, 1, 1, 1, 23 / 24, 7 / 6, 3 / 8])
    torch.testing.assert_close(weights[8], expected, rtol=0, atol=0)
    torch.testing.assert_close(weights[2, :3], torch.tensor([1, 4, 1]) / 3, rtol=0, atol=1e-16)
    torch.testing.assert_close(weights[3, :4], torch.tensor([1, 3, 3, 1]) * 3 / 8, rtol=0, atol=1e-16)


@settings(deadline=None)
@given(
    rule=st.sampled_from(RULES),
    depth=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_tables_of_smaller_depth_are_corners_of_larger_ones(rule, depth, dtype):
    small, large = (
        quadrature_weights(rule, depth, dtype=dtype),
        quadrature_weights(rule, depth + 3, dtype=dtype),
    )
    assert small.dtype == dtype and small.shape == (depth + 1, depth + 1)
    assert torch.equal(small, large[: depth + 1, : depth + 1])
    assert torch.equal(small, small.tril())
    assert bool((small.diagonal()[1:] == 0).all()) == (rule == "rectangle")


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match="rule: expected one of 'rectangle', 'trapezoid', 'gregory', received 'simpson'"
    ):
        quadrature_weights("simpson", 4)
    with pytest.raises(ValueError, match="depth: expected an int of at least 1, received 0"):
        quadrature_weights("trapezoid", 0)
    with pytest.raises(TypeError, match="depth: expected a positive int, received 2.5"):
        quadrature_weights("trapezoid", 2.5)
