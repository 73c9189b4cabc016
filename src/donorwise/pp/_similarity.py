"""Similarity of donors by the abundances of what was found in them, such as microbes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from donorwise._anndata import matrix_and_text, obs_frame
from donorwise._anndata.sources import as_stored
from donorwise._core.cells.chunks import column_reader
from donorwise._core.cells.matrices import check_matrix, read_columns
from donorwise._core.kinship.abundances import (
    DISSIMILARITIES,
    averaged,
    distances,
    kernel_of,
    unit_variance,
)
from donorwise._core.kinship.square import checked_names, square
from donorwise._core.wording import listing
from donorwise._typing import FloatArray, check_option
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

if TYPE_CHECKING:
    from donorwise._core.kinship.abundances import Dissimilarity

logger = logging.getLogger("donorwise")

_GIVEN = ("precomputed", "unifrac-precomputed")
_MUCH_NEGATIVE = 0.1
"""Share of negative eigenvalues that is worth a warning."""


def similarity(
    abundances: Any,
    *,
    method: Literal[
        "aitchison", "braycurtis", "jaccard", "euclidean", "precomputed", "unifrac-precomputed"
    ] = "aitchison",
    pseudocount: float | None = None,
    layer: str | None = None,
    donors: str | Sequence[str] | None = None,
    several: Literal["refuse", "mean"] = "refuse",
) -> pd.DataFrame:
    r"""Similarity of donors by the composition of their samples, as a kernel for the formulas of mixed models.

    Distances D between samples become :math:`K = -\frac12 J D^{(2)} J` (Gower 1966, Biometrika 53:325), with
    :math:`D^{(2)}` their squares and :math:`J = I - 11'/n`. Where D are distances between points of a space (Aitchison, Euclidean),
    K has their inner products; others give K some negative eigenvalues, which are set to zero (Zhao et al. 2015, Am J Hum Genet
    96:797). K is scaled so that :math:`\mathrm{tr}(PKP) = n - 1` with P = J: its variance is then on the scale of the donors' own.

    Parameters
    ----------
    abundances
        Samples x taxa: an AnnData, a DataFrame (samples in its index), an array or a sparse matrix of counts or shares. For
        ``"precomputed"`` a square table of distances.
    method
        - ``"aitchison"``: Euclidean distance of centred log-ratios (Aitchison 1982, J R Stat Soc B 44:139).
        - ``"braycurtis"``: Bray and Curtis 1957 (Ecol Monogr 27:325), of shares of the sample's total, so that depth plays no part.
        - ``"jaccard"``: share of the taxa found in either of two samples that are found in one only.
        - ``"euclidean"``: of the values as they are, for instance principal coordinates or log-ratios.
        - ``"precomputed"``, ``"unifrac-precomputed"``: distances that were computed elsewhere, such as UniFrac.
    pseudocount
        For ``"aitchison"``, what is added to all values where any is zero. None: half of the smallest value above zero, .5 for counts.
    layer
        Layer of the AnnData instead of X.
    donors
        Donor of every sample: a column of obs, or a sequence. None takes ``obs_names``, the index, or numbers the rows of an array.
    several
        What to do where donors have several samples: ``"refuse"``, or ``"mean"``, which takes the middle of their places in the space
        of the distances.

    Returns
    -------
    K, a square DataFrame named by the donors. Its ``attrs`` say `method`, `pseudocount`, `n_taxa`, `n_samples` and
    `negative` (share of negative eigenvalues in the sum of all, in absolute value, that were set to zero).

    Raises
    ------
    DataError
        A sample has nothing in it, values are missing or negative, donors have several samples, distances are none, or all are zero.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import donorwise as dw
    >>> rng = np.random.default_rng(0)
    >>> taxa = pd.DataFrame(rng.poisson(rng.gamma(1, 20, (6, 50))), index=[f"D{i}" for i in range(6)])
    >>> K = dw.pp.similarity(taxa, method="braycurtis")
    >>> K.shape, round(float(np.trace(K)), 6)
    ((6, 6), 5.0)
    """
    check_option("method", method, (*DISSIMILARITIES, *_GIVEN))
    check_option("several", several, ("refuse", "mean"))
    if pseudocount is not None and (method != "aitchison" or not pseudocount > 0):
        raise DonorwiseError(f"pseudocount={pseudocount!r} must be above zero, and is for method='aitchison'.")
    table = _table(abundances, layer, donors)
    attrs: dict[str, Any] = {"method": method}
    if method in _GIVEN:
        distance = _checked_distances(abundances, table)
    else:
        kind = DISSIMILARITIES[method]
        values = _checked_values(table, kind)
        if method == "aitchison":
            values, attrs["pseudocount"] = _above_zero(values, pseudocount)
        attrs["n_taxa"] = values.shape[1]
        distance = distances(values, kind)
    made = kernel_of(distance)
    attrs |= {"n_samples": len(distance), "negative": made.negative}
    if made.negative > _MUCH_NEGATIVE:
        warnings.warn(
            f"{made.negative:.0%} of the eigenvalues' sum is negative and was set to zero: these distances are not those between points "
            "of a space, and the kernel tells less than they do.",
            DonorwiseWarning,
            stacklevel=2,
        )
    return _of_donors(made.values, table, several, attrs)


class _Table(NamedTuple):
    """Values (n, columns), the donors of the rows, and what holds them."""

    values: FloatArray
    donors: tuple[str, ...]
    text: str


def _table(source: Any, layer: str | None, donors: str | Sequence[str] | None) -> _Table:
    """The whole table in memory, with a donor for each row."""
    if hasattr(source, "to_data_frame"):  # a DistanceMatrix of scikit-bio
        source = source.to_data_frame()
    if isinstance(source, ad.AnnData):
        matrix, text = matrix_and_text(source, layer)
        own = source.obs_names if not isinstance(donors, str) else obs_frame(source, [donors])[donors]
        values = read_columns(matrix)
    else:
        if layer is not None or isinstance(donors, str):
            raise DataError(
                "layer= and donors='...' name parts of an AnnData, and this is none; give donors= as a sequence."
            )
        matrix, text = np.asarray(source) if isinstance(source, list) else as_stored(source), "The table"
        _, n_columns = check_matrix(matrix)
        own = matrix.index if isinstance(matrix, pd.DataFrame) else range(matrix.shape[0])
        values = _dense(matrix, n_columns)
    names = own if donors is None or isinstance(donors, str) else donors
    given = [None if pd.isna(name) else str(name) for name in names]
    if len(given) != len(values) or None in given:
        raise DataError(
            f"{text} has {len(values):,} rows and {len(given) - given.count(None):,} names of donors for them."
        )
    return _Table(values, tuple(map(str, given)), text)


def _dense(matrix: Any, n_columns: int) -> FloatArray:
    if isinstance(matrix, pd.DataFrame):
        return np.asarray(column_reader(matrix, np.arange(n_columns))(slice(None)), dtype=np.float64)
    return read_columns(matrix)


def _checked_values(table: _Table, kind: Dissimilarity) -> FloatArray:
    """Values without the columns in which there is nothing."""
    values = table.values
    _check_numbers(table)
    if not kind.amounts:
        return values
    if (values < 0).any():
        row, column = (int(at[0]) for at in np.nonzero(values < 0))
        raise DataError(
            f"{table.text} has the value {values[row, column]:g} (row {row + 1:,}, column {column + 1:,}): abundances are counts or "
            "shares. For log-ratios and other coordinates use method='euclidean'."
        )
    empty = np.flatnonzero(values.sum(axis=1) == 0)
    if empty.size:
        names = [table.donors[i] for i in empty]
        raise DataError(f"{empty.size:,} samples have nothing in them: {listing(names, 5)}. Leave them out.")
    return values[:, values.any(axis=0)]


def _check_numbers(table: _Table) -> None:
    if len(table.values) < 3:
        raise DataError(f"{table.text} has {len(table.values)} samples; a kernel needs three or more.")
    bad = ~np.isfinite(table.values)
    if bad.any():
        row, column = (int(at[0]) for at in np.nonzero(bad))
        raise DataError(
            f"{table.text} has {np.count_nonzero(bad):,} values that are missing or infinite (the first in row {row + 1:,}, "
            f"donor {table.donors[row]!r}, column {column + 1:,}): leave these samples or taxa out."
        )


def _above_zero(values: FloatArray, pseudocount: float | None) -> tuple[FloatArray, float]:
    """Values of which all have a logarithm, and what was added to them."""
    if (values > 0).all() and pseudocount is None:
        return values, 0.0
    added = float(values[values > 0].min() / 2) if pseudocount is None else float(pseudocount)
    return values + added, added


def _checked_distances(source: Any, table: _Table) -> FloatArray:
    distance = table.values
    n = len(distance)
    if distance.shape != (n, n):
        raise DataError(f"Distances are square; this table has {n:,} rows and {distance.shape[1]:,} columns.")
    _check_numbers(table)
    if isinstance(source, pd.DataFrame) and list(source.index) != list(source.columns):
        if set(source.index) != set(source.columns) or not source.index.is_unique:
            raise DataError("The names of rows and columns of the distances differ.")
        distance = distance[:, source.columns.get_indexer(source.index)]
    largest = np.abs(distance).max()
    apart = np.abs(distance - distance.T).max()
    for wrong, what in (
        (apart > 1e-6 * largest, "not symmetric"),
        ((distance < 0).any(), "negative somewhere"),
        (
            np.abs(np.diag(distance)).max() > 1e-6 * largest,
            "not zero between a sample and itself; similarities are no distances",
        ),
    ):
        if wrong:
            raise DataError(f"The distances are {what}.")
    return (distance + distance.T) / 2


def _of_donors(kernel: FloatArray, table: _Table, several: str, attrs: dict[str, Any]) -> pd.DataFrame:
    """The kernel of donors, scaled."""
    codes, names = pd.factorize(np.array(table.donors, dtype=object))
    if len(names) < len(codes):
        if several == "refuse":
            checked_names(
                table.donors, table.text,
                advice="Where donors have several samples, several='mean' takes the middle of them; or leave all but one out.",
            )  # fmt: skip
        kernel = averaged(kernel, codes, len(names))
    if len(names) < 3:
        raise DataError(f"{table.text} has {len(names)} donors; a kernel needs three or more.")
    logger.info("Similarity (%s) of %s donors.", attrs["method"], f"{len(names):,}")
    return square(unit_variance(kernel), list(names), attrs)
