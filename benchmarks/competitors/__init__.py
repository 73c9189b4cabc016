"""One file for each thing that is timed against another: its NAME, and a function of an AnnData, called for its work.

A file whose package may not be installed has a function ``missing()`` as well: what must be installed, empty where
all is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import anndata as ad


class Competitor(Protocol):
    """Does its whole job on `adata` in `n_jobs` threads; what it returns is not looked at."""

    def __call__(self, adata: ad.AnnData, *, n_jobs: int) -> object: ...


def missing(competitor: Any) -> str:
    """What must be installed for a competitor; empty where all is there."""
    return competitor.missing() if hasattr(competitor, "missing") else ""
