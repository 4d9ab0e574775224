"""The hand-written adjoint is the gradient of the network, exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.activations import identity, relu, soft_threshold, tanh
from dnlbook.residual import residual_forward, residual_loop, residual_map


def arguments(depth=3, batch=(4,), n=2, m=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(depth + 10 * n + 100 * m)
    shapes = ((*batch, n), (depth, n, m), (depth, m, n), (depth, m))
    return tuple(torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes)


def gradients(function, inputs, cotangent, **settings_):
    out = function(*inputs, **settings_)
    return torch.autograd.grad((out * cotangent).sum(), inputs)


@given(
    depth=st.integers(1, 7),
    batch=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]),
    n=st.integers(1, 4),
    m=st.integers(1, 4),
    sigma=st.sampled_from([tanh, identity, soft_threshold(0.2, 0.5)]),
    step=st.floats(0.01, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_recorded_loop_in_values_and_gradients(depth, batch, n, m, sigma, step):
    inputs = arguments(depth, batch, n, m)
    settings_ = {"step": step, "activation": sigma}
    fast, slow = residual_forward(*inputs, **settings_), residual_loop(*inputs, **settings_)
    assert fast.shape == slow.shape == (depth + 1, *batch, n)
    scale = 1 + slow.abs().max().item() if slow.numel() else 1.0
    assert torch.allclose(fast, slow, rtol=0, atol=1e-12 * scale)
    cotangent = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        gradients(residual_forward, inputs, cotangent, **settings_),
        gradients(residual_loop, inputs, cotangent, **settings_),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-11 * (1 + (b.abs().max().item() if b.numel() else 0)))


@pytest.mark.parametrize("function", [residual_forward, residual_map])
def test_gradcheck(function):
    assert torch.autograd.gradcheck(lambda *z: function(*z, step=0.3), arguments())


def test_map_is_the_last_state():
    inputs = arguments()
    assert torch.equal(residual_map(*inputs, step=0.2), residual_forward(*inputs, step=0.2)[-1])


def test_single_precision_agrees_with_double():
    single = residual_map(*arguments(dtype=torch.float32), step=0.1)
    double = residual_map(*(z.detach().float().double() for z in arguments(dtype=torch.float32)), step=0.1)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), double, atol=1e-5)


def test_relu_matches_the_loop_away_from_kinks():
    inputs = arguments(5)
    cotangent = torch.ones(6, 4, 2)
    pairs = zip(
        gradients(residual_forward, inputs, cotangent, step=0.2, activation=relu),
        gradients(residual_loop, inputs, cotangent, step=0.2, activation=relu),
        strict=True,
    )
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in pairs)


class Counter:
    """Live and peak number of saved states, each storage once; weights are not counted."""

    def __init__(self, weights):
        self.weights = {w.untyped_storage().data_ptr() for w in weights}
        self.keys = set()

    def pack(self, value):
        if value.untyped_storage().data_ptr() not in self.weights:
            self.keys.add(value.untyped_storage().data_ptr())
        return value


@pytest.mark.parametrize("depth", [4, 16, 64])
def test_the_graph_keeps_one_state_per_layer(depth):
    inputs = arguments(depth)
    counter = Counter(inputs[1:])
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda value: value):
        out = residual_map(*inputs, step=0.1)
        assert len(counter.keys) == depth
        (out**2).sum().backward()
    assert len(counter.keys) == depth + 1  # the loss keeps the output


def test_differentiating_twice_is_refused_and_the_loop_does_it():
    inputs = arguments()
    out = residual_map(*inputs, step=0.1)
    (first,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()
    assert torch.autograd.gradgradcheck(lambda *z: residual_loop(*z, step=0.3), arguments(2, (2,), 1, 2))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(4, 3), r"x0: expected shape \(..., 2\) to match V \(3, 2, 3\), received \(4, 3\)"),
        (0, torch.tensor(1.0), "x0: expected shape"),
        (0, torch.zeros(4, 2).float(), "x0: expected dtype torch.float64 like V, received torch.float32"),
        (0, torch.full((4, 2), math.nan).double(), "x0: expected finite entries"),
        (0, torch.zeros(4, 2, dtype=torch.int32), "x0: expected a floating-point tensor"),
        (0, [[0.0, 0.0]], "x0: expected a torch.Tensor, received list"),
        (1, torch.zeros(3, 2), r"V: expected shape \(L, n, m\)"),
        (1, torch.zeros(0, 2, 3), "depth"),
        (2, torch.zeros(3, 2, 3), r"W: expected shape \(3, 3, 2\), received \(3, 2, 3\)"),
        (2, torch.zeros(2, 3, 2), r"W: expected shape \(3, 3, 2\)"),
        (3, torch.zeros(3, 2), r"b: expected shape \(3, 3\)"),
        (3, torch.zeros(3, 3, device="meta").double(), "b: expected device cpu"),
    ],
)
def test_bad_arguments_are_named(position, value, message):
    inputs = [z.detach() for z in arguments()]
    inputs[position] = value
    for function in (residual_forward, residual_map, residual_loop):
        with pytest.raises((ValueError, TypeError), match=message):
            function(*inputs, step=0.1)


def test_bad_numerics_are_named():
    with pytest.raises(ValueError, match="step: expected a finite number"):
        residual_map(*arguments(), step=math.inf)
    with pytest.raises(ValueError, match="name: expected one of"):
        residual_map(*arguments(), step=0.1, activation="swish")
