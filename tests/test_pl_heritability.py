"""Plots of proportions of variance show what the table says, for one, two and three components and any number of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import donorwise as dw
from donorwise.errors import DataError, DonorwiseError
from donorwise.pl._style import BLUE, GREY, INK, LIGHT_GREY, VERMILION

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before, "a plot changed the user's settings"


@cache
def _fitted() -> ad.AnnData:
    """A kernel of twelve pairs of sibs and the donors' own effect, two cell types."""
    rng = np.random.default_rng(0)
    donors = [f"d{i:02}" for i in range(24)]
    K = pd.DataFrame(np.kron(np.eye(12), [[1, 0.9], [0.9, 1]]), donors, donors)
    obs = pd.DataFrame({"donor_id": np.repeat(donors, 6), "cell_type": np.tile(["T", "B"], 72)})
    u = np.linalg.cholesky(K) @ rng.normal(size=(24, 30)) * np.linspace(0, 1.5, 30)
    values = np.repeat(u, 6, axis=0) + rng.normal(size=(144, 30))
    adata = ad.AnnData(values, obs=obs.set_axis(obs.index.astype(str)))
    adata.var_names = [f"gene_{i:04}" for i in range(30)]
    adata.donorwise.setup(donor="donor_id")
    formula = "~ 1 + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"
    dw.tl.lmm(adata, formula, groupby="cell_type", kernels={"grm": K}, progress=False)
    return adata


@pytest.fixture
def fitted() -> ad.AnnData:
    return _fitted().copy()


def with_table(
    n: int, components: Sequence[str] = ("grm", "mrm", "donor_id", "sum"), groups: Sequence[str] = ("T", "B")
) -> ad.AnnData:
    """A result whose proportions are made up: a third at zero, intervals from 0 to .9, few that pass."""
    rng = np.random.default_rng(1)
    names = [f"gene_{i:04}" for i in range(n)]
    table = pd.MultiIndex.from_product([groups, names, components], names=["group", "variable", "component"]).to_frame(
        index=False
    )
    at = rng.random(len(table))
    value = np.where(at < 1 / 3, 0.0, rng.beta(1, 8, len(table)) / 2)
    low, high = np.where(at > 0.9, value / 2, 0.0), value + 0.4 * (1 - rng.random(len(table)) / 2)
    columns = {"proportion": value, "se": 0.1, "ci_low": low, "ci_high": high}
    table = table.assign(**columns, statistic=1.0, p_value=0.01, adj_p_value=np.where(low > 0, 0.01, 0.5))
    table = table.assign(status=np.where(value > 0, "ok", "boundary"), **{f"{k}_as_is": v for k, v in columns.items()})
    for column, order in (("group", groups), ("variable", names), ("component", components)):
        table[column] = pd.Categorical(table[column], categories=list(order))
    table["status"] = pd.Categorical(table["status"], categories=["ok", "boundary", "confounded"])
    small = _fitted()
    adata = ad.AnnData(np.zeros((small.n_obs, n), dtype=np.float32), obs=small.obs, var=pd.DataFrame(index=names))
    adata.uns["lmm"] = {**small.uns["lmm"], "heritability": table}
    return adata


def _points(ax: Axes, *colors: str) -> np.ndarray:
    """Places of the points in these colours; those that were named, which have an edge, are drawn besides."""
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    plain = [c for c in drawn if c.get_linewidths()[0] == 0]
    chosen = [c for c in plain if to_hex(c.get_facecolors()[0]).upper() in colors]
    return np.concatenate([np.empty((0, 2)), *(np.asarray(c.get_offsets()) for c in chosen)])


def _lines(ax: Axes, color: str) -> np.ndarray:
    """Ends of the lines in a colour, (n, 2, 2)."""
    lines = [c for c in ax.collections if isinstance(c, LineCollection) and len(c.get_segments())]
    found = [np.array(c.get_segments()) for c in lines if to_hex(c.get_colors()[0]).upper() == color]
    return np.concatenate([np.empty((0, 2, 2)), *found])


def _texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


