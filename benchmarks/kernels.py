"""Kernels of donors: type I error of fixed effects, coverage of heritabilities, and the shares of two kernels that are alike.

``python -m benchmarks.kernels type-one|alike|coverage [--studies 4] [--features 1000] [--donors 40,100,400] [--seed 0]`` prints a
table in markdown. Donors are families (two parents, two or three children), pairs of sibs and singles, or strangers;
relatedness is that of their genotypes, which are dropped through the pedigree. A donor's cells are never made: donors
have a number of cells, a mean and a sum of squares for each feature.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._core.cells.measures import Collapsed
from donorwise._core.design.binding import bind
from donorwise._core.design.build import build_design
from donorwise._core.design.formula import parse
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Pass, Statistics, test_features

Array = np.ndarray[Any, Any]
LEVELS = (0.05, 0.01, 0.001)
FAMILIES = ((2, 2), (2, 3), (2, 0), (0, 2), (0, 1), (0, 1))  # parents and children that took part, in turn
VARIANTS = 2_000
VARIANCE, CELLS = 0.1, 60  # median variance of donors relative to cells, and median cells of a donor
DDF = ("moderated", "kenward-roger", "satterthwaite")


@dataclass(frozen=True)
class Donors:
    """D donors: their `family` and generation (`old`), relatedness by `descent` and standardised `genotypes`, (D, variants)."""

    family: Array
    old: Array
    descent: pd.DataFrame
    genotypes: Array

    @property
    def relatedness(self) -> pd.DataFrame:
        """The genotypes' cross-products: as they are centred, so is this."""
        return named(self.genotypes @ self.genotypes.T)


def named(K: Array) -> pd.DataFrame:
    """A kernel of donors with a mean variance of one."""
    names = np.array([f"d{i:04d}" for i in range(len(K))])
    return pd.DataFrame(K / np.diag(K).mean(), names, names)


def descent(family: Array, old: Array) -> pd.DataFrame:
    """Twice the kinship: one half for parents and children and for sibs, and nothing for spouses."""
    same = family[:, None] == family
    K = 0.5 * (same & ~(old[:, None] & old))
    np.fill_diagonal(K, 1.0)
    return named(K)


def recruit(rng: np.random.Generator, n: int, *, related: bool) -> Donors:
    """So many donors, as they come."""
    frequency = rng.uniform(0.1, 0.9, VARIANTS)
    rows: list[tuple[int, bool]] = []
    genotypes: list[Array] = []
    number = 0
    while len(rows) < n:
        n_parents, n_children = FAMILIES[number % len(FAMILIES)] if related else (0, 1)
        parents = rng.random((2, 2, VARIANTS)) < frequency  # parents, strands
        for parent in parents[:n_parents]:
            genotypes.append(parent.sum(axis=0))
        for _ in range(n_children):
            strand = rng.integers(0, 2, (2, VARIANTS))
            genotypes.append(np.take_along_axis(parents, strand[:, None], axis=1).sum(axis=(0, 1)))
        rows += [(number, True)] * n_parents + [(number, False)] * n_children
        number += 1
    family, old = map(np.array, zip(*rows[:n], strict=True))
    made = np.stack(genotypes[:n]).astype(float)
    made -= made.mean(axis=0)
    spread = made.std(axis=0)
    return Donors(family, old, descent(family, old), made[:, spread > 0] / spread[spread > 0])


def microbes(rng: np.random.Generator, donors: Donors, n_taxa: int = 40) -> pd.DataFrame:
    """The kernel of abundances that do not run in families."""
    taxa = rng.normal(size=(donors.family.size, n_taxa)) * np.geomspace(1, 0.1, n_taxa)
    taxa -= taxa.mean(axis=0)
    return named(taxa @ taxa.T)


