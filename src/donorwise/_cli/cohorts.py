"""``donorwise audit``, ``collapse`` and ``merge``: a cohort before any model."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.outputs import check_output, locked, write_anndata
from donorwise._batch.record import run_record, write_record
from donorwise._batch.sources import fingerprint, read_source, reading
from donorwise._cli import logs, options
from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad

logger = logging.getLogger("donorwise")


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
@options.add(options.OUT_H5AD, options.N_JOBS, options.CONFIG, options.QUIET, options.LOG_JSON)
@click.pass_context
def collapse(ctx: click.Context, /, **given: Any) -> None:
    """Collapse SOURCE (one or several .h5ad or .zarr) to one row per combination of columns; models fit alike."""
    progress = logs.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    chosen = {name: given[name] for name in ("by", "covariates", "layer", "counts_layer", "n_jobs")}

    def rows(path: Path, adata: ad.AnnData) -> ad.AnnData:
        from donorwise import pp

        logger.info("Collapsing %s.", path)
        with _naming(path), reading(path, given["layer"] or "X"):
            return pp.collapse(adata, progress=progress, **chosen)

    _write("collapse", given, rows)


@click.command()
@options.add(options.SOURCES, options.OUT_H5AD, options.CONFIG, options.QUIET, options.LOG_JSON)
@click.pass_context
def merge(ctx: click.Context, /, **given: Any) -> None:
    """Combine collapsed cohorts (SOURCE, two or more .h5ad), exactly."""
    logs.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    if len(given["source"]) < 2:
        raise DonorwiseError("Merging takes two collapsed cohorts or more.")
    _write("merge", given, lambda path, adata: adata)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in which of several inputs something is wrong."""
    try:
        yield
    except DonorwiseError as error:
        raise type(error)(f"{path}: {error}") from error


def _write(name: str, given: dict[str, Any], rows: Callable[[Path, ad.AnnData], ad.AnnData]) -> None:
    """Merge what `rows` makes of every source, and write it with a record beside it."""
    from donorwise import pp

    out: Path = given["out"]
    check_output(out, (".h5ad",))
    with locked(out):
        parts, sources = [], []
        for path in given["source"]:
            adata = read_source(path)
            sources.append(fingerprint(path, adata))
            parts.append(rows(path, adata))
        made = parts[0] if len(parts) == 1 else pp.merge_collapsed(parts)
        write_anndata(made, out)
        paths = {"source": [str(path.resolve()) for path in given["source"]], "out": str(out.resolve())}
        chosen = {k: v for k, v in given.items() if k not in options.MANNERS} | paths
        result = {"rows": int(made.n_obs), "features": int(made.n_vars)}
        write_record(run_record(name, chosen, sources, result), out)
    logger.info("Wrote %s rows x %s features to %s.", f"{made.n_obs:,}", f"{made.n_vars:,}", out)
