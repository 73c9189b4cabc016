"""Shrunken estimates and local false sign rates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import check_is_anndata, copied, keys, read_every_test, read_results
from donorwise._anndata.added import write_added, write_columns
from donorwise._core.engine.shrunken import shrink_tests
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._typing import Groups

logger = logging.getLogger("donorwise")


@documented
def shrink(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    copy: bool = False,
) -> ad.AnnData | None:
    """Shrink the estimates of a result towards zero, as far as all features say, and tell how sure their signs are.

    Nothing is fitted: estimates, standard errors and degrees of freedom of the tests are enough, so that the cells need not be
    there.

    Parameters
    ----------
    {adata_result}
    {key}
    contrast, group
        Which tests to shrink; None for all. The others stay as they are.
    {copy}

    Returns
    -------
    None, or the copy. The results in ``adata.uns[key]`` get two columns, which :func:`donorwise.get.tests` returns:
    ``shrunk``, the posterior mean of the effect in units of `estimate`, and ``lfsr``, the local false sign rate: the
    probability that the effect is zero, or of the other sign than its estimate. They are NaN for tests without a standard
    error. The distributions that were found are in ``adata.uns[key]["shrinkage"]``: of every group and contrast the
    standard deviations (``sd``, 0 for no effect) and their shares. A log line says how many effects are taken for none.

    Raises
    ------
    DataError
        There is no such result, contrast or group, or none with 20 tests.

    Notes
    -----
    The effects of a contrast in a group come from one distribution with its mode at zero, a mixture of no effect and of
    normal distributions with standard deviations from a tenth of the smallest standard error to twice the largest effect. Its
    shares are those of the largest likelihood, with a penalty that leans to no effect: the method, the grid and the
    penalty of ashr's defaults (Stephens 2017, Biostatistics 18:275-294). The error of an estimate is the t distribution of
    its test, integrated exactly where ashr takes a normal one or uniform components.

    Ranks by `lfsr` and by p-value differ: a large effect that is known badly comes after a smaller one that is known well.
    Among the features with ``lfsr <= 0.05`` fewer than 5% have the wrong sign (or none), as far as the assumptions hold: one
    distribution for all features, whatever their expression, and errors that do not depend on one another. Where most
    features move together (a shift of the composition, a batch), the mode is not at zero, and both columns mislead.

    Where a p-value is nearly 1 the standard error of a moderated test is arbitrary (see :func:`donorwise.get.tests`): there the width of
    the interval counts, and degrees of freedom as the other tests have them. A ``separated`` estimate, infinite by
    the likelihood alone, counts as its finite one with the standard error of its p-value. Of a result with a minimal effect
    (:func:`donorwise.tl.test`) the columns are what they are without: they are about zero.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=900, n_genes=120, effect_size=2, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.shrink(adata)
    >>> table = dw.get.tests(adata, sort_by="lfsr")
    >>> bool((table["shrunk"].abs() <= table["estimate"].abs()).all())
    True
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    read_results(adata, key)  # what is no result any more is told before anything else
    tests = read_every_test(adata, key)
    chosen = choose(choose(tests, "contrast", contrast), "group", group)
    asked = np.isin(np.arange(len(tests)), tests.index.get_indexer(chosen.index))
    made = shrink_tests(tests, asked)
    if made.effects.empty:
        raise DataError(f"There is nothing to shrink in {key!r}. " + " ".join(made.told()))
    for text in made.told():
        logger.info(text)
    own = {keys.SHRUNK: made.mean, keys.LFSR: made.lfsr}
    kept = {name: tests[name] if name in tests else np.full(len(tests), np.nan) for name in own}
    write_columns(adata, key, {name: np.where(asked, own[name], kept[name]) for name in own})
    write_added(
        adata,
        key,
        keys.SHRINKAGE,
        made.effects.astype({"group": "category", "contrast": "category"}),
        ["group", "contrast"],
    )
    return adata if copy else None
