"""Values of all cells that are made of a result: layers, or tables of ``obsm``, and the note of which are ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.read import check_format
from donorwise._anndata.sources import in_file, put_uns
from donorwise._anndata.write import holds_derived, stamped, storable_table
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import anndata as ad

    from donorwise._typing import IntArray

LAYERS, OBSM = "layers", "obsm"
_TABLE, _NAME, _SLOT = "table", "name", "slot"
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Place:
    """Where values of the cells go.

    Attributes
    ----------
    slot
        ``"layers"`` or ``"obsm"``.
    names
        What is made there, under these names.
    columns
        Shape (c,). Which column of it each column that is read is.
    labels
        Names of its columns.
    dtype
        ``"float32"`` or ``"float64"``.
    """

    slot: str
    names: tuple[str, ...]
    columns: IntArray
    labels: pd.Index
    dtype: str

    def check(self, adata: ad.AnnData, key: str, max_memory: float | None) -> None:
        """Raise unless the names, and that of the note beside the result `key`, are free or ours, and there is room.

        Raises
        ------
        DataError
            Says what is in the way, and what to do instead.
        """
        for name in self.names:
            _check_name(adata, self.slot, name)
        entry = f"{key}{keys.RESIDUALS_SUFFIX}"
        if entry in adata.uns and not holds_derived(adata, entry):
            raise DataError(
                f"adata.uns[{entry!r}] holds something that this package did not write, where dw.tl.residuals notes what it made: "
                "rename it, or fit with another key_added=."
            )
        if len(set(self.names)) < len(self.names):
            raise DataError(f"key_added= and fitted= are both {self.names[0]!r}: two things need two names.")
        if adata.is_view and in_file(adata):
            raise DataError(
                "This AnnData is a view of one in a file, which would be read whole to get a new layer: take "
                "adata.to_memory() first, or use all of it."
            )
        gb = adata.n_obs * len(self.labels) * np.dtype(self.dtype).itemsize * len(self.names) / _GB
        if max_memory is not None and gb > max_memory:
            raise DataError(self._too_large(adata.n_obs, gb, f"max_memory= is {max_memory:g} GB"))

    def empty(self, n_cells: int) -> list[np.ndarray[Any, Any]]:
        """An array of NaN for each name.

        Raises
        ------
        DataError
            There is no room for them.
        """
        try:
            return [np.full((n_cells, len(self.labels)), np.nan, dtype=self.dtype) for _ in self.names]
        except MemoryError as error:
            gb = n_cells * len(self.labels) * np.dtype(self.dtype).itemsize * len(self.names) / _GB
            raise DataError(self._too_large(n_cells, gb, "there is not that much")) from error

    def _too_large(self, n_cells: int, gb: float, but: str) -> str:
        return (
            f"{' and '.join(self.names)}: {n_cells:,} cells x {len(self.labels):,} features take {gb:,.3g} GB as {self.dtype}, and {but}. "
            "Choose features with variables=, or write them to a file: donorwise residuals --out FILE.h5ad (or .zarr)."
        )

    def write(self, adata: ad.AnnData, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Put them into the AnnData."""
        for name, values in zip(self.names, arrays, strict=True):
            table = self.slot == OBSM
            made = pd.DataFrame(values, index=adata.obs_names, columns=self.labels) if table else values
            getattr(adata, self.slot)[name] = made  # of a view the first makes a copy, which has other slots


def note_made(adata: ad.AnnData, key: str, place: Place, what: Sequence[str], removed: str) -> None:
    """Note what was made of the result `key`, so that it may be replaced: `what` each of the names is, without which terms."""
    table = pd.DataFrame({_NAME: place.names, _SLOT: place.slot, "what": what, "remove": removed})
    entry = f"{key}{keys.RESIDUALS_SUFFIX}"
    if holds_derived(adata, entry):
        before = pd.DataFrame(adata.uns[entry][_TABLE]).astype(str)
        table = pd.concat([before[~_same(before, table)], table], ignore_index=True)
    put_uns(adata, entry, stamped({_TABLE: storable_table(table)}))


def _same(table: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Which rows are of a name and slot of the other table."""
    own, theirs = (pd.MultiIndex.from_frame(t[[_NAME, _SLOT]].astype(str)) for t in (table, other))
    return pd.Series(own.isin(theirs), index=table.index)


def _check_name(adata: ad.AnnData, slot: str, name: object) -> None:
    if not isinstance(name, str) or not name or "/" in name:
        raise DataError(
            f"{name!r} cannot name an entry of {slot}: it must be text without '/', which files treat as a folder."
        )
    if name in getattr(adata, slot) and (name, slot) not in _made(adata):
        raise DataError(
            f"adata.{slot}[{name!r}] holds something that dw.tl.residuals did not make; choose another name (key_added=, fitted=)."
        )


def _made(adata: ad.AnnData) -> set[tuple[str, str]]:
    """Name and slot of all that was made of any result."""
    found = set()
    for key in adata.uns:
        if str(key).endswith(keys.RESIDUALS_SUFFIX) and holds_derived(adata, key):
            check_format(adata.uns[key], key)
            table = pd.DataFrame(adata.uns[key][_TABLE])
            if {_NAME, _SLOT} <= set(table.columns):
                found |= set(zip(table[_NAME].astype(str), table[_SLOT].astype(str), strict=True))
    return found
