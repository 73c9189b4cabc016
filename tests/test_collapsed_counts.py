"""What collapsed rows keep of counts for generalised models: the log-likelihoods of the cells, wherever rows come from."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, special, stats
from tests._batch import run

import donorwise as dw
from donorwise._anndata.collapsed_counts import KEPT, kept_families, read_row_counts
from donorwise._core.cells.counted_rows import CountedRows, RowCounts, merge_counted
from donorwise._core.cells.counts import Counted, count_cells
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.tails import choose_tails
from donorwise.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

BY = ["donor_id", "cell_type"]
OPTIONS: dict[str, Any] = {"counts_layer": "counts", "glmm": ("nb", "cloglog"), "progress": False}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning"),
]


@cache
def _made() -> ad.AnnData:
    """Cells whose depths differ much, with counts of every size, and some cells without any."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=700, n_genes=30, seed=2)
    rng = np.random.default_rng(3)
    depth = np.exp(rng.normal(0, 0.8, adata.n_obs))
    mean = np.outer(depth, np.exp(rng.uniform(-4, 5, adata.n_vars)))
    counts = rng.poisson(mean * rng.gamma(2, 0.5, mean.shape))
    counts[::97] = 0
    adata.layers["counts"] = sparse.csr_matrix(counts.astype(np.float32))
    total = counts.sum(axis=1, keepdims=True)
    adata.X = sparse.csr_matrix(np.log1p(counts / np.maximum(total, 1) * 1e4).astype(np.float32))
    adata.var["chosen"] = np.arange(adata.n_vars) % 3 > 0
    return adata


@pytest.fixture
def cells() -> ad.AnnData:
    return _made().copy()


def _read(source: RowCounts, rows: Any = None, features: Any = None) -> Counted:
    codes = np.full(source.n_obs.size, -1)
    rows = np.arange(codes.size) if rows is None else rows
    codes[rows] = np.arange(len(rows))
    return source.patterns(codes, len(rows), features)


def _nb(source: RowCounts | CountedRows, counted: Counted, size: float, mean: float) -> np.ndarray:
    """Log-likelihoods (K, G) of counts with this size, and this mean at a depth of 1."""
    at, values = source.nodes.exposures, source.tails.values
    out = counted.total * np.log(mean / size)
    out -= np.einsum("j,kjg->kg", np.log1p(at * mean / size), counted.own)
    out -= (size * counted.shared @ np.log1p(at * mean / size))[:, None]
    return out + np.einsum("h,khg->kg", special.gammaln(values + size) - special.gammaln(size), counted.tail)


def _cloglog(source: RowCounts, counted: Counted, mean: float) -> np.ndarray:
    at = source.nodes.exposures
    failed = counted.shared[:, :, None] - counted.own
    return np.einsum("j,kjg->kg", np.log(-np.expm1(-at * mean)), counted.own) - np.einsum(
        "j,kjg->kg", at * mean, failed
    )


