r"""Fold changes of features whose values are logarithms.

Given the ratios of the variances an estimate is linear in the means of the patterns, :math:`c'\hat\beta = \sum_k a_k
\bar y_k`, so the same weights can be given to other numbers of the patterns. With :math:`m_k` the mean over the cells
of what the values are logarithms of,

.. math:: \mathrm{log\_fc} = \sum_k a_k \log_2(m_k + \varepsilon),

which is generalised least squares of a second response. A unit is a pattern without the numbers that differ from cell
to cell, such as the depth: its cells all have the response of the unit, and the columns of X theirs, so that such
numbers say nothing about it inside a unit.

The prior count :math:`\varepsilon` is what one cell that has the feature adds to the mean of a unit of average size,
where the feature is rarest: there a value above zero is about one count, whatever the counts were scaled to. (edgeR
adds two counts to every library; Chen, Lun and Smyth 2016, F1000Research 5:1438.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.cells.collapsed_rows import merge_rows
from donorwise._core.design.design import combine, first_rows, varies
from donorwise._core.design.terms import is_categorical, label_codes
from donorwise._core.models.lmm.evaluate import evaluate_block

if TYPE_CHECKING:
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import BoolArray, FloatArray, IntArray

_FEWEST = 3  # cells that units have on average; a number that leaves fewer differs from cell to cell
_ROUNDING = 1e-12  # difference of log2 means below which they are the same
_ZERO = 1e-8  # weight of a contrast, relative to its largest


@dataclass(frozen=True, slots=True)
class Units:
    """The unit (K,) of each of K patterns, their number, and which columns of X vary inside units (p,)."""

    codes: IntArray
    n: int
    inside: BoolArray


def find_units(design: Design, n_obs: IntArray) -> Units:
    """The units of a design's patterns, which have `n_obs` (K,) cells; the same for cells and collapsed rows."""
    frame, total = design.frame, int(n_obs.sum())
    groups = [name for name in frame.columns if name in design.parsed.groups or is_categorical(frame[name])]
    numbers = sorted(frame.columns.difference(groups), key=lambda name: (frame[name].nunique(), name))
    codes, n = combine([label_codes(frame[name]) for name in groups], len(frame))
    for name in numbers:
        finer = combine([(codes, n), label_codes(frame[name])], len(frame))
        if finer[1] == n or total >= _FEWEST * finer[1]:
            codes, n = finer
    first = first_rows(codes, n)
    X, varying = design.X, design.varying
    inside = np.array([k >= 0 or varies(X[:, j], codes, first) for j, k in enumerate(varying)], dtype=bool)
    return Units(codes, n, inside)


def log_abundance(collapsed: Collapsed, units: Units) -> FloatArray:
    """log2(m + prior count) of every pattern's unit, (K, G), less that of the first unit.

    NaN for features with values below zero, which are no logarithms of 1 + x.
    """
    merged = merge_rows(collapsed.take_covariates(0), units.codes, units.n)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log2(merged.abundance + _prior_count(merged))
        z = z - z[:1]
    return np.where(np.abs(z) < _ROUNDING, 0.0, z)[units.codes]


def _prior_count(merged: Collapsed) -> FloatArray:
    """What one more cell with a typical value above zero adds to the mean of a unit, (G,): see the module."""
    total = merged.weight[:, None] * merged.mean
    squares = merged.within_ss + total * merged.mean
    typical = np.divide(squares, total, out=np.full(total.shape, np.inf), where=total > 0)
    at = np.argmin(typical, axis=0)[None]
    share = np.take_along_axis(total, at, axis=0) / np.take_along_axis(typical, at, axis=0)  # cells with that value
    value = np.take_along_axis(merged.weight[:, None] * merged.abundance, at, axis=0) / share
    return (value * merged.n_obs.size / merged.n_obs.sum())[0]


def responses_of(equations: Equations, collapsed: Collapsed, units: Units) -> Responses:
    """The log abundances as responses of the patterns' cells."""
    own = replace(
        collapsed,
        mean=log_abundance(collapsed, units),
        within_ss=np.zeros_like(collapsed.within_ss),
        covariate_y=np.zeros_like(collapsed.covariate_y),
    )
    found = equations.responses(own)
    return replace(found, rss=found.rss + 1.0)  # only its likelihood reads that, which has to be finite


def at_ratios(equations: Equations, own: Responses, gamma: FloatArray, L: FloatArray) -> FloatArray:
    """Contrasts (n, p) of the log abundances at the ratios (G, parameters) of each feature, (G, n)."""
    out = np.full((len(gamma), len(L)), np.nan)
    known = np.flatnonzero(np.isfinite(gamma).all(axis=1))
    at = evaluate_block(equations.blocks, gamma[known], own.take(known), equations.nu(reml=True))
    out[known] = (own.ols[known] + at.delta) @ equations.turned(L).T
    return out


def are_ratios(units: Units, L: FloatArray) -> BoolArray:
    """Which contrasts (n, p) compare units, (n,): not those of numbers alone that differ inside units."""
    weighs = np.abs(L) > _ZERO * np.abs(L).max(axis=1, keepdims=True, initial=0.0)
    return np.asarray((weighs & ~units.inside).any(axis=1))
