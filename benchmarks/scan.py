"""Donors, variants and genes for scans, what a program found in them, and plain twins that its numbers are compared with.

``python benchmarks/speed.py --only stuv`` runs the measurements. Other programs' packages may live in an environment of
their own, whose interpreter is ``BENCHMARK_PYTHON``; GEMMA and its example come with Debian's gemma and gemma-doc.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import linalg, optimize
from timing import Seconds

Array = np.ndarray[Any, Any]
_POOL, _SEGMENT = 60, 50  # haplotypes that people's are copied from, and variants that are copied together
_SAMPLE = 5_000  # variants that make up the relatedness
CHROMOSOME = 50_000_000  # its length in bases


class Scanned(NamedTuple):
    """What a scan kept: numbers of genes and variants, and their t statistics; and its seconds, if they were taken by themselves."""

    gene: Array
    variant: Array
    t: Array
    wall: float = np.nan
    cpu: float = np.nan

    @classmethod
    def read(cls, file: Path) -> Scanned:
        """As a script of another environment wrote it."""
        with np.load(file) as given:
            return cls(given["gene"], given["variant"], given["t"], float(given["wall"]), float(given["cpu"]))


@dataclass(frozen=True)
class Study:
    """n donors: `genotypes` (V, n), `expression` (G, n), `covariates` (n, p) and the `kernel` of their relatedness (n, n).

    Variants and genes have a chromosome (numbered from 0) and a position.
    """

    genotypes: Array
    chromosome: Array
    position: Array
    expression: Array
    gene_chromosome: Array
    gene_position: Array
    covariates: Array
    kernel: Array

    @classmethod
    def of(cls, n: int, n_genes: int, n_variants: int, *, n_covariates: int = 10, n_chromosomes: int = 1) -> Study:
        """Pairs of sibs, variants that are linked, and genes of which one in ten has a variant that acts on it."""
        rng = np.random.default_rng(0)
        genotypes = linked_genotypes(rng, n, n_variants)
        chromosome = np.arange(n_variants) * n_chromosomes // n_variants
        position = 1 + (np.arange(n_variants) * n_chromosomes % n_variants) * (CHROMOSOME // n_variants)
        gene = np.sort(rng.integers(0, n_variants, n_genes))
        covariates = rng.normal(size=(n, n_covariates))
        K = relatedness(genotypes[rng.choice(n_variants, min(_SAMPLE, n_variants), replace=False)])
        expression = _expression(rng, K, covariates, n_genes)
        expression[::10] += 0.5 * genotypes[gene[::10]]
        return cls(genotypes, chromosome, position, expression, chromosome[gene], position[gene], covariates, K)

    @property
    def donors(self) -> list[str]:
        return [f"d{i:04d}" for i in range(len(self.covariates))]

    @property
    def obs(self) -> pd.DataFrame:
        """Donors and their covariates."""
        names = [f"c{j}" for j in range(self.covariates.shape[1])]
        return pd.DataFrame({"donor": self.donors} | dict(zip(names, self.covariates.T, strict=True)))

    @property
    def fixed(self) -> str:
        """The fixed part of the formula."""
        return " + ".join(["~ 1", *(f"c{j}" for j in range(self.covariates.shape[1]))])

    @property
    def kernels(self) -> dict[str, pd.DataFrame]:
        return {"G": pd.DataFrame(self.kernel, self.donors, self.donors)}

    @cached_property
    def panel(self) -> ad.AnnData:
        """Genotypes as an AnnData."""
        var = {"chrom": (1 + self.chromosome).astype(str), "pos": self.position, "a0": "A", "a1": "G"}
        names = [f"v{i}" for i in range(len(self.genotypes))]
        return ad.AnnData(self.genotypes.T, pd.DataFrame(index=self.donors), pd.DataFrame(var, index=names))

    @property
    def genes(self) -> pd.DataFrame:
        """Where genes start."""
        where = {"chrom": (1 + self.gene_chromosome).astype(str), "tss": self.gene_position}
        return pd.DataFrame(where, index=[f"g{i}" for i in range(len(self.expression))])

    @cached_property
    def responses(self) -> pd.DataFrame:
        """Expression, donors x genes."""
        return pd.DataFrame(self.expression.T, columns=self.genes.index)

    def write(self, folder: Path) -> None:
        """All arrays, for programs of other environments."""
        np.savez(folder / "study.npz", **{name: getattr(self, name) for name in self.__dataclass_fields__})

    @property
    def X(self) -> Array:
        """The fixed part as a matrix."""
        return np.column_stack([np.ones(len(self.covariates)), self.covariates])

    def difference(self, found: Scanned, *, mixed: bool = False, n_pairs: int = 20) -> float:
        """Largest difference of t statistics from those of a plain twin, relative, in pairs from the whole of what was kept."""
        some = np.linspace(0, found.t.size - 1, min(n_pairs, found.t.size)).astype(int)
        twin = [
            null_t(self.expression[g], self.X, self.genotypes[v].astype(float), self.kernel if mixed else None)
            for g, v in zip(found.gene[some], found.variant[some], strict=True)
        ]
        return float(np.abs(np.abs(found.t[some]) / np.abs(twin) - 1).max())


def linked_genotypes(rng: np.random.Generator, n: int, n_variants: int) -> Array:
    """Genotypes (n_variants, n) of pairs of sibs, whose parents' haplotypes are pieces of a pool of few."""
    frequency = rng.uniform(0.05, 0.5, n_variants)
    pool = rng.random((_POOL, n_variants)) < frequency
    pool[rng.integers(_POOL, size=(3, n_variants)), np.arange(n_variants)] = True  # none is without the allele
    segment, at = np.arange(n_variants) // _SEGMENT, np.arange(n_variants)
    out = np.empty((n_variants, n), dtype=np.int8)
    for low in range(0, n, 2):
        parents = rng.integers(0, _POOL, (2, 2, segment[-1] + 1))
        for sib in range(low, min(low + 2, n)):
            strand = rng.integers(0, 2, (2, segment[-1] + 1))
            piece = np.take_along_axis(parents, strand[:, None], axis=1)[:, 0]
            out[:, sib] = pool[piece[0][segment], at].astype(np.int8) + pool[piece[1][segment], at]
    return out


