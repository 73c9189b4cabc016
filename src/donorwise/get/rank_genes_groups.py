"""Results in the form of ``scanpy.tl.rank_genes_groups``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import check_key, keys, read_results
from donorwise.get._select import choose, only_one

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

# scanpy's fields, our columns, and what an untested feature gets (as in scanpy's own t-test; its plots would
# draw a missing fold change as 1)
FIELDS = (
    ("scores", "statistic", np.float64, 0.0),
    ("pvals", "p_value", np.float64, 1.0),
    ("pvals_adj", "adj_p_value", np.float64, 1.0),
    ("logfoldchanges", "log_fc", np.float64, 0.0),
)


def to_rank_genes_groups(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | None = None,
    group: str | None = None,
    key_added: str = keys.RANK_GENES_GROUPS,
) -> None:
    """Write the tests where scanpy looks for marker genes, so that ``sc.get`` and ``sc.pl`` read them.

    The groups of the entry are the groups of ``groupby`` for one contrast; or, with ``group=`` and
    without ``contrast=``, the contrasts within one group.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm`. ``uns[key_added]`` is replaced.
    key
        Entry of ``uns`` that holds the result.
    contrast
        The contrast to show; may be left out where there is only one.
    group
        Show the contrasts of this group instead.
    key_added
        Entry of ``uns`` to write.

    Raises
    ------
    DataError
        There is no such result, contrast or group, or several contrasts to choose from.

    Notes
    -----
    Every feature of the AnnData is listed in every group, sorted by statistic. A feature without a test
    (constant, not estimable, left out by ``mask_var``) gets score 0, fold change 0 and p-value 1, as in scanpy.
    Fold changes are missing where the responses are not on a log scale.

    With one contrast, every ``sc.pl.rank_genes_groups*`` plot shows the cell types in its rows;
    ``groupby=["cell_type", "condition"]`` shows the arms too. The contrasts of one group are no groups of cells, so
    two things that scanpy draws from such groups are not to be had for them: ``rank_genes_groups_violin`` and
    ``values_to_plot=``. :func:`donorwise.pl.donors` draws what a contrast compares.

    Examples
    --------
    >>> import donorwise as dw, scanpy as sc
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> dw.get.to_rank_genes_groups(adata, contrast="condition[T.disease]")
    >>> list(sc.get.rank_genes_groups_df(adata, group="T cell"))
    ['names', 'scores', 'logfoldchanges', 'pvals', 'pvals_adj']
    """
    check_key(key_added)
    stored = read_results(adata, key)
    table, column = _one_family(stored.results, contrast=contrast, group=group)
    aligned = stored.params["response"] != keys.RESPONSE_OBS and not stored.params["response"].startswith("obsm/")
    variables = adata.var_names if aligned else stored.results["variable"].cat.categories
    logged = bool(table["log_fc"].notna().any())
    parts = table.groupby(column, observed=True, sort=True)
    ranked = {name: _ranked(part, variables, logged=logged) for name, part in parts}
    entry: dict[str, Any] = {"params": _scanpy_params(stored.params)}
    for field in ("names", *(f for f, *_ in FIELDS)):
        dtype = [(str(name), object if field == "names" else np.float64) for name in ranked]
        entry[field] = np.rec.fromarrays([part[field].to_numpy() for part in ranked.values()], dtype=dtype)
    adata.uns[key_added] = entry


def _one_family(results: pd.DataFrame, *, contrast: str | None, group: str | None) -> tuple[pd.DataFrame, str]:
    """Rows to show, and the column that holds scanpy's groups."""
    if contrast is None and group is not None:
        return choose(results, "group", group), "contrast"
    wanted = only_one(results, "contrast", contrast)
    return choose(choose(results, "contrast", wanted), "group", group), "group"


def _ranked(part: pd.DataFrame, variables: pd.Index, *, logged: bool) -> pd.DataFrame:
    """One group's features in scanpy's fields, best score first, every feature present."""
    ours = part.set_index(part["variable"].astype(str)).reindex(variables)
    fields = {name: ours[column].astype(dtype).fillna(empty) for name, column, dtype, empty in FIELDS}
    if not logged:
        fields["logfoldchanges"] = ours["log_fc"]
    return (
        ours[[]].assign(names=ours.index.astype(object), **fields).sort_values("scores", ascending=False, kind="stable")
    )


def _scanpy_params(params: dict[str, Any]) -> dict[str, Any]:
    scanpy = {
        "groupby": params["groupby"] or params["donor"],
        "reference": "reference level",
        "method": f"donorwise {params.get('method', keys.LMM)} {params['formula']}",
        "use_raw": False,
        "corr_method": "benjamini-hochberg",
    }
    if params["response"].startswith(keys.LAYER_PREFIX):
        scanpy["layer"] = params["response"].removeprefix(keys.LAYER_PREFIX)
    return scanpy
