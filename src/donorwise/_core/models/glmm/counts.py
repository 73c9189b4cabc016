"""The data of features in the forms that the loops take: sums over the cells of patterns, or single cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.chunks import slice_if_run
from donorwise._core.models.glmm.families import CLOGLOG, POISSON
from donorwise._core.models.glmm.rows import Values

if TYPE_CHECKING:
    from donorwise._core.cells.counts import Counted
    from donorwise._core.cells.measures import Index
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PatternCounts:
    """Sums over the cells of patterns.

    Attributes
    ----------
    distribution
        The family.
    counted
        What a pass over the cells left.
    nodes
        Shape (J,). Exposures at the nodes; none where the family needs no more than sums.
    values
        Shape (H,). Counts that the tails are of.
    """

    distribution: Distribution
    counted: Counted
    nodes: FloatArray
    values: FloatArray

    @property
    def n_obs(self) -> IntArray:
        """Cells of each pattern, (K,)."""
        return self.counted.n_obs

    @property
    def shared(self) -> FloatArray:
        """Cells (or trials) at the nodes, (K, J); without nodes their exposure."""
        return self.counted.shared if self.nodes.size else self.counted.exposure[:, None]

    @property
    def exposures(self) -> FloatArray:
        """Exposures at the nodes, (K, J)."""
        return np.broadcast_to(self.nodes if self.nodes.size else np.ones(1), self.shared.shape)

    def block(self, at: IntArray) -> Values:
        """The values of some features."""
        some = slice_if_run(at)
        own, total = self.counted.own[:, :, some], self.counted.total[:, some]
        if self.distribution.code == CLOGLOG:  # the exposure of the failures
            total = (self.shared @ self.nodes)[:, None] - self.nodes @ own
        return Values(total, own)

    def responses(self, at: IntArray) -> FloatArray:
        """Counts, or successes, of some features in the rows, (G, K)."""
        return self.counted.total[:, at].T

    @property
    def pattern(self) -> IntArray:
        """Each row is a pattern, (K,)."""
        return np.arange(self.n_obs.size)

    def sums(self) -> FloatArray:
        """Counts, or successes, of every feature and pattern, (G, K)."""
        return self.counted.total.T

    @property
    def most(self) -> FloatArray:
        """The most that they can be, (K,)."""
        return _most(self.distribution, self.shared.sum(axis=1))

    def tails(self, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """Counts that occur (H,), and in how many cells those of some features do, (G, H)."""
        return self.values, self.counted.tail[:, :, at].sum(axis=0).T

    def scaled(self, factor: FloatArray) -> PatternCounts:
        """The data, had every pattern `factor` (K,) times its cells, alike in all else."""
        arrays: dict[str, Any] = {name: (values.T * factor).T for name, values in self.counted.arrays().items()}
        n_obs = np.maximum(1, np.rint(arrays.pop("n_obs"))).astype(np.int64)
        return replace(self, counted=replace(self.counted, n_obs=n_obs, **arrays))

    def take(self, patterns: Index) -> PatternCounts:
        """The data of some patterns."""
        return replace(self, counted=self.counted.take(patterns))

    def take_features(self, at: IntArray) -> PatternCounts:
        """The data of some features."""
        return replace(self, counted=self.counted.take_features(at))


def _most(distribution: Distribution, trials: FloatArray) -> FloatArray:
    """Trials, which interpolation left within rounding of whole numbers; no limit for counts."""
    return np.full(trials.size, np.inf) if distribution.counts else np.rint(trials)


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Single cells, where a covariate differs from one to another.

    Attributes
    ----------
    distribution
        The family.
    matrix
        Shape (N, G). Their responses, sparse by columns or an array.
    exposure, trials
        Shape (N,).
    pattern
        Shape (N,). Cells that agree in all but their covariates.
    """

    distribution: Distribution
    matrix: Any
    exposure: FloatArray
    trials: FloatArray
    pattern: IntArray

    @property
    def n_obs(self) -> IntArray:
        """One for each cell, (N,)."""
        return np.ones(self.exposure.size, dtype=np.int64)

    @property
    def shared(self) -> FloatArray:
        """Trials, or the exposure of Poisson counts, (N, 1)."""
        return (self.exposure if self.distribution.code == POISSON else self.trials)[:, None]

    @property
    def exposures(self) -> FloatArray:
        """Exposures, (N, 1)."""
        return np.ones((self.exposure.size, 1)) if self.distribution.code == POISSON else self.exposure[:, None]

    def block(self, at: IntArray) -> Values:
        """The values of some features."""
        own = self.responses(at).T
        on_nodes = own[:, None] if self.distribution.smooth else own[:, None][:, :0]
        if self.distribution.code == CLOGLOG:
            return Values((self.trials[:, None] - own) * self.exposure[:, None], on_nodes)
        return Values(own, on_nodes)

    def responses(self, at: IntArray) -> FloatArray:
        """Counts, or successes, of some features in the rows, (G, N)."""
        part = self.matrix[:, at]
        return np.ascontiguousarray((part if isinstance(part, np.ndarray) else part.toarray()).T, dtype=np.float64)

    def sums(self) -> FloatArray:
        """Counts, or successes, of every feature and pattern, (G, patterns)."""
        n = int(self.pattern.max(initial=-1)) + 1
        member = sparse.csr_array(
            (np.ones(self.pattern.size), (self.pattern, np.arange(self.pattern.size))), (n, self.pattern.size)
        )
        sums = member @ self.matrix
        return np.asarray(sums.toarray() if sparse.issparse(sums) else sums).T

    @property
    def most(self) -> FloatArray:
        """The most that these can be, (patterns,)."""
        return _most(self.distribution, np.bincount(self.pattern, weights=self.trials).astype(np.float64))

    def tails(self, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """Counts that occur (H,), and in how many cells those of some features do, (G, H)."""
        values = self.responses(at)
        feature, cell = np.nonzero(values)
        place, occur = pd.factorize(values[feature, cell])
        found = np.bincount(feature * occur.size + place, minlength=at.size * occur.size)
        return occur, found.reshape(at.size, occur.size).astype(np.float64)

    def scaled(self, factor: FloatArray) -> CellCounts:
        """The data, had every cell `factor` (N,) times its trials or its exposure, and counts."""
        times = factor if self.distribution.code == POISSON else 1.0
        matrix = self.matrix * factor[:, None]
        own = matrix if isinstance(matrix, np.ndarray) else sparse.csc_array(matrix)
        return replace(self, matrix=own, exposure=self.exposure * times, trials=self.trials * factor)

    def take(self, rows: IntArray) -> CellCounts:
        """Some of the cells."""
        _, pattern = np.unique(self.pattern[rows], return_inverse=True)
        return CellCounts(self.distribution, self.matrix[rows], self.exposure[rows], self.trials[rows], pattern.ravel())

    def take_features(self, at: IntArray) -> CellCounts:
        """The data of some features."""
        return replace(self, matrix=self.matrix[:, at])
