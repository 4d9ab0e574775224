"""Learning problems and costates: written-out recursions against autograd, closed forms against solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnlbook import control
from dnlbook.control import (
    LearningProblem,
    costate,
    costate_equation,
    data_term,
    gradient,
    hamiltonian,
    objective,
)
from dnlbook.dense import dense_loop
from dnlbook.networks import DenseNonLocal, PlainNet, ResNet
from dnlbook.residual import residual_loop
from dnlbook.triangle import TriangleMesh
from dnlbook.volterra import ConvergenceError

SIZES = st.integers(1, 5)
CASES = {
    "depth": st.integers(1, 7),
    "width": SIZES,
    "hidden": SIZES,
    "batch": st.sampled_from([(), (0,), (1,), (4,), (2, 3)]),
    "activation": st.sampled_from(["tanh", "relu", "identity", "soft_threshold(0.1)"]),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
}
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-12}


def by_autograd(net: DenseNonLocal | ResNet, x0: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Derivatives of <g, x^L> in x0 and the parameters, recorded from a plain loop."""
    x0 = x0.clone().requires_grad_()
    if isinstance(net, DenseNonLocal):
        states = dense_loop(x0, (net.V, net.W, net.b), step=net.step, activation=net.activation)
    else:
        states = residual_loop(x0, net.V, net.W, net.b, step=net.step, activation=net.activation)
    return torch.autograd.grad((g * states[-1]).sum(), (x0, *net.parameters()))


