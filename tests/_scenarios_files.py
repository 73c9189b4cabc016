"""Scenarios that read cells from files, collapse them, or run the batch commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import yaml
from tests._batch import run
from tests._scenarios import FORMULA, QUIET, lmm, pseudobulk, scenario, simulated, troubled

import donorwise as dw

BY = ["donor_id", "condition", "sex", "cell_type"]


def written(folder: Path, adata: ad.AnnData, name: str = "cells.h5ad") -> Path:
    """The path of a file of cells."""
    path = folder / name
    del adata.uns["truth"]
    adata.write_h5ad(path) if path.suffix == ".h5ad" else adata.write_zarr(path)
    return path


# ---------------------------------------------------------------- one analysis, several sources


def _every_tool(adata: ad.AnnData) -> ad.AnnData:
    lmm(adata, "~ condition + log_depth + (1 | donor_id)", groupby="cell_type")
    pseudobulk(adata, groupby="cell_type")
    dw.tl.calibrate(adata, FORMULA, "condition[T.disease]", n_permutations=3, ddf="kenward-roger", **QUIET)
    dw.tl.influence(adata, group="T cell", variables=list(adata.var_names[:4]), **QUIET)
    dw.tl.power(adata, n_donors=(8, 16), n_cells=50, group="T cell", **QUIET)
    return adata


@scenario
def source_memory(folder: Path) -> Any:
    return _every_tool(troubled())


@scenario
def source_backed(folder: Path) -> Any:
    return _every_tool(ad.read_h5ad(written(folder, troubled()), backed="r"))


@scenario
def source_rows(folder: Path) -> Any:
    """Collapsed from memory."""
    return _every_tool(dw.pp.collapse(troubled(), BY, covariates="log_depth", counts_layer="counts", progress=False))


@scenario
def source_rows_in_file(folder: Path) -> Any:
    """Collapsed from a file in blocks of features, and left in another."""
    options: dict[str, Any] = {
        "covariates": "log_depth",
        "counts_layer": "counts",
        "chunk_size": 300,
        "progress": False,
    }
    path = written(folder, troubled(), "cells.zarr")
    return _every_tool(dw.pp.collapse(path, BY, out=folder / "rows.h5ad", max_memory=5e-4, **options))


@scenario
def collapse_and_merge(folder: Path) -> Any:
    """The slots of collapsed rows, with everything that they can have; and of two cohorts in one."""
    adata = simulated("paired", 12)
    adata.donorwise.setup(donor="donor_id", sample="sample_id")
    by, covariates = ["donor_id", "condition", "sample_id"], ["log_depth", "mito"]
    rows = dw.pp.collapse(
        adata, by, covariates=covariates, counts_layer="counts", depth="total_counts", weights="quality", progress=False
    )
    halves = [adata[::2].copy(), adata[1::2, 2:].copy()]
    parts = [dw.pp.collapse(half, by, counts_layer="counts", progress=False) for half in halves]
    merged = dw.pp.merge_collapsed(parts)
    lmm(rows, "~ condition * scale(mito) + log_depth + (1 | donor_id)", ddf="kenward-roger")
    lmm(merged, "~ condition + (1 | donor_id) + (1 | sample_id)")
    pseudobulk(merged, "~ condition + (1 | donor_id)")
    return {"rows": rows, "merged": merged}


# ---------------------------------------------------------------- commands


def command(*arguments: object) -> dict[str, Any]:
    """Exit status and what was said; the log is recorded in any case."""
    result = run(*arguments)
    return {"exit": result.exit_code, "stdout": result.stdout.splitlines(), "stderr": _lines(result.stderr)}


def _lines(text: str) -> list[str]:
    """Errors; other lines are of the log."""
    return [line for line in text.splitlines() if line.startswith("Error")]


def contents(folder: Path) -> dict[str, Any]:
    """Every file in a folder but the cells, and what is in it."""
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith("cells"))
    return {path.name: _read(path) for path in paths}


def _read(path: Path) -> Any:
    if path.suffix == ".csv":
        return pd.read_csv(path, float_precision="round_trip")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path)
    if path.suffix == ".yaml":
        return _record(yaml.safe_load(path.read_text()))
    return "there"


def _record(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without what depends on the file system and on time."""
    inputs = record["input"] if isinstance(record["input"], list) else [record["input"]]
    own = ("bytes", "modified_ns", "obs_sha256", "var_names_sha256", "kernels")
    record["input"] = [{k: "there" if k in own else v for k, v in one.items()} for one in inputs]
    record["result"] = {k: "there" if k in ("finished", "seconds") else v for k, v in record["result"].items()}
    return record | {"versions": sorted(record["versions"])}


