"""Cells collapsed to rows: every tool gives the numbers that it gives on the cells."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Sums in another order differ by rounding. The degrees of freedom of a moderated test are those of the t that
# has two quantiles of a mixture, which say little where they are in the thousands.
RTOL, RTOL_DF = 1e-10, 1e-8
COVARIATES = ["log_depth", "mito"]
OPTIONS: dict[str, Any] = {"progress": False}

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@cache
def _simulated(design: str, n_genes: int = 110) -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(design, n_donors=8, n_cells=900, n_genes=n_genes, effect_size=1.5, seed=3)
    rng = np.random.default_rng(4)
    dw.pp.log_depth(adata)
    adata.obs["mito"] = rng.uniform(0, 10, adata.n_obs) + adata.obs["donor_id"].cat.codes
    adata.obs["quality"] = rng.uniform(0.5, 2.0, adata.n_obs)
    return adata


@pytest.fixture
def cells() -> ad.AnnData:
    return _simulated("case-control").copy()


def _by(adata: ad.AnnData) -> list[str]:
    own = {"total_counts", "n_genes_by_counts", "quality", "plate", *COVARIATES}
    return [name for name in adata.obs.columns if name not in own]


def _rows(adata: ad.AnnData, **options: Any) -> ad.AnnData:
    options = {"covariates": COVARIATES, "counts_layer": "counts"} | options
    return dw.pp.collapse(adata, options.pop("by", _by(adata)), **options)


def _same_tables(one: pd.DataFrame, other: pd.DataFrame, rtol: float = RTOL) -> None:
    """Equal text, and numbers equal relative to the larger of themselves and (but for p-values) their column."""
    assert list(one.columns) == list(other.columns)
    assert len(one) == len(other) > 0
    for name in one.columns:
        a, b = one[name].reset_index(drop=True), other[name].reset_index(drop=True)
        if pd.api.types.is_numeric_dtype(a) and not pd.api.types.is_bool_dtype(a):
            x, y = a.to_numpy(dtype=float, na_value=np.nan), b.to_numpy(dtype=float, na_value=np.nan)
            finite = np.abs(x[np.isfinite(x)])
            scale = 0.0 if name.endswith("p_value") or not finite.size else float(np.median(finite))
            own = max(rtol, RTOL_DF) if name == "df" else rtol
            np.testing.assert_allclose(y, x, rtol=own, atol=own * scale, err_msg=name)
        else:
            assert (a.astype(str) == b.astype(str)).all(), name


def _same_results(cells: ad.AnnData, rows: ad.AnnData, key: str = "lmm", rtol: float = RTOL) -> None:
    _same_tables(dw.get.tests(cells, key=key), dw.get.tests(rows, key=key), rtol)
    for table in ("varcomp", "icc", "variance_partition"):
        _same_tables(cells.uns[key][table], rows.uns[key][table], rtol)
    a, b = (adata.uns[key]["params"] for adata in (cells, rows))
    assert {k: v for k, v in a.items() if not isinstance(v, dict)} == {
        k: v for k, v in b.items() if not isinstance(v, dict)
    }


def _fit_both(cells: ad.AnnData, rows: ad.AnnData, formula: str, **options: Any) -> tuple[list[str], list[str]]:
    """Fit both and return the warnings of each."""
    texts = []
    for adata in (cells, rows):
        own = {k: v for k, v in options.items() if not (k == "weights" and adata is rows)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dw.tl.lmm(adata, formula, **own, **OPTIONS)
        texts.append([str(w.message) for w in caught if issubclass(w.category, DonorwiseWarning)])
    return texts[0], texts[1]


@pytest.mark.parametrize("design", ["case-control", "paired", "longitudinal", "stepped-wedge", "crossed"])
def test_designs(design: str) -> None:
    """Intercepts, slopes on a numeric column, nested and crossed terms, pairs; groups; the audit's warnings."""
    cells = _simulated(design, 110 if design in ("case-control", "paired") else 30).copy()
    rows = _rows(cells)
    for groupby in ("cell_type",) if design == "longitudinal" else (None,):
        said = _fit_both(cells, rows, cells.uns["truth"]["formula"], groupby=groupby)
        assert said[0] == said[1]
        _same_results(cells, rows)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("~ condition + log_depth + (1 | donor_id)", {}),
        ("~ condition * scale(mito) + log_depth + (1 | donor_id)", {"groupby": "cell_type", "weights": "quality"}),
        ("~ condition + scale(age) + I((mito - 3) / 2 + age) + (1 | donor_id)", {"ddf": "kenward-roger"}),
        (
            "~ bs(age, df=3) + center(log_depth) + (1 | donor_id)",
            {"ddf": "satterthwaite", "weights": "quality", "reml": False},
        ),
        (
            "~ C(sex, contr.sum) + mito:cell_type + (1 | donor_id / cell_type)",
            {"ddf": "between-within", "weights": "quality"},
        ),
        (
            "~ condition + (1 | donor_id)",
            {"contrasts": [("condition", "disease", "control"), {"both": {"Intercept": 1.0}}]},
        ),
        (
            "~ condition + mito + scale(age) + (1 | donor_id)",
            {"contrasts": dw.cond(condition="disease") - dw.cond(condition="control", age=50)},
        ),
    ],
)
def test_covariates_weights_and_contrasts(cells: ad.AnnData, formula: str, options: dict[str, Any]) -> None:
    weights = options.get("weights")
    rows = _rows(cells, weights=weights)
    said = _fit_both(cells, rows, formula, **options)
    assert said[0] == said[1]
    _same_results(cells, rows)


