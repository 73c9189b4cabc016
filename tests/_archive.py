"""Reading archived files with the package as it is now, and what it makes of them."""

from __future__ import annotations

import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
from tests._batch import run
from tests._recorded import describe

import donorwise as dw

ROOT = Path(__file__).parent / "archive"
ARCHIVES = sorted(ROOT.glob("*/*.tar.xz"))

read_tests = dw.get.tests
"""The reader of tests."""

QUIET: dict[str, Any] = {"progress": False, "n_jobs": 1}
CALIBRATION = ("groups", "levels", "permutations", "curves", "histogram", "variables")
FORMULA = "~ condition + sex + (1 | donor_id)"


def files(archive: Path) -> list[str]:
    """Names of the files and stores in an archive that the package reads."""
    with tarfile.open(archive) as packed:
        names = {name.split("/")[0] for name in packed.getnames()}
    return sorted(name for name in names if not name.endswith(".yaml"))


def read(path: Path) -> ad.AnnData:
    """An archived h5ad or zarr in memory."""
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def made_of_all(folder: Path) -> dict[str, Any]:
    """What is made of every file of an archive."""
    return {path.name: made_of(path) for path in sorted(folder.iterdir()) if path.suffix != ".yaml"}


def made_of(path: Path) -> Any:
    """Everything that the package reads out of a file, and what its tools give on it, described."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return describe(READERS[path.stem](path))


def _cells(path: Path) -> dict[str, Any]:
    """All results beside their cells, read, drawn and fitted again."""
    adata = read(path)
    found = {key: _result(adata, key) for key in ("lmm", "kr", "scores", "pseudobulk")}
    found["influence"] = [dw.get.influence(adata, by="hit"), dw.get.influence(adata, by="donor")]
    found["power"] = dw.get.power(adata, key="kr")
    found["calibration"] = {table: dw.get.calibration(adata, table=table) for table in CALIBRATION}
    found["ranef"] = dw.get.ranef(adata, "gene_0002", key="kr")
    found["matrix"] = dw.get.matrix(adata, key="kr", group="all")
    found["donor"] = str(adata.donorwise).splitlines()
    names = list(adata.var_names[:2])
    dw.tl.influence(
        adata, key="kr", variables=names, contrasts=["sex[T.male]", ("condition", "disease", "control")], **QUIET
    )
    dw.tl.power(adata, n_donors=12, n_cells=20, contrast="condition[T.disease]", group="T cell", **QUIET)
    found["again"] = [dw.get.influence(adata, key="kr"), dw.get.power(adata)]
    _draw(adata)
    return found


def _draw(adata: ad.AnnData) -> None:
    """Plots that need nothing but a result."""
    contrast = "condition[T.disease]"
    dw.pl.volcano(adata, contrast=contrast, show=False)
    dw.pl.volcano(adata, key="pseudobulk", contrast=contrast, show=False)
    dw.pl.pvalues(adata, contrast=contrast, show=False)
    dw.pl.qq(adata, contrast=contrast, show=False)
    dw.pl.power(adata, key="kr", contrast="sex[T.male]", show=False)
    plt.close("all")


def _result(adata: ad.AnnData, key: str) -> list[Any]:
    readers = (read_tests, dw.get.varcomp, dw.get.icc, dw.get.variance_partition)
    return [reader(adata, key=key) for reader in readers]


def _rows(path: Path) -> dict[str, Any]:
    """Collapsed rows with a result, under every tool."""
    adata = read(path)
    found: dict[str, Any] = {"stored": _result(adata, "lmm"), "ranef": dw.get.ranef(adata, "gene_0002")}
    return found | _every_tool(adata)


def _every_tool(adata: ad.AnnData) -> dict[str, Any]:
    formula = "~ condition + log_depth + (1 | donor_id)"
    dw.tl.lmm(adata, formula, groupby="cell_type", **QUIET)
    dw.tl.pseudobulk(adata, "~ condition", groupby="cell_type", normalize="depth", **QUIET)
    dw.tl.calibrate(adata, formula, "condition[T.disease]", n_permutations=3, **QUIET)
    dw.tl.influence(adata, variables=["gene_0001"], **QUIET)
    dw.tl.power(adata, n_donors=8, n_cells=20, group="T cell", **QUIET)
    found: dict[str, Any] = {key: _result(adata, key) for key in ("lmm", "pseudobulk")}
    found["calibration"] = dw.get.calibration(adata, table="permutations")
    found["influence"] = dw.get.influence(adata)
    found["power"] = dw.get.power(adata)
    return found


def _rows_in_blocks(path: Path) -> dict[str, Any]:
    """Rows in memory; and by the commands, which leave the matrices in the file."""
    found = _every_tool(read(path))
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "r.h5ad"
        result = run("lmm", path, "--formula", FORMULA, "--ddf", "kenward-roger", "--out", out)
        found["command"] = [result.exit_code, read_tests(read(out))]
    merged = dw.pp.merge_collapsed([read(path), read(path)])
    dw.tl.lmm(merged, FORMULA, ddf="kenward-roger", **QUIET)
    return found | {"merged": read_tests(merged)}


def _report(path: Path) -> dict[str, Any]:
    """A file of results under ``donorwise report``, its record as the options of a run."""
    result = run("report", path, "--top", 3)
    lines = [line for line in result.stdout.splitlines() if not line.startswith("- version")]
    found: dict[str, Any] = {"exit": result.exit_code, "report": lines}
    record, cells = path.with_name(f"{path.name}.run.yaml"), path.with_name("cells.h5ad")
    found["again"] = run(
        path.stem, cells, "--config", record, "--out", path.with_name("again.csv"), "--dry-run"
    ).exit_code
    if path.suffix == ".h5ad":
        found["tables"] = _result(read(path), "lmm")
    return found


READERS: dict[str, Callable[[Path], Any]] = {
    "cells": _cells,
    "rows": _rows,
    "rows_in_blocks": _rows_in_blocks,
    "collapse": _rows_in_blocks,
    "lmm": _report,
    "pseudobulk": _report,
}
