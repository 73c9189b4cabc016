"""The random part of a design, cut into blocks that share no rows.

Two levels of grouping factors that meet in a pattern are connected; the connected
components of that graph (one donor with its samples, or everything when factors are
crossed) are blocks, and Z'V⁻¹Z is block-diagonal over them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from donorwise._core.models.lmm.crossproducts import cross

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.models.lmm.crossproducts import FixedBasis, TermBasis
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Blocks:
    """Cross-products of the random columns, block by block, in the internal basis.

    With q random columns, nb blocks, T terms and K covariance parameters (the lower
    triangles of the relative covariances, column by column):

    Attributes
    ----------
    order
        Shape (q,). Block order -> position in the order of terms, levels and columns. Within a block
        the term with most levels comes first: its part of Z'WZ is diagonal, which elimination uses.
    start
        Shape (nb + 1,). First column of each block.
    S, S_start
        The blocks of Z'WZ, one after another, and where each begins.
    A
        Shape (q, p). Z'WX̃ in block order.
    term, component, lead
        Shape (q,). Term of a column, its place within the term, and the first column of its level.
    partner
        Shape (K, q). B_k as an index: the column that parameter k pairs with a column, or -1.
    parameter
        Shape (K, 3). Term, row and column of each covariance parameter.
    B
        Shape (K, q, q). B_k as a matrix, where a kernel ties the levels together (then Z'WZ = I, and there is one block;
        see :mod:`donorwise._core.models.lmm.coupling`); no rows where `partner` says all of it.
    """

    order: IntArray
    start: IntArray
    S: FloatArray
    S_start: IntArray
    A: FloatArray
    term: IntArray
    component: IntArray
    lead: IntArray
    partner: IntArray
    parameter: IntArray
    B: FloatArray

    def arrays(self) -> tuple[FloatArray | IntArray, ...]:
        """What the kernels take: everything but `order`, in this order; B only where it has rows."""
        every = (
            self.start, self.S, self.S_start, self.A, self.term, self.component, self.lead, self.partner, self.parameter
        )  # fmt: skip
        return (*every, self.B) if self.coupled else every

    @property
    def coupled(self) -> bool:
        """Whether a kernel ties the levels together."""
        return len(self.B) > 0

    def levels_of(self, k: int) -> FloatArray:
        """What the data of each level say about the columns of covariance parameter k, relative to the residual's."""
        if self.coupled:
            return np.asarray(np.diag(self.B[k]))
        term, column, _ = self.parameter[k]
        return self.diagonal[(self.term == term) & (self.component == column)]

    @property
    def places(self) -> tuple[IntArray, IntArray]:
        """Row and column of every number in `S`."""
        sizes = np.diff(self.start)
        size = np.repeat(sizes, sizes)  # of each row's block
        first, row = np.repeat(self.start[:-1], sizes), np.repeat(np.arange(size.size), size)
        return row, np.arange(row.size) - np.repeat(np.cumsum(size) - size - first, size)

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of Z'WZ, (q,): what the data of a level say about each of its columns."""
        row, column = self.places
        return self.S[row == column]

    def in_units(self, information: FloatArray) -> tuple[Blocks, FloatArray]:
        """The blocks of variances in units of the `information` (terms,), and what Z'Wr is multiplied by, (q,)."""
        if self.coupled:
            return replace(self, B=self.B / information[self.parameter[:, 0], None, None]), np.ones(len(self.A))
        scale = 1 / np.sqrt(information[self.term])
        row, column = self.places
        return replace(self, S=self.S * scale[row] * scale[column], A=self.A * scale[:, None]), scale


