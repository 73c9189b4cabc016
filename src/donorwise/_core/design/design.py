"""A design: a formula applied to rows, which fall into patterns of equal rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import FloatArray, IntArray


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
    """

    group: str
    levels: tuple[str, ...]
    codes: IntArray
    columns: tuple[str, ...]
    Z: FloatArray
    varying: tuple[int, ...]

    @property
    def label(self) -> str:
        """The term as lme4 writes it, for instance ``"(1 | donor)"``."""
        names = ["1" if c == "(Intercept)" else c for c in self.columns]
        if "1" not in names:
            names.insert(0, "0")
        return f"({' + '.join(names)} | {self.group})"

    def take(self, patterns: IntArray) -> RandomTerm:
        """The term on some patterns, with the levels that occur there."""
        kept, codes = np.unique(self.codes[patterns], return_inverse=True)
        levels = tuple(self.levels[i] for i in kept)
        return replace(self, levels=levels, codes=codes.ravel(), Z=self.Z[patterns])


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

    @property
    def formula(self) -> str:
        """The formula as the user wrote it."""
        return self.parsed.source

    @property
    def n_patterns(self) -> int:
        """Number of patterns, K."""
        return self.X.shape[0]

    def take(self, patterns: IntArray) -> Design:
        """The design on some patterns; `codes` and `covariates` stay those of all rows."""
        terms = tuple(t.take(patterns) for t in self.random_terms)
        return replace(self, X=self.X[patterns], random_terms=terms, frame=self.frame.iloc[patterns])

    def by_row(self) -> Design:
        """The same with a pattern for every row in use, in their order."""
        rows = np.flatnonzero(self.codes >= 0)
        at, codes = self.codes[rows], np.full(self.codes.size, -1, dtype=self.codes.dtype)
        codes[rows] = np.arange(rows.size)

        def spread(values: FloatArray, varying: Sequence[int]) -> FloatArray:
            out = values[at]
            for column, covariate in enumerate(varying):
                if covariate >= 0:
                    out[:, column] = self.covariates[rows, covariate]
            return out

        terms = tuple(
            replace(t, codes=t.codes[at], Z=spread(t.Z, t.varying), varying=(-1,) * len(t.varying))
            for t in self.random_terms
        )
        return replace(
            self, codes=codes, X=spread(self.X, self.varying), varying=(-1,) * len(self.varying), random_terms=terms,
            covariates=self.covariates[:, :0], frame=self.frame.iloc[at].reset_index(drop=True),
        )  # fmt: skip
