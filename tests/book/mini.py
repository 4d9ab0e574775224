"""A book of four pages that uses every extension, for tests that break things on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from dnlbook.claims import MIME, Record

ROOT = Path(__file__).resolve().parents[2]
#: no address of a repository, whatever machine the tests run on
NO_ADDRESS = {"DNLBOOK_REPOSITORY": "", "GITHUB_REPOSITORY": "", "GITHUB_SERVER_URL": ""}
TOC = """\
format: jb-book
root: book/intro
parts:
  - caption: One part
    numbered: true
    chapters:
      - file: notebooks/part/long_waves
      - file: notebooks/part/tides
  - caption: Back
    chapters:
      - file: book/claims
"""
SLIDER = """\
:::{depth-slider} img/frame-{}.png
---
name: fig-slider
start: 4
symbol: L
frames: |
  2: Two edges that leave the frame.
  4: Four edges inside it.
  8: Nearly a circle.
---
How deep is deep enough? In {numref}`fig-slider` four is.
:::
"""
INTRO = """\
# A small book

It has a {term}`wave`, a theorem {prf:ref}`thm-waves` and an equation {eq}`eq-waves`.
It leads to the claim {claim}`tides-height`, which measured {measured}`tides-height`.
It cites {cite:t}`airy1845`.

@SLIDER@
:::{glossary}
wave
  A shape that moves.
:::

```{bibliography}
```
""".replace("@SLIDER@", SLIDER)
BIBLIOGRAPHY = """\
@book{airy1845, author={Airy, George}, title={Tides and waves}, publisher={Encyclopaedia}, year={1845}}
"""
CHAPTER = """\
# Waves get longer

:::{landing-figure}
:wide: ../../book/img/frame-8.png
:narrow: ../../book/img/frame-2.png
:name: fig-landing
:alt: A plain square.

What is there to see? Nothing yet.
:::

:::{prf:theorem} Length (ours)
:label: thm-waves
Waves satisfy

$$
\\lVert x \\rVert \\le 1 .
$$ (eq-waves)
:::

:::{prf:proof}
By {eq}`eq-waves`.
:::

:::{prf:proof}
:class: dropdown
It takes {eq}`eq-waves` and a page.
:::

:::{prf:proof}
Since $a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9 + a_{10} + a_{11} + a_{12} = 0$, all is said.
:::
"""
TIDES = """\
# Tides are waves

The sea rises by {glue:text}`tides-rise` m or 90 % of that, and falls by {glue:text}`tides-fall` m.
"""
TABLE = "## Claims\n\n:::{claims-table}\n:::\n"


def record(id: str, status: str = "holds", statement: str = "The height is 2_0 * x.") -> Record:
    return Record(id, statement, "Theorem 1.1", "1.00 ± 0.01", "0.9995", "± 0.01", status)


def claim_output(claim: Record) -> nbformat.NotebookNode:
    data = {"text/plain": claim.to_text(), "text/html": claim.to_html(), MIME: claim.to_json()}
    return new_output("display_data", data=data)


def glued(key: str, text: str) -> nbformat.NotebookNode:
    metadata = {"scrapbook": {"name": key, "mime_prefix": "application/papermill.record/"}}
    return new_output("display_data", data={"application/papermill.record/text/plain": text}, metadata=metadata)


def notebook(text: str, claims: list[Record]) -> nbformat.NotebookNode:
    cells = [new_markdown_cell(text)]
    cells += [new_code_cell(f'claim("{c.id}")', execution_count=1, outputs=[claim_output(c)]) for c in claims]
    moves = [glued("tides-rise", "-0.40"), glued("tides-fall", "0.40")]
    cells.append(new_code_cell("glue(...)", execution_count=1, outputs=moves))
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=[*cells, new_markdown_cell(TABLE)], metadata=metadata)


def write(folder: Path) -> Path:
    """Write the sources of the small book; configuration, extensions and assets are those of the real one."""
    shutil.copytree(ROOT / "book" / "_ext", folder / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "assets", folder / "book" / "assets")
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "_toc.yml").write_text(TOC, encoding="utf-8")
    (folder / "book" / "intro.md").write_text(INTRO, encoding="utf-8")
    (folder / "book" / "references.bib").write_text(BIBLIOGRAPHY, encoding="utf-8")
    (folder / "book" / "img").mkdir()
    for depth in (2, 4, 8):
        Image.new("RGB", (64, 48), (255 - 20 * depth, 250, 240)).save(folder / "book" / "img" / f"frame-{depth}.png")
    (folder / "notebooks" / "part").mkdir(parents=True)
    write_chapter(folder, "long_waves", CHAPTER, [record("long-waves-length")])
    write_chapter(folder, "tides", TIDES, [record("tides-height"), record("tides-period")])
    return folder


def write_pages(folder: Path, texts: list[str]) -> Path:
    """The small book with more pages, one per text, called page_0, page_1, ..."""
    write(folder)
    entries = "".join(f"      - file: book/page_{number}\n" for number in range(len(texts)))
    (folder / "_toc.yml").write_text(TOC + entries, encoding="utf-8")
    for number, text in enumerate(texts):
        (folder / "book" / f"page_{number}.md").write_text(f"# Page {number}\n\n{text}\n", encoding="utf-8")
    return folder


def write_chapter(folder: Path, name: str, text: str, claims: list[Record]) -> None:
    nbformat.write(notebook(text, claims), folder / "notebooks" / "part" / f"{name}.ipynb")
