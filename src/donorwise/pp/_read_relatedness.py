"""Kernels that other programs have written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from donorwise._core.kinship.files import read_kernel_file
from donorwise._core.kinship.square import checked_names, square
from donorwise.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_relatedness(path: str | os.PathLike[str], *, levels: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the relatedness (or any other kernel) of donors from a file, by the ending of its name.

    Parameters
    ----------
    path
        - ``.grm.bin`` of GCTA or ``plink2 --make-grm-bin``, with ``.grm.id`` (and ``.grm.N.bin``) beside it; also the prefix of
          these, and ``.grm`` or ``.grm.gz`` with ``.grm.id``.
        - ``.rel``, ``.rel.bin`` of ``plink2 --make-rel`` with ``.rel.id``; square or lower triangle.
        - ``.king``, ``.king.bin`` of ``plink2 --make-king`` with ``.king.id``. Kinship is half of relatedness, so these values are
          doubled: 1 for oneself (the lower triangle leaves these out), 1/2 for parent and child.
        - ``.cXX.txt``, ``.sXX.txt`` of GEMMA, which have no names: give `levels`, unless the ``.fam`` of the same name is there.
        - A square table: ``.csv``, ``.tsv``, ``.txt`` or ``.parquet``, named by its first row and column.
    levels
        Names of the rows, in their order, instead of those in the file.

    Returns
    -------
    A square DataFrame named by the donors (IID, without the family). Its ``attrs`` say `file`, and where known `method` and
    `n_variants`.

    Raises
    ------
    DataError
        A file is missing, cut off or not what its ending says, K is not symmetric, or names are missing or repeat.

    Notes
    -----
    Estimates of KING (Manichaikul et al. 2010, Bioinformatics 26:2867) compare two donors at a time: they are negative between
    ancestries, and K need not be positive semidefinite, unlike that of :func:`donorwise.pp.relatedness`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import donorwise as dw
    >>> donors = dw.datasets.simulate_relatives(n_families=3, n_unrelated=4, n_variants=1000)
    >>> K = dw.pp.relatedness(donors, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     K.to_csv(Path(folder) / "grm.csv")
    ...     again = dw.pp.read_relatedness(Path(folder) / "grm.csv")
    >>> bool(abs(again - K).max(axis=None) < 1e-12)
    True
    """
    path = Path(path)
    found = read_kernel_file(path)
    given = found.names if levels is None else levels
    if given is None:
        raise DataError(
            f"{path} has no names of donors: give levels=, the names of its {len(found.values):,} rows in their order."
        )
    names = checked_names(
        given,
        "levels" if levels is not None else str(path),
        n=len(found.values),
        advice="Give names of their own with levels=.",
    )
    return square(found.values, names, {"file": str(path), **found.attrs})
