"""The command that makes an AnnData from a table of peptides."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import check_output, files_in, state, write_anndata
from donorwise._batch.records import finished_run, run_record, write_record
from donorwise._cli import messages, options
from donorwise._core.files import locked
from donorwise._core.reports.kinds import NAMES
from donorwise._core.reports.layout import AGGREGATES
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

    from donorwise._core.reports.kinds import Rule

logger = logging.getLogger("donorwise")
_PIVOT = ("kind", "obs", "var", "values", "layers", "var_columns", "obs_columns", "aggregate", "decimal")
_QUALITY = "quality"
_WORDS: Mapping[str, bool | None] = {"yes": True, "true": True, "no": False, "false": False, "none": None}


def _rule(text: str) -> Rule | None:
    """What ``--filter COLUMN=`` says: a limit, two with a colon between them, yes or no, none, or a label."""
    if text.casefold() in _WORDS:
        return _WORDS[text.casefold()]
    low, colon, high = text.partition(":")
    with suppress(ValueError):
        if not colon:
            return float(text)
        return float(low) if low else None, float(high) if high else None
    return text


@click.command()
@options.add(options.SOURCE, options.OUT_H5AD)
@click.option("--kind", type=click.Choice(NAMES), help="The program that wrote SOURCE; told by its columns if absent.")
@click.option("--obs", metavar="A,B,…", multiple=True, callback=options.names_or_none, help="Column of the runs.")
@click.option(
    "--var", metavar="A,B,…", multiple=True, callback=options.names_or_none,
    help="Column of the precursors; several make the name together.",
)  # fmt: skip
@click.option("--values", metavar="COLUMN", help="Column of the intensities.")
@click.option(
    "--layer", "layers", metavar="NAME=COLUMN", multiple=True, callback=options.named_texts,
    help="A further column of numbers, as a layer of this name. Repeatable.",
)  # fmt: skip
@click.option(
    "--var-columns", metavar="A,B,…", multiple=True, callback=options.names_or_none,
    help="Columns for var, the one with the proteins first.",
)  # fmt: skip
@click.option("--obs-columns", metavar="A,B,…", multiple=True, callback=options.names_or_none, help="Columns for obs.")
@click.option(
    "--filter", "filters", metavar="COLUMN=RULE", multiple=True, callback=options.named_texts,
    help="Rows to keep: Q.Value=0.01 (an upper limit), Quantity.Quality=0.5:1, Decoy=no, or a label; none takes a usual one "
    "away. Repeatable.",
)  # fmt: skip
@click.option(
    "--aggregate", type=click.Choice(AGGREGATES), default="error", show_default=True,
    help="What is done with several rows of one run and precursor.",
)  # fmt: skip
@click.option(
    "--log", metavar="2|e|10|none", default="2", show_default=True, help="Base of the logarithm that is taken."
)
@click.option("--decimal", type=click.Choice([".", ","]), default=".", show_default=True, help="Decimal sign in text.")
@click.option(
    "--weights", type=click.Choice(["diann", "sd", "variance", "score"]),
    help="Make the layer weights of precision weights from the layer quality, which holds this.",
)  # fmt: skip
@click.option("--features", metavar="COLUMN", help="Column of var with the proteins, for --weights score.")
@options.add(options.CONFIG, options.QUIET, options.LOG_JSON)
@click.pass_context
def pivot(ctx: click.Context, /, **given: Any) -> None:
    """Make an .h5ad of runs x precursors from SOURCE, a long table of DIA-NN, Spectronaut, MaxQuant or MSstats."""
    messages.set_up(ctx, quiet=given["quiet"], as_json=given["log_json"])
    if given["weights"] == "score" and not given["features"]:
        raise DataError(
            "--weights score learns from residuals within proteins: --features names the column of var with these."
        )
    source, out = given["source"], check_output(given["out"], (".h5ad",), [given["source"]])
    chosen = {name: value for name, value in given.items() if name not in options.MANNERS}
    with locked(out):
        finished_run(out, {}, resume=False, overwrite=False)
        made = _made(source, given)
        write_anndata(made, out)
        told = {"path": str(source.resolve()), **state(files_in(source))}
        paths = {"source": told["path"], "out": str(out.resolve())}
        result = {"runs": int(made.n_obs), "precursors": int(made.n_vars)}
        write_record(run_record("pivot", chosen | paths, told, result, messages.warnings_said()), out)
    logger.info(
        "Wrote %s runs x %s precursors to %s.",
        f"{made.n_obs:,}",
        f"{made.n_vars:,}",
        out,
        extra={"data": {"event": "end"}},
    )


def _made(source: Path, given: dict[str, Any]) -> ad.AnnData:
    from donorwise import pp

    filters = {name: _rule(text) for name, text in (given["filters"] or {}).items()}
    log = None if given["log"].casefold() == "none" else given["log"]
    made = pp.pivot(source, filters=filters, log=log, **{name: given[name] for name in _PIVOT})
    if given["weights"]:
        if _QUALITY not in made.layers:
            raise DataError(
                f"--weights reads the layer {_QUALITY}, for which {source} has no usual column: name one with "
                f"--layer {_QUALITY}=COLUMN."
            )
        pp.quality_weights(made, _QUALITY, given["weights"], features=given["features"])
    return made
