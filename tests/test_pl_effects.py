"""Plots of the results table show what it says: MA, forest, heatmap, donors of several features."""

from __future__ import annotations

import sys
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests._models import model

import donorwise as dw
from donorwise.errors import DonorwiseError
from donorwise.pl._style import BLUE, GREY, VERMILION

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

DISEASE = "condition[T.disease]"
PLOTS = {
    "ma": lambda adata, **options: dw.pl.ma(adata, **{"contrast": DISEASE} | options),
    "forest": lambda adata, **options: dw.pl.forest(adata, **{"contrast": DISEASE} | options),
    "heatmap": lambda adata, **options: dw.pl.heatmap(adata, **{"contrast": DISEASE} | options),
}


@pytest.fixture
def fitted() -> ad.AnnData:
    return model("one_arm")


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def _texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def _names(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def _points(ax: Axes) -> tuple[np.ndarray, list[str]]:
    """Places and colours of all points."""
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    colors = [np.broadcast_to(c.get_facecolors(), (len(c.get_offsets()), 4)) for c in drawn]
    return np.vstack([c.get_offsets().filled(np.nan) for c in drawn]), [to_hex(c) for c in np.vstack(colors)]


@pytest.mark.parametrize("plot", PLOTS)
def test_what_comes_back(fitted: ad.AnnData, plot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = PLOTS[plot]
    _, ax = plt.subplots()
    assert draw(fitted, group="T cell", ax=ax) is ax
    assert isinstance(draw(fitted, return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert draw(fitted, show=True) is None
    assert shown
    if plot != "heatmap":
        axes = draw(fitted)
        assert [a.get_title() for a in axes] == [f"{g}, {DISEASE}" for g in fitted.obs["cell_type"].cat.categories]
        assert ["nothing tested" in _texts(a) for a in axes] == [False, False, True]
        with pytest.raises(DonorwiseError, match="ax= holds one panel and this plot has 3"):
            draw(fitted, ax=ax)
    drawn = np.ravel(draw(fitted, contrast=None))
    assert all(DISEASE in (a.get_title() or a.get_title("left")) for a in drawn), "the first contrast is the default"
    fitted.uns["donorwise"] = {"condition": "age"}
    assert (
        np.ravel(draw(fitted, contrast=None))[0]
        .get_title(loc="center" if plot != "heatmap" else "left")
        .endswith("age")
    )
    with pytest.raises(DonorwiseError, match="was tested"):
        draw(fitted, group="B cell")
    for name, value in {"group": "B", "contrast": "disease", "key": "other"}.items():
        with pytest.raises(DonorwiseError, match=f"no (donorwise result|{name}) '{value}'"):
            draw(fitted, **{name: value})


@pytest.mark.parametrize("key", ["lmm", "pseudobulk"])
def test_ma_shows_means_and_effects(fitted: ad.AnnData, key: str) -> None:
    ax = dw.pl.ma(fitted, contrast=DISEASE, group="T cell", key=key, n_labels=3, labels=["gene_0040"])
    cells = fitted[fitted.obs["cell_type"] == "T cell"]
    matrix = cells.X if key == "lmm" else cells.layers["counts"]
    means = pd.Series(np.ravel(matrix.astype(np.float64).mean(axis=0)), index=fitted.var_names)
    table = dw.get.tests(fitted, contrast=DISEASE, group="T cell", key=key).dropna(subset=["p_value"])
    assert 0 < len(table) < 40, "the gene without counts is not tested"
    x = means[table["variable"].astype(str)].to_numpy()
    points, colors = _points(ax)
    order, expected = np.argsort(points[:, 0]), np.argsort(x)
    np.testing.assert_allclose(points[order], np.column_stack([x, table["log_fc"]])[expected], rtol=1e-6)
    called = (table["adj_p_value"] <= 0.05).to_numpy()
    up = (table["log_fc"] > 0).to_numpy()
    palette = np.where(called, np.where(up, VERMILION, BLUE), GREY)[expected]
    assert [colors[i] for i in order] == [c.lower() for c in palette]
    assert {f"{sum(called & up)} up", f"{sum(called & ~up)} down", "FDR 5%"} <= set(_texts(ax))
    assert {"gene_0040", *table["variable"][called].head(3)} <= set(_texts(ax))
    assert ax.get_xscale() == ("linear" if key == "lmm" else "log")
    assert ax.get_xlabel() == ("mean log expression" if key == "lmm" else "mean count per cell")


def test_ma_of_collapsed_rows(fitted: ad.AnnData) -> None:
    rows = dw.pp.collapse(fitted, ["donor_id", "condition", "age", "cell_type"], counts_layer="counts")
    dw.tl.lmm(rows, "~ condition + age + (1 | donor_id)", groupby="cell_type", progress=False)
    dw.tl.pseudobulk(rows, "~ condition + age", groupby="cell_type", progress=False)
    for key in ("lmm", "pseudobulk"):
        drawn = [_points(dw.pl.ma(a, contrast=DISEASE, group="T cell", key=key))[0] for a in (fitted, rows)]
        np.testing.assert_allclose(*drawn, rtol=1e-5)


def test_ma_of_scores_with_missing_values(fitted: ad.AnnData) -> None:
    scores = np.random.default_rng(0).normal(size=(fitted.n_obs, 3))
    scores[::5, 1] = np.nan
    fitted.obsm["scores"] = pd.DataFrame(scores, index=fitted.obs_names, columns=list("abc"))
    dw.tl.lmm(fitted, "~ condition + (1 | donor_id)", obsm="scores", key_added="scores", progress=False)
    ax = dw.pl.ma(fitted, key="scores")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mean of obsm/scores", "estimate (scores)")
    np.testing.assert_allclose(np.sort(_points(ax)[0][:, 0]), np.sort(np.nanmean(scores, axis=0)))


@pytest.mark.parametrize("plot", [dw.pl.ma, dw.pl.volcano])
def test_adjust_text(fitted: ad.AnnData, plot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"contrast": DISEASE, "group": "T cell", "n_labels": 4, "adjust_text": True}
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "adjustText", None)
        with pytest.raises(DonorwiseError, match=r"pip install 'donorwise\[labels\]'"):
            plot(fitted, **options)
    pytest.importorskip("adjustText")
    assert sum(text.startswith("gene_") for text in _texts(plot(fitted, **options))) == 4


def _rows(ax: Axes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Estimates, ends of the intervals and what the points are filled with."""
    intervals = next(c for c in ax.collections if not isinstance(c, PathCollection))
    points = next(c for c in ax.collections if isinstance(c, PathCollection))
    ends = np.full((len(_names(ax.yaxis)), 2), np.nan)
    for segment in intervals.get_segments():
        if len(segment):
            ends[int(segment[0, 1])] = segment[:, 0]
    offsets = points.get_offsets().filled(np.nan)
    return offsets[:, 0], ends, [to_hex(c) for c in points.get_facecolors()]


def _check_rows(ax: Axes, table: pd.DataFrame, column: str) -> None:
    table = table.set_index(table[column].astype(str)).loc[_names(ax.yaxis)]
    effect, ends, filled = _rows(ax)
    # the estimate of a log rate is a fold change, that of mean logarithms is none: an interval is the estimate's
    scale = 1 / np.log(2) if np.allclose(table["log_fc"], table["estimate"] / np.log(2), equal_nan=True) else 1.0
    np.testing.assert_allclose(effect, table["estimate"] * scale)
    np.testing.assert_allclose(ends, table[["ci_low", "ci_high"]] * scale)
    called = table["adj_p_value"] <= 0.05
    assert [color != "#ffffff" for color in filled] == list(called)
    unanswered = table["p_value"].isna()
    expected = [
        s.replace("_", " ") if u else "FDR" for s, u in zip(table["status"].astype(str), unanswered, strict=True)
    ]
    assert [text if u else text[:3] for text, u in zip(_texts(ax), unanswered, strict=True)] == expected
    assert {round(float(line.get_xdata()[0]), 9) for line in ax.lines} == {0.0}


@pytest.mark.parametrize("key", ["lmm", "pseudobulk"])
def test_forest_of_one_feature(fitted: ad.AnnData, key: str) -> None:
    axes = dw.pl.forest(fitted, "gene_0003", contrast=[DISEASE, "age"], key=key)
    assert [a.get_title() for a in axes] == [f"gene_0003, {name}" for name in (DISEASE, "age")]
    table = dw.get.tests(fitted, variables="gene_0003", key=key)
    for ax, contrast in zip(axes, (DISEASE, "age"), strict=True):
        assert _names(ax.yaxis) == list(fitted.obs["cell_type"].cat.categories), "no group is left out"
        _check_rows(ax, table[table["contrast"] == contrast], "group")
    assert _texts(axes[0])[-1] == "not estimable"
    scale = {"lmm": "estimate (log expression)", "pseudobulk": "log2 fold change"}[key]
    assert [a.get_xlabel() for a in axes] == [scale, f"{scale} per unit of age"]
    one = dw.pl.forest(fitted, "gene_0003", contrast=[DISEASE, "age"], group="T cell", key=key)
    assert one.get_title() == "T cell, gene_0003"
    assert _names(one.yaxis) == [DISEASE, "age"]
    _check_rows(one, table[table["group"] == "T cell"], "contrast")
    # one row can always be scaled to its fold change; the picture has the scale of the others all the same
    alone = dw.pl.forest(fitted, "gene_0003", contrast=DISEASE, group="T cell", key=key)
    assert alone.get_xlabel() == scale
    assert _texts(dw.pl.forest(fitted, "gene_0001", group="T cell", contrast="age", key=key)) == ["constant"]


def test_forest_of_several_features(fitted: ad.AnnData) -> None:
    table = dw.get.tests(fitted, contrast=DISEASE, group="T cell")
    top = dw.pl.forest(fitted, contrast=DISEASE, group="T cell", n_variables=7)
    assert _names(top.yaxis) == list(table["variable"].astype(str)[:7])
    _check_rows(top, table, "variable")
    assert any(color == BLUE.lower() for color in _rows(top)[2])
    names = ["gene_0009", "gene_0001", "gene_0004"]
    axes = dw.pl.forest(fitted, names, contrast=[DISEASE], group=["Monocyte", "T cell"])
    assert [_names(a.yaxis) for a in axes] == [names, names]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert "constant" in _texts(axes[1])
    for wrong, message in (([], "names no feature"), ("gene_1", "no variable 'gene_1'")):
        with pytest.raises(DonorwiseError, match=message):
            dw.pl.forest(fitted, wrong)
    with pytest.raises(DonorwiseError, match="contrast= names 2"):
        dw.pl.forest(fitted, names, contrast=[DISEASE, "age"])


def test_forest_keeps_colors_of_groups(fitted: ad.AnnData) -> None:
    fitted.uns["cell_type_colors"] = ["#009e73", "#cc79a7", "#e69f00"]
    ax = dw.pl.forest(fitted, "gene_0003", contrast=DISEASE)
    points = next(c for c in ax.collections if isinstance(c, PathCollection))
    assert [to_hex(c) for c in points.get_edgecolors()] == fitted.uns["cell_type_colors"]


def _mesh(ax: Axes) -> QuadMesh:
    return next(c for c in ax.collections if isinstance(c, QuadMesh))


@pytest.mark.parametrize(("key", "value"), [("lmm", "effect"), ("lmm", "statistic"), ("pseudobulk", "effect")])
def test_heatmap_shows_the_table(fitted: ad.AnnData, key: str, value: str) -> None:
    ax = dw.pl.heatmap(fitted, contrast=DISEASE, key=key, value=value, n_variables=12)
    rows, columns = _names(ax.yaxis), _names(ax.xaxis)
    assert rows == list(fitted.obs["cell_type"].cat.categories)
    assert len(set(columns)) == 12
    table = dw.get.tests(fitted, contrast=DISEASE, key=key)
    table = table.assign(variable=table["variable"].astype(str), group=table["group"].astype(str))
    column = {"effect": "log_fc", "statistic": "statistic"}[value]
    wide, called = (
        table.pivot(index="group", columns="variable", values=c).loc[rows, columns] for c in (column, "adj_p_value")
    )
    mesh = _mesh(ax)
    np.testing.assert_allclose(mesh.get_array().reshape(3, 12).filled(np.nan), wide)
    assert mesh.norm.vmin == -mesh.norm.vmax, "white is zero"
    dots = [tuple(xy) for xy in _points(ax)[0].astype(int)]
    assert set(dots) == set(zip(*np.nonzero(called.to_numpy().T <= 0.05), strict=True)) and dots
    best = {table[table["group"] == g].dropna(subset=["p_value"]).iloc[0]["variable"] for g in ("Monocyte", "T cell")}
    assert best <= set(columns), "every row brings in its own"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["FDR 5%", "not tested"]
    assert ax.patch.get_hatch()
    unit = {"effect": "log2 fold change", "statistic": "statistic"}[value]
    assert any(a.get_ylabel() == unit for a in ax.figure.axes)


def test_heatmap_rows_and_order(fitted: ad.AnnData) -> None:
    names = [f"gene_{i:04d}" for i in (5, 2, 9, 7)]
    both = dw.pl.heatmap(fitted, names, contrast=[DISEASE, "age"], order="given")
    assert _names(both.xaxis) == names
    assert _names(both.yaxis)[0] == f"T cell, {DISEASE}"
    assert len(_names(both.yaxis)) == 6
    ax = dw.pl.heatmap(fitted, group="T cell", order="effect", n_variables=6)
    assert (_names(ax.yaxis), ax.get_title(loc="left")) == ([DISEASE, "age"], "T cell")
    values = _mesh(ax).get_array().reshape(2, 6).mean(axis=0)
    assert np.all(np.diff(values) <= 0)
    clustered = dw.pl.heatmap(fitted, names, contrast=DISEASE)
    assert sorted(_names(clustered.xaxis)) == sorted(names)
    for options, message in (
        ({"value": "p"}, "value"),
        ({"order": "name"}, "order"),
        ({"variables": []}, "names no feature"),
        ({"variables": "gene_1"}, "no variable 'gene_1'"),
        ({"variables": "gene_0001"}, "was tested"),
    ):
        with pytest.raises(DonorwiseError, match=message):
            dw.pl.heatmap(fitted, **{"contrast": DISEASE} | options)


def test_heatmap_of_very_many_features() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=200, seed=1)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    ax = dw.pl.heatmap(adata, n_variables=200)
    assert ax.get_xlabel() == "200 features"
    assert not _names(ax.xaxis)
    assert ax.figure.get_figwidth() <= 16


def test_donors_of_several_features(fitted: ad.AnnData) -> None:
    axes = dw.pl.donors(fitted, ["gene_0002", "gene_0003", "gene_0004"], group="T cell", ncols=2)
    figure = axes[0].figure
    places = {(round(a.get_position().x0, 2), round(a.get_position().y0, 2)) for a in axes}
    assert len({x for x, _ in places}) == len({y for _, y in places}) == 2
    assert len(figure.legends) == 1, "one key for all panels"
    assert not any(child.get_legend() for a in axes for child in (a, *a.child_axes))
    two = dw.pl.donors(fitted, "gene_0002", group=["T cell", "Monocyte"])
    areas = [a.collections[1].get_sizes() for a in two]
    sizes = fitted.obs.groupby(["cell_type", "donor_id"], observed=True).size()
    for own, group in zip(areas, ("T cell", "Monocyte"), strict=True):
        expected = sizes[group].max() / sizes[["Monocyte", "T cell"]].max()
        assert own.max() / max(a.max() for a in areas) == pytest.approx(expected), "areas compare between panels"
    _, ax = plt.subplots()
    with pytest.raises(DonorwiseError, match="ax= holds one panel and this plot has 2"):
        dw.pl.donors(fitted, ["gene_0002", "gene_0003"], group="T cell", ax=ax)
    with pytest.raises(DonorwiseError, match="ncols=0"):
        dw.pl.donors(fitted, "gene_0002", ncols=0)
