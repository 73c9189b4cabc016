"""What generalised linear mixed models of arrays say of variances and of random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.engine.partition import long_values, term_labels
from donorwise._core.engine.tables import component_rows, components, components_table, ranef_table, which_group

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._core.design.design import Design
    from donorwise._core.engine.exact_features import ExactFeatures
    from donorwise._typing import FloatArray


class FittedGlmmVariances:
    """Fits of arrays, with tables of their variances and random effects."""

    variables: tuple[str, ...]
    theta: FloatArray
    size: FloatArray
    design: Design
    _features: ExactFeatures

    def varcomp(self) -> pd.DataFrame:
        """Variance components of the random effects, in squared units of the linear predictor.

        Returns
        -------
        DataFrame
            ``variable, term, column1, column2, variance, sd``: a variance has an empty `column2`; for a covariance `sd`
            holds the correlation. There is no residual: ``size`` is the dispersion of a negative binomial.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> fit.varcomp()["term"].unique().tolist()
        ['donor_id']
        """
        triangles = [
            d.observations.effects.triangles(theta) for d, theta in zip(self._features.data, self.theta, strict=True)
        ]
        stacked = [np.stack(T) for T in zip(*triangles, strict=True)]
        values = components([T @ T.swapaxes(1, 2) for T in stacked], len(self.variables))
        return components_table(self.variables, component_rows(self.design), *values)

    def icc(self) -> pd.DataFrame:
        """Intraclass correlation on the latent scale, that of the linear predictor.

        Each random term's share of the random variance and that of the distribution about the linear predictor
        (Nakagawa, Johnson and Schielzeth 2017, J R Soc Interface 14): pi²/3 for logit, pi²/6 for cloglog, and
        log(1 + 1/mu + 1/size) for log, with mu the mean response that the model has on average over the rows. With few
        counts per cell that is large, so that shares are small: they are those of one cell, not of a donor's sum. For a
        term with slopes the variance is its average over the rows (Johnson 2014).

        Returns
        -------
        DataFrame
            ``variable, term, icc``.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> bool(fit.icc()["icc"].dropna().between(0, 1).all())
        True
        """
        spreads = np.array([f.spreads for f in self._features.fits]).reshape(len(self._features.fits), -1)
        mean = np.array([f.mean for f in self._features.fits])
        total = spreads.sum(axis=1) + self._features.distribution.latent_variance(mean, self.size)
        return long_values(self.variables, term_labels(self.design), spreads / total[:, None], "icc")

    def ranef(self, group: str | None = None) -> pd.DataFrame:
        """Conditional modes of the random effects and their conditional sd, in units of the linear predictor.

        Parameters
        ----------
        group
            A grouping factor; may be left out where there is one.

        Returns
        -------
        DataFrame
            ``variable, level, column, value, cond_sd``. The conditional sd, from the curvature at the mode, is given the
            other parameters, as lme4's ``condVar``.

        Raises
        ------
        DesignError
            If `group` is not a grouping factor of the model.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
        >>> fit = dw.fit_glmm(adata.layers["counts"], adata.obs, "~ condition + (1 | donor_id)", family="poisson")
        >>> fit.ranef("donor_id").shape  # 5 features x 6 donors
        (30, 5)
        """
        return ranef_table(self.variables, self.design, [self._features], which_group(self.design, group))
