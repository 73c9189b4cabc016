"""Genotypes of a few variants of a scan, and how they go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import open_genotypes
from donorwise._core.kinship.labels import bare
from donorwise.errors import DataError

if TYPE_CHECKING:
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import FloatArray, IntArray

_GAP = 32
"""Variants that are not wanted and read all the same, because they lie between two that are."""


def dosages(genotypes: Any, tests: pd.DataFrame) -> pd.DataFrame:
    """Copies of the allele that a scan counted: donors x the variants of some tests, NaN where a genotype is missing.

    Parameters
    ----------
    genotypes
        As :func:`donorwise.tl.scan` takes them. Where they count the other allele, it is turned round.
    tests
        M variants with the columns variant, chrom, pos, a0 and a1.

    Returns
    -------
    Shape (donors, M), the donors in the index; NaN throughout for a variant that is not there.

    Raises
    ------
    DataError
        These are no genotypes, or none of the variants is there.
    """
    source = open_genotypes(genotypes)
    place, turned = _places(source, tests)
    known = np.flatnonzero(place >= 0)
    if not known.size:
        raise DataError(
            f"{source.text} has none of the variants asked for, such as {str(tests['variant'].iloc[0])!r}: give the genotypes "
            "that were scanned."
        )
    values = np.full((len(source.donors), len(tests)), np.nan)
    values[:, known] = _read(source, place[known])
    values[:, turned] = 2 - values[:, turned]
    return pd.DataFrame(values, index=list(source.donors))


def _places(source: Genotypes, tests: pd.DataFrame) -> tuple[IntArray, np.ndarray]:
    """Numbers of the variants among the genotypes, -1 where they are not there, and which count the other allele there.

    Of several with one name (more than two alleles, or no real name) it is the one with the alleles and the place of the test.
    """
    names = np.arange(1, source.n_variants + 1).astype(str) if source.variants is None else source.variants
    wanted = tests[["variant", "chrom", "pos", "a0", "a1"]].reset_index(drop=True)
    wanted = wanted.astype({"variant": str, "chrom": str, "a0": str, "a1": str})
    at = np.flatnonzero(np.isin(names.astype(str), wanted["variant"].unique()))
    unknown = np.full(len(at), "", dtype=object)
    alleles = {
        name: unknown if own is None else own[at].astype(str)
        for name, own in (("a0", source.a0), ("a1", source.a1), ("chrom", source.chromosomes))
    }
    pos = np.full(len(at), -1) if source.positions is None else source.positions[at]
    there = pd.DataFrame({"variant": names[at].astype(str), "pos": pos, **alleles, "place": at})
    both = wanted.reset_index().merge(there, on="variant", suffixes=("", "_there"))
    alike = (both["a0"] == both["a0_there"]) & (both["a1"] == both["a1_there"])
    turned = (both["a0"] == both["a1_there"]) & (both["a1"] == both["a0_there"]) & ~alike
    fits = alike | turned | (both["a1_there"] == "") | (both["a1"] == "")
    here = (both["pos"] == both["pos_there"]).astype(int) + (both["chrom"].map(bare) == both["chrom_there"].map(bare))
    both = both.assign(turned=turned, score=3 * alike + here)[fits]
    best = both.sort_values("score", ascending=False, kind="stable").drop_duplicates("index").set_index("index")
    rows = best.reindex(wanted.index)
    return rows["place"].fillna(-1).to_numpy(dtype=np.int64), (rows["turned"] == True).to_numpy(dtype=bool)  # noqa: E712


def _read(source: Genotypes, numbers: IntArray) -> FloatArray:
    """Some variants, those that are near each other together."""
    order = np.unique(numbers)
    runs = np.split(order, np.flatnonzero(np.diff(order) > _GAP) + 1)
    parts = [source.checked(int(run[0]), int(run[-1]) + 1)[:, run - run[0]] for run in runs]
    return np.concatenate(parts, axis=1)[:, np.searchsorted(order, numbers)]


def r_squared(values: FloatArray, lead: int) -> FloatArray:
    """Squared correlation of M variants (n, M) with one of them, missing genotypes being the mean of their variant.

    NaN for a variant that is the same in all donors, or not there.
    """
    known = ~np.isnan(values)
    mean = np.divide(
        np.nansum(values, axis=0), known.sum(axis=0), where=known.any(axis=0), out=np.zeros(values.shape[1])
    )
    centred = np.where(known, values - mean, 0.0)
    squares = (centred**2).sum(axis=0)
    whole = squares * squares[lead]
    found = np.full(values.shape[1], np.nan)
    return np.asarray(np.divide((centred[:, lead] @ centred) ** 2, whole, out=found, where=whole > 0))
