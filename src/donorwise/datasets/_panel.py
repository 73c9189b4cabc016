"""Donors of an eQTL study: their families, populations and genotypes, and what acts on their samples."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd

from donorwise._typing import IntArray
from donorwise.datasets._designs import Spread, StudyPlan, categories, intercept, paired
from donorwise.datasets._haplotypes import draw_haplotypes
from donorwise.datasets._relatives import People, draw_people, pass_on, pedigree, recombination
from donorwise.errors import DonorwiseError

MORGANS = 1.5
"""Genetic length of a chromosome, however many bases it has: sibs then share about as much as with whole genomes."""


def draw_panel(n_donors: int, family_size: int, populations: int, rng: np.random.Generator) -> People:
    """Donors with their `population`, which families, and people outside families, belong to by turns.

    Raises
    ------
    DonorwiseError
        Families are larger than the study, or there are too few to fill the populations.
    """
    if family_size > n_donors:
        raise DonorwiseError(
            f"n_donors={n_donors}: a family has {family_size} members with n_children={family_size - 2}."
        )
    n_families = n_donors // family_size if family_size else 0
    members = n_families * family_size
    if populations > n_families + n_donors - members:
        raise DonorwiseError(
            f"populations={populations}: there are {n_families + n_donors - members} families and donors outside families to "
            "fill them."
        )
    people = draw_people(n_families, max(family_size - 2, 0), n_donors - members, rng)
    at = np.arange(n_donors)
    unit = np.where(at < members, at // max(family_size, 1), at - members + n_families)
    names = [f"pop{p + 1}" for p in range(populations)]
    return people._replace(obs=people.obs.assign(population=pd.Categorical.from_codes(unit % populations, names)))


def draw_genotypes(
    people: People, variants: pd.DataFrame, *, copied: float, fst: float, rng: np.random.Generator
) -> ad.AnnData:
    """Donors x variants, none missing."""
    populations = people.obs["population"].cat.codes.to_numpy(dtype=np.int64)
    founder = people.father < 0
    sides = np.empty((len(founder), 2, len(variants)), dtype=np.int8)
    drawn = draw_haplotypes(np.repeat(populations[founder], 2), variants, copied=copied, fst=fst, rng=rng)
    sides[founder] = drawn.reshape(-1, 2, len(variants))
    pass_on(sides, people, recombination(variants, MORGANS / variants["pos"].max()), rng)
    copies = sides.sum(axis=1, dtype=np.float32)
    genotypes = ad.AnnData(X=copies, obs=people.obs, var=variants.assign(af=copies.mean(axis=0, dtype=float) / 2))
    genotypes.obsp["pedigree"] = pedigree(people)
    return genotypes


def plan_samples(people: People, condition: bool, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """One sample of every donor, or one in each condition."""
    donors = people.obs[["family", "population", "sex"]].reset_index(drop=True)
    donors = donors.assign(
        donor_id=categories(people.obs.index), family=categories(donors["family"]), age=_ages(people, rng)
    )
    if condition:
        return paired(donors, spread, rng)
    return StudyPlan(
        samples=donors.assign(sample_id=donors["donor_id"]),
        exposure=np.zeros(len(donors)),
        time=np.zeros(len(donors)),
        variations=(intercept("donor", donors["donor_id"], spread.donor),),
        formula="~ (1 | donor_id)",
        contrast="Intercept",
    )


def _ages(people: People, rng: np.random.Generator) -> IntArray:
    """Years; children are younger than their parents."""
    role = people.obs["role"].astype(str).to_numpy()
    low = np.select([role == "child", role == "unrelated"], [18, 25], 50)
    return rng.integers(low, np.where(role == "child", 35, 76))


def with_ancestry(plan: StudyPlan, people: People, polygenic_sd: float, population_sd: float) -> StudyPlan:
    """With what relatives, and members of a population, have in common."""
    donor = intercept("polygenic", plan.samples["donor_id"], polygenic_sd)
    if (people.father >= 0).any():
        donor = replace(donor, factor=np.asarray(np.linalg.cholesky(pedigree(people)), dtype=np.float64))
    variations = [*plan.variations, donor]
    if len(people.obs["population"].cat.categories) > 1:
        variations.append(intercept("population", plan.samples["population"], population_sd))
    return replace(plan, variations=tuple(variations))
