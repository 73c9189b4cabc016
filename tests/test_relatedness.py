"""Relatedness against a plain twin: methods, missing genotypes, blocks, containers, chromosomes, and what is refused."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._typing import FloatArray
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

METHODS = ("centered", "standardized", "vanraden", "gcta")


def plain(genotypes: FloatArray, method: str, *, maf: float = 0.01, missing: float = 0.05) -> FloatArray:
    """Variant by variant."""
    n, total, denominator = len(genotypes), np.zeros((len(genotypes),) * 2), 0.0
    for x in genotypes.T:
        seen = x[~np.isnan(x)]
        if len(seen) < (1 - missing) * n or np.ptp(seen) == 0:
            continue
        p = seen.mean() / 2
        if min(p, 1 - p) < maf:
            continue
        z = np.where(np.isnan(x), 2 * p, x) - 2 * p
        expected = 2 * p * (1 - p)
        total += np.outer(z, z) / {"standardized": z.var(), "gcta": expected}.get(method, 1.0)
        denominator += expected if method == "vanraden" else 1.0
    return total / denominator


@pytest.fixture(scope="module")
def donors() -> ad.AnnData:
    """24 donors x 800 variants of 5 chromosomes; some missing, some rare, some the same in all, some mostly missing."""
    made = dw.datasets.simulate_relatives(4, n_unrelated=8, n_variants=800, n_chromosomes=5, missing=0.01, seed=3)
    X = made.X
    X[:, :7] = 2.0
    X[:15, 7:10] = np.nan
    X[:, 10:14] = 0.0
    X[3, 10:14] = 1.0
    return made


def relate(genotypes: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        return dw.pp.relatedness(genotypes, **{"progress": False, **options})


@pytest.mark.parametrize("method", METHODS)
def test_is_what_a_plain_twin_gives(donors: ad.AnnData, method: str) -> None:
    K = relate(donors, method=method, maf=0.03)
    np.testing.assert_allclose(K, plain(donors.X.astype(float), method, maf=0.03), rtol=0, atol=1e-12)
    assert K.index.tolist() == K.columns.tolist() == donors.obs_names.tolist()
    assert (K.to_numpy() == K.to_numpy().T).all()
    assert np.linalg.eigvalsh(K).min() > -1e-10


def test_attrs_count_what_was_left_out(donors: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="donorwise"):
        attrs = relate(donors, maf=0.03, missing=0.5).attrs
    assert attrs["left_out"]["the same in all donors"] >= 7
    assert attrs["left_out"]["missing in too many donors"] == 3
    assert attrs["left_out"]["rare"] >= 4
    assert attrs["n_variants"] == donors.n_vars - sum(attrs["left_out"].values())
    assert attrs["missing"] == pytest.approx(0.01, abs=0.003)
    (message,) = [r.getMessage() for r in caplog.records]
    assert "3 missing in too many donors" in message and f"{attrs['n_variants']:,} of 800 variants" in message


def _backed(a: ad.AnnData, folder: Path, kind: Callable[[Any], Any]) -> ad.AnnData:
    path = folder / "genotypes.h5ad"
    ad.AnnData(kind(a.X), obs=a.obs, var=a.var).write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


CONTAINERS: dict[str, Callable[[ad.AnnData, Path], Any]] = {
    "array": lambda a, _: a.X.astype(np.float64),
    "fortran": lambda a, _: np.asfortranarray(a.X),
    "frame": lambda a, _: pd.DataFrame(a.X, index=a.obs_names, columns=a.var_names),
    "nullable": lambda a, _: pd.DataFrame(a.X, index=a.obs_names).astype("Int8"),
    "csr": lambda a, _: sparse.csr_matrix(a.X),
    "csc": lambda a, _: sparse.csc_array(a.X),
    "view": lambda a, _: a[:, :],
    "layer": lambda a, _: ad.AnnData(np.zeros(a.shape), obs=a.obs, var=a.var, layers={"calls": a.X}),
    "backed dense": lambda a, f: _backed(a, f, np.asarray),
    "backed csr": lambda a, f: _backed(a, f, sparse.csr_matrix),
    "backed csc": lambda a, f: _backed(a, f, sparse.csc_matrix),
    "path": lambda a, f: Path(_backed(a, f, sparse.csc_matrix).filename),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_change_nothing(donors: ad.AnnData, container: str, tmp_path: Path) -> None:
    given = CONTAINERS[container](donors, tmp_path)
    K = relate(given, layer="calls" if container == "layer" else None, block=100)
    np.testing.assert_allclose(K, relate(donors), rtol=0, atol=1e-12)


@pytest.mark.parametrize("by_columns", [True, False])
def test_dask_changes_nothing(donors: ad.AnnData, by_columns: bool) -> None:
    da = pytest.importorskip("dask.array")
    K = relate(da.from_array(donors.X, chunks=(-1, 90) if by_columns else (7, -1)))
    np.testing.assert_allclose(K, relate(donors), rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 799, 5000])
def test_blocks_change_nothing(donors: ad.AnnData, block: int) -> None:
    for method in METHODS:
        np.testing.assert_allclose(
            relate(donors, method=method, block=block), relate(donors, method=method), atol=1e-12
        )


def test_the_order_of_variants_and_the_counted_allele_change_nothing(donors: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    shuffled = donors[:, rng.permutation(donors.n_vars)].copy()
    turned = rng.random(donors.n_vars) < 0.5
    shuffled.X[:, turned] = 2 - shuffled.X[:, turned]
    for method in METHODS:
        np.testing.assert_allclose(relate(shuffled, method=method), relate(donors, method=method), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("columns", [np.r_[700:20:-3], np.r_[100:500]])
def test_subset_of_a_file(donors: ad.AnnData, columns: Any, kind: Any, tmp_path: Path) -> None:
    backed, rows = _backed(donors, tmp_path, kind), np.r_[20:4:-1]
    expected = relate(donors[rows, columns].copy())
    pd.testing.assert_frame_equal(relate(backed[rows, columns], block=90), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_zarr(donors: ad.AnnData, kind: Any, tmp_path: Path) -> None:
    ad.AnnData(kind(donors.X), obs=donors.obs, var=donors.var).write_zarr(tmp_path / "genotypes.zarr")
    pd.testing.assert_frame_equal(relate(tmp_path / "genotypes.zarr"), relate(donors), atol=1e-12, rtol=0)


def test_lazy(donors: ad.AnnData, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("dask")
    donors.write_h5ad(tmp_path / "genotypes.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "genotypes.h5ad")
    expected, kernels = relate(donors, loco=True), relate(lazy, loco=True)
    for name, K in expected.items():
        pd.testing.assert_frame_equal(kernels[name], K, atol=1e-12, rtol=0)
    names = [f"{family}{i}" for i, family in enumerate(donors.obs["family"])]
    assert relate(lazy, donors=names).index.tolist() == names


# ---------------------------------------------------------------- chromosomes


@pytest.mark.parametrize("method", METHODS)
def test_loco_is_relatedness_without_the_chromosome(donors: ad.AnnData, method: str) -> None:
    kernels = relate(donors, method=method, loco=True, block=130)
    assert list(kernels) == ["1", "2", "3", "4", "5"]
    for name, K in kernels.items():
        others = relate(donors[:, donors.var["chrom"] != name].copy(), method=method)
        np.testing.assert_allclose(K, others, rtol=0, atol=1e-12)
        assert K.attrs["chromosome_left_out"] == name
        assert K.attrs["n_variants"] == others.attrs["n_variants"]


def test_chromosomes_in_any_order(donors: ad.AnnData) -> None:
    shuffled = donors[:, np.random.default_rng(1).permutation(donors.n_vars)].copy()
    expected, kernels = relate(donors, loco=True), relate(shuffled, loco=True, block=50)
    for name, K in expected.items():
        np.testing.assert_allclose(kernels[name], K, rtol=0, atol=1e-12)


@pytest.mark.parametrize("names", [("X", "Y"), ("chrX", "chrMT"), ("x", "M")])
def test_sex_chromosomes_are_left_out(donors: ad.AnnData, names: tuple[str, str]) -> None:
    named = donors.copy()
    named.var["chrom"] = named.var["chrom"].astype(str).replace({"4": names[0], "5": names[1]})
    K = relate(named)
    assert K.attrs["left_out"]["not on an autosome"] == int(named.var["chrom"].isin(names).sum())
    np.testing.assert_allclose(
        K, relate(donors[:, donors.var["chrom"].isin(["1", "2", "3"])].copy()), rtol=0, atol=1e-12
    )


def test_chosen_chromosomes(donors: ad.AnnData) -> None:
    K = relate(donors, chromosomes=["2", "5"])
    np.testing.assert_allclose(K, relate(donors[:, donors.var["chrom"].isin(["2", "5"])].copy()), rtol=0, atol=1e-12)
    numbers = donors.var["chrom"].astype(float)
    np.testing.assert_allclose(relate(donors.X, chrom=numbers, chromosomes=[2, 5]), K, rtol=0, atol=1e-12)


@pytest.mark.parametrize("column", ["chromosome", "CHROM", "chr"])
def test_usual_names_of_the_column_of_chromosomes(donors: ad.AnnData, column: str) -> None:
    renamed = donors.copy()
    renamed.var = renamed.var.rename(columns={"chrom": column})
    assert len(relate(renamed, loco=True)) == 5


def test_loco_of_arrays_needs_chrom(donors: ad.AnnData) -> None:
    with pytest.raises(DataError, match="give chrom="):
        relate(donors.X, loco=True)
    kernels = relate(donors.X, loco=True, chrom=donors.var["chrom"])
    np.testing.assert_allclose(kernels["3"], relate(donors, loco=True)["3"], rtol=0, atol=1e-12)
    with pytest.raises(DataError, match="799 entries for 800 variants"):
        relate(donors.X, loco=True, chrom=donors.var["chrom"][1:])
    with pytest.raises(DataError, match="2 variants have no chromosome"):
        relate(donors.X, loco=True, chrom=[None, np.nan, *donors.var["chrom"][2:]])
    with pytest.raises(DataError, match="all variants are on chromosome '7'"):
        relate(donors.X, loco=True, chrom=["7"] * 800)


# ---------------------------------------------------------------- names


def test_names(donors: ad.AnnData) -> None:
    assert relate(donors.X).index.tolist() == [str(i) for i in range(24)]
    names = [f"P{i}" for i in range(24)]
    assert relate(donors.X, donors=names).index.tolist() == names
    named = donors.copy()
    named.obs["person"] = pd.Categorical(names)
    assert relate(named, donors="person").columns.tolist() == names
    with pytest.raises(DesignError, match="did you mean|Did you mean"):
        relate(named, donors="persons")
    with pytest.raises(DataError, match="no part|names a part of an AnnData"):
        relate(donors.X, donors="person")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["P0"] * 2 + [f"P{i}" for i in range(2, 24)], "1 name more than once: `P0`"),
        ([f"P{i}" for i in range(23)], "23 names for 24 donors"),
        ([None, *(f"P{i}" for i in range(23))], "no name for donor 1"),
    ],
)
def test_names_that_do_not_tell_donors_apart(donors: ad.AnnData, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        relate(donors.X, donors=names)


# ---------------------------------------------------------------- what is refused, and warned of


def changed(donors: ad.AnnData, value: float) -> ad.AnnData:
    other = donors.copy()
    other.X[5, 300] = value
    return other


@pytest.mark.parametrize(
    ("value", "advice"), [(-1, "NaN"), (-9, "NaN"), (3, "Are these genotypes"), (np.inf, "genotypes")]
)
def test_values_that_are_no_genotypes(donors: ad.AnnData, value: float, advice: str) -> None:
    with pytest.raises(
        DataError, match=rf"X has the value {value:g} \(variant 'rs301' of donor 'F2_mother'\).*{advice}"
    ):
        relate(changed(donors, value))


def test_dosages_that_were_rounded_pass(donors: ad.AnnData) -> None:
    relate(changed(donors, 2.00001))


def test_nothing_left(donors: ad.AnnData) -> None:
    with pytest.raises(
        DataError, match=r"0 of 14 variants can be used \(left out: 3 missing in too many donors, 7 the same"
    ):
        relate(donors[:, :14].copy(), maf=0.1)


def test_a_donor_without_genotypes(donors: ad.AnnData) -> None:
    other = donors.copy()
    other.X[3] = np.nan
    with pytest.raises(DataError, match="1 donors have no genotype at all: `F1_child2`"):
        relate(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "grm"}, "method='grm' is not an option"),
        ({"maf": 0.5}, "maf=0.5"),
        ({"maf": np.nan}, "maf=nan"),
        ({"missing": 5}, "missing=5"),
        ({"block": 0}, "block=0"),
        ({"block": 2.5}, "block=2.5"),
        ({"chromosomes": ["1", "9"]}, "No variant is on chromosome `9`; there are `1`, `2`, `3`, `4`, `5`"),
        ({"layer": "dosage"}, "There is no layer 'dosage'"),
        ({"chrom": "chromo"}, "adata.var has no such column. Did you mean 'chrom'"),
    ],
)
def test_options(donors: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        relate(donors, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("genotypes.vcf.gz", "genotypes are read from .bed, .pgen"),
        ("nowhere.bed", "There is no file nowhere.bed"),
        (np.zeros((30_000, 20)), "30,000 rows, which are taken for donors.*transpose"),
        (np.zeros(5), "two dimensions"),
        (pd.DataFrame({"a": ["0/1", "1/1"], "b": ["0/0", "0/1"]}), "not real numbers"),
        (np.zeros((1, 5)), "1 donors"),
        ({"a": 1}, "Cannot read a matrix of type builtins.dict"),
    ],
)
def test_what_is_no_table_of_genotypes(source: Any, message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.pp.relatedness(source, progress=False)


@pytest.mark.parametrize("names", ["rs{}", "1:{}_A_G", "chr2_{}", "X:{}", "12_{}_A_T"])
def test_donors_as_columns(donors: ad.AnnData, names: str) -> None:
    turned = pd.DataFrame(donors.X.T, index=[names.format(i) for i in range(800)], columns=donors.obs_names)
    with pytest.raises(DataError, match="name of a variant: rows are donors, so give its transpose"):
        relate(turned)
    relate(turned.T)


@pytest.mark.parametrize("names", ["{0}_{0}", "{0}_1{0}", "69{0}_70{0}", "s{0}", "X{0}", "1_{0}_b"])
def test_names_of_donors_that_are_none_of_variants(donors: ad.AnnData, names: str) -> None:
    """FID_IID of numbers, as the donors of OneK1K have them."""
    relate(donors.X, donors=[names.format(i) for i in range(24)])


def test_warnings(donors: ad.AnnData) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dw.pp.relatedness(donors[:, 20:30].copy(), maf=0.03, missing=0.2, progress=False)
    texts = [str(w.message) for w in told if w.category is DonorwiseWarning]
    assert len(texts) == 2
    assert texts[0].startswith("X has 24 rows and 10 columns: rows are taken for donors")
    assert texts[1].startswith("Relatedness from 9 variants is rough") and "give or take 0.33" in texts[1]
    halved = ad.AnnData(donors.X / 2, obs=donors.obs, var=donors.var)
    with pytest.warns(DonorwiseWarning, match="X has no genotype above 1, where two"):
        dw.pp.relatedness(halved, progress=False)


def test_one_person_twice_and_donors_with_few_genotypes(donors: ad.AnnData) -> None:
    other = donors.copy()
    other.X[20] = other.X[2]
    other.X[22, ::4] = np.nan
    with pytest.warns(DonorwiseWarning) as told:
        dw.pp.relatedness(other, missing=0.2, progress=False)
    texts = [str(w.message) for w in told if w.category is DonorwiseWarning]
    assert len(texts) == 2
    assert "1 donor misses more than 10% of the genotypes: `U7`" in texts[0]
    assert "1 pair of donors has the same genotypes: `F1_child1 = U5`" in texts[1]


def test_no_warning_without_a_reason(donors: ad.AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dw.pp.relatedness(donors, progress=False)
