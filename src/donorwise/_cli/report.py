"""``donorwise report``."""

from __future__ import annotations

from pathlib import Path

import click

from donorwise._batch.outputs import OutputError, reason
from donorwise._cli.options import PATH


@click.command()
@click.argument("results", type=PATH)
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="False discovery rate.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Features to list.")
@click.option("--key", help="Entry of uns, where an .h5ad holds several results.")
@click.option("--plots", type=PATH, metavar="DIR", help="Folder for a volcano plot of every contrast; made if needed.")
def report(results: Path, alpha: float, top: int, key: str | None, plots: Path | None) -> None:
    """Summarise RESULTS (.parquet, .csv or .h5ad) in markdown on stdout."""
    from donorwise._batch.report import draw_volcanoes, read_any, summarise

    adata, found = read_any(results, key)
    click.echo(summarise(adata, found, alpha=alpha, top=top))
    if plots is None:
        return
    try:
        plots.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {plots} could not be made: {reason(error)}.") from error
    for path in draw_volcanoes(adata, found, plots, alpha=alpha):
        click.echo(f"Wrote {path}", err=True)
