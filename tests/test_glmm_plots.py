"""Plots of count models: donors at rates and shares, names of the axes, intervals without an end."""

from __future__ import annotations

from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from tests.test_glmm_doors import CASES, CONTRAST, cohort

import donorwise as dw
from donorwise._core.engine.mean_scale import of_rates
from donorwise.errors import DataError
from donorwise.pl._donors_rates import rate_ticks, scale_of, share_ticks

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

SHOWN = ("nb", "poisson", "detection", "trials")
DRAWN: dict[str, Any] = {"key": "glmm", "show": False}


@pytest.fixture(scope="module")
def fitted() -> dict[str, ad.AnnData]:
    out = {}
    for name in SHOWN:
        formula, options = CASES[name]
        out[name] = cohort(formula)
        dw.tl.glmm(out[name], formula, progress=False, **options)
    return out


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    plt.close("all")


def written(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Places of the ticks of the vertical axis, and the numbers beside them."""
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    ticks = [
        (t.get_loc(), float(t.label1.get_text())) for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high
    ]
    places, values = np.array(ticks).T
    return places, values


def points(ax: Axes) -> np.ndarray:
    """Heights of the donors' points."""
    (drawn,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return np.sort(np.asarray(drawn.get_offsets())[:, 1])


@pytest.mark.parametrize("case", SHOWN)
def test_donors_stand_at_their_rates_and_shares(case: str, fitted: dict[str, ad.AnnData]) -> None:
    adata = fitted[case]
    variable, group = ("yes", None) if case == "trials" else ("gene_0006", "T cell" if case == "nb" else None)
    ax = dw.pl.donors(adata, variable, contrast=CONTRAST, group=group, **DRAWN)
    used = adata[adata.obs["cell_type"] == group] if group else adata
    by = used.obs["donor_id"].to_numpy()
    if case == "trials":
        y, of = used.obs["yes"].to_numpy(), used.obs["asked"].to_numpy()
    else:
        y, of = used[:, variable].layers["counts"][:, 0].astype(float), used.layers["counts"].sum(axis=1, dtype=float)
    if case == "detection":
        y, of = (y > 0).astype(float), np.ones(len(y))
    donors = np.unique(by)
    total, out_of = (np.array([values[by == d].sum() for d in donors]) for values in (y, of))
    places, values = written(ax)
    if case in ("nb", "poisson"):
        expected, shown = np.log((total + 0.5) / out_of), 1e4 * np.exp(places)
        label, ratio = "counts in 10,000 counts", "log rate ratio to control"
    elif case == "trials":
        expected, shown = np.log((total + 0.5) / (out_of - total + 0.5)), 1 / (1 + np.exp(-places))
        label, ratio = "share of trials\n(log-odds scale)", "log odds ratio to control"
    else:
        depth = np.array([used.layers["counts"].sum(axis=1, dtype=float)[by == d].mean() for d in donors])
        expected = np.log(-np.log1p(-(total + 0.5) / (out_of + 1)) / depth)
        usual = np.median(used.layers["counts"].sum(axis=1, dtype=float))
        shown = -np.expm1(-usual * np.exp(places))
        label, ratio = f"share of cells with a count,\nin {usual:,.0f} counts", "log rate ratio to control"
    np.testing.assert_allclose(points(ax), np.sort(expected), rtol=1e-9)
    np.testing.assert_allclose(values, shown, rtol=6e-3)
    assert len(places) >= 2
    assert ax.get_ylabel() == label
    assert any(ratio == child.get_ylabel() for child in ax.child_axes)


def test_a_number_of_donors_is_a_slope(fitted: dict[str, ad.AnnData]) -> None:
    adata = cohort()
    dw.tl.glmm(adata, "~ age + (1 | donor_id)", layer="counts", mask_var="some", progress=False)
    ax = dw.pl.donors(adata, "gene_0001", contrast="age", **DRAWN)
    places, values = written(ax)
    np.testing.assert_allclose(values, 1e4 * np.exp(places), rtol=6e-3)
    assert ax.get_ylabel() == "counts in 10,000 counts" and "slope:" in ax.get_xlabel()


def test_intervals_without_an_end_are_drawn(fitted: dict[str, ad.AnnData]) -> None:
    """gene_0002 has no count in the disease: all axes are finite, and an arrow stands for the end."""
    adata = fitted["poisson"].copy()
    dw.tl.influence(adata, key="glmm", variables=["gene_0002", "gene_0006"], progress=False)
    assert np.isneginf(dw.get.influence(adata, key="glmm", by="donor", variables="gene_0002")["ci_low"]).all()
    drawn = [
        dw.pl.donors(adata, "gene_0002", contrast=CONTRAST, **DRAWN),
        dw.pl.forest(adata, variables=["gene_0002", "gene_0006"], contrast=CONTRAST, **DRAWN),
        dw.pl.forest(adata, variables="gene_0002", contrast=CONTRAST, **DRAWN),
        dw.pl.influence(adata, variable="gene_0002", **DRAWN),
        dw.pl.volcano(adata, contrast=CONTRAST, **DRAWN),
        dw.pl.ma(adata, contrast=CONTRAST, **DRAWN),
    ]
    for ax in drawn:
        ax.figure.draw_without_rendering()
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
    assert "v" in [line.get_marker() for line in drawn[0].lines]
    for ax in drawn[1:4]:
        marked = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
        assert sum(c.get_sizes()[0] == 16.0 for c in marked) == 1
    assert len(dw.get.tests(adata, key="glmm", alpha=0.05, status="separated")) == 1
    assert "down" in "".join(text.get_text() for text in drawn[4].texts)


def test_axes_are_named_after_the_link(fitted: dict[str, ad.AnnData]) -> None:
    for case, name in (
        ("poisson", "log2 fold change"),
        ("detection", "log2 fold change"),
        ("trials", "log odds ratio"),
    ):
        assert dw.pl.volcano(fitted[case], contrast=CONTRAST, **DRAWN).get_xlabel() == name
        assert dw.pl.forest(fitted[case], contrast=CONTRAST, **DRAWN).get_xlabel() == name
        assert dw.pl.ma(fitted[case], contrast=CONTRAST, **DRAWN).get_ylabel() == name
    for case, name in (
        ("poisson", "mean count per cell"),
        ("detection", "mean count per cell"),
        ("trials", "mean of obs"),
    ):
        assert dw.pl.ma(fitted[case], contrast=CONTRAST, **DRAWN).get_xlabel() == name


def test_other_plots(fitted: dict[str, ad.AnnData]) -> None:
    adata = fitted["nb"].copy()
    assert dw.pl.prior(adata, group="T cell", term="donor_id", **DRAWN).get_xlabel() == "variance of (1 | donor_id)"
    dw.pl.icc(adata, group="T cell", **DRAWN)
    dw.pl.variance_partition(adata, group="T cell", **DRAWN)
    dw.pl.heatmap(adata, **DRAWN)
    dw.pl.pvalues(adata, group="T cell", **DRAWN)
    dw.pl.qq(adata, group="T cell", **DRAWN)
    dw.pl.ranef(adata, "gene_0006", group="T cell", **DRAWN)
    with pytest.raises(DataError, match="trajectories are drawn with the fixed effects of a mixed model"):
        dw.pl.trajectories(adata, "gene_0006", x="age", **DRAWN)
    with pytest.raises(DataError, match="not moderated"):
        dw.pl.prior(fitted["poisson"], **DRAWN)


@pytest.mark.parametrize(("low", "high"), [(0.002, 0.9), (3.0, 4.5), (60.0, 350.0), (1e-4, 3e3), (0.9, 4.0)])
def test_ticks_of_rates(low: float, high: float) -> None:
    ticks = rate_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and (np.diff(ticks) > 0).all() and low <= ticks[0] and ticks[-1] <= high


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.999), (0.4, 0.45), (0.9, 0.9999), (1e-5, 1e-4)])
def test_ticks_of_shares(low: float, high: float) -> None:
    ticks = share_ticks(low, high)
    assert 2 <= len(ticks) <= 15 and (np.diff(ticks) > 0).all() and low <= ticks[0] and ticks[-1] <= high


def test_ticks_of_shares_that_are_nearly_one_can_be_read() -> None:
    """Shares of a gene that all cells have: ticks below one, apart from each other, and told apart."""
    scale = scale_of(of_rates("", 2000.0, total=True, link="cloglog", what="share of cells with a count,"))
    for ends in ((-6.0, -4.0), (-9.0, -4.0), (-14.0, -5.0), (-8.0, -7.0)):
        ax = plt.figure().add_subplot()
        ax.set_ylim(*ends)
        scale.name_ticks(ax)
        places = ax.yaxis.get_major_locator().tick_values(*ends)
        words = [ax.yaxis.get_major_formatter()(place, 0) for place in places]
        assert np.isfinite(places).all() and (np.diff(places) >= 0.05 * (ends[1] - ends[0])).all()
        assert len(set(words)) == len(words) and "1" not in words
        plt.close()
