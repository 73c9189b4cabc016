"""The two ways to treat numbers of the formula, whatever the number of rows would decide."""

from __future__ import annotations

import numpy as np

from donorwise._core.design.design import combine, first_rows, varies


def numbers_inside_patterns(categorical, numeric, n_rows, most=None):
    """What find_patterns decides for many rows: numbers that vary within the categories are accumulated row by row."""
    codes, size = combine(categorical, n_rows)
    first = first_rows(codes, size)
    return codes, size, tuple(sorted(name for name, values in numeric.items() if varies(values, codes, first)))


def numbers_as_patterns(categorical, numeric, n_rows, most=None):
    """The opposite: every combination of values is a pattern."""
    keys = [(codes, len(labels)) for labels, codes in (np.unique(v, return_inverse=True) for v in numeric.values())]
    return (*combine([*categorical, *keys], n_rows), ())
