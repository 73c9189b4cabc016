"""Cells that are given twice are refused, by the file, by their names and columns, and by what rows are made of."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from tests._batch import run

import donorwise as dw
from donorwise._anndata.identity import digest, hash_cells
from donorwise.errors import DataError, DonorwiseWarning

BY = ["donor_id", "condition", "cell_type"]


def _rows(adata: Any, **options: Any) -> ad.AnnData:
    return dw.pp.collapse(adata, BY, progress=False, **options)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=4, n_cells=200, n_genes=12, seed=1)


@pytest.fixture(scope="module")
def files(cells: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells, and their rows made in blocks and at once."""
    folder = tmp_path_factory.mktemp("files")
    cells.write_h5ad(folder / "cells.h5ad")
    for name, size in (("rows", 60), ("other", 1000)):
        out = folder / f"{name}.h5ad"
        assert (
            run("collapse", folder / "cells.h5ad", "--by", ",".join(BY), "--block-size", size, "--out", out).exit_code
            == 0
        )
    return folder


def _sorted_anew(source: Path, target: Path) -> None:
    adata = ad.read_h5ad(source)
    adata[::-1].copy().write_h5ad(target)


COPIES: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda source, target: target.symlink_to(source),
    "hard link": lambda source, target: os.link(source, target),
    "copy": shutil.copy,
    "in another order": _sorted_anew,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["cells", "rows"])
def test_a_file_under_another_name(files: Path, tmp_path: Path, name: str, how: str) -> None:
    again = tmp_path / "again.h5ad"
    COPIES[how](files / f"{name}.h5ad", again)
    command = ["collapse", "--by", ",".join(BY)] if name == "cells" else ["merge"]
    result = run(*command, files / f"{name}.h5ad", again, "--out", tmp_path / "out.h5ad")
    assert result.exit_code == 2
    assert f"{name}.h5ad and {again}" in result.stderr
    assert "count twice" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["again.h5ad"]


def test_a_path_twice(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    for name in ("rows.h5ad", "./rows.h5ad"):
        assert "count twice" in run("merge", "rows.h5ad", name, "--out", tmp_path / "out.h5ad").stderr
    with pytest.raises(DataError, match=r"cells\.h5ad is given twice"):
        _rows(["cells.h5ad", "cells.h5ad"])


def test_one_source_collapsed_in_two_ways(files: Path, tmp_path: Path, cells: ad.AnnData) -> None:
    """In blocks and at once, here and by the command, with other features."""
    parts = [ad.read_h5ad(files / name) for name in ("rows.h5ad", "other.h5ad")]
    for one in parts:
        for other in (*parts, _rows(cells), _rows(cells[:, 3:].copy()), _rows(cells[::-1].copy())):
            with pytest.raises(DataError, match="cohort 1 and cohort 2 are made of the same cells"):
                dw.pp.merge_collapsed([one, other])


def test_a_part_of_what_was_merged(cells: ad.AnnData) -> None:
    first, second = _rows(cells[::2]), _rows(cells[1::2])
    both = dw.pp.merge_collapsed([first, second])
    with pytest.raises(DataError, match="cohort 1 and cohort 3 are made of the same cells"):
        dw.pp.merge_collapsed([both, _renamed(cells), second])


def _renamed(cells: ad.AnnData) -> ad.AnnData:
    """Another cohort, whose cells have the same names."""
    other = cells.copy()
    other.obs["donor_id"] = other.obs["donor_id"].cat.rename_categories(lambda name: f"other_{name}")
    return _rows(other)


def test_rows_of_older_versions(cells: ad.AnnData) -> None:
    """They do not say what they are made of; their numbers do."""
    old = _rows(cells)
    del old.uns["donorwise_collapsed"]["cells"]
    with pytest.warns(
        DonorwiseWarning, match="cohort 1 and cohort 2 have rows with the same numbers of cells and the same"
    ):
        dw.pp.merge_collapsed([old, _rows(cells)])
    halves = [_rows(cells[i::2]) for i in range(2)]
    for half in halves:
        del half.uns["donorwise_collapsed"]["cells"]
    assert dw.pp.merge_collapsed(halves).obs["n_cells"].sum() == cells.n_obs


def test_what_is_not_twice(cells: ad.AnnData) -> None:
    """Rows of one source that are parted, cohorts whose cells are called the same, halves of a cohort."""
    rows = _rows(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DonorwiseWarning)
        for parts in ([rows[:5], rows[5:]], [rows, _renamed(cells)], [_rows(cells[::2]), _rows(cells[1::2])]):
            assert dw.pp.merge_collapsed(parts).obs["n_cells"].sum() == sum(own.obs["n_cells"].sum() for own in parts)
        other = cells.copy()
        other.obs["cell_type"] = other.obs["cell_type"].cat.rename_categories(lambda name: f"{name} 2")
        assert _rows([cells, other]).obs["n_cells"].sum() == 2 * cells.n_obs


def test_some_cells_in_common(cells: ad.AnnData) -> None:
    with pytest.warns(DonorwiseWarning, match="50 of 100 cells of source 2 have the name of a cell of source 1"):
        _rows([cells[:150].copy(), cells[100:].copy()])
    with pytest.raises(DataError, match="source 1 and source 2 hold the same cells: 40 of 40 cells of source 2"):
        _rows([cells, cells[20:60].copy()])


def test_digest_does_not_hang_on_storage(cells: ad.AnnData) -> None:
    """Order of cells and columns, text or categories, whole numbers or floats."""
    other = cells[::-1].copy()
    other.obs["condition"] = other.obs["condition"].astype(str).astype(object)
    other.obs["n"], cells = np.arange(other.n_obs, dtype=np.float32)[::-1], cells.copy()
    cells.obs["n"] = np.arange(cells.n_obs)
    assert digest(hash_cells(cells, ["condition", "n"])) == digest(hash_cells(other, ["n", "condition"]))
    other.obs.loc[other.obs_names[0], "n"] += 1
    assert digest(hash_cells(cells, ["condition", "n"])) != digest(hash_cells(other, ["n", "condition"]))
