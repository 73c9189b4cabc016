"""The sequencing depth of cells as a covariate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, column_values, copied, looks_like_counts, obs_frame, resolve_response
from donorwise._core.cells.matrices import row_sums
from donorwise._core.cells.size_factors import METHODS
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError, DonorwiseError
from donorwise.pp._size_factors import check_cells, counts_of_cells, find_factors

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import FloatArray, GroupBy


@documented
def log_depth(
    adata: ad.AnnData,
    *,
    layer: str | None = "counts",
    obs_key: str | None = None,
    normalize: Literal["tmm", "median_ratio", "depth"] = "depth",
    by: str | Sequence[str] | None = None,
    groupby: GroupBy = None,
    key_added: str = "log_depth",
    copy: bool = False,
) -> ad.AnnData | None:
    """Add the centred natural logarithm of every cell's total counts to ``adata.obs``.

    Means of log-normalised values depend on sequencing depth. Where donors differ in depth, this
    cell-level covariate in the formula restores the calibration of comparisons between them and
    costs no degrees of freedom among the donors. Depth is that of all genes: call this before genes are
    selected, or name a column with the totals (``obs_key="total_counts"``).

    Parameters
    ----------
    adata
        Cells x genes.
    {layer_counts}
    obs_key
        A column of obs that holds the total counts, instead of a layer. With ``normalize=`` the layer is read as well.
    normalize
        What the total counts are multiplied by before the logarithm: ``"depth"`` nothing; ``"tmm"`` or
        ``"median_ratio"`` the factor of the cell's unit (:func:`donorwise.pp.size_factors`), which takes out what the
        counts are made of. As values that were normalised by total counts have the same fault, normalise them by the
        effective depth too; the covariate alone mends a part of it.
    by, groupby
        Units, and the groups they are compared in, as in :func:`donorwise.pp.size_factors`.
    key_added
        Name of the new column of obs.
    {copy}

    Returns
    -------
    None, or the copy. ``adata.obs[key_added]`` has mean 0 over the cells, in natural-log units.

    Raises
    ------
    DesignError
        A column of `by` or `groupby` is not there.
    DataError
        If the layer or column is not there, does not hold counts, a cell has none, or the rows are collapsed.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=600, n_genes=50, seed=1)
    >>> dw.pp.log_depth(adata)
    >>> bool(abs(adata.obs["log_depth"].mean()) < 1e-12)
    True
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    log_total = log_depths(adata, layer=layer, obs_key=obs_key, normalize=normalize, by=by, groupby=groupby)
    adata.obs[key_added] = pd.Series(log_total - log_total.mean(), index=adata.obs_names)
    return adata if copy else None


def log_depths(
    adata: ad.AnnData,
    *,
    layer: str | None,
    obs_key: str | None = None,
    normalize: str = "depth",
    by: str | Sequence[str] | None = None,
    groupby: GroupBy = None,
) -> FloatArray:
    """Logarithms of the (effective) depths of cells, (N,), not centred; see :func:`log_depth`."""
    check_option("normalize", normalize, METHODS)
    if normalize == "depth" and (by is not None or groupby is not None):
        raise DonorwiseError("by= and groupby= are for factors of units: give normalize='tmm' too, or leave them out.")
    check_cells(adata)
    total = _totals(adata, layer) if obs_key is None else _column(adata, obs_key)
    bad = ~(np.isfinite(total) & (total > 0))
    if bad.any():
        first = adata.obs_names[np.flatnonzero(bad)[0]]
        raise DataError(
            f"{int(bad.sum()):,} cells have no counts (the first is {first!r}), so the logarithm of their depth is "
            "not defined. Filter them out, or, if genes were left out before, name a column with the totals of all "
            "genes: obs_key=."
        )
    if normalize != "depth":
        counts = counts_of_cells(adata, layer)
        total = find_factors(adata, counts, total, normalize, by=by, groupby=groupby).effective_depth
    return np.log(total)


def _totals(adata: ad.AnnData, layer: str | None) -> FloatArray:
    response = resolve_response(adata, layer=layer)
    if not looks_like_counts(response.matrix):
        raise DataError(
            f"{response.text} does not hold raw counts; name the layer that does, or a column with obs_key=."
        )
    return row_sums(response.matrix)


def _column(adata: ad.AnnData, obs_key: str) -> FloatArray:
    if not pd.api.types.is_numeric_dtype(obs_frame(adata, [obs_key])[obs_key]):
        raise DataError(f"obs[{obs_key!r}] is not numeric; name a column of total counts.")
    return column_values(resolve_response(adata, obs_keys=[obs_key]))[:, 0]
