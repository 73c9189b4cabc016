"""What the plots show is what the tables say, and nothing overlaps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from tests._models import model

import donorwise as dw
from donorwise.errors import DataError, DonorwiseError
from donorwise.pl._labels import place_labels

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

PLOTS = {
    "volcano": lambda adata, **options: dw.pl.volcano(adata, contrast="condition[T.disease]", **options),
    "donors": lambda adata, **options: dw.pl.donors(adata, "gene_0001", **options),
    "variance_partition": dw.pl.variance_partition,
    "icc": dw.pl.icc,
}


@pytest.fixture
def fitted() -> ad.AnnData:
    return model("case_control")


@pytest.fixture
def paired() -> ad.AnnData:
    return model("paired")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before, "a plot changed the user's settings"


def _texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("plot", PLOTS)
def test_what_comes_back(fitted: ad.AnnData, plot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = PLOTS[plot]
    figure, ax = plt.subplots()
    assert draw(fitted, group="B cell", ax=ax) is ax
    assert isinstance(draw(fitted, group="B cell"), Axes)
    assert isinstance(draw(fitted, return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert draw(fitted, show=True) is None
    assert shown
    if plot != "icc":
        assert len(draw(fitted)) == 3
        with pytest.raises(DonorwiseError, match="ax= holds one panel and this plot has 3"):
            draw(fitted, ax=ax)
    with pytest.raises(DonorwiseError, match="no group 'B'"):
        draw(fitted, group="B")
    with pytest.raises(DonorwiseError, match="no donorwise result 'other'"):
        draw(fitted, key="other")


def test_volcano_shows_the_table(fitted: ad.AnnData) -> None:
    ax = dw.pl.volcano(fitted, contrast="condition[T.disease]", group="T cell", n_labels=4, labels=["gene_0060"])
    table = dw.get.tests(fitted, contrast="condition[T.disease]", group="T cell").dropna(subset=["p_value"])
    called = table["adj_p_value"] <= 0.05
    points = np.vstack([c.get_offsets() for c in ax.collections if len(c.get_offsets()) > 1])
    expected = np.column_stack([table["log_fc"], -np.log10(table["p_value"])])
    np.testing.assert_allclose(points[np.lexsort(points.T)], expected[np.lexsort(expected.T)])
    up, down = ((called & (sign * table["log_fc"] > 0)).sum() for sign in (1, -1))
    assert up and down
    assert {f"{up} up", f"{down} down"} <= set(_texts(ax))
    assert {"gene_0060", *table["variable"][called].head(3)} <= set(_texts(ax))


def test_volcano_of_scores_has_estimates(fitted: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    fitted.obsm["scores"] = pd.DataFrame(
        rng.normal(size=(fitted.n_obs, 3)), index=fitted.obs_names, columns=list("abc")
    )
    dw.tl.lmm(fitted, "~ condition + (1 | donor_id)", obsm="scores", key_added="scores", progress=False)
    ax = dw.pl.volcano(fitted, key="scores", n_labels=0)
    assert ax.get_xlabel() == "estimate (scores)"
    assert ax.get_title() == "condition[T.disease]"
    assert dw.pl.volcano(fitted, group="T cell").get_title() == "T cell, condition[T.disease]", "the first of several"


@pytest.mark.parametrize("alpha", [0.05, 0.95])
def test_name_of_the_threshold_stays_in_the_axes(fitted: ad.AnnData, alpha: float) -> None:
    """Also where nearly everything is significant, which puts the line near zero."""
    ax = dw.pl.volcano(fitted, group="T cell", alpha=alpha, n_labels=0)
    ax.figure.draw_without_rendering()
    (name,) = (text for text in ax.texts if text.get_text().startswith("FDR"))
    assert name.get_window_extent().y0 > ax.get_window_extent().y0


@pytest.mark.parametrize(("n_points", "spread"), [(12, 1.0), (12, 0.02), (3000, 1.0)])
def test_labels_do_not_overlap(n_points: int, spread: float) -> None:
    points = np.random.default_rng(1).normal(scale=spread, size=(n_points, 2))
    figure, ax = plt.subplots(figsize=(5, 4), dpi=120)
    ax.scatter(*points.T, s=4)
    ax.set(xlim=(-4, 4), ylim=(-4, 4))
    names = [f"GENE-{i}" for i in range(12)]
    placed = place_labels(ax, names, points[:12], points=points, colors=["black"] * 12)
    figure.draw_without_rendering()
    labels = [text for text in ax.texts if isinstance(text, Annotation)]
    boxes = [plt.Text.get_window_extent(text) for text in labels]
    assert [text.get_text() for text in labels] == placed == names
    for a, b in combinations(boxes, 2):
        overlap = np.minimum(a.max, b.max) - np.maximum(a.min, b.min)
        # a pixel of a descender is no collision
        assert overlap.min() < 1.5
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def _donor_points(ax: Axes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Positions, areas and colours of the donors."""
    drawn = next(c for c in ax.collections if len(c.get_offsets()) > 1)
    return drawn.get_offsets().data, drawn.get_sizes(), [to_hex(c) for c in drawn.get_facecolors()]


