"""The shared prior on variance ratios: grid likelihood, EM, posterior mixture."""

from __future__ import annotations

import decimal
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

import donorwise as dw
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Task, collapse_tasks
from donorwise._core.inference.kernels import em_counts
from donorwise._core.inference.mixture import quantiles, summarise_mixture, two_sided
from donorwise._core.inference.moderation import Learned, learn, moderated_tests, refusal
from donorwise._core.inference.prior import Prior, fit_prior, triangular
from donorwise._core.models.law import tensor
from donorwise._core.models.lmm.evaluate import evaluate_block

FORMULAS = ["~ arm + (1 | donor)", "~ arm + (1 | donor) + (1 | donor:sample)"]


@cache
def fitted(formula: str, n_features: int = 400, seed: int = 0) -> dw.LMMFit:
    """Three donors against three, two samples each, a fifth of the features without donor variance."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(6), 24)
    obs = pd.DataFrame({"donor": donor, "arm": np.where(donor < 3, "a", "b"), "sample": np.tile([0, 1], 72)})
    ratio = np.where(rng.random(n_features) < 0.2, 0, 0.05 * np.exp(rng.normal(size=n_features)))
    Y = rng.normal(size=(144, n_features)) + (np.sqrt(ratio) * rng.normal(size=(6, n_features)))[donor]
    return dw.fit_lmm(Y, obs, formula)


@pytest.mark.parametrize("formula", FORMULAS)
def test_grid_likelihood_is_that_of_the_fits(formula: str) -> None:
    model = fitted(formula, 5).models[0]
    equations, responses = model.equations, model.estimates.responses
    grid = tensor(model.axes(np.zeros(len(equations.terms))))
    on_grid = model.on(grid).loglik(np.arange(5))
    for k in (0, 7, len(grid) - 1):
        gamma = np.tile(grid[k], (5, 1))
        at = evaluate_block(equations.blocks, gamma, responses, equations.nu(reml=True))
        np.testing.assert_allclose(on_grid[:, k], -0.5 * at.deviance, rtol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
def test_em_never_falls_and_gives_probabilities(formula: str) -> None:
    prior = fitted(formula).prior
    assert np.diff(prior.objective).min() > -1e-9 * abs(prior.objective[0])
    np.testing.assert_allclose(prior.weights.sum(axis=1), 1)
    assert "share at zero" in repr(prior)


def test_counts_of_a_step_are_those_of_matrices() -> None:
    rng = np.random.default_rng(0)
    likelihood, rank, weights = rng.random((50, 12)), np.linspace(0, 1, 50), rng.dirichlet(np.ones(12), size=6)
    knot = np.minimum((5 * rank).astype(np.int64), 4)
    counts = np.zeros_like(weights)
    loglik = em_counts(likelihood, knot, 5 * rank - knot, weights, counts)
    shares = triangular(rank, np.linspace(0, 1, 6))
    marginal = (shares @ weights * likelihood).sum(axis=1)
    np.testing.assert_allclose(loglik, np.log(marginal).sum(), rtol=1e-13)
    np.testing.assert_allclose(counts, (shares / marginal[:, None]).T @ likelihood, rtol=1e-13)


def test_a_prior_on_one_point_gives_the_t_of_known_variances() -> None:
    fit = fitted(FORMULAS[0], 5)
    model = fit.models[0]
    axes, at, responses = model.axes(np.zeros(1)), 20, model.estimates.responses
    weights = np.full((6, 64), 1e-300)
    weights[:, at] = 1
    prior = Prior(tuple(axes), ("donor",), (1.0,), weights, np.linspace(0, 1, 6), np.zeros(1), 5)
    L = np.array([[0.0, 1.0]])
    rows = model.equations.turned(L)
    learned = Learned(prior, np.linspace(0, 1, 5), np.full(5, -1), np.empty((0, 64)))
    own = moderated_tests(model, L, learned, 0.95).tests
    known = evaluate_block(model.equations.blocks, np.full((5, 1), axes[0][at]), responses, 142)
    estimate = (responses.ols + known.delta) @ rows[0]
    se = np.sqrt(known.R / 142 * np.einsum("p,gpr,r->g", rows[0], known.Phi, rows[0]))
    np.testing.assert_allclose(own.estimate[:, 0], estimate, rtol=1e-10)
    np.testing.assert_allclose(own.p_value[:, 0], 2 * stats.t.sf(np.abs(estimate / se), 142), rtol=1e-8)
    np.testing.assert_allclose(own.se[:, 0], se, rtol=1e-3)
    np.testing.assert_allclose(own.ci_high[:, 0], estimate + stats.t.ppf(0.975, 142) * se, rtol=1e-6)


def test_three_against_three_holds_its_level() -> None:
    own = fitted(FORMULAS[0], 6000).test("arm[T.b]")
    assert 0.042 < (own.p_value < 0.05).mean() < 0.058
    assert 0.942 < ((own.ci_low < 0) & (own.ci_high > 0)).mean() < 0.958


def test_few_features_hold_their_level() -> None:
    """100 features at a time: what little they say of the prior must not be taken for more."""
    p = np.concatenate([fitted(FORMULAS[0], 100, seed).test("arm[T.b]")["p_value"] for seed in range(80)])
    assert (p < 0.05).mean() < 0.056
    assert (p < 0.01).mean() < 0.0125


@pytest.mark.parametrize(("n_features", "n_knots"), [(100, 2), (399, 2), (400, 3), (999, 5), (1000, 6), (3000, 6)])
def test_knots_grow_with_the_features(n_features: int, n_knots: int) -> None:
    rng = np.random.default_rng(0)
    axes, loglik = [np.concatenate([[0.0], np.geomspace(0.01, 10, 15)])], rng.normal(size=(n_features, 16))
    rank = np.linspace(0, 1, n_features)
    prior = fit_prior(loglik, rank, axes, ("donor",))
    assert prior.weights.shape == (n_knots, 16)
    assert prior.at(rank).sum(axis=1) == pytest.approx(1)
    other = fit_prior(loglik, rank, axes, ("donor",), start=np.full((4, 16), 1 / 16))  # learned from other numbers
    np.testing.assert_allclose(other.weights, prior.weights, rtol=1e-8)


@pytest.mark.parametrize("slopes", [0.0, 0.15])
@pytest.mark.parametrize("random", ["(time | donor)", "(1 | donor) + (0 + time | donor) + (1 | sample)"])
def test_slopes_hold_their_level(random: str, slopes: float) -> None:
    """Three donors against three at four times, where Kenward-Roger has nearly no power; slopes go with levels."""
    rng = np.random.default_rng(4)
    sample = np.repeat(np.arange(24), rng.integers(5, 20, 24))
    obs = pd.DataFrame({"donor": sample // 4, "time": sample % 4, "sample": sample})
    obs["arm"] = np.where(obs["donor"] < 3, "a", "b")
    level = 0.3 * rng.normal(size=(6, 2500))
    slope = slopes * (0.4 * level / 0.3 + 0.9 * rng.normal(size=(6, 2500)))
    Y = rng.normal(size=(sample.size, 2500)) + level[obs["donor"]] + slope[obs["donor"]] * obs[["time"]].to_numpy()
    fit = dw.fit_lmm(Y, obs, f"~ arm * time + {random}")
    for contrast in ("time", "arm[T.b]:time"):
        own = fit.test(contrast)["p_value"]
        assert 0.02 < (own < 0.05).mean() < 0.058  # a model without the correlation is careful
        assert (own < 0.001).mean() < 0.003
        if random == "(time | donor)":
            plain = fit.test(contrast, ddf="kenward-roger")["p_value"]
            assert (plain < 0.05).mean() < 0.5 * (own < 0.05).mean()


@pytest.mark.parametrize(
    ("formula", "ratio", "weight"),
    [
        (FORMULAS[0], 0.1, 1e-6),
        (FORMULAS[0], 0.1, 1e6),
        (FORMULAS[0], 30.0, 1.0),
        (FORMULAS[0], 1e4, 1.0),
        (FORMULAS[1], 300.0, 1.0),
    ],
)
def test_large_ratios_and_units_of_weights(formula: str, ratio: float, weight: float) -> None:
    """Scores that hardly vary within donors, and weights on any scale, stay on the grid."""
    rng = np.random.default_rng(5)
    donor = np.repeat(np.arange(6), 10)
    sample = 2 * donor + np.tile([0, 1], 30)
    obs = pd.DataFrame({"donor": donor, "sample": sample, "arm": np.where(donor < 3, "a", "b")})
    Y = rng.normal(size=(60, 2000)) + np.sqrt(ratio) * (rng.normal(size=(6, 2000))[donor])
    Y += np.sqrt(ratio / 10) * rng.normal(size=(12, 2000))[sample] * (formula == FORMULAS[1])
    fit = dw.fit_lmm(Y, obs, formula, weights=np.full(60, weight))
    p = fit.test("arm[T.b]")["p_value"]
    assert 0.035 < (p < 0.05).mean() < 0.065
    assert (p < 0.001).mean() < 0.004
    if weight != 1.0:
        usual = dw.fit_lmm(Y, obs, formula).test("arm[T.b]")["p_value"]
        np.testing.assert_allclose(p, usual, rtol=1e-6)


def test_models_it_does_not_cover(caplog: pytest.LogCaptureFixture) -> None:
    assert refusal(fitted(FORMULAS[0], 120).models) == ""
    four = "~ arm + (sample | donor) + (1 | donor:sample)"
    for formula, n_features, reason in [(FORMULAS[0], 50, "too few"), (four, 120, "the model has 4")]:
        fit = fitted(formula, n_features)
        assert reason in refusal(fit.models)
        with caplog.at_level("INFO", "donorwise"):
            pd.testing.assert_frame_equal(fit.test("arm[T.b]"), fit.test("arm[T.b]", "kenward-roger"))
        assert reason in caplog.text
        with pytest.raises(dw.errors.DesignError, match=reason):
            fit.prior  # noqa: B018


def cells(n_features: int, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Cells of 3 + 3 donors with a covariate of their own and weights."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(6), 20)
    obs = pd.DataFrame({"donor": donor, "arm": np.where(donor < 3, "a", "b"), "depth": rng.normal(size=120)})
    obs["w"] = rng.uniform(0.5, 2, 120)
    level = 0.3 * rng.normal(size=(6, n_features)) * (rng.random(n_features) < 0.7)
    return rng.normal(size=(120, n_features)) + level[donor] + obs[["depth"]].to_numpy(), obs


TESTED = ["estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value"]


@pytest.mark.parametrize(
    "formula", ["~ arm + (1 | donor)", "~ arm + depth + (1 | donor)", "~ arm + (0 + depth | donor)"]
)
def test_scale_and_location_of_the_responses_do_not_matter(formula: str) -> None:
    Y, obs = cells(120)
    means = np.arange(120.0) * 50  # keeps the order of the features' means, which the prior knows
    arm = (obs["arm"] == "b").to_numpy()[:, None]
    own, scaled, moved = (
        dw.fit_lmm(y, obs, formula, weights="w").test("arm[T.b]")
        for y in (Y + means, 7 * (Y + means) + 1000, Y + means + 3 * arm)
    )
    np.testing.assert_allclose(scaled["estimate"], 7 * own["estimate"], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(scaled[["se", "df"]], own[["se", "df"]] * [7, 1], rtol=1e-6)
    np.testing.assert_allclose(moved["estimate"], own["estimate"] + 3, rtol=1e-7, atol=1e-7)


def test_order_of_donors_and_features_does_not_matter() -> None:
    Y, obs = cells(150)
    own = dw.fit_lmm(Y, obs, "~ arm + (1 | donor)").test("arm[T.b]").set_index("variable")
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(120), rng.permutation(150)
    renamed = obs.assign(donor=obs["donor"].map(dict(enumerate("fbdace"))))
    named = pd.DataFrame(Y, index=obs.index, columns=[f"y{i + 1}" for i in range(150)])
    other = dw.fit_lmm(named.iloc[rows, columns], renamed.iloc[rows], "~ arm + (1 | donor)").test("arm[T.b]")
    other = other.set_index("variable").loc[own.index]
    np.testing.assert_allclose(other[TESTED].to_numpy(), own[TESTED].to_numpy(), rtol=1e-8)


def test_blocks_and_workers_do_not_matter() -> None:
    Y, obs = cells(150)
    own = dw.fit_lmm(Y, obs, "~ arm + (1 | donor)")
    (statistics,) = collapse_tasks(Y, own.variables, [Task("all", own.design, "")])
    other = fit_statistics(statistics, own.variables, n_jobs=2, budget=2000, per_worker=1)
    (model,) = other.models
    chunk, L = 64 * 7, np.array([[0.0, 1.0]])
    tests = moderated_tests(model, L, learn(other.models, chunk=chunk), 0.95, chunk=chunk).tests
    for name, values in own.test()[TESTED].items():
        np.testing.assert_allclose(getattr(tests, name)[:, 0], values, rtol=1e-10)


def test_every_contrast_uses_the_same_prior_and_agrees_with_itself_alone() -> None:
    Y, obs = cells(120)
    fit = dw.fit_lmm(Y, obs, "~ arm + depth + (1 | donor)", weights="w")
    together = fit.test()
    assert fit.prior is fit.prior
    for name in ("arm[T.b]", "depth"):
        alone = dw.fit_lmm(Y, obs, "~ arm + depth + (1 | donor)", weights="w").test(name)
        rows = together[together["contrast"] == name]
        np.testing.assert_allclose(alone[TESTED].to_numpy(), rows[TESTED].to_numpy(), rtol=1e-10)


def test_features_with_missing_cells_share_the_prior() -> None:
    """Leaving out a few cells hardly moves a feature; alone, those features would be too few."""
    Y, obs = cells(160)
    holed = Y.copy()
    holed[0, :80] = np.nan
    whole, fit = (dw.fit_lmm(y, obs, "~ arm + (1 | donor)") for y in (Y, holed))
    assert len(fit.models) == 2
    assert fit.prior.n_features == 160
    own, other = whole.test()["p_value"], fit.test()["p_value"]
    assert np.abs(np.log(own / other)).max() < 0.5
    assert np.abs(np.log(own / other))[:80].min() > 0


def test_a_bad_feature_keeps_its_row_and_disturbs_no_other() -> None:
    Y, obs = cells(130)
    spoiled = np.column_stack([Y, np.ones(120), obs["arm"] == "b", np.full(120, np.nan), obs["donor"]])
    own, table = (dw.fit_lmm(y, obs, "~ arm + (1 | donor)").test() for y in (Y, spoiled))
    assert list(table["status"].iloc[130:]) == ["constant", "not_estimable", "not_estimable", "ok"]
    np.testing.assert_allclose(table["p_value"].iloc[:130], own["p_value"], rtol=1e-10)
    assert table["p_value"].iloc[130:133].isna().all()


def test_p_is_continuous_where_the_variance_estimate_becomes_zero() -> None:
    """One feature's donor means shrink through the point where its estimate reaches the boundary."""
    Y, obs = cells(300, seed=3)
    within = Y - obs.assign(**{"y": Y[:, 0]}).groupby("donor")["y"].transform("mean").to_numpy()[:, None]
    donors = np.array([0.5, -0.9, 0.4, 1.3, 0.2, 0.9])[obs["donor"]]
    Y[:, :40] = within[:, :1] + np.linspace(0.1, 1, 40) * donors[:, None] * 0.6
    fit = dw.fit_lmm(Y, obs, "~ arm + (1 | donor)")
    at_zero = fit.status[:40] == "boundary"
    assert at_zero.any()
    assert not at_zero.all()
    steps = np.abs(np.diff(np.log(fit.test()["p_value"].to_numpy()[:40])))
    smooth = np.abs(np.diff(np.log(fit.test(ddf="satterthwaite")["p_value"].to_numpy()[:40])))
    last = int(np.flatnonzero(at_zero).max())
    assert steps[last] < 2 * max(steps[last - 1], steps[last + 1])
    assert smooth[last] > 2 * steps[last]


