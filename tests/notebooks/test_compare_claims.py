"""The report of claims that changed between two runs."""

from __future__ import annotations

from pathlib import Path

import compare_claims
import nbformat
import pytest

BASE = {"statement": "S.", "source": "T.", "tolerance": "± 0.1", "status": "holds", "expected": "1.0 ± 0.1"}


def store(folder: Path, **measured: str | None) -> Path:
    """A folder with one chapter whose claims have these measured values; ``fails`` marks a false one."""
    outputs = []
    for name, value in measured.items():
        if value is not None:
            status = "fails" if value == "fails" else "holds"
            record = {**BASE, "id": name, "measured": value, "status": status}
            outputs.append(nbformat.v4.new_output("display_data", data={compare_claims.CLAIM: record}))
    (folder / "part").mkdir(parents=True)
    cell = nbformat.v4.new_code_cell(outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "part" / "one.ipynb")
    return folder


@pytest.mark.parametrize(
    ("old", "new", "verdict", "code"),
    [
        ("1.00", "1.00", None, 0),
        ("1.00", "1.01", "moved", 0),
        ("1.00", "fails", "fails", 1),
        ("1.00", None, "missing", 1),
        (None, "1.00", "added", 0),
    ],
)
def test_verdicts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str | None,
    new: str | None,
    verdict: str | None,
    code: int,
) -> None:
    folders = [
        store(tmp_path / name, kept="2.00", other=value) for name, value in (("old", old), ("new", new))
    ]
    summary = tmp_path / "summary.md"
    assert compare_claims.main([*map(str, folders), "--summary", str(summary)]) == code
    printed = capsys.readouterr().out
    assert summary.read_text() == printed
    if verdict is None:
        assert printed == "All 2 claims are unchanged.\n"
    else:
        assert f"| {verdict} | `other` | part/one | 1.0 ± 0.1 | {old or '–'} | {new or '–'} |" in printed
        assert "`kept`" not in printed and "1 of 2 claims changed" in printed


def test_failures_come_first(tmp_path: Path) -> None:
    old, new = (
        store(tmp_path / "old", a="1.0", b="1.0"),
        store(tmp_path / "new", a="1.1", b="fails"),
    )
    assert [change.verdict for change in compare_claims.changes(old, new)] == ["fails", "moved"]


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare_claims.main([str(tmp_path), str(tmp_path / "nowhere")])
    assert "nowhere is not a folder" in capsys.readouterr().err
