"""Interleaved timing of candidates that have shown that they do the same work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.profiling import shares
from benchmarks.record import CaseResult, Goal, Judged, Outcome, Spread


class SubjectError(Exception):
    """dnlbook itself misses the error that it has to reach: there is nothing to compare."""


@dataclass(frozen=True)
class Pace:
    """How long to measure: seconds per case, rounds per candidate, and the shortest sample of a clock."""

    seconds: float = 12.0
    fewest: int = 5
    most: int = 41
    sample: float = 5e-3

    def within(self, rounds: float) -> int:
        """As many rounds as that, between the fewest and the most."""
        return min(max(int(rounds), self.fewest), self.most)


QUICK = Pace(seconds=0.2, fewest=2, most=3, sample=1e-4)


@dataclass(frozen=True)
class Candidate:
    """One way to do the work.

    ``run`` is what is timed, ``error`` measures its result, ``tolerance`` is what the error may be.  A floor
    has no error: it does part of the work, ``scale`` times as much of it as the work has.
    """

    name: str
    run: Callable[[], Any]
    error: Callable[[Any], float] | None = None
    tolerance: float = 0.0
    setting: str = ""
    kind: str = "peer"
    scale: float = 1.0


@dataclass(frozen=True)
class Case:
    """A piece of work, its candidates with the subject first, and the goals of the subject.

    A list in place of a candidate holds one peer in several settings: the fastest that passes is taken.
    """

    id: str
    label: str
    work: str
    guard: str
    candidates: tuple[Candidate | list[Candidate], ...]
    goals: tuple[Goal, ...] = ()
    profiled: bool = True


def _seconds(run: Callable[[], Any], repetitions: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repetitions):
        run()
    return (time.perf_counter() - start) / repetitions


def error_of(candidate: Candidate) -> float | None:
    """Run a candidate once and return the error of its result; what is not a number counts as infinite."""
    result = candidate.run()
    if candidate.error is None:
        return None
    error = float(candidate.error(result))
    return error if math.isfinite(error) else math.inf


def _passes(candidate: Candidate, error: float | None) -> bool:
    return error is None or error <= candidate.tolerance


def _outcome(candidate: Candidate, error: float | None) -> Outcome:
    """A candidate before it is timed; an infinite error is stored as none at all."""
    known = None if error is None or math.isinf(error) else error
    tolerance = None if candidate.error is None else candidate.tolerance
    return Outcome(candidate.name, candidate.setting, candidate.kind, known, tolerance)


def best_setting(settings: Sequence[Candidate]) -> tuple[Candidate, float | None]:
    """The fastest setting of a peer that passes, or the one with the smallest error if none does."""
    if not settings:
        raise ValueError("settings: expected at least one, received none")
    tried = [(error_of(candidate), candidate) for candidate in settings]
    passing = [(candidate, error) for error, candidate in tried if _passes(candidate, error)]
    if not passing:
        error, candidate = min(tried, key=lambda pair: math.inf if pair[0] is None else pair[0])
        return candidate, error
    if len(passing) == 1:
        return passing[0]
    times = [min(_seconds(candidate.run) for _ in range(3)) for candidate, _ in passing]
    candidate, error = passing[times.index(min(times))]
    return replace(candidate, setting=f"{candidate.setting} (fastest of {len(settings)} settings)"), error


def sample_times(
    runs: Sequence[Callable[[], Any]],
    pace: Pace,
    *,
    scales: Sequence[float] | None = None,
    together: bool = False,
) -> list[dict[int, float]]:
    """Time functions in turns: per function, the seconds of one call by number of the round.

    A round calls every function that takes part in it, beginning with another one each time.  The
    first function takes part in all rounds; a slow one takes part in some, at least in ``pace.fewest``,
    unless all are to stay together.
    """
    repetitions, costs = [], []
    for run in runs:
        once = _seconds(run)
        repetitions.append(max(1, math.ceil(pace.sample / max(once, 1e-9))))
        costs.append(max(repetitions[-1] * once, 1e-9))
    if together:
        total = pace.within(pace.seconds / sum(costs))
        rounds = [total] * len(runs)
    else:
        total = pace.within(0.4 * pace.seconds / costs[0])
        share = 0.6 * pace.seconds / max(len(runs) - 1, 1)
        rounds = [total, *(min(total, pace.within(share / cost)) for cost in costs[1:])]
    times: list[dict[int, float]] = [{} for _ in runs]
    for number in range(total):
        for place in range(len(runs)):
            i = (place + number) % len(runs)
            if number * rounds[i] % total < rounds[i]:
                scale = 1.0 if scales is None else scales[i]
                times[i][number] = scale * _seconds(runs[i], repetitions[i])
    return times


def ratios(above: dict[int, float], below: dict[int, float]) -> Spread:
    """Median and quartiles of the ratio within a round, over the rounds in which both took part."""
    return Spread.of([above[number] / below[number] for number in above if number in below])


def measure(case: Case, pace: Pace) -> CaseResult:
    """Check all candidates of a case, then time those that passed."""
    outcomes: list[Outcome] = []
    timed: list[tuple[int, Candidate]] = []
    for entry in case.candidates:
        candidate, error = best_setting(entry) if isinstance(entry, list) else (entry, error_of(entry))
        if _passes(candidate, error):
            timed.append((len(outcomes), candidate))
        elif not outcomes:
            raise SubjectError(
                f"{case.id}: {candidate.name} has an error of {error:.3g}, expected at most {candidate.tolerance:.3g}"
            )
        outcomes.append(_outcome(candidate, error))
    times = sample_times(
        [candidate.run for _, candidate in timed], pace, scales=[candidate.scale for _, candidate in timed]
    )
    by_name = {candidate.name: time for (_, candidate), time in zip(timed, times, strict=True)}
    for (place, _), time_of in zip(timed, times, strict=True):
        outcomes[place] = replace(
            outcomes[place], value=Spread.of(list(time_of.values())), ratio=ratios(time_of, times[0])
        )
    profile = shares(timed[0][1].run, seconds=pace.seconds / 12) if case.profiled else ()
    judged = tuple(Judged(goal, _judge(goal, times[0], by_name)) for goal in case.goals)
    return CaseResult(case.id, case.label, case.work, case.guard, "s", tuple(outcomes), judged, profile)


def _judge(goal: Goal, subject: dict[int, float], times: dict[str, dict[int, float]]) -> Spread | None:
    if goal.against not in times:
        return None
    other = times[goal.against]
    return ratios(other, subject) if goal.at_least else ratios(subject, other)
