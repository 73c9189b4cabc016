"""Proportions of variance of kernels: over the features, and one against another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import check_is_anndata, keys, read_params, symbols_of
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get import heritability as proportions
from donorwise.get._tests import choose, passes
from donorwise.pl._heritability_pair import draw_pairs
from donorwise.pl._heritability_ranked import draw_ranked
from donorwise.pl._style import feature_names, finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import Groups, Scale

KINDS = {"ranked": draw_ranked, "pair": draw_pairs}


@documented
def heritability(
    adata: ad.AnnData,
    *,
    kind: str = "ranked",
    component: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    scale: Scale = "trace",
    alpha: float = 0.05,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the proportions of variance of kernels (h2, m2): of all features in order, or one kernel against another.

    Parameters
    ----------
    {adata_result}
    kind
        ``"ranked"``: a panel for each component, the features in the order of their proportions, with intervals. ``"pair"``:
        one component against another, a point for each feature.
    component
        Which components to draw, as :func:`donorwise.get.heritability` calls them; two for a pair (across, up). None for all,
        and for the first two.
    {group_panels}
    variables
        Features to point out among all others, with their names and intervals.
    scale
        ``"trace"`` or ``"as-is"``, as in :func:`donorwise.get.heritability`.
    {alpha}
    {key}
    {symbols}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such result, component, group or variable, the formula of the result has no kernel, or no model could
        be fitted.
    DonorwiseError
        There is no such kind or scale, `ax` was given for several panels, or a pair is not of two components.

    Notes
    -----
    A proportion is out of all variance beyond the fixed effects, that of the residual of a single row (cell) included. Grey lines
    are 95% intervals. Features whose estimate is zero stand on the grey ground at the left (and below, of a pair, scattered at
    random), and how many they are is written above: an estimate of zero does not say that there is nothing, its interval says
    how much there may be. Colours tell which features have a component with an adjusted p-value up to `alpha`.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> donors = sorted(adata.obs["donor_id"].unique())
    >>> K = pd.DataFrame(np.kron(np.eye(3), [[1, 0.5], [0.5, 1]]), donors, donors)
    >>> dw.tl.lmm(adata, "~ 1 + (1 | gr(donor_id, cov=grm))", kernels={"grm": K}, progress=False)
    >>> ax = dw.pl.heritability(adata, variables="gene_0001")
    >>> ax.get_title()
    'grm'
    """
    check_is_anndata(adata)
    check_option("kind", kind, tuple(KINDS))
    params = read_params(adata, key)
    table = proportions(adata, key=key, group=group, scale=scale)
    symbols = symbols_of(adata, gene_symbols, params)
    named = [] if variables is None else symbols.find(feature_names(variables))
    choose(table, "variable", named)
    if table["proportion"].isna().all():
        raise DataError("No model could be fitted: look at the status column of dw.get.heritability.")
    named, table = [symbols.label(name) for name in named], symbols.rename(table)
    table["passed"] = passes(table, alpha, None)
    figure, axes = KINDS[kind](table, component, named, alpha=alpha, donor=str(params["donor"]), ax=ax)
    return finish(figure, axes, show=show, return_fig=return_fig)