def exact_tail(nu: int, x: float) -> decimal.Decimal:
    """P(T < -x) for even nu: a finite sum that cancels, in 420 digits."""
    with decimal.localcontext(decimal.Context(prec=420)):
        square = decimal.Decimal(x) ** 2
        cosine, term, total = nu / (nu + square), decimal.Decimal(1), decimal.Decimal(1)
        for k in range(1, nu // 2):
            term *= cosine * (2 * k - 1) / (2 * k)
            total += term
        return (1 - total * decimal.Decimal(x) / (nu + square).sqrt()) / 2


@pytest.mark.parametrize("nu", [2, 6, 38, 78, 320, 2000])
def test_tails_keep_their_digits_far_out(nu: int) -> None:
    far = np.sqrt(nu) * np.sinh(np.arccosh(np.exp(min(670 / (nu + 1), 20))))
    x = np.concatenate([[0.0], np.geomspace(1e-3, far, 40), np.linspace(0.1, min(far, 37), 40)])
    one = np.ones((x.size, 1))
    expected = [2 * exact_tail(nu, value) for value in x]
    own = [decimal.Decimal(float(p)) for p in two_sided(one, -x[:, None], one, float(nu))]
    assert max(abs(float(p / exact - 1)) for p, exact in zip(own, expected, strict=True)) < 1e-12
    assert min(expected) < 1e-280 or nu < 38


@pytest.mark.parametrize("nu", [1.0, 2.5, 39.0, 2293.0, 3529.0, 8112.0, 99_998.0, np.inf])
def test_tails_agree_with_scipy_and_end_at_zero(nu: float) -> None:
    x = np.concatenate([np.geomspace(1e-4, 1e150, 300), np.linspace(0.1, 38, 300), [np.inf]])
    one = np.ones((x.size, 1))
    np.testing.assert_allclose(two_sided(one, x[:, None], one, nu), 2 * special.stdtr(nu, -x), rtol=3e-12, atol=1e-305)
    weights = np.array([[np.nan, 1.0], [0.5, 0.5]])
    p = two_sided(weights, np.array([[1.0, 1.0], [1.0, -1.0]]), np.ones((2, 2)), nu)
    np.testing.assert_allclose(p, [np.nan, 1.0])


@pytest.mark.parametrize("nu", [3.0, 19.0, 25.0, 400.0, np.inf])
def test_mixtures_against_quadrature_free_twins(nu: float) -> None:
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(12), size=30)
    m, s = 2 + 0.3 * rng.normal(size=(30, 12)), np.exp(rng.normal(size=(30, 12)) * 0.7)
    mean = (q * m).sum(axis=1)
    sd = np.sqrt((q * (s**2 + (m - mean[:, None]) ** 2)).sum(axis=1))
    low, high = (quantiles(q, m, s, nu, p, mean, sd) for p in (0.05, 0.95))
    own = summarise_mixture(q, m, s, nu, 0.9)
    law = stats.norm if np.isinf(nu) else stats.t(nu)
    for g in range(30):

        def cdf(x: float, g: int = g) -> float:
            return float((q[g] * law.cdf((x - m[g]) / s[g])).sum())

        expected = optimize.brentq(lambda x: cdf(x) - 0.05, -500, 500, xtol=1e-12)
        assert low[g] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert cdf(high[g]) == pytest.approx(0.95, abs=1e-7)
        assert own.p_value[g] == pytest.approx(2 * min(cdf(0), 1 - cdf(0)), rel=1e-9)
    np.testing.assert_allclose(own.estimate, mean)


def test_cell_means_are_slopes_in_other_coordinates() -> None:
    """`(0 + arm | donor)` is the model of `(arm | donor)`, moderated as well, with every test and likelihood."""
    rng = np.random.default_rng(3)
    donor, arm = np.repeat(np.arange(8), 30), np.tile(np.repeat([0, 1], [10, 20]), 8)
    means = rng.normal(0, 0.4, (8, 120))[donor] + rng.normal(0, 0.4, (16, 120))[2 * donor + arm]
    obs = pd.DataFrame({"donor": donor.astype(str), "arm": np.where(arm, "b", "a")})
    Y = means + rng.normal(size=(240, 120))
    slopes, levels = (dw.fit_lmm(Y, obs, f"~ arm + ({own} | donor)") for own in ("arm", "0 + arm"))
    np.testing.assert_allclose(levels.loglik, slopes.loglik, rtol=1e-12)
    for ddf in ("moderated", "kenward-roger"):
        one, other = (fit.test("arm[T.b]", ddf=ddf).set_index("variable") for fit in (slopes, levels))
        pd.testing.assert_frame_equal(other.loc[one.index], one, rtol=1e-9)