def test_donors_shows_donors(fitted: ad.AnnData) -> None:
    fitted.uns["condition_colors"] = ["#009e73", "#cc79a7"]
    ax = dw.pl.donors(fitted, "gene_0002", group="T cell")
    cells = fitted[fitted.obs["cell_type"] == "T cell"]
    values = pd.Series(np.asarray(cells[:, "gene_0002"].X.todense()).ravel(), index=cells.obs_names)
    expected = values.groupby(cells.obs["donor_id"], observed=True).agg(["mean", "size"])
    xy, areas, colors = _donor_points(ax)
    order, by_height = np.argsort(expected["mean"].to_numpy()), np.argsort(xy[:, 1])
    np.testing.assert_allclose(xy[by_height, 1], expected["mean"].to_numpy()[order])
    np.testing.assert_allclose(
        areas[by_height] / areas.max(), expected["size"].to_numpy()[order] / expected["size"].max(), atol=0.05
    )
    assert len(set(xy[:, 0])) == 10, "every donor has a place of its own"
    assert set(colors) == {"#009e73", "#cc79a7"}
    assert colors[int(np.argmin(xy[:, 0]))] == "#009e73", "the reference arm comes first"
    title = _texts(ax.child_axes[0])[-1]
    assert f"{len(cells):,} cells = 10 donors: 5 against 5" in title


def test_donors_shows_the_estimate(fitted: ad.AnnData) -> None:
    ax = dw.pl.donors(fitted, "gene_0002", group="T cell")
    row = dw.get.tests(fitted, contrast="condition[T.disease]", group="T cell", variables="gene_0002").iloc[0]
    xy, areas, colors = _donor_points(ax)
    first = colors[int(np.argmin(xy[:, 0]))]
    icc = dw.get.icc(fitted, group="T cell", variables="gene_0002")["icc"].iloc[0]
    n = areas / areas.max() * fitted.obs.loc[fitted.obs["cell_type"] == "T cell", "donor_id"].value_counts().max()
    in_first = np.array([c == first for c in colors])
    reference = np.average(xy[in_first, 1], weights=(n / (1 + (n - 1) * icc))[in_first])
    model, naive = (line.get_ydata()[0] for line in ax.lines if line.get_marker() == "D")
    assert model == pytest.approx(reference + row["estimate"])
    cells = fitted[fitted.obs["cell_type"] == "T cell", "gene_0002"]
    means = pd.Series(cells.X.toarray().ravel()).groupby(cells.obs["condition"].to_numpy()).mean()
    assert naive == pytest.approx(reference + means["disease"] - means["control"])
    difference = next(a for a in ax.child_axes if a.get_ylabel().startswith("difference"))
    assert difference.get_ylabel() == "difference from control"
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks[-2:] == ["mixed\nmodel", "cells as\nreplicates"]
    assert sorted(ticks[:-2]) == sorted(fitted.obs["donor_id"].cat.categories)


def test_donors_joins_pairs(paired: ad.AnnData) -> None:
    ax = dw.pl.donors(paired, "gene_0003")
    pairs = next(c for c in ax.collections if isinstance(c, LineCollection) and c.get_zorder() == 1)
    joined = [segment[:, 0] for segment in pairs.get_segments()]
    assert len(joined) == 5
    assert len({float(np.diff(x)[0]) for x in joined}) == 1, "the same order in both arms"
    assert "5 donors, each in both arms" in _texts(ax.child_axes[0])[-1]


