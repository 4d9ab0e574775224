"""Bounds: closed forms, monotone in every budget, above what is reached, in logarithms where products overflow."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.activations import soft_threshold
from dnlbook.generalization import (
    Budget,
    BudgetedNet,
    LayerwiseBound,
    LipschitzPathBound,
    NaiveBound,
    ParameterCoverBound,
    PathNormBound,
    RecursionBound,
    SpectralBound,
    StructuralBound,
    Support,
    all_signs,
    depth_limit,
    empirical_rademacher,
    largest_states,
    learned_thresholds_bound,
    massart,
    mean_abs_sum,
    path_norm,
    row_norms,
)

BUDGET = Budget(B0=1.2, Bb0=0.3, BV=0.8, BW=1.5, Bb=0.4, Bout=2.0, T=0.9)
NUMBER = st.floats(0, 2)


def sample(count, features=3, seed=0):
    return 2 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed)) - 1


def classes():
    """Every bound of a class, as a function of the budget."""
    return {
        "recursion": lambda budget: RecursionBound(budget, "relu"),
        "gronwall": lambda budget: RecursionBound(budget, "tanh", mode="gronwall"),
        "structural": lambda budget: StructuralBound(budget, soft_threshold(0.6)),
        "naive": lambda budget: NaiveBound(budget, "tanh"),
        "cover": lambda budget: ParameterCoverBound(budget, "tanh", width=3),
        "paths": lambda budget: LipschitzPathBound(budget, "tanh", width=3, path_lipschitz=1.0),
        "learned": lambda budget: learned_thresholds_bound(budget, (0.1, 0.4)),
    }


@pytest.mark.parametrize("mode", ["discrete", "gronwall", "continuous"])
@pytest.mark.parametrize("name, kappa", [("tanh", 1.0), ("relu", 1.5), ("soft_threshold(0.1, 0.2)", 2.0)])
def test_recursion_is_its_closed_form(mode, name, kappa):
    data, L = sample(50), 7
    c = kappa * 0.8 * 1.5
    growth = (1 + 0.9 * c / L) ** L if mode == "discrete" else math.exp(0.9 * c)
    lin, m = massart(data), mean_abs_sum(50)
    expected = (growth * (1.2 * lin + 0.3 * m) + (growth - 1) / c * kappa * 0.8 * 0.4 * m) / 50
    bound = RecursionBound(BUDGET, name, mode=mode)
    result = bound.evaluate(data, L)
    assert result.value == pytest.approx(expected, rel=1e-13)
    assert sum(result.terms.values()) == pytest.approx(expected, rel=1e-13)
    assert bound.complexity(data, L) == result.value and bound.terms(data, L) == result.terms
    assert result.doubts == () and result.readout == 2.0 and not result.data_free


def test_recursion_is_the_loop_of_the_theorem():
    data, kappa = sample(9), 1.5
    r = 1.2 * massart(data) + 0.3 * mean_abs_sum(9)
    for _ in range(6):
        r = (1 + 0.15 * kappa * 0.8 * 1.5) * r + 0.15 * kappa * 0.8 * 0.4 * mean_abs_sum(9)
    assert RecursionBound(BUDGET, "relu").complexity(data, 6) == pytest.approx(r / 9, rel=1e-13)


@pytest.mark.parametrize("zero", ["BV", "BW", "T", "B0"])
def test_budgets_of_zero_have_their_limits(zero):
    data, small = sample(20), replace(BUDGET, **{zero: 1e-9})
    nothing = RecursionBound(replace(BUDGET, **{zero: 0.0})).complexity(data, 4)
    assert nothing == pytest.approx(RecursionBound(small).complexity(data, 4), rel=1e-7)
    assert RecursionBound(Budget(B0=0.0)).complexity(data, 4) == 0.0


@pytest.mark.parametrize("name", classes())
@settings(max_examples=25, deadline=None)
@given(low=st.tuples(*[NUMBER] * 7), more=st.tuples(*[NUMBER] * 7), depth=st.integers(4, 9), seed=st.integers(0, 99))
def test_bounds_increase_with_every_budget(name, low, more, depth, seed):
    small = Budget(*low)
    large = Budget(*(a + b for a, b in zip(low, more, strict=True)))
    data, make = sample(6, 2, seed), classes()[name]
    assert make(small).complexity(data, depth) <= make(large).complexity(data, depth) * (1 + 1e-12)


@pytest.mark.parametrize("name", classes())
def test_a_support_is_the_worst_sample(name):
    bound = classes()[name](BUDGET)
    apriori = bound.evaluate(Support(30, 3, 1.0), 5)
    assert apriori.data_free and apriori.samples == 30
    for data in (sample(30), torch.ones(30, 3), torch.sign(sample(30))):
        assert bound.complexity(data, 5) <= apriori.value * (1 + 1e-12)
    assert bound.complexity(torch.ones(30, 3), 5) == pytest.approx(apriori.value, rel=1e-12)


def test_depth_is_bounded_by_the_limit_at_the_rate_one():
    table = depth_limit(RecursionBound(BUDGET, "relu"), sample(40), [2, 8, 64, 128, 256, 512])
    assert (table.values.diff() > 0).all() and (table.values < table.limit).all()
    assert table.limit == RecursionBound(BUDGET, "relu", mode="continuous").complexity(sample(40))
    assert float(table.differences[-2] / table.differences[-1]) == pytest.approx(2, abs=0.02)
    late = depth_limit(RecursionBound(BUDGET), sample(40), [1000, 10_000])
    assert late.rate == pytest.approx(-1, abs=1e-3)
    linear = depth_limit(RecursionBound(Budget(), linear="exact"), sample(9), [1000, 4000])
    start = RecursionBound(Budget(BV=0.0), linear="exact").complexity(sample(9), 1)
    assert float(linear.differences[1]) * 4000 == pytest.approx(math.e / 2 * start, rel=1e-3)
    assert math.isnan(depth_limit(RecursionBound(Budget(BV=0.0)), sample(4), [1, 2]).rate)


def test_monte_carlo_with_its_error_is_above_the_expectation():
    data = sample(10)
    exact = RecursionBound(BUDGET, linear="exact").complexity(data, 4)
    for kind in (RecursionBound, StructuralBound):
        naked = kind(BUDGET, linear="mc", n_signs=200).evaluate(data, 4)
        assert naked.failure == 0 and "Monte Carlo" in naked.doubts[0]
        covered = kind(BUDGET, linear="mc", n_signs=200, mc_delta=0.01).evaluate(data, 4)
        assert covered.doubts == () and covered.failure == 0.01
        assert covered.value > naked.value
    plain = RecursionBound(BUDGET, linear="mc", n_signs=200, mc_delta=0.01).evaluate(data, 4)
    error = float(data.abs().amax(1).square().sum().sqrt()) * math.sqrt(2 * math.log(100) / 200) / 10
    growth = math.exp(RecursionBound(BUDGET).log_growth(4))
    assert plain.terms["mc_error"] == pytest.approx(growth * 1.2 * error, rel=1e-12)
    means = [RecursionBound(BUDGET, linear="mc", n_signs=200, seed=s).complexity(data, 4) for s in range(200)]
    reach = plain.terms["mc_error"]
    assert np.mean([exact > mean + reach for mean in means]) <= 0.01
    assert np.mean(means) == pytest.approx(exact, rel=0.01)


def test_contraction_constant_below_the_proved_one_is_refused():
    for name, kappa in (("relu", 1.0), ("soft_threshold(0.1, 0.2)", 1.9), ("tanh", 0.9)):
        with pytest.raises(ValueError, match="kappa: expected at least"):
            RecursionBound(BUDGET, name, kappa=kappa)
    with pytest.raises(ValueError, match="which is not odd"):
        StructuralBound(BUDGET, "relu", kappa=1.0)
    assert RecursionBound(BUDGET, "relu", kappa=2.0).complexity(sample(5), 2) > RecursionBound(
        BUDGET, "relu"
    ).complexity(sample(5), 2)


def test_worst_case_states_are_reached_and_never_exceeded():
    data, sigma = sample(12), soft_threshold(0.2)
    reach = largest_states(data, 5, BUDGET, sigma)
    for seed in range(5):
        net = BudgetedNet(3, 4, 5, BUDGET, activation=sigma, seed=seed)
        assert (net.states(data)[-1].abs().amax(1) <= reach + 1e-12).all()
    d = torch.tensor([[0.7]])
    net = BudgetedNet(1, 1, 5, BUDGET, activation=sigma)
    net.adopt_(
        **{
            n: torch.full_like(getattr(net, n), getattr(BUDGET, k))
            for n, k in {"W_in": "B0", "b_in": "Bb0", "V": "BV", "W": "BW", "b": "Bb"}.items()
        }
    )
    assert net.states(d)[-1].item() == pytest.approx(float(largest_states(d, 5, BUDGET, sigma)), rel=1e-14)


def test_learned_thresholds_cost_and_cover_every_fixed_one():
    data = sample(7, 2)
    bound = learned_thresholds_bound(BUDGET, (0.1, 0.5))
    wide = replace(BUDGET, Bb=BUDGET.Bb + 0.2)
    assert bound.complexity(data, 3) == pytest.approx(RecursionBound(wide, kappa=2.0).complexity(data, 3), rel=1e-13)
    assert "learned" in " ".join(bound.evaluate(data, 3).assumptions)
    for sigma in (soft_threshold(0.1), soft_threshold(0.5), soft_threshold(0.1, 0.5)):
        reached = empirical_rademacher(data, 3, BUDGET, sigma, width=2, signs=all_signs(7), restarts=2, steps=15)
        assert reached.mean <= bound.complexity(data, 3)


def supremum_with_learned_thresholds(vectors, low, high):
    """E sup over h in the symmetric class, alpha, beta in [low, high]: linear between kinks in each threshold."""
    kinks = vectors.abs().unique()
    ends = [low, high, *kinks[(kinks > low) & (kinks < high)].tolist()]
    shrunk = torch.cat([soft_threshold(a, b)(vectors) for a in ends for b in ends])
    return float((all_signs(vectors.shape[1]) @ shrunk.mT).abs().amax(1).mean())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 7), low=st.floats(0, 1), range_=st.floats(0, 2))
def test_learned_thresholds_add_half_of_their_range_to_the_bias(seed, count, low, range_):
    half = 2 * sample(4, count, seed)
    vectors = torch.cat([half, -half])
    linear = float((all_signs(count) @ vectors.mT).amax(1).mean())
    reached = supremum_with_learned_thresholds(vectors, low, low + range_)
    assert reached <= 2 * (linear + range_ / 2 * mean_abs_sum(count)) + 1e-12


def test_half_of_the_range_is_reached_by_two_samples():
    pair = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    assert supremum_with_learned_thresholds(pair, 0.0, 0.6) == pytest.approx(2.0 + 0.3 * mean_abs_sum(2), abs=1e-12)


def test_naive_product_is_the_recursion_with_steps_of_one_and_does_not_overflow():
    data = sample(30)
    for L in (2, 16):
        slow = RecursionBound(replace(BUDGET, T=float(L)), "relu").complexity(data, L)
        assert NaiveBound(BUDGET, "relu").complexity(data, L) == pytest.approx(slow, rel=1e-12)
    deep = NaiveBound(BUDGET, "relu").evaluate(data, 10_000)
    assert deep.value == math.inf and deep.log10 == pytest.approx(10_000 * math.log10(1 + 1.5 * 1.2), rel=1e-3)
    assert RecursionBound(BUDGET, "relu").complexity(data, 10_000) < 10
    steep = RecursionBound(Budget(BV=50.0, BW=50.0), mode="gronwall").evaluate(data)
    assert steep.value == math.inf and steep.log_value == pytest.approx(2500, rel=1e-2)
    with pytest.raises(ValueError, match="budget: expected a growth"):
        StructuralBound(Budget(BV=1e3, BW=1e3)).evaluate(data, 1000)


def test_covers_use_a_valid_sensitivity_and_stay_above_what_is_reached():
    data, step = sample(8), 1e-6
    bound = ParameterCoverBound(BUDGET, "tanh", width=4, hidden=3)
    lift, layer = bound._sensitivity(data, float(largest_states(data, 6, BUDGET, "tanh").max()))
    for seed in range(6):
        net = BudgetedNet(3, 4, 6, BUDGET, hidden=3, seed=seed)
        before = net.states(data)[-1]
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(step * torch.randn_like(parameter).sign())
        assert (net.states(data)[-1] - before).abs().max().item() <= (lift + layer) * step
    reached = empirical_rademacher(data, 3, BUDGET, "tanh", width=2, signs=all_signs(8), restarts=1, steps=10).mean
    small = ParameterCoverBound(BUDGET, "tanh", width=2)
    assert (
        reached
        <= small.complexity(data, 3)
        <= LipschitzPathBound(BUDGET, "tanh", width=2, path_lipschitz=100.0).complexity(data, 3)
    )


@pytest.mark.parametrize("speed", [None, 0.0, 1.5])
def test_covers_are_their_formula(speed):
    n, m, nd, L, S, T = 4, 3, 5, 6, 300, 0.9
    if speed is None:
        bound, spread = ParameterCoverBound(BUDGET, "tanh", width=n, hidden=m), 1.0
    else:
        bound, spread = LipschitzPathBound(BUDGET, "tanh", width=n, hidden=m, path_lipschitz=speed), 2.0
    result = bound.evaluate(Support(S, nd, 1.0), L)
    X = float(largest_states(Support(S, nd, 1.0), L, BUDGET, "tanh"))
    lift = math.exp(0.8 * 1.5 * T) * (nd + 1)
    layer = T * math.exp(0.8 * 1.5 * T) * (m * (1.5 * X + 0.4) + 0.8 * (n * X + 1))

    def value(cell):
        count = n * nd * math.log1p(2.4 / cell) + n * math.log1p(0.6 / cell)
        layers = n * m * math.log1p(1.6 / cell) + n * m * math.log1p(3 / cell) + m * math.log1p(0.8 / cell)
        if speed is None:
            count += L * layers
        else:
            count += layers + (2 * n * m + m) * math.ceil(speed * T / cell) * math.log(3)
        return (lift + spread * layer) * cell + X * math.sqrt(2 * (count + math.log(2)) / S)

    cell = result.terms["width"] / (lift + spread * layer)
    assert result.value == pytest.approx(value(cell), rel=1e-9)
    assert result.value <= min(value(cell * factor) for factor in (0.25, 0.5, 0.9, 1.1, 2.0, 4.0)) * 1.001


def test_paths_that_share_their_cells_differ_by_at_most_two_widths():
    """Sequences with the same cells at the nodes i eps / K, of step K tau at most; both extremes occur."""
    speed, cell, L, T = 1.0, 0.25, 64, 1.0
    generator = torch.Generator().manual_seed(0)
    moves = (torch.rand(4000, L - 1, generator=generator) * 2 - 1) * speed * T / L
    moves[:2000] = moves[:2000].sign() * speed * T / L
    paths = torch.cat([torch.rand(4000, 1, generator=generator) * 0.05, moves], 1).cumsum(1)
    nodes = (torch.arange(0, math.ceil(speed * T / cell) + 1) * cell / speed * L / T).long().clamp(max=L - 1)
    cells = torch.floor(paths[:, nodes] / cell)
    assert (cells.diff(dim=1).abs() <= 1).all()
    widest = 0.0
    for name in cells.unique(dim=0):
        group = paths[(cells == name).all(1)]
        widest = max(widest, float((group.amax(0) - group.amin(0)).max()))
    assert cell < widest <= 2 * cell


def test_covers_in_depth_and_samples():
    cover = ParameterCoverBound(BUDGET, "tanh", width=6)
    paths = LipschitzPathBound(BUDGET, "tanh", width=6, path_lipschitz=1.0)
    flat = [paths.complexity(Support(512, 5, 1.0), L) for L in (256, 1024)]
    assert flat[1] == pytest.approx(flat[0], rel=5e-3)
    deep = [cover.complexity(Support(512, 5, 1.0), L) for L in (256, 1024)]
    assert 1.75 < deep[1] / deep[0] < 2
    slopes = [
        math.log(bound.complexity(Support(10**8, 5, 1.0), 64) / bound.complexity(Support(10**6, 5, 1.0), 64))
        / math.log(100)
        for bound in (cover, paths)
    ]
    assert -0.5 < slopes[0] < -0.43 and -0.37 < slopes[1] < -0.3
    still = LipschitzPathBound(BUDGET, "tanh", width=6, path_lipschitz=0.0)
    assert still.complexity(Support(512, 5, 1.0), 1) >= cover.complexity(Support(512, 5, 1.0), 1)


def test_path_norm_is_the_product_of_absolute_matrices():
    net = BudgetedNet(3, 4, 2, BUDGET, outputs=2, activation="relu", seed=3)
    V, W, W_in, W_out = (part.detach().abs() for part in (net.V, net.W, net.W_in, net.W_out))
    layers = [torch.eye(4) + 3 * net.step * V[l] @ W[l] for l in range(2)]
    bias = net.b.detach().abs()
    lifted = layers[1] @ (layers[0] @ net.b_in.detach().abs() + 3 * net.step * V[0] @ bias[0])
    constant = W_out @ (lifted + 3 * net.step * V[1] @ bias[1])
    expected = (W_out @ layers[1] @ layers[0] @ W_in).sum(1) + constant
    assert path_norm(net) == pytest.approx(float(expected.max()), rel=1e-13)


def test_path_norm_bound_is_above_networks_of_that_path_norm():
    data, signs = sample(6, 2), all_signs(6)
    best = torch.zeros(64)
    for seed in range(150):
        net = BudgetedNet(2, 3, 2, BUDGET, activation="relu", seed=seed)
        with torch.no_grad():
            best = torch.maximum(best, (signs @ net(data)[:, 0]).abs() / path_norm(net))
    bound = PathNormBound(1.0)
    assert float(best.mean()) / 6 <= bound.evaluate(data).value
    assert bound.evaluate(Support(6, 2, 1.0)).value == pytest.approx(2 * math.sqrt(2 * math.log(6) / 6), rel=1e-13)
    assert bound.evaluate(data).doubts == () and bound.evaluate(data).readout == 1.0
    assert PathNormBound.of(net).evaluate(data).doubts


def test_layerwise_bound_is_the_recursion_where_layers_are_alike_and_below_it_elsewhere():
    data = sample(11)
    net = BudgetedNet(3, 4, 6, BUDGET, activation="relu", seed=2)
    whole = RecursionBound(Budget(**row_norms(net), T=0.9), "relu").evaluate(data, 6)
    single = LayerwiseBound(net).evaluate(data)
    assert single.value <= whole.value * (1 + 1e-12) and single.doubts
    alike = BudgetedNet(3, 4, 6, BUDGET, activation="relu")
    alike.adopt_(**{name: getattr(net, name)[:1].detach().expand_as(getattr(net, name)) for name in ("V", "W", "b")})
    bound = RecursionBound(Budget(**row_norms(alike), T=0.9), "relu").evaluate(data, 6)
    assert LayerwiseBound(alike).evaluate(data).value == pytest.approx(bound.value, rel=1e-12)


def test_spectral_bounds_against_assembled_matrices():
    data, L = sample(10), 3
    net = BudgetedNet(3, 4, L, BUDGET, hidden=5, seed=4)
    V, W = net.V.detach().numpy(), net.W.detach().numpy()
    product, total = 1.0, 0.0
    for l in range(L):
        for A, moved in (
            (np.vstack([np.eye(4), W[l]]), W[l]),
            (np.hstack([np.eye(4), net.step * V[l]]), net.step * V[l]),
        ):
            size = np.linalg.norm(A, 2)
            product *= size
            total += (np.linalg.norm(moved, axis=1).sum() / size) ** (2 / 3)
    ends = np.linalg.norm(net.W_in.detach().numpy(), 2) * np.linalg.norm(net.W_out.detach().numpy(), 2)
    expected = float(data.norm()) / 10 * ends * product * total**1.5
    cover, adapted = 0.0, 1.0
    for l in range(L):
        v, w = np.linalg.norm(V[l], 2), np.linalg.norm(W[l], 2)
        layer = 1 + net.step * v * w
        pair = (np.linalg.norm(W[l], axis=1).sum() * v, np.linalg.norm(V[l], axis=1).sum() * w)
        cover += sum((net.step * size / layer) ** (2 / 3) for size in pair)
        adapted *= layer
    residual = SpectralBound(net, residual=True).evaluate(data).value
    assert residual == pytest.approx(float(data.norm()) / 10 * ends * adapted * cover**1.5, rel=1e-12)
    result = SpectralBound(net).evaluate(data)
    assert result.value == pytest.approx(expected, rel=1e-12) and len(result.doubts) == 2


def test_residual_cover_grows_like_the_root_of_the_depth_and_the_plain_one_explodes():
    def deep(L):
        net = BudgetedNet(3, 4, L, Budget())
        torch.manual_seed(1)
        V, W = 0.3 * torch.randn(1, 4, 4), 0.3 * torch.randn(1, 4, 4)
        net.adopt_(V=V.repeat(L, 1, 1), W=W.repeat(L, 1, 1))
        return net

    adapted = [SpectralBound(deep(L), residual=True).evaluate(sample(5)).log_value for L in (64, 1024)]
    assert (adapted[1] - adapted[0]) / math.log(16) == pytest.approx(0.5, abs=0.01)
    plain = [SpectralBound(deep(L)).evaluate(sample(5)).log10 for L in (64, 1024)]
    assert plain[1] - plain[0] > 20


def test_bad_input_is_refused():
    data, stack = sample(4), BudgetedNet(3, 4, 2, BUDGET, copies=2)
    with pytest.raises(TypeError, match="budget: expected a Budget"):
        RecursionBound(3.0)
    with pytest.raises(ValueError, match="mode: expected one of"):
        RecursionBound(BUDGET, mode="euler")
    with pytest.raises(ValueError, match="linear: expected one of"):
        RecursionBound(BUDGET, linear="mean")
    with pytest.raises(ValueError, match="mc_delta: expected None"):
        RecursionBound(BUDGET, mc_delta=0.1)
    for delta in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="mc_delta: expected a probability"):
            RecursionBound(BUDGET, linear="mc", mc_delta=delta)
    with pytest.raises(ValueError, match="depth: expected an int of at least 1"):
        RecursionBound(BUDGET).evaluate(data)
    for kind in ("mc", "exact"):
        with pytest.raises(ValueError, match="received a Support"):
            RecursionBound(BUDGET, linear=kind).evaluate(Support(4, 3, 1.0), 2)
    with pytest.raises(ValueError, match="at most 20"):
        RecursionBound(BUDGET, linear="exact").evaluate(sample(21), 2)
    with pytest.raises(ValueError, match="at least one datum"):
        RecursionBound(BUDGET).evaluate(torch.ones(0, 2), 2)
    with pytest.raises(ValueError, match="samples"):
        Support(0, 2, 1.0)
    with pytest.raises(ValueError, match="radius"):
        Support(2, 2, -1.0)
    with pytest.raises(ValueError, match="at least the horizon"):
        NaiveBound(Budget(T=5.0)).evaluate(data, 2)
    with pytest.raises(ValueError, match="path_lipschitz"):
        LipschitzPathBound(BUDGET, width=2, path_lipschitz=-1.0)
    with pytest.raises(ValueError, match="width"):
        ParameterCoverBound(BUDGET, width=0)
    for name in ("tanh", "soft_threshold(0.1)"):
        with pytest.raises(ValueError, match="positively homogeneous"):
            PathNormBound(1.0, name)
    with pytest.raises(ValueError, match="weight: expected more than"):
        PathNormBound(1.0, weight=1.5)
    with pytest.raises(ValueError, match="kappa"):
        LayerwiseBound(BudgetedNet(3, 4, 2, BUDGET, activation="relu"), kappa=1.0)
    for build in (LayerwiseBound, SpectralBound, path_norm, PathNormBound.of):
        with pytest.raises(ValueError, match="received a stack of 2"):
            build(stack)
        with pytest.raises(TypeError, match="expected a BudgetedNet"):
            build(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="learned: expected an interval"):
        learned_thresholds_bound(BUDGET, (1.0, 0.5))
    with pytest.raises(TypeError, match="bound: expected a RecursionBound"):
        depth_limit(StructuralBound(BUDGET), data, [2, 4])
    with pytest.raises(ValueError, match="mode 'discrete'"):
        depth_limit(RecursionBound(BUDGET, mode="gronwall"), data, [2, 4])
    with pytest.raises(ValueError, match="at least two different depths"):
        depth_limit(RecursionBound(BUDGET), data, [4, 4])
