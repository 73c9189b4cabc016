"""Exposures and trials of cells, checked: what counts are out of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._anndata import keys
from donorwise._core.engine import exposures
from donorwise._core.engine.arrays import row_values
from donorwise._core.engine.exposures import TOTAL, check_exposed
from donorwise.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray, FloatArray

_ALIKE = 0.9  # correlation with the totals, or their logarithms, above which a number is made of them
_ELASTIC = 0.5  # of a number that grows as the totals do it is 1; of their logarithms about 1 / 7
_RAW_OFFSET = "if these are depths or size factors, give them as exposure=, or their logarithm as offset=."


class Measured(NamedTuple):
    """A number of every cell, (N,), and what it is."""

    values: FloatArray
    text: str


def said_of(given: Any) -> str:
    """What params say of a column of obs, of an array, or of nothing."""
    return "" if given is None else given if isinstance(given, str) else keys.ARRAY_WEIGHTS


def numbers_of(obs: pd.DataFrame, given: Any, name: str, used: BoolArray) -> Measured:
    """A column of obs or an array as numbers (N,), finite where cells are in use, and 1 elsewhere."""
    values = np.where(used, row_values(given, obs, name), 1.0)
    refuse(obs, ~np.isfinite(values), f"{name}= is missing or infinite", "leave these cells out first")
    return Measured(values, said_of(given))


def refuse(obs: pd.DataFrame, bad: BoolArray, what: str, instead: str) -> None:
    """Raise where a number of some cells cannot be used, with the first of them."""
    if bad.any():
        first = obs.index[int(np.argmax(bad))]
        raise DataError(f"{what} in {int(bad.sum()):,} of {bad.size:,} cells (the first is {first!r}): {instead}.")


class Exposure(NamedTuple):
    """What was given for exposures, checked by itself; None where nothing was."""

    exposure: Measured | None
    offset: Measured | None


def given_exposure(
    obs: pd.DataFrame, kind: Distribution, used: BoolArray, exposure: Any | None, offset: Any | None
) -> Exposure:
    """What is known of exposures before any value is read.

    The text is of the exposure alone; the values are with the offset.

    Raises
    ------
    DataError
        They are no numbers, not positive, or the family has no exposure.
    """
    if exposure is not None or offset is not None:
        check_exposed(kind)
    own = None if exposure is None else numbers_of(obs, exposure, "exposure", used)
    if own is not None:
        instead = "leave these cells out first, or give logarithms as offset="
        refuse(obs, own.values <= 0, "exposure= is not above zero", instead)
    added = None if offset is None else numbers_of(obs, offset, "offset", used)
    if added is not None and float(np.abs(added.values).max(initial=0.0)) > np.log(np.finfo(np.float64).max):
        raise DataError(f"offset= goes up to {np.abs(added.values).max():.6g}, which is no logarithm: {_RAW_OFFSET}")
    return Exposure(own, added)


def exposure_of(
    obs: pd.DataFrame, given: Exposure, used: BoolArray, total: FloatArray | None, n_features: int
) -> Measured:
    """Exposures (N,): as given, or the total counts of each cell; ones where there are neither.

    The text is of the exposure alone; the values are with the offset.

    Parameters
    ----------
    obs, given, used
        The cells, what was given for them, and which of them are in use.
    total
        Shape (N,). Their total counts; None where these say nothing of the exposure.
    n_features
        Features that these are of.

    Raises
    ------
    DataError
        A cell has no counts, an exposure looks like a logarithm, or an offset like none.
    """
    own, added = given
    if total is not None:
        for measured, check in ((own, check_not_logged), (added, _check_not_raw)):
            if measured is not None:
                check(measured.values[used], total[used])
    else:
        _check_alone(given, used)
    if own is None and added is None and total is not None:
        empty = used & (total <= 0)
        refuse(obs, empty, "There are no counts at all, and so no exposure,", "filter them out, or give exposure=")
        own = Measured(np.where(used, total, 1.0), TOTAL.format(n_features))
    if own is None:
        own = Measured(np.ones(len(obs)), "")
    if added is None:
        return own
    return Measured(own.values * np.exp(added.values), own.text)


def _check_alone(given: Exposure, used: BoolArray) -> None:
    """Raise for what looks like a logarithm, or like none, by itself: there are no totals to compare it with."""
    own, added = given
    if own is not None:
        exposures.check_not_logged(own.values[used], own.text)
    if added is not None:
        exposures.check_not_raw(added.values[used])


def check_not_logged(
    values: FloatArray, total: FloatArray, name: str = "exposure", instead: str = "give offset= for logarithms"
) -> None:
    """Raise where an exposure goes with the logarithm of the totals, and grows much more slowly than they do."""
    if (alike := _likeness(values, total)) and alike.logs > _ALIKE and alike.elasticity < _ELASTIC:
        raise DataError(
            f"{name}= looks like a logarithm: it goes from {values.min():.3g} to {values.max():.3g} with that of the "
            f"cells' total counts. Exposures are on the scale of the counts; {instead}."
        )


def _check_not_raw(values: FloatArray, total: FloatArray) -> None:
    """Raise where an offset goes with the totals themselves."""
    if not (alike := _likeness(values, total)) or not values.min() > 0:
        return
    if alike.totals > max(_ALIKE, alike.logs) and alike.elasticity > _ELASTIC:
        raise DataError(
            f"offset= goes from {values.min():.3g} to {values.max():.3g} as the cells' total counts do, and is to go as their "
            f"logarithm: {_RAW_OFFSET}"
        )


class _Likeness(NamedTuple):
    """Correlation of a number with totals and with their logarithms, and its relative growth for theirs."""

    totals: float
    logs: float
    elasticity: float


def _likeness(values: FloatArray, total: FloatArray) -> _Likeness | None:
    """How a number goes with the totals; None where either is the same in all cells."""
    logs = np.log1p(total)
    if not values.size or np.ptp(logs) == 0 or np.ptp(values) == 0:
        return None
    grown = np.log(values) if values.min() > 0 else np.zeros_like(values)
    alike = np.corrcoef([values, total, logs])[0]
    return _Likeness(float(alike[1]), float(alike[2]), float(np.cov(grown, logs)[0, 1] / logs.var(ddof=1)))


def check_trials(trials: Any | None, kind: Distribution, *, detected: bool) -> None:
    """Raise where trials are given for a response that has none."""
    if trials is not None and kind.counts:
        raise DataError(f"trials= belongs to family='binomial'; counts of family={kind.name!r} have an exposure=.")
    if trials is not None and detected:
        raise DataError("response='detected' has one trial for each cell: leave trials= out.")


def tried(obs: pd.DataFrame, trials: str | FloatArray | None) -> BoolArray | None:
    """Which cells have trials, (N,): those with none say nothing, and are left out; None where there is nothing to tell."""
    given: Any = obs.get(trials) if isinstance(trials, str) else trials
    values = np.asarray(given)
    return values != 0 if given is not None and values.shape == (len(obs),) else None


def trials_of(
    obs: pd.DataFrame, trials: str | FloatArray | None, kind: Distribution, used: BoolArray, *, detected: bool
) -> Measured:
    """Trials (N,): one for each cell if None."""
    check_trials(trials, kind, detected=detected)
    if trials is None:
        return Measured(np.ones(len(obs)), "")
    own = numbers_of(obs, trials, "trials", used)
    bad = (own.values < 1) | (own.values != np.floor(own.values))
    refuse(obs, bad, "trials= is no whole number, zero or more,", "give the number of trials of each cell")
    return own
