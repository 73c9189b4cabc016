"""The command for scans: what the tool gives, in a folder, whatever stops it on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from tests._batch import run, start

import donorwise as dw
from donorwise.errors import DataError, DonorwiseError

pytest.importorskip("pyarrow")

FORMULA = "~ sex + log_depth + (1 | donor_id)"
KERNEL = "~ sex + log_depth + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"
TABLES = ("_lead.parquet", "_counts.parquet")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, genotypes and a kernel; a type of cells has too few donors to be scanned."""
    folder = tmp_path_factory.mktemp("study")
    cells, genotypes = dw.datasets.simulate_eqtls(
        n_donors=24,
        n_cells=1_200,
        n_genes=12,
        n_variants=240,
        n_chromosomes=2,
        families="nuclear",
        missing=0.01,
        seed=3,
    )
    few = cells.obs["donor_id"].isin(cells.obs["donor_id"].cat.categories[:2])
    cells[(cells.obs["cell_type"] != "B cell") | few].write_h5ad(folder / "cells.h5ad")
    cells[cells.obs["cell_type"] != "B cell"].write_h5ad(folder / "two.h5ad")
    genotypes.write_h5ad(folder / "genotypes.h5ad")
    dw.pp.relatedness(genotypes, progress=False).to_csv(folder / "grm.csv")
    return folder


def scan(study: Path, out: Path, *more: object, formula: str = FORMULA, cells: str = "two.h5ad") -> Result:
    return run(*arguments(study, out, *more, formula=formula, cells=cells))


def arguments(study: Path, out: Path, *more: object, formula: str = FORMULA, cells: str = "two.h5ad") -> list[str]:
    given = ["scan", study / cells, "--genotypes", study / "genotypes.h5ad", "--formula", formula]
    return [str(a) for a in (*given, "--groupby", "cell_type", "--out", out, *more)]


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scan in blocks of 50 variants that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "scan"
    result = scan(study, out, "--block-size", 50)
    assert result.exit_code == 0, result.output
    return out


def content(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables of a scan, by file."""
    files = [*TABLES, *sorted(str(file.relative_to(folder)) for file in folder.glob("group=*/*.parquet"))]
    return {name: pd.read_parquet(folder / name) for name in files}


def by_name(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of the names, whatever that of their categories is."""
    return table.sort_values(["gene", "group", "variant"], key=lambda column: column.astype(str), ignore_index=True)


def assert_same_folder(found: Path, expected: Path) -> None:
    one, other = content(found), content(expected)
    assert list(one) == list(other) and len(one) > len(TABLES)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=True, obj=name)


@pytest.mark.parametrize(
    ("formula", "arguments", "options"),
    [
        (FORMULA, [], {}),
        (KERNEL, ["--kernel", "grm=grm.csv", "--p-max", "0.2", "--refit", "all"], {"p_max": 0.2, "refit": "all"}),
        (KERNEL, ["--loco", "--mode", "trans", "--maf", "0.2"], {"loco": True, "mode": "trans", "maf": 0.2}),
        (
            FORMULA,
            ["--window", "300000", "--interaction", "sex", "--gene-test", "bonferroni", "--n-jobs", "2"],
            {"window": 3e5, "interaction": "sex", "gene_test": "bonferroni"},
        ),
        (
            "~ sex + (1 | donor_id)",
            ["--mode", "gwas", "--obs-keys", "log_depth,age", "--missing", "0.02"],
            {"mode": "gwas", "obs_keys": ["log_depth", "age"], "missing": 0.02},
        ),
    ],
    ids=["plain", "kernel", "loco", "interaction", "gwas"],
)
@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_the_command_is_the_tool(
    study: Path, tmp_path: Path, formula: str, arguments: list[str], options: dict[str, Any]
) -> None:
    """Tests, leads, counts and params, to the last digit; in one block or in several."""
    more = [a.replace("grm.csv", str(study / "grm.csv")) for a in arguments]
    result = scan(study, tmp_path / "scan", *more, "--block-size", 70, formula=formula, cells="cells.h5ad")
    adata = ad.read_h5ad(study / "cells.h5ad")
    kernels = {"grm": pd.read_csv(study / "grm.csv", index_col=0)} if "--kernel" in arguments else None
    dw.tl.scan(
        adata, study / "genotypes.h5ad", formula, groupby="cell_type", kernels=kernels, out=tmp_path / "tool",
        progress=False, **options,
    )  # fmt: skip
    reasons = json.loads((tmp_path / "tool" / "_params.json").read_text())["reasons"]
    assert result.exit_code == (3 if reasons else 0), result.output
    for level in ("gene", "variant"):
        found = dw.get.scan(tmp_path / "scan", level=level, sort_by=None)
        expected = dw.get.scan(adata, level=level, sort_by=None)
        pd.testing.assert_frame_equal(by_name(found), by_name(expected), rtol=1e-10, check_categorical=False)
    params, own = (json.loads((tmp_path / name / "_params.json").read_text()) for name in ("scan", "tool"))
    assert {**params, "out": ""} == {**own, "out": ""}
    counts = (pd.read_parquet(tmp_path / name / "_counts.parquet") for name in ("scan", "tool"))
    pd.testing.assert_frame_equal(*counts)


