"""Sets of genes on the tests of a model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import check_is_anndata, copied, keys, read_results, symbols_of, write_gene_sets
from donorwise._anndata.recover import recover
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.gene_sets import SetOptions, gene_sets_table, without_donors
from donorwise._core.engine.set_lists import match_sets, read_sets
from donorwise._core.wording import listing
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose_some

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from os import PathLike

    import anndata as ad

    from donorwise._anndata import Results, Symbols
    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.set_lists import Matched, SetList
    from donorwise._typing import FloatArray, Groups

logger = logging.getLogger("donorwise")


@documented
def gene_sets(
    adata: ad.AnnData,
    sets: Mapping[str, Sequence[str]] | str | PathLike[str] | pd.DataFrame,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    min_size: int = 5,
    max_size: int | None = None,
    inter_gene_cor: float | None = None,
    use_ranks: bool = False,
    gene_symbols: str | None = None,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test whether sets of genes change more, up or down, than the other genes do.

    The competitive test of camera (Wu and Smyth 2012, Nucleic Acids Res 40:e133), on the tests of any model that is stored. Genes of a
    set go up and down together in the same donors; how much so is estimated from the donors, and allowed for. A test that takes
    genes for independent replicates finds sets in which nothing happens.

    Parameters
    ----------
    {adata_refit}
    sets
        A dict, ``{"interferon": ["ISG15", "IFI6", ...]}``; the path of a GMT file (also ``.gmt.gz``); or a network as decoupler has
        them, a DataFrame with columns source and target. If that has weights, their signs count: a target with a negative one is
        expected to go down where the set goes up. Their sizes do not count.
    {key}
    contrast, group
        Which tests to look at; None for all, but for contrasts of covariates that differ from cell to cell (such as
        ``log_depth``), of which donors say nothing, and further names of one contrast.
    min_size, max_size
        Fewest and most genes of a set, among those that were tested; others are ``too_few`` or ``too_many``.
    inter_gene_cor
        Correlation between the statistics of genes of a set. None estimates it for each set; limma's default is 0.01, which no
        cells are needed for, which ranks sets by their statistics, and which does not hold the level of sets that are more
        correlated.
    use_ranks
        Compare ranks of the statistics (Wilcoxon's test) and not their means.
    gene_symbols
        Column of var with the names by which the sets know the features, such as their symbols. A name that several have means all
        of them.
    {weights_again}
    {n_jobs}
    {max_memory}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[f"{key}_gene_sets"]`` holds the table that :func:`donorwise.get.gene_sets` reads, a row per set,
    group and contrast: n_genes (those that were tested), direction (``up``, ``down``), correlation (the mean over pairs of genes;
    one below zero counts as zero), df and statistic (of t, larger than zero for up), p_value, adj_p_value (Benjamini-Hochberg within
    each group and contrast) and status: ``ok``, ``too_few``, ``too_many`` (also a set that leaves no gene to compare
    with), or ``not_tested`` (none of the genes has a test there).

    Raises
    ------
    DataError
        There is no such result, contrast, group or column of var; the sets cannot be read, or none of their genes is a feature;
        or the AnnData is not the one that was fitted any more.
    DonorwiseError
        An option is none.

    Notes
    -----
    The statistic of a gene is the normal deviate with its p-value and the sign of its effect. What each donor contributes to a gene's
    estimate, the residuals of its patterns weighed as the estimate weighs them, are the replicates in which the correlation between
    genes is seen: residual means of donors for a contrast between donors, residual differences for one within them. Their degrees
    of freedom, D - p for D donors and p coefficients, are those of the test. With few donors that is conservative for sets whose genes
    are hardly correlated, as camera is.

    The genes of a set are compared with all others that were tested: a result of a few chosen genes has nothing to compare with.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> sets = {
    ...     "changed": adata.var_names[adata.var["is_de"]],
    ...     "others": adata.var_names[-20:],
    ...     "three": adata.var_names[:3],
    ... }
    >>> dw.tl.gene_sets(adata, sets, contrast="condition[T.disease]", group="T cell", progress=False)
    >>> dw.get.gene_sets(adata, sort_by=None)["status"].tolist()
    ['ok', 'ok', 'too_few']
    """
    check_is_anndata(adata)
    options = SetOptions(min_size, max_size, inter_gene_cor, use_ranks)
    options.check()
    check_max_memory(max_memory)
    if copy:
        adata = copied(adata)
    stored = read_results(adata, key)
    if stored.params.get("min_effect"):
        raise DataError(
            f"The tests of {key!r} are of a minimal effect, and say nothing of smaller ones: take the result without min_log_fc= "
            "and min_effect=."
        )
    results = choose_some(choose_some(stored.results, "contrast", contrast), "group", group)
    if contrast is None:
        results = results[results["contrast"].isin(_different(stored))]
    matched = _matched(adata, read_sets(sets), stored, symbols_of(adata, gene_symbols, stored.params), key)
    analysis = None
    if inter_gene_cor is None:
        analysis = recover(adata, key, weights=weights, n_jobs=n_jobs).analysis
        results = _of_donors(results, analysis, named=contrast is not None)
    table = gene_sets_table(
        results, matched, options, analysis, stored.varcomp, max_memory=max_memory, progress=progress
    )
    write_gene_sets(adata, key, table, options.to_params())
    return adata if copy else None