def compare(net: DenseNonLocal | ResNet, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    x0, g = torch.randn(*batch, net.width, dtype=dtype), torch.randn(*batch, net.width, dtype=dtype)
    inputs, *parameters = by_autograd(net, x0, g)
    q = costate(net, x0, g)
    assert q.shape == (net.depth + 1, *x0.shape) and q.dtype == dtype and not q.requires_grad
    assert torch.equal(q[-1], g)
    own = gradient(net, x0, g)
    assert [part.shape for part in own] == [part.shape for part in net.parameters()]
    for have, want in zip((q.sum(0), *own), (inputs, *parameters), strict=True):
        scale = 1 + (want.abs().max().item() if want.numel() else 0.0)
        torch.testing.assert_close(have, want, rtol=0, atol=TOLERANCE[dtype] * scale)


@given(**CASES, horizon=st.floats(0.1, 3))
@settings(max_examples=60, deadline=None)
def test_dense_costates_are_backpropagation(depth, width, hidden, batch, activation, dtype, horizon) -> None:
    net = DenseNonLocal(width, depth, hidden=hidden, horizon=horizon, activation=activation, dtype=dtype)
    compare(net, batch, dtype)


@given(**CASES, scaling=st.sampled_from(["euler", "sqrt", "none"]))
@settings(max_examples=60, deadline=None)
def test_residual_costates_are_backpropagation(depth, width, hidden, batch, activation, dtype, scaling) -> None:
    net = ResNet(width, depth, hidden=hidden, scaling=scaling, activation=activation, dtype=dtype)
    compare(net, batch, dtype)


def test_the_recursion_is_the_formula() -> None:
    """One scalar, the sum over l > k written as a double loop."""
    net = DenseNonLocal(1, 6, hidden=1)
    x0, g = torch.tensor([[0.3]]), torch.tensor([[1.7]])
    x, q = net.trajectory(x0).flatten().tolist(), costate(net, x0, g).flatten().tolist()
    tau = 1 / 6
    for k in range(6):
        total = 0.0
        for l in range(k + 1, 7):
            V, W, b = (part.item() for part in net.pair(l, k))
            total += V * W * (1 - math.tanh(W * x[k] + b) ** 2) * q[l]
        assert q[k] == pytest.approx(tau * total, abs=1e-14)


def test_a_residual_network_is_dense_with_shared_weights() -> None:
    net, x0, g = ResNet(3, 8, hidden=2), torch.randn(5, 3), torch.randn(5, 3)
    dense = DenseNonLocal.from_resnet(net)
    torch.testing.assert_close(costate(net, x0, g), costate(dense, x0, g), rtol=0, atol=1e-13)
    V = gradient(dense, x0, g)[0]
    first = [sum(range(8, 8 - k, -1)) for k in range(9)]
    summed = torch.stack([V[first[k] : first[k + 1]].sum(0) for k in range(8)])
    torch.testing.assert_close(gradient(net, x0, g)[0], summed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("function", [costate, gradient])
def test_costates_refuse_what_does_not_fit(function) -> None:
    net, x0, g = DenseNonLocal(2, 3), torch.ones(4, 2), torch.ones(4, 2)
    with pytest.raises(TypeError, match="net: expected a DenseNonLocal or a ResNet, received PlainNet"):
        function(PlainNet(2, 3), x0, g)
    with pytest.raises(ValueError, match=r"g: expected shape \(4, 2\), received \(4, 1\)"):
        function(net, x0, g[:, :1])
    with pytest.raises(ValueError, match="g: expected dtype torch.float64 like x0"):
        function(net, x0, g.float())
    with pytest.raises(ValueError, match="g: expected finite entries"):
        function(net, x0, g * math.nan)
    with pytest.raises(ValueError, match="x0: expected finite entries"):
        function(net, x0 * math.inf, g)
    with pytest.raises(ValueError, match="x0: expected shape"):
        function(net, torch.ones(4, 3), torch.ones(4, 3))
    with pytest.raises(TypeError, match="g: expected a torch.Tensor"):
        function(net, x0, 1.0)


# the continuous equation


def linear_path(t, s):
    """x(t) = x0 + int_0^t a(t, s) x(s) ds with a = 1 + ts."""
    one = torch.ones(1, 1)
    return one * torch.as_tensor(1 + t * s), one, 0 * one[0]


def smooth_path(t, s):
    i, j = torch.arange(2)[:, None], torch.arange(3)
    V = torch.cos(1.0 + 2 * i + 3 * j + t - s)
    W = torch.sin(2.0 + i + 2 * j + s + t / 2).mT
    return V, W, torch.sin(j + 2 * t - s) / 2


def test_the_costate_of_an_exponential() -> None:
    """x' = x has p(s) = e^(T-s) g and the adjoint a(s) = g + int_s^T p = e^(T-s) g."""
    one, t = torch.ones(1, 1), torch.linspace(0, 2, 9)
    solution = costate_equation(lambda t, s: (one, one, 0 * one[0]), one, 3 * one, t, activation="identity")
    torch.testing.assert_close(solution.p[:, 0, 0], 3 * torch.exp(2 - t), rtol=1e-7, atol=0)
    torch.testing.assert_close(solution.state(t), solution.x)
    torch.testing.assert_close(solution.costate(t), solution.p)
    assert solution.residual < 1e-6


def test_the_costate_of_a_kernel_that_grows() -> None:
    """For the kernel t the costate is p(s) = T e^((T^2 - s^2)/2) g."""
    one, t = torch.ones(1, 1), torch.linspace(0, 1.5, 7)
    path = lambda t, s: (one * torch.as_tensor(t), one, 0 * one[0])  # noqa: E731
    solution = costate_equation(path, one, one, t, activation="identity", rtol=1e-10)
    # p(s) = T + int_s^T t p(t) dt, p' = -s p
    torch.testing.assert_close(solution.p[:, 0, 0], 1.5 * torch.exp((1.5**2 - t**2) / 2), rtol=1e-9, atol=0)


def test_the_costate_is_the_derivative_in_the_input() -> None:
    """g + int_0^T p against central differences of the solution, for a nonlinear kernel and two samples."""
    t = torch.linspace(0, 1, 3)
    x0 = torch.tensor([[1.0, -0.5], [0.2, 0.7]])
    solution = costate_equation(smooth_path, x0, lambda x: x, t, rtol=1e-11)
    torch.testing.assert_close(solution.g, solution.x[-1])
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.legendre.leggauss(24))
    integral = torch.einsum("k,kbn->bn", weights / 2, solution.costate((nodes + 1) / 2))

    def loss(x: Tensor) -> float:
        return costate_equation(smooth_path, x, lambda x: x, t, rtol=1e-12).x[-1].square().sum().item() / 2

    shift = torch.zeros_like(x0)
    shift[0, 1] = 1e-4
    difference = (loss(x0 + shift) - loss(x0 - shift)) / 2e-4
    assert (solution.g + integral)[0, 1].item() == pytest.approx(difference, rel=1e-7)


def test_a_kernel_for_numbers_gives_the_same() -> None:
    x0, t = torch.ones(1, 1), torch.linspace(0, 1, 3)

    def numbers(t, s):
        return torch.tensor([[1 + float(t) * float(s)]]), torch.ones(1, 1), torch.zeros(1)

    with_tensors = costate_equation(linear_path, x0, x0, t, rtol=1e-6)
    with_numbers = costate_equation(numbers, x0, x0, t, rtol=1e-6)
    torch.testing.assert_close(with_numbers.p, with_tensors.p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2), (2, 2, 2)])
