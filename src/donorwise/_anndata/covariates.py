"""Correlations of the covariates in obs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata.collapsed import cell_frame
from donorwise._anndata.roles import find_roles
from donorwise._core.design.covariates import correlations, covariates_read
from donorwise._core.design.formula import parse
from donorwise._core.design.replicates import replicate
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def covariate_correlations(
    adata: ad.AnnData, columns: str | Sequence[str], donor: str | None, sample: str | None
) -> pd.DataFrame:
    """See :func:`donorwise.get.covariates`."""
    parsed = parse(columns) if isinstance(columns, str) and "~" in columns else None
    roles = find_roles(adata)
    known = {role: roles[role].column for role in ("donor", "sample") if role in roles}
    donors = next(filter(None, [donor, known.get("donor")]), "")
    own = (donors,) if donors or parsed is None else replicate([bar.group for bar in parsed.bars])
    if not any(own):
        raise DesignError("No column is known to be the donor: name it with donor=, or with adata.donorwise.setup().")
    sample = known.get("sample", "") if sample is None else sample
    units = list(filter(None, [*own, sample]))
    given = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    names = given if parsed is None else covariates_read(parsed, units)
    if len(names) < 2:
        raise DesignError(
            f"Correlations need two covariates or more, and {columns!r} has {names[0] if names else 'none'!r} beside the "
            "donors and samples themselves."
        )
    return correlations(cell_frame(adata, [*units, *names]), names, own, sample)
