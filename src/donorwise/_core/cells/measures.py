"""Exact sufficient statistics of cells x features, one row per design pattern."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Index: TypeAlias = IntArray | BoolArray | slice


@dataclass(frozen=True, slots=True)
class Collapsed:
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
    """

    n_obs: IntArray
    weight: FloatArray
    log_weight: FloatArray
    mean: FloatArray
    within_ss: FloatArray
    covariate_mean: FloatArray
    covariate_ss: FloatArray
    covariate_y: FloatArray

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
        )

    def take(self, patterns: Index) -> Collapsed:
        """Statistics of some patterns, in the order given; a slice gives views.

        Parameters
        ----------
        patterns
            Integer positions, a boolean mask of shape (K,), or a slice.
        """
        return Collapsed(**{field.name: getattr(self, field.name)[patterns] for field in fields(self)})

    def take_features(self, idx: Index) -> Collapsed:
        """Statistics of some features, in the order given; a slice gives views.

        Parameters
        ----------
        idx
            Integer positions, a boolean mask of shape (G,), or a slice.
        """
        return replace(
            self,
            mean=_take_last(self.mean, idx),
            within_ss=_take_last(self.within_ss, idx),
            covariate_y=_take_last(self.covariate_y, idx),
        )

    def take_covariates(self, m: int) -> Collapsed:
        """Statistics with the first `m` covariates only."""
        return replace(
            self,
            covariate_mean=self.covariate_mean[:, :m],
            covariate_ss=self.covariate_ss[:, :m, :m],
            covariate_y=self.covariate_y[:, :m],
        )


def _outer(scale: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    return scale[:, None, None] * left[:, :, None] * right[:, None, :]


def _take_last(array: FloatArray, idx: Index) -> FloatArray:
    if isinstance(idx, slice):
        return array[..., idx]
    positions: NDArray[Any] = np.asarray(idx)
    # np.take keeps C order, which fancy indexing of the last axis does not.
    return np.take(array, np.flatnonzero(positions) if positions.dtype == bool else positions, axis=-1)
