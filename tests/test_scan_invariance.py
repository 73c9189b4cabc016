"""What changes nothing in a scan: blocks, orders, containers, threads, other groups, what is kept, and being stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._anndata.genotypes import open_genotypes
from donorwise._core.engine import scan as scan_module
from donorwise._core.engine.scan_store import Folder
from donorwise._core.kinship.genotypes import Genotypes
from donorwise._core.models.lmm.denominators import FeatureByFeature, NoVariances, OneRatio
from donorwise.errors import DataError, DonorwiseWarning

COUNTED = ("n_variants", "n_donors", "imputed", "left_out_mostly_missing", "left_out_all_alike", "left_out_rare")
KEY = ["group", "gene", "variant"]
FORMULAS = {
    "donor": "~ sex + (1 | donor_id)",
    "kernel": "~ sex + (1 | gr(donor_id, cov=grm))",
    "both": "~ sex + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)",
}
USUAL: dict[str, Any] = {"groupby": "cell_type", "screen": 0.05, "missing": 0.2, "progress": False, "mode": "trans"}


@cache
def study() -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """Cells of 24 donors, two types and six genes; 90 variants, some genotypes missing; and the donors' kernel."""
    cells, genotypes = dw.datasets.simulate_eqtls(
        n_donors=24, n_cells=1200, n_genes=6, n_variants=90, n_chromosomes=2, cell_types=["B", "T"], missing=0.05, seed=3
    )  # fmt: skip
    rng = np.random.default_rng(0)
    L = rng.normal(size=(24, 48))
    kernel = pd.DataFrame(L @ L.T / 48, genotypes.obs_names, genotypes.obs_names)
    return cells, genotypes, kernel


def scanned(cells: ad.AnnData, genotypes: Any, formula: str = "donor", **options: Any) -> dict[str, Any]:
    """What is in uns afterwards; tests of a folder beside."""
    cells = cells.copy() if not cells.isbacked else cells
    kernels = {"grm": study()[2]} if "grm" in FORMULAS[formula] else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.scan(cells, genotypes, FORMULAS[formula], kernels=kernels, **{**USUAL, **options})
    found = dict(cells.uns["scan"])
    if "out" in options:
        found["tests"] = of_folder(options["out"])
    return found


def by_group(found: dict[str, Any], name: str) -> dict[str, Any]:
    own = found["params"][name]
    return dict(zip(own["names"], own["values"], strict=True))


def of_folder(folder: Path) -> pd.DataFrame:
    parts = []
    for part in sorted(folder.glob("group=*/part-*.parquet")):
        own = pd.read_parquet(part, engine="pyarrow", partitioning=None)
        own.insert(1, "group", part.parent.name.removeprefix("group="))
        parts.append(own)
    return pd.concat(parts, ignore_index=True)


def same(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-9) -> None:
    """All tables, whatever the order of their rows."""
    for name, key in (("tests", KEY), ("results", KEY[:2]), ("counts", ["group", "statistic"])):
        one, two = (
            own[name].astype({column: str for column in own[name].columns if own[name][column].dtype.name in ("category", "object")})
            .sort_values(key).reset_index(drop=True)
            for own in (found, expected)
        )  # fmt: skip
        pd.testing.assert_frame_equal(one, two, rtol=rtol, atol=1e-12, check_dtype=False)
    for name in ("n_tests", *COUNTED):
        assert found["params"][name] == expected["params"][name], name


@cache
def usual(formula: str = "donor", **options: Any) -> dict[str, Any]:
    cells, genotypes, _ = study()
    return scanned(cells, genotypes, formula, **options)


def in_blocks(genotypes: Any, n_variants: int) -> Genotypes:
    found = open_genotypes(genotypes)
    return replace(found, block_numbers=n_variants * len(found.donors))