@pytest.mark.parametrize("kind", ["ranked", "pair"])
def test_what_comes_back(fitted: ad.AnnData, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one: dict[str, Any] = {"kind": kind, "group": "B"} | ({"component": "grm"} if kind == "ranked" else {})
    _, ax = plt.subplots()
    assert dw.pl.heritability(fitted, ax=ax, **one) is ax
    assert isinstance(dw.pl.heritability(fitted, **one), Axes)
    assert isinstance(dw.pl.heritability(fitted, kind=kind, return_fig=True), Figure)
    several = 4 if kind == "ranked" else 2
    assert len(dw.pl.heritability(fitted, kind=kind)) == several
    monkeypatch.setattr(plt, "show", lambda: None)
    assert dw.pl.heritability(fitted, show=True, **one) is None
    with pytest.raises(
        DonorwiseError, match=f"ax= holds one panel and this plot has {several}; choose one group( and one component)?"
    ):
        dw.pl.heritability(fitted, kind=kind, ax=ax)


@pytest.mark.parametrize("n", [30, 3_000])
def test_ranked_features_are_those_of_the_table(n: int) -> None:
    adata = with_table(n)
    panels = dw.pl.heritability(adata)
    assert [ax.get_title() for ax in panels[:4]] == ["T, grm", "T, mrm", "T, donor_id (own)", "T, sum of the kernels"]
    for ax, (group, component) in zip(
        panels, [(g, c) for g in ("T", "B") for c in ("grm", "mrm", "donor_id", "sum")], strict=True
    ):
        table = dw.get.heritability(adata, group=group, component=component)
        points = _points(ax, GREY, BLUE)
        np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(table["proportion"]))
        assert (np.diff(points[np.argsort(points[:, 0]), 1]) >= 0).all()
        passed = table["adj_p_value"] <= 0.05
        np.testing.assert_allclose(np.sort(_points(ax, BLUE)[:, 1]), np.sort(table["proportion"][passed]))
        np.testing.assert_allclose(np.sort(_lines(ax, LIGHT_GREY)[:, 1, 1]), np.sort(table["ci_high"]))
        zero = (table["proportion"] == 0).mean()
        assert _texts(ax) == [f"{zero:.0%} at zero", f"{passed.sum():,} at FDR 5%"]
    assert panels[0].get_ylabel() == "share of the variance\nbeyond the fixed effects"


def test_a_feature_against_the_others() -> None:
    adata = with_table(200)
    table = dw.get.heritability(adata, group="T", variables="gene_0007").set_index("component")
    for ax, component in zip(dw.pl.heritability(adata, group="T", variables="gene_0007"), table.index, strict=True):
        (line,) = _lines(ax, INK)
        np.testing.assert_allclose(line[:, 1], table.loc[component, ["ci_low", "ci_high"]].astype(float))
        assert "gene_0007" in _texts(ax)
    ax = dw.pl.heritability(adata, kind="pair", group="T", variables=["gene_0007", "gene_0009"])
    assert {"gene_0007", "gene_0009"} <= set(_texts(ax))
    assert len(_lines(ax, INK)) == 4
    assert len(_lines(ax, LIGHT_GREY)) == 0
    adata.var["symbol"] = [f"S{i}" for i in range(200)]
    ax = dw.pl.heritability(adata, component="grm", group="T", variables="S7", gene_symbols="symbol")
    assert "S7" in _texts(ax)


def test_pairs_are_those_of_the_table() -> None:
    adata = with_table(400)
    ax = dw.pl.heritability(adata, kind="pair", component=["donor_id", "grm"], group="B")
    wide = dw.get.heritability(adata, group="B").pivot(index="variable", columns="component", values="proportion")
    x, y = wide["donor_id"].to_numpy(), wide["grm"].to_numpy()
    points = _points(ax, GREY, BLUE, VERMILION, "#009E73")
    assert len(points) == 400
    inside = points[(points > 0).all(axis=1)]
    both = (x > 0) & (y > 0)
    np.testing.assert_allclose(
        inside[np.lexsort(inside.T)], np.column_stack([x, y])[both][np.lexsort((x[both], y[both]))]
    )
    assert ((points[:, 0] < 0).sum(), (points[:, 1] < 0).sum()) == ((x == 0).sum(), (y == 0).sum())
    assert ax.get_xlim()[0] < points.min() and ax.get_xlim() == ax.get_ylim()
    assert _texts(ax) == [
        f"at zero: {(x == 0).mean():.0%} across, {(y == 0).mean():.0%} up, {((x == 0) & (y == 0)).mean():.0%} both"
    ]
    passed = (
        dw.get.heritability(adata, group="B").pivot(index="variable", columns="component", values="adj_p_value") <= 0.05
    )
    alone = int((passed["donor_id"] & ~passed["grm"]).sum())
    assert f"donor_id alone: {alone}" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_legend().get_title().get_text() == "FDR 5%"
    assert ax.get_xlabel().startswith("donor_id (own): share of the variance")
    assert ax.get_ylabel().startswith("grm\nshare of the variance")


def test_intervals_of_few_features_are_all_drawn() -> None:
    adata = with_table(30)
    ax = dw.pl.heritability(adata, kind="pair", group="T")
    assert len(_lines(ax, LIGHT_GREY)) == 60
    table = dw.get.heritability(adata, group="T", component=["grm", "mrm"])
    assert ax.get_xlim()[1] == pytest.approx(min(1.0, 1.05 * table["ci_high"].max()))


