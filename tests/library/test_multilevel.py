"""Training on a ladder of depths: it finds known minima, survives a kill, and says what went wrong."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dnlbook.multilevel as multilevel
from dnlbook.control import LearningProblem, data_term, objective, train_multilevel
from dnlbook.multilevel import MultilevelHistory, NonFiniteObjective, TrainedControl
from dnlbook.triangle import TriangleMesh

F64 = torch.float64


def points(count=3, width=2):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(5), dtype=F64)


def small(**changes):
    x0 = points()
    options = {"alpha": 0.05, "hidden": 2, "activation": "tanh", "horizon": 1.0, "penalty": "h1", "readout": None}
    options |= changes
    return LearningProblem(x0, -x0, **options)


def start(problem, depth, seed=1, scale=1.0):
    size = TriangleMesh(depth, problem.horizon).size
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, problem.width_of_control, generator=generator, dtype=F64)


def same(a: TrainedControl, b: TrainedControl) -> bool:
    names = [field.name for field in dataclasses.fields(a) if field.name != "theta"]
    return all(getattr(a, name) == getattr(b, name) for name in names) and torch.equal(a.theta, b.theta)


@given(
    depth=st.integers(1, 5),
    width=st.integers(1, 2),
    hidden=st.integers(1, 3),
    penalty=st.sampled_from(["h1", "l2"]),
    horizon=st.sampled_from([1.0, 0.4, 3.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_function_of_the_optimizer_is_the_objective_and_its_gradient(depth, width, hidden, penalty, horizon):
    x0 = points(2, width)
    problem = LearningProblem(x0, -x0, 0.3, hidden=hidden, penalty=penalty, horizon=horizon)
    theta = start(problem, depth, scale=0.5)
    run = multilevel._Run(problem, depth, theta)
    value, gradient = run(run.start)
    assert math.isclose(value, objective(problem, theta).item(), rel_tol=1e-12)
    direction = np.random.default_rng(0).normal(size=gradient.size)
    step = 1e-6
    slope = (run(run.start + step * direction)[0] - run(run.start - step * direction)[0]) / (2 * step)
    assert math.isclose(slope, float(gradient @ direction), rel_tol=1e-6, abs_tol=1e-8)
    assert torch.allclose(run.theta(run.start), theta, atol=1e-12)


def test_one_pair_of_a_linear_network_has_a_minimum_in_closed_form():
    """With x0 = 0 and the identity the output is v b."""
    alpha, y = 0.1, 1.0
    x0, target = torch.zeros(1, 1, dtype=F64), torch.full((1, 1), y, dtype=F64)
    problem = LearningProblem(x0, target, alpha, hidden=1, activation="identity", penalty="l2")
    history = train_multilevel(problem, [1], seeds=[0, 1, 2], gradient_tolerance=1e-10)
    # the node (1, 0) has the mass 1/4: (vb - y)^2/2 + alpha/8 (v^2 + b^2) is smallest for v = b, v^2 = y - alpha/4
    square = y - alpha / 4
    expected = (square - y) ** 2 / 2 + alpha / 4 * square
    assert math.isclose(history.values[0], expected, rel_tol=1e-9)
    node = TriangleMesh(1).index(1, 0)
    assert math.isclose(history.theta[node, 0].item() ** 2, square, rel_tol=1e-6)


def test_every_level_is_stationary_and_starts_from_the_one_before():
    problem = small()
    history = train_multilevel(problem, [2, 4, 16], seeds=range(3), gradient_tolerance=1e-7)
    assert [level.depth for level in history.levels] == [2, 4, 16]
    assert history.values == [level.value for level in history.levels]
    assert torch.equal(history.theta, history.levels[-1].theta)
    for level in history.levels:
        assert level.status == "converged" and level.gradient_norm <= 1e-7
        assert level.theta.shape == (TriangleMesh(level.depth).size, problem.width_of_control)
        assert math.isclose(level.value, objective(problem, level.theta).item(), rel_tol=1e-12)
    coarse, fine = history.levels[1], history.levels[2]
    mesh = TriangleMesh(4)
    prolonged = mesh.refined.prolong(mesh.prolong(coarse.theta))
    assert fine.value <= objective(problem, prolonged).item()


def test_multistart_reports_every_value_and_keeps_the_smallest():
    problem = small(alpha=0.01)
    history = train_multilevel(problem, [3], seeds=[4, 5, 6, 7], start_tolerance=1e-4)
    values = [run.value for run in history.starts]
    assert len(values) == 4 and history.best == int(np.argmin(values))
    assert all(run.gradient_norm <= 1e-4 for run in history.starts)
    assert history.levels[0].value <= min(values)
    alone = train_multilevel(problem, [3], seeds=[5], start_tolerance=1e-4)
    assert same(alone.starts[0], history.starts[1])


def test_a_stationary_start_takes_no_iteration():
    problem = small()
    theta = train_multilevel(problem, [4], gradient_tolerance=1e-6).theta
    again = train_multilevel(problem, [4], starts=[theta], gradient_tolerance=1e-5)
    assert again.levels[0].iterations == 0 and again.levels[0].status == "converged"
    assert torch.allclose(again.theta, theta, atol=1e-13)


def test_the_number_of_iterations_does_not_grow_with_the_depth():
    history = train_multilevel(small(), [4, 8, 16, 32], gradient_tolerance=1e-6)
    counts = [level.iterations for level in history.levels[1:]]
    assert max(counts) <= 2 * min(counts)


def test_too_few_iterations_are_reported():
    history = train_multilevel(small(), [4], max_iterations=3)
    assert history.levels[0].status == "max_iterations" and history.levels[0].iterations == 3


def test_an_impossible_tolerance_is_reported_as_stalled():
    history = train_multilevel(small(), [2], gradient_tolerance=1e-30)
    assert history.levels[0].status == "stalled" and history.levels[0].gradient_norm < 1e-6


def test_symmetric_starts_give_symmetric_minimizers():
    """tanh is odd: flipping the sign of a hidden unit changes nothing."""
    problem = small()
    theta = start(problem, 4)
    V, W, b = problem.split(theta)
    sign = torch.tensor([-1.0, 1.0], dtype=F64)
    flipped = problem.join(V * sign, sign[:, None] * W, sign * b)
    one, two = (train_multilevel(problem, [4], starts=[s], gradient_tolerance=1e-9).levels[0] for s in (theta, flipped))
    V, W, b = problem.split(one.theta)
    assert math.isclose(one.value, two.value, rel_tol=1e-11)
    assert torch.allclose(problem.join(V * sign, sign[:, None] * W, sign * b), two.theta, atol=1e-5)


def test_single_precision_problems_train_in_double_precision():
    x0 = points().float()
    problem = LearningProblem(x0, -x0, 0.05, hidden=2)
    history = train_multilevel(problem, [2, 4], gradient_tolerance=1e-4)
    assert history.theta.dtype == torch.float64
    assert history.levels[-1].status == "converged"


def test_results_are_frozen():
    history = train_multilevel(small(), [2], max_iterations=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.best = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.levels[0].value = 0.0
    assert isinstance(history, MultilevelHistory)


def test_progress_is_silent_unless_asked_for(capsys):
    train_multilevel(small(), [2, 4], max_iterations=3)
    assert capsys.readouterr() == ("", "")
    train_multilevel(small(), [2, 4], seeds=[0, 1], max_iterations=3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("depth 2, start 2 of 2", "depth 4: iteration 3", "max_iterations after 3"):
        assert text in shown.err


class Killed(Exception):
    pass


def kill_after(monkeypatch, evaluations):
    """Let the data term fail after that many evaluations, as a killed process would."""
    count = 0

    def counted(problem, theta):
        nonlocal count
        count += 1
        if count > evaluations:
            raise Killed
        return data_term(problem, theta)

    monkeypatch.setattr(multilevel, "data_term", counted)


def test_a_killed_run_continues_and_finished_parts_are_read_back(tmp_path, monkeypatch):
    problem, path = small(), tmp_path / "run.npz"
    options = {"seeds": [0, 1], "gradient_tolerance": 1e-8}
    whole = train_multilevel(problem, [2, 4, 8], **options)
    to_the_second_level = sum(run.evaluations for run in whole.starts) + whole.levels[0].evaluations + 5
    monkeypatch.setattr(multilevel, "_SAVE_EVERY", 2)
    kill_after(monkeypatch, to_the_second_level)
    with pytest.raises(Killed):
        train_multilevel(problem, [2, 4, 8], store=path, **options)
    with np.load(path, allow_pickle=False) as file:
        assert {"start/0/theta", "start/1/theta", "level/2/theta", "level/4/current"} <= set(file.files)
        assert "level/4/theta" not in file.files
        saved = file["level/4/taken"].tolist()
    assert saved[0] >= 2 and saved[0] % 2 == 0
    kill_after(monkeypatch, 10_000)
    resumed = train_multilevel(problem, [2, 4, 8], store=path, **options)
    assert all(same(a, b) for a, b in zip(resumed.starts, whole.starts, strict=True))
    assert same(resumed.levels[0], whole.levels[0])
    assert resumed.levels[1].iterations > saved[0] and resumed.levels[1].evaluations > saved[1]
    assert np.allclose(resumed.values, whole.values, rtol=1e-10)
    kill_after(monkeypatch, 0)
    again = train_multilevel(problem, [2, 4, 8], store=path, **options)
    assert all(same(a, b) for a, b in zip(again.levels, resumed.levels, strict=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]


def test_a_longer_ladder_continues_a_shorter_one(tmp_path, monkeypatch):
    problem, path = small(), tmp_path / "run.npz"
    short = train_multilevel(problem, [2, 4], store=path)
    longer = train_multilevel(problem, [2, 4, 8], store=path)
    assert same(longer.levels[1], short.levels[1]) and longer.levels[2].depth == 8
    kill_after(monkeypatch, 0)
    assert same(train_multilevel(problem, [2, 4], store=path).levels[1], short.levels[1])


def test_a_write_that_fails_leaves_the_old_store(tmp_path, monkeypatch):
    problem, path = small(), tmp_path / "run.npz"
    train_multilevel(problem, [2], store=path)
    before = path.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="no space"):
        train_multilevel(problem, [2, 4], store=path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.06},
        {"activation": "relu"},
        {"horizon": 2.0},
        {"penalty": "l2"},
        {"readout": 2 * torch.eye(2, dtype=F64)},
    ],
)
def test_a_store_of_another_problem_is_refused(tmp_path, change):
    path = tmp_path / "run.npz"
    train_multilevel(small(), [2], store=path, max_iterations=5)
    with pytest.raises(ValueError, match="store: .* belongs to another problem"):
        train_multilevel(small(**change), [2], store=path, max_iterations=5)


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": [1]},
        {"max_iterations": 6},
        {"gradient_tolerance": 1e-6},
        {"corrections": 7},
        {"start_tolerance": 1e-3},
    ],
)
def test_a_store_of_other_options_is_refused(tmp_path, options):
    path = tmp_path / "run.npz"
    train_multilevel(small(), [2], store=path, max_iterations=5)
    with pytest.raises(ValueError, match="other starts or other tolerances"):
        train_multilevel(small(), [2], store=path, **({"max_iterations": 5} | options))


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut", None])
def test_a_file_that_is_no_store_is_refused(tmp_path, content):
    path = tmp_path / "run.npz"
    if content is None:
        np.savez(path, something=np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="store: expected a file written by train_multilevel"):
        train_multilevel(small(), [2], store=path)


def test_a_store_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="store: expected a path in an existing folder"):
        train_multilevel(small(), [2], store=tmp_path / "nowhere" / "run.npz")


def test_another_readout_of_the_same_values_is_the_same_problem(tmp_path):
    path = tmp_path / "run.npz"
    one = train_multilevel(small(), [2], store=path, max_iterations=5)
    two = train_multilevel(small(readout=torch.eye(2, dtype=F64)), [2], store=path, max_iterations=5)
    assert same(one.levels[0], two.levels[0])


def test_states_that_overflow_at_the_start():
    problem = small(activation="identity")
    with pytest.raises(NonFiniteObjective, match="states .* are not finite at depth 8 at the start") as info:
        train_multilevel(problem, [8], starts=[start(problem, 8, scale=1e60)])
    assert (info.value.depth, info.value.iteration) == (8, 0)
    assert info.value.theta.shape == (45, problem.width_of_control)


def test_an_objective_that_breaks_later_names_the_iteration_and_keeps_the_last_iterate(monkeypatch):
    problem, count = small(), 0

    def breaks(problem, theta):
        nonlocal count
        count += 1
        return data_term(problem, theta) * (math.nan if count > 12 else 1.0)

    monkeypatch.setattr(multilevel, "data_term", breaks)
    with pytest.raises(NonFiniteObjective, match="data term is not finite at depth 4 in iteration") as info:
        train_multilevel(problem, [4])
    assert info.value.what == "the data term is" and 1 <= info.value.iteration <= 12
    monkeypatch.setattr(multilevel, "data_term", data_term)
    stopped = train_multilevel(problem, [4], max_iterations=info.value.iteration - 1).starts[0]
    assert torch.allclose(info.value.theta, stopped.theta, atol=1e-12)


def test_a_gradient_that_is_not_finite_is_named(monkeypatch):
    def kink(problem, theta):
        return data_term(problem, theta) + (0 * theta.sum()).abs().sqrt()

    monkeypatch.setattr(multilevel, "data_term", kink)
    with pytest.raises(NonFiniteObjective, match="the gradient is not finite at depth 2 at the start"):
        train_multilevel(small(), [2])


@pytest.mark.parametrize(
    ("depths", "error", "message"),
    [
        ([], ValueError, "depths: expected at least one depth"),
        ([4, 6], ValueError, "depths: expected nested meshes.*received 6 after 4"),
        ([4, 12], ValueError, "received 12 after 4"),
        ([8, 4], ValueError, "received 4 after 8"),
        ([4, 4], ValueError, "received 4 after 4"),
        ([0, 2], ValueError, r"depths\[0\]: expected an int of at least 1"),
        ([2.5], TypeError, r"depths"),
        (4, TypeError, "depths: expected a sequence of ints, received 4"),
    ],
)
def test_ladders_that_are_not_nested(depths, error, message):
    with pytest.raises(error, match=message):
        train_multilevel(small(), depths)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": []}, ValueError, "seeds: expected at least one seed"),
        ({"seeds": [0, -1]}, ValueError, r"seeds\[1\]: expected an int of at least 0, received -1"),
        ({"seeds": [True]}, ValueError, r"seeds\[0\]"),
        ({"seeds": [1.5]}, ValueError, r"seeds\[0\]"),
        ({"starts": []}, ValueError, "starts: expected at least one control"),
        ({"starts": [torch.zeros(5, 10)]}, ValueError, r"starts\[0\]: expected shape \(6, 10\)"),
        ({"starts": [torch.full((6, 10), math.nan)]}, ValueError, r"starts\[0\]: expected finite"),
        ({"starts": [torch.zeros(6, 10)], "seeds": [0]}, ValueError, "expected one of them"),
        ({"gradient_tolerance": 0.0}, ValueError, "gradient_tolerance"),
        ({"start_tolerance": 1e-9}, ValueError, "start_tolerance: expected at least gradient_tolerance"),
        ({"max_iterations": 0}, ValueError, "max_iterations"),
        ({"corrections": 0}, ValueError, "corrections"),
        ({"corrections": 2.0}, TypeError, "corrections"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        train_multilevel(small(), [2], **options)


def test_a_problem_of_the_wrong_type():
    with pytest.raises(TypeError, match="problem: expected a LearningProblem, received str"):
        train_multilevel("problem", [2])
