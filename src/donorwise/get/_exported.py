"""What exporters of scans share: one trait in the order of the genome, and tables written block by block."""

from __future__ import annotations

import gzip
import io
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.engine.groups import group_name
from donorwise._core.engine.wanted import Wanted
from donorwise._core.files import locked, real, replaced
from donorwise._core.kinship.labels import bare
from donorwise.errors import DataError, DonorwiseWarning, OutputError
from donorwise.get._tests import only_one

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from donorwise._anndata import StoredScan
    from donorwise._typing import IntArray, Label

_CODES = {"X": 23, "XY": 23, "PAR1": 23, "PAR2": 23, "X_PAR1": 23, "X_PAR2": 23, "Y": 24, "M": 25}
_ELSEWHERE = "on other chromosomes than 1 to 22, X, Y and MT"
NOT_PLACED = "without a position"


def chromosome_code(chrom: object) -> int:
    """Number of a human chromosome, 23 to 25 for X, Y and MT; 0 for none of them.

    Examples
    --------
    >>> [chromosome_code(name) for name in ("chr2", "X", "MT", "25", "GL000192.1")]
    [2, 23, 25, 25, 0]
    """
    name = bare(chrom)
    number = int(name) if name.isascii() and name.isdigit() else _CODES.get(name, 0)
    return number if 1 <= number <= max(_CODES.values()) else 0


@dataclass(frozen=True, slots=True)
class Trait:
    """One gene of one group, whose tests are one genome-wide analysis.

    Attributes
    ----------
    scan
        Where it is from.
    gene, group
        Their names.
    left_out
        Why tests have no row, and how many; filled while rows are read.
    """

    scan: StoredScan
    gene: str
    group: str
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def lead(self) -> pd.Series:
        """The row of the lead variant."""
        return self.scan.lead(self.gene, self.group)

    def by_genome(self) -> Iterator[pd.DataFrame]:
        """Tests by chromosome and position, one chromosome in memory at a time, its number in the column code."""
        wanted = Wanted(gene=(self.gene,), group=(self.group,))
        spelt: Counter[str] = Counter()
        for block in self.scan.blocks(wanted, ["chrom"]):
            spelt.update(block["chrom"].astype(str))
        names: dict[int, list[str]] = {}
        for name in spelt:
            names.setdefault(chromosome_code(name), []).append(name)
        self.left_out[_ELSEWHERE] += sum(spelt[name] for name in names.pop(0, []))
        for code in sorted(names):
            table = self.scan.table(replace(wanted, chrom=tuple(names[code])))
            yield self.keep(table, NOT_PLACED, table["pos"] > 0).sort_values("pos", kind="stable").assign(code=code)

    def keep(self, table: pd.DataFrame, reason: str, good: Any) -> pd.DataFrame:
        """The rows that are good; the others are counted as left out for this reason."""
        good = np.asarray(good, dtype=bool)
        self.left_out[reason] += int((~good).sum())
        return table[good]

    def tell(self, what: str) -> None:
        """Warn of tests that have no row in the file."""
        lost = [f"{n:,} {reason}" for reason, n in self.left_out.items() if n]
        if lost:
            warnings.warn(f"{what} has no rows for tests {', '.join(lost)}.", DonorwiseWarning, stacklevel=3)


def only_group(scan: StoredScan, group: Label | None) -> str:
    """The group that is meant, or the only one.

    Raises
    ------
    DataError
        There is no such group, or there are several to choose from.
    """
    return only_one(scan.results, "group", None if group is None else group_name(group))


def only_trait(scan: StoredScan, gene: str | None, group: Label | None) -> Trait:
    """The gene and group that are meant, or the only ones.

    Raises
    ------
    DataError
        There is no such one, or there are several to choose from.
    """
    return Trait(scan, only_one(scan.results, "gene", gene), only_group(scan, group))


def warn_of_cut(scan: StoredScan, what: str) -> None:
    """Warn where a scan did not keep all its tests."""
    most = scan.params.get("p_max")
    if most is not None:
        warnings.warn(
            f"The scan kept tests with p_value <= {most:g} (p_max), and {what} has no others: for a complete one scan again "
            "without p_max.",
            DonorwiseWarning,
            stacklevel=3,
        )


def check_file(path: str | os.PathLike[str]) -> Path:
    """The file that is written for this name.

    Raises
    ------
    OutputError
        There is no such folder, or it is one.
    """
    out = real(Path(path))
    if out.is_dir():
        raise OutputError(f"path={str(path)!r} is a folder; give the name of a file.")
    if not out.parent.is_dir():
        raise OutputError(f"The folder {out.parent} does not exist; make it first.")
    return out


def joined(blocks: Iterator[pd.DataFrame], what: str) -> pd.DataFrame:
    """All blocks as one table.

    Raises
    ------
    DataError
        They have no rows.
    """
    found = list(blocks)
    if not sum(map(len, found)):
        raise DataError(f"There are no tests for {what}.")
    return pd.concat(found, ignore_index=True)


def write_text(blocks: Iterator[pd.DataFrame], path: Path, what: str, *, separator: str, missing: str) -> None:
    """Write blocks as one table of text, compressed where the name ends in ``.gz``; the file appears when it is whole.

    Raises
    ------
    DataError
        The blocks have no rows.
    OutputError
        It cannot be written.
    """
    with locked(path), replaced(path) as temporary:
        n_rows = 0
        with _open_text(temporary) as file:
            for block in blocks:
                block.to_csv(file, sep=separator, na_rep=missing, index=False, header=n_rows == 0, lineterminator="\n")
                n_rows += len(block)
        if n_rows == 0:
            raise DataError(f"There are no tests for {what}.")


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOBase]:
    """A file for text; compressed files do not tell when they were made."""
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            with io.TextIOWrapper(raw, encoding="utf-8", newline="") as text:
                yield text
            return
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as inner:
            with io.TextIOWrapper(inner, encoding="utf-8", newline="") as text:
                yield text


def minor_allele_count(table: pd.DataFrame) -> IntArray:
    """Copies of the rarer allele among the donors of each test."""
    af = table["af"].to_numpy(dtype=np.float64)
    count = np.round(2 * table["n"].to_numpy(dtype=np.float64) * np.minimum(af, 1 - af))
    return np.nan_to_num(count).astype(np.int64)
