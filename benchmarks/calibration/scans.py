"""Scans over variants: genomic inflation, type I error and power, with relatives, populations, cells and interactions.

``python -m benchmarks.calibration.scans null|power|interaction|genes|cells [--donors 40,980] [--genes 100] [--seed 0]`` prints a
table in markdown: genomic lambda, and the shares of p-values below a level over the level. Donors are families of two parents and
three children, or of two populations; their relatedness is that of 20,000 or more variants that are not linked, on 20 chromosomes,
of which a thousand of the first are tested. `genes` takes linked variants of :func:`donorwise.datasets.simulate_eqtls`.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.calibration.metrics import LEVELS
from scipy import stats

import donorwise as dw

Array = np.ndarray[Any, Any]
Rng = np.random.Generator
CHROMOSOMES, CHILDREN = 20, 3
VARIANTS, EACH = (
    20_000,
    60,
)  # at least, and for each donor: with fewer, relatedness is too noisy to take all inflation out
TESTED = 1_000
H2, FST = 0.6, 0.1
KERNEL = "(1 | gr(donor_id, cov=grm))"
REFITS = ("none", "screen", "all")
MANY = 200  # donors beyond which not all pairs are refitted


@dataclass(frozen=True)
class Donors:
    """Genotypes of n donors, a root (n, n) of the covariance of their polygenic values, and their population (n,)."""

    genotypes: ad.AnnData
    root: Array
    population: Array

    @property
    def tested(self) -> ad.AnnData:
        """Some variants of the first chromosome."""
        return self.genotypes[:, : min(TESTED, int((self.genotypes.var["chrom"] == "1").sum()))]

    @property
    def names(self) -> Array:
        """Of the donors."""
        return self.genotypes.obs_names.to_numpy()

    def kernels(self, *, loco: bool = False) -> dict[str, Any]:
        """Relatedness, for formulas with `KERNEL`."""
        return {"kernels": {"grm": dw.pp.relatedness(self.genotypes, loco=loco, progress=False)}, "loco": loco}

    @property
    def pedigree(self) -> pd.DataFrame:
        """Expected relatedness."""
        return pd.DataFrame(self.root @ self.root.T, self.names, self.names)

    def models(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Formulas and what they need: least squares, with all variants in the kernel, and those of other chromosomes."""
        kernel = f"~ 1 + {KERNEL}"
        models: dict[str, tuple[str, dict[str, Any]]] = {
            "plain": ("~ 1", {}), "kernel": (kernel, self.kernels()), "loco": (kernel, self.kernels(loco=True))
        }  # fmt: skip
        if not self.population.any():
            models["pedigree"] = kernel, {"kernels": {"grm": self.pedigree}}
        return models

    def levels(self, rng: Rng, n_genes: int, sd: float = 1.0, h2: float = H2) -> Array:
        """Of genes, (n, genes): polygenic by h2, and the donors' own."""
        shape = len(self.root), n_genes
        return sd * (np.sqrt(h2) * self.root @ rng.normal(size=shape) + np.sqrt(1 - h2) * rng.normal(size=shape))


def frequencies(rng: Rng, n: int) -> Array:
    """Of the variants of n donors."""
    return rng.uniform(0.1, 0.9, max(VARIANTS, EACH * n))


