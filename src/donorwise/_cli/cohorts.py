"""``donorwise audit``, ``collapse`` and ``merge``: a cohort before any model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._anndata.origin import COLLAPSED, is_collapsed
from donorwise._batch.outputs import check_output, locked, run_manifest, run_record, write_anndata, write_record
from donorwise._batch.partial import Partial
from donorwise._batch.sources import fingerprint, read_source
from donorwise._cli import logs, options
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata as ad

logger = logging.getLogger("donorwise")
_RUN = (options.OUT_H5AD, options.BLOCK_SIZE, options.RESUME, options.CONFIG, options.QUIET, options.LOG_JSON)


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.DONOR)
def audit(source: Path, formula: str, donor: str | None) -> None:
    """Say what the design of SOURCE can answer, before any fit."""
    adata = read_source(source)
    if donor:
        adata.donorwise.setup(donor=donor)
    click.echo(adata.donorwise.audit(formula))


@click.command()
@options.add(options.SOURCES)
@click.option(
    "--by",
    metavar="A,B,…",
    callback=options.split_names,
    required=True,
    help="Columns of obs; a row for each combination.",
)
@click.option(
    "--covariates", metavar="A,B,…", callback=options.split_names, default="",
    help="Columns of obs that differ from cell to cell, such as log_depth.",
)  # fmt: skip
@click.option("--layer", help="Layer to collapse; X if absent.")
@click.option("--counts-layer", help="Layer of raw counts, for donorwise pseudobulk.")
@options.add(options.N_JOBS, *_RUN)
@click.pass_context
def collapse(ctx: click.Context, /, **given: Any) -> None:
    """Collapse SOURCE (one or several .h5ad or .zarr) to one row per combination of columns; models fit alike."""
    from donorwise import pp
    from donorwise._batch.cohorts import collapse_sources, survey

    progress = logs.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    chosen = {name: given[name] for name in ("by", "covariates", "layer", "counts_layer", "n_jobs")}
    check_output(given["out"], (".h5ad",), given["source"])
    with locked(given["out"]):
        sources = [survey(path, layer=given["layer"], block_size=given["block_size"]) for path in given["source"]]
        _write(
            "collapse",
            given,
            [source.told for source in sources],
            lambda partial: collapse_sources(
                sources,
                lambda cells: pp.collapse(cells, progress=progress, **chosen),
                partial,
                element=given["layer"] or "X",
            ),
        )


@click.command()
@options.add(options.SOURCES, *_RUN)
@click.pass_context
def merge(ctx: click.Context, /, **given: Any) -> None:
    """Combine collapsed cohorts (SOURCE, two or more .h5ad), exactly."""
    from donorwise._batch.cohorts import merge_sources

    logs.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    if len(given["source"]) < 2:
        raise DataError("Merging takes two collapsed cohorts or more.")
    check_output(given["out"], (".h5ad",), given["source"])
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
    with partial.kept(run_manifest(name, chosen, told), resume=given["resume"]) as finished:
        if finished:
            logger.info("Resumed: %d blocks are finished.", len(finished))
        made = make(partial)
        write_anndata(made, out)
    dropped = [str(gene) for gene in made.uns[COLLAPSED]["dropped"]]
    result = {"rows": int(made.n_obs), "features": int(made.n_vars), "dropped_features": dropped}
    write_record(run_record(name, chosen, told, result), out)
    partial.remove()
    logger.info(
        "Wrote %s rows x %s features to %s.", f"{made.n_obs:,}", f"{made.n_vars:,}", out,
        extra={"data": {"event": "end"}},
    )  # fmt: skip
