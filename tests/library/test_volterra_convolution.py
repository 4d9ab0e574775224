"""Convolution equations by online FFT: the same numbers as the direct sums, at any size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook import _online
from dnlbook.quadrature import quadrature_weights
from dnlbook.volterra import ConvergenceError, solve_convolution_vie, solve_vie

METHODS = ["rectangle", "trapezoid"]
ONE = torch.tensor(1.0, dtype=torch.float64)


def fading(lag):
    return torch.cos(lag) / (1 + lag).sqrt()


def direct(kernel, nonlinearity, forcing, t, method):
    """The rule as it is written, a sum over all earlier steps in each step."""
    step, values = t[1].item(), kernel(t)
    weights = quadrature_weights(method, len(t) - 1, dtype=t.dtype) * step
    x = torch.stack([forcing(time) for time in t])
    for l in range(1, len(t)):
        past = weights[l, :l] * values[1 : l + 1].flip(0)
        known = x[l] + torch.tensordot(past, nonlinearity(x[:l]), 1)
        y = x[l - 1]
        for _ in range(60 if method == "trapezoid" else 1):
            y = known + weights[l, l] * values[0] * nonlinearity(y[None])[0]
        x[l] = y
    return x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [1, 2, 255, 256, 257, 1100])
def test_online_sums_equal_direct_sums(method, depth):
    t = torch.linspace(0, min(10, depth / 20), depth + 1)

    def forcing(time):
        return torch.sin(time)[..., None] + torch.tensor([0.5, 1.5])

    solution = solve_convolution_vie(fading, torch.tanh, forcing, t, method=method)
    reference = direct(fading, torch.tanh, forcing, t, method)
    torch.testing.assert_close(solution.x, reference, rtol=0, atol=1e-12)
    assert solution.residual < 1e-13


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    depth=st.integers(1, 40),
    block=st.integers(1, 7),
    radix=st.integers(2, 4),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape_depth_and_blocking_gives_the_rule(shape, depth, block, radix, method, dtype):
    t = torch.linspace(0, 2, depth + 1, dtype=dtype)
    start = torch.arange(math.prod(shape), dtype=dtype).reshape(shape) / 8
    kernel = torch.exp(-t) / 4
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_BLOCK", block), ("_WIDE_BLOCK", block), ("_RADIX", radix)):
            patch.setattr(_online, name, value)
        solution = solve_convolution_vie(kernel, torch.sin, start, t, method=method)

    def by_pairs(t, s, x):
        return (torch.exp(s - t) / 4).reshape(-1, *[1] * len(shape)) * torch.sin(x)

    expected = solve_vie(by_pairs, start, t, method=method)
    atol = 1e-13 if dtype == torch.float64 else 3e-6
    assert solution.x.shape == (depth + 1, *shape) and solution.x.dtype == dtype
    torch.testing.assert_close(solution.x, expected.x, rtol=0, atol=atol)
    times = torch.tensor([0.3, 1.9], dtype=dtype)
    torch.testing.assert_close(solution(times), expected(times), rtol=0, atol=atol)


def test_twenty_thousand_steps_reach_the_closed_form():
    # x = 1 - int (t - s) x ds is cos t, and the trapezoid rule of order 2
    errors = []
    for depth in (10_000, 20_000):
        t = torch.linspace(0, 10, depth + 1)
        solution = solve_convolution_vie(lambda lag: -lag, lambda x: x, ONE, t, method="trapezoid")
        errors.append((solution.x - torch.cos(t)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.01) and errors[1] < 1e-6


def test_the_work_grows_almost_linearly(monkeypatch):
    lengths = []
    real = torch.fft.rfft

    def counting(values, **numerics):
        lengths.append(numerics["n"])
        return real(values, **numerics)

    monkeypatch.setattr(torch.fft, "rfft", counting)
    work = []
    for depth in (2**12, 2**15):
        lengths.clear()
        t = torch.linspace(0, 10, depth + 1)
        solution = solve_convolution_vie(fading, torch.tanh, ONE, t)
        work.append(sum(n * math.log2(n) for n in lengths))
        assert solution.evaluations < 12 * depth  # values of f
    assert work[1] < 8 * 2.2 * work[0]  # 8 (15 / 12)^2 = 12.5, where direct sums grow 64 times


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [4, 300])
def test_gradients_are_those_of_the_direct_rule(method, depth, monkeypatch):
    t = torch.linspace(0, 2, depth + 1)
    weights, start, rate = torch.randn(2, 2), torch.randn(3, 2), torch.tensor(0.7)
    inputs = [value.requires_grad_() for value in (weights, start, rate)]

    def fast(weights, start, rate):
        return solve_convolution_vie(
            lambda lag: torch.exp(-rate * lag) * torch.cos(lag),
            lambda x: torch.tanh(x @ weights.T),
            lambda t: start * torch.cos(rate * t),
            t,
            method=method,
        ).x

    def slow(weights, start, rate):
        def kernel(t, s, x):
            fade = torch.exp(-rate * (t - s)) * torch.cos(t - s)
            return fade[:, None, None] * torch.tanh(x @ weights.T)

        return solve_vie(kernel, lambda t: start * torch.cos(rate * t), t, method=method).x

    if depth == 4:
        assert torch.autograd.gradcheck(fast, inputs, atol=1e-8, rtol=1e-7)
    if method == "rectangle":  # nothing is stiff: blocks are solved by sweeps, forwards and backwards
        monkeypatch.setattr(_online.Online, "_solve_steps", None)
    cotangent = torch.randn(depth + 1, 3, 2)
    got = torch.autograd.grad(fast(*inputs), inputs, cotangent)
    for one, other in zip(got, torch.autograd.grad(slow(*inputs), inputs, cotangent), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_gradients_of_a_stored_kernel_and_of_the_dense_output():
    t = torch.linspace(0, 1, 6)
    values = torch.exp(-t).requires_grad_()

    def solve(values):
        return solve_convolution_vie(values, torch.sin, ONE, t, method="trapezoid")(torch.tensor([0.33, 1.0]))

    assert torch.autograd.gradcheck(solve, [values], atol=1e-8)
    (slope,) = torch.autograd.grad(solve(values).sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        slope.sum().backward()
    with torch.no_grad():
        assert not solve(values).requires_grad


def test_the_rectangle_rule_does_not_use_lag_zero():
    # Abel's kernel: the rule converges, with order 1/2
    errors = []
    for depth in (2000, 8000):
        t = torch.linspace(0, 1, depth + 1)
        x = solve_convolution_vie(lambda lag: lag**-0.5 / math.pi**0.5, lambda x: -x, ONE, t).x
        errors.append((x[-1] - torch.special.erfcx(torch.tensor(1.0))).abs().item())
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(0.5, abs=0.05)
    stored = torch.cat([torch.tensor([math.nan]), t[1:] ** -0.5 / math.pi**0.5])
    torch.testing.assert_close(solve_convolution_vie(stored, lambda x: -x, ONE, t).x, x, rtol=0, atol=1e-12)


def test_stiff_blocks_are_solved_step_by_step():
    t = torch.linspace(
        0, 10, 301
    )  # the step times the Lipschitz constant is 1.3: sweeps over a block overflow
    for method in METHODS:
        args = (lambda lag: torch.full_like(lag, -40.0), torch.tanh, ONE, t)
        steps = solve_convolution_vie(*args, method=method, max_iterations=200)
        pairs = solve_vie(lambda t, s, x: -40 * torch.tanh(x), ONE, t, method=method, max_iterations=200)
        torch.testing.assert_close(steps.x, pairs.x, rtol=0, atol=1e-11)


# --------------------------------------------------------------------------------------------- failures

T = torch.linspace(0, 1, 9, dtype=torch.float64)


def test_an_implicit_term_that_does_not_contract_says_so():
    with pytest.raises(
        ConvergenceError, match=r"the trapezoid rule at t = 0\.125 does not contract.*by 1\.[23] times"
    ):
        solve_convolution_vie(lambda lag: -20 * torch.cos(lag), lambda x: x, ONE, T, method="trapezoid")


def test_a_blow_up_and_a_bad_nonlinearity_are_told_apart():
    with pytest.raises(ConvergenceError, match="leave the range of torch.float64 at t = .*blow up"):
        solve_convolution_vie(torch.ones_like, lambda x: x**5, 9 * ONE, torch.linspace(0, 9, 99))
    with pytest.raises(
        ValueError, match=r"nonlinearity: expected finite values, received nan or inf at t = 0\.25"
    ):
        solve_convolution_vie(
            torch.ones_like, lambda x: torch.where(x > 1.2, math.nan, torch.ones_like(x)), ONE, T
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kernel": 1.0}, TypeError, "kernel: expected a tensor or a function of the lag, received float"),
        (
            {"kernel": torch.ones(3, dtype=torch.float64)},
            ValueError,
            r"kernel: expected shape \(9\), received \(3,\)",
        ),
        (
            {"kernel": lambda lag: lag[:2]},
            ValueError,
            r"kernel\(lags\) for 8 lags: expected shape \(8\), received",
        ),
        ({"kernel": lambda lag: lag.float()}, ValueError, "kernel: expected dtype torch.float64 like t"),
        (
            {"kernel": lambda lag: 1 / (lag - 0.5)},
            ValueError,
            "kernel: expected finite values, received inf at lag 0.5",
        ),
        (
            {"kernel": lambda lag: 1 / lag, "method": "trapezoid"},
            ValueError,
            "received inf at lag 0; method='rectangle' does not use lag 0",
        ),
        ({"nonlinearity": 2.0}, TypeError, "nonlinearity: expected a function of x, received float"),
        (
            {"nonlinearity": lambda x: x.sum()},
            ValueError,
            r"nonlinearity: expected shape \(1,\) .* received \(\)",
        ),
        ({"nonlinearity": lambda x: x.float()}, ValueError, "received .* of torch.float32"),
        ({"nonlinearity": lambda x: None}, ValueError, "received NoneType"),
        ({"forcing": lambda t: t * math.inf}, ValueError, r"forcing\(0\): expected finite entries"),
        ({"forcing": lambda t: 1 / (t - 0.5)}, ValueError, "forcing: expected finite values, .* at t = 0.5"),
        ({"forcing": 1.0}, TypeError, "forcing: expected a tensor or a function of t"),
        ({"t": T**2}, ValueError, "t: expected a uniform grid for the convolution"),
        ({"t": T + 1}, ValueError, "t: expected a grid that starts at 0"),
        (
            {"method": "gregory"},
            ValueError,
            "method: expected one of 'rectangle', 'trapezoid', received 'gregory'",
        ),
        ({"max_iterations": 0}, ValueError, "max_iterations: expected an int of at least 1"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    call = {"kernel": torch.cos, "nonlinearity": torch.tanh, "forcing": ONE, "t": T} | changes
    with pytest.raises(error, match=message):
        solve_convolution_vie(**call)
