"""From a source and a stored result to a file with the answer: what the commands after the fit have in common."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import TABLES, check_output, fingerprint, reading, write_anndata, write_table
from donorwise._batch.records import finished_run, run_record, write_record
from donorwise._cli import messages, options
from donorwise._cli.messages import FAILED_GROUPS
from donorwise._core.files import locked

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import pandas as pd

    Ask = Callable[[ad.AnnData, str, bool], str | None]
    Read = Callable[[ad.AnnData, str], pd.DataFrame]
    Make = Callable[[ad.AnnData, str, bool, Path], int]

logger = logging.getLogger("donorwise")


def answer(ctx: click.Context, given: dict[str, Any], make: Make, ending: tuple[str, ...] = TABLES) -> None:
    """Read, have the file made, leave a record beside it, and end with the exit status.

    Parameters
    ----------
    ctx, given
        The command and its options.
    make
        Writes the file and returns how many rows it has, of an AnnData, the key of the result, whether to show progress, and
        the file's path.
    ending
        What the name of the file may end in.
    """
    from donorwise._batch.after import read_with_result, response_in, unfitted

    progress = messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    source, results = given["source"], given.get("results")
    out = check_output(given["out"], ending, [path for path in (source, results) if path is not None])
    with locked(out):
        finished_run(out, {}, resume=False, overwrite=False)
        logger.info("Reading %s.", source)
        adata, key = read_with_result(source, results, given["key"])
        told = fingerprint(source, adata)
        with reading(source, response_in(adata, key)):
            _prepare(adata, given)
            n_rows = make(adata, key, progress, out)
        failed = unfitted(adata, key)
        if failed:
            logger.warning("%d of %d groups could not be fitted.", *failed)
        record = run_record(str(ctx.info_name), _chosen(given), told, {"rows": n_rows}, messages.warnings_said())
        write_record(record, out)
    logger.info("Wrote %s rows to %s.", f"{n_rows:,}", out, extra={"data": {"event": "end"}})
    ctx.exit(FAILED_GROUPS if failed else 0)


def _prepare(adata: ad.AnnData, given: dict[str, Any]) -> None:
    """Declare the donor and add the column of --log-depth, as the command that fitted did."""
    from donorwise import pp

    if given.get("donor"):
        adata.donorwise.setup(donor=given["donor"])
    if given.get("log_depth"):
        pp.log_depth(adata, layer=given["counts_layer"], normalize=given["depth_normalize"])


def _chosen(given: dict[str, Any]) -> dict[str, Any]:
    """The options that the record keeps."""
    paths = {n: str(Path(given[n]).resolve()) for n in ("source", "results", "sets", "out") if given.get(n)}
    return {name: value for name, value in given.items() if name not in options.MANNERS} | paths


def table(ask: Ask, read: Read) -> Make:
    """What writes a table, or the result that holds it.

    Parameters
    ----------
    ask
        Puts the answer into the AnnData and returns the key that it is under; None for that of the result.
    read
        The table of it.
    """

    def make(adata: ad.AnnData, key: str, progress: bool, out: Path) -> int:
        from donorwise._batch.after import without_cells

        key = ask(adata, key, progress) or key
        found = read(adata, key)
        if out.suffix == ".h5ad":
            write_anndata(without_cells(adata, key), out)
        else:
            write_table(found, out)
        return len(found)

    return make
