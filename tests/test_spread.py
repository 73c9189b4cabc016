"""Arms whose donors spread differently under one variance: what is said after the fit, and how often."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks.spread import CELLS, study
from tests._batch import run

import donorwise as dw
from donorwise._anndata import read_results
from donorwise._core.engine import spread as module
from donorwise._core.engine.spread import Spread, spread_of, unequal_spreads, worst_pair
from donorwise._typing import FloatArray, IntArray

PLAIN = "~ arm + (1 | donor)"
TEXT = "the model has one variance for both"
ABOUT = "spread of donors by arm"


def said(Y: FloatArray, obs: pd.DataFrame, formula: str = PLAIN, contrast: Any = None) -> dict[str, str]:
    fit = dw.fit_lmm(Y, obs, formula)
    L = np.eye(fit.beta.shape[1])[1:] if contrast is None else np.atleast_2d(contrast)
    return unequal_spreads(fit, L)


def effects(
    sizes: tuple[int, int], times: float, cells: str, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    Y, obs = study(np.random.default_rng(seed), sizes, times, 10, CELLS[cells])
    modes, reliability = module._effects(dw.fit_lmm(Y, obs, PLAIN).models[0], 0)
    arm = np.repeat([0, 1], sizes)
    return modes, reliability, np.column_stack([np.ones(arm.size), arm]), arm


def adata_of(sizes: tuple[int, int], times: float, seed: int = 0) -> ad.AnnData:
    """Two cell types; donors spread differently in the first one only."""
    parts = [study(np.random.default_rng(seed + i), sizes, t, 10, (12, 12)) for i, t in enumerate((times, 1.0))]
    obs = pd.concat([own.assign(kind=kind) for (_, own), kind in zip(parts, ("T", "B"), strict=True)])
    adata = ad.AnnData(np.vstack([Y for Y, _ in parts]), obs=obs.set_axis([f"c{i}" for i in range(len(obs))]))
    adata.donorwise.setup(donor="donor")
    return adata


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("cells", CELLS)
def test_sums_are_those_of_loops(cells: str) -> None:
    modes, reliability, X, arm = effects((3, 9), 2.0, cells)
    spread = spread_of(modes, reliability, X, arm)
    weight = reliability.sum(axis=0)
    inverse = np.linalg.inv(sum(weight[d] * np.outer(X[d], X[d]) for d in range(12)))
    free = [1 - weight[d] * X[d] @ inverse @ X[d] for d in range(12)]
    for a in (0, 1):
        own = np.flatnonzero(arm == a)
        assert spread.n[a] == own.size
        np.testing.assert_allclose(spread.df[a], sum(free[d] for d in own))
        np.testing.assert_allclose(spread.df[a], own.size - 1)
        np.testing.assert_allclose(spread.found[a], sum(u**2 for d in own for u in modes[:, d]))
        np.testing.assert_allclose(spread.expected[a], sum(s * free[d] for d in own for s in reliability[:, d]))
        np.testing.assert_allclose(spread.known[a], sum(s**2 * free[d] for d in own for s in reliability[:, d]))
    pairs = [modes[:, d] @ modes[:, e] for d in np.flatnonzero(arm == 0) for e in np.flatnonzero(arm == 1)]
    np.testing.assert_allclose(spread.products[0, 1], np.mean(np.square(pairs)))


@pytest.mark.parametrize(("cells", "rtol"), [("12", 1e-5), ("6 and 40", 0.01), ("80 and 8", 0.01)])
def test_squares_of_all_donors_are_what_reml_makes_them(cells: str, rtol: float) -> None:
    """However arms spread: exactly where features are known alike, else but for the leverages, which are those of all."""
    spread = spread_of(*effects((3, 9), 2.0, cells))
    np.testing.assert_allclose(spread.found.sum(), spread.expected.sum(), rtol=rtol)


def test_a_doubled_standard_deviation_is_seen_whatever_is_known_of_each_donor() -> None:
    for cells in CELLS:
        spreads = [spread_of(*effects((3, 9), 2.0, cells, seed)) for seed in range(12)]
        times = [np.sqrt(own.variance[0] / own.variance[1]) for own in spreads]
        assert 1.6 < np.median(times) < 2.2
        assert np.median([own.chance(0, 1) for own in spreads]) < 1e-4


def test_chance_is_uniform_where_arms_are_alike() -> None:
    chance = [spread_of(*effects((3, 9), 1.0, "12", seed)).chance(0, 1) for seed in range(150)]
    assert 0.30 < np.mean(np.array(chance) < 0.4) < 0.50  # .4 +- 2.5 standard errors
    assert np.mean(np.array(chance) < 0.05) < 0.1


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("sizes", "times", "least", "most"),
    [((3, 9), 1.0, 0, 2), ((4, 8), 1.0, 0, 2), ((6, 6), 1.0, 0, 0), ((3, 9), 2.0, 36, 40), ((4, 8), 2.0, 34, 40),
     ((6, 6), 2.0, 0, 0), ((9, 3), 2.0, 0, 0)],
)  # fmt: skip
def test_how_often(sizes: tuple[int, int], times: float, least: int, most: int) -> None:
    """Of 40 studies with 10 factors that features share; nothing where tests are right or conservative."""
    found = [said(*study(np.random.default_rng(seed), sizes, times, 10, (12, 12), 150)) for seed in range(40)]
    assert least <= sum(map(bool, found)) <= most


def test_the_text_names_arms_formula_and_cost() -> None:
    Y, obs = study(np.random.default_rng(0), (3, 9), 2.0, 30, (12, 12))
    (text,) = said(Y, obs).values()
    assert text.startswith("Donors of a of `arm` spread about ") and "3 and 9 donors" in text
    assert "`(0 + arm || donor)` in place of `(1 | donor)`" in text and ".31 for .42 at .001" in text
    assert said(Y, obs, "~ arm + (0 + arm || donor)") == {}
    odd = obs.rename(columns={"arm": "the arm", "donor": "donor id"})
    (text,) = said(Y, odd, "~ `the arm` + (1 | `donor id`)").values()
    assert "`(0 + `the arm` || `donor id`)` in place of `(1 | `donor id`)`" in text
    assert said(Y, odd, "~ `the arm` + (0 + `the arm` || `donor id`)") == {}
    (text,) = said(Y, obs.assign(site=[name[-1] for name in obs["donor"]]), "~ arm + (1 | site:donor)").values()
    assert "`(0 + arm || site:donor)` in place of `(1 | site:donor)`" in text


def test_what_is_not_tested_or_no_comparison_of_donors_is_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    Y, obs = study(rng, (3, 9), 2.0, 30, (12, 12))
    obs = obs.assign(
        sex=np.where(obs["donor"].str[-1].astype(int) % 2, "f", "m"), dose=np.tile(["x", "y"], len(obs) // 2)
    )
    obs["run"] = obs["arm"]
    formula = "~ arm + sex + (1 | donor)"
    assert list(said(Y, obs, formula)) == [ABOUT]
    assert said(Y, obs, formula, [0.0, 0.0, 1.0]) == {}
    assert said(Y, obs, "~ dose + (1 | donor)") == {} == said(Y, obs, "~ run + (1 | donor)")
    assert said(Y, obs, "~ arm + (dose | donor)") == {}  # levels are not the one variance of donors
    assert said(Y[:, :99], obs) == {}  # too few features
    assert said(rng.normal(size=Y.shape), obs) == {}  # no variance between donors
    assert said(Y, obs, "~ arm") == {}


def test_an_odd_donor_is_named() -> None:
    Y, obs = study(np.random.default_rng(0), (3, 9), 1.0, 30, (12, 12))
    odd = (obs["donor"] == "P01").to_numpy()
    Y[odd] += np.random.default_rng(1).normal(0, 1.5, Y.shape[1])
    (text,) = said(Y, obs).values()
    assert text.endswith("of the squares of a are those of donor P01: look at it first.")


def test_three_arms_and_the_worst_pair() -> None:
    n = np.array([9.0, 9.0, 3.0])
    df, found = n - 1, np.array([90.0, 80.0, 80.0])
    spread = Spread(n=n, found=found, expected=df * 10, known=df * 8, df=df, products=np.full((3, 3), 3.0))
    assert worst_pair(spread, 0.01) == (2, 0)  # whose donors spread more than those of the second
    assert worst_pair(spread, 0.0) is None
    two = np.array([1.0, 9.0])
    alone = Spread(n=two, found=two * 10, expected=two, known=two, df=two - 1, products=np.ones((2, 2)))
    assert worst_pair(alone, 0.9) is None


def test_few_of_many_features_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    Y, obs = study(np.random.default_rng(0), (3, 9), 2.0, 30, (12, 12))
    monkeypatch.setattr(module, "_DOUBLES", 1200)
    modes, _ = module._effects(dw.fit_lmm(Y, obs, PLAIN).models[0], 0)
    assert len(modes) <= 100
    Y[0, :20] = np.nan  # features with other rows are a model of their own
    monkeypatch.undo()
    assert list(said(Y, obs)) == [ABOUT]


def test_values_of_donors() -> None:
    """Features without variance within donors are spread like the others."""
    Y, obs = study(np.random.default_rng(0), (3, 9), 2.0, 30, (12, 12))
    constant = pd.DataFrame(Y).groupby(obs["donor"].to_numpy()).transform("mean").to_numpy()
    assert list(said(constant, obs)) == [ABOUT]


# ---------------------------------------------------------------- both doors


def test_it_is_logged_kept_and_reported(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    adata = adata_of((3, 9), 2.0)
    caplog.set_level(logging.WARNING, "donorwise")
    dw.tl.lmm(adata, PLAIN, groupby="kind", progress=False)
    own = [r.getMessage() for r in caplog.records if TEXT in r.getMessage()]
    assert len(own) == 1 and own[0].startswith("T: Donors of a of `arm`")
    kept = read_results(adata, "lmm").params["cautions"]
    assert dict(kept) == {f"{ABOUT}, T": own[0]}
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert own[0] in run("report", tmp_path / "in.h5ad", "--key", "lmm").output
    for out in ("found.csv", "found.h5ad"):
        options = ("--formula", PLAIN, "--groupby", "kind", "--donor", "donor", "--out", tmp_path / out)
        result = run("lmm", tmp_path / "in.h5ad", *options)
        assert result.exit_code == 0, result.output
        assert run("report", tmp_path / out).output.count(own[0]) == 1
    rows = dw.pp.collapse(adata, by=["donor", "arm", "kind"])
    dw.tl.lmm(rows, PLAIN, groupby="kind", progress=False)
    assert list(read_results(rows, "lmm").params["cautions"]) == [f"{ABOUT}, T"]
