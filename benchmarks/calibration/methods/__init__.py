"""One file for each kind of test: p-values of the tested genes of a data set, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@dataclass(frozen=True, slots=True)
class Method:
    """A test of the condition.

    Attributes
    ----------
    name
        As in the tables.
    p_values
        From a data set to p-values (G,) of the tested genes; NaN for a gene that it did not test.
    applies
        Whether it has anything to say about a data set.
    missing
        What must be installed for it; empty where all is there.
    """

    name: str
    p_values: Callable[[Any], np.ndarray]
    applies: Callable[[Any], bool]
    missing: str = ""
