"""The package: its wheel installs and imports, and importing it loads nothing that only some of it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def python(program: str, folder: Path) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_wheel_builds_installs_and_imports(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "dnlbook", source / "dnlbook", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copy(ROOT / name, source)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*PIP, "wheel", *offline, f"--wheel-dir={tmp_path}", str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("dnlbook/")}
    assert packed == {f"dnlbook/{path.name}" for path in (source / "dnlbook").iterdir()}
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", f"--target={site}", str(wheel)], check=True)
    modules = sorted(path.stem for path in (site / "dnlbook").glob("*.py") if path.stem != "__init__")
    program = f"""
import importlib, importlib.metadata, json, sys
sys.path.insert(0, {str(site)!r})
loaded = [importlib.import_module(f"dnlbook.{{name}}").__file__ for name in {modules!r}]
print(json.dumps([loaded, sys.modules["dnlbook"].__version__]))
"""
    loaded, version = json.loads(python(program, tmp_path))
    assert len(loaded) == len(modules) > 0
    assert all(Path(file).is_relative_to(site) for file in loaded)
    assert version == PROJECT["version"]


def test_importing_the_package_loads_only_what_it_needs(tmp_path: Path) -> None:
    """Plotting, data sets and notebooks are loaded by the modules that use them, when they are used."""
    heavy = {"matplotlib", "sklearn", "scipy", "IPython", "pandas"}
    floors = [
        "dnlbook",
        "dnlbook.residual",
        "dnlbook.networks",
        "dnlbook.flows",
        "dnlbook.claims",
        "dnlbook.data",
        "dnlbook.generalization",
    ]
    program = f"import sys, {', '.join(floors)}; print(sorted({heavy!r} & set(sys.modules)))"
    assert python(program, tmp_path).strip() == "[]"
