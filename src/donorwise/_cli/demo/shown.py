"""What the parts of the demo have in common: the cohort, and how a family's results are told."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import click

import donorwise as dw
from donorwise._batch.files import write_figure, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata as ad
    import pandas as pd

    from donorwise._typing import BoolArray

CONTRAST = "condition[T.disease]"
FDR = 0.05


@cache
def cohort(seed: int) -> ad.AnnData:
    """Cells of 12 donors, 6 of them with the disease; made once, whichever parts use them."""
    return dw.datasets.simulate_cohort("case-control", seed=seed)


def true_in_cohort(adata: ad.AnnData, table: pd.DataFrame) -> BoolArray:
    """Whether the gene of each row truly differs in the cell type of the row."""
    truth = adata.varm["true_log_fc"].stack() != 0
    keys = zip(table["variable"], table["group"], strict=True)
    return table["variable"].notna().to_numpy() & truth.loc[list(keys)].to_numpy()


def say(title: str, call: str, table: pd.DataFrame, columns: Sequence[str], verdict: str) -> None:
    """Tell what was done and found: a title, the call, the first rows and how they compare with the truth."""
    rows = table[list(columns)].head(5).to_string(index=False, float_format="{:.3g}".format)
    click.echo(f"\n{title}\n{call}\n\n{rows}\n\n{verdict}")


def found(hits: BoolArray, n_true: int, what: str) -> str:
    """How many discoveries are true, and of how many."""
    n, right = len(hits), int(hits.sum())
    return (
        f"Reported at a false discovery rate of {FDR:.0%}: {n:,} {what}, of which {right:,} are true ({n_true:,} are)."
    )


def write(out: Path, name: str, table: pd.DataFrame, figures: Mapping[str, Any]) -> None:
    """Write a family's table and figures, and say so."""
    write_table(table, out / f"{name}.csv")
    for figure, drawn in figures.items():
        write_figure(drawn, out / f"{figure}.png")
    click.echo(f"Wrote {name}.csv and {', '.join(f'{figure}.png' for figure in figures)}")
