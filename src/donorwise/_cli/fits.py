"""The commands for models: audit, lmm, glmm, composition, pseudobulk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._anndata import keys, symbols_of
from donorwise._batch.files import (
    TABLES,
    check_output,
    fingerprint,
    read_source,
    reading,
)
from donorwise._batch.kernels import KernelFiles
from donorwise._batch.partial import Partial
from donorwise._batch.records import finished_run, run_manifest, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.messages import FAILED_GROUPS
from donorwise._core.files import locked
from donorwise._core.models.glmm.families import FAMILIES
from donorwise._core.wording import printable
from donorwise._typing import DDF, GLMM_DDF

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import anndata as ad

    from donorwise._anndata import Symbols
    from donorwise._core.engine.analysis import Analysis

    Prepare = Callable[[ad.AnnData, list[Any] | None, list[str]], Analysis[Any, Any]]

logger = logging.getLogger("donorwise")

_RUN = (options.OUT_TABLE, options.MAX_MEMORY, options.N_JOBS, options.RESUME, options.OVERWRITE, options.DRY_RUN, options.CONFIG,
        options.QUIET, options.LOG_JSON)  # fmt: skip


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.COUNTS_LAYER, options.LOG_DEPTH, options.DONOR)
@click.option("--family", type=click.Choice(FAMILIES), help="Of donorwise glmm; a linear mixed model if absent.")
@options.add(options.LINK, options.OF_OBS, options.EXPOSURE, options.OF_VALUES, options.PEPTIDES, options.KERNELS)
def audit(source: Path, formula: str, donor: str | None, **given: Any) -> None:
    """Say what the design of SOURCE can answer, before any fit."""
    files = KernelFiles.of(given)
    adata = read_source(source, obsp=files.entries(formula))
    if donor:
        adata.donorwise.setup(donor=donor)
    if given["log_depth"]:
        formula = _with_covariate(formula, "log_depth")
        _add_log_depth(adata, given)
    of_counts = ("family", "link", "response", "exposure", "offset", "trials")
    names = ("features", "weights_layer", "layer", "obsm", "obs_keys", *of_counts)
    asked = {name: given[name] for name in names}
    kernels = {option: tables or None for option, tables in files.given.items()}
    click.echo(printable(adata.donorwise.audit(formula, **asked, **kernels)))


@click.command()
@options.add(options.SOURCE, options.FORMULA, options.GROUPBY, options.CONTRAST)
@click.option("--ddf", type=click.Choice(DDF), default="moderated", show_default=True, help="Degrees of freedom.")
@click.option("--layer", help="Layer of log-normalised values; X if absent.")
@click.option("--obsm", help="Table of scores in obsm, to be modelled instead of X.")
@click.option("--weights", metavar="COLUMN", help="Column of obs with precision weights.")
@options.add(options.LOG_BASE, options.PEPTIDES, options.ROBUST_FIT, options.KERNELS)
@click.option("--ml", is_flag=True, help="Maximum likelihood instead of REML.")
@options.add(options.COUNTS_LAYER, options.LOG_DEPTH, options.MASK_VAR, options.GENE_SYMBOLS, options.DONOR, *_RUN)
@click.pass_context
def lmm(ctx: click.Context, /, **given: Any) -> None:
    """Test every feature of SOURCE (.h5ad or .zarr) with a linear mixed model."""
    if given["log_depth"]:
        given["formula"] = _with_covariate(given["formula"], "log_depth")
    files = KernelFiles.of(given)

    def prepare(adata: ad.AnnData, contrasts: list[Any] | None, groupby: list[str]) -> Analysis[Any, Any]:
        from donorwise._anndata.prepare import prepare_lmm
        from donorwise._core.engine.analysis import Options

        names = ("features", "layer", "obsm", "mask_var", "weights", "weights_layer", "log_base", "n_jobs")
        chosen, options = (
            {name: given[name] for name in names},
            Options(given["ddf"], not given["ml"], given["robust"] or ""),
        )
        if given["log_depth"]:
            _add_log_depth(adata, given)
        return prepare_lmm(
            adata, given["formula"], groupby=groupby, contrasts=contrasts, options=options,
            kernels=files.given["kernels"] or None, relmat=files.given["relmat"] or None, **chosen,
        )  # fmt: skip

    _run(ctx, given, prepare, files)


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
@options.add(
    options.OF_VALUES, options.OF_OBS, options.EXPOSURE, options.MASK_VAR, options.GENE_SYMBOLS, options.DONOR, *_RUN
)
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


def _run(ctx: click.Context, given: dict[str, Any], prepare: Prepare, files: KernelFiles | None = None) -> None:
    """Check, lock, read, prepare, fit, write."""
    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    out = given["out"] = check_output(given["out"], TABLES, [given["source"]])
    element = given.get("obsm") or given.get("layer") or "X"
    files = files or KernelFiles()
    if given["dry_run"]:
        with reading(given["source"], element):
            _describe(given, *_prepare(given, _read(given, files), prepare)[:2])
        return
    with locked(out), reading(given["source"], element):
        adata = _read(given, files)
        code = _fit(str(ctx.info_name), given, adata, files, prepare, progress=progress)
    ctx.exit(code)


def _read(given: dict[str, Any], files: KernelFiles) -> ad.AnnData:
    logger.info("Reading %s.", given["source"])
    return read_source(given["source"], obsp=files.entries(given["formula"]))


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
    said = {**analysis.own_params(), keys.RESPONSE: analysis.response}
    return adata, analysis, symbols_of(adata, given.get("gene_symbols"), said)


def _describe(given: dict[str, Any], adata: ad.AnnData, analysis: Analysis[Any, Any]) -> None:
    from donorwise._anndata.prepare import audit_cells
    from donorwise._anndata.prepare_peptides import audit_peptides
    from donorwise._batch.plan import describe

    said: tuple[str, ...] = ()
    of_peptides = analysis.family.observations == "peptides"
    if analysis.family.observations != "units":  # which are replicates, whatever the formula says of donors
        report = (
            audit_peptides(adata, analysis) if of_peptides else audit_cells(adata, analysis.formula, analysis.depth_in)
        )
        click.echo(f"{printable(report)}\n")
        said = report.warnings
    _warn([text for text in analysis.warnings if text not in said])
    click.echo(printable(describe(analysis, max_memory=given["max_memory"])))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        logger.warning(text)


def _fit(
    name: str, given: dict[str, Any], adata: ad.AnnData, files: KernelFiles, prepare: Prepare, *, progress: bool
) -> int:
    """Run unless it is done, leave a record beside the result, and return the exit status."""
    from donorwise._batch.run import run

    out: Path = given["out"]
    chosen = {
        k: str(v.resolve()) if k in ("source", "out") else v for k, v in given.items() if k not in options.MANNERS
    }
    source = fingerprint(given["source"], adata, files.tables)
    manifest, how = run_manifest(name, chosen, source), {"resume": given["resume"], "overwrite": given["overwrite"]}
    done = finished_run(out, manifest, **how)
    if done:
        messages.say_finished(out)
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
