"""What the patterns of a design have of their own beside its fixed effects, feature by feature, whatever the model.

Beside what is no business of theirs (peptides differ in what they measure), random effects are left in: they are what donors
have in common from gene to gene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.crossproducts import column_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.peptide_rows import PeptideStatistics
    from donorwise._core.engine.tasks import Statistics
    from donorwise._core.models.lmm.ragged_effects import RaggedEffects
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class RowResiduals:
    """Residuals of G features in the K patterns of a design, on the scale of the linear predictor.

    Attributes
    ----------
    values
        Shape (G, K). Response less fixed effects; NaN for features without a fit, and where a pattern has no response.
    weights
        Shape (G, K). Precision of each given the random effects, up to a factor of the feature: numbers of cells (or sums
        of their weights) for values, the inverse of the variance by chance of counts; zero where there is no value.
    """

    values: FloatArray
    weights: FloatArray

    @classmethod
    def of(cls, values: FloatArray, weights: FloatArray) -> RowResiduals:
        """Those of arrays (G, K) of which some may be NaN, or weights zero."""
        known = np.isfinite(values) & (weights > 0)
        return cls(np.where(known, values, np.nan), np.where(known, weights, 0.0))


def of_values(statistics: Statistics, beta: FloatArray) -> RowResiduals:
    """Mean responses of the cells of each pattern less X beta, `beta` being (G, p)."""
    shape = len(beta), statistics.design.n_patterns
    values, weights = np.full(shape, np.nan), np.zeros(shape)
    for own in statistics.passes:
        X = column_means(statistics.design.X, statistics.design.varying, own.collapsed).mean
        values[own.features] = own.collapsed.mean.T - beta[own.features] @ X.T
        weights[own.features] = own.collapsed.weight
    return RowResiduals.of(values, weights)


def of_measurements(
    statistics: PeptideStatistics, beta: FloatArray, nuisance: Sequence[tuple[int, RaggedEffects]]
) -> RowResiduals:
    """Weighted means over the measurements of each pattern of y - X beta, less the effects of `nuisance` (terms, effects)."""
    rows, design = statistics.rows, statistics.design
    feature = rows.feature
    left = rows.y - np.einsum("mp,mp->m", design.X[rows.pattern], beta[feature])
    for t, effects in nuisance:
        own = effects.at(feature, rows.codes[:, t])
        left -= np.einsum("mr,mr->m", design.random_terms[t].Z[rows.pattern], np.nan_to_num(own))
    shape = len(beta), design.n_patterns
    place = feature * shape[1] + rows.pattern
    sums = [
        np.bincount(place, weights=w, minlength=shape[0] * shape[1]).reshape(shape) for w in (rows.w, rows.w * left)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        return RowResiduals.of(np.asarray(sums[1] / sums[0]), np.asarray(sums[0]))
