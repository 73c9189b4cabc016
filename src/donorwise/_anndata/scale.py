"""On which scale the values of a matrix are: which logarithm, or none; and what deserves a word about that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from donorwise._anndata import keys
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

    from donorwise._typing import BoolArray, FloatArray, IntArray

# Natural logarithms: those of 1 + counts per million end at 13.8, and of intensities at about 30.
_MOST_OF_COUNTS, _MOST_OF_ANY = 20.0, 40.0
_ROWS, _COLUMNS = 1_000, 24  # looked at to see whether features have been scaled
_FEWEST_VALUES = 30  # other than zero, for a standard deviation to mean something
_FEWEST_COLUMNS = 5
_FIRST = 100  # values
_NEAR, _AT = 0.25, 0.05  # distance of a standard deviation from one: guessed from some cells, and worked out

_NEEDED = "A linear mixed model needs log-normalised values"
_NO_LOGARITHM = (
    "{} holds values up to {:.3g}, which are no logarithms. " + _NEEDED + ": run sc.pp.normalize_total and sc.pp.log1p "
    "first, or name the layer that holds them. log_fc is left empty."
)
_NEGATIVE = (
    "X holds values below zero (down to {:.3g}), which log1p does not give, whatever uns['log1p'] says: has X been scaled? "
    "Estimates are in its units, and log_fc is left empty. Name the layer of log-normalised values, if there is one."
)
_SCALED = (
    "Every feature of {} that was looked at has a standard deviation of one: it has been scaled, as by sc.pp.scale. "
    "Estimates are in standard deviations, and log_fc is left empty. Name the layer of log-normalised values, if there is "
    "one."
)
_WHICH = (
    "uns['log1p'] speaks of X: whether {} holds logarithms is not known, and log_fc is left empty. If it does, say to "
    "which base: log_base='e' for what sc.pp.log1p gives."
)


def check_log_base(log_base: str | float | None, option: str = "log_base") -> float | None:
    """The base as a number, or None for none given; `option` is what messages call it.

    Raises
    ------
    DataError
        It is no base.
    """
    if log_base is None:
        return None
    try:
        base = math.e if log_base == "e" else float(log_base)
    except (TypeError, ValueError):
        base = math.nan
    if not (np.isfinite(base) and base > 1) or isinstance(log_base, bool):
        raise DataError(f"{option}={log_base!r} is no base of a logarithm: give 'e' (sc.pp.log1p), 2 or 10.")
    return base


def find_log_base(adata: ad.AnnData, sample: Callable[[], np.ndarray], text: str, asked: float | None) -> float:
    """Base of the logarithm of 1 + x (of intensities: of x) that values are; NaN for none.

    ``uns['log1p']`` speaks of X alone: scanpy writes it whatever it took the logarithm of, and what layers hold nobody
    notes, so their base has to be given. So does the note of ``dw.pp.pivot``, whose logarithms may be below zero.

    Parameters
    ----------
    adata
        Has the note.
    sample
        Gives some values of the matrix.
    text
        What it is called, as in :class:`Response`.
    asked
        The base that was given, which the values must not contradict.
    """
    if asked is not None:
        if wrong := _contradiction(sample(), _MOST_OF_ANY, asked):
            raise DataError(f"log_base= says that {text} holds logarithms of 1 + x, and {wrong}: leave log_base= out.")
        return asked
    if text != keys.RESPONSE_X:
        return math.nan
    if keys.LOG1P not in adata.uns:
        return _base_of_pivot(adata, sample)
    base = noted_base(adata)
    return math.nan if _contradiction(sample(), _MOST_OF_COUNTS, base) else base


def are_counts(values: np.ndarray) -> bool:
    """Whether values are all non-negative integers, some above 1."""
    if values.size == 0 or values.dtype.kind == "b" or np.any(values[:_FIRST] % 1 != 0):  # most are told by the first
        return False
    return bool(np.all(np.isfinite(values)) and values.min() >= 0 and values.max() > 1 and np.all(values % 1 == 0))


def noted_base(adata: ad.AnnData) -> float:
    """The base that scanpy noted; natural where it noted none, which is lost on the way through some file formats."""
    noted = adata.uns.get(keys.LOG1P)
    base = noted.get("base") if hasattr(noted, "get") else None
    return math.e if base is None else float(base)


def pivoted_base(adata: ad.AnnData) -> float:
    """The base that ``dw.pp.pivot`` noted of X; NaN where it noted none."""
    noted: Any = adata.uns.get(keys.PIVOT)
    params: Any = noted.get(keys.PARAMS) if hasattr(noted, "get") else None
    base = params.get(keys.LOG_BASE) if hasattr(params, "get") else None
    return (
        float(base) if isinstance(base, float) and base > 1 else math.nan
    )  # else another program's note, or of no logarithm


def _base_of_pivot(adata: ad.AnnData, sample: Callable[[], np.ndarray]) -> float:
    """The same; NaN too where values are larger than its logarithms can be."""
    base = pivoted_base(adata)
    if math.isnan(base):
        return base
    values = sample()
    high = float(np.max(values, initial=0, where=np.isfinite(values)))
    return base if high * math.log(base) <= _MOST_OF_ANY else math.nan


def _contradiction(values: np.ndarray, most: float, base: float) -> str:
    """Why values cannot be logarithms; empty if they can."""
    if not values.size:
        return ""
    if are_counts(values):
        return "its values look like raw counts"
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return f"it has values below zero (down to {low:.3g})"
    return f"it has values up to {high:.3g}" if high * math.log(base) > most else ""


def remark_on(adata: ad.AnnData, values: np.ndarray, matrix: Any, text: str, log_base: float) -> str:
    """What to be told of the scale of X or a layer; empty for nothing.

    Raw counts have a word of their own. Values below zero are said of X only where scanpy noted a logarithm: residuals
    and scores are models' business.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size or are_counts(finite) or finite.max() <= 1:
        return ""
    of_x, noted = text == keys.RESPONSE_X, keys.LOG1P in adata.uns
    if finite.min() < 0:
        return _NEGATIVE.format(float(finite.min())) if of_x and noted else ""
    if float(finite.max()) * math.log(noted_base(adata) if of_x else math.e) > _MOST_OF_COUNTS and np.isnan(log_base):
        return _NO_LOGARITHM.format(text, float(finite.max()))
    if np.isfinite(log_base):
        return _SCALED.format(text) if is_scaled(matrix) else ""
    return _WHICH.format(text) if noted and not of_x else ""