def _different(stored: Results) -> list[str]:
    """Contrasts of a result, without other names of the same weights."""
    names = [str(name) for name in stored.results["contrast"].cat.categories]
    if stored.contrasts is None:
        return names
    table = stored.contrasts.astype({"group": str, "coefficient": str, "contrast": str})
    found: set[frozenset[Any]] = set()
    for name, own in table.groupby("contrast", sort=False):
        weights = frozenset(zip(own["group"], own["coefficient"], own["weight"].round(12), strict=True))
        if weights in found:
            names.remove(str(name))
        found.add(weights)
    return names


def _of_donors(results: pd.DataFrame, analysis: Analysis[Any, Any], *, named: bool) -> pd.DataFrame:
    """The results without contrasts of covariates of cells, which nobody may have named."""
    of_cells = results["contrast"].isin(without_donors(analysis))
    if not of_cells.any():
        return results
    names = listing(results["contrast"][of_cells].unique())
    if named or of_cells.all():
        raise DataError(
            f"{names}: covariates that differ from cell to cell, so that donors do not say how estimates of genes are correlated; "
            "give inter_gene_cor=, such as 0.01, to test with a correlation that is assumed."
        )
    logger.info("Left out: %s, covariates of cells; their tests need inter_gene_cor=.", names)
    return results[~of_cells]


def _matched(adata: ad.AnnData, sets: SetList, stored: Results, symbols: Symbols, key: str) -> Matched:
    """The sets on the features of a result.

    Raises
    ------
    DataError
        None of the genes is a feature; the message shows names of both, and what may help.
    """
    features = tuple(str(name) for name in stored.results["variable"].cat.categories)
    matched = match_sets(sets, features, lambda gene: symbols.features.get(gene, [gene]))
    genes = dict.fromkeys(gene for own in sets.values() for gene in own)
    found = len(set(matched.members.indices.tolist()))
    if not matched.members.nnz:
        own = list(dict.fromkeys(symbols.label(name) for name in features))
        raise DataError(
            f"None of the genes of sets= ({_some(genes)}) is a feature of {key!r} ({_some(own)}). "
            f"{_hint(adata, list(genes), own)}"
        )
    logger.info(
        "%d %s of %d genes: %d of the %d features of %r are in one.",
        len(sets),
        "set" if len(sets) == 1 else "sets",
        len(genes),
        found,
        len(features),
        key,
    )
    return matched


def _some(names: Collection[str]) -> str:
    return listing(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _hint(adata: ad.AnnData, genes: Sequence[str], features: Sequence[str]) -> str:
    """Where the names of genes may be, if features are called otherwise."""
    texts = [name for name in adata.var.columns if not pd.api.types.is_numeric_dtype(adata.var[name])]
    shares = {str(name): int(adata.var[name].astype(str).isin(genes).sum()) for name in texts}
    best = max(shares, key=lambda name: shares[name], default="")
    if best and shares[best]:
        return f"{shares[best]:,} names in var[{best!r}] are genes of them: give gene_symbols={best!r}."
    if {name.casefold() for name in genes} & {name.casefold() for name in features}:
        return "They differ in capitals, as genes of mouse and man do: take sets of the species that was measured."
    return "Give gene_symbols= the column of var that has such names."
