"""What fit_lmm accepts and refuses, and what becomes of a feature that cannot be fitted."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import donorwise as dw
from donorwise._core.models.lmm.components import original_covariance
from donorwise._typing import DDF
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FORMULA = "~ arm + cond + (1 | donor)"
INFERENCE = ["se", "ci_low", "ci_high", "statistic", "df", "p_value", "adj_p_value"]
N = 160


def numbers(fit: dw.LMMFit, variable: str, ddf: Any = "kenward-roger") -> pd.DataFrame:
    table = fit.test(None, ddf)
    return table[table["variable"] == variable].reset_index(drop=True)


def assert_unfitted(fit: dw.LMMFit, g: int, status: str) -> None:
    """A row in every table, with a status and without a number."""
    name = fit.variables[g]
    assert fit.status[g] == status
    for array in (fit.beta, fit.vcov_beta, fit.sigma2, fit.theta, fit.loglik):
        assert np.isnan(array[g]).all()
    for ddf in DDF:
        rows = numbers(fit, name, ddf)
        assert len(rows) == len(fit.fixed_names) - 1
        assert (rows["status"] == status).all() and rows[["estimate", *INFERENCE]].isna().all(axis=None)
        joint = fit.joint_test("cond", ddf).iloc[g]
        assert joint["status"] == status and joint[["statistic", "den_df", "scaling", "p_value"]].isna().all()
    assert fit.variance_partition().loc[name].isna().all()
    assert fit.varcomp().query("variable == @name")[["variance", "sd"]].isna().all(axis=None)
    assert fit.icc().query("variable == @name")["icc"].isna().all()


# ---------------------------------------------------------------- responses


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda Y: Y[:, 0], ["y1"]),
        (lambda Y: Y[:, 0].tolist(), ["y1"]),
        (lambda Y: Y[:, 0].astype(object), ["y1"]),
        (lambda Y: pd.Series(Y[:, 0], name="IL2"), ["IL2"]),
        (lambda Y: pd.Series(Y[:, 0]), ["y"]),
        (lambda Y: Y, ["y1", "y2", "y3", "y4"]),
        (lambda Y: pd.DataFrame(Y, columns=["a", "b", "a", 7]), ["a", "b", "a", "7"]),
        (sparse.csr_matrix, ["y1", "y2", "y3", "y4"]),
        (sparse.csc_array, ["y1", "y2", "y3", "y4"]),
    ],
    ids=["vector", "list", "object", "series", "unnamed_series", "array", "dataframe", "csr", "csc_array"],
)
def test_forms_of_response(
    Y: np.ndarray, obs: pd.DataFrame, make: Any, names: list[str], fit_once: Callable[..., dw.LMMFit]
) -> None:
    fit = dw.fit_lmm(make(Y), obs, FORMULA)
    assert list(fit.variables) == names
    np.testing.assert_allclose(fit.beta, fit_once(FORMULA).beta[: len(names)], rtol=1e-10)
    assert len(fit.test(None)) == 2 * len(names)


def test_rows_in_another_order(Y: np.ndarray, obs: pd.DataFrame) -> None:
    """Read by position, the rows of shuffled pandas data would be others than those of obs."""
    reverse = Y[:, 0], np.asarray(obs.index)[::-1]
    with pytest.raises(DataError, match="another order"):
        dw.fit_lmm(pd.Series(reverse[0], index=reverse[1]), obs, FORMULA)
    with pytest.raises(DataError, match="another order"):
        dw.fit_lmm(Y, obs, FORMULA, weights=pd.Series(1.0, index=reverse[1]))


def test_no_features(obs: pd.DataFrame) -> None:
    fit = dw.fit_lmm(np.zeros((N, 0)), obs, FORMULA)
    assert fit.beta.shape == (0, 3) and len(fit.test(None)) == 0 and len(fit.joint_test("arm")) == 0


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (np.zeros(N - 1), "159 rows and obs has 160"),
        (np.zeros((2, N)), "2 rows and obs has 160"),
        (np.zeros((N, 1, 1)), "3 dimensions"),
        (3.0, "0 dimensions"),
        (np.full(N, "high"), "must be numeric"),
        (np.where(np.arange(N) == 3, np.inf, 1.0), "'y1'"),
        (pd.Series(np.where(np.arange(N) == 3, -np.inf, 1.0), name="IL2"), "'IL2'"),
        (sparse.csr_matrix(np.where(np.arange(N) == 3, np.nan, 1.0)[:, None]), "NaN"),
        (np.zeros(N, dtype=complex), "numeric|real"),
        (pd.Series(np.zeros(N), index=np.arange(N)[::-1]), "another order"),
    ],
)
def test_bad_responses(obs: pd.DataFrame, response: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dw.fit_lmm(response, obs, FORMULA)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "3.*160"),
        (np.r_[0.0, np.ones(N - 1)], "positive.*row 0"),
        (np.r_[np.ones(N - 1), -2.0], "positive.*row 159"),
        (np.r_[np.nan, np.ones(N - 1)], "positive.*nan"),
        (np.r_[np.inf, np.ones(N - 1)], "positive.*inf"),
        ("nothing", "'nothing' is not a column"),
        ("donor", "must be numbers"),
        (1.0, "weights.*160"),
    ],
)
def test_bad_weights(Y: np.ndarray, obs: pd.DataFrame, weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dw.fit_lmm(Y, obs, FORMULA, weights=weights)


def test_forms_of_weights(Y: np.ndarray, obs: pd.DataFrame) -> None:
    w = np.linspace(0.5, 2, N)
    fits = [dw.fit_lmm(Y, obs.assign(w=w), FORMULA, weights=form) for form in (w, "w", w.tolist(), pd.Series(w))]
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.beta, fits[0].beta)
    assert not np.allclose(fits[0].beta, dw.fit_lmm(Y, obs, FORMULA).beta)


@pytest.mark.parametrize("n_jobs", [0, 2.5])
def test_bad_number_of_jobs(Y: np.ndarray, obs: pd.DataFrame, n_jobs: Any) -> None:
    with pytest.raises(DonorwiseError, match="n_jobs"):
        dw.fit_lmm(Y, obs, FORMULA, n_jobs=n_jobs)


# ---------------------------------------------------------------- missing values


@pytest.mark.parametrize("formula", [FORMULA, "~ arm + time + (time | donor)", "~ x + (1 | donor) + (1 | batch)"])
def test_missing_values_are_dropped_by_feature(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    holes = Y.copy()
    holes[::7, 1] = np.nan
    holes[:20, 2] = np.nan  # the whole first donor
    holes[::7, 3] = np.nan  # the rows of the second feature
    fit = dw.fit_lmm(holes, obs, formula)
    assert [set(model.features) for model in fit.models] == [{0}, {1, 3}, {2}]
    np.testing.assert_array_equal(fit.n_donors, [8, 8, 7, 8])
    for g in range(4):
        seen = np.isfinite(holes[:, g])
        alone = dw.fit_lmm(holes[seen, g], obs[seen], formula)
        assert fit.n_obs[g] == alone.n_obs[0] == seen.sum() and fit.status[g] == alone.status[0]
        for name in ("beta", "vcov_beta", "sigma2", "theta", "loglik"):
            np.testing.assert_allclose(getattr(fit, name)[g], getattr(alone, name)[0], rtol=1e-9, atol=1e-9)
        own, other = numbers(fit, f"y{g + 1}"), numbers(alone, "y1")
        np.testing.assert_allclose(own[INFERENCE[:-1]], other[INFERENCE[:-1]], rtol=1e-8, atol=1e-10)


def test_what_is_replaced_or_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 5), "arm": np.repeat(["x", "y"], 15)})
    obs.loc[[3, 7], "arm"] = None
    with pytest.warns(DonorwiseWarning, match="2 of 30 rows are left out"):
        fit = dw.fit_lmm(rng.normal(size=(30, 3)), obs, "~ arm + (1 | donor)")
    for _ in range(2):
        fit.test()
    fit.test(ddf="satterthwaite")
    assert caplog.text.count("Kenward-Roger degrees of freedom are used: 3 features are too few") == 1


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_missing_values_of_covariates(Y: np.ndarray, obs: pd.DataFrame) -> None:
    holes = obs.assign(x=obs["x"].where(np.arange(N) >= 30))
    fit = dw.fit_lmm(Y, holes, "~ x + (1 | donor)")
    assert (fit.n_obs == N - 30).all() and fit.design.n_dropped == 30 and (fit.n_donors == 7).all()
    np.testing.assert_allclose(fit.beta, dw.fit_lmm(Y[30:], obs[30:], "~ x + (1 | donor)").beta, rtol=1e-9)


@pytest.mark.parametrize(
    "keep",
    ["none", "one arm", "one cell", "as many cells as coefficients", "one condition"],
)
def test_features_with_too_few_values(Y: np.ndarray, obs: pd.DataFrame, keep: str) -> None:
    rows = {
        "none": np.zeros(N, dtype=bool),
        "one arm": obs["arm"] == "case",
        "one cell": np.arange(N) == 5,
        "as many cells as coefficients": np.isin(np.arange(N), [0, 1, 20]),
        "one condition": obs["cond"] == "a",
    }[keep]
    holes = Y.copy()
    holes[~np.asarray(rows), 2] = np.nan
    fit = dw.fit_lmm(holes, obs, FORMULA)
    assert_unfitted(fit, 2, "not_estimable")
    assert fit.n_obs[2] == np.sum(rows)
    assert set(np.delete(fit.status, 2)) == {"ok"}


def test_one_donor_against_one(Y: np.ndarray, obs: pd.DataFrame) -> None:
    """Between two donors there is an estimate and no inference; within them there is."""
    pair = obs["donor"].isin(["D0", "D1"]).to_numpy()
    with pytest.raises(DesignError, match="no comparison between levels of `donor` has replicates"):
        dw.fit_lmm(Y[pair], obs[pair], FORMULA)
    holes = Y.copy()
    holes[~pair, 1] = np.nan
    fit = dw.fit_lmm(holes, obs, FORMULA)
    assert fit.n_donors[1] == 2
    for ddf in DDF:
        arm, cond = (numbers(fit, "y2", ddf).iloc[i] for i in (0, 1))
        assert arm["status"] == "too_few_donors" and np.isfinite(arm["estimate"]) and arm[INFERENCE].isna().all()
        assert cond["status"] in ("ok", "boundary") and np.isfinite(cond[INFERENCE].astype(float)).all()
        joint = fit.joint_test("arm", ddf).iloc[1]
        assert joint["status"] == "too_few_donors"
        assert joint[["statistic", "den_df", "scaling", "p_value", "adj_p_value"]].isna().all()
        assert np.isfinite(fit.joint_test("cond", ddf)["p_value"]).all()
    tested = fit.test("arm[T.ctrl]")["p_value"].dropna()
    adjusted = stats.false_discovery_control(tested)
    np.testing.assert_allclose(fit.test("arm[T.ctrl]")["adj_p_value"].dropna(), adjusted)  # the universe is the others


def test_one_donor_against_two(Y: np.ndarray, obs: pd.DataFrame) -> None:
    three = obs["donor"].isin(["D0", "D1", "D2"]).to_numpy()
    table = dw.fit_lmm(Y[three], obs[three], FORMULA).test("arm[T.ctrl]")
    np.testing.assert_allclose(table["df"], 1, rtol=1e-6)
    assert table["status"].isin(["ok", "boundary"]).all()


def test_one_row_per_donor(obs: pd.DataFrame) -> None:
    """Where missing values leave a single row a donor, donors are still replicates: a t test."""
    rng = np.random.default_rng(5)
    holes = rng.normal(size=(N, 2))
    holes[np.arange(N) % 20 > 0, 1] = np.nan
    fit = dw.fit_lmm(holes, obs, "~ arm + (1 | donor)")
    row = numbers(fit, "y2", "between-within").iloc[0]
    t, p = stats.ttest_ind(*(holes[::20, 1][obs["arm"][::20] == arm] for arm in ("ctrl", "case")))
    assert row["status"] in ("ok", "boundary")
    np.testing.assert_allclose([row["statistic"], row["df"], row["p_value"]], [t, 6, p], rtol=1e-8)


# ---------------------------------------------------------------- degenerate responses


@pytest.mark.parametrize("value", [0.0, 3.7, -1e-200, 1e8 + 0.1, 1 / 3])
def test_constant_response(Y: np.ndarray, obs: pd.DataFrame, value: float) -> None:
    data = Y.copy()
    data[:, 1] = value
    assert_unfitted(dw.fit_lmm(data, obs, FORMULA), 1, "constant")
    assert_unfitted(dw.fit_lmm(data, obs, FORMULA, weights=np.linspace(1, 2, N)), 1, "constant")
    data[:, 0] = 0.0
    assert_unfitted(dw.fit_lmm(sparse.csr_matrix(data), obs, FORMULA), 0, "constant")


def test_response_explained_by_the_fixed_part(Y: np.ndarray, obs: pd.DataFrame) -> None:
    data = Y.copy()
    data[:, 1] = 0.1 + 2.3 * (obs["arm"] == "case") - 1e3 * (obs["cond"] == "b")
    assert_unfitted(dw.fit_lmm(data, obs, FORMULA), 1, "not_estimable")


def test_response_constant_within_donors(Y: np.ndarray, obs: pd.DataFrame) -> None:
    """Without residual variance one row per donor is left (more in test_levels.py)."""
    data = Y.copy()
    data[:, 1] = np.repeat(np.random.default_rng(3).normal(size=8), 20)
    first = ~obs["donor"].duplicated()
    donors = dw.fit_lmm(data[first], obs[first], "~ arm")
    for formula in (FORMULA, "~ arm + (time | donor)", "~ arm + (1 | donor) + (1 | donor:sample)"):
        fit = dw.fit_lmm(data, obs, formula)
        own, expected = (f.test("arm[T.ctrl]").query("variable == 'y2'") for f in (fit, donors))
        np.testing.assert_allclose(own[INFERENCE[:-1]], expected[INFERENCE[:-1]], rtol=1e-9)
        assert set(fit.status) <= {"ok", "boundary"}


@pytest.mark.parametrize("offset", [1e6, -1e6])
@pytest.mark.parametrize("formula", [FORMULA, "~ arm + time + (time | donor)"])
def test_large_offset(
    Y: np.ndarray, obs: pd.DataFrame, formula: str, offset: float, fit_once: Callable[..., dw.LMMFit]
) -> None:
    plain, moved = fit_once(formula), dw.fit_lmm(Y + offset, obs, formula)
    np.testing.assert_allclose(moved.loglik, plain.loglik, atol=1e-6)
    np.testing.assert_allclose(moved.theta, plain.theta, rtol=1e-6, atol=1e-6)
    before, after = plain.test(None), moved.test(None)
    np.testing.assert_allclose(after[["se", "df", "p_value"]], before[["se", "df", "p_value"]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-30, 1e9, 1e30])
@pytest.mark.parametrize("formula", [FORMULA, "~ arm + time + (time | donor)"])
def test_scale(
    Y: np.ndarray, obs: pd.DataFrame, formula: str, scale: float, fit_once: Callable[..., dw.LMMFit]
) -> None:
    plain, scaled = fit_once(formula), dw.fit_lmm(Y * scale, obs, formula)
    np.testing.assert_array_equal(scaled.status, plain.status)
    np.testing.assert_allclose(scaled.theta, plain.theta, rtol=1e-8, atol=1e-8)
    for ddf in DDF:
        np.testing.assert_allclose(scaled.test(None, ddf)["p_value"], plain.test(None, ddf)["p_value"], rtol=1e-8)


@pytest.mark.parametrize("cells", [20, 2000])
@pytest.mark.parametrize("sd", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("formula", ["~ arm + (1 | donor)", "~ arm + (1 | donor) + (1 | batch)"])
def test_donors_far_apart(formula: str, sd: float, cells: int) -> None:
    """However much donors differ, and however many cells each has, a balanced design gives Student's t of donor means."""
    rng = np.random.default_rng(6)
    donor, batch = np.repeat(np.arange(8), cells), np.tile(["b1", "b2"], 4 * cells)
    y = sd * rng.normal(size=8)[donor] + rng.normal(size=donor.size)
    obs = pd.DataFrame({"donor": donor, "batch": batch, "arm": np.where(donor % 2, "case", "ctrl")})
    fit = dw.fit_lmm(y, obs, formula)
    assert fit.status[0] in ("ok", "boundary")
    means = y.reshape(8, cells).mean(axis=1)
    t, p = stats.ttest_ind(means[::2], means[1::2])
    row = numbers(fit, "y1").iloc[0]
    np.testing.assert_allclose([row["statistic"], row["df"], row["p_value"]], [t, 6, p], rtol=1e-5)
    within = ((y.reshape(8, cells) - means[:, None]) ** 2).sum() / (8 * (cells - 1))
    assert fit.sigma2[0] == pytest.approx(within, rel=0.2)


