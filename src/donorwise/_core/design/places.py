"""Levels and values of variables, as users name them for contrasts and means: ``by="cell_type", at={"age": [40, 60]}``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from donorwise._core.design.conditions import check_variable, is_number, levels_in_use, match_level, variables_of
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design

At: TypeAlias = "Mapping[str, Hashable | Sequence[Hashable]] | None"
"""Values of variables, one or several each."""


def names_of(given: Any) -> tuple[str, ...]:
    """One name, several, or none (None)."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def read_values(at: Any) -> dict[str, tuple[Hashable, ...]]:
    """The values of each variable."""
    if at is not None and not isinstance(at, Mapping):
        raise DesignError(f"at= is a dict of values by variable, such as {{'age': 50}}, not {at!r}.")
    values = {name: _listed(value) for name, value in (at or {}).items()}
    empty = next((name for name, own in values.items() if not own), None)
    if empty is not None:
        raise DesignError(f"at= has no value for `{empty}`.")
    return values


def _listed(value: Any) -> tuple[Hashable, ...]:
    """One value or several as several, each once."""
    several = isinstance(value, Iterable) and not isinstance(value, str)
    return tuple(dict.fromkeys(value)) if several else (value,)


def check_names(names: Iterable[object]) -> None:
    """Raise where one is no text."""
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise DesignError(f"{wrong!r} is not the name of a variable.")


def check_variables(names: Iterable[str], every: Sequence[str]) -> None:
    """Raise unless all are among the variables of the fixed effects, which are `every`."""
    for name in names:
        check_variable(name, every)


def within_groups(
    groupby: Sequence[str], by: Sequence[str], *, fixed: Iterable[str] = (), among: bool = False
) -> tuple[str, ...]:
    """The variables of `by` but for the columns that make the groups, each of which has a model of its own.

    Raises
    ------
    DesignError
        One of these columns is `fixed` in what is asked, or its levels are compared `among` themselves.
    """
    inside = [name for name in by if name in groupby]
    wrong = next((name for name in fixed if name in groupby), inside[0] if inside and among else None)
    if wrong is not None:
        raise DesignError(
            f"`{wrong}` makes the groups, which have a model each: nothing is compared or chosen between groups here. Choose "
            "groups with group=, or take it out of groupby= and into the formula, as an interaction, to compare them."
        )
    return tuple(name for name in by if name not in groupby)


def values_of(designs: Sequence[Design], name: str, at: Mapping[str, tuple[Hashable, ...]]) -> list[Hashable]:
    """The values of a variable that are asked about: those of `at`, or its levels."""
    if name in at:
        return list(at[name])
    levels = levels_in_use(designs, name)
    if levels is None:
        raise DesignError(
            f"`{name}` is numeric and has no levels to compare, or to go through: name values, as in "
            f"at={{{name!r}: [40, 60]}}; dw.slope({name!r}) is the slope over it."
        )
    return levels


def reference_grid(
    designs: Sequence[Design], names: Sequence[str], at: Mapping[str, tuple[Hashable, ...]]
) -> list[dict[str, Hashable]]:
    """All combinations of the values of variables, the last one fastest; levels are as the data has them.

    Raises
    ------
    DesignError
        A variable is not in the fixed effects, or a level in none of the designs.
    """
    every = list(dict.fromkeys([*names, *at]))
    check_variables(every, variables_of(designs))
    values = {name: [_known(designs, name, value) for value in values_of(designs, name, at)] for name in every}
    return [dict(zip(every, own, strict=True)) for own in product(*values.values())]


def _known(designs: Sequence[Design], name: str, value: Hashable) -> Hashable:
    """A value as the data has it."""
    levels = levels_in_use(designs, name)
    if levels is None:
        if not is_number(value) or not np.isfinite(value):  # type: ignore[call-overload]
            raise DesignError(f"`{name}` is numeric: give a number, not {value!r}.")
        return float(value)  # type: ignore[arg-type]
    match = match_level(levels, value)
    if match is None:
        raise DesignError(f"{value!r} is not a level of `{name}` in these rows; its levels are {listing(levels)}.")
    return match


def equal(name: str, value: object) -> str:
    """A variable at a value, as names of contrasts have it."""
    return f"{name}={shown_value(value)}"


def shown_value(value: object) -> str:
    """A value as names have it."""
    return f"{value:.10g}" if is_number(value) and not isinstance(value, bool | np.bool_) else str(value)
