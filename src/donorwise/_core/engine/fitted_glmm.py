"""Generalised linear mixed models of arrays, fitted feature by feature, and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import delayed

from donorwise._core.design.contrasts import resolve_term
from donorwise._core.design.replicates import replicate
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.exact_features import EXACT_DDF, ExactFeatures
from donorwise._core.engine.fitted_glmm_variances import FittedGlmmVariances
from donorwise._core.engine.fitted_means import FittedMeans, only_of_exposures
from donorwise._core.engine.mean_scale import MeanScale
from donorwise._core.engine.results import resolve_by_group, with_unanswered
from donorwise._core.engine.tables import joint_table, lrt_table, tests_table
from donorwise._core.engine.tasks import Task
from donorwise._core.inference.likelihood_ratio import check_nested, extra_parameters, n_parameters
from donorwise._core.jobs import workers
from donorwise._core.models.glmm.exact import fit_exactly
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.components import theta_names
from donorwise._typing import ALL, STATUSES, check_level, check_option
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.design.design import Design
    from donorwise._core.engine.exact_features import ExactDdf, FeatureData
    from donorwise._core.engine.tasks import FeatureTests
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray, IntArray, StrArray


@dataclass(frozen=True, repr=False)
class GLMMFit(FittedMeans, FittedGlmmVariances):
    """Generalised linear mixed models of G features with one formula.

    Attributes
    ----------
    formula
        The formula.
    family
        As it was asked for.
    link
        As it was asked for.
    reml
        Whether variances and sizes are estimates by restricted likelihood (else maximum likelihood).
    n_quad
        Nodes of adaptive quadrature that were used; 1 is Laplace's approximation.
    donor
        The grouping factor that counts as the replicate.
    variables
        Names of the G features.
    fixed_names
        Names of the p fixed effects.
    beta
        Shape (G, p). Fixed effects, in units of the linear predictor: log rates, or log odds. Infinite where they are
        separated.
    vcov_beta
        Shape (G, p, p). Their covariance, from the Hessian over all parameters; NaN where they are infinite.
    theta
        Shape (G, n_theta). Lower triangles T of the covariances T T' of random effects; for a term of one column, its
        standard deviation. Units of the linear predictor.
    theta_names
        Their names, ``"Subject.(Intercept)"``, ``"Subject.Days.(Intercept)"``, ...
    size
        Shape (G,). Of a negative binomial, with variance mu + mu² / size: infinite where Poisson's distribution fits as
        well; NaN for other families.
    loglik
        Shape (G,). Log-likelihood with all constants, restricted if `reml`.
    status
        Shape (G,). ``"ok"``, ``"boundary"`` (a variance is zero), ``"separated"`` (a coefficient is infinite, as all
        counts are in one arm: `loglik` is the limit, and what is finite is that of the rows which decide; or NaN,
        where a variance is), or why there is no fit: ``"constant"``, ``"not_estimable"``, ``"not_converged"``.
    n_iter
        Shape (G,). Iterations of the optimiser.
    n_obs
        Shape (G,). Rows with a response.
    n_donors
        Shape (G,). Levels of `donor` with a response.
    design
        The design that all features share.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
    >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="nb")
    >>> fit.beta.shape, fit.fixed_names
    ((5, 2), ('Intercept', 'condition[T.disease]'))
    """

    formula: str
    family: str
    link: str
    reml: bool
    n_quad: int
    donor: str
    variables: tuple[str, ...]
    fixed_names: tuple[str, ...]
    beta: FloatArray
    vcov_beta: FloatArray
    theta: FloatArray
    theta_names: tuple[str, ...]
    size: FloatArray
    loglik: FloatArray
    status: StrArray
    n_iter: IntArray
    n_obs: IntArray
    n_donors: IntArray
    design: Design
    _features: ExactFeatures

    def __repr__(self) -> str:
        counts = {s: int((self.status == s).sum()) for s in STATUSES}
        status = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        donors = f" of {self.n_donors.max(initial=0):,} {self.donor}" if self.donor else ""
        names = ", ".join(self.fixed_names[:6]) + (", ..." if len(self.fixed_names) > 6 else "")
        how = "Laplace's approximation" if self.n_quad == 1 else f"adaptive quadrature, {self.n_quad} nodes"
        return (
            f"GLMMFit of {len(self.variables):,} features by {'restricted' if self.reml else 'maximum'} likelihood ({how})\n"
            f"  formula  {self.formula}\n"
            f"  family   {self.family}, {self.link} link\n"
            f"  data     {self.n_obs.max(initial=0):,} rows{donors}\n"
            f"  fixed    {names}\n"
            f"  status   {status}\n"
            f"  ask      .test() .joint_test() .means() .lrt() .varcomp() .icc() .ranef() .size"
        )

    def test(self, contrasts: Any = None, ddf: ExactDdf = "between-within", level: float = 0.95) -> pd.DataFrame:
        """Wald tests of contrasts of the fixed effects.

        Parameters
        ----------
        contrasts
            As in :meth:`donorwise.LMMFit.test`; every coefficient but the intercept if None.
        ddf
            ``"between-within"`` takes the degrees of freedom of t from the design: for what differs between donors, or has
            random slopes, they count the donors. ``"wald"`` is the normal distribution (z), as the summaries of glmer and glmmTMB have it,
            which takes few donors for many: with 3 against 3 it finds several times the nominal share of null features.
        level
            Coverage of the confidence interval.

        Returns
        -------
        DataFrame
            One row per feature and contrast: ``variable, contrast, estimate, se, ci_low, ci_high, statistic, df, p_value,
            adj_p_value, status, n_donors, n_obs``; estimates in units of the linear predictor. A contrast with an
            infinite coefficient (status ``"separated"``) has no p-value: compare models by :meth:`lrt`.

        Raises
        ------
        DonorwiseError
            If `ddf` or `level` is not an option, or a contrast does not fit the model.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> fit.test("condition[T.disease]")["df"].unique().tolist()
        [4.0]
        """
        check_option("ddf", ddf, EXACT_DDF)
        check_level(level)
        names, (own,) = resolve_by_group([Task(ALL, self.design, self.design.lost.reason)], contrasts)
        assert own is not None  # one of the contrasts at least, else it is an error
        numbers, status = with_unanswered(self._features.tests(own.L, ddf, level), names, own.names)
        return tests_table(self.variables, tuple(names), numbers, status, self.n_donors, self.n_obs)

    def _levels(self, L: FloatArray, ddf: str | None, level: float) -> FeatureTests:
        """See :class:`FittedMeans`."""
        check_option("ddf", ddf or "between-within", EXACT_DDF)
        return self._features.tests(L, ddf or "between-within", level)  # type: ignore[arg-type]

    def _mean_scale(self, exposure: float) -> MeanScale:
        """See :class:`FittedMeans`."""
        link = self._features.distribution.link
        only_of_exposures(link, exposure)
        return MeanScale(link, float(exposure))

    def joint_test(self, term: str, ddf: ExactDdf = "between-within") -> pd.DataFrame:
        """Wald test that all coefficients of a fixed term are zero.

        Parameters
        ----------
        term
            A fixed term of the formula, ``"disease"`` or ``"disease:sex"``.
        ddf
            As in :meth:`test`: an F test with the smallest of the coefficients' degrees of freedom, or with infinitely
            many (chi-squared by its degrees of freedom).

        Returns
        -------
        DataFrame
            One row per feature: ``variable, term, statistic, num_df, den_df, scaling, p_value, adj_p_value, status``;
            `p_value` is the tail of F(num_df, den_df) beyond `statistic`.

        Raises
        ------
        DesignError
            If the formula has no such term.
        DonorwiseError
            If `ddf` is not an option.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> fit.joint_test("condition")["num_df"].unique().tolist()
        [1]
        """
        check_option("ddf", ddf, EXACT_DDF)
        L = resolve_term(self.design, term)
        return joint_table(self.variables, term, len(L), self._features.joint_tests(L, ddf))

    def lrt(self, other: GLMMFit) -> pd.DataFrame:
        """Likelihood-ratio test against a nested (or larger) model of the same responses.

        Both are compared at their maximum-likelihood estimates, refitted where needed. One variance more is tested by
        the equal mixture of two chi-squared laws (Self and Liang 1987). Separated features have an answer as well.

        Parameters
        ----------
        other
            A fit of the same responses, with the same family, link, exposures and nodes, whose formula has fewer (or
            more) terms.

        Returns
        -------
        DataFrame
            One row per feature: ``variable, statistic, df, p_value, adj_p_value, loglik, loglik_reduced, status``.

        Raises
        ------
        DesignError
            If the two models do not have the same features, rows and family, or the same parameters.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> counts = adata.layers["counts"]
        >>> fit = dw.fit_glmm(counts, adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> null = dw.fit_glmm(counts, adata.obs, "~ 1 + (1 | donor_id)", family="poisson")
        >>> fit.lrt(null)["df"].unique().tolist()
        [1]
        """
        larger, smaller = sorted((self, other), key=lambda fit: sum(n_parameters(fit.design)), reverse=True)
        self._check_same(other)
        check_nested(larger.design, smaller.design)
        extra = extra_parameters(larger.design, smaller.design)
        full, reduced = larger.at_ml(), smaller.at_ml()
        return lrt_table(
            self.variables, (full.loglik, full.status), (reduced.loglik, reduced.status), np.array([extra])
        )

    def _check_same(self, other: GLMMFit) -> None:
        """Raise unless another fit has the same features, rows, family and approximation."""
        if (self.family, self.link) != (other.family, other.link):
            raise DesignError(
                f"The two fits have different families, {self.family!r} ({self.link}) and {other.family!r} ({other.link}); "
                "fit both with one."
            )
        if self.n_quad != other.n_quad:
            raise DesignError(
                f"The likelihood of one fit is by n_quad={self.n_quad} and that of the other by n_quad={other.n_quad}; fit "
                "both with the same (1 where a formula has several random terms)."
            )
        same = self.variables == other.variables and np.array_equal(self.n_obs, other.n_obs)
        own, others = (np.array([d.fingerprint for d in fit._features.data]) for fit in (self, other))
        if not same or not np.allclose(own, others, rtol=1e-9, atol=1e-12):
            raise DesignError(
                "The two fits do not have the same features, rows, responses, exposures and trials (rows are dropped where "
                "a variable of the formula is missing); fit both to the same data."
            )

    def at_ml(self) -> GLMMFit:
        """The same model fitted by maximum likelihood.

        Returns
        -------
        GLMMFit
            Itself if it is one already.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> fit.reml, fit.at_ml().reml
        (True, False)
        """
        if not self.reml:
            return self
        own = self._features
        return fit_features(self.design, own.distribution, self.variables, own.data, n_quad=self.n_quad, reml=False)


def fit_features(
    design: Design,
    distribution: Distribution,
    variables: tuple[str, ...],
    data: tuple[FeatureData, ...],
    *,
    n_quad: int,
    reml: bool,
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> GLMMFit:
    """Fit features one by one; `update` is told of each."""
    fits = []
    with one_blas_thread(), workers(n_jobs) as parallel:
        for fit in parallel(delayed(fit_exactly)(own.observations, n_quad, reml=reml) for own in data):
            fits.append(fit)
            update(1)
    names, p, G = theta_names(design), len(design.fixed_names), len(fits)
    donor = ":".join(replicate([t.bar.group for t in design.random_terms]))
    at = next((t for t, term in enumerate(design.random_terms) if term.group == donor), None)
    n_donors = [0 if at is None else own.observations.effects.levels_in_use(at) for own in data]
    return GLMMFit(
        design.formula, distribution.name, distribution.link, reml, n_quad, donor, variables, design.fixed_names,
        np.array([f.beta for f in fits]).reshape(G, p), np.array([f.vcov for f in fits]).reshape(G, p, p),
        np.array([f.theta for f in fits]).reshape(G, len(names)), names, np.array([f.size for f in fits]),
        np.array([f.loglik for f in fits]), np.array([f.status for f in fits], dtype=STATUS_DTYPE),
        np.array([f.n_iter for f in fits], dtype=np.int64), np.array([f.n_obs for f in fits], dtype=np.int64),
        np.array(n_donors, dtype=np.int64), design, ExactFeatures(design, distribution, data, tuple(fits)),
    )  # fmt: skip