def test_what_cannot_be_told_apart_is_said() -> None:
    adata = with_table(40)
    table = adata.uns["lmm"]["heritability"]
    table.loc[(table["component"] == "grm") & (table["variable"].cat.codes < 10), "status"] = "confounded"
    grm, mrm = dw.pl.heritability(adata, component=["grm", "mrm"], group="T")
    assert "25% not told apart\nfrom another component" in _texts(grm)
    assert not [text for text in _texts(mrm) if "told apart" in text]


def test_groups_without_a_fit_say_so() -> None:
    adata = with_table(40)
    table = adata.uns["lmm"]["heritability"]
    numbers = ["proportion", "se", "ci_low", "ci_high", "adj_p_value"]
    table.loc[table["group"] == "B", numbers] = np.nan
    assert _texts(dw.pl.heritability(adata, component="grm")[1]) == ["nothing fitted"]
    assert _texts(dw.pl.heritability(adata, kind="pair")[1]) == ["nothing fitted"]
    table[numbers] = np.nan
    with pytest.raises(DataError, match="No model could be fitted: look at the status column of dw.get.heritability"):
        dw.pl.heritability(adata)


@pytest.mark.parametrize("kind", ["ranked", "pair"])
def test_words_are_on_nothing_else(kind: str) -> None:
    groups = ("CD8-positive, alpha-beta memory T cell of the blood", "B", "monocyte")
    adata = with_table(60, groups=groups)
    adata.var_names = [f"ENSG0000{i:04}.a-very-long-name-of-a-gene" for i in range(60)]
    table = adata.uns["lmm"]["heritability"]
    table["variable"] = table["variable"].cat.rename_categories(list(adata.var_names))
    adata.uns["lmm"]["results"] = adata.uns["lmm"]["results"].assign(variable=lambda t: _renamed(t, adata))
    for name in ("varcomp", "icc", "variance_partition"):
        adata.uns["lmm"][name] = adata.uns["lmm"][name].assign(variable=lambda t: _renamed(t, adata))
    panels = dw.pl.heritability(adata, kind=kind, variables=list(adata.var_names[:2]))
    panels[0].figure.draw_without_rendering()
    for ax in panels:
        words = [text for text in [*ax.texts, ax.title] if text.get_text()]
        boxes = [Text.get_window_extent(text) for text in words]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2)), [text.get_text() for text in words]
        assert sum("…" in text.get_text() for text in ax.texts) <= 2


def _renamed(table: pd.DataFrame, adata: ad.AnnData) -> pd.Series:
    return table["variable"].cat.rename_categories(list(adata.var_names[: table["variable"].cat.categories.size]))


def test_many_features_are_pixels() -> None:
    adata = with_table(20_000, groups=("T",))
    for ax in (dw.pl.heritability(adata, component="grm"), dw.pl.heritability(adata, kind="pair")):
        assert all(c.get_rasterized() for c in ax.collections if len(c.get_paths()) > 2_000)
        assert any(c.get_rasterized() for c in ax.collections)


def test_errors(fitted: ad.AnnData) -> None:
    with pytest.raises(DonorwiseError, match="kind='plane'"):
        dw.pl.heritability(fitted, kind="plane")
    with pytest.raises(DonorwiseError, match="no component 'mrm'"):
        dw.pl.heritability(fitted, component="mrm")
    with pytest.raises(DonorwiseError, match="no component 'mrm'"):
        dw.pl.heritability(fitted, kind="pair", component=["grm", "mrm"])
    with pytest.raises(
        DonorwiseError, match=r"two components against each other, and component= names 1: there are grm, donor_id"
    ):
        dw.pl.heritability(fitted, kind="pair", component="grm")
    with pytest.raises(DonorwiseError, match="no variable 'gene_9'"):
        dw.pl.heritability(fitted, variables="gene_9")
    with pytest.raises(DonorwiseError, match="no group 'NK'"):
        dw.pl.heritability(fitted, group="NK")
    with pytest.raises(DonorwiseError, match="alpha=2 must be a number between 0 and 1"):
        dw.pl.heritability(fitted, alpha=2)
    one = with_table(30, ("grm",))
    with pytest.raises(DonorwiseError, match="the formula has one alone, 'grm'"):
        dw.pl.heritability(one, kind="pair")
    dw.tl.lmm(fitted, "~ 1 + (1 | donor_id)", key_added="plain", progress=False)
    with pytest.raises(DataError, match="has no kernel"):
        dw.pl.heritability(fitted, key="plain")
