"""What features of a generalised model share: rows in components, fixed and random columns, exposures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from donorwise._core.cells.measures import Collapsed
from donorwise._core.models.glmm.families import CLOGLOG, LOGIT
from donorwise._core.models.glmm.kernels import Rows
from donorwise._core.models.glmm.within import Within, separate
from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance, with_covariances
from donorwise._core.models.lmm.equations import build_equations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import FloatArray, IntArray


_BLOCK = 4_000_000  # doubles of the values of a block of features


class Values(NamedTuple):
    """Of G features in K rows: `total` (K, G) and `own` (K, J, G), see the families."""

    total: FloatArray
    own: FloatArray


class Counts(Protocol):
    """The data of the features of a design, row by row (patterns of cells, or cells)."""

    @property
    def distribution(self) -> Distribution:
        """The family."""

    @property
    def n_obs(self) -> IntArray:
        """Cells of each row, (K,)."""

    @property
    def shared(self) -> FloatArray:
        """Cells (or trials) at the nodes, (K, J)."""

    @property
    def exposures(self) -> FloatArray:
        """Exposures at the nodes, (K, J)."""

    @property
    def pattern(self) -> IntArray:
        """Pattern of each row, (K,): rows of one differ in nothing but covariates of single cells."""

    @property
    def most(self) -> FloatArray:
        """The most that counts, or successes, of a pattern can be, (patterns,)."""

    def block(self, at: IntArray) -> Values:
        """The values of some features."""

    def responses(self, at: IntArray) -> FloatArray:
        """Counts, or successes, of some features in the rows, (G, K)."""

    def sums(self) -> FloatArray:
        """Counts, or successes, of every feature and pattern, (G, patterns)."""

    def tails(self, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """Counts that occur (H,), and in how many cells those of some features do, (G, H)."""

    def scaled(self, factor: FloatArray) -> Self:
        """The data, had every row `factor` (K,) times its cells."""

    def take_features(self, at: IntArray) -> Self:
        """The data of some features."""


@dataclass(frozen=True)
class SharedRows:
    """K rows of a design, component by component of the graph of levels.

    Attributes
    ----------
    design, equations
        The design, whose patterns are the rows, and its bases of fixed and random columns.
    order
        Shape (K,). Row of the design that stands at each place.
    kernel
        What the loops take.
    X
        Shape (K, p). Fixed columns, orthonormal over the cells.
    place
        Shape (q,). Place within its component of each random column, in the order of the blocks.
    prior_counts
        Shape (K,). Half the leverage of each row: what is added to its counts.
    pattern
        Shape (K,). Pattern of each row of the design (see :class:`Counts`).
    """

    design: Design
    equations: Equations
    order: IntArray
    kernel: Rows
    X: FloatArray
    place: IntArray
    prior_counts: FloatArray
    pattern: IntArray

    @property
    def width(self) -> int:
        """Most random columns of a component."""
        return int(self.place.max(initial=-1)) + 1

    def loadings(self, points: FloatArray) -> FloatArray:
        """Lambda'z of every row at variances and correlations (T, parameters), (T, K, width)."""
        gamma, blocks = with_covariances(self.equations, points), self.equations.blocks
        out = np.zeros((len(points), self.order.size, self.width))
        for t, basis in enumerate(self.equations.terms):
            factor = cholesky_psd(relative_covariance(t, blocks.parameter, gamma))
            z = basis.columns.mean[self.order] @ factor
            first = self.first_places[t][basis.term.codes[self.order]]
            for i in range(z.shape[2]):
                out[:, np.arange(self.order.size), first + i] = z[:, :, i]
        return out

    @cached_property
    def within(self) -> Within | None:
        """What the covariates of single cells do within patterns; None where every row is a pattern."""
        return separate(
            self.kernel, self.X, self.order, self.pattern[self.order], self.prior_counts, self.equations,
            self.first_places, self.width,
        )  # fmt: skip

    @cached_property
    def first_places(self) -> tuple[IntArray, ...]:
        """Of every term, the place of the first column of each level."""
        order, starts, out = self.equations.blocks.order, 0, []
        by_term = np.empty_like(order)
        by_term[order] = self.place
        for basis in self.equations.terms:
            levels, r = len(basis.term.levels), basis.factor.shape[0]
            out.append(by_term[starts : starts + levels * r].reshape(levels, r)[:, 0])
            starts += levels * r
        return tuple(out)

    def component_of_levels(self, t: int) -> IntArray:
        """Component of each level of a term."""
        basis, starts = self.equations.terms[t], self.kernel.starts
        component = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        out = np.empty(len(basis.term.levels), dtype=np.int64)
        out[basis.term.codes[self.order]] = component
        return out

    @cached_property
    def of_patterns(self) -> FloatArray:
        """Mean of the fixed columns, orthonormal over the cells, in each pattern, (patterns, p)."""
        X, pattern = self.equations.fixed.columns.mean, self.pattern
        sums = np.zeros((int(pattern.max(initial=-1)) + 1, X.shape[1]))
        np.add.at(sums, pattern, X)
        return np.asarray(sums / np.bincount(pattern)[:, None])

    @cached_property
    def within_patterns(self) -> FloatArray:
        """Triangle (m, p) of what the fixed columns do about the means of patterns; (0, p) where every row is a pattern."""
        if self.pattern.size == len(self.of_patterns):
            return np.empty((0, self.X.shape[1]))
        return np.asarray(np.linalg.qr(self.equations.fixed.columns.mean - self.of_patterns[self.pattern])[1])

    def prepared(self, values: Values) -> Values:
        """The values in order, with the prior counts, which lie on the nodes as the exposure does.

        Yes/no data have as many failures added: they are in `kernel.shared`, or in the exposure of the failures.
        """
        total, own = values.total[self.order], values.own[self.order]
        failed = (self._on_nodes * self.kernel.t).sum(axis=1)
        total = total + (failed if self.kernel.code == CLOGLOG else self.prior_counts)[:, None]
        if own.shape[1]:
            own = own + self._on_nodes[:, :, None]
        return Values(np.ascontiguousarray(total), np.ascontiguousarray(own))

    @cached_property
    def _on_nodes(self) -> FloatArray:
        """The prior counts, spread over the nodes, (K, J)."""
        weight = self.kernel.shared * self.kernel.t
        return np.asarray((self.prior_counts / weight.sum(axis=1))[:, None] * weight)


