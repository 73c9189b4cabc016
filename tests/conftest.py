from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the tests keep the cores busy; read when numpy is imported

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

import donorwise as dw

matplotlib.use("Agg")

# Kernels are compiled inside the first examples, which no deadline survives.
settings.register_profile("donorwise", deadline=None, derandomize=True)
settings.load_profile("donorwise")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A call in which every test is skipped has shown nothing, like one that selects none: it fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and exitstatus == pytest.ExitCode.OK and not session.config.option.collectonly:
        if not reporter.stats.get("passed"):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.fixture(scope="session")
def _cohort() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=60, de_fraction=0.2, effect_size=2.0)


@pytest.fixture
def cohort(_cohort: ad.AnnData) -> ad.AnnData:
    """Case-control cohort of 8 donors, 800 cells, 60 genes; the test may change it."""
    return _cohort.copy()


@pytest.fixture(scope="session")
def obs() -> pd.DataFrame:
    """8 donors of 20 cells, 4 in each arm; two samples a donor, both conditions in each."""
    donor = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "donor": [f"D{d}" for d in donor],
            "arm": np.where(donor % 2, "case", "ctrl"),
            "cond": np.tile(["a", "b"], 80),
            "sample": np.tile(np.repeat(["s1", "s2"], 10), 8),
            "time": rng.integers(0, 4, 160),
            "x": rng.normal(size=160).round(1),
            "batch": rng.integers(0, 3, 160).astype(str),
        }
    )


@pytest.fixture(scope="session")
def Y() -> np.ndarray:
    """Four responses of the rows of `obs`, with donor effects."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(160, 4)) + np.repeat(rng.normal(size=(8, 4)), 20, axis=0)


@pytest.fixture(scope="session")
def fit_once(Y: np.ndarray, obs: pd.DataFrame) -> Callable[..., dw.LMMFit]:
    """`fit_lmm` of `Y` and `obs` by a formula and options, each fitted once."""
    return cache(lambda formula, **options: dw.fit_lmm(Y, obs, formula, **options))
