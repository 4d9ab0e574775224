"""One function over a grid of cases: in parallel, reproducible, and never computed twice.

The work is distributed by joblib: on this machine, or on a cluster under ``joblib.parallel_config("dask")``.
A store keeps each finished case in a file of its own, so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import os
import random
import tempfile
import textwrap
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from dnlbook import _checks

__all__ = ["Failure", "SweepError", "sweep"]

Case = dict[str, Any]
Result = dict[str, Any]

_MANIFEST = "sweep.json"


@dataclass(frozen=True)
class Failure:
    """A case that raised: its arguments, the error in one line, and the traceback of the worker.

    Source: *How to use this book*, the section on heavy computations.

    Examples
    --------
    >>> Failure({"L": 3}, "ValueError: L is odd", "").case
    {'L': 3}
    """

    case: Case
    error: str
    traceback: str


class SweepError(RuntimeError):
    """Some cases of a sweep failed; the others are finished.

    Source: *How to use this book*, the section on heavy computations.

    Attributes
    ----------
    failures : tuple of Failure
    results : list
        In the order of the grid, None for a failed case.

    Examples
    --------
    >>> try:
    ...     sweep(lambda L: {"half": 6 // L}, {"L": [3, 0]}, progress=False)
    ... except SweepError as error:
    ...     error.results, error.failures[0].case
    ([{'half': 2}, None], {'L': 0})
    """

    def __init__(self, failures: Sequence[Failure], results: list[Result | None]) -> None:
        self.failures, self.results = tuple(failures), results
        shown = [f"{failure.case} raised {failure.error}" for failure in failures[:5]]
        more = [f"and {len(failures) - 5} more"] if len(failures) > 5 else []
        head = f"{len(failures)} of {len(results)} cases failed, the others are finished"
        super().__init__("\n  ".join([f"{head}:", *shown, *more]) + "\n" + failures[0].traceback)


def _plain(name: str, value: Any) -> Any:
    """A value as JSON can keep it exactly, or an array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcU":
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    raise TypeError(
        f"function: expected numbers, strings, lists or arrays in the result, received {type(value).__name__} "
        f"under {name!r}"
    )


def _checked_result(result: Any) -> Result:
    if not isinstance(result, Mapping):
        raise TypeError(f"function: expected a dict as result, received {type(result).__name__}")
    wrong = [name for name in result if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"function: expected strings as names in the result, received {wrong[0]!r}")
    return {name: _plain(name, value) for name, value in result.items()}


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identity(function: Callable[..., Any]) -> dict[str, str]:
    """The name of a function, a digest of its code without comments and of what it is bound to, the dtype."""
    bound = ""
    while isinstance(function, functools.partial):
        bound += repr((function.args, sorted(function.keywords.items())))
        function = function.func
    for cell in getattr(function, "__closure__", None) or ():
        bound += repr(cell.cell_contents)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(type(function)))}"
    try:
        code = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed into a console, or a lambda in the middle of a line
        code = ""
    return {"function": name, "version": _digest(code + bound), "dtype": str(torch.get_default_dtype())}


