"""Estimates and t statistics of variants from their scores; see :mod:`donorwise._core.models.lmm.variants`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.variant_kernels import ROUNDING, TINY

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray


class Scores(NamedTuple):
    """What tests of V variants in G features with a column each are made of.

    With n and s (V, G) the square of a standard error is max(between s - per_df n², (R s - n²) s per_row) / s², in which
    `between` (G,) is R (df + 1) / (nu + 1) / df, `per_df` (G,) 1 / df and `per_row` (V,) 1 / (nu x'Mx); `aliased` is (V,).
    """

    n: FloatArray
    s: FloatArray
    R: FloatArray
    between: FloatArray
    per_df: FloatArray
    per_row: FloatArray
    aliased: BoolArray

    @property
    def main(self) -> None:
        """There is no second column."""

    def at(self, v: IntArray, g: IntArray) -> tuple[FloatArray, FloatArray]:
        """Estimates and t statistics at some positions, or of rows and columns; NaN where the model explains the variant."""
        n, s = np.where(self.n[v, g] == 0.0, TINY, self.n[v, g]), self.s[v, g]
        with np.errstate(divide="ignore", invalid="ignore"):
            least = np.maximum(self.R[g] * s - n**2, ROUNDING * self.R[g] * s) * s * self.per_row[v]
            statistic = n / np.sqrt(np.maximum(self.between[g] * s - self.per_df[g] * n**2, least))
            lost = np.where(self.aliased[v], np.nan, 0.0)
            return n / s + lost, statistic + lost


class Tests(NamedTuple):
    """V variants in G features, (V, G): estimate and t statistic of a variant, NaN where the model explains it.

    With an interaction both are its own, and `main` those of the variant itself (where what it interacts with is zero).
    """

    estimate: FloatArray
    statistic: FloatArray
    main: tuple[FloatArray, FloatArray] | None = None

    def at(self, v: IntArray, g: IntArray) -> tuple[FloatArray, FloatArray]:
        """Estimates and t statistics at some positions."""
        return self.estimate[v, g], self.statistic[v, g]


class Refits(NamedTuple):
    """Pairs of a variant and a feature: `estimate` and `se` (n, columns) of each column; `gamma` (n, K), `loglik` (n,)."""

    estimate: FloatArray
    se: FloatArray
    gamma: FloatArray
    loglik: FloatArray


def wald_two(
    n: list[FloatArray],
    s: dict[tuple[int, int], FloatArray],
    rss: dict[tuple[int, int], FloatArray],
    R: FloatArray,
    aliased: BoolArray,
    nu: int,
    df: FloatArray,
    together: BoolArray,
) -> Tests:
    """Tests of two columns in each other's presence from their scores (V, G); `together` (G,) they take from one variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = s[0, 0] * s[1, 1] - s[1, 0] ** 2
        of_rows = rss[0, 0] * rss[1, 1] - rss[1, 0] ** 2
        first = (s[1, 1] * n[0] - s[1, 0] * n[1]) / determinant
        second = (s[0, 0] * n[1] - s[1, 0] * n[0]) / determinant
        explained = first * n[0] + second * n[1]
        left = np.maximum(R - explained, ROUNDING * R) / nu
        found = []
        for estimate, other in ((first, 1), (second, 0)):
            length, least = s[other, other] / determinant, rss[other, other] / of_rows
            taken = np.where(together, explained, estimate**2 / length)
            square = (R * ((df + np.where(together, 2, 1)) / (nu + 2)) - taken) / df * length
            found.append(estimate / np.sqrt(np.maximum(square, left * least[:, None])))
    for values in (first, second, *found):
        values[aliased] = np.nan
    return Tests(second, found[1], (first, found[0]))


def pairs_of_scores(n: FloatArray, S: FloatArray, R: FloatArray, nu: int, gamma: FloatArray) -> Refits:
    """Estimates of pairs from scores n (pairs, columns) and their information S (pairs, columns, columns)."""
    inverse = np.linalg.inv(S)
    estimate = np.einsum("nab,nb->na", inverse, n)
    sigma2 = np.maximum(R - np.einsum("na,na->n", estimate, n), ROUNDING * R) / nu
    se = np.sqrt(sigma2[:, None] * np.einsum("naa->na", inverse))
    return Refits(estimate, se, gamma, np.full(len(n), np.nan))
