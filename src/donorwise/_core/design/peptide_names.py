"""Names of a formula for peptides: which are columns of obs (of runs), and which of var (of peptides)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.design.terms import check_plain_names, missing_column, pointing_at
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.formula import ParsedFormula

PEPTIDE = "peptide"
"""What a formula calls the rows of var, unless a column of var has that name."""


class Names(NamedTuple):
    """Columns of a formula by where they are, in its order; ``peptide`` is one of peptides."""

    of_runs: list[str]
    of_peptides: list[str]


def split_names(parsed: ParsedFormula, obs: pd.DataFrame, var: pd.DataFrame, features: str = "") -> Names:
    """The columns that a formula reads, those of obs and those of var.

    Parameters
    ----------
    parsed
        The formula.
    obs
        N rows, one for each run.
    var
        P rows, one for each peptide, whose names are those of the peptides.
    features
        Column of var with the protein of each peptide, which has one value in any model; empty where it is no column.

    Raises
    ------
    DesignError
        A name is in neither table, in both, or several times in one; or it is the protein's.
    """
    known = ([str(c) for c in obs.columns], [PEPTIDE, *(str(c) for c in var.columns if c != PEPTIDE)])
    check_plain_names(list(dict.fromkeys([*known[0], *known[1]])), parsed.source)
    names = Names([], [])
    for name in parsed.columns:
        _check_name(name, obs, var, known, parsed.source, features)
        (names.of_runs if name in known[0] else names.of_peptides).append(name)
    return names


def _check_name(
    name: str, obs: pd.DataFrame, var: pd.DataFrame, known: tuple[list[str], list[str]], source: str, features: str
) -> None:
    """Raise unless a name is in one of the two tables, once."""
    place = pointing_at(name, source)
    for table, columns in (("obs", obs.columns), ("var", var.columns)):
        if (count := int(np.sum(columns == name))) > 1:
            raise DesignError(f"{table} has {count} columns named `{name}`; names in a formula must be unique.{place}")
    if name in known[0] and name in known[1]:
        raise DesignError(_in_both(name, name in var.columns) + place)
    if name not in known[0] and name not in known[1]:
        raise DesignError(missing_column(name, [*known[0], *known[1]], source, "obs or of var"))
    if name == features:
        raise DesignError(
            f"`{name}` has one value in each model, for features={name!r} gives every protein a model of its own; leave it "
            f"out of the formula.{place}"
        )


def _in_both(name: str, is_column: bool) -> str:
    """Say that a name means two things, and how to give one of them another."""
    if is_column:
        return (
            f"`{name}` is a column of obs (runs) and of var (peptides), and only you know which is meant; rename one of them, "
            f"such as `adata.var = adata.var.rename(columns={{{name!r}: {f'{name}_of_peptide'!r}}})`."
        )
    return (
        f"`{name}` is a column of obs, and in a model of peptides it means the peptides themselves (the names of var); rename "
        f"the column, such as `adata.obs = adata.obs.rename(columns={{{name!r}: {f'{name}_of_run'!r}}})`."
    )
