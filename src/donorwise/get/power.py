"""The table of power."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_power
from donorwise.get._select import choose_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def power(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    expression: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what :func:`donorwise.tl.power` predicted as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData that holds the prediction.
    key
        Entry of ``uns`` that holds the result of :func:`donorwise.tl.lmm`.
    contrast, group
        Which rows to keep, one value or several; None keeps all.
    expression
        ``"all"`` features, or the ``"low"``, ``"middle"`` or ``"high"`` third by mean response.

    Returns
    -------
    One row per group, contrast, expression, n_donors, n_cells (of each donor), effect and alpha, with log_fc
    (the effect in log2 units), the mean power over features, its quantiles q10, median and q90, df, n_features,
    status, kind and unit, as :func:`donorwise.tl.power` describes them.

    Raises
    ------
    DataError
        Nothing was computed yet, or there is no such contrast, group or expression.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.power(adata, n_donors=(6, 20), n_cells=(50, 500), progress=False)
    >>> dw.get.power(adata, expression="all").shape[0]
    4
    """
    return choose_all(read_power(adata, key), contrast=contrast, group=group, expression=expression)
