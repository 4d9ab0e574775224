"""Peak memory of a forward and a backward pass, measured by the system in a process of its own.

``tracemalloc`` does not see what torch allocates.  A child process builds its input, runs a small pass to
load everything, asks Linux to forget the peak of its resident set, runs the pass, and reports how much the
peak lies above what was resident before.  The bytes of the gradients that the pass returns are subtracted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: fixed thresholds: large blocks come from the system and go back to it at once, whatever came before
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def available() -> bool:
    """Whether the system reports the peak of the resident set (Linux)."""
    return _STATUS.exists() and _FORGET.exists()


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS}: expected a line {field}, received none")


def peak_above(run: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes by which the peak of the resident set lies above its value before the call, and the result."""
    _FORGET.write_text("5")
    before = _resident("VmRSS:")
    result = run()
    return _resident("VmHWM:") - before, result


def measure(name: str, *sizes: int) -> dict[str, float]:
    """Run a pass of :mod:`benchmarks.groups.passes` in a child process and return what it reports."""
    command = [sys.executable, "-m", "benchmarks.memory", name, *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | _ALLOCATOR, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory of {name} {sizes}: the child process failed\n{done.stderr}")
    report: dict[str, float] = json.loads(done.stdout)
    return report


def report(name: str, sizes: Sequence[int]) -> dict[str, float]:
    """Measure a pass in this process: bytes beyond the gradients, bytes of these, and a fingerprint of them."""
    from benchmarks.groups.passes import PASSES, WARM_UP_DEPTH

    build = PASSES[name]
    *others, _ = sizes
    build(*others, WARM_UP_DEPTH)()
    run = build(*sizes)
    peak, gradients = peak_above(run)
    owned = sum(part.numel() * part.element_size() for part in gradients)
    norm = sum(float(part.double().square().sum()) for part in gradients)
    return {"beyond": float(peak - owned), "gradients": float(owned), "norm": norm}


if __name__ == "__main__":
    from benchmarks.environment import single_thread

    single_thread()
    print(json.dumps(report(sys.argv[1], [int(size) for size in sys.argv[2:]])))
