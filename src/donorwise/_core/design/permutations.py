"""Arrangements of labels: how many there are, all of them, or a random sample without repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import factorial, prod
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.exchange import Exchange, swapped
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._typing import IntArray

# Draws per arrangement that is asked for, before the rest is taken to be unusable.
_PATIENCE = 200


@dataclass(frozen=True, slots=True)
class Arrangements:
    """Arrangements of labels other than the observed one.

    Attributes
    ----------
    labels
        Each of shape (U,).
    n_distinct
        How many different values of ``|t|`` the design allows, the observed labels included.
    exhaustive
        Whether these are all.
    n_unusable
        Arrangements left out because the design could not tell their effect from a covariate's.
    """

    labels: tuple[IntArray, ...]
    n_distinct: int
    exhaustive: bool
    n_unusable: int


def count_distinct(exchange: Exchange) -> int:
    """Number of arrangements, two that give the same ``|t|`` by symmetry counted once."""
    blocks = [exchange.labels[exchange.block == b] for b in range(int(exchange.block.max()) + 1)]
    total = prod(factorial(own.size) // prod(factorial(int(n)) for n in np.bincount(own)) for own in blocks if own.size)
    return total // 2 if exchange.swap else total


def arrange(exchange: Exchange, n: int, rng: np.random.Generator, usable: Callable[[IntArray], bool]) -> Arrangements:
    """All arrangements if there are no more than `n`, else `n` different ones at random.

    Parameters
    ----------
    exchange
        The labels.
    n
        Number of arrangements wanted.
    rng
        Source of the random ones.
    usable
        Tells whether an arrangement's labels (U,) can be fitted.

    Raises
    ------
    DesignError
        When the observed arrangement is the only one.
    """
    n_distinct = count_distinct(exchange)
    if n_distinct == 1:
        where = {"within-donor": "inside each donor", "between-family": "among families of a stratum"}.get(
            exchange.kind, "among donors of a stratum"
        )
        raise DesignError(
            f"The labels of `{exchange.variable}` can be arranged {where} in one way only: nothing can be permuted."
        )
    exhaustive = n_distinct - 1 <= n
    seen = {_key(exchange, exchange.labels)}
    kept: list[IntArray] = []
    for labels in _all(exchange) if exhaustive else _random(exchange, rng, _PATIENCE * n):
        key = _key(exchange, labels)
        if key in seen:
            continue
        seen.add(key)
        if usable(labels):
            kept.append(labels)
        if len(kept) == n:
            break
    if not kept:
        raise DesignError(
            f"No other arrangement of the labels of `{exchange.variable}` can be told from the covariates; "
            "leave some of them out of the formula."
        )
    return Arrangements(tuple(kept), n_distinct, exhaustive, len(seen) - 1 - len(kept))


def _key(exchange: Exchange, labels: IntArray) -> bytes:
    """The same for arrangements that give the same ``|t|``."""
    own = labels.tobytes()
    return own if exchange.swap is None else min(own, swapped(labels, exchange.swap).tobytes())


def _random(exchange: Exchange, rng: np.random.Generator, n: int) -> Iterator[IntArray]:
    units = np.argsort(exchange.block, kind="stable")
    for _ in range(n):
        shuffled = np.lexsort([rng.random(units.size), exchange.block])
        labels = np.empty_like(exchange.labels)
        labels[units] = exchange.labels[shuffled]
        yield labels


def _all(exchange: Exchange) -> Iterator[IntArray]:
    blocks = [np.flatnonzero(exchange.block == b) for b in range(int(exchange.block.max()) + 1)]
    for choice in product(*(list(_orders(np.bincount(exchange.labels[units]))) for units in blocks)):
        labels = np.empty_like(exchange.labels)
        for units, own in zip(blocks, choice, strict=True):
            labels[units] = own
        yield labels


def _orders(counts: IntArray) -> Iterator[list[int]]:
    """All different orders of labels that occur `counts` times."""
    if not counts.any():
        yield []
    for label in np.flatnonzero(counts):
        rest = counts.copy()
        rest[label] -= 1
        yield from ([int(label), *order] for order in _orders(rest))
