"""Archive what the installed versions write: ``python tests/archive/make.py`` in the root of the source.

Makes ``tests/archive/<version>/anndata_<version>.tar.xz`` of all files, and ``expected.json`` beside it, which has what the
package reads out of them and makes of them, if it is not there yet.
"""

from __future__ import annotations

import tarfile
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
from tests._archive import ROOT, made_of_all
from tests._batch import run
from tests._recorded import dump

import donorwise as dw

warnings.simplefilter("ignore")
QUIET = {"progress": False, "n_jobs": 1}
FORMULA = "~ condition + sex + (1 | donor_id)"
BY = ["donor_id", "condition", "sex", "cell_type"]


def cohort() -> ad.AnnData:
    """Cells with a covariate, weights and declared roles."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=160, n_genes=104, cell_types=("T cell", "B cell"), seed=7)
    adata.donorwise.setup(donor="donor_id", cell_type="cell_type")
    adata.obs["quality"] = np.round(np.random.default_rng(7).uniform(0.5, 2, adata.n_obs), 3)
    del adata.uns["truth"], adata.varm["true_log_fc"], adata.var
    adata.obsm["scores"] = np.round(np.random.default_rng(8).normal(size=(adata.n_obs, 2)), 4)
    return adata


def with_results(adata: ad.AnnData) -> ad.AnnData:
    """Every entry that the package writes into uns."""
    dw.tl.lmm(adata, FORMULA, groupby="cell_type", **QUIET)
    dw.tl.influence(adata, variables=list(adata.var_names[:3]), **QUIET)
    asked = ["sex[T.male]", ("condition", "disease", "control")]
    few = adata.var_names.isin(adata.var_names[:5])
    dw.tl.lmm(
        adata, FORMULA, contrasts=asked, ddf="kenward-roger", weights="quality", mask_var=few, key_added="kr", **QUIET
    )
    dw.tl.power(adata, key="kr", n_donors=(6, 12), n_cells=50, **QUIET)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", obsm="scores", key_added="scores", **QUIET)
    dw.tl.pseudobulk(adata, "~ condition", groupby="cell_type", mask_var=few, **QUIET)
    calibrated = {"n_permutations": 3, "ddf": "satterthwaite", "mask_var": few}
    dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", **calibrated, **QUIET)
    return adata


def write(adata: ad.AnnData, folder: Path, name: str) -> None:
    """As h5ad and as zarr."""
    adata.write_h5ad(folder / f"{name}.h5ad", compression="gzip")
    adata.write_zarr(folder / f"{name}.zarr")


def collapsed(cells: ad.AnnData, folder: Path) -> None:
    """In memory with all slots and a result, and as ``out=`` writes blocks of features."""
    options = {"covariates": ["log_depth"], "counts_layer": "counts", "depth": "total_counts", "progress": False}
    few = cells[:, :6].copy()
    rows = dw.pp.collapse(few, BY, weights="quality", **options)
    dw.tl.lmm(rows, FORMULA, ddf="kenward-roger", **QUIET)
    write(rows, folder, "rows")
    for suffix in (".h5ad", ".zarr"):
        dw.pp.collapse(few, BY, out=folder / f"rows_in_blocks{suffix}", max_memory=1.6e-5, **options)


def batch(cells: ad.AnnData, folder: Path) -> None:
    """What the commands leave, their records included."""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "cells.h5ad"
        cells.write_h5ad(source)
        model = ("--formula", FORMULA, "--groupby", "cell_type", "--out")
        for name in ("lmm.h5ad", "lmm.csv", "lmm.parquet"):
            assert run("lmm", source, *model, folder / name).exit_code == 0
        counts = ("--formula", "~ condition", "--groupby", "cell_type", "--out")
        assert run("pseudobulk", source, *counts, folder / "pseudobulk.h5ad").exit_code == 0
        cells[:, :6].copy().write_h5ad(source)
        by = ("--by", ",".join(BY), "--covariates", "log_depth", "--counts-layer", "counts")
        assert run("collapse", source, *by, "--block-size", 150, "--out", folder / "collapse.h5ad").exit_code == 0
    for record in folder.glob("*.run.yaml"):
        record.write_text(record.read_text().replace(work, "/data").replace(str(folder.resolve()), "/results"))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of the owner."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    """Write everything."""
    home = ROOT / ".".join(dw.__version__.split(".")[:2])
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / f"anndata_{'.'.join(ad.__version__.split('.')[:2])}"
        folder.mkdir()
        cells = cohort()
        batch(cells, folder)
        collapsed(cells, folder)
        write(with_results(cells), folder, "cells")
        with tarfile.open(home / f"{folder.name}.tar.xz", "w:xz", preset=9) as packed:
            for path in sorted(folder.iterdir()):
                packed.add(path, path.name, filter=_anonymous)
        if not (home / "expected.json").exists():
            (home / "expected.json").write_text(dump(made_of_all(folder)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
