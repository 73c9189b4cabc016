"""The commands for what is asked after a fit, of the cells and the result of another command."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import TABLES, check_output, fingerprint, reading, write_anndata, write_table
from donorwise._batch.records import finished_run, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.options import PATH
from donorwise._core.files import locked
from donorwise._typing import DDF, GLMM_DDF
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import pandas as pd

    Ask = Callable[[ad.AnnData, str, bool], str | None]
    Read = Callable[[ad.AnnData, str], pd.DataFrame]

logger = logging.getLogger("donorwise")

RESULT = options.add(
    click.option(
        "--results",
        type=PATH,
        metavar="PATH",
        help="The .h5ad of the fit; absent where SOURCE itself holds the result.",
    ),
    click.option("--key", help="Entry of uns that holds the result, where there are several."),
)
MODEL_DDF = click.option(
    "--ddf",
    type=click.Choice(list(dict.fromkeys([*DDF, *GLMM_DDF]))),
    help="Degrees of freedom; as in the fit if absent.",
)
RUN = options.add(
    options.OUT_TABLE, options.N_JOBS, options.COUNTS_LAYER, options.LOG_DEPTH, options.DONOR, options.CONFIG, options.QUIET,
    options.LOG_JSON,
)  # fmt: skip


@click.command()
@options.add(options.SOURCE, RESULT, options.CONTRAST, MODEL_DDF)
@click.option("--min-log-fc", type=click.FloatRange(min=0), help="Test whether a log2 fold change is larger than this.")
@click.option("--min-effect", type=click.FloatRange(min=0), help="The same in units of the estimates.")
@options.add(options.MAX_MEMORY, RUN)
@click.pass_context
def test(ctx: click.Context, /, **given: Any) -> None:
    """Test further contrasts of the models that another command fitted to SOURCE; with --ddf or a minimal effect anew."""
    from donorwise import get, tl
    from donorwise._batch.run import parse_contrast

    other = given["ddf"] or given["min_log_fc"] is not None or given["min_effect"] is not None

    def ask(adata: ad.AnnData, key: str, progress: bool) -> str:
        contrasts = [parse_contrast(text, adata.obs) for text in given["contrast"]] or None
        if contrasts is None and not other:
            raise DataError("Nothing is asked: give --contrast, --ddf or a minimal effect.")
        names = ("ddf", "min_log_fc", "min_effect", "n_jobs", "max_memory")
        tl.test(
            adata, contrasts, key=key, key_added="test" if other else None, progress=progress,
            **{name: given[name] for name in names},
        )  # fmt: skip
        return "test" if other else key

    answer(ctx, given, ask, lambda adata, key: get.tests(adata, key=key, sort_by=None))


def answer(ctx: click.Context, given: dict[str, Any], ask: Ask, read: Read) -> None:
    """Read, ask, write, and leave a record beside it.

    Parameters
    ----------
    ctx, given
        The command and its options.
    ask
        Puts the answer into the AnnData and returns the key that it is under; None for that of the result.
    read
        The table of it.
    """
    from donorwise import pp
    from donorwise._batch.after import read_with_result, without_cells

    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    source, results = given["source"], given["results"]
    out = check_output(given["out"], TABLES, [path for path in (source, results) if path is not None])
    with locked(out), reading(source, "X"):
        finished_run(out, {}, resume=False, overwrite=False)
        logger.info("Reading %s.", source)
        adata, key = read_with_result(source, results, given["key"])
        told = fingerprint(source, adata)
        if given["donor"]:
            adata.donorwise.setup(donor=given["donor"])
        if given["log_depth"]:
            pp.log_depth(adata, layer=given["counts_layer"], normalize=given["depth_normalize"])
        key = ask(adata, key, progress) or key
        table = read(adata, key)
        if out.suffix == ".h5ad":
            write_anndata(without_cells(adata, key), out)
        else:
            write_table(table, out)
        paths = {name: str(Path(given[name]).resolve()) for name in ("source", "results", "out") if given[name]}
        chosen = {name: value for name, value in given.items() if name not in options.MANNERS} | paths
        write_record(run_record(str(ctx.info_name), chosen, told, {"rows": len(table)}, messages.warnings_said()), out)
    logger.info("Wrote %s rows to %s.", f"{len(table):,}", out, extra={"data": {"event": "end"}})
