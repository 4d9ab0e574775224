"""The pytest plugin that checks a stored notebook: ``pytest --nbval notebooks/residual/euler.ipynb``.

It builds on nbval, which runs the cells in a kernel, and adds three items per notebook (pair, stored outputs,
conventions), a comparison with tolerances for numbers and figures, and a reproducible kernel.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import comparison
import execute
import pytest
import rules
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

Rule = Callable[[Any, Path], list[str]]
RULES: dict[str, Rule] = {
    "pair": rules.pair_problems,
    "stored outputs": rules.execution_problems,
    "conventions": rules.convention_problems,
}


class ReproducibleKernel(RunningKernel):
    """A kernel of this environment, as the one that stored the outputs."""

    def __init__(self, folder: Path, startup_timeout: float) -> None:
        self.km = execute.new_manager(KernelManager)
        self.km.start_kernel(cwd=str(folder), stderr=subprocess.DEVNULL)
        self.kc = self.km.client()
        self.kc.start_channels()
        self.kc.wait_for_ready(timeout=startup_timeout)
        self._ensure_iopub_up()


class CheckedCell(IPyNbCell):
    """One code cell: it must run, and its outputs must agree with the stored ones."""

    def __init__(self, name: str, parent: IPyNbFile, cell_num: int, cell: Any, options: Any) -> None:
        super().__init__(name, parent, cell_num, cell, options)
        self.output_timeout = 60
        self.comparison_traceback: list[str] = []

    def setup(self) -> None:
        self.parent.start_kernel()
        super().setup()

    def compare_outputs(self, test: Any, ref: Any, skip_compare: Any = None) -> bool:
        self.comparison_traceback = comparison.compare(ref, test, rules.relative_tolerance(self.cell))
        return not self.comparison_traceback


class RuleBroken(Exception):
    """A notebook breaks one of the rules; the message lists the problems."""


class RuleItem(pytest.Item):
    """One rule for one notebook."""

    def __init__(self, rule: Rule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule

    def runtest(self) -> None:
        problems = self.rule(self.parent.nb, self.path)
        if problems:
            raise RuleBroken("\n".join(problems))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, RuleBroken):
            return f"{self.name}: {execute.chapter_name(self.path)}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}::{self.name}"


class CheckedNotebook(IPyNbFile):
    """A stored notebook: its rules, then its cells in one kernel."""

    def collect(self) -> Iterator[pytest.Item]:
        cells = list(super().collect())
        for name, rule in RULES.items():
            yield RuleItem.from_parent(self, name=name, rule=rule)
        for cell in cells:
            yield CheckedCell.from_parent(
                self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options
            )

    def setup(self) -> None:
        """Nothing: the kernel starts with the first cell, so that the rules alone need none."""
        self.resources = ExitStack()

    def start_kernel(self) -> None:
        if self.kernel is None:
            self.resources.enter_context(execute.reproducible_kernels())
            timeout = self.config.option.nbval_kernel_startup_timeout
            self.kernel = ReproducibleKernel(self.path.parent, timeout)

    def teardown(self) -> None:
        try:
            if self.kernel is not None and self.kernel.is_alive():
                self.kernel.stop()
        finally:
            self.resources.close()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, list[Any], list[Any]]:
    """Replace nbval's collector by ours."""
    found = yield
    return [
        CheckedNotebook.from_parent(parent, path=node.path) if type(node) is IPyNbFile else node
        for node in found
    ]
