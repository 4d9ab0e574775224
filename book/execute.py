"""Run chapters and store their outputs.

    python book/execute.py                     every chapter
    python book/execute.py residual/euler      one or several

The source of a chapter is ``notebooks/<part>/<name>.md``; the outputs go to the ``.ipynb`` beside it.
Two runs on one machine give the same bytes: a kernel has one thread, a fixed hash seed and a fresh profile,
and nothing in the file depends on the time of day.
A chapter that fails keeps its old ``.ipynb``.

    python book/execute.py --into FOLDER       store elsewhere, and go on after errors

This tells what another set of packages changes; see ``compare_claims.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import jupytext
import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
CELL_METADATA = ("tags", "mystnb")
SLOW = 60.0  # seconds: what a chapter may take
CELL_TIMEOUT = 600
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
Manager = TypeVar("Manager", bound=KernelManager)


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter; ``error`` is empty when its outputs were stored."""

    chapter: str
    cells: int
    seconds: float
    total: int
    largest: int
    error: str = ""

    def report(self) -> str:
        if self.error:
            return f"{self.chapter}: FAILED after {self.seconds:.1f} s\n{self.error}"
        slow = f"  (slow: the budget is {SLOW:.0f} s)" if self.seconds > SLOW else ""
        return (
            f"{self.chapter}: {self.cells} code cells, {self.seconds:.1f} s, "
            f"outputs {self.total / 1e3:.0f} kB, largest cell {self.largest / 1e3:.0f} kB{slow}"
        )


def chapter_name(path: Path) -> str:
    """``residual/euler`` for ``notebooks/residual/euler.md`` or ``.ipynb``."""
    return "/".join(path.with_suffix("").parts[-2:])


def sources(only: Iterable[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """The MyST sources of the chapters that are named, of all when none is."""
    available = sorted(p for p in folder.rglob("*.md") if ".ipynb_checkpoints" not in p.parts)
    chosen = []
    for name in only:
        key = name.removeprefix("notebooks/").removesuffix(".md").removesuffix(".ipynb")
        path = folder / f"{key}.md"
        if path not in available:
            names = ", ".join(chapter_name(p) for p in available) or "none"
            raise ValueError(f"there is no chapter {name!r}; expected one of: {names}")
        chosen.append(path)
    return chosen or available


def read_source(path: Path) -> NotebookNode:
    """The notebook that a MyST source describes, with the metadata and cell ids that are stored."""
    notebook = jupytext.read(path, fmt="md:myst")
    metadata = dict(notebook.metadata)
    pairing = {
        key: value for key, value in metadata.get("jupytext", {}).items() if key != "text_representation"
    }
    metadata |= {"jupytext": pairing, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[digest] += 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def kernel_environment(folder: str) -> dict[str, str]:
    """Variables that make a kernel reproducible; ``folder`` holds its profile and its sockets.

    The number of threads is one unless it is set from outside.
    """
    return {name: os.environ.get(name, "1") for name in THREADS} | {
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "IPYTHONDIR": folder,
        "JUPYTER_RUNTIME_DIR": folder,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


@contextmanager
def reproducible_kernels(**fixed: str) -> Iterator[None]:
    """Start kernels inside this context: they inherit :func:`kernel_environment`, updated with ``fixed``."""
    import matplotlib.font_manager  # noqa: F401  builds the font cache once, or its notice lands in an output

    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
        os.environ.update(kernel_environment(folder) | fixed)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class ThisEnvironment(KernelSpecManager):
    """Whatever a notebook names, the kernel is the Python that runs this file, and it keeps its log short."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(extra_arguments=["--log-level=ERROR"]))


def new_manager(kind: type[Manager]) -> Manager:
    """A kernel manager that talks over files: two kernels that start together cannot take one port."""
    connection = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"{secrets.token_hex(4)}.json"
    return kind(kernel_spec_manager=ThisEnvironment(), transport="ipc", connection_file=str(connection))


def run(path: Path, into: Path | None = None) -> Outcome:
    """Execute one chapter and replace its ``.ipynb``, if every cell ran.

    With ``into``, that folder receives the outputs instead, whatever happens in the cells.
    """
    start = time.perf_counter()
    notebook = read_source(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(
        notebook,
        km=new_manager(AsyncKernelManager),
        timeout=CELL_TIMEOUT,
        allow_errors=into is not None,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    error = ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as exception:
        error = _explain(code, f"{type(exception).__name__}:\n{exception}")
    else:
        failed = _first_error(code)
        if failed is not None:
            error = _explain(code, failed.ename + ":\n" + "\n".join(failed.traceback))
    seconds = time.perf_counter() - start
    sizes = [len(json.dumps(cell.outputs)) for cell in code] or [0]
    if into is not None or not error:
        target = path.with_suffix(".ipynb") if into is None else into / f"{chapter_name(path)}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        _keep_what_is_stored(notebook)
        nbformat.validate(notebook)
        write_atomically(target, nbformat.writes(notebook) + "\n")
    return Outcome(chapter_name(path), len(code), seconds, sum(sizes), max(sizes), error)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old content or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _keep_what_is_stored(notebook: NotebookNode) -> None:
    """Drop what the run added beside the outputs, and join the pieces of each stream."""
    notebook.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Streams arrive in pieces whose number depends on timing: one piece per name between other outputs."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _first_error(code: Sequence[NotebookNode]) -> NotebookNode | None:
    """The first error that a cell stored without being expected to."""
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                return output
    return None


def _explain(code: Sequence[NotebookNode], message: str) -> str:
    """Where it stopped: the cell with the first error, or the last one that was started, and the message."""
    failed = _first_error(code)
    started = [i for i, cell in enumerate(code) if cell.execution_count or failed in cell.outputs]
    number = next((i for i in started if failed in code[i].outputs), started[-1] if started else 0)
    lines = ANSI.sub("", message).strip().splitlines()
    quoted = [f"    {line}" for line in code[number].source.splitlines()]
    ending = [f"    {line}" for line in lines[1:][-12:]]
    return "\n".join([f"  code cell {number} of {len(code)}:", *quoted, f"  {lines[0]}", *ending])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "chapters", nargs="*", metavar="part/name", help="chapters to run; all when none is named"
    )
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the chapters are")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="store the outputs in this folder")
    options = parser.parse_args(arguments)
    try:
        paths = sources(options.chapters, options.folder.resolve())
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    with (
        reproducible_kernels(**dict.fromkeys(THREADS, "1")),
        ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool,
    ):
        for outcome in pool.map(partial(run, into=options.into), paths):
            print(outcome.report(), flush=True)
            failed += bool(outcome.error)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
