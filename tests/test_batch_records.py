"""What a run leaves beside its result: every warning, and enough to know it again when it is asked for once more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import yaml
from tests._batch import run

import donorwise as dw
from donorwise._batch.partial import Partial

FORMULA = "~ condition + (1 | donor_id)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw counts in X, a group of one arm, cells without a condition: much to warn of."""
    adata = dw.datasets.simulate_cohort(n_donors=4, n_cells=400, n_genes=20, seed=1)
    one_arm = (adata.obs["cell_type"] == "B cell") & (adata.obs["condition"] == "disease")
    adata = adata[~one_arm].copy()
    adata.X = adata.layers["counts"].copy()
    adata.obs.loc[adata.obs_names[:5], "condition"] = np.nan
    path = tmp_path_factory.mktemp("source") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def lmm(source: Path, out: Path, *more: object) -> Any:
    return run("lmm", source, "--formula", FORMULA, "--groupby", "cell_type", "--out", out, *more)


def _logged(stderr: str, as_json: bool) -> list[str]:
    if as_json:
        lines = [json.loads(line) for line in stderr.splitlines()]
        return [line["message"] for line in lines if line["level"] == "warning"]
    return [line.partition(" warning: ")[2] for line in stderr.splitlines() if " warning: " in line]


@pytest.mark.parametrize("suffix", [".csv", ".h5ad"])
@pytest.mark.parametrize("how", [(), ("--log-json",), ("--quiet",)], ids=["plain", "json", "quiet"])
def test_every_warning_is_kept(source: Path, tmp_path: Path, how: tuple[str, ...], suffix: str) -> None:
    """In the record, and at the top of the report; the audit's come first."""
    out = tmp_path / f"r{suffix}"
    result = lmm(source, out, *how)
    assert result.exit_code == 3
    kept = yaml.safe_load((tmp_path / f"r{suffix}.run.yaml").read_text())["warnings"]
    if how == ("--quiet",):
        assert result.stderr == ""
    else:
        assert _logged(result.stderr, how == ("--log-json",)) == kept
    for words in (
        "looks like raw counts",
        "donors",
        "cells are left out",
        "B cell: ",
        "1 of 3 groups",
        "20 features",
    ):
        assert any(words in text for text in kept), words
    report = run("report", out).stdout
    section = report.partition("## Warnings")[2].partition("##")[0]
    assert [line.removeprefix("- ") for line in section.splitlines() if line][: len(kept)] == [
        " ".join(text.split()) for text in kept
    ]
    assert report.index("## Warnings") < report.index("## Status")


def test_the_report_says_what_several_groups_have_once(tmp_path: Path) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=4, n_cells=400, n_genes=20, seed=1)
    adata = adata[adata.obs["donor_id"].isin(adata.obs["donor_id"].cat.categories[:2])].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    more = ("--formula", "~ log_depth + (1 | donor_id)", "--groupby", "cell_type", "--out", tmp_path / "out.csv")
    run("lmm", tmp_path / "cells.h5ad", *more)
    text = run("report", tmp_path / "out.csv").output
    names = ", ".join(adata.obs["cell_type"].cat.categories)
    assert f"- {names}: only 2 donors." in text.splitlines(), text
    assert text.count("only 2 donors.") == 1


