"""The tables of a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_tables
from donorwise._typing import check_option
from donorwise.get._select import choose, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def calibration(
    adata: ad.AnnData,
    *,
    key: str = keys.CALIBRATION,
    table: str = "levels",
    group: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return a table of :func:`donorwise.tl.calibrate`.

    Parameters
    ----------
    adata
        AnnData that holds a calibration.
    key
        Entry of ``uns`` that holds it.
    table
        ``"levels"`` (observed over nominal at several alpha), ``"groups"`` (what was permuted),
        ``"permutations"`` (lambda, hits, shares per permutation), ``"variables"`` (permutation p-values),
        ``"curves"`` or ``"histogram"``.
    group
        Groups of ``groupby`` to keep; None for all.

    Returns
    -------
    The table, as :func:`donorwise.tl.calibrate` describes it.

    Raises
    ------
    DataError
        There is no such calibration or group.
    DonorwiseError
        There is no such table.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", progress=False)
    >>> dw.get.calibration(adata)["alpha"].tolist()
    [0.05, 0.01, 0.001, 0.0001]
    """
    check_option("table", table, keys.CALIBRATION_TABLES)
    tables = read_tables(adata, key, keys.CALIBRATION_TABLES, made_by="dw.tl.calibrate")
    return tidy(choose(tables[table], "group", group))
