"""What a fit says of variances and of random effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.heritability import heritability_table, on_scale
from donorwise._core.engine.partition import partition_of, term_labels
from donorwise._core.engine.tables import (
    ranef_table,
    varcomp_table,
    which_group,
)
from donorwise._core.models.lmm.fitted import FittedArrays
from donorwise._typing import FIXED_SHARES, SCALES, check_option

if TYPE_CHECKING:
    from donorwise._typing import FixedShares, Scale


@dataclass(frozen=True, repr=False)
class FittedVariances(FittedArrays):
    """Fitted arrays, with tables of their variances and random effects."""

    @property
    def random_labels(self) -> tuple[str, ...]:
        """What shares of the random terms are called."""
        return tuple(term_labels(self.design))

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
        return partition_of(self.variables, self.design, self.models).icc()

    def variance_partition(self, fixed: FixedShares = "each") -> pd.DataFrame:
        """Fractions of variance: each fixed term, each random term, residual; rows sum to 1.

        The fixed part is the variance of its fitted values over the rows (Nakagawa and
        Schielzeth 2013), a random term the average over the rows of z'Var(u)z. The terms of the
        fixed part have of it what :func:`donorwise.get.variance_partition` says.

        Parameters
        ----------
        fixed
            ``"each"`` gives every fixed term a column, ``"together"`` the fixed part one.

        Returns
        -------
        DataFrame
            Indexed by variable; one column per fixed term (or ``"fixed"``), one per random term, ``"Residual"``.

        Raises
        ------
        DonorwiseError
            `fixed` is not an option.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
        >>> fit.variance_partition().columns.tolist()
        ['condition', 'donor_id', 'Residual']
        """
        check_option("fixed", fixed, FIXED_SHARES)
        return partition_of(self.variables, self.design, self.models).wide(fixed)

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
