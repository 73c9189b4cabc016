"""``donorwise glmm``: tables of every kind, reports, plans, and what is refused."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._batch import run
from tests.test_glmm_doors import cohort

import donorwise as dw
from donorwise._anndata import keys, read_params

FORMULA = "~ condition + (1 | donor_id)"
COUNTS = ("--layer", "counts")
ANSWERS = ("--obs-keys", "yes,no", "--family", "binomial", "--trials", "asked")
DETECTION = (*COUNTS, "--family", "binomial", "--link", "cloglog", "--response", "detected")

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glmm") / "cells.h5ad"
    cohort().write_h5ad(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5ad"])
def test_tables_are_those_of_the_tool(source: Path, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    result = run("glmm", source, "--formula", FORMULA, "--out", out, *COUNTS, "--family", "poisson", "--ddf", "wald")
    assert result.exit_code == 0, result.output
    adata = ad.read_h5ad(source)
    dw.tl.glmm(adata, FORMULA, layer="counts", family="poisson", ddf="wald", progress=False)
    expected = dw.get.tests(adata, key="glmm", sort_by=None)
    if suffix == ".h5ad":
        found = dw.get.tests(ad.read_h5ad(out), key="glmm", sort_by=None)
    else:
        found = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    numbers = [name for name in keys.RESULT_COLUMNS if expected[name].dtype.kind in "fi"]
    pd.testing.assert_frame_equal(found[numbers], expected[numbers], check_dtype=False)
    assert np.isinf(found["df"]).all() == np.isinf(expected["df"]).all()
    assert list(found["status"].astype(str)) == list(expected["status"].astype(str))
    report = run("report", out, "--plots", tmp_path / "plots", "--top", 3)
    assert report.exit_code == 0 and "separated" in report.output, report.output
    for line in ("- family: `poisson`", "- ddf: `wald`", "- response: `layers/counts`"):
        assert line in report.output
    assert len(list((tmp_path / "plots").glob("*.png"))) == 1


def test_a_stopped_run_is_resumed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from donorwise._core.engine.glmm import GlmmAnalysis

    out, again = tmp_path / "out.h5ad", tmp_path / "again.h5ad"
    arguments = ("glmm", source, "--formula", FORMULA, *COUNTS, "--groupby", "cell_type", "--max-memory", "1e-9")
    fit, fitted = GlmmAnalysis.fit, []

    def stop(self: GlmmAnalysis, number: int, *more: object) -> object:
        fitted.append(number)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return fit(self, number, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(GlmmAnalysis, "fit", stop)
    assert run(*arguments, "--out", out).exit_code != 0 and not out.exists()
    assert fitted == [0, 1]
    assert run(*arguments, "--out", out, "--resume").exit_code == 0
    assert fitted == [0, 1, 1, 2], "what was finished is not fitted again"
    assert run(*arguments, "--out", again).exit_code == 0
    one, other = ad.read_h5ad(out), ad.read_h5ad(again)
    pd.testing.assert_frame_equal(dw.get.tests(one, key="glmm"), dw.get.tests(other, key="glmm"))
    assert read_params(one, "glmm")["family"] == "nb"
    assert run(*arguments, "--out", out, "--resume").exit_code == 0 and len(fitted) == 7


@pytest.mark.parametrize("options", [COUNTS, ANSWERS, DETECTION, (*DETECTION, "--groupby", "cell_type")])
def test_plans(source: Path, options: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = run("glmm", source, "--formula", FORMULA, "--out", out, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Time: about" in result.output and "6 replicates: 3 against 3" in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((*COUNTS, "--family", "gamma"), "'gamma' is not one of 'nb', 'poisson', 'binomial'"),
        ((*COUNTS, "--link", "logit"), "link='logit' is not a link of family='nb'"),
        ((*COUNTS, "--ddf", "satterthwaite"), "'satterthwaite' is not one of 'moderated', 'between-within', 'wald'"),
        ((*COUNTS, "--exposure", "totl_counts"), "did you mean `total_counts`"),
        ((*COUNTS, "--trials", "asked"), "trials= belongs to family='binomial'"),
        (("--obs-keys", "yes,nothing", "--family", "binomial"), "nothing"),
        (("--obs-keys", "yes", *COUNTS, "--family", "binomial"), "Give at most one of layer=, obsm= and obs_keys="),
        ((), "X"),
    ],
)
def test_what_cannot_be_is_refused(source: Path, options: tuple[str, ...], text: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = run("glmm", source, "--formula", FORMULA, "--out", out, *options)
    assert result.exit_code == 2 and text in result.output, result.output
    assert not list(tmp_path.iterdir())


def test_lists_of_columns_may_be_repeated(source: Path, tmp_path: Path) -> None:
    tables = []
    for i, keys_of in enumerate((("--obs-keys", "yes,no"), ("--obs-keys", "yes", "--obs-keys", "no"))):
        rest = ("--family", "binomial", "--trials", "asked", "--formula", FORMULA)
        result = run("glmm", source, "--out", tmp_path / f"{i}.csv", *keys_of, *rest)
        assert result.exit_code == 0, result.output
        tables.append(pd.read_csv(tmp_path / f"{i}.csv"))
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["variable"]) == {"yes", "no"}
