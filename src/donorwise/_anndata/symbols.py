"""What features are called: by their names in var, or by a column of symbols there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.obs import as_frame, suggest
from donorwise._anndata.read import feature_names
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad


@dataclass(frozen=True, slots=True)
class Symbols:
    """Other names of features; those without one, and all of them where no column is read, keep their own.

    Attributes
    ----------
    column
        Of var; empty for none.
    labels
        What each feature is called, no two alike: its symbol, its own name where it has none, and
        ``"SYMBOL (name)"`` where several have the same.
    features
        Who has each symbol.
    """

    column: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    features: dict[str, list[str]] = field(default_factory=dict)

    def label(self, variable: str) -> str:
        """What a feature is called."""
        return self.labels.get(variable, variable)

    def find(self, wanted: str | Sequence[str]) -> list[str]:
        """The features that are meant by symbols, by what they are called here, or by their own names.

        Raises
        ------
        DataError
            Nobody is called so.
        """
        names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
        if not self.column:
            return names
        of_label = {label: variable for variable, label in self.labels.items()}
        found = []
        for name in names:
            own = self.features.get(name) or [of_label.get(name, name)]
            if own[0] not in self.labels:
                raise DataError(f"No feature is called {name!r} in var[{self.column!r}]. {suggest(name, of_label)}")
            found += own
        return list(dict.fromkeys(found))

    def find_one(self, wanted: str) -> str:
        """The feature that is meant.

        Raises
        ------
        DataError
            Nobody or several are called so.
        """
        found = self.find(wanted)
        if len(found) > 1:
            names = " or ".join(repr(self.label(variable)) for variable in found)
            raise DataError(f"{len(found)} features have the symbol {wanted!r}: name one, {names}.")
        return found[0]

    def rename(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table whose column of features says what they are called."""
        if not self.column:
            return table
        return table.assign(variable=_named(table["variable"], self.labels))

    def beside(self, table: pd.DataFrame, column: str = "variable") -> pd.DataFrame:
        """A table with what the features are called beside them, if it has features in `column`, its first one."""
        if not self.column or column not in table:
            return table
        name = self.column if self.column not in table else "symbol"
        named = _named(table[column], self.labels)
        return pd.concat([table.iloc[:, :1], named.rename(name), table.iloc[:, 1:]], axis=1)


def _named(variable: pd.Series, labels: Mapping[str, str]) -> pd.Series:
    values = variable.astype("category")
    return values.cat.rename_categories([labels.get(str(name), str(name)) for name in values.cat.categories])


def symbols_of(adata: ad.AnnData, gene_symbols: str | None, params: Mapping[str, Any]) -> Symbols:
    """Read the column of var with the symbols of the features of a result; None for their own names.

    Raises
    ------
    DataError
        There is no such column, or the result is not one of features in var.
    """
    if gene_symbols is None:
        return Symbols()
    response = str(params["response"])
    if response != keys.RESPONSE_X and not response.startswith(keys.LAYER_PREFIX):
        raise DataError(f"gene_symbols= renames features of var, and the responses are {response}: leave it out.")
    return read_symbols(adata, gene_symbols, str(params.get(keys.FEATURES, "")))


def read_symbols(adata: ad.AnnData, column: str, features: str = "") -> Symbols:
    """Read a column of var with symbols: of its rows, or of the proteins that the column `features` names.

    A protein whose peptides have several is called by all of them, ``"A;B"``.

    Raises
    ------
    DataError
        There is none, or there are several.
    """
    known = list(adata.var.columns)
    if known.count(column) != 1:
        several = "several columns" if column in known else "no column"
        raise DataError(f"gene_symbols: adata.var has {several} {column!r}. {suggest(column, known)}")
    values = as_frame(adata.var[[column]])[column].astype(object)
    texts = ["" if pd.isna(value) else str(value).strip() for value in values]
    own: dict[str, dict[str, None]] = {}  # as sets that keep their order
    for name, text in zip(feature_names(adata, features), texts, strict=True):
        if not pd.isna(name):
            own.setdefault(str(name), {})[text] = None
    plain = {name: ";".join(filter(None, several)) or name for name, several in own.items()}
    called: dict[str, list[str]] = {}
    for name, text in plain.items():
        called.setdefault(text, []).append(name)
    return Symbols(column, _distinct(plain), called)


def _distinct(plain: Mapping[str, str]) -> dict[str, str]:
    """The labels, with the feature's own name behind those that repeat."""
    labels = dict(plain)
    while repeated := set(labels) - set({label: name for name, label in labels.items()}.values()):
        alike = {labels[name] for name in repeated}
        labels = {
            name: f"{label} ({name})" if label in alike and label != name else label for name, label in labels.items()
        }
    return labels
