"""From collapsed rows to a generalised model: which of their counts are meant, whether they do, and what was theirs already."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import keys, read_cells, read_origin, resolve_response
from donorwise._anndata.collapsed_counts import CLOGLOG, check_kept, kept_families, read_row_counts
from donorwise._anndata.exposure import check_trials
from donorwise._anndata.origin import COUNTS, COUNTS_SS, DETECTED, N_CELLS
from donorwise._anndata.slots import column_of, some_of
from donorwise._anndata.values import CountData, check_detected, said_of_values
from donorwise._core.engine.count_sources import RowCountSource
from donorwise._core.engine.exposures import TOTAL_OF_ROWS, check_exposed
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata.origin import Origin
    from donorwise._anndata.response import Response
    from donorwise._core.cells.counted_rows import RowCounts
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray, FloatArray

_OF_COUNTS = f"{keys.LAYER_PREFIX}{COUNTS}"
_ROUNDING = 1e-6  # of a sum of squares
_ABOVE_ONE = (
    "These rows have counts above one ({!r} in row {!r}), and family='binomial' takes yes or no: give response='detected' to "
    "ask whether there are any, or use family='nb'."
)
_OTHER_VALUES = (
    "Which cells have a count is not kept: these rows tell which have {} above zero, and those are not the same cells. "
    "Collapse the cells again, with counts_layer={} and glmm={!r}."
)


def rows_response(
    adata: ad.AnnData,
    kind: Distribution,
    *,
    detected: bool,
    layer: str | None,
    obsm: str | None,
    obs_keys: str | Sequence[str] | None,
    mask_var: str | BoolArray | None,
) -> Response:
    """The counts of collapsed rows, or without any the cells above zero, if they are those that are asked for.

    Raises
    ------
    DataError
        They are not, or the rows lack what the family needs of them; says how they would have it.
    """
    origin, of_values = read_origin(adata), detected and not kind.exposed
    for name, given in (("obsm", obsm), ("obs_keys", obs_keys)):
        if given is not None:
            raise DataError(
                f"{name}= is of cells, and collapsed rows keep the counts of one layer: fit the cells, or make these "
                "responses a layer, and collapse the cells again with that as counts_layer=."
            )
    if origin.counts_layer is not None and layer in (None, COUNTS, origin.counts_layer):
        return resolve_response(adata, layer=COUNTS, mask_var=mask_var)
    if of_values and (layer is None or f"{keys.LAYER_PREFIX}{layer}" == origin.source):
        return resolve_response(adata, layer=DETECTED, mask_var=mask_var)
    check_kept(adata, kind.smooth, detected=of_values)
    have = [f"the means of {origin.source}"]
    have += [] if origin.counts_layer is None else [f"the counts of {origin.counts_layer!r}"]
    raise DataError(
        f"layer={layer!r} is not what was collapsed: these rows have {' and '.join(have)}. Leave layer= out, or collapse the "
        "cells again."
    )


def rows_data(
    adata: ad.AnnData,
    response: Response,
    kind: Distribution,
    used: BoolArray,
    *,
    exposure: Any,
    offset: Any,
    trials: Any,
    detected: bool,
) -> CountData:
    """What collapsed rows say about counts; `used` (N,) are the cells in use.

    Raises
    ------
    DataError
        The rows cannot answer for the family, or have another exposure than the one that is given.
    """
    origin, starts = read_origin(adata), read_cells(adata).starts
    check_detected(kind, detected=detected)
    _check_given(origin, kind, exposure, offset, trials, detected=detected)
    if not (kind.counts or detected):
        _check_yes_or_no(adata, response, used[starts])
    rows = _read(adata, origin, response, kind, detected=detected)
    if kind.exposed:
        _check_counted(adata, used[starts] & ~(rows.exposure > 0))
    source = RowCountSource(
        matrix=response.matrix, features=response.features, distribution=kind, rows=rows, starts=starts
    )
    largest = np.inf if rows.tails is None else rows.tails.largest
    return CountData(
        source=source, exposure=(origin.depth or TOTAL_OF_ROWS) if kind.exposed else "", nodes=rows.nodes,
        warnings=said_of_values(response, kind, largest),
    )  # fmt: skip


def _read(adata: ad.AnnData, origin: Origin, response: Response, kind: Distribution, *, detected: bool) -> RowCounts:
    """What the family needs; yes and no are out of the cells of a row where there is no exposure."""
    if kind.exposed:
        return read_row_counts(adata, kind.smooth, detected=not kind.counts)
    kept = detected and response.text == _OF_COUNTS and CLOGLOG in kept_families(adata)
    if detected and not kept:
        _check_same_cells(adata, origin, response)
    rows = read_row_counts(adata, CLOGLOG if kept else "", detected=detected)
    return replace(rows, exposure=column_of(adata, N_CELLS), shared=rows.shared[:, :0], nodes=None, tails=None)


def _check_given(
    origin: Origin, kind: Distribution, exposure: Any, offset: Any, trials: Any, *, detected: bool
) -> None:
    """Raise where an exposure, an offset or trials are given that are not those of the rows."""
    check_trials(trials, kind, detected=detected)
    if trials is not None:
        raise DataError(
            "trials= belong to cells, and collapsed rows have one for each of them: fit the cells for k of m, or leave it out."
        )
    if exposure is not None or offset is not None:
        check_exposed(kind)
    if offset is not None:
        raise DataError(
            "offset= belongs to cells, whose exposures are in these rows: put exposure * exp(offset) into a column of obs of "
            "the cells, and collapse them again with depth= that column."
        )
    if exposure is not None and not (isinstance(exposure, str) and exposure == origin.depth):
        have = f"the column {origin.depth!r}" if origin.depth else "each cell's total counts"
        again = f"depth={exposure!r}" if isinstance(exposure, str) else "depth= a column of obs that holds it"
        raise DataError(
            f"exposure= belongs to cells, and these rows were collapsed with {have} for it: leave it out, or collapse the cells "
            f"again with {again}."
        )


def _check_counted(adata: ad.AnnData, bad: BoolArray) -> None:
    """Raise where rows in use have no exposure, (K,)."""
    if bad.any():
        raise DataError(
            f"There are no counts at all, and so no exposure, in {int(bad.sum()):,} of {bad.size:,} collapsed rows (the first "
            f"is {str(adata.obs_names[int(np.argmax(bad))])!r}): leave them out."
        )


def _check_yes_or_no(adata: ad.AnnData, response: Response, used: BoolArray) -> None:
    """Raise where a count is above one: of zeros and ones the sum is that of the squares."""
    rows = np.flatnonzero(used)
    total, ss = (_some(adata, name, rows, response) for name in (COUNTS, COUNTS_SS))
    squares = ss + total**2 / column_of(adata, N_CELLS)[rows][:, None]
    bad = np.argwhere(np.abs(squares - total) > _ROUNDING * (1.0 + total))
    if bad.size:
        row, feature = bad[0]
        raise DataError(_ABOVE_ONE.format(response.variables[feature], str(adata.obs_names[rows[row]])))


def _check_same_cells(adata: ad.AnnData, origin: Origin, response: Response) -> None:
    """Raise unless the cells whose modelled values are above zero are those with a count, as far as sums can tell."""
    same = origin.looks_like_counts or bool(np.isfinite(origin.log_base))
    if same and origin.counts_layer is not None:
        total, above = (_some(adata, name, None, response) for name in (COUNTS, DETECTED))
        same = np.array_equal(total > 0, above > 0) and bool((above <= total).all())
    if not same:
        glmm = kept_families(adata)
        layer = "" if origin.counts_layer is None else repr(origin.counts_layer)
        raise DataError(_OTHER_VALUES.format(origin.source, layer, [*glmm, CLOGLOG] if glmm else CLOGLOG))


def _some(adata: ad.AnnData, name: str, rows: Any, response: Response) -> FloatArray:
    return some_of(adata.layers[name], rows, response.features)
