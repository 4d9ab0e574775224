"""Which claims changed between two runs of the book?

    python book/compare_claims.py OLD NEW [--summary FILE]

OLD and NEW are folders of stored notebooks.
The answer is a table in Markdown, on the terminal and, with --summary, at the end of a file.
The exit code is 1 if a claim no longer holds or disappeared.
A measured value that moved within its expectation is reported, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLAIM = "application/vnd.dnlbook.claim+json"


@dataclass(frozen=True)
class Change:
    """One claim whose record differs; an absent record is an empty dictionary."""

    id: str
    chapter: str
    old: dict[str, str]
    new: dict[str, str]

    @property
    def verdict(self) -> str:
        if not self.new:
            return "missing"
        if self.new["status"] != "holds":
            return "fails"
        if not self.old:
            return "added"
        return "moved" if self.old["expected"] == self.new["expected"] else "restated"

    @property
    def is_failure(self) -> bool:
        return self.verdict in ("missing", "fails")

    def row(self) -> str:
        measured = [record.get("measured", "–") for record in (self.old, self.new)]
        expected = (self.new or self.old)["expected"]
        return (
            f"| {self.verdict} | `{self.id}` | {self.chapter} | {expected} | {measured[0]} | {measured[1]} |"
        )


def records(folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """The claims in the notebooks of a folder: id to chapter and record."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                record = output.get("data", {}).get(CLAIM)
                if record:
                    found[record["id"]] = (path.relative_to(folder).with_suffix("").as_posix(), record)
    return found


def changes(old: Path, new: Path) -> list[Change]:
    """The claims that differ between two folders, failures first."""
    before, after = records(old), records(new)
    differing = [
        Change(id, (after.get(id) or before[id])[0], before.get(id, ("", {}))[1], after.get(id, ("", {}))[1])
        for id in sorted(before.keys() | after.keys())
        if before.get(id) != after.get(id)
    ]
    return sorted(differing, key=lambda change: not change.is_failure)


def table(found: Sequence[Change], total: int) -> str:
    """The report in Markdown."""
    if not found:
        return f"All {total} claims are unchanged.\n"
    head = [
        f"{len(found)} of {total} claims changed, {sum(change.is_failure for change in found)} of them fail.",
        "",
        "| verdict | claim | chapter | expected | measured before | measured now |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(change.row() for change in found)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--summary", type=Path, help="a file to which the table is appended")
    options = parser.parse_args(arguments)
    for folder in (options.old, options.new):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder")
    found = changes(options.old, options.new)
    report = table(found, len(records(options.old).keys() | records(options.new).keys()))
    print(report, end="")
    if options.summary:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(report)
    return 1 if any(change.is_failure for change in found) else 0


if __name__ == "__main__":
    sys.exit(main())