def test_a_bad_gene_leaves_the_others_alone(Y: np.ndarray, obs: pd.DataFrame) -> None:
    bad = [np.zeros(N), np.repeat(np.arange(8.0), 20), (obs["arm"] == "case").to_numpy(float), np.eye(1, N)[0]]
    data = np.column_stack([Y[:, 0], bad[0], Y[:, 1], bad[1], Y[:, 2], bad[2], Y[:, 3], bad[3]])
    harmless = np.column_stack([Y[:, 0], *[column for g in (1, 2, 3) for column in (Y[:, 0], Y[:, g])], Y[:, 0]])
    for formula in (FORMULA, "~ arm + time + (time | donor)"):
        fit, clean = dw.fit_lmm(data, obs, formula), dw.fit_lmm(harmless, obs, formula)
        assert len(fit.status) == 8
        for name in ("beta", "vcov_beta", "sigma2", "theta", "loglik", "status"):
            np.testing.assert_array_equal(getattr(fit, name)[::2], getattr(clean, name)[::2], err_msg=name)
        for g in (1, 3, 5, 7):
            own, other = (f.test(None).drop(columns="adj_p_value") for f in (fit, clean))
            for variable in ("y1", "y3", "y5", "y7"):
                pd.testing.assert_frame_equal(
                    own[own["variable"] == variable], other[other["variable"] == variable], check_exact=True
                )
            assert f"y{g + 1}" in set(own["variable"])


