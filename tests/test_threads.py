"""Calls in several threads of a process, and under other backends of joblib: the same numbers, and no trace of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread
from typing import Any

import anndata as ad
import joblib
import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import donorwise as dw
from donorwise._core.jobs import Shared

FORMULA = "~ condition + np.log(age) + (1 | donor_id)"
N = 6


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=8, n_cells=500, n_genes=120, cell_types=("T cell",), seed=1)


def _limit(n: int) -> None:
    """Set the threads of BLAS as a program does at its start: by no thread that is still there to control them."""
    thread = Thread(target=lambda: threadpool_limits(limits=n, user_api="blas"))
    thread.start()
    thread.join()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """BLAS with two threads."""
    _limit(2)
    yield
    _limit(1)


def state() -> tuple[Any, ...]:
    """What a call could leave changed."""
    pools = sorted((info["filepath"], info["num_threads"]) for info in threadpool_info() if info["user_api"] == "blas")
    return pools, list(warnings.filters), np.geterr(), warnings.showwarning


def test_the_last_one_out_puts_it_back() -> None:
    made: list[str] = []

    def change() -> Any:
        made.append("made")
        return lambda: made.append("undone")

    shared, meet = Shared(change), Barrier(4)

    def work(first: bool) -> int:
        with shared:
            meet.wait()
            return made.count("undone")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0] * 4
    assert made == ["made", "undone"]
    with pytest.raises(ValueError, match="fails"), shared:
        raise ValueError("fails")
    assert made == ["made", "undone"] * 2


@pytest.mark.usefixtures("two_threads")
def test_calls_at_once_leave_the_process_as_it_was(adata: ad.AnnData) -> None:
    alone, before, meet = adata.copy(), state(), Barrier(N)
    dw.tl.lmm(alone, FORMULA, progress=False)
    assert state() == before

    def work(number: int) -> pd.DataFrame:
        own = adata.copy()
        meet.wait()
        for _ in range(1 + number % 3):  # they end at different times
            dw.tl.lmm(own, FORMULA, progress=False)
        return dw.get.tests(own, sort_by=None)

    with ThreadPoolExecutor(N) as pool:
        tables = list(pool.map(work, range(N)))
        assert state() == before  # while the threads are still there
    for table in tables:
        pd.testing.assert_frame_equal(table, dw.get.tests(alone, sort_by=None))


@pytest.mark.usefixtures("two_threads")
def test_a_call_that_fails_among_others(adata: ad.AnnData) -> None:
    before = state()

    def work(number: int) -> str:
        try:
            dw.tl.lmm(
                adata.copy(), FORMULA if number % 2 else "~ condition + no_such_column + (1 | donor_id)", progress=False
            )
        except dw.errors.DonorwiseError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(N) as pool:
        said = list(pool.map(work, range(N)))
    assert [bool(text) for text in said] == [True, False] * (N // 2)
    assert state() == before


@pytest.mark.usefixtures("two_threads")
def test_every_tool_limits_blas(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a fit without an AnnData, too."""
    from donorwise._core.engine import power

    seen: list[int] = []
    rows = power._rows

    def look(*args: Any) -> Any:
        seen.extend(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        return rows(*args)

    fit = dw.fit_lmm(np.asarray(adata.X.todense()), adata.obs, "~ condition + (1 | donor_id)")
    monkeypatch.setattr(power, "_rows", look)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dw.tl.power(fit, n_donors=[8], n_cells=[50], contrast="condition[T.disease]")
    assert seen and set(seen) == {1}


@pytest.mark.parametrize("backend", ["multiprocessing", "threading", "sequential"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_backends_of_joblib(adata: ad.AnnData, backend: str, n_jobs: int) -> None:
    obs = adata.obs.assign(time=np.arange(adata.n_obs) % 5.0)
    Y = np.random.default_rng(0).normal(size=(adata.n_obs, 1100))  # work for two
    single = dw.fit_lmm(Y, obs, "~ condition + (1 + time | donor_id)")
    permuted = {}
    for name in ("as it is", backend):
        own = adata.copy()
        with joblib.parallel_config(name) if name == backend else warnings.catch_warnings():
            fit = dw.fit_lmm(Y, obs, "~ condition + (1 + time | donor_id)", n_jobs=n_jobs)
            np.testing.assert_array_equal(fit.vcov_beta, single.vcov_beta)
            dw.tl.calibrate(
                own,
                "~ condition + (1 | donor_id)",
                "condition[T.disease]",
                n_permutations=5,
                n_jobs=n_jobs,
                progress=False,
            )
        permuted[name] = own.uns["calibration"]["variables"]
    pd.testing.assert_frame_equal(permuted[backend], permuted["as it is"])
