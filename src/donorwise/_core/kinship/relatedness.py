"""Relatedness from genotypes, in one pass over blocks of variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.jobs import Progress
from donorwise._core.kinship.genotypes import BLOCK_NUMBERS
from donorwise._core.kinship.labels import is_autosome
from donorwise._core.kinship.usable import REASONS, Variants
from donorwise._typing import FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, IntArray, StrArray


class Method(NamedTuple):
    """K = Z Z' / sum of `share`; Z the centred genotypes divided by `scale`; both functions give (M,)."""

    scale: Callable[[Variants], FloatArray]
    share: Callable[[Variants], FloatArray]


def _one(variants: Variants) -> FloatArray:
    return np.ones(len(variants.frequency))


METHODS = {
    "centered": Method(scale=_one, share=_one),
    "standardized": Method(scale=lambda v: np.sqrt(v.variance), share=_one),
    "vanraden": Method(scale=_one, share=lambda v: v.expected_variance),
    "gcta": Method(scale=lambda v: np.sqrt(v.expected_variance), share=_one),
}


class Limits(NamedTuple):
    """Which variants are used.

    Attributes
    ----------
    maf
        Least frequency of the rarer allele.
    missing
        Largest share of missing genotypes.
    chromosomes
        Names of those to use; None for the autosomes.
    """

    maf: float
    missing: float
    chromosomes: frozenset[str] | None

    def reasons(self, variants: Variants, chromosomes: StrArray | None) -> Iterator[tuple[str, BoolArray]]:
        """Reasons not to use variants, and which of them each holds for, (M,)."""
        if chromosomes is not None and self.chromosomes is None:
            yield "not on an autosome", np.array([not is_autosome(name) for name in chromosomes.tolist()], dtype=bool)
        if chromosomes is not None and self.chromosomes is not None:
            yield "on other chromosomes", ~np.isin(chromosomes, list(self.chromosomes))
        for reason, bad in variants.unusable(maf=self.maf, missing=self.missing):
            yield REASONS[reason], bad


@dataclass(slots=True)
class Product:
    """Sum of z z' over variants, (n, n), the sum of their shares, and their number."""

    values: FloatArray
    share: float = 0.0
    n_variants: int = 0

    def add(self, z: FloatArray, share: FloatArray) -> None:
        """Add variants, the columns of `z`, (n, M)."""
        self.values += z @ z.T
        self.share += float(share.sum())
        self.n_variants += len(share)

    def without(self, other: Product) -> Product:
        """What is left without the other's variants."""
        return Product(self.values - other.values, self.share - other.share, self.n_variants - other.n_variants)

    @property
    def kernel(self) -> FloatArray:
        """K, (n, n), exactly symmetric."""
        values = self.values / self.share
        return (values + values.T) / 2


class Relations:
    """What a pass over variants finds.

    Attributes
    ----------
    products
        By chromosome, in the order in which they come; one entry ``""`` where they are not told apart.
    left_out
        Numbers of variants that are not used, by the first reason that holds.
    missing
        Shape (n,). How many of the used genotypes each donor misses.
    largest
        The largest genotype.
    """

    def __init__(self, genotypes: Genotypes, method: Method, limits: Limits, *, by_chromosome: bool) -> None:
        self.genotypes, self._method, self._limits, self._by_chromosome = genotypes, method, limits, by_chromosome
        self.products: dict[str, Product] = {}
        self.left_out: dict[str, int] = {}
        self.missing: IntArray = np.zeros(len(genotypes.donors), dtype=np.int64)
        self.largest = 0.0

    def add(self, low: int, high: int) -> None:
        """Add the variants low..high-1."""
        values = self.genotypes.checked(low, high)
        chromosomes = None if self.genotypes.chromosomes is None else self.genotypes.chromosomes[low:high]
        z, missing, variants = centre(values)
        used = self._used(variants, chromosomes)
        if not used.any():
            return
        self.largest = max(self.largest, float(np.fmax.reduce(values, axis=None)))
        self.missing += missing[:, used].sum(axis=1)
        variants = variants.take(used)
        z = some_columns(z, used)
        z /= self._method.scale(variants)
        self._multiply(z, self._method.share(variants), None if chromosomes is None else chromosomes[used])

    def _multiply(self, z: FloatArray, share: FloatArray, chromosomes: StrArray | None) -> None:
        names = chromosomes if chromosomes is not None and self._by_chromosome else np.full(len(share), "")
        for name in dict.fromkeys(names.tolist()):
            here = names == name
            product = self.products.setdefault(name, Product(np.zeros((len(z), len(z)))))
            product.add(some_columns(z, here), share[here])

    def _used(self, variants: Variants, chromosomes: StrArray | None) -> BoolArray:
        used = np.ones(len(variants.frequency), dtype=bool)
        for reason, bad in self._limits.reasons(variants, chromosomes):
            self.left_out[reason] = self.left_out.get(reason, 0) + int((used & bad).sum())
            used &= ~bad
        return used

    @property
    def n_variants(self) -> int:
        """How many variants are used."""
        return sum(product.n_variants for product in self.products.values())

    @property
    def share_missing(self) -> float:
        """Share of the used genotypes that are missing."""
        return float(self.missing.sum() / (len(self.missing) * self.n_variants))

    def total(self) -> Product:
        """All variants together."""
        total = Product(np.zeros((len(self.missing),) * 2))
        for product in self.products.values():
            total.values += product.values
            total.share += product.share
            total.n_variants += product.n_variants
        return total


def relate(
    genotypes: Genotypes, method: Method, limits: Limits, *, by_chromosome: bool, block: int | None, progress: bool
) -> Relations:
    """Sum z z' over the variants that can be used, in blocks of `block` of them.

    A missing genotype counts as the variant's mean, zero after centring, as in GEMMA (Zhou and Stephens 2012, Nature
    Genetics 44:821). Unlike division by the number of genotypes that both donors have, that keeps K positive semidefinite.

    Raises
    ------
    DataError
        A value is no number of alleles; names donor and variant.
    """
    found = Relations(genotypes, method, limits, by_chromosome=by_chromosome)
    n = genotypes.n_variants
    width = block or max(1, max(BLOCK_NUMBERS, genotypes.block_numbers) // max(1, len(genotypes.donors)))
    with Progress(total=n, unit="variant", unit_scale=True, desc="relatedness", disable=not progress) as bar:
        for low in range(0, n, width):
            high = min(low + width, n)
            found.add(low, high)
            bar.update(high - low)
    return found


def centre(values: FloatArray) -> tuple[FloatArray, BoolArray, Variants]:
    """Genotypes (n, M) minus the variant's mean, zero where missing; where that is, (n, M); and what is known of the variants."""
    missing = np.isnan(values)
    n_known = len(values) - missing.sum(axis=0)
    centred = np.where(missing, 0.0, values)
    total = centred.sum(axis=0)
    centred -= total / np.maximum(n_known, 1)
    centred[missing] = 0.0
    variance = np.einsum("ij,ij->j", centred, centred) / len(values)
    return centred, missing, Variants.of(total, n_known, variance, len(values))


def some_columns(values: FloatArray, kept: BoolArray) -> FloatArray:
    """The columns to keep; no copy where these are all."""
    return values if kept.all() else values[:, kept]
