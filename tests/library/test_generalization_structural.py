"""The structural term: identities of the hybrid recursion, and constants in one dimension by brute force."""

import math
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnlbook.activations import soft_threshold
from dnlbook.generalization import (
    Budget,
    RecursionBound,
    StructuralBound,
    all_signs,
    empirical_rademacher,
    exact_rademacher_linear,
    largest_states,
    massart,
    mean_abs_sum,
    random_signs,
    structural_constant_1d,
)

BUDGET = Budget(B0=1.2, Bb0=0.1, BV=0.8, BW=0.9, Bb=0.2, T=0.9)


def sample(count, features=3, seed=0):
    return 2 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed)) - 1


def points(count, seed=0):
    return sample(count, 1, seed)[:, 0]


def test_hybrid_recursion_is_the_minimum_over_all_splits():
    """Theorem by theorem: the recursion with explicit loops over layers, prefixes and splits."""
    data, sigma, L = sample(7, 2), soft_threshold(0.7, 0.9), 4
    order = sorted(range(7), key=lambda s: -float(data[s].abs().max()))
    prefix = [[data[s] for s in order[:k]] for k in range(8)]
    lin = [0.0, *(massart(torch.stack(part)) for part in prefix[1:])]
    r = [BUDGET.B0 * lin[k] + BUDGET.Bb0 * mean_abs_sum(k) for k in range(8)]
    state = [BUDGET.B0 * float(data[s].abs().max()) + BUDGET.Bb0 for s in order]
    tau, kappa = BUDGET.T / L, 2.0
    for _ in range(L):
        excess = [max(BUDGET.BW * x + BUDGET.Bb - 0.7, 0.0) for x in state]
        best = [
            min(kappa * (BUDGET.BW * r[j] + BUDGET.Bb * mean_abs_sum(j)) + sum(excess[j:k]) for j in range(k + 1))
            for k in range(8)
        ]
        r = [a + tau * BUDGET.BV * b for a, b in zip(r, best, strict=True)]
        state = [x + tau * BUDGET.BV * e for x, e in zip(state, excess, strict=True)]
    result = StructuralBound(BUDGET, sigma).evaluate(data, L)
    assert result.value == pytest.approx(r[-1] / 7, rel=1e-13)
    assert result.largest_state == pytest.approx(max(state), rel=1e-13)
    assert result.largest_state == pytest.approx(float(largest_states(data, L, BUDGET, sigma).max()), rel=1e-13)


@settings(max_examples=25, deadline=None)
@example(alpha=0.01171875, depth=4, seed=4)
@given(alpha=st.floats(0.01, 2), depth=st.integers(1, 8), seed=st.integers(0, 1000))
def test_constants_put_into_the_sharpened_recursion_give_the_bound(alpha, depth, seed):
    data, sigma = sample(9, 2, seed), soft_threshold(alpha)
    result = StructuralBound(BUDGET, sigma).evaluate(data, depth)
    plain = RecursionBound(BUDGET, sigma).complexity(data, depth)
    tau, c = BUDGET.T / depth, BUDGET.growth(1.0)
    weights = torch.tensor([(1 + tau * c) ** (depth - 1 - l) for l in range(depth)])
    saved = 2 * alpha * BUDGET.BV / 9 * tau * float(weights @ result.constants)
    assert result.value == pytest.approx(plain - saved, abs=1e-12)
    assert (result.saving >= 0).all() and result.value <= plain * (1 + 1e-12)
    assert result.terms["recursion"] == pytest.approx(plain, rel=1e-12)
    assert result.terms["structural"] == pytest.approx(-saved, abs=1e-12)


@pytest.mark.parametrize("linear", ["massart", "mc", "exact"])
def test_a_frozen_class_is_the_class_without_layers(linear):
    data, budget = sample(10), Budget()
    frozen = StructuralBound(budget, soft_threshold(1.0), linear=linear).evaluate(data, 8)
    assert frozen.value == pytest.approx(RecursionBound(Budget(BV=0.0), linear=linear).complexity(data, 8), abs=1e-12)
    assert frozen.alive.tolist() == [0] * 8


def test_error_of_monte_carlo_covers_every_prefix():
    data = sample(10)
    drawn = {"linear": "mc", "n_signs": 300}
    frozen = [
        StructuralBound(Budget(), soft_threshold(1.0), mc_delta=delta, **drawn).complexity(data, 4)
        for delta in (None, 0.02)
    ]
    error = float(data.abs().amax(1).square().sum().sqrt()) * math.sqrt(2 * math.log(10 / 0.02) / 300)
    assert frozen[1] - frozen[0] == pytest.approx(error / 10, rel=1e-10)


