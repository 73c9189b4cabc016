"""Rows that stand for many cells: the moments of their covariates, and their statistics merged into other patterns.

A design is built on one row per cell, as always: the columns of the collapsed rows repeated, and for
covariates numbers that have their mean and cross-products within every row. What is linear in a
covariate then has the moments that the cells gave, and everything that counts cells counts them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.cells.measures import Collapsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from donorwise._typing import FloatArray, IntArray

# Doubles of temporary arrays that a block of features may use (64 MB).
_BLOCK = 8_000_000
# Share of the largest variance below which a direction of the covariates is rounding noise.
_NOISE = 1e-28


@dataclass(frozen=True, slots=True)
class RowCells:
    """The cells behind K rows, and the moments of their m covariates, every cell counting once.

    Attributes
    ----------
    n_cells
        Shape (K,).
    covariates
        Names.
    mean
        Shape (K, m).
    ss
        Shape (K, m, m). Cross-products about the means.
    """

    n_cells: IntArray
    covariates: tuple[str, ...]
    mean: FloatArray
    ss: FloatArray

    @property
    def starts(self) -> IntArray:
        """First cell of each row, (K,), where the cells of a row stand side by side."""
        return np.asarray(np.cumsum(self.n_cells) - self.n_cells)

    def rows(self) -> IntArray:
        """The row of each cell, (N,)."""
        return np.repeat(np.arange(self.n_cells.size), self.n_cells)

    def unweighted(self) -> Collapsed:
        """These moments as statistics of no feature, every cell with a weight of one."""
        k, m = self.mean.shape
        nothing = np.zeros((k, 0))
        n, log_weight = self.n_cells.astype(np.float64), np.zeros(k)
        return Collapsed(
            self.n_cells, n, log_weight, nothing, nothing, self.mean, self.ss, np.zeros((k, m, 0)), nothing
        )

    def take_covariates(self, names: Sequence[str]) -> RowCells:
        """Some of the covariates."""
        at = [self.covariates.index(name) for name in names]
        return RowCells(self.n_cells, tuple(names), self.mean[:, at], self.ss[:, at][:, :, at])

    def directions(self) -> tuple[FloatArray, FloatArray]:
        """Factors A (K, m, m) of ``ss = A'A``, longest rows first, and their pseudo-inverses, transposed (K, m, m)."""
        scale = np.sqrt(np.einsum("kqq->q", self.ss))
        scale[scale == 0] = 1.0
        values, vectors = np.linalg.eigh(self.ss / np.outer(scale, scale))
        values, vectors = np.clip(values[:, ::-1], 0, None), np.swapaxes(vectors[:, :, ::-1], 1, 2)
        real = values > _NOISE * values[:, :1]
        length = np.sqrt(np.where(real, values, 0.0))[:, :, None]
        inverse = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
        return length * vectors * scale, inverse / scale

    def waves(self) -> Iterator[FloatArray]:
        """Columns (N,) that are orthonormal and of mean zero within every row: cosines of rising frequency."""
        n = np.repeat(self.n_cells, self.n_cells)
        place = np.arange(n.size) - np.repeat(self.starts, self.n_cells)
        for j in range(1, len(self.covariates) + 1):
            yield np.where(j < n, np.sqrt(2 / n) * np.cos(np.pi * (place + 0.5) * j / n), 0.0)

    def values(self) -> FloatArray:
        """Numbers (N, m) with these moments."""
        rows, (factor, _) = self.rows(), self.directions()
        out = self.mean[rows]
        for j, wave in enumerate(self.waves()):
            out += wave[:, None] * factor[rows, j]
        return out

    def linear(self, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means (K, r) and slopes (K, m, r), row by row, of columns (N, r) that are linear in :meth:`values`."""
        starts, inverse = self.starts, self.directions()[1]
        centred = columns - columns[starts][self.rows()]
        along = [np.add.reduceat(wave[:, None] * centred, starts, axis=0) for wave in self.waves()]
        mean = columns[starts] + np.add.reduceat(centred, starts, axis=0) / self.n_cells[:, None]
        return mean, np.einsum("kjq,kjr->kqr", inverse, np.stack(along, axis=1))


@dataclass(frozen=True, slots=True)
class CollapsedRows:
    """Statistics of K rows and G features, and the cells behind them (both with the same m covariates).

    Attributes
    ----------
    cells
        The cells.
    read
        Gives the statistics of some rows and features, by their positions (None for all): a file is read no earlier.
    """

    cells: RowCells
    read: Callable[[IntArray | None, IntArray | None], Collapsed]

    @classmethod
    def of(cls, cells: RowCells, values: Collapsed) -> CollapsedRows:
        """Rows whose statistics are in memory."""

        def read(rows: IntArray | None, features: IntArray | None) -> Collapsed:
            some = values if rows is None else values.take(rows)
            return some if features is None else some.take_features(features)

        return cls(cells, read)

    @property
    def values(self) -> Collapsed:
        """The statistics of all rows and features."""
        return self.read(None, None)


def without_abundance(rows: CollapsedRows) -> CollapsedRows:
    """The rows without abundances."""
    values = rows.values
    return CollapsedRows.of(rows.cells, replace(values, abundance=values.abundance[:, :0]))


def with_covariates(values: Collapsed, cells: RowCells, columns: FloatArray, used: IntArray) -> Collapsed:
    """Statistics with other covariates: columns that are linear in the present ones within every row.

    Parameters
    ----------
    values
        Statistics of the rows `used`.
    cells
        Cells of all rows.
    columns
        Shape (N, r). The new covariates, cell by cell.
    used
        Positions of the rows.
    """
    if columns.shape[1] == 0:
        return values.take_covariates(0)
    mean, slopes = (part[used] for part in cells.linear(columns))
    shift = values.covariate_mean - cells.mean[used]  # weighted less unweighted means
    return replace(
        values,
        covariate_mean=mean + np.einsum("kq,kqr->kr", shift, slopes),
        covariate_ss=np.einsum("kqr,kqi,kis->krs", slopes, values.covariate_ss, slopes),
        covariate_y=np.swapaxes(slopes, 1, 2) @ values.covariate_y,
    )


def merge_rows(rows: Collapsed, codes: IntArray, n: int) -> Collapsed:
    """Statistics of n unions of rows (every one of them has rows), exactly.

    Sums are about the mean of a union's first row, so that what is constant stays so to the last digit
    (see :meth:`donorwise._core.cells.measures.Collapsed.merge`).
    """
    order = np.argsort(codes, kind="stable")
    if n == codes.size:
        return rows if np.array_equal(order, np.arange(n)) else rows.take(order)
    by = codes[order]
    starts = np.searchsorted(by, np.arange(n))
    weight = np.add.reduceat(rows.weight[order], starts)
    w = rows.weight[order]
    share = w / weight[by]

    def centre(values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted means over the unions, and deviations of the rows from them."""
        origin = values[order[starts]]
        deviation = values[order] - origin[by]
        offset = np.add.reduceat(share[:, None] * deviation, starts, axis=0)
        return origin + offset, deviation - offset[by]

    covariate_mean, dc = centre(rows.covariate_mean)
    _, m, g = rows.shape
    out = Collapsed(
        n_obs=np.add.reduceat(rows.n_obs[order], starts),
        weight=weight,
        log_weight=np.add.reduceat(rows.log_weight[order], starts),
        mean=np.empty((n, g)),
        within_ss=np.empty((n, g)),
        covariate_mean=covariate_mean,
        covariate_ss=np.add.reduceat(
            rows.covariate_ss[order] + w[:, None, None] * dc[:, :, None] * dc[:, None], starts
        ),
        covariate_y=np.empty((n, m, g)),
        abundance=np.empty((n, rows.abundance.shape[1])),
    )
    width = max(1, _BLOCK // (order.size * (4 + 2 * m)))
    for part in (slice(low, low + width) for low in range(0, g, width)):
        out.mean[:, part], dy = centre(rows.mean[:, part])
        out.within_ss[:, part] = np.add.reduceat(rows.within_ss[:, part][order] + w[:, None] * dy**2, starts)
        if rows.abundance.shape[1]:
            out.abundance[:, part] = centre(rows.abundance[:, part])[0]
        if m:
            cross = (w[:, None] * dc)[:, :, None] * dy[:, None]
            out.covariate_y[..., part] = np.add.reduceat(rows.covariate_y[..., part][order] + cross, starts)
    return out


def concatenate(parts: Sequence[Collapsed]) -> Collapsed:
    """Rows of several, one under another."""
    return Collapsed(**{name: np.concatenate([p.arrays()[name] for p in parts]) for name in parts[0].arrays()})
