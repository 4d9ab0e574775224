"""The lists of packages agree with each other and with what the library and the notebooks import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import execute
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = execute.ROOT
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}  # where they differ from the wheels
MODULES = {"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipython", "matplotlib_inline": "ipython"}
NOT_IMPORTED = {"ipykernel", "jupyterlab", "jupytext"}  # they open and run the notebooks
CONDA_BASE = {"python", "pip", "setuptools"}


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines) if r.name != PROJECT["name"]}


CORE = requirements(PROJECT["dependencies"])
READER = CORE | requirements(PROJECT["optional-dependencies"]["notebooks"])
EXTRAS = PROJECT["optional-dependencies"]
EVERYTHING = READER | requirements(line for name, extra in EXTRAS.items() if name != "bench" for line in extra)
#: the benchmarks have an environment of their own: what they compare with may not change the one of the book
LOCKS = {"requirements.lock": EVERYTHING, "benchmarks/requirements.lock": CORE | requirements(EXTRAS["bench"])}


def imported(source: str) -> set[str]:
    """The distributions that a piece of Python imports, other than the standard library and ours."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    own = names - set(sys.stdlib_module_names) - {PROJECT["name"]}
    return {canonicalize_name(MODULES.get(name, name)) for name in own}


def library_imports() -> set[str]:
    return set().union(*(imported(path.read_text()) for path in (ROOT / PROJECT["name"]).rglob("*.py")))


def notebook_imports(path: Path) -> set[str]:
    """What a chapter imports; for a script that stands beside it, what that script imports."""
    code = [cell.source for cell in execute.read_source(path).cells if cell.cell_type == "code"]
    names = set().union(*map(imported, code))
    beside = {canonicalize_name(script.stem): script for script in path.parent.glob("*.py")}
    scripts = names & set(beside)
    return (names - scripts).union(*(imported(beside[name].read_text()) for name in scripts))


def test_the_imports_of_a_cell_are_found() -> None:
    cell = "import torch.nn as nn, os\nfrom sklearn.datasets import load_digits\nfrom dnlbook import flows"
    assert imported(cell) == {"torch", "scikit-learn"}


def test_the_library_declares_what_it_imports_and_nothing_else() -> None:
    assert library_imports() == set(CORE)


def test_a_script_beside_a_chapter_counts_with_what_it_imports(tmp_path: Path) -> None:
    chapter = tmp_path / "chapter.md"
    chapter.write_text("```{code-cell} ipython3\nimport torch\nimport my_training\n```\n")
    (tmp_path / "my_training.py").write_text("import sympy\n")
    assert notebook_imports(chapter) == {"torch", "sympy"}


@pytest.mark.parametrize("path", execute.sources(), ids=execute.chapter_name)
def test_a_notebook_imports_what_a_reader_has(path: Path) -> None:
    assert notebook_imports(path) <= set(READER)


def test_a_reader_installs_nothing_that_no_notebook_uses() -> None:
    used = library_imports().union(*map(notebook_imports, execute.sources()))
    assert set(READER) - NOT_IMPORTED - used == set()


def test_conda_and_the_project_declare_the_same_packages_and_versions() -> None:
    lines = [re.fullmatch(r"([\w.-]+?)((?:[<>=!~].*)?)", line) for line in CONDA["dependencies"]]
    conda = {match[1]: match[2] for match in lines if match and match[1] not in CONDA_BASE}
    project = {CONDA_NAMES.get(name, name): str(requirement.specifier) for name, requirement in READER.items()}
    assert conda == project


def test_conda_takes_the_cpu_build_from_conda_forge_alone() -> None:
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    assert f"python={PROJECT['requires-python'].removeprefix('>=')}" in CONDA["dependencies"]


def pinned(lock: str) -> dict[str, Requirement]:
    return requirements(line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_pins_every_declared_package_within_its_bounds(lock: str) -> None:
    pins = pinned(lock)
    assert set(LOCKS[lock]) <= set(pins)
    for name, requirement in LOCKS[lock].items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), f"{requirement}, {pin}"


def test_the_benchmarks_measure_the_versions_of_the_book() -> None:
    book, benchmarks = (pinned(lock) for lock in LOCKS)
    different = {name for name in set(book) & set(benchmarks) if book[name].specifier != benchmarks[name].specifier}
    assert different == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_build_of_one_machine(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+|#.*", line) for line in lines)
