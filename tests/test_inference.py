"""Intervals, likelihood ratios and degrees of freedom of the design, against laws and textbooks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise.errors import DesignError

FORMULA = "~ arm + cond + (1 | donor)"
N = 160


def test_intervals_cover_what_is_asked(fit_once: Callable[..., dw.LMMFit]) -> None:
    fit = fit_once(FORMULA)
    for level in (0.5, 0.95, 0.999):
        table = fit.test(None, level=level)
        half = stats.t.ppf(0.5 + level / 2, table["df"]) * table["se"]
        np.testing.assert_allclose(table["ci_high"] - table["estimate"], half)
        np.testing.assert_allclose(table["estimate"] - table["ci_low"], half)


def test_kenward_roger_of_a_likelihood_fit_is_that_of_reml(fit_once: Callable[..., dw.LMMFit]) -> None:
    ml, reml = (fit_once(FORMULA, reml=reml).test(None) for reml in (False, True))
    np.testing.assert_allclose(ml[["se", "df"]], reml[["se", "df"]], rtol=1e-8)
    np.testing.assert_allclose(ml["estimate"] / ml["se"], ml["statistic"])
    np.testing.assert_allclose(ml[["estimate", "p_value"]], reml[["estimate", "p_value"]], rtol=1e-8)


# ---------------------------------------------------------------- likelihood ratios


@pytest.mark.parametrize(
    ("larger", "smaller", "law"),
    [
        ("~ arm + cond + (1 | donor)", "~ arm + (1 | donor)", {1: 1.0}),
        ("~ arm * cond + (1 | donor)", "~ 1 + (1 | donor)", {3: 1.0}),
        ("~ arm + (1 | donor)", "~ arm", {0: 0.5, 1: 0.5}),
        ("~ arm + (1 | donor) + (1 | batch)", "~ arm + (1 | donor)", {0: 0.5, 1: 0.5}),
        ("~ arm + (time | donor)", "~ arm + (1 | donor)", {1: 0.5, 2: 0.5}),
        ("~ arm + (1 | donor)", "~ 1", {1: 0.5, 2: 0.5}),
    ],
)
def test_likelihood_ratio(larger: str, smaller: str, law: dict[int, float], fit_once: Callable[..., dw.LMMFit]) -> None:
    big, small = (fit_once(formula) for formula in (larger, smaller))
    table = big.lrt(small)
    pd.testing.assert_frame_equal(small.lrt(big), table)
    ml = [fit_once(formula, reml=False) for formula in (larger, smaller)]
    statistic = 2 * (ml[0].loglik - ml[1].loglik)
    np.testing.assert_allclose(table["statistic"], statistic, atol=1e-8)
    tails = [w * (stats.chi2.sf(statistic, df) if df else 1.0 * (statistic <= 1e-8)) for df, w in law.items()]
    np.testing.assert_allclose(table["p_value"], sum(tails), rtol=1e-6)
    assert (table["df"] == max(law)).all()
    pd.testing.assert_frame_equal(ml[0].lrt(ml[1]), table)


def test_a_variance_estimated_at_zero_has_p_of_1(obs: pd.DataFrame) -> None:
    """Half of the mixture is a point at zero, where rounding must not decide between 1 and 1/2."""
    Y = np.random.default_rng(8).normal(size=(N, 60))
    larger, smaller = (dw.fit_lmm(Y, obs, f"~ arm + (1 | donor){more}", reml=False) for more in (" + (1 | batch)", ""))
    batch = larger.theta[:, larger.theta_names.index("batch.(Intercept)")]
    p = larger.lrt(smaller)["p_value"].to_numpy()
    assert 0 < (batch == 0).sum() < 60
    assert (p[batch == 0] > 0.999).all() and (p[batch > 0] <= 0.5).all()


@pytest.mark.parametrize(
    ("formula", "other"),
    [
        (FORMULA, FORMULA),
        ("~ arm + cond + (1 | donor)", "~ x + (1 | donor)"),
        ("~ arm + (1 | donor)", "~ arm + (1 | batch)"),
        ("~ arm + (1 | donor) + (1 | donor:sample)", "~ arm + (1 | batch)"),
        ("~ arm + (1 | donor)", "~ arm + cond"),
    ],
)
def test_likelihood_ratio_of_models_that_are_not_nested(
    formula: str, other: str, fit_once: Callable[..., dw.LMMFit]
) -> None:
    with pytest.raises(DesignError, match="nested"):
        fit_once(formula).lrt(fit_once(other))


@pytest.mark.parametrize("change", ["features", "rows", "responses", "weights"])
def test_likelihood_ratio_of_other_data(
    Y: np.ndarray, obs: pd.DataFrame, change: str, fit_once: Callable[..., dw.LMMFit]
) -> None:
    other = {
        "features": lambda: dw.fit_lmm(Y[:, :2], obs, "~ arm + (1 | donor)"),
        "rows": lambda: dw.fit_lmm(Y[1:], obs[1:], "~ arm + (1 | donor)"),
        "responses": lambda: dw.fit_lmm(Y + np.arange(N)[:, None], obs, "~ arm + (1 | donor)"),
        "weights": lambda: dw.fit_lmm(Y, obs, "~ arm + (1 | donor)", weights=np.linspace(1, 2, N)),
    }[change]()
    with pytest.raises(DesignError):
        fit_once(FORMULA).lrt(other)


# ---------------------------------------------------------------- degrees of freedom of the design


def _orthodont() -> tuple[pd.DataFrame, str]:
    """27 children at four ages (Pinheiro and Bates 2000, section 1.4)."""
    child = np.repeat(np.arange(27), 4)
    obs = pd.DataFrame({"child": child, "sex": np.where(child < 16, "M", "F"), "age": np.tile([8, 10, 12, 14], 27)})
    return obs, "~ age * sex + (age | child)"


def _oats(nitrogen: str) -> tuple[pd.DataFrame, str]:
    """A split plot: six blocks, three varieties on plots, four doses on subplots (section 1.6)."""
    block, variety, dose = (axis.ravel() for axis in np.indices((6, 3, 4)))
    obs = pd.DataFrame({"block": block, "variety": variety.astype(str), "dose": dose / 5, "level": dose.astype(str)})
    return obs, f"~ {nitrogen} * variety + (1 | block) + (1 | block:variety)"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_orthodont(), {"age": 79, "sex": 25, "age:sex": 79}),
        (_oats("level"), {"level": 45, "variety": 10, "level:variety": 45}),
        (_oats("dose"), {"dose": 51, "variety": 10, "dose:variety": 51}),
    ],
    ids=["orthodont", "oats", "oats_numeric"],
)
def test_between_within_df(data: tuple[pd.DataFrame, str], expected: dict[str, int]) -> None:
    """The df that nlme prints for the examples of Pinheiro and Bates."""
    obs, formula = data
    fit = dw.fit_lmm(np.random.default_rng(0).normal(size=len(obs)), obs, formula)
    for term, df in expected.items():
        row = fit.joint_test(term, "between-within").iloc[0]
        assert row["den_df"] == df
        names = [fit.fixed_names[j] for j in fit.design.terms[term]]
        assert (fit.test(names, "between-within")["df"] == df).all()


def test_balanced_designs_agree_on_df() -> None:
    """In a balanced split plot all three answers are the strata of the analysis of variance."""
    obs, formula = _oats("level")
    rng = np.random.default_rng(1)
    y = rng.normal(size=72) + np.repeat(rng.normal(size=6), 12) + np.repeat(rng.normal(size=18), 4)
    fit = dw.fit_lmm(y, obs, formula.replace("*", "+"))
    assert fit.status[0] == "ok"
    for ddf in ("kenward-roger", "satterthwaite", "between-within"):
        table = fit.test(None, ddf).set_index("contrast")["df"]
        np.testing.assert_allclose(table[["level[T.1]", "variety[T.1]"]], [51, 10], rtol=1e-6)
