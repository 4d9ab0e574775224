"""One thread, one core, and a description of the machine that names no one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

THREADS = 1
_VARIABLES = {
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "OPENBLAS_NUM_THREADS": str(THREADS),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
PACKAGES = (
    "dnlbook",
    "torch",
    "numpy",
    "scipy",
    "torchdiffeq",
    "torchode",
    "jax",
    "jaxlib",
    "diffrax",
    "voles",
)


def single_thread() -> None:
    """Restrict this process and its children to one thread; call before torch, numpy or jax is imported.

    The process is also bound to one core where the system allows it, because a library may start threads
    that no variable controls.
    """
    os.environ.update(_VARIABLES)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    import torch

    torch.set_num_threads(THREADS)


def version(package: str) -> str | None:
    """The installed version, without the name of a build, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package).partition("+")[0]
    return None


def versions() -> dict[str, str]:
    """The versions of Python and of every package that takes part."""
    found = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: text for name, text in found.items() if text}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Sizes of the caches of one core, as far as the system tells."""
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            caches[f"L{level} {kind.lower()}" if kind != "Unified" else f"L{level}"] = size
    return caches


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


def machine() -> dict[str, Any]:
    """What kind of machine this is: no name of a host or a user, no path."""
    import torch

    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "system": _system(),
    }