def effects(rng: np.random.Generator, K: pd.DataFrame, n_features: int) -> Array:
    """Draws (D, n_features) from N(0, K)."""
    values, vectors = np.linalg.eigh(K.to_numpy())
    root = vectors * np.sqrt(np.clip(values, 0, None))
    return np.asarray(root @ rng.normal(size=(len(K), n_features)))


def covariates(rng: np.random.Generator, donors: Donors, K: pd.DataFrame) -> pd.DataFrame:
    """An arm that is drawn by lot, one that runs in families, and age."""
    n = donors.family.size
    liability = np.sqrt(0.8) * effects(rng, K, 1)[:, 0] + np.sqrt(0.2) * rng.normal(size=n)
    return pd.DataFrame(
        {
            "donor": donors.descent.index,
            "lot": np.array(["a", "b"])[rng.permutation(n) % 2],
            "runs": np.where(liability > np.median(liability), "b", "a"),
            "age": rng.normal(35, 8, n) + 25 * donors.old,
        }
    )


def collapsed(
    formula: str, kernels: dict[str, pd.DataFrame], obs: pd.DataFrame, n: Array, mean: Array, rng: np.random.Generator
) -> Statistics:
    """What is left of rows with so many cells (rows,) whose means are `mean` (rows, G); cells have a variance of one."""
    each = np.repeat(np.arange(len(obs)), 2)
    named = {name: K for name, K in kernels.items() if f"cov={name})" in formula}
    design = build_design(bind(parse(formula), named), obs.iloc[each].reset_index(drop=True))
    row = np.argsort(design.codes[::2])  # of every pattern
    n, n_features, nothing = n[row], mean.shape[1], np.zeros((len(obs), 0))
    inside = rng.chisquare(np.repeat((n - 1)[:, None], n_features, axis=1).astype(float))
    own = Collapsed(
        n_obs=n.astype(np.int64), weight=n.astype(float), log_weight=np.zeros(n.size), mean=mean[row],
        within_ss=inside, covariate_mean=nothing, covariate_ss=np.zeros((n.size, 0, 0)),
        covariate_y=np.zeros((n.size, 0, n_features)), abundance=nothing,
    )  # fmt: skip
    return Statistics(design, (Pass(np.arange(n_features), own),))


def fitted(statistics: Statistics, n_jobs: int = 1) -> LMMFit:
    """All features."""
    names = tuple(f"g{i}" for i in range(statistics.passes[0].collapsed.mean.shape[1]))
    return fit_statistics(statistics, names, donor="donor", n_jobs=n_jobs)


def contrast(fit: LMMFit, column: str) -> Array:
    """The contrast (1, p) of one column."""
    return np.array([[float(name.split("[")[0] == column) for name in fit.design.fixed_names]])


def cells(rng: np.random.Generator, rows: int) -> Array:
    """Of every row, some with very few."""
    return np.maximum(3, np.round(CELLS * np.exp(rng.normal(0, 0.7, rows)))).astype(int)


class Cohort(NamedTuple):
    """Kernels of donors, their covariates, numbers of cells and mean of every feature (D, G)."""

    kernels: dict[str, pd.DataFrame]
    obs: pd.DataFrame
    cells: Array
    mean: Array

    @classmethod
    def of(cls, n: int, n_features: int, seed: int = 0) -> Cohort:
        """Families whose genotypes have a share of .4 of the donors' variance, and their microbes .2."""
        rng, case = np.random.default_rng(seed), Case(n, True, 0.4, 0.2)
        kernels, obs = _donors(rng, case)
        number = cells(rng, n)
        mean = levels(rng, case, kernels, n_features) + rng.normal(size=(n, n_features)) / np.sqrt(number)[:, None]
        return cls(kernels, obs, number, mean)

    def collapsed(self, random: str, seed: int = 0) -> Statistics:
        """Of all features, with the covariates and a random part."""
        rng = np.random.default_rng(seed)
        return collapsed(f"{FIXED} + {random}", self.kernels, self.obs, self.cells, self.mean, rng)

    def write(self, folder: Path, n_features: int) -> None:
        """The first features, with the fixed part as a matrix, into a file for programs of other environments."""
        arrays = {name: K.to_numpy() for name, K in self.kernels.items()}
        np.savez(
            folder / "cohort.npz", X=fixed_part(self.obs), mean=self.mean[:, :n_features], cells=self.cells, **arrays
        )


