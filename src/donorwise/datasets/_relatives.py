"""Genotypes of families and of people who are not related, with known pedigree."""

from __future__ import annotations

from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.datasets._checks import check_chromosomes
from donorwise.errors import DonorwiseError

MEGABASES = 150
"""Length of a chromosome; a million bases are a hundredth of a Morgan."""


def simulate_relatives(
    n_families: int = 20,
    *,
    n_children: int = 2,
    n_unrelated: int = 20,
    n_variants: int = 5_000,
    n_chromosomes: int = 22,
    ld: float = 0.5,
    missing: float = 0.0,
    seed: int = 0,
) -> ad.AnnData:
    """Simulate genotypes of families (two parents and their children) and of people who are not related.

    Founders, who are not related, carry variants with frequencies between .05 and .5; neighbouring variants of a chromosome go
    together. Children have one half of each parent's genotype, passed on in stretches with crossovers as Haldane (1919, J Genet
    8:299) describes, so that brothers and sisters share one half on average, give or take some hundredths.

    Parameters
    ----------
    n_families, n_children
        Number of families, and of children in each.
    n_unrelated
        Number of people outside families.
    n_variants, n_chromosomes
        Number of variants, and of the chromosomes (of 150 million bases) they are spread over evenly.
    ld
        Correlation of neighbouring variants of a founder, before the values are cut into alleles; from 0 to below 1.
    missing
        Share of genotypes that are missing at random.
    seed
        Seed of :func:`numpy.random.default_rng`; equal arguments give equal data.

    Returns
    -------
    Donors x variants, with

    - ``X``: copies of the allele `a1`: 0, 1 or 2 (float32), NaN where missing.
    - ``obs``: `family` ("" outside families), `role` (father, mother, child, unrelated), `father` and `mother` (names; "" of
      founders), `sex`.
    - ``var``: `chrom`, `pos` (base pairs), `a0`, `a1`, `frequency` (of `a1` among founders' ancestors).
    - ``obsp["pedigree"]``: relatedness expected from the pedigree: 1 for oneself, .5 for parent and child, and for sibs.

    Raises
    ------
    DonorwiseError
        An argument is out of range.

    Examples
    --------
    >>> import donorwise as dw
    >>> donors = dw.datasets.simulate_relatives(n_families=3, n_children=2, n_unrelated=4, n_variants=1000)
    >>> donors.shape
    (16, 1000)
    >>> donors.obs.loc["F1_child2", ["father", "mother"]].tolist()
    ['F1_father', 'F1_mother']
    >>> expected = donors.obsp["pedigree"]  # a kernel for formulas, as dw.pp.relatedness(donors) is
    >>> float(expected[donors.obs_names.get_loc("F1_child1"), donors.obs_names.get_loc("F1_child2")])
    0.5
    """
    _check(n_families, n_children, n_unrelated, n_variants, n_chromosomes, ld, missing)
    rng = np.random.default_rng(seed)
    people = draw_people(n_families, n_children, n_unrelated, rng)
    variants = draw_variants(n_variants, n_chromosomes, MEGABASES * 1_000_000, rng).assign(
        frequency=rng.uniform(0.05, 0.5, n_variants)
    )
    genotypes = _genotypes(people, variants, ld, rng).astype(np.float32)
    genotypes[rng.random(genotypes.shape) < missing] = np.nan
    adata = ad.AnnData(X=genotypes, obs=people.obs, var=variants)
    adata.obsp["pedigree"] = pedigree(people)
    return adata


def _check(
    n_families: int, n_children: int, n_unrelated: int, n_variants: int, n_chromosomes: int, ld: float, missing: float
) -> None:
    counts = {"n_families": n_families, "n_children": n_children, "n_unrelated": n_unrelated}
    for name, value in counts.items():
        if value < 0:
            raise DonorwiseError(f"{name}={value!r}: must not be negative.")
    if n_families + n_unrelated < 1:
        raise DonorwiseError("n_families=0 and n_unrelated=0: that is nobody.")
    check_chromosomes(n_chromosomes, n_variants)
    for name, share in {"ld": ld, "missing": missing}.items():
        if not 0 <= share < 1:
            raise DonorwiseError(f"{name}={share!r}: must be from 0 to below 1.")


class People(NamedTuple):
    """Rows of obs, and of each their father's and mother's row, (n,), -1 for founders; parents come before children."""

    obs: pd.DataFrame
    father: IntArray
    mother: IntArray


