"""Rows that stand for many cells, with what their counts leave at nodes: merged, and expressed at other nodes.

Nodes stand for cells: what a row has at one of them is spread over other nodes as the counts of a cell with its exposure are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.cells.counts import Counted
from donorwise._core.cells.nodes import Nodes, choose_nodes
from donorwise._core.cells.tails import Tails, choose_tails

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray, IntArray


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
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n))
    return CountedRows(
        Counted(**{name: np.add.reduceat(values[order], starts) for name, values in stacked.items()}),
        nodes,
        shared_tails,
    )
