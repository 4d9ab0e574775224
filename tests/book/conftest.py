"""The book is built once for all tests, by the worker that comes first; Chromium starts once per file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "book" / "_ext")]

import browser  # noqa: E402
import checks  # noqa: E402
import mini  # noqa: E402


def shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers of a run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def built_once(folder: Path, source: Path, **environment: str) -> checks.Build:
    """Build a book into a folder unless another worker has done so."""
    with FileLock(folder / "lock"):
        record = folder / "build.json"
        if not record.exists():
            build = checks.build_site(source, folder, **environment)
            record.write_text(json.dumps([build.returncode, build.log]), encoding="utf-8")
        returncode, log = json.loads(record.read_text(encoding="utf-8"))
    return checks.Build(folder / "_build" / "html", returncode, log)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> checks.Build:
    """The book of this working tree, built as `make book` does but into a folder of its own."""
    result = built_once(shared(tmp_path_factory, "site"), checks.ROOT)
    if not (result.html / "index.html").exists():
        pytest.fail(f"the book was not built:\n{result.log[-4000:]}", pytrace=False)
    return result


@pytest.fixture(scope="session")
def site(build: checks.Build) -> checks.Site:
    return checks.Site(build.html)


@pytest.fixture(scope="session")
def mini_build(tmp_path_factory: pytest.TempPathFactory) -> checks.Build:
    """A book of a few pages with everything the extensions do, built without an address of its repository."""
    folder = shared(tmp_path_factory, "mini")
    with FileLock(folder / "source.lock"):
        if not (folder / "source").exists():
            mini.write(folder / "source")
    result = built_once(folder, folder / "source", **mini.NO_ADDRESS)
    if result.returncode:
        pytest.fail(f"the small book of the tests was not built:\n{result.log[-4000:]}", pytrace=False)
    return result


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running Chromium; without one the test is skipped and says how to get it."""
    if browser.chromium() is None:
        pytest.skip(browser.NO_CHROMIUM)
    with browser.launch() as running:
        yield running


@pytest.fixture(scope="module")
def address(build: checks.Build) -> Iterator[str]:
    with browser.serve(build.html) as base:
        yield base


@pytest.fixture(scope="module")
def mini_address(mini_build: checks.Build) -> Iterator[str]:
    with browser.serve(mini_build.html) as base:
        yield base
