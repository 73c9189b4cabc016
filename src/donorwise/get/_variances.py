"""Variances and what goes with them: components, shares, random effects."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import cell_count, check_has_cells, keys, read_results, symbols_of
from donorwise._anndata.added import read_added
from donorwise._core.engine.heritability import on_scale
from donorwise._core.engine.partition import read_shares, with_intervals
from donorwise._docs import documented
from donorwise._typing import FIXED_SHARES, SCALES, check_option
from donorwise.errors import DataError, DonorwiseWarning
from donorwise.get._tests import choose, choose_all, meant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import FixedShares, Groups, Scale


@documented
def varcomp(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return the variance components of every feature as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}
    {symbols_beside}

    Returns
    -------
    One row per variable x group x component with the columns variable, group, term (the grouping factor, with a kernel
    ``"gr(donor_id, cov=grm)"``, or ``"Residual"``), column1, column2 (``""`` for a variance), variance and sd. A row with a column2 is a
    covariance, and its sd holds the correlation. In generalised models they are variances of the linear predictor, and in
    place of the residual a negative binomial has ``"dispersion"``, 1/r of its variance mu + mu²/r.

    Raises
    ------
    DataError
        There is no such result, group, variable, term or column of var; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.get.varcomp(adata, variables="gene_0001")["term"].tolist()
    ['donor_id', 'Residual']
    """
    return _chosen(adata, key, "varcomp", gene_symbols, group=group, variables=variables, term=term)


@documented
def icc(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return the intraclass correlations of every feature as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}
    {symbols_beside}

    Returns
    -------
    One row per variable x group x random term with the columns variable, group, term and icc: the share of
    the variance, beyond the fixed effects, that lies between the levels of the term; in generalised models that of the
    latent response, as in :func:`variance_partition`.

    Raises
    ------
    DataError
        There is no such result, group, variable, term or column of var; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> bool(dw.get.icc(adata)["icc"].dropna().between(0, 1).all())
    True
    """
    return _chosen(adata, key, "icc", gene_symbols, group=group, variables=variables, term=term)


@documented
def variance_partition(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
    fixed: FixedShares = "each",
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return how the variance of every feature divides over the terms of the model.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}
    fixed
        ``"each"`` gives every term of the fixed part its share (``"disease"``, ``"disease:sex"``, ``"bs(age, df=4)"``),
        ``"together"`` the fixed part one, ``"fixed"``.
    {symbols_beside}

    Returns
    -------
    One row per variable x group x term with the columns variable, group, term (of the fixed part, each random term,
    ``"Residual"``), kind (``"fixed term"`` or ``"fixed part"``, ``"random term"``, ``"residual"``) and fraction, and with
    :func:`donorwise.tl.variance_partition` ci_low and ci_high; the fractions of a variable in a group sum to 1. A term that a protein cannot tell, and
    that its model leaves out (status ``"reduced"``), has NaN. In generalised models they divide the
    variance of the latent response, with the residual of Nakagawa, Johnson and Schielzeth (2017, J R Soc Interface
    14:20170213): log(1 + 1/mean + 1/r) for counts, pi²/3 for the logit, pi²/6 for the complementary log-log.

    Raises
    ------
    DataError
        There is no such result, group, variable, term or column of var; the message says which there are.
    DonorwiseError
        `fixed` is not an option.

    Notes
    -----
    The share of the fixed part is the variance of X beta over the rows (cells; units of :func:`donorwise.tl.pseudobulk`),
    and each of its terms, with all its columns, has of it in proportion to the variance of X_j beta_j (Hoffman and Schadt
    2016, BMC Bioinformatics 17:483; ``calcVarPart`` of variancePartition takes the columns one by one). Where terms are
    correlated, that is a convention: what they explain together is divided too, and where they cancel each other the
    parts are scaled down. The main effects of an interaction are those at the reference of the other variable, so that
    their shares depend on it; look at them together with that of the interaction. Of proteins that lack the rows for one
    of the fixed terms, only the fixed part together is known. Results of earlier versions have the fixed part together.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> shares = dw.get.variance_partition(adata, variables="gene_0001")
    >>> shares["term"].tolist(), round(float(shares["fraction"].sum()), 10)
    (['condition', 'donor_id', 'Residual'], 1.0)
    """
    check_option("fixed", fixed, FIXED_SHARES)
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    shares = read_shares(stored.variance_partition, fixed)
    if keys.VARIANCE_INTERVALS in adata.uns[key]:
        shares = with_intervals(shares, read_added(adata, key, keys.VARIANCE_INTERVALS, made_by=_INTERVALS))
    return symbols.beside(choose_all(shares, variable=meant(symbols, variables), group=group, term=term))


