"""Rows that stand for many cells, with what their counts leave at nodes: merged, and expressed at other nodes.

Nodes stand for cells: what a row has at one of them is spread over other nodes as the counts of a cell with its exposure are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.cells.counts import Counted
from donorwise._core.cells.nodes import Nodes, choose_nodes
from donorwise._core.cells.tails import Tails, choose_tails

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Counts of the cells behind K rows, of which nothing is read before it is asked for.

    Attributes
    ----------
    n_obs, exposure, shared
        As in :class:`donorwise._core.cells.counts.Counted`.
    nodes, tails
        What the counts are at; None where there are no more than sums, or no tails.
    read
        Gives numbers of some rows and features, by their positions (None for all): ``"total"``, and at the i-th node or
        value of the tails ``"own"`` and ``"tail"``, with i.
    """

    n_obs: IntArray
    exposure: FloatArray
    shared: FloatArray
    nodes: Nodes | None
    tails: Tails | None
    read: Callable[[str, int, IntArray, IntArray | None], FloatArray]

    def patterns(self, codes: IntArray, n: int, features: IntArray | None = None) -> Counted:
        """Unions of rows; besides the result no more than one number for each row and feature is in memory.

        Parameters
        ----------
        codes
            Shape (K,). Which of the n unions each row belongs to, -1 for rows to leave out; each of them has rows.
        n
            Number of unions.
        features
            Positions of the features; all if None.
        """
        used = np.flatnonzero(codes >= 0)
        union = _Union(codes[used], n)

        def stacked(name: str, size: int) -> FloatArray:
            out = np.empty((n, size, total.shape[1]))
            for i in range(size):
                out[:, i] = union(self.read(name, i, used, features))
            return out

        total = union(self.read("total", 0, used, features))
        n_nodes = 0 if self.nodes is None else len(self.nodes.at)
        n_tails = 0 if self.tails is None else len(self.tails.values)
        return Counted(
            union(self.n_obs[used]), union(self.exposure[used]), union(self.shared[used]), total,
            stacked("own", n_nodes), stacked("tail", n_tails),
        )  # fmt: skip


class _Union:
    """Sums over rows with the same code, of n."""

    def __init__(self, codes: IntArray, n: int) -> None:
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.searchsorted(codes[self._order], np.arange(n))

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.add.reduceat(values[self._order], self._starts))


@dataclass(frozen=True, slots=True)
class CountedRows:
    """Counts of the cells behind K rows.

    Attributes
    ----------
    counted
        Their sums.
    nodes, tails
        What `counted` is at; None where it has no more than sums, or no tails.
    """

    counted: Counted
    nodes: Nodes | None = None
    tails: Tails | None = None

    def at(self, nodes: Nodes | None, tails: Tails | None) -> CountedRows:
        """The same at nodes and tails that reach at least as far."""
        counted = self.counted
        if self.nodes is not None and nodes is not None and not np.array_equal(self.nodes.at, nodes.at):
            basis = nodes.loadings(self.nodes.at)
            counted = replace(counted, shared=counted.shared @ basis, own=_spread(counted.own, basis))
        if self.tails is not None and tails is not None and not np.array_equal(self.tails.values, tails.values):
            counted = replace(counted, tail=_spread(counted.tail, tails.loadings(self.tails.values)))
        return CountedRows(counted, nodes, tails)


def _spread(values: FloatArray, basis: FloatArray) -> FloatArray:
    """What (K, J, G) is at J nodes, at others on which these load (J, I): (K, I, G)."""
    return np.asarray(np.matmul(basis.T, values))


def common_nodes(parts: Sequence[Nodes], kind: str) -> Nodes:
    """Nodes for the cells of all parts; the same ones where they are the same."""
    first = parts[0]
    error = max(own.error for own in parts)
    if all(np.array_equal(first.at, own.at) for own in parts):
        return replace(first, error=error)
    chosen = choose_nodes(min(own.low for own in parts), max(own.high for own in parts), kind)
    return replace(chosen, error=chosen.error + error)


def common_tails(parts: Sequence[Tails]) -> Tails:
    """Values for the counts of all parts; the same ones where they are the same."""
    largest = max(parts, key=lambda own: own.largest)
    return largest if all(own.largest == largest.largest for own in parts) else choose_tails(largest.largest)


def merge_counted(parts: Sequence[CountedRows], codes: IntArray, n: int, kind: str) -> CountedRows:
    """Unions of the rows of all parts, one under another; `codes` says which of n each row belongs to.

    `kind` is one of `donorwise._core.cells.nodes.SMOOTH`.
    """
    nodes = common_nodes([own.nodes for own in parts if own.nodes is not None], kind)
    tails = [own.tails for own in parts if own.tails is not None]
    shared_tails = common_tails(tails) if tails else None
    arrays = [own.at(nodes, shared_tails).counted.arrays() for own in parts]
    stacked = {name: np.concatenate([own[name] for own in arrays]) for name in arrays[0]}
    union = _Union(codes, n)
    return CountedRows(Counted(**{name: union(values) for name, values in stacked.items()}), nodes, shared_tails)
