"""Models of counts on collapsed rows: those of the cells, wherever the rows come from, and what rows cannot answer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests._batch import run

import donorwise as dw
from donorwise._anndata import keys, open_source, read_params, read_results
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise._anndata.recover import recover
from donorwise._core.engine.run import Memory
from donorwise._core.engine.run import run as run_analysis
from donorwise._core.models.law import tensor
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning"),
]

BY = ["donor_id", "sample_id", "condition", "sex", "cell_type", "visit"]
DONORS, CONTRAST = "~ condition + (1 | donor_id)", "condition[T.disease]"
DETECTED: dict[str, Any] = {"family": "binomial", "response": "detected"}
YES_OR_NO: dict[str, Any] = {"family": "binomial", "layer": "open"}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "nb by group": (DONORS, {"groupby": "cell_type"}),
    "nb by two columns": ("~ condition + sex + (1 | donor_id)", {"groupby": ["cell_type", "batch"]}),
    "nb of few": ("~ condition * visit + (1 | donor_id)", {"mask_var": "some", "ddf": "between-within"}),
    "nb of slopes": ("~ scale(visit) + condition + (1 + visit | donor_id)", {"mask_var": "some"}),
    "nb of donors and samples": (DONORS + " + (1 | sample_id)", {"mask_var": "some"}),
    "poisson": (DONORS, {"family": "poisson"}),
    "poisson at the estimates": (DONORS, {"family": "poisson", "ddf": "wald", "mask_var": "some"}),
    "detection": ("~ condition + visit + (1 | donor_id)", DETECTED | {"link": "cloglog"}),
    "detection without depth": (DONORS, DETECTED | {"groupby": "cell_type"}),
    "yes or no": (DONORS, YES_OR_NO),
    "yes or no with depth": (DONORS, YES_OR_NO | {"link": "cloglog"}),
}


@cache
def _made() -> ad.AnnData:
    """Cells of very different depth, some without a sex; genes in one arm only, in no cell, and of many counts."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=700, n_genes=104, de_fraction=0.1, seed=2)
    rng = np.random.default_rng(3)
    depth = np.exp(rng.normal(0, 0.7, (adata.n_obs, 1)))
    counts = rng.poisson(adata.layers["counts"].toarray() * depth)
    counts[(adata.obs["condition"] == "disease").to_numpy(), 1] = 0
    counts[:, 2] = 0
    counts[:, 3] *= 40
    adata.layers["counts"] = sparse.csr_matrix(counts.astype(np.float32))
    adata.X = sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32))
    adata.layers["open"] = sparse.csr_matrix((counts > 1).astype(np.float32))
    adata.obs.loc[adata.obs_names[:9], "sex"] = np.nan
    adata.obs = adata.obs.assign(
        visit=rng.integers(0, 3, adata.n_obs), total_counts=counts.sum(axis=1),
        batch=pd.Categorical(np.where(rng.random(adata.n_obs) < 0.5, "one", "two")),
    )  # fmt: skip
    adata.var["some"] = np.arange(adata.n_vars) < 9
    return adata


@pytest.fixture
def cells() -> ad.AnnData:
    return _made().copy()


def collapsed(cells: ad.AnnData, counts: str | None = "counts", **options: Any) -> ad.AnnData:
    given: dict[str, Any] = {"counts_layer": counts, "glmm": ("nb", "cloglog"), "progress": False}
    return dw.pp.collapse(cells, [*BY, "batch"], **given | options)


def fit(adata: ad.AnnData, formula: str, options: dict[str, Any]) -> ad.AnnData:
    dw.tl.glmm(adata, formula, progress=False, **options)
    return adata


def of_cells(options: dict[str, Any]) -> dict[str, Any]:
    return {"layer": "counts"} | options