@documented
def heritability(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: Groups = None,
    component: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    scale: Scale = "trace",
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return the proportions of variance of the terms with a kernel (h2, m2) as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    group, component, variables
        {keep}
    scale
        ``"trace"`` states every term by the mean variance between its levels after centring, tr(PKP) / (n - 1) times its
        variance, so that kernels on any scale can be compared; ``"as-is"`` takes variances for K as it was given.
    {symbols_beside}

    Returns
    -------
    One row per variable x group x component with the columns variable, group, component (a kernel, another term of its
    donors, or the ``"sum"`` of several kernels), proportion, se, ci_low, ci_high, statistic, p_value, adj_p_value
    (Benjamini-Hochberg within component and group) and status. A proportion is out of all variance beyond the fixed
    effects, that of the residual of a single cell included; :meth:`donorwise.LMMFit.heritability` says how each is found.

    Raises
    ------
    DataError
        There is no such result, group, variable, component or column of var (the message says which there are), or its
        formula has no kernel.
    DonorwiseError
        `scale` is not an option.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> donors = sorted(adata.obs["donor_id"].unique())
    >>> K = pd.DataFrame(np.kron(np.eye(3), [[1, 0.5], [0.5, 1]]), donors, donors)
    >>> dw.tl.lmm(adata, "~ 1 + (1 | gr(donor_id, cov=grm))", kernels={"grm": K}, progress=False)
    >>> table = dw.get.heritability(adata)
    >>> len(table), table["component"].unique().tolist()
    (20, ['grm'])
    """
    check_option("scale", scale, SCALES)
    stored = read_results(adata, key)
    if stored.heritability is None:
        raise DataError(
            f"The result {key!r} has no proportions of variance: its formula, {stored.params['formula']!r}, has no kernel. "
            "A random term with a known covariance is written `(1 | gr(donor_id, cov=grm))`; shares of other terms: "
            "dw.get.variance_partition."
        )
    symbols = symbols_of(adata, gene_symbols, stored.params)
    chosen = choose_all(stored.heritability, variable=meant(symbols, variables), group=group, component=component)
    return symbols.beside(on_scale(chosen, scale))


def _chosen(
    adata: ad.AnnData,
    key: str,
    table: str,
    gene_symbols: str | None,
    *,
    variables: str | Sequence[str] | None,
    **wanted: Groups,
) -> pd.DataFrame:
    """Rows of a table of a result, with what the features are called."""
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    return symbols.beside(choose_all(getattr(stored, table), variable=meant(symbols, variables), **wanted))


_INTERVALS = "dw.tl.variance_partition"
_COLUMNS = ["variable", "group", "term", "level", "column", "value", "cond_sd"]


@documented
def ranef(
    adata: ad.AnnData,
    variables: str | Sequence[str],
    *,
    key: str = keys.LMM,
    group: Groups = None,
    term: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Predict the random effects (BLUPs) of a few features: how far each donor lies from its arm.

    Those of a term with a kernel of relatedness are the donors' predicted genetic values.

    They are not kept with the results (there would be one number per feature and donor): the model is
    fitted again to these features, from the cells and columns that the AnnData holds now.

    Parameters
    ----------
    {adata_refit}
    variables
        One feature or a few.
    {key}
    group
        Which groups of ``groupby`` to fit; None for all.
    term
        Which grouping factors, for instance ``"donor_id"``, with a kernel ``"gr(donor_id, cov=grm)"``; None for all.
    {symbols_beside}

    Returns
    -------
    One row per variable x group x term x level x column with the columns variable, group, term, level,
    column, value and cond_sd (the conditional standard deviation).

    Raises
    ------
    DataError, DesignError
        The result, the variable, the response or a column of obs that the model needs is not there.

    Warns
    -----
    DonorwiseWarning
        Cells were added or removed since the fit.

    Notes
    -----
    Of :func:`donorwise.tl.pseudobulk`: the effects on the log rates of units (and of the levels of the random term) at
    the posterior means of the variances, which the result holds.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> table = dw.get.ranef(adata, "gene_0001")
    >>> len(table), list(table.columns[3:])
    (6, ['level', 'column', 'value', 'cond_sd'])
    """
    from donorwise._anndata.recover import again, fit_group

    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = symbols.find(variables)
    warn_of_lost_cells(adata, stored.params)
    chosen = choose(choose(stored.varcomp, "variable", names), "group", group)
    chosen = choose(chosen, "term", term)
    terms = list(dict.fromkeys(chosen.loc[chosen["column1"] != "", "term"].astype(str)))
    made = again(adata, stored, names, key)
    tables = []
    for name in dict.fromkeys(chosen["group"].astype(str)):
        table = made.random_effects(fit_group(made, name), stored.varcomp[stored.varcomp["group"] == name])
        tables.append(table[table["term"].isin(terms)].assign(group=name))
    return symbols.beside(pd.concat(tables, ignore_index=True)[_COLUMNS])


def warn_of_lost_cells(adata: ad.AnnData, params: dict[str, Any]) -> None:
    """Warn the caller's caller where the AnnData has other cells than those that were fitted."""
    check_has_cells(adata)
    then = params["n_cells"] + params["n_dropped"]
    now = cell_count(adata)
    if now != then:
        warnings.warn(
            f"The result was fitted to {then:,} cells and the AnnData now has {now:,}: "
            "the model is fitted again to those it has now.",
            DonorwiseWarning,
            stacklevel=3,
        )
