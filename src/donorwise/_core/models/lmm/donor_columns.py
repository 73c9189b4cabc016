"""What a number that each donor has, such as a genotype, is in the equations of a model: linear maps, made once.

A column of the model that is x_d for the rows of donor d, times a `column` of the rows that is 1 or what x interacts with,
has cross-products with the fixed and the random part that are linear in x. So blocks of any number of them are matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.crossproducts import Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import FloatArray, IntArray

_TOGETHER = 2**24  # numbers of the patterns that donors are worked out together in


@dataclass(frozen=True, slots=True)
class Axis:
    """A column that each of D donors' numbers make.

    Attributes
    ----------
    zty, ols
        Shapes (D, q), (D, p). Cross-products with the random columns, in block order, once the fixed part is taken out, and
        coefficients of the orthonormal fixed part.
    y
        Shape (D, G). Cross-products with the responses' residuals of least squares.
    """

    zty: FloatArray
    ols: FloatArray
    y: FloatArray


@dataclass(frozen=True, slots=True)
class DonorColumns:
    """All columns that donors' numbers make: one, or a second one where they interact with something.

    Attributes
    ----------
    axes
        The columns.
    lengths
        Shape (axes, axes, D). Cross-products of the columns of a donor.
    """

    axes: tuple[Axis, ...]
    lengths: FloatArray


def donor_columns(
    equations: Equations, collapsed: Collapsed, response: Responses, codes: IntArray, n: int, columns: Sequence[Columns]
) -> DonorColumns:
    """The maps of a model.

    Parameters
    ----------
    equations
        Of the model.
    collapsed, response
        The features, on the model's patterns, and their cross-products.
    codes, n
        Shape (patterns,). The donor of every pattern, and how many there are.
    columns
        One column (patterns, 1) for each axis.
    """
    X, ss = equations.fixed.columns, collapsed.covariate_ss
    left = collapsed.mean - X.mean @ response.ols.T
    within = collapsed.covariate_y - np.einsum("kij,jg->kig", ss, X.deviation @ response.ols.T)
    weighted = collapsed.weight[:, None] * left
    axes = []
    for own in columns:
        y = own.mean * weighted + np.einsum("m,kmg->kg", own.deviation[:, 0], within)
        axes.append(Axis(*_maps(equations, collapsed, codes, own, n), _by_donor(y, codes, n)))
    lengths = np.array([[_lengths(a, b, collapsed, codes, n) for b in columns] for a in columns])
    return DonorColumns(tuple(axes), lengths)


def _maps(
    equations: Equations, collapsed: Collapsed, codes: IntArray, column: Columns, n: int
) -> tuple[FloatArray, FloatArray]:
    """`zty` and `ols` of the numbers that are 1 for one donor and 0 for the others, some donors at a time."""
    size = max(1, _TOGETHER // (codes.size * (1 + len(column.deviation))))
    found = [
        _respond(equations, collapsed, codes, column, np.arange(low, min(low + size, n))) for low in range(0, n, size)
    ]
    return np.concatenate([own.zty for own in found]), np.concatenate([own.ols for own in found])


def _respond(
    equations: Equations, collapsed: Collapsed, codes: IntArray, column: Columns, donors: IntArray
) -> Responses:
    """Some donors' own columns as responses of the rows."""
    own = codes[:, None] == donors
    slope = collapsed.covariate_ss @ column.deviation[:, 0]  # (patterns, m)
    rows = replace(
        collapsed, mean=column.mean * own, within_ss=(slope @ column.deviation) * own,
        covariate_y=slope[:, :, None] * own[:, None, :], abundance=np.zeros((codes.size, 0)),
    )  # fmt: skip
    return equations.responses(rows)


def _lengths(a: Columns, b: Columns, collapsed: Collapsed, codes: IntArray, n: int) -> FloatArray:
    between = collapsed.weight * a.mean[:, 0] * b.mean[:, 0]
    within = np.einsum("i,kij,j->k", a.deviation[:, 0], collapsed.covariate_ss, b.deviation[:, 0])
    return np.asarray(np.bincount(codes, between + within, n))


def _by_donor(values: FloatArray, codes: IntArray, n: int) -> FloatArray:
    out = np.zeros((n, values.shape[1]))
    np.add.at(out, codes, values)
    return out
