"""The model of log rates: y ~ N(X beta, group2 ZZ' + tau2 I + diag(v)) with known v, on a grid of variances.

Fay and Herriot (1979), JASA 74:269-277. Given the variances beta has a flat prior and everything
is normal: the restricted likelihood is

    -1/2 [log|V| + log|X'V⁻¹X| + r'V⁻¹r],   r = y - X beta,

and c'beta is N(c'b, c'(X'V⁻¹X)⁻¹c) at the generalised least-squares estimate b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lograte.kernels import evaluate

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.lograte.units import LogRates
    from donorwise._typing import FloatArray, IntArray

_LOWEST, _HIGHEST = 1e-4, 25.0  # variances of log rates besides zero


@dataclass(frozen=True, slots=True)
class LogRateModel:
    """The design of S units, shared by all genes; units in the order of the random term's levels.

    Attributes
    ----------
    design
        The design, a row per unit or pattern of units.
    order
        Shape (S,). Rows of the design's table of units.
    Q
        Shape (S, p). Orthonormal basis of X.
    inverse
        Shape (p, p). beta = inverse @ (coefficients on Q).
    starts
        Shape (levels + 1,). First unit of each level; one level where there is no random term.
    group
        Grouping factor of the random term; empty for none.
    """

    design: Design
    order: IntArray
    Q: FloatArray
    inverse: FloatArray
    starts: IntArray
    group: str

    def rows(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients on Q."""
        return np.ascontiguousarray(L @ self.inverse)

    def axes(self, points: tuple[int, ...]) -> list[FloatArray]:
        """Grids of the variance between units and, with a random term, of its variance."""
        return [np.concatenate([[0.0], np.geomspace(_LOWEST, _HIGHEST, n - 1)]) for n in points]


@dataclass(frozen=True, slots=True)
class GridLaw:
    """Normal laws of n contrasts for G genes at K grid points.

    Attributes
    ----------
    loglik
        Shape (G, K). Restricted log-likelihood, without its constant.
    centre, scale
        Shape (G, K, n).
    """

    loglik: FloatArray
    centre: FloatArray
    scale: FloatArray


def build_model(design: Design) -> LogRateModel:
    """The model of a design whose rows are units, with one random intercept or none."""
    used = np.flatnonzero(design.codes >= 0)
    pattern = design.codes[used]
    X = design.X[pattern]
    for j, k in enumerate(design.varying):
        if k >= 0:
            X[:, j] = design.covariates[used, k]
    levels = design.random_terms[0].codes[pattern] if design.random_terms else np.zeros(used.size, dtype=np.int64)
    order = np.argsort(levels, kind="stable")
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 2))
    Q, R = np.linalg.qr(X[order])
    group = design.random_terms[0].group if design.random_terms else ""
    return LogRateModel(design, used[order], np.ascontiguousarray(Q), np.linalg.inv(R), starts, group)


def grid_law(model: LogRateModel, rates: LogRates, points: FloatArray, rows: FloatArray | None = None) -> GridLaw:
    """Evaluate genes at grid points (K, 1 or 2), with contrasts `rows` (n, p) of the coefficients on Q."""
    G, K = rates.y.shape[0], points.shape[0]
    rows = np.empty((0, model.Q.shape[1])) if rows is None else rows
    ols = rates.y @ model.Q
    residual = rates.y - ols @ model.Q.T
    both = np.zeros((K, 2))
    both[:, : points.shape[1]] = points
    law = GridLaw(np.empty((G, K)), np.empty((G, K, len(rows))), np.empty((G, K, len(rows))))
    evaluate(residual, rates.v, model.Q, model.starts, both, rows, law.loglik, law.centre, law.scale)
    law.centre[:] += (ols @ rows.T)[:, None, :]
    return law
