"""Interactions that compare donors in what changes within them: slopes of two arms, responses of cases and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

_SAME = 1e-9  # of a column's largest value, for rounding


@dataclass(frozen=True, slots=True)
class Change:
    """A coefficient that is a column varying within donors times a number that each donor has.

    Attributes
    ----------
    inner
        Shape (n,). The column that varies within donors: time, or the indicator of a treatment.
    scale
        Shape (D,). The donor's number: 1 in the arm and 0 elsewhere, or an age.
    shows
        Shape (D,). Donors in which the inner column varies: those that can show a change.
    reference
        Shape (D,). Donors of the reference arm among them.
    """

    inner: FloatArray
    scale: FloatArray
    shows: BoolArray
    reference: BoolArray

    @property
    def has_arms(self) -> bool:
        """Whether the donors are in arms (they have 0 or 1)."""
        return bool(np.isin(self.scale, (0, 1)).all())


def find_change(
    column: FloatArray, siblings: Sequence[FloatArray], inner: Sequence[FloatArray], donor: IntArray, n_donors: int
) -> Change | None:
    """Factor the column of an interaction; None where it is not compared with donors that change by another coefficient.

    Parameters
    ----------
    column
        Shape (n,). The column of the coefficient.
    siblings
        The other columns of its term.
    inner
        Columns of the formula that vary within donors and may be the inner one. Where each arm has a slope of its
        own (``~ arm + arm:time``) there is none.
    donor
        Shape (n,). Donor of each row, 0 to `n_donors` - 1.
    """
    for z in inner:
        scale = _scale(column, z, donor, n_donors)
        if scale is None or not scale.any():
            continue
        example = np.zeros(n_donors)
        example[donor] = z
        shows = np.bincount(donor[z != example[donor]], minlength=n_donors) > 0
        others = [own for s in siblings if (own := _scale(s, z, donor, n_donors)) is not None]
        reference = shows & np.all([own == 0 for own in (scale, *others)], axis=0)
        return Change(z, scale, shows, reference)
    return None


def _scale(column: FloatArray, inner: FloatArray, donor: IntArray, n_donors: int) -> FloatArray | None:
    """The number of each donor with which `inner` gives `column`; None if there is no such number."""
    squares = np.bincount(donor, weights=inner * inner, minlength=n_donors)
    products = np.bincount(donor, weights=inner * column, minlength=n_donors)
    scale = products / np.where(squares > 0, squares, 1.0)
    error = np.abs(column - scale[donor] * inner).max(initial=0.0)
    return np.round(scale, 9) if error <= _SAME * np.abs(column).max(initial=1.0) else None
