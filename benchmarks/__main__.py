"""Run the benchmarks: all of them into ``benchmarks/results.json``, or some of them to look at.

python -m benchmarks                        all groups, writes benchmarks/results.json
python -m benchmarks GROUP...               some groups, writes only with --output
python -m benchmarks --quick --output FILE  small sizes and few rounds, to test the machinery
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import THREADS, machine, single_thread, versions

RESULTS = Path(__file__).with_name("results.json")


def _arguments(argv: list[str] | None, names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; says nothing about speed")
    parser.add_argument("--output", type=Path, help="where to write the results")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.groups if name not in names]:
        parser.error(f"GROUP: expected some of {', '.join(names)}, received {', '.join(unknown)}")
    if arguments.quick and arguments.output is None:
        parser.error("--output: expected a path, since --quick does not replace the results of the book")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"--output: expected a path in an existing folder, received {arguments.output}")
    return arguments


def _show(result: dict[str, Any]) -> None:
    """One case on the terminal."""
    print(f"\n{result['id']}  ({result['work']})")
    for candidate in result["candidates"]:
        if candidate["status"] == "refused":
            print(f"  {candidate['name']:34s} refused, error {candidate['error']} > {candidate['tolerance']}")
            continue
        value, ratio = candidate["value"], candidate["ratio"]
        times = f"x {ratio['median']:.3g} ({ratio['lower']:.3g} .. {ratio['upper']:.3g})" if ratio else ""
        error = "" if candidate["error"] is None else f"  error {candidate['error']:.1e}"
        rounds = f"{value['rounds']} rounds"
        print(f"  {candidate['name']:34s} {value['median']:.4g} {result['unit']}  {times}  {rounds}{error}")
    for goal in result["goals"]:
        measured = "none" if goal["measured"] is None else f"{goal['measured']['median']:.3g}"
        said = f"{goal['direction'].replace('_', ' ')} {goal['goal']:g}"
        against = f" against {goal['against']}" if goal["against"] else ""
        print(f"  goal {said}{against}: {measured}, {'reached' if goal['reached'] else 'NOT reached'}")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Measure and, for a run of all groups or with --output, write the results."""
    single_thread()
    from benchmarks.groups import GROUPS
    from benchmarks.record import write
    from benchmarks.timing import QUICK, Pace

    arguments = _arguments(argv, list(GROUPS))
    chosen = arguments.groups or list(GROUPS)
    if lacking := sorted({item for name in chosen for item in GROUPS[name].missing()}):
        print(f"benchmarks: {', '.join(lacking)} missing; make bench installs all packages", file=sys.stderr)
        return 2
    start, load, groups = time.perf_counter(), os.getloadavg()[0], []
    for name in chosen:
        cases = []
        for result in GROUPS[name].results(arguments.quick, QUICK if arguments.quick else Pace()):
            cases.append(result.as_json())
            _show(cases[-1])
        groups.append({"id": name, "title": GROUPS[name].title, "cases": cases})
    output = arguments.output or (None if arguments.groups else RESULTS)
    if output is not None:
        content = {
            "date": datetime.date.today().isoformat(),
            "quick": arguments.quick,
            "threads": THREADS,
            "seconds": time.perf_counter() - start,
            "load": {"before": load, "after": os.getloadavg()[0]},
            "machine": machine(),
            "versions": versions(),
            "groups": groups,
        }
        write(output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
