"""dw.pp.quality_weights: variances that were simulated are found again, and what tells nothing weighs nothing."""

from __future__ import annotations

import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests import _reports

import donorwise as dw
from donorwise._core.inference.quality_trend import Protein, Trend, smoothed, two_way, variance_trend
from donorwise.errors import DataError, DonorwiseError


def peptides(
    slope: float,
    *,
    n_proteins: int = 250,
    n_runs: int = 10,
    between: float = 0.0,
    errors: str = "normal",
    seed: int = 0,
) -> ad.AnnData:
    """Log variances that rise with a score by `slope`, proteins of their own variance, a third missing."""
    rng = np.random.default_rng(seed)
    protein = np.repeat(np.arange(n_proteins), np.clip(rng.poisson(5, n_proteins), 1, 20))
    shape = n_runs, protein.size
    score = rng.normal(size=shape) + between * rng.normal(size=n_proteins)[protein]
    error = rng.normal(size=shape) if errors == "normal" else rng.standard_t(3, size=shape)
    own = np.exp(0.5 * rng.normal(size=n_proteins))[protein]
    y = 20 + rng.normal(0, 2, protein.size) + rng.normal(size=(n_runs, n_proteins))[:, protein]
    y += own * np.exp(0.5 * slope * score) * error
    y[rng.random(shape) < 0.3] = np.nan
    adata = ad.AnnData(
        y, var=pd.DataFrame({"protein": [f"P{i}" for i in protein]}, index=[f"p{i}" for i in range(protein.size)])
    )
    adata.layers["score"] = score
    return adata


def _weigh(adata: ad.AnnData, layer: str = "score", kind: Any = "score", **more: Any) -> np.ndarray:
    options = {"features": "protein"} | more if kind == "score" else more
    dw.pp.quality_weights(adata, layer, kind, **options)
    return np.asarray(adata.layers["weights"])


def _of_mean_one(weights: np.ndarray) -> None:
    known = np.isfinite(weights)
    assert np.log(weights[known]).mean() == pytest.approx(0, abs=1e-12)
    assert (weights[known] > 0).all()