def test_a_group_that_cannot_be_scanned(study: Path, tmp_path: Path) -> None:
    """It has its rows, a reason and an exit status; so it has when the scan is asked for again."""
    out = tmp_path / "scan"
    result = scan(study, out, "--p-max", "1e-3", cells="cells.h5ad")
    assert result.exit_code == 3, result.output
    assert "1 of 3 groups could not be scanned." in result.stderr
    record = yaml.safe_load((tmp_path / "scan.run.yaml").read_text())
    assert list(record["result"]["failed_groups"]) == ["B cell"]
    leads = pd.read_parquet(out / "_lead.parquet")
    assert (leads.loc[leads["group"] == "B cell", "status"] == "not_estimable").all()
    again = scan(study, out, "--p-max", "1e-3", "--resume", cells="cells.h5ad")
    assert again.exit_code == 3 and "is finished" in again.stderr


@pytest.mark.parametrize("at", [7, pytest.param(12, marks=pytest.mark.slow), pytest.param(24, marks=pytest.mark.slow)])
def test_killed_and_resumed(study: Path, whole: Path, tmp_path: Path, at: int) -> None:
    """After some blocks, in the second group, and while the tables of all are written."""
    out = tmp_path / "scan"
    more = ("--block-size", 50)
    process = start(at, "kill", arguments(study, out, *more))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    n = len(list((out / "_parts").glob("*.npz")))
    assert n > 0 and not (out / "_params.json").exists()
    assert scan(study, out, *more).exit_code == 2  # not without being asked
    with pytest.raises(DataError, match="has not come to its end"):
        dw.get.scan(out)
    result = scan(study, out, *more, "--resume")
    assert result.exit_code == 0, result.output
    assert f"Resumed: {n} of 10 blocks are finished." in result.stderr
    assert_same_folder(out, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan", "scan.run.yaml"]
    assert not list((out / "_parts").glob("*.npz"))


def _touch(name: str) -> Callable[[Path], None]:
    return lambda study: os.utime(study / name, (0, 0))


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (None, ["--maf", "0.2"], "options maf was 0.01 and is 0.2"),
        (None, ["--block-size", "40"], "options block_size was 50 and is 40"),
        (_touch("two.h5ad"), [], "input modified_ns was"),
        (_touch("genotypes.h5ad"), [], "input genotypes modified_ns was"),
    ],
    ids=["option", "blocks", "cells", "genotypes"],
)
@pytest.mark.parametrize("state", ["stopped", "finished"])
def test_another_scan_is_not_gone_on_with(
    study: Path, tmp_path: Path, state: str, change: Any, more: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was stopped or not; it makes way when that is asked for."""
    own, out = tmp_path / "own", tmp_path / "scan"
    own.mkdir()
    for name in ("two.h5ad", "genotypes.h5ad"):
        (own / name).write_bytes((study / name).read_bytes())
    if state == "finished":
        assert scan(own, out, "--block-size", 50).exit_code == 0
    else:
        stop_after(2, monkeypatch)
        assert scan(own, out, "--block-size", 50).exit_code == 130
        monkeypatch.undo()
    if change is not None:
        change(own)
    result = scan(own, out, "--block-size", 50, *more, "--resume")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert scan(own, out, "--block-size", 50, *more, "--resume", "--overwrite").exit_code == 0


def stop_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a scan by hand when so many blocks are finished."""
    from donorwise._core.engine.scan_store import Folder

    save, seen = Folder.save, []

    def stop(self: Folder, *more: Any) -> None:
        save(self, *more)
        seen.append(more)
        if len(seen) == n:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "save", stop)


