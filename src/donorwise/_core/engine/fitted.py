"""The fitted model of many features, and what can be asked of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._core.design.contrasts import resolve_term
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.heritability import heritability_table, on_scale
from donorwise._core.engine.results import resolve_by_group, with_unanswered
from donorwise._core.engine.tables import (
    icc_table,
    joint_table,
    lrt_table,
    partition_table,
    ranef_table,
    tests_table,
    varcomp_table,
    which_group,
)
from donorwise._core.engine.tasks import Task, test_features, test_jointly
from donorwise._core.inference.likelihood_ratio import check_nested, check_same_data, extra_parameters, n_parameters
from donorwise._core.inference.moderation import learn, refusal
from donorwise._core.models.lmm.fitted import FittedArrays
from donorwise._typing import ALL, DDF, SCALES, check_option
from donorwise.errors import DesignError, DonorwiseError

if TYPE_CHECKING:
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.inference.prior import Prior
    from donorwise._typing import Ddf, Scale

logger = logging.getLogger("donorwise")


@dataclass(frozen=True, repr=False)
class LMMFit(FittedArrays):
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

    def test(self, contrasts: Any = None, ddf: Ddf = "moderated", level: float = 0.95) -> pd.DataFrame:
        """t tests of contrasts of the fixed effects.

        Parameters
        ----------
        contrasts
            A coefficient's name, a dict of weights, ``("disease", "MS", "control")``,
            a difference of :func:`donorwise.cond`, a matrix, or several of these; every
            coefficient but the intercept if None.
        ddf
            ``"moderated"`` averages the test over the variance ratios that the data and a prior
            shared by all features leave possible (see Notes); ``"kenward-roger"`` (Kenward and
            Roger 1997), ``"satterthwaite"``, ``"between-within"`` (from the design alone) and
            ``"residual"`` (n - p: takes rows for replicates; for comparison only) judge every
            feature by itself, which is what to use for one feature named in advance. Where
            moderation does not apply (see :attr:`prior`) Kenward-Roger takes its place, which the log says.
        level
            Coverage of the confidence interval.

        Returns
        -------
        DataFrame
            One row per feature and contrast: ``variable, contrast, estimate, se, ci_low, ci_high,
            statistic, df, p_value, adj_p_value, status, n_donors, n_obs``. Adjusted by
            Benjamini-Hochberg within a contrast over the features that were tested.

        Raises
        ------
        DonorwiseError
            If `ddf` or `level` is not an option, or a contrast does not fit the model.

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
        more somewhat too small ones. The prior follows the rank of the mean response, so features should be
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
        if not 0 < level < 1:
            raise DonorwiseError(f"level={level!r} is not a coverage; it must lie between 0 and 1, as 0.95 does.")
        names, (own,) = resolve_by_group([Task(ALL, self.design, self.design.lost.reason)], contrasts)
        assert own is not None  # one of the contrasts at least, else it is an error
        with one_blas_thread():
            tested = test_features(self, own.L, self._used(ddf), level)
        numbers, status = with_unanswered(tested, names, own.names)
        return tests_table(self.variables, tuple(names), numbers, status, self.n_donors, self.n_obs)

    def _used(self, ddf: Ddf) -> str:
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
            return joint_table(self.variables, self.models, term, L, partial(test_jointly, self, L=L, ddf=used))

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
        extra = extra_parameters(larger.design, smaller.design)
        full, reduced = larger.at_ml(), smaller.at_ml()
        return lrt_table(self.variables, (full.loglik, full.status), (reduced.loglik, reduced.status), extra)

    def varcomp(self) -> pd.DataFrame:
        """Variance components.

        Returns
        -------
        DataFrame
            ``variable, term, column1, column2, variance, sd``: a variance has an empty
            `column2`; for a covariance `sd` holds the correlation. The residual comes last.
            Variances are in squared units of the response.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.varcomp()["term"].unique().tolist()
        ['donor_id', 'Residual']
        """
        return varcomp_table(self.variables, self.design, self.models)

    def icc(self) -> pd.DataFrame:
        """Intraclass correlation: each random term's share of the random and residual variance.

        For a term with slopes the variance is its average over the rows (Johnson 2014).

        Returns
        -------
        DataFrame
            ``variable, term, icc``.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> bool(fit.icc()["icc"].dropna().between(0, 1).all())
        True
        """
        return icc_table(self.variance_partition())

    def variance_partition(self) -> pd.DataFrame:
        """Fractions of variance: fixed effects, each random term, residual; rows sum to 1.

        The fixed part is the variance of its fitted values over the rows (Nakagawa and
        Schielzeth 2013), a random term the average over the rows of z'Var(u)z.

        Returns
        -------
        DataFrame
            Indexed by variable; columns ``"fixed"``, one per random term, ``"Residual"``.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.variance_partition().columns.tolist()
        ['fixed', 'donor_id', 'Residual']
        """
        return partition_table(self.variables, self.design, self.models)

    def heritability(self, scale: Scale = "trace") -> pd.DataFrame:
        """Proportions of variance of the terms with a kernel: h2, m2 and the like, with standard errors.

        Parameters
        ----------
        scale
            ``"trace"`` states every term by the mean variance between its levels after centring: a variance is
            multiplied by tr(PKP) / (n - 1), of the n levels in use, which is one for levels that are independent
            (Speed and Balding 2015). ``"as-is"`` takes variances as they are, for K as it was given.

        Returns
        -------
        DataFrame
            A row per feature and component: ``variable, component, proportion, se, ci_low, ci_high, statistic, p_value,
            adj_p_value, status``. Components are the kernels, the other terms of their grouping factor, and, of several
            kernels, their ``"sum"``.

        Raises
        ------
        DesignError
            The formula has no kernel.
        DonorwiseError
            `scale` is not an option.

        Notes
        -----
        A proportion is out of all that varies beyond the fixed effects: all random terms and the residual of a single
        row, as in an ICC. With many cells to a donor the residual is that of a cell; a kernel's proportion of what
        varies between donors is its own over the sum of those of the donors' terms. The variance of a term with other
        columns than a constant is its mean over the rows. Variances are REML estimates, whatever the fit is by.

        `se` is by the delta method from the observed information (the average or the expected one where it is not
        positive definite), variances at zero being left out, and missing for a proportion that is zero. Near zero and one
        it says little; the interval holds there.

        `statistic` is the restricted likelihood ratio of no variance at all, to about a hundredth. Of one variance, or two,
        the laws of likelihood ratios are simulated once for all features, from the rows, covariates and kernels alone
        (Crainiceanu and Ruppert 2004; Schweiger et al. 2016), at the best value of the other variance: `p_value` is a tail of
        that, and the 95% interval has the proportions whose ratio is within its 95% quantile, ordered by likelihood ratios as
        those of Feldman and Cousins (1998). Of features that lack rows the laws are those of the rows of the others. Of three
        variances or more, or of covariances, the interval is that of a normal mean between bounds, on the scale on which the
        standard error is one, and `p_value` that of an equal mixture of zero and chi-squared (an upper bound for a sum).

        `status` is ``"boundary"`` for a component at zero, and ``"confounded"`` where the design can hardly tell two
        components apart (a correlation of their estimates below -0.95) and neither is known to be there (p > .05): their
        proportions are not to be read, their sum may be. Features without variance within donors have no proportions.

        Examples
        --------
        >>> import numpy as np, pandas as pd, donorwise as dw
        >>> rng = np.random.default_rng(0)
        >>> sibs = np.kron(np.eye(20), [[1, 0.5], [0.5, 1]])  # 20 pairs of siblings
        >>> names = [f"d{i}" for i in range(40)]
        >>> obs = pd.DataFrame({"donor": np.repeat(names, 5)})
        >>> Y = np.repeat(np.linalg.cholesky(sibs) @ rng.normal(size=(40, 3)), 5, axis=0) + rng.normal(size=(200, 3))
        >>> kernels = {"grm": pd.DataFrame(sibs, names, names)}
        >>> fit = dw.fit_lmm(Y, obs, "~ 1 + (1 | gr(donor, cov=grm)) + (1 | donor)", kernels=kernels)
        >>> fit.heritability()["component"].tolist()[:2]
        ['grm', 'donor']
        """
        check_option("scale", scale, SCALES)
        with one_blas_thread():
            return on_scale(heritability_table(self.variables, self.design, self.models), scale)

    def ranef(self, group: str | None = None) -> pd.DataFrame:
        """Conditional modes of the random effects (BLUPs) and their conditional sd.

        Parameters
        ----------
        group
            A grouping factor; may be left out where there is one.

        Returns
        -------
        DataFrame
            ``variable, level, column, value, cond_sd``. The conditional variance is given the fixed
            effects, as lme4's ``condVar``.

        Raises
        ------
        DesignError
            If `group` is not a grouping factor of the model.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.ranef("donor_id").shape  # 20 features x 6 donors
        (120, 5)
        """
        return ranef_table(self.variables, self.design, self.models, which_group(self.design, group))

    def at_ml(self) -> LMMFit:
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
        counts = {"n_obs": self.n_obs, "n_donors": self.n_donors}
        return LMMFit.of(self.design, models, self.variables, donor=self.donor, reml=False, **counts)
