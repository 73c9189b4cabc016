"""Exposures and trials of cells, checked: what counts are out of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._anndata import count_depth, keys
from donorwise._core.cells.matrices import stored_values
from donorwise._core.engine.arrays import check_aligned
from donorwise._core.engine.pseudobulk import check_counts
from donorwise._core.wording import suggestion
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from donorwise._anndata.response import Response
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray

TOTAL = "<total counts of {} features>"
"""What params call the exposure that is each cell's total."""
_IS_TOTAL = re.compile(re.escape(TOTAL).replace(r"\{\}", r"\d+"))
_LOGGED, _RAW = 20.0, 30.0  # an exposure below the one may be a logarithm; an offset above the other is none
_MANY = 100.0  # counts of a usual cell, where an exposure about its logarithm is one
_ALIKE = 0.9  # correlation


class Measured(NamedTuple):
    """A number of every cell, (N,), and what it is."""

    values: FloatArray
    text: str


def is_total(text: str) -> bool:
    """Whether params mean each cell's total by this."""
    return _IS_TOTAL.fullmatch(text) is not None


def said_of(given: Any) -> str:
    """What params say of a column of obs, of an array, or of nothing."""
    return "" if given is None else given if isinstance(given, str) else keys.ARRAY_WEIGHTS


def numbers_of(obs: pd.DataFrame, given: Any, name: str) -> Measured:
    """A column of obs or an array as finite numbers (N,)."""
    text = said_of(given)
    if isinstance(given, str):
        if given not in obs.columns:
            raise DataError(
                f"{name}={given!r} is not a column of obs; {suggestion(given, map(str, obs.columns), 'it has')}"
            )
        given = obs[given]
    check_aligned(given, obs, name)
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}= must be numbers: a numeric column of obs, or an array.") from None
    if values.shape != (len(obs),):
        raise DataError(f"{name}= has shape {values.shape} for {len(obs):,} cells; it needs one number for each.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{name}= is missing or infinite in {bad:,} of {len(obs):,} cells; leave these out first.")
    return Measured(values, text)


def exposure_of(
    adata: ad.AnnData,
    obs: pd.DataFrame,
    response: Response,
    kind: Distribution,
    *,
    exposure: str | FloatArray | None,
    offset: str | FloatArray | None,
) -> Measured:
    """Exposures (N,): as given, or the total counts of each cell; ones for a family without.

    The text is of the exposure alone; the values are with the offset.

    Raises
    ------
    DataError
        They are not positive, look like logarithms (or an offset like none), or the family has no exposure.
    """
    if not kind.exposed:
        if exposure is not None or offset is not None:
            raise DataError(
                f"family={kind.name!r} with the link {kind.link!r} has no exposure; use link='cloglog', whose "
                "coefficients are logarithms of rates, or put the logarithm of the depth into the formula."
            )
        return Measured(np.ones(len(obs)), "")
    own = Measured(np.ones(len(obs)), "")
    if exposure is not None:
        own = numbers_of(obs, exposure, "exposure")
        _check_not_logged(own.values, response)
    elif response.aligned_to_var and offset is None:
        own = Measured(count_depth(adata, response, None), TOTAL.format(response.matrix.shape[1]))
    _check_positive(own, exposure is not None)
    if offset is None:
        return own
    added = numbers_of(obs, offset, "offset")
    if np.abs(added.values).max(initial=0.0) > _RAW:
        raise DataError(
            f"offset= is on the logarithmic scale and goes up to {np.abs(added.values).max():.6g}, a factor of more than 1e13; "
            "if these are depths, give exposure=, or their logarithm."
        )
    return Measured(own.values * np.exp(added.values), own.text)


def _check_positive(own: Measured, given: bool) -> None:
    bad = int((own.values <= 0).sum())
    if not bad:
        return
    if given:
        raise DataError(f"exposure= must be above zero; in {bad:,} cells it is not (a logarithm belongs into offset=).")
    raise DataError(f"{bad:,} cells have no counts at all, and so no exposure: filter them out, or give exposure=.")


def _check_not_logged(values: FloatArray, response: Response) -> None:
    """Raise where an exposure goes with the logarithm of the cells' totals."""
    if values.max(initial=0.0) > _LOGGED or not response.aligned_to_var:
        return
    from donorwise._core.cells.matrices import row_sums

    total = row_sums(response.matrix)
    usual = float(np.median(total)) if total.size else 0.0
    logs = np.log1p(total)
    if usual > _MANY and values.std() > 0 and np.corrcoef(values, logs)[0, 1] > _ALIKE and values.min() > 1:
        raise DataError(
            f"exposure= looks like a logarithm: it goes from {values.min():.3g} to {values.max():.3g} with that of the "
            "cells' total counts. Exposures are on the scale of the counts; give offset= for logarithms."
        )


def trials_of(obs: pd.DataFrame, trials: str | FloatArray | None, kind: Distribution) -> Measured:
    """Trials (N,): one for each cell if None."""
    if trials is None:
        return Measured(np.ones(len(obs)), "")
    if kind.counts:
        raise DataError(f"trials= belongs to family='binomial'; counts of family={kind.name!r} have an exposure=.")
    own = numbers_of(obs, trials, "trials")
    if ((own.values < 1) | (own.values != np.floor(own.values))).any():
        raise DataError("trials= must be whole numbers, one or more; leave out what was never tried.")
    return own


def check_responses(response: Response, kind: Distribution, *, detected: bool, trials: Measured) -> None:
    """Raise unless responses are counts, or successes of the trials.

    Raises
    ------
    DataError
        Says what was found, and what to do instead.
    """
    if detected and kind.counts:
        raise DataError(f"response='detected' is yes or no: use family='binomial', not family={kind.name!r}.")
    if kind.counts or detected:
        check_counts(response.matrix, response.text)
        return
    most = float(trials.values.max(initial=1.0))
    for chunk in stored_values(response.matrix):
        values = np.asarray(chunk, dtype=np.float64)
        bad = ~((values >= 0) & (values <= most) & (values == np.floor(values)))
        if bad.any():
            found = f"{response.text} has the value {values[bad].flat[0]:g}"
            if trials.text:
                raise DataError(f"{found}, and successes are whole numbers from 0 to the trials (at most {most:g}).")
            raise DataError(
                f"{found}, and family='binomial' needs 0 or 1 (or booleans); give trials= for k of m, or "
                "response='detected' to ask whether a count is above zero."
            )
