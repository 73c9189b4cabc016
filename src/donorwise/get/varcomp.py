"""The variance components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_results
from donorwise.get._select import choose, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def varcomp(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the variance components of every feature as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm`.
    key
        Entry of ``uns`` that holds it.
    group, variables, term
        Which rows to keep, one value or several; None keeps all.

    Returns
    -------
    One row per variable x group x component with the columns variable, group, term (the grouping factor,
    or ``"Residual"``), column1, column2 (``""`` for a variance), variance and sd. A row with a column2 is a
    covariance, and its sd holds the correlation.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.
    """
    table = read_results(adata, key).varcomp
    for column, wanted in (("group", group), ("variable", variables), ("term", term)):
        table = choose(table, column, wanted)
    return tidy(table)
