"""Results in the shapes that other packages read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import check_key, feature_names, features_there, keys, read_results, suggest, symbols_of
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._tests import choose, choose_all, meant, only_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._anndata import Symbols
    from donorwise._typing import Groups, Label

# what says "no evidence" in each column
UNTESTED = {"statistic": 0.0, "estimate": 0.0, "log_fc": 0.0, "p_value": 1.0, "adj_p_value": 1.0}


@documented
def matrix(
    adata: ad.AnnData,
    values: Literal["statistic", "estimate", "log_fc", "p_value", "adj_p_value"] = "statistic",
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
    fill: bool = True,
) -> pd.DataFrame:
    """Return one column of the tests as a DataFrame of groups (or contrasts) x features.

    Parameters
    ----------
    {adata_result}
    values
        The column of :func:`donorwise.get.tests` to lay out.
    {key}
    contrast, group, variables
        {keep}
    {symbols}
    fill
        Let a test that was not possible say that there is no evidence: 0, or 1 for p-values. False leaves it
        missing.

    Returns
    -------
    One row per group x contrast and one column per feature, both in the order of the result, float64. The rows
    are named by the group where there is one contrast, by the contrast where there is one group or no ``groupby``,
    and else ``"group | contrast"``. Rows and features without any test are left out.

    Raises
    ------
    DataError
        There is no such result, contrast, group or variable, or nothing that was chosen has such a value.
    DonorwiseError
        `values` is not one of the columns.

    Notes
    -----
    Enrichment methods take it as it is: ``dc.mt.ulm(data=dw.get.matrix(adata), net=net)`` gives the activities of the
    regulators in decoupler's network (Badia-i-Mompel et al. 2022, Bioinformatics Advances 2, vbac016). They refuse
    missing values, hence `fill`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> statistics = dw.get.matrix(adata, contrast="condition[T.disease]")
    >>> list(statistics.index) == list(adata.obs["cell_type"].cat.categories)
    True
    """
    check_option("values", values, tuple(UNTESTED))
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    table = choose_all(stored.results, contrast=contrast, group=group, variable=meant(symbols, variables))
    table = symbols.rename(table)
    wide = table.pivot(index=["group", "contrast"], columns="variable", values=values)
    wide = wide.dropna(how="all").dropna(how="all", axis="columns")
    if wide.empty:
        raise DataError(f"None of the chosen tests of {key!r} has a {values}; dw.get.tests says their status.")
    rows = _row_names(table, grouped=bool(stored.params["groupby"])).loc[wide.index]
    wide = wide.set_axis(pd.Index(rows, name=rows.name)).rename(columns=str)
    return wide.fillna(UNTESTED[values]) if fill else wide


def _row_names(table: pd.DataFrame, *, grouped: bool) -> pd.Series:
    """The name of each row, by group and contrast, called after what it tells."""
    pairs = table[["group", "contrast"]].drop_duplicates()
    group, contrast = pairs["group"].astype(str), pairs["contrast"].astype(str)
    if grouped and contrast.nunique() == 1:
        names = group
    elif group.nunique() == 1:
        names = contrast
    else:
        names = (group + " | " + contrast).rename("group | contrast")
    return names.set_axis(pd.MultiIndex.from_arrays([group, contrast]))


# scanpy's fields, our columns, and what an untested feature gets (as in scanpy's own t-test; its plots would
# draw a missing fold change as 1)
FIELDS = (
    ("scores", "statistic", np.float64, 0.0),
    ("pvals", "p_value", np.float64, 1.0),
    ("pvals_adj", "adj_p_value", np.float64, 1.0),
    ("logfoldchanges", "log_fc", np.float64, 0.0),
)


@documented
def to_rank_genes_groups(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | None = None,
    group: Label | None = None,
    gene_symbols: str | None = None,
    key_added: str = keys.RANK_GENES_GROUPS,
) -> None:
    """Write the tests where scanpy looks for marker genes, so that ``sc.get`` and ``sc.pl`` read them.

    The groups of the entry are the groups of ``groupby`` for one contrast; or, with ``group=`` and
    without ``contrast=``, the contrasts within one group.

    Parameters
    ----------
    adata
        AnnData that holds a result. ``uns[key_added]`` is replaced.
    {key}
    contrast
        The contrast to show; may be left out where there is only one.
    group
        Show the contrasts of this group instead.
    {symbols}
    key_added
        Entry of ``uns`` to write.

    Raises
    ------
    DataError
        There is no such result, contrast or group, or several contrasts to choose from.

    Notes
    -----
    Every feature of the AnnData (of a result of proteins every protein) is listed in every group, sorted by statistic. A feature without a test
    (constant, not estimable, left out by ``mask_var``) gets score 0, fold change 0 and p-value 1, as in scanpy.
    Fold changes are missing where the responses are not on a log scale.

    Scanpy finds expression by ``var_names``: leave `gene_symbols` out for those of its plots that show expression
    (``sc.pl.rank_genes_groups_dotplot`` and its like), which take ``gene_symbols=`` themselves.

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
    symbols = symbols_of(adata, gene_symbols, stored.params)
    table, column = _one_family(stored.results, contrast=contrast, group=group)
    variables = features_there(adata, stored.params)
    variables = stored.results["variable"].cat.categories if variables is None else variables.dropna()
    logged = bool(table["log_fc"].notna().any())
    parts = table.groupby(column, observed=True, sort=True)
    ranked = {name: _ranked(part, variables, symbols, logged=logged) for name, part in parts}
    entry: dict[str, Any] = {"params": _scanpy_params(stored.params)}
    for field in ("names", *(f for f, *_ in FIELDS)):
        dtype = [(str(name), object if field == "names" else np.float64) for name in ranked]
        entry[field] = np.rec.fromarrays([part[field].to_numpy() for part in ranked.values()], dtype=dtype)
    adata.uns[key_added] = entry


