"""The batch commands: the numbers of the tools in memory, and what survives kills, full disks and bad files."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from tests._batch import left_over, run, start

import donorwise as dw
from donorwise._batch.partial import Partial
from donorwise._batch.report import read_any
from donorwise._core import files
from donorwise.errors import OutputError

resource = pytest.importorskip("resource", reason="limits and signals of POSIX")

FORMULA = "~ condition + (1 | donor_id)"
EXACT: dict[str, Any] = {"check_exact": True, "check_categorical": False}


def lmm(source: Path, out: Path, *more: object) -> list[str]:
    fixed = [
        "lmm",
        source,
        "--formula",
        FORMULA,
        "--groupby",
        "cell_type",
        "--out",
        out,
        "--n-jobs",
        2,
        "--ddf",
        "satterthwaite",
    ]
    return [str(a) for a in (*fixed, *more)]


def cohort() -> ad.AnnData:
    """Four groups; the B cells are all of one arm, so that they cannot be fitted."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=900, n_genes=110, seed=1)
    one_arm = (adata.obs["cell_type"] == "B cell") & (adata.obs["condition"] == "disease")
    adata = adata[~one_arm].copy()
    rare = np.random.default_rng(0).random(adata.n_obs) < 0.3
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(~rare, "NK cell").astype("category")
    adata.obs["weight"] = np.linspace(0.5, 2, adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "cohort.h5ad"
    cohort().write_h5ad(path, compression="gzip")
    return path


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "r.csv"
    assert run(*lmm(source, out)).exit_code == 3
    return out.read_bytes()


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize(
    ("suffix", "formula", "options", "arguments"),
    [
        (".h5ad", FORMULA, {}, []),
        (
            ".h5ad",
            "~ condition + scale(age) + log_depth + (1 | donor_id)",
            {"ddf": "kenward-roger"},
            ["--ddf", "kenward-roger"],
        ),
        (".parquet", FORMULA, {"weights": "weight", "reml": False}, ["--weights", "weight", "--ml"]),
        (
            ".csv",
            "~ condition + sex + (1 | donor_id)",
            {"contrasts": [("condition", "disease", "control"), "sex[T.male]"]},
            ["--contrast", "condition:disease:control", "--contrast", "sex[T.male]"],
        ),
    ],
)
def test_lmm_is_the_tool_in_memory(
    source: Path, tmp_path: Path, suffix: str, formula: str, options: dict[str, Any], arguments: list[str]
) -> None:
    """To the last digit, in several passes over the cells as in one."""
    adata = ad.read_h5ad(source)
    dw.tl.lmm(adata, formula, groupby="cell_type", progress=False, **options)
    out = tmp_path / f"r{suffix}"
    result = run(
        "lmm", source, "--formula", formula, "--groupby", "cell_type", "--out", out, "--max-memory", 1e-5, *arguments
    )
    assert result.exit_code == 3, result.output
    found, key = read_any(out)
    expected, table = (dw.get.tests(a, key=key, sort_by=None) for a in (adata, found))
    names = ["variable", "group", "contrast", "status"]
    expected, table = (t.astype(dict.fromkeys(names, str)) for t in (expected, table))
    pd.testing.assert_frame_equal(table, expected, **EXACT)
    if suffix == ".h5ad":
        for side in ("varcomp", "icc", "variance_partition"):
            pd.testing.assert_frame_equal(found.uns[key][side], adata.uns[key][side], **EXACT)


def test_pseudobulk_is_the_tool_in_memory(source: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(source)
    dw.tl.pseudobulk(adata, "~ condition", groupby="cell_type", progress=False)
    out = tmp_path / "r.h5ad"
    result = run("pseudobulk", source, "--formula", "~ condition", "--groupby", "cell_type", "--out", out)
    assert result.exit_code == 3, result.output
    found = ad.read_h5ad(out)
    expected = dw.get.tests(adata, key="pseudobulk", sort_by=None)
    pd.testing.assert_frame_equal(dw.get.tests(found, key="pseudobulk", sort_by=None), expected, **EXACT)


def test_failed_group(source: Path, tmp_path: Path) -> None:
    """It has its rows, a reason and an exit status; alone it is bad input."""
    out = tmp_path / "r.parquet"
    result = run(*lmm(source, out))
    assert result.exit_code == 3
    assert "B cell: not fitted." in result.stderr
    table = pd.read_parquet(out)
    assert (table.loc[table["group"] == "B cell", "status"] == "not_estimable").sum() == 110
    assert list(yaml.safe_load((tmp_path / "r.parquet.run.yaml").read_text())["result"]["failed_groups"]) == ["B cell"]
    adata = ad.read_h5ad(source)
    adata[adata.obs["cell_type"] == "B cell"].copy().write_h5ad(tmp_path / "b.h5ad")
    assert run(*lmm(tmp_path / "b.h5ad", tmp_path / "b.csv")).exit_code == 2


@pytest.mark.parametrize(
    ("at", "n_finished"),
    [pytest.param(3, 1, id="second group"), pytest.param(6, 4, id="result", marks=pytest.mark.slow)],
)
def test_killed_and_resumed(source: Path, whole: bytes, tmp_path: Path, at: int, n_finished: int) -> None:
    out = tmp_path / "r.csv"
    process = start(at, "kill", lmm(source, out))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(Partial.of(out).finished()) == n_finished
    assert (tmp_path / "r.csv.lock").exists()
    result = run(*lmm(source, out, "--resume"))
    assert result.exit_code == 3, result.output
    assert "was left by a run that died" in result.stderr
    assert (f"Resumed: {n_finished} of 4" in result.stderr) == (n_finished > 0)
    assert out.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv", "r.csv.run.yaml"]


def test_stopped_by_hand_while_another_run_wants_the_output(source: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    process = start(3, "sleep", lmm(source, out))
    try:
        until = time.monotonic() + 60
        while not list(Partial.of(out).folder.glob(".00001*")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.0)  # the temporary name is there a moment before the process sleeps
        second = run(*lmm(source, out))
        assert second.exit_code == 1
        assert f"Another run (process {process.pid} on" in second.stderr
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped." in said and "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # no worker is left in its session
        os.killpg(process.pid, 0)
    assert left_over(tmp_path) == []
    assert run(*lmm(source, out, "--resume")).exit_code == 3
    assert out.read_bytes() == whole


def test_disk_full(source: Path, tmp_path: Path) -> None:
    """No file may grow over 8 kB: a manifest fits, a group does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        result = run(*lmm(source, tmp_path / "r.csv"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 1
    assert result.stderr.endswith("could not be written: File too large. There is no partial file.\n")
    assert list(tmp_path.iterdir()) == []


def test_disk_full_at_the_end(source: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that are finished are kept, and an older result is what it was."""
    out = tmp_path / "r.csv"
    out.write_text("older")

    def full(self: pd.DataFrame, path: Path, **options: Any) -> None:
        Path(path).write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        result = run(*lmm(source, out))
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert left_over(tmp_path) == ["r.csv"]
    assert out.read_text() == "older"
    assert run(*lmm(source, out, "--resume")).exit_code == 3
    assert out.read_bytes() == whole


@pytest.fixture
def stopped(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A cohort of its own and a run over it that stopped after its second group."""
    own, out = tmp_path / "own.h5ad", tmp_path / "r.csv"
    own.write_bytes(source.read_bytes())
    save = Partial.save

    def stop(self: Partial, number: int, *more: Any) -> None:
        save(self, number, *more)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "save", stop)
        assert run(*lmm(own, out)).exit_code == 130
    gc.collect()  # the end of its process would have closed the source
    assert Partial.of(out).finished() == {0, 1}
    yield own, out


def _relabel(path: Path) -> None:
    adata = ad.read_h5ad(path)
    adata.obs["condition"] = adata.obs["condition"].to_numpy()[::-1]
    adata.write_h5ad(path, compression="gzip")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, [], "go on with --resume"),
        (None, ["--resume", "--ddf", "residual"], "options ddf was 'satterthwaite' and is 'residual'"),
        (_relabel, ["--resume"], "input obs_sha256 was"),
        (lambda path: os.utime(path, (0, 0)), ["--resume"], "input modified_ns was"),
    ],
    ids=["not asked for", "option", "obs", "touched"],
)
def test_resume_is_refused(stopped: tuple[Path, Path], change: Any, arguments: list[str], message: str) -> None:
    own, out = stopped
    if change is not None:
        change(own)
    result = run(*lmm(own, out, *arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()
    assert Partial.of(out).finished() == {0, 1}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _damage(path: Path) -> None:
    """Overwrite the inside of a compressed chunk."""
    import h5py

    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"bad\.h5ad.* cannot be read"),
        (_damage, r"bad\.h5ad.*\bX\b"),
        (lambda path: path.write_text("text"), r"bad\.h5ad.* cannot be read"),
        (lambda path: path.unlink(), r"bad\.h5ad"),
    ],
    ids=["truncated", "damaged", "text", "missing"],
)
def test_bad_file(source: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """The error is one line that names file and element; nothing is written."""
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(source.read_bytes())
    damage(bad)
    result = run(*lmm(bad, tmp_path / "r.csv"))
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert re.search(message, error)
    assert result.stderr.endswith(f"{error}\n")
    assert left_over(tmp_path) == (["bad.h5ad"] if bad.exists() else [])
    assert not Partial.of(tmp_path / "r.csv").folder.exists()


def test_bad_zarr(source: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zarr"
    ad.read_h5ad(source).write_zarr(bad)
    chunk = max((p for p in (bad / "X" / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:50])
    result = run(*lmm(bad, tmp_path / "r.csv"))
    assert result.exit_code == 2
    assert re.search(r"Error: .*bad\.zarr.*\bX\b", result.stderr)


def test_folder_that_cannot_be_written(source: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        root = os.geteuid() == 0
        if root:  # may write anywhere: be somebody else for a moment
            os.setresuid(65534, 65534, 0)
        try:
            result = run(*lmm(source, Path(name) / "r.csv"))
        finally:
            if root:
                os.setresuid(0, 0, 0)
        assert result.exit_code == 1
        assert "cannot be written to" in result.stderr
        assert os.listdir(name) == []


@pytest.mark.parametrize(
    ("out", "code", "message"),
    [("r.txt", 2, "must end in"), ("nowhere/r.csv", 1, "does not exist"), (".", 2, "must end in")],
)
def test_bad_output(source: Path, tmp_path: Path, out: str, code: int, message: str) -> None:
    result = run(*lmm(source, tmp_path / out))
    assert (result.exit_code, message in result.stderr) == (code, True)


@pytest.mark.parametrize("command", ["lmm", "pseudobulk", "collapse", "merge"])
def test_an_input_is_not_overwritten(source: Path, tmp_path: Path, command: str) -> None:
    own = tmp_path / "own.h5ad"
    own.write_bytes(source.read_bytes())
    (tmp_path / "same.h5ad").symlink_to(own)
    options = {
        "lmm": ["--formula", "~ condition + (1 | donor_id)"],
        "pseudobulk": ["--formula", "~ condition"],
        "collapse": ["--by", "donor_id"],
        "merge": [str(source)],
    }[command]
    result = run(command, str(own), *options, "--out", str(tmp_path / "same.h5ad"))
    assert (result.exit_code, "is an input, which would be lost" in result.stderr) == (2, True)
    assert own.read_bytes() == source.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["own.h5ad", "same.h5ad"]


def test_lock_is_for_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second holder is refused, a file without a holder is taken over, and nothing is left."""
    out = tmp_path / "r.csv"
    (tmp_path / "r.csv.lock").write_text('{"pid": 999999999, "host": "gone"}')
    with files.locked(out):
        assert "was left by a run that died (process 999999999 on gone)" in caplog.text
        assert json.loads((tmp_path / "r.csv.lock").read_text())["pid"] == os.getpid()
        with pytest.raises(OutputError, match="Another run"), files.locked(out):
            pass
    assert list(tmp_path.iterdir()) == []
    caplog.clear()
    with files.locked(out):
        assert not caplog.text


def test_config(source: Path, whole: bytes, tmp_path: Path) -> None:
    """What is written beside a result makes it again; the command line wins."""
    out = tmp_path / "r.csv"
    run(*lmm(source, out, "--contrast", "condition[T.disease]"))
    record = yaml.safe_load((tmp_path / "r.csv.run.yaml").read_text())
    assert (record["input"]["n_obs"], record["input"]["n_vars"]) == ad.read_h5ad(source).shape
    assert record["versions"]["donorwise"] == dw.__version__
    again, other = tmp_path / "again.csv", tmp_path / "other.csv"
    assert run("lmm", "--config", tmp_path / "r.csv.run.yaml", "--out", again).exit_code == 3
    assert again.read_bytes() == out.read_bytes() == whole
    assert run("lmm", "--config", tmp_path / "r.csv.run.yaml", "--out", other, "--ddf", "residual").exit_code == 3
    assert other.read_bytes() != whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("formula: ~ a\nlayers: x", "layers: not an option of lmm"),
        ("command: pseudobulk", "was written for donorwise pseudobulk"),
        ("[1, 2]", "must hold options"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_bad_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    result = run("lmm", "--config", tmp_path / "run.yaml")
    assert result.exit_code == 2
    assert message in result.stderr


def test_donor_is_declared(source: Path) -> None:
    """A column whose name does not tell."""
    named = run("audit", source, "--formula", "~ sex + (1 | sample_id)", "--donor", "sample_id").stdout
    assert "donors (`sample_id`)" in named


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = run(*lmm(source, tmp_path / "r.csv", "--dry-run"))
    assert result.exit_code == 0, result.output
    for text in (f"Audit of {FORMULA}", "Plan: 3 of 4 groups x 110 features", "Memory: about", "Time: about"):
        assert text in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_log(source: Path, tmp_path: Path) -> None:
    lines = run(*lmm(source, tmp_path / "r.csv", "--log-json")).stderr.splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["group"] for e in events if e.get("event") == "group"] == ["B cell", "Monocyte", "NK cell", "T cell"]
    assert {"time", "level", "message"} <= set.intersection(*(set(e) for e in events))
    assert run(*lmm(source, tmp_path / "r.csv", "--quiet")).stderr == ""
    bad = run(*lmm(source, tmp_path / "r.csv", "--log-json", "--layer", "nope")).stderr.splitlines()[-1]
    assert json.loads(bad)["level"] == "error"


@pytest.mark.parametrize("suffix", [".csv", ".h5ad"])
def test_report(source: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    run(*lmm(source, out))
    plots = ["--plots", tmp_path / "plots"] if suffix == ".csv" else []
    result = run("report", out, "--alpha", 0.2, "--top", 2, *plots)
    assert result.exit_code == 0, result.output
    adata, key = read_any(out)
    table = dw.get.tests(adata, key=key, group="T cell")
    up = int(((table["adj_p_value"] <= 0.2) & (table["estimate"] > 0)).sum())
    row = next(line for line in result.stdout.splitlines() if line.startswith("| condition") and "T cell" in line)
    assert [cell.strip() for cell in row.split("|")][3:5] == ["110", str(up)]
    assert f"`{FORMULA}`" in result.stdout
    assert "- B cell: " in result.stdout
    assert str(table["variable"].iloc[0]) in result.stdout
    if plots:
        assert (tmp_path / "plots" / "volcano_condition_T.disease.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_a_table_says_what_was_tested(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    assert run("pseudobulk", source, "--formula", "~ condition", "--out", out).exit_code == 0
    assert "- response: `layers/counts`" in run("report", out).stdout
    run(*lmm(source, out, "--layer", "counts"))
    assert "- response: `layers/counts`" in run("report", out).stdout


def test_report_of_something_else(tmp_path: Path, source: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert "is no table of results" in run("report", tmp_path / "x.csv").stderr
    assert "holds no results" in run("report", source).stderr
    assert run("report", tmp_path / "none.csv").exit_code == 2


def test_collapse_and_merge(source: Path, tmp_path: Path) -> None:
    """Cohorts that are collapsed and merged give what their cells give."""
    adata = ad.read_h5ad(source)
    halves = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for half, cells in zip(halves, (slice(None, None, 2), slice(1, None, 2)), strict=True):
        adata[cells].copy().write_h5ad(half)
    by = ["--by", "donor_id,cell_type,condition", "--counts-layer", "counts", "--quiet"]
    for half in halves:
        assert run("collapse", half, *by, "--out", half.with_suffix(".rows.h5ad")).exit_code == 0
    merged, at_once = tmp_path / "merged.h5ad", tmp_path / "at_once.h5ad"
    assert run("merge", *(h.with_suffix(".rows.h5ad") for h in halves), "--out", merged, "--quiet").exit_code == 0
    assert run("collapse", *halves, *by, "--out", at_once).exit_code == 0
    again = tmp_path / "again.h5ad"
    assert run("collapse", "--config", tmp_path / "at_once.h5ad.run.yaml", "--out", again).exit_code == 0
    assert again.read_bytes() == at_once.read_bytes()
    for command, formula in (("lmm", FORMULA), ("pseudobulk", "~ condition")):
        tables = []
        for path in (source, merged, at_once):
            out = tmp_path / f"{path.stem}.{command}.parquet"
            run(command, path, "--formula", formula, "--groupby", "cell_type", "--out", out, "--quiet")
            tables.append(pd.read_parquet(out).set_index(["variable", "group", "contrast"]).sort_index())
        for table in tables[1:]:
            pd.testing.assert_frame_equal(table, tables[0], rtol=1e-8, check_categorical=False)


def test_merge_wants_two(source: Path, tmp_path: Path) -> None:
    result = run("merge", source, "--out", tmp_path / "m.h5ad")
    assert (result.exit_code, "two collapsed cohorts" in result.stderr) == (2, True)


@pytest.mark.parametrize(("command", "said"), [("lmm", True), ("pseudobulk", False)])
def test_advice_fits_the_model(source: Path, tmp_path: Path, command: str, said: bool) -> None:
    """Pseudobulk has its own replicates: it is not told to add a term for the donor."""
    formula = "~ condition + (1 | cell_type)" if command == "lmm" else "~ condition"
    result = run(command, source, "--formula", formula, "--out", tmp_path / "r.csv", "--dry-run")
    assert ("`donor_id` has no random intercept" in result.output) == said, result.output
