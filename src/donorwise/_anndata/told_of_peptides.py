"""What an AnnData of peptides deserves to be told before a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata.collapsed import cell_frame
from donorwise._anndata.obs import as_frame
from donorwise._anndata.response import resolve_response
from donorwise._anndata.roles import find_roles, known_columns, said_of_labels, with_labels
from donorwise._core.design.peptide_names import split_names
from donorwise._core.engine import cautions

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.engine.peptides import PeptideAnalysis
    from donorwise._typing import BoolArray


def told_of_peptides(
    adata: ad.AnnData, made: PeptideAnalysis, *, layer: str | None, mask_var: str | BoolArray | None
) -> PeptideAnalysis:
    """An analysis of peptides with its warnings; `layer` and `mask_var` are what it was made with.

    Raises
    ------
    DataError
        The values or the weights cannot be analysed.
    """
    features, roles = resolve_response(adata, layer=layer, mask_var=mask_var).features, find_roles(adata)
    columns = np.arange(adata.n_vars) if features is None else features
    obs, var = with_labels(cell_frame(adata), roles, made.formula), as_frame(adata.var)
    said = cautions.of_peptides(
        made, obs, var.iloc[columns], columns=columns, names=split_names(made.formula, obs, var),
        roles=known_columns(roles, obs),
    )  # fmt: skip
    return replace(made, warnings=(*said, *said_of_labels(adata, roles, made.formula)))
