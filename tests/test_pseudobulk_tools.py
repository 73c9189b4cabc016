"""What is asked of results of pseudobulk after the fit: calibrate, influence, power, random effects, the donor plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._anndata.recover import recover
from donorwise._core.engine.planners import UnitPlanner
from donorwise._core.engine.power import Known
from donorwise._core.inference.mixture import two_sided
from donorwise.errors import DataError, DesignError, DonorwiseError

KEY = "pseudobulk"
FORMULA, CONTRAST = "~ condition + sex", "condition[T.disease]"


def _cohort(design: str = "case-control", **options: Any) -> ad.AnnData:
    settings = {"n_donors": 10, "n_cells": 1000, "n_genes": 120, "cell_types": ("T",), "seed": 3} | options
    return dw.datasets.simulate_cohort(design, **settings)


def _fit(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> pd.DataFrame:
    dw.tl.pseudobulk(adata, formula, progress=False, **options)
    return dw.get.tests(adata, key=KEY, sort_by=None).set_index(["variable", "contrast"])


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = _cohort(effect_size=2.0)
    _fit(adata)
    return adata


@pytest.fixture
def fitted(_fitted: ad.AnnData) -> ad.AnnData:
    return _fitted.copy()


@pytest.mark.parametrize("n_genes", [120, 60], ids=["shared prior", "gene by gene"])
def test_influence_is_the_test_without_the_donor(n_genes: int) -> None:
    adata = _cohort(n_genes=n_genes, effect_size=2.0)
    _fit(adata, normalize="depth")
    dw.tl.influence(adata, key=KEY, variables=["gene_0003", "gene_0050"], contrast=CONTRAST, progress=False)
    table = dw.get.influence(adata, key=KEY, by="donor")
    assert table["donor"].nunique() == 10
    for donor in ("D02", "D09"):
        alone = _fit(adata[adata.obs["donor_id"] != donor].copy(), normalize="depth")
        own = table[table["donor"] == donor].set_index(["variable", "contrast"])
        for name in ("estimate", "se", "p_value"):
            np.testing.assert_allclose(own[name], alone.loc[own.index, name], rtol=1e-6)


def test_influence_of_collapsed_counts_and_in_threads(fitted: ad.AnnData) -> None:
    options = {"key": KEY, "variables": "gene_0050", "progress": False}
    dw.tl.influence(fitted, **options)
    rows = dw.pp.collapse(fitted, by=["donor_id", "condition", "sex"], counts_layer="counts")
    _fit(rows)
    dw.tl.influence(rows, n_jobs=2, **options)
    one, other = (dw.get.influence(a, key=KEY, by="donor") for a in (fitted, rows))
    np.testing.assert_allclose(one["p_value"], other["p_value"], rtol=1e-6)


def test_an_arm_of_one_donor_has_no_test_without_it() -> None:
    adata = _cohort(n_donors=5)
    cases = adata.obs["condition"] == "disease"
    alone = adata.obs.loc[cases, "donor_id"].iloc[0]
    few = adata[~cases | (adata.obs["donor_id"] == alone)].copy()
    _fit(few, "~ condition")
    dw.tl.influence(few, key=KEY, variables="gene_0001", progress=False)
    table = dw.get.influence(few, key=KEY, by="donor").set_index("donor")
    assert table.loc[alone, "status"] == "not_estimable" and np.isnan(table.loc[alone, "p_value"])


@pytest.mark.parametrize(
    ("design", "formula", "kind"),
    [("case-control", FORMULA, "between-donor"), ("paired", "~ condition + (1 | donor_id)", "within-donor")],
)
def test_permuted_labels_are_those_of_donors_or_units(design: str, formula: str, kind: str) -> None:
    """A permutation's tests are those of the cells with their donors' labels exchanged."""
    from donorwise._core.engine.calibration import make_plan, permuted, refit

    adata = _cohort(design, n_donors=8)
    _fit(adata, formula)
    name = next(c for c in adata.uns[KEY]["params"]["contrasts"] if c.startswith("condition"))
    analysis = recover(adata, KEY).analysis
    L = analysis.contrasts[0].L[[list(analysis.contrasts[0].names).index(name)]]
    plan = make_plan(analysis.tasks[0].design, analysis.obs, L, donors=analysis.permuted_donors(0), n_permutations=3)
    assert plan.exchange.kind == kind
    labels = plan.arrangements.labels[0]
    (statistics,) = analysis.statistics()
    ours = refit(permuted(statistics, plan, labels), analysis.fitting(0), L, ddf="moderated")
    levels = adata.obs["condition"].cat.categories
    moved = pd.Series(levels[labels[plan.exchange.unit]], index=statistics.units)
    codes = analysis.units.codes
    adata.obs["condition"] = pd.Categorical(moved.loc[codes].to_numpy(), categories=levels)
    if kind == "within-donor":  # samples go with their cells, not with the labels
        adata.obs["sample_id"] = codes
    theirs = _fit(adata, formula, sample="sample_id" if kind == "within-donor" else None)
    theirs = theirs.xs(name, level="contrast")
    np.testing.assert_allclose(ours.estimate, theirs["estimate"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.p_value, theirs["p_value"], rtol=1e-5)


def test_calibrate_takes_pseudobulk() -> None:
    adata = _cohort(de_fraction=0.0)
    table = _fit(adata).xs(CONTRAST, level="contrast")
    options = {"model": "pseudobulk", "n_permutations": 8, "progress": False}
    dw.tl.calibrate(adata, FORMULA, CONTRAST, strata="sex", **options)
    own = dw.get.calibration(adata, table="variables").set_index("variable")
    np.testing.assert_allclose(own["p_value"], table["p_value"].loc[own.index], rtol=1e-8)
    groups = dw.get.calibration(adata, table="groups")
    assert groups["ddf"].tolist() == ["moderated"] and groups["kind"].tolist() == ["between-donor"]
    assert adata.uns["calibration"]["params"]["units"] == "donor_id"


def test_calibrate_few_genes_by_their_own_variances(caplog: pytest.LogCaptureFixture) -> None:
    adata = _cohort(n_genes=40, de_fraction=0.0)
    with caplog.at_level("INFO", "donorwise"):
        dw.tl.calibrate(adata, "~ condition", CONTRAST, model="pseudobulk", n_permutations=4, progress=False)
    assert "Between-within degrees of freedom are calibrated" in caplog.text
    assert dw.get.calibration(adata, table="groups")["ddf"].tolist() == ["between-within"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "pseudobulk", "ddf": "kenward-roger"}, "ddf= has no meaning with model='pseudobulk'"),
        ({"model": "pseudobulk", "obsm": "X_pca"}, "obsm= has no meaning"),
        ({"depth": "n_counts"}, "depth= has no meaning with model='lmm'"),
        ({"model": "edger"}, "model='edger' is not an option"),
    ],
)
def test_options_of_the_other_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.tl.calibrate(_cohort(n_genes=10), FORMULA, CONTRAST, progress=False, **options)


def test_strata_belong_to_units() -> None:
    adata = _cohort(n_genes=10)
    adata.obs["half"] = np.arange(adata.n_obs) % 2
    with pytest.raises(DesignError, match="several values inside a unit"):
        dw.tl.calibrate(adata, "~ condition", CONTRAST, model="pseudobulk", strata="half", progress=False)


def _known(adata: ad.AnnData) -> tuple[UnitPlanner, Known, Any, Any]:
    from donorwise._core.engine.power import _from_prior

    analysis = recover(adata, KEY).analysis
    (statistics,) = analysis.statistics()
    fit = analysis.fit(0, statistics, lambda n: None)
    L = analysis.contrasts[0].L[:1]
    return analysis.planner(0, statistics, fit), _from_prior(fit.learned, fit.models[0], L), L, statistics


def test_planned_variance_is_that_of_units_with_other_numbers_of_cells(fitted: ad.AnnData) -> None:
    """As many cells as there are leave it; the sampling variance follows 1 / mu and phi / cells, that of units stays."""
    planner, known, L, _ = _known(fitted)
    units = known.model.units
    kept = known.model.with_cells(np.ones(planner.n_cells.size))
    np.testing.assert_allclose(kept.rates.v, known.model.rates.v, rtol=1e-9)
    twice = known.model.with_cells(np.full(planner.n_cells.size, 2.0)).rates.v
    phi = known.model.rates.dispersion[:, None] * known.model.depths.share
    mu = 1 / (known.model.rates.v - phi) - 0.5
    np.testing.assert_allclose(twice, 1 / (2 * mu + 0.5) + phi / 2, rtol=1e-9)
    m = 77
    planned = planner.at(m, known, L).variance
    factor = (m / planner.n_cells)[np.searchsorted(np.flatnonzero(known.model.design.codes >= 0), units.order)]
    v = 1 / (factor * mu + 0.5) + phi / factor
    X = units.Q @ np.linalg.inv(units.inverse)
    for g, k in ((0, 3), (50, 40)):
        W = np.diag(1 / (v[g] + known.points[k, 0]))
        np.testing.assert_allclose(planned[g, k], (L @ np.linalg.inv(X.T @ W @ X) @ L.T).item(), rtol=1e-8)


def test_power_grows_with_donors_cells_and_effect(fitted: ad.AnnData) -> None:
    dw.tl.power(
        fitted,
        key=KEY,
        n_donors=(2, 8, 16, 32),
        n_cells=(20, 200),
        log_fc=(0.5, 1.0),
        contrast=CONTRAST,
        progress=False,
    )
    legend = dw.pl.power(fitted, key=KEY, by="log_fc").get_legend()
    assert [text.get_text() for text in legend.get_texts()][:2] == ["log2 FC 0.5", "log2 FC 1"]
    table = dw.get.power(fitted, key=KEY, expression="all")
    np.testing.assert_allclose(table["effect"], table["log_fc"] * np.log(2))
    assert set(table["kind"]) == {"between-donor"} and set(table["unit"]) == {"log_fc"}
    assert (table.loc[table["n_donors"] == 2, "status"] == "too_few_donors").all()
    wide = table[table["n_donors"] > 2].set_index(["n_donors", "n_cells", "log_fc"])["power"].unstack("n_donors")
    assert (np.diff(wide.to_numpy(), axis=1) > 0).all()
    by_cells = table[table["n_donors"] == 16].set_index(["log_fc", "n_cells"])["power"].unstack("n_cells")
    assert (by_cells[200] > by_cells[20]).all()
    assert by_cells.loc[1.0, 200] > by_cells.loc[0.5, 200]


def test_power_is_the_share_of_effects_that_are_found() -> None:
    """An effect added to the estimates of a null study is found as often as the study's variances promise."""
    null = _cohort(n_genes=400, n_donors=12, n_cells=2400, de_fraction=0.0, seed=11)
    _fit(null, "~ condition")
    dw.tl.power(null, key=KEY, n_donors=12, n_cells=200, log_fc=1.0, progress=False)
    promised = dw.get.power(null, key=KEY, expression="all")["power"].item()
    _, known, L, _ = _known(null)
    law = known.model.law(known.points, L)
    for effect in (np.log(2), -np.log(2)):
        p = two_sided(known.weight, law.centre[..., 0] + effect, law.scale[..., 0], np.inf)
        assert abs((p < 0.05).mean() - promised) < 0.05