def test_samples_keep_their_axes(shape) -> None:
    x0, t = torch.rand(shape), torch.linspace(0, 1, 4)
    solution = costate_equation(smooth_path, x0, torch.ones(shape), t)
    assert solution.x.shape == solution.p.shape == (4, *shape)
    assert solution.state(torch.rand(5, 2)).shape == solution.costate(torch.rand(5, 2)).shape == (5, 2, *shape)


def test_deep_networks_approach_the_costate_equation() -> None:
    x0 = torch.tensor([[1.0, -0.5], [0.2, 0.7]])
    gaps = []
    for depth in (32, 64):
        solution = costate_equation(smooth_path, x0, lambda x: x, torch.linspace(0, 1, depth + 1))
        net = DenseNonLocal.from_path(smooth_path, depth=depth)
        q = costate(net, x0, net(x0).detach())
        gaps.append((q[:-1] * depth - solution.p[:-1]).abs().max().item())
    assert gaps[1] < 0.1 and 0.9 < math.log2(gaps[0] / gaps[1]) < 1.1


def test_the_costate_equation_in_single_precision() -> None:
    one, t = torch.ones(1, 1, dtype=torch.float32), torch.linspace(0, 1, 3, dtype=torch.float32)
    solution = costate_equation(lambda t, s: (one, one, 0 * one[0]), one, one, t, activation="identity")
    assert solution.p.dtype == torch.float32
    torch.testing.assert_close(solution.p[:, 0, 0], torch.exp(1 - t), rtol=1e-3, atol=0)


def test_the_costate_equation_refuses_what_does_not_fit() -> None:
    x0, t = torch.ones(1, 1), torch.linspace(0, 1, 3)
    with pytest.raises(TypeError, match="path: expected a function"):
        costate_equation(3, x0, x0, t)
    with pytest.raises(ValueError, match="x0: expected shape"):
        costate_equation(linear_path, torch.ones(0, 1), torch.ones(0, 1), t)
    with pytest.raises(ValueError, match="x0: expected dtype torch.float64 like t"):
        costate_equation(linear_path, x0.float(), x0.float(), t)
    with pytest.raises(ValueError, match="x0: expected finite"):
        costate_equation(linear_path, x0 * math.nan, x0, t)
    with pytest.raises(ValueError, match=r"g: expected shape \(1, 1\), received \(2, 1\)"):
        costate_equation(linear_path, x0, torch.ones(2, 1), t)
    with pytest.raises(ValueError, match="g: expected finite"):
        costate_equation(linear_path, x0, lambda x: x / 0, t)
    with pytest.raises(ValueError, match="W: expected shape"):
        costate_equation(lambda t, s: (torch.ones(1, 2), torch.ones(1, 1), torch.ones(2)), x0, x0, t)
    with pytest.raises(ValueError, match=r"W: expected dtype torch.float64 like x0, received torch.float32"):
        costate_equation(lambda t, s: (torch.ones(1, 1), torch.ones(1, 1).float(), torch.ones(1)), x0, x0, t)
    with pytest.raises(ValueError, match=r"path\(.*\): expected a triple"):
        costate_equation(lambda t, s: torch.ones(1, 1), x0, x0, t)
    with pytest.raises(ValueError, match="kernel: expected finite values, received nan"):
        costate_equation(lambda t, s: (torch.full((1, 1), math.nan), torch.ones(1, 1), torch.ones(1)), x0, x0, t)
    with pytest.raises(ConvergenceError):
        rough = lambda t, s: (torch.ones(1, 1) * abs(torch.as_tensor(s) - 0.3) ** 0.1, torch.ones(1, 1), x0[0])  # noqa: E731
        costate_equation(rough, x0, x0, t, max_evaluations=2000)
    with pytest.raises(ValueError, match="times: expected times in"):
        costate_equation(linear_path, x0, x0, t).costate(1.5)
    with pytest.raises(ValueError, match=r"V: expected shape .*, received"):
        costate_equation(lambda t, s: (torch.ones(2, 1), torch.ones(1, 2), torch.ones(1)), x0, x0, t)
    with pytest.raises(ValueError, match="t: expected a strictly increasing grid"):
        costate_equation(linear_path, x0, x0, torch.zeros(3))


