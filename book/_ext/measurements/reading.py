"""Read and check ``benchmarks/results.json`` and ``benchmarks/ideas.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

SCHEMA = 1
SPREAD = {"median": float, "lower": float, "upper": float, "rounds": int}
RUN = {
    "date": str,
    "quick": bool,
    "threads": int,
    "seconds": float,
    "load": dict,
    "machine": dict,
    "versions": dict,
    "groups": list,
}
CASE = {"id": str, "label": str, "work": str, "guard": str, "unit": str}
CASE |= {"candidates": list, "goals": list, "profile": list}
CANDIDATE = {"name": str, "setting": str, "kind": str, "status": str, "points": list}
GOAL = {"against": str, "direction": str, "goal": float, "reached": bool}
IDEA = {"group": str, "idea": str, "factor": float, "kept": bool}


class ResultsError(ExtensionError):
    """The stored measurements are missing or are not what ``make bench`` writes."""


def _expect(value: Any, fields: dict[str, type], place: str) -> dict[str, Any]:
    """Return a record when it has these fields, of these types; whole numbers count as numbers."""
    if not isinstance(value, dict):
        raise ResultsError(f"performance: {place}: expected an object, received {type(value).__name__}")
    for name, kind in fields.items():
        have = value.get(name)
        number = kind is float and isinstance(have, int) and not isinstance(have, bool)
        if not (isinstance(have, kind) or number) or (kind is int and isinstance(have, bool)):
            raise ResultsError(f"performance: {place}: expected {name} of type {kind.__name__}, received {have!r}")
    return value


def _spread(value: Any, place: str) -> dict[str, Any] | None:
    if value is None:
        return None
    _expect(value, SPREAD, place)
    if not value["lower"] <= value["median"] <= value["upper"] or value["rounds"] < 1:
        raise ResultsError(f"performance: {place}: expected lower <= median <= upper over rounds, received {value}")
    return value


def check(content: Any) -> dict[str, Any]:
    """Return results when they have the form that ``make bench`` writes; raises with the place that has not."""
    _expect(content, {"schema": int}, "the file")
    if content["schema"] != SCHEMA:
        raise ResultsError(f"performance: expected schema {SCHEMA}, received {content['schema']}; run make bench")
    _expect(content, RUN, "the file")
    for group in content["groups"]:
        _expect(group, {"id": str, "title": str, "cases": list}, "a group")
        for case in group["cases"]:
            _check_case(_expect(case, CASE, f"a case of {group['id']}"))
    return content


def _check_case(case: dict[str, Any]) -> None:
    place, names = case["id"], []
    if not case["candidates"]:
        raise ResultsError(f"performance: {place}: expected candidates, received none")
    for candidate in case["candidates"]:
        _expect(candidate, CANDIDATE, place)
        if candidate["status"] not in ("measured", "refused"):
            raise ResultsError(f"performance: {place}: unknown status {candidate['status']!r}")
        measured = _spread(candidate.get("value"), f"{place}, {candidate['name']}")
        _spread(candidate.get("ratio"), f"{place}, {candidate['name']}")
        if (measured is None) != (candidate["status"] == "refused"):
            raise ResultsError(f"performance: {place}: {candidate['name']} is {candidate['status']} and has {measured}")
        names.append(candidate["name"])
    if case["candidates"][0]["kind"] != "subject" or case["candidates"][0]["status"] != "measured":
        raise ResultsError(f"performance: {place}: expected dnlbook first, and measured")
    for goal in case["goals"]:
        _expect(goal, GOAL, f"a goal of {place}")
        _spread(goal.get("measured"), f"a goal of {place}")
        if goal["against"] and goal["against"] not in names:
            raise ResultsError(f"performance: {place}: no candidate is named {goal['against']!r}, which a goal is")
    for part in case["profile"]:
        _expect(part, {"part": str, "share": float}, f"the profile of {place}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"performance: {path.name} is missing; make bench writes it") from None
    except ValueError as error:
        raise ResultsError(f"performance: {path.name} is not JSON: {error}") from None


def read(path: Path) -> dict[str, Any]:
    """The results of a full run; raises if the file is missing or malformed, or if the run was a quick one."""
    content = check(_json(path))
    if content["quick"]:
        raise ResultsError(f"performance: {path.name} holds a quick run, which says nothing about speed")
    return content


def read_ideas(path: Path) -> list[dict[str, Any]]:
    """What was tried, with the factor by which it changed the time when it was tried."""
    content = _json(path)
    if not isinstance(content, list):
        raise ResultsError(f"performance: {path.name}: expected a list, received {type(content).__name__}")
    return [_expect(idea, IDEA, path.name) for idea in content]


def cases(results: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Groups and their cases in order."""
    for group in results["groups"]:
        for case in group["cases"]:
            yield group, case


def pick(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The group of that name; raises if the results do not have it."""
    for group in results["groups"]:
        if group["id"] == name:
            return group
    known = ", ".join(group["id"] for group in results["groups"])
    raise ResultsError(f"performance: expected results of the group {name}, received {known}; run make bench")


def shortfall(goal: dict[str, Any]) -> float | None:
    """By which factor a goal is exceeded (above 1) or missed (below 1); None without a measurement.

    >>> shortfall({"goal": 4.0, "direction": "at_least", "measured": {"median": 2.0}})
    0.5
    >>> shortfall({"goal": 2.0, "direction": "at_most", "measured": {"median": 1.0}})
    2.0
    """
    if goal["measured"] is None:
        return None
    ratio = goal["measured"]["median"] / goal["goal"]
    return ratio if goal["direction"] == "at_least" else 1 / ratio
