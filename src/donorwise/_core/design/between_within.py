"""Degrees of freedom from the design alone: a coefficient is judged against the level it varies on.

The inner-outer rule of Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS,
section 2.4.2: a column of X that is constant within the levels of a grouping factor has
that factor's levels as its replicates; a column that varies within all of them has the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import BoolArray, FloatArray, IntArray


def contrast_df(design: Design, n_obs: int, L: FloatArray) -> FloatArray:
    """Degrees of freedom of the rows of L (n, p) in the basis of the formula, (n,).

    A contrast takes the smallest of its columns' values; 0 or less means that the
    replicates are used up.
    """
    columns = column_df(design, n_obs)
    return np.array([columns[np.flatnonzero(row)].min() if row.any() else np.nan for row in L])


def column_df(design: Design, n_obs: int) -> FloatArray:
    """Degrees of freedom of every column of X, (p,)."""
    factors = _factors(design.random_terms)
    varying = np.array(design.varying, dtype=np.int64) >= 0
    finest = max(factors, key=lambda f: f.max(initial=0), default=None)
    used = _used(design.X[:, ~varying], finest) + int(varying.sum())  # what varies inside patterns is no one's sum
    levels = np.full(design.X.shape[1], np.inf)
    for codes in factors:
        constant = ~varying & constant_within(design.X, codes)
        coarser = [f for f in factors if f is not codes and _nested(codes, f)]
        parent = max(coarser, key=lambda f: f.max(initial=0), default=None)
        df = np.unique(codes).size - _used(design.X[:, constant], parent)
        levels[constant] = np.minimum(levels[constant], df)
    return np.where(np.isfinite(levels), levels, n_obs - used)


def _factors(terms: tuple[RandomTerm, ...]) -> list[IntArray]:
    return list({term.group: term.codes for term in terms}.values())


def constant_within(X: FloatArray, codes: IntArray) -> BoolArray:
    """Which columns take one value in every level of a factor."""
    spread = np.abs(X - _first_rows(X, codes))
    return np.asarray((spread <= 1e-12 * np.abs(X).max(axis=0, initial=0.0)).all(axis=0))


def _first_rows(X: FloatArray, codes: IntArray) -> FloatArray:
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return X[first][inverse.ravel()]


def _nested(inner: IntArray, outer: IntArray) -> bool:
    """Whether every level of `inner` lies in one level of `outer`, and not the other way round."""
    pairs = np.unique(np.stack([inner, outer]), axis=1).shape[1]
    return pairs == np.unique(inner).size and pairs > np.unique(outer).size


def _used(X: FloatArray, parent: IntArray | None) -> int:
    """Rank of the columns of X together with the indicators of a coarser factor."""
    if parent is None:
        return int(np.linalg.matrix_rank(X)) if X.size else 0
    levels, inverse = np.unique(parent, return_inverse=True)
    inverse = inverse.ravel()
    counts = np.bincount(inverse)
    means = np.stack([np.bincount(inverse, weights=x) for x in X.T], axis=1) / counts[:, None] if X.size else X
    centred = X - means[inverse] if X.size else X
    scale = np.abs(X).max(axis=0, initial=0.0)
    centred = centred[:, np.abs(centred).max(axis=0, initial=0.0) > 1e-10 * scale]
    return levels.size + (int(np.linalg.matrix_rank(centred)) if centred.size else 0)
