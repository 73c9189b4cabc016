"""The shares of variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_results
from donorwise.get._select import choose, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def variance_partition(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return how the variance of every feature divides over the terms of the model.

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
    One row per variable x group x term with the columns variable, group, term (``"fixed"``, each random term,
    ``"Residual"``) and fraction; the fractions of a variable in a group sum to 1.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.
    """
    table = read_results(adata, key).variance_partition
    for column, wanted in (("group", group), ("variable", variables), ("term", term)):
        table = choose(table, column, wanted)
    return tidy(table)
