"""Generalised linear mixed models of arrays, exactly, feature by feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.cells.matrices import check_matrix, read_columns
from donorwise._core.design.binding import refuse_kernels
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import design_of_arrays, effective_jobs, read_arrays
from donorwise._core.engine.exact_features import FeatureData
from donorwise._core.engine.exposures import check_responses, read_offset, read_trials
from donorwise._core.engine.fitted_glmm import GLMMFit, fit_features
from donorwise._core.jobs import Progress
from donorwise._core.models.glmm.families import distribution
from donorwise._core.models.glmm.marginal import Observations
from donorwise._core.models.glmm.row_effects import Effects
from donorwise._docs import documented
from donorwise.errors import DesignError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray

_NODES = 11
_MOST_NODES = 100


@documented
def fit_glmm(
    Y: Any,
    obs: pd.DataFrame,
    formula: str,
    *,
    family: str,
    link: str | None = None,
    exposure: Any = None,
    offset: Any = None,
    trials: Any = None,
    n_quad: int = _NODES,
    reml: bool = True,
    n_jobs: int | None = None,
    progress: bool = False,
) -> GLMMFit:
    r"""Fit a generalised linear mixed model of counts or of yes/no data to every column of `Y`, exactly.

    Every feature by itself, with its variances (and size) estimated together with its coefficients, as ``lme4::glmer``
    and ``glmmTMB`` do: for tens to hundreds of features in an array.

    Parameters
    ----------
    Y
        Responses, (N, G): array, sparse matrix, DataFrame, or one vector (N,). Counts, or for ``family="binomial"`` 0/1,
        booleans, or the successes among `trials`. Missing values (NaN) of a dense `Y` are dropped column by column.
    obs
        N rows: the variables of the formula. Rows in which one of them is missing are left out, with a warning.
    formula
        ``"~ fixed + (columns | group)"``, with any random terms, as for :func:`donorwise.fit_lmm`.
    family
        ``"nb"`` (variance mu + mu² / size, the size estimated), ``"poisson"`` or ``"binomial"``.
    link
        ``"log"`` for counts; ``"logit"`` (the default) or ``"cloglog"`` for ``"binomial"``.
    exposure
        On the scale of counts: the name of a column of `obs`, or an array (N,), such as each cell's total counts. The
        rate is per unit of it; 1 if None. With ``link="cloglog"`` the probability is 1 - exp(-exposure exp(eta)), so
        that coefficients of "is the gene detected" are log rate ratios.
    offset
        Added to the linear predictor, so on the log scale: a column or an array. Beside an `exposure` they add up.
    trials
        Trials of every row of a ``"binomial"``, a column or an array; 1 if None. Rows without trials are left out.
    n_quad
        Nodes of adaptive Gauss-Hermite quadrature, for formulas with one random term of one column (``(1 | donor)``);
        1 is Laplace's approximation. Other formulas use Laplace's approximation, and any other number is refused.
    reml
        Restricted likelihood (see Notes), or maximum likelihood.
    {n_jobs}
    {progress}

    Returns
    -------
    GLMMFit

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If the rows cannot answer it, or `n_quad` does not fit it.
    DataError
        If `Y`, `exposure`, `offset` or `trials` cannot be used, or do not fit the family.

    Notes
    -----
    ``reml=False`` maximises the likelihood, as ``glmer(nAGQ=n_quad)``, or with ``n_quad=1`` ``glmmTMB``.
    Standard errors are those of the full Hessian, over all parameters together (as glmmTMB's; glmer's ``use.hessian=TRUE``).

    ``reml=True``, the default, estimates variances and size by a restricted likelihood, without which variances between
    few donors come out too small (as much as the donors less coefficients are fewer than the donors). With ``n_quad=1``
    it is Laplace's approximation over the random effects and the coefficients jointly, which is
    ``glmmTMB(REML=TRUE)``. With more nodes the effects are integrated out by quadrature and the coefficients by
    Laplace's method about the maximum of that likelihood, :math:`\ell(\hat\beta) - \log|S| / 2 + (p / 2) \log 2\pi`,
    with :math:`S` the information about the coefficients at the mode of the effects, so that the coefficients do not have
    the bias of the joint mode.

    A negative binomial whose size grows without bound ends as Poisson's, with size ``inf``. Features with
    ``status`` ``"separated"`` have coefficients that are infinite.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 20), "arm": np.repeat(["ctrl", "case"], 60)})
    >>> rng = np.random.default_rng(0)
    >>> depth = rng.integers(500, 2000, 120)
    >>> Y = rng.poisson(depth[:, None] * [0.001, 0.002])
    >>> fit = dw.fit_glmm(Y, obs, "~ arm + (1 | donor)", family="poisson", exposure=depth)
    >>> fit.beta.shape
    (2, 2)
    >>> list(fit.test("arm[T.ctrl]").columns[:4])
    ['variable', 'contrast', 'estimate', 'se']
    """
    own = distribution(family, link)
    matrix, variables = read_arrays(Y, obs)
    offsets, tries = read_offset(exposure, offset, obs, own), read_trials(trials, obs, own)
    parsed = parse(formula)
    refuse_kernels(parsed, "dw.fit_glmm", "dw.fit_lmm")
    design = design_of_arrays(parsed, obs, residual=own.has_residual(of_many=bool((tries > 1).any())))
    used = _nodes_for(design, n_quad)
    data = tuple(_features(matrix, variables, design, own, offsets, tries))
    jobs = effective_jobs(n_jobs)
    with Progress(total=len(variables), unit="fit", desc="mixed models", disable=not progress) as bar:
        return fit_features(design, own, variables, data, n_quad=used, reml=reml, n_jobs=jobs, update=bar.update)


def _nodes_for(design: Design, n_quad: int) -> int:
    """Nodes that are used: one where effects have more than one dimension."""
    asked: Any = n_quad
    if not isinstance(asked, int | np.integer) or isinstance(asked, bool) or not 1 <= asked <= _MOST_NODES:
        raise DonorwiseError(f"n_quad={n_quad!r} is no number of nodes; use 1 (Laplace) to {_MOST_NODES}.")
    if [len(t.columns) for t in design.random_terms] == [1]:
        return int(n_quad)
    if n_quad not in (1, _NODES):
        raise DesignError(
            f"n_quad={n_quad}: quadrature is for one random term of one column, such as `(1 | donor)`; {design.formula!r} "
            "is fitted by Laplace's approximation. Leave n_quad out, or give n_quad=1."
        )
    return 1


def _features(
    matrix: Any,
    variables: tuple[str, ...],
    design: Design,
    distribution: Distribution,
    offset: FloatArray,
    trials: FloatArray,
) -> Iterator[FeatureData]:
    """Every feature's rows, by the levels of the first random term."""
    check_matrix(matrix)
    values = read_columns(matrix)
    check_responses(values, trials, distribution, variables)
    kept = np.flatnonzero(trials[design.codes >= 0] > 0)
    by_row = design.by_row()
    order = kept[np.argsort(by_row.random_terms[0].codes[kept], kind="stable")] if by_row.random_terms else kept
    rows, own = np.flatnonzero(design.codes >= 0)[order], by_row.take(order)
    effects = Effects.of(own.random_terms, rows.size)
    for y in values[rows].T:
        whole = Observations.of(distribution, np.ascontiguousarray(y), trials[rows], offset[rows], own.X, effects)
        seen = ~np.isnan(y)
        own_rows = rows if seen.all() else rows[seen]
        yield FeatureData(whole if seen.all() else whole.take(seen), np.unique(design.codes[own_rows]))
