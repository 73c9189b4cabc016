"""From the long table of a program of proteomics to an AnnData of runs x precursors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad

from donorwise._anndata import keys, write_tables
from donorwise._anndata.scale import check_log_base
from donorwise._core.reports.kinds import Plan, Rule, plan_of
from donorwise._core.reports.layout import AGGREGATES, EXCLUDED, lay_out
from donorwise._core.reports.tables import open_report
from donorwise._typing import check_option
from donorwise.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def pivot(
    report: pd.DataFrame | str | os.PathLike[str],
    *,
    kind: Literal["diann", "spectronaut", "maxquant", "msstats"] | None = None,
    obs: str | Sequence[str] | None = None,
    var: str | Sequence[str] | None = None,
    values: str | None = None,
    layers: Mapping[str, str] | None = None,
    var_columns: str | Sequence[str] | None = None,
    obs_columns: str | Sequence[str] | None = None,
    filters: Mapping[str, Rule | None] | None = None,
    exclude: Sequence[str] = EXCLUDED,
    aggregate: Literal["error", "max", "sum", "median"] = "error",
    log: float | Literal["e"] | None = 2,
    decimal: Literal[".", ","] = ".",
) -> ad.AnnData:
    """Make an AnnData of runs x precursors from a table with a row for every measurement.

    The tables of DIA-NN, Spectronaut, MaxQuant (``evidence.txt``, and the wide ``peptides.txt``) and MSstats (also as
    FragPipe writes it) are known by their columns; what is given takes the place of what is usual for them.

    Parameters
    ----------
    report
        A DataFrame (of pandas, or polars or pyarrow), or the path of a file: ``.parquet`` (which needs pyarrow, the extra
        ``parquet``), or text, ``.tsv``, ``.csv``, ``.txt`` or ``.xls`` as Spectronaut calls it, also packed (``.gz``).
    kind
        The program that wrote it; None tells it by the columns.
    obs
        Column of the runs, or several whose values make the name together, such as ``["Run", "Channel"]``.
    var
        Column of the precursors (or peptides), or several, such as ``["Modified sequence", "Charge"]``.
    values
        Column of the intensities; of a wide table how these columns begin (``"LFQ intensity"``).
    layers
        Further columns of numbers by the name of their layer, such as ``{"quality": "Quantity.Quality"}``.
    var_columns
        Columns that say something of precursors, for `var`; the first one holds the proteins.
    obs_columns
        Columns that say something of runs, for `obs`.
    filters
        Rows to keep, by column: an upper limit (``{"Q.Value": 0.01}``), a lower and an upper one (``(0.5, None)``), a flag
        (``{"Decoy": False}``), a label or several. They are added to what is usual; None takes one of these away.
    exclude
        Beginnings of the names of contaminants and decoys, in any capitals: precursors with such a protein (or one of several, with
        semicolons between them) are left out. ``()`` keeps all.
    aggregate
        What is done with several rows of one run and precursor: an error, the row with the largest value, or the sum or median
        of the values with the median of the layers.
    log
        Base of the logarithm that is taken of the values; None takes them as they are.
    decimal
        Decimal sign of numbers in text.

    Returns
    -------
    An AnnData, of runs and precursors sorted by name.

    - ``X``: logarithms of the intensities, NaN where nothing was measured.
    - ``layers``: aligned with X, NaN where X is.
    - ``obs``: the column (or columns) of `obs`, so that formulas can name the run, and `obs_columns`.
    - ``var``: `var_columns`, and the columns of `var` if they are several.
    - ``uns["pivot"]["params"]``: what was taken, and ``log_base``, by which :func:`donorwise.tl.lmm` knows the scale of X.

    Raises
    ------
    DataError
        A column is not there, numbers are none (a decimal comma), rows repeat, what is said of a run or precursor differs
        between its rows, or nothing remains.

    Notes
    -----
    Zeros are missing values, as MaxQuant writes them, and of Spectronaut all up to 1; with ``log=None`` zeros are kept where
    other values are below zero.

    ======================== ============================ ===================================== ==========================
    program                  obs, var                     values, layers                        kept
    ======================== ============================ ===================================== ==========================
    DIA-NN                   ``Run``, ``Precursor.Id``    ``Precursor.Normalised``;             ``Q.Value``,
                                                          `quality`: ``Quantity.Quality``       ``Global.Q.Value`` and
                                                                                                ``Lib.Q.Value`` up to .01,
                                                                                                no ``Decoy``
    Spectronaut              ``R.FileName``,              ``EG.TotalQuantity (Settings)``, else ``EG.Qvalue`` and
                             ``EG.PrecursorId``           ``FG.Quantity`` or peak areas         ``PG.Qvalue`` up to .01, no
                                                                                                decoy, not imputed
    MaxQuant, evidence.txt   ``Raw file``; ``Modified     ``Intensity``                         no ``Reverse``, no
                             sequence`` and ``Charge``                                          ``Potential contaminant``
    MaxQuant, peptides.txt   endings of the columns,      ``Intensity <run>``                   as above
                             called ``Experiment``;
                             ``Sequence``
    MSstats                  ``Run``; ``PeptideSequence`` ``Intensity``                         all
                             and ``PrecursorCharge``
    ======================== ============================ ===================================== ==========================

    Proteins are in the first of `var_columns`: ``Protein.Group``, ``PG.ProteinGroups``, ``Leading razor protein`` or
    ``ProteinName``; that is what ``features=`` of the models takes.

    Examples
    --------
    >>> import donorwise as dw
    >>> import pandas as pd
    >>> report = pd.DataFrame(
    ...     {
    ...         "Run": ["r1", "r1", "r2"],
    ...         "Precursor.Id": ["AAK2", "LLR2", "AAK2"],
    ...         "Protein.Group": ["P1", "P1", "P1"],
    ...         "Precursor.Normalised": [1024.0, 4096.0, 2048.0],
    ...         "Quantity.Quality": [0.9, 0.8, 0.7],
    ...         "Q.Value": [0.001, 0.002, 0.001],
    ...     }
    ... )
    >>> peptides = dw.pp.pivot(report)
    >>> peptides.to_df()
    AAK2  LLR2
    r1  10.0  12.0
    r2  11.0   NaN
    >>> peptides.layers["quality"]
    array([[0.9, 0.8],
           [0.7, nan]])
    """
    check_option("aggregate", aggregate, AGGREGATES)
    base = check_log_base(log, "log")
    for name in layers or ():
        if not name or "/" in name:
            raise DataError(f"layers: {name!r} cannot name a layer; files treat '/' as a folder.")
    opened = open_report(report, decimal)
    plan = plan_of(
        opened.columns, opened.source, kind=kind, obs=obs, var=var, values=values, layers=layers, var_columns=var_columns,
        obs_columns=obs_columns, filters=filters,
    )  # fmt: skip
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    made = lay_out(opened, plan, log_base=base, exclude=exclude, aggregate=aggregate, decimal=decimal)
    adata = ad.AnnData(made.values, obs=made.obs, var=made.var, layers=made.layers)
    write_tables(adata, keys.PIVOT, tables={}, params=_params(plan, base, aggregate, exclude))
    return adata


def _params(plan: Plan, base: float | None, aggregate: str, exclude: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": plan.kind,
        "obs": list(plan.obs),
        "var": list(plan.var),
        "values": plan.values,
        "layers": dict(plan.layers),
        "filters": {name: str(rule) for name, rule in plan.filters.items()},
        "exclude": list(exclude),
        "aggregate": aggregate,
        keys.LOG_BASE: 0.0 if base is None else base,
    }
