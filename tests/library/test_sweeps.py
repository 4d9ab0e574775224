"""Sweeps: order, reproducibility, stores that survive a kill, failures that do not stop the rest."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from dnlbook.sweeps import Failure, SweepError, sweep

ROOT = Path(__file__).resolve().parents[2]


def noisy(L, seed):
    """Global generators on purpose: the sweep seeds them."""
    return {
        "sum": L + seed,
        "torch": torch.randn(3),
        "numpy": np.random.rand(),  # noqa: NPY002
        "threads": torch.get_num_threads(),
    }


def counted(case, folder):
    """Leave a trace of every computation."""
    with open(os.path.join(folder, str(case)), "a") as file:
        file.write(".")
    return {"square": case * case, "array": np.arange(case)}


def slow(case, folder, seconds):
    time.sleep(seconds)
    return counted(case, folder)


def fragile(case, folder):
    if case % 2 and not Path(folder, "repaired").exists():
        raise ArithmeticError(f"case {case} does not work")
    return counted(case, folder)


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert np.asarray(a[name]).dtype == np.asarray(b[name]).dtype


def traces(folder):
    return {path.name: path.read_text() for path in Path(folder).iterdir()}


GRID = {"L": [8, 16], "seed": [0, 1, 2]}


def test_order_is_that_of_the_grid():
    results = sweep(lambda a, b: {"case": f"{a}{b}"}, {"a": "x y".split(), "b": [1, 2, 3]}, progress=False)
    assert [result["case"] for result in results] == ["x1", "x2", "x3", "y1", "y2", "y3"]


def test_results_do_not_depend_on_the_number_of_workers_or_on_generators():
    torch.manual_seed(1)
    serial = sweep(noisy, GRID, progress=False)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    same(serial, sweep(noisy, GRID, jobs=2, progress=False))
    assert all(result["threads"] == 1 for result in serial)
    draws = {tuple(result["torch"]) for result in serial}
    assert len(draws) == 6


def test_generators_and_threads_of_the_caller_are_left_alone():
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.randn(2), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    sweep(noisy, GRID, progress=False)
    assert torch.equal(torch.randn(2), expected[0])
    assert np.random.rand() == expected[1]  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_store_computes_each_case_once(tmp_path, jobs):
    trace, store = tmp_path / "trace", tmp_path / "deep" / "store"
    trace.mkdir()
    grid = {"case": [1, 2, 3], "folder": [str(trace)]}
    first = sweep(counted, grid, jobs=jobs, progress=False, store=store)
    more = sweep(counted, grid | {"case": [3, 4, 1, 2]}, jobs=jobs, progress=False, store=store)
    assert traces(trace) == {"1": ".", "2": ".", "3": ".", "4": "."}
    same(first, [more[2], more[3], more[0]])
    assert not list(store.glob("*.part"))


def test_what_comes_from_the_store_is_what_was_computed(tmp_path):
    def mixed(kind):
        return {
            "tiny": 5e-324,
            "nan": float("nan"),
            "third": 1 / 3,
            "long": 10**30,
            "none": None,
            "flag": True,
            "list": [1, "a", [0.1]],
            "single": torch.ones(2, 2),
            "words": np.array(["a", "bc"]),
            "scalar": np.float64(0.1),
        }

    fresh = sweep(mixed, {"kind": [0]}, progress=False, store=tmp_path)
    (stored,) = again = sweep(mixed, {"kind": [0]}, progress=False, store=tmp_path)
    np.testing.assert_equal(again, fresh)
    assert stored["single"].dtype == np.float64 and stored["long"] == 10**30


def test_a_damaged_file_is_computed_again(tmp_path):
    store, trace = tmp_path / "store", tmp_path / "trace"
    trace.mkdir()
    grid = {"case": [1, 2], "folder": [str(trace)]}
    expected = sweep(counted, grid, progress=False, store=store)
    damaged, other = sorted(store.glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    same(expected, sweep(counted, grid, progress=False, store=store))
    assert sorted(traces(trace).values()) == [".", ".."]
    other.write_bytes(damaged.read_bytes())  # the file of another case
    same(expected, sweep(counted, grid, progress=False, store=store))
    assert sorted(traces(trace).values()) == ["..", ".."]


def test_no_pickle_is_read(tmp_path):
    store, trace = tmp_path / "store", tmp_path / "trace"
    trace.mkdir()
    grid = {"case": [1], "folder": [str(trace)]}
    sweep(counted, grid, progress=False, store=store)
    (file,) = store.glob("*.npz")
    with open(file, "wb") as handle:
        np.savez(handle, entry=np.array({"case": grid}, dtype=object))
    sweep(counted, grid, progress=False, store=store)
    assert traces(trace) == {"1": ".."}


SCRIPT = """
import sys
import torch
sys.path.insert(0, {tests!r})
torch.set_default_dtype(torch.float64)
from test_sweeps import slow
from dnlbook.sweeps import sweep
sweep(slow, {grid!r}, jobs={jobs}, progress=False, store={store!r})
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path, jobs):
    store, trace = tmp_path / "store", tmp_path / "trace"
    trace.mkdir()
    grid = {"case": list(range(8)), "folder": [str(trace)], "seconds": [0.2]}
    script = SCRIPT.format(tests=str(Path(__file__).parent), grid=grid, jobs=jobs, store=str(store))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(store.glob("*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(store.glob("*.npz")))
    assert 3 <= finished < 8
    results = sweep(slow, grid, progress=False, store=store)
    assert [result["square"] for result in results] == [case**2 for case in range(8)]
    counts = [len(trace) for trace in traces(trace).values()]
    # a case that was computed but not written when the process died is the only one that may be done again
    assert len(counts) == 8 and max(counts) <= 2 and sum(counts) <= 8 + jobs


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_case_is_reported_while_the_others_finish(tmp_path, jobs):
    store, trace = tmp_path / "store", tmp_path / "trace"
    trace.mkdir()
    grid = {"case": [1, 2, 3, 4], "folder": [str(trace)]}
    with pytest.raises(SweepError, match=r"2 of 4 cases failed(.|\n)*'case': 1(.|\n)*ArithmeticError: case 1") as info:
        sweep(fragile, grid, jobs=jobs, progress=False, store=store)
    error = info.value
    assert [failure.case["case"] for failure in error.failures] == [1, 3]
    assert all(isinstance(failure, Failure) and "fragile" in failure.traceback for failure in error.failures)
    assert [result and result["square"] for result in error.results] == [None, 4, None, 16]
    (trace / "repaired").touch()
    sweep(fragile, grid, jobs=jobs, progress=False, store=store)
    assert {name: text for name, text in traces(trace).items() if name != "repaired"} == dict.fromkeys("1234", ".")


def test_a_store_belongs_to_one_version_of_one_function(tmp_path):
    def version(factor):
        return functools.partial(lambda case, factor: {"value": factor * case}, factor=factor)

    sweep(version(1), {"case": [1]}, progress=False, store=tmp_path)
    with pytest.raises(ValueError, match="store: expected results of .*holds those of another version"):
        sweep(version(2), {"case": [1]}, progress=False, store=tmp_path)
    with pytest.raises(ValueError, match="store: expected results of .*counted.*holds those of another function"):
        sweep(counted, {"case": [1], "folder": [str(tmp_path)]}, progress=False, store=tmp_path)

    def captured(value):
        return lambda case: {"value": value * case}

    sweep(captured(1), {"case": [1]}, progress=False, store=tmp_path / "closure")
    with pytest.raises(ValueError, match="another version"):
        sweep(captured(2), {"case": [1]}, progress=False, store=tmp_path / "closure")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_default_dtype_of_the_caller_holds_in_every_worker(tmp_path, jobs):
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        results = sweep(noisy, GRID, jobs=jobs, progress=False)
        assert {str(result["torch"].dtype) for result in results} == {str(dtype).removeprefix("torch.")}
    sweep(noisy, GRID, progress=False, store=tmp_path)
    torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match="holds those of another dtype"):
        sweep(noisy, GRID, progress=False, store=tmp_path)


def test_folders_that_are_no_stores_are_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="store: expected a folder, received the file"):
        sweep(counted, {"case": [1], "folder": [""]}, progress=False, store=file)
    np.savez(tmp_path / "mine.npz", x=1)
    with pytest.raises(ValueError, match="store: expected an empty folder"):
        sweep(counted, {"case": [1], "folder": [""]}, progress=False, store=tmp_path)
    with pytest.raises(TypeError, match="store: expected a folder"):
        sweep(counted, {"case": [1], "folder": [""]}, progress=False, store=3)


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ({}, TypeError, "grid: expected a dict of lists"),
        ([1, 2], TypeError, "grid: expected a dict of lists"),
        ({"case": 3}, TypeError, r"grid\['case'\]: expected a list of values"),
        ({"case": "abc"}, TypeError, r"grid\['case'\]: expected a list of values"),
        ({"case": [[1]]}, TypeError, r"grid\['case'\]: expected numbers, strings"),
        ({"case": [1, 2, 1]}, ValueError, "grid: expected different cases"),
    ],
)
def test_grids_are_checked(grid, error, message):
    with pytest.raises(error, match=message):
        sweep(noisy, grid, progress=False)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda case: 3, "expected a dict as result, received int"),
        (lambda case: {1: 2}, "expected strings as names in the result, received 1"),
        (lambda case: {"x": {1}}, "expected numbers, strings, lists or arrays in the result, received set under 'x'"),
        (lambda case: {"x": np.array([None])}, "received ndarray under 'x'"),
    ],
)
def test_results_are_checked(function, message):
    with pytest.raises(SweepError, match=message):
        sweep(function, {"case": [1]}, progress=False)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="function: expected a callable, received int"):
        sweep(3, {"case": [1]})
    with pytest.raises(ValueError, match="jobs: expected an int of at least 1, received 0"):
        sweep(noisy, GRID, jobs=0)


