"""The plot of means shows the numbers of `dw.get.means`, for every family, and the donors behind."""

from __future__ import annotations

import re
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

import donorwise as dw
from donorwise.errors import DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(scope="module")
def cohort() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=800, n_genes=30, seed=3)
    adata.obs["age"] = 30.0 + 3 * adata.obs["donor_id"].cat.codes
    options: dict[str, Any] = {"ddf": "between-within", "progress": False}
    dw.tl.lmm(adata, "~ condition * sex + age + (1 | donor_id)", groupby="cell_type", **options)
    dw.tl.pseudobulk(adata, "~ condition + age", groupby="cell_type", key_added="pseudobulk", progress=False)
    dw.tl.composition(adata, "~ condition + (1 | sample_id)", key_added="composition", **options)
    return adata


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def _marks(ax: Axes) -> np.ndarray:
    """Places of means (large marks), in the order that they were drawn in."""
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_sizes()[0] > 30]
    return np.vstack([c.get_offsets().filled(np.nan) for c in drawn])


def _donors(ax: Axes) -> np.ndarray:
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_sizes()[0] < 30]
    return np.vstack([c.get_offsets().filled(np.nan) for c in drawn])


def test_marks_are_the_means(cohort: ad.AnnData) -> None:
    ax: Any = dw.pl.means(cohort, "gene_0001", x="condition", by="sex", group="T cell")
    table = dw.get.means(cohort, "condition", by="sex", variables="gene_0001", group="T cell")
    np.testing.assert_allclose(_marks(ax)[:, 1], table["mean"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["control", "disease"]
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "sex" and [t.get_text() for t in legend.get_texts()] == ["female", "male"]
    assert ax.get_title() == "T cell, gene_0001" and ax.get_xlabel() == "condition"
    low, high = ax.get_ylim()
    assert low < table["ci_low"].min() and table["ci_high"].max() < high


def test_donors_are_behind(cohort: ad.AnnData) -> None:
    """Each at the mean of its cells, in the arm that it is in."""
    ax: Any = dw.pl.means(cohort, "gene_0001", x="condition", group="T cell")
    cells = cohort[cohort.obs["cell_type"] == "T cell"]
    values = cells.obs.assign(y=np.asarray(cells[:, "gene_0001"].X.todense()).ravel())
    means = values.groupby("donor_id", observed=True)["y"].mean()
    np.testing.assert_allclose(np.sort(_donors(ax)[:, 1]), np.sort(means))
    without: Any = dw.pl.means(cohort, "gene_0001", x="condition", group="T cell", donors=False)
    assert all(len(c.get_offsets()) < 10 for c in without.collections if isinstance(c, PathCollection))


def test_a_number_makes_lines(cohort: ad.AnnData) -> None:
    ax: Any = dw.pl.means(cohort, "gene_0001", x="age", by="condition", group="T cell")
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(lines) == 2 and {line.get_linestyle() for line in lines} >= {"-"}
    x = lines[0].get_xdata()
    assert (x[0], x[-1]) == (cohort.obs["age"].min(), cohort.obs["age"].max())
    table = dw.get.means(cohort, "condition", at={"age": [x[0]]}, variables="gene_0001", group="T cell")
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines], table["mean"])


@pytest.mark.parametrize(
    ("key", "label"), [("pseudobulk", "counts in 10,000 counts"), ("composition", "share of cells\n(log-odds scale)")]
)
def test_rates_and_shares_are_named(cohort: ad.AnnData, key: str, label: str) -> None:
    """Marks stand at linear predictors, ticks name rates and shares."""
    name = "gene_0001" if key == "pseudobulk" else "T cell"
    group = "B cell" if key == "pseudobulk" else None
    ax: Any = dw.pl.means(cohort, name, x="condition", key=key, group=group)
    link = dw.get.means(cohort, "condition", key=key, variables=name, group=group, scale="link")
    told = dw.get.means(cohort, "condition", key=key, variables=name, group=group)
    np.testing.assert_allclose(_marks(ax)[:, 1], link["mean"])
    assert ax.get_ylabel() == label
    ticks = [(float(ax.yaxis.get_major_formatter()(place, 0)), place) for place in ax.get_yticks()]
    order = np.argsort(link["mean"].to_numpy())
    inside = np.interp(link["mean"], [place for _, place in ticks], [value for value, _ in ticks])
    assert len(ticks) >= 2 and np.allclose(inside, told["mean"], rtol=0.25) and len(order) == 2


def test_groups_in_one_panel_or_several(cohort: ad.AnnData) -> None:
    together: Any = dw.pl.means(cohort, ["gene_0001", "gene_0002"], x="condition", by="cell_type", return_fig=True)
    assert [ax.get_title() for ax in together.axes] == ["gene_0001", "gene_0002"]
    apart = dw.pl.means(cohort, "gene_0001", x="condition", ncols=1)
    assert [ax.get_title() for ax in np.ravel(apart)] == [
        f"{g}, gene_0001" for g in cohort.obs["cell_type"].cat.categories
    ]
    figure, own = plt.subplots()
    assert dw.pl.means(cohort, "gene_0001", x="condition", group="T cell", ax=own) is own and own.get_figure() is figure


def test_collapsed_rows_have_means_without_donors(cohort: ad.AnnData) -> None:
    rows = dw.pp.collapse(cohort, by=["donor_id", "condition", "cell_type"])
    dw.tl.lmm(rows, "~ condition + (1 | donor_id)", groupby="cell_type", ddf="between-within", progress=False)
    ax: Any = dw.pl.means(rows, "gene_0001", x="condition", group="T cell")
    table = dw.get.means(rows, "condition", variables="gene_0001", group="T cell")
    np.testing.assert_allclose(_marks(ax)[:, 1], table["mean"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"x": "disease"}, "`disease` is not a variable of the fixed effects"),
        ({"x": "condition", "by": "age"}, "`age` is numeric and has no levels"),
        ({"x": "condition", "ncols": 0}, "ncols=0 must be 1 or more"),
        ({"x": "condition", "group": "Neuron"}, "There is no group 'Neuron'"),
        ({"x": "condition", "by": "condition"}, "`condition` is named twice"),
        ({"x": "cell_type"}, "x='cell_type' makes the groups"),
    ],
)
def test_errors(cohort: ad.AnnData, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=re.escape(message)):
        dw.pl.means(cohort, "gene_0001", **asked)
