"""Responses that are the same in all cells of a donor, or of a sample: one row per donor, or sample."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._dense import Dense, Term

import donorwise as dw

TESTS = ["estimate", "se", "df", "statistic", "p_value", "ci_low", "ci_high"]


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    """12 donors with 2 to 4 samples, 3 to 20 cells each, in two batches of donors; a stimulus within samples."""
    rng = np.random.default_rng(0)
    samples = np.repeat(np.arange(12), rng.integers(2, 5, 12))
    sample = np.repeat(np.arange(samples.size), rng.integers(3, 21, samples.size))
    donor = samples[sample]
    return pd.DataFrame(
        {
            "donor": [f"D{d:02}" for d in donor],
            "sample": [f"s{s:02}" for s in sample],
            "arm": pd.Categorical(np.where(donor % 2, "case", "control"), categories=["control", "case"]),
            "batch": [f"b{d // 4}" for d in donor],
            "visit": (sample - np.searchsorted(samples, donor)).astype(float),
            "stim": rng.choice(["no", "yes"], donor.size),
            "age": (40 + donor * 7 % 31).astype(float),
            "x": rng.normal(size=donor.size),
        },
        index=[f"c{i}" for i in range(donor.size)],
    )


def by(cells: pd.DataFrame, column: str, n: int = 3) -> np.ndarray:
    """Features that are constant within the levels of a column, and vary between its donors."""
    rng, donor, own = np.random.default_rng(1), cells["donor"].str[1:].astype(int), pd.factorize(cells[column])[0]
    return 3.0 + rng.normal(size=(12, n))[donor] + rng.normal(size=(own.max() + 1, n))[own]


def rows_of(cells: pd.DataFrame, Y: np.ndarray, column: str) -> tuple[pd.DataFrame, np.ndarray]:
    """One row per level."""
    first = ~cells[column].duplicated().to_numpy()
    return cells[first], Y[first]


def check(own: pd.DataFrame, expected: pd.DataFrame) -> None:
    for name in TESTS:
        np.testing.assert_allclose(own[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_value_per_donor_is_the_t_test_of_the_donors(cells: pd.DataFrame, weighted: bool) -> None:
    Y = by(cells, "donor")
    weights = np.random.default_rng(0).gamma(3, size=len(cells)) if weighted else None
    own = dw.fit_lmm(Y, cells, "~ arm + (1 | donor)", weights=weights).test("arm[T.case]")
    obs, values = rows_of(cells, Y, "donor")
    case = obs["arm"] == "case"
    expected = stats.ttest_ind(values[case], values[~case])
    np.testing.assert_allclose(own["statistic"], expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(own["p_value"], expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(own["df"], 10, rtol=1e-9)
    assert list(own["status"]) == ["ok"] * 3


@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "between-within", "moderated"])
def test_covariates_and_every_df(cells: pd.DataFrame, ddf: str) -> None:
    Y = by(cells, "donor")
    own = dw.fit_lmm(Y, cells, "~ arm + age + x + (visit | donor) + (1 | sample)").test(["arm[T.case]", "age"], ddf)
    obs, values = rows_of(cells, Y, "donor")
    check(own, dw.fit_lmm(values, obs, "~ arm + age").test(None, "residual"))
    assert set(own["status"]) == {"boundary"}


def test_what_varies_within_donors_has_no_variance(cells: pd.DataFrame) -> None:
    fit = dw.fit_lmm(by(cells, "donor"), cells, "~ arm * stim + x + (1 | donor)")
    own = fit.test(None).set_index(["contrast", "variable"])
    for name in ("stim[T.yes]", "arm[T.case]:stim[T.yes]", "x"):
        assert set(own.loc[name, "status"]) == {"constant"}
        assert own.loc[name, TESTS].isna().all().all()
    assert set(own.loc["arm[T.case]", "status"]) == {"ok"}
    assert set(fit.joint_test("stim")["status"]) == {"constant"} and set(fit.joint_test("arm")["status"]) == {"ok"}
    np.testing.assert_allclose(fit.beta[:, 2:], 0, atol=1e-12)


def test_means_of_levels_that_vary_within_donors(cells: pd.DataFrame) -> None:
    """Their common value is known, their difference has no variance."""
    Y = by(cells, "donor")
    own = dw.fit_lmm(Y, cells, "~ 0 + stim + (1 | donor)").test(["stim[no]", "stim[yes]"], "kenward-roger")
    obs, values = rows_of(cells, Y, "donor")
    expected = dw.fit_lmm(values, obs, "~ 1").test("Intercept", "residual")
    check(own.query("contrast == 'stim[no]'"), expected)
    check(own.query("contrast == 'stim[yes]'"), expected)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    "random", ["(1 | donor) + (1 | sample)", "(1 | donor/sample)", "(1 | sample) + (visit || donor)"]
)
def test_a_value_per_sample_is_a_mixed_model_of_samples(cells: pd.DataFrame, random: str, reml: bool) -> None:
    Y = by(cells, "sample")
    fit = dw.fit_lmm(Y, cells, f"~ arm + visit + stim + {random}", reml=reml)
    rest = "(visit || donor)" if "visit" in random else "(1 | donor)"
    obs, values = rows_of(cells, Y, "sample")
    twin = dw.fit_lmm(values, obs, f"~ arm + visit + {rest}", reml=reml)
    names = ["arm[T.case]", "visit"]
    for ddf in ("kenward-roger", "satterthwaite", "moderated"):
        check(fit.test(names, ddf), twin.test(names, ddf))
    check(fit.at_ml().test(names, "satterthwaite"), twin.at_ml().test(names, "satterthwaite"))
    np.testing.assert_allclose(fit.loglik, twin.loglik)
    own, expected = fit.varcomp(), twin.varcomp()
    donors = own.query("term == 'donor'")["variance"].to_numpy()
    np.testing.assert_allclose(donors, expected.query("term == 'donor'")["variance"], rtol=1e-9, atol=1e-12)
    samples = own[own["term"].str.endswith("sample")]["variance"]
    np.testing.assert_allclose(samples, expected.query("term == 'Residual'")["variance"])
    assert (own.query("term == 'Residual'")["variance"] == 0).all()
    check_effects(fit, twin, Y, cells)


def check_effects(fit: dw.LMMFit, twin: dw.LMMFit, Y: np.ndarray, cells: pd.DataFrame) -> None:
    own, expected = fit.ranef("donor"), twin.ranef("donor")
    np.testing.assert_allclose(own[["value", "cond_sd"]], expected[["value", "cond_sd"]], atol=1e-9)
    sample = next(t.group for t in fit.design.random_terms if t.group.endswith("sample"))
    effects = fit.ranef(sample)
    assert (effects["cond_sd"] >= 0).all() and len(effects) == 3 * cells["sample"].nunique()
    np.testing.assert_allclose(fit.icc().groupby("variable")["icc"].sum(), 1)


def test_effects_add_up_to_the_responses(cells: pd.DataFrame) -> None:
    Y = by(cells, "sample")
    fit = dw.fit_lmm(Y, cells, "~ arm + (1 | donor) + (1 | sample)")
    u = {g: fit.ranef(g).pivot(index="level", columns="variable", values="value") for g in ("donor", "sample")}
    fixed = np.column_stack([np.ones(len(cells)), cells["arm"] == "case"]) @ fit.beta.T
    own = fixed + u["donor"].loc[cells["donor"]].to_numpy() + u["sample"].loc[cells["sample"]].to_numpy()
    np.testing.assert_allclose(own, Y, atol=1e-9)


def test_the_limit_is_that_of_the_mixed_model(cells: pd.DataFrame) -> None:
    """The textbook's matrices at a large ratio."""
    Y = by(cells, "sample", n=1)
    fit = dw.fit_lmm(Y, cells, "~ arm + (1 | donor) + (1 | sample)")
    donor, sample = (pd.factorize(cells[name])[0] for name in ("donor", "sample"))
    one = np.ones((len(cells), 1))
    twin = Dense(Y[:, 0], np.column_stack([one, cells["arm"] == "case"]), [Term(donor, one), Term(sample, one)])
    ratio = fit.varcomp().query("variable == 'y1'").set_index("term")["variance"] / fit.varcomp()["variance"].max()
    point = twin.at(1e7 * ratio[["donor", "sample"]].to_numpy(), reml=True)
    np.testing.assert_allclose(fit.beta[0], point.beta, rtol=1e-5)
    scale = fit.varcomp()["variance"].max() / 1e7
    information = np.linalg.inv(fit.vcov_beta[0])
    np.testing.assert_allclose(point.vcov / point.sigma2 * scale, np.linalg.inv(information), rtol=1e-5)