def test_slope_on_a_covariate(cells: ad.AnnData) -> None:
    rows = _rows(cells[:, :20])
    small = cells[:, :20].copy()
    _fit_both(small, rows, "~ condition + log_depth + (log_depth | donor_id)")
    _same_results(small, rows)


def test_missing_values_masks_and_layers(cells: ad.AnnData) -> None:
    """A value that is missing leaves cells out where it is read; features are chosen before or after."""
    cells.obs.loc[cells.obs_names[::7], "condition"] = np.nan
    cells.obs["age"] = cells.obs["age"].astype(float).where(cells.obs["donor_id"] != "D02")
    cells.var["some"] = np.arange(cells.n_vars) % 9 != 2
    cells.layers["half"] = cells.X * 0.5
    for rows in (_rows(cells, layer="half"), _rows(cells, layer="half", mask_var="some")):
        for formula in ("~ condition + (1 | donor_id)", "~ age + cell_type + (1 | donor_id)"):
            mask = "some" if rows.n_vars == cells.n_vars else None
            dw.tl.lmm(cells, formula, layer="half", mask_var="some", **OPTIONS)
            dw.tl.lmm(rows, formula, mask_var=mask, **OPTIONS)
            _same_tables(dw.get.tests(cells), dw.get.tests(rows))
            assert cells.uns["lmm"]["params"]["n_dropped"] == rows.uns["lmm"]["params"]["n_dropped"]


def test_containers_and_finer_rows(cells: ad.AnnData) -> None:
    cells.obs["plate"] = pd.Categorical((np.arange(cells.n_obs) % 5).astype(str))
    base = _rows(cells)
    for matrix in (sparse.csc_matrix(cells.X), sparse.csr_array(cells.X), cells.X.toarray()):
        other = cells.copy()
        other.X = matrix
        rows = _rows(other)
        np.testing.assert_allclose(rows.X, base.X, rtol=1e-12)
        np.testing.assert_array_equal(rows.layers["n_detected"], base.layers["n_detected"])
    finer = _rows(cells, by=[*_by(cells), "plate"])
    assert finer.n_obs > base.n_obs
    _fit_both(cells, finer, "~ condition * log_depth + (1 | donor_id)")
    _same_results(cells, finer)


