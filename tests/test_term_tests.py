"""tl.joint_test and tl.test_variance of every family: a row for everything, the same numbers by every way that there is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._peptide_data import FORMULA, WEIGHTED, peptides

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseError

JOINT = ["variable", "group", "term", "statistic", "num_df", "den_df", "p_value", "adj_p_value", "status"]
VARIANCE = ["variable", "group", "term", "statistic", "df", "p_value", "adj_p_value", "variance", "sd", "status"]
TESTED = ("ok", "boundary", "reduced", "separated")


@cache
def cells() -> ad.AnnData:
    """Donors of three arms, cells of two conditions; a group lacks an arm, another has one arm alone."""
    adata = dw.datasets.simulate_cohort(n_donors=9, n_cells=900, n_genes=110, seed=3)
    rng, donor = np.random.default_rng(0), adata.obs["donor_id"].cat.codes.to_numpy()
    stim = rng.choice(["u", "v"], adata.n_obs)
    adata.obs = adata.obs.assign(
        arm=pd.Categorical(np.array(["a", "b", "c"])[donor % 3]), stim=pd.Categorical(stim), x=rng.normal(size=adata.n_obs),
        sample_id=pd.Categorical([f"{d}.{s}" for d, s in zip(donor, stim, strict=True)]), yes=rng.integers(0, 2, adata.n_obs),
        score=rng.normal(size=adata.n_obs),
    )  # fmt: skip
    kind, arm = adata.obs["cell_type"].astype(str), adata.obs["arm"]
    lost = ((kind == "B cell") & (arm == "c")) | ((kind == "Monocyte") & (arm != "a"))
    return adata[~lost.to_numpy()].copy()


def kernel(adata: ad.AnnData) -> pd.DataFrame:
    donors = adata.obs["donor_id"].cat.categories
    Z = np.random.default_rng(1).normal(size=(len(donors), 40))
    return pd.DataFrame(np.cov(Z), donors, donors)


def _lmm(formula: str, **given: object) -> Callable[[], ad.AnnData]:
    def make() -> ad.AnnData:
        adata = cells().copy()
        dw.tl.lmm(adata, formula, progress=False, **given)  # type: ignore[arg-type]
        return adata

    return make


def _kernels() -> ad.AnnData:
    adata = cells().copy()
    dw.tl.lmm(
        adata, "~ arm + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)", kernels={"grm": kernel(adata)}, progress=False
    )
    return adata


def _glmm(formula: str, **given: object) -> Callable[[], ad.AnnData]:
    def make() -> ad.AnnData:
        adata = cells()[:, :40].copy()
        dw.tl.glmm(adata, formula, progress=False, key_added="lmm", **given)  # type: ignore[arg-type]
        return adata

    return make


def _pseudobulk() -> ad.AnnData:
    adata = cells().copy()
    dw.tl.pseudobulk(
        adata, "~ arm + stim + (1 | donor_id)", sample="sample_id", layer="counts", key_added="lmm", progress=False
    )
    return adata


def _composition() -> ad.AnnData:
    adata = cells().copy()
    dw.tl.composition(adata, "~ arm + stim + (1 | sample_id)", cell_type="cell_type", key_added="lmm", progress=False)
    return adata


def _peptides(formula: str) -> Callable[[], ad.AnnData]:
    def make() -> ad.AnnData:
        adata = peptides(n_donors=9)
        adata.obs["arm"] = np.array(["a", "b", "c"])[np.repeat(np.arange(9), 2) % 3]
        dw.tl.lmm(adata, formula, progress=False, **WEIGHTED)
        return adata

    return make


FAMILIES = {
    "values": _lmm("~ arm * stim + (stim | donor_id)"),
    "values by group": _lmm("~ arm + stim + (1 | donor_id)", groupby="cell_type", ddf="kenward-roger"),
    "kernels": _kernels,
    "pseudobulk": _pseudobulk,
    "composition": _composition,
    "counts": _glmm("~ arm * stim + (1 | donor_id)", layer="counts", family="nb"),
    "counts with slopes": _glmm("~ arm + stim + (stim | donor_id)", layer="counts", family="poisson"),
    "counts of cells": _glmm("~ arm + x + (1 | donor_id)", layer="counts", family="poisson", ddf="between-within"),
    "detection": _glmm("~ arm + stim + (1 | donor_id)", layer="counts", family="binomial", link="cloglog", response="detected"),
    "yes and no": _glmm("~ arm + (1 | donor_id)", obs_keys="yes", family="binomial", ddf="wald"),
    "peptides": _peptides("~ arm + (1 | peptide) + (1 | donor_id)"),
    "peptides with slopes": _peptides("~ arm + (1 | peptide) + (1 + instrument | donor_id)"),
}  # fmt: skip


@cache
def asked(family: str) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = FAMILIES[family]()
        dw.tl.joint_test(adata, ["arm"], progress=False)
        dw.tl.test_variance(adata, progress=False)
    return adata


@pytest.mark.parametrize("family", FAMILIES)
def test_every_feature_has_a_row(family: str) -> None:
    adata = asked(family)
    results = dw.get.tests(adata, sort_by=None)
    for table, columns in ((dw.get.joint_tests(adata), JOINT), (dw.get.variance_tests(adata), VARIANCE)):
        assert list(table.columns) == columns
        n = results["variable"].nunique() * results["group"].nunique() * table["term"].nunique()
        assert len(table) == n and not table.duplicated(["variable", "group", "term"]).any()
        answered = table["status"].isin(TESTED)
        assert answered.any() and table.loc[answered, "p_value"].between(0, 1).all()
        assert table.loc[~answered, ["statistic", "p_value", "adj_p_value"]].isna().all(axis=None)
    joint = dw.get.joint_tests(adata, status=list(TESTED))
    F = stats.f.sf(joint["statistic"], joint["num_df"], joint["den_df"])
    chi2 = stats.chi2.sf(joint["statistic"] * joint["num_df"], joint["num_df"])
    tail = np.where(np.isinf(joint["den_df"]), chi2, F)
    np.testing.assert_allclose(tail, joint["p_value"], rtol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_one_contrast_it_is_the_square_of_the_single_test(family: str) -> None:
    adata = asked(family).copy()
    names = list(dw.get.tests(adata)["contrast"].cat.categories[:2])
    dw.tl.joint_test(adata, {name: [name] for name in names}, progress=False)
    row = ["variable", "group"]
    for name in names:
        joint = dw.get.joint_tests(adata, term=name).set_index(row).sort_index()
        single = dw.get.tests(adata, contrast=name).set_index(row).sort_index()
        np.testing.assert_allclose(joint["p_value"], single["p_value"], rtol=1e-9)
        np.testing.assert_allclose(joint["statistic"], single["statistic"] ** 2, rtol=1e-9)
        assert (joint["status"].astype(str) == single["status"].astype(str)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_coding_does_not_matter(family: str) -> None:
    """Differences from another arm ask the same."""
    adata = asked(family).copy()
    given = {"stim": "u"} if "*" in adata.uns["lmm"]["params"]["formula"] else {}
    arm = {level: dw.cond(arm=level, **given) for level in "abc"}
    others = [arm["a"] - arm["b"], arm["c"] - arm["b"], arm["a"] - arm["c"]]
    dw.tl.joint_test(adata, {"other": others}, progress=False)
    row, group = ["variable", "group"], None
    if dw.get.tests(adata)["group"].nunique() > 1:
        group = "T cell"
    own, other = (
        dw.get.joint_tests(adata, term=term, group=group).set_index(row).sort_index() for term in ("arm", "other")
    )
    assert (own["num_df"] == other["num_df"]).all()
    np.testing.assert_allclose(own["p_value"], other["p_value"], rtol=1e-6)


def test_levels_that_a_group_lacks() -> None:
    table = dw.get.joint_tests(asked("values by group"), term="arm")
    num_df = table.groupby("group", observed=True)["num_df"].unique().map(list).to_dict()
    assert num_df == {"T cell": [2], "B cell": [1], "Monocyte": [0]}
    assert (table.loc[table["group"] == "Monocyte", "status"] == "not_estimable").all()


def test_what_is_asked_again_is_replaced() -> None:
    adata = asked("values").copy()
    before = dw.get.joint_tests(adata)
    dw.tl.joint_test(adata, ["stim:arm"], ddf="satterthwaite", progress=False)
    assert dw.get.joint_tests(adata)["term"].unique().tolist() == ["arm", "arm:stim"]
    pd.testing.assert_frame_equal(dw.get.joint_tests(adata, term="arm"), before)
    dw.tl.joint_test(adata, "arm", ddf="between-within", progress=False)
    after = dw.get.joint_tests(adata, term="arm")
    assert len(after) == len(before) and not np.allclose(after["p_value"], before["p_value"])
    assert adata.uns["lmm"]["params"]["joint_tests_ddf"] == "between-within"


def test_none_asks_for_the_terms_of_several_coefficients() -> None:
    adata = asked("values").copy()
    del adata.uns["lmm"]["joint_tests"]
    dw.tl.joint_test(adata, progress=False)
    assert dw.get.joint_tests(adata)["term"].unique().tolist() == ["arm", "arm:stim"]
    dw.tl.lmm(adata, "~ stim + x + (1 | donor_id)", key_added="plain", progress=False)
    dw.tl.joint_test(adata, key="plain", progress=False)
    assert set(dw.get.joint_tests(adata, key="plain")["term"]) == {"stim", "x"}


def test_parts_of_random_terms() -> None:
    table = dw.get.variance_tests(asked("values"))
    own = table.groupby("term", observed=True)["df"].first().to_dict()
    assert own == {"(stim | donor_id)": 3, "stim in (stim | donor_id)": 2}
    assert (
        table.loc[table["df"] == 3, "variance"].isna().all() and table.loc[table["df"] == 2, "variance"].notna().all()
    )
    adata = asked("values").copy()
    del adata.uns["lmm"]["variance_tests"]
    dw.tl.test_variance(adata, ["( 0 + stim|donor_id)", "donor_id"], progress=False)
    row = ["term", "variable"]
    again = dw.get.variance_tests(adata).astype({"term": str}).sort_values(row, ignore_index=True)
    pd.testing.assert_frame_equal(again, table.astype({"term": str}).sort_values(row, ignore_index=True))


@pytest.mark.parametrize("family", ["values by group", "counts", "pseudobulk"])
def test_order_of_cells_and_workers(family: str) -> None:
    adata = asked(family)
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    dw.tl.joint_test(other, "arm", n_jobs=2, progress=False)
    dw.tl.test_variance(other, n_jobs=2, progress=False)
    for read in (dw.get.joint_tests, dw.get.variance_tests):
        ours, theirs = read(adata, sort_by=None), read(other, sort_by=None)
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6, atol=1e-9)


def test_variances_of_a_kernel_are_judged_as_its_heritability() -> None:
    adata = asked("kernels")
    own = dw.get.variance_tests(adata, term="(1 | gr(donor_id, cov=grm))", sort_by=None)
    heritability = dw.get.heritability(adata)
    other = heritability[heritability["component"] == "grm"].set_index("variable").loc[own["variable"]]
    zero = own["statistic"].to_numpy() == 0
    np.testing.assert_allclose(own["p_value"][~zero], other["p_value"].to_numpy()[~zero], rtol=1e-9)
    np.testing.assert_allclose(own["statistic"], other["statistic"], atol=0.05)  # which is from parabolas on a grid


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (lambda a: dw.tl.joint_test(a, "arms"), DesignError, "`arms` is not a fixed term; did you mean `arm`"),
        (lambda a: dw.tl.joint_test(a, []), DesignError, "asks for nothing"),
        (lambda a: dw.tl.joint_test(a, [("arm", "a", "b")]), DesignError, "a joint test of contrasts has a name"),
        (lambda a: dw.tl.joint_test(a, 3), DesignError, "3 is not the name of a term"),
        (lambda a: dw.tl.joint_test(a, dw.pairwise("arm")), DesignError, "a joint test of contrasts has a name"),
        (lambda a: dw.tl.joint_test(a, [np.ones(4)]), DesignError, "a joint test of contrasts has a name"),
        (lambda a: dw.tl.joint_test(a, {"mine": [("arm", "a", "z")]}), DesignError, "'z' is not a level of `arm`"),
        (lambda a: dw.tl.joint_test(a, "arm", ddf="wald"), DonorwiseError, "ddf='wald' is not an option"),
        (lambda a: dw.tl.joint_test(a, "arm", key="other"), DataError, "other"),
        (lambda a: dw.tl.test_variance(a, "(1 | donor)"), DesignError, r"is not a random term; did you mean"),
        (lambda a: dw.tl.test_variance(a, []), DesignError, "asks for nothing"),
        (lambda a: dw.tl.test_variance(a, 3), DesignError, "`3` is not a random term"),
        (lambda a: dw.get.joint_tests(a, term="stim"), DataError, "There is no term 'stim'"),
        (lambda a: dw.get.joint_tests(a, status="fine"), DonorwiseError, "'fine' is not an option"),
        (lambda a: dw.get.variance_tests(a, sort_by="p"), DataError, "no column 'p'"),
    ],
)
def test_errors(ask: Callable[[ad.AnnData], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ask(asked("values").copy())


def test_results_without_either() -> None:
    adata = cells()[:, :10].copy()
    dw.tl.lmm(adata, "~ arm + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match=r"run dw\.tl\.joint_test first"):
        dw.get.joint_tests(adata)
    with pytest.raises(DataError, match=r"run dw\.tl\.test_variance first"):
        dw.get.variance_tests(adata)
    adata.X = adata.X * 2
    before = set(adata.uns["lmm"])
    for tool in (dw.tl.joint_test, dw.tl.test_variance, dw.tl.variance_partition):
        with pytest.raises(DataError, match="other estimates"):
            tool(adata, progress=False)
    with pytest.raises(DataError, match="other estimates"):
        dw.get.means(adata, "arm", variables=adata.var_names[:2])
    assert set(adata.uns["lmm"]) == before


@pytest.mark.parametrize(
    "ask",
    [
        lambda a: dw.get.means(a, "arm", variables=[]),
        lambda a: dw.get.means(a, "arm", group=[]),
        lambda a: dw.tl.variance_partition(a, variables=[], progress=False),
        lambda a: dw.tl.gene_sets(a, {"few": list(a.var_names[:9])}, contrast=[], progress=False),
        lambda a: dw.tl.gene_sets(a, {"few": list(a.var_names[:9])}, group=[], progress=False),
    ],
)
def test_empty_lists_ask_for_nothing(ask: Callable[[ad.AnnData], object]) -> None:
    with pytest.raises(DataError, match=r"An empty list of (variable|group|contrast)s asks for nothing; leave it out"):
        ask(asked("values by group").copy())


def test_units_that_differ_are_a_term() -> None:
    terms = set(dw.get.variance_tests(asked("pseudobulk"))["term"])
    assert terms == {"(1 | donor_id:sample_id)", "(1 | donor_id)"}


def test_proteins_that_cannot_tell() -> None:
    for family in ("peptides", "peptides with slopes"):
        table = dw.get.variance_tests(asked(family), variables="P0", term="(1 | peptide)")
        assert table["status"].tolist() == ["not_estimable"] and table["p_value"].isna().all()
    assert FORMULA.count("|") == 2
