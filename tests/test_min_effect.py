"""Tests of effects that are larger than a minimum, against limma, mixtures by hand and simulations, for every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._peptides import FORMULA as PEPTIDES
from tests._peptides import peptides

import donorwise as dw
from donorwise._anndata.recover import recover
from donorwise._core.engine.run import Memory, run
from donorwise._core.inference.mixture import beyond, two_sided
from donorwise._core.inference.moderation import best_point, learn, moderated_tests, posterior
from donorwise._core.inference.moderation import tests_by_law as by_law
from donorwise._core.models.law import tensor
from donorwise.errors import DonorwiseError

TREAT = json.loads((Path(__file__).parent / "reference" / "gene_level" / "treat.json").read_text())
CHANGED = ["statistic", "p_value", "adj_p_value"]


# ---------------------------------------------------------------- one t


@pytest.mark.parametrize("delta", TREAT["tests"])
@pytest.mark.parametrize("ddf", ["kenward-roger", "between-within"])
def test_of_donors_with_as_many_cells_it_is_limmas_treat(delta: str, ddf: Any) -> None:
    """Between donors, each with four cells, the tests are those of the donors' means."""
    means, donor = np.array(TREAT["y"]), np.repeat(np.arange(13), 4)
    cells = means[:, donor].T + 0.01 * np.tile([1.0, -1.0, 2.0, -2.0], 13)[:, None]
    obs = pd.DataFrame({"donor": donor, "arm": np.array(TREAT["arm"])[donor], "age": np.array(TREAT["age"])[donor]})
    fit = dw.fit_lmm(cells, obs, "~ arm + age + (1 | donor)")
    own = fit.test("arm", ddf=ddf, min_effect=float(delta))
    for name, values in TREAT["tests"][delta].items():
        np.testing.assert_allclose(own[name], values, rtol=1e-6, atol=1e-12, err_msg=name)


# ---------------------------------------------------------------- mixtures


def by_hand(q: np.ndarray, roots: np.ndarray, nu: float) -> np.ndarray:
    """min(A, 2 - A), A the posterior probabilities of less than delta and of less than -delta."""
    below = (q * stats.t.sf(roots, nu)).sum(axis=2).sum(axis=0)
    above = (q * stats.t.cdf(roots, nu)).sum(axis=2).sum(axis=0)
    return np.minimum(below, above)


@pytest.mark.parametrize("nu", [1.0, 3.0, 17.5, 400.0, np.inf])
def test_tails_of_both_ends_against_scipy(nu: float) -> None:
    rng = np.random.default_rng(1)
    q, scale = rng.dirichlet(np.ones(7), 300), rng.gamma(2, size=(300, 7))
    centre, delta = rng.normal(0, 1, (300, 1)) * np.geomspace(0.01, 60, 300)[:, None] + rng.normal(size=(300, 7)), 0.8
    roots = np.stack([(centre - delta) / scale, (centre + delta) / scale])
    np.testing.assert_allclose(beyond(q, roots, nu), by_hand(q, roots, nu), rtol=1e-8)
    np.testing.assert_allclose(beyond(q, roots, np.full(300, nu)), by_hand(q, roots, nu), rtol=1e-8)
    none = np.stack([centre / scale] * 2)
    np.testing.assert_allclose(beyond(q, none, nu), two_sided(q, centre / scale, np.ones_like(scale), nu), rtol=1e-13)


def test_far_beyond_tails_keep_their_digits() -> None:
    q, roots = np.ones((2, 1)), np.array([[[30.0], [-40.0]], [[41.0], [-30.0]]])
    np.testing.assert_allclose(beyond(q, roots, np.inf), 2 * [stats.norm.sf(30.0)], rtol=1e-10)
    huge = np.array([[[300.0], [-1e200]], [[500.0], [-1e100]]])
    assert (beyond(q, huge, np.inf) == 0).all()
    np.testing.assert_allclose(beyond(q, huge, 100.0), stats.t.sf([300.0, 1e100], 100), rtol=1e-8)


@cache
def gaussian(n_features: int = 300, effect: float = 0.0, n_cells: int = 20) -> dw.LMMFit:
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(8), n_cells)
    obs = pd.DataFrame({"donor": donor, "arm": donor % 2})
    between = np.sqrt(0.2 * rng.gamma(2, 0.5, n_features)) * rng.normal(size=(8, n_features))
    effects = effect * rng.choice([-1, 1], n_features)
    Y = rng.normal(size=(donor.size, n_features)) + (between + (np.arange(8) % 2)[:, None] * effects)[donor]
    return dw.fit_lmm(Y, obs, "~ arm + (1 | donor)")


