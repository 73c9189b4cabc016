"""Elements of files, without those whose encoding is unknown here: a newer or another package may have written them."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad

logger = logging.getLogger("donorwise")


class UnknownEncodingError(Exception):
    """An element is stored in a form that nothing here reads."""


def read_known(root: Any, name: str, path: Path) -> Any:
    """Read an element; what is inside it in an unknown encoding is left out, and the log names it.

    Raises
    ------
    UnknownEncodingError
        The whole element is, or the names of a table are.
    """
    try:
        return _read(root[name])
    except UnknownEncodingError as error:
        return _read_inside(root[name], name, path, error)


def _read(element: Any) -> Any:
    from anndata._io.specs.registry import IORegistryError
    from anndata.io import read_elem

    try:
        return read_elem(element)
    except IORegistryError as error:
        raise UnknownEncodingError(encoding(element)) from error


def encoding(element: Any) -> str:
    """What an element says it is."""
    return " ".join(str(element.attrs.get(f"encoding-{what}", "?")) for what in ("type", "version"))


def _read_inside(element: Any, name: str, path: Path, error: UnknownEncodingError) -> Any:
    kind = element.attrs.get("encoding-type")
    if kind == "dataframe":
        index = pd.Index(_read(element[element.attrs["_index"]]))
        names = [str(own) for own in element.attrs["column-order"]]
        columns = _known(names, lambda own: _read(element[own]), name, path)
        return pd.DataFrame(columns, index=index, columns=list(columns))
    if kind in ("dict", None) and hasattr(element, "keys"):
        return _known(list(element.keys()), lambda own: read_known(element, own, path), name, path)
    raise error


def _known(names: list[str], read: Callable[[str], Any], parent: str, path: Path) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            found[name] = read(name)
        except UnknownEncodingError as error:
            tell_left_out(f"{parent}/{name}", path, error)
    return found


def tell_left_out(name: str, path: Path, error: UnknownEncodingError) -> None:
    """Say that an element is not there, and why."""
    logger.warning(
        "%s: %s is stored as %r, which this version of anndata cannot read, and is left out. A newer anndata may read it.",
        path, name, str(error),
    )  # fmt: skip


def is_old(root: Any) -> bool:
    """Whether anndata before 0.7 wrote an h5ad: tables as structured arrays, or sparse matrices of its own kind."""
    tables = any(hasattr(root.get(name), "dtype") for name in ("obs", "var"))
    return tables or any("h5sparse_format" in root[name].attrs for name in ("X",) if name in root)


def read_old(path: Path) -> ad.AnnData:
    """An h5ad of anndata before 0.7, in memory.

    Raises
    ------
    DataError
        This anndata does not read it.
    """
    import anndata as ad

    advice = "write it anew with ad.read_h5ad(path).write_h5ad(new_path)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the form is old
            adata = ad.read_h5ad(path)
    except Exception as error:  # what such files make the readers raise can be anything
        raise DataError(
            f"{path} was written by anndata before 0.7, and cannot be read ({error}): {advice} under anndata 0.7 to 0.10."
        ) from error
    logger.warning("%s was written by anndata before 0.7, and is read into memory as a whole: %s.", path, advice)
    return adata