def test_donors_as_fixed_effects_cannot_be_planned() -> None:
    adata = _cohort("paired", n_donors=6)
    _fit(adata, "~ condition + donor_id")
    with pytest.raises(DesignError, match="as a fixed effect"):
        dw.tl.power(adata, key=KEY, contrast=adata.uns[KEY]["params"]["contrasts"][0], progress=False)


@pytest.mark.parametrize("n_genes", [120, 50])
def test_random_effects_equal_dense_algebra(n_genes: int) -> None:
    adata = _cohort("paired", n_donors=6, n_genes=n_genes)
    _fit(adata, "~ condition + (1 | donor_id)")
    names = ["gene_0004", "gene_0031"]
    table = dw.get.ranef(adata, names, key=KEY)
    analysis = recover(adata, KEY, variables=names).analysis
    (statistics,) = analysis.statistics()
    model = analysis.fit(0, statistics, lambda n: None).models[0]
    stored = adata.uns[KEY]["varcomp"]
    donors = analysis.units.table["donor_id"].astype(str).to_numpy()[model.units.order]
    Z = (donors[:, None] == np.unique(donors)).astype(float)
    X = model.units.Q
    for g, name in enumerate(names):
        own = stored[stored["variable"] == name].set_index("term")["variance"]
        unit, group = own[analysis.units.name], own["donor_id"]
        V = np.diag(model.rates.v[g] + unit) + group * Z @ Z.T
        W = np.linalg.inv(V)
        r = W @ (model.rates.y[g] - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ model.rates.y[g]))
        found = table[table["variable"] == name]
        levels = found[found["term"] == "donor_id"].set_index("level")
        np.testing.assert_allclose(levels.loc[np.unique(donors), "value"], group * Z.T @ r, rtol=1e-7, atol=1e-10)
        sd = np.sqrt(group - group**2 * np.diag(Z.T @ W @ Z))
        np.testing.assert_allclose(levels.loc[np.unique(donors), "cond_sd"], sd, rtol=1e-7)
        units = found[found["term"] == analysis.units.name].set_index("level")
        labels = analysis.units.labels(model.units.order)
        np.testing.assert_allclose(units.loc[labels, "value"], unit * r, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(units.loc[labels, "cond_sd"], np.sqrt(unit - unit**2 * np.diag(W)), rtol=1e-7)


def test_plots_of_units(fitted: ad.AnnData) -> None:
    ax = dw.pl.donors(fitted, "gene_0050", key=KEY, condition="condition")
    assert ax.get_ylabel() == "rate of counts\n(natural log)"
    points = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 10])
    C = np.asarray(fitted.layers["counts"][:, fitted.var_names.get_loc("gene_0050")].sum(axis=1)).ravel()
    depth = np.asarray(fitted.layers["counts"].sum(axis=1)).ravel()
    sums = (
        pd.DataFrame({"C": C, "L": depth}, dtype=np.float64)
        .groupby(fitted.obs["donor_id"].to_numpy(), observed=True)
        .sum()
    )
    factors = fitted.uns[KEY]["size_factors"].set_index("unit")["factor"]
    depth = sums["L"] * factors.loc[sums.index].to_numpy()
    np.testing.assert_allclose(np.sort(points[:10, 1]), np.sort(np.log((sums["C"] + 0.5) / depth)), rtol=1e-9)
    assert "log-rate" in "".join(text.get_text() for text in ax.get_xticklabels())
    plt.close("all")
    assert dw.pl.ranef(fitted, "gene_0050", key=KEY).get_title() == "gene_0050: intercept"
    plt.close("all")
    with pytest.raises(DataError, match="not a variable of the formula"):
        dw.pl.donors(fitted, "gene_0050", key=KEY, condition="cell_type", contrast=CONTRAST)


