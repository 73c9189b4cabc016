"""The fitted model of many features, and what can be asked of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from donorwise._core.design.contrasts import resolve_term
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.fitted_means import FittedMeans, only_of_exposures
from donorwise._core.engine.fitted_variances import FittedVariances
from donorwise._core.engine.joint import joint_features
from donorwise._core.engine.mean_scale import MeanScale
from donorwise._core.engine.results import resolve_by_group, with_unanswered
from donorwise._core.engine.tables import (
    joint_table,
    lrt_table,
    tests_table,
)
from donorwise._core.engine.tasks import Task, test_features
from donorwise._core.inference.likelihood_ratio import check_nested, check_same_data, extra_parameters, n_parameters
from donorwise._core.inference.moderation import learn, refusal
from donorwise._typing import ALL, DDF, check_level, check_option, is_number
from donorwise.errors import DesignError, DonorwiseError

if TYPE_CHECKING:
    from donorwise._core.engine.tasks import FeatureTests
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.inference.prior import Prior
    from donorwise._typing import Ddf, FloatArray, IntArray

logger = logging.getLogger("donorwise")


@dataclass(frozen=True, repr=False)
class LMMFit(FittedVariances, FittedMeans):
    """Linear mixed models of G features with one formula.

    Attributes
    ----------
    formula
        The formula.
    reml
        Whether the variances are REML estimates (else maximum likelihood).
    donor
        The grouping factor that counts as the replicate.
    variables
        Names of the G features.
    fixed_names
        Names of the p fixed effects.
    beta
        Shape (G, p). Fixed effects, in units of the response.
    vcov_beta
        Shape (G, p, p). Their covariance, sigma2 (X'V⁻¹X)⁻¹.
    sigma2
        Shape (G,). Residual variance (of a row with weight 1).
    theta
        Shape (G, n_theta). Relative covariance factors as in lme4 (Bates et al. 2015, eq. 4).
    theta_names
        Their names, ``"Subject.(Intercept)"``, ``"Subject.Days.(Intercept)"``, ...
    loglik
        Shape (G,). Log-likelihood, restricted if `reml`, with the constants of lme4.
    status
        Shape (G,). ``"ok"``, ``"boundary"`` (a variance is zero), or why there is no fit: ``"constant"``,
        ``"not_estimable"``, ``"not_converged"``.
    n_iter
        Shape (G,). Iterations of the optimiser.
    n_obs
        Shape (G,). Rows with a response.
    n_donors
        Shape (G,). Levels of `donor` with a response.
    design
        The design that all features share.
    models
        The fitted features by the rows that they have (one model unless responses are missing).

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
    >>> fit.beta.shape, fit.fixed_names
    ((20, 2), ('Intercept', 'condition[T.disease]'))
    """

    @cached_property
    def prior(self) -> Prior:
        """The prior on the variance ratios that the features share, learned at the first call.

        Empirical Bayes by EM on a grid of ratios, at knots of the rank of the mean response; see
        :meth:`test`. Its ``axes``, ``weights`` (knots x grid points) and ``knots`` can be looked at,
        and :func:`donorwise.pl.prior` draws it.

        Raises
        ------
        DesignError
            If moderation does not cover the model: more than three variances and covariances of random effects,
            or fewer than 100 features.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=150)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.prior.terms, fit.prior.weights.shape == (2, fit.prior.axes[0].size)
        (('(1 | donor_id)',), True)
        """
        if reason := refusal(self.models):
            raise DesignError(f"There is no shared prior: {reason}.")
        return self.learned.prior

    @cached_property
    def learned(self) -> Learned:
        """The :attr:`prior`, the rank of every feature's mean, and the likelihoods that it was learned from.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=150)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.learned.rank.shape
        (150,)
        """
        with one_blas_thread():
            return learn(self.models)

    @cached_property
    def not_moderated(self) -> str:
        """Why tests are not moderated, which is logged when it is first asked for; empty where they are.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)").not_moderated
        '20 features are too few to learn a prior from (100 are needed)'
        """
        reason = refusal(self.models)
        if reason:
            logger.warning("Kenward-Roger degrees of freedom are used: %s.", reason)
        return reason

    def test(
        self, contrasts: Any = None, ddf: Ddf = "moderated", level: float = 0.95, *, min_effect: float = 0.0
    ) -> pd.DataFrame:
        """t tests of contrasts of the fixed effects.

        Parameters
        ----------
        contrasts
            A coefficient's name, a dict of weights, ``("disease", "MS", "control")``,
            a difference of :func:`donorwise.cond`, :func:`donorwise.pairwise`,
            :func:`donorwise.slope`, a matrix, or several of these; every coefficient but the
            intercept if None.
        ddf
            ``"moderated"`` averages the test over the variance ratios that the data and a prior
            shared by all features leave possible (see Notes); ``"kenward-roger"`` (Kenward and
            Roger 1997), ``"satterthwaite"``, ``"between-within"`` (from the design alone, as nlme; where random slopes
            differ between donors it counts rows for them: type I error .11 for .05 with six donors) and
            ``"residual"`` (n - p: takes rows for replicates; for comparison only) judge every
            feature by itself, which is what to use for one feature named in advance. Where
            moderation does not apply (see :attr:`prior`) Kenward-Roger takes its place, which the log says.
        level
            Coverage of the confidence interval.
        min_effect
            Test whether effects are larger than this in size, in units of the estimate, and not whether they are zero:
            the p-value is that of the hypothesis that they are at most so large (McCarthy and Smyth 2009, as limma's treat),
            and `statistic` how far the estimate is beyond, in standard errors (0 where it is not). Estimates, standard
            errors, df and intervals stay as they are.

        Returns
        -------
        DataFrame
            One row per feature and contrast: ``variable, contrast, estimate, se, ci_low, ci_high,
            statistic, df, p_value, adj_p_value, status, n_donors, n_obs``. Adjusted by
            Benjamini-Hochberg within a contrast over the features that were tested.

        Raises
        ------
        DonorwiseError
            If `ddf`, `level` or `min_effect` is not an option, or a contrast does not fit the model.

        Notes
        -----
        Moderated: with ratios lambda of the random to the residual variance, a prior on them
        learned from all features by EM, and flat beta and log sigma, the posterior of c'beta is a
        mixture of t distributions with n - p degrees of freedom, F its distribution function at
        zero, and ``p = 2 min(F, 1 - F)``. `estimate` is the mixture's mean; `statistic`, `se`, `df`
        and the interval are those of one t distribution: that with this p-value whose 95% interval is as
        wide as the mixture's (its 99.9% interval, the nearer p is to .05). So p is the tail of t beyond
        ``estimate / se``, and `df` describes the shape of what is known: it counts neither donors nor cells.
        The test is calibrated on average over features, as moderated t tests are (Smyth 2004): features with
        less variance between donors than others of their mean get somewhat too large p-values, those with
        more somewhat too small ones. With `min_effect` d the p-value is F(d) + F(-d), or its complement to 2. The prior follows the rank of the mean response, so features should be
        on one scale.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> table = fit.test("condition[T.disease]", ddf="kenward-roger")
        >>> len(table), list(table.columns[2:4])
        (20, ['estimate', 'se'])
        >>> arms = [dw.cond(condition=level) for level in ("disease", "control")]
        >>> bool((fit.test(arms[0] - arms[1], ddf="kenward-roger")["p_value"] == table["p_value"]).all())
        True
        """
        check_option("ddf", ddf, DDF)
        check_level(level)
        if not (is_number(min_effect) and 0 <= min_effect < np.inf):
            raise DonorwiseError(f"min_effect={min_effect!r} must be a number of at least 0, in units of the estimate.")
        names, (own,) = resolve_by_group([Task(ALL, self.design, self.design.lost.reason)], contrasts)
        assert own is not None  # one of the contrasts at least, else it is an error
        with one_blas_thread():
            tested = test_features(self, own.L, self._used(ddf), level, min_effect=min_effect)
        numbers, status = with_unanswered(tested, names, own.names)
        return tests_table(self.variables, tuple(names), numbers, status, self.n_donors, self.n_obs)

    def _levels(self, L: FloatArray, ddf: str | None, level: float) -> FeatureTests:
        """See :class:`FittedMeans`."""
        check_option("ddf", ddf or "moderated", DDF)
        with one_blas_thread():
            return test_features(self, L, self._used(ddf or "moderated"), level, min_effect=None)

    def _mean_scale(self, exposure: float) -> MeanScale:
        """See :class:`FittedMeans`."""
        only_of_exposures("identity", exposure)
        return MeanScale()

    def _used(self, ddf: str) -> str:
        """The degrees of freedom that take the place of those asked for."""
        return self.models[0].fallback if ddf == "moderated" and self.not_moderated and self.models else ddf

    def joint_test(self, term: str, ddf: Ddf = "moderated") -> pd.DataFrame:
        """F test that all coefficients of a fixed term are zero.

        Parameters
        ----------
        term
            A fixed term of the formula, ``"disease"`` or ``"disease:sex"``.
        ddf
            As in :meth:`test`; Kenward-Roger scales F, Satterthwaite pools the df of
            orthogonal contrasts as lmerTest does.

        Returns
        -------
        DataFrame
            One row per feature: ``variable, term, statistic, num_df, den_df, scaling, p_value,
            adj_p_value, status``; `p_value` is the tail of F(num_df, den_df) beyond `statistic`.

        Raises
        ------
        DesignError
            If the formula has no such term.
        DonorwiseError
            If `ddf` is not an option.

        Notes
        -----
        Moderated: given the variance ratios the F test is exact; its p-value is averaged over the
        posterior of the ratios, with the prior of :meth:`test`. `den_df` are those of a denominator that varies as
        the posterior's does, and `statistic` is the F that has the p-value with them.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.joint_test("condition")["num_df"].unique().tolist()
        [1]
        """
        check_option("ddf", ddf, DDF)
        L, used = resolve_term(self.design, term), self._used(ddf)
        with one_blas_thread():
            return joint_table(self.variables, term, len(L), joint_features(self, L, used))

    def lrt(self, other: LMMFit) -> pd.DataFrame:
        """Likelihood-ratio test against a nested (or larger) model of the same responses.

        Both are compared at their maximum-likelihood estimates, refitted where needed. One
        variance more is tested by the equal mixture of two chi-squared laws (Self and Liang 1987).

        Parameters
        ----------
        other
            A fit of the same responses whose formula has fewer (or more) terms.

        Returns
        -------
        DataFrame
            One row per feature: ``variable, statistic, df, p_value, adj_p_value, loglik,
            loglik_reduced, status``.

        Raises
        ------
        DesignError
            If the two models do not have the same features and rows, or the same parameters.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> null = dw.fit_lmm(adata.X, adata.obs, "~ 1 + (1 | donor_id)")
        >>> fit.lrt(null)["df"].unique().tolist()
        [1]
        """
        larger, smaller = sorted((self, other), key=lambda fit: sum(n_parameters(fit.design)), reverse=True)
        check_same_data(larger, smaller)
        check_nested(larger.design, smaller.design)
        extra_parameters(larger.design, smaller.design)  # or there is nothing to test
        extra = larger._parameters() - smaller._parameters()
        full, reduced = larger.at_ml(), smaller.at_ml()
        return lrt_table(self.variables, (full.loglik, full.status), (reduced.loglik, reduced.status), extra)

    def _parameters(self) -> IntArray:
        """Parameters of every feature's model, as in :class:`Extra`, (G, 3)."""
        return np.tile(n_parameters(self.design), (len(self.variables), 1))

    def at_ml(self) -> Self:
        """The same model fitted by maximum likelihood.

        Returns
        -------
        LMMFit
            Itself if it is one already.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.reml, fit.at_ml().reml
        (True, False)
        """
        if not self.reml:
            return self
        models = tuple(model.fitted_by(reml=False) for model in self.models)
        return self.with_models(models, reml=False)
