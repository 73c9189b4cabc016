"""Findings about the labels of proteins: none, several proteins in one, and text that stands for none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from donorwise._typing import BoolArray

_ACCESSION = re.compile(
    r"([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9]([A-Z][A-Z0-9]{2}[0-9]){1,2})(-\d+)?"
)  # of UniProt: https://www.uniprot.org/help/accession_numbers
_IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.:-]*")
_DATABASE = re.compile(r"(sp|tr|gi|ref|gb|emb|dbj|pdb|pir|prf|lcl|gnl|generic|rev_sp|rev_tr)\|", re.IGNORECASE)
_ENSEMBL = re.compile(r"(?:ENS[A-Z]*|OTT[A-Z]*)([EGPT])\d")
_COUNTED = re.compile(r"\d+((/[^/]+){2,})")  # as OpenSWATH writes several: 2/P12345/Q67890
_NO_TEXT = ("nan", "NaN", "None", "<NA>", "null", "-", "unknown", "Unknown", "unassigned")


def unlabelled(proteins: Any) -> BoolArray:
    """Which peptides have no protein: missing, or a text without letters, (P,)."""
    codes, labels = pd.factorize(pd.Series(proteins).astype(object))
    blank = np.array([not str(label).strip() for label in labels] + [True], dtype=bool)  # -1, the last, is missing
    return np.asarray(blank[codes])


def without_protein(proteins: Any, peptides: Sequence[str], features: str) -> Iterator[str]:
    """Peptides that are left out for lack of a protein, and labels that look as if they said that there is none."""
    labels, missing = pd.Series(proteins), unlabelled(proteins)
    if missing.any():
        yield (
            f"{int(missing.sum()):,} of {len(labels):,} peptides have no protein in {features} (the first is "
            f"{peptides[int(np.flatnonzero(missing)[0])]!r}) and are left out."
        )
    n = labels[~missing].astype(str).value_counts()
    odd = [name for name in n.index if name in _NO_TEXT]
    if odd:
        yield (
            f"{features} has labels that look like no protein: {', '.join(f'{name!r} ({n[name]:,} peptides)' for name in odd)}; "
            "each counts as a protein. Where they mean that there is none make them missing (NaN), so that their peptides are "
            "left out."
        )


def of_several(proteins: Any, features: str) -> Iterator[str]:
    """Peptides whose label names several proteins."""
    labels = pd.Series(proteins)[~unlabelled(proteins)].astype(str)
    n = labels.value_counts()
    known = set(n.index)
    groups = {name: parts for name in n.index if (parts := proteins_of(name, known))}
    if not groups:
        return
    shared = [name for name, parts in groups.items() if not known.isdisjoint(parts)]
    example = (shared or list(groups))[0]
    mark = next(m for m in ";,/|" if m in example)
    own = (
        f"; of {len(groups):,} such labels {len(shared):,} name a protein that has peptides of its own"
        if shared
        else ""
    )
    yield (
        f"{int(sum(n[name] for name in groups)):,} of {len(labels):,} peptides belong to several proteins (such as "
        f"{example!r}{own}). Each group is kept as a protein of its own, as it is labelled, and says nothing of its members "
        f"one by one. To leave such peptides out: `adata = adata[:, ~adata.var[...].astype(str).str.contains({mark!r}, "
        f"regex=False)]`, with the column of {features}."
    )


def proteins_of(label: str, known: Collection[str] = ()) -> list[str]:
    """The proteins that a label names if these are several, else none.

    A semicolon always stands between proteins. A comma is also part of names ("Actin, cytoplasmic"), and a bar part of
    identifiers (``sp|P60709|ACTB_HUMAN``), so these do where what they divide are identifiers of one kind; those in `known` are.
    """
    if ";" in label:
        parts = [part.strip() for part in label.split(";") if part.strip()]
        return parts if len(set(parts)) > 1 else []
    if found := _COUNTED.fullmatch(label):
        return found[1][1:].split("/")
    mark = "," if "," in label else "|"
    parts = [part.strip() for part in label.split(mark)]
    if len(set(parts)) < 2 or (mark == "|" and _DATABASE.match(label)):
        return []
    return parts if all(_is_identifier(p) or p in known for p in parts) and len(set(map(_kind, parts))) == 1 else []


def _is_identifier(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None and (text.isupper() or any(map(str.isdigit, text)))


def _kind(text: str) -> tuple[bool, bool, str]:
    """What kind of identifier a text is: the entry name of UniProt has an underscore, its accession a form of its own."""
    found = _ENSEMBL.match(text)
    return "_" in text, _ACCESSION.fullmatch(text) is not None, found[1] if found else ""
