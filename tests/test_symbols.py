"""Features by their symbols: shown, found and written as those of var_names are; cutoffs of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._batch import run

import donorwise as dw
from donorwise._anndata.symbols import read_symbols
from donorwise.errors import DataError, DonorwiseError

MIXED = "~ condition + (1 | donor_id)"
CONTRAST = "condition[T.disease]"
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    """Features ENSG..., the first two with one symbol, the third without, the fourth with the name of the fifth."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=500, n_genes=30, effect_size=2.0, de_fraction=0.3, seed=1)
    adata.obsm["scores"] = pd.DataFrame({"s1": adata.X[:, 0].toarray().ravel()}, index=adata.obs_names)
    adata.var_names = [f"ENSG{i:03}" for i in range(30)]
    names: list[Any] = [f"SYM{i}" for i in range(30)]
    names[1], names[2], names[3] = "SYM0", np.nan, "ENSG004"
    adata.var["gene_name"] = names
    adata.var["p_value"] = [f"P{i}" for i in range(30)]
    adata.uns["truth"] = {}
    dw.tl.lmm(adata, MIXED, groupby="cell_type", ddf="kenward-roger", progress=False)
    dw.tl.influence(adata, variables=list(adata.var_names[:6]), progress=False)
    return adata


def test_what_features_are_called(fitted: ad.AnnData) -> None:
    symbols = read_symbols(fitted, "gene_name")
    called = {name: symbols.label(name) for name in fitted.var_names}
    assert len(set(called.values())) == len(called)
    assert [called[f"ENSG00{i}"] for i in range(6)] == [
        "SYM0 (ENSG000)", "SYM0 (ENSG001)", "ENSG002", "ENSG004", "SYM4", "SYM5",
    ]  # fmt: skip
    assert symbols.find(["SYM0", "SYM5", "ENSG002"]) == ["ENSG000", "ENSG001", "ENSG005", "ENSG002"]
    assert symbols.find("SYM0 (ENSG001)") == ["ENSG001"]
    assert symbols.find("ENSG004") == ["ENSG003"]  # a symbol goes before a name
    assert symbols.find("ENSG006") == ["ENSG006"]
    with pytest.raises(DataError, match=r"2 features have the symbol 'SYM0': name one, 'SYM0 \(ENSG000\)'"):
        symbols.find_one("SYM0")
    with pytest.raises(DataError, match=r"No feature is called 'SYM55' in var\['gene_name'\]. Did you mean"):
        symbols.find("SYM55")


@pytest.mark.parametrize(
    ("names", "symbols", "labels"),
    [
        (["A", "A-1"], ["A", "A"], ["A", "A (A-1)"]),
        (["a", "b", "c"], ["X", "X", "X (a)"], None),
        (["a", "b"], ["", "  "], ["a", "b"]),
        (["a", "b"], [pd.NA, None], ["a", "b"]),
        (["a", "b"], ["b", np.nan], None),
        (["a", "b"], pd.Categorical(["t", "t"]), ["t (a)", "t (b)"]),
        (["a", "b"], [1, 2], ["1", "2"]),
    ],
)
def test_no_two_are_called_alike(names: list[str], symbols: Any, labels: list[str] | None) -> None:
    adata = ad.AnnData(np.ones((2, len(names))), var=pd.DataFrame({"symbol": symbols}, index=names))
    found = list(read_symbols(adata, "symbol").labels.values())
    assert len(set(found)) == len(names)
    assert labels is None or found == labels


READERS: dict[str, Any] = {
    "tests": lambda a, **o: dw.get.tests(a, **o),
    "varcomp": lambda a, **o: dw.get.varcomp(a, **o),
    "icc": lambda a, **o: dw.get.icc(a, **o),
    "variance_partition": lambda a, **o: dw.get.variance_partition(a, **o),
    "ranef": lambda a, **o: dw.get.ranef(a, **o),
    "influence": lambda a, **o: dw.get.influence(a, **o),
    "influence by donor": lambda a, **o: dw.get.influence(a, by="donor", **o),
}


@pytest.mark.parametrize("reader", READERS)
def test_tables_have_symbols_beside_the_names(fitted: ad.AnnData, reader: str) -> None:
    named = READERS[reader](fitted, variables=["SYM4", "SYM0"], gene_symbols="gene_name")
    plain = READERS[reader](fitted, variables=["ENSG004", "ENSG000", "ENSG001"])
    assert list(named.columns[:2]) == ["variable", "gene_name"]
    pd.testing.assert_frame_equal(named.drop(columns="gene_name"), plain)
    pairs = set(zip(named["variable"].astype(str), named["gene_name"].astype(str), strict=True))
    assert pairs == {("ENSG000", "SYM0 (ENSG000)"), ("ENSG001", "SYM0 (ENSG001)"), ("ENSG004", "SYM4")}


