"""Groups of one column or several: as if one column held their joined names; called by name, number or tuple."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._batch import run

import donorwise as dw
from donorwise._core.engine.groups import group_columns, group_labels, group_names
from donorwise.errors import DataError, DesignError

MIXED = "~ condition + (1 | donor_id)"
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture
def cells(cohort: ad.AnnData) -> ad.AnnData:
    rng = np.random.default_rng(0)
    cohort.obs["tissue"] = pd.Categorical(rng.choice(["lung", "blood"], cohort.n_obs), categories=["lung", "blood"])
    cohort.obs["cluster"] = rng.integers(0, 3, cohort.n_obs)
    names = [f"{t} | {c}" for t in ("lung", "blood") for c in cohort.obs["cell_type"].cat.categories]
    joined = cohort.obs["tissue"].astype(str) + " | " + cohort.obs["cell_type"].astype(str)
    cohort.obs["joined"] = pd.Categorical(joined, categories=names)
    return cohort


FITS: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any]]] = {
    "lmm": ("lmm", MIXED, (), {"ddf": "kenward-roger"}),
    "pseudobulk": ("pseudobulk", "~ condition", (), {}),
    "calibrate": ("calibrate", MIXED, ("condition[T.disease]",), {"n_permutations": 3, "ddf": "kenward-roger"}),
}


@pytest.mark.parametrize("tool", FITS)
def test_several_columns_are_one_of_joined_names(cells: ad.AnnData, tool: str) -> None:
    name, formula, more, options = FITS[tool]
    for key, groupby in (("two", ["tissue", "cell_type"]), ("one", "joined")):
        getattr(dw.tl, name)(cells, formula, *more, groupby=groupby, key_added=key, progress=False, **options)
    for table, expected in cells.uns["one"].items():
        if isinstance(expected, pd.DataFrame):
            pd.testing.assert_frame_equal(cells.uns["two"][table], expected, check_exact=True)
    assert list(cells.uns["two"]["params"]["groupby"]) == ["tissue", "cell_type"]


def test_accessor_and_collapsed_rows_take_several_columns(cells: ad.AnnData) -> None:
    cells.donorwise.lmm(MIXED, groupby=["tissue", "cell_type"], progress=False)
    rows = dw.pp.collapse(cells, ["donor_id", "condition", "tissue", "cell_type"], progress=False)
    dw.tl.lmm(rows, MIXED, groupby=["tissue", "cell_type"], progress=False)
    one, other = (dw.get.tests(a, sort_by=None) for a in (cells, rows))
    pd.testing.assert_frame_equal(one, other, rtol=1e-8)
    pd.testing.assert_frame_equal(
        dw.get.ranef(cells, "gene_0001", group=("lung", "T cell")),
        dw.get.ranef(rows, "gene_0001", group="lung | T cell"),
        rtol=1e-6,
    )
    with pytest.raises(DesignError, match="`cluster` was collapsed away"):
        dw.tl.lmm(rows, MIXED, groupby=["cell_type", "cluster"], progress=False)


def test_what_reads_a_result_knows_its_groups(cells: ad.AnnData) -> None:
    dw.tl.lmm(cells, MIXED, groupby=["tissue", "cell_type"], ddf="kenward-roger", progress=False)
    group = ("lung", "T cell")
    dw.tl.influence(cells, variables="gene_0001", group=group, progress=False)
    dw.tl.power(cells, group=group, progress=False)
    assert set(dw.get.influence(cells, group=group)["group"]) == set(dw.get.power(cells, group=group)["group"])
    assert dw.get.matrix(cells, contrast="condition[T.disease]", group=[group, ("blood", "B cell")]).index.tolist() == [
        "lung | T cell",
        "blood | B cell",
    ]
    dw.get.to_rank_genes_groups(cells, group=group)
    assert list(cells.uns["rank_genes_groups"]["params"]["groupby"]) == ["tissue", "cell_type"]
    for plot in (dw.pl.volcano, dw.pl.ma, dw.pl.icc, dw.pl.heatmap, dw.pl.forest, dw.pl.qq):
        plot(cells, group=group)
    means = cells[(cells.obs["joined"] == "lung | T cell").to_numpy()].X[:, 0].mean()
    ax = dw.pl.donors(cells, "gene_0001", group=group)
    assert "lung | T cell" in ax.child_axes[0].texts[-1].get_text()
    points = dw.pl.ma(cells, group=group).collections[0].get_offsets()
    assert np.isclose(points[:, 0], means).any()


def test_groups_of_numbers(cells: ad.AnnData) -> None:
    dw.tl.lmm(cells, MIXED, groupby="cluster", progress=False)
    assert dw.get.tests(cells, group=1)["group"].unique().tolist() == ["1"]
    assert dw.get.tests(cells, group=[0, np.int64(2)])["group"].nunique() == 2
    assert dw.get.tests(cells, group=(0, 2))["group"].nunique() == 2
    dw.pl.volcano(cells, group=1)
    dw.pl.donors(cells, "gene_0001", group=1)
    with pytest.raises(DataError, match="There is no group '7'"):
        dw.get.tests(cells, group=7)


@pytest.mark.parametrize(
    ("groupby", "words"),
    [
        (["cell_type", "tisue"], r"groupby='tisue' is not a column of obs; did you mean `tissue`\?"),
        (3, "groupby= names columns of obs"),
        (["cell_type", 3], "groupby= names columns of obs.* not 3"),
        (["cell_type", "cell_type"], "names a column twice"),
        (["empty", "cell_type"], r"Every value of groupby=\['empty', 'cell_type'\] is missing"),
        (["left", "right"], "have the same name as text"),
    ],
)
def test_what_makes_no_groups(cells: ad.AnnData, groupby: Any, words: str) -> None:
    cells.obs["empty"] = np.nan
    half = np.arange(cells.n_obs) % 2 == 0
    cells.obs["left"], cells.obs["right"] = np.where(half, "a | b", "a"), np.where(half, "c", "b | c")
    with pytest.raises(DesignError, match=words):
        dw.tl.lmm(cells, MIXED, groupby=groupby, progress=False)
    assert "lmm" not in cells.uns


def test_labels_keep_the_order_of_levels_and_leave_out_what_misses_one() -> None:
    obs = pd.DataFrame(
        {
            "a": pd.Categorical(["y", "x", None, "y"], categories=["y", "x", "unused"]),
            "b": [2, 1, 1, 1],
        }
    )
    labels = group_labels(obs, ["a", "b"])
    assert labels.tolist()[:2] == ["y | 2", "x | 1"]
    assert pd.isna(labels[2])
    assert list(labels.categories) == ["y | 1", "y | 2", "x | 1"]
    assert group_columns(None) == group_columns("") == group_columns([]) == ()
    assert group_names("a", []) == ["a"]


def test_commands_take_several_columns(cells: ad.AnnData, tmp_path: Path) -> None:
    cells.obs["a,b"] = cells.obs["tissue"]
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    dw.tl.lmm(cells, MIXED, groupby=["tissue", "cell_type"], progress=False)
    expected = dw.get.tests(cells, sort_by=None)
    (tmp_path / "options.yaml").write_text("groupby: [tissue, cell_type]\n")
    for number, given in enumerate(
        (
            ["--groupby", "tissue", "--groupby", "cell_type"],
            ["--groupby", "tissue, cell_type"],
            ["--groupby", "a,b", "--groupby", "cell_type"],
            ["--config", tmp_path / "options.yaml"],
        )
    ):
        out = tmp_path / f"{number}.h5ad"
        assert run("lmm", path, "--formula", MIXED, "--out", out, *given).exit_code == 0
        found = ad.read_h5ad(out)
        pd.testing.assert_frame_equal(dw.get.tests(found, sort_by=None), expected, check_exact=True)
        if number != 2:
            assert found.uns["lmm"]["params"]["groupby"].tolist() == ["tissue", "cell_type"]
    report = run("report", out).output
    assert "- groupby: `tissue | cell_type`" in report
    assert "condition[T.disease], lung | T cell" in report
