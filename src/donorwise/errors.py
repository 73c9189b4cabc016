"""Exceptions and warnings of the package.

Every error a user can cause derives from :class:`DonorwiseError`, which is a
:class:`ValueError`, so that ``except ValueError`` keeps working.
"""

from __future__ import annotations


class DonorwiseError(ValueError):
    """Base class of all errors raised for bad input."""


class FormulaError(DonorwiseError):
    """A formula does not parse, or asks for something that has no meaning."""


class DesignError(DonorwiseError):
    """The data cannot answer the formula (missing columns, aliased effects, too few donors)."""


class DataError(DonorwiseError):
    """The responses or weights cannot be used (NaN in sparse data, wrong shape, missing layer)."""


class OutputError(DonorwiseError):
    """A result cannot be written: no space, no permission, or another run is writing it."""


class DonorwiseWarning(UserWarning):
    """The analysis runs, but its results deserve a second look."""
