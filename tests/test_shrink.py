"""Adaptive shrinkage against numerical integration and mixsqp, on known truth, and through the tool and files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from tests._models import model

import donorwise as dw
from donorwise._anndata import keys
from donorwise._core.inference import shrinkage
from donorwise._core.inference.shrinkage import fit_shares, grid, shrink, steadied
from donorwise.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
CASES = json.loads((Path(__file__).parent / "reference" / "gene_level" / "shrinkage.json").read_text())


def effects(
    n: int = 4000, null: float = 0.7, df: float = 8.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True effects, estimates, standard errors and degrees of freedom."""
    rng = np.random.default_rng(seed)
    theta = np.where(rng.random(n) < null, 0.0, rng.normal(0, 1, n))
    se = 0.3 * np.exp(0.4 * rng.normal(size=n))
    return theta, theta + se * rng.standard_t(df, n), se, np.full(n, df)


# ---------------------------------------------------------------- the method


@pytest.mark.parametrize("name", CASES)
def test_against_numerical_integration_and_mixsqp_in_r(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {key: np.array(values, dtype=float) for key, values in CASES[name].items()}
    b, se, df = case["estimate"], case["se"], np.where(case["df"] < 0, np.inf, case["df"])
    monkeypatch.setattr(shrinkage, "steadied", lambda b, se, df: (se, df))
    own = shrink(b, se, df)
    np.testing.assert_allclose(own.sd, case["sd"], rtol=1e-12)
    likelihood = shrinkage._likelihood(b, se, df, own.sd)
    objective = 9 * np.log(own.share[0]) + np.log(likelihood @ own.share).sum()
    assert objective == pytest.approx(float(case["objective"]), abs=1e-8)
    np.testing.assert_allclose(own.mean, case["mean"], atol=1e-7)
    np.testing.assert_allclose(own.lfsr, case["lfsr"], atol=1e-7)


@pytest.mark.parametrize("df", [1.0, 2.5, 6.0, 30.0, 1000.0])
def test_t_and_normal_are_convolved_to_nine_digits(df: float) -> None:
    b, sd = np.array([0.0, 0.4, -2.0, 7.0, 20.0]), np.array([0.0, 0.05, 1.0, 8.0, 100.0])
    own = shrinkage._likelihood(b, np.full(5, 0.5), np.full(5, df), sd)
    np.testing.assert_allclose(own[:4, 0], stats.t.pdf(b[:4], df, scale=0.5), rtol=1e-8)
    for g in range(5):
        for k in (1, 2, 3, 4) if g < 3 else (2, 3, 4):

            def joint(x: float, g: int = g, k: int = k) -> float:
                return float(stats.t.pdf(b[g] - x, df, scale=0.5) * stats.norm.pdf(x, 0, sd[k]))

            ends = sorted([0.0, *np.clip([b[g], b[g] - 2, b[g] + 2, -sd[k], sd[k]], -12 * sd[k], 12 * sd[k])])
            right = integrate.quad(joint, -12 * sd[k], 12 * sd[k], points=ends, limit=400, epsabs=0, epsrel=1e-10)[0]
            assert own[g, k] == pytest.approx(right, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_the_largest_likelihood(seed: int) -> None:
    """No direction on the simplex leads upward (the objective is concave), and plain EM ends no higher."""
    _, b, se, df = effects(800, seed=seed)
    sd = grid(b, se)
    likelihood = shrinkage._likelihood(b, se, df, sd)
    share = fit_shares(likelihood)
    A, weight = np.vstack([np.eye(sd.size)[:1], likelihood]), np.r_[9.0, np.ones(800)]
    assert share.sum() == pytest.approx(1) and (share >= 0).all()
    gradient = (weight / (A @ share)) @ A
    assert gradient.max() - weight.sum() < 1e-6
    em = np.full(sd.size, 1 / sd.size)
    for _ in range(3000):
        em *= (weight / (A @ em)) @ A / weight.sum()
    gained = weight @ np.log(A @ share) - weight @ np.log(A @ em)
    assert 0 <= gained < 0.1
    np.testing.assert_allclose(fit_shares(likelihood * np.geomspace(1e-200, 1e100, 800)[:, None]), share, atol=1e-8)


@pytest.mark.parametrize("df", [4.0, 30.0])
def test_truth_is_found(df: float) -> None:
    theta, b, se, nu = effects(df=df)
    own = shrink(b, se, nu)
    assert ((own.mean - theta) ** 2).mean() < 0.6 * ((b - theta) ** 2).mean()
    assert 0.6 < own.share[0] < 0.8
    for limit in (0.01, 0.05, 0.2):
        called = own.lfsr <= limit
        wrong = (np.sign(b) != np.sign(theta))[called].mean()
        assert wrong < 1.3 * own.lfsr[called].mean() + 0.01 and wrong <= limit
    assert (np.abs(own.mean) <= np.abs(b)).all() and (np.sign(own.mean) * np.sign(b) >= 0).all()
    assert (own.lfsr > 0).all() and (own.lfsr <= 1).all()


def test_units_and_order_do_not_matter() -> None:
    _, b, se, df = effects(300)
    own, order = shrink(b, se, df), np.random.default_rng(1).permutation(300)
    other = shrink(-1e4 * b[order], 1e4 * se[order], df[order])
    np.testing.assert_allclose(other.mean, -1e4 * own.mean[order], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.lfsr, own.lfsr[order], atol=1e-8)


def test_nothing_but_noise_is_taken_for_nothing() -> None:
    _, b, se, df = effects(null=1.0)
    own = shrink(b, se, df)
    assert own.share[0] > 0.9 and (own.lfsr > 0.05).all() and np.abs(own.mean).max() < 0.2 * np.abs(b).max()


def test_what_says_nothing_takes_no_part() -> None:
    _, b, se, df = effects(300)
    bad = [
        (np.nan, 1.0, 5.0),
        (1.0, np.nan, 5.0),
        (1.0, 0.0, 5.0),
        (1.0, np.inf, 5.0),
        (1.0, 1.0, np.nan),
        (-np.inf, 1.0, 5.0),
    ]
    more = [np.r_[own, [row[i] for row in bad]] for i, own in enumerate((b, se, df))]
    own, alone = shrink(*more), shrink(b, se, df)
    np.testing.assert_array_equal(own.mean, np.r_[alone.mean, np.full(6, np.nan)])
    np.testing.assert_array_equal(own.lfsr, np.r_[alone.lfsr, np.full(6, np.nan)])


def test_standard_errors_of_p_nearly_one_are_those_of_the_width() -> None:
    """What the table has there is arbitrary, and disturbs no other; elsewhere nothing changes."""
    _, b, se, df = effects(2000)
    right, odd = shrink(b, se, df), 2 * stats.t.sf(np.abs(b / se), df) > 0.97
    table_se, table_df = se.copy(), df.copy()
    size = np.exp(np.random.default_rng(0).normal(0, 4, odd.sum()))
    table_b = np.where(odd, np.sign(b) * 1e-3 * se, b)
    table_se[odd], table_df[odd] = size * se[odd], np.where(size > 1, 1e6, 1.0)
    own = shrink(table_b, table_se, table_df)
    np.testing.assert_allclose(own.share[0], right.share[0], atol=0.02)
    np.testing.assert_allclose(own.mean[~odd], right.mean[~odd], atol=0.02)
    np.testing.assert_allclose(own.lfsr[~odd], right.lfsr[~odd], atol=0.02)
    assert (own.lfsr[odd] > 0.5).all() and np.abs(own.mean[odd]).max() < 0.05
    kept, usual = steadied(b, se, df), 2 * stats.t.sf(np.abs(b / se), df) <= 0.9
    np.testing.assert_array_equal(kept[0][usual], se[usual])
    np.testing.assert_array_equal(kept[1], df)


# ---------------------------------------------------------------- the tool


def table_of(adata: ad.AnnData, **options: Any) -> pd.DataFrame:
    return dw.get.tests(adata, sort_by=None, **options)


def test_columns_of_a_result(caplog: pytest.LogCaptureFixture) -> None:
    adata = model("two_types")
    before = table_of(adata)
    with caplog.at_level(logging.INFO, logger="donorwise"):
        assert dw.tl.shrink(adata) is None
    said = [record.message for record in caplog.records]
    assert any("condition[T.disease]: share of effects that are taken for none: T cell 0." in text for text in said)
    after = table_of(adata)
    pd.testing.assert_frame_equal(after.drop(columns=[keys.SHRUNK, keys.LFSR]), before)
    assert (after["lfsr"].notna() == after["p_value"].notna()).all()
    for (_, _), own in after.groupby(["group", "contrast"], observed=True):
        right = shrink(*(own[name].to_numpy() for name in ("estimate", "se", "df")))
        np.testing.assert_array_equal(own["shrunk"], right.mean)
        np.testing.assert_array_equal(own["lfsr"], right.lfsr)
    ranked = dw.get.tests(adata, sort_by="lfsr")
    assert ranked["lfsr"].is_monotonic_increasing
    shares = pd.DataFrame(adata.uns["lmm"]["shrinkage"])
    np.testing.assert_allclose(shares.groupby(["group", "contrast"], observed=True)["share"].sum(), 1)


def test_some_of_the_tests_and_a_copy() -> None:
    adata, contrast = model("two_types"), "condition[T.disease]"
    copied = dw.tl.shrink(adata, contrast=contrast, group="B cell", copy=True)
    assert copied is not None and "lfsr" not in table_of(adata)
    table = table_of(copied)
    asked = ((table["contrast"] == contrast) & (table["group"] == "B cell")).to_numpy()
    assert table.loc[~asked, "lfsr"].isna().all() and table.loc[asked, "lfsr"].notna().all()
    dw.tl.shrink(copied, group="T cell")
    dw.tl.shrink(adata)
    again = table_of(copied)
    missing = ((again["contrast"] != contrast) & (again["group"] == "B cell")).to_numpy()
    np.testing.assert_array_equal(again["lfsr"], np.where(missing, np.nan, table_of(adata)["lfsr"]))
    assert len(copied.uns["lmm"]["shrinkage"].groupby(["group", "contrast"], observed=True)) == 3


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files_subsets_and_further_contrasts(tmp_path: Path, kind: str) -> None:
    adata = model("two_types")
    dw.tl.shrink(adata)
    table, path = table_of(adata), tmp_path / f"a.{kind}"
    getattr(adata, f"write_{kind}")(path)
    read = ad.read_h5ad(path) if kind == "h5ad" else ad.read_zarr(path)
    pd.testing.assert_frame_equal(table_of(read), table, check_categorical=False)
    some = read[:, 10:40].copy()
    names = set(some.var_names)
    right = table[table["variable"].isin(names)].reset_index(drop=True)
    np.testing.assert_array_equal(table_of(some)["lfsr"], right["lfsr"])
    dw.tl.shrink(some)  # of all features that were tested, not of those that are left
    np.testing.assert_allclose(table_of(some)["lfsr"], right["lfsr"], rtol=1e-12)
    dw.tl.test(adata, {"half": {"condition[T.disease]": 0.5}}, progress=False)
    more = table_of(adata)
    assert more.loc[more["contrast"] == "half", "lfsr"].isna().all()
    np.testing.assert_array_equal(more.loc[more["contrast"] != "half", "lfsr"].to_numpy(), table["lfsr"].to_numpy())


def test_too_few_tests_are_told(caplog: pytest.LogCaptureFixture) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=12)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match=r"nothing to shrink in 'lmm'.*20 tests are needed .* fewer in all \(12\)"):
        dw.tl.shrink(adata)
    with pytest.raises(DataError, match="no contrast 'nonsense'"):
        dw.tl.shrink(adata, contrast="nonsense")
    assert "lfsr" not in table_of(adata)


@pytest.mark.parametrize("tool", ["pseudobulk", "glmm"])
def test_of_counts_with_all_in_one_arm(tool: str) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=120, de_fraction=0.3, effect_size=2, seed=2)
    counts = adata.layers["counts"].toarray()
    counts[(adata.obs["condition"] == "disease").to_numpy(), :2] = 0
    counts[:, 2] = 0
    adata.layers["counts"] = counts
    if tool == "glmm":
        dw.tl.glmm(adata, "~ condition + (1 | donor_id)", layer="counts", progress=False)
    else:
        dw.tl.pseudobulk(adata, "~ condition", sample="donor_id", layer="counts", progress=False)
    dw.tl.shrink(adata, key=tool)
    table = table_of(adata, key=tool).set_index("variable")
    assert np.isnan(table["lfsr"].iloc[2]) and table["lfsr"].notna().sum() == 119
    assert (table["shrunk"].abs() <= table["estimate"].abs()).sum() == 119
    truth = adata.var["is_de"] if "is_de" in adata.var else None
    assert (
        truth is None
        or table.loc[~truth.to_numpy(), "lfsr"].iloc[3:].mean() > table.loc[truth.to_numpy(), "lfsr"].mean()
    )
