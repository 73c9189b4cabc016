"""Kernels on the command line: from files of their own, from the input, from a file of options; resumed or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from tests._batch import run

import donorwise as dw
from donorwise._anndata import read_results

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

FORMULA = "~ condition + (1 | gr(donor_id, cov=grm))"


def families(levels: pd.Index, size: int = 2, share: float = 0.5) -> pd.DataFrame:
    """Relatedness of donors who come in families."""
    family = np.arange(len(levels)) // size
    values = np.where(family[:, None] == family, share, 0.0) + (1 - share) * np.eye(len(levels))
    return pd.DataFrame(values, index=levels, columns=levels)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=12, n_cells=600, n_genes=30, seed=3)


@pytest.fixture(scope="module")
def relatedness(cells: ad.AnnData) -> pd.DataFrame:
    return families(cells.obs["donor_id"].cat.categories)


@pytest.fixture
def files(cells: ad.AnnData, relatedness: pd.DataFrame, tmp_path: Path) -> Callable[[str], Path]:
    """Paths by name; the input and its kernel are there."""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    relatedness.to_csv(tmp_path / "grm.csv")
    return lambda name: tmp_path / name


def expected(cells: ad.AnnData, relatedness: pd.DataFrame, formula: str = FORMULA) -> pd.DataFrame:
    adata = cells.copy()
    dw.tl.lmm(adata, formula, kernels={"grm": relatedness}, progress=False)
    return dw.get.tests(adata, sort_by=None)


def results(path: Path) -> pd.DataFrame:
    return dw.get.tests(ad.read_h5ad(path), sort_by=None)


def test_a_kernel_from_a_file(cells: ad.AnnData, relatedness: pd.DataFrame, files: Callable[[str], Path]) -> None:
    """Its name is that of the formula; the short form has it for a grouping factor. Numbers are those of the tool."""
    right = expected(cells, relatedness)
    for number, (formula, option) in enumerate(
        [(FORMULA, ("--kernel", "grm=")), ("~ condition + (1 | donor_id)", ("--relmat", "donor_id="))]
    ):
        out = files(f"{number}.h5ad")
        done = run(
            "lmm", files("cells.h5ad"), "--formula", formula, option[0], f"{option[1]}{files('grm.csv')}", "--out", out
        )
        assert done.exit_code == 0, done.output
        pd.testing.assert_frame_equal(results(out), right, rtol=1e-9)
        kept = read_results(ad.read_h5ad(out)).kernels
        assert kept is not None and len(kept) == 12 + 6


@pytest.mark.parametrize("where", ["uns", "obsp"])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_kernel_in_the_input(relatedness: pd.DataFrame, where: str, suffix: str, tmp_path: Path) -> None:
    """One row per donor, so that obsp can hold it; nothing needs to be named."""
    rng = np.random.default_rng(0)
    donors = relatedness.index
    obs = pd.DataFrame({"donor_id": donors, "arm": np.resize(["a", "b"], len(donors))}, index=donors.astype(str))
    adata = ad.AnnData(rng.normal(size=(len(donors), 8)), obs=obs)
    getattr(adata, where)["grm"] = relatedness if where == "uns" else relatedness.to_numpy()
    adata.obsp["other"] = np.zeros((len(donors), len(donors)))
    path, out = tmp_path / f"donors{suffix}", tmp_path / "out.h5ad"
    adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    formula = "~ arm + (1 | gr(donor_id, cov=grm))"
    done = run("lmm", path, "--formula", formula, "--out", out)
    assert done.exit_code == 0, done.output
    dw.tl.lmm(adata, formula, progress=False)
    pd.testing.assert_frame_equal(results(out), dw.get.tests(adata, sort_by=None), rtol=1e-9)
    assert run("audit", path, "--formula", formula).exit_code == 0


def test_a_record_is_a_file_of_options(
    cells: ad.AnnData, relatedness: pd.DataFrame, files: Callable[[str], Path]
) -> None:
    out, again = files("a.csv"), files("b.csv")
    options = ("--kernel", f"grm={files('grm.csv')}", "--out", out)
    assert run("lmm", files("cells.h5ad"), "--formula", FORMULA, *options).exit_code == 0
    record = files("a.csv.run.yaml")
    content = yaml.safe_load(record.read_text())
    assert content["options"]["kernel"] == {"grm": str(files("grm.csv"))}
    assert set(content["input"]["kernels"]) == {"grm"}
    assert run("lmm", files("cells.h5ad"), "--config", record, "--out", again).exit_code == 0
    assert again.read_text() == out.read_text()


def test_another_kernel_is_another_run(relatedness: pd.DataFrame, files: Callable[[str], Path]) -> None:
    """A finished run is recognised by what is in the kernel's file, wherever that is."""
    out = files("a.csv")
    command = ("lmm", files("cells.h5ad"), "--formula", FORMULA, "--out", out, "--resume", "--kernel")
    assert run(*command, f"grm={files('grm.csv')}").exit_code == 0
    relatedness.to_csv(files("moved.csv"))
    same = run(*command, f"grm={files('moved.csv')}")
    assert same.exit_code == 0 and "is finished" in same.output
    families(relatedness.index, share=0.25).to_csv(files("grm.csv"))
    other = run(*command, f"grm={files('grm.csv')}")
    assert other.exit_code == 2 and "input kernels grm was" in other.output
    renamed = relatedness.rename(index={relatedness.index[0]: "x"}, columns={relatedness.index[0]: "x"})
    renamed.to_csv(files("grm.csv"))
    assert "input kernels grm was" in run(*command, f"grm={files('grm.csv')}").output


def test_plan_and_audit(relatedness: pd.DataFrame, files: Callable[[str], Path]) -> None:
    more = pd.Index([*relatedness.index, "stranger"])
    families(more).to_csv(files("grm.csv"))
    options = ("--formula", FORMULA, "--kernel", f"grm={files('grm.csv')}")
    plan = run("lmm", files("cells.h5ad"), *options, "--dry-run", "--out", files("a.csv"))
    assert plan.exit_code == 0 and "Kernels: grm (12 of 13 levels)" in plan.output
    assert run("audit", files("cells.h5ad"), *options).exit_code == 0
    short = ("--formula", "~ condition + (1 | donor_id)", "--relmat", f"donor_id={files('grm.csv')}")
    told = run("audit", files("cells.h5ad"), *short)
    assert told.exit_code == 0 and "gr(donor_id, cov=donor_id)" in told.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--kernel grm=FILE"),
        (("--kernel", "grm"), "--kernel grm: give NAME=PATH, such as grm=relatedness.csv"),
        (("--relmat", "=a.csv"), "--relmat =a.csv: give COLUMN=PATH, such as donor_id=relatedness.csv"),
        (("--kernel", "grm=a.csv", "--kernel", "grm=b.csv"), "--kernel names 'grm' twice"),
        (("--kernel", "grm=nowhere.csv"), "nowhere.csv"),
        (("--kernel", "grm={grm.csv}", "--kernel", "mrm={grm.csv}"), "does not name"),
        (("--relmat", "sample={grm.csv}"), "no random term"),
    ],
)
def test_what_is_wrong_is_said(options: tuple[str, ...], said: str, files: Callable[[str], Path]) -> None:
    given = [text.replace("{grm.csv}", str(files("grm.csv"))) for text in options]
    for command in (("lmm", "--out", files("a.csv")), ("audit",)):
        done = run(command[0], files("cells.h5ad"), "--formula", FORMULA, *given, *command[1:])
        assert done.exit_code == 2 and said in done.output, done.output
    assert not files("a.csv").exists()
