"""Predicted power against formulas, and against simulated studies that are fitted and tested."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._models import model

import donorwise as dw
from donorwise._core.engine.power import planned_df, two_sided_power
from donorwise.errors import DonorwiseError, DonorwiseWarning

BETWEEN, PAIRED = "~ arm + (1 | donor)", "~ arm + (1 | donor) + (1 | donor:sample)"
CONTRAST = "condition[T.disease]"


def study(formula: str, n: int, m: int, effect: float, *, G: int = 800, seed: int = 0) -> tuple[Any, pd.DataFrame]:
    """Responses (n m, G) with donor sd .5, sample sd .3 (paired) and residual sd 1."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n), m)
    arm = np.tile(np.arange(m) % 2, n) if formula == PAIRED else donor % 2
    Y = 0.5 * rng.standard_normal((n, G))[donor] + rng.standard_normal((n * m, G)) + effect * arm[:, None]
    if formula == PAIRED:
        Y += 0.3 * rng.standard_normal((2 * n, G))[2 * donor + arm]
    return Y, pd.DataFrame({"donor": donor, "arm": np.array(["a", "b"])[arm], "sample": arm}).astype(str)


def predict(fit: dw.LMMFit, **options: Any) -> pd.DataFrame:
    table = dw.tl.power(fit, progress=False, **options)
    return table[table["expression"] == "all"]


@pytest.fixture(scope="module")
def pilots() -> dict[str, dw.LMMFit]:
    return {f: dw.fit_lmm(*study(f, 10, 20, 0.0, seed=1), f) for f in (BETWEEN, PAIRED)}


@pytest.mark.parametrize("formula", [BETWEEN, PAIRED])
@pytest.mark.parametrize(
    ("ddf", "within"), [("kenward-roger", 0.045), ("moderated", 0.06)], ids=["kenward-roger", "moderated"]
)
def test_prediction_from_a_pilot_holds_in_new_studies(
    pilots: dict[str, dw.LMMFit], formula: str, ddf: Any, within: float
) -> None:
    """The share of features with p < alpha; its Monte Carlo error is .017, the pilot's noise about as much."""
    sizes = {"n_donors": (8, 14), "n_cells": 30, "effect": 0.6}
    table = predict(pilots[formula], moderated=ddf == "moderated", **sizes)
    for row in table.itertuples():
        Y, obs = study(formula, row.n_donors, row.n_cells, row.effect, seed=row.n_donors)
        p = dw.fit_lmm(Y, obs, formula).test("arm[T.b]", ddf=ddf)["p_value"]
        assert abs(row.power - (p < row.alpha).mean()) < within, (row, (p < row.alpha).mean())


@pytest.mark.parametrize("formula", [BETWEEN, PAIRED])
def test_formula_for_balanced_arms(formula: str) -> None:
    """One feature, estimates taken for the truth: (tau2 + sigma2/m) 4/n, or 2 (tau_s2 + 2 sigma2/m) / n in pairs."""
    Y, obs = study(formula, 12, 20, 0.0, G=1, seed=3)
    fit = dw.fit_lmm(Y, obs, formula)
    variance = fit.varcomp().set_index("term")["variance"]
    table = predict(fit, n_donors=(6, 12, 40), n_cells=(20, 100), effect=0.4, alpha=(0.05, 0.001))
    for row in table.itertuples():
        n, m = row.n_donors, row.n_cells
        if formula == PAIRED:
            expected, df = 2 * (variance["donor:sample"] + 2 * variance["Residual"] / m) / n, n - 1
        else:
            expected, df = (variance["donor"] + variance["Residual"] / m) * 4 / n, n - 2
        critical, shift = stats.t.isf(row.alpha / 2, df), 0.4 / np.sqrt(expected)
        power = stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift)
        assert row.df == df
        assert abs(row.power - power) < 2e-4


@pytest.mark.parametrize("df", [1.0, 3.5, 40.0])
@pytest.mark.parametrize("alpha", [0.05, 1e-4])
def test_power_of_a_t_test(df: float, alpha: float) -> None:
    rng = np.random.default_rng(0)
    critical = stats.t.isf(alpha / 2, df)
    scale = np.sqrt(rng.chisquare(df, 100_000) / df)
    for shift in (0.0, 0.5 * critical, critical, 4 * critical):
        simulated = (np.abs(rng.standard_normal(100_000) + shift) / scale > critical).mean()
        assert abs(float(two_sided_power(np.array(shift), df, alpha)) - simulated) < 0.008
    assert np.isnan(two_sided_power(np.array(1.0), 0.5, alpha))


