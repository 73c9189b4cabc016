"""Scans from any form of genotypes, with donors, genes and variants that do not all fit together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._genotypes import as_vcf, write_plink1, write_plink2

import donorwise as dw
from donorwise.errors import DataError, DonorwiseWarning

FORMULA = "~ sex + (1 | donor_id)"


@pytest.fixture(scope="module")
def study() -> tuple[ad.AnnData, ad.AnnData]:
    """Cells of 30 donors and 8 genes, and genotypes of 150 variants, some missing, in another order."""
    cells, genotypes = dw.datasets.simulate_eqtls(
        n_donors=30, n_cells=900, n_genes=8, n_variants=150, n_chromosomes=2, missing=0.02, seed=5
    )
    return cells, genotypes[np.random.default_rng(0).permutation(30)].copy()


def scan(cells: ad.AnnData, genotypes: Any, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """What is in uns, and what was warned of about names and places."""
    cells = cells.copy()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dw.tl.scan(cells, genotypes, FORMULA, **{"progress": False, "missing": 0.1, **options})
    texts = [str(own.message) for own in told if issubclass(own.category, DonorwiseWarning)]
    return cells.uns["scan"], [text for text in texts if not text.startswith("Depth differs")]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("results", "tests", "counts"):
        pd.testing.assert_frame_equal(
            found[name], expected[name], rtol=1e-9, atol=1e-12, check_categorical=False, check_dtype=False
        )


FORMS: dict[str, tuple[str | None, Callable[[ad.AnnData, Path], Any]]] = {
    "frame": (None, lambda g, _: pd.DataFrame(g.X, g.obs_names, g.var_names)),
    "h5ad": (None, lambda g, f: (g.write_h5ad(f / "g.h5ad"), f / "g.h5ad")[1]),
    "bed": ("bed_reader", lambda g, f: write_plink1(f / "g", g)),
    "pgen": ("pgenlib", lambda g, f: write_plink2(f / "g", g)),
    "vcf zarr": ("xarray", lambda g, _: as_vcf(g)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_change_nothing(study: tuple[ad.AnnData, ad.AnnData], form: str, tmp_path: Path) -> None:
    cells, genotypes = study
    package, make = FORMS[form]
    if package is not None:
        pytest.importorskip(package)
    found, told = scan(cells, make(genotypes, tmp_path), variants=genotypes.var if form == "frame" else None)
    expected, _ = scan(cells, genotypes)
    assert_same(found, expected)
    assert told == [] and found["tests"]["a1"].notna().all()


def test_the_effect_is_that_of_a1(study: tuple[ad.AnnData, ad.AnnData]) -> None:
    cells, genotypes = study
    turned = genotypes.copy()
    turned.X = 2 - turned.X
    turned.var = turned.var.rename(columns={"a0": "a1", "a1": "a0"})
    found, expected = scan(cells, turned)[0]["tests"], scan(cells, genotypes)[0]["tests"]
    np.testing.assert_allclose(found["beta"], -expected["beta"], rtol=1e-7)
    np.testing.assert_allclose(found["af"], 1 - expected["af"], rtol=1e-7)
    assert found["a0"].tolist() == expected["a1"].tolist() and found["a1"].tolist() == expected["a0"].tolist()


def test_donors_on_one_side_only(study: tuple[ad.AnnData, ad.AnnData]) -> None:
    cells, genotypes = study
    lost, more = genotypes.obs_names[:3], genotypes.obs_names[5:7]
    fewer = cells[~cells.obs["donor_id"].isin(more)].copy()
    found, told = scan(fewer, genotypes[3:].copy())
    assert told == [
        f"3 of 28 donors have no genotypes, so that their rows are left out: {', '.join(f'`{n}`' for n in cells.obs['donor_id'].unique() if n in lost)}.",
        f"2 of 27 donors with genotypes are not in the data: {', '.join(f'`{n}`' for n in more)}.",
    ]
    both = cells[~cells.obs["donor_id"].isin([*lost, *more])].copy()
    expected, silent = scan(both, genotypes[~genotypes.obs_names.isin([*lost, *more])].copy())
    assert_same(found, expected)
    assert silent == [] and set(found["results"]["n_donors"]) == {25}


def test_what_cannot_be_tested_is_counted_in_the_donors_of_each_group(study: tuple[ad.AnnData, ad.AnnData]) -> None:
    cells, genotypes = study
    G = genotypes.copy()
    half = G.obs_names[:15]
    G.X[:15, 0] = np.nan  # not known in the donors of one arm
    G.X[:, 1] = 1.0
    cells = cells[cells.obs["cell_type"].isin(cells.obs["cell_type"].unique()[:2])].copy()
    first = cells.obs["cell_type"] == cells.obs["cell_type"].unique()[0]
    cells = cells[~(first & cells.obs["donor_id"].isin(half))].copy()
    params = scan(cells, G, groupby="cell_type", maf=0)[0]["params"]
    names = params["left_out_mostly_missing"]["names"]
    lacking = dict(zip(names, params["left_out_mostly_missing"]["values"], strict=True))
    alike = dict(zip(names, params["left_out_all_alike"]["values"], strict=True))
    other = str(cells.obs["cell_type"].unique()[1])
    own = next(name for name in names if name != other)
    G_own = G.X[15:]
    assert lacking[own] == int((np.isnan(G_own).mean(axis=0) > 0.1).sum()) < lacking[other]
    assert lacking[other] == int((np.isnan(G.X).mean(axis=0) > 0.1).sum())
    assert alike[other] >= 1 and alike[own] >= 1


def test_what_has_no_place_is_in_no_window(study: tuple[ad.AnnData, ad.AnnData]) -> None:
    """Neither near one another, nor near the beginning of a chromosome."""
    cells, genotypes = study
    cells, genotypes = cells.copy(), genotypes.copy()
    genes, variants = cells.var_names[:2], genotypes.var_names[:40]
    cells.var["chrom"], genotypes.var["chrom"] = (
        cells.var["chrom"].astype(object),
        genotypes.var["chrom"].astype(object),
    )
    cells.var.loc[genes, "chrom"] = np.nan
    genotypes.var.loc[variants[:20], "chrom"] = np.nan
    genotypes.var["pos"] = genotypes.var["pos"].astype("Int64")
    genotypes.var.loc[variants[20:], "pos"] = pd.NA
    found, told = scan(cells, genotypes, window=10**9)
    assert told == [f"2 of 8 genes have no position, and are tested with no variant: `{genes[0]}`, `{genes[1]}`."]
    assert found["results"].set_index("gene")["status"].astype(str).loc[genes].eq("no_variants").all()
    assert not found["tests"]["variant"].isin(variants).any()
    expected, _ = scan(cells[:, 2:].copy(), genotypes[:, 40:].copy(), window=10**9)
    assert_same({"results": found["results"][2:].reset_index(drop=True)[["variant", "beta", "se"]]} | {k: found[k] for k in ("tests", "counts")},
                {"results": expected["results"][["variant", "beta", "se"]]} | {k: expected[k] for k in ("tests", "counts")})  # fmt: skip


def test_chromosomes_with_and_without_chr(study: tuple[ad.AnnData, ad.AnnData]) -> None:
    cells, genotypes = study
    named = genotypes.copy()
    named.var["chrom"] = "chr" + named.var["chrom"].astype(str)
    found, _ = scan(cells, named)
    expected, _ = scan(cells, genotypes)
    assert set(found["tests"]["chrom"].astype(str)) == {"chr1", "chr2"}
    for own in (found, expected):
        own["tests"], own["results"] = own["tests"].drop(columns="chrom"), own["results"].drop(columns="chrom")
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda g: g.X, r"None of the 30 donors .*These rows have no names: give a DataFrame"),
        (lambda g: pd.DataFrame(g.X.T, g.var_names, g.obs_names), "names of variants: rows are donors, so give its transpose"),
        (lambda g: pd.DataFrame(g.X, g.obs_names, g.var_names), r"needs the chromosome and position .*give variants="),
        (lambda g: pd.DataFrame(np.where(np.isnan(g.X), -9, g.X), g.obs_names), r"chromosome and position"),
        (lambda g: ad.AnnData(np.nan_to_num(g.X, nan=-9), obs=g.obs, var=g.var), r"value -9 .*Missing genotypes are NaN"),
        (lambda g: ad.AnnData(g.X, obs=g.obs, var=g.var.assign(chrom="NC_1")), r"no gene is on a chromosome that has variants"),
        ("nowhere.bed", "There is no file nowhere.bed"),
        ("study.vcf.gz", "PLINK 2 makes a .pgen"),
    ],
)  # fmt: skip
def test_what_is_refused(study: tuple[ad.AnnData, ad.AnnData], given: Any, message: str) -> None:
    cells, genotypes = study
    with pytest.raises(DataError, match=message):
        scan(cells, given(genotypes) if callable(given) else given)
