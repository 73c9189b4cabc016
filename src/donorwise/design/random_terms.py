"""Random terms: levels of a grouping factor, and whether the data can carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from donorwise._typing import FloatArray, IntArray
from donorwise.design.evaluate import Evaluated, Rows
from donorwise.design.formula import Bar
from donorwise.design.patterns import combine, first_rows
from donorwise.design.rank import split_columns
from donorwise.design.structure import RandomTerm
from donorwise.errors import DesignError


@dataclass(frozen=True, slots=True)
class Factor:
    """A grouping column of the n rows in use: level of each row, names of the levels."""

    codes: IntArray
    levels: tuple[str, ...]


def read_factor(values: pd.Categorical, name: str) -> Factor:
    """Turn a grouping column into codes; raise when there is only one level."""
    levels = tuple(str(level) for level in values.categories)
    if len(levels) == 1:
        raise DesignError(
            f"The grouping factor `{name}` has one level ({levels[0]!r}) in these rows; a random effect needs at least two, "
            "and a comparison between its levels needs several in each arm."
        )
    return Factor(values.codes.astype(np.int64), levels)


def random_term(
    bar: Bar, columns: Evaluated, varying: tuple[int, ...], factors: Mapping[str, Factor], rows: Rows
) -> RandomTerm:
    """Build one term from its evaluated columns and its grouping columns."""
    own = [factors[name] for name in bar.group]
    codes, n_levels = combine([(f.codes[rows.first], len(f.levels)) for f in own], len(rows.first))
    example = rows.first[first_rows(codes, n_levels)]
    labels = np.stack([f.codes[example] for f in own], axis=1)
    return RandomTerm(
        group=":".join(bar.group),
        levels=tuple(":".join(f.levels[c] for f, c in zip(own, row, strict=True)) for row in labels),
        codes=codes,
        columns=tuple("(Intercept)" if name == "Intercept" else name for name in columns.names),
        Z=columns.values,
        varying=varying,
    )


def check_random_size(term: RandomTerm, n: int) -> None:
    """Raise when a term has as many effects as there are rows."""
    if len(term.levels) == n:
        raise DesignError(
            f"`{term.label}` has one level per row ({n:,} of each), so it cannot be told from the residual. "
            "A grouping factor has several rows per level: donors or samples, not cells."
        )
    n_effects = len(term.levels) * len(term.columns)
    if n_effects >= n:
        raise DesignError(
            f"`{term.label}` has {n_effects:,} random effects ({len(term.levels):,} levels x {len(term.columns)}) "
            f"for {n:,} rows: they cannot be told from the residual. Use fewer slopes or a coarser grouping factor."
        )


def check_replication(X: FloatArray, names: tuple[str, ...], term: RandomTerm) -> None:
    """Raise when the fixed effects fit every level of a random intercept, so that its variance has no data left.

    Parameters
    ----------
    X
        Shape (n, p). The K patterns first, then rows that span what varies inside them.
    """
    if term.columns != ("(Intercept)",) or len(term.levels) > len(names):
        return
    indicators = np.zeros((len(X), len(term.levels)))
    indicators[np.arange(len(term.codes)), term.codes] = 1.0
    _, aliased = split_columns(np.hstack([X, indicators]), names)
    if len(aliased) == len(term.levels):
        raise DesignError(
            f"The fixed effects already fit each of the {len(term.levels)} levels of `{term.group}` exactly, so nothing is "
            f"left to estimate `{term.label}` from, and no comparison between levels of `{term.group}` has replicates. "
            f"Use more levels of `{term.group}`, or fewer fixed effects that are constant within them."
        )