def test_the_rows_are_what_they_say(cells: ad.AnnData) -> None:
    """A naive twin by pandas."""
    by = ["donor_id", "cell_type"]
    rows = dw.pp.collapse(cells, by, covariates=["mito"], counts_layer="counts")
    cells.X = cells.X.astype(np.float64)
    table = cells.to_df().groupby([cells.obs[name] for name in by], observed=True)
    keys = pd.MultiIndex.from_frame(rows.obs[by])
    np.testing.assert_allclose(rows.X, table.mean().loc[keys], rtol=1e-10)
    np.testing.assert_allclose(
        rows.layers["within_ss"], (table.var(ddof=0).mul(table.size(), axis=0)).loc[keys], atol=1e-9
    )
    detected = (cells.to_df() > 0).groupby([cells.obs[name] for name in by], observed=True).sum()
    np.testing.assert_array_equal(rows.layers["n_detected"], detected.loc[keys])
    counts = cells.to_df("counts").groupby([cells.obs[name] for name in by], observed=True).sum()
    np.testing.assert_array_equal(rows.layers["counts"], counts.loc[keys])
    assert rows.obs["donor_id"].dtype == cells.obs["donor_id"].dtype
    assert rows.obs_names.is_unique


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("~ condition", {"groupby": "cell_type"}),
        ("~ condition + age", {}),
        ("~ condition + (1 | donor_id)", {"groupby": "cell_type", "sample": "sample_id"}),
        ("~ condition", {"depth": "total_counts", "mask_var": "some"}),
    ],
)
def test_pseudobulk(formula: str, options: dict[str, Any]) -> None:
    cells = _simulated("paired" if "|" in formula else "case-control").copy()
    cells.var["some"] = np.arange(cells.n_vars) > 2
    rows = _rows(cells, depth=options.get("depth"))
    for adata in (cells, rows):
        dw.tl.pseudobulk(adata, formula, **options, **OPTIONS)
    # genes are learned from in the order of their counts, which is the same to the last digit
    _same_results(cells, rows, "pseudobulk", rtol=1e-9)


@pytest.mark.parametrize(
    ("formula", "contrast", "options"),
    [
        ("~ condition + log_depth + (1 | donor_id)", "condition[T.disease]", {"strata": "sex", "ddf": "moderated"}),
        ("~ condition + (1 | donor_id)", "condition[T.disease]", {"groupby": "cell_type", "ddf": "kenward-roger"}),
    ],
)
def test_calibrate(cells: ad.AnnData, formula: str, contrast: str, options: dict[str, Any]) -> None:
    rows = _rows(cells)
    for adata in (cells, rows):
        dw.tl.calibrate(adata, formula, contrast, n_permutations=3, **options, **OPTIONS)
    for table in ("groups", "levels", "permutations", "variables", "curves", "histogram"):
        _same_tables(dw.get.calibration(cells, table=table), dw.get.calibration(rows, table=table), 1e-8)


@pytest.mark.parametrize(("ddf", "weights"), [("moderated", "quality"), ("kenward-roger", None)])
def test_influence_power_and_ranef(cells: ad.AnnData, ddf: Any, weights: str | None) -> None:
    rows = _rows(cells, weights=weights)
    _fit_both(cells, rows, "~ condition + log_depth + (1 | donor_id)", weights=weights, ddf=ddf)
    gene = dw.get.tests(cells, contrast="condition[T.disease]")["variable"].iloc[0]
    for adata in (cells, rows):
        dw.tl.influence(adata, contrast="condition[T.disease]", variables=gene, **OPTIONS)
        dw.tl.power(adata, n_donors=(6, 12), n_cells=50, contrast="condition[T.disease]", **OPTIONS)
    _same_tables(dw.get.influence(cells), dw.get.influence(rows), 1e-8)
    _same_tables(dw.get.influence(cells, by="donor"), dw.get.influence(rows, by="donor"), 1e-8)
    _same_tables(dw.get.power(cells), dw.get.power(rows), 1e-8)
    _same_tables(dw.get.ranef(cells, gene), dw.get.ranef(rows, gene), 1e-9)