def fixed_part(obs: pd.DataFrame) -> Array:
    """The covariates as columns."""
    return np.column_stack(
        [np.ones(len(obs)), *(pd.factorize(obs[c], sort=True)[0] for c in ("lot", "runs")), obs["age"]]
    )


def least_squares(obs: pd.DataFrame, mean: Array, column: str) -> Array:
    """P-values of a covariate in least squares on the means of donors."""
    X = fixed_part(obs)
    j = 1 + ["lot", "runs", "age"].index(column)
    inverse, df = np.linalg.inv(X.T @ X), len(obs) - X.shape[1]
    beta = inverse @ X.T @ mean
    s2 = ((mean - X @ beta) ** 2).sum(axis=0) / df
    return np.asarray(2 * stats.t.sf(np.abs(beta[j]) / np.sqrt(inverse[j, j] * s2), df))


FIXED = "~ lot + runs + age"
MANY = 200  # donors beyond which three variances are left out: each feature takes a tenth of a second
BETWEEN = (
    "(1 | gr(donor, cov=G))",
    "(1 | gr(donor, cov=G)) + (1 | donor)",
    "(1 | gr(donor, cov=G)) + (1 | gr(donor, cov=M)) + (1 | donor)",
    "(1 | donor)",
)
# C is the kernel of genotypes that are centred, whose rows add up to nothing: with it, donors' slopes have no mean
WITHIN = (
    "(1 | gr(donor, cov=G)) + (0 + stim | gr(donor, cov=G))",
    "(1 | gr(donor, cov=G)) + (0 + stim | gr(donor, cov=G)) + (1 | donor)",
    "(1 | gr(donor, cov=C)) + (0 + stim | gr(donor, cov=C))",
    "(1 | gr(donor, cov=C)) + (0 + stim | gr(donor, cov=C)) + (0 + stim | donor)",
    "(1 | donor) + (0 + stim | donor)",
)


@dataclass(frozen=True)
class Case:
    """Donors, whether they are `related`, the share of the donors' variance that is the genotypes', and of microbes."""

    n: int
    related: bool
    h2: float
    m2: float = 0.0


def type_one(case: Case, studies: int, n_features: int, seed: int) -> dict[tuple[str, str, str], Array]:
    """P-values by model, degrees of freedom and what is tested; all features are null."""
    found: dict[tuple[str, str, str], list[Array]] = {}
    for study in range(studies):
        rng = np.random.default_rng([seed, study, case.n, case.related, round(100 * case.h2)])
        for key, p in _between(rng, case, n_features) + _within(rng, case, n_features):
            found.setdefault(key, []).append(p)
    return {key: np.concatenate(own) for key, own in found.items()}


def _donors(rng: np.random.Generator, case: Case) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    donors = recruit(rng, case.n, related=case.related)
    G = donors.descent if case.related else donors.relatedness
    kernels = {"G": G, "M": microbes(rng, donors), "C": donors.relatedness}
    return kernels, covariates(rng, donors, kernels["G"])


def levels(rng: np.random.Generator, case: Case, kernels: dict[str, pd.DataFrame], n_features: int) -> Array:
    """Levels of the donors (D, G); how much they differ varies with the feature."""
    u = np.sqrt(case.h2) * effects(rng, kernels["G"], n_features)
    u += np.sqrt(case.m2) * effects(rng, kernels["M"], n_features)
    u += np.sqrt(1 - case.h2 - case.m2) * rng.normal(size=u.shape)
    return np.asarray(u * np.sqrt(VARIANCE * np.exp(rng.normal(0, 0.7, n_features))))


