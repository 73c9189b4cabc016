"""Factors of depths: those of edgeR, a plain twin, units of very different depth, and units that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from donorwise._core.cells.size_factors import FEWEST_GENES, UnitCounts, median_ratio, size_factors, tmm
from donorwise._typing import FloatArray

REFERENCE = Path(__file__).parent / "reference" / "size_factors"
EXPECTED = json.loads((REFERENCE / "expected.json").read_text())["expected"]


def reference_counts(case: str) -> FloatArray:
    return pd.read_csv(REFERENCE / f"{case}.csv").to_numpy(dtype=np.float64).T


def normalised(sizes: FloatArray, total: FloatArray) -> FloatArray:
    factor = sizes / total
    return factor / np.exp(np.log(factor).mean())


def expected_counts(depths: list[float], *, n_genes: int = 4000, sd: float = 0.3) -> FloatArray:
    """Of units whose genes differ by the depth, and by chance between units."""
    rng = np.random.default_rng(0)
    share = np.exp(rng.normal(0, 2, n_genes))
    own = share * np.exp(rng.normal(0, sd, (len(depths), n_genes)))
    return np.array(depths)[:, None] * own / own.sum(axis=1, keepdims=True)


def drawn(depths: list[float], *, n_genes: int = 4000, sd: float = 0.3) -> FloatArray:
    expected = expected_counts(depths, n_genes=n_genes, sd=sd)
    return np.random.default_rng(1).poisson(expected).astype(np.float64)


# ---------------------------------------------------------------- against edgeR


@pytest.mark.parametrize("case", EXPECTED)
def test_trimmed_means_are_those_of_edger(case: str) -> None:
    counts = reference_counts(case)
    counts = counts[:, counts.any(axis=0)]
    total = counts.sum(axis=1)
    np.testing.assert_array_equal(total, EXPECTED[case]["lib_size"])
    sizes, _ = tmm(UnitCounts(counts, total, 0.0))
    np.testing.assert_allclose(normalised(sizes, total), EXPECTED[case]["tmm"], rtol=1e-10)


@pytest.mark.parametrize("case", ["deep", "ties"])
def test_medians_of_ratios_are_those_of_edger(case: str) -> None:
    everywhere = reference_counts(case)
    everywhere = everywhere[:, (everywhere > 0).all(axis=0)]
    odd = everywhere[:, : everywhere.shape[1] - (everywhere.shape[1] % 2 == 0)]  # as the script does, and says why
    total = odd.sum(axis=1)
    sizes, n_genes = median_ratio(UnitCounts(odd, total, 5.0))
    assert (n_genes == odd.shape[1]).all()
    np.testing.assert_allclose(normalised(sizes, total), EXPECTED[case]["rle_odd"], rtol=1e-10)


def test_all_genes_of_the_matrix_give_edgers_factors() -> None:
    counts = reference_counts("deep")
    found = size_factors(counts, counts.sum(axis=1), "tmm", min_expected=0.0)
    np.testing.assert_allclose(found.values, EXPECTED["deep"]["tmm"], rtol=1e-10)
    assert not found.note


# ---------------------------------------------------------------- against a plain twin


def naive_tmm(counts: FloatArray, min_expected: float) -> FloatArray:
    """The paper's equations, gene by gene, with ranks in place of cuts."""
    N = counts.sum(axis=1)
    share = (counts / N[:, None]).mean(axis=0)
    usable = N[:, None] * share >= min_expected
    n_usable = usable.sum(axis=1)
    able = np.flatnonzero(n_usable >= np.median(n_usable))
    upper = np.quantile(counts[able], 0.75, axis=1) / N[able]
    if np.median(upper) < 1e-20:
        r = able[np.argmax(np.sqrt(counts[able]).sum(axis=1))]
    else:
        r = able[np.argmin(np.abs(upper - upper.mean()))]
    sizes = []
    for k in range(len(counts)):
        genes = [g for g in np.flatnonzero(usable[k] & usable[r]) if counts[k, g] > 0 and counts[r, g] > 0]
        M = np.array([np.log2((counts[k, g] / N[k]) / (counts[r, g] / N[r])) for g in genes])
        A = np.array([np.log2(counts[k, g] / N[k]) / 2 + np.log2(counts[r, g] / N[r]) / 2 for g in genes])
        v = np.array([1 / counts[k, g] - 1 / N[k] + 1 / counts[r, g] - 1 / N[r] for g in genes])
        m, a, n = rankdata(M), rankdata(A), len(genes)
        low, low_a = np.floor(n * 0.3) + 1, np.floor(n * 0.05) + 1
        kept = (m >= low) & (m <= n + 1 - low) & (a >= low_a) & (a <= n + 1 - low_a)
        sizes.append(N[k] * 2 ** (0.0 if np.abs(M).max() < 1e-6 else np.average(M[kept], weights=1 / v[kept])))
    return normalised(np.array(sizes), N)


