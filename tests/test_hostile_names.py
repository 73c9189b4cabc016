"""Names that are taken for something else: by files, reports, logs, or by our own tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tests._batch import run

import donorwise as dw
from donorwise._core.wording import code, markdown, one_line, printable
from donorwise.errors import DataError, DonorwiseError

MIXED = "~ condition + (1 | donor_id)"
HOSTILE = [
    "CD3E\r", "a\nb", "x\r\ny", "\x1b[31mred\x1b[0m", "<script>alert(1)</script>", "[click](http://example.org/x)",
    "pi|pe", "https://example.org/y", "a,b", 'quo"te', "\u202eright", "``code``", "&lt;b&gt;", "\u2028line",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(
        n_donors=6, n_cells=300, n_genes=14, cell_types=("T", "B"), effect_size=2.0, de_fraction=0.5, seed=1
    )
    adata.uns["truth"] = {}
    return adata


@pytest.mark.parametrize("key", [3, None, ["lmm"], ("a", "b"), 1.5])
def test_keys_are_text(cells: ad.AnnData, key: Any) -> None:
    adata = cells.copy()
    dw.tl.lmm(adata, MIXED, progress=False)
    contrast = "condition[T.disease]"
    calls = [
        lambda: dw.tl.lmm(adata, MIXED, key_added=key, progress=False),
        lambda: dw.tl.pseudobulk(adata, "~ condition", key_added=key, progress=False),
        lambda: dw.tl.calibrate(adata, MIXED, contrast, key_added=key, progress=False),
        lambda: dw.get.to_rank_genes_groups(adata, contrast=contrast, key_added=key),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"key_added=.* must be text, the name of an entry of adata.uns"):
            call()
    readers = [dw.get.tests, dw.get.icc, dw.get.influence, dw.get.power, dw.get.calibration, dw.pl.volcano]
    for read in [*readers, lambda a, key: dw.tl.influence(a, key=key), lambda a, key: dw.tl.power(a, key=key)]:
        with pytest.raises(DataError, match="key=.* must be text"):
            read(adata, key=key)
    assert set(adata.uns) == {"log1p", "truth", "lmm"}


def test_repeated_columns_are_said_so(cells: ad.AnnData) -> None:
    adata = cells.copy()
    adata.obs = pd.concat([adata.obs, adata.obs[["age"]]], axis=1)
    with pytest.raises(DonorwiseError, match="2 columns called 'age': give them different names"):
        dw.tl.lmm(adata, MIXED, obs_keys="age", progress=False)
    with pytest.raises(DataError, match="Names repeat in obs_keys: 'n'. Name every column once"):
        dw.tl.lmm(adata, MIXED, obs_keys=["n", "n"], progress=False)
    scores = pd.DataFrame(np.ones((adata.n_obs, 3)), index=adata.obs_names, columns=["s", "s", "t"])
    adata.obsm["scores"] = scores
    with pytest.raises(DataError, match=r"Names repeat in the columns of obsm\['scores'\]: 's'"):
        dw.tl.lmm(adata, MIXED, obsm="scores", progress=False)


def _hostile(cells: ad.AnnData) -> ad.AnnData:
    adata = cells.copy()
    adata.var_names = HOSTILE
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"T": "T\r<b>\n[a](b)", "B": "B|\x1b[2J"})
    return adata


@pytest.fixture(scope="module")
def written(cells: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    _hostile(cells).write_h5ad(folder / "cells.h5ad")
    said = {
        ending: run(
            "lmm", folder / "cells.h5ad", "--formula", MIXED, "--groupby", "cell_type", "--out", folder / f"r{ending}"
        )
        for ending in (".csv", ".h5ad")
    }
    return folder, said


def test_tables_with_returns_are_read_back(cells: ad.AnnData, written: tuple[Path, dict[str, Any]]) -> None:
    adata = _hostile(cells)
    dw.tl.lmm(adata, MIXED, groupby="cell_type", progress=False)
    expected = dw.get.tests(adata, sort_by=None)
    path = written[0] / "r.csv"
    found = pd.read_csv(path, keep_default_na=False, float_precision="round_trip")
    assert found["variable"].tolist() == expected["variable"].tolist()
    assert found["group"].tolist() == expected["group"].tolist()
    np.testing.assert_array_equal(pd.to_numeric(found["p_value"], errors="coerce"), expected["p_value"])
    with path.open(newline="") as lines:
        assert [row["variable"] for row in csv.DictReader(lines)] == expected["variable"].tolist()


def test_plain_tables_stay_as_they_were(cells: ad.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run("lmm", tmp_path / "cells.h5ad", "--formula", MIXED, "--out", tmp_path / "r.csv")
    assert '"' not in (tmp_path / "r.csv").read_text()


@pytest.mark.parametrize("ending", [".csv", ".h5ad"])
def test_reports_take_names_for_names(written: tuple[Path, dict[str, Any]], ending: str) -> None:
    text = run("report", written[0] / f"r{ending}", "--top", 20).output
    assert not any(c in text for c in "\r\x1b\u2028\u202e")
    for bad in ("<script", "<b>", "](", "https://", "http://"):
        assert bad not in text
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert all(line.endswith(" |") for line in rows)
    shown = [line for line in rows if "script" in line or "click" in line or "pi" in line]
    assert len({line.replace("\\|", "").count("|") for line in shown}) == 1
    assert not [line for line in text.split("\n") if line[:1] not in ("", "#", "|", "-")]


def test_logs_have_a_line_a_record(written: tuple[Path, dict[str, Any]]) -> None:
    for said in written[1].values():
        assert said.exit_code == 0
        assert "\r" not in said.output
        assert "\x1b" not in said.output
        assert "T\\r<b>\\n[a](b)" in said.output
        assert all(line[2:3] == ":" for line in said.output.splitlines())


def test_errors_and_plans_are_printable(written: tuple[Path, dict[str, Any]]) -> None:
    folder = written[0]
    plan = run(
        "lmm",
        folder / "cells.h5ad",
        "--formula",
        MIXED,
        "--groupby",
        "cell_type",
        "--out",
        folder / "x.csv",
        "--dry-run",
    )
    wrong = run(
        "lmm", folder / "cells.h5ad", "--formula", MIXED, "--groupby", "cell\n\x1btype", "--out", folder / "x.csv"
    )
    for said in (plan, wrong):
        assert not any(c in said.output for c in "\r\x1b")
    assert len(wrong.output.strip().splitlines()) == 2  # what is read, and what is wrong


@pytest.mark.parametrize("name", HOSTILE)
def test_wording_of_names(name: str) -> None:
    assert len(one_line(name).splitlines()) == 1
    assert printable(name).isprintable() or "\n" in name
    shown = markdown(name)
    assert len(shown.splitlines()) == 1
    assert not any(bad in shown for bad in ("<", "](", "://"))
    assert code(name).count("\n") == 0


def test_wording_leaves_plain_names() -> None:
    for name in (
        "condition[T.disease]",
        "HLA-DRA",
        "C(x, Treatment('a'))[T.b]",
        "T cell | lung",
        "B & T",
    ):
        assert printable(name) == one_line(name) == markdown(name) == name
        assert code(name) == f"`{name}`"


OURS = ("variable", "icc", "fraction", "Residual", "Intercept", "fixed", "group", "dispersion")


def _renamed(cells: ad.AnnData, kind: str, name: str) -> tuple[ad.AnnData, dict[str, Any]]:
    """The cells with one thing called `name`, and what is called how."""
    adata = cells.copy()
    called: dict[str, Any] = {
        "donor": "donor_id",
        "condition": "condition",
        "groupby": "cell_type",
        "gene": adata.var_names[0],
    }
    if kind == "gene":
        adata.var_names = [name, *adata.var_names[1:]]
    elif kind == "level":
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"T": name})
    elif kind == "obs_keys":
        adata.obs[name] = np.random.default_rng(0).normal(size=adata.n_obs)
    else:
        adata.obs = adata.obs.rename(columns={called[kind]: name})
    called[{"obs_keys": "gene"}.get(kind, kind)] = name
    return adata, called


def _numbers(cells: ad.AnnData, kind: str, name: str) -> list[np.ndarray]:
    """The numbers of every table; all that reads a result is tried on the way."""
    adata, called = _renamed(cells, kind, name)
    formula, gene = f"~ {called['condition']} + (1 | {called['donor']})", called["gene"]
    response = {"obs_keys": gene} if kind == "obs_keys" else {}
    dw.tl.lmm(adata, formula, groupby=called["groupby"], progress=False, **response)
    tables = [get(adata) for get in (dw.get.varcomp, dw.get.icc, dw.get.variance_partition)]
    assert not tables[2].duplicated(["variable", "group", "term"]).any()
    shares = tables[2].groupby(["variable", "group"], observed=True)["fraction"]
    np.testing.assert_allclose(shares.sum(), 1)
    dw.tl.influence(adata, variables=gene, progress=False)
    tables += [dw.get.tests(adata, sort_by=None), dw.get.ranef(adata, gene), dw.get.influence(adata)]
    dw.pl.ranef(adata, gene, group=str(tables[3]["group"].iloc[0]))
    dw.pl.variance_partition(adata)
    dw.pl.icc(adata)
    if kind != "obs_keys":
        dw.tl.pseudobulk(
            adata, f"~ {called['condition']}", donor=called["donor"], groupby=called["groupby"], progress=False
        )
        tables += [get(adata, key="pseudobulk") for get in (dw.get.varcomp, dw.get.variance_partition)]
        tables += [dw.get.ranef(adata, gene, key="pseudobulk")]
        assert not tables[-2].duplicated(["variable", "group", "term"]).any()
    plt.close("all")
    return [table.select_dtypes("number").to_numpy() for table in tables]


@pytest.mark.parametrize("kind", ["gene", "level", "donor", "condition", "groupby", "obs_keys"])
def test_names_of_ours_are_names_like_others(cells: ad.AnnData, kind: str) -> None:
    expected = _numbers(cells, kind, "other")
    for name in OURS:
        for one, other in zip(_numbers(cells, kind, name), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, err_msg=name)


def test_a_number_is_not_the_constant(cells: ad.AnnData) -> None:
    adata = cells.copy()
    for name in ("Intercept", "(Intercept)", "dose"):
        adata.obs[name] = np.arange(adata.n_obs) % 7 * 1.0
    for formula in ("~ condition + {} + (1 | donor_id)", "~ condition + (1 + {} | donor_id)"):
        fits = []
        for name in ("dose", "`Intercept`", "`(Intercept)`"):
            dw.tl.lmm(adata, formula.format(name), progress=False)
            tables = [dw.get.tests(adata), dw.get.varcomp(adata)]
            fits.append([table.select_dtypes("number").to_numpy() for table in tables])
        for other in fits[1:]:
            for one, own in zip(fits[0], other, strict=True):
                np.testing.assert_allclose(own, one, rtol=1e-9)