def families(rng: Rng, n: int) -> Donors:
    """Families of two parents and their children; the last may lack some."""
    frequency, size = frequencies(rng, n), 2 + CHILDREN
    n_variants = frequency.size
    rows = []
    for _ in range(-(-n // size)):
        parents = rng.random((2, 2, n_variants)) < frequency  # parents, strands
        rows += [parent.sum(axis=0) for parent in parents]
        for strand in rng.integers(0, 2, (CHILDREN, 2, 1, n_variants)):
            rows.append(np.take_along_axis(parents, strand, axis=1).sum(axis=(0, 1)))
    family, parent = np.arange(n) // size, np.arange(n) % size < 2
    K = (
        0.5 * ((family[:, None] == family) & ~(parent[:, None] & parent))
        + 0.5 * np.eye(n) * ~parent
        + np.eye(n) * parent
    )
    return Donors(_genotypes(np.stack(rows[:n])), np.linalg.cholesky(K), np.zeros(n))


def populations(rng: Rng, n: int) -> Donors:
    """Two populations whose frequencies differ by `FST` (Balding and Nichols 1995, Genetica 96:3)."""
    frequency, spread = frequencies(rng, n), (1 - FST) / FST
    own = rng.beta(frequency * spread, (1 - frequency) * spread, (2, frequency.size))
    population = np.arange(n) % 2
    return Donors(_genotypes(rng.binomial(2, own[population])), np.eye(n), population - 0.5)


def strangers(rng: Rng, n: int) -> Donors:
    """Donors who are not related."""
    frequency = frequencies(rng, n)
    return Donors(_genotypes(rng.binomial(2, frequency, (n, frequency.size))), np.eye(n), np.zeros(n))


def _genotypes(values: Array) -> ad.AnnData:
    n, m = values.shape
    chrom = np.sort(np.arange(m) % CHROMOSOMES) + 1
    var = pd.DataFrame(
        {"chrom": chrom.astype(str), "pos": np.arange(m) + 1, "a0": "A", "a1": "G"}, [f"v{j}" for j in range(m)]
    )
    return ad.AnnData(values.astype(np.float32), obs=pd.DataFrame(index=[f"d{i:04d}" for i in range(n)]), var=var)


def genomic_lambda(p: Array) -> float:
    """Median of chi-squared over that of the null."""
    return float(stats.chi2.isf(np.nanmedian(p), 1) / stats.chi2.isf(0.5, 1))


def numbers(p: Array) -> list[str]:
    """Lambda, and shares below the levels over the levels."""
    p = p[np.isfinite(p)]
    return [f"{p.size:,}", f"{genomic_lambda(p):.3f}", *(f"{(p < level).mean() / level:.2f}" for level in LEVELS)]


NUMBERS = ["tests", "lambda", *(f"p < {level:g}" for level in LEVELS)]


def scan(Y: Array, obs: pd.DataFrame, genotypes: ad.AnnData, formula: str, **options: Any) -> tuple[Any, bool]:
    """The result, and whether hot p-values are warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = dw.scan_variants(Y, obs, genotypes, formula, donor="donor_id", **options)
    return found, any("(hot p-values)" in str(w.message) or "with these weights" in str(w.message) for w in caught)


def p_values(*asked: Any, **options: Any) -> Array:
    """Of all tests of a scan."""
    return np.asarray(scan(*asked, **options)[0].tests["p_value"])


STRUCTURES = {"families": families, "populations": populations}


def structured(rng: Rng, name: str, n: int, n_genes: int) -> tuple[Donors, Array]:
    """Donors, and null genes whose plain regression is inflated."""
    donors = STRUCTURES[name](rng, n)
    difference = (2.0 if n <= MANY else 0.5) * rng.normal(size=n_genes)
    return donors, donors.levels(rng, n_genes) + donors.population[:, None] * difference


def null_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Nulls with relatives and with populations, by model and refit."""
    yield ["donors", "structure", "model", "refit", *NUMBERS]
    for n, name in product(options.donors, STRUCTURES):
        rng = np.random.default_rng([options.seed, n])
        donors, Y = structured(rng, name, n, options.genes)
        obs = pd.DataFrame({"donor_id": donors.names})
        models = donors.models()
        for model, (formula, given) in models.items():
            for refit in REFITS[:1] if model == "plain" else REFITS if n <= MANY else REFITS[:2]:
                p = p_values(Y, obs, donors.tested, formula, refit=refit, **given)
                yield [f"{n}", name, model, refit, *numbers(p)]


def power_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Share of known effects found at 1e-4 where lambda is one: chi-squared divided by lambda of the null pairs."""
    yield ["donors", "structure", "model", "lambda", "found, p < 1e-4", "median chi-squared of effects"]
    for n, name in product(options.donors, STRUCTURES):
        rng = np.random.default_rng([options.seed, n])
        donors, Y = structured(rng, name, n, options.genes)
        tested = np.asarray(donors.tested.X)
        at = rng.choice(np.flatnonzero(tested.std(axis=0) > 0.5), options.genes)
        x = tested[:, at]
        explained = 18 / n  # of the variance of a gene
        Y = Y + np.sqrt(explained) * (x - x.mean(axis=0)) / x.std(axis=0) * Y.std(axis=0)
        obs, genes = pd.DataFrame({"donor_id": donors.names}), np.arange(options.genes)
        models = donors.models()
        for model, (formula, given) in models.items():
            found, _ = scan(Y, obs, donors.tested, formula, refit="none", maf=0, **given)
            tests = found.tests.astype({"gene": str, "variant": str})
            wide = tests.pivot(index="variant", columns="gene", values="p_value")
            p = wide.reindex(index=donors.tested.var_names, columns=[f"y{g + 1}" for g in genes]).to_numpy()
            effects = p[at, genes].copy()
            p[at, genes] = np.nan
            inflation = genomic_lambda(p)
            size = stats.chi2.isf(effects, 1) / inflation
            yield [
                f"{n}",
                name,
                model,
                f"{inflation:.3f}",
                f"{(size > stats.chi2.isf(1e-4, 1)).mean():.3f}",
                f"{np.median(size):.2f}",
            ]


def cells_of(rng: Rng, n: int, median: float, spread: float) -> Array:
    """The donor of every cell."""
    return np.repeat(np.arange(n), np.maximum(4, np.round(median * np.exp(spread * rng.normal(size=n)))).astype(int))


def interaction_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Null interactions with a condition of cells, a state of cells, and an arm of donors."""
    yield ["donors", "structure", "x", "random part", "warned", "df", *NUMBERS]
    slopes, of_kernel = "(0 + x | donor_id)", "(0 + x | gr(donor_id, cov=grm))"
    random = {
        "strangers": ("(1 | donor_id)", f"(1 | donor_id) + {slopes}", "(x | donor_id)"),
        "families": (KERNEL, f"{KERNEL} + {slopes}", f"{KERNEL} + {of_kernel}"),
    }
    of_arms = {"strangers": ("(1 | donor_id)",), "families": (KERNEL, f"{KERNEL} + (1 | donor_id)")}
    for n, (name, make) in product(options.donors, {"strangers": strangers, "families": families}.items()):
        rng = np.random.default_rng([options.seed, n])
        donors, G = make(rng, n), options.genes
        given = donors.kernels() if name == "families" else {}
        d = cells_of(rng, n, 30, 0.5)
        of_cells = {
            "condition of cells": (rng.random(d.size) < 0.5).astype(float),
            "state of cells": rng.normal(size=d.size) + 0.5 * rng.normal(size=n)[d],
            "arm of donors": (d % 2).astype(float),
        }
        for x_name, x in of_cells.items():
            between = x_name == "arm of donors"
            slope = 0.0 if between else donors.levels(rng, G, 0.4)[d]
            Y = donors.levels(rng, G, 0.4)[d] + (0.3 + slope) * x[:, None] + rng.normal(size=(d.size, G))
            obs = pd.DataFrame({"donor_id": donors.names[d], "x": x})
            for part in of_arms[name] if between else random[name]:
                found, warned = scan(
                    Y, obs, donors.tested[:, :300], f"~ x + {part}", interaction="x", refit="none", **given
                )
                df = found.tests["df"].iloc[0]
                yield [
                    f"{n}",
                    name,
                    x_name,
                    f"`{part}`",
                    "yes" if warned else "no",
                    f"{df:.0f}",
                    *numbers(np.asarray(found.tests["p_value"])),
                ]


def genes_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """P-values of genes over linked variants: uniform under the null; false discoveries with a tenth of the genes true."""
    yield [
        "donors",
        "people",
        "refit",
        "gene test",
        "genes",
        "KS",
        "p < 0.05",
        "p < 0.01",
        "p < 0.001",
        "found",
        "false of these",
        "power",
    ]
    people = {
        "strangers": ("unrelated", "~ 1", ("acat", "permutations")),
        "families": ("nuclear", f"~ 1 + {KERNEL}", ("acat", "permutations")),
    }
    for n, (name, (kind, formula, tests)) in product(options.donors, people.items()):
        donors, genotypes = dw.datasets.simulate_eqtls(
            n_donors=n, n_cells=None, n_genes=options.genes, n_variants=5_000, n_chromosomes=2, eqtl_fraction=0.1,
            effect_size=0.3, families=kind, seed=options.seed + n,
        )  # fmt: skip
        rng = np.random.default_rng([options.seed, n])
        given = (
            {}
            if name == "strangers"
            else {
                "kernels": {"grm": pd.DataFrame(genotypes.obsp["pedigree"], genotypes.obs_names, genotypes.obs_names)}
            }
        )
        true = (donors.var["eqtl"] != "none").to_numpy()
        null = donors.copy()
        root = np.linalg.cholesky(np.asarray(genotypes.obsp["pedigree"]))
        null.X = 0.6 * root @ rng.normal(size=donors.shape) + 0.8 * rng.normal(size=donors.shape)
        for refit, test in product(REFITS[:2], tests):
            asked: dict[str, Any] = {
                "refit": refit,
                "gene_test": test,
                "n_permutations": 500,
                "progress": False,
                "p_max": 1e-6,
                **given,
            }
            leads = []
            for data in (null, donors):
                dw.tl.scan(data, genotypes, formula, donor="donor_id", key_added=f"{refit} {test}", **asked)
                leads.append(data.uns[f"{refit} {test}"]["results"])
            p = leads[0]["p_gene"].dropna().to_numpy()
            hit = (leads[1]["q_value"] <= 0.05).to_numpy()
            shares = [f"{(p < level).mean() / level:.2f}" for level in LEVELS[:3]]
            yield [f"{n}", name, refit, test, f"{p.size}", f"{stats.kstest(p, 'uniform').pvalue:.3f}", *shares, f"{hit.sum()}",
                   f"{(hit & ~true).sum() / max(1, hit.sum()):.3f}", f"{hit[true].mean():.3f}"]  # fmt: skip


def cells_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Donors with very unequal numbers of cells: cells, their means, and means with numbers of cells as weights."""
    yield ["donors", "sd of donors", "data", "random part", "refit", "warned", "correlation with cells", *NUMBERS]
    for n, sd in product(options.donors, (0.0, 0.1, 0.3)):
        rng = np.random.default_rng([options.seed, n])
        donors, G = strangers(rng, n), options.genes
        d = cells_of(rng, n, 40, 1.0)
        Y = donors.levels(rng, G, sd)[d] + rng.normal(size=(d.size, G))
        own = np.bincount(d).astype(float)
        mean = np.stack([np.bincount(d, y) for y in Y.T], axis=1) / own[:, None]
        cells, rows = (
            pd.DataFrame({"donor_id": donors.names[d]}),
            pd.DataFrame({"donor_id": donors.names, "cells": own}),
        )
        ways = (("cells", "(1 | donor_id)", Y, cells, {}), ("means", "", mean, rows, {}), ("weighted means", "", mean, rows, {"weights": "cells"}),
                ("weighted means", "(1 | donor_id)", mean, rows, {"weights": "cells"}))  # fmt: skip
        first = np.zeros(0)
        for data, part, values, obs, given in ways:
            for refit in REFITS if n <= MANY else REFITS[:2]:
                found, warned = scan(
                    values, obs, donors.tested, f"~ 1 + {part}".removesuffix(" + "), refit=refit, **given
                )
                t = np.asarray(found.tests["statistic"])
                first = t if not first.size else first
                alike = np.corrcoef(first, t)[0, 1]
                yield [
                    f"{n}",
                    f"{sd}",
                    data,
                    f"`{part}`",
                    refit,
                    "yes" if warned else "no",
                    f"{alike:.4f}",
                    *numbers(np.asarray(found.tests["p_value"])),
                ]


TABLES = {
    "null": null_rows,
    "power": power_rows,
    "interaction": interaction_rows,
    "genes": genes_rows,
    "cells": cells_rows,
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.calibration.scans", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--donors", type=lambda text: [int(n) for n in text.split(",")], default=[40, 980])
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("donorwise").setLevel(logging.ERROR)
    for number, row in enumerate(TABLES[options.table](options)):
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |", flush=True)
        if number == 0:
            print("|---" * len(row) + "|")


if __name__ == "__main__":
    main()
