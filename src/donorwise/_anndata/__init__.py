"""The only code that reads or writes the slots of an AnnData."""

from __future__ import annotations

from donorwise._anndata.collapsed import cell_count, cell_frame, columns_read, read_cells, read_counts, read_rows
from donorwise._anndata.genotypes import open_genotypes
from donorwise._anndata.obs import check_obs_columns, obs_frame, read_colors, suggest
from donorwise._anndata.origin import is_collapsed, read_origin
from donorwise._anndata.read import (
    Results,
    check_has_cells,
    check_is_anndata,
    holds_tables,
    list_results,
    read_params,
    read_results,
    read_settings,
    read_tables,
)
from donorwise._anndata.response import (
    Response,
    column_values,
    counts_layer,
    examined,
    looks_like_counts,
    matrix_and_text,
    resolve_response,
    response_of,
)
from donorwise._anndata.roles import Role, check_setup, find_roles
from donorwise._anndata.scan_results import StoredScan, read_scan, write_scan
from donorwise._anndata.sources import open_source
from donorwise._anndata.summary import (
    cell_depth,
    cell_values,
    count_depth,
    donor_summary,
    donor_table,
    group_means,
    row_values,
    summarise,
)
from donorwise._anndata.symbols import Symbols, symbols_of
from donorwise._anndata.write import (
    InfluenceTables,
    check_free,
    check_key,
    copied,
    read_every_test,
    read_influence,
    read_power,
    write_influence,
    write_power,
    write_results,
    write_settings,
    write_tables,
)

__all__ = [
    "InfluenceTables",
    "Response",
    "Results",
    "Role",
    "StoredScan",
    "Symbols",
    "cell_count",
    "cell_depth",
    "cell_frame",
    "cell_values",
    "check_free",
    "check_has_cells",
    "check_is_anndata",
    "check_key",
    "check_obs_columns",
    "check_setup",
    "column_values",
    "columns_read",
    "copied",
    "count_depth",
    "counts_layer",
    "donor_summary",
    "donor_table",
    "find_roles",
    "group_means",
    "holds_tables",
    "is_collapsed",
    "list_results",
    "looks_like_counts",
    "matrix_and_text",
    "obs_frame",
    "open_genotypes",
    "open_source",
    "read_colors",
    "read_cells",
    "read_counts",
    "read_every_test",
    "read_influence",
    "read_origin",
    "read_params",
    "read_power",
    "read_results",
    "read_rows",
    "read_scan",
    "read_settings",
    "read_tables",
    "examined",
    "resolve_response",
    "response_of",
    "row_values",
    "suggest",
    "summarise",
    "symbols_of",
    "write_influence",
    "write_power",
    "write_results",
    "write_scan",
    "write_settings",
    "write_tables",
]
