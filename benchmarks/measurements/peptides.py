"""Peptides: a mixed model of every protein on one core, against lme4 and pbkrtest (no weights) on some of the same proteins."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from competitors import missing, r_lme4_peptides
from report import Aim, Section
from timing import one_core

import donorwise as dw

if TYPE_CHECKING:
    import anndata as ad

DDF = ("kenward-roger", "moderated")
N_PROTEINS, N_PEPTIDES, FEW = 5_000, 8.0, 20
SECONDS, FASTER = 5.0, 500.0


def run(quick: bool) -> Section:
    n_proteins = 500 if quick else N_PROTEINS
    adata = dw.datasets.simulate_peptides(n_donors=10, n_proteins=n_proteins, n_peptides=N_PEPTIDES, seed=5)
    seconds = one_core({ddf: partial(fit, adata, ddf) for ddf in DDF}, repeats=2 if quick else 3)
    rows: list[dict[str, Any]] = [_row(f"donorwise, {ddf}", median(own), n_proteins) for ddf, own in seconds.items()]
    aims = [Aim(f"{ddf}, one core", median(own), SECONDS, " s") for ddf, own in seconds.items()]
    if not missing(r_lme4_peptides):
        names = some(adata)
        each, p = r_lme4_peptides.run(measurements(adata, names))
        own = pd.Series(fit(adata, "kenward-roger", weights=None)).reindex(names).to_numpy()
        rows.append(_row(r_lme4_peptides.NAME, each * FEW, FEW) | {"p differs by": float(np.abs(own - p).max())})
        for row in rows[: len(DDF)]:
            row["times faster"] = each / (row["CPU s"] / n_proteins)
        aims += [Aim(f"{row['']}, share of R's time", 1 / row["times faster"], 1 / FASTER) for row in rows[: len(DDF)]]
    title = f"peptides, one core: {n_proteins:,} proteins, 20 runs of 20 donors, {N_PEPTIDES:g} peptides a protein, 30% missing"
    return Section("w", title, rows, aims)


def fit(adata: ad.AnnData, ddf: str, weights: str | None = "weights") -> dict[str, float]:
    """p-values of the condition."""
    truth = adata.uns["truth"]
    dw.tl.lmm(adata, truth["formula"], features="protein", weights_layer=weights, ddf=ddf, n_jobs=1, progress=False)
    found = adata.uns["lmm"]["results"]
    found = found[found["contrast"] == truth["contrast"]]
    return dict(zip(found["variable"], found["p_value"], strict=True))


def some(adata: ad.AnnData) -> list[str]:
    """Proteins of more than one peptide, evenly through their numbers of peptides."""
    measured = adata.var.loc[np.isfinite(adata.X).sum(axis=0) >= 2, "protein"].value_counts().sort_values(kind="stable")
    many = measured.index[measured > 1]
    return sorted(many[np.linspace(0, len(many) - 1, FEW).astype(int)])


def measurements(adata: ad.AnnData, names: list[str]) -> pd.DataFrame:
    """A row for each measurement of some proteins."""
    own = adata[:, adata.var["protein"].isin(names).to_numpy()].copy()
    run, peptide = np.nonzero(np.isfinite(own.X))
    return (
        own.obs[["donor_id", "condition"]]
        .iloc[run]
        .assign(
            level=own.X[run, peptide],
            peptide=own.var_names[peptide],
            protein=own.var["protein"].to_numpy()[peptide],
        )
    )


def _row(name: str, seconds: float, n: int) -> dict[str, Any]:
    return {"": name, "proteins": n, "CPU s": seconds, "ms each": 1e3 * seconds / n}
