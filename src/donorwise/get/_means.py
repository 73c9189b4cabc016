"""Estimated marginal means of stored models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from donorwise._anndata import check_is_anndata, keys, read_results, symbols_of
from donorwise._anndata.recover import recover_whole
from donorwise._anndata.unchanged import same_as
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.further import check_options
from donorwise._core.engine.mean_scale import MeanScale
from donorwise._core.engine.means import MEAN_SCALES, WEIGHTS, ask_means, make_grid
from donorwise._docs import documented
from donorwise._typing import check_level, check_option
from donorwise.get._tests import choose_some, meant, present, tidy

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import anndata as ad

    from donorwise._typing import Ddf, FloatArray, GlmmDdf, Groups


@documented
def means(
    adata: ad.AnnData,
    of: str | Sequence[str] | None,
    by: str | Sequence[str] | None = None,
    at: Mapping[str, Hashable | Sequence[Hashable]] | None = None,
    *,
    key: str = keys.LMM,
    variables: str | Sequence[str] | None = None,
    group: Groups = None,
    level: float = 0.95,
    scale: Literal["response", "link"] = "response",
    weights: Literal["equal", "proportional"] = "equal",
    ddf: Ddf | GlmmDdf | None = None,
    fit_weights: FloatArray | None = None,
    gene_symbols: str | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return estimated marginal means: what a stored model expects at levels of its variables, with intervals.

    ``get.means(adata, "disease", by="cell_type", at={"age": 50})`` is a row for every feature, disease and cell type, at
    the age of 50: the means of ``emmeans(fit, ~ disease | cell_type, at = list(age = 50))`` in R. The models are fitted
    again from one pass.

    Parameters
    ----------
    {adata_refit}
    of, by
        Variables of the formula's fixed part whose levels (or combinations of levels) means are of; both are gone
        through, `of` last. Columns that are `groupby` of the fit may be named: every group has its own model, and the
        column `group` says which. None for one mean (of each group).
    at
        Values of variables, one or a list each: ``{"age": 50}`` holds a number there, ``{"age": [40, 60]}`` gives means
        at both, ``{"disease": ["MS", "control"]}`` chooses levels. Other numbers are at their means over the cells.
    {key}
    variables, group
        {keep}
    level
        Coverage of the intervals.
    scale
        ``"response"``: rates of counts, shares, or the response itself (see Notes). ``"link"``: the linear predictor,
        on the scale of coefficients.
    weights
        How the levels of variables that are not named are averaged: ``"equal"``, as in a balanced study, or
        ``"proportional"`` to the donors that have them.
    ddf
        How intervals allow for what is unknown about the variances, as in the tool that fitted; None as there.
    fit_weights
        Weights of the cells as given to :func:`donorwise.tl.lmm`, where that was an array.
    {symbols_beside}
    {n_jobs}
    {max_memory}
    {progress}

    Returns
    -------
    One row per variable x group x condition: variable, group, a column for each variable of `of`, `by` and `at`, mean,
    se, df, ci_low, ci_high, status, and n_donors, the donors that have these levels. ``table.attrs["unit"]`` says what
    the means are. Where a group has no such level the row is ``not_estimable``.

    Raises
    ------
    DataError
        There is no such result, or the AnnData is not the one that was fitted any more.
    DesignError
        A name is no variable of the fixed part, or a level is not in the data.
    DonorwiseError
        An option is none.

    Notes
    -----
    A mean is x'b for a row x of the design that is averaged over a grid of all combinations of levels (Searle, Speed and
    Milliken 1980, The American Statistician 34:216-221), so that groups are compared as if they had the same mixture of
    what is not named. Levels that no cell has together are in the grid as the formula extrapolates to them.

    On the response's scale, means of counts (link log) are rates: in 10,000 counts where the exposure was each cell's
    total, else the counts of a cell whose exposure is the median over all cells of the result. Yes and no are shares; of
    detection with an exposure (link cloglog) the share of cells at the median exposure. They are those of a
    donor in the middle, whose random effects are zero: of the rates of all donors this is the geometric mean. Ends of
    intervals are transformed, and lie unequally far from the mean; `se` is by the delta method. Means of values that
    are logarithms, such as log1p, are means of these.

    Intervals are those of the tests (moderated ones average over the variances that the data and the prior of
    all features leave possible), but for models of counts and of yes and no, where tests are likelihood ratios of zero:
    intervals of means are those of the information about them. They are of each mean by itself: whether two differ is
    what :func:`donorwise.pairwise` tests.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + sex + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> table = dw.get.means(adata, "condition", variables="gene_0001", group="T cell")
    >>> list(table.columns[:6]), table["condition"].tolist()
    (['variable', 'group', 'condition', 'mean', 'se', 'df'], ['control', 'disease'])
    """
    table, _ = marginal_means(
        adata, of, by, at, key=key, variables=variables, group=group, level=level, scale=scale, weights=weights, ddf=ddf,
        fit_weights=fit_weights, gene_symbols=gene_symbols, n_jobs=n_jobs, max_memory=max_memory, progress=progress,
    )  # fmt: skip
    return table


def marginal_means(
    adata: ad.AnnData, of: Any, by: Any, at: Any, *, key: str, variables: Any, group: Groups, level: float, scale: str,
    weights: str, ddf: str | None, fit_weights: FloatArray | None = None, gene_symbols: str | None = None,
    n_jobs: int | None = None, max_memory: float | None = None, progress: bool = False,
) -> tuple[pd.DataFrame, MeanScale]:  # fmt: skip
    """What :func:`means` returns, and how means of the model are told on the response's scale."""
    check_is_anndata(adata)
    check_max_memory(max_memory)
    check_option("scale", scale, MEAN_SCALES)
    check_option("weights", weights, WEIGHTS)
    check_level(level)
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    chosen = choose_some(stored.results, "variable", meant(symbols, variables))
    chosen = choose_some(chosen, "group", group)
    found = recover_whole(adata, key, weights=fit_weights, n_jobs=n_jobs)
    analysis = found.analysis
    used = check_options(analysis.options, analysis.ddfs, ddf, 0.0).ddf
    designs = [task.design for task in analysis.tasks if task.design is not None]
    grid = make_grid(designs, by, of, at, analysis.groupby, proportional=weights == "proportional")
    told = analysis.mean_scale if scale == "response" else MeanScale()
    names = pd.Index(analysis.variables)
    features = names.get_indexer(present(chosen, "variable"))
    table = ask_means(
        analysis, grid, ddf=used, level=level, scale=told, features=features, groups=present(chosen, "group"),
        same=same_as(adata, key), max_memory=max_memory, progress=progress,
    )  # fmt: skip
    table = tidy(symbols.beside(table))
    table.attrs |= _told(told, level, scale, weights, used)
    return table, analysis.mean_scale


def _told(scale: MeanScale, level: float, of: str, weights: str, ddf: str) -> dict[str, Any]:
    """What the table holds, in words."""
    unit = "linear predictor" if of == "link" else scale.unit or "response"
    return {"unit": unit, "level": level, "scale": of, "weights": weights, "ddf": ddf}
