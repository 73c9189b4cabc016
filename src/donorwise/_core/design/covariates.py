"""How strongly covariates of donors go together.

Of two covariates, each a column of numbers or the columns of a factor, the number is sqrt(mean(rho^2)) over their canonical
correlations rho, as of ``canCorPairs`` of variancePartition (Hoffman and Schadt 2016, BMC Bioinformatics 17:483): the
absolute correlation of two columns of numbers, the multiple correlation of numbers with a factor, and Cramér's V of two
factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.names import quote
from donorwise._core.design.terms import is_categorical, read_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import FloatArray

HIGH = 0.9
"""From where on an audit speaks of two covariates that go together."""
_RANK = 1e-8  # of the largest singular value
_CONSTANT = 1e-12  # of the size of numbers, below which they differ by rounding alone


def covariates_read(parsed: ParsedFormula, donor: Sequence[str], sample: str = "") -> list[str]:
    """Covariates that a formula reads, those of its random terms too: all columns but those that tell the units apart."""
    return [name for name in parsed.columns if name not in (*donor, sample)]


def correlations(obs: pd.DataFrame, names: Sequence[str], donor: Sequence[str], sample: str = "") -> pd.DataFrame:
    """Canonical correlations of all pairs of covariates, over a row for each unit.

    Parameters
    ----------
    obs
        N rows (cells).
    names
        Columns of `obs` to compare.
    donor, sample
        Columns that tell units apart: donors, or samples of them. Categories that differ within units make parts of
        them; numbers that do have their means there. Rows without a unit are left out.

    Returns
    -------
    DataFrame
        Square, with ones on the diagonal; NaN where one of the two has one value only in the rows that have both.
        ``attrs["units"]`` says what the rows are, such as ``"12 donors"``.
    """
    obs = obs[obs[[*donor, *filter(None, [sample])]].notna().all(axis=1)]
    table = _units(obs, names, [*donor, *filter(None, [sample])])
    columns = [_columns(table[name]) for name in names]
    out = np.eye(len(names))
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[:i]):
            out[i, j] = out[j, i] = canonical(first, second)
    found = pd.DataFrame(out, index=list(names), columns=list(names))
    n_donors = len(obs[list(donor)].drop_duplicates())
    found.attrs["units"] = f"{len(table):,} {'donors' if len(table) == n_donors else 'parts of donors'}"
    return found


def canonical(X: FloatArray, Y: FloatArray) -> float:
    """sqrt(mean(rho^2)) of columns (n, p) and (n, q), over the rows without missing values."""
    known = np.isfinite(X).all(axis=1) & np.isfinite(Y).all(axis=1)
    first, second = _basis(X[known]), _basis(Y[known])
    if not (first.shape[1] and second.shape[1]):
        return float("nan")
    rho = np.linalg.svd(first.T @ second, compute_uv=False)
    return float(min(np.sqrt(np.mean(rho**2)), 1.0))


def _basis(X: FloatArray) -> FloatArray:
    """Orthonormal basis of centred columns, none for those that have one value."""
    if not len(X):
        return np.empty((0, 0))
    centred = X - X.mean(axis=0)
    norms, sizes = np.sqrt((centred**2).sum(axis=0)), np.sqrt((X**2).sum(axis=0))
    varies = norms > _CONSTANT * sizes
    centred = centred[:, varies] / norms[varies]
    if not centred.shape[1]:
        return centred
    U, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(U[:, s > _RANK * s[0]])


def _units(obs: pd.DataFrame, names: Sequence[str], units: Sequence[str]) -> pd.DataFrame:
    """A row for each unit, or part of one that differs in a category."""
    read = pd.DataFrame({name: read_column(obs[name], name, categorical=False) for name in names}, index=obs.index)
    labels = [name for name in names if is_categorical(read[name])]
    codes = [pd.factorize(column)[0] for column in (*(obs[u] for u in units), *(read[name] for name in labels))]
    _, first, part = np.unique(np.stack(codes), axis=1, return_index=True, return_inverse=True)
    out = {}
    for name in names:
        if name in labels:
            out[name] = read[name].iloc[first].reset_index(drop=True)
        else:
            out[name] = read[name].groupby(part.ravel()).mean()
    return pd.DataFrame(out)


def _columns(values: pd.Series) -> FloatArray:
    """A covariate as columns: its numbers, or one for each category; NaN where it is missing."""
    if not is_categorical(values):
        return values.to_numpy(dtype=np.float64)[:, None]
    used = values.cat.remove_unused_categories().cat
    codes = used.codes.to_numpy()
    out = (codes[:, None] == np.arange(len(used.categories))).astype(np.float64)
    out[codes < 0] = np.nan
    return out


def strongly_together(found: pd.DataFrame, said: Sequence[str]) -> Iterator[str]:
    """Pairs of covariates that go together, a sentence each, but for those that `said` speaks of already."""
    names = list(found.index)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            value = float(found.loc[first, second])
            if value > HIGH and not any(first in text and second in text for text in said):
                yield (
                    f"{quote(first)} and {quote(second)} go together (canonical correlation {value:.2f} over "
                    f"{found.attrs['units']}): what one of them explains can hardly be told from what the other does."
                )
