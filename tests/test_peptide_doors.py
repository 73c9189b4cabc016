"""Peptides through every door: the tool, the accessor and the command, from any container, and back from what is stored."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests._batch import run
from tests._peptide_data import FORMULA, WEIGHTED, peptides

import donorwise as dw
from donorwise._anndata import keys, open_source, read_params, read_results, write_results
from donorwise._anndata.recover import recover
from donorwise._core.engine.run import Memory
from donorwise._core.engine.run import run as run_analysis
from donorwise.errors import DataError, DesignError, DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
QUIET: dict[str, Any] = {"progress": False}
WITHOUT_VALUES = 0.0


def fitted(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> ad.AnnData:
    dw.tl.lmm(adata, formula, **{**WEIGHTED, **QUIET, **options})
    return adata


def table_of(adata: ad.AnnData, **options: Any) -> pd.DataFrame:
    return dw.get.tests(fitted(adata, **options), sort_by=None)


# ---------------------------------------------------------------- results


def test_every_protein_has_its_row() -> None:
    adata = peptides()
    table = table_of(adata).set_index("variable")
    assert list(table.index) == list(dict.fromkeys(adata.var["protein"].dropna()))
    assert list(table.columns[-4:]) == ["n_obs", *keys.PEPTIDE_COLUMNS]
    assert table.loc["P0", ["status", "formula"]].tolist() == ["reduced", "~ condition + (1 | donor_id)"]
    assert table.loc["P1", "status"] == "not_estimable" and table.loc["P2", "status"] in ("ok", "boundary")
    used = np.isfinite(adata.X) & (adata.layers["weights"] > 0)
    for name, row in table.iterrows():
        own = used[:, (adata.var["protein"] == name).to_numpy()]
        assert (row["n_obs"], row["n_peptides"], row["n_missing"]) == (own.sum(), own.any(axis=0).sum(), (~own).sum())
    np.testing.assert_array_equal(table["log_fc"], table["estimate"])


def test_params_say_what_was_asked() -> None:
    adata = fitted(peptides(), layer=None, mask_var="some", weights="quality")
    params = read_params(adata)
    expected = {**WEIGHTED, "mask_var": "some", "weights": "quality", "robust": "", "observations": "peptides"}
    assert {name: params[name] for name in expected} == expected and params["log_base"] == 2


def test_log_base() -> None:
    """Intensities are log2 unless it is said, or noted of X, that they are others."""
    adata = peptides()
    two, e = (table_of(adata, log_base=base)["log_fc"] for base in (None, "e"))
    np.testing.assert_allclose(e, two * np.log2(np.e), rtol=1e-12)
    adata.layers["other"] = adata.X.copy()
    adata.uns["log1p"] = {"base": None}
    np.testing.assert_array_equal(table_of(adata)["log_fc"], e)
    np.testing.assert_array_equal(table_of(adata, layer="other")["log_fc"], two)


# ---------------------------------------------------------------- containers


def _stored(adata: ad.AnnData, path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr's formats
        (adata.write_h5ad if path.suffix == ".h5ad" else adata.write_zarr)(path)
    return open_source(path)


def _columns(adata: ad.AnnData, form: Any) -> ad.AnnData:
    out = adata.copy()
    out.X, out.layers["weights"] = form(adata.X), form(adata.layers["weights"])
    return out


@pytest.mark.parametrize("form", [np.asfortranarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("place", ["memory", "a.h5ad", "a.zarr", "backed"])
def test_containers_give_the_same(form: Any, place: str, tmp_path: Path) -> None:
    """X and weights in one form or the other; a stored NaN of a sparse X is missing, and a zero is a value."""
    adata = peptides(n_proteins=6)
    adata.layers["weights"] = np.nan_to_num(adata.layers["weights"])
    adata.X[2, 5:7] = WITHOUT_VALUES
    expected = table_of(adata)
    other = _columns(adata, form)
    del other.uns["lmm"]
    if place == "backed":
        other.write_h5ad(tmp_path / "b.h5ad")
        other = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    elif place != "memory":
        other = _stored(other, tmp_path / place)
    pd.testing.assert_frame_equal(table_of(other), expected, check_exact=True)


def test_whole_numbers() -> None:
    adata = peptides(n_proteins=6)
    adata.X = np.nan_to_num(np.round(100 * adata.X), nan=2000)
    adata.layers["weights"] = (np.nan_to_num(adata.layers["weights"]) * 4).astype(int)
    expected = table_of(adata)
    adata.X, adata.layers["weights"] = adata.X.astype(np.int32), adata.layers["weights"].astype(np.uint8)
    pd.testing.assert_frame_equal(table_of(adata), expected, check_exact=True)


def test_views_and_the_order_of_peptides() -> None:
    adata = peptides()
    rng = np.random.default_rng(1)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)]
    expected = table_of(adata).set_index("variable")
    found = table_of(shuffled.copy()).set_index("variable")
    numbers = ["estimate", "se", "df", "p_value", "n_obs", "n_peptides", "n_missing"]
    order = list(expected.index.astype(str))
    pd.testing.assert_frame_equal(
        found.set_axis(found.index.astype(str)).loc[order, numbers],
        expected.set_axis(expected.index.astype(str))[numbers],
        rtol=1e-8,
        check_names=False,
    )


# ---------------------------------------------------------------- what is stored


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_results_survive_a_file(kind: str, tmp_path: Path) -> None:
    adata = fitted(peptides(), groupby="instrument")
    path = tmp_path / f"a.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(adata, f"write_{kind}")(path)
        again = getattr(ad, f"read_{kind}")(path)
    for name in keys.TABLES:
        one, other = (getattr(read_results(a), name) for a in (adata, again))
        pd.testing.assert_frame_equal(other, one, check_exact=True)
    assert read_params(again) == read_params(adata)


def test_proteins_stay_while_they_have_a_peptide() -> None:
    adata = fitted(peptides())
    some = adata[:, adata.var["protein"].isin(["P2", "P4"])].copy()
    assert set(dw.get.tests(some)["variable"]) == set(dw.get.varcomp(some)["variable"]) == {"P2", "P4"}
    with pytest.raises(DataError, match=r"None of the features of the result 'lmm' is in adata\.var any more"):
        dw.get.tests(adata[:, adata.var["protein"].isna()].copy())
    other = adata.copy()
    other.var = other.var.drop(columns="protein")
    assert len(dw.get.tests(other)) == len(dw.get.tests(adata))  # var does not say which are gone


def test_symbols_are_those_of_the_peptides() -> None:
    adata = fitted(peptides())
    assert dw.get.tests(adata, gene_symbols="Genes", variables="gene 3")["variable"].tolist() == ["P3"]
    adata.var.loc[adata.var.index[adata.var["protein"] == "P3"][0], "Genes"] = "other"
    adata.var.loc[adata.var["protein"] == "P4", "Genes"] = ""
    labels = dw.get.tests(adata, gene_symbols="Genes", sort_by=None).set_index("variable")["Genes"]
    assert labels[["P2", "P3", "P4"]].tolist() == ["gene 2", "other;gene 3", "P4"]


def test_exports_are_of_proteins() -> None:
    adata = fitted(peptides())
    assert set(dw.get.matrix(adata).columns) <= set(adata.var["protein"].dropna())
    dw.get.to_rank_genes_groups(adata)
    names = [row[0] for row in adata.uns["rank_genes_groups"]["names"]]
    assert sorted(names) == sorted(adata.var["protein"].dropna().unique())
    dw.get.to_varm(adata)
    entry, table = adata.varm["lmm_condition[T.control]"], dw.get.tests(adata).set_index("variable")
    assert list(entry.index) == list(adata.var_names) and np.isnan(entry["estimate"].iloc[-1])
    own = entry[(adata.var["protein"] == "P2").to_numpy()]["estimate"]
    assert (own == table.loc["P2", "estimate"]).all()
    adata.var = adata.var.drop(columns="protein")
    with pytest.raises(DataError, match=r"whose names were in var\['protein'\]"):
        dw.get.to_varm(adata)


# ---------------------------------------------------------------- once more

AGAIN: list[dict[str, Any]] = [
    {},
    {"ddf": "kenward-roger", "reml": False, "groupby": "instrument"},
    {"weights_layer": None, "weights": "quality", "mask_var": "some", "layer": "other", "log_base": "e"},
    {"formula": "~ condition * charge + (1 | peptide) + (1 | donor_id)", "contrasts": ("charge", "3", "2")},
]


@pytest.mark.parametrize("options", AGAIN)
def test_an_analysis_is_made_again_from_its_params(options: dict[str, Any]) -> None:
    adata = peptides()
    adata.layers["other"] = adata.X + 1
    stored = read_results(fitted(adata, **options))
    again = run_analysis(recover(adata, "lmm").analysis, Memory())
    write_results(adata, "again", params=again.params, **again.tables)
    assert read_params(adata, "again") == read_params(adata)
    for name in keys.TABLES:
        made = getattr(read_results(adata, "again"), name)
        pd.testing.assert_frame_equal(made, getattr(stored, name), check_exact=True)
    few = recover(adata, "lmm", variables=["P3", "P2"]).analysis
    assert few.variables == ("P3", "P2")


def test_what_cannot_be_made_again() -> None:
    adata = fitted(peptides())
    with pytest.raises(DataError, match="'P2' has 1 of the . peptides that it had. Run dw.tl.lmm again"):
        keep = (adata.var["protein"] != "P2") | ~adata.var["protein"].duplicated()
        recover(adata[:, keep.to_numpy()].copy(), "lmm")
    with pytest.raises(DataError, match="it has 9 cells and had 12"):
        recover(adata[3:].copy(), "lmm")
    fitted(adata, mask_var=adata.var["some"].to_numpy())
    with pytest.raises(DataError, match="mask_var= from an array, which is not stored"):
        recover(adata, "lmm")
    fitted(adata, weights=adata.obs["quality"].to_numpy())
    with pytest.raises(DataError, match="weights from an array"):
        recover(adata, "lmm")
    assert recover(adata, "lmm", weights=adata.obs["quality"].to_numpy()).analysis.weights == keys.ARRAY_WEIGHTS


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"obsm": "scores"}, "does not go with obsm=: leave it out"),
        ({"kernels": {}, "levels": []}, "does not go with kernels=, levels=: leave them out"),
        ({"obs_keys": "quality"}, "does not go with obs_keys="),
        ({"features": None}, r"weights_layer='weights' .* goes with features="),
        ({"features": None, "weights_layer": None, "robust": "huber"}, "robust='huber' goes with features="),
        ({"robust": "tukey"}, "robust='tukey' is not an option; choose one of 'huber'"),
        ({"features": "Protein"}, r"adata\.var has no such column\. Did you mean 'protein'"),
        ({"weights_layer": "weight"}, r"no such layer\. Did you mean 'weights'"),
        ({"log_base": 0}, "is no base of a logarithm"),
        ({"formula": "~ condition"}, "has no random term"),
        ({"formula": "~ condition + (quality | peptide) + (1 | donor_id)", "robust": "huber"}, r"has 2: write \(1 \| peptide\)"),
        ({"formula": "~ condition + (1 | gr(donor_id, cov=K)) + (1 | peptide)"}, r"Write `\(1 \| donor_id\)`"),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], text: str) -> None:
    adata = peptides(n_proteins=3)
    with pytest.raises(DonorwiseError, match=text):
        fitted(adata, **options)
    assert "lmm" not in adata.uns


def test_peptides_of_collapsed_rows_and_without_features() -> None:
    rows = dw.pp.collapse(dw.datasets.simulate_cohort(n_cells=200, n_genes=5), ["donor_id"], progress=False)
    rows.var["protein"] = "P"
    with pytest.raises(DataError, match="needs every measurement of a peptide"):
        dw.tl.lmm(rows, FORMULA, features="protein", **QUIET)
    adata = peptides(n_proteins=3)
    for ask in (lambda f: dw.tl.lmm(adata, f, **QUIET), adata.donorwise.audit):
        for formula, what in (
            (FORMULA, "what the names of var are called"),
            ("~ charge + (1 | donor_id)", "a column of var"),
        ):
            with pytest.raises(DesignError, match=rf"it is {what} in a model of peptides: give features="):
                ask(formula)


# ---------------------------------------------------------------- doors


def test_the_audit_looks_at_runs_peptides_and_values() -> None:
    adata = peptides()
    adata.X[0, :3] = 0
    report = adata.donorwise.audit("~ condition * charge + (1 | peptide) + (1 | donor_id)", **WEIGHTED)
    assert "12 runs of 6 donors" in repr(report) and "condition[T.control]: these 12 runs are 6 replicates" in repr(
        report
    )
    assert any("exactly 0" in text for text in report.warnings)
    assert any(
        "count as replicates" in text
        for text in adata.donorwise.audit("~ condition + (1 | peptide)", **WEIGHTED).warnings
    )
    with pytest.raises(DesignError, match="generalised models take counts"):
        adata.donorwise.audit(FORMULA, features="protein", family="nb")


def test_tables_of_the_command(tmp_path: Path) -> None:
    adata = peptides()
    adata.write_h5ad(tmp_path / "a.h5ad")
    more = ["--formula", FORMULA, "--features", "protein", "--weights-layer", "weights", "--gene-symbols", "Genes"]
    expected = table_of(adata, groupby="instrument")
    for kind in ("csv", "parquet"):
        out = tmp_path / f"out.{kind}"
        assert run("lmm", tmp_path / "a.h5ad", *more, "--groupby", "instrument", "--out", out).exit_code == 0
        table = pd.read_csv(out, float_precision="round_trip") if kind == "csv" else pd.read_parquet(out)
        assert list(table.columns) == ["variable", "Genes", *expected.columns[1:]]
        for name in ("estimate", "p_value", *keys.PEPTIDE_COLUMNS[:2]):
            np.testing.assert_array_equal(table[name], expected[name])
        assert table["formula"].astype(str).tolist() == expected["formula"].astype(str).tolist()
        report = run("report", out, "--gene-symbols", "Genes").output
        assert "- features: `protein`" in report and "n_peptides" in report and "gene 2" in report
    again = run("lmm", tmp_path / "a.h5ad", *more, "--groupby", "instrument", "--out", out, "--resume")
    assert again.exit_code == 0
    refused = run("lmm", tmp_path / "a.h5ad", *more[:4], "--groupby", "instrument", "--out", out, "--resume")
    assert refused.exit_code == 2 and "weights_layer" in refused.output


def test_the_plan_of_the_command(tmp_path: Path) -> None:
    adata = peptides()
    adata.write_zarr(tmp_path / "a.zarr")
    more = ["--formula", FORMULA, "--features", "protein", "--weights-layer", "weights"]
    plan = run("lmm", tmp_path / "a.zarr", *more, "--out", tmp_path / "out.h5ad", "--dry-run")
    assert plan.exit_code == 0 and "12 runs of 6 donors" in plan.output and "x 12 features of X" in plan.output
    audit = run("audit", tmp_path / "a.zarr", *more)
    assert audit.exit_code == 0 and audit.output.strip() in plan.output


def test_a_column_that_no_run_has() -> None:
    adata = dw.datasets.simulate_peptides(n_proteins=5, seed=1)
    adata.obs["condition"] = np.nan
    with pytest.raises(DonorwiseError, match="`condition` is missing in each of the 8 runs"):
        dw.tl.lmm(adata, "~ condition + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
