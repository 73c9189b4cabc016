"""The record of fitted arrays: what every feature's model says, in one struct over all features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.components import theta_names
from donorwise._typing import STATUSES

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, IntArray, StrArray


@dataclass(frozen=True, repr=False)
class FittedArrays:
    """Linear mixed models of G features with one formula; shapes and units are those of :class:`donorwise.LMMFit`."""

    formula: str
    reml: bool
    donor: str
    variables: tuple[str, ...]
    fixed_names: tuple[str, ...]
    beta: FloatArray
    vcov_beta: FloatArray
    sigma2: FloatArray
    theta: FloatArray
    theta_names: tuple[str, ...]
    loglik: FloatArray
    status: StrArray
    n_iter: IntArray
    n_obs: IntArray
    n_donors: IntArray
    design: Design
    models: tuple[LMM, ...]

    @classmethod
    def of(
        cls,
        design: Design,
        models: tuple[LMM, ...],
        variables: tuple[str, ...],
        *,
        donor: str,
        reml: bool,
        n_obs: IntArray,
        n_donors: IntArray,
    ) -> Self:
        """Put the models' arrays into one struct over all features."""
        return cls(
            formula=design.formula, reml=reml, donor=donor, variables=variables, fixed_names=design.fixed_names,
            theta_names=theta_names(design), n_obs=n_obs, n_donors=n_donors, design=design, models=models,
            **_gathered(design, models, len(variables)),
        )  # fmt: skip

    def with_models(self, models: tuple[LMM, ...], *, reml: bool) -> Self:
        """The same features with other estimates."""
        return replace(self, reml=reml, models=models, **_gathered(self.design, models, len(self.variables)))

    def __repr__(self) -> str:
        donors = f" of {self.n_donors.max(initial=0):,} {self.donor}" if self.donor else ""
        return self._described("features", f"{self.n_obs.max(initial=0):,} rows{donors}")

    def _described(self, features: str, data: str) -> str:
        """What it is of, the data in words, and what can be asked."""
        counts = {s: int((self.status == s).sum()) for s in STATUSES}
        status = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        names = ", ".join(self.fixed_names[:6]) + (", ..." if len(self.fixed_names) > 6 else "")
        return (
            f"{type(self).__name__} of {len(self.variables):,} {features} by {'REML' if self.reml else 'ML'}\n"
            f"  formula  {self.formula}\n"
            f"  data     {data}\n"
            f"  fixed    {names}\n"
            f"  status   {status}\n"
            f"  ask      .test() .joint_test() .means() .lrt() .varcomp() .icc() .variance_partition() .ranef()"
        )


def _gathered(design: Design, models: tuple[LMM, ...], G: int) -> dict[str, Any]:
    """The models' arrays as arrays over all features."""
    p, n_theta = len(design.fixed_names), len(theta_names(design))
    beta, vcov = np.full((G, p), np.nan), np.full((G, p, p), np.nan)
    theta, sigma2, loglik = np.full((G, n_theta), np.nan), np.full(G, np.nan), np.full(G, np.nan)
    status, n_iter = np.full(G, "not_estimable", dtype=STATUS_DTYPE), np.zeros(G, dtype=np.int64)
    for model in models:
        at, own = model.features, model.estimates
        beta[at], sigma2[at], loglik[at] = own.beta, own.sigma2, own.loglik
        vcov[at], theta[at] = model.vcov_beta, model.theta
        status[at], n_iter[at] = own.status, own.n_iter
    return {
        "beta": beta, "vcov_beta": vcov, "sigma2": sigma2, "theta": theta, "loglik": loglik, "status": status, "n_iter": n_iter,
    }  # fmt: skip
