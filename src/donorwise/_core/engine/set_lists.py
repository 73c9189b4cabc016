"""Sets of genes as users have them (a dict, a GMT file, a network of decoupler), and which features of a result they mean."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
logger = logging.getLogger("donorwise")

_FORMS = "a dict of names and genes, the path of a GMT file, or a network of decoupler (a DataFrame with columns source and target)"

SetList = dict[str, dict[str, int]]
"""By name of the set, its genes, each 1, or -1 where it is expected to go the other way."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Sets whose genes are features: names, and membership (S, G), 1 or -1."""

    names: tuple[str, ...]
    members: sparse.csr_array


def read_sets(source: Any) -> SetList:
    """Sets from whatever they come in.

    Raises
    ------
    DataError
        It is none of these, empty, or malformed; the message says where.
    """
    if isinstance(source, pd.DataFrame):
        found = _of_network(source)
    elif isinstance(source, Mapping):
        found = {str(name): dict.fromkeys(_genes(name, genes), 1) for name, genes in source.items()}
    elif isinstance(source, str | PathLike):
        found = _of_gmt(Path(source).expanduser())
    else:
        raise DataError(f"sets= is a {type(source).__name__}; give {_FORMS}.")
    if not found:
        raise DataError(f"sets= is empty; give {_FORMS}.")
    return found


def _genes(name: object, genes: Any) -> list[str]:
    if isinstance(genes, str) or not hasattr(genes, "__iter__"):
        raise DataError(
            f"The set {str(name)!r} is {genes!r}; give a list of the names of its genes, {{{str(name)!r}: [...]}}."
        )
    return [str(gene) for gene in genes if not pd.isna(gene)]


def _of_gmt(path: Path) -> SetList:
    """Lines of a name, a description, and genes, with tabs between them."""
    if not path.is_file():
        raise DataError(f"sets={str(path)!r} is no file. Give {_FORMS}.")
    opened = gzip.open if path.suffix == ".gz" else open
    found: SetList = {}
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                fields = line.rstrip("\r\n").split("\t")
                if not line.strip():
                    continue
                if len(fields) < 3:
                    raise DataError(
                        f"{path}, line {number}, is not that of a GMT file, which has a name, a description and genes with tabs "
                        f"between them: {line[:60].rstrip()!r}."
                    )
                if fields[0] in found:
                    raise DataError(f"{path}, line {number}: there is a set {fields[0]!r} already.")
                found[fields[0]] = dict.fromkeys((gene.strip() for gene in fields[2:] if gene.strip()), 1)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a GMT file: {error}.") from None
    return found


def _of_network(network: pd.DataFrame) -> SetList:
    """A row for each target of a source; of weights the signs count."""
    missing = [name for name in ("source", "target") if name not in network.columns]
    if missing:
        raise DataError(
            f"A network has the columns source (the set) and target (the gene); this one lacks {' and '.join(missing)} and has "
            f"{listing(network.columns)}. Rename them: network.rename(columns={{'geneset': 'source', 'genesymbol': 'target'}})."
        )
    known = network[network["source"].notna() & network["target"].notna()]
    signs = np.ones(len(known), dtype=np.int64)
    if "weight" in known.columns:
        weight = pd.to_numeric(known["weight"], errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(weight).all() or (weight == 0).any():
            raise DataError(
                "The column weight of the network has values that are zero, missing or no numbers: leave those rows out."
            )
        signs = np.sign(weight).astype(np.int64)
        if (signs < 0).any() or (np.abs(weight) != np.abs(weight[:1])).any():
            logger.info(
                "Of the weights of the network the signs count (targets of negative ones are turned around), and not the sizes."
            )
    found: SetList = {}
    for source, target, sign in zip(
        known["source"].astype(str), known["target"].astype(str), signs.tolist(), strict=True
    ):
        if found.setdefault(source, {}).setdefault(target, sign) != sign:
            raise DataError(f"The network has {target!r} as a target of {source!r} twice, with weights of either sign.")
    return found


def match_sets(sets: SetList, features: tuple[str, ...], find: Callable[[str], Iterable[str]]) -> Matched:
    """Which of the features each set means; `find` gives the features that have a name, none where there is no such.

    A feature that a set has by two names counts once.
    """
    place = {name: i for i, name in enumerate(features)}
    found = [
        {place[name]: sign for gene, sign in genes.items() for name in find(gene) if name in place}
        for genes in sets.values()
    ]
    rows = np.repeat(np.arange(len(found)), [len(own) for own in found])
    columns, values = ([x for own in found for x in part(own)] for part in (dict.keys, dict.values))
    members = sparse.csr_array((np.array(values, dtype=np.float64), (rows, columns)), shape=(len(sets), len(features)))
    return Matched(tuple(sets), members)