def relatedness(genotypes: Array) -> Array:
    """Cross-products of standardised genotypes (V, n)."""
    z = genotypes - genotypes.mean(axis=1, keepdims=True)
    z = z[z.std(axis=1) > 0]
    z /= z.std(axis=1, keepdims=True)
    return z.T @ z / len(z)


def _expression(rng: np.random.Generator, K: Array, covariates: Array, n_genes: int) -> Array:
    """Genes whose heritability is between 0 and .8."""
    values, vectors = np.linalg.eigh(K)
    h2 = rng.uniform(0, 0.8, (n_genes, 1))
    u = rng.normal(size=(n_genes, len(K))) * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    noise = rng.normal(size=(n_genes, len(K)))
    return (
        np.sqrt(h2) * u + np.sqrt(1 - h2) * noise + 0.3 * rng.normal(size=(n_genes, covariates.shape[1])) @ covariates.T
    )


def null_t(y: Array, X: Array, x: Array, K: Array | None, *, refit: bool = False) -> float:
    """t of a variant in generalised least squares, at the variances of the model without it or (`refit`) with it."""
    with_x = np.column_stack([X, x])
    L = np.eye(len(y)) if K is None else linalg.cholesky(_covariance(y, with_x if refit else X, K), lower=True)
    A, b = (linalg.solve_triangular(L, part, lower=True) for part in (with_x, y))
    inverse = np.linalg.inv(A.T @ A)
    beta = inverse @ (A.T @ b)
    s2 = ((b - A @ beta) ** 2).sum() / (len(y) - A.shape[1])
    return float(beta[-1] / np.sqrt(s2 * inverse[-1, -1]))


def _covariance(y: Array, X: Array, K: Array) -> Array:
    """I + ratio K where the derivative of the restricted likelihood in log ratio is zero, at its maximum on a grid."""
    values, vectors = np.linalg.eigh(K)
    d, A, b = np.clip(values, 0, None), vectors.T @ X, vectors.T @ y

    def at(log_ratio: float) -> tuple[float, float]:
        w = 1 / (1 + np.exp(log_ratio) * d)
        XX = A.T @ (A * w[:, None])
        Py = w * (b - A @ np.linalg.solve(XX, A.T @ (w * b)))
        explained = w**2 * np.einsum("ni,ij,nj->n", A, np.linalg.inv(XX), A)
        left, nu = b @ Py, len(y) - X.shape[1]
        slope = np.exp(log_ratio) * (d @ (w - explained) - nu * (d @ Py**2) / left)
        return float(nu * np.log(left) - np.log(w).sum() + np.linalg.slogdet(XX)[1]), float(slope)

    grid = np.linspace(-16, 8, 49)
    best = int(np.argmin([at(x)[0] for x in grid]))
    if best in (0, len(grid) - 1):
        return np.eye(len(y)) + np.exp(grid[best]) * K
    found = optimize.brentq(lambda x: at(x)[1], grid[best - 1], grid[best + 1], xtol=1e-13)
    return np.eye(len(y)) + np.exp(found) * K


def rounds(tasks: Mapping[str, Callable[[], Scanned]], repeats: int) -> dict[str, tuple[Seconds, Scanned]]:
    """Every scan in every round, A B A B ..., after a first that is not counted; their seconds and what they kept."""
    found = {name: (Seconds(), task()) for name, task in tasks.items()}
    for _ in range(repeats):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            kept = task()
            here = time.perf_counter() - wall, time.process_time() - cpu
            taken = here if np.isnan(kept.wall) else (kept.wall, kept.cpu)
            for into, seconds in zip((found[name][0].wall, found[name][0].cpu), taken, strict=True):
                into.append(seconds)
    return found
