"""What scans say of input that is not as it should be, and who the donors are that variants belong to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseError

D, V = 40, 12
DONORS = [f"d{i:02d}" for i in range(D)]


def people(cells: int = 1, *, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(D), cells)
    obs = pd.DataFrame(
        {
            "donor_id": np.array(DONORS)[at], "age": rng.normal(size=D)[at], "batch": np.array(["x", "y", "z"])[at % 3],
            "kind": rng.choice(["B", "T"], at.size),
        },
        index=[f"c{i}" for i in range(at.size)],
    )  # fmt: skip
    return ad.AnnData(rng.normal(size=(D, 3))[at] + rng.normal(size=(at.size, 3)), obs=obs)


def genotypes(*, seed: int = 1) -> pd.DataFrame:
    X = np.random.default_rng(seed).binomial(2, 0.4, size=(D, V)).astype(float)
    return pd.DataFrame(X, DONORS, [f"rs{i}" for i in range(V)])


def scan(adata: ad.AnnData, X: Any, formula: str = "~ age", **options: Any) -> dict[str, Any]:
    adata = adata.copy()
    dw.tl.scan(adata, X, formula, **{"mode": "gwas", "donor": "donor_id", "progress": False, **options})
    return dict(adata.uns["scan"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"window": "1e6"}, r"window='1e6' must be a number of base pairs"),
        ({"window": -5}, r"window=-5 must be"),
        ({"maf": "5%"}, r"maf='5%' must be a number between 0 and 0.5"),
        ({"maf": None}, r"maf=None must be a number"),
        ({"missing": np.nan}, r"missing=nan must be a number between 0 and 1"),
        ({"screen": None}, r"screen=None must be a number"),
        ({"p_max": "small"}, r"p_max='small' must be a number"),
        ({"n_permutations": 10.5}, r"n_permutations=10.5 must be a number of permutations"),
        ({"seed": -1}, r"seed=-1 must be a whole number"),
        ({"seed": None}, r"seed=None must be a whole number"),
    ],
)
def test_options_that_are_none(option: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        scan(people(), genotypes(), **option)


def test_numpy_numbers_are_numbers() -> None:
    found = scan(
        people(), genotypes(), maf=np.float32(0.01), seed=np.int64(3), p_max=np.float64(0.5), window=np.int32(9)
    )
    assert (found["tests"]["p_value"] <= 0.5).all()


def test_one_row_each_with_a_batch() -> None:
    """The donors are those that are named, not the levels of the only random term."""
    found = scan(people(), genotypes(), "~ age + (1 | batch)", refit="all")["tests"].set_index(["gene", "variant"])
    adata, X = people(), genotypes()
    obs = adata.obs.reset_index(drop=True).assign(rs3=X["rs3"].to_numpy())
    tests = dw.fit_lmm(np.asarray(adata.X), obs, "~ age + rs3 + (1 | batch)").test("rs3", ddf="between-within")
    for gene, estimate in zip(adata.var_names, tests["estimate"], strict=True):
        assert found.loc[(gene, "rs3"), "beta"] == pytest.approx(estimate, rel=1e-5)


def test_the_donor_of_the_data_comes_before_a_batch() -> None:
    found = scan(people(), genotypes(), "~ age + (1 | batch)", donor=None)
    assert found["params"]["donor"] == "donor_id"


@pytest.mark.parametrize("formula", ["~ age + (1 | batch)", "~ age + (1 | donor_id:batch)"])
def test_cells_need_a_term_of_the_named_donors(formula: str) -> None:
    with pytest.raises(DesignError, match=r"has the donors \('donor_id'\) .* add \(1 \| donor_id\)"):
        scan(people(5), genotypes(), formula)


def test_columns_that_are_not_there() -> None:
    with pytest.raises(DesignError, match=r"no column 'donorid' .*did you mean `donor_id`\?"):
        scan(people(), genotypes(), donor="donorid")
    obs = people().obs.set_index("donor_id")
    with pytest.raises(DesignError, match=r"make a column of its index, obs\['donor_id'\] = obs.index"):
        dw.scan_variants(people().X, obs, genotypes(), "~ age", donor="donor_id")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda X: X.iloc[:0], r"which are of nobody; .*There are no donors at all"),
        (lambda X: X.set_axis([f"site:{name}" for name in X.index]), r"has behind its last `:` the name `d00`"),
    ],
)
def test_genotypes_of_nobody(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scan(people(), given(genotypes()))


def test_no_variant_can_be_tested(caplog: pytest.LogCaptureFixture) -> None:
    X = genotypes()
    X.iloc[:, :2] = 1.0
    X.iloc[:, 2:5] = np.nan
    found = scan(people(), X, maf=0.5)
    assert set(found["results"]["status"]) == {"no_variants"}
    assert "no variant can be tested: 3 missing in too many donors; 2 the same in all donors; 7 rare" in caplog.text


def test_groups_without_tests_make_no_noise() -> None:
    """Tables of groups, of which one has nothing, are put together without a word from pandas."""
    adata = people(6)
    few = (adata.obs["kind"] == "B") | (adata.obs["donor_id"] == "d00")
    adata = adata[few.to_numpy()].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", FutureWarning)
        found = scan(adata, genotypes(), "~ age + (1 | donor_id)", groupby="kind")
    leads = found["results"].set_index("group")
    assert set(leads.loc["T", "status"]) == {"not_estimable"}
    assert set(leads.loc["B", "status"]) == {"ok"}
    assert set(found["tests"]["group"]) == {"B"}


def test_paths_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    ad.AnnData(genotypes()).write_h5ad(tmp_path / "home" / "g.h5ad")
    found = scan(people(), "~/g.h5ad", out="~/scan")
    assert found["params"]["out"] == str(tmp_path / "home" / "scan")
    assert len(dw.get.scan("~/scan", level="variant")) == 3 * V
    assert not list((tmp_path / "here").iterdir())


def test_a_kernel_that_lacks_donors() -> None:
    """Also one that says nothing else than that its donors are different."""
    K = pd.DataFrame(np.eye(D), DONORS, DONORS)
    with pytest.raises(DesignError, match=r"The kernel `grm` lacks 5 of the 40 levels in use"):
        scan(people(), genotypes(), "~ age + (1 | gr(donor_id, cov=grm))", kernels={"grm": K.iloc[:35, :35]})
    found = scan(people(), genotypes(), "~ age + (1 | gr(donor_id, cov=grm))", kernels={"grm": K})
    pd.testing.assert_frame_equal(found["tests"], scan(people(), genotypes())["tests"])


def test_levels_without_an_intercept() -> None:
    adata = people()
    adata.obs["sex"] = np.tile(["f", "m"], D // 2)
    with pytest.raises(DesignError, match=r"`sex\[f\]`, `sex\[m\]`.*without an intercept .* write it with one"):
        scan(adata, genotypes(), "~ 0 + sex + age", interaction="sex")
    with pytest.raises(DesignError, match=r"Keep two of the levels"):
        scan(adata, genotypes(), "~ batch", interaction="batch")


@pytest.mark.parametrize("placed", [True, False])
def test_variants_without_a_name_of_their_own(placed: bool) -> None:
    """Those of a dot are called by their place, as in files; a plot finds those of one name by it."""
    from donorwise.pl._scan_genotypes import dosages

    X = genotypes()
    var = pd.DataFrame(
        {"chrom": np.repeat(["1", "chr2"], V // 2), "pos": np.tile(np.arange(V // 2) * 10, 2), "a0": "A", "a1": "G"}
    )
    var.index = ["." if placed else "same"] * V
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that repeat
        G = ad.AnnData(X.to_numpy(), obs=pd.DataFrame(index=DONORS), var=var)
    tests = scan(people(), G, maf=0)["tests"]
    own = tests[tests["gene"] == tests["gene"].iloc[0]]
    places = [f"{c}:{p}:A:G" for c, p in zip(var["chrom"], var["pos"], strict=True)]
    assert own["variant"].tolist() == (places if placed else ["same"] * V)
    np.testing.assert_array_equal(dosages(G, own).to_numpy(), X.to_numpy())


def test_no_window_is_all_variants() -> None:
    for mode in ("cis", "gwas"):
        found = scan(people(), genotypes(), mode=mode, window=None)
        assert found["params"]["mode"] == {"cis": "trans", "gwas": "gwas"}[mode]
        assert (found["results"]["n_variants"] == V).all()


def test_arrays_have_genes_of_their_own() -> None:
    genes = pd.DataFrame({"start": [5, 6]}, index=["y1", "y2"])
    variants = pd.DataFrame({"chrom": "1", "pos": range(V), "a0": "A", "a1": "C"}, index=[f"rs{i}" for i in range(V)])
    obs = pd.DataFrame({"donor_id": DONORS})
    with pytest.raises(DataError, match=r"^genes "):
        dw.scan_variants(
            np.ones((D, 2)), obs, genotypes(), "~ 1", genes=genes, variants=variants, donor="donor_id", mode="cis"
        )