def test_audit_and_accessor(cells: ad.AnnData) -> None:
    cells.donorwise.setup(donor="donor_id", cell_type="cell_type")
    cells.uns["sex_colors"] = ["#112233", "#445566"]
    rows = dw.pp.merge_collapsed([_rows(cells[::2]), _rows(cells[1::2])])
    assert list(rows.uns["sex_colors"]) == cells.uns["sex_colors"]
    assert rows.donorwise.settings["donor"] == "donor_id"
    for formula in ("~ condition + sex + (1 | donor_id)", "~ condition * log_depth + mito + (1 | donor_id)"):
        a, b = cells.donorwise.audit(formula), rows.donorwise.audit(formula)
        assert repr(a) == repr(b)
        _same_tables(a.to_frame(), b.to_frame())
    pd.testing.assert_frame_equal(cells.donorwise.cell_types, rows.donorwise.cell_types)
    _same_tables(
        cells.donorwise.donors[["n_cells", "n_samples", "mean_depth"]],
        rows.donorwise.donors[["n_cells", "n_samples", "mean_depth"]],
    )
    assert f"900 cells (collapsed to {rows.n_obs} rows)" in repr(rows.donorwise)


@pytest.mark.parametrize(("suffix", "weights"), [("h5ad", "quality"), ("h5ad", None), ("zarr", "quality")])
def test_round_trip(cells: ad.AnnData, tmp_path: Path, suffix: str, weights: str | None) -> None:
    rows, path = _rows(cells, weights=weights, covariates=COVARIATES if weights else ()), tmp_path / f"rows.{suffix}"
    (rows.write_h5ad if suffix == "h5ad" else rows.write_zarr)(path)
    back = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path)
    formula = f"~ condition{' + mito' if weights else ''} + (1 | donor_id)"
    for adata in (rows, back):
        dw.tl.lmm(adata, formula, **OPTIONS)
    _same_results(rows, back, rtol=1e-14)
    (back.write_h5ad if suffix == "h5ad" else back.write_zarr)(tmp_path / f"again.{suffix}")
    assert dw.pl.volcano(back, contrast="condition[T.disease]", show=False) is not None
    with pytest.raises(DataError, match="Single cells are needed"):
        dw.pl.donors(back, back.var_names[0], show=False)


@pytest.mark.parametrize("weights", [None, "quality"])
def test_merge_of_halves_is_the_whole(cells: ad.AnnData, weights: str | None) -> None:
    """Halves with cells of the same donors, other categories, another order of genes, and a gene less."""
    options = {"weights": weights, "depth": "total_counts"}
    whole = _rows(cells, **options)
    rng = np.random.default_rng(0)
    mine = rng.uniform(size=cells.n_obs) < np.where(cells.obs["cell_type"] == cells.obs["cell_type"].iloc[0], 0.5, 1.0)
    first, second = cells[mine].copy(), cells[~mine, cells.var_names[:0:-1]].copy()
    second.obs["cell_type"] = second.obs["cell_type"].cat.remove_unused_categories()
    halves = [_rows(first, **options), _rows(second, covariates=COVARIATES[::-1], **options)]
    merged = dw.pp.merge_collapsed(halves)
    assert list(merged.uns["donorwise_collapsed"]["dropped"]) == [cells.var_names[0]]
    assert merged.n_vars == cells.n_vars - 1
    pd.testing.assert_frame_equal(merged.obs, whole.obs, rtol=1e-12)
    whole = whole[:, 1:].copy()
    for layer in filter(None, whole.layers):
        np.testing.assert_allclose(merged.layers[layer], whole.layers[layer], rtol=1e-10, atol=1e-9, err_msg=str(layer))
    for name in whole.obsm:
        np.testing.assert_allclose(merged.obsm[name], whole.obsm[name], rtol=1e-10, atol=1e-9)
    for adata in (whole, merged):
        dw.tl.lmm(adata, "~ condition + scale(mito) + (1 | donor_id)", groupby="cell_type", **OPTIONS)
        dw.tl.pseudobulk(adata, "~ condition", **OPTIONS)
    _same_results(whole, merged)
    _same_results(whole, merged, "pseudobulk", rtol=1e-9)