def test_slope_of_what_does_not_vary(obs: pd.DataFrame) -> None:
    """A slope on the arm of a donor cannot be told from the intercept; factors and components still agree."""
    rng = np.random.default_rng(7)
    Y = rng.normal(size=(N, 60)) + np.repeat(rng.normal(size=(8, 60)), 20, axis=0)
    fit = dw.fit_lmm(Y, obs, "~ arm + (1 + arm | donor)")
    assert set(fit.status) <= {"ok", "boundary"}
    table = fit.varcomp()
    for g, (a, b, c) in enumerate(fit.theta):
        rows = table[table["variable"] == fit.variables[g]]
        covariance = fit.sigma2[g] * np.array([a * a, b * b + c * c, a * b])
        np.testing.assert_allclose(rows["variance"][:3], covariance, rtol=1e-6, atol=1e-6 * covariance[:2].max())
        assert np.nan_to_num(rows["sd"].iloc[2]) ** 2 <= 1 + 1e-6


# ---------------------------------------------------------------- what a fit answers


def test_repr(Y: np.ndarray, obs: pd.DataFrame) -> None:
    text = repr(dw.fit_lmm(np.column_stack([Y, np.zeros(N)]), obs, FORMULA))
    for part in ("5 features by REML", FORMULA, "160 rows of 8 donor", "arm[T.ctrl], cond[T.b]", "4 ok, 1 constant"):
        assert part in text
    assert "by ML" in repr(dw.fit_lmm(Y, obs, FORMULA, reml=False))


