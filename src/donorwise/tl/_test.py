"""Further contrasts of a stored model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import check_free, check_is_anndata, copied, keys, read_results, write_results
from donorwise._anndata.added import extend_results
from donorwise._anndata.recover import recover_whole
from donorwise._anndata.unchanged import check_same
from donorwise._anndata.write import ROW
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.further import check_options, log2_as_estimate, with_further
from donorwise._core.engine.run import Memory, run
from donorwise._docs import documented
from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.engine.run import Result
    from donorwise._typing import Ddf, FloatArray, GlmmDdf

_COMPONENT = ["variable", "group", "term", "column1", "column2"]


@documented
def test(
    adata: ad.AnnData,
    contrasts: Any,
    *,
    key: str = keys.LMM,
    ddf: Ddf | GlmmDdf | None = None,
    min_log_fc: float | None = None,
    min_effect: float | None = None,
    key_added: str | None = None,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test further contrasts of a stored model, or other null hypotheses about them.

    The formula, the groups and all options are those of the result: its models are fitted again, from one pass.

    Parameters
    ----------
    {adata_refit}
    contrasts
        As for the tools that fit: a coefficient, ``("disease", "MS", "control")``, :func:`donorwise.pairwise`,
        :func:`donorwise.slope`, sums and differences of :func:`donorwise.cond`, weights by coefficient; a list of these, or
        a dict that names them. None for those of the result (with another `ddf` or another null hypothesis).
    {key}
    ddf
        How tests allow for what is unknown about the variances, as in the tool that fitted; None as there.
    min_log_fc
        Test whether a log2 fold change is larger than this, up or down: p is that of ``|log2 fold change| <= min_log_fc``
        (McCarthy and Smyth 2009, Bioinformatics 25:765). For estimates that are logarithms of ratios: of counts, and of
        values that are logarithms, where it is a difference of means of these (the `log_fc` of the table is of the mean
        counts, and differs where they are few).
    min_effect
        The same in units of the estimate, for scores, shares and all others; without either it is that of the result.
    key_added
        Where the tests go: a result of its own, with all its tables. None adds the contrasts to the result `key`, where one
        of the same name is replaced; another `ddf` or null hypothesis needs a name of its own.
    {weights_again}
    {n_jobs}
    {max_memory}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. The tests are in ``adata.uns``, read by :func:`donorwise.get.tests` like those of the tool.

    Raises
    ------
    DataError
        There is no such result, or the AnnData is not the one that was fitted any more.
    DesignError
        No group can answer one of the contrasts; nothing is computed or changed then.
    DonorwiseError
        Options do not go together, or there are no fold changes for `min_log_fc`.

    Notes
    -----
    P-values are adjusted within each contrast and group. A contrast that only some groups can answer is
    ``not_estimable`` in the others.

    With a minimal effect `estimate`, `se`, `df` and the interval are as without; `statistic` is that of the nearer end,
    ``sign(estimate) max(|estimate| - min_effect, 0) / se``, and p the tails beyond both ends.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ condition * sex + (1 | donor_id)", progress=False)
    >>> effect = dw.cond(condition="disease", sex="female") - dw.cond(condition="control", sex="female")
    >>> dw.tl.test(adata, {"disease in women": effect}, progress=False)
    >>> dw.get.tests(adata, contrast="disease in women").shape[0]
    120
    """
    check_is_anndata(adata)
    check_max_memory(max_memory)
    if key_added is not None:
        check_free(adata, key_added)
    if copy:
        adata = copied(adata)
    found = recover_whole(adata, key, weights=weights, n_jobs=n_jobs, fold_changes=True)
    analysis = found.analysis
    effect = log2_as_estimate(analysis, key, min_log_fc, min_effect)
    options = check_options(analysis.options, analysis.ddfs, ddf, effect)
    if key_added in (None, key) and options != analysis.options:
        raise DonorwiseError(
            f"Tests with another ddf= or a minimal effect are no further contrasts of {key!r}: name where they go with "
            "key_added=."
        )
    beside = key_added not in (None, key)
    asked = analysis if contrasts is None else analysis.asking(contrasts)
    whole = asked if beside else with_further(analysis, asked)
    told = dict(read_results(adata, key).params.get("cautions") or {}).values()
    result = run(replace(whole, options=options), Memory(), max_memory=max_memory, progress=progress, known=set(told))
    _check(adata, key, result)
    if beside:
        write_results(adata, str(key_added), params=result.params, **result.tables)
    else:
        extend_results(adata, key, result.tables, result.params, set(asked.names) & set(analysis.names))
    return adata if copy else None


def _check(adata: ad.AnnData, key: str, result: Result) -> None:
    """Raise unless the models are those of the stored result: the same variances, or where tests differ, the same cells."""
    stored = read_results(adata, key)
    same_tests = stored.params["ddf"] == result.params["ddf"]
    ours, theirs, by, value = (
        (result.tables[keys.VARCOMP], stored.varcomp, _COMPONENT, "variance")
        if same_tests
        else (result.tables[keys.RESULTS], stored.results, ROW[:2], "n_obs")
    )
    again, known = (_indexed(table, by, value) for table in (ours, theirs))
    common = known.index.intersection(again.index)
    check_same(again.loc[common].to_numpy(), known.loc[common].to_numpy(), key, stored.params["method"])


def _indexed(table: pd.DataFrame, by: list[str], value: str) -> pd.Series:
    """A column by its names, each once."""
    own = table[value].astype(np.float64).set_axis(pd.MultiIndex.from_frame(table[by].astype(str)))
    return own[~own.index.duplicated()]
