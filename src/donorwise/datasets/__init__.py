"""Data sets to try things on, with known truth."""

from __future__ import annotations

from donorwise.datasets._diann_report import diann_report
from donorwise.datasets._eqtls import simulate_eqtls
from donorwise.datasets._peptides import simulate_peptides
from donorwise.datasets._relatives import simulate_relatives
from donorwise.datasets._simulate import simulate_cohort

__all__ = ["diann_report", "simulate_cohort", "simulate_eqtls", "simulate_peptides", "simulate_relatives"]


def __dir__() -> list[str]:
    return sorted(__all__)
