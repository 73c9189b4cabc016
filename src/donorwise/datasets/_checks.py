"""What arguments of simulations are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from donorwise.errors import DonorwiseError


def check_cell_types(cell_types: Sequence[str]) -> list[str]:
    """Names of cell types, as a list."""
    types = [cell_types] if isinstance(cell_types, str) else [str(name) for name in cell_types]
    if not types or len(set(types)) < len(types) or any("/" in name for name in types):
        raise DonorwiseError(f"cell_types={cell_types!r}: needs one or more distinct names without '/'.")
    return types


def check_counts(arguments: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Raise where an argument is below its least value."""
    for name, value in least.items():
        if arguments[name] < value:
            raise DonorwiseError(f"{name}={arguments[name]!r}: must be at least {value}.")


def check_chromosomes(n_chromosomes: int, n_variants: int) -> None:
    """Raise unless every chromosome gets a variant."""
    if not 1 <= n_chromosomes <= n_variants:
        raise DonorwiseError(f"n_chromosomes={n_chromosomes!r}: must be from 1 to n_variants={n_variants!r}.")


def check_sizes(arguments: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise where an argument is negative or no number."""
    for name in names:
        if not arguments[name] >= 0:
            raise DonorwiseError(f"{name}={arguments[name]!r}: must not be negative.")


def check_shares(arguments: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise where an argument is no share."""
    for name in names:
        if not 0 <= arguments[name] <= 1:
            raise DonorwiseError(f"{name}={arguments[name]!r}: must lie between 0 and 1.")


def check_positive(arguments: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise where an argument is not positive."""
    for name in names:
        if not arguments[name] > 0:
            raise DonorwiseError(f"{name}={arguments[name]!r}: must be positive.")