def test_more_copies_of_a_design_have_the_df_of_the_larger_design() -> None:
    """Covariates of donors cost a degree of freedom each, however many donors there are."""
    formula = "~ arm + age + sample + (1 | donor) + (1 | donor:sample)"

    def fitted(n: int) -> dw.LMMFit:
        Y, obs = study(PAIRED, n, 8, 0.0, G=2)
        donor = obs["donor"].astype(int)
        return dw.fit_lmm(Y, obs.assign(arm=np.where(donor % 2, "a", "b"), age=donor % 3), formula)

    small, large = fitted(6), fitted(18)
    between = large.test(ddf="between-within").query("variable == 'y1'")["df"].to_numpy()
    planned = [planned_df(small.design, row, 3.0, 18 * 8) for row in np.eye(4)[1:]]
    np.testing.assert_allclose(planned, between)


def test_df_of_a_random_slope_are_those_of_kenward_roger() -> None:
    """Balanced visits: a slope for every donor, two arms of donors; the slopes vary enough for a t with n - 2."""
    rng = np.random.default_rng(0)
    donor, time = np.repeat(np.arange(10), 12), np.tile(np.repeat(np.arange(4), 3), 10)
    obs = pd.DataFrame({"donor": donor.astype(str), "time": time.astype(float), "arm": np.where(donor % 2, "b", "a")})
    Y = rng.standard_normal((120, 3)) + 5 * rng.standard_normal((10, 3))[donor] * time[:, None]
    for formula in ("~ arm * time + (1 | donor) + (0 + time | donor)", "~ arm * time + (time | donor)"):
        fit = dw.fit_lmm(Y, obs, formula)
        table = predict(fit, n_donors=(10, 30), n_cells=12, contrast="arm[T.b]:time")
        assert list(table["df"]) == [8, 28]
        np.testing.assert_allclose(fit.test("arm[T.b]:time", ddf="kenward-roger")["df"], 8, rtol=0.02)