def test_donors_along_a_number(fitted: ad.AnnData) -> None:
    ax = dw.pl.donors(fitted, "gene_0002", group="T cell", contrast="age")
    row = dw.get.tests(fitted, contrast="age", group="T cell", variables="gene_0002").iloc[0]
    slope = ax.lines[-1].get_xydata()
    assert np.diff(slope[[0, -1]], axis=0)[0] @ [-row["estimate"], 1] == pytest.approx(0, abs=1e-9)
    ages = fitted.obs.drop_duplicates("donor_id")["age"]
    assert sorted(_donor_points(ax)[0][:, 0]) == sorted(ages)
    assert ax.get_xlabel() == f"age\nslope: {row['estimate']:.2g} per unit of age"
    fitted.obs["noise"] = np.random.default_rng(0).normal(size=fitted.n_obs)
    ax = dw.pl.donors(fitted, "gene_0002", group="T cell", condition="noise")
    assert len(_donor_points(ax)[0]) == 10, "a covariate of the cells is drawn as its mean per donor"


def test_donors_many_panels_and_arms(fitted: ad.AnnData) -> None:
    axes = dw.pl.donors(fitted, ["gene_0002", "gene_0003"], group=["T cell", "B cell"])
    assert len(axes) == 4
    arms = dict(zip(fitted.obs["donor_id"].cat.categories, ["low", "high", "none"] * 4, strict=False))
    fitted.obs["dose"] = fitted.obs["donor_id"].map(arms).astype(str)
    dw.tl.lmm(fitted, "~ C(dose, Treatment('none')) + (1 | donor_id)", progress=False)
    ax = dw.pl.donors(fitted, "gene_0002")
    assert _texts(ax.child_axes[0])[1:6:2] == ["none", "high", "low"]
    assert len([line for line in ax.lines if line.get_marker() == "D"]) == 2
    dw.tl.lmm(
        fitted, "~ dose + (1 | donor_id)", contrasts=[("dose", "high", "low"), ("dose", "none", "low")], progress=False
    )
    ax = dw.pl.donors(fitted, "gene_0002", contrast="dose: none vs low")
    assert _texts(ax.child_axes[0])[1] == "low", "what the contrast compares with comes first"
    assert len([line for line in ax.lines if line.get_marker() == "D"]) == 1
    fitted.obs["stage"] = fitted.obs["dose"].map({"none": 1, "low": 2, "high": 3})
    dw.tl.lmm(fitted, "~ C(stage) + (1 | donor_id)", progress=False)
    assert _texts(dw.pl.donors(fitted, "gene_0002").child_axes[0])[1:6:2] == ["1", "2", "3"]
    ax = dw.pl.donors(fitted, "gene_0002", condition="sex")
    assert not [line for line in ax.lines if line.get_marker() == "D"], "sex is not in this model"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": "gene_1"}, "no variable 'gene_1'"),
        ({"variables": []}, "names no feature"),
        ({"condition": "disease"}, "no column 'disease'"),
        ({"contrast": "sex[T.male]"}, r"no contrast 'sex\[T.male\]'"),
    ],
)
def test_donors_refusals(fitted: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.pl.donors(fitted, **{"variables": "gene_0002", "group": "T cell"} | options)


def test_donors_without_its_columns(fitted: ad.AnnData) -> None:
    fitted.obs = fitted.obs.rename(columns={"donor_id": "person"})
    with pytest.raises(DonorwiseError, match="donor column 'donor_id' of this result is no longer in obs"):
        dw.pl.donors(fitted, "gene_0002")


def test_variance_partition_shows_medians(fitted: ad.AnnData) -> None:
    ax = dw.pl.variance_partition(fitted, group="T cell")
    medians = dw.get.variance_partition(fitted, group="T cell").groupby("term", observed=True)["fraction"].median()
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names[-1] == "residual"
    assert _texts(ax) == [f"{m:.1%}" for m in medians.drop("Residual").sort_values()[::-1]] + [
        f"{medians['Residual']:.1%}"
    ]
    few = dw.pl.variance_partition(fitted[:, :5], group="T cell")
    assert [len(c.get_offsets()) for c in few.collections] == [5] * 4, "a few features are drawn one by one"


def test_colors_of_terms_mean_the_same_in_every_model(paired: ad.AnnData) -> None:
    """The donor, the fixed effects and the residual, whatever their medians and whatever stands beside them."""
    adata = paired.copy()
    dw.tl.lmm(adata, "~ condition + (1 | sample_id) + (1 | donor_id)", key_added="samples", progress=False)
    dw.tl.pseudobulk(adata, "~ condition + (1 | donor_id)", progress=False)
    for key, fixed in product(("lmm", "samples", "pseudobulk"), ("each", "together")):
        first = "condition" if fixed == "each" else "fixed\neffects"
        meant = {"donor_id": "#0072b2", first: "#d55e00", "residual": "#8c8c8c"}
        ax = dw.pl.variance_partition(adata, key=key, fixed=fixed)  # type: ignore[arg-type]
        names = [label.get_text() for label in ax.get_xticklabels()]
        faces = [to_hex(drawn.get_facecolor()[0]) for drawn in ax.collections]
        colors = dict(zip(names, faces, strict=True))
        assert colors | meant == colors
        assert len(set(faces)) == len(faces)


def test_bars_of_single_features(fitted: ad.AnnData) -> None:
    """Every share its length, one after another from zero to one, in the order that was asked for."""
    names = ["gene_0004", "gene_0001", "gene_0002"]
    ax = dw.pl.variance_partition(fitted, group="T cell", variables=names)
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    shares = dw.get.variance_partition(fitted, group="T cell", variables=names)
    wide = shares.pivot(index="variable", columns="term", values="fraction").loc[names]
    terms = list(dict.fromkeys(shares["term"].astype(str)))
    for term, drawn in zip(terms, ax.containers, strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in drawn], wide[term])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in ax.containers[-1]], 1)
    (key,) = ax.figure.legends
    assert [text.get_text() for text in key.get_texts()] == [*terms[:-1], "residual"]
    violins = dw.pl.variance_partition(fitted, group="T cell")
    of_bars = {term: to_hex(drawn[0].get_facecolor()) for term, drawn in zip(terms, ax.containers, strict=True)}
    assert to_hex(violins.collections[0].get_facecolor()[0]) in of_bars.values()