def test_finished(study: Path, tmp_path: Path) -> None:
    """Resumed it is finished, moved as well; else it is in the way, until it is to be replaced."""
    out = tmp_path / "scan"
    assert scan(study, out).exit_code == 0
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    for name in ("scan", "moved"):
        result = scan(study, tmp_path / name, "--resume")
        assert (result.exit_code, "is finished: it was made from this input" in result.stderr) == (0, True)
        if name == "scan":
            assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == files
            out.rename(tmp_path / "moved")
            (tmp_path / "scan.run.yaml").rename(tmp_path / "moved.run.yaml")
    result = scan(study, tmp_path / "moved")
    assert result.exit_code == 2 and "has a scan that was finished: resume=True (--resume) takes it" in result.stderr
    result = scan(study, tmp_path / "moved", "--overwrite", "--p-max", "0.5")
    assert result.exit_code == 0
    assert dw.get.scan(tmp_path / "moved", level="variant")["p_value"].max() <= 0.5


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_the_tool_takes_a_finished_scan_as_it_is(study: Path, tmp_path: Path) -> None:
    """Of the same data and options; of others it says what differs."""
    adata, options = (
        ad.read_h5ad(study / "two.h5ad"),
        {"groupby": "cell_type", "out": tmp_path / "scan", "progress": False},
    )
    where = study / "genotypes.h5ad"
    dw.tl.scan(adata, where, FORMULA, **options)
    first = adata.uns["scan"]
    with pytest.raises(DataError, match="has a scan that was finished"):
        dw.tl.scan(adata, where, FORMULA, key_added="again", **options)
    dw.tl.scan(adata, where, FORMULA, key_added="again", resume=True, **options)
    for name in ("results", "counts"):
        pd.testing.assert_frame_equal(adata.uns["again"][name], first[name])
    assert adata.uns["again"]["params"] == first["params"]
    with pytest.raises(DataError, match="options maf was 0.01 and is 0.1"):
        dw.tl.scan(adata, where, FORMULA, key_added="other", resume=True, maf=0.1, **options)
    adata.X = adata.X * 2
    with pytest.raises(DataError, match=r"The data of 'T cell' are not those of the scan in"):
        dw.tl.scan(adata, where, FORMULA, key_added="other", resume=True, **options)
    dw.tl.scan(adata, where, FORMULA, key_added="other", overwrite=True, **options)
    with pytest.raises(DonorwiseError, match=r"resume=True is of a scan in a folder: give out="):
        dw.tl.scan(adata, where, FORMULA, key_added="third", resume=True, progress=False)


