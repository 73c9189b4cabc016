"""Genotypes of donors wherever they are: the record that all readers make, and matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.chunks import column_reader
from donorwise._core.cells.matrices import check_matrix, read_columns
from donorwise._core.cells.readers import READ_ERRORS, DenseFile, open_reader
from donorwise._core.cells.stored import Stored
from donorwise._core.kinship.labels import UNKNOWN, VariantLabels
from donorwise._typing import FloatArray, IntArray, StrArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_NUMBERS = 2**22
"""Genotypes are read in blocks of about this many."""
_PASS_NUMBERS = 2**25
"""And of this many where every block takes a pass over the whole file, because it is stored by donors."""
_TOLERANCE = 1e-3
"""How far a dosage may lie outside 0 to 2: files round them."""


@dataclass(frozen=True, slots=True)
class Genotypes:
    """Numbers of an allele, donors x variants.

    Arrays of text are of fixed width where all texts are short, else of objects (see :func:`labels.texts`).

    Attributes
    ----------
    donors
        Names of the n donors.
    n_variants
        Number of variants.
    read
        Reads the variants low..high-1: (n, high - low), NaN where a genotype is missing.
    text
        What holds them, for messages.
    chromosomes
        Shape (n_variants,), "" where there is none; None where they are not known.
    variants
        Shape (n_variants,). Names of the variants; None where they have none.
    positions
        Shape (n_variants,). In base pairs, -1 where there is none; None where they are not known.
    a0, a1
        Shape (n_variants,). The allele whose copies are counted is `a1` (of .bed A1, of .pgen ALT, of VCF Zarr all but the
        first), the other `a0`; None where they are not known.
    block_numbers
        How many genotypes to read together at least.
    """

    donors: tuple[str, ...]
    n_variants: int
    read: Callable[[int, int], FloatArray]
    text: str
    chromosomes: StrArray | None = None
    variants: StrArray | None = None
    positions: IntArray | None = None
    a0: StrArray | None = None
    a1: StrArray | None = None
    block_numbers: int = BLOCK_NUMBERS

    def variant(self, number: int) -> str:
        """How messages call a variant."""
        return f"variant {number + 1:,}" if self.variants is None else f"variant {str(self.variants[number])!r}"

    def checked(self, low: int, high: int) -> FloatArray:
        """The variants low..high-1, (n, high - low), NaN where a genotype is missing.

        Raises
        ------
        DataError
            A value is no number of alleles, or infinite; says which.
        """
        values = self.read(low, high)
        bad = (values < -_TOLERANCE) | (values > 2 + _TOLERANCE)
        if bad.any():
            donor, column = (int(at[0]) for at in np.nonzero(bad))
            raise self._no_genotype(float(values[donor, column]), donor, low + column)
        return values

    def _no_genotype(self, value: float, donor: int, number: int) -> DataError:
        advice = "Missing genotypes are NaN, not a negative number." if value < 0 else "Are these genotypes?"
        return DataError(
            f"{self.text} has the value {value:g} ({self.variant(number)} of donor {self.donors[donor]!r}); "
            f"genotypes are numbers of an allele, 0, 1 and 2, or dosages between them. {advice}"
        )

    def described(self, at: IntArray) -> pd.DataFrame:
        """Columns variant, chrom, pos, a0, a1 of some variants; without names their number, "" and -1 what is not known."""
        names = (at + 1).astype(str) if self.variants is None else self.variants[at]
        nothing = np.full(len(at), "", dtype=object)
        texts = {"chrom": self.chromosomes, "a0": self.a0, "a1": self.a1}
        chrom, a0, a1 = (nothing if part is None else part[at].astype(object) for part in texts.values())
        pos = np.full(len(at), UNKNOWN) if self.positions is None else self.positions[at]
        return pd.DataFrame({"variant": names.astype(object), "chrom": chrom, "pos": pos, "a0": a0, "a1": a1})


def of_matrix(matrix: Any, donors: Sequence[str], *, labels: VariantLabels, text: str) -> Genotypes:
    """Genotypes in a matrix of donors x variants, in memory or not.

    Raises
    ------
    DataError
        It cannot be read, or does not hold numbers.
    """
    _, n_variants = check_matrix(matrix)
    read, numbers = _columns_of(matrix)
    return Genotypes(tuple(donors), n_variants, read, text, block_numbers=numbers, **labels._asdict())


def _columns_of(matrix: Any) -> tuple[Callable[[int, int], FloatArray], int]:
    """How columns are read, and how many numbers at a time."""
    if isinstance(matrix, Stored):
        return _stored_columns(matrix)
    if sparse.issparse(matrix):
        by_column = matrix.tocsc()
        return lambda low, high: by_column[:, low:high].toarray().astype(np.float64), BLOCK_NUMBERS
    read = column_reader(matrix, np.arange(matrix.shape[1]))
    return lambda low, high: np.asarray(read(slice(low, high)), dtype=np.float64), BLOCK_NUMBERS


def _stored_columns(matrix: Stored) -> tuple[Callable[[int, int], FloatArray], int]:
    """Dense arrays can be cut anywhere; others are read along the side they are stored by."""
    reader = open_reader(matrix.matrix)
    kept = np.arange(matrix.shape[1]) if matrix.columns is None else matrix.columns
    if isinstance(reader, DenseFile) and (np.diff(kept) == 1).all():
        start = int(kept[0]) if len(kept) else 0
        return lambda low, high: _cut(matrix, reader.where, slice(start + low, start + high)), BLOCK_NUMBERS
    numbers = BLOCK_NUMBERS if reader.by_columns else _PASS_NUMBERS
    return lambda low, high: read_columns(matrix, np.arange(low, high)), numbers


def _cut(matrix: Stored, where: str, columns: slice) -> FloatArray:
    values = np.asarray(reading(where, lambda: matrix.matrix[:, columns]), dtype=np.float64)
    return values if matrix.rows is None else values[matrix.rows]


def optional(module: str, package: str, path: Path) -> Any:
    """A module that reads a kind of file.

    Raises
    ------
    DataError
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"{path.name} is read by the package {package}, which is not installed: pip install 'donorwise[genetics]'."
        ) from error


def reading(path: Path | str, read: Callable[[], Any]) -> Any:
    """What `read` gives, or a DataError that names the file."""
    try:
        return read()
    except READ_ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason.rstrip('.')}. The file is truncated or corrupt, or of another study."
        ) from error
