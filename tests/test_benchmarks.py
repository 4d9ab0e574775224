"""The machinery of ``make bench``: who is timed, what is written, what the page makes of it.  No time is judged."""

from __future__ import annotations

import copy
import doctest
import getpass
import importlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_ext")]

from measurements import reading, tables  # noqa: E402

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import memory, record, timing  # noqa: E402
from benchmarks.groups import GROUPS, concatenation, dense, volterra  # noqa: E402
from benchmarks.record import Goal, Spread  # noqa: E402
from benchmarks.timing import QUICK, Candidate, Case  # noqa: E402

#: groups that compare with nothing but what the book itself needs, and that this system can measure
PLAIN = [name for name, group in GROUPS.items() if not group.needs and not group.missing()]
MODULES = [
    "benchmarks.groups.growth",
    "benchmarks.profiling",
    "benchmarks.record",
    "measurements.reading",
    "measurements.tables",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, because it binds itself to one thread and one core."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of all groups without other packages writes."""
    path = tmp_path_factory.mktemp("quick") / "results.json"
    done = run("--quick", "--output", str(path), *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(path.parent.iterdir()) == [path]
    return json.loads(path.read_text(encoding="utf-8"))


def case(*candidates: Candidate | list[Candidate], goals: tuple[Goal, ...] = ()) -> Case:
    return Case("work", "all of it", "work", "the answer is one", candidates, goals, profiled=False)


def answer(value: float, name: str = "dnlbook", **options: Any) -> Candidate:
    """A candidate that returns a number, where 1 is right."""
    return Candidate(name, lambda: value, lambda result: abs(result - 1), 1e-8, **options)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).attempted > 0
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# ---- who is timed


@pytest.mark.parametrize("wrong", [1.5, float("nan"), float("inf")])
def test_a_wrong_candidate_is_refused_and_not_timed(wrong: float) -> None:
    goal = Goal(2.0, at_least="peer")
    result = timing.measure(case(answer(1.0), answer(wrong, "peer"), goals=(goal,)), QUICK).as_json()
    subject, peer = result["candidates"]
    assert (subject["status"], peer["status"]) == ("measured", "refused")
    assert peer["value"] is None and peer["ratio"] is None and peer["tolerance"] == 1e-8
    assert result["goals"][0]["measured"] is None and result["goals"][0]["reached"] is False


@pytest.mark.parametrize("wrong", [1.5, float("nan")])
def test_a_wrong_answer_of_the_library_stops_the_run(wrong: float) -> None:
    with pytest.raises(timing.SubjectError, match="work: dnlbook has an error of .* expected at most 1e-08"):
        timing.measure(case(answer(wrong), answer(1.0, "peer")), QUICK)


def test_a_wrong_engine_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dense.dense_forward
    monkeypatch.setattr(dense, "dense_forward", lambda *args, step, **kw: right(*args, step=1.001 * step, **kw))
    for cases in (dense.forward_cases, dense.training_cases):
        with pytest.raises(timing.SubjectError, match="dense-"):
            timing.measure(next(cases(True)), QUICK)


def test_a_wrong_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = concatenation.shared
    monkeypatch.setattr(concatenation, "shared", lambda x0, A: 1.001 * right(x0, A))
    result = timing.measure(next(concatenation.cases(True)), QUICK)
    assert [outcome.name for outcome in result.outcomes if outcome.refused] == [concatenation.IDIOM]


def test_too_coarse_a_rule_is_refused() -> None:
    built = next(volterra.nonlinear_cases(True))
    subject, peer = built.candidates[:2]
    assert isinstance(subject, Candidate) and isinstance(peer, Candidate)
    coarse = Candidate("coarse", lambda: volterra.trapezoid_numpy(64), peer.error, peer.tolerance)
    result = timing.measure(case(subject, peer, coarse), QUICK)
    assert [outcome.refused for outcome in result.outcomes] == [False, False, True]


def test_only_settings_that_pass_are_chosen() -> None:
    chosen, error = timing.best_setting([answer(1.5, setting="fast"), answer(1.0, setting="right")])
    assert (chosen.setting, error) == ("right", 0.0)
    chosen, _ = timing.best_setting([answer(1.0, setting="one"), answer(1.0, setting="other"), answer(2.0)])
    assert re.fullmatch(r"(one|other) \(fastest of 3 settings\)", chosen.setting)
    chosen, error = timing.best_setting([answer(float("nan")), answer(1.5), answer(1.25)])
    assert error == 0.25
    assert timing.measure(case(answer(1.0), [answer(1.5, "peer")]), QUICK).outcomes[1].refused


# ---- how it is timed


def test_candidates_take_turns_and_another_one_begins() -> None:
    calls: list[int] = []
    runs = [lambda i=i: calls.append(i) for i in range(3)]
    pace = timing.Pace(seconds=1.0, fewest=6, most=6, sample=0.0)
    times = timing.sample_times(runs, pace)
    warm, rounds = calls[:3], [calls[3 + 3 * number : 6 + 3 * number] for number in range(6)]
    assert warm == [0, 1, 2] and len(calls) == 3 + 18
    assert [turn[0] for turn in rounds] == [0, 1, 2, 0, 1, 2]
    assert all(sorted(turn) == [0, 1, 2] for turn in rounds)
    assert [sorted(time_of) for time_of in times] == [list(range(6))] * 3


@pytest.mark.parametrize("together", [False, True])
def test_a_slow_candidate_sits_out_unless_all_stay_together(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def takes(seconds: float) -> Any:
        def wait() -> None:
            clock[0] += seconds

        return wait

    pace = timing.Pace(seconds=10.0, fewest=5, most=40, sample=0.01)
    fast, slow = timing.sample_times([takes(0.01), takes(1.0)], pace, scales=[1.0, 2.0], together=together)
    assert (len(fast), len(slow)) == ((9, 9) if together else (40, 6))
    assert set(slow) <= set(fast)
    assert timing.ratios(slow, fast) == Spread(*[pytest.approx(200.0)] * 3, len(slow))


def test_goals_bound_a_ratio_from_the_side_they_name() -> None:
    assert Goal(2.0, at_least="peer").reached(2.0) and not Goal(2.0, at_least="peer").reached(1.99)
    assert Goal(2.0, at_most="floor").reached(2.0) and not Goal(2.0, at_most="floor").reached(2.01)
    assert Goal(2.0).reached(2.04) and not Goal(2.0).reached(2.06)
    with pytest.raises(ValueError, match="at_least, at_most"):
        Goal(2.0, at_least="peer", at_most="floor")
    with pytest.raises(ValueError, match="expected finite numbers"):
        Spread.of([1.0, float("nan")])


@pytest.mark.skipif(not memory.available(), reason="the system does not report peak memory")
def test_memory_is_seen_that_python_does_not_trace() -> None:
    peak, tensor = memory.peak_above(lambda: torch.ones(32, 1 << 20).sum(0))
    assert 100e6 < peak < 200e6 and tensor.shape == (1 << 20,)
    # the larger peak before it is forgotten; blocks above 32 MB go back to the system when they are freed
    peak, _ = memory.peak_above(lambda: torch.ones(12 << 20))
    assert 40e6 < peak < 90e6


# ---- what is written


def test_every_group_was_measured_and_its_guards_hold(quick: dict[str, Any]) -> None:
    assert [group["id"] for group in quick["groups"]] == PLAIN
    assert {"dense-forward", "dense-training", "concatenation", "volterra-nonlinear", "convolution"} <= set(PLAIN)
    for _, measured in reading.cases(reading.check(quick)):
        assert measured["goals"]
        for candidate in measured["candidates"]:
            assert candidate["status"] == "measured", candidate
            if candidate["error"] is not None:
                assert candidate["error"] <= candidate["tolerance"]


def test_results_name_versions_and_machine_and_nobody(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True and quick["threads"] == 1
    assert quick["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(quick["machine"]) == {"cpu", "architecture", "vector", "cores", "caches", "system"}
    values = [*quick["machine"].values(), *quick["versions"].values(), quick["date"]]
    words = set(re.split(r"[\W_]+", json.dumps(values)))
    assert not {socket.gethostname(), getpass.getuser()} & words
    assert not re.search(r'"[^"]*(/home|/root|/usr|/tmp|\\\\Users)', json.dumps(quick))
    assert str(ROOT) not in json.dumps(quick)


def test_a_failed_write_leaves_the_old_results(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    record.write(path, {"value": 1.23456789})
    assert json.loads(path.read_text(encoding="utf-8")) == {"schema": record.SCHEMA, "value": 1.2346}
    with pytest.raises(ValueError):
        record.write(path, {"value": float("nan")})
    assert "1.2346" in path.read_text(encoding="utf-8") and list(tmp_path.iterdir()) == [path]


def test_wrong_arguments_are_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["dense"], "GROUP: expected some of dense-forward, .* received dense"),
        (["--quick"], "--output: expected a path"),
        (["--quick", "--output", str(tmp_path / "no" / "results.json")], "in an existing folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command._arguments(arguments, list(GROUPS))
        assert stopped.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert GROUPS["volterra-linear"].missing() == ["voles"]
    assert GROUPS["convolution"].missing() == []


# ---- what the page makes of it


@pytest.fixture
def results(quick: dict[str, Any]) -> dict[str, Any]:
    """A copy of the quick results that claims to be a full run."""
    return copy.deepcopy(quick) | {"quick": False}


def test_stored_results_are_those_of_a_full_run_of_all_groups() -> None:
    stored = reading.read(command.RESULTS)
    assert [group["id"] for group in stored["groups"]] == list(GROUPS)
    for idea in reading.read_ideas(ROOT / "benchmarks" / "ideas.json"):
        assert any(f"{measured['id']}-".startswith(f"{idea['group']}-") for _, measured in reading.cases(stored)), idea


def test_tables_name_every_goal_and_every_candidate(results: dict[str, Any]) -> None:
    goals = [goal for _, measured in reading.cases(results) for goal in measured["goals"]]
    text = tables.goals(results)
    assert text.count("✓ yes") + text.count("✗ no") == len(goals)
    assert f"{sum(goal['reached'] for goal in goals)} of {len(goals)} goals" in text
    for group in results["groups"]:
        shown = tables.group(group)
        for measured in group["cases"]:
            listed = [f"**{tables.escape(candidate['name'])}**" in shown for candidate in measured["candidates"]]
            assert listed == [candidate["kind"] != "idea" for candidate in measured["candidates"]]
    assert "processor" in tables.run(results)


def test_missed_goals_come_with_a_profile_and_what_was_tried(results: dict[str, Any]) -> None:
    measured = results["groups"][PLAIN.index("dense-training")]["cases"][0]
    goal = measured["goals"][1]
    goal["reached"], goal["measured"] = False, {"median": 3.5, "lower": 3.0, "upper": 4.0, "rounds": 5}
    idea = {"group": "dense-training", "idea": "a smaller tile", "factor": 1.25, "kept": False}
    text = tables.missed(results, [idea, idea | {"group": "dense-training-1", "idea": "of another group"}])
    assert "of another group" not in text
    assert "at least 7 times faster; measured 3.5 (3.0 to 4.0)" in text
    assert "Where dnlbook's time goes: " in text and "memory='store'" in text
    assert re.search(r"a smaller tile\n  - 1\.2\n  - when tried; dropped", text)
    assert re.search(r"tiles of 128 kB, not 512\n  - [\d.]+\n  - this run", text)
    assert re.search(r"the floor itself is [\d.]+ times faster than this peer", text)
    assert "✗ no, by a factor of 2.0" in tables.goals(results)


def test_a_faster_peer_is_listed(results: dict[str, Any]) -> None:
    for _, measured in reading.cases(results):
        for candidate in measured["candidates"]:
            if candidate["ratio"]:
                candidate["ratio"] = {"median": 1.5, "lower": 1.0, "upper": 2.0, "rounds": 3}
    assert tables.slower(results) == "In this run no other candidate is faster than dnlbook.\n"
    peer = results["groups"][PLAIN.index("concatenation")]["cases"][0]["candidates"][1]
    peer["ratio"] = {"median": 0.5, "lower": 0.4, "upper": 0.6, "rounds": 3}
    assert re.search(r"torch\.cat, shared features\n  - 0\.50 \(0\.40 to 0\.60\)", tables.slower(results))


def test_pictures_are_drawn_and_described(results: dict[str, Any], tmp_path: Path) -> None:
    pictures = importlib.import_module("measurements.pictures")
    for name in ("dense-training", "convolution"):
        caption, alt = pictures.group(reading.pick(results, name), tmp_path / f"{name}.png")
        assert caption.startswith("How much time") and "PyTorch" in alt
    caption, alt = pictures.goals(results, tmp_path / "goals.png")
    assert caption.startswith("How far") and "against matrix product" in alt
    if memory.available():
        caption, alt = pictures.growth(results, tmp_path / "growth.png")
        assert "residual network grows with exponent" in alt
    assert all(path.stat().st_size < 150_000 for path in tmp_path.iterdir())


def breaks() -> dict[str, Any]:
    """Ways to spoil results, by the message that they are answered with."""
    return {
        "expected schema 1, received 2": lambda r: r.update(schema=2),
        "expected date of type str, received None": lambda r: r.pop("date"),
        "holds a quick run": lambda r: r.update(quick=True),
        "expected goals of type list": lambda r: r["groups"][0]["cases"][0].pop("goals"),
        "expected candidates, received none": lambda r: r["groups"][0]["cases"][0].update(candidates=[]),
        "expected dnlbook first": lambda r: r["groups"][0]["cases"][0]["candidates"].reverse(),
        "unknown status 'late'": lambda r: r["groups"][0]["cases"][0]["candidates"][1].update(status="late"),
        "is refused and has": lambda r: r["groups"][0]["cases"][0]["candidates"][1].update(status="refused"),
        "lower <= median <= upper": lambda r: r["groups"][0]["cases"][0]["candidates"][1]["value"].update(lower=9e9),
        "expected median of type float": lambda r: r["groups"][0]["cases"][0]["candidates"][0]["value"].pop("median"),
        "no candidate is named 'nobody'": lambda r: r["groups"][0]["cases"][0]["goals"][0].update(against="nobody"),
    }


@pytest.mark.parametrize("message", breaks())
def test_spoilt_results_stop_the_build(results: dict[str, Any], tmp_path: Path, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    assert reading.read(path)["groups"]
    breaks()[message](results)
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(reading.ResultsError, match=re.escape(message)):
        reading.read(path)


def test_missing_results_stop_the_build(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(reading.ResultsError, match="results.json is missing; make bench writes it"):
        reading.read(tmp_path / "results.json")
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(reading.ResultsError, match="results.json is not JSON"):
        reading.read(tmp_path / "results.json")
    with pytest.raises(reading.ResultsError, match="expected results of the group residual"):
        reading.pick(results, "residual")
    (tmp_path / "ideas.json").write_text('[{"group": "residual"}]', encoding="utf-8")
    with pytest.raises(reading.ResultsError, match="expected idea of type str"):
        reading.read_ideas(tmp_path / "ideas.json")