def _cell_by_cell(adata: ad.AnnData, rows: ad.AnnData, size: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """The same from the cells: of counts without what does not depend on size and mean, and of detection."""
    y = adata[:, rows.var_names].layers["counts"].toarray().astype(float)
    depth = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()[:, None].astype(float)
    y, depth, obs = y[depth[:, 0] > 0], depth[depth[:, 0] > 0], adata.obs[depth[:, 0] > 0]
    mu = depth * mean
    nb = stats.nbinom.logpmf(y, size, size / (size + mu)) + special.gammaln(y + 1) - y * np.log(depth)
    yes = np.where(y > 0, np.log(-np.expm1(-mu)), -mu)
    own = obs[BY].astype(str).agg("|".join, axis=1).to_numpy()
    row = rows.obs[BY].astype(str).agg("|".join, axis=1)
    return tuple(np.stack([values[own == name].sum(axis=0) for name in row]) for values in (nb, yes))


def _assert_right(adata: ad.AnnData, rows: ad.AnnData, size: float = 0.7, mean: float = 2e-3) -> None:
    nb, yes = _cell_by_cell(adata, rows, size, mean)
    source = read_row_counts(rows, "nb", detected=False)
    scale = np.abs(_read(source).tail).sum(axis=1) + np.abs(nb)
    assert (np.abs(_nb(source, _read(source), size, mean) - nb) < 1e-8 + 1e-12 * scale).all()
    source = read_row_counts(rows, "cloglog", detected=True)
    np.testing.assert_allclose(_cloglog(source, _read(source), mean), yes, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize(("size", "mean"), [(0.05, 1e-5), (0.7, 2e-3), (30.0, 0.05)])
def test_log_likelihoods_are_those_of_the_cells(cells: ad.AnnData, size: float, mean: float) -> None:
    rows = dw.pp.collapse(cells, BY, **OPTIONS)
    _assert_right(cells, rows, size, mean)
    _assert_right(cells, dw.pp.collapse(cells, BY, mask_var="chosen", **OPTIONS), size, mean)


def test_sums_need_no_nodes(cells: ad.AnnData) -> None:
    rows = dw.pp.collapse(cells, BY, counts_layer="counts", progress=False)
    y, row = cells.layers["counts"].toarray(), cells.obs.groupby(BY, observed=True).ngroup()
    poisson = read_row_counts(rows, "", detected=False)
    found = _read(poisson, np.array([2, 0]), np.array([5, 1, 7]))
    assert (poisson.nodes, poisson.tails, found.own.shape) == (None, None, (2, 0, 3))
    for i, k in enumerate((2, 0)):
        mine = cells.obs[BY].astype(str).agg("|".join, axis=1) == rows.obs[BY].astype(str).agg("|".join, axis=1).iloc[k]
        np.testing.assert_array_equal(found.total[i], y[mine][:, [5, 1, 7]].sum(axis=0))
        assert found.exposure[i] == y[mine].sum()
    logit = _read(read_row_counts(rows, "", detected=True))
    np.testing.assert_array_equal(logit.exposure, rows.obs["n_cells"])
    assert logit.total.sum() == (y > 0).sum()
    assert row.nunique() == rows.n_obs


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files_rows_and_features(cells: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    rows, path = dw.pp.collapse(cells, BY, **OPTIONS), tmp_path / f"rows.{suffix}"
    (rows.write_h5ad if suffix == "h5ad" else rows.write_zarr)(path)
    back = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path)
    _assert_right(cells, back)
    _assert_right(cells, back[[3, 1, 7], [20, 2, 11]].copy())
    _assert_right(cells, back[back.obs["cell_type"] == back.obs["cell_type"].cat.categories[0]])
    whole = read_row_counts(rows, "nb", detected=False)
    some = _read(read_row_counts(back, "nb", detected=False), np.array([4, 2]), np.array([9, 3]))
    expected = _read(whole).take(np.array([4, 2])).take_features(np.array([9, 3]))
    for name, values in some.arrays().items():
        np.testing.assert_array_equal(values, getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_blocks_of_features_in_a_file(cells: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    expected, path = dw.pp.collapse(cells, BY, **OPTIONS), tmp_path / f"rows.{suffix}"
    memory = 8 * expected.n_obs * (17 + 2 + 125) * 7.5 / 1e9
    found = dw.pp.collapse(cells, BY, out=path, max_memory=memory, **OPTIONS)
    for kind in KEPT:
        a, b = (read_row_counts(rows, kind, detected=kind == "cloglog") for rows in (found, expected))
        for at in ((None, None), (np.array([5, 0]), np.array([20, 4, 11]))):
            for name, values in _read(a, *at).arrays().items():
                np.testing.assert_array_equal(values, getattr(_read(b, *at), name), err_msg=name)
    with pytest.raises(DataError, match=r"do not fit into max_memory=.* blocks of features"):
        dw.pp.collapse(cells, BY, max_memory=memory, **OPTIONS)


def test_cells_in_files(cells: ad.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    expected = dw.pp.collapse(cells, BY, **OPTIONS)
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for source in (tmp_path / "cells.h5ad", backed):
        found = dw.pp.collapse(source, BY, chunk_size=50, **OPTIONS)
        assert sorted(filter(None, found.layers)) == sorted(filter(None, expected.layers))
        for name in filter(None, expected.layers):
            np.testing.assert_allclose(found.layers[name], expected.layers[name], rtol=1e-10, atol=1e-10, err_msg=name)


def test_unions_of_rows(cells: ad.AnnData) -> None:
    source = read_row_counts(dw.pp.collapse(cells, BY, **OPTIONS), "nb", detected=False)
    n = source.n_obs.size
    codes = np.random.default_rng(0).integers(-1, 4, n)
    found, every = source.patterns(codes, 4, np.array([3, 0, 8])), _read(source)
    for name, values in found.arrays().items():
        own = getattr(every.take_features(np.array([3, 0, 8])), name)
        expected = np.stack([own[codes == k].sum(axis=0) for k in range(4)])
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-9, err_msg=name)


# --- merging ------------------------------------------------------------------------------------------------------------


def test_cohorts_of_other_depths_are_merged(cells: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    """Each has nodes and tails of its own; donors are in several of them."""
    total = np.asarray(cells.layers["counts"].sum(axis=1)).ravel()
    cuts = np.quantile(total, [0.2, 0.7])
    part = np.digitize(total, cuts)
    cohorts = [dw.pp.collapse(cells[part == i], BY, **OPTIONS) for i in range(3)]
    sizes = {len(read_row_counts(rows, "nb", detected=False).nodes.at) for rows in cohorts}
    assert len(sizes) > 1
    merged = dw.pp.merge_collapsed(cohorts)
    _assert_right(cells, merged)
    _assert_right(cells, dw.pp.merge_collapsed([dw.pp.merge_collapsed(cohorts[:2]), cohorts[2]]))
    _assert_right(cells, dw.pp.collapse([cells[part == i] for i in range(3)], BY, **OPTIONS))
    nodes = read_row_counts(merged, "nb", detected=False).nodes
    assert 0 < nodes.error < 1e-8
    np.testing.assert_allclose([nodes.low, nodes.high], np.log([total[total > 0].min(), total.max()]), rtol=1e-6)
    without = dw.pp.collapse(cells[part == 2], BY, counts_layer="counts", progress=False)
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        some = dw.pp.merge_collapsed([*cohorts[:2], without])
    assert "Not all cohorts were collapsed with glmm='nb': what it keeps is left out." in caplog.text
    assert kept_families(some) == ()
    assert not [name for name in some.layers if name is not None and "own" in name]


def test_equal_nodes_are_added_up() -> None:
    rng = np.random.default_rng(0)
    nodes, tails = choose_nodes(6, 9, "nb"), choose_tails(300)
    y, exposure = rng.poisson(3, (90, 4)), np.exp(rng.uniform(6, 9, 90))
    codes = np.repeat([0, 1, 2], 30)
    counted = count_cells(y, codes, 3, exposure=exposure, nodes=nodes, tails=tails)
    parts = [CountedRows(counted, nodes, tails), CountedRows(counted.take(np.array([1])), nodes, tails)]
    merged = merge_counted(parts, np.array([1, 0, 1, 0]), 2, "nb")
    assert merged.nodes.at is nodes.at
    for name, values in merged.counted.arrays().items():
        own = getattr(counted, name)
        np.testing.assert_array_equal(values, [own[1] + own[1], own[0] + own[2]], err_msg=name)


def test_other_nodes_stand_for_the_same_cells() -> None:
    rng = np.random.default_rng(1)
    nodes, tails = choose_nodes(6, 8, "nb"), choose_tails(12)
    y, exposure = rng.poisson(2, (200, 3)), np.exp(rng.uniform(6, 8, 200))
    counted = count_cells(y, np.zeros(200, int), 1, exposure=exposure, nodes=nodes, tails=tails)
    wide = CountedRows(counted, nodes, tails).at(choose_nodes(5, 10, "nb"), choose_tails(5000))
    for r, m in ((0.1, 1e-4), (5.0, 1e-2)):
        before, after = (_nb(own, own.counted, r, m) for own in (CountedRows(counted, nodes, tails), wide))
        np.testing.assert_allclose(before, after, rtol=1e-12, atol=1e-8)


def test_the_command(cells: ad.AnnData, tmp_path: Path) -> None:
    """Blocks of cells have nodes of their own, and are merged."""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    options = ("--by", ",".join(BY), "--counts-layer", "counts", "--glmm", "nb,cloglog", "--block-size", 200)
    result = run("collapse", tmp_path / "cells.h5ad", "--out", tmp_path / "rows.h5ad", *options)
    assert result.exit_code == 0, result.output
    rows = ad.read_h5ad(tmp_path / "rows.h5ad")
    _assert_right(cells, rows)
    repeated = [word for name in BY for word in ("--by", name)] + ["--glmm", "nb", "--glmm", "cloglog"]
    again = run(
        "collapse", tmp_path / "cells.h5ad", "--out", tmp_path / "same.h5ad", "--counts-layer", "counts", *repeated
    )
    assert again.exit_code == 0, again.output
    _assert_right(cells, ad.read_h5ad(tmp_path / "same.h5ad"))
    halves = []
    for i in (0, 1):
        halves.append(tmp_path / f"half{i}.h5ad")
        dw.pp.collapse(cells[i::2], BY, **OPTIONS).write_h5ad(halves[-1])
    assert run("merge", *halves, "--out", tmp_path / "both.h5ad", "--block-size", 7).exit_code == 0
    _assert_right(cells, ad.read_h5ad(tmp_path / "both.h5ad"))
    wrong = run("collapse", tmp_path / "cells.h5ad", "--out", tmp_path / "x.h5ad", "--by", "donor_id", "--glmm", "nb")
    assert wrong.exit_code != 0
    assert "name their layer with counts_layer=" in wrong.output


# --- what is not there --------------------------------------------------------------------------------------------------


def test_rows_that_do_not_have_it(cells: ad.AnnData) -> None:
    sums = dw.pp.collapse(cells, BY, counts_layer="counts", progress=False)
    with pytest.raises(DataError, match=r"keep no more than sums of the counts, and negative .* glmm='nb'\)"):
        read_row_counts(sums, "nb", detected=False)
    with pytest.raises(DataError, match="models of detection with link='cloglog' need"):
        read_row_counts(dw.pp.collapse(cells, BY, **OPTIONS | {"glmm": "nb"}), "cloglog", detected=True)
    none = dw.pp.collapse(cells, BY, progress=False)
    assert _read(read_row_counts(none, "", detected=True)).total.sum() > 0
    for kind, words in (("", "give counts_layer= to"), ("nb", "give counts_layer= and glmm='nb' to")):
        with pytest.raises(DataError, match=words):
            read_row_counts(none, kind, detected=False)
    whole = dw.pp.collapse(cells, BY, **OPTIONS)
    del whole.layers["nb_tail:03"]
    with pytest.raises(DataError, match=r"is not whole: it has no layers\['nb_tail:03'\]"):
        read_row_counts(whole, "nb", detected=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"glmm": "poisson", "counts_layer": "counts"},
            "rows can keep 'nb' and 'cloglog'. Models with family='poisson'",
        ),
        ({"glmm": ["nb", "logit"], "counts_layer": "counts"}, "glmm='logit'"),
        ({"glmm": True, "counts_layer": "counts"}, "glmm=True: rows can keep"),
        ({"glmm": "nb"}, "name their layer with counts_layer="),
    ],
)
def test_what_cannot_be_kept(cells: ad.AnnData, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        dw.pp.collapse(cells, BY, progress=False, **options)


def test_none_is_nothing(cells: ad.AnnData) -> None:
    rows = dw.pp.collapse(cells, BY, counts_layer="counts", glmm=None, progress=False)
    assert not [
        name for name in map(str, rows.layers) if name.startswith(("nb_", "cloglog_"))
    ]  # X may be one, called None


def test_no_counts_at_all(cells: ad.AnnData) -> None:
    cells.layers["counts"] = sparse.csr_matrix(cells.shape)
    rows = dw.pp.collapse(cells, BY, **OPTIONS)
    found = _read(read_row_counts(rows, "nb", detected=False))
    assert not found.shared.any()
    assert not found.own.any()


def test_a_column_of_depths(cells: ad.AnnData) -> None:
    cells.obs["size"] = np.asarray(cells.layers["counts"].sum(axis=1)).ravel() * 2.0
    rows = dw.pp.collapse(cells, BY, depth="size", **OPTIONS)
    plain = dw.pp.collapse(cells, BY, **OPTIONS)
    a, b = (read_row_counts(own, "nb", detected=False).nodes for own in (rows, plain))
    np.testing.assert_allclose(a.exposures, 2 * b.exposures, rtol=1e-10)
    for name in ("nb_own:03", "nb_tail:07", "cloglog_own:01"):
        np.testing.assert_allclose(rows.layers[name], plain.layers[name], rtol=1e-8, atol=1e-8)
    cells.obs.loc[cells.obs_names[1], "size"] = 0.0
    with pytest.raises(DataError, match="above zero in a cell without exposure"):
        dw.pp.collapse(cells, BY, depth="size", **OPTIONS)