@scenario
def command_audit(folder: Path) -> Any:
    cells = written(folder, troubled(12))
    return {
        "donors": command("audit", cells, "--formula", "~ condition + sex + (1 | donor_id)"),
        "samples": command("audit", cells, "--formula", "~ condition", "--donor", "sample_id"),
        "wrong": command("audit", cells, "--formula", "~ conditions + (1 | donor_id)"),
    }


def _lmm(cells: Path, out: Path, *more: object) -> dict[str, Any]:
    return command("lmm", cells, "--formula", "~ condition + sex + (1 | donor_id)", "--out", out, *more)


@scenario
def command_lmm(folder: Path) -> Any:
    """Every kind of file; groups that cannot be fitted, contrasts, and a report of each."""
    adata = troubled()
    adata.var["some"] = np.arange(adata.n_vars) < 8
    cells = written(folder, adata)
    said = {
        "h5ad": _lmm(cells, folder / "all.h5ad", "--groupby", "cell_type"),
        "csv": _lmm(cells, folder / "some.csv", "--mask-var", "some", "--contrast", "condition:disease:control"),
        "parquet": _lmm(cells, folder / "ml.parquet", "--mask-var", "some", "--ml", "--weights", "quality",
                        "--ddf", "satterthwaite", "--max-memory", 1e-5, "--groupby", "cell_type"),
        "counts": _lmm(cells, folder / "counts.csv", "--layer", "counts", "--mask-var", "some", "--ddf", "residual"),
    }  # fmt: skip
    said |= {f"report {n}": command("report", folder / n, "--top", 2) for n in ("all.h5ad", "some.csv", "ml.parquet")}
    return {"said": said, "files": contents(folder)}


@scenario
def command_pseudobulk(folder: Path) -> Any:
    cells = written(folder, troubled())
    more = ("--formula", "~ condition + sex", "--groupby", "cell_type")
    said = {
        "h5ad": command("pseudobulk", cells, *more, "--out", folder / "all.h5ad"),
        "csv": command(
            "pseudobulk", cells, "--formula", "~ condition", "--depth", "total_counts", "--out", folder / "r.csv"
        ),
        "report": command("report", folder / "all.h5ad", "--alpha", 0.2, "--top", 1, "--plots", folder / "plots"),
    }
    return {"said": said, "files": contents(folder), "plots": sorted(p.name for p in (folder / "plots").iterdir())}


@scenario
def command_collapse(folder: Path) -> Any:
    """Two files in blocks, merged, and analysed as rows."""
    adata = troubled(14)
    one = written(folder, adata[::2].copy(), "cells_1.h5ad")
    two = written(folder, adata[1::2, 3:].copy(), "cells_2.h5ad")
    more = ("--by", ",".join(BY), "--counts-layer", "counts", "--block-size", 150)
    said = {}
    for cells, name in ((one, "one.h5ad"), (two, "two.h5ad")):
        said[name] = command("collapse", cells, *more, "--covariates", "log_depth", "--out", folder / name)
    rows = folder / "rows.h5ad"
    said["merge"] = command("merge", folder / "one.h5ad", folder / "two.h5ad", "--block-size", 6, "--out", rows)
    more = ("--groupby", "cell_type", "--out")
    said["lmm"] = command(
        "lmm", rows, "--formula", "~ condition + log_depth + (1 | donor_id)", *more, folder / "lmm.h5ad"
    )
    said["counts"] = command("pseudobulk", rows, "--formula", "~ condition", *more, folder / "counts.csv")
    return {"said": said, "files": contents(folder)}


@scenario
def command_refusals(folder: Path) -> Any:
    """Input that cannot be used: exit status and the line that says why."""
    cells = written(folder, simulated(n_genes=6))
    out = folder / "r.csv"
    return {
        "formula": command("lmm", cells, "--formula", "~ condition +", "--out", out),
        "contrast": command("lmm", cells, "--formula", FORMULA, "--contrast", "condition:ill:control", "--out", out),
        "ending": command("lmm", cells, "--formula", FORMULA, "--out", folder / "r.txt"),
        "input": command("lmm", folder / "none.h5ad", "--formula", FORMULA, "--out", out),
        "not counts": command("pseudobulk", cells, "--formula", "~ condition", "--layer", "X", "--out", out),
        "not rows": command("merge", cells, cells, "--out", folder / "m.h5ad"),
        "not results": command("report", cells),
        "left": sorted(p.name for p in folder.iterdir()),
    }
