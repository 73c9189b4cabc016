"""The commands that analyse: audit, collapse, merge, lmm, glmm, composition, pseudobulk, report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._anndata import symbols_of
from donorwise._anndata.collapsed_counts import check_glmm
from donorwise._anndata.identity import check_cells, check_files
from donorwise._anndata.origin import COLLAPSED, is_collapsed
from donorwise._batch.files import (
    TABLES,
    check_output,
    fingerprint,
    read_source,
    reading,
    write_anndata,
)
from donorwise._batch.partial import Partial
from donorwise._batch.records import finished_run, read_record, run_manifest, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.messages import FAILED_GROUPS
from donorwise._cli.options import PATH
from donorwise._core.files import locked, reason
from donorwise._core.models.glmm.families import FAMILIES
from donorwise._core.wording import printable
from donorwise._typing import DDF, GLMM_DDF
from donorwise.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import anndata as ad

    from donorwise._anndata import Symbols
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
@options.add(options.SOURCE, options.FORMULA, options.COUNTS_LAYER, options.LOG_DEPTH, options.DONOR)
@click.option("--family", type=click.Choice(FAMILIES), help="Of donorwise glmm; a linear mixed model if absent.")
@options.add(options.LINK, options.OF_OBS, options.EXPOSURE)
def audit(source: Path, formula: str, donor: str | None, **given: Any) -> None:
    """Say what the design of SOURCE can answer, before any fit."""
    adata = read_source(source)
    if donor:
        adata.donorwise.setup(donor=donor)
    if given["log_depth"]:
        formula = _with_covariate(formula, "log_depth")
        _add_log_depth(adata, given)
    asked = {name: given[name] for name in ("family", "link", "obsm", "obs_keys", "exposure", "offset")}
    click.echo(printable(adata.donorwise.audit(formula, **asked)))


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
@options.add(options.LOG_BASE)
@click.option(
    "--counts-layer", help="Layer of raw counts, for donorwise pseudobulk and glmm; --log-depth takes counts if absent."
)
@click.option(
    "--depth", metavar="COLUMN", help="Column of obs with the depth of every cell, the exposure of donorwise glmm; the sum of counts if absent."
)  # fmt: skip
@click.option(
    "--glmm", metavar="A,B,…", callback=options.split_names, default="",
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
        _say_finished(out)
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


def _say_finished(out: Path) -> None:
    logger.info(
        "%s is finished: it was made from this input with these options.", out, extra={"data": {"event": "end"}}
    )


_RUN = (options.OUT_TABLE, options.MAX_MEMORY, options.N_JOBS, options.RESUME, options.OVERWRITE, options.DRY_RUN, options.CONFIG,
        options.QUIET, options.LOG_JSON)  # fmt: skip


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.GROUPBY, options.CONTRAST)
@click.option("--ddf", type=click.Choice(DDF), default="moderated", show_default=True, help="Degrees of freedom.")
@click.option("--layer", help="Layer of log-normalised values; X if absent.")
@click.option("--obsm", help="Table of scores in obsm, to be modelled instead of X.")
@click.option("--weights", metavar="COLUMN", help="Column of obs with precision weights.")
@options.add(options.LOG_BASE)
@click.option("--ml", is_flag=True, help="Maximum likelihood instead of REML.")
@options.add(options.COUNTS_LAYER, options.LOG_DEPTH, options.MASK_VAR, options.GENE_SYMBOLS, options.DONOR, *_RUN)
@click.pass_context
def lmm(ctx: click.Context, /, **given: Any) -> None:
    """Test every feature of SOURCE (.h5ad or .zarr) with a linear mixed model."""
    if given["log_depth"]:
        given["formula"] = _with_covariate(given["formula"], "log_depth")

    def prepare(adata: ad.AnnData, contrasts: list[Any] | None, groupby: list[str]) -> Analysis[Any, Any]:
        from donorwise._anndata.prepare import prepare_lmm
        from donorwise._core.engine.analysis import Options

        chosen = {name: given[name] for name in ("layer", "obsm", "mask_var", "weights", "log_base", "n_jobs")}
        options = Options(given["ddf"], reml=not given["ml"])
        if given["log_depth"]:
            _add_log_depth(adata, given)
        return prepare_lmm(adata, given["formula"], groupby=groupby, contrasts=contrasts, options=options, **chosen)

    _run(ctx, given, prepare)


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.GROUPBY, options.CONTRAST)
@click.option(
    "--family",
    type=click.Choice(FAMILIES),
    default="nb",
    show_default=True,
    help="Of counts: nb (over-dispersed) or poisson; binomial for yes and no, or k of m.",
)
@options.add(options.LINK)
@click.option("--ddf", type=click.Choice(GLMM_DDF), default="moderated", show_default=True, help="Degrees of freedom.")
@click.option("--layer", help="Layer of raw counts, or of yes and no; X if absent.")
@options.add(options.OF_OBS)
@click.option("--response", type=click.Choice(["detected"]), help="Ask whether a count is above zero.")
@options.add(options.EXPOSURE)
@click.option("--trials", metavar="COLUMN", help="Column of obs: the m of k of m.")
@options.add(options.MASK_VAR, options.GENE_SYMBOLS, options.DONOR, *_RUN)
@click.pass_context
def glmm(ctx: click.Context, /, **given: Any) -> None:
    """Test every feature of SOURCE (.h5ad or .zarr) with a mixed model of counts, or of yes and no."""

    def prepare(adata: ad.AnnData, contrasts: list[Any] | None, groupby: list[str]) -> Analysis[Any, Any]:
        from donorwise._anndata.prepare_counts import prepare_glmm
        from donorwise._core.engine.analysis import Options

        names = (
            "family",
            "link",
            "response",
            "layer",
            "obsm",
            "obs_keys",
            "mask_var",
            "exposure",
            "offset",
            "trials",
            "n_jobs",
        )
        chosen, options = {name: given[name] for name in names}, Options(given["ddf"])
        return prepare_glmm(adata, given["formula"], groupby=groupby, contrasts=contrasts, options=options, **chosen)

    _run(ctx, given, prepare)


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.GROUPBY, options.CONTRAST)
@click.option("--cell-type", metavar="COLUMN", help="Column of obs with the types, if its name does not tell.")
@click.option("--sample", metavar="COLUMN", help="Column of obs with the samples, if its name does not tell.")
@click.option("--ddf", type=click.Choice(GLMM_DDF), default="moderated", show_default=True, help="Degrees of freedom.")
@options.add(options.DONOR, *_RUN)
@click.pass_context
def composition(ctx: click.Context, /, **given: Any) -> None:
    """Test whether cell types have other shares of the samples of SOURCE (.h5ad or .zarr)."""

    def prepare(adata: ad.AnnData, contrasts: list[Any] | None, groupby: list[str]) -> Analysis[Any, Any]:
        from donorwise._anndata.prepare_composition import prepare_composition
        from donorwise._core.engine.analysis import Options

        chosen = {name: given[name] for name in ("cell_type", "sample", "n_jobs")}
        options = Options(given["ddf"])
        return prepare_composition(
            adata, given["formula"], groupby=groupby, contrasts=contrasts, options=options, **chosen
        )

    _run(ctx, given, prepare)


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.GROUPBY, options.CONTRAST)
@click.option("--layer", default="counts", show_default=True, help="Layer of raw counts; X for the matrix X.")
@click.option("--sample", metavar="COLUMN", help="Column of obs that holds the sample.")
@click.option(
    "--depth", metavar="COLUMN", help="Column of obs with the depth of every cell; the sum of counts if absent."
)
@options.add(options.NORMALIZE, options.MASK_VAR, options.GENE_SYMBOLS, options.DONOR, *_RUN)
@click.pass_context
def pseudobulk(ctx: click.Context, /, **given: Any) -> None:
    """Test every gene of SOURCE (.h5ad or .zarr) on raw counts summed per donor."""

    def prepare(adata: ad.AnnData, contrasts: list[Any] | None, groupby: list[str]) -> Analysis[Any, Any]:
        from donorwise._anndata.prepare_units import prepare_pseudobulk

        names = ("mask_var", "donor", "sample", "depth", "normalize", "n_jobs")
        chosen = {name: given[name] for name in names}
        layer = None if given["layer"] == "X" else given["layer"]
        return prepare_pseudobulk(adata, given["formula"], groupby=groupby, contrasts=contrasts, layer=layer, **chosen)

    _run(ctx, given, prepare)


def _add_log_depth(adata: ad.AnnData, given: Mapping[str, Any]) -> None:
    """Add the column that --log-depth asks for."""
    from donorwise import pp

    pp.log_depth(adata, layer=given["counts_layer"], normalize=given["depth_normalize"])


def _with_covariate(formula: str, name: str) -> str:
    """A formula with a covariate, which it may have already."""
    from donorwise._core.design.formula import parse

    return formula if name in parse(formula).variables else f"{formula} + {name}"


def _run(ctx: click.Context, given: dict[str, Any], prepare: Prepare) -> None:
    """Check, lock, read, prepare, fit, write."""
    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    out = given["out"] = check_output(given["out"], TABLES, [given["source"]])
    element = given.get("obsm") or given.get("layer") or "X"
    if given["dry_run"]:
        with reading(given["source"], element):
            _describe(given, *_prepare(given, _read(given), prepare)[:2])
        return
    with locked(out), reading(given["source"], element):
        code = _fit(str(ctx.info_name), given, _read(given), prepare, progress=progress)
    ctx.exit(code)


def _read(given: dict[str, Any]) -> ad.AnnData:
    logger.info("Reading %s.", given["source"])
    return read_source(given["source"])


def _prepare(
    given: dict[str, Any], adata: ad.AnnData, prepare: Prepare
) -> tuple[ad.AnnData, Analysis[Any, Any], Symbols]:
    """The input, the analysis of it, and what its features are called."""
    from donorwise._batch.run import parse_contrast, parse_groupby

    if given["donor"]:
        adata.donorwise.setup(donor=given["donor"])
    columns = [str(c) for c in adata.obs.columns]
    contrasts = [parse_contrast(text, adata.obs) for text in given["contrast"]] or None
    analysis = prepare(adata, contrasts, parse_groupby(given["groupby"], columns))
    return adata, analysis, symbols_of(adata, given.get("gene_symbols"), {"response": analysis.response})


def _describe(given: dict[str, Any], adata: ad.AnnData, analysis: Analysis[Any, Any]) -> None:
    from donorwise._anndata.prepare import audit_cells
    from donorwise._batch.plan import describe

    said: tuple[str, ...] = ()
    if analysis.family.observations != "units":  # which are replicates, whatever the formula says of donors
        report = audit_cells(adata, given["formula"], analysis.depth_in)
        click.echo(f"{printable(report)}\n")
        said = report.warnings
    _warn([text for text in analysis.warnings if text not in said])
    click.echo(printable(describe(analysis, max_memory=given["max_memory"])))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        logger.warning(text)


def _fit(name: str, given: dict[str, Any], adata: ad.AnnData, prepare: Prepare, *, progress: bool) -> int:
    """Run unless it is done, leave a record beside the result, and return the exit status."""
    from donorwise._batch.run import run

    out: Path = given["out"]
    chosen = {
        k: str(v.resolve()) if k in ("source", "out") else v for k, v in given.items() if k not in options.MANNERS
    }
    source = fingerprint(given["source"], adata)
    manifest, how = run_manifest(name, chosen, source), {"resume": given["resume"], "overwrite": given["overwrite"]}
    done = finished_run(out, manifest, **how)
    if done:
        _say_finished(out)
        return FAILED_GROUPS if done["result"].get("failed_groups") else 0
    _, analysis, symbols = _prepare(given, adata, prepare)
    _warn(analysis.warnings)
    outcome = run(analysis, out, manifest, max_memory=given["max_memory"], progress=progress, symbols=symbols, **how)
    if outcome.failed:
        logger.warning("%d of %d groups could not be fitted.", len(outcome.failed), len(analysis.tasks))
    result = {
        "seconds": round(outcome.seconds, 2),
        "rows": outcome.n_rows,
        "status_counts": outcome.status_counts,
        "failed_groups": outcome.failed,
    }
    write_record(run_record(name, chosen, source, result, messages.warnings_said()), out)
    Partial.of(out).remove()
    hits = ", ".join(f"{count:,} {status}" for status, count in outcome.status_counts.items())
    logger.info("Wrote %s rows (%s) to %s.", f"{outcome.n_rows:,}", hits, out, extra={"data": {"event": "end"}})
    return FAILED_GROUPS if outcome.failed else 0


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