def test_without_random_terms_it_is_least_squares(Y: np.ndarray, obs: pd.DataFrame) -> None:
    fit = dw.fit_lmm(Y, obs, "~ arm + x")
    X = np.column_stack([np.ones(N), obs["arm"] == "ctrl", obs["x"]]).astype(float)
    beta, rss, *_ = np.linalg.lstsq(X, Y, rcond=None)
    np.testing.assert_allclose(fit.beta, beta.T, rtol=1e-10)
    np.testing.assert_allclose(fit.sigma2, rss / (N - 3), rtol=1e-10)
    assert (fit.status == "ok").all() and fit.theta.shape == (4, 0)
    for ddf in DDF:
        np.testing.assert_allclose(fit.test(None, ddf)["df"], N - 3, rtol=1e-8)
    with pytest.raises(DesignError, match="grouping factor"):
        fit.ranef()


def test_statuses_of_every_feature(Y: np.ndarray, obs: pd.DataFrame) -> None:
    data = np.column_stack([Y, np.zeros(N), np.random.default_rng(0).permuted(Y[:, 0])])
    fit = dw.fit_lmm(data, obs, FORMULA)
    assert fit.status.tolist() == ["ok"] * 4 + ["constant", "boundary"]
    assert fit.theta[5] == 0 and fit.varcomp().query("variable == 'y6' and term == 'donor'")["variance"].item() == 0
    for table in (fit.test(None), fit.joint_test("arm")):
        status = table.drop_duplicates("variable").set_index("variable")["status"]
        assert status.loc[list(fit.variables)].tolist() == fit.status.tolist()


