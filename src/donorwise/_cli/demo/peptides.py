"""Proteins from the peptides of a mass spectrometer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import donorwise as dw
from donorwise._cli.demo.shown import FDR, found, say, write

if TYPE_CHECKING:
    from pathlib import Path

FORMULA = "~ condition + (1 | peptide) + (1 | donor_id)"
SHOWN = ["variable", "log_fc", "se", "df", "p_value", "adj_p_value", "status", "n_peptides", "n_missing"]


def peptides(out: Path, seed: int) -> None:
    """Every protein a mixed model of its own, on all its peptides."""
    runs = dw.datasets.simulate_peptides(n_donors=5, n_proteins=300, de_fraction=0.2, donor_sd=0.25, seed=seed)
    dw.tl.lmm(runs, FORMULA, features="protein", weights_layer="weights", progress=False)
    table = dw.get.tests(runs)
    truth = runs.var.groupby("protein", observed=True)["true_log_fc"].first() != 0
    hits = truth[table.loc[table["adj_p_value"] < FDR, "variable"].astype(str)].to_numpy()
    title = f"Proteins from peptides: {runs.n_obs} runs, {runs.n_vars:,} peptides, a third of their values missing"
    call = f"dw.tl.lmm(runs, {FORMULA!r}, features='protein', weights_layer='weights')"
    say(title, call, table, SHOWN, found(hits, int(truth.sum()), "proteins"))
    protein, contrast = str(table["variable"].iloc[0]), str(table["contrast"].iloc[0])
    figure: Any = dw.pl.donors(runs, protein, contrast=contrast, show=False, return_fig=True)
    write(out, "proteins", table, {"peptides": figure})