# learning problems


def problem(**changes) -> LearningProblem:
    torch.manual_seed(1)
    arguments = {
        "x0": torch.randn(5, 2),
        "target": torch.randn(5, 1),
        "alpha": 0.05,
        "hidden": 3,
        "readout": torch.randn(1, 2),
    } | changes
    return LearningProblem(**arguments)


@pytest.mark.parametrize("penalty", ["h1", "l2"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("horizon", [1.0, 2.5])
def test_the_objective_has_the_derivative_it_claims(penalty, activation, horizon) -> None:
    case = problem(penalty=penalty, activation=activation, horizon=horizon)
    theta = 0.5 * torch.randn(10, case.width_of_control)
    assert torch.autograd.gradcheck(lambda v: objective(case, v), (theta.requires_grad_(),))


def test_the_data_term_is_the_loss_of_the_network() -> None:
    case = problem()
    theta = torch.randn(15, case.width_of_control)
    net = case.network(theta)
    miss = net(case.x0) @ case.readout.mT - case.target
    assert data_term(case, theta).item() == pytest.approx(0.5 * miss.square().sum(1).mean().item(), rel=1e-14)
    mesh = TriangleMesh(4)
    for l, k in [(1, 0), (4, 2), (4, 3)]:
        V, W, b = case.split(theta[mesh.index(l, k)])
        for own, part in zip(net.pair(l, k), (V, W, b), strict=True):
            assert torch.equal(own, part)


def test_costates_give_the_gradient_of_the_data_term() -> None:
    """The loss gradient, the recursion and the layout of the control together."""
    case = problem(horizon=2.0)
    theta = torch.randn(21, case.width_of_control, requires_grad=True)
    data_term(case, theta).backward()
    net, mesh = case.network(theta.detach()), case.mesh(theta)
    own = torch.zeros_like(theta)
    own[mesh.pairs] = case.join(*gradient(net, case.x0, case.loss_gradient(net(case.x0).detach())))
    torch.testing.assert_close(own, theta.grad, rtol=0, atol=1e-14)


def test_the_diagonal_enters_the_penalty_alone() -> None:
    case = problem()
    theta = torch.randn(15, case.width_of_control)
    changed, mesh = theta.clone(), TriangleMesh(4)
    changed[[mesh.index(l, l) for l in range(5)]] += 1
    assert torch.equal(data_term(case, theta), data_term(case, changed))
    assert objective(case, changed) > objective(case, theta)


@pytest.mark.parametrize(("penalty", "squared"), [("h1", 0.5 + 0.25), ("l2", 0.25)])
def test_the_penalty_of_a_known_function(penalty, squared) -> None:
    """b = t alone: the integrals of 1 and of t^2 over the triangle are 1/2 and 1/4."""
    case = problem(penalty=penalty, hidden=1, readout=None, x0=torch.ones(1, 1), target=torch.ones(1, 1), alpha=1)
    mesh = TriangleMesh(64)
    theta = torch.zeros(mesh.size, 3)
    theta[:, 2] = mesh.t
    value = 2 * (objective(case, theta) - data_term(case, theta)).item()
    assert value == pytest.approx(squared, abs=1e-3)


def test_splitting_and_joining() -> None:
    case = problem()
    theta = torch.arange(2.0 * case.width_of_control).reshape(2, -1)
    V, W, b = case.split(theta)
    assert V[0].flatten().tolist() == list(range(6))
    assert W[0, 0].tolist() == [6, 7] and b[1].tolist() == [27, 28, 29]
    assert torch.equal(case.join(V, W, b), theta)
    assert case.split(theta[0])[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"alpha": 0}, ValueError, "alpha: expected a number above 0, received 0"),
        ({"alpha": -1.0}, ValueError, "alpha: expected a number above 0, received -1"),
        ({"alpha": math.nan}, ValueError, "alpha: expected a finite number"),
        ({"alpha": "big"}, TypeError, "alpha: expected a number"),
        ({"x0": torch.zeros(0, 2), "target": torch.zeros(0, 1)}, ValueError, "x0: expected at least one sample"),
        ({"x0": torch.zeros(5, 0), "readout": None}, ValueError, "x0: expected at least one sample"),
        ({"x0": torch.zeros(2)}, ValueError, r"x0: expected shape \(S, n\)"),
        ({"x0": [1.0]}, TypeError, "x0: expected a torch.Tensor"),
        ({"x0": torch.full((5, 2), math.nan)}, ValueError, "x0: expected finite"),
        ({"target": torch.zeros(4, 1)}, ValueError, r"target: expected shape \(5, 1\), received \(4, 1\)"),
        ({"target": torch.zeros(5, 2)}, ValueError, r"target: expected shape \(5, 1\), received \(5, 2\)"),
        ({"readout": None}, ValueError, r"target: expected shape \(5, 2\), received \(5, 1\)"),
        ({"target": torch.zeros(5)}, ValueError, "target: expected shape"),
        ({"target": torch.full((5, 1), math.inf).double()}, ValueError, "target: expected finite"),
        ({"target": torch.zeros(5, 1, dtype=torch.float32)}, ValueError, "target: expected dtype"),
        ({"readout": torch.zeros(1, 3)}, ValueError, "readout: expected shape"),
        ({"readout": torch.full((1, 2), math.nan).double()}, ValueError, "readout: expected finite"),
        ({"hidden": 0}, ValueError, "hidden: expected an int of at least 1"),
        ({"hidden": 1.5}, TypeError, "hidden: expected a positive int"),
        ({"activation": "gelu"}, ValueError, "name: expected one of"),
        ({"horizon": 0.0}, ValueError, "horizon: expected a number above 0"),
        ({"penalty": "tv"}, ValueError, "penalty: expected one of 'h1', 'l2'"),
    ],
)
def test_a_learning_problem_refuses_what_does_not_fit(changes, error, message) -> None:
    with pytest.raises(error, match=message):
        problem(**changes)


