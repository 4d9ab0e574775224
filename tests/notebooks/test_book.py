"""Rules about the book as a whole: pairs are complete and keys are unique."""

from __future__ import annotations

import shutil
from pathlib import Path

import execute
import nbformat
import pytest
import rules


def test_every_source_has_a_stored_notebook_and_every_notebook_a_source() -> None:
    assert rules.unpaired(execute.NOTEBOOKS) == []


def test_keys_of_claims_and_numbers_are_unique_in_the_book() -> None:
    assert rules.duplicates(execute.NOTEBOOKS) == []


@pytest.mark.parametrize("missing", [".md", ".ipynb"])
def test_a_missing_half_of_a_pair_is_named(tmp_path: Path, missing: str) -> None:
    for suffix in (".md", ".ipynb"):
        (tmp_path / f"part/chapter{suffix}").parent.mkdir(exist_ok=True)
        (tmp_path / f"part/chapter{suffix}").touch()
    assert rules.unpaired(tmp_path) == []
    (tmp_path / f"part/chapter{missing}").unlink()
    (problem,) = rules.unpaired(tmp_path)
    assert problem.endswith(f"has no {missing} beside it")


def test_a_key_that_two_chapters_use_is_named(tmp_path: Path) -> None:
    output = nbformat.v4.new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "1"},
        metadata={"scrapbook": {"name": "a-key", "mime_prefix": "application/papermill.record/"}},
    )
    cell = nbformat.v4.new_code_cell(outputs=[output])
    (tmp_path / "part").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "part/one.ipynb")
    assert rules.duplicates(tmp_path) == []
    shutil.copy(tmp_path / "part/one.ipynb", tmp_path / "part/two.ipynb")
    assert rules.duplicates(tmp_path) == ["a-key is used in part/one, part/two"]
