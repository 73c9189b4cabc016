"""Stage-wise and global adjustment against the procedure written out, and what its level promises."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._models import model

import donorwise as dw
from donorwise._core.inference.multiplicity import adjust
from donorwise._core.inference.stagewise import holm_shaffer, simes, stagewise
from donorwise.errors import DataError, DonorwiseError


def some_p(G: int = 200, n: int = 5, seed: int = 1, missing: float = 0.0) -> np.ndarray:
    """P-values of which a third of the genes has effects in some groups."""
    rng = np.random.default_rng(seed)
    shift = np.where(rng.uniform(size=(G, n)) < 0.5, rng.uniform(0, 6, size=(G, 1)), 0.0)
    shift[rng.uniform(size=G) < 2 / 3] = 0.0
    p = 2 * stats.norm.sf(np.abs(rng.normal(size=(G, n)) + shift))
    p[rng.uniform(size=p.shape) < missing] = np.nan
    return p


def written_out(p: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Van den Berge et al. (2017), gene by gene: who passes, and the rejected groups, by steps and not by adjusted p-values."""
    tested = [row[~np.isnan(row)] for row in p]
    screen = np.array([min((v * len(r) / (i + 1) for i, v in enumerate(sorted(r))), default=np.nan) for r in tested])
    known = np.sort(screen[~np.isnan(screen)])
    m = len(known)
    R = max((i + 1 for i in range(m) if known[i] <= (i + 1) / m * alpha), default=0)
    level = R * alpha / m
    passed, rejected = screen <= level, np.zeros(p.shape, dtype=bool)
    for g in np.flatnonzero(passed):
        groups = [j for j in np.argsort(p[g]) if not np.isnan(p[g, j])]
        n = len(groups)
        for step, j in enumerate(groups):
            true_at_most = n - 1 if step == 0 else n - step  # one is false, as the gene passed
            if true_at_most > 0 and p[g, j] > level / true_at_most:
                break
            rejected[g, j] = True
    return passed, rejected


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_it_is_the_procedure_written_out(alpha: float, n: int, missing: float) -> None:
    for seed in range(5):
        p = some_p(n=n, seed=seed, missing=missing)
        passed, rejected = written_out(p, alpha)
        found = stagewise(p, alpha)
        np.testing.assert_array_equal(found.screening <= alpha, passed)
        np.testing.assert_array_equal(found.confirmation <= alpha, rejected)
        assert (found.n_passed, found.n_genes) == (passed.sum(), (~np.isnan(p)).any(axis=1).sum())
        assert rejected.any()
        np.testing.assert_array_equal(np.isnan(found.confirmation), np.isnan(p))


def test_numbers_of_genes_that_pass_are_those_of_stager() -> None:
    """Its code: p in order times c(n - 1, (n - 1):1), at most 1, cumulative maximum, times m / R, at most 1."""
    p, alpha = some_p(n=4), 0.05
    found = stagewise(p, alpha)
    at = np.flatnonzero(found.screening <= alpha)
    for g in at:
        order = np.argsort(p[g])
        row = np.maximum.accumulate(np.minimum(p[g][order] * [3, 3, 2, 1], 1))
        np.testing.assert_allclose(found.confirmation[g][order], np.minimum(row * len(p) / at.size, 1), rtol=1e-14)
    others = found.screening > alpha
    assert (found.confirmation[others] >= found.screening[others, None]).all()


def test_one_group_is_benjamini_and_hochberg() -> None:
    p = some_p(n=1)
    for alpha in (0.0, 0.05, 1.0):
        np.testing.assert_array_equal(stagewise(p, alpha).confirmation[:, 0], adjust(p[:, 0]))


def test_order_and_empty_groups_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    p = some_p(missing=0.3)
    found = stagewise(p, 0.05)
    rows, columns = rng.permutation(p.shape[0]), rng.permutation(p.shape[1])
    moved = stagewise(p[rows][:, columns], 0.05)
    np.testing.assert_array_equal(moved.confirmation, found.confirmation[rows][:, columns])
    wider = np.hstack([np.full((len(p), 2), np.nan), p])
    longer = np.vstack([wider, np.full((9, wider.shape[1]), np.nan)])
    more = stagewise(longer, 0.05)
    np.testing.assert_array_equal(more.confirmation[: len(p), 2:], found.confirmation)
    assert np.isnan(more.confirmation[:, :2]).all()
    assert np.isnan(more.screening[len(p) :]).all()


def test_nothing_to_test() -> None:
    empty = stagewise(np.empty((0, 3)), 0.05)
    assert empty.confirmation.shape == (0, 3)
    nothing = stagewise(np.full((2, 3), np.nan), 0.05)
    assert np.isnan(nothing.confirmation).all()
    assert (nothing.n_passed, nothing.n_genes) == (0, 0)
    assert np.isnan(simes(np.empty((2, 0)))).all()
    np.testing.assert_array_equal(holm_shaffer(np.array([[0.2, np.nan]]))[0], [[0.0, np.nan]])


