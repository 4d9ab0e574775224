"""Concatenation with shared features equals the idiom people write, and the dense non-local network."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.activations import activation
from dnlbook.concatenation import concatenation_forward
from dnlbook.networks import DenseNet, DenseNonLocal, ResNet


def idiom(x, A, sigma):
    features = [x]
    for weight in A:
        features.append(sigma(torch.cat(features, -1)) @ weight.mT)
    return torch.cat(features, -1)


@given(
    width=st.integers(1, 4),
    depth=st.integers(1, 6),
    growth=st.integers(1, 4),
    batch=st.sampled_from([(), (1,), (0,), (3,), (2, 2)]),
    name=st.sampled_from(["tanh", "relu", "identity", "soft_threshold(0.2)"]),
)
@settings(max_examples=50, deadline=None)
def test_equals_the_idiom_in_values_and_gradients(width, depth, growth, batch, name):
    torch.manual_seed(0)
    net, x = DenseNet(width, depth, growth=growth, activation=name), torch.randn(*batch, width, requires_grad=True)
    out, reference = net(x), idiom(x, net.A, activation(name))
    assert out.shape == (*batch, width + depth * growth)
    assert torch.allclose(out, reference, atol=1e-13)
    cotangent = torch.randn_like(out)
    pairs = zip(*(torch.autograd.grad((o * cotangent).sum(), [x, *net.A]) for o in (out, reference)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize(("width", "growth", "depth"), [(5, 5, 6), (7, 3, 9), (4, 6, 12)])
def test_a_densenet_is_a_dense_nonlocal_network_of_fixed_width(width, growth, depth):
    net, x = DenseNet(width, depth, growth=growth), torch.randn(8, width)
    dense = DenseNonLocal.from_densenet(net)
    states = dense.trajectory(torch.nn.functional.pad(x, (0, growth)))
    assert dense.width == width + growth
    assert torch.allclose(states[:, :, :width], x.expand(depth + 1, -1, -1), atol=1e-13)
    assert torch.allclose(torch.cat([x, *states[1:, :, width:]], 1), net(x), atol=1e-13)
    assert sum(p.numel() for p in net.parameters()) == growth * width * depth + growth**2 * depth * (depth - 1) // 2


def test_a_residual_network_is_a_dense_one_with_repeated_weights():
    for depth in (1, 16, 64):
        net, x = ResNet(3, depth, hidden=4, horizon=1.5), torch.randn(5, 3)
        assert torch.allclose(DenseNonLocal.from_resnet(net).trajectory(x), net.trajectory(x), atol=1e-13)


def test_pairs_of_a_sampled_kernel():
    kernel = lambda t, s: (torch.tensor([[t + 10 * s]]), torch.eye(1), torch.zeros(1))  # noqa: E731
    net = DenseNonLocal.from_path(kernel, depth=4, horizon=2.0)
    for l in range(1, 5):
        for k in range(l):
            assert net.pair(l, k)[0].item() == pytest.approx(l / 2 + 5 * k)


def test_dense_networks_train_and_save():
    net, other = DenseNonLocal(2, 3, hidden=4), DenseNonLocal(2, 3, hidden=4)
    net(torch.randn(5, 2)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(torch.ones(1, 2)), net(torch.ones(1, 2)))
    assert "horizon=1" in repr(net) and "growth=2" in repr(DenseNet(3, 4, growth=2))
    assert net.step == pytest.approx(1 / 3)


def test_differentiating_twice_is_refused():
    net, x = DenseNet(2, 3, growth=2), torch.randn(4, 2, requires_grad=True)
    (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("x0", "A", "message"),
    [
        (torch.zeros(3, 2), [], r"the number of layers len\(A\): expected an int of at least 1"),
        (torch.tensor(0.0), [torch.zeros(1, 1)], "x0: expected shape"),
        (torch.zeros(3, 2), [torch.zeros(2, 3)], r"A\[0\]: expected shape \(g, 2\), received \(2, 3\)"),
        (torch.zeros(3, 2), [torch.zeros(1, 2), torch.zeros(1, 2)], r"A\[1\]: expected shape \(1, 3\)"),
        (torch.zeros(3, 2), [torch.zeros(1, 2).half()], r"A\[0\]: expected dtype"),
        (torch.full((3, 2), math.nan), [torch.zeros(1, 2)], "x0: expected finite entries"),
    ],
)
def test_bad_arguments_are_named(x0, A, message):
    with pytest.raises(ValueError, match=message):
        concatenation_forward(x0, A)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseNet(2, 3, growth=0), "growth: expected an int of at least 1"),
        (lambda: DenseNet(0, 3, growth=1), "width"),
        (lambda: DenseNonLocal(2, 0), "depth"),
        (lambda: DenseNonLocal(2, 3, hidden=-1), "hidden"),
        (lambda: DenseNonLocal(2, 3, horizon=0), "horizon"),
        (lambda: DenseNonLocal(2, 3, dtype=torch.int32), "dtype"),
        (lambda: DenseNonLocal(2, 3)(torch.zeros(4, 3)), r"x0: expected shape \(..., 2\)"),
        (lambda: DenseNet(2, 3, growth=1)(torch.zeros(4, 3)), r"x0: expected shape \(..., 2\)"),
        (lambda: DenseNonLocal.from_resnet(ResNet(2, 3, scaling="sqrt")), "net: expected scaling 'euler'"),
        (lambda: DenseNonLocal.from_path(lambda t, s: None, depth=2), "expected a triple"),
        (lambda: DenseNonLocal(2, 3).pair(2, 2), "expected 0 <= k < l"),
        (lambda: DenseNet(2, 3, growth=1).block(0, 0), "expected 0 <= k < l"),
    ],
)
def test_bad_networks_are_named(make, message):
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        make()
