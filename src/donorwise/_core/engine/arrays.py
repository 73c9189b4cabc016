"""What users pass as responses, weights and number of jobs, checked and in one form; and the threads of BLAS."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import OpenBLASController, ThreadpoolController

from donorwise._core.design.build import build_design
from donorwise._core.design.disguise import kept_as_text
from donorwise._core.design.kernel_checks import kernel_warnings, log_ignored
from donorwise._core.design.rivals import hardly_told
from donorwise._core.jobs import Shared
from donorwise._core.wording import suggestion
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import BoolArray, FloatArray


def effective_jobs(n_jobs: int | None) -> int:
    """Number of threads: None takes scanpy's setting where scanpy is in use, else one; -1 all cores."""
    if n_jobs is None:
        scanpy = sys.modules.get("scanpy")
        n_jobs = int(scanpy.settings.n_jobs) if scanpy is not None else 1
    asked: Any = n_jobs
    if not isinstance(asked, int | np.integer) or isinstance(asked, bool) or asked == 0:
        raise DataError(f"n_jobs={n_jobs!r} makes no sense; use a positive whole number, or -1 for all cores.")
    return int(asked) if asked > 0 else max(1, (os.cpu_count() or 1) + 1 + int(asked))


def pass_jobs(n_jobs: int | None) -> int | None:
    """Number of threads of a pass over the cells: None, which is numba's for a matrix in memory, unless one was asked for."""
    jobs = effective_jobs(n_jobs)
    return None if n_jobs is None and jobs == 1 else jobs


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of the process (finding them takes milliseconds)."""
    return ThreadpoolController().select(user_api="blas")


def _limit_blas() -> Callable[[], object]:
    limited = _blas().limit(limits=1)
    _release()

    def undo() -> None:
        limited.restore_original_limits()
        _release()

    return undo


def _release() -> None:
    """Let other threads set the limits: threadpoolctl 3.8 keeps them from it while the one that did is alive."""
    release = getattr(OpenBLASController, "clear_controlling_thread", None)
    if release is not None:
        release()


_LIMITED = Shared(_limit_blas)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS would start threads of its own for every small product, and they would fight over the cores.

    The limit is that of the process, or with OpenMP that of the thread.
    """
    with _blas().select(threading_layer="openmp").limit(limits=1), _LIMITED:
        yield


def as_matrix(Y: Any) -> tuple[Any, tuple[str, ...]]:
    """A two-dimensional container and the names of its columns."""
    if isinstance(Y, pd.Series):
        return _floats(Y.to_numpy())[:, None], (str(Y.name) if Y.name is not None else "y",)
    if isinstance(Y, pd.DataFrame):
        return _floats(Y.to_numpy()), tuple(map(str, Y.columns))
    if sparse.issparse(Y):
        return Y, tuple(f"y{i + 1}" for i in range(Y.shape[1]))
    array = np.asarray(Y)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"Y has {array.ndim} dimensions; it must be a vector or a table (rows x features).")
    return _floats(array), tuple(f"y{i + 1}" for i in range(array.shape[1]))


def _floats(array: np.ndarray) -> np.ndarray:
    try:
        if array.dtype.kind == "c":
            raise TypeError
        return array if array.dtype.kind in "fiub" else array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError("Y must be numeric; it holds values that are not real numbers.") from None


def check_aligned(values: Any, obs: pd.DataFrame, what: str) -> None:
    """Raise where pandas data has the rows of `obs` in another order: it would be read by position."""
    if not isinstance(values, (pd.Series, pd.DataFrame)) or values.index.equals(obs.index):
        return
    if len(values) == len(obs) and values.index.sort_values().equals(obs.index.sort_values()):
        raise DataError(f"The index of {what} holds the rows of obs in another order; use {what}.loc[obs.index].")


def row_values(values: Any, obs: pd.DataFrame, what: str) -> FloatArray:
    """A column of obs by its name, or an array: one number for each row, (N,)."""
    if isinstance(values, str):
        if values not in obs.columns:
            raise DataError(
                f"{what}={values!r} is not a column of obs; {suggestion(values, map(str, obs.columns), 'it has')}"
            )
        values = obs[values]
    check_aligned(values, obs, what)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} must be numbers: a numeric column of obs, or an array.") from None
    if array.shape != (len(obs),):
        count = f"{array.size:,} values" if array.ndim < 2 else f"shape {array.shape}"
        raise DataError(f"{what} has {count} for {len(obs):,} rows; it needs one value for each row.")
    return array


def check_each(good: BoolArray, values: FloatArray, text: str) -> None:
    """Raise, with how many values are bad and the first of them, unless all are good; `text` has `{}` for that."""
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise DataError(text.format(f"{int((~good).sum()):,} are not (the first is {values[first]:g} at row {first})"))


def check_weights(weights: Any, obs: pd.DataFrame) -> FloatArray | None:
    """Weights as a float array (N,), or None."""
    if weights is None:
        return None
    w = row_values(weights, obs, "weights")
    check_each(np.isfinite(w) & (w > 0), w, "weights must be positive and finite; {}. Drop those rows before the fit.")
    return w


def read_arrays(Y: Any, obs: pd.DataFrame) -> tuple[Any, tuple[str, ...]]:
    """Responses that belong to the rows of `obs`, as a two-dimensional container, and their names."""
    matrix, variables = as_matrix(Y)
    check_aligned(Y, obs, "Y")
    if matrix.shape[0] != len(obs):
        raise DataError(f"Y has {matrix.shape[0]:,} rows and obs has {len(obs):,}; they must be the same observations.")
    return matrix, variables


def design_of_arrays(formula: str | ParsedFormula, obs: pd.DataFrame, *, residual: bool = True) -> Design:
    """The design of the rows of `obs`, with warnings, in the name of the caller's caller, of what it leaves out."""
    design = build_design(formula, obs, residual=residual)
    dropped = (
        f"{design.n_dropped:,} of {len(obs):,} rows are left out: a variable of the formula is missing."
        if design.n_dropped
        else ""
    )
    about_kernels = (*kernel_warnings(design), *hardly_told(design))
    log_ignored([design])
    for text in filter(None, (dropped, design.lost.reason, *kept_as_text(design), *about_kernels)):
        warnings.warn(text, DonorwiseWarning, stacklevel=3)
    return design


def check_count(name: str, value: object, smallest: int) -> None:
    """Raise unless `value` is a whole number, `smallest` or more."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < smallest:
        given = repr(value) if isinstance(value, int | float | str) else type(value).__name__
        raise DonorwiseError(f"{name} must be a whole number of at least {smallest}, not {given}.")


def check_max_memory(max_memory: float | None) -> None:
    """Raise unless this is a number of GB, or None."""
    given: Any = max_memory
    if given is not None and not (isinstance(given, int | float | np.number) and given > 0):
        raise DonorwiseError(f"max_memory={max_memory!r} must be a positive number of GB, or None.")
