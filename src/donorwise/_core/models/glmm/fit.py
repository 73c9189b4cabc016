"""From the data of a design to its model: the features that have a response, their sizes, and where to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.terms import is_categorical
from donorwise._core.jobs import in_threads
from donorwise._core.models.glmm.effects import coefficients
from donorwise._core.models.glmm.families import LOGIT
from donorwise._core.models.glmm.model import GLMM
from donorwise._core.models.glmm.rows import Values, feature_blocks, share_rows
from donorwise._core.models.glmm.size import profiles

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.rows import Counts, SharedRows
    from donorwise._core.models.glmm.within import Within
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
    """Profiles of a block, rows that share their levels and categories having a mean of their own."""
    if model.rows.within is not None:
        return _profiles_of_cells(model, model.rows.within, at)
    counts, group = model.counts, _groups(model.design)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 2))
    block, tails = counts.block(at), counts.tails(at)
    values = Values(block.total[order], block.own[order])
    shared, t = counts.shared[order], np.ascontiguousarray(counts.exposures[order])
    alone = starts.size - 1 == group.size
    offset = np.empty((0, at.size)) if alone else np.ascontiguousarray(_within(model, at, group)[:, order].T)
    return profiles(values, shared, t, offset, starts, *tails)


def _typical(model: GLMM) -> FloatArray:
    """A point of the variances and correlations at which coefficients are about right, (parameters,)."""
    return np.where(model.are_variances, _TYPICAL, 0.0)


def _profiles_of_cells(model: GLMM, within: Within, at: IntArray) -> FloatArray:
    """The same of single cells, every pattern having a mean of its own."""
    made = within.collapsed(model.counts.responses(at), coefficients(model, at, _typical(model)))
    counted, cells = model.counts.tails(at)
    nothing, groups = np.empty((0, 1)), np.arange(within.cells.first.size)
    return np.concatenate([
        profiles(Values(own.total[:, None], own.own[..., None]), own.shared, own.exposures, nothing, groups, counted, cells[[g]])
        for g, own in enumerate(made)
    ])  # fmt: skip


def _groups(design: Design) -> IntArray:
    """Number of each row's levels of the grouping factors and categories, (K,).

    Numbers that differ within them do not part the rows: a row of a single cell would say nothing of the dispersion.
    """
    labels = [column.cat.codes.to_numpy() for _, column in design.frame.items() if is_categorical(column)]
    codes = np.column_stack([np.zeros(design.n_patterns), *(term.codes for term in design.random_terms), *labels])
    return np.asarray(np.unique(codes, axis=0, return_inverse=True)[1]).ravel()


def _within(model: GLMM, at: IntArray, group: IntArray) -> FloatArray:
    """What fixed effects add to the linear predictors of rows, about the mean of their group, (G, K)."""
    rows = model.rows
    beta = coefficients(model, at, _typical(model))
    eta = np.empty((at.size, group.size))
    eta[:, rows.order] = beta @ rows.X.T
    mean = np.zeros((at.size, int(group.max()) + 1))
    np.add.at(mean.T, group, eta.T)
    return np.asarray(eta - (mean / np.bincount(group))[:, group])
