"""The tutorial's batch script, from a folder of cohorts to reports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._batch import ROOT, run

import donorwise as dw

SCRIPT = Path(__file__).parents[1] / "tutorials" / "atlas_batch.sh"
COLUMNS = "donor_id,cell_type,condition,sex,cohort"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.name == "nt" or shutil.which("bash") is None or not SCRIPT.exists(), reason="needs bash and the tutorials"
    ),
]


def commands(folder: Path) -> dict[str, str]:
    """An environment in which `donorwise` and `python` are those under test."""
    for name, module in (("donorwise", " -m donorwise"), ("python", "")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        path.chmod(0o755)
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": python_path}


def test_script(tmp_path: Path) -> None:
    """It gives the numbers of the cells, and what is finished it does not do again."""
    cells = dw.datasets.simulate_cohort(n_donors=12, n_cells=1_500, n_genes=110, cell_types=["T cell", "B cell"])
    cells.obs["cohort"] = pd.Categorical(np.where(cells.obs["donor_id"].cat.codes % 3 == 0, "Basel", "Lund"))
    folder, work, bin_ = tmp_path / "my cohorts", tmp_path / "my work", tmp_path / "bin"
    for made in (folder, work / "rows", bin_):
        made.mkdir(parents=True)
    for name in ("Basel", "Lund"):
        cells[cells.obs["cohort"] == name].copy().write_h5ad(folder / f"{name}.h5ad")
    rows = work / "rows" / "Basel.h5ad"
    ready = [
        "collapse",
        folder / "Basel.h5ad",
        "--by",
        COLUMNS,
        "--covariates",
        "log_depth",
        "--counts-layer",
        "counts",
    ]
    assert run(*ready, "--out", rows).exit_code == 0
    before = rows.stat().st_mtime_ns

    done = subprocess.run(
        ["bash", str(SCRIPT), str(folder), str(work)], env=commands(bin_), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert rows.stat().st_mtime_ns == before
    assert ad.read_h5ad(work / "atlas.h5ad").obs["n_cells"].sum() == 1_500
    formula = "~ condition + sex + cohort + log_depth + (1 | donor_id)"
    dw.tl.lmm(cells, formula, groupby="cell_type", contrasts="condition[T.disease]", progress=False)
    expected = dw.get.tests(cells, sort_by=None).set_index(["variable", "group"])
    found = pd.read_csv(work / "lmm.csv").set_index(["variable", "group"]).loc[expected.index]
    np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=1e-6)
    for model in ("lmm", "pseudobulk"):
        assert "Found at a false discovery rate of 5%" in (work / f"{model}.md").read_text()
        assert list((work / "plots" / model).glob("volcano_*.png"))
    assert not list(work.rglob("*.partial")) and not list(work.rglob("*.lock"))
