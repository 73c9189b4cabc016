"""Leaving donors out of the collapsed statistics is fitting the cells of the others."""

from __future__ import annotations

import logging
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import donorwise as dw
from donorwise._core.inference.multiplicity import adjust
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

ROW = ["variable", "group", "contrast"]
EXACT = 1e-7  # the optimiser's own accuracy; most agree to 1e-12


def fit(adata: ad.AnnData, formula: str, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.lmm(adata, formula, progress=False, **options)


def influence(adata: ad.AnnData, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    dw.tl.influence(adata, progress=False, **options)
    return dw.get.influence(adata), dw.get.influence(adata, by="donor")


def assert_refits(adata: ad.AnnData, donors: pd.DataFrame, formula: str, leave: list[str], **options: Any) -> None:
    """Every row of the table is what fitting the cells of the other donors gives."""
    for donor in leave:
        rest, own = adata[adata.obs["donor_id"] != donor].copy(), options
        if isinstance(options.get("weights"), np.ndarray):
            own = options | {"weights": options["weights"][(adata.obs["donor_id"] != donor).to_numpy()]}
        fit(rest, formula, **own)
        again = dw.get.tests(rest, sort_by=None).astype(dict.fromkeys([*ROW, "status"], str)).set_index(ROW)
        table = donors[donors["donor"] == donor].astype(dict.fromkeys([*ROW, "status"], str)).set_index(ROW)
        again = again.loc[table.index]
        assert len(table) and list(table["status"]) == list(again["status"])
        for column in ("estimate", "se", "ci_low", "ci_high", "p_value"):
            np.testing.assert_allclose(
                table[column], again[column], rtol=EXACT, atol=1e-10, err_msg=f"{donor} {column}"
            )


def simulate(design: str = "case-control", **options: Any) -> ad.AnnData:
    sizes = {"n_donors": 7, "n_cells": 500, "n_genes": 20, "cell_types": ("T cell",), "effect_size": 2.5, "seed": 3}
    return dw.datasets.simulate_cohort(design, **(sizes | options))


CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "covariate of cells": ({"n_cells": 2400}, "~ condition + log_depth + (1 | donor_id)", {"ddf": "kenward-roger"}),
    "groups": (
        {"cell_types": ("T cell", "B cell")},
        "~ condition + sex + (1 | donor_id)",
        {"groupby": "cell_type", "contrasts": "condition[T.disease]", "ddf": "satterthwaite"},
    ),
    "moderated": ({"n_genes": 130}, "~ condition + (1 | donor_id)", {"ddf": "moderated"}),
    "paired": (
        {"design": "paired", "n_donors": 5},
        "~ condition + (1 | donor_id/sample_id)",
        {"ddf": "kenward-roger"},
    ),
    "weights": ({}, "~ condition + (1 | donor_id)", {"weights": "w", "ddf": "between-within"}),
    "levels": ({}, "~ condition + (1 | donor_id)", {"contrasts": ("condition", "control", "disease"), "reml": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_leaving_out_is_refitting_from_cells(case: str) -> None:
    how, formula, options = CASES[case]
    adata = simulate(**how)
    adata.obs["w"] = np.random.default_rng(0).uniform(0.5, 2, adata.n_obs)
    fit(adata, formula, **options)
    hits, donors = influence(adata, variables=[f"gene_{i:04d}" for i in (1, 2, 3, 7)])
    assert len(donors) == len(hits) * adata.obs["donor_id"].nunique()
    assert_refits(adata, donors, formula, ["D01", "D05"], **options)


def test_missing_responses_and_weights_from_an_array() -> None:
    adata = simulate()
    scores = adata.X[:, :6].toarray().astype(float)
    scores[::5, 1] = np.nan
    scores[(adata.obs["donor_id"] == "D02").to_numpy(), 2] = np.nan  # a donor who has no value at all
    adata.obsm["scores"] = scores
    weights = np.random.default_rng(0).uniform(0.5, 2, adata.n_obs)
    options = {"obsm": "scores", "weights": weights, "ddf": "kenward-roger"}
    fit(adata, "~ condition + (1 | donor_id)", **options)
    with pytest.raises(DataError, match="give weights="):
        influence(adata)
    names = list(dw.get.tests(adata)["variable"].unique())
    _, donors = influence(adata, variables=names, weights=weights)
    assert_refits(adata, donors, "~ condition + (1 | donor_id)", ["D02", "D03"], **options)


@pytest.fixture
def three_arms() -> ad.AnnData:
    """Arms a (3 donors), b (3 donors) and c (D07 alone)."""
    adata = simulate()
    code = adata.obs["donor_id"].cat.codes.to_numpy()
    adata.obs["arm"] = pd.Categorical(np.array(list("abcabba"))[np.where(code == 6, 2, code % 2)])
    return adata


def test_a_donor_who_is_an_arm(three_arms: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    """Without the only donor of an arm its contrast has no answer, and the other arms' is that of a refit."""
    formula = "~ arm + (1 | donor_id)"
    fit(three_arms, formula, ddf="kenward-roger")
    hits, donors = influence(three_arms, variables=["gene_0001", "gene_0002"])
    assert "without one of `D07`, which" in caplog.text
    lost = (donors["donor"] == "D07") & (donors["contrast"] == "arm[T.c]")
    assert (donors.loc[lost, "status"] == "not_estimable").all() and donors.loc[lost, "p_value"].isna().all()
    assert (donors.loc[~lost, "status"].isin(["ok", "boundary"])).all()
    of_c = hits[hits["contrast"] == "arm[T.c]"]
    assert (of_c["donor"] == "D07").all() and (of_c["max_p_loo"] == 1).all() and not of_c["stays_hit"].any()
    assert_refits(three_arms, donors[donors["contrast"] == "arm[T.b]"], formula, ["D07"], ddf="kenward-roger")


@pytest.fixture
def planted() -> ad.AnnData:
    """Paired cells of 8 donors; in feature `one` only D03 responds, in `real` all do, the others are noise."""
    rng = np.random.default_rng(5)
    donor, treated = np.repeat(np.arange(8), 100), np.tile(np.arange(100) % 2, 8)
    X = rng.standard_normal((800, 30)) + 0.5 * rng.standard_normal((8, 30))[donor]
    X[:, 0] += 3.0 * treated * (donor == 2)
    X[:, 1] += 1.0 * treated
    names = ["one", "real", *(f"null{i}" for i in range(28))]
    obs = pd.DataFrame(
        {"donor_id": pd.Categorical([f"D{d + 1:02d}" for d in donor]), "treated": np.array(["no", "yes"])[treated]},
        index=[f"c{i}" for i in range(800)],
    )
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=names))
    fit(adata, "~ treated + (1 | donor_id)", ddf="kenward-roger")
    return adata


def test_a_finding_of_one_donor_is_named(planted: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="donorwise"):
        hits, _ = influence(planted)
    hits = hits.set_index("variable")
    assert set(hits.index) == {"one", "real"}
    assert hits.loc["one", "donor"] == "D03" and hits.loc["one", "n_lost"] == 1 and not hits.loc["one", "stays_hit"]
    assert hits.loc["one", "change"] < -2
    assert hits.loc["real", "stays_hit"] and hits.loc["real", "n_lost"] == 0
    assert "1 of 2 hits hang on one donor: D03 (1)" in caplog.text
    table = dw.get.tests(planted).set_index("variable")
    assert table["max_p_loo"].notna().sum() == 2 and table.loc["one", "max_p_loo"] == hits.loc["one", "max_p_loo"]


def test_a_hit_stays_one_where_it_passes_the_rule_again() -> None:
    """The naive way: put each p-value without a donor among those of the other features, and adjust anew."""
    adata = simulate(n_genes=60, n_donors=10, effect_size=1.5, de_fraction=0.4)
    fit(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger")
    hits, donors = influence(adata)
    table = dw.get.tests(adata, sort_by=None).set_index("variable")["p_value"]
    table.index = table.index.astype(str)
    assert 0 < (hits["n_lost"] > 0).sum() < len(hits)
    for hit in hits.itertuples():
        n_lost = 0
        for p in donors.loc[donors["variable"] == hit.variable, "p_value"]:
            swapped = table.copy()
            swapped[str(hit.variable)] = p
            n_lost += adjust(swapped.to_numpy())[swapped.index.get_loc(str(hit.variable))] > 0.05
        assert (n_lost, n_lost == 0) == (hit.n_lost, hit.stays_hit)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files_subsets_and_threads(planted: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    hits, donors = influence(planted)
    path = tmp_path / f"a.{suffix}"
    getattr(planted, f"write_{suffix}")(path)
    read = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    for by, table in (("hit", hits), ("donor", donors)):
        again = dw.get.influence(read, by=by)
        pd.testing.assert_frame_equal(again, table, check_dtype=False, check_categorical=False)
    assert list(dw.get.influence(read[:, 1:])["variable"]) == ["real"]
    assert dw.get.tests(read)["max_p_loo"].notna().sum() == 2
    assert list(influence(read[:, 1:].copy(), n_jobs=2)[0]["max_p_loo"]) == list(hits["max_p_loo"][1:])


def test_covariates_of_cells_are_left_out_unless_named() -> None:
    adata = simulate(n_cells=2400, de_fraction=0.5)
    fit(adata, "~ condition * log_depth + (1 | donor_id)", ddf="kenward-roger")
    options = {"variables": ["gene_0001", "gene_0002"]}
    hits, _ = influence(adata, **options)
    assert set(hits["contrast"]) == {"condition[T.disease]", "condition[T.disease]:log_depth"}
    assert set(influence(adata, contrast="log_depth", **options)[0]["contrast"]) == {"log_depth"}
    fit(adata, "~ log_depth + (1 | donor_id)", ddf="kenward-roger")
    assert set(influence(adata, **options)[0]["contrast"]) == {"log_depth"}


def test_no_hits_is_an_answer(planted: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    hits, donors = influence(planted, alpha=1e-80)
    assert hits.empty and donors.empty and dw.get.tests(planted)["max_p_loo"].isna().all()
    assert "name variables=" in caplog.text
    contrast = dw.get.tests(planted)["contrast"].iloc[0]
    assert dw.get.influence(planted, contrast=contrast).empty
    with pytest.raises(DataError, match="no contrast 'nonsense'"):
        dw.get.influence(planted, contrast="nonsense")
    with pytest.raises(DataError, match="no hits"):
        dw.pl.influence(planted)


def test_copy_leaves_the_original_alone(planted: ad.AnnData) -> None:
    out = dw.tl.influence(planted, copy=True, progress=False)
    assert "max_p_loo" in dw.get.tests(out) and "max_p_loo" not in dw.get.tests(planted)
    fit(out, "~ treated + (1 | donor_id)")
    with pytest.raises(DataError, match="run dw.tl.influence"):
        dw.get.influence(out)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a[5:].copy(), {}, "795 cells"),
        (lambda a: a, {"contrast": "nonsense"}, "no contrast"),
        (lambda a: a, {"variables": "nonsense"}, "no variable"),
        (lambda a: a, {"alpha": 5}, "between 0 and 1"),
        (lambda a: a, {"weights": np.ones(800)}, "leave it out"),
        (lambda a: a, {"key": "other"}, "no donorwise result"),
        (lambda a: ad.AnnData(a.X * 2, obs=a.obs, var=a.var, uns=a.uns), {}, "other estimates"),
    ],
)
def test_errors(planted: ad.AnnData, change: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        influence(change(planted), **options)
    assert "lmm_influence" not in planted.uns


def test_contrasts_without_a_name_are_asked_for(planted: ad.AnnData) -> None:
    contrasts = {"half": {"treated[T.yes]": 0.5}}
    fit(planted, "~ treated + (1 | donor_id)", contrasts=contrasts, ddf="kenward-roger")
    assert len(influence(planted)[0]) == 2  # their weights are in the result
    del planted.uns["lmm"]["contrasts"]  # as in results of 0.1
    with pytest.raises(DataError, match="give contrasts="):
        influence(planted)
    assert len(influence(planted, contrasts=contrasts)[0]) == 2


def test_moderated_tests_need_all_features() -> None:
    adata = simulate(n_genes=110)
    fit(adata, "~ condition + (1 | donor_id)", ddf="moderated")
    with pytest.raises(DataError, match="before features are dropped"):
        influence(adata[:, :105].copy(), variables="gene_0001")


def test_plots_show_the_table(planted: ad.AnnData) -> None:
    hits, donors = influence(planted)
    ax = dw.pl.influence(planted, "one")
    assert isinstance(ax, Axes)
    x = np.sort(ax.collections[1].get_offsets()[:, 0])
    np.testing.assert_allclose(x, np.sort(donors.loc[donors["variable"] == "one", "estimate"]))
    assert ax.get_yticklabels()[0].get_text() == "D03"  # the estimate is smallest without D03
    scatter = dw.pl.influence(planted)
    np.testing.assert_allclose(scatter.collections[0].get_offsets(), hits[["p_value", "max_p_loo"]])
    texts = [t.get_text() for t in scatter.texts]
    assert {"one, D03", "1 hang on one donor", "0 more lost without any one of several donors"} <= set(texts)
    plt.close("all")


def test_names_hide_nothing() -> None:
    """Names of a scatter with many hits stay inside, off each other, the dashed line and its words."""
    adata = simulate(n_genes=150, n_donors=8, effect_size=1.5, de_fraction=0.9)
    fit(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger")
    hits, _ = influence(adata)
    ax = dw.pl.influence(adata)
    ax.figure.draw_without_rendering()
    names = [t for t in ax.texts if ", D" in t.get_text()]
    boxes = [plt.Text.get_window_extent(t) for t in names]
    words = next(t for t in ax.texts if "no hit above" in t.get_text()).get_window_extent()
    line = ax.transData.transform((1e-3, hits["threshold"].iloc[0]))[1]
    frame = ax.get_window_extent()
    assert len(hits) > 40 and len(boxes) >= 3
    for a, b in combinations([*boxes, words], 2):
        assert (np.minimum(a.max, b.max) - np.maximum(a.min, b.min)).min() < 1.5
    for box in boxes:
        assert box.y1 < line + 2 or box.y0 > line - 2
        assert frame.x0 <= box.x0 + 1 and box.x1 - 1 <= frame.x1 and box.y1 <= frame.y1 + 1
    plt.close("all")
