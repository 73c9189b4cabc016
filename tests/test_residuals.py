"""Responses without some terms of a model: against R, against dense twins, and whatever the container."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests._peptide_data import peptides

import donorwise as dw
from donorwise._core.cells.blocks import dense_blocks
from donorwise._core.cells.stored import Stored
from donorwise._core.design.build import build_design
from donorwise._core.design.named import terms_named
from donorwise._core.engine.predictions import CellPredictor, whole
from donorwise._core.engine.scales import Counted
from donorwise._core.models.glmm.families import distribution
from donorwise.errors import DataError, DesignError, DonorwiseError

REFERENCE = Path(__file__).parent / "reference"
pytestmark = pytest.mark.filterwarnings("ignore:.*(Depth differs|varies within donors|left out|slope|looks like)")


def case(name: str) -> tuple[ad.AnnData, dict[str, Any]]:
    """The data of a reference case, responses in X, and its spec."""
    spec = json.loads((REFERENCE / name / "spec.json").read_text())
    obs = pd.read_csv(REFERENCE / name / "obs.csv", dtype=dict.fromkeys(spec["categories"], str))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], levels)
    Y = pd.read_csv(REFERENCE / name / "Y.csv")
    obs.index = obs.index.astype(str)
    return ad.AnnData(Y.to_numpy(float), obs, pd.DataFrame(index=Y.columns)), spec


def expected(name: str) -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "residuals" / f"{name}.csv")


def made(adata: ad.AnnData, key: str = "lmm", **options: Any) -> np.ndarray:
    """The layer (or table) that is made, in double precision."""
    dw.tl.residuals(adata, key, dtype="float64", key_added="made", progress=False, **options)
    table = "variables" in options or "made" not in adata.layers
    return np.asarray(adata.obsm["made"] if table else adata.layers["made"])


# against R


def test_lme4_with_slopes() -> None:
    adata, spec = case("a02_sleepstudy_rs")
    dw.tl.lmm(adata, spec["formula"], progress=False)
    theirs, y = expected("sleepstudy"), adata.X[:, 0]
    np.testing.assert_allclose(made(adata, fitted="fitted")[:, 0], theirs["residual"], atol=1e-4)
    np.testing.assert_allclose(adata.layers["fitted"][:, 0], theirs["fitted"], atol=1e-4)
    random = theirs["fitted"] - theirs["fixed"]
    for name in ("Subject", "(Days | Subject)", "(1 + Days | Subject)"):
        np.testing.assert_allclose(made(adata, remove=name)[:, 0], y - random, atol=1e-4)
    slope = theirs["fixed"].diff().iloc[1] * (adata.obs["Days"] - adata.obs["Days"].mean())
    np.testing.assert_allclose(made(adata, remove="Days")[:, 0], y - slope, atol=1e-4)


def test_lme4_with_crossed_terms() -> None:
    adata, spec = case("a04_penicillin_crossed")
    dw.tl.lmm(adata, spec["formula"], progress=False)
    theirs, y = expected("penicillin"), adata.X[:, 0]
    np.testing.assert_allclose(made(adata)[:, 0], theirs["residual"], atol=1e-5)
    intercept = theirs["plate"] + theirs["sample"] - theirs["fitted"]
    for name in ("plate", "sample"):
        np.testing.assert_allclose(made(adata, remove=name)[:, 0], y - (theirs[name] - intercept), atol=1e-5)
    np.testing.assert_allclose(
        made(adata, remove=["plate", "(1 | sample)"])[:, 0], intercept + theirs["residual"], atol=1e-5
    )


COUNTS = {
    "poisson": ("a12_poisson", "g1", distribution("poisson")),
    "nb": ("a12_nbinom2", "g5", distribution("nb")),
    "binomial": ("a11_cbpp", "incidence", distribution("binomial")),
}


def _of_counts(name: str) -> tuple[ad.AnnData, dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    adata, spec = case(COUNTS[name][0])
    adata = adata[:, COUNTS[name][1]].copy()
    ones = np.ones(adata.n_obs)
    exposure = np.exp(adata.obs[spec["offset"]].to_numpy()) if spec["offset"] else ones
    trials = adata.obs[spec["trials"]].to_numpy(float) if spec["trials"] else ones
    theirs = expected(name)
    fitted = theirs["fitted"].to_numpy() * (trials if spec["trials"] else 1)
    return adata, spec, exposure, trials, np.column_stack([fitted, theirs["pearson"]])


@pytest.mark.parametrize("name", COUNTS)
def test_glmmtmb_at_its_own_estimates(name: str) -> None:
    adata, spec, exposure, trials, theirs = _of_counts(name)
    found = json.loads((REFERENCE / "residuals" / "counts.json").read_text())[name]
    design = build_design(spec["formula"], adata.obs)
    (term,) = design.random_terms
    order = [found["levels"].index(level) for level in term.levels]
    size = np.array([np.inf if found["size"] is None else found["size"]])
    scale = Counted(COUNTS[name][2], exposure.__getitem__, trials.__getitem__, size)
    effects = (np.array(found["ranef"])[order][:, None, None],)
    predictor = CellPredictor(design, np.array([found["coef"]]), effects, scale)
    rows, one = np.arange(adata.n_obs), np.zeros(1, dtype=np.int64)
    eta = predictor.linear(rows, one, whole(design))
    np.testing.assert_allclose(scale.fitted(eta, rows, one)[:, 0], theirs[:, 0], rtol=1e-6)
    np.testing.assert_allclose(scale.residual(adata.X, eta, rows, one)[:, 0], theirs[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", COUNTS)
def test_glmmtmb_from_the_data(name: str) -> None:
    adata, spec, exposure, trials, theirs = _of_counts(name)
    adata.obs["exposure"], adata.obs["trials"] = exposure, trials
    own = {"trials": "trials"} if spec["trials"] else {"exposure": "exposure"}
    dw.tl.glmm(adata, spec["formula"], family=COUNTS[name][2].name, ddf="between-within", progress=False, **own)
    pearson = made(adata, "glmm", fitted="fitted")[:, 0]
    # variances are those of a grid, sizes lean on a trend, and half the leverage is added to counts
    assert np.corrcoef(adata.layers["fitted"][:, 0], theirs[:, 0])[0, 1] > 0.998
    assert np.abs(np.log(adata.layers["fitted"][:, 0] / theirs[:, 0])).max() < 0.1
    assert np.corrcoef(pearson, theirs[:, 1])[0, 1] > 0.998


def test_limma_where_donors_do_not_differ() -> None:
    theirs = expected("limma")
    names = [f"y{g}" for g in range(1, 5)]
    obs = theirs[["donor", "condition", "equal", "unequal", "dose"]].set_index(theirs.index.astype(str))
    adata = ad.AnnData(theirs[names].to_numpy(), obs, pd.DataFrame(index=names))
    dw.tl.lmm(adata, "~ condition + equal + (1 | donor)", progress=False)
    assert (dw.get.varcomp(adata, term="donor")["variance"] < 1e-12).all()
    np.testing.assert_allclose(made(adata, remove="equal"), theirs[[f"equal{g}" for g in range(1, 5)]], atol=1e-8)
    dw.tl.lmm(adata, "~ condition + equal + unequal + dose + (1 | donor)", progress=False)
    assert (dw.get.varcomp(adata, term="donor")["variance"] < 1e-12).all()
    ours, all_out = (
        made(adata, remove=["equal", "unequal", "dose"]),
        theirs[[f"all{g}" for g in range(1, 5)]].to_numpy(),
    )
    np.testing.assert_allclose(ours.mean(axis=0), adata.X.mean(axis=0), atol=1e-10)  # the level of cells stays
    np.testing.assert_allclose(ours - ours.mean(axis=0), all_out - all_out.mean(axis=0), atol=1e-8)


# identities


def cohort(**options: Any) -> ad.AnnData:
    return dw.datasets.simulate_cohort(**({"n_donors": 8, "n_cells": 500, "n_genes": 10, "seed": 3} | options))


def _tests(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """The tests of a result by contrast and feature."""
    table = dw.get.tests(adata, key=key).astype({"contrast": str, "variable": str})
    return table.set_index(["contrast", "variable"]).sort_index()


def test_fitted_again_what_was_removed_is_zero_and_what_stays_is_the_same() -> None:
    adata = cohort()
    formula = "~ condition + sex + log_depth + (1 | donor_id)"
    adata.X = adata.X.toarray().astype(float)
    dw.tl.lmm(adata, formula, key_added="first", ddf="satterthwaite", progress=False)
    adata.layers["out"] = made(adata, "first", remove=["sex", "log_depth"])
    dw.tl.lmm(adata, formula, layer="out", key_added="again", ddf="satterthwaite", progress=False)
    before, after = _tests(adata, "first"), _tests(adata, "again")
    for contrast in before.index.levels[0]:
        kept = contrast == "condition[T.disease]"
        want = before.loc[contrast, "estimate"] if kept else 0 * before.loc[contrast, "estimate"]
        np.testing.assert_allclose(after.loc[contrast, "estimate"], want, atol=1e-6)
        np.testing.assert_allclose(after.loc[contrast, "se"], before.loc[contrast, "se"], rtol=1e-5)
    # without the donors' effects least squares gives the same coefficients, as these effects are orthogonal to X after shrinkage
    adata.layers["out"] = made(adata, "first", remove="donor_id")
    dw.tl.lmm(adata, formula, layer="out", key_added="again", ddf="satterthwaite", progress=False)
    table = _tests(adata, "again")
    gone = dw.get.varcomp(adata, key="again", term="donor_id").set_index("variable")["variance"].astype(float) < 1e-9
    gone = gone[[str(name) for name in table.loc["condition[T.disease]"].index]].to_numpy()
    assert gone.sum() >= 8
    for contrast in before.index.levels[0]:
        own = before.loc[contrast, "estimate"][gone]
        np.testing.assert_allclose(table.loc[contrast, "estimate"][gone], own, atol=1e-6)


def test_values_are_fitted_and_residual() -> None:
    adata = cohort()
    dw.tl.lmm(adata, "~ condition + (log_depth | donor_id)", groupby="cell_type", progress=False)
    residual = made(adata, fitted="fitted")
    np.testing.assert_allclose(residual + adata.layers["fitted"], adata.X.toarray(), atol=1e-12)
    effects = dw.get.ranef(adata, list(adata.var_names)).set_index(["variable", "group", "level", "column"])["value"]
    out = made(adata, remove="donor_id")
    for cell in (0, 77, 499):
        own = adata.obs.iloc[cell]
        at = [(name, own["cell_type"], str(own["donor_id"])) for name in adata.var_names]
        blup = [effects[(*a, "(Intercept)")] + own["log_depth"] * effects[(*a, "log_depth")] for a in at]
        np.testing.assert_allclose(out[cell], adata.X[[cell]].toarray()[0] - blup, atol=1e-10)


def test_groups_are_models_of_their_own() -> None:
    adata = cohort()
    formula = "~ condition + log_depth + (1 | donor_id)"
    dw.tl.lmm(adata, formula, groupby="cell_type", progress=False)
    together = made(adata, remove=["log_depth", "donor_id"])
    for name in adata.obs["cell_type"].cat.categories:
        own = (adata.obs["cell_type"] == name).to_numpy()
        some = adata[own].copy()
        del some.uns["lmm"]
        dw.tl.lmm(some, formula, progress=False)
        np.testing.assert_allclose(together[own], made(some, remove=["log_depth", "donor_id"]), atol=1e-10)


def test_counts_are_divided() -> None:
    adata = cohort()
    counts = adata.layers["counts"].toarray()
    for family in ("nb", "poisson"):
        dw.tl.glmm(adata, "~ condition + (1 | donor_id)", family=family, layer="counts", progress=False)
        out = made(adata, "glmm", remove=["donor_id"])
        effects = dw.get.ranef(adata, list(adata.var_names), key="glmm").pivot(
            index="level", columns="variable", values="value"
        )
        blup = effects.loc[adata.obs["donor_id"].astype(str), list(adata.var_names)].to_numpy()
        np.testing.assert_allclose(out, counts / np.exp(blup), rtol=1e-8)
        assert (out[counts == 0] == 0).all()


@pytest.mark.parametrize("formula", ["~ condition", "~ condition + stim + (1 | donor_id)"])
def test_counts_of_units_are_divided_by_what_their_unit_has(formula: str) -> None:
    adata = cohort(n_genes=60)
    adata.obs["stim"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 3 > 0, "a", "b"))
    counts = adata.layers["counts"].toarray()
    dw.tl.pseudobulk(adata, formula, layer="counts", donor="donor_id", progress=False)
    names = list(adata.var_names)
    table = dw.get.ranef(adata, names, key="pseudobulk")
    unit = adata.obs["donor_id"].astype(str)
    terms = {"donor_id": unit} | (
        {"donor_id:stim": unit + ":" + adata.obs["stim"].astype(str)} if "stim" in formula else {}
    )
    total = np.zeros(counts.shape)
    for term, level in terms.items():
        own = table[table["term"] == term].pivot(index="level", columns="variable", values="value")
        blup = own.loc[level, names].to_numpy()
        np.testing.assert_allclose(made(adata, "pseudobulk", remove=term), counts / np.exp(blup), rtol=1e-8)
        total += blup
    made(adata, "pseudobulk", fitted="fitted")
    factor = adata.uns["pseudobulk"]["size_factors"]
    per_unit = factor["factor"].set_axis(factor["unit"].astype(str))
    depth = counts.sum(axis=1) * per_unit[list(terms.values())[-1]].to_numpy()
    rate = adata.layers["fitted"] / depth[:, None] / np.exp(total)  # what fixed effects say, the same in an arm
    arm = (adata.obs["condition"] == "disease").to_numpy()
    if "stim" not in formula:
        np.testing.assert_allclose(rate[arm], np.broadcast_to(rate[arm][:1], rate[arm].shape), rtol=1e-8)
    assert np.abs(np.log(adata.layers["fitted"].sum(axis=0) / counts.sum(axis=0))).max() < 0.3


def test_counts_of_units_in_groups_are_those_of_each_group_alone() -> None:
    adata = cohort(n_genes=40)
    adata.obs["stim"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 3 > 0, "a", "b"))
    how = {"formula": "~ condition + stim + (1 | donor_id)", "layer": "counts", "donor": "donor_id", "progress": False}
    dw.tl.pseudobulk(adata, groupby="cell_type", **how)
    out = made(adata, "pseudobulk", remove="donor_id")
    for name in adata.obs["cell_type"].cat.categories:
        of_group = (adata.obs["cell_type"] == name).to_numpy()
        alone = adata[of_group].copy()
        dw.tl.pseudobulk(alone, **how)
        np.testing.assert_allclose(out[of_group], made(alone, "pseudobulk", remove="donor_id"), rtol=1e-8)


def test_units_of_groups_have_what_each_group_has_by_itself() -> None:
    """Groups without some of the units, so that these have other numbers there."""
    adata = cohort(n_genes=30)
    kind, donor = adata.obs["cell_type"].astype(str), adata.obs["donor_id"].cat.codes
    adata = adata[~((kind == "T cell") & (donor == 1))].copy()
    formula, given = "~ condition", {"layer": "counts", "donor": "donor_id", "progress": False}
    dw.tl.pseudobulk(adata, formula, groupby="cell_type", **given)
    whole = made(adata, "pseudobulk", remove="condition")
    for name in adata.obs["cell_type"].unique():
        at = (adata.obs["cell_type"] == name).to_numpy()
        own = adata[at].copy()
        dw.tl.pseudobulk(own, formula, **given)
        np.testing.assert_allclose(whole[at], made(own, "pseudobulk", remove="condition"), rtol=1e-8)


def test_yes_and_no_average_to_shares_without_the_terms() -> None:
    adata = cohort(n_cells=2000)
    rng = np.random.default_rng(1)
    late = (np.arange(adata.n_obs) % 2).astype(float)
    adata.obs["late"], adata.obs["yes"] = late, rng.binomial(1, 1 / (1 + np.exp(1 - 1.5 * late))).astype(float)
    dw.tl.glmm(adata, "~ condition + late + (1 | donor_id)", family="binomial", obs_keys="yes", progress=False)
    out = made(adata, "glmm", remove="late")[:, 0]
    assert abs(out[late == 1].mean() - out[late == 0].mean()) < 0.01
    assert abs(adata.obs["yes"][late == 1].mean() - adata.obs["yes"][late == 0].mean()) > 0.25
    pearson = made(adata, "glmm")[:, 0]
    assert abs(pearson.std() - 1) < 0.03


def test_detection_has_shares_too() -> None:
    adata = cohort()
    dw.tl.glmm(
        adata, "~ condition + (1 | donor_id)", family="binomial", link="cloglog", response="detected", layer="counts", progress=False
    )  # fmt: skip
    pearson = made(adata, "glmm", fitted="fitted")
    share = adata.layers["fitted"]
    assert ((share >= 0) & (share <= 1))[:, np.isfinite(share).all(axis=0)].all()
    seen = (adata.layers["counts"].toarray() > 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        want = (seen - share) / np.sqrt(share * (1 - share))
    known = np.isfinite(want) & (share > 1e-6) & (share < 1 - 1e-6)
    np.testing.assert_allclose(pearson[known], want[known], rtol=1e-5)


def test_measurements_of_peptides() -> None:
    adata = peptides()
    dw.tl.lmm(adata, "~ condition + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
    names = adata.var["protein"].astype(object)
    proteins = list(names.dropna().unique())
    effects = dw.get.ranef(adata, proteins).set_index(["variable", "level"])["value"]
    out, residual = made(adata, remove="peptide"), made(adata, fitted="fitted")
    np.testing.assert_allclose(
        residual + adata.layers["fitted"], np.where(np.isnan(residual), np.nan, adata.X), atol=1e-10
    )
    assert np.isnan(out[:, -1]).all()  # it has no protein
    fitted = set(dw.get.tests(adata).query("p_value.notna()")["variable"].astype(str))
    for column, (peptide, protein) in enumerate(zip(adata.var_names, names, strict=True)):
        seen = np.isfinite(adata.X[:, column])
        if protein in fitted and seen.any():
            blup = np.nan_to_num(effects[(protein, peptide)])
            np.testing.assert_allclose(out[seen, column], adata.X[seen, column] - blup, atol=1e-10)
        assert np.isnan(out[~seen, column]).all()
    one = made(adata, remove="peptide", variables=proteins[3])
    assert list(adata.obsm["made"].columns) == list(adata.var_names[names == proteins[3]])
    assert one.shape[1] == (names == proteins[3]).sum()


def test_slopes_of_peptides() -> None:
    adata = peptides(n_donors=8, n_runs=4)
    dw.tl.lmm(adata, "~ condition + (1 | peptide) + (quality | donor_id)", features="protein", progress=False)
    residual = made(adata, fitted="fitted")
    np.testing.assert_allclose(
        residual + adata.layers["fitted"], np.where(np.isnan(residual), np.nan, adata.X), atol=1e-10
    )
    assert np.isfinite(residual).mean() > 0.5
    assert np.nanstd(residual) < np.nanstd(adata.X) / 3


def test_kernels_count_as_their_donors() -> None:
    adata = cohort()
    donors = list(adata.obs["donor_id"].cat.categories)
    K = pd.DataFrame(np.kron(np.eye(4), [[1, 0.5], [0.5, 1]]), donors, donors)
    dw.tl.lmm(
        adata, "~ condition + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)", kernels={"grm": K}, progress=False
    )  # fmt: skip
    y = adata.X.toarray()
    kernel, own, both = (
        y - made(adata, remove=name) for name in ("gr(donor_id, cov=grm)", "(1 | donor_id)", "donor_id")
    )
    np.testing.assert_allclose(kernel + own, both, atol=1e-10)
    assert np.abs(kernel).max() > 0
    assert np.abs(own).max() > 0


def test_splines_and_interactions_by_name(caplog: pytest.LogCaptureFixture) -> None:
    adata = cohort()
    formula = "~ condition * sex + bs(log_depth, df=3) + (1 + log_depth || donor_id)"
    design = build_design(formula, adata.obs)
    assert terms_named(design, ["log_depth"]).fixed == ("bs(log_depth, df=3)",)
    assert terms_named(design, ["bs(log_depth,df=3)"]).random == ()
    assert terms_named(design, ["sex:condition"]).fixed == ("condition:sex",)
    assert terms_named(design, ["donor_id"]).random == (0, 1)
    assert terms_named(design, ["(1 | donor_id)"]).random == (0,)
    assert terms_named(design, ["(1 + log_depth || donor_id)"]).random == (0, 1)
    with caplog.at_level(logging.WARNING, "donorwise"):
        terms_named(design, ["sex", "condition:sex"])
        assert not caplog.messages
        terms_named(design, ["sex"])
    assert "'condition:sex' is left in" in caplog.text
    with pytest.raises(DesignError, match="has no term 'donor'; did you mean `donor_id`"):
        terms_named(design, ["donor"])
    with pytest.raises(DesignError, match="intercept is the level"):
        terms_named(design, ["1"])


# whatever the container


def test_blocks_are_the_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (40, 15)).astype(np.float32)
    dense[3] = 0
    wanted, columns = rng.random(40) < 0.7, np.array([4, 0, 9, 14])
    want = np.where(wanted[:, None], dense[:, columns].astype(float), np.nan)
    path = tmp_path / "m.h5ad"
    whole = ad.AnnData(sp.csr_matrix(dense), layers={"csc": sp.csc_matrix(dense), "dense": dense})
    whole.write_h5ad(path)
    whole.write_zarr(tmp_path / "m.zarr")
    kinds = [dense, sp.csr_matrix(dense), sp.csc_array(dense), sp.coo_matrix(dense), dense.astype(np.int64)]
    for name in ("m.h5ad", "m.zarr"):
        stored = dw._anndata.open_source(tmp_path / name)
        kinds += [Stored(own) for own in (stored.X, stored.layers["csc"], stored.layers["dense"])]
    for matrix in kinds:
        for most in (1, 7, 10_000):
            out, times = np.full(want.shape, np.nan), np.zeros(want.shape)
            for block in dense_blocks(matrix, columns, wanted, most):
                at = np.ix_(block.rows, block.columns)
                out[at], times[at] = block.values, times[at] + 1
            np.testing.assert_array_equal(out, want)
            assert times.max() == 1


def test_container_order_and_chunks_do_not_matter(tmp_path: Path) -> None:
    adata = cohort()
    formula, remove = "~ condition + log_depth + (1 | donor_id)", ["log_depth", "donor_id"]
    dw.tl.lmm(adata, formula, groupby="cell_type", progress=False)
    want = made(adata, remove=remove)
    del adata.layers["made"], adata.layers["counts"]
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shuffled = adata[order].copy()
    np.testing.assert_allclose(made(shuffled, remove=remove), want[order], atol=1e-10)
    for change in (sp.csc_matrix, lambda X: X.toarray()):
        other = adata.copy()
        other.X = change(other.X)
        np.testing.assert_allclose(made(other, remove=remove), want, atol=1e-10)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_allclose(made(backed, remove=remove, max_memory=1e-4), want, atol=1e-10)
    adata.write_zarr(tmp_path / "a.zarr")
    np.testing.assert_allclose(made(dw._anndata.open_source(tmp_path / "a.zarr"), remove=remove), want, atol=1e-10)
    genes = adata.var_names[[7, 2]]
    np.testing.assert_allclose(made(backed, remove=remove, variables=list(genes)), want[:, [7, 2]], atol=1e-10)
    assert list(backed.obsm["made"].columns) == list(genes)
    backed.file.close()


def test_genes_in_another_order_than_when_they_were_fitted() -> None:
    adata = cohort()
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    other = adata[:, list(adata.var_names[::-1])].copy()
    np.testing.assert_allclose(made(other), made(adata)[:, ::-1], atol=1e-10)
    names = list(adata.var_names)
    pd.testing.assert_frame_equal(dw.get.ranef(other, names), dw.get.ranef(adata, names))
    dw.tl.test(other, "condition[T.disease]", progress=False)  # which compares the models with those of the result


def test_stored_result_has_all_it_takes(tmp_path: Path) -> None:
    adata = cohort()
    dw.tl.glmm(
        adata,
        "~ condition + (1 | donor_id)",
        family="nb",
        layer="counts",
        exposure="depth" if "depth" in adata.obs else None,
        progress=False,
    )
    want = made(adata, "glmm")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.layers["made"], want)
    np.testing.assert_allclose(made(again, "glmm"), want, atol=1e-10)  # it knows that the layer is its own
    some = ["gene_0002", "gene_0005"]
    dw.tl.residuals(again, "glmm", variables=some, key_added="some", dtype="float64", progress=False)
    np.testing.assert_allclose(again.obsm["some"], want[:, [1, 4]], atol=1e-8)


# what is missing, and what is refused


def test_cells_and_features_without_a_model_are_nan(caplog: pytest.LogCaptureFixture) -> None:
    adata = cohort()
    adata.obs["cell_type"] = (
        adata.obs["cell_type"].astype(str).mask(np.arange(adata.n_obs) < 30, "rare").astype("category")
    )
    adata.obs.loc[adata.obs_names[:30], "condition"] = "control"  # an arm that is missing
    adata.obs.loc[adata.obs_names[100:104], "sex"] = np.nan
    X = adata.X.toarray()
    X[:, 3] = 1.0
    adata.X = X
    dw.tl.lmm(
        adata, "~ condition + sex + (1 | donor_id)", groupby="cell_type", mask_var=np.arange(10) != 5, progress=False
    )
    fitted = set(adata.uns["lmm"]["params"]["ddf_used"]["names"])
    with caplog.at_level(logging.WARNING, "donorwise"):
        out = made(adata, remove="donor_id")
    lost = adata.obs["sex"].isna().to_numpy() | ~adata.obs["cell_type"].isin(fitted).to_numpy()
    assert lost.sum() >= 4
    assert np.isnan(out[lost]).all()
    assert np.isfinite(out[~lost][:, [0, 1, 2, 4, 6]]).all()
    assert np.isnan(out[:, [3, 5]]).all()
    assert f"{lost.sum():,} of {adata.n_obs:,} cells are NaN" in caplog.text


def test_scores_and_columns_of_obs_are_tables() -> None:
    adata = cohort()
    adata.obsm["scores"] = adata.X.toarray()[:, :3].astype(float)
    adata.obsm["scores"][4, 1] = np.nan
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", obsm="scores", progress=False)
    out = made(adata)
    assert list(adata.obsm["made"].columns) == ["scores_1", "scores_2", "scores_3"]
    assert np.isnan(out[4, 1])
    assert np.isnan(out).sum() == 1
    dw.tl.residuals(adata, progress=False)
    assert adata.obsm["residuals"].to_numpy().dtype == np.float32


def test_nothing_of_others_is_overwritten() -> None:
    adata = cohort()
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    before = adata.layers["counts"].copy()
    with pytest.raises(DataError, match="did not make"):
        dw.tl.residuals(adata, key_added="counts", progress=False)
    with pytest.raises(DataError, match="did not make"):
        dw.tl.residuals(adata, fitted="counts", progress=False)
    assert (adata.layers["counts"] != before).nnz == 0
    with pytest.raises(DataError, match="two names"):
        dw.tl.residuals(adata, key_added="x", fitted="x", progress=False)
    with pytest.raises(DataError, match="without '/'"):
        dw.tl.residuals(adata, key_added="a/b", progress=False)
    dw.tl.residuals(adata, progress=False)
    first = adata.layers["residuals"].copy()
    dw.tl.lmm(adata, "~ sex + (1 | donor_id)", progress=False)  # the result is another, the layer is ours still
    dw.tl.residuals(adata, progress=False)
    assert not np.allclose(adata.layers["residuals"], first)
    adata.uns["other_residuals"], adata.uns["other"] = "mine", adata.uns["lmm"]
    with pytest.raises(DataError, match="did not write"):
        dw.tl.residuals(adata, "other", progress=False)
    del adata.uns["other_residuals"], adata.uns["other"]
    copy = dw.tl.residuals(adata, key_added="other", copy=True, progress=False)
    assert copy is not None
    assert "other" in copy.layers
    assert "other" not in adata.layers


@pytest.mark.filterwarnings("ignore:.*view")
def test_views() -> None:
    adata = cohort()
    large = ad.concat([adata, adata[:50]], index_unique="-", merge="same")
    view = large[: adata.n_obs]
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    dw.tl.lmm(view, "~ condition + (1 | donor_id)", progress=False)
    view = view[:, ::-1]
    np.testing.assert_allclose(made(view, fitted="fitted"), made(adata)[:, ::-1], atol=1e-10)
    assert {"made", "fitted"} <= set(view.layers)


def test_view_of_a_file_is_not_read(tmp_path: Path) -> None:
    adata = cohort()
    adata.write_h5ad(tmp_path / "a.h5ad")
    view = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[:, :5]
    dw.tl.lmm(view, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match="view of one in a file"):
        dw.tl.residuals(view, progress=False)


def test_what_is_refused() -> None:
    adata = cohort()
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    for options, error, text in (
        ({"dtype": "float16"}, DonorwiseError, "dtype"),
        ({"max_memory": 1e-9}, DataError, "donorwise residuals --out"),
        ({"variables": "TP53"}, DataError, "no variable 'TP53'"),
        ({"variables": []}, DataError, "names no feature"),
        ({"remove": []}, DataError, "names no term"),
        ({"remove": "batch"}, DesignError, "no term 'batch'"),
        ({"key": "glmm"}, DataError, "glmm"),
    ):
        with pytest.raises(error, match=text):
            dw.tl.residuals(adata, progress=False, **options)
    assert "residuals" not in adata.layers
    with pytest.raises(DataError, match="not the one that"):
        dw.tl.residuals(adata[:400].copy(), progress=False)
    rows = dw.pp.collapse(adata, by=["donor_id", "condition"])
    dw.tl.lmm(rows, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match="were collapsed"):
        dw.tl.residuals(rows, progress=False)
    dw.tl.composition(adata, "~ condition + (1 | donor_id)", cell_type="cell_type", progress=False)
    with pytest.raises(DataError, match="of samples"):
        dw.tl.residuals(adata, "composition", progress=False)
