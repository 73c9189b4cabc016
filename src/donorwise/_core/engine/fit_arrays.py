"""Linear mixed models of arrays and a DataFrame, without an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donorwise._core.design.binding import bind
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import check_weights, design_of_arrays, effective_jobs, pass_jobs, read_arrays
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.peptide_arrays import fit_peptide_arrays
from donorwise._core.engine.tasks import Task, collapse_tasks
from donorwise._core.jobs import Progress
from donorwise._docs import documented
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from donorwise._core.engine.fitted import LMMFit


@documented
def fit_lmm(
    Y: Any,
    obs: pd.DataFrame,
    formula: str,
    *,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    features: Any = None,
    var: pd.DataFrame | None = None,
    reml: bool = True,
    weights: Any = None,
    n_jobs: int | None = None,
    progress: bool = False,
) -> LMMFit:
    """Fit a linear mixed model to every column of `Y`.

    The estimates are those of ``lme4::lmer`` (Bates et al. 2015, J Stat Softw 67(1)) for every
    column; what columns share is computed once.

    Parameters
    ----------
    Y
        Responses, (N, G): array, sparse matrix, DataFrame, or one vector (N,). Missing values
        (NaN) of a dense `Y` are dropped column by column. With `features` (N, P): measurements of peptides.
    obs
        N rows: the variables of the formula. Rows in which one of them is missing are left out, with a warning.
    formula
        ``"~ fixed + (columns | group)"``; see the package's documentation for random terms.
    {kernels}
    features
        For columns that are measurements of features and not features themselves, such as peptides (or precursors) of
        proteins: the protein of every column. Labels (P,) in the order of the columns, a Series or dict by the names of the
        columns of a DataFrame `Y`, or the name of a column of `var`; columns without a label are left out. Every protein is
        a mixed model of its own on all measurements of its peptides, less those that are missing (NaN), and ``peptide`` in
        the formula is the column of `Y`: ``"~ condition + (1 | peptide) + (1 | donor)"``. Random terms that a protein cannot
        tell are left out there, and its status is ``"reduced"``.
    var
        P rows, for `features`: columns of the peptides that the formula reads beside those of `obs`.
    {reml}
    weights
        Precision weights: an array (N,), or the name of a column of `obs`. The residual variance
        of a row is ``sigma2 / weight``. With `features` also a weight for every measurement: an array, DataFrame or sparse
        matrix (N, P); a measurement of which it is NaN or zero is left out, as if it were missing.
    {n_jobs}
    {progress}

    Returns
    -------
    LMMFit, or PeptideFit with `features`.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If the rows cannot answer it.
    DataError
        If `Y`, `features` or `weights` cannot be used.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 5), "arm": np.repeat(["ctrl", "case"], 15)})
    >>> rng = np.random.default_rng(0)
    >>> fit = dw.fit_lmm(rng.normal(size=(30, 3)), obs, "~ arm + (1 | donor)")
    >>> fit.beta.shape
    (3, 2)
    >>> list(fit.test("arm[T.ctrl]").columns[:4])
    ['variable', 'contrast', 'estimate', 'se']

    Three peptides of a protein and two of another, each with the weight of its own:

    >>> Y, W = rng.normal(20, 1, size=(30, 5)), rng.uniform(0.5, 2, size=(30, 5))
    >>> proteins = ["P1", "P1", "P1", "P2", "P2"]
    >>> fit = dw.fit_lmm(Y, obs, "~ arm + (1 | peptide) + (1 | donor)", features=proteins, weights=W)
    >>> fit.test("arm[T.ctrl]", ddf="kenward-roger")[["variable", "n_obs", "n_peptides"]].values.tolist()
    [['P1', 90, 3], ['P2', 60, 2]]
    """
    jobs = effective_jobs(n_jobs)
    if features is not None:
        parsed = parse(formula)
        if parsed.covs or kernels or relmat:
            raise DesignError(
                "Models of peptides (features=) take no known covariance between levels: no gr(..., cov=...) in the formula, and "
                "no kernels= or relmat=. Summarise each protein to one value per run to fit them with a kernel."
            )
        return fit_peptide_arrays(Y, obs, parsed, features, var, weights, reml=reml, progress=progress)
    if var is not None:
        raise DesignError("var= has the columns of peptides; it goes with features=, which says their proteins.")
    matrix, variables = read_arrays(Y, obs)
    w = check_weights(weights, obs)
    design = design_of_arrays(bind(parse(formula), kernels, relmat=relmat, levels=levels), obs)
    (statistics,) = collapse_tasks(matrix, variables, [Task("all", design, "")], weights=w, n_jobs=pass_jobs(n_jobs))
    if statistics is None:
        raise DesignError("The fixed part is rank deficient on the rows that have responses.")
    with Progress(total=len(variables), unit="fit", desc="mixed models", disable=not progress) as bar:
        return fit_statistics(statistics, variables, reml=reml, n_jobs=jobs, update=bar.update)
