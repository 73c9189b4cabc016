"""The response with terms of a model taken out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, copied, keys, read_results
from donorwise._anndata.made_values import LAYERS, OBSM, Place, note_made
from donorwise._anndata.read import aligned_to_var
from donorwise._anndata.recover import recover
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.residuals import fit_removal
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._tests import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata.recover import Recovered
    from donorwise._core.engine.residuals import Removal
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")

_DTYPES = ("float32", "float64")
MADE = ("residuals", "fitted")
"""What is made, in the order in which notes and files have it."""


@documented
def residuals(
    adata: ad.AnnData,
    key: str = keys.LMM,
    *,
    remove: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    key_added: str = keys.RESIDUALS,
    fitted: str | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Take terms of a stored model out of the response of every cell, for heatmaps and embeddings; or all of them.

    The models are fitted again, group by group, from one pass over the cells; a second pass makes the values.

    Parameters
    ----------
    {adata_refit}
    {key}
    remove
        Terms to take out: fixed ones as the formula has them (``"log_depth"``, ``"disease:sex"``), or a variable, which is all
        terms that read it alone; random ones by their grouping factor (``"donor_id"``: every term of it, slopes and kernels
        too), or one by one as they are written (``"(1 | donor_id)"``). None takes out everything, the intercept too, which
        leaves residuals.
    variables
        Features to look at (of a model of proteins: proteins); None for all that were fitted.
    key_added
        Where the values go: a layer; with `variables`, or for scores and columns of obs, a table in ``obsm``. What
        dw.tl.residuals made there before is replaced.
    fitted
        Name of another layer, or table, with the fitted values; None for none.
    dtype
        ``"float32"``, or ``"float64"``.
    {weights_again}
    {n_jobs}
    max_memory
        GB for the statistics of groups that share a pass, and for what is made; None for one pass, and any size.
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.layers[key_added]`` (n_obs, n_vars), or ``adata.obsm[key_added]``, has the values. They are NaN
    for cells that were not fitted (a variable of the formula is missing, or their group could not be fitted; the log says how
    many) and for features without a fit.

    Raises
    ------
    DataError
        There is no such result or variable, or the AnnData is not the one that was fitted any more; it holds collapsed rows, or
        the result is of shares of cell types, so that there is nothing of single cells; the name is taken by something else; or
        the values take more than `max_memory`.
    DesignError
        The formula has no such term.
    DonorwiseError
        `dtype` is not an option.

    Notes
    -----
    With X the fixed and Z the random columns of a cell, b the fixed effects and u the predicted random effects (BLUPs, those of
    :func:`donorwise.get.ranef`), its linear predictor is ``eta = Xb + Zu``, and d its part of the terms in `remove`: their
    ``(X - mean(X)) b``, the means being those of the cells of the group that were fitted, and their ``Zu``. So the level of a
    feature in a group stays where it is, whatever the reference levels and units of covariates are (as
    ``limma::removeBatchEffect`` has it, but for levels of unequal numbers of cells, which it gives equal weight); effects of
    donors have mean zero in the model, and theirs are not centred. What is made of the response y depends on the family:

    ============================================= =========================================== ==============================
    response                                      with terms in `remove`                      all of them (None)
    ============================================= =========================================== ==============================
    values (:func:`donorwise.tl.lmm`), peptides   ``y - d``                                   ``y - eta``
    counts (Poisson, negative binomial, and       ``y exp(-d)``, a corrected count            ``(y - mu) / sqrt(V(mu))``,
    :func:`donorwise.tl.pseudobulk`)                                                          Pearson's residual
    yes and no, successes                         ``y - mu(eta) + mu(eta - d)``               Pearson's residual
    ============================================= =========================================== ==============================

    Fitted values are eta, or mu: what is expected of the cell with its exposure (trials), and the random effects of its donor.
    For values ``y`` is their sum with the residual. Corrected counts are zero where counts are, so that ``log1p`` and
    normalisation go on as before; the exposure is in them still. A single yes or no cannot be corrected: what is made of it is
    for averages over cells, which are shares without the terms. Of :func:`donorwise.tl.pseudobulk` a cell has the rate of its
    unit, and the dispersion is that of cells within units.

    Taking out a variable leaves its interactions in (the log says so): what goes is its effect at the reference levels of the
    others. Name them as well to take out all of it. A term that is correlated with one that stays, such as a batch that one arm
    has more cells of, takes with it only what the model thinks is its own.

    The values are for pictures, and to be clustered. Tests of them, which take what was removed for known, have too small
    standard errors: test with the terms in the formula.

    A layer is dense, 4 bytes for each cell and feature: 100,000 cells x 20,000 genes take 8 GB. Choose `variables`, or write a
    file block by block with the command ``donorwise residuals``.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + sex + (1 | donor_id)", progress=False)
    >>> dw.tl.residuals(adata, remove=["donor_id", "sex"], progress=False)
    >>> adata.layers["residuals"].shape
    (300, 20)

    Residuals and fitted values of a few features, which add up to the response:

    >>> dw.tl.residuals(adata, variables=["gene_0001", "gene_0002"], fitted="fitted", dtype="float64", progress=False)
    >>> whole = adata.obsm["fitted"] + adata.obsm["residuals"]
    >>> bool(abs(whole - adata[:, whole.columns].to_df()).to_numpy().max() < 1e-6)
    True
    """
    check_is_anndata(adata)
    check_option("dtype", dtype, _DTYPES)
    check_max_memory(max_memory)
    if copy:
        adata = copied(adata)
    terms = [remove] if isinstance(remove, str) else remove
    if terms is not None and not len(terms):
        raise DataError("remove=[] names no term to take out; None takes out all of them.")
    found = recover(adata, key, variables=asked(adata, key, variables), weights=weights, n_jobs=n_jobs)
    names = (key_added,) if fitted is None else (key_added, fitted)
    place = _place(adata, found, names, whole=variables is None, dtype=dtype)
    place.check(adata, key, max_memory)
    removal = fit_removal(
        found.analysis, read_results(adata, key).varcomp, terms, max_memory=max_memory, progress=progress
    )
    place.write(adata, _filled(removal, place, adata.n_obs, progress=progress))
    note_made(adata, key, place, MADE[: len(names)], what_is_removed(terms))
    tell_left_out(removal)
    return adata if copy else None


