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
from donorwise._core.design.terms import check_obs
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from donorwise._core.design.design import Design, RandomTerm
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
            "are of all cells of a sample: leave it out, or take its mean for every sample; if such cells are samples of "
            "their own, name the column that tells these apart with sample=."
        )
    if not design.random_terms:
        raise DesignError(
            f"{design.formula!r} has no random term, so every cell would count as a replicate; add one for the samples, "
            f"(1 | {samples.term})."
        )
    if not any(_tells_patterns_apart(own) for own in _by_group(design)):
        terms = ", ".join(term.label for term in design.random_terms)
        raise DesignError(
            f"Cells of one sample ({where}) would count as replicates of what varies within the levels of {terms}: add a "
            f"random term for the samples, (1 | {samples.term})."
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


def _by_group(design: Design) -> list[list[RandomTerm]]:
    """Random terms that share their levels."""
    groups = dict.fromkeys(term.group for term in design.random_terms)
    return [[term for term in design.random_terms if term.group == group] for group in groups]


def _tells_patterns_apart(terms: Sequence[RandomTerm]) -> bool:
    """Whether the effects of each level can give each of its patterns a value of its own."""
    codes, Z = terms[0].codes, np.hstack([term.Z for term in terms])
    patterns = np.bincount(codes)
    if patterns.max(initial=0) > Z.shape[1]:
        return False
    return all(np.linalg.matrix_rank(Z[codes == level]) == n for level, n in enumerate(patterns) if n)
