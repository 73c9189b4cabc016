"""The known covariances that a formula names, and the matrices that users give for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from donorwise._core.design.given import as_kernel
from donorwise._core.design.names import quote
from donorwise._core.wording import listing, suggestion
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
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
    given, related = by_name(kernels, "kernels", "grm"), by_name(relmat, "relmat", "donor_id")
    if related:
        groups = {tuple(name.split(":")): name for name in related}
        _check_groups(parsed, groups, given)
        parsed, given = parsed.with_relatives(groups), given | related
    _check_named(parsed, given)
    return parsed.with_kernels({name: as_kernel(name, values, levels) for name, values in given.items()})


def by_name(given: Any, option: str, example: str) -> dict[str, Any]:
    """Matrices by name; raise where these are not in a dict."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise DataError(f"{option}= is a dict of matrices by name, {option}={{{example!r}: K}}, and not a {kind}.")
    return {str(name): values for name, values in given.items()}


def refuse_kernels(parsed: ParsedFormula, model: str, linear: str = "dw.tl.lmm") -> None:
    """Raise where a formula for another model than the linear mixed model, of that name, has a known covariance.

    Raises
    ------
    DesignError
        Says what to do instead.
    """
    own = next((bar for bar in parsed.bars if bar.cov), None)
    if own is not None:
        raise DesignError(
            f"{model} takes no known covariance between levels, and {parsed.source!r} has `{own.text}`. Fit log-normalised values "
            f"with {linear}, which takes it, or take the levels to be independent: `({own.columns.strip()} | "
            f"{':'.join(map(quote, own.group))})`."
        )


def check_given(parsed: ParsedFormula) -> None:
    """Raise where a covariance that the formula names is not there."""
    missing = [bar.cov for bar in parsed.bars if bar.cov and bar.kernel is None]
    if missing:
        raise DesignError(_not_given(missing, ()))


def _not_given(missing: list[str], given: tuple[str, ...]) -> str:
    close = f" ({suggestion(missing[0], given, 'kernels= has').rstrip('.')})" if given else ""
    return (
        f"The formula names the covariance {listing(dict.fromkeys(missing))}, which is not given{close}: pass "
        f"kernels={{{missing[0]!r}: K}}, a DataFrame whose rows and columns are named by the levels of the grouping "
        f"factor (in a command --kernel {missing[0]}=FILE)."
    )


def _check_groups(parsed: ParsedFormula, groups: Mapping[tuple[str, ...], str], given: Mapping[str, Any]) -> None:
    """Raise unless every grouping factor has a random term that takes a matrix."""
    there = dict.fromkeys(bar.group for bar in parsed.bars)
    free = {bar.group for bar in parsed.bars if not bar.cov}
    for group, name in groups.items():
        if group not in there:
            raise DesignError(
                f"relmat= has a matrix for {name!r}, and no random term of {parsed.source!r} has that grouping factor; "
                f"there are {listing(':'.join(g) for g in there) or 'none'}."
            )
        if group not in free:
            raise DesignError(
                f"relmat= has a matrix for {name!r}, whose random terms in {parsed.source!r} name covariances of their own; "
                "give these with kernels=."
            )
        if name in given or name in parsed.covs:
            raise DesignError(
                f"{name!r} is the name of a kernel and a grouping factor of relmat=; give all with kernels=."
            )


def _check_named(parsed: ParsedFormula, given: Mapping[str, Any]) -> None:
    """Raise unless the formula names what is given, and all that it names is."""
    missing = [bar.cov for bar in parsed.bars if bar.cov and bar.kernel is None and bar.cov not in given]
    if missing:
        raise DesignError(_not_given(missing, tuple(given)))
    unused = [name for name in given if name not in parsed.covs]
    if unused:
        group = ":".join(map(quote, parsed.bars[0].group)) if parsed.bars else "donor_id"
        raise DesignError(
            f"kernels= has {listing(unused)}, which the formula {parsed.source!r} does not name; a random term with it is "
            f"written `(1 | gr({group}, cov={quote(unused[0])}))`."
        )
