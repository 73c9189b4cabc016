"""The intraclass correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_results
from donorwise.get._select import choose, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def icc(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the intraclass correlations of every feature as a tidy DataFrame.

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
    One row per variable x group x random term with the columns variable, group, term and icc: the share of
    the variance, beyond the fixed effects, that lies between the levels of the term.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.
    """
    table = read_results(adata, key).icc
    for column, wanted in (("group", group), ("variable", variables), ("term", term)):
        table = choose(table, column, wanted)
    return tidy(table)
