"""The record of fitted arrays: what every feature's model says, in one struct over all features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

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
        G, p = len(variables), len(design.fixed_names)
        names = theta_names(design)
        beta, vcov = np.full((G, p), np.nan), np.full((G, p, p), np.nan)
        theta, sigma2, loglik = np.full((G, len(names)), np.nan), np.full(G, np.nan), np.full(G, np.nan)
        status, n_iter = np.full(G, "not_estimable", dtype=STATUS_DTYPE), np.zeros(G, dtype=np.int64)
        for model in models:
            at, own = model.features, model.estimates
            beta[at], sigma2[at], loglik[at] = own.beta, own.sigma2, own.loglik
            vcov[at], theta[at] = model.vcov_beta, model.theta
            status[at], n_iter[at] = own.status, own.n_iter
        return cls(
            design.formula, reml, donor, variables, design.fixed_names, beta, vcov, sigma2, theta, names,
            loglik, status, n_iter, n_obs, n_donors, design, models,
        )  # fmt: skip

    def __repr__(self) -> str:
        counts = {s: int((self.status == s).sum()) for s in STATUSES}
        status = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        rows = f"{self.n_obs.max(initial=0):,} rows"
        donors = f" of {self.n_donors.max(initial=0):,} {self.donor}" if self.donor else ""
        names = ", ".join(self.fixed_names[:6]) + (", ..." if len(self.fixed_names) > 6 else "")
        return (
            f"LMMFit of {len(self.variables):,} features by {'REML' if self.reml else 'ML'}\n"
            f"  formula  {self.formula}\n"
            f"  data     {rows}{donors}\n"
            f"  fixed    {names}\n"
            f"  status   {status}\n"
            f"  ask      .test() .joint_test() .lrt() .varcomp() .icc() .variance_partition() .ranef()"
        )
