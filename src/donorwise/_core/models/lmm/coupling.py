"""Random terms whose levels are not independent: u ~ N(0, sigma2 gamma K) with a known K.

A kernel ties all levels of its factor together, so that there is one block, of which everything is dense. Its columns
are turned until they are orthonormal: with the pivoted root Z'WZ = R'R of the columns of the terms (each once, whoever
has them) and Z̃ = ZR⁺,

    Z̃'WZ̃ = I,   V = I + sum_k gamma_k Z̃ B_k Z̃',   B_k = R_i K R_j' (and its transpose),

for the covariance k of columns i and j of a term. Terms of one grouping factor share their columns, so that a donor's
own effect beside a kernel or two costs no more columns than one of them.

A single variance needs no more: the eigenvectors of its B make it diagonal, and the model is that of independent
levels with d_i = eigenvalues in place of numbers of rows (Kang et al. 2008, Genetics 178:1709; Zhou and Stephens
2012, Nat Genet 44:821), whatever the numbers of rows of the levels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.blocks import Blocks, parameters
from donorwise._core.models.lmm.crossproducts import cross

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.models.lmm.crossproducts import FixedBasis, TermBasis
    from donorwise._typing import FloatArray, IntArray

_RANK = 1e-11  # share of the largest eigenvalue of Z'WZ below which a direction has no rows


@dataclass(frozen=True, slots=True)
class Coupling:
    """How the columns of a dense block come from those of the terms.

    Attributes
    ----------
    carriers
        Terms whose columns are those of the block, before they are turned: every set of columns once.
    turn
        Shape (q, m). What takes Z'Wr of their columns to that of the block's.
    effects
        One (r, levels, m) for each term: u_i = sum_j T_ij effects_j Z̃'Py for columns i and j of the term.
    """

    carriers: tuple[TermBasis, ...]
    turn: FloatArray
    effects: tuple[FloatArray, ...]


def build_coupling(
    fixed: FixedBasis, terms: Sequence[TermBasis], collapsed: Collapsed
) -> tuple[Blocks, Coupling] | None:
    """The one block of terms of which some have a kernel, and how it comes from them; None where none has."""
    if all(t.kernel is None for t in terms):
        return None
    carriers, of_term = _carriers(terms)
    S, A = _crossproducts(fixed, carriers, collapsed)
    values, vectors = _eigen(S)
    kept = values > _RANK * values.max()
    root = np.sqrt(values[kept])
    R, turn = (
        root[:, None] * vectors[:, kept].T,
        vectors[:, kept] / root,
    )  # R is its own transposed pseudo-inverse, scaled
    places = [_places(carriers, c) for c in of_term]
    effects = tuple(
        np.stack([_times(t.kernel, R[:, at].T) for at in own.T]) for t, own in zip(terms, places, strict=True)
    )
    parameter = parameters([t.factor.shape[0] for t in terms])
    B = np.stack([_relative(R[:, places[t][:, i]], effects[t][j], i == j) for t, i, j in parameter])
    if len(parameter) == 1:
        return _single(B[0], A, turn, effects, carriers, parameter)
    return _dense(B, turn.T @ A, parameter), Coupling(carriers, turn, effects)


def _eigen(S: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues and vectors of cross-products, which for one column of independent levels are diagonal."""
    diagonal = np.diag(S)
    if np.count_nonzero(S) > np.count_nonzero(diagonal):
        values, vectors = np.linalg.eigh(S)
        return values, vectors
    order = np.argsort(diagonal, kind="stable")
    return diagonal[order], np.eye(diagonal.size)[:, order]


def _carriers(terms: Sequence[TermBasis]) -> tuple[tuple[TermBasis, ...], list[int]]:
    """Each set of columns once, and which of them every term has."""
    carriers: list[TermBasis] = []
    found = []
    for t in terms:
        same = (i for i, other in enumerate(carriers) if t.shares_columns(other))
        at = next(same, len(carriers))
        found.append(at)
        carriers += [t] if at == len(carriers) else []
    return tuple(carriers), found


def _places(carriers: Sequence[TermBasis], c: int) -> IntArray:
    """Columns of a carrier among all, (levels, r)."""
    sizes = [len(t.term.levels) * t.factor.shape[0] for t in carriers]
    return np.arange(sum(sizes[:c]), sum(sizes[: c + 1])).reshape(-1, carriers[c].factor.shape[0])


def _crossproducts(
    fixed: FixedBasis, carriers: Sequence[TermBasis], collapsed: Collapsed
) -> tuple[FloatArray, FloatArray]:
    """Z'WZ (q, q) and Z'WX̃ (q, p) of the carriers' columns."""
    places = [_places(carriers, c) for c in range(len(carriers))]
    q, p = int(places[-1].max()) + 1, fixed.R.shape[0]
    S, A = np.zeros((q, q)), np.zeros((q, p))
    for left, rows in zip(carriers, places, strict=True):
        n_left = len(left.term.levels)
        A[rows.ravel()] = cross(left.columns, fixed.columns, left.term.codes, n_left, collapsed).reshape(-1, p)
        for right, columns in zip(carriers, places, strict=True):
            n_right = len(right.term.levels)
            pair, codes = np.unique(left.term.codes * n_right + right.term.codes, return_inverse=True)
            values = cross(left.columns, right.columns, codes.ravel(), pair.size, collapsed)
            S[rows[pair // n_right][:, :, None], columns[pair % n_right][:, None, :]] = values
    return S, A


def _times(kernel: FloatArray | None, columns: FloatArray) -> FloatArray:
    return columns if kernel is None else kernel @ columns


def _relative(R: FloatArray, effects: FloatArray, diagonal: bool) -> FloatArray:
    """B of the covariance of two columns of a term: R_i K R_j', and its transpose where they are two."""
    B = R @ effects
    return 0.5 * (B + B.T) if diagonal else B + B.T


def _single(
    B: FloatArray,
    A: FloatArray,
    turn: FloatArray,
    effects: tuple[FloatArray, ...],
    carriers: tuple[TermBasis, ...],
    parameter: IntArray,
) -> tuple[Blocks, Coupling]:
    """One variance: independent columns, with the eigenvalues of B for their Z'WZ."""
    values, vectors = np.linalg.eigh(B)
    kept = values > _RANK * values.max()
    d, vectors = values[kept], vectors[:, kept]
    turned, m = turn @ (vectors * np.sqrt(d)), d.size
    each, zero = np.arange(m), np.zeros(m, dtype=np.int64)
    blocks = Blocks(
        order=each, start=np.arange(m + 1), S=d, S_start=np.arange(m + 1), A=turned.T @ A, term=zero, component=zero,
        lead=each, partner=each[None], parameter=parameter, B=np.zeros((0, 0, 0)),
    )  # fmt: skip
    return blocks, Coupling(carriers, turned, (effects[0] @ (vectors / np.sqrt(d)),))


def _dense(B: FloatArray, A: FloatArray, parameter: IntArray) -> Blocks:
    m = len(A)
    each, zero = np.arange(m), np.zeros(m, dtype=np.int64)
    return Blocks(
        order=each, start=np.array([0, m]), S=np.eye(m).ravel(), S_start=np.array([0, m * m]), A=np.ascontiguousarray(A),
        term=zero, component=zero, lead=each, partner=np.zeros((len(parameter), 0), dtype=np.int64), parameter=parameter,
        B=np.ascontiguousarray(B),
    )  # fmt: skip
