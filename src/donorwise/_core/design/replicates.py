"""Who the replicates are: the donors, the rows in use by pattern and donor, and the degrees of freedom that they leave.

These follow from the design alone, by the inner-outer rule of Pinheiro and Bates (2000), Mixed-Effects Models
in S and S-PLUS, section 2.4.2: a column of X that is constant within the levels of a grouping factor has that
factor's levels as its replicates; a column that varies within all of them has the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import combine, constant, first_rows
from donorwise._core.design.terms import read_column, term_variables, used_categories
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import BoolArray, FloatArray, IntArray

_SPANNED = 1e-9  # of the largest value of a column, for rounding
_REPLICATES = ("donor", "patient", "subject", "individual", "participant", "person", "animal", "mouse")


@dataclass(frozen=True, slots=True)
class Tally:
    """The rows in use, those that agree in pattern and donor counted as one entry.

    Attributes
    ----------
    entry
        Shape (n,). Entry of each row in use.
    pattern, donor, n
        Shape (U,). Pattern, donor and number of rows of each entry.
    depths
        Shape (n,). Depth of each row in use, zero for none; None where depth is not known.
    depth, n_depth
        Shape (U,). Sum of the depths of an entry's rows, and how many of them have one.
    """

    entry: IntArray
    pattern: IntArray
    donor: IntArray
    n: IntArray
    depths: FloatArray | None
    depth: FloatArray
    n_depth: IntArray

    @property
    def n_rows(self) -> int:
        """Number of rows in use, n."""
        return len(self.entry)

    def mean_depth(self, side: BoolArray) -> float:
        """Mean depth of the rows of some entries."""
        n = int(self.n_depth[side].sum())
        return float(self.depth[side].sum() / n) if n else float("nan")

    def by_row(self) -> Tally:
        """An entry for every row, as numbers need that differ inside patterns."""
        one = np.ones(self.n_rows, dtype=np.int64)
        depth = np.zeros(self.n_rows) if self.depths is None else self.depths
        rows = np.arange(self.n_rows)
        return Tally(
            rows,
            self.pattern[self.entry],
            self.donor[self.entry],
            one,
            self.depths,
            depth,
            (depth > 0).astype(np.int64),
        )

    def cross(self, column: pd.Series, design: Design) -> Crossing:
        """What the rows in use have in a column of obs (N rows)."""
        values = column if self.n_rows == len(column) else column[design.codes >= 0]
        labels, uniques = pd.factorize(values)
        n_labels = len(uniques)
        pairs, n_pairs = combine([(self.entry, len(self.n)), (labels + 1, n_labels + 1)], self.n_rows)
        first = first_rows(pairs, n_pairs)
        known = labels[first] >= 0
        return Crossing(
            name=str(column.name),
            codes=labels,
            n_labels=n_labels,
            some_missing=not known.all(),
            entry=self.entry[first[known]],
            label=labels[first[known]],
            n=np.bincount(pairs, minlength=n_pairs)[known],
        )


@dataclass(frozen=True, slots=True)
class Crossing:
    """A column of obs beside the entries of a tally: the combinations that occur.

    Attributes
    ----------
    name
        The column.
    codes
        Shape (n,). Label of each row in use; -1 where it is missing.
    n_labels
        Number of labels.
    some_missing
        Whether some row has none.
    entry, label, n
        Shape (C,). Entry, label and number of rows of each combination, missing labels left out.
    """

    name: str
    codes: IntArray
    n_labels: int
    some_missing: bool
    entry: IntArray
    label: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class Donors:
    """The replicates: name, levels and columns of their factor, all empty where there is none, and their rows."""

    name: str
    levels: tuple[str, ...]
    rows: Tally
    columns: tuple[str, ...]

    def example(self) -> IntArray:
        """A pattern of each donor, (D,)."""
        pattern = np.zeros(len(self.levels), dtype=np.int64)
        pattern[self.rows.donor] = self.rows.pattern
        return pattern


def find_donors(design: Design, obs: pd.DataFrame, donor: str | None, depth: FloatArray | None = None) -> Donors:
    """Find the replicates: the column `donor`, or the grouping factor that looks like it.

    Parameters
    ----------
    design
        The design.
    obs
        N rows.
    donor
        Column that is declared to be the donor, if any.
    depth
        Shape (N,). Sequencing depth of each row.

    Raises
    ------
    DesignError
        `donor` is missing in rows in use.
    """
    used = design.codes >= 0
    rows = design.codes if used.all() else design.codes[used]
    depth = None if depth is None else np.asarray(depth, dtype=np.float64)
    depth = depth if depth is None or len(rows) == len(used) else depth[used]
    pattern, nobody = np.arange(design.n_patterns), np.zeros(design.n_patterns, dtype=np.int64)
    terms = {t.bar.group: t for t in design.random_terms}
    columns = (donor,) if donor else replicate(tuple(terms))
    if not columns:
        return Donors("", (), _count(rows, pattern, nobody, depth), ())
    name = ":".join(columns)
    if columns in terms:
        return Donors(name, terms[columns].levels, _count(rows, pattern, terms[columns].codes, depth), columns)
    column = read_column(obs[name], name, categorical=True)[used]
    if column.isna().any():
        raise DesignError(f"`{name}` is missing in {int(column.isna().sum()):,} of the rows in use.")
    own = used_categories(column.array)
    levels, codes = tuple(map(str, own.categories)), own.codes.astype(np.int64)
    entry, size = combine([(rows, design.n_patterns), (codes, len(levels))], len(rows))
    first = first_rows(entry, size)
    return Donors(name, levels, _count(entry, rows[first].astype(np.int64), codes[first], depth), columns)


def _count(entry: IntArray, pattern: IntArray, donor: IntArray, depth: FloatArray | None) -> Tally:
    n = np.bincount(entry, minlength=len(pattern))
    if depth is None:
        return Tally(entry, pattern, donor, n, None, np.zeros(len(pattern)), np.zeros_like(n))
    usable = np.isfinite(depth) & (depth > 0)
    whole = bool(usable.all())
    depths = depth if whole else np.where(usable, depth, 0.0)
    n_depth = n if whole else np.bincount(entry[usable], minlength=len(pattern))
    depth = np.asarray(np.bincount(entry, weights=depths, minlength=len(pattern)), dtype=np.float64)
    return Tally(entry, pattern, donor, n, depths, depth, n_depth)


def random_levels(design: Design, donors: Donors) -> bool:
    """Whether the random terms of the donors give each a level: an intercept, or a column for every level of a factor."""
    return spans_constant(
        *(
            t
            for t in design.random_terms
            if len(t.levels) == len(donors.levels)
            and constant(donors.rows.donor, t.codes[donors.rows.pattern], len(t.levels))
        )
    )


def spans_constant(*terms: RandomTerm) -> bool:
    """Whether the columns of random terms (of the same levels) give a constant, as those of ``(0 + factor | donor)`` do."""
    if any("(Intercept)" in term.columns for term in terms):
        return True
    columns = [term.Z[:, [k < 0 for k in term.varying]] for term in terms]
    if not any(Z.size for Z in columns):
        return False
    Z = np.hstack(columns)
    return in_span(np.ones((len(Z), 1)), Z)


def in_span(columns: FloatArray, others: FloatArray) -> bool:
    """Whether columns (n, p) are combinations of others (n, r)."""
    scale = np.abs(others).max(axis=0, initial=0.0)
    scaled = others / np.where(scale > 0, scale, 1.0)
    rest = columns - scaled @ np.linalg.lstsq(scaled, columns, rcond=None)[0]
    return bool(np.abs(rest).max(initial=0.0) <= _SPANNED * np.abs(columns).max(initial=1.0))


def is_fixed(design: Design, donors: Donors) -> bool:
    """Whether the donors are a fixed effect of their own."""
    return any(term_variables(term) == (donors.name,) for term in design.spec.terms)


def leaves_out(groups: Sequence[Sequence[str]], obs: pd.DataFrame, donor: str) -> bool:
    """Whether no grouping factor holds the column `donor`, or has levels that all lie inside one donor."""
    if obs[donor].isna().any() or obs[donor].nunique() == len(obs) or any(donor in group for group in groups):
        return False
    for group in groups:
        pairs = obs[[*group, donor]].dropna().drop_duplicates()
        if not pairs.duplicated(list(group)).any():
            return False
    return True


def replicate(groups: Sequence[tuple[str, ...]], donor: str = "") -> tuple[str, ...]:
    """The columns of the grouping factor that is the replicate; none where there is no grouping factor.

    The declared `donor` decides, or else a name such as donor or patient, alone or as the last part of a
    nested factor (site:donor); else the first factor, or a coarser one made of its columns (batch for
    batch:cask). A batch that happens to nest the donors is not a donor.
    """
    ordered = sorted(groups, key=len)
    declared = [g for g in ordered if donor and g[-1] == donor]
    named = [g for g in ordered if looks_like_replicate(g)]
    if declared or named or not groups:
        return next(iter([*declared, *named]), ())
    return min((g for g in groups if set(g) <= set(groups[0])), key=len)


def looks_like_replicate(group: tuple[str, ...]) -> bool:
    """Whether a grouping factor has the name of a donor, alone or as the last part of a nested one."""
    return any(word in group[-1].lower() for word in _REPLICATES)


def between_within_df(design: Design, n_obs: int, L: FloatArray) -> FloatArray:
    """Degrees of freedom of the rows of L (n, p) in the basis of the formula, (n,).

    A contrast takes the smallest of its columns' values; 0 or less means that the
    replicates are used up.
    """
    columns = column_df(design, n_obs)
    return np.array([columns[np.flatnonzero(row)].min() if row.any() else np.nan for row in L])


def slope_df(design: Design, L: FloatArray) -> FloatArray:
    """Degrees of freedom that the random slopes of a design leave to contrasts (n, p), (n,); infinite where it has none.

    A column that differs within the levels of a term, and is there a combination of the term's columns, has a slope of its
    own in every level: of D levels with s slopes each, on which m such columns are, D - m / s are left to a column.
    """
    columns = np.full(design.X.shape[1], np.inf)
    for term in design.random_terms if len(design.X) else ():  # a feature may have no rows at all
        carried = _carried(design, term)
        n_slopes = int(np.linalg.matrix_rank(np.column_stack([np.ones(len(term.Z)), term.Z]))) - 1
        n_slopes += sum(k >= 0 for k in term.varying)
        if carried.any() and n_slopes:
            n_levels = np.unique(_distinct(term)).size
            columns[carried] = np.minimum(columns[carried], n_levels - carried.sum() / n_slopes)
    return np.array([columns[np.flatnonzero(row)].min(initial=np.inf) for row in L])


def known_df(design: Design, n_obs: int, L: FloatArray) -> FloatArray:
    """Degrees of freedom of contrasts (n, p) by the inner-outer rule, or those that random slopes leave: the fewer, (n,)."""
    return np.minimum(between_within_df(design, n_obs, L), slope_df(design, L))


def _carried(design: Design, term: RandomTerm) -> BoolArray:
    """Which columns of X differ within the levels of a term and are combinations of its columns there."""
    varying = np.array(design.varying, dtype=np.int64)
    out = (varying >= 0) & np.isin(varying, [k for k in term.varying if k >= 0])
    outside = np.array([np.ptp(x) > 0 for x in design.X.T]) & (varying < 0) & ~constant_within(design.X, term.codes)
    for level in np.unique(term.codes):
        own = term.codes == level
        fitted = term.Z[own] @ np.linalg.lstsq(term.Z[own], design.X[own], rcond=None)[0]
        outside &= np.abs(design.X[own] - fitted).max(axis=0) <= _SPANNED * (1 + np.abs(design.X).max(axis=0))
    return np.asarray(out | outside)


def column_df(design: Design, n_obs: int) -> FloatArray:
    """Degrees of freedom of every column of X, (p,)."""
    factors, whole = _factors(design.random_terms)
    varying = np.array(design.varying, dtype=np.int64) >= 0
    finest = max(factors, key=lambda f: f.max(initial=0), default=None)
    used = _used(design.X[:, ~varying], finest) + int(varying.sum())  # what varies inside patterns is no one's sum
    levels = np.full(design.X.shape[1], np.inf)
    for codes in factors:
        constant = ~varying & constant_within(design.X, codes)
        coarser = [f for f in whole if f is not codes and _nested(codes, f)]
        parent = max(coarser, key=lambda f: f.max(initial=0), default=None)
        df = np.unique(codes).size - _used(design.X[:, constant], parent)
        levels[constant] = np.minimum(levels[constant], df)
    return np.where(np.isfinite(levels), levels, n_obs - used)


def _factors(terms: tuple[RandomTerm, ...]) -> tuple[list[IntArray], list[IntArray]]:
    """Codes of the grouping factors, and of those that divide what is in them from the rest.

    Levels that a kernel takes for the same, such as twins, are one level of it. Other levels that are alike tell of each other,
    so that a difference within some pairs of twins uses up no more than itself, unless all that the kernel has is sets.
    """
    found: dict[str, IntArray] = {}
    alike: set[str] = set()
    for term in terms:
        codes = _distinct(term)
        name = term.group if codes is term.codes else term.name
        found[name] = codes
        if codes is not term.codes and not _is_grouping(term):
            alike.add(name)
    return list(found.values()), [codes for name, codes in found.items() if name not in alike]


def _is_grouping(term: RandomTerm) -> bool:
    """Whether the kernel of a term has sets of levels that are the same, and nothing between the sets."""
    K = term.bar.kernel.on(term.levels) if term.bar.kernel is not None else np.eye(len(term.levels))
    return bool((np.abs(np.minimum(np.abs(K), np.abs(K - np.diag(K)))) <= 1e-6 * np.abs(K).max()).all())


def _distinct(term: RandomTerm) -> IntArray:
    """Codes of the levels of a term, (K,), those with the same rows of its kernel as one."""
    if term.bar.kernel is None:
        return term.codes
    K = term.bar.kernel.on(term.levels)
    rounded = np.round(K / np.abs(K).max(), 9)
    rows, inverse = np.unique(rounded, axis=0, return_inverse=True)
    return term.codes if len(rows) == len(K) else inverse.ravel()[term.codes]


def constant_within(X: FloatArray, codes: IntArray) -> BoolArray:
    """Which columns take one value in every level of a factor."""
    spread = np.abs(X - _first_rows(X, codes))
    return np.asarray((spread <= 1e-12 * np.abs(X).max(axis=0, initial=0.0)).all(axis=0))


def _first_rows(X: FloatArray, codes: IntArray) -> FloatArray:
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return X[first][inverse.ravel()]


def _nested(inner: IntArray, outer: IntArray) -> bool:
    """Whether every level of `inner` lies in one level of `outer`, and not the other way round."""
    pairs = np.unique(np.stack([inner, outer]), axis=1).shape[1]
    return pairs == np.unique(inner).size and pairs > np.unique(outer).size


def _used(X: FloatArray, parent: IntArray | None) -> int:
    """Rank of the columns of X together with the indicators of a coarser factor."""
    if parent is None:
        return int(np.linalg.matrix_rank(X)) if X.size else 0
    levels, inverse = np.unique(parent, return_inverse=True)
    inverse = inverse.ravel()
    counts = np.bincount(inverse)
    means = np.stack([np.bincount(inverse, weights=x) for x in X.T], axis=1) / counts[:, None] if X.size else X
    centred = X - means[inverse] if X.size else X
    scale = np.abs(X).max(axis=0, initial=0.0)
    centred = centred[:, np.abs(centred).max(axis=0, initial=0.0) > 1e-10 * scale]
    return levels.size + (int(np.linalg.matrix_rank(centred)) if centred.size else 0)
