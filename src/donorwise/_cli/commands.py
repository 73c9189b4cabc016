"""The commands around the fits: collapse, merge, report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._anndata.collapsed_counts import check_glmm
from donorwise._anndata.identity import check_cells, check_files
from donorwise._anndata.origin import COLLAPSED, is_collapsed
from donorwise._batch.files import (
    check_output,
    fingerprint,
    read_source,
    write_anndata,
)
from donorwise._batch.partial import Partial
from donorwise._batch.records import finished_run, read_record, run_manifest, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.options import PATH
from donorwise._core.files import locked, reason
from donorwise.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata as ad

    from donorwise._core.engine.analysis import Analysis

    Prepare = Callable[[ad.AnnData, list[Any] | None, list[str]], Analysis[Any, Any]]

logger = logging.getLogger("donorwise")
_RUN_COHORTS = (
    options.OUT_H5AD,
    options.BLOCK_SIZE,
    options.RESUME,
    options.OVERWRITE,
    options.CONFIG,
    options.QUIET,
    options.LOG_JSON,
)


@click.command()
@options.add(options.SOURCES)
@click.option(
    "--by",
    metavar="A,B,…",
    multiple=True,
    callback=options.split_names,
    required=True,
    help="Columns of obs; a row for each combination. With commas, or repeated.",
)
@click.option(
    "--covariates", metavar="A,B,…", multiple=True, callback=options.split_names,
    help="Columns of obs that differ from cell to cell, such as log_depth.",
)  # fmt: skip
@click.option("--layer", help="Layer to collapse; X if absent.")
@options.add(options.LOG_BASE)
@click.option(
    "--counts-layer", help="Layer of raw counts, for donorwise pseudobulk and glmm; --log-depth takes counts if absent."
)
@click.option(
    "--depth", metavar="COLUMN", help="Column of obs with the depth of every cell, the exposure of donorwise glmm; the sum of counts if absent."
)  # fmt: skip
@click.option(
    "--glmm", metavar="A,B,…", multiple=True, callback=options.split_names,
    help="Families of donorwise glmm that need more than sums of the counts: nb, cloglog; none if absent.",
)  # fmt: skip
@options.add(options.MASK_VAR, options.LOG_DEPTH, options.N_JOBS, *_RUN_COHORTS)
@click.pass_context
def collapse(ctx: click.Context, /, **given: Any) -> None:
    """Collapse SOURCE (one or several .h5ad or .zarr) to one row per combination of columns; models fit alike."""
    from donorwise import pp
    from donorwise._batch.cohorts import add_log_depth, collapse_sources, survey

    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    names = ("by", "covariates", "layer", "log_base", "counts_layer", "depth", "glmm", "mask_var", "n_jobs")
    chosen = {name: given[name] for name in names}
    check_glmm(given["glmm"], given["counts_layer"])
    given["out"] = check_output(given["out"], (".h5ad",), given["source"])
    check_files(given["source"])
    seen = {"columns": given["by"], "layer": given["layer"], "block_size": given["block_size"]}
    with locked(given["out"]):
        sources = [survey(path, **seen) for path in given["source"]]
        check_cells([str(source.path) for source in sources], [source.hashes for source in sources])
        begin = {}
        if given["log_depth"]:
            counts, normalize = given["counts_layer"] or "counts", given["depth_normalize"]
            begin["begin"] = add_log_depth(sources, layer=counts, normalize=normalize)
            chosen["covariates"] = list(dict.fromkeys([*chosen["covariates"], "log_depth"]))
        _write(
            "collapse",
            given,
            [source.told for source in sources],
            lambda partial: collapse_sources(
                sources,
                lambda cells: pp.collapse(cells, progress=progress, **chosen),
                partial,
                element=given["layer"] or "X",
                **begin,
            ),
        )


@click.command()
@options.add(options.SOURCES, *_RUN_COHORTS)
@click.pass_context
def merge(ctx: click.Context, /, **given: Any) -> None:
    """Combine collapsed cohorts (SOURCE, two or more .h5ad), exactly."""
    from donorwise._batch.cohorts import merge_sources

    messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    if len(given["source"]) < 2:
        raise DataError("Merging takes two collapsed cohorts or more.")
    check_files(given["source"])
    given["out"] = check_output(given["out"], (".h5ad",), given["source"])
    with locked(given["out"]):
        paths = given["source"]
        cohorts = [read_source(path) for path in paths]
        for path, adata in zip(paths, cohorts, strict=True):
            if not is_collapsed(adata):
                raise DataError(f"{path} holds cells, not collapsed rows: run donorwise collapse on it first.")
        told = [fingerprint(path, adata) for path, adata in zip(paths, cohorts, strict=True)]
        _write("merge", given, told, lambda kept: merge_sources(paths, cohorts, kept, block_size=given["block_size"]))


def _write(
    name: str, given: dict[str, Any], told: Sequence[dict[str, Any]], make: Callable[[Partial], ad.AnnData]
) -> None:
    """Make the cohort, with finished blocks kept on the way, and write it with a record beside it."""
    out: Path = given["out"]
    paths = {"source": [str(path.resolve()) for path in given["source"]], "out": str(out.resolve())}
    chosen = {k: v for k, v in given.items() if k not in options.MANNERS} | paths
    partial = Partial.of(out)
    manifest, how = run_manifest(name, chosen, told), {"resume": given["resume"], "overwrite": given["overwrite"]}
    if finished_run(out, manifest, **how):
        messages.say_finished(out)
        return
    with partial.kept(manifest, **how) as finished:
        if finished:
            logger.info("Resumed: %d blocks are finished.", len(finished))
        made = make(partial)
        write_anndata(made, out)
    dropped = [str(gene) for gene in made.uns[COLLAPSED]["dropped"]]
    result = {"rows": int(made.n_obs), "features": int(made.n_vars), "dropped_features": dropped}
    write_record(run_record(name, chosen, told, result, messages.warnings_said()), out)
    partial.remove()
    logger.info(
        "Wrote %s rows x %s features to %s.", f"{made.n_obs:,}", f"{made.n_vars:,}", out,
        extra={"data": {"event": "end"}},
    )  # fmt: skip


@click.command()
@click.argument("results", type=PATH)
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="False discovery rate.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Features to list.")
@click.option("--key", help="Entry of uns, where an .h5ad holds several results.")
@click.option(
    "--gene-symbols",
    metavar="COLUMN",
    help="Column of the results (or of var) with symbols, to show in place of names.",
)
@click.option("--plots", type=PATH, metavar="DIR", help="Folder for a volcano plot of every contrast; made if needed.")
def report(
    results: Path, alpha: float, top: int, key: str | None, gene_symbols: str | None, plots: Path | None
) -> None:
    """Summarise RESULTS (.parquet, .csv or .h5ad) in markdown on stdout."""
    from donorwise._batch.report import draw_volcanoes, read_any, summarise

    adata, found = read_any(results, key)
    said = [str(text) for text in (read_record(results) or {}).get("warnings", [])]
    click.echo(summarise(adata, found, said=said, alpha=alpha, top=top, gene_symbols=gene_symbols))
    if plots is None:
        return
    try:
        plots.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {plots} could not be made: {reason(error)}.") from error
    for path in draw_volcanoes(adata, found, plots, alpha=alpha, gene_symbols=gene_symbols):
        click.echo(f"Wrote {path}", err=True)
