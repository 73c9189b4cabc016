"""The law of features that each have rows of their own, on a grid of variances (see :mod:`donorwise._core.models.lmm.ragged_law_kernels`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.law import JointLaw, Law, LocationScale, joint_contrasts, joint_square, law_of
from donorwise._core.models.lmm.ragged_law_kernels import law_ragged

if TYPE_CHECKING:
    from donorwise._core.models.lmm.ragged import RaggedEquations
    from donorwise._typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RaggedGrid(LocationScale):
    """Features with rows of their own at K points, for n contrasts.

    Attributes
    ----------
    equations
        Of all features.
    points
        Shape (K, T).
    order, begin
        Shapes (T, K), (T, K + 1). Points that differ in the variance of one term alone, next to one another; see the kernel.
    L
        Shape (n, p). The contrasts, orthonormal basis.
    impossible
        Shape (G, n). Which contrasts a feature has no rows for.
    fold
        What takes an estimate to a log2 fold change.
    """

    equations: RaggedEquations
    points: FloatArray
    order: IntArray
    begin: IntArray
    L: FloatArray
    impossible: BoolArray | None
    fold: float

    def loglik(self, at: IntArray) -> FloatArray:
        """REML log-likelihood profiled over sigma2, (G, K)."""
        return self._law(at, self.L[:0])[0]

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts."""
        found, centre, scale = self._law(at, self.L)
        if self.impossible is not None:
            centre[self.impossible[at].T] = scale[self.impossible[at].T] = np.nan
        nu = self.equations.nu(reml=True)[at].astype(np.float64)
        return law_of(found, centre, scale, nu)

    def joint(self, at: IntArray, loglik: FloatArray | None = None) -> JointLaw:
        """The law of all contrasts together."""
        found, centre, scale = self._law(at, joint_contrasts(self.L))
        square, size = joint_square(centre, scale)
        F, nu = square / len(self.L), self.equations.nu(reml=True)[at].astype(np.float64)
        return JointLaw(found, F, F, size, nu)

    def _law(self, at: IntArray, L: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Log-likelihood, centre and scale; points where rounding leaves nothing of these have no likelihood."""
        loglik, centre, scale, _ = self._evaluate(at, L)
        lost = ~(np.isfinite(loglik) & np.isfinite(centre).all(axis=0) & np.isfinite(scale).all(axis=0))
        loglik[lost], centre[:, lost], scale[:, lost] = -np.inf, 0.0, 1.0
        return loglik, centre, scale

    def _evaluate(self, at: IntArray, L: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Log-likelihood (G, K), centre and scale (n, G, K), and y'Py (G, K), NaN where rounding leaves nothing of it."""
        own, K, n = self.equations, len(self.points), len(L)
        loglik, rest = np.empty((2, at.size, K))
        centre, scale = np.empty((2, n, at.size, K))
        law_ragged(
            own.data, own.basis, own.rank, own.ols, at, self.points, self.order, self.begin, np.ascontiguousarray(L),
            own.nu(reml=True).astype(np.float64), loglik, centre, scale, rest,
        )  # fmt: skip
        return loglik, centre, scale, rest

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance over the rows of every random term, and of what is left, (G, K, T + 1); see `RaggedLMM.variances`."""
        own = self.equations
        sigma2 = self._evaluate(at, self.L[:0])[3] / own.nu(reml=True)[at, None]
        typical = np.exp(own.log_weight / np.maximum(own.rows.n, 1))[at]
        terms = own.mean_squares[at, None, :] * self.points
        left = np.broadcast_to(1 / typical[:, None, None], (*terms.shape[:2], 1))
        return np.asarray(sigma2[:, :, None] * np.concatenate([terms, left], axis=2))

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """Log2 fold changes: the posterior means of the estimates."""
        return np.einsum("gk,gkn->gn", weight, law.centre) * self.fold


def nodes_of(points: FloatArray) -> tuple[IntArray, IntArray]:
    """Order and beginnings of the nodes of every term: see :class:`RaggedGrid`."""
    K, T = points.shape
    order, begin = np.empty((T, K), dtype=np.int64), np.full((T, K + 1), K, dtype=np.int64)
    for t in range(T):
        others = np.delete(points, t, axis=1)
        node = np.unique(others, axis=0, return_inverse=True)[1].ravel() if T > 1 else np.zeros(K, dtype=np.int64)
        order[t] = np.argsort(node, kind="stable")
        first = np.flatnonzero(np.diff(node[order[t]], prepend=-1))
        begin[t, : first.size] = first
    return order, begin