def test_a_column_called_as_one_of_ours(fitted: ad.AnnData) -> None:
    table = dw.get.tests(fitted, variables="P3", gene_symbols="p_value")
    assert table["symbol"].unique().tolist() == ["P3"]
    assert table["p_value"].between(0, 1).all()


def test_exports_call_features_by_symbols(fitted: ad.AnnData) -> None:
    wide = dw.get.matrix(fitted, contrast=CONTRAST, gene_symbols="gene_name")
    plain = dw.get.matrix(fitted, contrast=CONTRAST)
    assert list(wide.columns[:4]) == ["SYM0 (ENSG000)", "SYM0 (ENSG001)", "ENSG002", "ENSG004"]
    np.testing.assert_array_equal(wide.to_numpy(), plain.to_numpy())
    adata = fitted.copy()
    dw.get.to_rank_genes_groups(adata, contrast=CONTRAST, gene_symbols="gene_name")
    named = adata.uns["rank_genes_groups"]["names"]["T cell"]
    dw.get.to_rank_genes_groups(adata, contrast=CONTRAST)
    symbols = read_symbols(adata, "gene_name")
    assert named.tolist() == [symbols.label(n) for n in adata.uns["rank_genes_groups"]["names"]["T cell"]]


def _texts(figure: Any) -> set[str]:
    import matplotlib.text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


PLOTS: dict[str, Any] = {
    "volcano": lambda a, **o: dw.pl.volcano(a, group="T cell", labels="SYM4", **o),
    "ma": lambda a, **o: dw.pl.ma(a, group="T cell", labels="SYM4", **o),
    "forest": lambda a, **o: dw.pl.forest(a, ["SYM4", "SYM5"], group="T cell", **o),
    "forest of one": lambda a, **o: dw.pl.forest(a, "SYM4", contrast=CONTRAST, **o),
    "heatmap": lambda a, **o: dw.pl.heatmap(a, ["SYM4", "SYM5"], contrast=CONTRAST, **o),
    "heatmap of the top": lambda a, **o: dw.pl.heatmap(a, n_variables=30, contrast=CONTRAST, **o),
    "ranef": lambda a, **o: dw.pl.ranef(a, "SYM4", group="T cell", **o),
    "donors": lambda a, **o: dw.pl.donors(a, "SYM4", group="T cell", **o),
    "influence": lambda a, **o: dw.pl.influence(a, "SYM4", group="T cell", **o),
}


@pytest.mark.parametrize("plot", PLOTS)
def test_plots_show_symbols(fitted: ad.AnnData, plot: str) -> None:
    words = _texts(PLOTS[plot](fitted, gene_symbols="gene_name", return_fig=True))
    assert any("SYM4" in text for text in words)
    assert not any("ENSG005" in text for text in words)


def test_trajectories_show_symbols() -> None:
    adata = dw.datasets.simulate_cohort("longitudinal", n_donors=6, n_cells=300, n_genes=5, seed=1)
    adata.var["name"] = [f"S{i}" for i in range(5)]
    dw.tl.lmm(adata, "~ time * arm + (1 | donor_id)", progress=False)
    assert "S2" in dw.pl.trajectories(adata, "S2", x="time", gene_symbols="name").get_title()


def test_summaries_of_named_features(fitted: ad.AnnData) -> None:
    for plot, names in ((dw.pl.icc, {}), (dw.pl.variance_partition, {"SYM4": "ENSG004", "SYM5": "ENSG005"})):
        words = _texts(plot(fitted, variables=["SYM4", "SYM5"], gene_symbols="gene_name", return_fig=True))
        assert {names.get(word, word) for word in words} == set(
            _texts(plot(fitted, variables=["ENSG004", "ENSG005"], return_fig=True))
        )


def test_symbols_are_those_of_var(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    dw.tl.lmm(adata, MIXED, obsm="scores", key_added="scores", progress=False)
    with pytest.raises(DataError, match="gene_symbols= renames features of var, and the responses are obsm/scores"):
        dw.get.tests(adata, key="scores", gene_symbols="gene_name")
    with pytest.raises(DataError, match="adata.var has no column 'gene'. Did you mean 'gene_name'?"):
        dw.pl.volcano(adata, gene_symbols="gene")
    with pytest.raises(DataError, match="No feature is called 'nobody'"):
        dw.pl.volcano(adata, gene_symbols="gene_name", labels="nobody")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".h5ad"])
