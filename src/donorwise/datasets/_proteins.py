"""Proteins and their peptides: how many, how abundant, how far apart donors and measurements are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import softmax

from donorwise._typing import FloatArray, IntArray

MOST = 20
"""Peptides of a protein."""

MEAN_LEVEL, LEVEL_SD = 20.0, 2.0
"""Log2 intensity of proteins: with peptides, a dynamic range of some five orders of magnitude."""

SD_SPREAD = 0.3
"""Standard deviation between proteins of the natural log of a standard deviation."""

_RESIDUES = np.frombuffer(b"ADEFGHILMNPQSTVWY", dtype="S1")
_SHORTEST, _LONGEST = 6, 17  # without the K or R at the end


class Spreads(NamedTuple):
    """Standard deviations, log2: of donors, runs and measurements for the average protein; of the peptides of a protein."""

    donor: float
    run: float
    noise: float
    peptide: float


def draw_proteins(
    n_proteins: int,
    spreads: Spreads,
    effects: tuple[float, float],
    species: Mapping[str, float] | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A row per protein: names, true effect, level and standard deviations.

    `effects` are the fraction that differs and the mean absolute effect; of `species` every protein has the effect of its own.
    """
    number = np.arange(1, n_proteins + 1)
    table = pd.DataFrame({"protein": [f"P{i:05d}" for i in number], "gene": [f"GENE{i}" for i in number]})
    effect = _effects(n_proteins, *effects, rng)
    if species is not None:
        names, of = list(species), _species(n_proteins, len(species))
        table["species"] = pd.Categorical.from_codes(of, names)
        effect = np.array([float(species[name]) for name in names])[of]
    table["is_de"], table["true_log_fc"] = effect != 0, effect
    table["level"] = MEAN_LEVEL + LEVEL_SD * rng.standard_normal(n_proteins)
    for name in ("donor", "run", "noise"):
        spread = np.exp(SD_SPREAD * rng.standard_normal(n_proteins) - SD_SPREAD**2 / 2)
        table[f"{name}_sd"] = getattr(spreads, name) * spread
    return table


def _effects(n_proteins: int, fraction: float, size: float, rng: np.random.Generator) -> FloatArray:
    """Effects of so many proteins, up or down, between 0.5 and 1.5 times the size."""
    effect = size * rng.uniform(0.5, 1.5, n_proteins) * rng.choice([-1.0, 1.0], n_proteins)
    differs = rng.permutation(n_proteins) < round(fraction * n_proteins)
    return np.asarray(np.where(differs, effect, 0.0))


def _species(n_proteins: int, n_species: int) -> IntArray:
    """Half of the proteins are the first species', or all if it is the only one; the others share the rest."""
    first = n_proteins if n_species == 1 else -(-n_proteins // 2)
    rest = np.arange(n_proteins - first) * max(1, n_species - 1) // max(1, n_proteins - first)
    return np.concatenate([np.zeros(first, dtype=np.int64), 1 + rest])


def draw_peptides(proteins: pd.DataFrame, n_peptides: float, sd: float, rng: np.random.Generator) -> pd.DataFrame:
    """A row per peptide, named as a precursor: what its protein has, and as `level` its own log2 intensity."""
    n = rng.choice(np.arange(1, MOST + 1), len(proteins), p=numbers_of_peptides(n_peptides))
    table = proteins.loc[np.repeat(proteins.index, n)]
    table["level"] += sd * rng.standard_normal(len(table))
    return table.set_index(pd.Index(_precursors(len(table), rng)))


def numbers_of_peptides(mean: float) -> FloatArray:
    """Probabilities of 1 to 20 peptides, (20,): a geometric distribution, cut, with this mean."""
    number = np.arange(MOST)

    def probabilities(log_ratio: float) -> FloatArray:
        return np.asarray(softmax(number * log_ratio))

    return probabilities(brentq(lambda x: 1 + probabilities(x) @ number - mean, -40.0, 40.0))


def _precursors(n: int, rng: np.random.Generator) -> list[str]:
    """Names of n precursors, all different: a tryptic sequence and its charge."""
    names: dict[str, None] = {}
    while len(names) < n:
        letters = rng.choice(_RESIDUES, (n, _LONGEST)).view(f"S{_LONGEST}").ravel().astype(str)
        lengths, ends = rng.integers(_SHORTEST, _LONGEST + 1, n), rng.choice(["K2", "R2", "K3", "R3"], n)
        names |= dict.fromkeys(word[:k] + end for word, k, end in zip(letters, lengths, ends, strict=True))
    return list(names)[:n]