def test_larger_dead_zones_give_smaller_bounds_and_more_samples_die():
    data, alphas = sample(40), [0.0, 0.3, 0.6, 0.8, 0.9, 1.0]
    bounds = [StructuralBound(Budget(), soft_threshold(a), linear="mc").evaluate(data, 6) for a in alphas]
    values = [bound.value for bound in bounds]
    assert values == sorted(values, reverse=True) and values[-1] < 0.5 * values[0]
    assert all((a.alive >= b.alive).all() for a, b in zip(bounds, bounds[1:], strict=False))
    assert values[0] <= RecursionBound(Budget(), linear="mc").complexity(data, 6) * (1 + 1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.7, 0.95])
def test_ascent_stays_below_the_hybrid_bound_over_all_signs(alpha):
    data = sample(8)
    reached = empirical_rademacher(data, 4, Budget(), soft_threshold(alpha), signs=all_signs(8), restarts=2, steps=15)
    bound = StructuralBound(Budget(), soft_threshold(alpha), linear="exact").complexity(data, 4)
    assert exact_rademacher_linear(data, 4, Budget(BV=0.0)).mean - 1e-9 <= reached.mean <= bound + 1e-12


def test_without_dead_zone_there_are_no_constants():
    for name in ("tanh", "relu"):
        assert StructuralBound(BUDGET, name).evaluate(sample(5), 3).constants.isnan().all()


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("bound", [0.7, 1.5])
def test_exact_constant_by_brute_force_on_a_fine_grid(alpha, bound):
    x, signs = points(6, 3), all_signs(6)
    t = torch.linspace(-bound, bound, 20_001)
    shrunk = soft_threshold(alpha)(t.unsqueeze(1) * x)
    expected = bound * (signs @ x).abs().mean() - (signs @ shrunk.T).abs().amax(1).mean()
    constants = structural_constant_1d(x, alpha, bound)
    assert constants["exact"] == pytest.approx(float(expected) / (2 * alpha), abs=6 * bound / 20_000 / alpha)


def test_lower_forms_by_their_definitions():
    """Loops over signs, samples and the candidates for t, with exact maximizers."""
    x, alpha, bound, S = points(5, 1), 0.35, 1.2, 5
    psi = soft_threshold(alpha)
    kinks = [float(alpha / abs(v)) for v in x if alpha / abs(v) < bound]
    candidates = torch.tensor([s * t for t in [*kinks, bound] for s in (1.0, -1.0)])
    line, shrunk = candidates.unsqueeze(1) * x, psi(candidates.unsqueeze(1) * x)
    tel, corr = 0.0, 0.0
    for signs in all_signs(S):
        total = shrunk @ signs
        best = int((total >= total.max() - 1e-12).to(torch.int8).argmax())
        corr += float(signs @ (line[best] - shrunk[best]))
        for k in range(S):
            rest = line[:, :k] @ signs[:k] + shrunk[:, k + 1 :] @ signs[k + 1 :]
            a, b = (
                int((rest + side * shrunk[:, k] >= (rest + side * shrunk[:, k]).max() - 1e-12).to(torch.int8).argmax())
                for side in (1.0, -1.0)
            )
            tel += float((line[a, k] - line[b, k]).abs() - (shrunk[a, k] - shrunk[b, k]).abs()) / 2
    grid = torch.linspace(0, bound, 24_001)[:-1] + bound / 48_000
    signs = all_signs(S)
    alive = (grid.unsqueeze(1) * x.abs() > alpha).to(torch.float64)
    ray = float((signs @ x).abs().mean()) * bound - bound * float((signs @ (alive * x).T).abs().mean())
    constants = structural_constant_1d(x, alpha, bound)
    assert constants["tel"] == pytest.approx(tel / 32 / (2 * alpha), abs=1e-12)
    assert constants["corr"] == pytest.approx(max(corr, 0) / 32 / (2 * alpha), abs=1e-12)
    assert constants["ray"] == pytest.approx(ray / (2 * alpha), abs=1e-3)
    assert constants["cap"] == pytest.approx(min(math.sqrt(5) * 3.4 / 1.4, 5))


def slow_forms(x, alpha, bound, signs):
    """Exact constant, telescoping and correlation form by loops over signs and samples and both signs of every t."""
    kinks = [float(alpha / abs(v)) for v in x if alpha / abs(v) < bound]
    candidates = torch.tensor([s * t for t in [*kinks, bound] for s in (1.0, -1.0)])
    # a row for each sample
    line = x.unsqueeze(1) * candidates
    shrunk = soft_threshold(alpha)(line)
    sums = torch.zeros(3)
    for each in signs:
        total = each @ shrunk
        best = int((total >= total.max() - 1e-12).to(torch.int8).argmax())
        sums[0] += bound * (each @ x).abs() - total.max()
        sums[2] += each @ (line[:, best] - shrunk[:, best])
        rest = total
        for k, sign in enumerate(each):
            rest = rest - sign * shrunk[k]
            above, below = rest + shrunk[k], rest - shrunk[k]
            a, b = (int((side >= side.max() - 1e-12).to(torch.int8).argmax()) for side in (above, below))
            sums[1] += ((line[k, a] - line[k, b]).abs() - (shrunk[k, a] - shrunk[k, b]).abs()) / 2
            rest = rest + sign * line[k]
    return dict(zip(("exact", "tel", "corr"), (sums / len(signs) / (2 * alpha)).tolist(), strict=True))


