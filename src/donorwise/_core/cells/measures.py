"""What a pass over cells x features accumulates, and its results: one row per design pattern, mergeable and exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeAlias, TypeVar

import numpy as np

from donorwise._core.cells.chunks import Chunk, Wanted, chunks_of
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._core.cells.segments import Segments

Index: TypeAlias = IntArray | BoolArray | slice


class ByPattern:
    """Base of results: frozen dataclasses of arrays whose first axis is the patterns.

    Attributes
    ----------
    of_features
        Names of the arrays whose last axis is the features; it is empty in one that was not asked for.
    """

    __slots__ = ()
    of_features: ClassVar[tuple[str, ...]] = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def merge(self, other: Self) -> Self:
        """The result of the cells of both, pattern by pattern; their sum, where a subclass does not say otherwise."""
        mine = self.arrays()
        return type(self)(**{name: mine[name] + values for name, values in other.arrays().items()})

    def take(self, patterns: Index) -> Self:
        """Some patterns, in the order given; a slice gives views.

        Parameters
        ----------
        patterns
            Integer positions, a boolean mask of shape (K,), or a slice.
        """
        return type(self)(**{name: values[patterns] for name, values in self.arrays().items()})

    def take_features(self, idx: Index) -> Self:
        """Some features, in the order given; a slice gives views.

        Parameters
        ----------
        idx
            Integer positions, a boolean mask of shape (G,), or a slice.
        """
        return replace(self, **{name: _take_last(getattr(self, name), idx) for name in self.of_features})  # type: ignore[type-var]

    def put(self, patterns: Index, part: Self) -> None:
        """Overwrite some patterns."""
        for name, values in self.arrays().items():
            values[patterns] = getattr(part, name)

    def put_features(self, idx: Index, part: Self) -> None:
        """Overwrite some features of all patterns."""
        for name in self.of_features:
            if getattr(part, name).size:
                getattr(self, name)[..., idx] = getattr(part, name)


R = TypeVar("R", bound=ByPattern)


class Measure(ABC, Generic[R]):
    """What is accumulated by pattern and feature: a small record of options, which is sent to the workers of a cluster.

    A pass over whole rows asks `begin` once, `add` for every chunk and `end` once; where a matrix in memory, or a
    chunk of columns, holds all cells, it asks `fill`. Large patterns are cut into segments, whose results are merged.
    """

    @abstractmethod
    def empty(self, segments: Segments, n_features: int) -> R:
        """The result, one row per segment, before any value was seen."""

    @abstractmethod
    def add(self, running: Any, chunk: Chunk, n_jobs: int | None) -> None:
        """Add the cells of a chunk, the next ones of their segments, to what `begin` gave."""

    def begin(self, out: R) -> Any:
        """What chunks are added to: `out` itself, where a subclass does not say otherwise."""
        return out

    def end(self, running: Any, out: R, segments: Segments, n_jobs: int | None) -> None:
        """Write `out` from what was added up; nothing to do where that is `out` itself."""

    def fill(
        self, out: R, matrix: Any, columns: IntArray, cells: Segmented, segments: Segments, n_jobs: int | None
    ) -> None:
        """Write `out` from a matrix in memory that has all cells; its columns `columns` are the features."""
        running = self.begin(out)
        for chunk in chunks_of(matrix, 0, Wanted(columns, matrix.shape[1]), cells):
            self.add(running, chunk, n_jobs)
        self.end(running, out, segments, n_jobs)


@dataclass(frozen=True, slots=True)
class Collapsed(ByPattern):
    """What the cells of K patterns say about G features; mergeable and exact.

    With weights w (1 where none were given), covariates c (m columns) and responses y:

    Attributes
    ----------
    n_obs
        Shape (K,), int64. Number of rows.
    weight, log_weight
        Shape (K,). Sum of w and of log w over the rows.
    mean
        Shape (K, G). Weighted mean of y (0 where a pattern is empty).
    within_ss
        Shape (K, G). Weighted sum of squares of y about the pattern's mean; exactly 0.0
        for a feature that is constant inside the pattern.
    covariate_mean
        Shape (K, m).
    covariate_ss
        Shape (K, m, m). Weighted cross-products of the covariates about the pattern's means.
    covariate_y
        Shape (K, m, G). Weighted cross-products of covariates and responses about the means.
    abundance
        Shape (K, G). Weighted mean of b^y - 1, where the responses are logarithms to the base b of 1 + x; (K, 0) where
        they are none, or this was not asked for.
    """

    n_obs: IntArray
    weight: FloatArray
    log_weight: FloatArray
    mean: FloatArray
    within_ss: FloatArray
    covariate_mean: FloatArray
    covariate_ss: FloatArray
    covariate_y: FloatArray
    abundance: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("mean", "within_ss", "covariate_y", "abundance")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of patterns, covariates and features: (K, m, G)."""
        k, m, g = self.covariate_y.shape
        return k, m, g

    def merge(self, other: Collapsed) -> Collapsed:
        """Statistics of the rows of both, pattern by pattern (Chan, Golub & LeVeque 1983).

        With a = w_a w_b / (w_a + w_b), every sum of products about the means obeys
        ``S = S_a + S_b + a (mean_b - mean_a) (mean_b - mean_a)'``.

        Parameters
        ----------
        other
            Statistics of other rows for the same K patterns, m covariates and G features.

        Raises
        ------
        DataError
            If the shapes differ.
        """
        if self.shape != other.shape:
            raise DataError(
                "Only statistics of the same patterns, covariates and features can be merged; "
                f"got (patterns, covariates, features) = {self.shape} and {other.shape}."
            )
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        cross = self.weight * share
        dy = other.mean - self.mean
        dc = other.covariate_mean - self.covariate_mean
        return Collapsed(
            n_obs=self.n_obs + other.n_obs,
            weight=weight,
            log_weight=self.log_weight + other.log_weight,
            mean=self.mean + share[:, None] * dy,
            within_ss=self.within_ss + other.within_ss + cross[:, None] * dy**2,
            covariate_mean=self.covariate_mean + share[:, None] * dc,
            covariate_ss=self.covariate_ss + other.covariate_ss + _outer(cross, dc, dc),
            covariate_y=self.covariate_y + other.covariate_y + _outer(cross, dc, dy),
            abundance=_merge_abundance(self.abundance, other.abundance, share),
        )

    def take_covariates(self, m: int) -> Collapsed:
        """Statistics with the first `m` covariates only."""
        return replace(
            self,
            covariate_mean=self.covariate_mean[:, :m],
            covariate_ss=self.covariate_ss[:, :m, :m],
            covariate_y=self.covariate_y[:, :m],
        )


def _merge_abundance(one: FloatArray, other: FloatArray, share: FloatArray) -> FloatArray:
    """Means of both, `share` (K,) being that of the other; none where one of them has none."""
    if one.shape != other.shape:
        return one[:, :0]
    return one + share[:, None] * (other - one)


def _outer(scale: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    return scale[:, None, None] * left[:, :, None] * right[:, None, :]


def _take_last(array: FloatArray, idx: Index) -> FloatArray:
    if isinstance(idx, slice):
        return array[..., idx]
    if not array.shape[-1]:
        return array
    positions: NDArray[Any] = np.asarray(idx)
    # np.take keeps C order, which fancy indexing of the last axis does not.
    return np.take(array, np.flatnonzero(positions) if positions.dtype == bool else positions, axis=-1)
