from __future__ import annotations

import anndata as ad
import matplotlib
import pytest
from hypothesis import settings

import donorwise as dw

matplotlib.use("Agg")

# Kernels are compiled inside the first examples, which no deadline survives.
settings.register_profile("donorwise", deadline=None, derandomize=True)
settings.load_profile("donorwise")


@pytest.fixture(scope="session")
def _cohort() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=60, de_fraction=0.2, effect_size=2.0)


@pytest.fixture
def cohort(_cohort: ad.AnnData) -> ad.AnnData:
    """Case-control cohort of 8 donors, 800 cells, 60 genes; the test may change it."""
    return _cohort.copy()
