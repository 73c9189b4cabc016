"""The command for scans over genetic variants."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import check_output_folder, files_in, fingerprint, read_source, reading, state
from donorwise._batch.kernels import KernelFiles
from donorwise._batch.records import finished_run, run_manifest, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.messages import FAILED_GROUPS
from donorwise._core.engine.scan_folder import PARAMS
from donorwise._core.files import locked
from donorwise._core.wording import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._core.engine.scan import Scan

logger = logging.getLogger("donorwise")

_BESIDE = {".bed": (".bim", ".fam"), ".pgen": (".pvar", ".pvar.zst", ".psam", ".bim", ".fam")}
_CHOSEN = ("layer", "obsm", "obs_keys", "mask_var", "weights", "n_jobs")
_OPTIONS = (
    "mode",
    "window",
    "interaction",
    "test",
    "refit",
    "screen",
    "gene_test",
    "n_permutations",
    "loco",
    "maf",
    "missing",
    "p_max",
    "seed",
)
_SHARE = click.FloatRange(0, 1)


@click.command()
@options.add(options.SOURCE, options.FORMULA)
@click.option(
    "--genotypes", type=options.PATH, required=True, help="Donors x variants: .bed, .pgen, .vcz, .h5ad or .zarr."
)
@click.option(
    "--mode",
    type=click.Choice(["cis", "trans", "gwas"]),
    default="cis",
    show_default=True,
    help="Variants near a gene; all of them; the same, for few features.",
)
@click.option(
    "--window", type=float, default=1e6, show_default=True, help="Base pairs on either side of a gene, for cis."
)
@options.add(options.GROUPBY, options.DONOR)
@click.option("--layer", help="Layer of log-normalised values; X if absent.")
@options.add(options.OF_OBS, options.MASK_VAR)
@click.option("--weights", metavar="COLUMN", help="Column of obs with precision weights.")
@options.add(options.KERNELS)
@click.option(
    "--interaction",
    metavar="TERM",
    help="Term of the formula that variants interact with; if it differs between cells, add (0 + TERM | donor).",
)
@click.option(
    "--test",
    type=click.Choice(["wald", "lrt"]),
    default="wald",
    show_default=True,
    help="Wald, or likelihood ratio (with --refit all).",
)
@click.option(
    "--refit",
    type=click.Choice(["screen", "all", "none"]),
    default="screen",
    show_default=True,
    help="Which pairs get variances of their own.",
)
@click.option("--screen", type=_SHARE, default=1e-3, show_default=True, help="P-value below which they do.")
@click.option(
    "--gene-test",
    type=click.Choice(["acat", "permutations", "bonferroni"]),
    help="How variants of a gene are combined; by default acat, of trans bonferroni.",
)
@click.option(
    "--n-permutations",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="For --gene-test permutations.",
)
@click.option("--loco", is_flag=True, help="Leave the variant's chromosome out of the kernel.")
@click.option(
    "--maf", type=click.FloatRange(0, 0.5), default=0.01, show_default=True, help="Least frequency of the rarer allele."
)
@click.option(
    "--missing", type=_SHARE, default=0.05, show_default=True, help="Largest share of donors without a genotype."
)
@click.option("--p-max", type=_SHARE, help="Keep tests with at most this p-value; all are counted.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the permutations.")
@click.option("--out", type=options.PATH, required=True, help="Folder for the tests (Parquet).")
@options.add(
    options.BLOCK_SIZE,
    options.MAX_MEMORY,
    options.N_JOBS,
    options.RESUME,
    options.OVERWRITE,
    options.DRY_RUN,
    options.CONFIG,
    options.QUIET,
    options.LOG_JSON,
)
@click.pass_context
def scan(ctx: click.Context, /, **given: Any) -> None:
    """Test the variants of a file in the mixed models of the features of SOURCE (.h5ad or .zarr)."""
    from donorwise.tl._scan import check_out

    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    out = given["out"] = check_output_folder(given["out"], [given["source"], given["genotypes"]])
    element = given["obsm"] or given["layer"] or "X"
    files = KernelFiles.of(given)
    if given["dry_run"]:
        with reading(given["source"], element):
            _describe(given, files, progress=progress)
        return
    check_out(out, resume=given["resume"], overwrite=given["overwrite"])
    with locked(out), reading(given["source"], element):
        code = _scan(given, files, progress=progress)
    ctx.exit(code)


def _describe(given: dict[str, Any], files: KernelFiles, *, progress: bool) -> None:
    """Print audit, plan and estimates."""
    from donorwise._anndata.prepare import audit_cells
    from donorwise._batch.scan_plan import describe_scan

    adata = _read(given, files)
    prepared = _prepared(given, adata, files, progress=progress)
    report = audit_cells(adata, prepared.analysis.formula, prepared.analysis.depth_in)
    click.echo(f"{printable(report)}\n")
    _warn([text for text in prepared.warnings if text not in report.warnings])
    click.echo(printable(describe_scan(prepared, max_memory=given["max_memory"])))


def _scan(given: dict[str, Any], files: KernelFiles, *, progress: bool) -> int:
    """Scan unless that is done, leave a record beside the folder, and return the exit status."""
    from donorwise.tl._scan import scan_to

    start, out = time.monotonic(), given["out"]
    adata = _read(given, files)
    chosen = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in given.items() if k not in options.MANNERS}
    source = fingerprint(given["source"], adata, files.tables) | {"genotypes": state(_files_of(given["genotypes"]))}
    manifest, how = run_manifest("scan", chosen, source), {"resume": given["resume"], "overwrite": given["overwrite"]}
    done = finished_run(out, manifest, **how) if given["resume"] and (out / PARAMS).is_file() else None
    if done:
        messages.say_finished(out)
        return FAILED_GROUPS if done["result"].get("failed_groups") else 0
    prepared = _prepared(given, adata, files, progress=progress)
    _warn(prepared.warnings)
    found = scan_to(prepared, out, max_memory=given["max_memory"], progress=progress, inputs=manifest, **how)
    failed, n_tests = found.params["reasons"], found.params["n_tests"]
    if failed:
        logger.warning("%d of %d groups could not be scanned.", len(failed), len(prepared.analysis.tasks))
    told = {name: found.params[name] for name in ("n_tests", "n_variants", "n_donors", "lambda")}
    result = (
        {"seconds": round(time.monotonic() - start, 2), "rows": len(found.results)} | told | {"failed_groups": failed}
    )
    write_record(run_record("scan", chosen, source, result, messages.warnings_said()), out)
    logger.info("Wrote %s tests, and leads of %s genes x groups, to %s.", f"{n_tests:,}", f"{len(found.results):,}", out,
                extra={"data": {"event": "end"}})  # fmt: skip
    return FAILED_GROUPS if failed else 0


def _read(given: dict[str, Any], files: KernelFiles) -> ad.AnnData:
    logger.info("Reading %s.", given["source"])
    return read_source(given["source"], obsp=files.entries(given["formula"]))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        logger.warning(text)


def _prepared(given: dict[str, Any], adata: ad.AnnData, files: KernelFiles, *, progress: bool) -> Scan:
    """The scan that is asked for."""
    from donorwise._anndata.genotypes import open_genotypes
    from donorwise._anndata.prepare_scan import prepare_scan
    from donorwise._batch.run import parse_groupby
    from donorwise.tl._scan import scan_options, with_loco

    source = open_genotypes(given["genotypes"])
    if given["block_size"]:
        source = replace(source, block_numbers=given["block_size"] * len(source.donors))
    chosen = scan_options(**{name: given[name] for name in _OPTIONS})
    kernels: Any = files.given["kernels"]
    if given["loco"]:
        kernels = with_loco(given["formula"], kernels, source, progress=progress)
    return prepare_scan(
        adata, source, given["formula"], chosen, donor=given["donor"],
        groupby=parse_groupby(given["groupby"], [str(c) for c in adata.obs.columns]), kernels=kernels,
        relmat=files.given["relmat"], **{name: given[name] for name in _CHOSEN},
    )  # fmt: skip


def _files_of(path: Path) -> list[Path]:
    """The files of genotypes: all of a folder, and what PLINK keeps beside."""
    beside = [path.with_suffix(ending) for ending in _BESIDE.get(path.suffix, ())]
    return [*files_in(path), *(file for file in beside if file.is_file())]