def test_weights_slopes_and_uneven_donors() -> None:
    """Planning the very study that was fitted gives its own standard errors, for any model."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(9), 12)
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "x": rng.standard_normal(108), "arm": np.where(donor < 3, "a", "b")}
    )
    Y = rng.standard_normal((108, 4)) + rng.standard_normal((9, 4))[donor] * (1 + 0.5 * obs["x"].to_numpy()[:, None])
    w = rng.uniform(0.5, 2, 108)
    for formula, weights in (("~ arm + x + (x | donor)", None), ("~ arm + x + (1 | donor)", w)):
        fit = dw.fit_lmm(Y, obs, formula, weights=weights)
        options = {"n_donors": 9, "n_cells": 12, "effect": 0.7, "contrast": "arm[T.b]"}
        row = predict(fit, weights=weights, **options).iloc[0]
        se = fit.test("arm[T.b]", ddf="between-within")["se"].to_numpy()
        assert row["power"] == pytest.approx(two_sided_power(0.7 / se, row["df"], 0.05).mean(), abs=1e-6)
    with pytest.raises(DonorwiseError, match="give weights="):
        predict(fit, **options)


@pytest.fixture
def fitted() -> ad.AnnData:
    return model("two_types")


def test_table_of_an_anndata(fitted: ad.AnnData, tmp_path: Path) -> None:
    options = {"n_donors": (3, 8, 30), "n_cells": (20, 200), "effect": (0.35, 0.7), "contrast": CONTRAST}
    with pytest.warns(DonorwiseWarning, match="n_donors of 3: too few"):
        assert dw.tl.power(fitted, progress=False, moderated=True, **options) is None
    table = dw.get.power(fitted)
    assert len(table) == 2 * 4 * 3 * 2 * 2
    assert table["log_fc"].isna().all()
    assert (table.loc[table["n_donors"] == 3, ["df", "power"]].isna()).all(axis=None)  # intercept, condition and sex
    assert ((table["status"] == "too_few_donors") == (table["n_donors"] == 3)).all()
    assert set(table["kind"]) == {"between-donor"} and set(table["unit"]) == {"effect"}
    tested = table[table["n_donors"] > 3]
    assert (tested["q10"] <= tested["median"]).all() and (tested["median"] <= tested["q90"]).all()
    for smaller, larger in ((("n_donors", 8), ("n_donors", 30)), (("n_cells", 20), ("n_cells", 200))):
        low, high = (tested[tested[c] == v]["power"].to_numpy() for c, v in (smaller, larger))
        assert (low < high).all()
    dw.tl.power(fitted, progress=False, moderated=False, group="T cell", **(options | {"n_donors": (8, 30)}))
    plain = dw.get.power(fitted).dropna()
    both = plain.merge(tested, on=["group", "expression", "n_donors", "n_cells", "effect"], suffixes=("", "_moderated"))
    assert len(both) == len(plain) and (both["df"] < both["df_moderated"]).all()
    fitted.write_h5ad(tmp_path / "a.h5ad")
    again = dw.get.power(ad.read_h5ad(tmp_path / "a.h5ad"))
    pd.testing.assert_frame_equal(again, dw.get.power(fitted), check_dtype=False, check_categorical=False)


def test_a_fold_change_is_no_difference_of_mean_logarithms(fitted: ad.AnnData) -> None:
    """The message has the estimate of a doubling, where the tests have it."""
    options = {"log_fc": 1.0, "contrast": CONTRAST, "group": "T cell", "progress": False}
    tests = dw.get.tests(fitted, contrast=CONTRAST, group="T cell")
    doubling = float((tests["estimate"] / tests["log_fc"]).median())
    with pytest.raises(DonorwiseError, match=f"A log_fc of 1 goes with an estimate of {doubling:.2g} here"):
        dw.tl.power(fitted, **options)
    fitted.uns["lmm"]["results"]["log_fc"] = np.nan  # rows that were collapsed by 0.1
    with pytest.raises(DonorwiseError, match=r"went with which estimates\.$"):
        dw.tl.power(fitted, **options)


def test_plot(fitted: ad.AnnData) -> None:
    dw.tl.power(fitted, n_donors=(6, 12), effect=(0.2, 0.5), contrast=CONTRAST, progress=False)
    axes = dw.pl.power(fitted)
    assert len(axes) == 2
    line = axes[0].lines[0].get_ydata()
    table = dw.get.power(fitted, group=axes[0].get_title().split(",")[0], expression="all")
    expected = table[(table["n_cells"] == 20) & (table["effect"] == 0.5)].sort_values("n_donors")["power"]
    np.testing.assert_allclose(line, expected)
    assert axes[0].get_xlabel() == "donors, all arms"
    for by, texts in (
        ("n_cells", [f"{n} cells per donor" for n in (20, 100, 500)]),
        ("effect", ["effect 0.2", "effect 0.5", "10 to 90% of features"]),
        ("expression", [f"{third} expression" for third in ("low", "middle", "high")]),
        ("alpha", ["alpha 0.05", "10 to 90% of features"]),
    ):
        ax = dw.pl.power(fitted, by=by, group="T cell")
        assert [text.get_text() for text in ax.get_legend().get_texts()] == texts
        # bands where the legend explains them
        assert (len(ax.collections) > 0) == (texts[-1] == "10 to 90% of features")
    assert ax.get_legend().get_title().get_text() == "100 cells per donor, effect 0.5"
    with pytest.raises(DonorwiseError, match="was not planned"):
        dw.pl.power(fitted, n_cells=7)
    with pytest.raises(DonorwiseError, match="use by='effect'"):
        dw.pl.power(fitted, by="log_fc")
    with pytest.raises(DonorwiseError, match=r"not one of dw\.tl\.power"):
        dw.pl.power(dw.get.tests(fitted))
    plt.close("all")


def test_pairs(pilots: dict[str, dw.LMMFit]) -> None:
    """Donors of a paired study are each in both arms; without a term for that the prediction warns."""
    table = dw.tl.power(pilots[PAIRED], n_donors=(6, 9), n_cells=20, progress=False)
    assert set(table["kind"]) == {"within-donor"}
    assert dw.pl.power(table).get_xlabel() == "donors, each in both arms"
    plt.close("all")
    Y, obs = study(PAIRED, 6, 8, 0.0, G=5)
    with pytest.warns(DonorwiseWarning, match=r"add `\(1 \| donor:arm\)`") as found:
        dw.tl.power(dw.fit_lmm(Y, obs, BETWEEN), n_donors=6, progress=False)
    assert len(found) == 1


def test_replacing_the_result_takes_its_power_away(fitted: ad.AnnData) -> None:
    dw.tl.power(fitted, n_donors=12, n_cells=50, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.lmm(fitted, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DonorwiseError, match="run dw.tl.power first"):
        dw.get.power(fitted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_donors": 1}, "at least 2"),
        ({"n_cells": 2.5}, "whole numbers"),
        ({"alpha": 0}, "between 0 and 1"),
        ({"effect": 0}, "must not be zero"),
        ({"effect": "a"}, "effect='a': give a number"),
        ({"log_fc": [1, "a"]}, "log_fc=.*: give a number"),
        ({"n_donors": "a"}, "n_donors='a': give a number"),
        ({"alpha": None}, "alpha=None: give a number"),
        ({"effect": 1, "log_fc": 1}, "one of"),
        ({"log_fc": 1}, "counts in dw.tl.glmm\\): estimates of 'lmm' are .* Give effect="),
        ({"contrast": "nonsense"}, "no contrast"),
        ({"group": "nonsense"}, "no group"),
        ({"key": "nonsense"}, "no donorwise result"),
    ],
)
def test_errors(fitted: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.tl.power(fitted, progress=False, **options)
    assert "lmm_power" not in fitted.uns


def test_a_model_without_donors_cannot_grow() -> None:
    Y, obs = study(BETWEEN, 6, 4, 0.0, G=3)
    with pytest.raises(DonorwiseError, match="no random term"):
        dw.tl.power(dw.fit_lmm(Y, obs, "~ arm"))
    with pytest.raises(DonorwiseError, match="estimates of this fit are .* Give effect="):
        dw.tl.power(dw.fit_lmm(Y, obs, BETWEEN), log_fc=1)