@pytest.mark.parametrize("tool", [dw.tl.influence, dw.tl.power])
def test_a_changed_anndata_is_told(tool: Callable[..., Any], fitted: ad.AnnData) -> None:
    with pytest.raises(DataError, match=r"Run dw.tl.pseudobulk again"):
        tool(fitted[:-5].copy(), key=KEY, progress=False)
    with pytest.raises(DataError, match="leave it out"):
        tool(fitted, key=KEY, weights=np.ones(fitted.n_obs), progress=False)


def test_results_of_0_1_are_moderated_as_they_were() -> None:
    """Version 0.1 called it "shared prior" and did not say what each group got."""
    cells = dw.datasets.simulate_cohort("paired", n_genes=120, n_donors=8, n_cells=900, seed=1)
    new = ("observations", "link", "prior_on", "ddf_used", "ddf_reasons", "sample", "normalize")
    found = []
    for old in (False, True):
        dw.tl.pseudobulk(cells, "~ condition + (1 | donor_id)", normalize="depth", progress=False)
        if old:
            del cells.uns["pseudobulk"]["size_factors"]
            params = cells.uns["pseudobulk"]["params"]
            kept = {name: value for name, value in params.items() if name not in new}
            cells.uns["pseudobulk"]["params"] = kept | {"ddf": "shared prior"}
        dw.tl.influence(cells, key="pseudobulk", variables=[cells.var_names[0]], progress=False)
        dw.tl.power(cells, key="pseudobulk", n_donors=10, n_cells=50, progress=False)
        found.append([dw.get.influence(cells, key="pseudobulk"), dw.get.power(cells, key="pseudobulk")])
    for now, then in zip(*found, strict=True):
        pd.testing.assert_frame_equal(now, then)