LOOSE = dict.fromkeys(("se", "ci_low", "ci_high", "statistic", "cond_sd"), 5e-4) | {"df": 2e-2, "p_value": 1e-5}
LOOSE |= dict.fromkeys(("power", "q10", "median", "q90"), 5e-5)
"""What hangs on where a likelihood is highest, which is known to the root of what its values are off by."""


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same rows in the same order, numbers to about 1e-6."""
    assert list(one.columns) == list(other.columns) and len(one) == len(other) > 0
    for name in one.columns:
        a, b = one[name].to_numpy(), other[name].to_numpy()
        if pd.api.types.is_float_dtype(one[name]):
            np.testing.assert_allclose(b, a, rtol=LOOSE.get(name, 2e-6), atol=1e-7, err_msg=name)
        else:
            assert (pd.Series(a).astype(str) == pd.Series(b).astype(str)).all(), name


def assert_results(cells: ad.AnnData, rows: ad.AnnData) -> None:
    a, b = read_results(cells, keys.GLMM), read_results(rows, keys.GLMM)
    for name in keys.TABLES:
        assert_same(getattr(a, name), getattr(b, name))
    assert (a.prior is None) == (b.prior is None)
    different = ("response", "exposure", "interpolation_error", "log_base", "version")
    one, other = ({k: v for k, v in own.params.items() if k not in different} for own in (a, b))
    one["cautions"], other["cautions"] = ({} for _ in range(2))  # shifts are worded with numbers
    assert one == other


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_cells(case: str, cells: ad.AnnData) -> None:
    formula, options = CASES[case]
    rows = collapsed(cells, options.get("layer", "counts"))
    if "yes" in case:  # depth is that of the counts, which are another layer
        options = options | ({"exposure": "total_counts"} if "link" in options else {})
        rows = collapsed(cells, "open", depth="total_counts")
    assert_results(fit(cells, formula, of_cells(options)), fit(rows, formula, options))


@pytest.mark.parametrize("case", CASES)
def test_log_likelihoods_are_those_of_the_cells(case: str, cells: ad.AnnData) -> None:
    formula, options = CASES[case]
    options = {k: v for k, v in options.items() if k not in ("groupby", "ddf", "mask_var")}
    rows = collapsed(cells, options.get("layer", "counts"), depth="total_counts")
    more = {"exposure": "total_counts"} if options.get("link") == "cloglog" or "family" not in options else {}
    laws = []
    for adata, given in ((cells, of_cells(options) | more), (rows, options)):
        analysis = prepare_glmm(adata, formula, contrasts=CONTRAST, **given)
        (statistics,) = analysis.statistics()
        model = analysis.fitting(0)(statistics).models[0]
        laws.append(model.law(tensor([axis[::4] for axis in model.axes(np.ones(1))]), analysis.contrasts[0].L))
    np.testing.assert_allclose(laws[1].loglik, laws[0].loglik, rtol=1e-11, atol=1e-8)
    np.testing.assert_allclose(laws[1].root, laws[0].root, rtol=1e-6, atol=2e-5)  # a root of their difference


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_rows_in_files(cells: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    rows, options = collapsed(cells), {"groupby": "cell_type", "mask_var": "some"}
    fit(rows, DONORS, options)
    lazy = collapsed(cells, out=path)
    assert_results(rows, fit(lazy, DONORS, options))
    assert_results(rows, fit(open_source(path), DONORS, options))
    read = ad.read_h5ad if suffix == "h5ad" else ad.read_zarr
    assert_results(rows, fit(read(path), DONORS, options))
    if suffix == "h5ad":
        assert_results(rows, fit(ad.read_h5ad(path, backed="r"), DONORS, options))


def test_subsets_of_rows_and_genes(cells: ad.AnnData) -> None:
    """Exposures stay those of all genes."""
    rows = collapsed(cells)
    kept = ["D01", "D02", "D04", "D05", "D06"]
    some = rows[rows.obs["donor_id"].isin(kept).to_numpy(), [7, 3, 40]]
    part = cells[cells.obs["donor_id"].isin(kept), [7, 3, 40]].copy()
    fit(part, DONORS, {"layer": "counts", "exposure": "total_counts"})
    for own in (some, some.copy()):
        assert_results(part, fit(own, DONORS, {}))


def test_merged_cohorts(cells: ad.AnnData) -> None:
    """Each has nodes of its own."""
    deep = (cells.obs["total_counts"] > cells.obs["total_counts"].median()).to_numpy()
    cohorts = [collapsed(cells[own].copy()) for own in (deep, ~deep)]
    merged = dw.pp.merge_collapsed(cohorts)
    options = {"groupby": "cell_type"}
    assert_results(fit(cells, DONORS, of_cells(options)), fit(merged, DONORS, options))
    detection = DETECTED | {"link": "cloglog"}
    assert_results(
        fit(cells.copy(), DONORS, of_cells(detection) | {"key_added": "glmm2"}) and _as(cells, detection),
        _as(merged, detection),
    )


def _as(adata: ad.AnnData, options: dict[str, Any]) -> ad.AnnData:
    """A copy without results, with those of these options."""
    out = adata.copy()
    out.uns.pop(keys.GLMM, None)
    layer = {} if "donorwise_collapsed" in out.uns else {"layer": "counts"}
    return fit(out, DONORS, layer | options)


def test_numbers_that_differ_within_patterns(cells: ad.AnnData) -> None:
    """More values than are taken for patterns: every row is one, as every cell is one there."""
    rng = np.random.default_rng(5)
    big = cells[np.tile(np.arange(cells.n_obs), 4)].copy()
    big.obs_names_make_unique()
    big.obs["time"] = rng.normal(size=big.n_obs)
    formula, options = "~ condition + time + (1 | donor_id)", {"mask_var": "some"}
    rows = dw.pp.collapse(big, ["donor_id", "condition", "time"], counts_layer="counts", glmm="nb", progress=False)
    assert rows.n_obs == big.n_obs
    assert prepare_glmm(big, formula, layer="counts").tasks[0].design.covariates.shape[1] == 1
    assert_results(fit(big, formula, of_cells(options)), fit(rows, formula, options))
    audits = [own.donorwise.audit(formula, family="nb").to_frame() for own in (big, rows)]
    pd.testing.assert_frame_equal(*audits)
    names = list(rows.var_names[[3, 5]])
    for adata in (big, rows):
        dw.tl.influence(adata, key="glmm", variables=names, contrast="time", progress=False)
    assert_same(*(dw.get.influence(adata, key="glmm", by="donor") for adata in (big, rows)))
    assert_same(*(dw.get.ranef(adata, names, key="glmm") for adata in (big, rows)))
    for adata in (big, rows):
        dw.tl.power(adata, key="glmm", contrast=CONTRAST, log_fc=1.0, n_donors=[4, 8], n_cells=[50])
    assert_same(*(dw.get.power(adata, key="glmm") for adata in (big, rows)))


# --- what is made of results --------------------------------------------------------------------------------------------


def test_tools_and_readers_are_those_of_the_cells(cells: ad.AnnData) -> None:
    rows = collapsed(cells)
    options = {"groupby": "cell_type"}
    fit(cells, DONORS, of_cells(options))
    fit(rows, DONORS, options)
    names = list(cells.var_names[[0, 3, 5]])
    tables = []
    for adata in (cells, rows):
        dw.tl.influence(adata, key="glmm", variables=names, contrast=CONTRAST, progress=False)
        dw.tl.power(adata, key="glmm", contrast=CONTRAST, log_fc=1.0, n_donors=[4, 8], n_cells=[50])
        tables.append(
            {
                "influence": dw.get.influence(adata, key="glmm", by="donor").sort_values(
                    ["variable", "group", "donor"]
                ),
                "power": dw.get.power(adata, key="glmm"),
                "ranef": dw.get.ranef(adata, names, key="glmm"),
                "varcomp": dw.get.varcomp(adata, key="glmm"),
                "matrix": dw.get.matrix(adata, key="glmm").reset_index(),
            }
        )
    for name, table in tables[0].items():
        assert_same(table.reset_index(drop=True), tables[1][name].reset_index(drop=True))
    with pytest.raises(DataError, match="Single cells are needed"):
        dw.pl.donors(rows, names[0], key="glmm")


@pytest.mark.parametrize("case", ["nb by group", "detection", "detection without depth"])
def test_an_analysis_is_made_again_from_its_params(case: str, cells: ad.AnnData) -> None:
    formula, options = CASES[case]
    rows = fit(collapsed(cells, depth="total_counts"), formula, options)
    again, params = run_analysis(recover(rows, keys.GLMM).analysis, Memory()), read_params(rows, keys.GLMM)
    assert again.params | {"log_base": 0} == params | {"log_base": 0}
    pd.testing.assert_frame_equal(again.tables["results"], read_results(rows, keys.GLMM).results, check_exact=True)
    some = rows[:, :50].copy()
    assert recover(some, keys.GLMM).analysis.exposure == params["exposure"]
    with pytest.raises(DataError, match=r"Run dw.tl.glmm again"):
        recover(rows[5:], keys.GLMM)


def test_calibration_is_that_of_the_cells(cells: ad.AnnData) -> None:
    cells = cells[cells.obs["sex"].notna()].copy()
    rows = collapsed(cells)
    given = {"model": "glmm", "strata": "sex", "n_permutations": 3, "mask_var": "some", "progress": False}
    found = []
    for adata, options in ((cells, {"layer": "counts"}), (rows, {})):
        dw.tl.calibrate(adata, DONORS, CONTRAST, **given, **options)
        found.append(dw.get.calibration(adata, table="variables"))
    assert_same(*found)


def test_the_command(cells: ad.AnnData, tmp_path: Path) -> None:
    """From cells in a file to results, with a depth of its own."""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    names = ("--by", ",".join(BY), "--counts-layer", "counts", "--depth", "total_counts", "--glmm", "nb")
    made = run("collapse", tmp_path / "cells.h5ad", "--out", tmp_path / "rows.h5ad", *names, "--block-size", 300)
    assert made.exit_code == 0, made.output
    out = tmp_path / "glmm.h5ad"
    result = run("glmm", tmp_path / "rows.h5ad", "--formula", DONORS, "--groupby", "cell_type", "--out", out)
    assert result.exit_code == 0, result.output
    options = {"groupby": "cell_type", "exposure": "total_counts"}
    assert_results(fit(cells, DONORS, of_cells(options)), ad.read_h5ad(out))
    refused = run("glmm", tmp_path / "rows.h5ad", "--formula", DONORS, "--offset", "visit", "--out", tmp_path / "x.csv")
    assert refused.exit_code == 2
    assert "offset= belongs to cells" in refused.output


def test_depth_is_the_exposure(cells: ad.AnnData) -> None:
    cells.obs["effective_depth"] = cells.obs["total_counts"] * np.where(cells.obs["visit"] > 1, 0.5, 1.3)
    rows = collapsed(cells, depth="effective_depth")
    options = {"exposure": "effective_depth", "mask_var": "some"}
    fit(cells, DONORS, of_cells(options))
    assert_results(cells, fit(rows, DONORS, {"mask_var": "some"}))
    assert_results(cells, _as(rows, options))
    assert read_params(rows, keys.GLMM)["exposure"] == "effective_depth"
    for own, words in ((collapsed(cells), "Where some genes respond"), (rows, "That is left after")):
        said = prepare_glmm(own, DONORS).when_shifted
        assert said.startswith(words) and "dw.pp.collapse(depth='effective_depth')" in said


def test_depths_that_are_none_or_different(cells: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    cells.obs["logged"], cells.obs["other"] = np.log(cells.obs["total_counts"]), cells.obs["total_counts"]
    with pytest.raises(DataError, match=r"depth= looks like a logarithm: .*; name the column that was not logged"):
        collapsed(cells, depth="logged")
    half = np.arange(cells.n_obs) % 2 > 0
    cohorts = [collapsed(cells[own], depth=name) for own, name in ((half, "other"), (~half, "total_counts"))]
    dw.pp.merge_collapsed(cohorts)
    assert "is another column in some cohorts ('other', 'total_counts')" in caplog.text


# --- what rows cannot answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exposure": "visit"}, r"collapsed with each cell's total counts .* again with depth='visit'"),
        ({"exposure": np.ones(3)}, "again with depth= a column of obs"),
        ({"offset": "visit"}, r"exposure \* exp\(offset\)"),
        ({"trials": "visit"}, "trials= belongs to family='binomial'"),
        ({"trials": "visit", "family": "binomial"}, "collapsed rows have one for each of them"),
        ({"exposure": "visit", **DETECTED}, "has no exposure"),
        ({"obs_keys": ["visit"]}, "obs_keys= is of cells"),
        ({"obsm": "scores"}, "obsm= is of cells"),
        ({"layer": "lognorm"}, "have the means of X and the counts of 'counts'"),
        ({"family": "binomial"}, r"counts above one \('gene_0\d+' in row 'D01\|.*response='detected'"),
        ({"response": "detected"}, "is yes or no: use family='binomial'"),
    ],
)
def test_what_belongs_to_cells(options: dict[str, Any], words: str, cells: ad.AnnData) -> None:
    rows = collapsed(cells)
    with pytest.raises(DataError, match=words):
        fit(rows, DONORS, options)
    assert keys.GLMM not in rows.uns


def test_covariates_of_cells(cells: ad.AnnData) -> None:
    rows = collapsed(cells, covariates=["log_depth"])
    dw.tl.lmm(rows, "~ condition + log_depth + (1 | donor_id)", progress=False)
    for ask in (lambda f: fit(rows, f, {}), lambda f: rows.donorwise.audit(f, family="nb")):
        with pytest.raises(DesignError, match="`log_depth` differs between the cells of a row"):
            ask("~ condition + log_depth + (1 | donor_id)")
        with pytest.raises(DesignError, match=r"`age` was collapsed away: .* again with 'age' in by=\.$"):
            ask("~ age + (1 | donor_id)")


def test_families_that_rows_keep_nothing_for(cells: ad.AnnData) -> None:
    sums, none = collapsed(cells, glmm=(), depth="total_counts"), dw.pp.collapse(cells, BY, progress=False)
    with pytest.raises(DataError, match=r"negative binomial .* depth='total_counts', glmm='nb'\)"):
        fit(sums, DONORS, {})
    with pytest.raises(DataError, match=r"what negative binomial models need, and .* glmm=\['nb', 'cloglog'\]\)"):
        fit(collapsed(cells, glmm="nb"), DONORS, DETECTED | {"link": "cloglog"})
    with pytest.raises(DataError, match="give counts_layer= and glmm='nb'"):
        fit(none, DONORS, {})
    with pytest.raises(DataError, match="have the means of X. Leave layer= out"):
        fit(none, DONORS, DETECTED | {"layer": "counts"})
    some = {"mask_var": "some"}
    expected = fit(cells, DONORS, of_cells(DETECTED | some))
    for rows in (sums, none):
        assert_results(expected, _as(rows, DETECTED | some))


def test_values_that_are_above_zero_where_counts_are_not(cells: ad.AnnData) -> None:
    """Detection is that of the counts; of other values it is told only if it is the same."""
    cells.layers["scaled"] = cells.layers["counts"].toarray() - 1.5
    rows = collapsed(cells, layer="scaled", glmm="nb")
    for own, words in (
        (rows, r"counts_layer='counts' and glmm=\['nb', 'cloglog'\]"),
        (_without_counts(cells), "glmm='clog"),
    ):
        for options in (DETECTED, DETECTED | {"layer": "scaled"}):
            with pytest.raises(DataError, match=f"layers/scaled above zero, .* {words}"):
                fit(own, DONORS, options)
    some = DETECTED | {"mask_var": "some"}
    assert_results(fit(cells, DONORS, of_cells(some)), fit(collapsed(cells, layer="scaled"), DONORS, some))


def _without_counts(cells: ad.AnnData) -> ad.AnnData:
    return collapsed(cells, None, layer="scaled", glmm=())


def test_rows_without_a_count(cells: ad.AnnData) -> None:
    counts = cells.layers["counts"].tolil()
    first = (cells.obs[BY] == cells.obs[BY].iloc[20]).all(axis=1).to_numpy()
    counts[np.flatnonzero(first)] = 0
    cells.layers["counts"] = counts.tocsr()
    rows = collapsed(cells)
    with pytest.raises(
        DataError, match=r"no counts at all, and so no exposure, in \d of \d+ collapsed rows \(the first"
    ):
        fit(rows, DONORS, {"mask_var": "some"})
    some = {"mask_var": "some"}
    assert_results(
        _as(cells[cells.layers["counts"].sum(axis=1).A1 > 0], some), _as(rows[rows.obs["count_depth"] > 0], some)
    )