@pytest.mark.parametrize("mode", ["cis", "trans"])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("size", [1, 7, 45])
def test_blocks(formula: str, mode: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = usual(formula, mode=mode)
    assert expected["params"]["n_tests"] > 50
    monkeypatch.setattr(scan_module, "_TOGETHER", 4)
    for kind in (OneRatio, FeatureByFeature, NoVariances):
        monkeypatch.setattr(kind, "tile", (3, 2))
    cells, genotypes, _ = study()
    same(scanned(cells, in_blocks(genotypes, size), formula, mode=mode), expected)


@pytest.mark.parametrize("mode", ["cis", "trans"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_orders(formula: str, mode: str) -> None:
    """Of variants, of donors on both sides, of cells and of genes."""
    cells, genotypes, _ = study()
    rng = np.random.default_rng(1)
    shuffled = genotypes[rng.permutation(genotypes.n_obs), rng.permutation(genotypes.n_vars)].copy()
    same(
        scanned(
            cells[rng.permutation(cells.n_obs), rng.permutation(cells.n_vars)].copy(), shuffled, formula, mode=mode
        ),
        usual(formula, mode=mode),
    )


@pytest.mark.parametrize("size", [3, 8, 1000])
def test_variants_that_are_alike_in_any_block(size: int) -> None:
    """The lead is the first in the genotypes of those that say the same, wherever blocks end and positions are."""
    cells, genotypes, _ = study()
    several = ad.concat(
        [genotypes, genotypes, genotypes], axis="var", merge="first", keys=["a", "b", "c"], index_unique="-"
    )
    several = several[:, np.random.default_rng(2).permutation(several.n_vars)].copy()
    several.X[np.isnan(several.X)] = 0
    several.var["pos"] = several.var["pos"].to_numpy() + np.arange(several.n_vars)[::-1] % 7  # in no order
    order = {name: i for i, name in enumerate(several.var_names)}
    for mode in ("cis", "trans"):
        found = scanned(cells, in_blocks(several, size), mode=mode)
        tests = found["tests"].astype({"variant": str, "gene": str, "group": str})
        for row in found["results"].itertuples():
            own = tests[(tests["gene"] == row.gene) & (tests["group"] == row.group)]
            if len(own):
                alike = own[np.abs(own["statistic"]) >= np.abs(row.statistic) * (1 - 1e-9)]
                assert len(alike) % 3 == 0
                assert row.variant == min(alike["variant"], key=order.__getitem__)


def _backed(cells: ad.AnnData, folder: Path) -> ad.AnnData:
    cells.write_h5ad(folder / "cells.h5ad")
    return ad.read_h5ad(folder / "cells.h5ad", backed="r")


def _layer(cells: ad.AnnData) -> ad.AnnData:
    found = cells.copy()
    found.layers["log"], found.X = found.X.copy(), None
    return found


CONTAINERS: dict[str, Callable[[ad.AnnData, Path], ad.AnnData]] = {
    "dense": lambda cells, _: ad.AnnData(cells.X.toarray(), cells.obs, cells.var, uns=cells.uns.copy()),
    "csc": lambda cells, _: ad.AnnData(sparse.csc_matrix(cells.X), cells.obs, cells.var, uns=cells.uns.copy()),
    "backed": _backed,
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_of_cells(kind: str, tmp_path: Path) -> None:
    cells, genotypes, _ = study()
    same(scanned(CONTAINERS[kind](cells, tmp_path), genotypes), usual())


def test_dask(tmp_path: Path) -> None:
    da = pytest.importorskip("dask.array")
    cells, genotypes, _ = study()
    lazy = ad.AnnData(da.from_array(cells.X.toarray(), chunks=(500, -1)), cells.obs, cells.var, uns=cells.uns.copy())
    of_donors = ad.AnnData(da.from_array(np.asarray(genotypes.X), chunks=(7, 20)), genotypes.obs, genotypes.var)
    same(scanned(lazy, of_donors), usual())


@pytest.mark.parametrize("formula", ["donor", "both"])
def test_collapsed_rows(formula: str) -> None:
    cells, genotypes, _ = study()
    rows = dw.pp.collapse(cells, ["donor_id", "sex", "cell_type"], progress=False)
    same(scanned(rows, genotypes, formula), usual(formula))


@pytest.mark.parametrize("formula", FORMULAS)
def test_threads(formula: str) -> None:
    cells, genotypes, _ = study()
    for mode in ("cis", "trans"):
        same(scanned(cells, genotypes, formula, n_jobs=2, mode=mode), usual(formula, mode=mode))


@pytest.mark.parametrize("formula", ["donor", "both"])
def test_groups_alone(formula: str) -> None:
    """Donors without cells in a group are no donors of it."""
    cells, genotypes, _ = study()
    lost = cells.obs["donor_id"].astype(str).isin(sorted(set(cells.obs["donor_id"].astype(str)))[:4]) & (
        cells.obs["cell_type"] == "B"
    )
    cells = cells[~lost].copy()
    together = scanned(cells, genotypes, formula)
    for group in ("B", "T"):
        alone = scanned(cells[cells.obs["cell_type"] == group].copy(), genotypes, formula)
        for name in ("tests", "results", "counts"):
            of_group = together[name][together[name]["group"] == group].reset_index(drop=True)
            pd.testing.assert_frame_equal(
                alone[name], of_group, rtol=1e-9, atol=1e-12, check_categorical=False, check_dtype=False
            )
        for name in (*COUNTED, "lambda"):
            assert by_group(alone, name)[group] == pytest.approx(by_group(together, name)[group], rel=1e-9), name
    assert by_group(together, "n_donors") == {"B": 20, "T": 24}


@pytest.mark.parametrize("refit", ["none", "screen", "all"])
def test_what_is_kept(refit: str) -> None:
    whole, kept = usual(refit=refit), usual(refit=refit, p_max=0.1)
    few = whole["tests"][whole["tests"]["p_value"] <= 0.1]
    assert 0 < len(few) < len(whole["tests"])
    same({**kept, "tests": few}, {**whole, "tests": kept["tests"]})


def test_genes_alone() -> None:
    cells, genotypes, _ = study()
    for formula in ("donor", "both"):
        some = scanned(cells, genotypes, formula, mask_var=np.arange(cells.n_vars) < 2)["tests"]
        own = usual(formula)["tests"]
        own = own[own["gene"].isin(list(cells.var_names[:2]))].reset_index(drop=True)
        pd.testing.assert_frame_equal(some, own, rtol=1e-7, atol=1e-12, check_categorical=False, check_dtype=False)


# ---------------------------------------------------------------- folders


class Stopped(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("where", ["before", "between"])
def test_stopped_and_gone_on_with(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the third block: before anything is written, or between its part and the mark that it is finished."""
    cells, genotypes, _ = study()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    source = in_blocks(genotypes, 20)
    expected = scanned(cells, source, out=whole)
    saved: list[tuple[int, int]] = []
    save = Folder.save

    def failing(self: Folder, task: int, block: int, *rest: Any) -> None:
        saved.append((task, block))
        if len(saved) == 3:
            if where == "between":
                save(self, task, block, *rest)
                (self.folder / "_parts" / f"{task:05d}-{block:05d}.npz").unlink()
            raise Stopped
        save(self, task, block, *rest)

    monkeypatch.setattr(Folder, "save", failing)
    with pytest.raises(Stopped):
        scanned(cells, source, out=stopped)
    assert not (stopped / "_lead.parquet").exists()
    with pytest.raises(DataError, match=r"resume=True \(--resume\) goes on"):
        scanned(cells, source, out=stopped)
    again: list[tuple[int, int]] = []
    monkeypatch.setattr(
        Folder,
        "save",
        lambda self, task, block, *rest: (again.append((task, block)), save(self, task, block, *rest))[1],
    )
    found = scanned(cells, source, out=stopped, resume=True)
    assert again == [(0, 2), (0, 3), (0, 4), *[(1, block) for block in range(5)]]
    same(found, expected, rtol=0)
    names = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in (whole, stopped)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".parquet"):
            pd.testing.assert_frame_equal(
                *(pd.read_parquet(f / name, engine="pyarrow", partitioning=None) for f in (whole, stopped))
            )


def test_a_folder_has_what_memory_has(tmp_path: Path) -> None:
    cells, genotypes, _ = study()
    for mode in ("cis", "trans"):
        same(scanned(cells, in_blocks(genotypes, 20), mode=mode, out=tmp_path / mode), usual(mode=mode))


def test_another_scan_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, genotypes, _ = study()

    def failing(self: Folder, *rest: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "save", failing)
        with pytest.raises(Stopped):
            scanned(cells, genotypes, out=tmp_path / "scan")
    for changed in ({"screen": 0.1}, {"p_max": 0.5}, {"maf": 0.2}, {"refit": "all", "test": "lrt"}, {"mode": "cis"}):
        with pytest.raises(DataError, match="was another one"):
            scanned(cells, genotypes, out=tmp_path / "scan", resume=True, **changed)


# ---------------------------------------------------------------- what is missing


def test_missing_genotypes_are_the_mean_of_the_others() -> None:
    cells, genotypes, _ = study()
    genotypes = genotypes[:, usual()["tests"]["variant"].unique().tolist()]  # those that differ between donors
    X = np.array(genotypes.X, dtype=float)
    means = np.nanmean(X, axis=0)
    filled = ad.AnnData(np.where(np.isnan(X), means, X), genotypes.obs, genotypes.var)
    own, other = usual()["tests"], scanned(cells, filled)["tests"]
    assert by_group(usual(), "imputed")["T"] == np.isnan(X).sum()
    pd.testing.assert_frame_equal(own.drop(columns="n"), other.drop(columns="n"), rtol=1e-9, atol=1e-12)
    n = pd.Series((~np.isnan(X)).sum(axis=0), genotypes.var_names)
    assert (own["n"].to_numpy() == n.loc[own["variant"].astype(str)].to_numpy()).all()


@pytest.mark.parametrize("formula", ["~ sex", "~ sex + (1 | gr(donor_id, cov=grm))"])
@pytest.mark.parametrize("mode", ["cis", "trans"])
def test_features_with_rows_of_their_own(formula: str, mode: str) -> None:
    """As if they were alone, with the donors that have a value: variants are looked at, and imputed, among these."""
    _, genotypes, kernel = study()
    rng = np.random.default_rng(4)
    obs = pd.DataFrame({"donor_id": genotypes.obs_names, "sex": genotypes.obs["sex"].to_numpy()})
    Y = pd.DataFrame(rng.normal(size=(24, 5)), columns=list("abcde"))
    Y.loc[[0, 5, 9], "b"] = np.nan
    Y.loc[[0, 5, 9], "c"] = np.nan
    Y.loc[[1, 2], "d"] = np.nan
    Y["e"] = np.nan
    genes = genotypes.var[["chrom", "pos"]].iloc[[5, 20, 60, 70, 30]].set_axis(Y.columns).rename(columns={"pos": "tss"})
    options: dict[str, Any] = {
        "kernels": {"grm": kernel} if "grm" in formula else None, "donor": "donor_id", "maf": 0.05, "missing": 0.1,
        "genes": genes, "mode": mode, "refit": "all",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        together = dw.scan_variants(Y, obs, genotypes, formula, **options)
        assert together.tests is not None
        for name in "abcd":
            seen = Y[name].notna().to_numpy()
            alone = dw.scan_variants(Y.loc[seen, [name]], obs[seen], genotypes, formula, **options)
            own = together.tests[together.tests["gene"] == name].sort_values("variant", ignore_index=True)
            assert alone.tests is not None and len(own)
            expected = alone.tests.sort_values("variant", ignore_index=True)
            pd.testing.assert_frame_equal(
                own.astype({"variant": str}),
                expected.astype({"variant": str}),
                rtol=1e-9,
                atol=1e-12,
                check_categorical=False,
            )
    lead = together.results.set_index("gene")
    assert lead["n_donors"].to_dict() == {"a": 24, "b": 21, "c": 21, "d": 22, "e": 0}
    assert lead["status"].astype(str)["e"] not in ("ok", "no_variants") and np.isnan(lead["p_gene"]["e"])
