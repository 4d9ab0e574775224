"""Modules are the recursions of the text, and refinement follows the same path."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.continuous import ContinuousNet
from dnlbook.flows import integrate, perceptron_field
from dnlbook.networks import PlainNet, ResNet

SIZES = {"width": st.integers(1, 4), "depth": st.integers(1, 6), "hidden": st.integers(1, 5)}
BATCH = st.sampled_from([(), (1,), (0,), (3,), (2, 3)])


def path(t):
    i, j = torch.arange(2.0), torch.arange(3.0)
    return (
        torch.cos(1 + i[:, None] + 2 * j + t),
        torch.sin(2 + i + j[:, None] * (1 + t)),
        0.5 * torch.sin(j + 2 * t),
    )


@given(**SIZES, batch=BATCH, dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=30, deadline=None)
def test_shapes_and_dtypes(width, depth, hidden, batch, dtype):
    for net in (
        PlainNet(width, depth, hidden=hidden, dtype=dtype),
        ResNet(width, depth, hidden=hidden, dtype=dtype),
    ):
        x = torch.zeros(*batch, width, dtype=dtype)
        assert net(x).shape == x.shape and net(x).dtype == dtype
        assert net.trajectory(x).shape == (depth + 1, *x.shape)
        assert [tuple(part.shape) for part in net.layer(depth - 1)] == [
            (width, hidden),
            (hidden, width),
            (hidden,),
        ]


def test_plain_net_has_no_shortcut():
    net, x0 = PlainNet(2, 3, hidden=4), torch.randn(5, 2)
    x = x0
    for k in range(3):
        V, W, b = net.layer(k)
        x = torch.tanh(x @ W.T + b) @ V.T
    assert torch.allclose(net(x0), x, atol=1e-15)


@pytest.mark.parametrize("scaling", ["euler", "sqrt", "none"])
def test_residual_recursion_and_its_step(scaling):
    net, x = ResNet(2, 5, hidden=3, horizon=2.0, scaling=scaling), torch.randn(4, 2)
    step = {"euler": 0.4, "sqrt": math.sqrt(0.4), "none": 1.0}[scaling]
    assert net.step == pytest.approx(step, rel=1e-15)
    trajectory = net.trajectory(x)
    for k in range(5):
        V, W, b = net.layer(k)
        x = x + step * torch.tanh(x @ W.T + b) @ V.T
        assert torch.allclose(trajectory[k + 1], x, atol=1e-14)
    assert torch.equal(net(trajectory[0].detach()), trajectory[-1])


def test_initial_variance_does_not_depend_on_size():
    net = ResNet(64, 8, hidden=256)
    assert net.V.var().item() * 256 == pytest.approx(1, rel=0.02)
    assert net.W.var().item() * 64 == pytest.approx(1, rel=0.02)
    assert not net.b.any()


def test_sampled_path_is_eulers_method():
    x = torch.tensor([[0.4, -0.9]])
    net = ResNet.from_path(path, depth=9, horizon=1.5)
    expected = integrate(perceptron_field(path), x, depth=9, horizon=1.5)
    assert torch.allclose(net.trajectory(x), expected, atol=1e-14)


@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_refinement_follows_the_path(interpolation):
    net = ResNet.from_path(path, depth=4)
    fine = net.refine(3, interpolation)
    assert fine.depth == 12 and fine.step == pytest.approx(net.step / 3)
    assert torch.equal(fine.V[::3], net.V)
    middle = net.V[1] if interpolation == "constant" else net.V[1] + (net.V[2] - net.V[1]) / 3
    assert torch.allclose(fine.V[4], middle)
    assert torch.equal(fine.W[-1], net.W[-1])  # the last layer is held


def test_refined_networks_converge_to_the_flow_of_the_pieces():
    x = torch.tensor([[0.4, -0.9]])
    net = ResNet.from_path(path, depth=4)
    flow = ContinuousNet.from_resnet(net)(x, depth=64, scheme="rk4")
    errors = [(net.refine(factor)(x) - flow).norm().item() for factor in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05)


def test_refine_keeps_the_original_untouched():
    net = ResNet(2, 3)
    before = copy.deepcopy(net.state_dict())
    fine = net.refine(2)
    fine.V.data.zero_()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("basis", ["constant", "linear"])
@pytest.mark.parametrize("scheme", ["euler", "midpoint", "heun", "rk4"])
def test_continuous_net_is_the_integrated_field(basis, scheme):
    net, x = ContinuousNet(2, 4, hidden=3, basis=basis, horizon=2.0), torch.randn(5, 2)
    net.b.data.normal_()
    expected = integrate(net.field, x, depth=8, horizon=2.0, scheme=scheme, half_open=basis == "constant")
    assert torch.equal(net.trajectory(x, depth=8, scheme=scheme), expected)
    V, W, b = net.path(0.7)
    assert torch.allclose(net.field(0.7, x), torch.tanh(x @ W.T + b) @ V.T)


@pytest.mark.parametrize("basis", ["constant", "linear"])
def test_paths_stacked_along_an_axis_after_the_first_are_independent_nets(basis):
    nets, x = [ContinuousNet(2, 4, hidden=3, basis=basis) for _ in range(3)], torch.randn(3, 5, 2)
    for net in nets:
        net.b.data.normal_()
    many = ContinuousNet(2, 4, hidden=3, basis=basis)
    for name in ("V", "W", "b"):
        parts = torch.stack([getattr(net, name).detach() for net in nets], 1)
        setattr(many, name, torch.nn.Parameter(parts[:, :, None] if name == "b" else parts))
    for states, net, start in zip(many(x, depth=8), nets, x, strict=True):
        assert torch.allclose(states, net(start, depth=8), atol=1e-6)


def test_linear_basis_interpolates_its_nodes():
    net = ContinuousNet(2, 4, basis="linear", horizon=2.0)
    assert net.depth == 5
    assert all(torch.allclose(net.path(k * 0.5)[0], net.V[k]) for k in range(5))
    assert torch.allclose(net.path(0.75)[1], (net.W[1] + net.W[2]) / 2)


def test_constant_basis_reads_the_value_on_the_right():
    net = ContinuousNet(2, 4)
    assert torch.equal(net.path(0.25)[0], net.V[1]) and torch.equal(net.path(1.0)[0], net.V[3])


@pytest.mark.parametrize("basis", ["constant", "linear"])
def test_refinement_is_a_prolongation_and_coarsening_undoes_it(basis):
    net = ContinuousNet(2, 3, hidden=4, basis=basis)
    fine = net.refine(4)
    for t in (0.0, 0.1, 0.4, 0.77, 1.0):
        assert all(torch.allclose(a, b) for a, b in zip(net.path(t), fine.path(t), strict=True))
    back = fine.coarsen(4)
    assert back.pieces == 3 and torch.allclose(back.V, net.V) and torch.allclose(back.b, net.b)


def test_euler_manifestation_is_the_resnet():
    net, x = ResNet(3, 6, hidden=2, horizon=0.7), torch.randn(4, 3)
    assert torch.allclose(ContinuousNet.from_resnet(net)(x, scheme="euler"), net(x), atol=1e-14)


def test_all_parameters_receive_gradients():
    for net in (PlainNet(2, 3), ResNet(2, 3), ContinuousNet(2, 3), ContinuousNet(2, 3, basis="linear")):
        net(torch.randn(5, 2)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_state_dict_round_trip():
    net, other = ResNet(2, 3, hidden=4), ResNet(2, 3, hidden=4)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(torch.ones(1, 2)), net(torch.ones(1, 2)))
    assert "width=2, depth=3, hidden=4" in repr(net) and "basis='constant'" in repr(ContinuousNet(2, 3))


@pytest.mark.parametrize("kind", [PlainNet, ResNet, ContinuousNet])
@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (-1, 3), (2, 1.5), ("2", 3)])
def test_bad_sizes_are_named(kind, sizes):
    with pytest.raises((ValueError, TypeError), match="width|depth|pieces"):
        kind(*sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden: expected an int of at least 1"),
        ({"horizon": -1.0}, "horizon: expected a number above 0, received -1.0"),
        ({"horizon": math.inf}, "horizon: expected a finite number"),
        ({"scaling": "1/L"}, "scaling: expected one of 'euler', 'sqrt', 'none', received '1/L'"),
        ({"activation": "gelu"}, "name: expected one of"),
        ({"dtype": torch.int64}, "dtype: expected a floating-point dtype"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ResNet(2, 3, **options)


@pytest.mark.parametrize("net", [PlainNet(2, 3), ResNet(2, 3), ContinuousNet(2, 3)], ids=lambda n: type(n).__name__)
def test_bad_input_is_named(net):
    net = net.double()
    with pytest.raises(
        ValueError, match=r"x0: expected shape \(..., 2\) to match the parameters .*, received \(5, 3\)"
    ):
        net(torch.zeros(5, 3))
    with pytest.raises(
        ValueError, match="x0: expected dtype torch.float64 like the parameters, received torch.float32"
    ):
        net(torch.zeros(5, 2).float())
    with pytest.raises(ValueError, match="x0: expected device cpu like the parameters, received meta"):
        net(torch.zeros(5, 2, device="meta"))
    with pytest.raises(ValueError, match=r"x0: expected finite entries, received nan at index \(0, 1\)"):
        net(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(TypeError, match="x0: expected a torch.Tensor, received list"):
        net([[0.0, 0.0]])
    with pytest.raises(IndexError, match=r"k: expected a layer in 0 .. 2, received 3"):
        net.layer(3)


def test_bad_paths_and_factors_are_named():
    with pytest.raises(ValueError, match=r"path\(0.5\), V: expected finite entries, received inf"):
        ResNet.from_path(lambda t: (torch.full((1, 1), math.inf if t else 1.0), torch.eye(1), torch.zeros(1)), depth=2)
    with pytest.raises(ValueError, match="depth: expected an int of at least 1"):
        ResNet.from_path(path, depth=0)
    with pytest.raises(ValueError, match="factor: expected an int of at least 1"):
        ResNet(2, 3).refine(0)
    with pytest.raises(ValueError, match="interpolation: expected one of 'constant', 'linear'"):
        ResNet(2, 3).refine(2, "cubic")
    with pytest.raises(ValueError, match="factor: expected a divisor of the 3 pieces, received 2"):
        ContinuousNet(2, 3).coarsen(2)
    with pytest.raises(ValueError, match="basis: expected one of"):
        ContinuousNet(2, 3, basis="spline")
    with pytest.raises(ValueError, match="net: expected scaling 'euler', received 'none'"):
        ContinuousNet.from_resnet(ResNet(2, 3, scaling="none"))
    with pytest.raises(ValueError, match="t: expected a time"):
        ContinuousNet(2, 3).path(-0.2)
