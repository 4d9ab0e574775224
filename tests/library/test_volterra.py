"""Volterra equations: closed forms, orders, honest errors, and what happens when something is wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erfcx, gamma

from dnlbook._collocation import inverse_of
from dnlbook.volterra import ConvergenceError, VIESolution, solve_vie

HALF = torch.tensor(0.5, dtype=torch.float64)
KINK = 1 / math.pi


def grid(points, end=1.0, dtype=torch.float64):
    return torch.linspace(0, end, points, dtype=dtype)


def error(solution, exact):
    return (solution.x - exact(solution.t)).abs().max().item()


def orders(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


# the manufactured network: V(t, s) tanh(W(t, s) x + b(t)) with the solution 1/2 + sin t


def sine(t):
    return 0.5 + torch.sin(t)


def network(t, s, x):
    w, b = 1 + t * s / 2, 0.5 + t / 2
    v = (torch.cos(s) + torch.sin(s)) * torch.exp(s - t) / torch.tanh(w * sine(s) + b)
    return v * torch.tanh(w * x + b)


def lags(t, s, x):
    """9 (t - s) x, for states of any shape; with forcing 1 the solution is cosh 3t."""
    return 9 * (t - s).reshape(-1, *[1] * (x.ndim - 1)) * x


# ---------------------------------------------------------------------------------------- closed forms

CLOSED = {
    "manufactured": (network, HALF, sine, 1.0),
    "hyperbolic": (lags, HALF, lambda t: 0.5 * torch.cosh(3 * t), 1.0),
    "exponential": (lambda t, s, x: 2 * x, HALF, lambda t: 0.5 * torch.exp(2 * t), 1.0),
    "convolution": (
        lambda t, s, x: torch.exp(s - t) * x,
        lambda t: torch.cos(t) - (torch.cos(t) + torch.sin(t) - torch.exp(-t)) / 2,
        torch.cos,
        5.0,
    ),
    "oscillation": (
        lambda t, s, x: -x,
        lambda t: torch.cos(60 * t) + torch.sin(60 * t) / 60,
        lambda t: torch.cos(60 * t),
        3.0,
    ),
    "stiff": (
        lambda t, s, x: -1e4 * x,
        lambda t: torch.cos(t) + 1e4 * torch.sin(t),
        torch.cos,
        3.0,
    ),
    "stiff and cubic": (
        lambda t, s, x: -1e3 * x**3,
        lambda t: torch.ones_like(t) + 1e3 * t,
        torch.ones_like,
        2.0,
    ),
    "unstable": (
        lambda t, s, x: 2 * x,
        lambda t: torch.cos(t) - 2 * torch.sin(t),
        torch.cos,
        5.0,
    ),
    "growth over thirteen decades": (lags, HALF, lambda t: 0.5 * torch.cosh(3 * t), 10.0),
    "almost a blow-up": (
        lambda t, s, x: x**2,
        torch.tensor(1.0, dtype=torch.float64),
        lambda t: 1 / (1 - t),
        0.99,
    ),
    "kink in x": (
        lambda t, s, x: torch.relu(x - 0.7),
        lambda t: 0.5 + t,
        lambda t: torch.where(t < 0.2, 0.5 + t, torch.exp((t - 0.2).clamp(min=0)) - 0.3),
        1.0,
    ),
    "no memory": (lambda t, s, x: torch.zeros_like(x), torch.cos, torch.cos, 1.0),
    "memory of the forcing alone": (lambda t, s, x: torch.cos(s), HALF, sine, 1.0),
    "zero": (lambda t, s, x: x, torch.tensor(0.0, dtype=torch.float64), torch.zeros_like, 1.0),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
def test_the_tolerance_is_kept_on_closed_forms(name, rtol):
    kernel, forcing, exact, end = CLOSED[name]
    solution = solve_vie(kernel, forcing, grid(301, end), rtol=rtol)
    allowed = rtol * (exact(solution.t).abs().max().item() + 0.01)
    assert error(solution, exact) <= allowed
    assert solution.residual <= allowed
    assert isinstance(solution, VIESolution) and isinstance(solution.residual, float)


@pytest.mark.parametrize("degree", [4, 8, 12])
def test_collocation_of_a_fixed_degree_converges_geometrically(degree):
    # the errors of Chebyshev collocation on one panel
    bound = {4: 3e-5, 8: 4e-11, 12: 1e-13}[degree]
    solution = solve_vie(network, HALF, grid(257), degree=degree)
    assert bound / 5 < error(solution, sine) <= bound or degree == 12 and error(solution, sine) <= bound


def test_collocation_beats_the_rules_at_equal_evaluations():
    collocation = solve_vie(network, HALF, grid(257), degree=8)
    gregory = solve_vie(network, HALF, grid(65), method="gregory")
    assert collocation.evaluations < gregory.evaluations
    assert error(collocation, sine) < 1e-4 * error(gregory, sine)


def test_evaluations_are_counted():
    calls = []

    def kernel(t, s, x):
        calls.append(len(s))
        return network(t, s, x)

    for numerics in ({}, {"degree": 6}, {"method": "rectangle"}, {"method": "gregory"}):
        calls.clear()
        assert solve_vie(kernel, HALF, grid(17), **numerics).evaluations == sum(calls)
    assert solve_vie(kernel, HALF, grid(17), method="rectangle").evaluations == 16 * 17 // 2


def test_the_output_grid_does_not_change_the_solution():
    coarse, fine = solve_vie(network, HALF, torch.tensor([0, 0.3, 1.0])), solve_vie(network, HALF, grid(77))
    torch.testing.assert_close(coarse(fine.t), fine.x, rtol=0, atol=1e-15)


# ---------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("rule", "maximum", "at_end"), [("rectangle", 1, 1), ("trapezoid", 2, 2), ("gregory", 3, 4)]
)
def test_rules_reach_their_order(rule, maximum, at_end):
    everywhere, last = [], []
    for depth in (32, 64, 128):
        gap = solve_vie(network, HALF, grid(depth + 1), method=rule).x - sine(grid(depth + 1))
        everywhere.append(gap.abs().max().item())
        last.append(gap[-1].abs().item())
    assert orders(everywhere)[-1] == pytest.approx(maximum, abs=0.02)
    assert orders(last)[-1] == pytest.approx(at_end, abs=0.03)


def test_rules_meet_the_tabulated_errors():
    table = {"rectangle": 2.04e-3, "trapezoid": 7.44e-7, "gregory": 9.91e-9}
    for rule, expected in table.items():
        assert error(solve_vie(network, HALF, grid(257), method=rule), sine) == pytest.approx(
            expected, rel=3e-3
        )


@pytest.mark.parametrize("rule", ["rectangle", "trapezoid"])
def test_rules_keep_their_order_on_a_graded_grid(rule):
    errors = [error(solve_vie(network, HALF, grid(L + 1) ** 2, method=rule), sine) for L in (32, 64, 128)]
    assert orders(errors)[-1] == pytest.approx({"rectangle": 1, "trapezoid": 2}[rule], abs=0.05)


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_hoelder_kernels_cost_the_rules_their_order(beta):
    # V(s) = 1 + sum 2^(-j beta) cos(2 pi 2^j s), x' = V tanh x: closed form by quadrature of V
    levels = torch.arange(40.0)

    def potential(s):
        return 1 + (
            2 ** (-beta * levels) * torch.cos(2 * torch.pi * torch.fmod(2**levels * s[..., None], 1))
        ).sum(-1)

    end = torch.asinh(torch.sinh(HALF) * math.e)  # the sines vanish at t = 1
    errors = []
    for depth in (256, 512, 1024):
        x = solve_vie(
            lambda t, s, x: potential(s) * torch.tanh(x), HALF, grid(depth + 1), method="rectangle"
        ).x
        errors.append((x[-1] - end).abs().item())
    assert orders(errors)[-1] == pytest.approx(beta, abs=0.03)


# kernels with a kink or a singularity, and the rate at which collocation on one panel then converges


def mittag_leffler(alpha):
    return lambda t: (
        0.5 * sum(torch.as_tensor(t.numpy() ** (alpha * n) / gamma(alpha * n + 1)) for n in range(60))
    )


def kinked(t):
    inner, outer = (KINK**2 - (KINK - t) ** 2) / 2, (KINK**2 + (t - KINK) ** 2) / 2
    return 0.5 * torch.exp(torch.where(t < KINK, inner, outer))


def rooted(t):
    gap = t - KINK
    return 0.5 * torch.exp(2 / 3 * (gap.sign() * gap.abs() ** 1.5 + KINK**1.5))


def delayed(t):
    return 0.5 * sum(
        9.0**n * (t - n * KINK).clamp(min=0) ** (2 * n) / math.factorial(2 * n) for n in range(4)
    )


WEAK = {
    "kink": (lambda t, s, x: (s - KINK).abs() * x, kinked, 2.0),
    "root": (lambda t, s, x: (s - KINK).abs().sqrt() * x, rooted, 1.5),
    "moving kink": (lambda t, s, x: 9 * (t - s - KINK).clamp(min=0) * x, delayed, 2.0),
    "root on the diagonal": (lambda t, s, x: (t - s).sqrt() / gamma(1.5) * x, mittag_leffler(1.5), 3.0),
    "Abel": (
        lambda t, s, x: x / (t - s).sqrt() / gamma(0.5),
        lambda t: 0.5 * torch.as_tensor(erfcx(-np.sqrt(t.numpy()))),
        1.0,
    ),
}


@pytest.mark.parametrize("name", WEAK)
def test_weakly_regular_kernels_give_the_reduced_order(name):
    kernel, exact, order = WEAK[name]
    solutions = [solve_vie(kernel, HALF, grid(301), degree=N) for N in (8, 16, 32, 64, 128)]
    errors = [error(solution, exact) for solution in solutions]
    assert math.log2(errors[0] / errors[-1]) / 4 == pytest.approx(order, abs=0.3)
    # the residual neither hides the error nor exaggerates it
    for solution, size in zip(solutions, errors, strict=True):
        assert size / 10 < solution.residual < 3 * size


@pytest.mark.parametrize("name", [name for name in WEAK if name != "Abel"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-7])
def test_refinement_keeps_the_tolerance_for_weakly_regular_kernels(name, rtol):
    kernel, exact, _ = WEAK[name]
    solution = solve_vie(kernel, HALF, grid(301), rtol=rtol)
    assert error(solution, exact) <= rtol * exact(solution.t).abs().max().item()


@pytest.mark.parametrize("degree", [4, 8, 12])
def test_a_break_at_the_kink_restores_geometric_convergence(degree):
    kernel, exact, _ = WEAK["kink"]
    bound = {4: 3e-5, 8: 5e-10, 12: 1e-13}[degree]
    assert error(solve_vie(kernel, HALF, grid(301), degree=degree, breaks=[KINK]), exact) <= bound
    assert error(solve_vie(kernel, HALF, grid(301), degree=degree), exact) > 1e3 * bound or degree == 4


def test_breaks_do_not_help_a_moving_kink():
    kernel, exact, _ = WEAK["moving kink"]
    breaks = [KINK, 2 * KINK, 3 * KINK]
    errors = [error(solve_vie(kernel, HALF, grid(301), degree=N, breaks=breaks), exact) for N in (8, 16, 32)]
    assert orders(errors)[-1] < 2.2 and errors[-1] > 1e-5


# ------------------------------------------------------------------------------------ where s <= t only


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "numerics", [{}, {"breaks": [0.3, 1.1]}, {"method": "rectangle"}, {"method": "gregory"}]
)
def test_the_kernel_is_never_called_with_s_after_t(dtype, numerics):
    def causal(t, s, x):
        assert bool((s <= t).all()) and bool((s >= 0).all())
        return torch.where(s <= t, (t - s).sqrt() * torch.sin(20 * s) * x, math.nan)

    def gentle(t, s, x):
        assert t.ndim == 0 or t.shape == s.shape
        return causal(t, s, x)

    solution = solve_vie(gentle, HALF.to(dtype), grid(33, 1.7, dtype), **({"rtol": 1e-3} | numerics))
    assert bool(solution.x.isfinite().all()) and solution.x.dtype == dtype


def test_times_stay_inside_the_interval_when_rounding_would_leave_it():
    end = 0.1 + 0.2  # not a nice number

    def forcing(t):
        assert bool((t <= end).all())
        return torch.cos(50 * t)

    solution = solve_vie(lambda t, s, x: x, forcing, grid(4, end), breaks=[0.1, 0.1 + 1e-3])
    assert solution(end).shape == ()


# -------------------------------------------------------------------------------- shapes, batches, dtypes


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    points=st.integers(2, 9),
    method=st.sampled_from(["collocation", "rectangle", "trapezoid", "gregory"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    constant=st.booleans(),
)
def test_states_of_any_shape_are_solved_as_their_components(shape, points, method, dtype, constant):
    t = grid(points, 1.0, dtype)
    start = torch.arange(1, math.prod(shape) + 1, dtype=dtype).reshape(shape) / 8
    forcing = start if constant else lambda time: start * torch.ones_like(time)
    solution = solve_vie(lags, forcing, t, method=method)
    alone = solve_vie(lags, torch.ones((), dtype=dtype), t, method=method)
    assert solution.x.shape == (points, *shape) and solution.x.dtype == dtype
    atol = 1e-7 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(solution.x, alone.x.reshape(-1, *[1] * len(shape)) * start, rtol=0, atol=atol)
    assert solution(torch.tensor([[0.1, 0.9]], dtype=dtype)).shape == (1, 2, *shape)


def test_batched_nonlinear_states_agree_with_single_ones():
    weights, start = torch.randn(5, 5) / 2, torch.randn(7, 5)

    def kernel(t, s, x):
        return torch.cos(t - s).reshape(-1, *[1] * (x.ndim - 1)) * torch.tanh(x @ weights.T)

    t = grid(5, 2.0)
    batch = solve_vie(kernel, start, t, rtol=1e-10).x
    for k in (0, 6):
        torch.testing.assert_close(
            batch[:, k], solve_vie(kernel, start[k], t, rtol=1e-10).x, rtol=0, atol=1e-9
        )


def test_large_stiff_states_are_solved_on_short_panels():
    # 300 components: too many for Newton's matrix, too stiff for Picard on the whole interval
    rates = torch.linspace(1, 200, 300)
    solution = solve_vie(lambda t, s, x: -rates * x, torch.ones(300), grid(9), rtol=1e-6)
    torch.testing.assert_close(solution.x, torch.exp(-rates * grid(9)[:, None]), rtol=0, atol=1e-6)


def test_very_wide_states_are_refined_by_panels_not_by_degree():
    solution = solve_vie(lambda t, s, x: torch.cos(30 * s)[:, None] * x, torch.ones(2200), grid(3), rtol=1e-5)
    exact = torch.exp(torch.sin(30 * grid(3)) / 30)
    torch.testing.assert_close(solution.x, exact[:, None].expand(3, 2200), rtol=0, atol=1e-5)


def test_a_singular_newton_matrix_is_no_inverse():
    assert inverse_of(torch.zeros(2, 2)) is None
    torch.testing.assert_close(inverse_of(2 * torch.eye(2)), torch.eye(2) / 2)


def test_newton_takes_over_for_stiff_states_of_medium_size():
    rates = torch.linspace(1, 1000, 20)
    solution = solve_vie(lambda t, s, x: -rates * x, lambda t: torch.cos(t) + rates * torch.sin(t), grid(9))
    torch.testing.assert_close(solution.x, torch.cos(grid(9))[:, None].expand(9, 20), rtol=0, atol=1e-8)


def test_single_precision_keeps_its_default_tolerance():
    t = grid(33, dtype=torch.float32)
    solution = solve_vie(network, HALF.float(), t)
    assert solution.x.dtype == torch.float32
    assert error(solution, sine) < 1e-3 * torch.finfo(torch.float32).eps ** 0.5


@pytest.mark.parametrize(
    "forcing",
    [
        lambda t: torch.stack([torch.cos(t), torch.sin(t)]),  # many times would give the transposed shape
        lambda t: torch.tensor([math.cos(t.item()), math.sin(t.item())]),  # needs one time
        lambda t: torch.stack([torch.cos(t), torch.sin(t)], -1),  # takes many times
    ],
)
def test_a_forcing_of_one_time_is_enough(forcing):
    solution = solve_vie(lambda t, s, x: torch.zeros_like(x), forcing, grid(7))
    torch.testing.assert_close(solution.x, torch.stack([grid(7).cos(), grid(7).sin()], -1), rtol=0, atol=1e-9)


def test_a_forcing_that_mixes_times_is_called_on_each():
    # 33 components where a panel has 33 times: the shape of the transposed result fits
    phases = torch.arange(33.0)
    solution = solve_vie(lambda t, s, x: torch.zeros_like(x), lambda t: torch.cos(t * phases / 9), grid(3))
    torch.testing.assert_close(solution.x, torch.cos(grid(3)[:, None] * phases / 9), rtol=0, atol=1e-8)

    def cumulative(t):  # right for one time, wrong for many
        return torch.cumsum(t.reshape(-1), 0).reshape(t.shape)[..., None]

    solution = solve_vie(lambda t, s, x: torch.zeros_like(x), cumulative, grid(3))
    torch.testing.assert_close(solution.x[:, 0], grid(3), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------ dense output


def test_dense_output_has_the_accuracy_of_the_method():
    fine = grid(1001, 0.99)
    assert (solve_vie(network, HALF, grid(2))(fine) - sine(fine)).abs().max() < 1e-8
    for rule, order in (("rectangle", 1), ("trapezoid", 2), ("gregory", 3)):
        gaps = []
        for depth in (32, 64):
            solution = solve_vie(network, HALF, grid(depth + 1), method=rule)
            torch.testing.assert_close(solution(solution.t), solution.x, rtol=0, atol=1e-15)
            gaps.append((solution(fine) - sine(fine)).abs().max().item())
        assert orders(gaps)[0] == pytest.approx(order, abs=0.15)


def test_dense_output_crosses_panels_and_keeps_the_order_of_the_times():
    solution = solve_vie(lags, torch.ones(2), grid(3), breaks=[0.25, 0.5])
    times = torch.tensor([[0.9, 0.1], [0.5, 0.26]])
    expected = torch.cosh(3 * times)[..., None].expand(2, 2, 2)
    torch.testing.assert_close(solution(times), expected, rtol=0, atol=1e-8)
    assert solution(0.5).shape == (2,)


@pytest.mark.parametrize("times", [-0.1, 1.1, math.nan])
def test_dense_output_stays_in_the_interval(times):
    with pytest.raises(ValueError, match=r"times: expected times in \[0, 1\], received"):
        solve_vie(network, HALF, grid(3))(times)


def test_a_grid_of_two_points_is_enough_for_every_rule():
    for rule in ("rectangle", "trapezoid", "gregory"):
        assert solve_vie(lambda t, s, x: 0.5 * x, HALF, grid(2), method=rule)(0.5).shape == ()


# --------------------------------------------------------------------------------------------- gradients

METHODS = [
    {},
    {"breaks": [0.3, 0.8]},
    {"method": "rectangle"},
    {"method": "trapezoid"},
    {"method": "gregory"},
]


@pytest.mark.parametrize("numerics", METHODS)
def test_gradients_agree_with_differences(numerics):
    weights, start, rate = torch.randn(2, 2), torch.randn(2), torch.tensor(1.3)

    def solve(weights, start, rate):
        def kernel(t, s, x):
            return torch.exp(-rate * (t - s))[..., None] * torch.tanh(x @ weights.T)

        return solve_vie(kernel, lambda t: start * torch.cos(rate * t), grid(6), **numerics).x

    inputs = [value.requires_grad_() for value in (weights, start, rate)]
    assert torch.autograd.gradcheck(solve, inputs, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("numerics", [{}, {"breaks": [0.2, 0.7, 0.9]}])
def test_gradients_meet_closed_forms(numerics):
    rate, start = torch.tensor(1.3, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    solution = solve_vie(lambda t, s, x: rate * x, start, grid(5), rtol=1e-10, **numerics)
    got = torch.autograd.grad(solution.x[-1], (rate, start), retain_graph=True)
    assert got[0].item() == pytest.approx(0.7 * math.exp(1.3), rel=1e-8)
    assert got[1].item() == pytest.approx(math.exp(1.3), rel=1e-8)
    between = torch.autograd.grad(solution(0.77), (rate, start))
    assert between[0].item() == pytest.approx(0.7 * 0.77 * math.exp(1.3 * 0.77), rel=1e-8)


def test_gradients_of_the_rules_are_those_of_the_recursion():
    rate, t = torch.tensor(1.3, requires_grad=True), grid(9)
    solved = solve_vie(
        lambda t, s, x: torch.cos(rate * (t - s)) * torch.tanh(x), HALF, t, method="rectangle"
    ).x
    states = [HALF]
    for l in range(1, 9):
        past = torch.stack(states)
        states.append(HALF + (torch.cos(rate * (t[l] - t[:l])) * torch.tanh(past)).sum() / 8)
    torch.testing.assert_close(solved, torch.stack(states), rtol=0, atol=1e-15)
    cotangent = torch.randn(9)
    (expected,) = torch.autograd.grad(torch.stack(states), rate, cotangent)
    torch.testing.assert_close(torch.autograd.grad(solved, rate, cotangent)[0], expected, rtol=1e-13, atol=0)


def test_gradients_through_stiff_and_through_wide_states():
    for size, top in ((20, 300.0), (300, 4.0)):  # Newton's matrix; sweeps of the adjoint
        rates = torch.linspace(0.5, top, size).requires_grad_()
        x = solve_vie(lambda t, s, x, rates=rates: -rates * x, torch.ones(size), grid(3), rtol=1e-10).x
        (slope,) = torch.autograd.grad(x[-1].sum(), rates)
        torch.testing.assert_close(slope, -torch.exp(-rates.detach()), rtol=0, atol=1e-8)


def test_gradients_reach_a_forcing_that_the_kernel_ignores():
    start = torch.tensor(0.7, requires_grad=True)
    for numerics in METHODS:
        x = solve_vie(lambda t, s, x: torch.cos(s), start, grid(4), **numerics).x
        assert torch.autograd.grad(x.sum(), start)[0].item() == pytest.approx(4, rel=1e-12)


def test_long_histories_are_recomputed_for_the_gradient(monkeypatch):
    monkeypatch.setattr("dnlbook._panels._CALL", 64)
    test_gradients_meet_closed_forms({"breaks": [0.2, 0.7, 0.9]})


def test_nothing_is_tracked_without_need():
    rate = torch.tensor(1.3, requires_grad=True)
    for numerics in METHODS:
        with torch.no_grad():
            assert not solve_vie(lambda t, s, x: rate * x, HALF, grid(4), **numerics).x.requires_grad
        assert not solve_vie(lambda t, s, x: 1.3 * x, HALF, grid(4), **numerics).x.requires_grad
        assert solve_vie(lambda t, s, x: rate * x, HALF, grid(4), **numerics).x.requires_grad
    with torch.inference_mode():
        solve_vie(lambda t, s, x: rate * x, HALF, grid(4), degree=11)
    x = solve_vie(lambda t, s, x: rate * x, HALF, grid(4), degree=11).x  # the tables of degree 11 are usable
    assert torch.autograd.grad(x.sum(), rate)[0].item() > 0


@pytest.mark.parametrize("numerics", METHODS)
def test_second_derivatives_are_refused(numerics):
    rate = torch.tensor(1.3, requires_grad=True)
    x = solve_vie(lambda t, s, x: rate * x, HALF, grid(4), **numerics).x
    (slope,) = torch.autograd.grad(x.sum(), rate, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(slope, rate)


# --------------------------------------------------------------------------------------------- bad input


def linear(t, s, x):
    return x


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (
            torch.tensor([0.0, 0.5, 0.5]),
            r"t: expected a strictly increasing grid, received t\[1\] = 0.5, t\[2\] = 0.5",
        ),
        (torch.tensor([0.0, 0.5, 0.2]), r"t\[2\] = 0.2"),
        (torch.tensor([0.1, 0.5]), r"t: expected a grid that starts at 0, received t\[0\] = 0.1"),
        (torch.tensor([0.0]), "t: expected a grid of at least 2 points, received 1"),
        (torch.tensor([0.0, math.nan]), r"t: expected finite entries, received nan at index \(1,\)"),
        (torch.tensor([0.0, 1.0, math.inf]), "t: expected finite entries, received inf"),
        (torch.arange(3).half(), r"t: expected dtype torch.float32 or torch.float64, received torch.float16"),
        (torch.zeros(2, 2), r"t: expected shape \(points\), received \(2, 2\)"),
    ],
)
def test_bad_grids_are_named(t, message):
    with pytest.raises(ValueError, match=message):
        solve_vie(linear, HALF, t)


@pytest.mark.parametrize("t", [[0.0, 1.0], torch.arange(3), None])
def test_a_grid_is_a_floating_point_tensor(t):
    with pytest.raises(TypeError, match="t: expected a"):
        solve_vie(linear, HALF, t)


def test_gregory_needs_a_uniform_grid():
    with pytest.raises(
        ValueError, match=r"t: expected a uniform grid for method='gregory', received t\[1\] = 0.1"
    ):
        solve_vie(linear, HALF, torch.tensor([0.0, 0.1, 1.0]), method="gregory")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda t, s, x: x[:1], r"kernel: expected shape \(\d+, 2\) of torch.float64 .* received \(1, 2\)"),
        (lambda t, s, x: x[:, 0], r"received \(\d+,\) of torch.float64"),
        (lambda t, s, x: x.float(), "of torch.float32"),
        (lambda t, s, x: 1.0, "received float"),
        (lambda t, s, x: None, "received NoneType"),
    ],
)
@pytest.mark.parametrize("method", ["collocation", "trapezoid"])
def test_a_kernel_of_wrong_shape_or_dtype_is_named(kernel, message, method):
    with pytest.raises(ValueError, match=message):
        solve_vie(kernel, torch.ones(2), grid(4), method=method)


@pytest.mark.parametrize("method", ["collocation", "rectangle", "trapezoid", "gregory"])
def test_nan_from_the_kernel_is_located(method):
    def hole(t, s, x):
        return torch.where((s - 0.625).abs() < 0.02, math.nan, x)

    with pytest.raises(
        ValueError, match=r"kernel: expected finite values, received nan at t = \S+, s = 0\.6[0-4]"
    ):
        solve_vie(hole, HALF, grid(9), method=method)


def test_nan_from_the_kernel_is_located_for_vectors_and_on_the_diagonal():
    with pytest.raises(ValueError, match=r"received inf at t = .*, s = .* for x = a state of norm 1\.4"):
        solve_vie(lambda t, s, x: x / 0, torch.ones(2), grid(9))
    with pytest.raises(ValueError, match=r"received nan at t = 0\.125, s = 0\.125 for x = "):
        solve_vie(lambda t, s, x: (t - s) / (t - s) * x, HALF, grid(9), method="trapezoid")


def test_nan_from_the_kernel_is_located_in_the_history():
    def echo(t, s, x):  # the past turns bad when it is seen from later times
        return torch.where((t > 0.5) & (s < 0.25), math.nan, x)

    with pytest.raises(
        ValueError, match=r"kernel: expected finite values, received nan at t = 0\.\d+, s = 0\.[012]"
    ):
        solve_vie(echo, HALF, grid(9), breaks=[0.5])


@pytest.mark.parametrize("method", ["collocation", "rectangle"])
def test_nan_from_the_forcing_is_located(method):
    with pytest.raises(
        ValueError, match=r"forcing: expected finite values, received nan or inf at t = 0\.[5-9]"
    ):
        solve_vie(linear, lambda t: torch.where(t > 0.5, math.nan, t), grid(9), method=method)


@pytest.mark.parametrize(
    ("forcing", "error", "message"),
    [
        (1.0, TypeError, "forcing: expected a tensor or a function of t, received float"),
        (lambda t: 1.0, TypeError, r"forcing\(0\): expected a torch.Tensor, received float"),
        (torch.tensor(1), TypeError, "forcing: expected a floating-point tensor, received dtype torch.int64"),
        (
            torch.tensor(1.0).float(),
            ValueError,
            "forcing: expected dtype torch.float64 like t, received torch.float32",
        ),
        (
            torch.tensor(math.nan, dtype=torch.float64),
            ValueError,
            r"forcing: expected finite entries, received nan",
        ),
        (lambda t: t / t, ValueError, r"forcing\(0\): expected finite entries"),
        (
            lambda t: torch.ones(2) if float(t) < 0.5 else torch.ones(3),
            ValueError,
            r"forcing: expected shape \(2,\) of torch.float64 at t = 0.\d+ as at t = 0, received \(3,\)",
        ),
        (lambda t: torch.ones(2) if float(t) < 0.5 else 1.0, ValueError, "received float"),
    ],
)
def test_bad_forcings_are_named(forcing, error, message):
    with pytest.raises(error, match=message):
        solve_vie(linear, forcing, grid(4))


@pytest.mark.parametrize(
    ("numerics", "error", "message"),
    [
        (
            {"method": "simpson"},
            ValueError,
            "method: expected one of 'collocation', 'rectangle', .* received 'simpson'",
        ),
        ({"rtol": 0.0}, ValueError, "rtol: expected a number above 0, received 0.0"),
        ({"rtol": -1e-3, "method": "trapezoid"}, ValueError, "rtol: expected a number above 0"),
        ({"rtol": 1e-15}, ValueError, "rtol: expected at least 2.2e-14 in torch.float64, received 1e-15"),
        ({"atol": -1.0}, ValueError, "atol: expected a number of at least 0, received -1.0"),
        ({"atol": "no"}, TypeError, "atol: expected a number"),
        ({"max_iterations": 0}, ValueError, "max_iterations: expected an int of at least 1"),
        ({"max_evaluations": 0}, ValueError, "max_evaluations: expected an int of at least 1"),
        ({"degree": 1}, ValueError, "degree: expected an int from 2 to 256, received 1"),
        ({"degree": 8, "rtol": 1e-3}, ValueError, "degree: fixes the discretization"),
        (
            {"degree": 8, "method": "gregory"},
            ValueError,
            "degree, breaks: expected only with method='collocation'",
        ),
        ({"breaks": [0.5], "method": "rectangle"}, ValueError, "degree, breaks: expected only"),
        ({"breaks": [1.0]}, ValueError, r"breaks: expected times inside \(0, 1\), received 1.0"),
        ({"breaks": [math.nan]}, ValueError, "breaks: expected a finite number"),
        ({"breaks": ["a"]}, TypeError, "breaks: expected a number"),
    ],
)
def test_bad_numerics_are_named(numerics, error, message):
    with pytest.raises(error, match=message):
        solve_vie(linear, HALF, grid(4), **numerics)


def test_a_slow_contraction_is_told_from_none():
    with pytest.raises(
        ConvergenceError, match=r"contracts too slowly for max_iterations = 60: .* by 0\.9 times"
    ):
        solve_vie(lambda t, s, x: -7.2 * x, HALF, grid(5), method="trapezoid")
    solve_vie(lambda t, s, x: -7.2 * x, HALF, grid(5), method="trapezoid", max_iterations=1000)


def test_a_kernel_is_a_function():
    with pytest.raises(TypeError, match=r"kernel: expected a function of \(t, s, x\), received Tensor"):
        solve_vie(HALF, HALF, grid(4))


# ---------------------------------------------------------------------------------------- non-convergence


@pytest.mark.parametrize("method", ["trapezoid", "gregory"])
def test_an_implicit_rule_that_does_not_contract_says_so(method):
    message = rf"the {method} rule at t = 0\.25 does not contract.*by 2\.5 times.*finer grid"
    with pytest.raises(ConvergenceError, match=message):
        solve_vie(lambda t, s, x: -20 * x, HALF, grid(5), method=method)
    with pytest.raises(ConvergenceError, match="does not contract"):
        solve_vie(lambda t, s, x: -20 * x, HALF, grid(5), method=method, max_iterations=10**4)


def test_an_implicit_rule_blames_the_kernel_for_nan_and_the_solution_for_a_blow_up():
    def bad(t, s, x):  # finite for the past, not for the present
        return torch.where(t == s, math.nan, x)

    with pytest.raises(ValueError, match=r"received nan at t = 0\.25, s = 0\.25"):
        solve_vie(bad, HALF, grid(5), method="gregory")
    with pytest.raises(ConvergenceError, match="leave the range of torch.float64 at t = .*blow up"):
        solve_vie(lambda t, s, x: x**3, torch.tensor(2.0), grid(65), method="rectangle")


def test_a_rule_keeps_the_tolerance_it_is_given():
    rough = solve_vie(network, HALF, grid(65), method="trapezoid", atol=1e-3)
    fine = solve_vie(network, HALF, grid(65), method="trapezoid")
    assert rough.evaluations < fine.evaluations
    assert fine.residual < 1e-14 < rough.residual < 1e-3


def test_a_blow_up_is_located():
    with pytest.raises(
        ConvergenceError, match=r"no panel is short enough at t = 1 .* the solution may blow up"
    ):
        solve_vie(lambda t, s, x: x**2, torch.tensor(1.0), grid(4, 2.0))


def test_an_unbounded_kernel_is_refused():
    with pytest.raises(ConvergenceError, match="the kernel may be unbounded"):
        solve_vie(WEAK["Abel"][0], HALF, grid(4))


def test_a_budget_of_evaluations_is_kept():
    with pytest.raises(
        ConvergenceError, match=r"need more than max_evaluations = 100000 .* pass known kinks as breaks"
    ):
        solve_vie(WEAK["root on the diagonal"][0], HALF, grid(4), rtol=1e-10, max_evaluations=10**5)


def test_a_tolerance_below_the_rounding_errors_is_refused():
    def cancels(t, s, x):
        return 1e9 * torch.cos(300 * s) * x

    def exact_forcing(t):
        return 1 - 1e9 * torch.sin(300 * t) / 300

    with pytest.raises(ConvergenceError, match="below the rounding errors"):
        solve_vie(cancels, exact_forcing, grid(4, 0.1), rtol=1e-13)


def test_an_equation_that_amplifies_rounding_errors_is_refused():
    for end, message in ((5.2, "the estimated error is .*, although"), (8.0, "below the rounding errors")):
        with pytest.raises(ConvergenceError, match=message + ".*the equation amplifies defects"):
            solve_vie(lambda t, s, x: 3 * x, lambda t: torch.cos(t) - 3 * torch.sin(t), grid(4, end))


def test_a_fixed_degree_that_does_not_converge_is_refused():
    with pytest.raises(ConvergenceError, match=r"degree: 8 on the panel \[0, 1\] does not converge .*breaks"):
        solve_vie(lambda t, s, x: torch.exp(x), torch.tensor(2.0), grid(4), degree=8)
    with pytest.raises(ConvergenceError, match="Picard's iteration leaves a defect"):
        solve_vie(lambda t, s, x: -50 * x, torch.ones(600), grid(4), degree=8)


def test_a_noisy_kernel_is_refused():
    with pytest.raises(ConvergenceError):
        solve_vie(lambda t, s, x: torch.rand_like(x) * x, HALF, grid(4), max_evaluations=10**5)


def test_an_adjoint_that_does_not_settle_is_refused(monkeypatch):
    monkeypatch.setattr("dnlbook._collocation._ADJOINT_SWEEPS", 3)
    rates = torch.full((300,), 3.0, requires_grad=True)
    x = solve_vie(lambda t, s, x: -rates * x, torch.ones(300), grid(4)).x
    with pytest.raises(
        ConvergenceError, match=r"gradient: the adjoint on the panel \[0, 1\] still changes by"
    ):
        x.sum().backward()
