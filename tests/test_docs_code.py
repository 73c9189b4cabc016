"""What README and the documentation tell people to type runs, and gives what they show."""

from __future__ import annotations

import doctest
import io
import re
import shlex
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import donorwise as dw
from donorwise._cli import main

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")  # few donors, to be quick


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name: one atlas, its two sites, as cells and collapsed, genotypes, and a kernel."""
    path = tmp_path_factory.mktemp("cohorts")
    cells = dw.datasets.simulate_cohort(n_donors=12, n_cells=1_200, n_genes=40, seed=2)
    cells.obs = cells.obs.rename(columns={"condition": "disease"})
    by = ["donor_id", "sample_id", "cell_type", "disease", "site"]
    cells.obs["site"] = np.where(cells.obs["donor_id"].cat.codes < 6, "Paris", "Boston")
    genes, genotypes = dw.datasets.simulate_eqtls(n_donors=12, n_cells=None, n_genes=40, n_variants=400, seed=2)
    cells.var = cells.var.join(genes.var[["chrom", "start", "end", "strand"]].set_axis(cells.var_names))
    genotypes.obs_names = cells.obs["donor_id"].cat.categories
    genotypes.write_h5ad(path / "genotypes.h5ad")
    cells.write_h5ad(path / "atlas.h5ad")
    for site in ("Paris", "Boston"):
        own = cells[cells.obs["site"] == site].copy()
        own.write_h5ad(path / f"{site.lower()}.h5ad")
        rows = dw.pp.collapse(own, by, covariates="log_depth")
        rows.write_h5ad(path / f"{site.lower()}.collapsed.h5ad")
    _write_pairs(path / "study", list(cells.obs["donor_id"].cat.categories))
    return path


def _write_pairs(prefix: Path, donors: list[str]) -> None:
    """Relatedness of pairs of sibs, as GCTA writes it."""
    K = np.kron(np.eye(len(donors) // 2), [[1, 0.5], [0.5, 1]])
    K[np.tril_indices(len(donors))].astype(np.float32).tofile(f"{prefix}.grm.bin")
    Path(f"{prefix}.grm.id").write_text("".join(f"0\t{donor}\n" for donor in donors), encoding="utf-8")


def test_example_of_readme_shows_what_is_printed() -> None:
    names: dict[str, Any] = {}
    shown = {}
    for example in doctest.DocTestParser().get_examples(_blocks("README.md", "python")[0]):
        try:
            shown[example.source] = eval(example.source, names)
        except SyntaxError:
            exec(example.source, names)
    plt.close("all")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (audit,) = (value for value in shown.values() if type(value).__name__ == "Audit")
    assert str(audit) in text
    (table,) = (value for value in shown.values() if isinstance(value, pd.DataFrame))
    printed = re.search(r"^ +variable .*?\n\n", text, re.DOTALL | re.MULTILINE)
    expected = pd.read_csv(io.StringIO(printed[0] if printed else ""), sep=r"\s+")
    pd.testing.assert_frame_equal(
        table.astype({"variable": str, "status": str}), expected, check_dtype=False, rtol=5e-3
    )


@pytest.mark.parametrize("page", ["README.md", "docs/large-cohorts.md"])
def test_code_of_large_cohorts_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"ad": ad, "dw": dw}
    for block in _blocks(page, "python")[page == "README.md" :]:  # the first one of README has a test of its own
        exec(block, names)
        assert "cohort" not in names or names["cohort"].n_obs < 200


@pytest.mark.parametrize("page", sorted(path.stem for path in (ROOT / "docs" / "how-to").glob("*.md")))
def test_recipes_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in _blocks(f"docs/how-to/{page}.md", "python"):
        exec(block, names)
    plt.close("all")


@pytest.mark.parametrize(
    "page", ["README.md", "docs/large-cohorts.md", "docs/how-to/atlas.md", "docs/after-the-fit.md"]
)
def test_commands_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = "".join(_blocks(page, "bash")).splitlines()
    commands = [line for line in lines if line.startswith("donorwise ")]
    assert commands
    for command in commands:
        command = command.replace("study.pgen", "genotypes.h5ad")
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.mark.slow
@pytest.mark.dask
def test_code_of_the_cluster_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(folder)
    blocks = [block for block in _blocks("docs/cluster.md", "python") if "dask_jobqueue" not in block]
    names: dict[str, Any] = {}
    with distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as local:
        code = (
            "\n".join(blocks)
            .replace("tcp://scheduler:8786", local.scheduler_address)
            .replace("/shared/atlas.h5ad", "atlas.h5ad")
        )
        exec(code, names)
        names["client"].close()
    assert "lmm" in names["cohort"].uns