def test_a_list_is_merged_and_what_is_missing_is_said(cells: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    both = dw.pp.collapse([cells[::2], cells[1::2]], _by(cells))
    np.testing.assert_allclose(both.X, _rows(cells).X, rtol=1e-12)
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        merged = dw.pp.merge_collapsed([_rows(cells[::2, :20]), _rows(cells[1::2, 5:], counts_layer=None)])
    assert "95 features that not all cohorts have are left out" in caplog.text
    assert "the counts are left out" in caplog.text
    assert merged.n_vars == 15
    with pytest.raises(DataError, match="without counts"):
        dw.tl.pseudobulk(merged, "~ condition", **OPTIONS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: _rows(a, covariates=["mito"]), "covariates="),
        (lambda a: _rows(a, by=["donor_id"]), "by="),
        (lambda a: _rows(a, weights="quality"), "weights="),
        (lambda a: (a.uns.pop("log1p"), _rows(a))[1], "scales"),
        (lambda a: a, "collapse the cells first"),
        (lambda a: (setattr(a, "var_names", a.var_names + "x"), _rows(a))[1], "share no feature"),
        (lambda a: (a.obs.__setitem__("age", "old"), _rows(a))[1], "'age' is categorical"),
    ],
)
def test_what_cannot_be_merged(cells: ad.AnnData, change: Callable[[ad.AnnData], ad.AnnData], words: str) -> None:
    one = _rows(cells)
    with pytest.raises(DataError, match=words):
        dw.pp.merge_collapsed([one, change(cells)])