def test_bars_with_intervals(fitted: ad.AnnData) -> None:
    adata, names = fitted.copy(), ["gene_0004", "gene_0001"]
    with pytest.raises(DataError, match="'lmm' has no intervals of shares yet: run dw.tl.variance_partition first"):
        dw.pl.variance_partition(adata, variables=names, intervals=True)
    with pytest.raises(DataError, match="draws features one by one: name up to 40 in variables="):
        dw.pl.variance_partition(adata, intervals=True)
    dw.tl.variance_partition(adata, variables=names, n_draws=200, progress=False)
    ax = dw.pl.variance_partition(adata, group="T cell", variables=names, intervals=True)
    shares = dw.get.variance_partition(adata, group="T cell", variables=names)
    ends = np.concatenate([[line[[0, 1], 0] for line in drawn.get_segments()] for drawn in ax.collections])
    np.testing.assert_allclose(np.sort(ends, axis=0), np.sort(shares[["ci_low", "ci_high"]].to_numpy(), axis=0))


def test_many_terms_have_a_colour_each() -> None:
    from donorwise.pl._share_bars import term_colors

    terms = [*(f"x{i}" for i in range(12)), "donor", "batch", "Residual"]
    table = pd.DataFrame({"term": terms, "kind": ["fixed term"] * 12 + ["random term"] * 2 + ["residual"]})
    colors = term_colors(table, "donor")
    assert list(colors) == terms and len(set(colors.values())) == len(terms)
    assert term_colors(table.iloc[:2], "donor") == {name: colors[name] for name in ("x0", "x1")}