def asked(adata: ad.AnnData, key: str, variables: str | Sequence[str] | None) -> list[str] | None:
    """Features of the result that are named; None for all."""
    if variables is None:
        return None
    names = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    if not names:
        raise DataError("variables=[] names no feature; leave it out for all of them.")
    choose(read_results(adata, key).results, "variable", names)
    return names


def what_is_removed(terms: Sequence[str] | None) -> str:
    """The terms that are taken out, as notes have them."""
    return "everything" if terms is None else ", ".join(terms)


def _place(adata: ad.AnnData, found: Recovered, names: tuple[str, ...], *, whole: bool, dtype: str) -> Place:
    """A layer for all features of X or a layer, else a table of those that are read."""
    columns = found.analysis.source.columns
    if not aligned_to_var(found.params):
        return Place(OBSM, names, np.arange(columns.size), pd.Index(found.analysis.variables), dtype)
    if whole:
        return Place(LAYERS, names, columns, adata.var_names, dtype)
    return Place(OBSM, names, np.arange(columns.size), adata.var_names[columns], dtype)


def _filled(removal: Removal, place: Place, n_cells: int, *, progress: bool) -> list[np.ndarray[Any, Any]]:
    """The arrays, block by block."""
    arrays = place.empty(n_cells)
    for block in removal.blocks(progress=progress):
        at = np.ix_(block.rows, place.columns[block.columns])
        for array, values in zip(arrays, (block.residuals, block.fitted), strict=False):
            array[at] = values
    return arrays


def tell_left_out(removal: Removal) -> None:
    """Log how many cells have no values."""
    n = int((~removal.used).sum())
    if n:
        logger.warning(
            "%s of %s cells are NaN: a variable of the formula is missing, or their group could not be fitted.",
            f"{n:,}", f"{removal.used.size:,}",
        )  # fmt: skip
