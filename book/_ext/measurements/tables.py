"""Numbers and tables of the page, as MyST."""

from __future__ import annotations

import math
import re
from typing import Any

from measurements.reading import cases, shortfall


def factor(value: float) -> str:
    """A ratio with two significant digits, three from 100 on.

    >>> [factor(value) for value in (0.268, 1.96, 9.97, 46.8, 1234.0)]
    ['0.27', '2.0', '10', '47', '1230']
    """
    if value <= 0:
        return f"{value:.2g}"
    digits = 3 if value >= 99.5 else 2
    decimals = max(digits - 1 - math.floor(math.log10(value)), 0)
    rounded = round(value, digits - 1 - math.floor(math.log10(value)))
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:.{decimals}f}"


def spread(value: dict[str, Any]) -> str:
    """A median with its quartiles."""
    middle, low, high = (factor(value[name]) for name in ("median", "lower", "upper"))
    return middle if low == high else f"{middle} ({low} to {high})"


def quantity(value: float, unit: str) -> str:
    """A time or a size in a unit that fits.

    >>> quantity(0.0123, "s"), quantity(2.5e-4, "s"), quantity(14.1e6, "B"), quantity(0.98, "exponent")
    ('12\\xa0ms', '250\\xa0µs', '14\\xa0MB', '0.98')
    """
    if unit == "exponent":
        return f"{value:.2f}"
    scales = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if unit == "s" else (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    name, scale = next(((name, scale) for name, scale in scales if value >= scale), scales[-1])
    return f"{factor(value / scale)}\N{NO-BREAK SPACE}{name}"


def number(text: str) -> str:
    """Spaces in long whole numbers, and none at which an equation could break.

    >>> number("N = 100000")
    'N\\xa0=\\xa0100\\xa0000'
    """
    spaced = re.sub(r"\d{5,}\b", lambda match: f"{int(match[0]):,}".replace(",", "\N{NO-BREAK SPACE}"), text)
    return spaced.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def power(value: float) -> str:
    """An error as a digit and a power of ten.

    >>> power(4.9e-7), power(0.012), power(0.0)
    ('5·10⁻⁷', '1·10⁻²', '0')
    """
    if value == 0:
        return "0"
    digit, _, exponent = f"{value:.0e}".partition("e")
    return f"{digit}·10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def escape(text: str) -> str:
    """Plain text as MyST that shows it unchanged; arguments with quotes become code.

    >>> escape("a_b, memory='store'")
    "a\\\\_b, `memory='store'`"
    """
    words, *rest = re.split(r"(\w+='[^']*')", text)
    shown = re.sub(r"([\\`*_{}\[\]<>$#|~^])", r"\\\1", number(words))
    return shown + (f"`{rest[0]}`{escape(''.join(rest[1:]))}" if rest else "")


def goal_sentence(goal: dict[str, Any], unit: str) -> str:
    """The goal in words.

    >>> goal_sentence({"goal": 7.0, "direction": "at_least", "against": "loop"}, "s")
    'at least 7 times faster'
    """
    value = f"{goal['goal']:g}"
    if not goal["against"]:
        return f"exponent at most {goal['goal']:.1f}"
    less, more = ("less", "as much") if unit == "B" else ("faster", "as long")
    return f"at least {value} times {less}" if goal["direction"] == "at_least" else f"at most {value} times {more}"


def work(group: dict[str, Any], case: dict[str, Any]) -> str:
    """What a case is called among all cases.

    >>> work({"title": "Residual network"}, {"label": "tied"}), work({"title": "Linear problem"}, {"label": "linear"})
    ('Residual network, tied', 'Linear problem')
    """
    repeated = case["label"].lower() in group["title"].lower()
    return escape(group["title"] if repeated else f"{group['title']}, {case['label']}")


def table(rows: list[tuple[str, ...]], *, kind: str = "", widths: str = "") -> str:
    """MyST of a table whose first row is its head; on a phone its rows are records."""
    lines = [":::{list-table}", ":header-rows: 1", f":class: records {kind}".rstrip()]
    lines += [f":widths: {widths}"] if widths else []
    lines.append("")
    for row in rows:
        lines += [f"{'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join([*lines, ":::", ""])


def goals(results: dict[str, Any]) -> str:
    rows = [("work", "against", "goal", "measured", "reached")]
    for group, case in cases(results):
        for goal in case["goals"]:
            measured = "refused" if goal["measured"] is None else spread(goal["measured"])
            if case["unit"] == "exponent" and goal["measured"]:
                measured = f"{goal['measured']['median']:.2f}"
            said = goal_sentence(goal, case["unit"])
            if goal["reached"]:
                verdict = "✓ yes"
            else:
                missed = shortfall(goal)
                verdict = "✗ no" if missed is None else f"✗ no, by a factor of {factor(1 / missed)}"
            rows.append((work(group, case), escape(goal["against"]) or "its own growth", said, measured, verdict))
    reached = [goal["reached"] for _, case in cases(results) for goal in case["goals"]]
    return f"{sum(reached)} of {len(reached)} goals are reached.\n\n" + table(rows, kind="goals")


def group(group: dict[str, Any]) -> str:
    """The work and its check in words, and a table of all candidates for each case, folded if there are several."""
    first, *others = group["cases"]
    again = f"; likewise for {', '.join(escape(case['label']) for case in others)}" if others else ""
    said = f"Work: {escape(first['work'])}{again}.\nChecked first: {escape(first['guard'])}."
    if not others:
        return f"{said}\n\n{candidates(first)}"
    parts = [f"**{escape(case['label'])}**\n\n{candidates(case)}" for case in group["cases"]]
    return "\n\n".join([said, "::::{admonition} All numbers\n:class: dropdown", *parts, "::::"])


def candidates(case: dict[str, Any]) -> str:
    """A table of the candidates of a case; what was only tried stands elsewhere."""
    rows = [("candidate", "memory" if case["unit"] == "B" else "time", "over dnlbook", "error", "rounds")]
    for candidate in case["candidates"]:
        if candidate["kind"] == "idea":
            continue
        name = f"**{escape(candidate['name'])}**"
        if candidate["setting"]:
            name += f" – {escape(candidate['setting'])}"
        error = "–" if candidate["error"] is None else power(candidate["error"])
        if candidate["status"] == "refused":
            rows.append((name, "refused", f"its error is above {power(candidate['tolerance'])}", error, "0"))
            continue
        value, ratio = candidate["value"], candidate["ratio"]
        over = spread(ratio) if ratio else "–"
        rows.append((name, quantity(value["median"], case["unit"]), over, error, str(value["rounds"])))
    return table(rows, kind="measured")


def slower(results: dict[str, Any]) -> str:
    rows = [("work", "faster or smaller", "its share of dnlbook's time or memory")]
    for group, case in cases(results):
        for candidate in case["candidates"]:
            ratio = candidate.get("ratio")
            if candidate["kind"] == "peer" and ratio and ratio["median"] < 1:
                rows.append((work(group, case), f"{escape(candidate['name'])}", spread(ratio)))
    if len(rows) == 1:
        return "In this run no other candidate is faster than dnlbook.\n"
    return table(rows)


def room(case: dict[str, Any], goal: dict[str, Any]) -> str:
    """How much faster than a peer the floor is: what no program of this kind can exceed on this machine."""
    measured = {candidate["name"]: candidate["value"] for candidate in case["candidates"] if candidate["value"]}
    floors = [candidate["name"] for candidate in case["candidates"] if candidate["kind"] == "floor"]
    if goal["direction"] != "at_least" or goal["against"] not in measured or not floors:
        return ""
    at_best = measured[goal["against"]]["median"] / measured[floors[0]]["median"]
    return f"; the floor itself is {factor(at_best)} times faster than this peer"


def missed(results: dict[str, Any], ideas: list[dict[str, Any]]) -> str:
    """For each case with a goal that is not reached: by how much, the profile, and what was tried."""
    parts = []
    for group, case in cases(results):
        unmet = [goal for goal in case["goals"] if not goal["reached"]]
        if not unmet:
            continue
        parts.append(f"**{work(group, case)}.**")
        for goal in unmet:
            said = "refused" if goal["measured"] is None else spread(goal["measured"])
            against = f" against {escape(goal['against'])}" if goal["against"] else ""
            parts[-1] += f" Goal{against}: {goal_sentence(goal, case['unit'])}; measured {said}{room(case, goal)}."
        if case["profile"]:
            shares = ", ".join(f"{escape(part['part'])} {100 * part['share']:.0f} %" for part in case["profile"])
            parts.append(f"Where dnlbook's time goes: {shares}.")
        tried = [
            (escape(candidate["setting"] or candidate["name"]), factor(candidate["ratio"]["median"]), "this run")
            for candidate in case["candidates"]
            if candidate["kind"] in ("variant", "idea") and candidate["ratio"]
        ]
        for idea in ideas:
            if f"{case['id']}-".startswith(f"{idea['group']}-"):
                fate = "kept" if idea["kept"] else "dropped"
                tried.append((escape(idea["idea"]), factor(idea["factor"]), f"when tried; {fate}"))
        if tried:
            parts.append(table([("tried", "factor", "measured"), *tried]))
    return "\n\n".join(parts) + "\n" if parts else "In this run every goal is reached.\n"


def run(results: dict[str, Any]) -> str:
    machine = results["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in machine.get("caches", {}).items()) or "not reported"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    load = results["load"]
    rows = [
        ("", ""),
        ("date", results["date"]),
        ("duration", f"{results['seconds'] / 60:.0f} minutes"),
        ("processor", f"{escape(str(machine['cpu']))}, {machine['cores']} cores, {escape(str(machine['vector']))}"),
        ("caches", escape(caches)),
        ("system", escape(str(machine["system"]))),
        ("threads", str(results["threads"])),
        ("load of the machine", f"{load['before']:.1f} before, {load['after']:.1f} after"),
        ("versions", escape(versions)),
    ]
    return table(rows[1:2] + rows[2:], widths="25 75").replace(":header-rows: 1\n", "")