@pytest.mark.parametrize(
    ("formula", "options", "error", "words"),
    [
        ("~ condition + batch + (1 | donor_id)", {}, DesignError, r"`batch` was collapsed away.*by=\['donor_id'"),
        ("~ condition + (1 | donor_id)", {"groupby": "lineage"}, DesignError, "`lineage` was collapsed away"),
        ("~ condition + (1 | donor_id)", {"groupby": ["lineage"]}, DesignError, "`lineage` was collapsed away"),
        ("~ condition + np.log(mito) + (1 | donor_id)", {}, DesignError, r"not linear in `mito`.*before collapsing"),
        ("~ condition + I(mito ** 2) + (1 | donor_id)", {}, DesignError, "not linear in `mito`"),
        ("~ condition + bs(mito, df=4) + (1 | donor_id)", {}, DesignError, "not linear in `mito`"),
        ("~ condition + mito:log_depth + (1 | donor_id)", {}, DesignError, "not linear in `mito`, `log_depth`"),
        ("~ condition + (1 | donor_id:mito)", {}, DesignError, "collapse with it in by="),
        ("~ condition + (1 | donor_id)", {"layer": "counts"}, DataError, "not what was collapsed"),
        ("~ condition + (1 | donor_id)", {"obsm": "scores"}, DataError, "not what was collapsed"),
        ("~ condition + (1 | donor_id)", {"weights": "quality"}, DataError, "dw.pp.collapse"),
    ],
)
def test_what_rows_cannot_answer(
    cells: ad.AnnData, formula: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    rows = _rows(cells)
    with pytest.raises(error, match=words):
        dw.tl.lmm(rows, formula, **options, **OPTIONS)
    assert "lmm" not in rows.uns


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"by": []}, DesignError, "names no column"),
        ({"by": ["donor_id", "mito"]}, DesignError, "named twice"),
        ({"by": ["donor_id", "condtion"]}, DesignError, "Did you mean 'condition'"),
        ({"covariates": ["sex"]}, DataError, "not numeric"),
        ({"covariates": ["holes"]}, DataError, "missing or infinite in 2 cells"),
        ({"by": ["donor_id", "a/b"]}, DesignError, "'/'"),
        ({"by": ["donor_id", "n_cells"]}, DesignError, "rename it"),
        ({"counts_layer": "nan"}, DataError, "does not hold raw counts"),
        ({"layer": "nan"}, DataError, "1 features miss values"),
        ({"weights": "missing"}, DataError, "not a column"),
    ],
)
def test_what_cannot_be_collapsed(
    cells: ad.AnnData, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    cells.obs["holes"] = cells.obs["mito"].mask(np.arange(cells.n_obs) < 2)
    cells.obs["a/b"] = cells.obs["n_cells"] = cells.obs["sex"]
    cells.layers["nan"] = cells.X.toarray() + 0.5
    cells.layers["nan"][0, 3] = np.nan
    with pytest.raises(error, match=words):
        _rows(cells, **{"by": ["donor_id", "cell_type"], **options})
    rows = _rows(cells, by=["donor_id"])
    with pytest.raises(DataError, match="collapsed already"):
        _rows(rows, by=["donor_id"])


def test_columns_of_every_kind(cells: ad.AnnData, tmp_path: Path) -> None:
    """Numbers, booleans, text, ordered categories, dates and names that are no identifiers, through a file."""
    rng = np.random.default_rng(1)
    code = cells.obs["donor_id"].cat.codes.to_numpy()
    cells.obs["patient no"] = code + 1
    cells.obs["smoker"] = pd.array(code % 3 == 0, dtype="boolean")
    cells.obs["site"] = np.array(["b", "a", None], dtype=object)[code % 3]
    cells.obs["stage"] = pd.Categorical(np.array(["I", "II"])[code // 4], categories=["II", "I", "III"], ordered=True)
    cells.obs["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(code, unit="D")
    cells.obs["% mito"] = rng.uniform(size=cells.n_obs)
    by = ["patient no", "smoker", "site", "stage", "day", "cell_type"]
    dw.pp.collapse(cells, by, covariates="% mito").write_h5ad(tmp_path / "rows.h5ad")
    rows = ad.read_h5ad(tmp_path / "rows.h5ad")
    for formula in (
        "~ stage + scale(`% mito`) + (1 | `patient no`)",
        "~ smoker + `patient no` + (1 | `patient no`:cell_type)",
        "~ site + `% mito`:site + (1 | day)",
    ):
        said = _fit_both(cells, rows, formula)
        assert said[0] == said[1]
        _same_results(cells, rows)


def test_subsets_of_rows_and_lost_marks(cells: ad.AnnData) -> None:
    rows = _rows(cells)
    kind = cells.obs["cell_type"].iloc[0]
    some_cells, some_rows = (adata[adata.obs["cell_type"] == kind, :40].copy() for adata in (cells, rows))
    _fit_both(some_cells, some_rows, "~ condition + mito + (1 | donor_id)")
    _same_results(some_cells, some_rows)
    with pytest.raises(DataError, match="dw.pp.merge_collapsed"):
        dw.tl.lmm(ad.concat([rows[:10], rows[10:]]), "~ condition + (1 | donor_id)", **OPTIONS)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files(cells: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    """A list of paths gives what the cells in memory give."""
    pytest.importorskip("donorwise._anndata.sources")
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for i, path in enumerate(paths):
        (cells[i::2].copy().write_h5ad if suffix == "h5ad" else cells[i::2].copy().write_zarr)(path)
    options: dict[str, Any] = {"covariates": COVARIATES, "counts_layer": "counts", "weights": "quality"}
    found = dw.pp.collapse(paths, _by(cells), chunk_size=100, progress=False, **options)
    expected = dw.pp.collapse(cells, _by(cells), **options)
    pd.testing.assert_frame_equal(found.obs, expected.obs, rtol=1e-12)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-12)
    for layer in filter(None, expected.layers):
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], rtol=1e-10, atol=1e-9, err_msg=layer)


def test_cells_that_barely_collapse_are_warned_of(cells: ad.AnnData) -> None:
    with pytest.warns(DonorwiseWarning, match="belongs in covariates="):
        dw.pp.collapse(cells, ["donor_id", "mito"])


def test_constant_and_empty_features_keep_their_status(cells: ad.AnnData) -> None:
    X = cells.X.toarray()
    X[:, 0], X[:, 1] = 0.0, 0.1
    cells.X = X
    rows = _rows(cells)
    assert not rows.layers["within_ss"][:, :2].any()
    _fit_both(cells, rows, "~ condition + log_depth + (1 | donor_id)")
    _same_tables(dw.get.tests(cells), dw.get.tests(rows))
    status = dw.get.tests(rows).set_index("variable")["status"]
    assert set(status.loc[list(cells.var_names[:2])]) == {"constant"}


def test_collapsed_rows_of_a_newer_version_are_refused(cells: ad.AnnData) -> None:
    rows = _rows(cells)
    entry = rows.uns["donorwise_collapsed"]
    assert entry.pop("format") == 1
    assert dw.pp.merge_collapsed([rows]).n_obs == rows.n_obs  # those of 0.1 do not say it
    entry["format"] = 2
    with pytest.raises(DataError, match="newer donorwise"):
        dw.pp.merge_collapsed([rows])
