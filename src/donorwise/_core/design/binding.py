"""The known covariances that a formula names, and the matrices that users give for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donorwise._core.design.covariance import as_kernel
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._core.design.formula import ParsedFormula


def bind(
    parsed: ParsedFormula,
    kernels: Mapping[str, Any] | None = None,
    *,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
) -> ParsedFormula:
    """The formula with the covariances that its ``gr(...)`` name.

    Parameters
    ----------
    kernels
        By name, a square matrix: a DataFrame or xarray.DataArray whose rows and columns are named by the levels, or an array.
    relmat
        By grouping factor, a matrix that all its random terms get (the short form of one kernel).
    levels
        Names of the rows of arrays: one sequence for all of them, or one for each by name.

    Raises
    ------
    DesignError
        A kernel is not given, or not in the formula.
    DataError
        A matrix cannot be used.
    """
    given = dict(kernels or {})
    if relmat:
        groups = {tuple(str(name).split(":")): str(name) for name in relmat}
        _check_groups(parsed, groups)
        parsed, given = parsed.with_relatives(groups), given | {str(k): v for k, v in relmat.items()}
    _check_named(parsed, given)
    return parsed.with_kernels({name: as_kernel(name, values, levels) for name, values in given.items()})


def _check_groups(parsed: ParsedFormula, groups: Mapping[tuple[str, ...], str]) -> None:
    """Raise unless every grouping factor has a random term."""
    there = {bar.group for bar in parsed.bars}
    for group, name in groups.items():
        if group not in there:
            raise DesignError(
                f"relmat= has a matrix for {name!r}, and no random term of {parsed.source!r} has that grouping factor; "
                f"there are {listing(':'.join(g) for g in there) or 'none'}."
            )


def _check_named(parsed: ParsedFormula, given: Mapping[str, Any]) -> None:
    """Raise unless the formula names what is given, and all that it names is."""
    missing = [bar.cov for bar in parsed.bars if bar.cov and bar.kernel is None and bar.cov not in given]
    if missing:
        raise DesignError(
            f"The formula names the covariance {listing(dict.fromkeys(missing))}, which is not given: pass kernels={{{missing[0]!r}: K}}, "
            f"a DataFrame whose rows and columns are named by the levels of the grouping factor (in a command --kernel "
            f"{missing[0]}=FILE)."
        )
    unused = [name for name in given if name not in parsed.covs]
    if unused:
        raise DesignError(
            f"kernels= has {listing(unused)}, which the formula {parsed.source!r} does not name; a random term with it is "
            f"written `(1 | gr(donor_id, cov={unused[0]}))`."
        )