def test_an_empty_list_is_no_case():
    assert sweep(noisy, {"L": [], "seed": [1]}, progress=False) == []


def test_values_of_arrays_and_tensors_are_numbers():
    (result,) = sweep(lambda L: {"kind": type(L).__name__}, {"L": np.array([2])}, progress=False)
    assert result == {"kind": "int"}
    (result,) = sweep(lambda L: {"kind": type(L).__name__}, {"L": torch.tensor([0.5])}, progress=False)
    assert result == {"kind": "float"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_progress_bar_counts_cases_of_the_store_too(tmp_path, capsys, jobs):
    trace = tmp_path / "trace"
    trace.mkdir()
    grid = {"case": [1, 2], "folder": [str(trace)]}
    sweep(counted, grid, progress=False, store=tmp_path / "store")
    assert capsys.readouterr().err == ""
    sweep(counted, grid | {"case": [1, 2, 3, 4]}, jobs=jobs, store=tmp_path / "store")
    assert "4/4" in capsys.readouterr().err


def test_a_dask_cluster_gives_the_same_results_when_a_worker_dies(tmp_path):
    distributed = pytest.importorskip("distributed")
    trace = tmp_path / "trace"
    trace.mkdir()
    grid = {"case": list(range(12)), "folder": [str(trace)], "seconds": [0.15]}
    store = tmp_path / "store"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask", wait_for_workers_timeout=60),
    ):
        started = time.monotonic()
        victim = list(client.run(os.getpid).values())[0]

        def kill():
            while len(list(store.glob("*.npz"))) < 3 and time.monotonic() < started + 60:
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        results = sweep(slow, grid, progress=False, store=store)
        killer.join()
        assert victim not in client.run(os.getpid).values()
    serial = tmp_path / "serial"
    serial.mkdir()
    same(results, sweep(counted, {"case": grid["case"], "folder": [str(serial)]}, progress=False))
    assert json.loads((store / "sweep.json").read_text())["function"].endswith("slow")
    counts = [len(trace) for trace in traces(trace).values()]
    assert len(counts) == 12 and sum(counts) <= 12 + 1  # the case in work when the worker died
