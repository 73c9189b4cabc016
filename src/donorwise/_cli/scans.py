"""The command for scans over genetic variants."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import fingerprint, read_source, reading
from donorwise._batch.kernels import KernelFiles
from donorwise._batch.records import run_record
from donorwise._cli import messages, options
from donorwise._cli.messages import FAILED_GROUPS
from donorwise._core.files import locked, replaced
from donorwise._core.wording import printable
from donorwise.errors import OutputError

if TYPE_CHECKING:
    from donorwise._core.engine.scan import Scan

logger = logging.getLogger("donorwise")

RECORD = "_run.yaml"
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
    "--mode", type=click.Choice(["cis", "trans", "gwas"]), default="cis", show_default=True, help="Which variants."
)
@click.option(
    "--window", type=float, default=1e6, show_default=True, help="Base pairs on either side of a gene, for cis."
)
@options.add(options.GROUPBY, options.DONOR)
@click.option("--layer", help="Layer of log-normalised values; X if absent.")
@options.add(options.OF_OBS, options.MASK_VAR)
@click.option("--weights", metavar="COLUMN", help="Column of obs with precision weights.")
@options.add(options.KERNELS)
@click.option("--interaction", metavar="TERM", help="Term of the formula that variants interact with.")
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
    help="How variants of a gene are combined.",
)
@click.option(
    "--n-permutations",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="For --gene-test permutations.",
)
@click.option("--loco", is_flag=True, help="Leave the variant's chromosome out of the kernel.")
@click.option("--maf", type=_SHARE, default=0.01, show_default=True, help="Least frequency of the rarer allele.")
@click.option(
    "--missing", type=_SHARE, default=0.05, show_default=True, help="Largest share of donors without a genotype."
)
@click.option("--p-max", type=_SHARE, help="Keep tests with at most this p-value; all are counted.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the permutations.")
@click.option("--out", type=options.PATH, required=True, help="Folder for the tests (Parquet).")
@options.add(
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
    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    out: Path = given["out"]
    if not out.resolve().parent.is_dir():
        raise OutputError(f"The folder {out.resolve().parent} does not exist; make it first.")
    element = given["obsm"] or given["layer"] or "X"
    with locked(out), reading(given["source"], element):
        ctx.exit(_scan(given, progress=progress))


def _scan(given: dict[str, Any], *, progress: bool) -> int:
    """Read, prepare, scan, and leave a record in the folder."""
    import yaml

    from donorwise.tl._scan import scan_to

    files = KernelFiles.of(given)
    logger.info("Reading %s.", given["source"])
    adata = read_source(given["source"], obsp=files.entries(given["formula"]))
    source = fingerprint(given["source"], adata, files.tables)
    prepared = _prepared(given, adata, files, progress=progress)
    for text in prepared.warnings:
        logger.warning(text)
    if given["dry_run"]:
        click.echo(printable(described(prepared)))
        return 0
    how = {
        "resume": given["resume"],
        "overwrite": given["overwrite"],
        "max_memory": given["max_memory"],
        "progress": progress,
    }
    inputs = {name: value for name, value in source.items() if name != "path"} | _state(given["genotypes"])
    found = scan_to(prepared, given["out"], inputs=inputs, **how)
    chosen = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in given.items() if k not in options.MANNERS}
    result = {name: found.params[name] for name in ("n_tests", "n_variants", "n_donors", "lambda")} | {
        "failed_groups": found.params["reasons"]
    }
    with replaced(given["out"] / RECORD) as temporary:
        record = run_record("scan", chosen, source, result, messages.warnings_said())
        temporary.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")
    logger.info("Wrote %s tests, and %s genes x groups, to %s.", f"{found.params['n_tests']:,}", f"{len(found.results):,}", given["out"],
                extra={"data": {"event": "end"}})  # fmt: skip
    return FAILED_GROUPS if found.params["reasons"] else 0


def _prepared(given: dict[str, Any], adata: Any, files: KernelFiles, *, progress: bool) -> Scan:
    from donorwise._anndata.genotypes import open_genotypes
    from donorwise._anndata.prepare_scan import prepare_scan
    from donorwise._batch.run import parse_groupby
    from donorwise.tl._scan import scan_options, with_loco

    source = open_genotypes(given["genotypes"])
    kernels: Any = files.given["kernels"]
    if given["loco"]:
        kernels = with_loco(given["formula"], kernels, source, progress=progress)
    return prepare_scan(
        adata, source, given["formula"], scan_options(**{name: given[name] for name in _OPTIONS}), donor=given["donor"],
        groupby=parse_groupby(given["groupby"], [str(c) for c in adata.obs.columns]), kernels=kernels,
        relmat=files.given["relmat"], **{name: given[name] for name in _CHOSEN},
    )  # fmt: skip


def _state(path: Path) -> dict[str, Any]:
    """What tells genotypes from others."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    states = [file.stat() for file in files]
    return {"genotypes": [sum(s.st_size for s in states), max(s.st_mtime_ns for s in states)]}


def described(prepared: Scan) -> str:
    """What would be scanned, as text."""
    analysis, genes = prepared.analysis, prepared.genes
    where = "all variants" if genes is None else f"variants within {prepared.options.window:,} base pairs"
    lines = [
        f"Scan: {len(analysis.variables):,} features of {analysis.response} x {prepared.genotypes.n_variants:,} variants of "
        f"{prepared.genotypes.text} ({where}), in {len(prepared.blocks()):,} blocks",
        f"Model: {analysis.formula.source}",
    ]
    for task, own in zip(analysis.tasks, prepared.donors, strict=True):
        lines.append(f"{task.name}: " + (task.reason if own is None else f"{len(own.names):,} donors"))
    return "\n".join(lines)