def test_dry_run(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    more = ("--kernel", f"grm={study / 'grm.csv'}", "--block-size", 100, "--dry-run")
    result = scan(study, out, *more, formula=KERNEL, cells="cells.h5ad")
    assert result.exit_code == 0, result.output
    assert "cells of 24 donors" in result.output  # the audit
    text = result.output[result.output.index("Plan: ") :]
    assert "Plan: 2 of 3 groups x 12 features of X x 240 variants (within 1,000,000 base pairs), in 3 blocks" in text
    assert "Kernels: grm (24 of 24 levels)" in text
    assert all(f"\n{name}: about" in text for name in ("Memory", "Time"))
    leads = scan(study, out, "--kernel", f"grm={study / 'grm.csv'}", "--maf", 0, formula=KERNEL, cells="cells.h5ad")
    assert leads.exit_code == 3
    params = json.loads((out / "_params.json").read_text())
    alike = sum(params["left_out_all_alike"].values())
    n_tests = int(text.split("Tests: ")[1].split(" ")[0].replace(",", ""))
    assert params["n_tests"] <= n_tests <= params["n_tests"] + 12 * alike
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan", "scan.run.yaml"]


@pytest.mark.parametrize("formula", [FORMULA, KERNEL])
@pytest.mark.parametrize("mode", ["trans", "cis"])
def test_dry_run_of_loco_and_rows(study: Path, tmp_path: Path, mode: str, formula: str) -> None:
    """Nothing is written."""
    adata = ad.read_h5ad(study / "two.h5ad")
    rows = dw.pp.collapse(adata, ["donor_id", "cell_type", "sex"], progress=False)
    rows.write_h5ad(tmp_path / "rows.h5ad")
    more = ["--loco"] if formula == KERNEL else []
    result = run(
        "scan", tmp_path / "rows.h5ad", "--genotypes", study / "genotypes.h5ad", "--formula", formula.replace(" + log_depth", ""),
        "--mode", mode, "--out", tmp_path / "scan", "--dry-run", "--p-max", "1e-3", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "those with p <= 0.001" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.h5ad"]


def test_config(study: Path, whole: Path, tmp_path: Path) -> None:
    """The record beside the folder makes it again; the command line wins."""
    record = whole.with_name("scan.run.yaml")
    assert run("scan", "--config", record, "--out", tmp_path / "again").exit_code == 0
    assert_same_folder(tmp_path / "again", whole)
    assert run("scan", "--config", record, "--out", tmp_path / "other", "--p-max", "0.01").exit_code == 0
    assert dw.get.scan(tmp_path / "other", level="variant")["p_value"].max() <= 0.01
    (tmp_path / "bad.yaml").write_text("window: [1, 2]")
    result = run("scan", "--config", tmp_path / "bad.yaml", "--out", tmp_path / "x")
    assert result.exit_code == 2 and "window takes one text or number" in result.stderr


def test_log_json(study: Path, tmp_path: Path) -> None:
    """Every line is an object, the last one says the end; an error is one as well."""
    result = scan(study, tmp_path / "scan", "--log-json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["group"] for line in lines if line.get("event") == "group"] == ["T cell", "Monocyte"]
    assert lines[-1]["event"] == "end"
    result = scan(study, tmp_path / "scan", "--log-json")
    assert json.loads(result.stderr.splitlines()[-1])["level"] == "error"


def _is_file(tmp_path: Path) -> None:
    (tmp_path / "scan").write_text("mine")


def _has_something(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "thesis.txt").write_text("mine")


@pytest.mark.parametrize(
    ("there", "more", "code", "message"),
    [
        (None, ["--genotypes", "no.bed"], 2, "no.bed"),
        (None, ["--genotypes", "notes.txt"], 2, "notes.txt"),
        (None, ["--out", "nowhere/scan"], 1, "does not exist; make it first"),
        (_is_file, [], 1, "is a file; give the name of a folder"),
        (_has_something, [], 2, "is not the folder of a scan, so it is not replaced"),
        (_has_something, ["--overwrite"], 2, "is not the folder of a scan, so it is not replaced"),
        (None, ["--formula", "~ nothing + (1 | donor_id)"], 2, "nothing"),
        (None, ["--refit", "none", "--test", "lrt"], 2, "refit"),
        (None, ["--groupby", "nothing"], 2, "nothing"),
    ],
)  # fmt: skip
def test_bad_input(
    study: Path, tmp_path: Path, there: Any, more: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before any work, and nothing is touched."""
    monkeypatch.chdir(tmp_path)
    if there is not None:
        there(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    result = scan(study, Path("scan"), *more)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_an_input_is_not_overwritten(study: Path, tmp_path: Path) -> None:
    genotypes = ad.read_h5ad(study / "genotypes.h5ad")
    genotypes.write_zarr(tmp_path / "g.zarr")
    result = scan(study, tmp_path / "g.zarr", "--genotypes", tmp_path / "g.zarr", "--overwrite")
    assert result.exit_code == 2 and "is an input, which would be lost" in result.stderr
    assert ad.read_zarr(tmp_path / "g.zarr").shape == genotypes.shape


def test_blocks_change_nothing(study: Path, whole: Path, tmp_path: Path) -> None:
    assert scan(study, tmp_path / "one").exit_code == 0
    tables = [dw.get.scan(f, level="variant", sort_by=None) for f in (tmp_path / "one", whole)]
    one, other = map(by_name, tables)
    pd.testing.assert_frame_equal(one, other, rtol=1e-10, check_categorical=False)
    assert len(list((tmp_path / "one").glob("group=*/*"))) == 2 < len(list(whole.glob("group=*/*")))
    np.testing.assert_array_equal(one["n"], other["n"])