def share_rows(design: Design, counts: Counts) -> SharedRows:
    """What the features of a design share.

    Raises
    ------
    DesignError
        The fixed part is rank deficient on the rows in use, or the columns of a random term are collinear.
    """
    equations = build_equations(design, _cells_alone(counts.n_obs))
    component, place = _components(equations)
    order = np.lexsort((counts.pattern, component))
    starts = np.searchsorted(component[order], np.arange(component.max(initial=-1) + 2))
    X = np.ascontiguousarray(equations.fixed.columns.mean[order])
    shared, t = counts.shared[order], counts.exposures[order]
    half = 0.5 * _leverages(X, (shared * t).sum(axis=1))
    if counts.distribution.code == LOGIT:
        shared = shared + 2 * half[:, None]
    shared, t, none = np.ascontiguousarray(shared), np.ascontiguousarray(t), np.zeros(order.size)
    kernel = Rows(counts.distribution.code, starts, shared, t, none)
    return SharedRows(design, equations, order, kernel, X, place, half, counts.pattern)


def _cells_alone(n_obs: IntArray) -> Collapsed:
    """Cells of rows as statistics of no feature."""
    k, nothing = n_obs.size, np.zeros((n_obs.size, 0))
    none = np.zeros((k, 0, 0))
    return Collapsed(n_obs, n_obs.astype(np.float64), np.zeros(k), nothing, nothing, nothing, none, none, nothing)


def _components(equations: Equations) -> tuple[IntArray, IntArray]:
    """Component of each row of the design (one each where there is no random term), and place of each random column."""
    blocks, terms = equations.blocks, equations.terms
    if not terms:
        return np.arange(equations.design.n_patterns), np.zeros(0, dtype=np.int64)
    block = np.repeat(np.arange(blocks.start.size - 1), np.diff(blocks.start))
    place = np.arange(block.size) - blocks.start[block]
    by_term = np.empty_like(block)
    by_term[blocks.order] = block
    first = by_term[:: terms[0].factor.shape[0]][: len(terms[0].term.levels)]
    return first[terms[0].term.codes], place


def _leverages(X: FloatArray, weight: FloatArray) -> FloatArray:
    """Diagonal (K,) of the projection on X with these weights, which add up to the number of columns."""
    root = np.sqrt(weight)
    Q, _ = np.linalg.qr(root[:, None] * X)
    return np.asarray((Q**2).sum(axis=1))


def feature_blocks(counts: Counts, at: IntArray) -> Iterator[IntArray]:
    """Features whose values fit into memory together; the blocks do not depend on the workers."""
    size = int(np.clip(_BLOCK // counts.shared.size, 1, 1024))
    for start in range(0, at.size, size):
        yield at[start : start + size]