def test_commands_write_and_show_symbols(fitted: ad.AnnData, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    path, out = tmp_path / "cells.h5ad", tmp_path / f"results{ending}"
    adata = fitted.copy()
    adata.uns.clear()
    adata.write_h5ad(path)
    options = ["--formula", MIXED, "--groupby", "cell_type", "--gene-symbols", "gene_name"]
    assert run("lmm", path, *options, "--out", out).exit_code == 0
    if ending == ".csv":
        table = pd.read_csv(out)
        assert list(table.columns[:3]) == ["variable", "gene_name", "group"]
        assert set(table.loc[table["variable"] == "ENSG001", "gene_name"]) == {"SYM0 (ENSG001)"}
    elif ending == ".h5ad":
        assert "SYM0 (ENSG001)" in dw.get.tests(ad.read_h5ad(out), gene_symbols="gene_name")["gene_name"].tolist()
    shown = run("report", out, "--gene-symbols", "gene_name", "--top", 30, "--plots", tmp_path / "plots")
    assert shown.exit_code == 0, shown.output
    assert "SYM0 (ENSG001)" in shown.output
    assert "ENSG006" not in shown.output
    assert "SYM6" not in run("report", out, "--top", 30).output
    refused = run("lmm", path, *options[:-1], "gene", "--out", tmp_path / "no.csv")
    assert refused.exit_code == 2
    assert "adata.var has no column 'gene'" in refused.output


def test_cutoffs_choose_tests(fitted: ad.AnnData) -> None:
    everything = dw.get.tests(fitted, sort_by=None)
    cutoff = float(everything.loc[everything["adj_p_value"] <= 0.2, "log_fc"].abs().median())
    found = dw.get.tests(fitted, alpha=0.2, min_log_fc=cutoff, sort_by=None)
    kept = (everything["adj_p_value"] <= 0.2) & (everything["log_fc"].abs() >= cutoff)
    assert 0 < len(found) < (everything["adj_p_value"] <= 0.2).sum()
    pd.testing.assert_frame_equal(found, everything[kept].reset_index(drop=True), check_categorical=False)
    assert len(dw.get.tests(fitted, alpha=0)) == 0
    assert len(dw.get.tests(fitted, min_log_fc=0)) == everything["log_fc"].notna().sum()


@pytest.mark.parametrize(
    "options", [{"alpha": 2}, {"alpha": "0.05"}, {"alpha": True}, {"min_log_fc": -1}, {"min_log_fc": np.nan}]
)
def test_what_is_no_cutoff(fitted: ad.AnnData, options: dict[str, Any]) -> None:
    for reader in (dw.get.tests, dw.pl.volcano, dw.pl.ma, dw.pl.forest, dw.pl.heatmap):
        with pytest.raises(DonorwiseError, match=f"{next(iter(options))}=.* must be a number"):
            reader(fitted, **options)


def test_fold_changes_that_are_not_there(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    dw.tl.lmm(adata, MIXED, obsm="scores", progress=False)
    with pytest.raises(DataError, match="min_log_fc= needs log2 fold changes, and these tests have none"):
        dw.get.tests(adata, min_log_fc=1)


def test_plots_highlight_by_both_cutoffs(fitted: ad.AnnData) -> None:
    found = dw.get.tests(fitted, contrast=CONTRAST, group="T cell", alpha=0.5)["log_fc"].abs()
    cutoffs = {"alpha": 0.5, "min_log_fc": float(found.median())}
    hits = dw.get.tests(fitted, contrast=CONTRAST, group="T cell", **cutoffs)
    counts = f"{(hits['log_fc'] > 0).sum():,} up"
    assert 0 < len(hits) < len(found)
    for plot in (dw.pl.volcano, dw.pl.ma):
        assert counts in _texts(plot(fitted, group="T cell", return_fig=True, **cutoffs))
    ax = dw.pl.volcano(fitted, group="T cell", **cutoffs)
    assert {-cutoffs["min_log_fc"], cutoffs["min_log_fc"]} <= {line.get_xdata()[0] for line in ax.lines}
    dots = dw.pl.heatmap(fitted, group="T cell", contrast=CONTRAST, n_variables=30, **cutoffs).collections[1]
    assert len(dots.get_offsets()) == len(hits)


def test_a_table_without_its_record_is_reported(fitted: ad.AnnData, tmp_path: Path) -> None:
    table = dw.get.tests(fitted, sort_by=None).drop(columns="max_p_loo")
    table.to_csv(tmp_path / "alone.csv", index=False)
    said = run("report", tmp_path / "alone.csv", "--plots", tmp_path / "plots")
    assert said.exit_code == 0, said.output
    assert len(list((tmp_path / "plots").glob("*.png"))) == 1