def is_scaled(matrix: Any) -> bool:
    """Whether (nearly) all features have a standard deviation of one, as no logarithms of counts have.

    It is guessed from some cells; what looks like it is worked out for some features from all cells, if these are in
    memory.
    """
    from donorwise._core.cells.matrices import read_columns, sample_rows
    from donorwise._core.cells.stored import Stored

    rows = sample_rows(matrix, _ROWS)
    sd, n = _spread(rows)
    known = np.flatnonzero(n >= _FEWEST_VALUES)
    if not _ones(sd[known], _NEAR):
        return False
    if isinstance(matrix, Stored):
        return True
    some = known[np.unique(np.linspace(0, known.size - 1, _COLUMNS).astype(np.int64))]
    return _ones(np.nanstd(read_columns(matrix, some), axis=0), _AT)


def _ones(sd: FloatArray, within: float) -> bool:
    """Whether nine of ten are one."""
    return sd.size >= _FEWEST_COLUMNS and float((np.abs(sd - 1) < within).mean()) >= 0.9


def _spread(rows: Any) -> tuple[FloatArray, IntArray]:
    """Standard deviation and number of values other than zero of every column."""
    n = rows.shape[0]
    if not n:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    if sp.issparse(rows):
        csc = rows.tocsc().astype(np.float64)
        mean, square = (np.ravel(np.asarray(own.sum(axis=0))) / n for own in (csc, csc.multiply(csc)))
        return np.sqrt(np.clip(square - mean**2, 0, None)), np.diff(csc.indptr).astype(np.int64)
    values = np.asarray(rows, dtype=np.float64)
    seen: BoolArray = np.isfinite(values) & (values != 0)
    with np.errstate(invalid="ignore"):
        return np.std(values, axis=0), seen.sum(axis=0)
