"""How an AnnData says that its rows stand for many cells: its slots, and what the rows are a collapse of.

``X`` has the means; layers hold ``within_ss``, ``n_detected``, for every covariate ``cov_y:<name>``, of logarithms the
mean ``abundance`` of what they are logarithms of, and of the counts their sums ``counts``, ``counts_ss`` and
``counts_depth``. ``obsm`` has the moments of the covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import keys
from donorwise._anndata.obs import computed
from donorwise._anndata.read import check_format, read_settings
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

COLLAPSED = "donorwise_collapsed"
"""``uns`` key that makes an AnnData a collapsed one."""

N_CELLS, WEIGHT, LOG_WEIGHT = "n_cells", "sum_weights", "sum_log_weights"
DEPTH, N_DEPTH = "mean_depth", "n_depth"
COUNT_DEPTH, COUNT_DEPTH_SS, COUNT_DEPTH_CUBES = "count_depth", "count_depth_ss", "count_depth_cubes"
OWN_COLUMNS = (N_CELLS, WEIGHT, LOG_WEIGHT, DEPTH, N_DEPTH, COUNT_DEPTH, COUNT_DEPTH_SS, COUNT_DEPTH_CUBES)
"""Columns of obs that a collapse adds."""

WITHIN_SS, DETECTED, COVARIATE_Y, ABUNDANCE = "within_ss", "n_detected", "cov_y:", "abundance"
COUNTS, COUNTS_SS, COUNTS_DEPTH = "counts", "counts_ss", "counts_depth"
MEAN, SS, CELLS_MEAN, CELLS_SS = "covariate_mean", "covariate_ss", "covariate_mean_cells", "covariate_ss_cells"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the rows are a collapse of.

    Attributes
    ----------
    by, covariates
        Columns of the cells' obs.
    source
        The matrix, as ``"X"`` or ``"layers/lognorm"``.
    log_base
        Base of its logarithm; NaN for none.
    looks_like_counts
        Whether it held raw counts.
    scale
        What else is to be told of the scale of its values; empty for nothing.
    weights
        Column of the weights, ``"<array>"``, or empty for none.
    counts_layer, depth
        Layer of the counts, ``""`` for X, and the column of the depth, ``""`` for their sum; None without counts.
    dropped
        Features that some of the merged cohorts lacked.
    cells
        A digest of the cells of every source; none in rows of 0.1.
    """

    by: tuple[str, ...]
    covariates: tuple[str, ...] = ()
    source: str = keys.RESPONSE_X
    log_base: float = float("nan")
    looks_like_counts: bool = False
    scale: str = ""
    weights: str = keys.NO_WEIGHTS
    counts_layer: str | None = None
    depth: str | None = None
    dropped: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()


def is_collapsed(adata: ad.AnnData) -> bool:
    """Whether rows stand for many cells, as :func:`donorwise.pp.collapse` made them.

    Raises
    ------
    DataError
        They do, and what says so is gone: they would pass for cells.
    """
    if COLLAPSED in adata.uns:
        return True
    if {N_CELLS, WEIGHT, LOG_WEIGHT}.issubset(adata.obs.columns) and WITHIN_SS in adata.layers:
        raise DataError(
            f"These are collapsed rows without their uns[{COLLAPSED!r}], which anndata.concat leaves out: put cohorts "
            "together with dw.pp.merge_collapsed."
        )
    return False


def has_abundance(adata: ad.AnnData) -> bool:
    """Whether collapsed rows tell fold changes."""
    return ABUNDANCE in adata.layers


def read_origin(adata: ad.AnnData) -> Origin:
    """Read what the rows are a collapse of."""
    check_format(adata.uns[COLLAPSED], COLLAPSED)
    entry = {name: computed(value) for name, value in adata.uns[COLLAPSED].items()}
    _check_slots(adata)
    has_counts = bool(entry["has_counts"])
    return Origin(
        by=_names(entry["by"]),
        covariates=_names(entry["covariates"]),
        source=str(entry["source"]),
        log_base=float(entry["log_base"]),
        looks_like_counts=bool(entry["looks_like_counts"]),
        scale=str(entry.get("scale", "")),  # 0.1 did not keep it
        weights=str(entry["weights"]),
        counts_layer=str(entry["counts_layer"]) if has_counts else None,
        depth=str(entry["depth"]) if has_counts else None,
        dropped=_names(entry["dropped"]),
        cells=_names(entry.get("cells", ())),
    )


def origin_entry(origin: Origin) -> dict[str, Any]:
    """What ``uns`` keeps of an origin."""
    texts = {name: np.array(getattr(origin, name), dtype=object) for name in ("by", "covariates", "dropped", "cells")}
    return texts | {
        keys.FORMAT: keys.FORMAT_VERSION,
        "version": version("donorwise"),
        "source": origin.source,
        "log_base": origin.log_base,
        "looks_like_counts": origin.looks_like_counts,
        "scale": origin.scale,
        "weights": origin.weights,
        "has_counts": origin.counts_layer is not None,
        "counts_layer": origin.counts_layer or "",
        "depth": origin.depth or "",
    }


def kept_uns(adata: ad.AnnData, by: Sequence[str]) -> dict[str, Any]:
    """What ``uns`` says about the columns that rows keep: declared roles, and colours of levels."""
    roles = {role: column for role, column in read_settings(adata).items() if column in by}
    colors = [f"{column}{keys.COLORS_SUFFIX}" for column in by]
    settings = {keys.SETTINGS: {keys.FORMAT: keys.FORMAT_VERSION, **roles}} if roles else {}
    return settings | {name: computed(adata.uns[name]) for name in colors if name in adata.uns}


def check_names(by: Sequence[str], covariates: Sequence[str]) -> None:
    """Raise unless these columns can be those of a collapsed AnnData that is written to a file."""
    names = [*by, *covariates]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if not by:
        raise DesignError("by= names no column: name those that the formulas will need, the donor among them.")
    if repeated is not None:
        raise DesignError(f"{repeated!r} is named twice in by= and covariates=.")
    for name in names:
        if name in OWN_COLUMNS:
            raise DesignError(f"{name!r} is the name of a column that the result has of its own: rename it in obs.")
        if "/" in name:
            raise DesignError(f"{name!r} has a '/', which files treat as a folder: rename the column in obs.")


def _check_slots(adata: ad.AnnData) -> None:
    """Raise where a part that a collapse made is not there any more."""
    missing = [f"obs[{name!r}]" for name in (N_CELLS, WEIGHT, LOG_WEIGHT) if name not in adata.obs.columns]
    missing += [] if WITHIN_SS in adata.layers else [f"layers[{WITHIN_SS!r}]"]
    if missing or adata.X is None:
        raise DataError(f"This collapsed AnnData is not whole: it has no {', '.join(missing or ['X'])}.")


def _names(values: Any) -> tuple[str, ...]:
    return tuple(map(str, np.atleast_1d(values))) if np.size(values) else ()
