"""Requests to stop that a library swallows are obeyed at the next block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import anndata as ad
import numpy as np
import pytest
from tests._batch import ROOT

import donorwise as dw
from donorwise._core.engine import lmm
from donorwise._core.jobs import Progress

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals of POSIX"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning"),
]
FORMULA = "~ condition + (1 | donor_id)"


class Trap:
    """A signal arrives while this is destroyed, where Python ignores what it raises."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs between two steps of the interpreter
            pass


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A shell's background job, such as these tests may be, ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def adata() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20, cell_types=("B", "T", "NK", "Mono"), seed=1)


def trapped(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Let Ctrl-C arrive, and be swallowed, in the `at`-th block; the list counts the blocks."""
    blocks: list[int] = []
    fit = lmm._fit_block

    def trap(*args: Any, **more: Any) -> Any:
        blocks.append(1)
        if len(blocks) == at:
            Trap(signal.SIGINT)
        return fit(*args, **more)

    monkeypatch.setattr(lmm, "_fit_block", trap)
    return blocks


def test_ctrl_c_in_a_destructor_ends_the_call(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, hook, handler = trapped(monkeypatch, at=2), sys.unraisablehook, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        dw.tl.lmm(adata, FORMULA, groupby="cell_type", progress=False)
    assert len(blocks) == 2 and "lmm" not in adata.uns
    assert sys.unraisablehook is hook and signal.getsignal(signal.SIGINT) is handler
    dw.tl.lmm(adata, FORMULA, groupby="cell_type", progress=False)  # it was obeyed once
    assert len(blocks) == 6 and sys.unraisablehook is hook


def test_in_the_last_block(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = trapped(monkeypatch, at=4)
    with pytest.raises(KeyboardInterrupt):
        dw.tl.lmm(adata, FORMULA, groupby="cell_type", progress=False)
    assert len(blocks) == 4 and "lmm" not in adata.uns


def test_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20, seed=1)
    trapped(monkeypatch, at=1)
    with pytest.raises(KeyboardInterrupt):
        dw.fit_lmm(np.asarray(adata.X.todense()), adata.obs, FORMULA)


def test_what_stops_nothing() -> None:
    """Errors that are ignored stay so, an error of the run itself ends it, and other threads are left alone."""

    class Fails:
        def __del__(self) -> None:
            raise ValueError("ignored")

    with Progress(total=2, disable=True) as bar:
        Fails()
        bar.update(1)
    with pytest.raises(ValueError, match="its own"), Progress(total=2, disable=True):
        Trap(signal.SIGINT)
        raise ValueError("its own")
    with Progress(total=1, disable=True) as bar:
        bar.update(1)
    updated: list[bool] = []
    with pytest.raises(KeyboardInterrupt), Progress(total=1, disable=True) as bar:
        Trap(signal.SIGINT)
        thread = Thread(target=lambda: updated.append(bar.update(1) is None))
        thread.start()
        thread.join()
    assert updated == [True]


HARNESS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number, how = int(sys.argv.pop(1)), sys.argv.pop(1)
from donorwise._core.engine import lmm
fit, blocks = lmm._fit_block, []
class Trap:
    def __del__(self):
        os.kill(os.getpid(), number)
        for _ in range(1000):
            pass
def trap(*args, **more):
    blocks.append(1)
    if len(blocks) == 2 and how == "destructor":
        Trap()
    elif len(blocks) == 2:
        try:
            Trap().__del__()
        except BaseException:
            pass
    return fit(*args, **more)
lmm._fit_block = trap
from donorwise._cli import main
main()
"""


@pytest.mark.parametrize("how", ["destructor", "except"])
@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, "Terminated."), (signal.SIGINT, 130, "Stopped.")]
)
def test_commands(adata: ad.AnnData, tmp_path: Path, number: int, status: int, said: str, how: str) -> None:
    source, out = tmp_path / "cohort.h5ad", tmp_path / "r.csv"
    adata.write_h5ad(source)
    arguments = ["lmm", source, "--formula", FORMULA, "--groupby", "cell_type", "--out", out]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(int(number)), how, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert f"{said} What is finished is kept: --resume goes on with it." in done.stderr
    assert not out.exists()
