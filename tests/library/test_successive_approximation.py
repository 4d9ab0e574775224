"""Successive approximations do what the maximum principle says, and say how they ended."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.dense import dense_loop, pair_count, pair_index
from dnlbook.successive_approximation import (
    FeatureControl,
    PerceptronControl,
    descent,
    over,
    successive_approximation,
)

AXES = (2, 2, 1)
NOT_FINITE = torch.full((10, 6), math.inf, dtype=torch.float64)


def feature_problem(n=2, m=3, samples=4, alpha=1.0, seed=0, **options):
    draw = torch.Generator().manual_seed(seed)
    W, b, x0 = (torch.randn(*shape, generator=draw) for shape in ((m, n), (m,), (samples, n)))
    target = options.pop("target", torch.randn(samples, n, generator=draw))
    return FeatureControl(x0, target, alpha, features=(W, b), **options)


def perceptron_problem(minimizer, n=2, m=3, samples=4, alpha=0.1, seed=0, **options):
    draw = torch.Generator().manual_seed(seed)
    x0, target = torch.randn(samples, n, generator=draw), torch.randn(samples, n, generator=draw)
    return PerceptronControl(x0, target, alpha, hidden=m, minimizer=minimizer, **options)


def random_control(problem, depth, scale=1.0, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(pair_count(depth), problem.width_of_control, generator=draw)


def cost(problem, theta, depth):
    """J by the plain loop, differentiable."""
    parts = zip(problem.split(theta), AXES, strict=True)
    V, W, b = (part.expand(len(theta), *part.shape[-axes:]) for part, axes in parts)
    tau = problem.horizon / depth
    x = dense_loop(problem.x0, (V, W, b), step=tau, activation=problem.activation)[-1]
    y = x if problem.readout is None else x @ problem.readout.mT
    total = 0.5 * (y - problem.target).square().sum() / len(y)
    for k in range(depth):
        for l in range(k + 1, depth + 1):
            weight = tau * problem.row_alpha if l == depth else tau**2 * problem.alpha
            total = total + 0.5 * weight * theta[pair_index(l, k, depth)].square().sum()
    return total


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 3),
    m=st.integers(1, 3),
    samples=st.integers(1, 3),
    depth=st.integers(1, 6),
    kind=st.sampled_from(["feature", "perceptron"]),
    activation=st.sampled_from(["tanh", "identity"]),
    horizon=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_gradient_of_the_cost_is_the_weighted_gradient_of_the_hamiltonian(
    n, m, samples, depth, kind, activation, horizon
):
    options = {"n": n, "m": m, "samples": samples, "activation": activation, "horizon": horizon}
    options["terminal_alpha"] = 0.7
    make = feature_problem if kind == "feature" else (lambda **more: perceptron_problem(descent(), **more))
    problem = make(**options)
    theta = random_control(problem, depth).requires_grad_()
    value = cost(problem, theta, depth)
    assert problem.value(theta.detach()) == pytest.approx(value.item(), rel=1e-12)
    (by_autograd,) = torch.autograd.grad(value, theta)
    H = problem.hamiltonian(theta.detach())
    leaf = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(H(leaf).sum(), leaf)
    torch.testing.assert_close(problem.weights(depth).unsqueeze(1) * slope, by_autograd, rtol=1e-10, atol=1e-12)


def test_weights_charge_the_last_row_by_an_integral_of_its_own():
    weights = feature_problem(horizon=2.0).weights(4)
    assert weights[pair_index(3, 1, 4)] == pytest.approx(0.25) and weights[pair_index(4, 1, 4)] == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(6 * 0.25 + 4 * 0.5)


@pytest.mark.parametrize("augmentation", ["extended", "proximal"])
@pytest.mark.parametrize("rho", [0.0, 0.7])
@pytest.mark.parametrize("bound", [None, 0.2, 5.0])
def test_closed_form_minimizes_the_augmented_hamiltonian(augmentation, rho, bound):
    problem = feature_problem(bound=bound, terminal_alpha=0.4)
    theta = random_control(problem, 5).clamp(-(bound or 9), bound or 9)
    H = problem.hamiltonian(theta).augmented(rho, augmentation)
    best = problem.minimize(H)
    if bound is not None:
        assert float(best.abs().max()) <= bound
    for seed in range(30):
        other = best + random_control(problem, 5, scale=(1e-3, 0.1, 1.0)[seed % 3], seed=seed)
        other = other if bound is None else other.clamp(-bound, bound)
        assert bool((H(other) >= H(best) - 1e-12).all())
    leaf = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(H(leaf).sum(), leaf)
    free = torch.ones_like(best, dtype=torch.bool) if bound is None else best.abs() < bound * (1 - 1e-9)
    assert float(slope[free].abs().max() if free.any() else 0.0) < 1e-9
    assert bool((slope[~free] * best[~free] <= 1e-12).all())


def test_augmentation_is_the_change_of_the_features_and_of_their_transposed_derivative():
    problem = perceptron_problem(descent(), samples=3)
    old, new = random_control(problem, 4), random_control(problem, 4, seed=2)
    H = problem.hamiltonian(old)
    at, samples = pair_index(3, 1, 4), 3

    def field(theta, x):
        V, W, b = problem.split(theta[at])
        return V @ torch.tanh(W @ x + b)

    expected = 0.0
    for i in range(samples):
        x, p = H.x[at, i], samples * H.p[at, i]
        jacobians = [torch.autograd.functional.jacobian(lambda y, t=theta: field(t, y), x) for theta in (new, old)]
        expected += (field(new, x) - field(old, x)).square().sum() / samples
        expected += ((jacobians[0] - jacobians[1]).mT @ p).square().sum() / samples
    assert H.distance(new)[at] == pytest.approx(float(expected), rel=1e-10)
    proximal = H.augmented(1.0, "proximal")
    torch.testing.assert_close(proximal.distance(new), (new - old).square().sum(1))
    torch.testing.assert_close(proximal(new), H(new) + 0.5 * (new - old).square().sum(1))


@pytest.mark.parametrize("bound", [None, 0.3])
def test_gap_is_the_difference_of_hamiltonians(bound):
    problem = feature_problem(bound=bound)
    theta = random_control(problem, 4).clamp(-(bound or 9), bound or 9)
    H = problem.hamiltonian(theta)
    torch.testing.assert_close(problem.gap(H), H(theta) - H(problem.minimize(H)), rtol=1e-10, atol=1e-12)
    augmented = H.augmented(2.0, "extended")
    torch.testing.assert_close(problem.gap(augmented), problem.gap(H))


def test_one_sample_and_identity_features_have_a_closed_form():
    # x^L = x0 + tau sum V^{L,k} with h = 1: only the last row matters, and all its entries are equal
    features = (torch.zeros(1, 1), torch.ones(1))
    one, alpha = torch.ones(1, 1), 0.5
    problem = FeatureControl(one, 3 * one, alpha, features=features, activation="identity")
    run = successive_approximation(problem, 7, rho=1.0, tolerance=1e-24, max_iterations=400)
    assert run.status == "converged" and run.increases == 0
    assert run.value == pytest.approx(0.5 * 4 * alpha / (1 + alpha), rel=1e-12)
    last = problem.weights(7) > 0.1
    torch.testing.assert_close(run.control[last], torch.full((7, 1), 2 / (1 + alpha)), rtol=1e-10, atol=0)
    assert float(run.control[~last].abs().max()) < 1e-10


def test_converged_control_is_a_critical_point_and_a_global_one_of_every_hamiltonian():
    problem = feature_problem(alpha=2.0)
    run = successive_approximation(problem, 8, tolerance=1e-22)
    assert run.status == "converged" and run.increases == 0
    theta = run.control.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(problem, theta, 8), theta)
    assert float((slope.abs() / problem.weights(8).unsqueeze(1)).max()) < 1e-10
    assert run.value == pytest.approx(problem.value(run.control)) and len(run.values) == run.iterations + 1


def test_extended_and_proximal_never_increase_the_cost_for_large_rho():
    for seed in range(3):
        problem = feature_problem(alpha=0.1, seed=seed, target=3 * torch.ones(4, 2))
        for augmentation in ("extended", "proximal"):
            run = successive_approximation(problem, 8, rho=20.0, augmentation=augmentation, max_iterations=40)
            assert run.increases == 0 and run.values[-1] < run.values[0]


def test_all_ways_to_end():
    one, features = torch.ones(1, 1), (torch.eye(1), torch.zeros(1))
    problem = FeatureControl(one, -3 * one, 0.3, features=features)
    assert successive_approximation(problem, 8).status == "oscillating"
    assert successive_approximation(problem, 8, rho=1.0, tolerance=1e-10).status == "converged"
    few = successive_approximation(problem, 8, rho=1.0, max_iterations=3)
    assert few.status == "max_iterations" and few.iterations == 3
    far = successive_approximation(replace(problem, alpha=0.1), 8, divergence=10.0)
    assert far.status == "diverged" and far.values[-1] > 10 * far.values[0]


def test_divergence_is_reported_and_never_nan():
    problem = feature_problem(alpha=1e-6, activation="identity", target=100 * torch.ones(4, 2))
    run = successive_approximation(problem, 8, divergence=1e300)
    assert run.status == "diverged"
    assert all(math.isfinite(number) for number in (*run.values, *run.residuals))
    assert bool(torch.isfinite(run.control).all()) and math.isfinite(problem.value(run.control))


def test_bounded_control_without_cost_is_bang_bang():
    problem = feature_problem(alpha=0.0, bound=0.5, target=torch.ones(4, 2))
    options = {"rho": 1.0, "augmentation": "proximal", "tolerance": 1e-4, "max_iterations": 400}
    run = successive_approximation(problem, 6, **options)
    assert run.status == "converged" and run.increases == 0
    H = problem.hamiltonian(run.control)
    leaf = run.control.clone().requires_grad_()
    (slope,) = torch.autograd.grad(H(leaf).sum(), leaf)
    switched = slope.abs() > 1e-3
    torch.testing.assert_close(run.control[switched], -0.5 * slope[switched].sign())
    assert 0.9 < float(switched.double().mean()) and len(run.control[switched].unique()) == 2


def test_finite_set_finds_the_best_control_of_every_pair():
    candidates = torch.randn(5, 15, generator=torch.Generator().manual_seed(3))
    problem = perceptron_problem(over(candidates), alpha=0.0)
    H = problem.hamiltonian(candidates[:1].expand(10, 15))
    values = torch.stack([H(c.expand(10, 15)) for c in candidates])
    torch.testing.assert_close(H(problem.minimize(H)), values.min(0).values)
    run = successive_approximation(problem, 4, rho=30.0, start=candidates[:1].expand(10, 15), max_iterations=30)
    assert run.increases == 0
    assert bool((run.control.unsqueeze(1) == candidates).all(-1).any(-1).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_descent_never_increases_a_hamiltonian_and_lowers_the_cost(seed):
    problem = perceptron_problem(descent(5), seed=seed)
    start = random_control(problem, 5, scale=0.5, seed=seed)
    H = problem.hamiltonian(start).augmented(1.0, "extended")
    assert bool((H(problem.minimize(H)) <= H(start)).all())
    run = successive_approximation(problem, 5, rho=3.0, start=start, max_iterations=25)
    assert run.increases == 0 and run.value < 0.9 * run.values[0]


def test_minimizers_leave_random_numbers_and_their_input_alone():
    problem = perceptron_problem(descent(2))
    start = random_control(problem, 3)
    before, copy = torch.random.get_rng_state(), start.clone()
    successive_approximation(problem, 3, start=start, max_iterations=2)
    assert torch.equal(before, torch.random.get_rng_state()) and torch.equal(start, copy)


def test_single_precision_stays_single():
    one = torch.ones(1, 1, dtype=torch.float32)
    problem = FeatureControl(one, 0 * one, 1.0, features=(one, 0 * one[0]))
    run = successive_approximation(problem, 4, rho=1.0)
    assert run.control.dtype == torch.float32 and run.status == "converged" and run.increases == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": torch.ones(0, 2)}, "x0: expected at least one sample"),
        ({"x0": torch.tensor([[math.nan, 0.0]] * 4)}, "x0: expected finite"),
        ({"target": torch.ones(3, 2)}, "target: expected shape"),
        ({"target": torch.ones(4, 2, dtype=torch.float32)}, "target: expected dtype"),
        ({"readout": torch.ones(1, 3)}, "readout: expected shape"),
        ({"alpha": -1.0}, "alpha: expected a number of at least 0"),
        ({"alpha": 0.0}, "alpha, terminal_alpha: expected numbers above 0"),
        ({"terminal_alpha": -1.0}, "terminal_alpha: expected a number of at least 0"),
        ({"terminal_alpha": 0.0}, "without a cost a row needs a bound"),
        ({"bound": 0.0}, "bound: expected a number above 0"),
        ({"horizon": 0.0}, "horizon: expected a number above 0"),
        ({"activation": "sine"}, "expected one of"),
        ({"features": (torch.ones(3, 1), torch.ones(3))}, "features, W: expected shape"),
        ({"features": (torch.ones(3, 2), torch.ones(2))}, "features, b: expected shape"),
        ({"features": (torch.ones(3, 2).double(), NOT_FINITE[0, :3])}, "features, b: expected finite"),
    ],
)
def test_bad_problems_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(feature_problem(), **change)


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="features: expected a pair"):
        replace(feature_problem(), features=None)
    with pytest.raises(TypeError, match="minimizer: expected a function"):
        perceptron_problem(None)
    with pytest.raises(TypeError, match="problem: expected a ControlProblem"):
        successive_approximation(None, 4)
    with pytest.raises(ValueError, match="hidden: expected an int"):
        replace(perceptron_problem(descent()), hidden=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth: expected an int of at least 1"),
        ({"rho": -1.0}, "rho: expected a number of at least 0"),
        ({"augmentation": "none"}, "augmentation: expected one of 'extended', 'proximal'"),
        ({"tolerance": math.nan}, "tolerance: expected a finite number"),
        ({"max_iterations": 0}, "max_iterations: expected an int"),
        ({"divergence": 0.0}, "divergence: expected a number above 0"),
        ({"start": torch.zeros(3, 6)}, "start: expected shape"),
        ({"start": NOT_FINITE}, "theta: expected finite entries"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        successive_approximation(feature_problem(), **({"depth": 4} | arguments))


def test_bad_controls_and_minimizers_are_named():
    problem = feature_problem(bound=1.0)
    with pytest.raises(ValueError, match=r"theta: expected L\(L\+1\)/2 pairs"):
        problem.value(torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"theta: expected entries in \[-1, 1\], received one of size 2"):
        problem.value(torch.full((3, 6), 2.0))
    with pytest.raises(ValueError, match="candidates: expected at least one"):
        over(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="steps: expected an int"):
        descent(0)
    with pytest.raises(ValueError, match="rate: expected a number above 0"):
        descent(1, rate=-1)
    wrong = perceptron_problem(lambda H, old: old[:, :2])
    with pytest.raises(ValueError, match="minimizer: expected shape"):
        successive_approximation(wrong, 3)
