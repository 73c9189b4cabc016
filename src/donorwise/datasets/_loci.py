"""Where genes are, and which variant near them moves their expression in which cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from donorwise._typing import FloatArray, IntArray

WINDOW = 1_000_000
"""Bases from the start of transcription within which an eQTL lies."""

NEAR = 100_000
"""Its distance has an exponential law with about this mean, in bases."""

COMMON = 0.1
"""Least frequency of the rarer allele of an eQTL."""

CONDITIONS = ("control", "stimulated")


def place_genes(n_genes: int, n_chromosomes: int, length: int, rng: np.random.Generator) -> pd.DataFrame:
    """Genes spread over chromosomes of `length` bases: `chrom`, `start`, `end`, `strand`, `tss`, in order."""
    chrom = np.sort(np.arange(n_genes) % n_chromosomes)
    extent = np.minimum(1_000 + 20_000 * np.exp(rng.standard_normal(n_genes)), length / 4).astype(np.int64)
    start = 1 + (rng.random(n_genes) * (length - extent)).astype(np.int64)
    order = np.lexsort((start, chrom))
    start, end = start[order], (start + extent)[order]
    forward = rng.random(n_genes) < 0.5
    return pd.DataFrame(
        {
            "chrom": pd.Categorical.from_codes(chrom, [str(c + 1) for c in range(n_chromosomes)]),
            "start": start,
            "end": end,
            "strand": pd.Categorical(np.where(forward, "+", "-"), categories=["+", "-"]),
            "tss": np.where(forward, start, end),
        }
    )


@dataclass(frozen=True, slots=True)
class Loci:
    """eQTLs of G genes in T cell types.

    Attributes
    ----------
    variant
        Shape (G,). The variant that moves the gene, -1 for none.
    size
        Shape (G,). Effect of a copy of `a1` on the natural log of the expected count, where there is one.
    active_in
        Shape (G,). ``"none"``, ``"all"``, a cell type or a condition.
    effect, interaction
        Shape (T, G). Effect in the first condition, and what the other adds to it.
    """

    variant: IntArray
    size: FloatArray
    active_in: pd.Categorical
    effect: FloatArray
    interaction: FloatArray

    def shift(self, copies: FloatArray, exposure: float) -> FloatArray:
        """What `copies` (G,) of `a1` add to log means, (T, G)."""
        return copies * (self.effect + exposure * self.interaction)


def draw_loci(
    genes: pd.DataFrame,
    variants: pd.DataFrame,
    types: list[str],
    *,
    has_condition: bool,
    fraction: float,
    effect_size: float,
    specific: float,
    rng: np.random.Generator,
) -> Loci:
    """Draw the eQTLs of a `fraction` of the genes, a share `specific` of which is active in one cell type or condition."""
    n_genes = len(genes)
    variant = _choose_variants(genes, variants, round(fraction * n_genes), rng)
    size = effect_size * rng.uniform(0.5, 1.5, n_genes) * rng.choice([-1.0, 1.0], n_genes)
    places = _places(variant, types, has_condition, specific, rng)
    in_type = np.array([np.isin(places, ["all", *CONDITIONS, name]) for name in types])
    levels = list(dict.fromkeys([*types, *(CONDITIONS if has_condition else ()), "all", "none"]))
    return Loci(
        variant=variant,
        size=np.where(variant >= 0, size, 0.0),
        active_in=pd.Categorical(places, categories=levels),
        effect=np.where(in_type & (places != "stimulated"), size, 0.0),
        interaction=np.where(
            in_type, np.select([places == "stimulated", places == "control"], [size, -size], 0.0), 0.0
        ),
    )


def _choose_variants(genes: pd.DataFrame, variants: pd.DataFrame, n: int, rng: np.random.Generator) -> IntArray:
    """A common variant near each of n genes, fewer where there are not so many; -1 for the other genes."""
    rarer = np.minimum(variants["af"], 1 - variants["af"]).to_numpy()
    chrom, pos = (variants["chrom"].cat.codes.to_numpy(), variants["pos"].to_numpy())
    chosen = np.full(len(genes), -1, dtype=np.int64)
    left = n
    for g in rng.permutation(len(genes)):
        low, high = np.searchsorted(chrom, genes["chrom"].cat.codes.iat[g] + np.arange(2))
        distance = np.abs(pos[low:high] - genes["tss"].iat[g])
        chance = np.where((distance <= WINDOW) & (rarer[low:high] >= COMMON), np.exp(-distance / NEAR), 0.0)
        if left and chance.any():
            chosen[g] = low + rng.choice(high - low, p=chance / chance.sum())
            left -= 1
    return chosen


def _places(
    variant: IntArray, types: list[str], has_condition: bool, specific: float, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Where each eQTL is active; by turns one cell type and one condition where there are several of both."""
    kinds = [list(kind) for kind, there in ((types, len(types) > 1), (CONDITIONS, has_condition)) if there]
    places = np.where(variant >= 0, "all", "none").astype(object)
    genes = rng.permutation(np.flatnonzero(variant >= 0))
    for i, g in enumerate(genes[: round(specific * len(genes)) if kinds else 0]):
        places[g] = rng.choice(kinds[i % len(kinds)])
    return places
