"""Blocks of variants, and which of them each feature is tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray


class Block(NamedTuple):
    """V variants in use of a block: positions in the genotypes `at`, genotypes `x` (V, D), frequency and known donors (V,)."""

    at: IntArray
    x: FloatArray
    frequency: FloatArray
    n: IntArray

    def take(self, which: slice | IntArray) -> Block:
        """Some of them."""
        return Block(self.at[which], self.x[which], self.frequency[which], self.n[which])


class Ranges(NamedTuple):
    """Variants low..high-1 of a block that each of the G features of a task is tested with, (G,)."""

    low: IntArray
    high: IntArray

    def within(self, which: slice) -> Ranges:
        """Those among some of the block's variants."""
        n = which.stop - which.start
        return Ranges(*(np.clip(end - which.start, 0, n) for end in self))