def draw_people(n_families: int, n_children: int, n_unrelated: int, rng: np.random.Generator) -> People:
    """Families of two parents and their children, and after them people outside families."""
    roles = ["father", "mother", *(f"child{i + 1}" for i in range(n_children))]
    names = [f"F{f + 1}_{role}" for f in range(n_families) for role in roles] + [
        f"U{i + 1}" for i in range(n_unrelated)
    ]
    n_members = n_families * len(roles)
    at = np.arange(len(names))
    first = at - at % len(roles)  # the father of a family is its first row
    child = (at < n_members) & (at - first >= 2)
    father, mother = np.where(child, first, -1), np.where(child, first + 1, -1)
    role = np.array(["father", "mother", *["child"] * n_children] * n_families + ["unrelated"] * n_unrelated)
    sex = np.where(rng.random(len(names)) < 0.5, "female", "male")
    sex[role == "father"], sex[role == "mother"] = "male", "female"
    named = np.array([*names, ""], dtype=object)  # the row -1 is nobody
    obs = pd.DataFrame(
        {
            "family": np.where(at < n_members, [name.split("_")[0] for name in names], ""),
            "role": pd.Categorical(role),
            "father": named[father],
            "mother": named[mother],
            "sex": pd.Categorical(sex, categories=["female", "male"]),
        },
        index=pd.Index(names),
    )
    return People(obs, father, mother)


def draw_variants(n_variants: int, n_chromosomes: int, length: int, rng: np.random.Generator) -> pd.DataFrame:
    """Variants spread over chromosomes of `length` bases: `chrom`, `pos`, `a0`, `a1`."""
    chrom = np.sort(np.arange(n_variants) % n_chromosomes)
    pos = rng.integers(1, length, n_variants)
    alleles = np.array([rng.permutation(list("ACGT"))[:2] for _ in range(n_variants)])
    names = [str(c + 1) for c in range(n_chromosomes)]
    return pd.DataFrame(
        {
            "chrom": pd.Categorical.from_codes(chrom, names),
            "pos": pos[np.lexsort((pos, chrom))],
            "a0": alleles[:, 0],
            "a1": alleles[:, 1],
        },
        index=pd.Index([f"rs{i + 1}" for i in range(n_variants)]),
    )


def _genotypes(people: People, variants: pd.DataFrame, ld: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Copies of `a1`, (people, variants)."""
    frequency = variants["frequency"].to_numpy()
    correlation = np.where(begins(variants), 0.0, ld)
    sides = _founders(2 * len(people.father), frequency, correlation, rng).reshape(len(people.father), 2, -1)
    pass_on(sides, people, recombination(variants, 1e-8), rng)
    return sides.sum(axis=1, dtype=np.int8)


def begins(variants: pd.DataFrame) -> BoolArray:
    """Whether a variant is the first of its chromosome, (variants,)."""
    return np.diff(variants["chrom"].cat.codes, prepend=-1) != 0


def recombination(variants: pd.DataFrame, morgans: float) -> FloatArray:
    """Probability that a parent's sides change between a variant and the one before; `morgans` is the length of a base."""
    distance = np.diff(variants["pos"].to_numpy(), prepend=0) * morgans
    return 0.5 * (1 - np.exp(-2 * np.where(begins(variants), np.inf, distance)))


def pass_on(sides: NDArray[np.int8], people: People, recombined: FloatArray, rng: np.random.Generator) -> None:
    """Give children what they have of their parents: alleles on the father's and on the mother's side, (people, 2, variants)."""
    for child in np.flatnonzero(people.father >= 0):
        for side, parent in enumerate((people.father[child], people.mother[child])):
            sides[child, side] = _passed_on(sides[parent], recombined, rng)


def _founders(n: int, frequency: FloatArray, correlation: FloatArray, rng: np.random.Generator) -> NDArray[np.int8]:
    """Alleles of n chromosomes, (n, variants): a normal value that goes together with the one before, cut at the frequency."""
    values = rng.standard_normal((len(frequency), n))
    for j in range(1, len(frequency)):
        values[j] = correlation[j] * values[j - 1] + np.sqrt(1 - correlation[j] ** 2) * values[j]
    return (values < ndtri(frequency)[:, None]).T.astype(np.int8)


def _passed_on(sides: NDArray[np.int8], recombined: FloatArray, rng: np.random.Generator) -> NDArray[np.int8]:
    """What a parent's two sides (2, variants) give a child, who changes between them where they have recombined."""
    side = np.cumsum(rng.random(len(recombined)) < recombined) % 2
    return np.where(side == 0, sides[0], sides[1])


def pedigree(people: People) -> FloatArray:
    """Expected relatedness, (n, n), by the tabular method: half the sum of the parents'."""
    n = len(people.father)
    expected = np.eye(n)
    for child in np.flatnonzero(people.father >= 0):
        parents = 0.5 * (expected[people.father[child], :child] + expected[people.mother[child], :child])
        expected[child, :child] = expected[:child, child] = parents
    return expected
