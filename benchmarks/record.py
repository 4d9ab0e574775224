"""What a run leaves behind: measurements, goals, and the file that the page is made from."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise one number per round.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, lower=1.5, upper=2.5, rounds=3)
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"values: expected finite numbers, at least one, received {list(values)}")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, len(values))


@dataclass(frozen=True)
class Goal:
    """What a ratio, or a number of the subject itself, should be.

    ``at_most`` bounds subject / against, ``at_least`` bounds against / subject.  Without ``against`` the
    number itself is bounded, after rounding to one decimal.
    """

    value: float
    at_least: str = ""
    at_most: str = ""

    def __post_init__(self) -> None:
        if self.at_least and self.at_most:
            raise ValueError(
                f"at_least, at_most: expected one of them, received {self.at_least!r} and {self.at_most!r}"
            )

    @property
    def against(self) -> str:
        return self.at_least or self.at_most

    def reached(self, measured: float) -> bool:
        if self.at_least:
            return measured >= self.value
        return measured <= self.value if self.at_most else round(measured, 1) <= self.value


@dataclass(frozen=True)
class Outcome:
    """One candidate of a case: what it measured, or that it was refused because its error was too large."""

    name: str
    setting: str
    kind: str
    error: float | None
    tolerance: float | None
    value: Spread | None = None
    ratio: Spread | None = None
    points: tuple[tuple[int, float], ...] = ()

    @property
    def refused(self) -> bool:
        return self.value is None


@dataclass(frozen=True)
class Judged:
    """A goal and what was measured; without a measurement it is not reached."""

    goal: Goal
    measured: Spread | None

    @property
    def reached(self) -> bool:
        return self.measured is not None and self.goal.reached(self.measured.median)

    def as_json(self) -> dict[str, Any]:
        return {
            "against": self.goal.against,
            "direction": "at_least" if self.goal.at_least else "at_most",
            "goal": self.goal.value,
            "measured": asdict(self.measured) if self.measured else None,
            "reached": self.reached,
        }


@dataclass(frozen=True)
class CaseResult:
    """All candidates of one piece of work; the first is the subject, dnlbook."""

    id: str
    label: str
    work: str
    guard: str
    unit: str
    outcomes: tuple[Outcome, ...]
    goals: tuple[Judged, ...]
    profile: tuple[tuple[str, float], ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        candidates = [
            asdict(outcome) | {"status": "refused" if outcome.refused else "measured"} for outcome in self.outcomes
        ]
        return {
            "id": self.id,
            "label": self.label,
            "work": self.work,
            "guard": self.guard,
            "unit": self.unit,
            "candidates": candidates,
            "goals": [judged.as_json() for judged in self.goals],
            "profile": [{"part": part, "share": share} for part, share in self.profile],
        }


def _rounded(value: Any) -> Any:
    """Five significant digits: the rest is noise, and makes the file long."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old results or the new ones."""
    text = json.dumps(_rounded({"schema": SCHEMA} | content), indent=1, allow_nan=False, ensure_ascii=False)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
