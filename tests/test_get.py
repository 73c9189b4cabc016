"""Tables out of an AnnData, against the engine and against scanpy."""

from __future__ import annotations

from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from tests._models import FORMULA, model

import donorwise as dw
from donorwise._anndata import keys
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture
def fitted() -> ad.AnnData:
    return model("weighted")


def test_lmm_rows_and_columns(fitted: ad.AnnData) -> None:
    table = dw.get.tests(fitted)
    assert tuple(table.columns) == keys.RESULT_COLUMNS
    assert len(table) == 30 * 3 * 2
    tested = table["p_value"].dropna()
    assert tested.is_monotonic_increasing
    assert table["p_value"].isna().sum() == 6
    assert table["p_value"].tail(6).isna().all(), "missing values come last"
    assert list(dw.get.tests(fitted, sort_by=None)["variable"].unique()) == list(fitted.var_names)
    down = dw.get.tests(fitted, sort_by="estimate", ascending=False)["estimate"].dropna()
    assert down.is_monotonic_decreasing
    table["estimate"] = 0.0
    assert dw.get.tests(fitted)["estimate"].abs().sum() > 0, "the caller's copy is the caller's"


@pytest.mark.parametrize(
    ("options", "n_rows"),
    [
        ({"contrast": "age"}, 90),
        ({"group": ["B cell", "T/NK cell"]}, 120),
        ({"variables": "gene_0005", "contrast": "age", "group": "B cell"}, 1),
        ({"status": "constant"}, 6),
        ({"status": ["constant", "ok", "boundary"]}, 180),
        ({"key": "weighted"}, 40),
    ],
)
def test_lmm_choice(fitted: ad.AnnData, options: dict[str, Any], n_rows: int) -> None:
    table = dw.get.tests(fitted, **options)
    assert len(table) == n_rows
    for option, column in {"contrast": "contrast", "group": "group", "variables": "variable"}.items():
        if option in options:
            assert set(table[column].cat.categories) == set(np.atleast_1d(options[option]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast": "condition[T.diseas]"}, r"Did you mean 'condition\[T.disease\]'"),
        ({"group": "Platelet"}, "no group 'Platelet'.*There are: 'T/NK cell', 'B cell', 'Monocyte'"),
        ({"variables": "gene_0"}, "no variable 'gene_0'"),
        ({"status": "fine"}, "status='fine' is not an option"),
        ({"sort_by": "pval"}, "Did you mean 'p_value'"),
        ({"key": "glmm"}, "'lmm', 'weighted'|Did you mean 'lmm'"),
    ],
)
def test_lmm_refusals(fitted: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.get.tests(fitted, **options)


def test_variances_agree(fitted: ad.AnnData) -> None:
    """The three tables of variances tell one story."""
    one = {"group": "B cell", "variables": "gene_0007"}
    variance = dw.get.varcomp(fitted, **one).set_index("term")["variance"]
    icc = dw.get.icc(fitted, **one).set_index("term")["icc"]
    np.testing.assert_allclose(icc["donor_id"], variance["donor_id"] / variance.sum())
    parts = dw.get.variance_partition(fitted).groupby(["variable", "group"], observed=True)["fraction"].sum(min_count=3)
    np.testing.assert_allclose(parts.dropna(), 1.0)
    assert len(dw.get.varcomp(fitted, term="donor_id")) == 90
    with pytest.raises(DataError, match="no term 'donor'.*'donor_id'"):
        dw.get.icc(fitted, term="donor")


@pytest.mark.parametrize("key", ["lmm", "weighted"])
def test_ranef_is_a_refit(fitted: ad.AnnData, key: str) -> None:
    group = "T/NK cell" if key == "lmm" else "all"
    rows = (fitted.obs["cell_type"] == group).to_numpy() if key == "lmm" else np.ones(fitted.n_obs, dtype=bool)
    weights = None if key == "lmm" else fitted.obs["w"].to_numpy()
    Y = fitted.X[rows][:, [5, 9]].toarray()
    fit = dw.fit_lmm(Y, fitted.obs[rows], FORMULA, weights=weights)
    table = dw.get.ranef(fitted, ["gene_0006", "gene_0010"], key=key, group=group)
    assert list(table.columns) == ["variable", "group", "term", "level", "column", "value", "cond_sd"]
    assert set(table["variable"].astype(str)) == {"gene_0006", "gene_0010"}
    assert set(table["group"]) == {group}
    np.testing.assert_allclose(table["value"], fit.ranef()["value"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(table["cond_sd"], fit.ranef()["cond_sd"], rtol=1e-8, atol=1e-12)


def test_ranef_refusals(fitted: ad.AnnData) -> None:
    with pytest.raises(DataError, match="no variable 'nope'"):
        dw.get.ranef(fitted, "nope")
    with pytest.raises(DataError, match="no term 'batch'"):
        dw.get.ranef(fitted, "gene_0006", term="batch")
    with pytest.warns(DonorwiseWarning, match="now has 300"):
        dw.get.ranef(fitted[:300], "gene_0006", group="B cell")
    weights = fitted.obs.pop("w")
    with pytest.raises(DesignError, match="no column 'w'"):
        dw.get.ranef(fitted, "gene_0006", key="weighted")
    dw.tl.lmm(fitted, FORMULA, weights=weights.to_numpy(), key_added="array", progress=False)
    with pytest.raises(DataError, match="use a column of obs"):
        dw.get.ranef(fitted, "gene_0006", key="array")
    del fitted.obs["age"]
    with pytest.raises(DesignError, match="age"):
        dw.get.ranef(fitted, "gene_0006")


@pytest.mark.parametrize("family", ["groups", "contrasts"])
def test_scanpy_reads_the_entry(fitted: ad.AnnData, family: str, tmp_path: Any) -> None:
    choice = {"contrast": "condition[T.disease]"} if family == "groups" else {"group": "B cell"}
    dw.get.to_rank_genes_groups(fitted, **choice)
    fitted.write_h5ad(tmp_path / "a.h5ad")
    fitted = ad.read_h5ad(tmp_path / "a.h5ad")
    ours = dw.get.tests(fitted, **choice).rename(columns={"group" if family == "groups" else "contrast": "family"})
    theirs = sc.get.rank_genes_groups_df(fitted, group=None)
    assert list(theirs.columns) == ["group", "names", "scores", "logfoldchanges", "pvals", "pvals_adj"]
    assert theirs["names"].notna().all()
    merged = ours.merge(theirs, left_on=["family", "variable"], right_on=["group", "names"])
    assert len(merged) == len(ours) == len(theirs)
    for column, field, empty in [
        ("p_value", "pvals", 1.0),
        ("statistic", "scores", 0.0),
        ("log_fc", "logfoldchanges", 0.0),
    ]:
        np.testing.assert_allclose(merged[column].fillna(empty), merged[field])
    for _, part in theirs.groupby("group", observed=True):
        assert part["scores"].is_monotonic_decreasing
    sc.pl.rank_genes_groups(fitted, show=False, n_genes=5)
    if family == "groups":
        for value in ("logfoldchanges", "log10_pvals_adj"):
            sc.pl.rank_genes_groups_dotplot(fitted, show=False, n_genes=3, values_to_plot=value, dendrogram=False)
    plt.close("all")


def test_scanpy_sees_every_feature(fitted: ad.AnnData) -> None:
    """Features left out by mask_var are there, without evidence: scanpy's plots insist on all of them."""
    dw.get.to_rank_genes_groups(fitted, key="weighted", contrast="age", key_added="age")
    table = sc.get.rank_genes_groups_df(fitted, group="all", key="age").set_index("names")
    assert sorted(table.index) == sorted(fitted.var_names)
    assert (table.loc["gene_0025", ["scores", "pvals"]] == [0.0, 1.0]).all()
    before = fitted.copy()
    with pytest.raises(DataError, match="2 contrasts; choose one with contrast="):
        dw.get.to_rank_genes_groups(fitted)
    assert list(before.uns) == list(fitted.uns)


def test_varm_follows_features(fitted: ad.AnnData) -> None:
    dw.get.to_varm(fitted, contrast="age", columns=["estimate", "p_value"])
    dw.get.to_varm(fitted, key="weighted")
    names = {"lmm_age_T_NK cell", "lmm_age_B cell", "lmm_age_Monocyte", "weighted_condition[T.disease]", "weighted_age"}
    assert names <= set(fitted.varm)
    kept = fitted[:, ["gene_0020", "gene_0022", "gene_0006"]].copy()
    table = dw.get.tests(fitted, contrast="age", group="T/NK cell").set_index("variable")
    pd.testing.assert_series_equal(
        kept.varm["lmm_age_T_NK cell"]["p_value"],
        table.loc[["gene_0020", "gene_0022", "gene_0006"], "p_value"],
        check_names=False,
        check_index_type=False,
        check_index=False,
    )
    assert list(kept.varm["weighted_age"]["p_value"].isna()) == [False, True, False]
    with pytest.raises(DataError, match="no column 'padj'"):
        dw.get.to_varm(fitted, columns=["padj"])


def test_varm_cannot_hold_scores(fitted: ad.AnnData) -> None:
    dw.tl.lmm(fitted, FORMULA, obs_keys=["w"], progress=False)
    with pytest.raises(DataError, match="not features"):
        dw.get.to_varm(fitted)
    dw.get.to_rank_genes_groups(fitted, contrast="age")
    assert list(sc.get.rank_genes_groups_df(fitted, group="all")["names"]) == ["w"]


@pytest.mark.parametrize(("groupby", "groups"), [(None, None), ("cell_type", "T cell")])
def test_ranef_says_which_rows_are_left_out(cohort: ad.AnnData, groupby: str | None, groups: str | None) -> None:
    """The model is fitted again, on fewer rows than the AnnData has."""
    cohort.obs["age"] = np.arange(cohort.n_obs, dtype=float)
    cohort.obs.iloc[:9, cohort.obs.columns.get_loc("age")] = np.nan
    own = np.ones(cohort.n_obs, dtype=bool) if groups is None else (cohort.obs["cell_type"] == groups).to_numpy()
    with pytest.warns(DonorwiseWarning):
        dw.tl.lmm(cohort, "~ age + (1 | donor_id)", groupby=groupby, progress=False)
    with pytest.warns(DonorwiseWarning, match=f"^{own[:9].sum()} of {own.sum()} rows are left out"):
        dw.get.ranef(cohort, cohort.var_names[0], group=groups)


def test_the_reader_of_0_1_is_found() -> None:
    with pytest.warns(FutureWarning, match=r"called dw\.get\.tests"):
        assert dw.get.lmm is dw.get.tests
    with pytest.raises(AttributeError, match="has no attribute 'lm'"):
        dw.get.lm  # noqa: B018
    assert "lmm" not in dir(dw.get)
