"""Ruff on everything, notebooks included, and mypy on the library."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=["ruff", "mypy"])
def test_style(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_docstrings_name_chapters_by_their_titles() -> None:
    """A source such as "chapter *Concatenation is a sum*" is the title of a page of the book."""
    pages = [*ROOT.glob("notebooks/*/*.md"), *ROOT.glob("book/*.md")]
    titles = {title for page in pages for title in re.findall(r"^# (.+)$", page.read_text(), re.MULTILINE)}
    named = set()
    for module in (ROOT / "dnlbook").rglob("*.py"):
        text = " ".join(module.read_text().split())
        for names in re.findall(r"[Cc]hapters? ((?:\*[^*]+\*(?:, | and )?)+)", text):
            named |= {(module.name, name) for name in re.findall(r"\*([^*]+)\*", names)}
    assert named
    assert {(module, name) for module, name in named if name not in titles} == set()
