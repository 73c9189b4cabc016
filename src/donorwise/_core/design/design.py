"""A design: its fixed and random columns over patterns, which are numbered where rows agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.terms import term_name, term_variables

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from donorwise._core.design.formula import Bar, ParsedFormula
    from donorwise._core.design.names import StandIns
    from donorwise._typing import BoolArray, FloatArray, IntArray

# Rows that are looked at first: they often answer for all.
_HEAD = 16_384


def find_patterns(
    categorical: Sequence[tuple[IntArray, int]], numeric: Mapping[str, FloatArray], n_rows: int, most: int | None = None
) -> tuple[IntArray, int, tuple[str, ...]]:
    """Number the unique combinations of the variables, leaving out numbers that differ in nearly every row.

    Parameters
    ----------
    categorical
        Codes (n,) and number of levels of each grouping factor and categorical variable, in key order.
    numeric
        Values (n,) of each numeric variable.
    n_rows
        n.
    most
        Numbers that would make more patterns than this vary inside patterns; by default 2,000, or a twentieth of n.

    Returns
    -------
    Pattern of each row (numbered in the order of the keys, so that it does not depend on the
    order of the rows), number of patterns, and the numeric variables that vary inside patterns.
    """
    codes, size = combine(categorical, n_rows)
    limit = max(2000, n_rows // 20) if most is None else most
    first = first_rows(codes, size)
    labelled = {name: _labels(values, limit) for name, values in numeric.items() if varies(values, codes, first)}
    cell_level = sorted(name for name, labels in labelled.items() if labels is None)
    few = {name: labels for name, labels in labelled.items() if labels is not None}
    for name in sorted(few, key=lambda n: (few[n][1], n)):
        if not varies(numeric[name], codes, first_rows(codes, size)):
            continue
        finer = combine([(codes, size), few[name]], n_rows)
        if finer[1] <= limit:
            codes, size = finer
        else:
            cell_level.append(name)
    first = first_rows(codes, size)
    return codes, size, tuple(name for name in cell_level if varies(numeric[name], codes, first))


def _labels(values: FloatArray, limit: int) -> tuple[IntArray, int] | None:
    """Codes in the order of the values and their number; None where there are more than `limit` values."""
    if len(pd.unique(values[: 2 * limit])) > limit:
        return None
    labels, uniques = pd.factorize(values)
    if len(uniques) > limit:
        return None
    rank = np.empty(len(uniques), dtype=np.int64)
    rank[np.argsort(uniques)] = np.arange(len(uniques))
    return rank[labels], len(uniques)


def combine(factors: Sequence[tuple[IntArray, int]], n_rows: int) -> tuple[IntArray, int]:
    """Number the combinations of factors that occur, in the order of the first factor, then the second ..."""
    codes, size = np.zeros(n_rows, dtype=np.int64), 1
    for labels, n_levels in factors:
        joint = codes * n_levels
        joint += labels
        codes, size = _compress(joint, size * n_levels)
    return codes, size


def first_rows(codes: IntArray, size: int) -> IntArray:
    """Return the first row of each pattern."""
    first = np.empty(size, dtype=np.int64)
    for rows in _looks(len(codes)):
        first.fill(-1)
        seen = codes[rows][::-1]
        first[seen] = np.arange(len(seen) - 1, -1, -1)
        if first.min(initial=0) >= 0:
            break
    return first


def varies(values: FloatArray, codes: IntArray, first: IntArray) -> bool:
    """Whether a column takes several values inside some pattern."""
    example = values[first]
    return any(bool(np.any(values[rows] != example[codes[rows]])) for rows in _looks(len(codes)))


def changing(values: NDArray[Any], codes: IntArray, n_levels: int) -> BoolArray:
    """Which levels have rows with several values, (n_levels,)."""
    found = np.zeros(n_levels, dtype=bool)
    for rows in _looks(len(codes)):
        own, level = values[rows], codes[rows]
        example = np.zeros(n_levels, dtype=values.dtype)
        example[level] = own
        found[level[own != example[level]]] = True
        if found.all():
            break
    return found


def constant(values: NDArray[Any], codes: IntArray, n_levels: int) -> bool:
    """Whether the rows of every level have one value."""
    for rows in _looks(len(codes)):
        example = np.zeros(n_levels, dtype=values.dtype)
        example[codes[rows]] = values[rows]
        if not np.array_equal(values[rows], example[codes[rows]]):
            return False
    return True


def _looks(n_rows: int) -> Iterator[slice]:
    """The first rows, where they are few of them; then all."""
    if n_rows > _HEAD:
        yield slice(_HEAD)
    yield slice(None)


def _compress(codes: IntArray, size: int) -> tuple[IntArray, int]:
    """Renumber codes without gaps, in the same order."""
    if size > max(4 * len(codes), 1_000_000):  # a table of that size would cost more than sorting
        uniques, dense = np.unique(codes, return_inverse=True)
        return dense.reshape(-1), len(uniques)
    seen = np.bincount(codes, minlength=size) > 0
    return (codes if seen.all() else (np.cumsum(seen) - 1)[codes]), int(seen.sum())


@dataclass(frozen=True, slots=True)
class RandomTerm:
    """One random-effects term: ``r`` columns that vary over the levels of a grouping factor.

    Attributes
    ----------
    group
        Name of the grouping factor, ``"donor"`` or ``"donor:sample"``.
    levels
        Names of the levels in use, in the order of `codes` (``"D01"`` or ``"D01:s1"``).
    codes
        Shape (K,). Level of each pattern.
    columns
        Names of the r columns, ``("(Intercept)", "Days")``; the r effects are correlated.
    Z
        Shape (K, r). Value of each column in each pattern (the first row of the pattern
        where the column varies inside patterns; see `varying`).
    varying
        Length r. Index into ``Design.covariates`` of a column that varies inside patterns, else -1.
    bar
        The term of the formula that it comes from; ``||`` makes several of one.
    at
        Length r. Where its columns stand among those that the left of the bar gives.
    """

    group: str
    levels: tuple[str, ...]
    codes: IntArray
    columns: tuple[str, ...]
    Z: FloatArray
    varying: tuple[int, ...]
    bar: Bar
    at: tuple[int, ...]

    @property
    def label(self) -> str:
        """The term as lme4 writes it, for instance ``"(1 | donor)"``."""
        names = ["1" if c == "(Intercept)" else c for c in self.columns]
        if "1" not in names:
            names.insert(0, "0")
        return f"({' + '.join(names)} | {self.name})"

    @property
    def name(self) -> str:
        """What its variances and effects go by: the grouping factor, with the name of a known covariance."""
        return self.bar.factor if self.bar.cov else self.group

    @property
    def kernel(self) -> FloatArray | None:
        """The known covariance of its levels, (levels, levels); None where they are independent."""
        return None if self.bar.kernel is None else self.bar.kernel.covariance(self.levels)

    def take(self, patterns: IntArray) -> RandomTerm:
        """The term on some patterns, with the levels that occur there."""
        kept, codes = np.unique(self.codes[patterns], return_inverse=True)
        levels = tuple(self.levels[i] for i in kept)
        return replace(self, levels=levels, codes=codes.ravel(), Z=self.Z[patterns])


@dataclass(frozen=True, slots=True)
class Lost:
    """What the levels that no row in use has take with them.

    Attributes
    ----------
    changed
        Coefficients of the design that do not mean what their names say.
    expected
        Names of all coefficients that the formula has with every level; empty where nothing is lost.
    reason
        Why, in a sentence; empty where nothing is lost.
    stand_ins
        By variable, a level that stands in for the reference that a formula names.
    """

    changed: frozenset[str] = frozenset()
    expected: tuple[str, ...] = ()
    reason: str = ""
    stand_ins: StandIns = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Design:
    """A formula applied to N rows, collapsed to K patterns of equal (X, Z) rows.

    Attributes
    ----------
    parsed
        The formula.
    codes
        Shape (N,), int32. Pattern of each row; -1 where the row is not used.
    X
        Shape (K, p). Fixed-effects row of each pattern (its first row where a column varies
        inside patterns). Full column rank on the rows in use.
    fixed_names
        Names of the p columns, R's order; the intercept is ``"Intercept"``.
    terms
        Columns of X by fixed term, ``{"disease": (1,), "disease:sex": (3,)}``, intercept left out.
    random_terms
        The random terms, in the order of the formula; may be empty.
    covariates
        Shape (N, m). Columns of X or Z that vary inside patterns, row by row (0 for unused rows).
    varying
        Length p. Index into `covariates` for a column of X that varies inside patterns, else -1.
    frame
        K rows. The variables of the formula, one (first) row per pattern; grouping factors and
        categorical variables are categoricals without unused categories.
    spec
        formulaic's model spec of the fixed part (used to build contrasts).
    n_dropped
        Rows left out because a variable of the formula is missing.
    numeric_means
        Mean of each numeric variable over the rows in use (contrasts hold the others there).
    lost
        Levels that no row in use has, and the coefficients that they take with them.
    levels
        All levels of the categorical variables in their order, those of other groups as well.
    """

    parsed: ParsedFormula
    codes: IntArray
    X: FloatArray
    fixed_names: tuple[str, ...]
    terms: dict[str, tuple[int, ...]]
    random_terms: tuple[RandomTerm, ...]
    covariates: FloatArray
    varying: tuple[int, ...]
    frame: pd.DataFrame
    spec: Any
    n_dropped: int
    numeric_means: dict[str, float] = field(default_factory=dict)
    lost: Lost = field(default_factory=Lost)
    levels: dict[str, tuple[Hashable, ...]] = field(default_factory=dict)

    @property
    def formula(self) -> str:
        """The formula as the user wrote it."""
        return self.parsed.source

    @property
    def n_patterns(self) -> int:
        """Number of patterns, K."""
        return self.X.shape[0]

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Variables of every fixed term, in the order of the formula; the intercept is ``"1"``."""
        return {term_name(term): term_variables(term) for term in self.spec.terms}

    def take(self, patterns: IntArray) -> Design:
        """The design on some patterns; `codes` and `covariates` stay those of all rows."""
        terms = tuple(t.take(patterns) for t in self.random_terms)
        return replace(self, X=self.X[patterns], random_terms=terms, frame=self.frame.iloc[patterns])

    def by_row(self) -> Design:
        """The same with a pattern for every row in use, in their order."""
        rows = np.flatnonzero(self.codes >= 0)
        codes = np.full(self.codes.size, -1, dtype=self.codes.dtype)
        codes[rows] = np.arange(rows.size)
        made = self.on_rows(self.codes[rows], self.covariates[rows])
        return replace(made, codes=codes, covariates=self.covariates[:, :0])

    def on_rows(self, at: IntArray, covariates: FloatArray) -> Design:
        """The same with rows for patterns: n rows of the patterns `at` (n,) with these covariates (n, m)."""

        def spread(values: FloatArray, varying: Sequence[int]) -> FloatArray:
            out = values[at]
            for column, covariate in enumerate(varying):
                if covariate >= 0:
                    out[:, column] = covariates[:, covariate]
            return out

        terms = tuple(
            replace(t, codes=t.codes[at], Z=spread(t.Z, t.varying), varying=(-1,) * len(t.varying))
            for t in self.random_terms
        )
        return replace(
            self, codes=np.arange(at.size, dtype=self.codes.dtype), X=spread(self.X, self.varying),
            varying=(-1,) * len(self.varying), random_terms=terms, covariates=covariates[:, :0],
            frame=self.frame.iloc[at].reset_index(drop=True),
        )  # fmt: skip
