"""Results beside the features, in ``varm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_results, suggest
from donorwise.errors import DataError
from donorwise.get._select import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

COLUMNS = ("estimate", "se", "statistic", "df", "p_value", "adj_p_value", "log_fc", "status")


def to_varm(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Write one DataFrame per contrast (and group) into ``varm``, where it follows subsets of features.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm` for X or a layer. Changed in place.
    key
        Entry of ``uns`` that holds the result.
    contrast, group
        Which to write; None for all.
    columns
        Columns of the results table to keep.

    Raises
    ------
    DataError
        There is no such result, contrast, group or column, or the responses were not features.

    Notes
    -----
    The entries are named ``{key}_{contrast}``, with ``_{group}`` behind where there was a ``groupby``; a
    ``/`` in a name becomes ``_``. Features that were not modelled have missing values.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> dw.get.to_varm(adata, contrast="condition[T.disease]", group="T cell")
    >>> adata.varm["lmm_condition[T.disease]_T cell"].shape
    (20, 8)
    """
    stored = read_results(adata, key)
    if not set(stored.results["variable"].cat.categories) <= set(adata.var_names):
        raise DataError(
            f"The responses of {key!r} are {stored.params['response']}, not features: varm cannot hold them."
        )
    for column in columns:
        if column not in stored.results.columns:
            raise DataError(f"columns: there is no column {column!r}. {suggest(column, stored.results.columns)}")
    table = choose(choose(stored.results, "contrast", contrast), "group", group)
    parts = table.groupby(["contrast", "group"], observed=True, sort=False)
    entries: dict[str, pd.DataFrame] = {}
    for (this_contrast, this_group), part in parts:
        name = _entry_name(key, str(this_contrast), str(this_group) if stored.params["groupby"] else "")
        if name in entries:
            raise DataError(f"Two results would both be varm[{name!r}]; choose contrast= and group=.")
        entries[name] = part.set_index("variable")[list(columns)].reindex(adata.var_names)
    for name, entry in entries.items():
        adata.varm[name] = entry


def _entry_name(key: str, contrast: str, group: str) -> str:
    return "_".join(part for part in (key, contrast, group) if part).replace("/", "_")
