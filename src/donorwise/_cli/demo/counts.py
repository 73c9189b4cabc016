"""Raw counts of the demo's cohort: summed by donor, in a mixed model of counts, and as seen or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import donorwise as dw
from donorwise._cli.demo.shown import CONTRAST, FDR, cohort, found, say, true_in_cohort, write

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

SHOWN = ["variable", "group", "estimate", "se", "p_value", "adj_p_value", "log_fc", "status"]
FORMULA = "~ condition + (1 | donor_id)"


def pseudobulk(out: Path, seed: int) -> None:
    """Log rates of donors, with what is known of their sampling variance."""
    adata, fixed = cohort(seed), "~ condition + sex"
    dw.tl.pseudobulk(adata, fixed, donor="donor_id", groupby="cell_type", progress=False)
    call = f"dw.tl.pseudobulk(adata, {fixed!r}, donor='donor_id', groupby='cell_type')"
    figure: Any = dw.pl.heatmap(adata, contrast=CONTRAST, key="pseudobulk", show=False, return_fig=True)
    _tell(adata, out, "pseudobulk", "Pseudobulk: raw counts, summed by donor", call, figure)


def counts(out: Path, seed: int) -> None:
    """A negative binomial mixed model of the cells' counts."""
    adata = cohort(seed)
    dw.tl.glmm(adata, FORMULA, layer="counts", groupby="cell_type", key_added="counts", progress=False)
    call = f"dw.tl.glmm(adata, {FORMULA!r}, layer='counts', groupby='cell_type')"
    _tell(adata, out, "counts", "Counts: a negative binomial mixed model of the cells", call, _donors(adata, "counts"))


def detection(out: Path, seed: int) -> None:
    """A binomial mixed model of which cells have the gene at all."""
    adata = cohort(seed)
    seen: dict[str, Any] = {"family": "binomial", "link": "cloglog", "response": "detected"}
    dw.tl.glmm(adata, FORMULA, layer="counts", groupby="cell_type", key_added="detection", progress=False, **seen)
    call = (
        f"dw.tl.glmm(adata, {FORMULA!r}, family='binomial', link='cloglog', response='detected', groupby='cell_type')"
    )
    title = "Detection: in which cells is the gene seen at all"
    _tell(adata, out, "detection", title, call, _donors(adata, "detection"))


def _donors(adata: ad.AnnData, key: str) -> Any:
    """The gene that is surest to differ, donor by donor."""
    first = dw.get.tests(adata, key=key, contrast=CONTRAST).iloc[0]
    gene, group = str(first["variable"]), str(first["group"])
    return dw.pl.donors(adata, gene, group=group, contrast=CONTRAST, key=key, show=False, return_fig=True)


def _tell(adata: ad.AnnData, out: Path, key: str, title: str, call: str, figure: Any) -> None:
    table = dw.get.tests(adata, key=key, contrast=CONTRAST)
    hits = true_in_cohort(adata, table[table["adj_p_value"] < FDR])
    n_true = int((adata.varm["true_log_fc"] != 0).to_numpy().sum())
    say(title, call, table, SHOWN, found(hits, n_true, "genes"))
    write(out, key, table, {key: figure})
