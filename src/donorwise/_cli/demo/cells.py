"""Log-normalised cells, a linear mixed model: the main part of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import donorwise as dw
from donorwise._batch.files import write_figure, write_table
from donorwise._cli.demo.shown import CONTRAST, FDR, cohort, true_in_cohort

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    import pandas as pd

FORMULA = "~ condition + sex + log_depth + (1 | donor_id)"
SHOWN = ["variable", "group", "estimate", "se", "df", "p_value", "adj_p_value", "log_fc", "status"]


def cells(out: Path, seed: int) -> None:
    """Test every gene in every cell type, beside the t-test of cells."""
    adata = cohort(seed)
    click.echo(f"Simulated {adata.n_obs:,} cells x {adata.n_vars:,} genes of 12 donors in 3 cell types.\n")
    click.echo(f"{adata.donorwise.audit(FORMULA)}\n")

    dw.tl.lmm(adata, FORMULA, groupby="cell_type")
    results = dw.get.tests(adata, contrast=CONTRAST)
    naive = _cell_level_tests(adata)
    click.echo(f"\ndw.tl.lmm(adata, {FORMULA!r}, groupby='cell_type'); contrast {CONTRAST}\n")
    click.echo(results[SHOWN].head(10).to_string(index=False, float_format="{:.3g}".format))
    click.echo(f"\n{_scores(adata, results, naive)}\n")

    _write(adata, results, naive, out)
    click.echo(f"Wrote results.csv, volcano.png and donors.png to {out.resolve()}")


def _cell_level_tests(adata: ad.AnnData) -> pd.DataFrame:
    """Scanpy's t-test of cells, as if cells were replicates: the usual analysis, for comparison."""
    import pandas as pd
    import scanpy as sc

    tables = []
    for cell_type in adata.obs["cell_type"].cat.categories:
        own = adata[adata.obs["cell_type"] == cell_type].copy()
        sc.tl.rank_genes_groups(own, "condition", groups=["disease"], reference="control", method="t-test")
        tables.append(sc.get.rank_genes_groups_df(own, group="disease").assign(group=cell_type))
    table = pd.concat(tables, ignore_index=True)
    return table.rename(columns={"names": "variable", "pvals": "p_value", "pvals_adj": "adj_p_value"})


def _scores(adata: ad.AnnData, results: pd.DataFrame, naive: pd.DataFrame) -> str:
    """What two analyses report, against the truth of the simulation."""
    n_true = int((adata.varm["true_log_fc"] != 0).to_numpy().sum())
    lines = [
        f"Genes reported at a false discovery rate of {FDR:.0%}, all cell types ({n_true} are true):",
        f"{'':24}{'reported':>10}{'true':>8}{'false':>8}",
    ]
    for name, table in {"donorwise (donors)": results, "t-test (cells)": naive}.items():
        hits = true_in_cohort(adata, table[table["adj_p_value"] < FDR])
        lines.append(f"  {name:<22}{len(hits):>10,}{hits.sum():>8,}{(~hits).sum():>8,}")
    return "\n".join(lines)


def _write(adata: ad.AnnData, results: pd.DataFrame, naive: pd.DataFrame, out: Path) -> None:
    write_table(dw.get.tests(adata), out / "results.csv")
    volcano: Any = dw.pl.volcano(adata, contrast=CONTRAST, show=False, return_fig=True)
    write_figure(volcano, out / "volcano.png")

    group = str(adata.obs["cell_type"].cat.categories[0])
    found = results[results["group"] == group]["variable"].iloc[0]
    # The null gene of which the t-test is surest: what looks like an effect is a few donors.
    null = naive[(naive["group"] == group) & ~true_in_cohort(adata, naive)].sort_values("p_value", kind="stable")
    genes = [found, null["variable"].iloc[0]]
    donors: Any = dw.pl.donors(adata, genes, group=group, contrast=CONTRAST, show=False, return_fig=True)
    write_figure(donors, out / "donors.png")
