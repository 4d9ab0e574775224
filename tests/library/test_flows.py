"""Schemes reach their order, and no more than their hypotheses allow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.flows import HEUN, RK4, SCHEMES, Scheme, frozen, integrate, interval, perceptron_field, read_path


def path(t):
    i, j = torch.arange(2.0), torch.arange(3.0)
    return (
        torch.cos(1 + i[:, None] + 2 * j + t),
        torch.sin(2 + i + j[:, None] * (1 + t)),
        0.5 * torch.sin(j + 2 * t),
    )


def orders(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def error(field, x0, exact, depth, scheme, **numerics):
    return (integrate(field, x0, depth=depth, scheme=scheme, **numerics)[-1] - exact).norm().item()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_order_on_a_closed_form(scheme):
    # x' = x cos t has the solution x0 exp(sin t)
    x0, exact = torch.tensor([0.7, -1.2]), torch.tensor([0.7, -1.2]) * math.exp(math.sin(2.0))
    errors = [error(lambda t, x: x * math.cos(t), x0, exact, L, scheme, horizon=2.0) for L in (16, 32, 64)]
    assert orders(errors)[-1] == pytest.approx(scheme.order, abs=0.15)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_exact_for_polynomials_up_to_the_order(scheme):
    degree = scheme.order - 1
    x = integrate(lambda t, x: torch.full_like(x, (degree + 1) * t**degree), torch.zeros(1), depth=3, scheme=scheme)
    assert torch.allclose(x[:, 0], (torch.arange(4.0) / 3) ** (degree + 1), atol=1e-14)


def test_euler_is_the_residual_recursion():
    field, x, tau = perceptron_field(path), torch.tensor([[0.3, -0.4]]), 1 / 7
    trajectory = integrate(field, x, depth=7)
    for layer in range(7):
        V, W, b = path(layer * tau)
        x = x + tau * torch.tanh(x @ W.T + b) @ V.T
        assert torch.allclose(trajectory[layer + 1], x, atol=1e-15)


@pytest.mark.parametrize(("at", "expected"), [("left", 1), ("middle", 2), ("linear", 2)])
def test_tied_weights_cost_order(at, expected):
    x0, reference = (
        torch.tensor([0.5, -0.2]),
        integrate(perceptron_field(path), torch.tensor([0.5, -0.2]), depth=1024, scheme="rk4")[-1],
    )
    errors = [
        error(perceptron_field(frozen(path, L, at=at)), x0, reference, L, RK4, half_open=at != "linear")
        for L in (32, 64, 128)
    ]
    assert orders(errors)[-1] == pytest.approx(expected, abs=0.1)


def test_closed_stage_times_lose_the_order_on_constant_pieces():
    pieces = [torch.tensor([[1.0]]), torch.tensor([[-3.0]]), torch.tensor([[2.0]]), torch.tensor([[0.5]])]

    def field(t, x):
        return torch.tanh(x) @ pieces[interval(t, 4)]

    x0 = torch.tensor([[0.8]])
    exact = torch.asinh(torch.sinh(x0) * math.exp(sum(p.item() for p in pieces) / 4))
    half_open = [error(field, x0, exact, L, "rk4", half_open=True) for L in (16, 32)]
    closed = [error(field, x0, exact, L, "rk4") for L in (16, 32)]
    assert orders(half_open)[0] > 3.8
    many = error(field, x0, exact, 2048, "rk4", half_open=True)
    assert many < 1e-12  # a step far shorter than a piece still stays in its piece
    assert orders(closed)[0] < 1.3


@given(
    depth=st.integers(1, 6),
    shape=st.sampled_from([(2,), (1, 2), (0, 2), (3, 1, 2)]),
    scheme=st.sampled_from(sorted(SCHEMES)),
)
@settings(max_examples=30, deadline=None)
def test_shapes_and_dtypes_are_kept(depth, shape, scheme):
    for dtype in (torch.float32, torch.float64):

        def typed(t, dtype=dtype):
            return tuple(part.to(dtype) for part in path(t))

        x = integrate(perceptron_field(typed), torch.zeros(shape, dtype=dtype), depth=depth, scheme=scheme)
        assert x.shape == (depth + 1, *shape) and x.dtype == dtype


def test_gradients_flow_to_the_parameters():
    gain = torch.tensor(0.7, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda g, x: integrate(lambda t, z: g * torch.sin(z + t), x, depth=3, scheme="rk4")[-1],
        (gain, torch.tensor([0.2, 0.9], requires_grad=True)),
    )


@given(k=st.integers(0, 9), pieces=st.just(10), horizon=st.floats(0.1, 50))
def test_a_node_belongs_to_the_interval_on_its_right(k, pieces, horizon):
    assert interval(k * (horizon / pieces), pieces, horizon) == k
    assert interval(k * horizon / pieces + 0.999 * horizon / pieces, pieces, horizon) == k


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth: expected an int of at least 1, received 0"),
        ({"depth": -3}, "depth"),
        ({"depth": 2.5}, "depth: expected a positive int"),
        ({"depth": True}, "depth"),
        ({"horizon": 0.0}, "horizon: expected a number above 0"),
        ({"horizon": math.nan}, "horizon: expected a finite number"),
        ({"scheme": "leapfrog"}, "scheme: expected one of 'euler'"),
    ],
)
def test_bad_numerics_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        integrate(lambda t, x: x, torch.ones(1), **{"depth": 2} | change)


@pytest.mark.parametrize(
    ("field", "x0", "message"),
    [
        (
            lambda t, x: x,
            torch.tensor([1.0, math.nan]),
            r"x0: expected finite entries, received nan at index \(1,\)",
        ),
        (lambda t, x: x, [1.0], "x0: expected a torch.Tensor"),
        (lambda t, x: x, torch.ones(2, dtype=torch.int64), "x0: expected a floating-point"),
        (lambda t, x: x[:1], torch.ones(2), r"field: expected shape \(2,\)"),
        (lambda t, x: x.float(), torch.ones(2).double(), "field: expected shape .* received .*float32"),
        (lambda t, x: None, torch.ones(2), "received NoneType"),
        (lambda t, x: x / (t - 0.5), torch.ones(2), "nan or inf at t = 0.5"),
    ],
)
def test_bad_states_and_fields_are_refused(field, x0, message):
    with pytest.raises((ValueError, TypeError), match=message):
        integrate(field, x0, depth=2)


@pytest.mark.parametrize(
    ("triple", "message"),
    [
        (torch.ones(2), r"path\(0.25\): expected a triple"),
        (
            (torch.ones(2, 3), torch.ones(2, 3), torch.zeros(3)),
            r"inner weight W: expected shape \(3, 2\), received \(2, 3\)",
        ),
        (
            (torch.ones(2, 3), torch.ones(3, 2), torch.zeros(2)),
            r"bias b: expected shape \(3\), received \(2,\)",
        ),
        (
            (torch.ones(2, 3), torch.ones(3, 2).double(), torch.zeros(3)),
            "W: expected dtype torch.float32 like V",
        ),
        (
            (torch.ones(2, 3), torch.ones(3, 2), torch.tensor([0.0, math.inf, 0.0])),
            r"b: expected finite entries, received inf",
        ),
        ((torch.ones(3), torch.ones(3, 2), torch.zeros(3)), r"outer weight V: expected shape \(n, m\)"),
    ],
)
def test_bad_paths_are_refused(triple, message):
    with pytest.raises(ValueError, match=message):
        read_path(lambda t: triple, 0.25)


def test_field_refuses_a_state_of_another_width():
    with pytest.raises(ValueError, match=r"x: expected last dimension 2, received shape \(4, 3\)"):
        perceptron_field(path)(0.0, torch.zeros(4, 3))


def test_times_outside_the_horizon_are_refused():
    with pytest.raises(ValueError, match=r"t: expected a time in \[0, 1\], received 1.5"):
        interval(1.5, 4)
    with pytest.raises(ValueError, match="at: expected one of 'left', 'middle', 'linear'"):
        frozen(path, 4, at="right")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((2, ((),), (0.5, 0.5), (0.0, 1.0)), "one entry per stage"),
        ((2, ((1.0,), ()), (0.5, 0.5), (0.0, 1.0)), "explicit method"),
        ((2, ((), (1.0,)), (0.5, 0.5), (0.0, 0.5)), "row sum"),
        ((2, ((), (1.0,)), (0.5, 0.6), (0.0, 1.0)), "add up to 1"),
        ((0, ((),), (1.0,), (0.0,)), "order"),
    ],
)
def test_inconsistent_tableaux_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Scheme("own", *parts)


def test_a_scheme_of_your_own_is_a_value():
    ralston = Scheme("ralston", 2, ((), (2 / 3,)), (0.25, 0.75), (0.0, 2 / 3))
    x0 = torch.ones(1)
    exact = torch.tensor([math.exp(-1.0)])
    errors = [error(lambda t, x: -x, x0, exact, L, ralston) for L in (32, 64)]
    assert orders(errors)[0] == pytest.approx(2, abs=0.05) and ralston.stages == HEUN.stages