@pytest.mark.parametrize("group", ["nobody", "arm", None])
def test_random_effects_of_what_is_no_grouping_factor(group: str | None, fit_once: Callable[..., dw.LMMFit]) -> None:
    fit = fit_once("~ arm + (1 | donor) + (1 | batch)")
    with pytest.raises(DesignError, match=re.escape("choose one of ['donor', 'batch']")):
        fit.ranef(group)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.test(None, "t"), "'t' is not an option.*'between-within'"),
        (lambda fit: fit.joint_test("arm", "z"), "'z' is not an option"),
        (lambda fit: fit.joint_test("disease"), "`disease` is not a fixed term"),
        (lambda fit: fit.test("disease"), "`disease` is not a coefficient"),
    ],
)
def test_bad_questions(call: Any, message: str, fit_once: Callable[..., dw.LMMFit]) -> None:
    with pytest.raises(DonorwiseError, match=message):
        call(fit_once(FORMULA))


def test_variances_of_rounding_errors_are_zero() -> None:
    """Or effects that do not vary would have a correlation, 1 or -1 as the rounding errors are."""
    basis = SimpleNamespace(factor=np.eye(2), back=np.array([[1.0, -0.5], [0.0, 2.0]]))
    parameter = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]])
    equations: Any = SimpleNamespace(
        terms=(basis,), blocks=SimpleNamespace(parameter=parameter), information=np.array([50.0])
    )
    T = original_covariance(equations, 0, np.array([[1e-40, 1e-40, 1e-40], [0.3, 0.1, 0.2], [np.nan] * 3]))
    np.testing.assert_array_equal(T[0], np.zeros((2, 2)))
    np.testing.assert_allclose(T[1], basis.back @ [[0.3, 0.1], [0.1, 0.2]] @ basis.back.T)
    assert np.isnan(T[2]).all()
