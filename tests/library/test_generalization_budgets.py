"""Budgets: the projection is the nearest point, the network is the equation, and what does not fit is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.activations import soft_threshold
from dnlbook.generalization import Budget, BudgetedNet, project_, project_rows, row_norms
from dnlbook.residual import residual_loop

WIDE = Budget(B0=3.0, Bb0=0.5, BV=1.5, BW=2.0, Bb=0.4, Bout=2.5, T=1.2)
ROW = st.lists(st.floats(-5, 5), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(row=ROW, radius=st.floats(0.01, 6))
def test_projection_is_the_nearest_point_of_the_ball(row, radius):
    """p is the projection of a on a convex set iff <a - p, v - p> <= 0 for all its extreme points v."""
    a = torch.tensor(row)
    p = project_rows(a, radius)
    assert p.abs().sum() <= radius + 1e-12
    vertices = torch.cat([torch.eye(len(a)), -torch.eye(len(a))]) * radius
    assert ((vertices - p) @ (a - p)).max() <= 1e-10
    assert torch.allclose(project_rows(p, radius), p, atol=1e-14)


def test_projection_leaves_the_inside_alone_and_treats_rows_one_by_one():
    values = torch.randn(3, 4, 5)
    together = project_rows(values, 0.7)
    assert torch.equal(together, torch.stack([torch.stack([project_rows(r, 0.7) for r in m]) for m in values]))
    small = 0.1 * values / values.abs().sum(-1, keepdim=True)
    assert torch.equal(project_rows(small, 0.7), small)
    assert torch.equal(project_rows(values, 0.0), torch.zeros_like(values))


def test_projection_in_closed_form():
    assert project_rows(torch.tensor([3.0, -1.0]), 1.0).tolist() == [1.0, 0.0]
    assert torch.allclose(project_rows(torch.tensor([2.0, -2.0]), 1.0), torch.tensor([0.5, -0.5]))
    assert torch.allclose(project_rows(torch.full((4,), 1.0), 2.0), torch.full((4,), 0.5))


def test_project_keeps_a_network_within_its_budget_and_changes_nothing_inside():
    net = BudgetedNet(3, 4, 5, WIDE, outputs=2, hidden=6, seed=3)
    before = [p.detach().clone() for p in net.parameters()]
    project_(net, WIDE)
    assert all(torch.allclose(a, b, atol=1e-15) for a, b in zip(before, net.parameters(), strict=True))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(7.0)
    assert not WIDE.contains(net)
    project_(net, WIDE)
    assert WIDE.contains(net)
    assert row_norms(net)["BW"] == pytest.approx(2.0, abs=1e-12)


def test_row_norms_are_the_largest_rows_over_layers():
    net = BudgetedNet(2, 3, 4, Budget(Bb=1.0, Bb0=1.0))
    V = torch.zeros(4, 3, 3)
    V[2, 1] = torch.tensor([0.1, -0.5, 0.2])
    net.adopt_(V=V, b=torch.tensor([[0.0, -0.3, 0.1]]).repeat(4, 1), b_in=torch.tensor([0.2, -0.6, 0.0]))
    norms = row_norms(net)
    assert norms["BV"] == pytest.approx(0.8) and norms["Bb"] == 0.3 and norms["Bb0"] == 0.6


def test_network_is_its_equation():
    net = BudgetedNet(3, 4, 5, WIDE, hidden=6, outputs=2, activation="relu", seed=1)
    d = torch.randn(7, 3)
    x0 = d @ net.W_in.T + net.b_in
    states = residual_loop(x0, net.V, net.W, net.b, step=1.2 / 5, activation="relu")
    assert torch.allclose(net.states(d), states, atol=1e-14)
    assert torch.allclose(net(d), states[-1] @ net.W_out.T, atol=1e-14)
    assert "activation='relu'" in repr(net) and "V=(5, 4, 6)" in repr(net) and "BW=2.0" in repr(net)


def test_horizon_zero_is_a_linear_network():
    net = BudgetedNet(3, 4, 5, Budget(T=0.0))
    d = torch.randn(7, 3)
    assert torch.allclose(net(d), d @ net.W_in.T @ net.W_out.T, atol=1e-14)


@pytest.mark.parametrize("learned", [None, (0.0, 2.0)])
def test_copies_are_independent_networks(learned):
    stack = BudgetedNet(3, 4, 5, WIDE, copies=3, activation=soft_threshold(0.2, 0.3), learned=learned)
    one = BudgetedNet(3, 4, 5, WIDE, activation=soft_threshold(0.2, 0.3), learned=learned)
    common, own = torch.randn(6, 3), torch.randn(3, 6, 3)
    for i in range(3):
        one.load_state_dict({name: value[i] for name, value in stack.state_dict().items()})
        assert torch.allclose(stack(common)[i], one(common), atol=1e-14)
        assert torch.allclose(stack(own)[i], one(own[i]), atol=1e-14)
    stack(own).square().sum().backward()
    one(own[2]).square().sum().backward()
    pairs = dict(stack.named_parameters())
    assert all(torch.allclose(pairs[name].grad[2], p.grad, atol=1e-12) for name, p in one.named_parameters())


def test_gradients_are_those_of_differences():
    net = BudgetedNet(2, 3, 4, WIDE, activation=soft_threshold(0.1), learned=(0.0, 1.0), seed=5)
    d = torch.randn(4, 2)
    names, values = zip(*((name, p.detach().requires_grad_()) for name, p in net.named_parameters()), strict=True)

    def function(*parameters):
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), d)

    assert torch.autograd.gradcheck(function, values)


def test_learned_thresholds_start_as_the_activation_and_stay_in_their_range():
    sigma = soft_threshold(0.3, 0.1)
    fixed = BudgetedNet(2, 3, 4, WIDE, activation=sigma, seed=2)
    free = BudgetedNet(2, 3, 4, WIDE, activation=sigma, learned=(0.05, 0.5), seed=2)
    d = 3 * torch.randn(5, 2)
    assert torch.allclose(fixed(d), free(d), atol=1e-14)
    with torch.no_grad():
        free.thresholds.add_(torch.tensor([[9.0], [-9.0]]))
    project_(free, WIDE)
    assert free.thresholds[0].unique().tolist() == [0.5] and free.thresholds[1].unique().tolist() == [0.05]


def test_seed_decides_and_budget_holds_at_the_start():
    a, b, c = (BudgetedNet(3, 4, 2, WIDE, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.V, b.V) and not torch.equal(a.V, c.V)
    deeper = BudgetedNet(3, 4, 9, WIDE)
    assert torch.equal(deeper.W_in, a.W_in) and torch.equal(deeper.W_out, a.W_out)
    assert WIDE.contains(a) and WIDE.contains(BudgetedNet(3, 4, 2, WIDE, dtype=torch.float32))


@pytest.mark.parametrize("name", ["B0", "Bb0", "BV", "BW", "Bb", "Bout", "T"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_negative_budgets_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Budget(**{name: value})


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="BV: expected a number"):
        Budget(BV="one")
    with pytest.raises(ValueError, match="radius"):
        project_rows(torch.ones(2), -1.0)
    with pytest.raises(ValueError, match="values: expected finite entries"):
        project_rows(torch.tensor([math.nan]), 1.0)
    with pytest.raises(TypeError, match="expected a BudgetedNet, received Linear"):
        project_(torch.nn.Linear(2, 2), Budget())
    with pytest.raises(ValueError, match="depth"):
        BudgetedNet(2, 2, 0, Budget())
    net = BudgetedNet(2, 3, 4, Budget())
    with pytest.raises(ValueError, match="data: expected shape"):
        net(torch.ones(5, 3))
    with pytest.raises(ValueError, match="name of a parameter"):
        net.adopt_(U=torch.ones(1))
    with pytest.raises(ValueError, match="V: expected shape"):
        net.adopt_(V=torch.ones(3, 3))
    with pytest.raises(ValueError, match="holds the thresholds"):
        BudgetedNet(2, 3, 4, Budget(), activation=soft_threshold(0.3), learned=(0.5, 1.0))
    with pytest.raises(ValueError, match="expected a soft threshold"):
        BudgetedNet(2, 3, 4, Budget(), activation="tanh", learned=(0.0, 1.0))
    with torch.no_grad():
        net.W[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="W: expected finite entries"):
        project_(net, Budget())