@pytest.mark.parametrize("kind", ["sd", "variance"])
def test_variances_that_are_given(kind: str) -> None:
    adata = peptides(0, n_proteins=20)
    sd = np.exp(adata.layers["score"])
    adata.layers["v"] = sd if kind == "sd" else sd**2
    weights = _weigh(adata, "v", kind)
    _of_mean_one(weights)
    np.testing.assert_array_equal(np.isnan(weights), np.isnan(adata.X))
    ratio = (weights * sd**2)[np.isfinite(weights)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    floored = _weigh(adata, "v", kind, floor=2.0)
    ratio = (floored * (sd**2 + 4))[np.isfinite(weights)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_quality_of_diann() -> None:
    """A perfect measurement weighs twice what the median does, and one with three times its SD a fifth of it."""
    sd = np.array([[0.0, 0.1, 0.3, 0.05, 0.7]])
    adata = ad.AnnData(np.full((1, 5), 20.0))
    adata.layers["quality"] = 1 / (1 + sd)
    weights = _weigh(adata, "quality", "diann")
    _of_mean_one(weights)
    np.testing.assert_allclose(weights[0] / weights[0, 1], 0.02 / (sd[0] ** 2 + 0.01), rtol=1e-12)
    adata.layers["quality"][:] = 1.0
    np.testing.assert_array_equal(_weigh(adata, "quality", "diann"), np.ones((1, 5)))
    adata.layers["quality"][0, 0] = 0.5  # the median has no error
    assert _weigh(adata, "quality", "diann")[0, 0] < 1


def test_aligned_with_a_report() -> None:
    adata = dw.pp.pivot(_reports.diann())
    before = adata.copy()
    found = dw.pp.quality_weights(adata, "quality", copy=True)
    assert found is not None
    assert "weights" not in adata.layers
    dw.pp.quality_weights(adata, "quality")
    np.testing.assert_array_equal(adata.layers["weights"], found.layers["weights"])
    np.testing.assert_array_equal(np.isnan(adata.layers["weights"]), np.isnan(adata.X))
    for name in ("X", "quality"):
        old, new = (own.X if name == "X" else own.layers[name] for own in (before, adata))
        np.testing.assert_array_equal(old, new)
    pd.testing.assert_frame_equal(adata.var, before.var)


@pytest.mark.parametrize(
    ("options", "within"),
    [
        ({"slope": 1.0}, 0.2),
        ({"slope": -1.0}, 0.2),
        ({"slope": 2.0}, 0.4),
        ({"slope": 1.0, "between": 2.0}, 0.3),  # proteins that have worse scores do not have larger variances
        ({"slope": 1.0, "errors": "t"}, 0.3),
    ],
)
def test_trend_is_found(options: dict[str, Any], within: float) -> None:
    adata = peptides(**options)
    weights = _weigh(adata)
    _of_mean_one(weights)
    known = np.isfinite(weights)
    found, true = np.log(weights[known]), -options["slope"] * adata.layers["score"][known]
    assert np.polyfit(true, found, 1)[0] == pytest.approx(1, abs=0.12)
    assert np.std(found - true) < within


def test_curved_trend_is_found() -> None:
    """Not every score has a better end."""
    adata = peptides(1.0, n_proteins=400)
    adata.layers["turned"] = np.where(np.random.default_rng(1).random(adata.shape) < 0.5, 1, -1) * (
        adata.layers["score"] + 4
    )
    weights = _weigh(adata, "turned")
    known = np.isfinite(weights)
    assert np.corrcoef(np.log(weights[known]), -adata.layers["score"][known])[0, 1] > 0.95


@pytest.mark.parametrize("errors", ["normal", "t"])
def test_noise_makes_no_weights(errors: str) -> None:
    spread = [np.nanstd(np.log(_weigh(peptides(0.0, errors=errors, seed=seed)))) for seed in range(6)]
    assert np.median(spread) < 0.03
    assert max(spread) < 0.1


def test_scale_and_order_do_not_matter() -> None:
    adata = peptides(1.0, n_proteins=60)
    weights = _weigh(adata)
    adata.layers["cubed"] = adata.layers["score"] ** 3
    np.testing.assert_allclose(_weigh(adata, "cubed"), weights, rtol=1e-12)
    adata.layers["down"] = -adata.layers["score"]
    np.testing.assert_allclose(_weigh(adata, "down"), weights, rtol=0.02)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    np.testing.assert_allclose(_weigh(adata[rows][:, columns].copy()), weights[np.ix_(rows, columns)], rtol=1e-8)
    moved = adata.copy()
    moved.X = 3 * adata.X + np.arange(adata.n_vars)
    np.testing.assert_allclose(_weigh(moved), weights, rtol=1e-6)


def test_scores_with_ties() -> None:
    adata = peptides(1.0)
    adata.layers["class"] = np.sign(adata.layers["score"])
    weights = _weigh(adata, "class")
    good, bad = (weights[(adata.layers["class"] == sign) & np.isfinite(weights)] for sign in (-1, 1))
    assert np.ptp(good) == np.ptp(bad) == 0
    assert good[0] / bad[0] == pytest.approx(np.exp(1.0) / np.exp(-1.0) ** 0.5, rel=1)  # mixtures of variances
    assert good[0] > 2 * bad[0]
    adata.layers["class"][:] = 3.0
    np.testing.assert_allclose(_weigh(adata, "class")[np.isfinite(adata.X)], 1)


@pytest.mark.parametrize("kind", ["score", "sd"])
def test_without_a_quality_weights_are_typical(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    adata = peptides(1.0, n_proteins=40)
    adata.layers["score"] = np.exp(adata.layers["score"])
    measured = np.argwhere(np.isfinite(adata.X))[:7]
    adata.layers["score"][tuple(measured.T)] = np.nan
    with caplog.at_level(logging.INFO, "donorwise"):
        weights = _weigh(adata, "score", kind)
    assert "7 of " in caplog.text
    np.testing.assert_array_equal(weights[tuple(measured.T)], 1.0)
    _of_mean_one(weights)
    np.testing.assert_array_equal(np.isnan(weights), np.isnan(adata.X))


def test_other_values() -> None:
    adata = peptides(1.0, n_proteins=40)
    expected = _weigh(adata)
    adata.layers["log"], adata.X = adata.X.copy(), np.ones(adata.shape)
    np.testing.assert_array_equal(_weigh(adata, values="log"), expected)


def test_few_data() -> None:
    """From a dozen degrees of freedom nothing is learned."""
    weights = _weigh(peptides(2.0, n_proteins=2, n_runs=4, seed=3))
    np.testing.assert_allclose(weights[np.isfinite(weights)], 1)


def _wrong(layer: np.ndarray | float, **options: Any) -> dict[str, Any]:
    return {"layer": layer, **options}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            _wrong(0.0, kind="diann"),
            r"does not hold Quantity.Quality, which is above 0.*6 measurements have values such as 0",
        ),
        (_wrong(1.5, kind="diann"), "such as 1.5"),
        (_wrong(-1.0, kind="sd"), "does not hold standard deviations: 6 measurements"),
        (_wrong(-1.0, kind="variance"), "does not hold variances: 6 measurements"),
        (_wrong(0.0, kind="sd"), "says of 6 measurements that they have no error.*floor="),
        (_wrong(1.0, kind="diann", floor=0.0), "that they have no error"),
        (_wrong(np.inf, kind="sd"), "infinite at 6 measurements"),
        (_wrong(np.inf, kind="score", features="protein"), "infinite at 6 measurements"),
        (_wrong(np.nan, kind="sd"), "no qualities"),
        (_wrong(1.0, kind="score"), "features= names the column of var"),
        (_wrong(1.0, kind="score", features="proteins"), "no column 'proteins'. Did you mean 'protein'"),
        (_wrong(1.0, kind="score", features="protein"), "No protein .* has two peptides"),
        (_wrong(1.0, kind="quality"), "kind='quality' is not an option"),
        (_wrong(1.0, kind="sd", floor=-1.0), "floor=-1.0 must be"),
        (_wrong(1.0, kind="score", features="protein", floor=1.0), "floor=1.0 .* no meaning with kind='score'"),
        (_wrong(1.0, kind="sd", key_added="q"), "key_added='q' is a layer that is read"),
        (_wrong(1.0, kind="sd", key_added="a/b"), "key_added='a/b' must be"),
        (_wrong(1.0, kind="sd", values="log"), "There is no layer 'log'"),
        (_wrong(1.0, kind="sd", name="p"), "There is no layer 'p'"),
    ],
)
def test_what_cannot_be_weighed(given: dict[str, Any], says: str) -> None:
    adata = ad.AnnData(np.full((2, 3), 20.0), var=pd.DataFrame({"protein": ["A", "B", "C"]}, index=list("xyz")))
    adata.layers["q"] = np.full((2, 3), given.pop("layer"))
    with pytest.raises(DonorwiseError, match=says):
        dw.pp.quality_weights(adata, given.pop("name", "q"), **given)
    assert "weights" not in adata.layers


