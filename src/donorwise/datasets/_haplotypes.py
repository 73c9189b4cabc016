"""Haplotypes of founders: mosaics of ancestors, so that variants near each other go together."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from donorwise._typing import FloatArray, IntArray
from donorwise.datasets._relatives import begins

N_ANCESTORS = 40
"""Haplotypes that founders copy from; the rarest allele has a frequency of 2 in so many."""

HOTSPOT = 4
"""Mean distance between hotspots of recombination, in mean lengths of what is copied from one ancestor."""


def draw_haplotypes(
    populations: IntArray, variants: pd.DataFrame, *, copied: float, fst: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    r"""Alleles of founders' chromosomes, (n, variants).

    Between hotspots of recombination the ancestors have one genealogy, whose clades carry the variants. A founder copies an
    ancestor and changes to another with a probability of :math:`1 - e^{-d/\ell}` over d bases (Li and Stephens 2003, Genetics
    165:2213, eq. A1), and always at a hotspot.

    Ancestors are copied alike in a single population. In each of several they have Dirichlet weights with a sum of parameters
    :math:`c = (1 - F)/F`, so that a variant of frequency p has a frequency of Beta(cp, c(1 - p)) there, with Fst = F (Balding
    and Nichols 1995, Genetica 96:3).

    Parameters
    ----------
    populations
        Shape (n,). Population of each haplotype.
    variants
        `chrom` and `pos`.
    copied
        Mean length of what is copied from one ancestor, :math:`\ell`, in bases.
    fst
        F, of several populations.
    rng
        Source of randomness.
    """
    first = begins(variants)
    distance = np.where(first, np.inf, np.diff(variants["pos"].to_numpy(), prepend=0))
    changes = 1 - np.exp(-distance / copied)
    hotspot = rng.random(len(distance)) < 1 - np.exp(-distance / (HOTSPOT * copied))
    changes[hotspot] = 1.0
    alleles = np.empty((len(populations), len(distance)), dtype=np.int8)
    borders = np.append(np.flatnonzero(hotspot), len(distance))
    for start, stop in zip(borders[:-1], borders[1:], strict=True):
        carried = _carriers(stop - start, rng)
        copy = _mosaic(populations, _weights(populations, fst, rng), changes[start:stop], rng)
        alleles[:, start:stop] = carried[copy, np.arange(stop - start)]
    return alleles


def _carriers(n_variants: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Which ancestors carry each variant, (ancestors, variants): clades of one genealogy, as likely as their branch is long."""
    clades, lengths = _genealogy(rng)
    size = clades.sum(axis=1)
    chance = np.where((size > 1) & (size < N_ANCESTORS - 1), lengths, 0.0)
    return clades[rng.choice(len(clades), n_variants, p=chance / chance.sum())].T.astype(np.int8)


def _genealogy(rng: np.random.Generator) -> tuple[NDArray[np.bool_], FloatArray]:
    """Kingman's coalescent of the ancestors: members of each clade, (clades, ancestors), and the lengths of their branches."""
    members = list(np.eye(N_ANCESTORS, dtype=bool))
    born = [0.0] * N_ANCESTORS
    clades, lengths, now = [], [], 0.0
    pairs = rng.random((N_ANCESTORS + 1, 2))
    waits = rng.exponential(size=N_ANCESTORS + 1)
    for k in range(N_ANCESTORS, 1, -1):
        now += waits[k] * 2 / (k * (k - 1))
        joined = [members.pop(int(pairs[k, 0] * k)), members.pop(int(pairs[k, 1] * (k - 1)))]
        since = [born.pop(int(pairs[k, 0] * k)), born.pop(int(pairs[k, 1] * (k - 1)))]
        clades += joined
        lengths += [now - start for start in since]
        members.append(joined[0] | joined[1])
        born.append(now)
    return np.array(clades), np.array(lengths)


def _weights(populations: IntArray, fst: float, rng: np.random.Generator) -> FloatArray:
    """How often each ancestor is copied in each population, (populations, ancestors)."""
    n_populations = int(populations.max()) + 1
    if n_populations == 1 or fst == 0:
        return np.full((n_populations, N_ANCESTORS), 1 / N_ANCESTORS)
    return rng.dirichlet(np.full(N_ANCESTORS, (1 - fst) / fst / N_ANCESTORS), n_populations)


def _mosaic(populations: IntArray, weights: FloatArray, changes: FloatArray, rng: np.random.Generator) -> IntArray:
    """The ancestor that each haplotype copies at each variant, (n, variants); `changes` begins with 1."""
    changed = rng.random((len(populations), len(changes))) < changes
    chosen = np.zeros(changed.shape, dtype=np.int64)
    for population, share in enumerate(weights):
        own = changed & (populations == population)[:, None]
        chosen[own] = np.searchsorted(share.cumsum()[:-1], rng.random(np.count_nonzero(own)), side="right")
    since = np.maximum.accumulate(np.where(changed, np.arange(len(changes)), 0), axis=1)
    return np.take_along_axis(chosen, since, axis=1)
