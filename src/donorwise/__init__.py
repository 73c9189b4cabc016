"""Differential analysis of single-cell data in which the donor, not the cell, is the replicate.

Linear mixed models across every gene or score of an AnnData, with the numbers that lme4 gives on the
same cells, from one pass over them:

- :mod:`donorwise.tl` fits and tests,
- :mod:`donorwise.get` returns tidy tables, :mod:`donorwise.pl` draws,
- :mod:`donorwise.datasets` simulates cohorts with known truth,
- :func:`donorwise.fit_lmm` and :func:`donorwise.fit_glmm` fit arrays and a DataFrame, without an AnnData.

Importing the package stays light: everything but the accessor is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from donorwise import _accessor as _accessor

if TYPE_CHECKING:
    from donorwise import datasets, errors, get, pl, pp, tl
    from donorwise._core.design.comparisons import pairwise, slope
    from donorwise._core.design.cond import cond
    from donorwise._core.engine.exact import fit_glmm
    from donorwise._core.engine.fit_arrays import fit_lmm
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.engine.fitted_glmm import GLMMFit
    from donorwise._core.engine.fitted_peptides import PeptideFit
    from donorwise._core.engine.scan_result import ScanResult
    from donorwise.tl._scan_variants import scan_variants

__all__ = [
    "GLMMFit",
    "LMMFit",
    "PeptideFit",
    "ScanResult",
    "__version__",
    "cond",
    "datasets",
    "errors",
    "fit_glmm",
    "fit_lmm",
    "get",
    "pairwise",
    "pl",
    "pp",
    "scan_variants",
    "slope",
    "tl",
]

__version__ = metadata.version("donorwise")

# Where each public name lives; None marks a submodule.
_LAZY: dict[str, str | None] = {
    "GLMMFit": "donorwise._core.engine.fitted_glmm",
    "LMMFit": "donorwise._core.engine.fitted",
    "PeptideFit": "donorwise._core.engine.fitted_peptides",
    "ScanResult": "donorwise._core.engine.scan_result",
    "cond": "donorwise._core.design.cond",
    "datasets": None,
    "errors": None,
    "fit_glmm": "donorwise._core.engine.exact",
    "fit_lmm": "donorwise._core.engine.fit_arrays",
    "get": None,
    "pairwise": "donorwise._core.design.comparisons",
    "pl": None,
    "pp": None,
    "scan_variants": "donorwise.tl._scan_variants",
    "slope": "donorwise._core.design.comparisons",
    "tl": None,
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'donorwise' has no attribute {name!r}")
    home = _LAZY[name]
    value = import_module(f"donorwise.{name}") if home is None else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
