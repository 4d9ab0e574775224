"""Rademacher complexity against exhaustive enumeration: the factor 9/8, the equality for linear layers, the ascent."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.activations import soft_threshold
from dnlbook.bounds import RecursionBound
from dnlbook.generalization import (
    Budget,
    BudgetedNet,
    all_signs,
    empirical_rademacher,
    exact_rademacher_linear,
    linear_suprema,
    massart,
    mean_abs_sum,
    random_signs,
)
from dnlbook.rademacher import mean_abs_sums

BUDGET = Budget(B0=1.2, Bb0=0.3, BV=0.8, BW=1.5, Bb=0.4, T=0.9)


def sample(count, features=3, seed=0):
    return 2 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_mean_of_a_sum_of_signs_by_enumeration(count):
    assert mean_abs_sum(count) == pytest.approx(float(all_signs(count).sum(1).abs().mean()), abs=1e-13)


def test_mean_of_a_sum_of_signs_in_closed_form():
    exact = [2 * j * math.comb(2 * j, j) / 4**j for j in range(1, 300)]
    assert mean_abs_sums(598)[2::2].tolist() == pytest.approx(exact, rel=1e-13)
    assert [mean_abs_sum(2 * j) for j in range(1, 300)] == pytest.approx(exact, rel=1e-13)
    assert mean_abs_sum(5000) == pytest.approx(5000 * math.comb(5000, 2500) / 4**2500, rel=1e-13)
    assert mean_abs_sums(598)[1::2].tolist() == pytest.approx(exact, rel=1e-13)
    assert all(mean_abs_sum(k) <= math.sqrt(k) for k in (0, 1, 5, 100, 100_000))


def test_contraction_with_the_factor_one_is_false_for_relu():
    """Linear functionals of l1 norm 1 on three points: the ratio of the two averages is 9/8."""
    h = torch.tensor([[-1.0, -1.0, 0.0], [-1.0, 1.0, -2.0]])
    vertices, signs = torch.cat([h, -h]), all_signs(3)
    linear = (signs @ vertices.T).abs().amax(1).mean()
    half = (signs @ vertices.relu().T).abs().amax(1).mean()
    assert half / linear == pytest.approx(9 / 8, abs=1e-14)
    odd = soft_threshold(0.05)
    assert (signs @ odd(vertices).T).abs().amax(1).mean() / linear < 1


def test_class_of_relu_networks_exceeds_the_recursion_with_the_factor_one():
    data, budget = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [0.0, -2.0]]), Budget(T=0.1)
    reached = empirical_rademacher(data, 1, budget, "relu", width=3, signs=all_signs(3), restarts=32, steps=80)
    start = exact_rademacher_linear(data, 1, Budget(BV=0.0)).mean
    assert start == pytest.approx(2 / 3, abs=1e-14)
    assert start * math.exp(0.1) < 0.74165 < reached.mean <= start * (1 + 0.1 * 9 / 8) + 1e-12
    assert reached.mean <= RecursionBound(budget, "relu", linear="exact").complexity(data, 1)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("budget", [BUDGET, replace(BUDGET, BW=0.0), replace(BUDGET, Bb0=0.0, Bb=0.0)])
def test_recursion_is_an_equality_for_linear_layers(depth, budget):
    """For every sign vector the network of the proof reaches the supremum; the mean over all is the bound."""
    data, reached = sample(7), []
    net = BudgetedNet(3, 2, depth, budget, activation="identity")
    for signs in all_signs(7):
        sums, side = signs @ data, torch.sign(signs.sum())
        best = int(sums.abs().argmax())
        W_in, b_in, V, W, b = (torch.zeros_like(p) for p in (net.W_in, net.b_in, net.V, net.W, net.b))
        W_in[0, best], b_in[0] = budget.B0 * sums[best].sign(), budget.Bb0 * side
        V[:, 0, 0], W[:, 0, 0], b[:, 0] = budget.BV, budget.BW, budget.Bb * side
        net.adopt_(W_in=W_in, b_in=b_in, V=V, W=W, b=b)
        with torch.no_grad():
            reached.append(signs @ net.states(data)[-1][:, 0] / 7)
    reached = torch.stack(reached)
    assert torch.allclose(reached, linear_suprema(data, depth, budget, all_signs(7)), atol=1e-13)
    exact = exact_rademacher_linear(data, depth, budget)
    assert exact.se == 0 and exact.kind == "exact"
    assert exact.mean == pytest.approx(float(reached.mean()), abs=1e-12)
    bound = RecursionBound(budget, linear="exact").complexity(data, depth)
    assert bound == pytest.approx(exact.mean, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 7), features=st.integers(1, 4))
def test_subsets_have_smaller_averages_and_massart_is_above(seed, count, features):
    data = sample(count, features, seed)
    bounds = [exact_rademacher_linear(data[:k], 3, BUDGET).mean * k for k in range(1, count + 1)]
    assert all(a <= b + 1e-12 for a, b in zip(bounds, bounds[1:], strict=False))
    assert massart(data) >= float((all_signs(count) @ data).abs().amax(1).mean())


@pytest.mark.parametrize("depth", [4, 32])
def test_cold_ascent_reaches_the_exact_value_of_linear_layers(depth):
    data, signs = sample(48, 5), random_signs(12, 48, seed=3)
    budget = Budget(Bb0=0.5, Bb=0.5)
    cold = empirical_rademacher(data, depth, budget, signs=signs, warm_start=False, steps=40)
    exact = linear_suprema(data, depth, budget, signs)
    ratio = cold.per_sign / exact
    assert 0.99 <= ratio.min() and ratio.max() <= 1 + 1e-12
    warm = empirical_rademacher(data, depth, budget, signs=signs, restarts=1, steps=1)
    assert torch.allclose(warm.per_sign, exact, rtol=1e-12)


@pytest.mark.parametrize("name", ["identity", "tanh", "relu", "soft_threshold(0.2)", "soft_threshold(0.1, 0.6)"])
@pytest.mark.parametrize("depth", [1, 6])
def test_ascent_stays_below_the_bound_over_all_signs(name, depth):
    data = sample(6, 2, seed=4)
    reached = empirical_rademacher(data, depth, BUDGET, name, width=3, signs=all_signs(6), restarts=3, steps=20)
    assert reached.kind == "lower" and reached.se == 0
    assert reached.mean <= RecursionBound(BUDGET, name, linear="exact").complexity(data, depth) + 1e-12


def test_generous_biases_leave_the_threshold_no_more_than_its_size():
    """With biases that reach every pre-activation the threshold acts as a smaller bias."""
    data, alpha, budget = sample(8, 3), 0.5, Budget(Bb=4.0)
    upper = exact_rademacher_linear(data, 4, budget).mean
    lower = exact_rademacher_linear(data, 4, replace(budget, Bb=budget.Bb - alpha)).mean
    reached = empirical_rademacher(data, 4, budget, soft_threshold(alpha), signs=all_signs(8), restarts=2, steps=20)
    assert lower - 1e-12 <= reached.mean <= upper


def test_control_variate_removes_the_noise_of_the_signs():
    data = sample(40, 4)
    plain = empirical_rademacher(data, 4, Budget(), soft_threshold(0.1), control_variate=False, steps=15)
    better = empirical_rademacher(data, 4, Budget(), soft_threshold(0.1), steps=15)
    assert torch.equal(plain.per_sign, better.per_sign) and better.raw_mean == plain.mean
    assert better.se < plain.se / 4
    assert abs(better.mean - plain.mean) < 4 * plain.se
    linear = empirical_rademacher(data, 4, Budget(), steps=5)
    assert linear.mean == pytest.approx(exact_rademacher_linear(data, 4, Budget(), seed=1).mean, rel=1e-10)


def test_gradient_of_the_ascent_is_the_gradient_of_a_network():
    from dnlbook.rademacher import _Ascent

    data, signs = sample(5), random_signs(2, 5)
    ascent = _Ascent(data, 3, BUDGET, soft_threshold(0.05), 4, 1, 0)
    values = {name: value.requires_grad_() for name, value in ascent.start(signs, False).items()}
    assert torch.autograd.gradcheck(
        lambda *parts: ascent.objective(signs, dict(zip(values, parts, strict=True))), tuple(values.values())
    )
    net = BudgetedNet(3, 4, 3, BUDGET, copies=2, activation=soft_threshold(0.05))
    net.adopt_(**{name: value.detach() for name, value in values.items()})
    sums = torch.linalg.vecdot(signs, net.states(data)[-1][..., 0])
    assert torch.allclose(sums, ascent.objective(signs, values), atol=1e-14)


def test_vertex_maximizes_every_linear_function_over_the_class():
    from dnlbook.rademacher import _Ascent

    ascent = _Ascent(sample(5), 3, BUDGET, soft_threshold(0.05), 4, 1, 0)
    for name, value in ascent.start(random_signs(30, 5), False).items():
        gradient = torch.randn_like(value)
        vertex = ascent.vertex(name, gradient)
        size = vertex.abs().sum(-1) if name in ascent.radius else vertex.abs()
        bound = ascent.radius.get(name, ascent.clamp.get(name))
        assert torch.allclose(size, torch.full_like(size, bound))
        axes = tuple(range(1, value.ndim))
        assert ((gradient * vertex).sum(axes) >= (gradient * value).sum(axes)).all()


def test_random_signs_and_all_signs():
    assert len(all_signs(5).unique(dim=0)) == 32 and all_signs(1).shape == (2, 1)
    signs = random_signs(4000, 3, seed=1)
    assert torch.equal(signs, random_signs(4000, 3, seed=1)) and signs.mean(0).abs().max() < 0.05
    assert exact_rademacher_linear(sample(5), 2, Budget(), signs=all_signs(5)).se == 0
    assert exact_rademacher_linear(sample(5), 2, Budget(), signs=all_signs(5)[:20]).se > 0


def test_bad_input_is_refused():
    data = sample(4)
    for empty in (torch.ones(0, 3), torch.ones(3, 0)):
        with pytest.raises(ValueError, match="data: expected a sample of at least one"):
            exact_rademacher_linear(empty, 2, Budget())
    with pytest.raises(ValueError, match="data: expected shape"):
        empirical_rademacher(torch.ones(3), 2, Budget())
    with pytest.raises(ValueError, match="data: expected finite entries"):
        empirical_rademacher(torch.full((2, 2), math.nan), 2, Budget())
    with pytest.raises(ValueError, match="depth"):
        linear_suprema(data, 0, Budget(), all_signs(4))
    with pytest.raises(ValueError, match="signs: expected shape"):
        linear_suprema(data, 1, Budget(), all_signs(3))
    with pytest.raises(ValueError, match="signs: expected at least one vector of entries"):
        empirical_rademacher(data, 1, Budget(), signs=torch.zeros(2, 4))
    for name in ("width", "restarts", "steps", "n_signs"):
        with pytest.raises(ValueError, match="expected an int of at least 1"):
            empirical_rademacher(data, 1, Budget(), **{name: 0})
    with pytest.raises(ValueError, match="at most 20"):
        all_signs(21)
    with pytest.raises(ValueError, match="count"):
        mean_abs_sum(-1)
    with pytest.raises(ValueError, match="name: expected one of"):
        empirical_rademacher(data, 1, Budget(), "gelu")


def test_control_variate_is_exact_for_a_frozen_class():
    """Then each supremum is a multiple of the linear one, and the regression leaves no noise at all."""
    data = sample(30, 4)
    frozen = empirical_rademacher(data, 4, Budget(), soft_threshold(1.0), steps=5)
    start = exact_rademacher_linear(data, 4, Budget(BV=0.0), seed=1)
    assert frozen.mean == pytest.approx(start.mean, rel=1e-6) and frozen.se == pytest.approx(start.se, rel=1e-3)
