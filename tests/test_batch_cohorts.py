"""``donorwise collapse`` and ``merge``: stopped at any moment they go on, and give what an undisturbed run gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from tests._batch import run, start

import donorwise as dw
from donorwise._batch.partial import MANIFEST, Partial

BY = ["donor_id", "cell_type", "condition"]
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files that share donors; the second lacks genes, and its first cells are of one arm."""
    folder = tmp_path_factory.mktemp("cohorts")
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=900, n_genes=110, seed=1)
    adata = adata[np.argsort(adata.obs["condition"] != "disease", kind="stable")].copy()
    dw.pp.log_depth(adata)
    paths = [folder / "a.h5ad", folder / "b.h5ad"]
    for path, part in zip(paths, (adata[::2], adata[1::2, 3:]), strict=True):
        part.copy().write_h5ad(path)
    return paths


def collapse(sources: list[Path], out: Path, *more: object) -> list[str]:
    fixed = ["collapse", *sources, "--by", ",".join(BY), "--covariates", "log_depth", "--counts-layer", "counts"]
    return [str(a) for a in (*fixed, "--block-size", 200, "--out", out, *more)]


def merge(sources: list[Path], out: Path, *more: object) -> list[str]:
    return [str(a) for a in ("merge", *sources, "--block-size", 40, "--out", out, *more)]