def test_icc_keeps_the_order_of_groups(fitted: ad.AnnData, paired: ad.AnnData) -> None:
    fitted.obs["cell_type"] = fitted.obs["cell_type"].cat.reorder_categories(["B cell", "T cell", "Monocyte"])
    dw.tl.lmm(fitted, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    ax = dw.pl.icc(fitted)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B cell", "T cell", "Monocyte"]
    median = dw.get.icc(fitted, group="B cell")["icc"].median()
    assert _texts(ax)[0].startswith(f"{median:.3f}")
    assert "donor_id:sample_id" in dw.pl.icc(paired, term="donor_id:sample_id").get_xlabel()
    with pytest.raises(DonorwiseError, match="no term 'sample'"):
        dw.pl.icc(paired, term="sample")


def test_prior(cohort: ad.AnnData) -> None:
    """A line per knot and term, bars of the features' own ratios, a panel per group."""
    many = dw.datasets.simulate_cohort(n_donors=6, n_cells=900, n_genes=150, seed=4)
    dw.tl.lmm(many, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    axes = dw.pl.prior(many)
    groups = list(many.obs["cell_type"].cat.categories)
    assert [a.get_title() for a in axes] == groups
    lines = [line for line in axes[0].lines if len(line.get_xdata()) > 1]
    table = many.uns["lmm"]["prior"]
    own = table[(table["group"] == groups[0]) & (table["knot"] == 0)].sort_values("ratio")
    np.testing.assert_allclose(lines[0].get_ydata(), own["weight"].to_numpy()[1:])
    assert len(lines) == table["knot"].nunique()
    key = next(a for a in axes[0].figure.axes if a.get_ylabel() == "mean response, rank")
    assert len(key.get_yticks()) == len(lines)
    assert sum(bar.get_height() for bar in axes[0].patches) == pytest.approx(1)
    variances = many.uns["lmm"]["varcomp"]
    zero = variances[(variances["group"] == groups[0]) & (variances["term"] == "donor_id")]["variance"] == 0
    assert axes[0].patches[0].get_height() == pytest.approx(zero.mean())
    dw.tl.pseudobulk(many, "~ condition", progress=False)
    assert not dw.pl.prior(many, key="pseudobulk").patches
    dw.tl.lmm(cohort, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DonorwiseError, match="not moderated"):
        dw.pl.prior(cohort)


def test_prior_of_log_rates_names_what_varies() -> None:
    cells = dw.datasets.simulate_cohort("paired", n_donors=6, n_cells=900, n_genes=110, seed=4)
    for formula, between in (
        ("~ condition + (1 | donor_id)", "levels of the term"),
        ("~ condition + donor_id", "units (donor_id:sample_id)"),
    ):
        dw.tl.pseudobulk(cells, formula, progress=False)
        axes = np.ravel(dw.pl.prior(cells, key="pseudobulk"))
        assert f"variance of log rates between {between}" in {ax.get_xlabel() for ax in axes}


def test_prior_of_a_fit_with_two_terms(paired: ad.AnnData) -> None:
    """A panel per term, the legend clear of the peaks; one term alone on demand."""
    many = dw.datasets.simulate_cohort("paired", n_donors=4, n_cells=300, n_genes=110, seed=4)
    fit = dw.fit_lmm(many.X, many.obs, "~ condition + (1 | donor_id/sample_id)")
    axes = dw.pl.prior(fit)
    terms = ["(1 | donor_id)", "(1 | donor_id:sample_id)"]
    assert [a.get_title() for a in axes] == terms
    for t, ax in enumerate(axes):
        drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) > 1]
        np.testing.assert_allclose(drawn, fit.prior.marginal(t)[:, 1:])
    axes[0].figure.draw_without_rendering()
    legend = axes[0].get_legend().get_window_extent()
    assert axes[0].transData.transform((0, axes[0].dataLim.y1))[1] < legend.y0
    one = dw.pl.prior(fit, term=terms[1])
    np.testing.assert_allclose(one.lines[0].get_ydata(), axes[1].lines[0].get_ydata())
    assert terms[1] in one.get_xlabel()
    with pytest.raises(DonorwiseError, match="no shared prior"):
        dw.pl.prior(dw.fit_lmm(paired.X, paired.obs, "~ condition + (1 | donor_id)"))


@pytest.mark.parametrize("name", dw.pl.__all__)
def test_first_argument(name: str) -> None:
    parameters = list(inspect.signature(getattr(dw.pl, name)).parameters.values())[1:]
    required = {p.name: "gene_0001" for p in parameters if p.default is p.empty}
    for wrong in (np.zeros((3, 2)), "cohort.h5ad", None):
        with pytest.raises(DonorwiseError, match=r"must be an AnnData|There is no folder cohort\.h5ad"):
            getattr(dw.pl, name)(wrong, **required)