def test_log_depth_that_is_not_there_is_made(source: Path, tmp_path: Path) -> None:
    """The audit can look at the formula that --log-depth fits; the message for a missing column names the option."""
    without = run("audit", source, "--formula", "~ condition + log_depth + (1 | donor_id)")
    adata = ad.read_h5ad(source)
    del adata.obs["log_depth"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for formula in ("~ condition + log_depth + (1 | donor_id)", "~ condition + (1 | donor_id)"):
        made = run("audit", tmp_path / "cells.h5ad", "--formula", formula, "--log-depth")
        assert made.exit_code == 0
        assert "log_depth" in made.output
    assert without.exit_code == 0
    refused = run("audit", tmp_path / "cells.h5ad", "--formula", "~ log_depth + (1 | donor_id)")
    assert refused.exit_code == 2
    assert "(commands: --log-depth)" in refused.stderr


def test_warnings_of_cohorts(source: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(source)
    for number, part in enumerate((adata[::2, 3:], adata[1::2])):
        part.copy().write_h5ad(tmp_path / f"{number}.h5ad")
    for name, command in {
        "rows": ["collapse", *(tmp_path / f"{n}.h5ad" for n in range(2)), "--by", "donor_id,condition,cell_type"],
    }.items():
        out = tmp_path / f"{name}.h5ad"
        said = _logged(run(*command, "--out", out).stderr, as_json=False)
        assert any("3 features that not all cohorts have" in text for text in said)
        assert yaml.safe_load((tmp_path / f"{name}.h5ad.run.yaml").read_text())["warnings"] == said


def test_the_record_of_another_file_is_not_read(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    lmm(source, out)
    out.write_text(out.read_text().replace("ok", "boundary"))
    assert "looks like raw counts" not in run("report", out).stdout
    assert "record beside it is missing, or is that of another file" in lmm(source, out, "--resume").stderr


@pytest.mark.parametrize("suffix", [".csv", ".h5ad"])
def test_a_finished_run(source: Path, tmp_path: Path, suffix: str) -> None:
    """The same returns at once, another is refused, and replaced where that is asked for."""
    out = tmp_path / f"r{suffix}"
    lmm(source, out, "--resume")
    made, names = os.stat(out).st_mtime_ns, sorted(os.listdir(tmp_path))
    again = lmm(source, out, "--resume")
    assert (again.exit_code, os.stat(out).st_mtime_ns) == (3, made)
    assert f"{out} is finished: it was made from this input with these options." in again.stderr
    other = lmm(source, out, "--resume", "--ddf", "residual")
    assert (other.exit_code, os.stat(out).st_mtime_ns) == (2, made)
    assert "made by another run: options ddf was 'moderated' and is 'residual'. --overwrite replaces it" in other.stderr
    assert lmm(source, out, "--resume", "--overwrite").exit_code == 3
    assert os.stat(out).st_mtime_ns == made
    assert lmm(source, out, "--resume", "--overwrite", "--ddf", "residual").exit_code == 3
    assert os.stat(out).st_mtime_ns > made
    assert sorted(os.listdir(tmp_path)) == names
    assert "is there already and is replaced" not in again.stderr
    assert f"{out} is there already and is replaced when this run has finished." in lmm(source, out).stderr
    (tmp_path / f"r{suffix}.run.yaml").unlink()
    assert "record beside it is missing" in lmm(source, out, "--resume").stderr


def test_finished_cohorts(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.h5ad"

    def collapse(by: str, *more: str) -> Any:
        return run("collapse", source, "--by", by, "--out", out, "--resume", *more)

    assert collapse("donor_id,cell_type").exit_code == 0
    before = out.read_bytes()
    same = collapse("donor_id,cell_type")
    assert (same.exit_code, "is finished" in same.stderr, out.read_bytes() == before) == (0, True, True)
    refused = collapse("donor_id")
    assert (refused.exit_code, "options by was ['donor_id', 'cell_type'] and is" in refused.stderr) == (2, True)
    assert collapse("donor_id", "--overwrite").exit_code == 0
    assert out.read_bytes() != before


def test_a_stopped_run_makes_way(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, save = tmp_path / "r.csv", Partial.save

    def stop(self: Partial, number: int, part: ad.AnnData) -> None:
        save(self, number, part)
        raise KeyboardInterrupt

    def interrupted(*more: object) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Partial, "save", stop)
            return lmm(source, out, *more)

    interrupted()
    assert "start again with --overwrite" in lmm(source, out).stderr
    assert "start again with --overwrite" in lmm(source, out, "--resume", "--ml").stderr
    resumed = lmm(source, out, "--resume", "--overwrite")
    assert (resumed.exit_code, "Resumed: 1 of 3 groups" in resumed.stderr) == (3, True)
    for more in (("--overwrite",), ("--resume", "--overwrite", "--ml")):
        interrupted("--overwrite")
        again = lmm(source, out, *more)
        assert (again.exit_code, "Resumed" in again.stderr) == (3, False)


def test_keys_are_those_of_the_tools(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.h5ad"
    for tool, formula in (("lmm", FORMULA), ("pseudobulk", "~ condition")):
        assert run(tool, source, "--formula", formula, "--out", out, "--quiet").exit_code == 0
        found = ad.read_h5ad(out)
        assert list(found.uns) == [tool]
        assert len(dw.get.tests(found, key=tool)) == 20
        assert "# Results" in run("report", out).stdout


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "rows"])
@pytest.mark.parametrize("tool", ["lmm", "pseudobulk"])
def test_the_time_of_a_run_is_tried_on_a_part(tool: str, kind: str, tmp_path: Path) -> None:
    """Of matrices of every kind; that no more is read than the part, the numbers say."""
    adata = dw.datasets.simulate_cohort(n_donors=4, n_cells=400, n_genes=130, seed=1)
    adata.X = adata.layers["counts"].asformat(kind) if kind in ("csr", "csc") else adata.layers["counts"].toarray()
    if kind == "rows":
        adata = dw.pp.collapse(adata, ["donor_id", "condition", "cell_type"], counts_layer="counts", progress=False)
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    formula = FORMULA if tool == "lmm" else "~ condition"
    options = ["--groupby", "cell_type", "--dry-run", "--out", tmp_path / "r.csv"]
    said = run(
        tool, path, "--formula", formula, *options, *([] if tool == "lmm" or kind == "rows" else ["--layer", "X"])
    )
    assert said.exit_code == 0, said.output
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("Time: about ")]
    assert ("MB of the matrix that were read" in line) == (kind != "rows")
    assert os.listdir(tmp_path) == ["cells.h5ad"]
