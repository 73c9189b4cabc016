"""The t that stands for a posterior mixture: its numbers agree with one another, and with the mixture."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import donorwise as dw
from donorwise._core.inference.mixture import Summary, summarise_mixture

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

SAME = 1e-6
NEAR = (0.05 / 3, 0.15)  # where the width is that of another level, by and by


def assert_consistent(own: Summary | pd.DataFrame, level: float = 0.95) -> None:
    """p = 2 T_df(-|statistic|), estimate / se = statistic, and the interval is that of the same t."""
    estimate, statistic, se, df, p = (
        np.asarray(getattr(own, name)) for name in ("estimate", "statistic", "se", "df", "p_value")
    )
    tested = np.isfinite(p)
    assert tested.any()
    assert (np.isfinite(df) & np.isfinite(se) & np.isfinite(statistic))[tested].all()
    np.testing.assert_allclose(2 * stats.t.sf(np.abs(statistic), df)[tested], p[tested], rtol=SAME)
    np.testing.assert_allclose((estimate / se)[tested], statistic[tested], rtol=SAME)
    half = stats.t.ppf(0.5 + level / 2, df) * se
    np.testing.assert_allclose(own.ci_low, estimate - half, rtol=SAME, atol=SAME * np.nanmax(se))
    np.testing.assert_allclose(own.ci_high, estimate + half, rtol=SAME, atol=SAME * np.nanmax(se))
    excluded = np.asarray((np.asarray(own.ci_low) > 0) | (np.asarray(own.ci_high) < 0))
    np.testing.assert_array_equal(excluded[tested], p[tested] < round(1 - level, 12))


def mixtures(shift: FloatArray, skew: float = 0.05, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, centres about each `shift`, and scales of one mixture of 12 points, moved."""
    rng = np.random.default_rng(seed)
    q, m, s = rng.dirichlet(np.ones(12)), skew * rng.normal(size=12), np.exp(0.7 * rng.normal(size=12))
    return np.tile(q, (shift.size, 1)), shift[:, None] + m, np.tile(s, (shift.size, 1))


def half_width(q: FloatArray, m: FloatArray, s: FloatArray, nu: float, alpha: float) -> float:
    """The slow twin: half of the distance between the quantiles of one mixture."""
    law = stats.norm if np.isinf(nu) else stats.t(nu)
    ends = [
        optimize.brentq(lambda x, p=p: float(q @ law.cdf((x - m) / s)) - p, -1e4, 1e4, xtol=1e-13, rtol=1e-14)
        for p in (alpha / 2, 1 - alpha / 2)
    ]
    return 0.5 * (ends[1] - ends[0])


@pytest.mark.parametrize("nu", [3.0, 25.0, 400.0, np.inf])
def test_width_is_that_of_the_mixture(nu: float) -> None:
    q, m, s = mixtures(np.geomspace(0.3, 30, 40))
    own = summarise_mixture(q, m, s, nu, 0.95)
    assert_consistent(own)
    half, far = half_width(q[0], m[0], s[0], nu, 0.05), half_width(q[0], m[0], s[0], nu, 0.001)
    near = (own.p_value > NEAR[0]) & (own.p_value < NEAR[1])
    inside = (own.df > 1.001) & (own.df < min(nu, 1e6) * 0.999)
    assert (inside & ~near).sum() > 10
    np.testing.assert_allclose((own.ci_high - own.estimate)[inside & ~near], half, rtol=SAME)
    at_level = np.argmin(np.abs(np.log(own.p_value / 0.05)))
    far_own = stats.t.ppf(1 - 0.001 / 2, own.df[at_level]) * own.se[at_level]
    assert far_own == pytest.approx(far, rel=0.02)


@pytest.mark.parametrize("nu", [3.0, 25.0, 400.0, np.inf])
def test_degrees_of_freedom_do_not_jump(nu: float) -> None:
    """A mixture that moves away from zero little by little, through p = .05 and far out."""
    own = summarise_mixture(*mixtures(np.geomspace(0.5, 12, 1500), skew=0.0), nu, 0.95)
    assert np.abs(np.diff(np.log(own.df))).max() < 0.05
    assert np.abs(np.diff(np.log(own.se))).max() < 0.02


