"""The linear-quadratic problem against dense linear algebra, closed forms and its own bounds."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.linear_quadratic import LinearQuadraticProblem, _bounds_of_degree
from dnlbook.quadrature import quadrature_weights
from dnlbook.triangle import TriangleMesh
from dnlbook.volterra import solve_vie

STANDARD = LinearQuadraticProblem(0.0, 0.3, 1.5, 0.5)
GROWING = LinearQuadraticProblem(1.0, 0.3, 1.5, 0.5)


def last_state(problem, depth, rule, control):
    """The network, written as the double loop of its definition."""
    mesh = TriangleMesh(depth, problem.horizon)
    weights = quadrature_weights(rule, depth)
    states = [torch.tensor(problem.x0)]
    for l in range(1, depth + 1):
        past = problem.x0 + mesh.step * sum(
            weights[l, k] * (problem.a * states[k] + control[mesh.index(l, k)]) for k in range(l)
        )
        own = mesh.step * weights[l, l]
        states.append((past + own * control[mesh.index(l, l)]) / (1 - own * problem.a))
    return states[-1]


def cost(problem, depth, rule, control, penalty="h1"):
    mesh = TriangleMesh(depth, problem.horizon)
    norm = mesh.h1_norm if penalty == "h1" else mesh.l2_norm
    miss = last_state(problem, depth, rule, control) - problem.target
    return 0.5 * miss**2 + problem.alpha / 2 * norm(control, "lumped") ** 2


@settings(deadline=None, max_examples=20)
@given(
    depth=st.integers(1, 5),
    rule=st.sampled_from(["rectangle", "trapezoid", "gregory"]),
    penalty=st.sampled_from(["h1", "l2"]),
    a=st.floats(-1, 0.4),
    horizon=st.sampled_from([0.7, 1.0, 2.0]),
)
def test_the_control_is_the_minimizer_and_the_value_its_cost(depth, rule, penalty, a, horizon):
    problem = LinearQuadraticProblem(a, 0.3, 1.5, 0.5, horizon)
    value, control = problem.solve(depth, rule, penalty=penalty)
    control = control.requires_grad_()
    measured = cost(problem, depth, rule, control, penalty)
    assert measured.item() == pytest.approx(value, rel=1e-12)
    (gradient,) = torch.autograd.grad(measured, control)
    assert float(gradient.abs().max()) < 1e-12 * max(1.0, value)


@pytest.mark.parametrize("horizon", [0.5, 1.0, 3.0])
def test_without_growth_the_limit_is_closed_and_solves_its_equation(horizon):
    problem = LinearQuadraticProblem(0.0, 0.3, 1.5, 0.5, horizon)
    kappa = 1 + horizon / math.tanh(horizon)
    assert problem.limit_value == pytest.approx(0.5 * 1.2**2 * 0.5 / (0.5 + kappa), rel=1e-15)
    assert problem.limit_error < 1e-12
    for degree in (8, 12, 20):
        bounds = _bounds_of_degree(0.0, horizon, degree)
        assert bounds.lower == pytest.approx(kappa, rel=1e-7 if degree == 8 else 1e-12)
        assert bounds.upper == pytest.approx(kappa, rel=1e-7 if degree == 8 else 1e-12)
        assert bounds.upper >= kappa * (1 - 1e-13) and bounds.lower <= kappa * (1 + 1e-13)


def test_the_reference_number_of_the_chapter():
    assert STANDARD.limit_value == pytest.approx(0.12797564319784, abs=5e-15)
    assert GROWING.limit_value == pytest.approx(0.0175804908548, abs=5e-14)


@pytest.mark.parametrize(("a", "horizon"), [(1.0, 1.0), (-3.0, 1.0), (2.0, 2.0), (0.5, 0.5)])
def test_bounds_of_the_limit_tighten_and_contain_finer_ones(a, horizon):
    bounds = [_bounds_of_degree(a * horizon, horizon, degree) for degree in (4, 6, 10, 16)]
    low, high = [b.lower for b in bounds], [b.upper for b in bounds]
    slack = 1e-13 * high[-1]
    assert all(coarse <= fine + slack for coarse, fine in pairwise(low))
    assert all(coarse >= fine - slack for coarse, fine in pairwise(high))
    assert 0 <= high[-1] - low[-1] + slack and (high[-1] - low[-1]) < 1e-11 * high[-1] < high[0] - low[0]


@pytest.mark.parametrize("problem", [STANDARD, GROWING, LinearQuadraticProblem(-2.0, 1.0, 0.0, 0.1, 1.5)])
def test_the_limit_control_has_the_limit_value(problem):
    T, count = problem.horizon, 257
    t = torch.linspace(0, T, count)

    def kernel(time, s, x):
        time = torch.as_tensor(time).expand_as(s)
        return problem.a * x + problem.limit_control(time, s)

    final = solve_vie(kernel, torch.tensor(problem.x0), t, rtol=1e-11, atol=1e-12).x[-1].item()
    fine = TriangleMesh(256, T)
    nodal = problem.limit_control(fine.t, fine.s)
    penalty = problem.alpha / 2 * float(fine.h1_norm(nodal) ** 2)
    value = 0.5 * (final - problem.target) ** 2 + penalty
    assert value == pytest.approx(problem.limit_value, rel=2e-4)
    # stationarity along the ray: J(r u) is smallest at r = 1, so data and penalty balance
    assert (final - problem.target) * (final - problem.x0 * math.exp(problem.a * T)) == pytest.approx(
        -2 * penalty, rel=2e-4
    )


@pytest.mark.parametrize(("rule", "low", "high"), [("rectangle", 0.94, 1.03), ("trapezoid", 1.99, 2.01)])
@pytest.mark.parametrize("problem", [STANDARD, GROWING])
def test_values_converge_with_the_order_of_the_rule(problem, rule, low, high):
    gaps = [problem.solve(depth, rule)[0] - problem.limit_value for depth in (64, 128)]
    assert low < math.log2(gaps[0] / gaps[1]) < high


@settings(deadline=None, max_examples=20)
@given(depth=st.integers(1, 40), alpha=st.floats(0.01, 10))
def test_without_derivatives_in_the_penalty_the_value_is_closed(depth, alpha):
    problem = LinearQuadraticProblem(0.0, 0.3, 1.5, alpha)
    value, control = problem.solve(depth, penalty="l2")
    assert value == pytest.approx(0.5 * 1.2**2 * alpha / (alpha + 2 * depth + 4), rel=1e-13)
    mesh = TriangleMesh(depth)
    others = torch.ones(mesh.size, dtype=torch.bool)
    others[mesh.row(depth)[:-1]] = False
    assert not bool(control[others].any())


def test_a_target_that_is_met_without_control_costs_nothing():
    value, control = LinearQuadraticProblem(0.0, 1.0, 1.0, 0.5).solve(4)
    assert value == 0 and not bool(control.any())


def test_bad_input_is_named():
    for name, value in (("alpha", 0.0), ("alpha", -1.0), ("horizon", 0.0), ("a", math.nan), ("x0", math.inf)):
        numbers = {"a": 0.0, "x0": 0.3, "target": 1.5, "alpha": 0.5} | {name: value}
        with pytest.raises(ValueError, match=f"{name}: expected"):
            LinearQuadraticProblem(**numbers)
    with pytest.raises(TypeError, match="target: expected a number"):
        LinearQuadraticProblem(0.0, 0.3, "1.5 m", 0.5)
    with pytest.raises(ValueError, match=r"a: expected abs\(a\) \* horizon of at most 30, received 40"):
        LinearQuadraticProblem(-20.0, 0.3, 1.5, 0.5, 2.0)
    with pytest.raises(ValueError, match="rule: expected one of"):
        STANDARD.solve(4, "simpson")
    with pytest.raises(ValueError, match="penalty: expected one of 'h1', 'l2', received 'h2'"):
        STANDARD.solve(4, penalty="h2")
    with pytest.raises(ValueError, match="depth"):
        STANDARD.solve(0)
    with pytest.raises(ValueError, match=r"depth: expected at least 5 for the rule 'trapezoid' and a = 8, received 4"):
        LinearQuadraticProblem(8.0, 0.3, 1.5, 0.5).solve(4, "trapezoid")
    with pytest.raises(ValueError, match=r"s: expected shape \(2\)"):
        STANDARD.limit_control(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="t, s: expected points with 0 <= s <= t <= 1"):
        STANDARD.limit_control(torch.tensor([0.2]), torch.tensor([0.3]))
