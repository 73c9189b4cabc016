"""The responses of a generalised model, looked at once: counts, or successes of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._anndata.response import where_counts_are
from donorwise._core.cells.examined import Examined, examine
from donorwise._core.engine.pseudobulk import no_counts
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from donorwise._anndata.exposure import Measured
    from donorwise._anndata.response import Response
    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.engine.count_sources import CountStatistics
    from donorwise._core.engine.sources import Source
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray

_YES_AND_NO = (
    "{} has no count above one, so that it says yes or no: family='binomial' is made for that, and with link='cloglog' its "
    "coefficients are logarithms of rates as well."
)


class CountData(NamedTuple):
    """Checked responses: what reads them, what their exposures and trials are called, and what deserves a word.

    `nodes` are where functions of the exposure are interpolated; None where none are.
    """

    source: Source[CountStatistics]
    nodes: Nodes | None
    warnings: tuple[str, ...]
    exposure: str
    trials: str = ""


def examine_responses(
    adata: ad.AnnData,
    obs: pd.DataFrame,
    response: Response,
    kind: Distribution,
    used: BoolArray,
    trials: Measured,
    *,
    detected: bool,
    whole: bool,
    n_jobs: int | None,
) -> Examined:
    """What one pass over the values saw of them, those of all features if `whole`.

    Raises
    ------
    DataError
        A value of a cell in use is no count, or no number of successes; says which, and what to do instead.
    """
    check_detected(kind, detected=detected)
    if kind.counts and response.matrix.dtype.kind == "b":
        raise DataError(f"{response.text} holds yes or no and not counts: use family='binomial'.")
    counts = kind.counts or detected
    most = np.full(len(obs), np.inf) if counts else trials.values
    seen = examine(response.matrix, most, response.features, whole=whole, n_jobs=n_jobs)
    bad = np.flatnonzero(used & (seen.n_bad > 0))
    if bad.size:
        raise _unusable(adata, obs, response, seen, int(bad[0]), None if counts else trials)
    return seen


def check_detected(kind: Distribution, *, detected: bool) -> None:
    """Raise where a family of counts is asked whether there are any."""
    if detected and kind.counts:
        raise DataError(f"response='detected' is yes or no: use family='binomial', not family={kind.name!r}.")


def said_of_values(response: Response, kind: Distribution, largest: float) -> tuple[str, ...]:
    """What deserves a word about values that can be used, and go up to `largest`."""
    return (_YES_AND_NO.format(response.text),) if kind.counts and largest <= 1 else ()


def _unusable(
    adata: ad.AnnData, obs: pd.DataFrame, response: Response, seen: Examined, row: int, trials: Measured | None
) -> DataError:
    """Why the first value that cannot be used cannot, and what to do instead; `trials` of yes and no."""
    value, column = float(seen.value[row]), int(seen.column[row])
    where = f"{_name(adata, response, column)!r} of cell {str(obs.index[row])!r}"
    if np.isnan(value):
        return DataError(
            f"{response.text} has missing values (the first is {where}), and a generalised model takes none: leave these cells "
            "out, or the features that have any."
        )
    if trials is None:
        return no_counts(response.text, f"{value:g} ({where})", where_counts_are(adata, response))
    found = f"{response.text} has the value {value:g} ({where})"
    if trials.text:
        m = trials.values[row]
        return DataError(f"{found}, and successes are whole numbers from 0 to the trials, which are {m:g} there.")
    if value != np.floor(value):
        return DataError(
            f"{found}, and a share does not say of how many: give the successes, and their number as trials=."
        )
    return DataError(
        f"{found}, and family='binomial' needs 0 or 1 (or booleans); give trials= for k of m, or response='detected' to ask "
        "whether a count is above zero."
    )


def _name(adata: ad.AnnData, response: Response, column: int) -> str:
    """The variable in a column of the matrix."""
    if response.aligned_to_var:
        return str(adata.var_names[column])
    at = range(len(response.variables)) if response.features is None else response.features.tolist()
    return dict(zip(at, response.variables, strict=True)).get(column, f"column {column}")
