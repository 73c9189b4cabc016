"""Scenarios of models whose donors are related: tools, and commands with kernels from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from tests._scenarios import QUIET, lmm, scenario, simulated
from tests._scenarios_files import command, contents, written

import donorwise as dw

ONE = "~ condition + (1 | gr(donor_id, cov=grm))"
OWN, TWO = f"{ONE} + (1 | donor_id)", f"{ONE} + (1 | gr(donor_id, cov=mrm)) + (1 | donor_id)"


def kernels(adata: ad.AnnData) -> dict[str, pd.DataFrame]:
    """Families of two in one of which is a donor with more variance, and correlations of what was drawn at random."""
    donors = list(adata.obs["donor_id"].cat.categories)
    family = np.arange(len(donors)) // 2
    grm = np.where(family[:, None] == family, 0.5, 0.0) + 0.5 * np.eye(len(donors))
    grm[0, 0] = 1.25
    mrm = np.round(np.corrcoef(np.random.default_rng(7).normal(size=(len(donors), 40))), 6)
    return {"grm": pd.DataFrame(grm, donors, donors), "mrm": pd.DataFrame(mrm, donors, donors)}


def _without_shares(adata: ad.AnnData) -> ad.AnnData:
    """Shares of variance have tests and recordings of their own."""
    for entry in adata.uns.values():
        if isinstance(entry, dict):
            entry.pop("heritability", None)
    return adata


@scenario
def kernel_one(folder: Path) -> Any:
    """One kernel in groups, and what is asked after the fit."""
    adata = simulated()
    grm = kernels(adata)["grm"]
    lmm(adata, ONE, kernels={"grm": grm}, groupby="cell_type", ddf="kenward-roger")
    two = list(adata.var_names[:2])
    dw.tl.influence(adata, variables=two, group="T cell", **QUIET)
    dw.tl.power(adata, n_donors=(8, 16), n_cells=50, group="T cell", **QUIET)
    dw.tl.calibrate(
        adata, ONE, "condition[T.disease]", kernels={"grm": grm}, n_permutations=3, ddf="kenward-roger", **QUIET
    )
    ranef = dw.get.ranef(adata, two, group="T cell")
    return {"adata": _without_shares(adata), "ranef": ranef}


@scenario
def kernel_and_donor(folder: Path) -> Any:
    """A kernel beside the donor's own effect, moderated."""
    adata = simulated()
    lmm(adata, OWN, kernels={"grm": kernels(adata)["grm"]})
    return {"adata": _without_shares(adata), "ranef": dw.get.ranef(adata, list(adata.var_names[:2]))}


@scenario
def kernels_two(folder: Path) -> Any:
    """Two kernels and the donor's own effect."""
    adata = simulated()
    lmm(adata, TWO, kernels=kernels(adata), ddf="kenward-roger")
    return _without_shares(adata)


@scenario
def command_kernel(folder: Path) -> Any:
    adata = simulated(n_genes=12)
    for name, K in kernels(adata).items():
        K.to_csv(folder / f"{name}.csv")
    cells = written(folder, adata)
    grm = ("--kernel", f"grm={folder / 'grm.csv'}")
    said = {
        "audit": command("audit", cells, "--formula", OWN, *grm),
        "lmm": command("lmm", cells, "--formula", ONE, *grm, "--out", folder / "one.csv"),
        "short": command("lmm", cells, "--formula", "~ condition + (1 | donor_id)", "--relmat", f"donor_id={folder / 'grm.csv'}",
                         "--out", folder / "short.csv"),
        "missing": command("lmm", cells, "--formula", TWO, *grm, "--out", folder / "two.csv"),
    }  # fmt: skip
    return {
        "said": said,
        "files": {name: own for name, own in contents(folder).items() if name.endswith((".csv", ".yaml"))},
    }
