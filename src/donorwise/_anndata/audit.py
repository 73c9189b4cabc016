"""The audit of a formula on the cells of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata.collapsed import cell_frame, columns_read
from donorwise._anndata.depth import cell_depth
from donorwise._anndata.origin import is_collapsed, read_origin
from donorwise._anndata.response import counts_layer
from donorwise._anndata.roles import find_roles, known_columns, known_donor
from donorwise._core.design.audit import audit
from donorwise._core.design.formula import parse

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.design.audit import Audit
    from donorwise._core.design.formula import ParsedFormula


def audit_cells(adata: ad.AnnData, formula: str | ParsedFormula) -> Audit:
    """What the design of cells, or of collapsed rows, can answer; see :meth:`DonorwiseAccessor.audit`."""
    parsed, roles = parse(formula), find_roles(adata)
    donor = known_donor(adata, roles, parsed) or None
    by = read_origin(adata).by if is_collapsed(adata) else ()
    obs = cell_frame(adata, columns_read(adata, parsed, [*([donor] if donor else []), *by]))
    known = known_columns(roles, obs)
    return audit(parsed, obs, depth=cell_depth(adata), donor=donor, counts=counts_layer(adata), **known)
