"""What a picture looks like: words that are on nothing else, and axes that say what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import donorwise as dw
from donorwise.errors import DataError
from donorwise.pl._contrasts import of_interest, per_unit
from donorwise.pl._style import fold

DISEASE = "condition[T.disease]"
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=120, effect_size=2.0, de_fraction=0.3, seed=3)
    dw.tl.lmm(adata, "~ condition + age + sex + (1 | donor_id)", progress=False)
    dw.tl.influence(adata, contrast=DISEASE, progress=False)
    return adata


def _markers(ax: Axes) -> list[Bbox]:
    """Boxes around the drawn points."""
    boxes = []
    for points in ax.collections:
        if isinstance(points, PathCollection):
            at = points.get_offset_transform().transform(points.get_offsets())
            sizes = np.broadcast_to(points.get_sizes(), len(at))
            radius = np.sqrt(sizes) / 2 * ax.figure.dpi / 72
            boxes += [Bbox([xy - r, xy + r]) for xy, r in zip(at, radius, strict=True)]
    return boxes


def _boxes(texts: Sequence[Text]) -> list[Bbox]:
    return [Text.get_window_extent(text) for text in texts if text.get_text().strip() and text.get_visible()]


def _apart(boxes: Sequence[Bbox], others: Sequence[Bbox] | None = None) -> bool:
    pairs = combinations(boxes, 2) if others is None else ((a, b) for a in boxes for b in others)
    return not any(a.overlaps(b) for a, b in pairs)


def _drawn(ax: Axes) -> Axes:
    ax.figure.draw_without_rendering()
    return ax


@pytest.mark.parametrize("ax_size", [None, (4, 3), (8, 6), (3, 8)])
@pytest.mark.parametrize("n_donors", [2, 5, 40])
@pytest.mark.parametrize("design", ["case-control", "paired"])
def test_headings_of_a_design_stand_on_nothing(design: str, n_donors: int, ax_size: tuple[int, int] | None) -> None:
    kind = () if design == "case-control" else (design,)
    adata = dw.datasets.simulate_cohort(*kind, n_donors=n_donors, n_cells=50 * n_donors, n_genes=2, seed=1)
    given = None if ax_size is None else plt.subplots(figsize=ax_size)[1]
    ax = _drawn(dw.pl.design(adata, condition="condition", ax=given))
    headings = [text for text in ax.texts if text.get_weight() == "bold"]
    assert headings
    assert _apart(_boxes(headings), _markers(ax))
    assert _apart(_boxes(headings))


def _legend_marks(ax: Axes) -> list[Bbox]:
    legend, boxes = ax.get_legend(), []
    for handle in legend.findobj(Line2D):
        if handle.get_marker() not in ("", "None", None):
            xy = handle.get_transform().transform(handle.get_xydata())[0]
            r = handle.get_markersize() / 2 * ax.figure.dpi / 72
            boxes.append(Bbox([xy - r, xy + r]))
    return boxes


def test_marks_of_legends_are_beside_their_words(fitted: ad.AnnData) -> None:
    cells = dw.datasets.simulate_cohort("longitudinal", n_donors=6, n_cells=400, n_genes=3, seed=1)
    dw.tl.lmm(cells, "~ time * arm + (1 + time | donor_id)", progress=False)
    few = dw.datasets.simulate_cohort(n_donors=2, n_cells=400, n_genes=2, seed=1)
    big = plt.subplots(figsize=(9, 9))[1]
    drawn = [
        dw.pl.design(few),
        dw.pl.design(few, ax=big),
        dw.pl.trajectories(cells, "gene_0001", x="time"),
        dw.pl.donors(fitted, "gene_0001").child_axes[0],
        dw.pl.donors(fitted, "gene_0001", condition="age"),
    ]
    for ax in map(_drawn, drawn):
        marks, words = _legend_marks(ax), _boxes(ax.get_legend().get_texts())
        assert marks
        assert _apart(marks, words)
        assert _apart(marks)


@pytest.mark.parametrize("groupby", [None, "cell_type", "kind"])
def test_ticks_of_a_calibration_are_apart(fitted: ad.AnnData, groupby: str | None) -> None:
    adata = fitted.copy()
    kinds = np.random.default_rng(0).integers(0, 9, adata.n_obs)
    adata.obs["kind"] = pd.Categorical([f"CD{k}-positive, alpha-beta T cell of kind {k}" for k in kinds])
    asked: dict[str, Any] = {"groupby": groupby, "n_permutations": 3, "ddf": "between-within", "progress": False}
    dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", DISEASE, **asked)
    for ax in map(_drawn, dw.pl.calibration(adata)):
        labels = [
            text for text in ax.get_yticklabels() if ax.get_ylim()[0] <= text.get_position()[1] <= ax.get_ylim()[1]
        ]
        assert len(labels) >= 2
        assert _apart(_boxes(labels))
        assert _apart(_boxes([text for text in ax.texts if "p =" in text.get_text()]))


@pytest.mark.parametrize("n_permutations", [1, 4])
def test_words_of_quantiles_are_off_the_curves(fitted: ad.AnnData, n_permutations: int) -> None:
    adata = fitted.copy()
    dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", DISEASE, n_permutations=n_permutations, progress=False)
    for key in ("calibration", "lmm"):
        ax = _drawn(dw.pl.qq(adata, key=key))
        words = [*_boxes(ax.texts), *_boxes(ax.get_legend().get_texts())]
        curves = [ax.transData.transform(line.get_xydata()) for line in ax.lines if len(line.get_xydata()) > 2]
        points = [Bbox([xy, xy + 1e-9]) for curve in curves for xy in curve] + _markers(ax)
        assert _apart(words, points)
    names = [text.get_text() for text in dw.pl.qq(adata).get_legend().get_texts()]
    bands = [text.get_text() for text in dw.pl.pvalues(adata).get_legend().get_texts()]
    if n_permutations == 1:
        assert names == ["the one permutation", "observed labels"]
        assert "the one permutation" in bands
        assert "to" not in _drawn(dw.pl.qq(adata)).texts[0].get_text()
    else:
        assert "5 to 95% of 4 permutations" in names
        assert "5 to 95% of 4 permutations" in bands


def test_names_of_hits_do_not_run_together(fitted: ad.AnnData) -> None:
    ax = _drawn(dw.pl.influence(fitted, n_labels=30))
    names = [text for text in ax.texts if "gene_" in text.get_text()]
    assert len(names) > 5
    grown = [box.padded(1.0 * ax.figure.dpi / 72) for box in _boxes(names)]
    assert _apart(grown)


def test_long_names_of_hits_are_shortened(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    adata.var["long"] = [f"ENSG000001234{i:04}.a-very-long-name-of-a-gene" for i in range(adata.n_vars)]
    ax = dw.pl.influence(adata, gene_symbols="long")
    named = [text.get_text() for text in ax.texts if ", D" in text.get_text()]
    assert named
    assert max(map(len, named)) <= 36


def test_a_volcano_without_hits_names_the_top() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=40, de_fraction=0.0, seed=5)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    top = dw.get.tests(adata)
    assert top["adj_p_value"].min() > 0.05
    named = [text.get_text() for text in dw.pl.volcano(adata, n_labels=3).texts if text.get_text().startswith("gene")]
    assert named
    assert set(named) <= set(top["variable"].astype(str)[:3])
    assert not [text for text in dw.pl.volcano(adata, n_labels=0).texts if text.get_text().startswith("gene")]


def test_a_forest_leaves_out_what_is_adjusted_for(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    figure = dw.pl.forest(adata, "gene_0001", return_fig=True)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [DISEASE, "sex[T.male]"]
    assert figure.get_supxlabel() == "not drawn: age (contrast= draws them)"
    adata.donorwise.setup(condition="condition")
    assert [t.get_text() for t in dw.pl.forest(adata, "gene_0001").get_yticklabels()] == [DISEASE]
    asked = dw.pl.forest(adata, "gene_0001", contrast=[DISEASE, "age"], return_fig=True)
    assert [text.get_text() for text in asked.axes[0].get_yticklabels()] == [DISEASE, "age"]
    assert asked.get_supxlabel() == ""


FORMULA = "~ disease * age + sex + lane + scale(dose) + bs(time, df=3) + C(stage) + (1 | donor)"


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (
            {},
            [
                "disease[T.MS]",
                "sex[T.m]",
                "lane[T.b]",
                "disease[T.MS]:age",
                "C(stage)[T.2]",
                "disease: MS vs HC",
                "mine",
            ],
        ),
        (
            {"batch": "lane"},
            ["disease[T.MS]", "sex[T.m]", "disease[T.MS]:age", "C(stage)[T.2]", "disease: MS vs HC", "mine"],
        ),
        ({"condition": "disease"}, ["disease[T.MS]", "disease[T.MS]:age", "disease: MS vs HC"]),
        ({"condition": "stage"}, ["C(stage)[T.2]"]),
    ],
)
def test_which_contrasts_answer_a_question(declared: dict[str, str], kept: list[str]) -> None:
    names = [
        "disease[T.MS]", "age", "sex[T.m]", "lane[T.b]", "scale(dose)", "bs(time, df=3)[1]", "disease[T.MS]:age",
        "C(stage)[T.2]", "disease: MS vs HC", "mine",
    ]  # fmt: skip
    adata = ad.AnnData(np.ones((1, 1)), uns={"donorwise": declared})
    assert of_interest(adata, names, FORMULA) == kept
    assert of_interest(adata, ["age", "scale(dose)"], FORMULA) == ["age", "scale(dose)"]


@pytest.mark.parametrize(
    ("contrast", "unit"),
    [
        ("disease[T.MS]", ""),
        ("age", " per unit of age"),
        ("disease[T.MS]:age", " per unit of age"),
        ("scale(dose)", " per unit of scale(dose)"),
        ("disease: MS vs HC", ""),
        ("age of MS", ""),
    ],
)
def test_what_an_effect_is_per_unit_of(contrast: str, unit: str) -> None:
    assert per_unit(contrast, FORMULA) == unit


def test_axes_say_units(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    adata.obs["mito"] = np.random.default_rng(0).normal(size=adata.n_obs)
    adata.obsm["scores"] = adata.obs[["mito"]].rename(columns={"mito": "hypoxia"})
    dw.tl.lmm(adata, "~ condition + age + (1 | donor_id)", obs_keys="mito", key_added="one", progress=False)
    dw.tl.lmm(adata, "~ condition + age + (1 | donor_id)", obsm="scores", key_added="scores", progress=False)
    assert dw.pl.volcano(adata, contrast="age").get_xlabel() == "log2 fold change per unit of age"
    assert dw.pl.ma(adata, contrast="age").get_ylabel() == "log2 fold change per unit of age"
    assert dw.pl.volcano(adata, key="one", contrast="age").get_xlabel() == "estimate (mito) per unit of age"
    assert dw.pl.volcano(adata, key="scores").get_xlabel() == "estimate (scores)"
    assert dw.pl.donors(adata, "mito", key="one").get_ylabel() == "donor mean\n(mito)"
    assert dw.pl.donors(adata, "hypoxia", key="scores").get_ylabel() == "donor mean\n(scores)"
    assert dw.pl.donors(adata, "gene_0001", condition="age").get_xlabel().startswith("age\nslope: ")
    bar = dw.pl.heatmap(adata, contrast="age", return_fig=True).axes[-1]
    assert bar.get_ylabel() == "log2 fold change per unit of age"


def test_prior_of_counts_is_called_by_its_units() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=120, seed=1)
    dw.tl.pseudobulk(adata, "~ condition", progress=False)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    for term in ("donor_id", "unit", None):
        ax = dw.pl.prior(adata, key="pseudobulk", term=term)
        assert ax.get_xlabel() == "variance of log rates between units (donor_id)"
    for term in ("donor_id", "(1 | donor_id)"):
        assert dw.pl.prior(adata, term=term).get_xlabel() == "variance of (1 | donor_id) / residual variance"
    for key in ("pseudobulk", "lmm"):
        with pytest.raises(DataError, match="There is no term 'sample_id'"):
            dw.pl.prior(adata, key=key, term="sample_id")


def test_donors_of_an_interaction_with_a_number_name_the_plot_for_it(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    dw.tl.lmm(adata, "~ condition * age + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match=r"interaction with a number.*dw.pl.trajectories\(adata, variable, x='age'\)"):
        dw.pl.donors(adata, "gene_0001", contrast=f"{DISEASE}:age")


NEEDS_CELLS: dict[str, Any] = {
    "ma": lambda r: dw.pl.ma(r),
    "donors": lambda r: dw.pl.donors(r, "gene_0001"),
    "trajectories": lambda r: dw.pl.trajectories(r, "gene_0001", x="age"),
    "pl.ranef": lambda r: dw.pl.ranef(r, "gene_0001"),
    "design": lambda r: dw.pl.design(r),
    "get.ranef": lambda r: dw.get.ranef(r, "gene_0001"),
    "influence": lambda r: dw.tl.influence(r, progress=False),
    "power": lambda r: dw.tl.power(r, progress=False),
    "lmm": lambda r: dw.tl.lmm(r, "~ condition + (1 | donor_id)"),
    "audit": lambda r: r.donorwise.audit("~ condition + (1 | donor_id)"),
    "collapse": lambda r: dw.pp.collapse(r, ["donor_id"], progress=False),
}


@pytest.mark.parametrize("what", NEEDS_CELLS)
def test_results_without_cells_say_what_to_do(fitted: ad.AnnData, what: str) -> None:
    results = ad.AnnData(var=fitted.var[[]], uns={"mine": fitted.uns["lmm"], "lmm": fitted.uns["lmm"]})
    with pytest.raises(DataError, match=r"The cells are needed here.*cells.uns\['mine'\] = results.uns\['mine'\]"):
        NEEDS_CELLS[what](results)


def test_results_without_cells_are_drawn(fitted: ad.AnnData) -> None:
    results = ad.AnnData(var=fitted.var[[]], uns={"lmm": fitted.uns["lmm"]})
    for plot in (
        dw.pl.volcano,
        dw.pl.heatmap,
        dw.pl.forest,
        dw.pl.icc,
        dw.pl.variance_partition,
        dw.pl.qq,
        dw.pl.prior,
    ):
        assert plot(results) is not None
    assert dw.pl.forest(results, "gene_0001").get_yticklabels()[0].get_text() == DISEASE


def test_a_title_that_is_too_long_keeps_both_ends() -> None:
    """Panels of one figure differ by the group, which is first, or by the term, which is last."""
    _, ax = plt.subplots(figsize=(2.4, 2.0))
    group = "CD8+ effector memory T cells that express CD45RA again"
    titles = [fold(ax, f"gene_0004, {group} and again: {what}") for what in ("intercept", "slope of time")]
    for title, end in zip(titles, ("intercept", "time"), strict=True):
        assert title.startswith("gene_0004, CD8+") and title.endswith(end) and "…" in title
        assert title.count("\n") == 2
    assert fold(ax, "gene_0004: intercept") == "gene_0004: intercept"


def test_words_above_peptides_are_within_the_figure() -> None:
    """Axes on top of axes are taller here, and the layout needs more rounds to make room for them."""
    runs = dw.datasets.simulate_peptides(n_donors=3, n_proteins=8, n_peptides=10, seed=1)
    dw.tl.lmm(runs, "~ condition + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
    ax = _drawn(dw.pl.donors(runs, "P00003"))
    whole = ax.figure.get_tightbbox().transformed(ax.figure.dpi_scale_trans)
    assert ax.figure.bbox.padded(1).contains(whole.x0, whole.y0)
    assert ax.figure.bbox.padded(1).contains(whole.x1, whole.y1)