@pytest.fixture(scope="module")
def genes(cells: pd.DataFrame) -> ad.AnnData:
    """120 genes, of which some are the same in all cells of a donor, or everywhere."""
    rng, donor = np.random.default_rng(2), pd.factorize(cells["donor"])[0]
    X = rng.normal(size=(len(cells), 120)) + 0.5 * rng.normal(size=(12, 120))[donor]
    X[:, [3, 50, 99]] = by(cells, "donor")
    X[:, 7] = 1.0
    return ad.AnnData(X, obs=cells.copy())


def test_among_genes_that_are_moderated(genes: ad.AnnData) -> None:
    at = [3, 50, 99]
    dw.tl.lmm(genes, "~ arm + (1 | donor)", progress=False)
    own = dw.get.tests(genes)
    rest = genes[:, np.setdiff1d(np.arange(120), at)].copy()
    dw.tl.lmm(rest, "~ arm + (1 | donor)", progress=False)
    alone = dw.fit_lmm(genes.X[:, at], genes.obs, "~ arm + (1 | donor)").test("arm[T.case]", "kenward-roger")
    own = own.set_index("variable").loc[list(genes.var_names)]
    check(own.iloc[at], alone)
    others = dw.get.tests(rest).set_index("variable").loc[list(rest.var_names)]
    check(own.drop(genes.var_names[at]), others)
    assert own["status"].iloc[7] == "constant" and not own["status"].eq("not_converged").any()