def build_blocks(fixed: FixedBasis, terms: Sequence[TermBasis], collapsed: Collapsed) -> Blocks:
    """Find the blocks and fill in their cross-products."""
    labels = _label_terms(terms)
    n_levels = np.array([len(t.term.levels) for t in terms], dtype=np.int64)
    order = np.lexsort([labels.term, -n_levels[labels.term], labels.block]).astype(np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    n_blocks = int(labels.block.max()) + 1 if order.size else 0
    start = np.searchsorted(labels.block[order], np.arange(n_blocks + 1)).astype(np.int64)
    sizes = np.diff(start)
    S_start = np.concatenate([[0], np.cumsum(sizes**2)]).astype(np.int64)
    S = _fill_S(terms, labels, place, start, S_start, collapsed)
    p = fixed.columns.mean.shape[1]
    A = [cross(t.columns, fixed.columns, t.term.codes, len(t.term.levels), collapsed).reshape(-1, p) for t in terms]
    parameter = parameters([t.factor.shape[0] for t in terms])
    lead = place[labels.lead[order]] if order.size else order
    partner = _partners(parameter, labels.term[order], labels.component[order], lead)
    stacked = np.concatenate(A)[order] if A else np.zeros((0, p))
    return Blocks(
        order, start, S, S_start, stacked, labels.term[order], labels.component[order], lead, partner, parameter,
        np.zeros((0, 0, 0)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Labels:
    """Per random column (terms, then levels, then columns): where it belongs."""

    term: IntArray
    component: IntArray
    lead: IntArray
    block: IntArray
    offset: IntArray


def _label_terms(terms: Sequence[TermBasis]) -> _Labels:
    widths = [(len(t.term.levels), t.factor.shape[0]) for t in terms]
    offset = np.concatenate([[0], np.cumsum([levels * r for levels, r in widths])]).astype(np.int64)
    nodes = np.concatenate([[0], np.cumsum([levels for levels, _ in widths])]).astype(np.int64)
    component_of = _components(terms, nodes)
    term = _joined([np.full(levels * r, i) for i, (levels, r) in enumerate(widths)])
    component = _joined([np.tile(np.arange(r), levels) for levels, r in widths])
    block = _joined([np.repeat(component_of[nodes[i] : nodes[i + 1]], r) for i, (_, r) in enumerate(widths)])
    return _Labels(term, component, np.arange(term.size) - component, block, offset)


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    """Concatenation that is empty for no arrays."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])


def _components(terms: Sequence[TermBasis], nodes: IntArray) -> IntArray:
    """Connected component of every level of every term."""
    n = int(nodes[-1])
    rows = _joined([terms[0].term.codes for _ in terms])
    columns = _joined([nodes[i] + t.term.codes for i, t in enumerate(terms)])
    graph = coo_matrix((np.ones(rows.size), (rows, columns)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _fill_S(
    terms: Sequence[TermBasis],
    labels: _Labels,
    place: IntArray,
    start: IntArray,
    S_start: IntArray,
    collapsed: Collapsed,
) -> FloatArray:
    S = np.zeros(int(S_start[-1]))
    for i, left in enumerate(terms):
        for j, right in enumerate(terms):
            n_right = len(right.term.levels)
            pair, codes = np.unique(left.term.codes * n_right + right.term.codes, return_inverse=True)
            values = cross(left.columns, right.columns, codes.ravel(), pair.size, collapsed)
            rows = labels.offset[i] + (pair // n_right)[:, None] * left.factor.shape[0]
            columns = labels.offset[j] + (pair % n_right)[:, None] * right.factor.shape[0]
            rows = (rows + np.arange(left.factor.shape[0]))[:, :, None]
            columns = (columns + np.arange(right.factor.shape[0]))[:, None, :]
            block = labels.block[rows]
            size = (start[1:] - start[:-1])[block]
            S[S_start[block] + (place[rows] - start[block]) * size + place[columns] - start[block]] = values
    return S


def parameters(widths: Sequence[int]) -> IntArray:
    """(term, row, column) of every covariance parameter: lower triangles, column by column."""
    out = [(t, i, j) for t, r in enumerate(widths) for j in range(r) for i in range(j, r)]
    return np.array(out, dtype=np.int64).reshape(-1, 3)


def _partners(parameter: IntArray, term: IntArray, component: IntArray, lead: IntArray) -> IntArray:
    out = np.full((parameter.shape[0], term.size), -1, dtype=np.int64)
    for k, (t, i, j) in enumerate(parameter):
        for here, there in ((i, j), (j, i)):
            hit = (term == t) & (component == here)
            out[k, hit] = lead[hit] + there
    return out
