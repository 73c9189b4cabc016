"""What deserves a second look about relatedness that was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.wording import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.kinship.relatedness import Relations
    from donorwise._typing import FloatArray

FEW_VARIANTS = 500
ENOUGH_TO_TELL = 100
"""Variants by which donors can be judged one by one."""
MOSTLY_THERE = 0.1
"""Share of its genotypes that a donor may miss without a word."""
SAME_PERSON = 0.95
"""Correlation of genotypes above which two donors are one person, or twins; of brothers and sisters it is about a half."""


def remarks(found: Relations, kernel: FloatArray) -> Iterator[str]:
    """Warnings about the relatedness (n, n) of all variants together."""
    donors, n = found.genotypes.donors, found.n_variants
    if len(donors) > found.genotypes.n_variants:
        yield (
            f"{found.genotypes.text} has {len(donors):,} rows and {found.genotypes.n_variants:,} columns: rows are taken for donors "
            "and columns for variants. If it is the other way round, give its transpose."
        )
    if n < FEW_VARIANTS:
        yield (
            f"Relatedness from {n:,} variants is rough: between donors who are not related it comes out as 0 give or take "
            f"{1 / np.sqrt(n):.2f}. Use thousands of variants from all chromosomes."
        )
    if found.largest <= 1 + 1e-6:
        yield (
            f"{found.genotypes.text} has no genotype above 1, where two copies of an allele are 2: if they were halved, or say only "
            "who carries it, relatedness is not on its scale."
        )
    if n >= ENOUGH_TO_TELL:
        yield from _few_genotypes(donors, found.missing / n)
        yield from _same_people(donors, kernel)


def _few_genotypes(donors: tuple[str, ...], missing: FloatArray) -> Iterator[str]:
    few = np.flatnonzero(missing > MOSTLY_THERE)
    if few.size:
        yield (
            f"{few.size:,} {'donor misses' if few.size == 1 else 'donors miss'} more than {MOSTLY_THERE:.0%} of the genotypes: "
            f"{listing([donors[i] for i in few], 5)}. Missing genotypes count as the mean, which makes them look less related."
        )


def _same_people(donors: tuple[str, ...], kernel: FloatArray) -> Iterator[str]:
    sd = np.sqrt(np.diag(kernel))
    first, second = np.nonzero(np.triu(kernel > SAME_PERSON * np.outer(sd, sd), 1))
    if first.size:
        pairs = listing([f"{donors[i]} = {donors[j]}" for i, j in zip(first[:5], second[:5], strict=True)])
        yield (
            f"{first.size:,} {'pair of donors has' if first.size == 1 else 'pairs of donors have'} the same genotypes: {pairs}"
            f"{', ...' if first.size > 5 else ''}. Unless they are twins, one person is there under two names: keep one of them, or give "
            "both one name."
        )
