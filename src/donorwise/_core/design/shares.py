"""The samples that shares of cells are of: what may differ between their cells, and the effects that they must have.

Cells of a sample are no replicates: their types depend on how the tissue was taken and taken apart. So a model of shares
needs a random effect for every set of cells that agree in all of the formula, which is what makes them over-dispersed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import combine, constant
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import spans_constant
from donorwise._core.design.terms import check_obs
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import IntArray


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of N cells.

    Attributes
    ----------
    columns
        The columns whose combinations they are.
    codes
        Shape (N,). Sample of each cell; -1 where a column is missing.
    term
        What stands right of the bar in a random term of theirs.
    """

    columns: tuple[str, ...]
    codes: IntArray
    term: str


def find_samples(parsed: ParsedFormula, obs: pd.DataFrame, *, sample: str, donor: str) -> Samples:
    """The samples: a donor's cells of one sample, as far as these columns are known, and of one level of factors inside them.

    Parameters
    ----------
    parsed
        The formula; grouping factors such as ``donor:stimulus`` divide the cells of a donor further. Where neither donor
        nor sample is known, all grouping factors do.
    obs
        N cells.
    sample, donor
        Columns of `obs`; empty where they are not known.

    Raises
    ------
    DesignError
        Nothing says what a sample is, or a column is not there.
    """
    known = [name for name in (donor, sample) if name]
    inside = [bar.group for bar in parsed.bars if not known or set(known) & set(bar.group)]
    columns = tuple(dict.fromkeys([*known, *(name for group in inside for name in group)]))
    if not columns:
        raise DesignError(
            "Which cells are of one sample is not known: give sample=, or declare it with adata.donorwise.setup(sample=...), "
            f"and add a random term for it, `{parsed.source} + (1 | sample_id)`."
        )
    check_obs(obs, columns, parsed.source)
    labels = [pd.factorize(obs[name]) for name in columns]
    complete = np.all([codes >= 0 for codes, _ in labels], axis=0)
    codes = np.full(len(obs), -1, dtype=np.int64)
    codes[complete], n = combine([(own[complete], len(levels)) for own, levels in labels], int(complete.sum()))
    alone = [name for name, (_, levels) in zip(columns, labels, strict=True) if len(levels) == n]
    return Samples(columns, codes, ":".join(map(quote, alone[-1:] or columns)))


def check_samples(samples: Samples, design: Design, obs: pd.DataFrame, groupby: Sequence[str] = ()) -> None:
    """Raise unless the cells of every sample (in one group) agree in all of the formula, and have a random effect in common.

    Raises
    ------
    DesignError
        Names what differs, or the term that is missing.
    """
    used = np.flatnonzero((design.codes >= 0) & (samples.codes >= 0))
    differ = list(_differing(samples, design, obs, used))
    where = f"`{samples.term}`" + (f" in one group of {listing(groupby)}" if groupby else "")
    if differ:
        raise DesignError(
            f"{listing(differ)} differ{'s' if len(differ) == 1 else ''} between the cells of a sample ({where}), and shares "
            "are of all cells of a sample: leave it out, or take its mean for every sample. If such cells are samples of "
            f"their own, name the column that tells these apart with sample={_or_term(samples, obs, differ)}."
        )
    if not design.random_terms:
        raise DesignError(
            f"{design.formula!r} has no random term, so every cell would count as a replicate; add one for the samples, "
            f"(1 | {samples.term})."
        )
    if not any(_is_of_patterns(design, group) for group in {term.group for term in design.random_terms}):
        terms = ", ".join(term.label for term in design.random_terms)
        raise DesignError(
            f"No random intercept of {terms} has the samples ({where}) as its levels, so their cells would count as replicates "
            f"of what varies within these levels: add (1 | {samples.term})."
        )


def coarser(samples: Samples, design: Design) -> str:
    """What to be told where no random term has the samples as its levels; empty where one does."""
    n = len(np.unique(samples.codes[(design.codes >= 0) & (samples.codes >= 0)]))
    if n <= design.n_patterns:
        return ""
    finest = max(design.random_terms, key=lambda term: len(term.levels))
    return (
        f"{finest.label} is coarser than the samples: {n:,} of them are in {len(finest.levels):,} of its levels, and are "
        f"taken together there. Add (1 | {samples.term}), so that levels with more samples count for more."
    )


def _differing(samples: Samples, design: Design, obs: pd.DataFrame, used: IntArray) -> Iterator[str]:
    """Columns of the formula that take several values in some sample."""
    own = samples.codes[used]
    n = int(own.max(initial=-1)) + 1
    for name in design.parsed.columns:
        if name not in samples.columns and not constant(pd.factorize(obs[name])[0][used], own, n):
            yield name


def _or_term(samples: Samples, obs: pd.DataFrame, differ: Sequence[str]) -> str:
    """The random term that makes samples of the cells that agree in labels."""
    numbers = [name for name in differ if pd.api.types.is_numeric_dtype(obs[name])]
    return "" if numbers else f", or add (1 | {':'.join([samples.term, *map(quote, differ)])})"


def _is_of_patterns(design: Design, group: str) -> bool:
    """Whether the random terms of a grouping factor give every pattern an effect of its own."""
    terms = [term for term in design.random_terms if term.group == group]
    return len(terms[0].levels) == design.n_patterns and spans_constant(*terms)
