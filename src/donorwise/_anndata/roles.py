"""Which column of obs is the donor, the cell type, the sample: as declared, or else guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata.collapsed import cell_count
from donorwise._anndata.obs import as_frame, check_obs_columns, obs_frame
from donorwise._anndata.read import read_settings
from donorwise._core.design.lost import read_as_labels
from donorwise._core.design.replicates import leaves_out
from donorwise._core.design.terms import check_obs, read_column
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

    from donorwise._core.design.formula import ParsedFormula

# Best name first; letter case and the marks between words do not count.
# A condition or a batch is the question itself, so they are never guessed.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "donor": (
        *("donor_id", "donor", "donor_uuid", "patient_id", "patient", "subject_id", "subject"),
        *("individual_id", "individual", "participant_id", "participant", "mouse_id", "mouse", "animal_id", "animal"),
    ),
    "cell_type": ("cell_type", "cell_types", "celltype", "celltypes", "cell_type_ontology_term_id", "cell_label"),
    "sample": ("sample_id", "sample", "samples", "specimen_id", "specimen", "library_id"),
}
LABELS = ("donor", "sample", "batch", "cell_type")
"""Roles whose numbers are labels."""
AUDITED = ("sample", "batch")
"""Roles of which an audit speaks where the formula leaves them out."""


@dataclass(frozen=True, slots=True)
class Role:
    """The column of obs that plays a role.

    Attributes
    ----------
    column
        Its name; ``""`` where several columns could be meant.
    guessed
        Whether it was guessed rather than declared by ``setup``.
    candidates
        Columns with a usual name that tell the cells apart differently.
    """

    column: str
    guessed: bool
    candidates: tuple[str, ...] = ()


def find_roles(adata: ad.AnnData) -> dict[str, Role]:
    """Return the roles that are declared or can be guessed; never raises for a column that is not there."""
    roles = {role: Role(column, guessed=False) for role, column in read_settings(adata).items()}
    for role in USUAL_NAMES:
        if role not in roles and (candidates := _candidates(adata, role)):
            ambiguous = len(candidates) > 1
            roles[role] = Role("" if ambiguous else candidates[0], guessed=True, candidates=candidates)
    return roles


def known_columns(roles: Mapping[str, Role], obs: pd.DataFrame) -> dict[str, str]:
    """Columns of `obs` that are the sample and the batch, where that is known: what an audit can use beside the formula."""
    return {name: roles[name].column for name in AUDITED if name in roles and roles[name].column in obs.columns}


def labels_in_numbers(obs: pd.DataFrame, roles: Mapping[str, Role], parsed: ParsedFormula) -> dict[str, str]:
    """Columns of numbers that are the donor, sample, batch or cell type, which the formula names as they are: their roles.

    A slope over the numbers of batches says nothing; inside a function (``log(batch)``) a number stays one.
    """
    named = {roles[role].column: role for role in LABELS if role in roles and roles[role].column in obs.columns}
    return {name: role for name, role in named.items() if _is_number(obs[name]) and parsed.reads_alone(name)}


def with_labels(obs: pd.DataFrame, roles: Mapping[str, Role], parsed: ParsedFormula) -> pd.DataFrame:
    """The table with :func:`labels_in_numbers` as labels."""
    found = labels_in_numbers(obs, roles, parsed)
    return obs.assign(**{n: read_column(obs[n], n, categorical=True) for n in found}) if found else obs


def said_of_labels(adata: ad.AnnData, roles: Mapping[str, Role], parsed: ParsedFormula) -> tuple[str, ...]:
    """What is taken for labels though it is numbers and the formula does not say ``C(...)``, a sentence each."""
    found = labels_in_numbers(as_frame(adata.obs), roles, parsed)
    asked = read_as_labels(parsed)
    return tuple(
        f"The numbers of `{name}`, the {role.replace('_', ' ')}, are taken for labels; to have it without this notice: "
        f"adata.obs[{name!r}] = adata.obs[{name!r}].astype('category')."
        for name, role in found.items()
        if name not in asked
    )


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def known_donor(adata: ad.AnnData, roles: Mapping[str, Role], parsed: ParsedFormula) -> str:
    """The column that is the donor: as declared, or guessed where the formula uses it or misses it; empty for neither.

    A guess does not count where the formula has the same donors, or units inside them, under another name.

    Raises
    ------
    DesignError
        The formula's grouping factors or the declared donor are not in obs.
    """
    role = roles.get("donor")
    if role is None or not role.column:
        return ""
    if not role.guessed:
        check_obs_columns(adata, [role.column])
        return role.column
    check_obs(pd.DataFrame(columns=list(adata.obs.columns)), parsed.groups, parsed.source)
    if role.column in parsed.groups:
        return role.column
    obs = obs_frame(adata, [*parsed.groups, role.column])
    return role.column if leaves_out([bar.group for bar in parsed.bars], obs, role.column) else ""


def check_setup(adata: ad.AnnData, settings: Mapping[str, str]) -> None:
    """Raise unless the columns are there and the donor column can be one.

    Raises
    ------
    DesignError
        A column is not in obs, or the donor column has one level, or one level per cell.
    """
    check_obs_columns(adata, settings.values())
    if "donor" not in settings:
        return
    n_levels = obs_frame(adata, [settings["donor"]])[settings["donor"]].nunique()
    if n_levels < 2:
        raise DesignError(f"The donor column {settings['donor']!r} has {n_levels} level: nothing is replicated.")
    if n_levels == cell_count(adata):
        raise DesignError(f"The donor column {settings['donor']!r} has another level for every cell.")


def _candidates(adata: ad.AnnData, role: str) -> tuple[str, ...]:
    """Columns with a usual name, best first, one of each set that says the same about the cells."""
    by_name = {_normal(str(column)): str(column) for column in reversed(list(adata.obs.columns))}
    found = [by_name[_normal(name)] for name in USUAL_NAMES[role] if _normal(name) in by_name]
    distinct: list[str] = []
    for column in dict.fromkeys(found):
        if not any(_same_partition(adata, column, other) for other in distinct):
            distinct.append(column)
    return tuple(distinct)


def _normal(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _same_partition(adata: ad.AnnData, one: str, other: str) -> bool:
    pairs = obs_frame(adata, [one, other])
    codes = np.column_stack([pd.factorize(pairs[column])[0] for column in (one, other)])
    n_pairs = len(np.unique(codes, axis=0))
    return bool(n_pairs == len(np.unique(codes[:, 0])) == len(np.unique(codes[:, 1])))
