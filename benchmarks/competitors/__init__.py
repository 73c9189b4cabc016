"""One file for each thing that is timed against another: a function of an AnnData, called for its work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import anndata as ad


class Competitor(Protocol):
    """Does its whole job on `adata` in `n_jobs` threads; what it returns is not looked at."""

    def __call__(self, adata: ad.AnnData, *, n_jobs: int) -> object: ...