@pytest.mark.parametrize("min_expected", [0.0, 5.0])
@pytest.mark.parametrize("depths", [[1e5] * 4, [2e5, 3e4, 1e5, 6e4, 4e5], [2e4, 1e6]])
def test_agrees_with_a_plain_twin(depths: list[float], min_expected: float) -> None:
    counts = drawn(depths)
    counts = counts[:, counts.any(axis=0)]
    found = size_factors(counts, counts.sum(axis=1), "tmm", min_expected=min_expected)
    np.testing.assert_allclose(found.values, naive_tmm(counts, min_expected), rtol=1e-10)


# ---------------------------------------------------------------- what they are for


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
@pytest.mark.parametrize(("shallow", "left"), [(1e6, 0.1), (1e5, 0.15), (2e4, 0.28)])
def test_take_a_one_sided_response_out_at_any_depth(method: str, shallow: float, left: float) -> None:
    expected = expected_counts([1e6] * 3 + [shallow] * 3)
    rng = np.random.default_rng(1)
    responds = rng.random(expected.shape[1]) < 0.1
    expected[3:, responds] *= 8
    counts = rng.poisson(expected).astype(np.float64)
    depth = counts.sum(axis=1)

    def change(depth: FloatArray) -> float:
        """The log fold change of the genes without one, their median."""
        log_rate = np.log(expected[:, ~responds] / depth[:, None])
        return float(np.median(log_rate[3:].mean(axis=0) - log_rate[:3].mean(axis=0)))

    assert change(depth) < -0.5
    # A tenth of the genes on one side moves a median by some .13 standard deviations of the log ratios; among the genes
    # that a shallow unit has counts of, those that respond are more.
    assert abs(change(depth * size_factors(counts, depth, method).values)) < left


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
def test_depth_alone_moves_nothing(method: str) -> None:
    """Units with a fiftieth of the depth and the same composition: over all genes the factors differ by .35."""
    counts = drawn([1e6] * 4 + [2e4] * 4, sd=0.0)
    log_factor = np.log(size_factors(counts, counts.sum(axis=1), method).values)
    assert abs(log_factor[:4].mean() - log_factor[4:].mean()) < 0.03


def test_multiply_to_one_and_follow_the_depth_that_is_given() -> None:
    counts = drawn([2e5, 3e4, 1e5, 6e4])
    depth = counts.sum(axis=1) * np.array([1.0, 1.2, 0.7, 1.1])
    for method in ("tmm", "median_ratio"):
        found = size_factors(counts, depth, method).values
        assert np.log(found).sum() == pytest.approx(0, abs=1e-12)
        of_sums = counts.sum(axis=1) * size_factors(counts, counts.sum(axis=1), method).values
        ratio = depth * found / of_sums  # the same effective depths, whatever is multiplied
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_do_not_depend_on_the_order_of_units_and_genes() -> None:
    counts = drawn([2e5, 3e4, 1e5, 6e4, 4e5])
    rng = np.random.default_rng(0)
    units, genes = rng.permutation(5), rng.permutation(counts.shape[1])
    for method in ("tmm", "median_ratio"):
        found = size_factors(counts, counts.sum(axis=1), method).values
        moved = counts[np.ix_(units, genes)]
        np.testing.assert_allclose(size_factors(moved, moved.sum(axis=1), method).values, found[units], rtol=1e-11)


# ---------------------------------------------------------------- what cannot be compared


def test_a_panel_of_few_genes_keeps_its_depths() -> None:
    counts = drawn([1e5] * 4, n_genes=FEWEST_GENES - 1)
    found = size_factors(counts, counts.sum(axis=1), "tmm")
    np.testing.assert_array_equal(found.values, 1.0)
    assert "genes with counts are too few" in found.note


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
def test_a_unit_without_overlap_keeps_its_depth_and_is_told(method: str) -> None:
    counts = drawn([1e5] * 5)
    counts[2] = 0
    counts[2, :20] = 3.0  # twenty genes only
    found = size_factors(counts, counts.sum(axis=1), method)
    assert found.values[2] == 1.0
    assert (found.values[[0, 1, 3, 4]] != 1).all()
    assert found.note.startswith("1 of 5 units have counts in fewer than 100 genes")


def test_units_that_are_all_scarce_keep_their_depths() -> None:
    counts = drawn([50.0] * 4)
    found = size_factors(counts, counts.sum(axis=1), "tmm")
    np.testing.assert_array_equal(found.values, 1.0)
    assert "units but one have counts in fewer" in found.note or "all units have counts in fewer" in found.note


def test_equal_units_and_one_unit_have_ones() -> None:
    counts = np.repeat(drawn([1e5]), 3, axis=0)
    np.testing.assert_array_equal(size_factors(counts, counts.sum(axis=1), "tmm").values, 1.0)
    np.testing.assert_array_equal(size_factors(counts[:1], counts[:1].sum(axis=1), "tmm").values, 1.0)