Found = list[tuple[tuple[str, str, str], Array]]


def _between(rng: np.random.Generator, case: Case, n_features: int) -> Found:
    kernels, obs = _donors(rng, case)
    n = cells(rng, case.n)
    mean = levels(rng, case, kernels, n_features) + rng.normal(size=(case.n, n_features)) / np.sqrt(n)[:, None]
    found: Found = [(("donor means", "t", c), least_squares(obs, mean, c)) for c in ("lot", "runs", "age")]
    for random in (r for r in BETWEEN if case.n <= MANY or r.count("|") < 3):
        fit = fitted(collapsed(f"{FIXED} + {random}", kernels, obs, n, mean, rng))
        found += _tests(fit, random, ("lot", "runs", "age"))
    return found


def _within(rng: np.random.Generator, case: Case, n_features: int) -> Found:
    """Cells with and without a stimulus, to which donors respond by as much as they differ."""
    kernels, donors = _donors(rng, case)
    obs = pd.concat([donors.assign(stim=0.0), donors.assign(stim=1.0)], ignore_index=True)
    n = cells(rng, len(obs))
    own = Case(case.n, case.related, 1.0)  # the models know of no other slopes
    mean = np.tile(levels(rng, case, kernels, n_features), (2, 1))
    mean[case.n :] += levels(rng, own, kernels, n_features)
    mean += rng.normal(size=mean.shape) / np.sqrt(n)[:, None]
    found: Found = []
    for random in (r for r in WITHIN if case.n <= MANY or r.count("|") < 3):
        fit = fitted(collapsed(f"~ runs + stim + {random}", kernels, obs, n, mean, rng))
        found += _tests(fit, random, ("stim",))
    return found


def _tests(fit: LMMFit, random: str, columns: tuple[str, ...]) -> Found:
    return [
        ((random, ddf, column), test_features(fit, contrast(fit, column), ddf, 0.95).numbers["p_value"][0])
        for ddf, column in product(DDF, columns)
    ]


def shares(p: Array) -> list[str]:
    """Features, those without a p-value, and shares below each level with their binomial intervals."""
    known = p[np.isfinite(p)]
    out = [f"{p.size}", f"{p.size - known.size}"]
    for level in LEVELS:
        interval = stats.binomtest(int((known < level).sum()), known.size).proportion_ci(method="wilson")
        out.append(f"{(known < level).mean():.4f} ({interval.low:.4f}-{interval.high:.4f})")
    return out


def type_one_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """The table of type I errors."""
    yield ["donors", "h2", "model", "ddf", "tested", "features", "none", *(f"p < {level}" for level in LEVELS)]
    for n, related, h2 in product(options.donors, (True, False), options.h2):
        found = type_one(Case(n, related, h2), options.studies, options.features, options.seed)
        for (model, ddf, tested), p in found.items():
            yield [f"{n} {'families' if related else 'strangers'}", f"{h2}", model, ddf, tested, *shares(p)]


def alike(rng: np.random.Generator, G: pd.DataFrame, M: pd.DataFrame, wanted: float) -> pd.DataFrame:
    """A mixture of M and G whose entries off the diagonal have so much correlation with those of G."""
    off = ~np.eye(len(G), dtype=bool)
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        mixed = share * G + (1 - share) * M
        at = np.corrcoef(G.to_numpy()[off], mixed.to_numpy()[off])[0, 1]
        low, high = (share, high) if at < wanted else (low, share)
    return mixed