@pytest.mark.parametrize("function", [objective, data_term, LearningProblem.network, LearningProblem.mesh])
def test_controls_that_do_not_fit(function) -> None:
    case = problem()
    p = case.width_of_control
    for nodes in (0, 1, 2, 4, 11):
        with pytest.raises(ValueError, match=rf"theta: expected \(L\+1\)\(L\+2\)/2 nodes .* received {nodes}"):
            function(case, torch.zeros(nodes, p))
    with pytest.raises(ValueError, match="theta: expected shape"):
        function(case, torch.zeros(10, p + 1))
    with pytest.raises(ValueError, match="theta: expected finite entries, received nan"):
        function(case, torch.full((10, p), math.nan))
    with pytest.raises(ValueError, match="theta: expected dtype torch.float64"):
        function(case, torch.zeros(10, p, dtype=torch.float32))
    with pytest.raises(TypeError, match="theta: expected a torch.Tensor"):
        function(case, [0.0])


def test_other_misuse() -> None:
    case = problem()
    with pytest.raises(TypeError, match="problem: expected a LearningProblem, received str"):
        objective("problem", torch.zeros(10, 15))
    with pytest.raises(ValueError, match=r"theta: expected shape \(..., 15\)"):
        case.split(torch.zeros(10, 14))
    with pytest.raises(ValueError, match="W: expected shape"):
        case.join(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="x: expected shape"):
        case.loss(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="states"):
        data_term(problem(activation="identity"), torch.full((15, 15), 1e200))