@pytest.fixture(scope="module")
def rows(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The collapse of each source."""
    folder = tmp_path_factory.mktemp("rows")
    paths = [folder / path.name for path in sources]
    for source, out in zip(sources, paths, strict=True):
        assert run(*collapse([source], out)).exit_code == 0
    return paths


def assert_same(found: ad.AnnData, expected: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(found.obs, expected.obs, rtol=1e-10)
    assert list(found.var_names) == list(expected.var_names)
    assert set(found.layers) == set(expected.layers)
    for name in (None, *expected.layers):
        values = [a.X if name is None else a.layers[name] for a in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-10, atol=1e-9)
    for name, value in expected.obsm.items():
        np.testing.assert_allclose(found.obsm[name], value, rtol=1e-10, atol=1e-9)


def test_blocks_are_the_whole(sources: list[Path], rows: list[Path], tmp_path: Path) -> None:
    """Collapsed in blocks of cells, merged in blocks of features: the cells collapsed at once, levels in their order."""
    options = {"covariates": ["log_depth"], "counts_layer": "counts", "progress": False}
    for source, path in zip(sources, rows, strict=True):
        assert_same(ad.read_h5ad(path), dw.pp.collapse(ad.read_h5ad(source), BY, **options))
    assert list(ad.read_h5ad(rows[0]).obs["condition"].cat.categories) == ["control", "disease"]
    merged, at_once = tmp_path / "merged.h5ad", tmp_path / "at_once.h5ad"
    result = run(*merge(rows, merged))
    assert result.exit_code == 0, result.output
    assert "3 features that not all cohorts have are left out" in result.stderr
    assert "3 in cohort 2" in result.stderr
    assert run(*collapse(sources, at_once)).exit_code == 0
    expected = dw.pp.merge_collapsed([ad.read_h5ad(path) for path in rows])
    for path in (merged, at_once):
        assert_same(ad.read_h5ad(path), expected)
        assert sorted(p.name for p in tmp_path.glob(f"{path.name}*")) == [path.name, f"{path.name}.run.yaml"]
    record = yaml.safe_load((tmp_path / "merged.h5ad.run.yaml").read_text())
    assert record["result"]["dropped_features"] == list(ad.read_h5ad(sources[0]).var_names[:3])


@posix
@pytest.mark.parametrize(
    ("command", "at", "n_finished"),
    [
        pytest.param("collapse", 3, 1, id="second block"),
        pytest.param("collapse", 6, 4, id="second source", marks=pytest.mark.slow),
        pytest.param("collapse", 8, 6, id="result", marks=pytest.mark.slow),
        pytest.param("merge", 3, 1, id="second block of features", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed(
    sources: list[Path], rows: list[Path], tmp_path: Path, command: str, at: int, n_finished: int
) -> None:
    arguments, inputs = (collapse, sources) if command == "collapse" else (merge, rows)
    out, whole = tmp_path / "r.h5ad", tmp_path / "whole.h5ad"
    assert run(*arguments(inputs, whole)).exit_code == 0
    process = start(at, "kill", arguments(inputs, out))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert Partial.of(out).finished() == set(range(n_finished))
    assert "go on with --resume" in run(*arguments(inputs, out)).stderr
    result = run(*arguments(inputs, out, "--resume"))
    assert result.exit_code == 0, result.output
    assert f"Resumed: {n_finished} blocks are finished." in result.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.glob("r.h5ad*")) == ["r.h5ad", "r.h5ad.run.yaml"]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ("touch", [], "input 2 modified_ns was"),
        ("fewer", [], "input was"),
        ("", ["--layer", "counts"], "options layer was None and is 'counts'"),
        ("", ["--block-size", 300], "options block_size was 200 and is 300"),
    ],
)
def test_resume_is_refused(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, more: list[object], message: str
) -> None:
    own, out = [tmp_path / path.name for path in sources], tmp_path / "r.h5ad"
    for path, copy in zip(sources, own, strict=True):
        copy.write_bytes(path.read_bytes())
    save = Partial.save

    def stop(self: Partial, number: int, part: ad.AnnData) -> None:
        save(self, number, part)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "save", stop)
        stopped = run(*collapse(own, out))
    assert stopped.exit_code == 130
    assert "--resume goes on with it" in stopped.stderr
    if change == "touch":
        os.utime(own[1], (0, 0))
    result = run(*collapse(own[:1] if change == "fewer" else own, out, "--resume", *more))
    assert result.exit_code == 2
    assert message in result.stderr
    assert Partial.of(out).finished() == {0}


def test_blocks_of_another_run_are_not_taken(sources: list[Path], tmp_path: Path) -> None:
    """What is left of a folder whose removal was cut short is of nobody knows which input."""
    out = tmp_path / "r.h5ad"
    partial = Partial.of(out)
    with partial.kept({"input": 1}, resume=False):
        partial.save(0, ad.read_h5ad(sources[0])[:5])
    (partial.folder / MANIFEST).unlink()
    assert partial.open({"input": 2}, resume=False) == partial.finished() == set()


def test_damaged_cohort_is_named(rows: list[Path], tmp_path: Path) -> None:
    import h5py

    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(rows[1].read_bytes())
    with h5py.File(bad) as file:
        chunk = file["X"].id.get_chunk_info(0)
    content = bytearray(bad.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    bad.write_bytes(content)
    result = run(*merge([rows[0], bad], tmp_path / "m.h5ad"))
    assert result.exit_code == 2
    assert "bad.h5ad" in result.stderr.splitlines()[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.h5ad"]


def test_bad_values_in_the_middle(sources: list[Path], tmp_path: Path) -> None:
    """What is kept is named, with what it is good for; nothing else stays, and without the feature it goes on."""
    own, out = tmp_path / "own.h5ad", tmp_path / "r.h5ad"
    adata = ad.read_h5ad(sources[0])
    adata.X = adata.X.astype(np.float64).tocsr()
    row = 300
    adata.X[row, adata.X.indices[adata.X.indptr[row]]] = np.inf
    bad = adata.var_names[np.isinf(adata.X.toarray()).any(axis=0)]
    adata.var["finite"] = ~adata.var_names.isin(bad)
    adata.write_h5ad(own)
    result = run(*collapse([own], out))
    assert result.exit_code == 2
    assert f"{bad[0]}" in result.stderr
    assert f"What was finished before (1) is kept in {out}.partial: --resume goes on" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.h5ad", "r.h5ad.partial"]
    assert (
        "options mask_var was None and is 'finite'"
        in run(*collapse([own], out, "--mask-var", "finite", "--resume")).stderr
    )
    Partial.of(out).remove()
    assert run(*collapse([own], out, "--mask-var", "finite")).exit_code == 0
    assert ad.read_h5ad(out).n_vars == adata.n_vars - 1