@pytest.mark.parametrize("rho", [-0.19, 0.0, 0.8])
@pytest.mark.parametrize("changed", [0.0, 0.2])
def test_the_overall_rate_holds_in_groups_of_the_same_donors(rho: float, changed: float) -> None:
    """Share of genes with a false rejection among those that pass; adjusted in each cell type alone it is several times alpha."""
    rng = np.random.default_rng(7)
    n, m, times, df = 6, 300, 100, 8
    root = np.linalg.cholesky(np.full((n, n), rho) + (1 - rho) * np.eye(n))
    shift = np.zeros((m, n))
    for g in range(int(m * changed)):
        shift[g, : 1 + g % n] = 5.0
    rates, alone = [], []
    for _ in range(times):
        spread = np.sqrt(rng.chisquare(df, size=(m, 1)) / df)  # of donors whom the groups share
        p = 2 * stats.t.sf(np.abs((rng.normal(size=(m, n)) @ root.T + shift) / spread), df)
        found = stagewise(p, 0.05)
        wrong = (found.confirmation <= 0.05) & (shift == 0)
        false = wrong.any(axis=1) | ((found.screening <= 0.05) & (shift == 0).all(axis=1))
        rates.append(false.sum() / max(found.n_passed, 1))
        hits = np.stack([adjust(column) <= 0.05 for column in p.T], axis=1)
        alone.append((hits & (shift == 0)).any(axis=1).sum() / max(hits.any(axis=1).sum(), 1))
    margin = 2.5 * np.std(rates) / np.sqrt(times)
    assert np.mean(rates) < 0.05 + margin
    assert np.mean(alone) > np.mean(rates)


def wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.pivot(index="variable", columns="group", values=column).sort_index()


def test_tables() -> None:
    adata = model("weighted")
    within = dw.get.tests(adata, sort_by=None)
    assert (
        within.attrs["adjust"]
        == "Benjamini-Hochberg within each contrast and group, over the features that were tested"
    )
    everywhere = dw.get.tests(adata, adjust="global", sort_by=None)
    pd.testing.assert_frame_equal(
        everywhere.drop(columns="adj_p_value"), within.drop(columns="adj_p_value"), check_flags=False
    )
    np.testing.assert_array_equal(everywhere["adj_p_value"], adjust(within["p_value"].to_numpy()))
    assert everywhere.attrs["adjust"].startswith(
        f"Benjamini-Hochberg over all {within['p_value'].notna().sum()} tests of"
    )
    staged = dw.get.tests(adata, adjust="stagewise", sort_by=None)
    for name, own in staged.groupby("contrast", observed=True):
        found = stagewise(wide(own, "p_value").to_numpy(), 0.05)
        np.testing.assert_array_equal(wide(own, "adj_p_value"), found.confirmation)
        screening = own.groupby("variable", observed=True)["adj_p_screen"].max().sort_index()
        np.testing.assert_array_equal(screening, found.screening)
        assert f"{found.n_passed} of {found.n_genes} ({name})" in staged.attrs["adjust"]
    # what is stored is as it was
    pd.testing.assert_frame_equal(dw.get.tests(adata, sort_by=None), within)


def test_what_is_kept_does_not_change_what_is_adjusted_over() -> None:
    adata = model("case_control")
    for how in ("global", "stagewise"):
        options = {"adjust": how, "sort_by": None}
        whole = dw.get.tests(adata, **options)
        few = dw.get.tests(adata, group="T cell", variables=list(adata.var_names[:5]), **options)
        same = whole[(whole["group"] == "T cell") & whole["variable"].isin(adata.var_names[:5])]
        np.testing.assert_array_equal(few["adj_p_value"], same["adj_p_value"])
        subset = dw.get.tests(adata[:, :5].copy(), group="T cell", **options)
        np.testing.assert_array_equal(subset["adj_p_value"], same["adj_p_value"])
        hits = dw.get.tests(adata, alpha=0.1, **options)
        assert len(hits)
        assert (hits["adj_p_value"] <= 0.1).all()
    assert "at an overall false discovery rate of 0.1:" in hits.attrs["adjust"]
    assert (hits["adj_p_screen"] <= 0.1).all()


def test_one_group_is_as_it_is_stored() -> None:
    adata = model("paired")
    within, staged = (dw.get.tests(adata, adjust=how) for how in ("within", "stagewise"))
    np.testing.assert_allclose(staged["adj_p_value"], within["adj_p_value"], rtol=1e-14)


def test_attributes_survive_files_and_concatenation(tmp_path: Path) -> None:
    adata = model("case_control")
    tables = [dw.get.tests(adata, adjust=how) for how in ("global", "stagewise")]
    assert len(pd.concat(tables)) == len(tables[0]) + len(tables[1])
    adata.uns["tests"] = tables[1]
    adata.write_h5ad(tmp_path / "a.h5ad")
    kept = ad.read_h5ad(tmp_path / "a.h5ad").uns["tests"]
    np.testing.assert_array_equal(kept["adj_p_screen"], tables[1]["adj_p_screen"])


def test_errors() -> None:
    adata = model("case_control")
    with pytest.raises(DonorwiseError, match="adjust='bonferroni' is not an option; choose one of 'within'"):
        dw.get.tests(adata, adjust="bonferroni")  # type: ignore[arg-type]
    with pytest.raises(DonorwiseError, match=r"alpha=1\.5 must be a number between 0 and 1"):
        dw.get.tests(adata, adjust="stagewise", alpha=1.5)
    with pytest.raises(DataError, match="There is no contrast 'diseas'"):
        dw.get.tests(adata, adjust="global", contrast="diseas")
