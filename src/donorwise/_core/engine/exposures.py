"""What users pass beside counts and yes/no responses, arrays or columns of obs: exposures, offsets and trials, checked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.engine.arrays import check_each, row_values
from donorwise.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray, FloatArray

TOTAL, TOTAL_OF_ROWS = "<total counts of {} features>", "<total counts>"
"""What params call the exposure that is each cell's total; collapsed rows do not know of how many features."""
_IS_TOTAL = re.compile(r"<total counts( of \d+ features)?>")
_LOGS = (1.5, 20.0)  # logarithms of depths lie here; depths lie above, factors about 1
_LARGEST_LOG = 25.0  # exp of which no one has counted
_LOG_NAMES = ("log_", "log1p", "log10", "log2", "ln_")


def is_total(text: str) -> bool:
    """Whether params mean each cell's total by this."""
    return _IS_TOTAL.fullmatch(text) is not None


def read_offset(exposure: Any, offset: Any, obs: pd.DataFrame, distribution: Distribution) -> FloatArray:
    """Offset of the linear predictor, (N,): log exposure plus offset.

    Raises
    ------
    DataError
        The values are not one number for each row, an exposure is not positive or looks like a logarithm, an offset
        looks like no logarithm, or the family has no exposure.
    """
    out = np.zeros(len(obs))
    if exposure is not None:
        check_exposed(distribution)
        own = row_values(exposure, obs, "exposure")
        check_each(
            np.isfinite(own) & (own > 0),
            own,
            "exposure must be positive and finite; {}. Drop those rows before the fit.",
        )
        check_not_logged(own, name_of(exposure))
        out += np.log(own)
    if offset is not None:
        own = row_values(offset, obs, "offset")
        check_each(np.isfinite(own), own, "offset must be finite; {}. Drop those rows before the fit.")
        check_not_raw(own)
        out += own
    return out


def check_exposed(distribution: Distribution) -> None:
    """Raise for a family without an exposure."""
    if not distribution.exposed:
        raise DataError(
            f"family={distribution.name!r} with the link {distribution.link!r} has no exposure; use link='cloglog', whose "
            "coefficients are logarithms of rates, or put the logarithm of the depth into the formula."
        )


def check_not_logged(values: FloatArray, name: str) -> None:
    """Raise where exposures, in a column of this name, look like logarithms by themselves."""
    if _looks_logged(values) or name.lower().startswith(_LOG_NAMES):
        raise DataError(
            f"exposure looks like logarithms (from {values.min():.4g} to {values.max():.4g}); it must be on the scale of the "
            "counts, such as the total counts of a cell. Pass logarithms as offset= instead (or, if these are none, "
            "their logarithm: offset=np.log(exposure))."
        )


def check_not_raw(values: FloatArray) -> None:
    """Raise where offsets look like no logarithms by themselves."""
    if _looks_raw(values):
        raise DataError(
            f"offset does not look like logarithms (from {values.min():.4g} to {values.max():.4g}); it is added to the linear "
            "predictor. Pass depths, or other values on the scale of the counts, as exposure= instead."
        )


def name_of(values: Any) -> str:
    """What a column is called; empty for an array."""
    name = values if isinstance(values, str) else getattr(values, "name", None)
    return name if isinstance(name, str) else ""


def _looks_logged(values: FloatArray) -> bool:
    """Whether exposures lie where logarithms of depths do, differ and are not whole."""
    low, high = _LOGS
    inside = bool(((values > low) & (values < high)).all())
    return inside and bool(np.ptp(values) > 0 and (values == np.round(values)).mean() < 0.1)


def _looks_raw(values: FloatArray) -> bool:
    """Whether offsets are larger than logarithms are, or whole numbers."""
    whole = bool((values == np.round(values)).all() and np.ptp(values) > 0 and values.min() >= 0 and values.max() > 2)
    return bool(np.abs(values).max(initial=0) > _LARGEST_LOG) or whole


def read_trials(trials: Any, obs: pd.DataFrame, distribution: Distribution) -> FloatArray:
    """Trials of every row, (N,), one if none are given.

    Raises
    ------
    DataError
        They are not whole numbers, or the responses are counts.
    """
    if trials is None:
        return np.ones(len(obs))
    if distribution.counts:
        raise DataError(f"family={distribution.name!r} has no trials; family='binomial' models k of m with trials=m.")
    own = row_values(trials, obs, "trials")
    check_each(
        np.isfinite(own) & (own >= 0) & (own == np.round(own)), own, "trials must be whole numbers, zero or more; {}."
    )
    return own


def check_responses(values: FloatArray, trials: FloatArray, distribution: Distribution, names: tuple[str, ...]) -> None:
    """Raise unless responses (N, G), missing or not, are counts, or successes among the trials (N,)."""
    whole = (values >= 0) & (values == np.round(values)) & np.isfinite(values)
    if distribution.counts:
        _check(
            whole, values, names, "counts: whole numbers, zero or more. Name raw counts, not values that are normalised"
        )
        return
    if (trials == 1).all():
        text = "0 or 1, or booleans. For k of m pass k as Y and m as trials=; for counts, whether they are above zero"
    else:
        text = "the successes, whole numbers from 0 to the trials of the row (not shares)"
    _check(whole & (values <= trials[:, None]), values, names, text)


def _check(good: BoolArray, values: FloatArray, names: tuple[str, ...], text: str) -> None:
    bad = ~good & ~np.isnan(values)
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        raise DataError(
            f"Y has {int(bad.sum()):,} values that do not fit the family (the first is {values[row, column]:g} at row {row} "
            f"of {names[column]!r}); it must hold {text}."
        )
