"""One gene against one variant: the picture has the donors' means, their genotypes, and the slope of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests._scan import write_folder
from tests._scans import study

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseError


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before, "a plot changed the user's settings"


def _points(ax: Axes) -> np.ndarray:
    """Place and area of every donor."""
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    return np.concatenate(
        [np.column_stack([c.get_offsets(), np.broadcast_to(c.get_sizes(), len(c.get_offsets()))]) for c in drawn]
    )


def _slopes(ax: Axes) -> list[float]:
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2][1::2]
    return [float(np.diff(xy[:, 1])[0] / np.diff(xy[:, 0])[0]) for xy in lines]


def _means(adata: ad.AnnData, gene: str, group: str, *by: str) -> pd.DataFrame:
    """Naive twin: means of cells by donor."""
    cells = adata[adata.obs["cell_type"] == group]
    values = pd.Series(np.asarray(cells[:, gene].X).ravel(), index=cells.obs_names)
    return values.groupby([cells.obs[name] for name in ("donor_id", *by)], observed=True).agg(["mean", "size"])


def _lead(group: str, gene: str = "gene_10", **options: bool) -> pd.Series:
    return study(**options).scan.results.set_index(["group", "gene"]).loc[(group, gene)]


def test_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    adata, genotypes, _ = study()
    _, ax = plt.subplots()
    assert dw.pl.genotype(adata, genotypes, "gene_10", group="B", ax=ax) is ax
    assert isinstance(dw.pl.genotype(adata, genotypes, "gene_10", return_fig=True), Figure)
    assert len(dw.pl.genotype(adata, genotypes, "gene_10", ncols=1)) == 2
    monkeypatch.setattr(plt, "show", lambda: None)
    assert dw.pl.genotype(adata, genotypes, "gene_10", show=True) is None
    with pytest.raises(DonorwiseError, match="ax= holds one panel and this plot has 2; choose one group"):
        dw.pl.genotype(adata, genotypes, "gene_10", ax=ax)


def test_donors_stand_at_their_genotypes_and_means() -> None:
    adata, genotypes, _ = study()
    lead = _lead("B")
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="B")
    points, means = _points(ax), _means(adata, "gene_10", "B")
    x = genotypes.to_df()[lead["variant"]].loc[means.index].to_numpy()
    order = np.argsort(points[:, 1])
    np.testing.assert_allclose(points[order, 1], np.sort(means["mean"]))
    np.testing.assert_array_equal(np.round(points[order, 0]), x[np.argsort(means["mean"].to_numpy())])
    ratio = points[order, 2] / means.sort_values("mean")["size"].to_numpy()
    np.testing.assert_allclose(ratio, ratio[0], err_msg="areas are not proportional to numbers of cells")
    (slope,) = _slopes(ax)
    assert slope == pytest.approx(lead["beta"])
    a0, a1 = lead["a0"], lead["a1"]
    n = [int((x == copies).sum()) for copies in range(3)]
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == [f"{a0 + a0}\n{n[0]}", f"{a0 + a1}\n{n[1]}", f"{a1 + a1}\n{n[2]}"]
    assert ax.get_xlabel() == f"{lead['variant']}, copies of {a1}"
    title = ax.get_title().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert title.startswith(f"B, gene_10 beta = {lead['beta']:.3g} (se {lead['se']:.2g}), p = ")


def test_the_line_goes_through_the_weighted_mean() -> None:
    adata, genotypes, _ = study()
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="T")
    means = _means(adata, "gene_10", "T")
    x = genotypes.to_df()[_lead("T")["variant"]].loc[means.index]
    middle, height = (np.average(v, weights=means["size"]) for v in (x, means["mean"]))
    line = ax.lines[-1].get_xydata()
    assert np.interp(middle, line[:, 0], line[:, 1]) == pytest.approx(height)


def test_collapsed_rows_and_rows_of_donors_show_the_same_means() -> None:
    adata, genotypes, scan = study()
    expected = np.sort(_points(dw.pl.genotype(adata, genotypes, "gene_10", group="B"))[:, 1])
    rows = dw.pp.collapse(adata, by=["donor_id", "cell_type", "condition"], progress=False)
    ax = dw.pl.genotype(rows, genotypes, "gene_10", group="B", scan=scan)
    np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), expected, rtol=1e-6)
    donors = adata[adata.obs["cell_type"] == "B"].to_df().groupby(adata.obs["donor_id"].astype(str)).mean()
    level = ad.AnnData(donors, obs=pd.DataFrame({"cell_type": "B"}, index=donors.index))
    own = scan._replace(params=scan.params | {"donor": ""})
    ax = dw.pl.genotype(level, genotypes, "gene_10", group="B", scan=own)
    np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), expected)
    assert ax.get_legend() is None, "all have one row"


def test_another_variant_and_a_folder(tmp_path: Path) -> None:
    adata, genotypes, scan = study()
    own = scan.tests[(scan.tests["gene"] == "gene_10") & (scan.tests["group"] == "B")]
    other = own.sort_values("neg_log10_p").iloc[len(own) // 2]
    for where in (None, scan, write_folder(scan, tmp_path / "scan")):
        ax = dw.pl.genotype(adata, genotypes, "gene_10", other["variant"], group="B", scan=where)
        assert _slopes(ax) == [pytest.approx(other["beta"])]
        assert ax.get_xlabel().startswith(other["variant"])


@pytest.mark.parametrize("by", [None, "condition"])
def test_slopes_of_an_interaction_are_those_at_the_levels(by: str | None) -> None:
    adata, genotypes, _ = study(interaction=True)
    lead = _lead("B", interaction=True)
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="B", by=by)
    np.testing.assert_allclose(_slopes(ax), [0.5, 0.5 + lead["beta"]])
    means = _means(adata, "gene_10", "B", "condition")
    np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), np.sort(means["mean"]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rest", "treated"]
    assert "by\N{NO-BREAK SPACE}condition:" in ax.get_title()


def test_slopes_of_a_number_are_those_at_the_means_of_its_halves() -> None:
    adata, genotypes, scan = study(interaction=True)
    adata.obs["state"] = np.random.default_rng(0).normal(size=adata.n_obs)
    made = scan._replace(params=scan.params | {"interaction": "state"})
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="B", scan=made)
    own = adata.obs["state"][adata.obs["cell_type"] == "B"]
    upper = own > adata.obs["state"].median()
    beta = _lead("B", interaction=True)["beta"]
    np.testing.assert_allclose(_slopes(ax), [0.5 + beta * own[~upper].mean(), 0.5 + beta * own[upper].mean()])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["state, lower half", "state, upper half"]
    # where the variant's own effect was not kept, or donors are split by something else, the slopes are not known
    for scan_of, by in ((made._replace(tests=made.tests.iloc[:0]), None), (made, "condition")):
        assert _slopes(dw.pl.genotype(adata, genotypes, "gene_10", group="B", scan=scan_of, by=by)) == []


def test_a_scan_without_interaction_has_its_slope_in_every_level() -> None:
    adata, genotypes, _ = study()
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="B", by="condition")
    np.testing.assert_allclose(_slopes(ax), 2 * [_lead("B")["beta"]])


def test_dosages_stand_where_they_are_and_missing_ones_are_counted() -> None:
    adata, genotypes, _ = study()
    name = _lead("B")["variant"]
    at = genotypes.var_names.get_loc(name)
    genotypes.X[:, at] = np.clip(genotypes.X[:, at] + np.random.default_rng(0).normal(scale=0.1, size=60), 0, 2)
    genotypes.X[:3, at] = np.nan
    ax = dw.pl.genotype(adata, genotypes[:-1], "gene_10", group="B")
    np.testing.assert_allclose(np.sort(_points(ax)[:, 0]), np.sort(genotypes.X[3:-1, at]))
    assert ax.get_xlabel().endswith("\n(4 donors without a genotype)")


@pytest.mark.parametrize(
    ("a0", "a1", "names"),
    [("A", "AT", ["A/A", "A/AT", "AT/AT"]), ("A", "ATTTGG", ["0", "1", "2"]), ("", "", ["0", "1", "2"])],
)
def test_names_of_genotypes(a0: str, a1: str, names: list[str]) -> None:
    adata, genotypes, scan = study()
    tables = {name: getattr(scan, name).assign(a0=a0, a1=a1) for name in ("tests", "results")}
    genotypes.var[["a0", "a1"]] = [a0, a1]
    ax = dw.pl.genotype(adata, genotypes, "gene_10", group="B", scan=scan._replace(**tables))
    assert [label.get_text().split("\n")[0] for label in ax.get_xticklabels()] == names
    assert ax.get_xlabel().endswith(f"copies of {a1 or 'a1'}")


def test_errors() -> None:
    adata, genotypes, scan = study()
    with pytest.raises(DataError, match="no gene 'gene_99' in this scan. Did you mean"):
        dw.pl.genotype(adata, genotypes, "gene_99")
    with pytest.raises(DataError, match=r"'B' has no test of 'gene_10' with the variant 'rs_no'\. "):
        dw.pl.genotype(adata, genotypes, "gene_10", "rs_no")
    few = study(p_max=1e-3)
    with pytest.raises(DataError, match=r"with the variant 'rs1', of those with p up to p_max=0\.001"):
        dw.pl.genotype(few.adata, genotypes, "gene_10", "rs1")
    with pytest.raises(DataError, match="has none of the variants asked for, such as 'rs"):
        dw.pl.genotype(adata, genotypes[:, :3], "gene_10")
    others = genotypes.copy()
    others.obs_names = [f"P{i}" for i in range(60)]
    with pytest.raises(
        DataError,
        match=r"None of the donors of 'B' \('D00', \.\.\.\) has a genotype of 'rs\d+'; those of the genotypes are 'P0'",
    ):
        dw.pl.genotype(adata, others, "gene_10")
    with pytest.raises(DonorwiseError, match="no group 'NK'"):
        dw.pl.genotype(adata, genotypes, "gene_10", group="NK")
    with pytest.raises(DataError, match="by='conditon': adata.obs has no such column. Did you mean 'condition'"):
        dw.pl.genotype(adata, genotypes, "gene_10", by="conditon")
    with pytest.raises(DataError, match="ncols=0 must be 1 or more"):
        dw.pl.genotype(adata, genotypes, "gene_10", ncols=0)
    with pytest.raises(DataError, match="donor column 'donor_id' of this scan is no longer in obs"):
        dw.pl.genotype(_without(adata, "donor_id"), genotypes, "gene_10")
    with pytest.raises(DesignError, match="no column 'cell_type'"):
        dw.pl.genotype(_without(adata, "cell_type"), genotypes, "gene_10")
    results = scan.results.copy()
    results.loc[results["gene"] == "gene_01", ["neg_log10_p", "p_value"]] = np.nan
    results.loc[results["gene"] == "gene_01", "status"] = "no_variants"
    with pytest.raises(DataError, match=r"No variant was tested for 'gene_01' \(status: no_variants\)"):
        dw.pl.genotype(adata, genotypes, "gene_01", scan=scan._replace(results=results))


def _without(adata: ad.AnnData, column: str) -> ad.AnnData:
    made = adata.copy()
    del made.obs[column]
    return made


def test_words_are_on_nothing_else() -> None:
    groups = ("CD8-positive, alpha-beta memory T cell of the blood", "B", "monocyte")
    adata, genotypes, _ = study(groups, interaction=True)
    figure = dw.pl.genotype(adata, genotypes, "gene_10", return_fig=True)
    figure.draw_without_rendering()
    words = [text for ax in figure.axes for text in [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels()]]
    words += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [Text.get_window_extent(text) for text in words if text.get_text()]
    assert len(boxes) > 12
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_scan_of_the_package_is_drawn() -> None:
    adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=900, n_genes=8, n_variants=200, seed=2)
    with pytest.warns(UserWarning):
        dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", groupby="cell_type", progress=False)
    assert len(dw.pl.genotype(adata, genotypes, adata.var_names[0])) == 3
    assert len(dw.pl.locus(adata, adata.var_names[0], genotypes)) == 3
    assert len(dw.pl.manhattan(adata)) == len(dw.pl.qq(adata, key="scan")) == 3