@pytest.mark.parametrize("readout", [None, torch.tensor([[1.0, -2.0]]).double()])
def test_the_loss_has_the_gradient_it_claims(readout) -> None:
    case = problem(readout=readout, target=torch.randn(5, 2 if readout is None else 1))
    x = torch.randn(5, 2, requires_grad=True)
    case.loss(x).backward()
    torch.testing.assert_close(case.loss_gradient(x.detach()), x.grad, rtol=0, atol=1e-15)


# the Hamiltonian


def test_the_hamiltonian_is_a_sum_over_samples() -> None:
    x, p = torch.randn(4, 2), torch.randn(4, 2)
    V, W, b = torch.randn(2, 3), torch.randn(3, 2), torch.randn(3)
    single = sum(p[i] @ (V @ torch.tanh(W @ x[i] + b)) for i in range(4))
    torch.testing.assert_close(hamiltonian(x, p, (V, W, b)), single)
    total = hamiltonian(x, p, (V, W, b), running=lambda V, W, b: 0.5 * V.square().sum((-2, -1)))
    torch.testing.assert_close(total, single + 0.5 * V.square().sum())


def test_the_hamiltonian_gives_the_gradient_density() -> None:
    """tau^2 times its derivative in theta is the gradient of the network, with p^l = q^l / tau below the last row."""
    net, x0, g = DenseNonLocal(2, 5, hidden=3), torch.randn(4, 2), torch.randn(4, 2)
    x, q, (V, W, b) = net.trajectory(x0).detach(), costate(net, x0, g), gradient(net, x0, g)
    l = torch.tensor([l for k in range(5) for l in range(k + 1, 6)])
    k = torch.tensor([k for k in range(5) for l in range(k + 1, 6)])
    value = hamiltonian(x[k], q[l] / net.step, (net.V, net.W, net.b))
    assert value.shape == (15,)
    derivative = torch.autograd.grad(value.sum(), tuple(net.parameters()))
    for have, want in zip(derivative, (V, W, b), strict=True):
        torch.testing.assert_close(net.step**2 * have, want, rtol=0, atol=1e-14)


def test_the_hamiltonian_refuses_what_does_not_fit() -> None:
    x, theta = torch.ones(4, 2), (torch.ones(2, 3), torch.ones(3, 2), torch.ones(3))
    with pytest.raises(TypeError, match="theta: expected a triple"):
        hamiltonian(x, x, torch.ones(15))
    with pytest.raises(ValueError, match=r"p: expected shape \(..., 4, 2\)"):
        hamiltonian(x, torch.ones(3, 2), theta)
    with pytest.raises(ValueError, match=r"W: expected shape \(..., 3, 2\)"):
        hamiltonian(x, x, (theta[0], torch.ones(2, 3), theta[2]))
    with pytest.raises(ValueError, match=r"b: expected shape \(..., 3\)"):
        hamiltonian(x, x, (*theta[:2], torch.ones(1)))
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 2\)"):
        hamiltonian(torch.ones(4, 1), torch.ones(4, 1), theta)
    with pytest.raises(ValueError, match="x: expected at least 2 axes"):
        hamiltonian(x[0], x[0], theta)
    with pytest.raises(ValueError, match="V: expected dtype"):
        hamiltonian(x, x, tuple(part.float() for part in theta))


def test_the_room_names_what_it_offers() -> None:
    for name in control.__all__:
        assert getattr(control, name).__doc__