def alike_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """The table of kernels that are alike: proportions of the donors' variance, which are .3, .3 and .4."""
    yield [
        "donors",
        "correlation",
        *(f"{name}: mean (sd)" for name in ("h2", "m2", "sum")),
        "correlation of h2, m2",
        "h2 = 0",
        "m2 = 0",
    ]
    formula = "~ 1 + (1 | gr(donor, cov=G)) + (1 | gr(donor, cov=M)) + (1 | donor)"
    for n, wanted in product(options.donors, (0.0, 0.3, 0.7, 0.95)):
        found = []
        for study in range(options.studies):
            rng = np.random.default_rng([options.seed, study, n, round(100 * wanted)])
            donors = recruit(rng, n, related=True)
            G = donors.descent
            kernels = {"G": G, "M": alike(rng, G, microbes(rng, donors), wanted) if wanted else microbes(rng, donors)}
            count = cells(rng, n)
            mean = levels(rng, Case(n, True, 0.3, 0.3), kernels, options.features)
            mean += rng.normal(size=mean.shape) / np.sqrt(count)[:, None]
            obs = pd.DataFrame({"donor": donors.descent.index})
            found.append(proportions(fitted(collapsed(formula, kernels, obs, count, mean, rng))))
        both = np.concatenate(found)
        columns = both[:, 0], both[:, 1], both.sum(axis=1)
        yield [
            str(n), str(wanted), *(f"{np.nanmean(c):.3f} ({np.nanstd(c):.3f})" for c in columns),
            f"{np.corrcoef(both[np.isfinite(both).all(axis=1)].T)[0, 1]:.2f}",
            *(f"{(both[:, k] < 1e-6).mean():.2f}" for k in range(2)),
        ]  # fmt: skip


def proportions(fit: LMMFit) -> Array:
    """Of two kernels in the donors' variance, (G, 2)."""
    (model,) = fit.models
    found = np.column_stack([T[:, 0, 0] for T in model.covariances()])
    return np.asarray(found[:, :2] / found.sum(axis=1, keepdims=True))


CLEAR = 9.0  # variance of donors relative to cells where proportions of all variance are to be large


def coverage_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """The table of heritabilities: bias, and shares of intervals that hold the truth."""
    yield ["donors", "h2", "features", "mean", "sd", "mean se", "estimate +- 1.96 se", "interval", "p < 0.05"]
    for n, related, h2 in product(options.donors, (True, False), options.h2):
        tables = []
        for study in range(options.studies):
            rng = np.random.default_rng([options.seed, study, n, related, round(100 * h2)])
            kernels, obs = _donors(rng, Case(n, related, h2))
            count, share = cells(rng, n), h2 * (CLEAR + 1) / CLEAR
            mean = np.sqrt(CLEAR * share) * effects(rng, kernels["G"], options.features)
            mean += np.sqrt(CLEAR * (1 - share)) * rng.normal(size=mean.shape)
            mean += rng.normal(size=mean.shape) / np.sqrt(count)[:, None]
            fit = fitted(collapsed(f"{FIXED} + {BETWEEN[1]}", kernels, obs, count, mean, rng))
            tables.append(fit.heritability("as-is").query("component == 'G'"))
        t = pd.concat(tables)
        inside = (t["ci_low"] <= h2) & (h2 <= t["ci_high"]), (t["proportion"] - h2).abs() <= 1.96 * t["se"].fillna(0)
        numbers = t["proportion"].mean(), t["proportion"].std(), t["se"].mean(), inside[1].mean(), inside[0].mean()
        yield [
            f"{n} {'families' if related else 'strangers'}", str(h2), str(len(t)), *(f"{x:.3f}" for x in numbers),
            f"{(t['p_value'] < 0.05).mean():.3f}",
        ]  # fmt: skip


TABLES = {"type-one": type_one_rows, "alike": alike_rows, "coverage": coverage_rows}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--features", type=int, default=1_000)
    parser.add_argument("--donors", type=lambda text: [int(n) for n in text.split(",")], default=[40, 100, 400])
    parser.add_argument("--h2", type=lambda text: [float(x) for x in text.split(",")], default=[0.0, 0.2, 0.5, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for number, row in enumerate(TABLES[options.table](options)):
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |", flush=True)
        if number == 0:
            print("|---" * len(row) + "|")


if __name__ == "__main__":
    main()