@pytest.mark.parametrize(("nu", "least"), [(3.0, 1e-19), (40.0, 1e-235), (4000.0, 1e-285), (np.inf, 1e-285)])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_far_out_and_close_to_zero(nu: float, least: float, level: float) -> None:
    shift = np.concatenate([-np.geomspace(1e-3, 300, 60), np.geomspace(1e-2, 1e7, 400)])
    own = summarise_mixture(*mixtures(shift, skew=1e-3), nu, level)
    reached = own.p_value > 1e-300
    assert own.p_value[reached].min() < least
    assert_consistent(_some(own, reached), level)
    beyond = _some(own, own.p_value == 0)
    assert (2 * stats.t.sf(np.abs(beyond.statistic), beyond.df) < 1e-300).all()
    assert (beyond.se > 0).all()


def _some(own: Summary, at: np.ndarray) -> Summary:
    return Summary(**{name: getattr(own, name)[at] for name in Summary.__slots__})


def test_one_point_is_the_t_itself() -> None:
    centre, scale = np.array([[0.3], [2.0], [-5.0]]), np.array([[1.0], [1.0], [0.5]])
    own = summarise_mixture(np.ones((3, 1)), centre, scale, 7.0, 0.95)
    np.testing.assert_allclose(own.df, 7, rtol=SAME)
    np.testing.assert_allclose(own.se, scale[:, 0], rtol=SAME)


def test_no_difference_and_no_p() -> None:
    """An estimate of exactly zero has the statistic 0; a p below the smallest number keeps the width."""
    q, m, s = mixtures(np.array([0.0, 1e4]), skew=0.0)
    own = summarise_mixture(q, m, s, np.inf, 0.95)
    half = half_width(q[0], m[0], s[0], np.inf, 0.05)
    np.testing.assert_allclose(own.p_value, [1, 0], rtol=1e-12)
    assert own.statistic[0] == 0
    np.testing.assert_allclose(own.ci_high - own.estimate, half, rtol=1e-5)


def test_other_statistics_than_wald_give_their_p() -> None:
    """A signed root of a likelihood ratio: p is its own, and the t has it."""
    q, m, s = mixtures(np.linspace(-4, 4, 41))
    own = summarise_mixture(q, m, s, np.inf, 0.95, root=1.2 * m / s)
    p = 2 * np.minimum((q * stats.norm.cdf(1.2 * m / s)).sum(axis=1), (q * stats.norm.sf(1.2 * m / s)).sum(axis=1))
    np.testing.assert_allclose(own.p_value, p, rtol=1e-9)
    assert_consistent(own)


@cache
def cells(n_donors: int) -> ad.AnnData:
    """Cells of so many donors, unequal numbers of them; some genes differ much."""
    adata = dw.datasets.simulate_cohort(
        n_donors=n_donors, n_cells=150 * n_donors, n_genes=160, cell_types=("T cell",), effect_size=4.0, seed=1
    )
    adata.obs["sample"] = [f"{d}{i % 2}" for i, d in enumerate(adata.obs["donor_id"])]
    return adata


DDF = ["moderated", "kenward-roger", "satterthwaite", "between-within", "residual"]


@pytest.mark.parametrize("ddf", DDF)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("n_donors", "random"),
    [(7, "(1 | donor_id)"), (8, "(1 | donor_id) + (1 | sample)"), (8, "(0 + log_depth | donor_id)")],
)
def test_mixed_models_of_arrays(n_donors: int, random: str, level: float, ddf: str) -> None:
    adata = cells(n_donors)
    fit = dw.fit_lmm(adata.X, adata.obs, f"~ condition + {random}")
    assert_consistent(fit.test("condition[T.disease]", ddf=ddf, level=level), level)


@pytest.mark.parametrize("ddf", DDF)
def test_two_donors(ddf: str) -> None:
    """Nothing but the prior carries these: it is the same t nevertheless."""
    adata = dw.datasets.simulate_cohort("paired", n_donors=2, n_cells=400, n_genes=160, cell_types=("T cell",), seed=1)
    fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id) + (1 | sample_id)")
    assert_consistent(fit.test(ddf=ddf))


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("tool", ["lmm", "pseudobulk"])
@pytest.mark.parametrize("n_donors", [3, 8])
def test_tools(tool: str, few: bool, n_donors: int) -> None:
    adata = cells(n_donors)[:, : 30 if few else None].copy()
    run = {"lmm": partial(dw.tl.lmm, formula="~ condition + (1 | donor_id)"), "pseudobulk": dw.tl.pseudobulk}[tool]
    run(adata, **({} if tool == "lmm" else {"formula": "~ condition"}), progress=False)  # type: ignore[operator]
    assert_consistent(dw.get.tests(adata, key=tool, sort_by=None))