def test_moderated_tests_are_mixtures_of_t_by_hand() -> None:
    fit = gaussian(effect=1.0)
    model, L, learned, delta = fit.models[0], np.array([[0.0, 1.0]]), learn(fit.models), 0.7
    own, usual = (moderated_tests(model, L, learned, 0.95, min_effect=d).tests for d in (delta, 0.0))
    law = model.law(learned.points, L)
    q = posterior(law.loglik, learned.prior.at(learned.rank[model.features]))
    centre, scale = law.centre[..., 0], law.scale[..., 0]
    right = by_hand(q, np.stack([(centre - delta) / scale, (centre + delta) / scale]), law.nu)
    np.testing.assert_allclose(own.p_value[:, 0], right, rtol=1e-8)
    beside = np.sign(usual.estimate) * np.maximum(np.abs(usual.estimate) - delta, 0) / usual.se
    np.testing.assert_allclose(own.statistic, beside, rtol=1e-12)
    for name in ("estimate", "se", "df", "ci_low", "ci_high"):
        np.testing.assert_array_equal(getattr(own, name), getattr(usual, name))


@pytest.mark.parametrize("ddf", ["moderated", "kenward-roger"])
def test_at_the_minimum_the_level_holds(ddf: Any) -> None:
    own = gaussian(3000, 0.8).test("arm", ddf=ddf, min_effect=0.8)
    assert (own["p_value"] < 0.05).mean() < 0.058
    assert (own["p_value"] < 0.05).mean() > 0.035  # one tail of it, since the other end is far away
    inside = gaussian(3000, 0.8).test("arm", ddf=ddf, min_effect=1.0)
    assert (inside["p_value"] < 0.05).mean() < 0.02


def test_what_is_no_size_is_refused() -> None:
    for bad in (-0.5, np.inf, np.nan):
        with pytest.raises(DonorwiseError, match=r"min_effect=.* must be a number of at least 0"):
            gaussian().test("arm", min_effect=bad)


# ---------------------------------------------------------------- every family

DONORS = "~ condition + (1 | donor_id)"


@cache
def cohort() -> ad.AnnData:
    """Enough genes for a prior, the first in one arm only; answers k of m, types of cells, a covariate of cells."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=110, de_fraction=0.3, effect_size=1.5, seed=3)
    counts, rng = adata.layers["counts"].toarray(), np.random.default_rng(3)
    counts[(adata.obs["condition"] == "disease").to_numpy(), 0] = 0
    adata.layers["counts"] = counts
    adata.var["some"] = np.arange(adata.n_vars) < 6
    asked = rng.integers(1, 5, adata.n_obs)
    adata.obs = adata.obs.assign(age=rng.normal(size=adata.n_obs), asked=asked, yes=rng.binomial(asked, 0.4))
    return adata


@cache
def runs() -> ad.AnnData:
    """Runs x peptides of enough proteins for a prior."""
    own = peptides(120)
    return ad.AnnData(own.Y.to_numpy(), own.obs, pd.DataFrame({"protein": own.proteins}, index=own.Y.columns))


def similar() -> dict[str, pd.DataFrame]:
    names = cohort().obs["donor_id"].cat.categories
    apart = np.abs(np.subtract.outer(np.arange(names.size), np.arange(names.size)))
    return {"K": pd.DataFrame(np.exp(-apart / 2.0), index=names, columns=names)}


SILENT: dict[str, Any] = {"key_added": "made", "progress": False}
COUNTS = SILENT | {"layer": "counts"}
FAMILIES: dict[str, Callable[[], tuple[ad.AnnData, Callable[..., Any], str, dict[str, Any]]]] = {
    "lmm": lambda: (cohort(), dw.tl.lmm, DONORS, SILENT),
    "kenward-roger": lambda: (cohort(), dw.tl.lmm, DONORS, SILENT | {"ddf": "kenward-roger"}),
    "satterthwaite": lambda: (cohort(), dw.tl.lmm, DONORS, SILENT | {"ddf": "satterthwaite"}),
    "kernel": lambda: (cohort(), dw.tl.lmm, "~ condition + (1 | gr(donor_id, cov=K))", SILENT | {"kernels": similar()}),
    "peptides": lambda: (runs(), dw.tl.lmm, PEPTIDES, SILENT | {"features": "protein", "log_base": 2}),
    "pseudobulk": lambda: (cohort(), dw.tl.pseudobulk, "~ condition", COUNTS | {"sample": "donor_id"}),
    "nb": lambda: (cohort(), dw.tl.glmm, DONORS, COUNTS),
    "nb of cells": lambda: (cohort(), dw.tl.glmm, "~ condition + age + (1 | donor_id)", COUNTS | {"mask_var": "some"}),
    "nb of few": lambda: (cohort(), dw.tl.glmm, DONORS, COUNTS | {"mask_var": "some", "ddf": "between-within"}),
    "wald": lambda: (cohort(), dw.tl.glmm, DONORS, COUNTS | {"mask_var": "some", "ddf": "wald"}),
    "poisson": lambda: (cohort(), dw.tl.glmm, DONORS, COUNTS | {"family": "poisson"}),
    "detection": lambda: (cohort(), dw.tl.glmm, DONORS,
                          COUNTS | {"family": "binomial", "link": "cloglog", "response": "detected"}),
    "trials": lambda: (cohort(), dw.tl.glmm, DONORS,
                       SILENT | {"family": "binomial", "obs_keys": "yes", "trials": "asked"}),
    "composition": lambda: (cohort(), dw.tl.composition, "~ condition + (1 | sample_id)", {"cell_type": "cell_type", "key_added": "made"}),
}  # fmt: skip


@cache
def fitted(name: str) -> ad.AnnData:
    adata, tool, formula, options = FAMILIES[name]()
    adata = adata.copy()
    tool(adata, formula, **options)
    return adata


def results_with(name: str, min_effect: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The results of the first contrast, and the params, with this minimum effect."""
    analysis = recover(fitted(name), "made").analysis
    made = run(replace(analysis, options=replace(analysis.options, min_effect=min_effect)), Memory())
    table = made.tables["results"]
    return table[table["contrast"] == table["contrast"].cat.categories[0]], made.params


pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family(name: str) -> None:
    """None is the usual test; the more is asked for, the larger is p; one that is passed by far is passed."""
    usual, params = results_with(name, 0.0)
    assert "min_effect" not in params
    stored = dw.get.tests(fitted(name), key="made", sort_by=None)
    stored = stored[stored["contrast"] == stored["contrast"].cat.categories[0]]
    np.testing.assert_allclose(usual["p_value"], stored["p_value"], rtol=1e-12)
    known, last = usual["p_value"].notna().to_numpy(), usual["p_value"].to_numpy()
    for delta in (1e-9, 0.1, 0.7, 3.0):
        own, params = results_with(name, delta)
        assert params["min_effect"] == delta
        pd.testing.assert_frame_equal(own.drop(columns=CHANGED), usual.drop(columns=CHANGED))
        p = own["p_value"].to_numpy()
        assert (np.isfinite(p) == known).all()
        near_one = np.where(last[known] > 0.95, 2e-3, 0.0)  # a mixture's mode can be on the other side of zero
        assert (p[known] >= last[known] * (1 - 1e-6) - near_one).all()
        if delta < 1e-6:
            np.testing.assert_allclose(p[known], last[known], rtol=1e-5)
        last = p
        beyond_it = own["estimate"].abs() > delta
        assert (own.loc[~beyond_it, "statistic"].fillna(0) == 0).all()
        assert (
            np.sign(own.loc[beyond_it & known, "statistic"]) == np.sign(own.loc[beyond_it & known, "estimate"])
        ).all()
        assert (own.loc[~beyond_it & known & (own["status"] != "separated"), "p_value"] > 0.3).all()


@pytest.mark.parametrize("ddf", ["moderated", "between-within"])
@pytest.mark.parametrize("name", ["nb", "detection"])
def test_counts_by_hand(name: str, ddf: str) -> None:
    """The likelihood ratios of both ends, each averaged over the points of the grid."""
    analysis, delta = recover(fitted(name), "made").analysis, 0.4
    fit = analysis.fitting(0)(analysis.statistics()[0])
    model, L = fit.models[0].take(np.arange(20)), analysis.contrasts[0].L[:1]
    learned = learn(fit.models)
    points = learned.points if ddf == "moderated" else tensor(model.fine_axes())
    grid = model.on(points, L)
    law = grid.law(model.usable)
    if ddf == "moderated":
        q, nu = posterior(law.loglik, learned.prior.at(learned.rank[model.features])), np.inf
        own = moderated_tests(model, L, learned, 0.95, min_effect=delta)
    else:
        q, nu = best_point(law.loglik), 6.0
        own = by_law(model, L, ddf, 0.95, min_effect=delta)
    roots = np.stack([grid.root_at(model.usable, law, end)[..., 0] for end in (delta, -delta)])
    np.testing.assert_allclose(own.tests.p_value[:, 0], by_hand(q, roots, nu), rtol=1e-8)


def test_counts_at_the_minimum_hold_their_level() -> None:
    """Genes that differ by the minimum, and by less, between two arms of six donors."""
    rng, n_genes, delta = np.random.default_rng(5), 800, 0.5
    donor = np.repeat(np.arange(12), 15)
    effect = delta * np.resize([1.0, -1.0, 0.8, -0.8], n_genes)
    eta = (
        np.log(rng.uniform(0.1, 2.0, n_genes))
        + rng.normal(0, 0.3, (12, n_genes))
        + (np.arange(12) % 2)[:, None] * effect
    )
    counts = rng.poisson(np.exp(eta[donor]) * rng.gamma(2.0, 0.5, (donor.size, n_genes)))
    obs = pd.DataFrame(
        {"donor": pd.Categorical(donor.astype(str)), "arm": donor % 2}, index=np.arange(donor.size).astype(str)
    )
    adata = ad.AnnData(counts.astype(float), obs)
    dw.tl.glmm(adata, "~ arm + (1 | donor)", exposure=None, progress=False)
    analysis = recover(adata, "glmm").analysis
    table = run(replace(analysis, options=replace(analysis.options, min_effect=delta)), Memory()).tables["results"]
    at, less = (table[np.isclose(np.abs(effect), size)]["p_value"] for size in (delta, 0.8 * delta))
    assert 0.02 < (at < 0.05).mean() < 0.075
    assert (less < 0.05).mean() < 0.05