def _one_family(results: pd.DataFrame, *, contrast: str | None, group: Label | None) -> tuple[pd.DataFrame, str]:
    """Rows to show, and the column that holds scanpy's groups."""
    if contrast is None and group is not None:
        return choose(results, "group", group), "contrast"
    wanted = only_one(results, "contrast", contrast)
    return choose(choose(results, "contrast", wanted), "group", group), "group"


def _ranked(part: pd.DataFrame, variables: pd.Index, symbols: Symbols, *, logged: bool) -> pd.DataFrame:
    """One group's features in scanpy's fields, best score first, every feature present."""
    ours = part.set_index(part["variable"].astype(str)).reindex(variables)
    fields = {name: ours[column].astype(dtype).fillna(empty) for name, column, dtype, empty in FIELDS}
    if not logged:
        fields["logfoldchanges"] = ours["log_fc"]
    names = np.array([symbols.label(str(name)) for name in ours.index], dtype=object)
    return ours[[]].assign(names=names, **fields).sort_values("scores", ascending=False, kind="stable")


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


COLUMNS = ("estimate", "se", "statistic", "df", "p_value", "adj_p_value", "log_fc", "status")


@documented
def to_varm(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Write one DataFrame per contrast (and group) into ``varm``, where it follows subsets of features.

    Parameters
    ----------
    adata
        AnnData that holds a result for X or a layer. Changed in place.
    {key}
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
    ``/`` in a name becomes ``_``. Features that were not modelled have missing values. Of a result of proteins (``features=`` of
    :func:`donorwise.tl.lmm`) every peptide has the row of its protein.

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
    if features_there(adata, stored.params) is None:
        lost = f", whose names were in var[{stored.features!r}]" if stored.features else ", not features"
        raise DataError(f"The responses of {key!r} are {stored.params['response']}{lost}: varm cannot hold them.")
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
        own = part.set_index(part["variable"].astype(str))[list(columns)]
        entries[name] = own.reindex(feature_names(adata, stored.features)).set_axis(adata.var_names)
    for name, entry in entries.items():
        adata.varm[name] = entry


def _entry_name(key: str, contrast: str, group: str) -> str:
    return "_".join(part for part in (key, contrast, group) if part).replace("/", "_")