def test_influence_and_power(genes: ad.AnnData) -> None:
    dw.tl.lmm(genes, "~ arm + (1 | donor)", progress=False)
    dw.tl.influence(genes, variables=[genes.var_names[3]], progress=False)
    table = dw.get.influence(genes, by="donor")
    obs, values = rows_of(genes.obs, np.asarray(genes.X), "donor")
    for donor in ("D00", "D05"):
        left, case = obs["donor"] != donor, obs["arm"] == "case"
        p = stats.ttest_ind(values[left & case, 3], values[left & ~case, 3]).pvalue
        np.testing.assert_allclose(table.query("donor == @donor")["p_value"], p, rtol=1e-9)
    dw.tl.power(genes, n_donors=[12], n_cells=[20, 500], effect=1.0, progress=False)
    assert dw.get.power(genes)["power"].between(0, 1).all()


def test_power_is_that_of_donors(cells: pd.DataFrame) -> None:
    """More cells say no more of values that are the same in all of them."""
    fit = dw.fit_lmm(by(cells, "donor", n=10), cells, "~ arm + (1 | donor)")
    power = dw.tl.power(fit, n_donors=[12], n_cells=[20, 5000], effect=1.0, contrasts="arm[T.case]", progress=False)
    assert power is not None and np.ptp(power.query("expression == 'all'")["power"]) < 1e-6
    assert 0.05 < power["power"].min() < 0.95


@pytest.mark.parametrize("response", ["value", "genes"])
def test_calibrate(genes: ad.AnnData, response: str) -> None:
    """As it is for all other responses: the test of every arrangement, and the share of those as extreme."""
    genes.obs["value"] = genes.X[:, 3]
    own = {"obs_keys": "value"} if response == "value" else {}
    dw.tl.calibrate(genes, "~ arm + (1 | donor)", "arm[T.case]", n_permutations=19, progress=False, **own)
    obs, values = rows_of(genes.obs, np.asarray(genes.X), "donor")
    p = stats.ttest_ind(values[obs["arm"] == "case", 3], values[obs["arm"] != "case", 3]).pvalue
    table = genes.uns["calibration"]["variables"]
    name = "value" if response == "value" else genes.var_names[3]
    np.testing.assert_allclose(table.set_index("variable").loc[name, "p_value"], p, rtol=1e-9)
    assert 0 < table.set_index("variable").loc[name, "permutation_p"] <= 1


def test_what_is_said(genes: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    dw.tl.lmm(genes, "~ arm + (1 | donor)", progress=False)
    text = (
        "3 of 120 have one value in all cells of every donor and are tested, without moderation, as one row per donor"
    )
    assert text in caplog.text and genes.uns["lmm"]["params"]["ddf_reasons"]["values"] == [text]


def test_fold_changes(cells: pd.DataFrame) -> None:
    """Of log values: the difference of the log2 of the donors' abundances."""
    Y = np.log1p(np.exp(by(cells, "donor")))
    adata = ad.AnnData(Y, obs=cells.copy())
    adata.uns["log1p"] = {"base": None}
    dw.tl.lmm(adata, "~ arm + stim + (1 | donor)", progress=False)
    table = dw.get.tests(adata, sort_by=None).set_index("contrast")
    obs, values = rows_of(cells, Y, "donor")
    case = obs["arm"] == "case"
    expected = np.log2(np.expm1(values[case])).mean(axis=0) - np.log2(np.expm1(values[~case])).mean(axis=0)
    np.testing.assert_allclose(table.loc["arm[T.case]", "log_fc"], expected, rtol=0.1)  # but for a prior count
    assert table.loc["stim[T.yes]", "log_fc"].isna().all()


def test_no_status_promises_numbers_that_are_not_there() -> None:
    """A slope on a number of the donors leaves one row each: Kenward and Roger's variance can come out below zero."""
    rng = np.random.default_rng(2)
    donor = np.repeat(np.arange(12), 6)
    values, age = rng.normal(size=(12, 40)), 30 + rng.integers(0, 40, 12)
    obs = pd.DataFrame({"donor": [f"P{i}" for i in donor], "arm": np.array(list("abc"))[donor % 3], "age": age[donor]})
    tests = dw.fit_lmm(values[donor], obs, "~ arm + (age || donor)").test("arm[T.b]", "kenward-roger")
    fitted = tests["status"].isin(["ok", "boundary"])
    assert 0 < fitted.sum() < 40
    assert tests.loc[fitted, ["se", "p_value"]].notna().all(axis=None)
    assert set(tests.loc[~fitted, "status"]) == {"not_converged"}