@pytest.mark.parametrize(
    "x, signs",
    [
        (points(2048, 7), random_signs(2, 2048, seed=1)),
        (points(300, 8), random_signs(12, 300, seed=2)),
        # ties: kinks that coincide, flat pieces, samples at zero
        ((8 * points(60, 9)).round() / 8, random_signs(40, 60, seed=3)),
        (torch.linspace(-1, 1, 33), random_signs(40, 33, seed=4)),
    ],
    ids=["2048 points", "300 points", "points of a grid", "equally spaced"],
)
def test_forms_agree_with_the_slow_ones(x, signs):
    x = x.to(torch.float64)
    constants, slow = structural_constant_1d(x, 0.3, 1.2, signs=signs), slow_forms(x, 0.3, 1.2, signs)
    assert constants["exact"] == pytest.approx(slow["exact"], abs=1e-11)
    assert constants["tel"] == pytest.approx(slow["tel"], abs=1e-11) and constants["tel"] > 0.1
    assert constants["corr"] == pytest.approx(max(slow["corr"], 0.0), abs=1e-11)


def test_many_equal_sizes_have_a_closed_form_too():
    signs, y = random_signs(50, 2048, seed=6), torch.sign(points(2048, 5))
    constants = structural_constant_1d(0.8 * y, 0.3, 1.5, signs=signs)
    expected = float((signs @ y).abs().mean()) / 2
    assert constants["exact"] == pytest.approx(expected, rel=1e-12)
    assert constants["ray"] == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8), alpha=st.floats(0.02, 2), bound=st.floats(0.1, 3))
def test_lower_forms_are_between_zero_and_the_exact_constant(seed, count, alpha, bound):
    constants = structural_constant_1d(points(count, seed), alpha, bound)
    for name in ("tel", "corr", "ray"):
        assert -1e-10 <= constants[name] <= constants["exact"] + 1e-10
    assert constants["exact"] <= min(count / 2, bound * math.sqrt(count) / (2 * alpha)) + 1e-10


@pytest.mark.parametrize("count, size, bound, alpha", list(product([4, 9], [0.5, 2.0], [1.0], [0.3, 0.8])))
def test_equal_sizes_have_a_closed_form(count, size, bound, alpha):
    x = size * torch.sign(points(count, 5))
    constants = structural_constant_1d(x, alpha, bound)
    expected = min(bound * size, alpha) * mean_abs_sum(count) / (2 * alpha)
    assert constants["exact"] == pytest.approx(expected, abs=1e-12)
    assert constants["ray"] == pytest.approx(expected, abs=1e-12)
    cap = math.sqrt(count) * (1 + 2 * bound) / (4 * alpha)
    assert constants["cap"] == pytest.approx(min(cap, count)) and constants["cap"] >= constants["exact"]


def test_random_signs_estimate_what_all_signs_give():
    x = points(11, 2)
    exact = structural_constant_1d(x, 0.3)
    drawn = structural_constant_1d(x, 0.3, signs=random_signs(20_000, 11, seed=4))
    for name in ("exact", "tel", "corr", "ray"):
        assert drawn[name] == pytest.approx(exact[name], abs=0.03)
    large = structural_constant_1d(points(40), 0.3, n_signs=200)
    assert large == structural_constant_1d(points(40), 0.3, n_signs=200)


def test_zeros_add_nothing():
    x = points(5)
    padded = structural_constant_1d(torch.cat([x, torch.zeros(2)]), 0.3)
    plain = structural_constant_1d(x, 0.3)
    assert all(padded[name] == pytest.approx(plain[name], abs=1e-12) for name in ("exact", "tel", "corr", "ray"))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="x: expected shape"):
        structural_constant_1d(torch.ones(2, 2), 0.1)
    with pytest.raises(ValueError, match="at least one"):
        structural_constant_1d(torch.ones(0), 0.1)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            structural_constant_1d(torch.ones(2), alpha)
    with pytest.raises(ValueError, match="bound"):
        structural_constant_1d(torch.ones(2), 0.1, 0.0)
    with pytest.raises(ValueError, match="signs"):
        structural_constant_1d(torch.ones(2), 0.1, signs=torch.ones(1, 3))
    with pytest.raises(TypeError, match="x: expected a torch.Tensor"):
        structural_constant_1d([1.0], 0.1)
    with pytest.raises(ValueError, match="depth"):
        StructuralBound(BUDGET).evaluate(sample(3))
