"""Plots of data with names that are too long, groups without a test, and values that are missing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from tests._models import LONG_GENE as GENE
from tests._models import LONG_PATIENT as PATIENT
from tests._models import model

import donorwise as dw
from donorwise.errors import DataError
from donorwise.pl._style import shorten

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

PLOTS = {
    "volcano": dw.pl.volcano,
    "ma": dw.pl.ma,
    "qq": lambda adata: dw.pl.qq(adata, key="lmm"),
    "pvalues": lambda adata: dw.pl.pvalues(adata, key="lmm"),
    "donors": lambda adata: dw.pl.donors(adata, GENE, group=["CD4⁺ αβ T cells, central & effector memory", "B cell"]),
    "forest": dw.pl.forest,
    "forest of one": lambda adata: dw.pl.forest(adata, GENE),
    "heatmap": dw.pl.heatmap,
    "variance_partition": dw.pl.variance_partition,
    "icc": dw.pl.icc,
    "ranef": lambda adata: dw.pl.ranef(adata, GENE),
    "design": lambda adata: dw.pl.design(adata, "~ state + (1 | patient)", cell_type="kind"),
    "influence": dw.pl.influence,
    "influence of one": lambda adata: dw.pl.influence(adata, GENE),
    "power": dw.pl.power,
    "calibration": dw.pl.calibration,
}


@pytest.fixture
def long_names() -> ad.AnnData:
    return model("long_names")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("plot", PLOTS)
def test_long_names_have_room(long_names: ad.AnnData, plot: str) -> None:
    """Layouts do not collapse, titles of neighbours stay apart, and titles and labels in the figure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        axes = [ax for ax in np.ravel(PLOTS[plot](long_names)) if isinstance(ax, Axes)]
        figure = axes[0].figure
        figure.draw_without_rendering()
    titles = [ax.title.get_window_extent() for ax in axes if ax.get_title()]
    for a, b in pairwise(titles):
        assert a.x1 < b.x0 or not (a.y0 < b.y1 and b.y0 < a.y1), "titles overlap"
    labels = [ax.xaxis.label.get_window_extent() for ax in axes if ax.get_xlabel()]
    rows = [
        t.get_window_extent() for ax in axes for t in ax.get_yticklabels() if not t.get_text().startswith(("0", "−"))
    ]
    frame = figure.bbox.padded(4)
    assert [box for box in [*titles, *labels, *rows] if box.x0 < frame.x0 or frame.x1 < box.x1] == []
    assert min(ax.get_window_extent().width for ax in axes) > 0.8 * figure.dpi, "no room is left for the data"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["short", "names"], ["short", "names"]),
        (["a name that is far too long", "D1"], ["a name…o long", "D1"]),
        ([PATIENT.format(i) for i in ("D07", "D12")], ["…D07…", "…D12…"]),
        (["x" * 30 + "a" + "y" * 30, "x" * 30 + "b" + "y" * 30], None),
    ],
)
def test_short_names_differ(names: list[str], expected: list[str] | None) -> None:
    assert shorten(names, 12) == (names if expected is None else expected)


def test_hits_are_named_with_the_donor_that_tells(long_names: ad.AnnData) -> None:
    """What was named and is no hit is not counted as lost, and the line below which hits are is in the picture."""
    for ax in dw.pl.influence(long_names):
        texts = [text.get_text() for text in ax.texts]
        assert {"0 hang on one donor", "0 more lost without any one of several donors"} <= set(texts)
        assert any(re.fullmatch(r"\$a_1\$, …D0\d…", text) for text in texts)
        dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
        assert ax.get_ylim()[0] < dashed.get_ydata()[0] < ax.get_ylim()[1]


def test_dollars_are_no_formulas(long_names: ad.AnnData) -> None:
    texts = dw.pl.volcano(long_names, group="B cell", labels=["$a_1$"]).texts
    assert [text.get_parse_math() for text in texts if text.get_text() == "$a_1$"] == [False]


@pytest.fixture
def holes() -> ad.AnnData:
    return model("holes")


@pytest.mark.parametrize(("plot", "where"), [(dw.pl.variance_partition, 1), (dw.pl.icc, 0)])
def test_groups_without_a_model_are_named(holes: ad.AnnData, plot: Any, where: int) -> None:
    axes = np.ravel(plot(holes))
    assert "nothing fitted" in [text.get_text() for text in axes[where].texts]
    names = [ax.get_title() for ax in axes] if where else [t.get_text() for t in axes[0].get_yticklabels()]
    assert names == list(holes.obs["cell_type"].cat.categories)


def test_a_feature_without_values_has_no_donors(holes: ad.AnnData) -> None:
    with pytest.raises(DataError, match="misses a value of 'gene_0001'"):
        dw.pl.donors(holes, "gene_0001", group="T cell")


def test_a_wide_band_does_not_hide_the_donors() -> None:
    adata = dw.datasets.simulate_cohort("longitudinal", n_donors=5, n_cells=300, n_genes=5, seed=1)
    dw.tl.lmm(adata, "~ time * arm + (1 + time | donor_id)", progress=False)
    ax = dw.pl.trajectories(adata, "gene_0001", x="time")
    means = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) > 1])
    low, high = ax.get_ylim()
    assert low < means.min() and means.max() < high
    assert high - low < 3 * np.ptp([*means, *np.concatenate([line.get_ydata() for line in ax.lines])])


@pytest.mark.parametrize(
    ("plot", "options", "message"),
    [
        (dw.pl.volcano, {"labels": ["gene_9"]}, "no variable 'gene_9'"),
        (dw.pl.ma, {"contrast": ["a", "b"]}, r"names one contrast, not \['a', 'b'\]"),
        (dw.pl.icc, {"group": []}, "No model could be fitted"),
    ],
)
def test_refusals(holes: ad.AnnData, plot: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot(holes, **options)
