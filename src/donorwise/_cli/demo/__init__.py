"""``donorwise demo``: one analysis of each family, on simulated data whose truth is known."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._cli.demo.cells import cells
from donorwise._cli.demo.counts import counts, detection, pseudobulk
from donorwise._cli.demo.peptides import peptides
from donorwise._cli.demo.relatives import eqtls, heritability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FAMILIES: dict[str, Callable[[Path, int], None]] = {
    function.__name__: function for function in (cells, pseudobulk, counts, detection, heritability, eqtls, peptides)
}
LONGEST = "peptides"  # to compile: about as long as all others together


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("donorwise-demo"),
    show_default=True,
    help="Folder for the tables and the figures; made if needed.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the simulations.")
@click.option(
    "--family",
    "families",
    type=click.Choice(list(FAMILIES)),
    multiple=True,
    help="What to show; can be given several times. Otherwise everything.",
)
def demo(out: Path, seed: int, families: Sequence[str]) -> None:
    """Simulate a cohort of 12 donors, find its disease genes, and see what a t-test on cells would report.

    Then one example of each further family of models, with the truth beside it: pseudobulk, counts, detection,
    heritability, eQTLs, peptides. The first run on a machine compiles their kernels, which takes about a minute
    on two cores.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = list(families) or list(FAMILIES)
    if LONGEST not in names or len(names) == 1:
        _show(names, out, seed)
        return
    with _meanwhile(LONGEST, out, seed) as process:
        _show([name for name in names if name != LONGEST], out, seed)
        click.echo(_said(process, LONGEST), nl=False)


def _show(names: Sequence[str], out: Path, seed: int) -> None:
    for name in names:
        FAMILIES[name](out, seed)


@contextmanager
def _meanwhile(name: str, out: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """Show a family in a process of its own, so that two cores compile."""
    command = [sys.executable, "-m", "donorwise", "demo", "--out", str(out), "--seed", str(seed), "--family", name]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, **options) as process:
        try:
            yield process
        finally:
            process.kill()  # where something else went wrong


def _said(process: subprocess.Popen[str], name: str) -> str:
    """Wait for the process, and return what it printed."""
    text, error = process.communicate()
    if process.returncode:
        raise click.ClickException(f"the part on {name} ended with status {process.returncode}:\n{error}")
    return text
