"""The command ``donorwise``."""

from __future__ import annotations

import os

import click

import donorwise as dw
from donorwise._cli.after import (
    gene_sets,
    joint_test,
    means,
    residuals,
    shrink,
    test,
    test_variance,
    variance_partition,
)
from donorwise._cli.commands import collapse, merge, report
from donorwise._cli.demo import demo
from donorwise._cli.fits import audit, composition, glmm, lmm, pseudobulk
from donorwise._cli.messages import CarefulGroup
from donorwise._cli.peptides import pivot
from donorwise._cli.scans import scan


@click.group(cls=CarefulGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dw.__version__, prog_name="donorwise")
def main() -> None:
    """Differential analysis of single-cell data in which the donor is the replicate.

    Exit status: 0 for a full result, 1 when it could not be written, 2 for input that cannot be used, 3 when the
    result is written but some groups could not be fitted, 130 when stopped with Ctrl-C.
    """
    # Figures go to files; a window system may be missing.
    os.environ.setdefault("MPLBACKEND", "Agg")


for _command in (
    demo,
    audit,
    pivot,
    collapse,
    merge,
    lmm,
    glmm,
    composition,
    pseudobulk,
    scan,
    test,
    joint_test,
    test_variance,
    means,
    shrink,
    gene_sets,
    residuals,
    variance_partition,
    report,
):
    main.add_command(_command)