def _write(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file under another name first: it exists as a whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


class _Store:
    """A folder with one file per finished case: its arguments, its numbers as JSON, its arrays beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def opened(cls, folder: Any, identity: dict[str, str]) -> _Store:
        """Create the folder, or check that it belongs to this function."""
        try:
            path = Path(folder)
        except TypeError:
            raise TypeError(f"store: expected a folder, received {type(folder).__name__}") from None
        if path.exists() and not path.is_dir():
            raise ValueError(f"store: expected a folder, received the file {path}")
        path.mkdir(parents=True, exist_ok=True)
        manifest = path / _MANIFEST
        if not manifest.exists():
            if any(path.glob("*.npz")):
                raise ValueError(f"store: expected an empty folder or that of a sweep, {path} has no {_MANIFEST}")
            _write(manifest, lambda file: file.write(json.dumps(identity, indent=1).encode()))
        known = json.loads(manifest.read_text())
        if known != identity:
            what = next(name for name in identity if known.get(name) != identity[name])
            raise ValueError(
                f"store: expected results of {identity}, but {path} holds those of another {what}, {known}; "
                "delete the folder or name another one"
            )
        return cls(path)

    def _path(self, case: Case) -> Path:
        return self.folder / f"{_digest(_key(case))}.npz"

    def load(self, case: Case) -> Result | None:
        """Return the result of a finished case, None for another one."""
        try:
            with np.load(self._path(case), allow_pickle=False) as file:
                entry = json.loads(str(file["entry"]))
                if entry["case"] != json.loads(_key(case)):
                    return None
                return {
                    name: file[f"array_{place}"] if kind == "array" else entry["values"][name]
                    for place, (name, kind) in enumerate(entry["kinds"])
                }
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
            return None  # no file of ours: the case is computed again

    def save(self, case: Case, result: Result) -> None:
        """Write the result of a case; the file appears as a whole."""
        kinds = [(name, "array" if isinstance(value, np.ndarray) else "value") for name, value in result.items()]
        values = {name: value for name, value in result.items() if not isinstance(value, np.ndarray)}
        arrays: dict[str, Any] = {
            f"array_{place}": result[name] for place, (name, kind) in enumerate(kinds) if kind == "array"
        }
        entry = json.dumps({"case": case, "kinds": kinds, "values": values})
        _write(self._path(case), lambda file: np.savez_compressed(file, **arrays, entry=np.array(entry)))


@contextlib.contextmanager
def _reproducible(case: Case, dtype: torch.dtype) -> Iterator[None]:
    """One thread, the caller's default dtype, and global generators seeded by the case, wherever it runs."""
    seed = int(_digest(_key(case))[:8], 16)
    threads, own_dtype = torch.get_num_threads(), torch.get_default_dtype()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(), threadpool_limits(1):
            torch.set_num_threads(1)
            torch.set_default_dtype(dtype)
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(own_dtype)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _run(function: Callable[..., Any], case: Case, store: _Store | None, dtype: torch.dtype) -> Result | Failure:
    """Compute one case in a worker, unless another one has done so."""
    done = store.load(case) if store else None
    if done is not None:
        return done
    try:
        with _reproducible(case, dtype):
            result = _checked_result(function(**case))
    except Exception as error:
        return Failure(case, f"{type(error).__name__}: {error}", traceback.format_exc())
    if store and store.folder.is_dir():  # a worker of a cluster may not see the folder
        store.save(case, result)
    return result


class _Parallel(joblib.Parallel):  # type: ignore[misc]
    """joblib's Parallel; ``print_progress`` is what it calls after each task."""

    bar: Any = None
    before = 0

    def print_progress(self) -> None:
        self.bar.update(self.before + self.n_completed_tasks - self.bar.n)


def _cases(grid: Any) -> list[Case]:
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(f"grid: expected a dict of lists with at least one name, received {grid!r}")
    columns: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise TypeError(f"grid[{name!r}]: expected a list of values, received {values!r}")
        columns[name] = [value.item() if isinstance(value, np.generic | torch.Tensor) else value for value in values]
        for value in columns[name]:
            if not (value is None or isinstance(value, bool | int | float | str)):
                raise TypeError(
                    f"grid[{name!r}]: expected numbers, strings, booleans or None, received {type(value).__name__}"
                )
    cases = [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]
    if len({_key(case) for case in cases}) != len(cases):
        raise ValueError("grid: expected different cases, received one of them twice")
    return cases


def sweep(
    function: Callable[..., Mapping[str, Any]],
    grid: Mapping[str, Sequence[Any]],
    *,
    jobs: int | None = None,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
) -> list[Result]:
    r"""Return ``[function(**case) for case in grid]``, the product of the lists of the grid in its order.

    Each case runs on one thread, in the caller's default dtype, with the global generators of torch, NumPy and
    Python seeded by its arguments, so that the results do not depend on how many workers there are.
    Results are dicts of numbers, strings, lists and arrays; tensors become arrays.

    With a store, a finished case is a file in that folder, written at once or not at all, without pickle.  A
    sweep that was killed goes on where it stopped, and a case that failed is tried again.  The folder belongs
    to one version of one function; what the function calls is not watched.

    Workers come from joblib.  Under ``joblib.parallel_config("dask")`` the same call runs on a Dask cluster;
    the files are written by the workers, and by this process for workers that do not see the folder.
    Source: *How to use this book*, the section on heavy computations.

    Parameters
    ----------
    function : callable
        Called with one value per name of the grid; for several processes it has to be picklable.
    grid : dict of lists
        Numbers, strings, booleans or None.
    jobs : int, optional
        Number of workers, -1 for all cores; what ``joblib.parallel_config`` says unless given, else 1.
    progress : bool
        Show a progress bar.
    store : path, optional

    Returns
    -------
    list of dict
        In the order of the grid: the last name varies fastest.

    Raises
    ------
    SweepError
        If cases failed, after all others are finished; it says which, and carries the other results.
    ValueError, TypeError
        If the grid is no dict of lists or names a case twice, or the store belongs to another function, to
        another version of it or to another default dtype.

    Examples
    --------
    >>> def area(width, height):
    ...     return {"area": width * height}
    >>> sweep(area, {"width": [1, 2], "height": [3.0, 4.0]}, progress=False)
    [{'area': 3.0}, {'area': 4.0}, {'area': 6.0}, {'area': 8.0}]
    """
    if not callable(function):
        raise TypeError(f"function: expected a callable, received {type(function).__name__}")
    if jobs is not None and jobs != -1:
        _checks.positive_int("jobs", jobs)
    cases = _cases(grid)
    kept = None if store is None else _Store.opened(store, _identity(function))
    results: list[Any] = [kept.load(case) if kept else None for case in cases]
    missing = [place for place, result in enumerate(results) if result is None]
    with tqdm(total=len(cases), initial=len(cases) - len(missing), disable=not progress, unit="case") as bar:
        workers = _Parallel(n_jobs=jobs, batch_size=1)
        workers.bar, workers.before = bar, bar.n
        dtype = torch.get_default_dtype()
        found = workers(joblib.delayed(_run)(function, cases[place], kept, dtype) for place in missing)
    for place, result in zip(missing, found, strict=True):
        results[place] = result
        if kept and not isinstance(result, Failure) and kept.load(cases[place]) is None:
            kept.save(cases[place], result)
    failures = [result for result in results if isinstance(result, Failure)]
    if failures:
        raise SweepError(failures, [None if isinstance(result, Failure) else result for result in results])
    return results
