"""From the data of a design to its model: the features that have a response, their sizes, and where to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.jobs import in_threads
from donorwise._core.models.glmm.effects import coefficients
from donorwise._core.models.glmm.families import LOGIT
from donorwise._core.models.glmm.model import GLMM
from donorwise._core.models.glmm.rows import Values, feature_blocks, share_rows
from donorwise._core.models.glmm.size import profiles

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.rows import Counts, SharedRows
    from donorwise._typing import FloatArray, IntArray

_TYPICAL = 0.1  # variance of random effects, where coefficients alone are wanted
_LEAST = 0.5  # successes, or failures, that a feature is taken to have where its coefficients begin


def fit_counts(design: Design, counts: Counts) -> GLMM:
    """The model of the features that have a response, with sizes that are not known yet.

    Parameters
    ----------
    design
        Its patterns are the rows.
    counts
        The data of G features.

    Raises
    ------
    DesignError
        The fixed part is rank deficient on the rows in use, or the columns of a random term are collinear.
    """
    rows = share_rows(design, counts)
    total, most = counts.sums().sum(axis=1), float(counts.most.sum())
    varied = np.flatnonzero((total > 0) & (total < most))
    own = counts if varied.size == total.size else counts.take_features(varied)
    start = _start(rows, own, total[varied])
    return GLMM(varied, rows, own, np.ones(varied.size), total[varied], start)


def _start(rows: SharedRows, counts: Counts, total: FloatArray) -> FloatArray:
    """Coefficients (G, p) with which every row comes closest to the mean of all."""
    trials = float((counts.shared * counts.exposures).sum())
    level = np.log(np.maximum(total, _LEAST) / trials)
    if rows.kernel.code == LOGIT:
        level = np.log(np.maximum(total, _LEAST) / np.maximum(trials - total, _LEAST))
    weight = counts.n_obs[rows.order].astype(np.float64)
    return np.asarray(level[:, None] * (rows.X.T @ weight))


def dispersion_profiles(model: GLMM, n_jobs: int = 1) -> FloatArray:
    """Adjusted profiles of the dispersion of every feature, (G, points); see :mod:`donorwise._core.models.glmm.size`."""
    blocks = list(feature_blocks(model.counts, np.arange(model.features.size)))
    made = in_threads(lambda at: _profiles_of(model, at), blocks, n_jobs)
    return np.concatenate(list(made)) if blocks else np.empty((0, 0))


def _profiles_of(model: GLMM, at: IntArray) -> FloatArray:
    """Profiles of a block, every pattern of cells having a mean of its own."""
    counts, within, tails = model.counts, model.rows.within, model.counts.tails(at)
    groups = np.arange(int(counts.pattern.max(initial=-1)) + 2)
    if within is None:
        return profiles(counts.block(at), counts.shared, np.ascontiguousarray(counts.exposures), groups, *tails)
    made = within.collapsed(counts, at, coefficients(model, at, np.where(model.are_variances, _TYPICAL, 0.0)))
    return np.concatenate([
        profiles(Values(own.total[:, None], own.own[..., None]), own.shared, own.exposures, groups, tails[0], tails[1][[g]])
        for g, own in enumerate(made)
    ])  # fmt: skip