def test_infinite_values() -> None:
    adata = ad.AnnData(np.array([[1.0, -np.inf]]))
    adata.layers["q"] = np.ones((1, 2))
    with pytest.raises(DataError, match="X is infinite at 1 measurements, as the logarithm of zero"):
        dw.pp.quality_weights(adata, "q", "sd")


@pytest.mark.parametrize("tall", [True, False])
def test_two_way_is_least_squares(tall: bool) -> None:
    """Also where peptides are in two sets that no run connects."""
    rng = np.random.default_rng(4)
    y, w = rng.normal(size=(7, 5)), rng.uniform(0.2, 3, (7, 5))
    y[rng.random(y.shape) < 0.2] = np.nan
    y[:3, 3:] = y[3:, :3] = np.nan
    if not tall:
        y, w = y.T, w.T
    i, j = np.nonzero(np.isfinite(y))
    X = np.hstack([np.eye(y.shape[0])[i], np.eye(y.shape[1])[j]]) * np.sqrt(w[i, j])[:, None]
    M = np.eye(i.size) - X @ np.linalg.pinv(X)
    fit = two_way(Protein(y[i, j], y[i, j], i, j), w[i, j])
    np.testing.assert_allclose(fit.residual * np.sqrt(w[i, j]), M @ (np.sqrt(w[i, j]) * y[i, j]), atol=1e-12)
    np.testing.assert_allclose(fit.spare, np.diag(M), atol=1e-12)
    np.testing.assert_allclose(fit.projection(), M, atol=1e-12)


def test_error_of_the_trend_is_what_information_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over data without a trend the squared distance of the estimates from none is their number less one."""
    distances = []

    def seen(estimates: np.ndarray, information: np.ndarray) -> np.ndarray:
        distances.append(estimates @ information @ estimates / (estimates.size - 1))
        return estimates

    monkeypatch.setattr("donorwise._core.inference.quality_trend.smoothed", seen)
    for seed in range(8):
        _weigh(peptides(0.0, n_runs=20, n_proteins=120, seed=seed))
    assert np.mean(distances) == pytest.approx(1, abs=0.25)


def test_smoothing_is_that_of_a_random_walk() -> None:
    """The posterior mean under the best variance of steps, by brute force."""
    rng = np.random.default_rng(2)
    estimates = np.linspace(0, 2, 8) + rng.normal(0, 0.3, 8)
    freedom = rng.uniform(5, 15, 8)
    information = np.diag(freedom) - np.outer(freedom, freedom) / freedom.sum()
    walk = np.tril(np.ones((8, 8)))[:, 1:]
    best, likely = np.zeros(8), -np.inf
    for t in np.logspace(-6, 1, 71):
        precision = walk.T @ information @ walk + np.eye(7) / t
        score = walk.T @ information @ estimates
        z = np.linalg.solve(precision, score)
        value = score @ z - np.linalg.slogdet(t * precision)[1]
        if value > likely:
            best, likely = walk @ z, value
    np.testing.assert_allclose(smoothed(estimates, information), best, atol=1e-10)
    np.testing.assert_array_equal(smoothed(rng.normal(0, 1e-3, 8), information), np.zeros(8))


def test_a_part_of_many_proteins_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = peptides(1.0, n_proteins=400)
    whole = _weigh(adata)
    monkeypatch.setattr("donorwise._core.inference.quality_trend._MOST_DF", 4000.0)
    part = _weigh(adata)
    known = np.isfinite(whole)
    assert not np.array_equal(part[known], whole[known])
    assert np.std(np.log(part[known] / whole[known])) < 0.15


def test_pairs_of_large_proteins_need_not_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = peptides(1.0, n_proteins=60, n_runs=20)
    exact = _weigh(adata)
    monkeypatch.setattr("donorwise._core.inference.quality_trend._MOST_PAIRS", 60)
    known = np.isfinite(exact)
    assert np.std(np.log(_weigh(adata)[known] / exact[known])) < 0.05


def test_nothing_to_learn_from() -> None:
    trend = variance_trend(np.full((3, 2), np.nan), np.full((3, 2), np.nan), [np.arange(2)])
    assert isinstance(trend, Trend)
    assert trend.df == 0
