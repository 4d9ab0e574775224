"""The commands that the Makefile, CI and the workflows promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def scripts(workflow: dict[str, Any]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_exists(path: Path) -> None:
    commands = "\n".join(scripts(yaml.safe_load(path.read_text())))
    assert set(re.findall(r"\bmake ([a-z]+)", commands)) <= targets()
    files = re.findall(r"(?:^|python )((?:\.ci|book)/[\w./-]+)", commands, re.MULTILINE)
    assert all((ROOT / file).exists() for file in files)


def test_there_are_three_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["pages", "test", "weekly"]


def test_ci_ends_with_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().splitlines()[-1].startswith("make test")


@pytest.mark.parametrize("only", ["residual/euler", "notebooks/residual/euler.md", "residual/euler.ipynb"])
def test_only_restricts_to_one_chapter(only: str) -> None:
    command = ["make", "--dry-run", "--assume-old=.venv/.installed", "check", "notebooks", f"ONLY={only}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "notebooks/residual/euler.ipynb" in done.stdout
    assert re.search(r"book/execute\.py residual/euler$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(("covered", "code"), [(True, 0), (False, 1)])
def test_the_coverage_gate_closes_under_xdist(tmp_path: Path, covered: bool, code: int) -> None:
    """The options of ``make test`` on a package of which a test runs all or half."""
    (options,) = re.findall(r"-m pytest (-n .*--cov.*)", MAKEFILE)
    (tmp_path / "dnlbook").mkdir()
    (tmp_path / "dnlbook" / "__init__.py").write_text(
        "def one():\n    return 1\n\n\ndef two():\n    return 2\n"
    )
    call = "one(), two()" if covered else "one(), 2"
    test = f"from dnlbook import one, two\n\n\ndef test_one():\n    assert ({call}) == (1, 2)\n"
    (tmp_path / "test_gate.py").write_text(test)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    arguments = options.replace("$(WORKERS)", "1").split()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
    environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert ("Required test coverage of 95% not reached" in done.stdout) == (not covered)
