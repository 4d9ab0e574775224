"""Certificates: every term in closed form, nothing rigorous that is not, and gaps as they are measured."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dnlbook.activations import soft_threshold
from dnlbook.certificates import grid_level
from dnlbook.generalization import (
    Budget,
    BudgetedNet,
    LayerwiseBound,
    LossSpec,
    PathNormBound,
    RecursionBound,
    SpectralBound,
    StructuralBound,
    Support,
    certificate,
    confidence,
    empirical_rademacher,
    exact_rademacher_linear,
    generalization_gap,
    largest_states,
    learned_thresholds_bound,
    loss_values,
    mean_interval,
    posterior_certificate,
    project_,
    worst_case_gap,
)

BUDGET = Budget(B0=1.5, Bb0=0.1, BV=0.8, BW=0.9, Bb=0.2, Bout=2.0, T=0.9)


def sample(count, features=3, seed=0):
    return 2 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("outputs", [1, 4])
def test_terms_are_those_of_the_theorem(outputs):
    data, loss = sample(60), LossSpec(0.7, 1.3, outputs)
    R = RecursionBound(BUDGET).evaluate(data, 5)
    result = certificate(R, loss, delta=0.03)
    outer = 2 * 0.7 * 2.0 * (1 if outputs == 1 else math.sqrt(2) * 4)
    assert result.terms["complexity"] == pytest.approx(outer * R.value, rel=1e-13)
    assert result.terms["confidence"] == pytest.approx(3 * 1.3 * math.sqrt(math.log(2 / 0.03) / 120), rel=1e-13)
    assert result.total == pytest.approx(sum(result.terms.values()), rel=1e-13)
    assert result.log10 == pytest.approx(math.log10(result.total), rel=1e-12)
    assert result.rigorous and result.reasons == () and result.delta == 0.03
    assert "rigorous" in str(result) and "confidence" in str(result)


def test_confidence_terms():
    assert confidence(2.0, 50, 0.1, kind="apriori") == pytest.approx(2 * math.sqrt(math.log(10) / 100))
    assert confidence(2.0, 50, 0.1, kind="apriori", two_sided=True) == pytest.approx(2 * math.sqrt(math.log(20) / 100))
    assert confidence(2.0, 50, 0.1, two_sided=True) == pytest.approx(6 * math.sqrt(math.log(40) / 100))
    paper = 8 * math.sqrt(2 * math.log(40) / 50)
    assert confidence(2.0, 50, 0.1, kind="paper") == pytest.approx(paper)
    assert confidence(2.0, 50, 0.1, kind="paper", two_sided=True) == pytest.approx(paper)
    assert confidence(4.0, 50, 0.1, two_sided=True) < paper, "the paper's constant holds for |loss| <= 2"
    values = [confidence(1.0, 50, d) for d in (0.5, 0.1, 0.01, 1e-12)]
    assert values == sorted(values)


def test_structural_saving_and_monte_carlo_error_are_terms_of_their_own():
    data = 0.5 * sample(30)
    bound = StructuralBound(Budget(), soft_threshold(0.4)).evaluate(data, 4)
    result = certificate(bound, LossSpec.ramp())
    assert result.terms["structural"] == pytest.approx(2 * bound.terms["structural"]) and bound.terms["structural"] < 0
    assert result.terms["complexity"] == pytest.approx(2 * bound.terms["recursion"])
    drawn = RecursionBound(Budget(), linear="mc", mc_delta=0.01).evaluate(data, 4)
    result = certificate(drawn, LossSpec.ramp(), delta=0.05)
    assert result.terms["mc_error"] == pytest.approx(2 * drawn.terms["mc_error"])
    assert result.terms["confidence"] == pytest.approx(confidence(1.0, 30, 0.04)) and result.rigorous
    assert result.total == pytest.approx(2 * drawn.value + confidence(1.0, 30, 0.04))
    with pytest.raises(ValueError, match="delta: expected more than the 0.01"):
        certificate(drawn, LossSpec.ramp(), delta=0.01)


def test_nothing_is_rigorous_that_is_not():
    data, net = sample(20), BudgetedNet(3, 4, 2, BUDGET, activation="relu")
    ascent = empirical_rademacher(data, 2, BUDGET, "relu", n_signs=4, steps=3)
    for complexity, reason in (
        (RecursionBound(BUDGET, linear="mc").evaluate(data, 2), "Monte Carlo"),
        (StructuralBound(BUDGET, linear="mc").evaluate(data, 2), "Monte Carlo"),
        (ascent, "ascent"),
        (exact_rademacher_linear(data, 2, BUDGET), "without its error term"),
        (LayerwiseBound(net).evaluate(data), "each layer without a union"),
        (PathNormBound.of(net).evaluate(data), "without a union"),
        (SpectralBound(net).evaluate(data), "without the constants"),
    ):
        result = certificate(complexity, LossSpec.ramp())
        assert not result.rigorous and any(reason in text for text in result.reasons), reason
        assert "not rigorous" in str(result)
    for complexity in (
        RecursionBound(BUDGET).evaluate(data, 2),
        RecursionBound(BUDGET, linear="mc", mc_delta=0.001).evaluate(data, 2),
        PathNormBound(3.0).evaluate(data),
        learned_thresholds_bound(BUDGET, (0.0, 1.0)).evaluate(data, 2),
    ):
        assert certificate(complexity, LossSpec.ramp()).rigorous


def test_apriori_needs_a_support():
    bound = RecursionBound(BUDGET)
    apriori = certificate(bound.evaluate(Support(100, 3, 1.0), 4), LossSpec.ramp(), kind="apriori")
    assert apriori.terms["confidence"] == pytest.approx(confidence(1.0, 100, 0.05, kind="apriori"))
    with pytest.raises(ValueError, match="'apriori' needs one of a Support"):
        certificate(bound.evaluate(sample(100), 4), LossSpec.ramp(), kind="apriori")


def test_overflow_stays_finite_in_logarithms():
    deep = RecursionBound(Budget(BV=40.0, BW=40.0), mode="gronwall").evaluate(sample(10))
    result = certificate(deep, LossSpec.ramp())
    assert result.total == math.inf and result.log10 == pytest.approx(deep.log10 + math.log10(2), abs=1e-9)


def test_weights_of_the_union_over_norms_add_up_to_at_most_one():
    total = sum((2 / 3) / ((abs(j) + 1) * (abs(j) + 2)) for j in range(-100_000, 100_000))
    assert total == pytest.approx(1, abs=1e-4) and total <= 1


@pytest.mark.parametrize("norm", [0.0, 1e-9, 2**-10, 0.3, 1.0, 1 + 1e-12, 1.5, 2.0, 2 + 1e-5, 37.0, 1e12])
def test_grid_level_is_the_smallest_one_above(norm):
    j, value = grid_level(norm)
    assert j >= -40 and value >= norm
    assert j == -40 or (1 + 1e-6) * 2 ** ((j - 1) / 4) < norm


def test_posterior_certificate_pays_for_the_norms():
    data, budget = sample(200), Budget(B0=2.0, Bb0=0.5, BV=1.0, BW=1.0, Bb=0.5, Bout=2.0)
    net = BudgetedNet(3, 6, 4, budget, activation="relu", seed=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3.0)
    project_(net, budget)
    result = posterior_certificate(net, data, delta=0.05)
    assert result.rigorous and result.delta == 0.05
    levels = {"B0": 4, "Bb0": -4, "BV": 0, "BW": 0, "Bb": -4, "Bout": 4}
    weight = math.prod((2 / 3) / ((abs(j) + 1) * (abs(j) + 2)) for j in levels.values())
    assert result.union_weight == pytest.approx(weight)
    assert all(getattr(result.budget, k) == pytest.approx(2 ** (j / 4), rel=2e-6) for k, j in levels.items())
    expected = certificate(
        RecursionBound(result.budget, "relu").evaluate(data, 4), LossSpec.ramp(), delta=0.05 * weight
    )
    assert result.total == pytest.approx(expected.total)
    apriori = certificate(RecursionBound(budget, "relu").evaluate(data, 4), LossSpec.ramp())
    assert apriori.total < result.total < apriori.total + 1
    assert posterior_certificate(net, data, mode="gronwall").total > result.total
    learned = BudgetedNet(3, 6, 4, budget, activation=soft_threshold(0.1), learned=(0.0, 0.5), seed=1)
    assert "learned" in " ".join(posterior_certificate(learned, data).assumptions)


def test_bounds_hold_for_the_worst_case_over_random_labels():
    data = sample(24)
    exact = worst_case_gap(data, 3, RecursionBound(BUDGET, linear="mc", n_signs=20_000), steps=5)
    largest = 2.0 * float(largest_states(data, 3, BUDGET).max())
    assert exact.largest_output == pytest.approx(largest)
    assert exact.ratio == pytest.approx(0.5, abs=0.01) and exact.kind == "lower"
    assert exact.mean == pytest.approx(2.0 * exact_rademacher_linear(data, 3, BUDGET).mean / (2 * largest), rel=0.01)
    R = RecursionBound(BUDGET, linear="mc", n_signs=20_000).evaluate(data, 3)
    term = certificate(R, LossSpec.linear(largest)).terms["complexity"]
    assert exact.complexity_term == pytest.approx(term, rel=1e-12)
    shrunk = worst_case_gap(data, 3, RecursionBound(BUDGET, soft_threshold(0.5), linear="mc"))
    assert shrunk.ratio < exact.ratio


def test_losses_in_closed_form():
    f, y = torch.tensor([[0.3], [-0.2], [2.0]]), torch.tensor([1, 1, 0])
    assert loss_values(f, y, margin=0.5).tolist() == pytest.approx([0.4, 1.0, 1.0])
    assert loss_values(f, y, "zero_one").tolist() == [0.0, 1.0, 1.0]
    z = torch.tensor([0.3, -0.2, -2.0])
    assert torch.allclose(loss_values(f, y, "logistic", margin=0.5), torch.log(1 + torch.exp(-4 * z)))
    scores = torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 2, 1])
    assert torch.allclose(
        loss_values(scores, labels, "logistic"), torch.nn.functional.cross_entropy(scores, labels, reduction="none")
    )
    wrong = (scores.argmax(1) != labels).to(torch.float64)
    assert torch.equal(loss_values(scores, labels, "zero_one"), wrong)
    assert (loss_values(scores, labels, margin=0.1) >= wrong).all()


def test_lipschitz_constants_of_the_losses_hold():
    for outputs in (1, 4):
        loss, labels = LossSpec.ramp(0.7, outputs=outputs), torch.randint(max(outputs, 2), (5000,))
        f, g = torch.randn(2, 5000, outputs)
        change = (loss_values(f, labels, margin=0.7) - loss_values(g, labels, margin=0.7)).abs()
        assert (change <= loss.lipschitz * (f - g).norm(dim=1) + 1e-12).all()
        near = f + 1e-4 * (g - f)
        slope = (loss_values(near, labels, margin=0.7) - loss_values(f, labels, margin=0.7)).abs() / (near - f).norm(
            dim=1
        )
        assert slope.max() > 0.9 * loss.lipschitz


def test_gap_of_a_stack_has_the_interval_of_student():
    net = BudgetedNet(3, 4, 2, BUDGET, copies=6)
    train = sample(6 * 20).reshape(6, 20, 3), torch.randint(2, (6, 20))
    test = sample(50, seed=9), torch.randint(2, (50,))
    gap = generalization_gap(net, train, test, losses=["ramp"])["ramp"]
    with torch.no_grad():
        expected = loss_values(net(test[0]), test[1]).mean(1) - loss_values(net(train[0]), train[1]).mean(1)
    assert torch.allclose(gap.values, expected) and gap.mean == pytest.approx(float(expected.mean()))
    interval = stats.t.interval(0.95, 5, loc=float(expected.mean()), scale=stats.sem(expected.numpy()))
    assert (gap.low, gap.high) == pytest.approx(interval)
    assert gap.test - gap.train == pytest.approx(gap.mean)


def test_gap_of_one_network_has_the_interval_of_its_test_set():
    net, data = BudgetedNet(3, 4, 2, BUDGET, outputs=3), (sample(30), torch.randint(3, (30,)))
    fresh = sample(400, seed=4), torch.randint(3, (400,))
    gaps = generalization_gap(net, data, fresh, level=0.9)
    assert set(gaps) == {"ramp", "zero_one", "logistic"}
    values = loss_values(net(fresh[0]), fresh[1], "logistic").detach()
    half = stats.norm.ppf(0.95) * float(values.std()) / 20
    assert gaps["logistic"].high - gaps["logistic"].mean == pytest.approx(half)
    assert mean_interval(torch.tensor([1.0, 1.0])) == (1.0, 1.0, 1.0)


def test_many_intervals_at_once_are_those_of_each_series():
    values = sample(7 * 3 * 4).reshape(7, 3, 4, 3)
    for axis in (0, 1, -2, 3):
        series = values.movedim(axis, -1)
        mean, low, high = mean_interval(values, level=0.9, axis=axis)
        assert mean.shape == low.shape == high.shape == series.shape[:-1]
        for place in np.ndindex(*mean.shape):
            single = mean_interval(series[place], level=0.9)
            assert (mean[place], low[place], high[place]) == pytest.approx(single, rel=1e-12)
    one = values[:, 0, 0, 0]
    expected = stats.t.interval(0.95, 6, loc=float(one.mean()), scale=stats.sem(one.numpy()))
    assert tuple(map(float, mean_interval(one, axis=0)))[1:] == pytest.approx(expected, rel=1e-12)


def test_intervals_need_two_finite_values_and_an_axis():
    for axis in (2, -3):
        with pytest.raises(ValueError, match="axis: expected an axis of values"):
            mean_interval(torch.ones(4, 3), axis=axis)
    with pytest.raises(ValueError, match="values: expected shape"):
        mean_interval(torch.ones(4, 3))
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(torch.ones(4, 1), axis=1)
    with pytest.raises(ValueError, match="finite"):
        mean_interval(torch.tensor([[1.0, math.nan], [1.0, 2.0]]), axis=0)
    with pytest.raises(ValueError, match="level"):
        mean_interval(torch.ones(4, 3), axis=0, level=1.0)
    with pytest.raises(TypeError, match="axis: expected an int"):
        mean_interval(torch.ones(4, 3), axis="seeds")
    with pytest.raises(TypeError, match="values: expected a torch.Tensor"):
        mean_interval([[1.0, 2.0]], axis=0)


def test_measured_gaps_stay_below_the_certificate():
    data, labels = sample(40), torch.randint(2, (40,))
    net = BudgetedNet(3, 6, 4, BUDGET, activation=soft_threshold(0.1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss_values(net(data), labels, "logistic").mean().backward()
        optimizer.step()
        project_(net, BUDGET)
    assert BUDGET.contains(net)
    fresh = sample(4000, seed=5), torch.randint(2, (4000,))
    gap = generalization_gap(net, (data, labels), fresh)["ramp"]
    bound = certificate(RecursionBound(BUDGET, soft_threshold(0.1)).evaluate(data, 4), LossSpec.ramp())
    assert 0 < gap.low and gap.high < bound.total


def test_bad_input_is_refused():
    data = sample(10)
    R = RecursionBound(BUDGET).evaluate(data, 2)
    for delta in (0.0, 1.0, 1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="delta: expected"):
            certificate(R, LossSpec.ramp(), delta=delta)
        with pytest.raises(ValueError, match="delta: expected"):
            confidence(1.0, 10, delta)
    with pytest.raises(ValueError, match="range: expected a bounded loss"):
        LossSpec(1.0, math.inf)
    for bad in ({"lipschitz": -1.0, "range": 1.0}, {"lipschitz": 1.0, "range": 0.0}):
        with pytest.raises(ValueError, match="expected a number"):
            LossSpec(**bad)
    with pytest.raises(ValueError, match="margin"):
        LossSpec.ramp(0.0)
    with pytest.raises(ValueError, match="largest_output"):
        LossSpec.linear(0.0)
    with pytest.raises(ValueError, match="kind: expected one of"):
        certificate(R, LossSpec.ramp(), kind="pac")
    with pytest.raises(TypeError, match="complexity: expected a Complexity"):
        certificate(0.3, LossSpec.ramp())
    with pytest.raises(TypeError, match="loss: expected a LossSpec"):
        certificate(R, "ramp")
    with pytest.raises(ValueError, match="received a stack of 2"):
        posterior_certificate(BudgetedNet(3, 4, 2, BUDGET, copies=2), data)
    with pytest.raises(ValueError, match="mode"):
        posterior_certificate(BudgetedNet(3, 4, 2, BUDGET), data, mode="continuous")
    with pytest.raises(ValueError, match="norm"):
        grid_level(-1.0)
    f, y = torch.ones(3, 1), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="loss: expected one of"):
        loss_values(f, y, "hinge")
    with pytest.raises(ValueError, match="outputs: expected shape"):
        loss_values(torch.ones(0, 1), y)
    with pytest.raises(ValueError, match="labels: expected shape"):
        loss_values(f, y[:2])
    with pytest.raises(ValueError, match="labels: expected values in 0 .. 1"):
        loss_values(f, y + 1)
    with pytest.raises(TypeError, match="labels: expected an int64"):
        loss_values(f, y.to(torch.float64))
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(torch.ones(1))
    with pytest.raises(ValueError, match="level"):
        generalization_gap(BudgetedNet(3, 4, 2, BUDGET), (data, y), (data, y), level=1.0)
    with pytest.raises(TypeError, match="bound: expected a RecursionBound"):
        worst_case_gap(data, 2, BUDGET)
    with pytest.raises(TypeError, match="received a Support"):
        worst_case_gap(Support(3, 3, 1.0), 2, RecursionBound(BUDGET))
    with pytest.raises(ValueError, match="does not vanish"):
        worst_case_gap(data, 2, RecursionBound(replace(BUDGET, Bout=0.0)))
