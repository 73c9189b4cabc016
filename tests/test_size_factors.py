"""Factors of depths: those of edgeR, a plain twin, units of very different depth, and units that cannot be compared."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import rankdata
from tests._batch import run

import donorwise as dw
from donorwise._anndata.prepare import prepare_lmm
from donorwise._core.cells.size_factors import FEWEST_GENES, UnitCounts, median_ratio, size_factors, tmm
from donorwise._core.engine import after_fit
from donorwise._core.engine.run import of_covariates
from donorwise._typing import FloatArray
from donorwise.errors import DonorwiseError

REFERENCE = Path(__file__).parent / "reference" / "size_factors"
EXPECTED = json.loads((REFERENCE / "expected.json").read_text())["expected"]


def reference_counts(case: str) -> FloatArray:
    return pd.read_csv(REFERENCE / f"{case}.csv").to_numpy(dtype=np.float64).T


def normalised(sizes: FloatArray, total: FloatArray) -> FloatArray:
    factor = sizes / total
    return factor / np.exp(np.log(factor).mean())


def expected_counts(depths: list[float], *, n_genes: int = 4000, sd: float = 0.3) -> FloatArray:
    """Of units whose genes differ by the depth, and by chance between units."""
    rng = np.random.default_rng(0)
    share = np.exp(rng.normal(0, 2, n_genes))
    own = share * np.exp(rng.normal(0, sd, (len(depths), n_genes)))
    return np.array(depths)[:, None] * own / own.sum(axis=1, keepdims=True)


def drawn(depths: list[float], *, n_genes: int = 4000, sd: float = 0.3) -> FloatArray:
    expected = expected_counts(depths, n_genes=n_genes, sd=sd)
    return np.random.default_rng(1).poisson(expected).astype(np.float64)


# ---------------------------------------------------------------- against edgeR


@pytest.mark.parametrize("case", EXPECTED)
def test_trimmed_means_are_those_of_edger(case: str) -> None:
    counts = reference_counts(case)
    counts = counts[:, counts.any(axis=0)]
    total = counts.sum(axis=1)
    np.testing.assert_array_equal(total, EXPECTED[case]["lib_size"])
    sizes, _ = tmm(UnitCounts(counts, total, 0.0))
    np.testing.assert_allclose(normalised(sizes, total), EXPECTED[case]["tmm"], rtol=1e-10)


@pytest.mark.parametrize("case", ["deep", "ties"])
def test_medians_of_ratios_are_those_of_edger(case: str) -> None:
    everywhere = reference_counts(case)
    everywhere = everywhere[:, (everywhere > 0).all(axis=0)]
    odd = everywhere[:, : everywhere.shape[1] - (everywhere.shape[1] % 2 == 0)]  # as the script does, and says why
    total = odd.sum(axis=1)
    sizes, n_genes = median_ratio(UnitCounts(odd, total, 5.0))
    assert (n_genes == odd.shape[1]).all()
    np.testing.assert_allclose(normalised(sizes, total), EXPECTED[case]["rle_odd"], rtol=1e-10)


def test_all_genes_of_the_matrix_give_edgers_factors() -> None:
    counts = reference_counts("deep")
    found = size_factors(counts, counts.sum(axis=1), "tmm", min_expected=0.0)
    np.testing.assert_allclose(found.values, EXPECTED["deep"]["tmm"], rtol=1e-10)
    assert not found.note


# ---------------------------------------------------------------- against a plain twin


def naive_tmm(counts: FloatArray, min_expected: float) -> FloatArray:
    """The paper's equations, gene by gene, with ranks in place of cuts."""
    N = counts.sum(axis=1)
    share = (counts / N[:, None]).mean(axis=0)
    usable = N[:, None] * share >= min_expected
    n_usable = usable.sum(axis=1)
    able = np.flatnonzero(n_usable >= np.median(n_usable))
    upper = np.quantile(counts[able], 0.75, axis=1) / N[able]
    if np.median(upper) < 1e-20:
        r = able[np.argmax(np.sqrt(counts[able]).sum(axis=1))]
    else:
        r = able[np.argmin(np.abs(upper - upper.mean()))]
    sizes = []
    for k in range(len(counts)):
        genes = [g for g in np.flatnonzero(usable[k] & usable[r]) if counts[k, g] > 0 and counts[r, g] > 0]
        M = np.array([np.log2((counts[k, g] / N[k]) / (counts[r, g] / N[r])) for g in genes])
        A = np.array([np.log2(counts[k, g] / N[k]) / 2 + np.log2(counts[r, g] / N[r]) / 2 for g in genes])
        v = np.array([1 / counts[k, g] - 1 / N[k] + 1 / counts[r, g] - 1 / N[r] for g in genes])
        m, a, n = rankdata(M), rankdata(A), len(genes)
        low, low_a = np.floor(n * 0.3) + 1, np.floor(n * 0.05) + 1
        kept = (m >= low) & (m <= n + 1 - low) & (a >= low_a) & (a <= n + 1 - low_a)
        sizes.append(N[k] * 2 ** (0.0 if np.abs(M).max() < 1e-6 else np.average(M[kept], weights=1 / v[kept])))
    return normalised(np.array(sizes), N)


@pytest.mark.parametrize("min_expected", [0.0, 5.0])
@pytest.mark.parametrize("depths", [[1e5] * 4, [2e5, 3e4, 1e5, 6e4, 4e5], [2e4, 1e6]])
def test_agrees_with_a_plain_twin(depths: list[float], min_expected: float) -> None:
    counts = drawn(depths)
    counts = counts[:, counts.any(axis=0)]
    found = size_factors(counts, counts.sum(axis=1), "tmm", min_expected=min_expected)
    np.testing.assert_allclose(found.values, naive_tmm(counts, min_expected), rtol=1e-10)


# ---------------------------------------------------------------- what they are for


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
@pytest.mark.parametrize(("shallow", "left"), [(1e6, 0.1), (1e5, 0.15), (2e4, 0.28)])
def test_take_a_one_sided_response_out_at_any_depth(method: str, shallow: float, left: float) -> None:
    expected = expected_counts([1e6] * 3 + [shallow] * 3)
    rng = np.random.default_rng(1)
    responds = rng.random(expected.shape[1]) < 0.1
    expected[3:, responds] *= 8
    counts = rng.poisson(expected).astype(np.float64)
    depth = counts.sum(axis=1)

    def change(depth: FloatArray) -> float:
        """The log fold change of the genes without one, their median."""
        log_rate = np.log(expected[:, ~responds] / depth[:, None])
        return float(np.median(log_rate[3:].mean(axis=0) - log_rate[:3].mean(axis=0)))

    assert change(depth) < -0.5
    # A tenth of the genes on one side moves a median by some .13 standard deviations of the log ratios; among the genes
    # that a shallow unit has counts of, those that respond are more.
    assert abs(change(depth * size_factors(counts, depth, method).values)) < left


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
def test_depth_alone_moves_nothing(method: str) -> None:
    """Units with a fiftieth of the depth and the same composition: over all genes the factors differ by .35."""
    counts = drawn([1e6] * 4 + [2e4] * 4, sd=0.0)
    log_factor = np.log(size_factors(counts, counts.sum(axis=1), method).values)
    assert abs(log_factor[:4].mean() - log_factor[4:].mean()) < 0.03


def test_multiply_to_one_and_follow_the_depth_that_is_given() -> None:
    counts = drawn([2e5, 3e4, 1e5, 6e4])
    depth = counts.sum(axis=1) * np.array([1.0, 1.2, 0.7, 1.1])
    for method in ("tmm", "median_ratio"):
        found = size_factors(counts, depth, method).values
        assert np.log(found).sum() == pytest.approx(0, abs=1e-12)
        of_sums = counts.sum(axis=1) * size_factors(counts, counts.sum(axis=1), method).values
        ratio = depth * found / of_sums  # the same effective depths, whatever is multiplied
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_do_not_depend_on_the_order_of_units_and_genes() -> None:
    counts = drawn([2e5, 3e4, 1e5, 6e4, 4e5])
    rng = np.random.default_rng(0)
    units, genes = rng.permutation(5), rng.permutation(counts.shape[1])
    for method in ("tmm", "median_ratio"):
        found = size_factors(counts, counts.sum(axis=1), method).values
        moved = counts[np.ix_(units, genes)]
        np.testing.assert_allclose(size_factors(moved, moved.sum(axis=1), method).values, found[units], rtol=1e-11)


# ---------------------------------------------------------------- what cannot be compared


def test_a_panel_of_few_genes_keeps_its_depths() -> None:
    counts = drawn([1e5] * 4, n_genes=FEWEST_GENES - 1)
    found = size_factors(counts, counts.sum(axis=1), "tmm")
    np.testing.assert_array_equal(found.values, 1.0)
    assert "genes with counts are too few" in found.note


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
def test_a_unit_without_overlap_keeps_its_depth_and_is_told(method: str) -> None:
    counts = drawn([1e5] * 5)
    counts[2] = 0
    counts[2, :20] = 3.0  # twenty genes only
    found = size_factors(counts, counts.sum(axis=1), method)
    assert found.values[2] == 1.0
    assert (found.values[[0, 1, 3, 4]] != 1).all()
    assert found.note == "in 1 of 5 units fewer than 100 genes have enough counts to be compared"


def test_units_that_are_all_scarce_keep_their_depths() -> None:
    counts = drawn([50.0] * 4)
    found = size_factors(counts, counts.sum(axis=1), "tmm")
    np.testing.assert_array_equal(found.values, 1.0)
    assert found.note.endswith(
        "of 4 units fewer than 100 genes have enough counts to be compared, so none is corrected"
    )


def test_most_units_must_be_comparable() -> None:
    counts = drawn([1e5] * 5)
    counts[[0, 2, 4], 20:] = 0
    found = size_factors(counts, counts.sum(axis=1), "tmm")
    np.testing.assert_array_equal(found.values, 1.0)
    assert found.note.startswith("in 3 of 5 units")


def test_equal_units_and_one_unit_have_ones() -> None:
    counts = np.repeat(drawn([1e5]), 3, axis=0)
    np.testing.assert_array_equal(size_factors(counts, counts.sum(axis=1), "tmm").values, 1.0)
    np.testing.assert_array_equal(size_factors(counts[:1], counts[:1].sum(axis=1), "tmm").values, 1.0)


# ---------------------------------------------------------------- dw.pp.size_factors


@pytest.fixture(scope="module")
def _responding() -> ad.AnnData:
    """Paired samples of two cell types, in one of which a tenth of the genes answers to the stimulus, eightfold."""
    adata = dw.datasets.simulate_cohort(
        "paired", n_donors=6, n_cells=2400, n_genes=600, cell_types=("B", "T"), de_fraction=0, seed=2
    )
    rng = np.random.default_rng(0)
    responds = rng.random(adata.n_vars) < 0.1
    counts = adata.layers["counts"].toarray().astype(np.float64)
    cells = np.flatnonzero((adata.obs["condition"] == "stimulated") & (adata.obs["cell_type"] == "B"))
    counts[np.ix_(cells, np.flatnonzero(responds))] = rng.poisson(8 * counts[np.ix_(cells, np.flatnonzero(responds))])
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.var["responds"] = responds
    return adata


@pytest.fixture
def responding(_responding: ad.AnnData) -> ad.AnnData:
    return _responding.copy()


def test_effective_depths_are_those_of_the_units(responding: ad.AnnData) -> None:
    dw.pp.size_factors(responding)
    table = responding.uns["effective_depth"]["size_factors"]
    assert table.columns[:3].tolist() == ["donor_id", "sample_id", "cell_type"] and len(table) == 24
    depth = np.asarray(responding.layers["counts"].sum(axis=1)).ravel()
    for _, unit in table.iterrows():
        cells = (
            (responding.obs["sample_id"] == unit["sample_id"]) & (responding.obs["cell_type"] == unit["cell_type"])
        ).to_numpy()
        assert cells.sum() == unit["n_cells"] and depth[cells].sum() == unit["depth"]
        np.testing.assert_allclose(responding.obs["effective_depth"][cells], depth[cells] * unit["factor"], rtol=1e-12)
    for name, own in table.groupby("cell_type", observed=True):
        counts = np.stack([
            np.asarray(responding.layers["counts"][((responding.obs["sample_id"] == s) & (responding.obs["cell_type"] == name)).to_numpy()].sum(axis=0)).ravel()
            for s in own["sample_id"]
        ])  # fmt: skip
        np.testing.assert_allclose(own["factor"], size_factors(counts, counts.sum(axis=1), "tmm").values, rtol=1e-12)
        np.testing.assert_allclose(np.log([own["factor"], own["size_factor"]]).sum(axis=1), 0, atol=1e-9)


def test_units_and_groups_are_as_asked(responding: ad.AnnData) -> None:
    responding.obs["cell_type"] = responding.obs["cell_type"].astype(object)
    found = dw.pp.size_factors(responding, "median_ratio", by=["donor_id", "condition"], key_added="own", copy=True)
    assert "own" not in responding.uns and found.uns["own"]["params"]["groupby"] == ""
    assert found.uns["own"]["size_factors"].columns[:3].tolist() == ["donor_id", "condition", "n_cells"]
    grouped = dw.pp.size_factors(responding, by=["donor_id", "condition", "cell_type"], copy=True)
    assert grouped.uns["effective_depth"]["params"]["groupby"] == "cell_type"
    named = dw.pp.size_factors(responding, by=["donor_id", "condition"], groupby="cell_type", copy=True)
    pd.testing.assert_series_equal(named.obs["effective_depth"], grouped.obs["effective_depth"])
    responding.obs["half"] = np.where(responding.obs["donor_id"].isin(["D01", "D02", "D03"]), "a", "b")
    several = dw.pp.size_factors(responding, by=["donor_id", "condition"], groupby=["half", "cell_type"], copy=True)
    assert several.uns["effective_depth"]["params"]["groupby"] == ["half", "cell_type"]
    table = several.uns["effective_depth"]["size_factors"]
    products = np.log(table["factor"]).groupby([table["half"], table["cell_type"]], observed=True).sum()
    assert len(products) == 4 and abs(products).max() < 1e-12


def test_depth_of_a_column_and_missing_values(responding: ad.AnnData) -> None:
    responding.obs["double"] = 2.0 * np.asarray(responding.layers["counts"].sum(axis=1)).ravel()
    responding.obs["donor_id"] = responding.obs["donor_id"].astype(object)
    responding.obs.loc[responding.obs_names[:3], "donor_id"] = np.nan
    dw.pp.size_factors(responding, by=["donor_id", "condition"])
    once = responding.obs["effective_depth"]
    dw.pp.size_factors(responding, by=["donor_id", "condition"], depth="double")  # its own entry may be replaced
    np.testing.assert_allclose(responding.obs["effective_depth"], 2 * once, rtol=1e-12)
    np.testing.assert_array_equal(responding.obs["effective_depth"][:3], responding.obs["double"][:3])


def test_survive_files(responding: ad.AnnData, tmp_path: Path) -> None:
    dw.pp.size_factors(responding)
    responding.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(
        pd.DataFrame(again.uns["effective_depth"]["size_factors"]), responding.uns["effective_depth"]["size_factors"],
        check_dtype=False, check_categorical=False,
    )  # fmt: skip
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    dw.pp.size_factors(backed)
    np.testing.assert_allclose(backed.obs["effective_depth"], responding.obs["effective_depth"], rtol=1e-12)


def test_log_depth_of_effective_depths(responding: ad.AnnData) -> None:
    dw.pp.size_factors(responding)
    dw.pp.log_depth(responding, obs_key="effective_depth")
    dw.pp.log_depth(responding, normalize="tmm", key_added="direct")
    np.testing.assert_allclose(responding.obs["log_depth"], responding.obs["direct"], atol=1e-12)
    log = np.log(responding.obs["effective_depth"])
    np.testing.assert_allclose(responding.obs["log_depth"], log - log.mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layer": None}, "raw counts"),
        ({"method": "rle"}, "'tmm', 'median_ratio', 'depth'"),
        ({"by": "donor"}, "no column 'donor'"),
        ({"by": []}, "names no column"),
        ({"min_expected": -1}, "0 or more"),
        ({"key_added": "truth"}, "did not write"),
    ],
)
def test_what_cannot_be_used_is_told(responding: ad.AnnData, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DonorwiseError, match=says):
        dw.pp.size_factors(responding, **arguments)
    assert "effective_depth" not in responding.obs


def test_rows_and_unknown_donors_are_told(responding: ad.AnnData) -> None:
    rows = dw.pp.collapse(responding, ["donor_id", "condition"], counts_layer="counts", progress=False)
    for tool in (dw.pp.size_factors, lambda a: dw.pp.log_depth(a, normalize="tmm")):
        with pytest.raises(DonorwiseError, match="before dw.pp.collapse"):
            tool(rows)
    with pytest.raises(DonorwiseError, match="give by="):
        dw.pp.size_factors(ad.AnnData(responding.X, obs=responding.obs[["condition"]], layers=dict(responding.layers)))
    with pytest.raises(DonorwiseError, match="give normalize='tmm' too"):
        dw.pp.log_depth(responding, by="donor_id")


# ---------------------------------------------------------------- dw.tl.pseudobulk(normalize=)

FORMULA, CONTRAST = "~ condition + (1 | donor_id)", "condition[T.stimulated]"


def _tests(adata: ad.AnnData, **options: Any) -> pd.DataFrame:
    dw.tl.pseudobulk(adata, FORMULA, progress=False, **options)
    return dw.get.tests(adata, key="pseudobulk", sort_by=None).set_index(["group", "variable"])


@pytest.mark.parametrize("method", ["tmm", "median_ratio"])
def test_genes_without_response_are_not_down(responding: ad.AnnData, method: str) -> None:
    by_depth = _tests(responding, groupby="cell_type", normalize="depth")["log_fc"]
    found = _tests(responding, groupby="cell_type", normalize=method)["log_fc"]
    null = ~responding.var["responds"].to_numpy()
    assert by_depth["B"][null].median() < -0.35
    assert abs(found["B"][null].median()) < 0.15 and abs(found["T"].median()) < 0.05


def test_is_the_same_as_depths_times_factors(responding: ad.AnnData) -> None:
    """On cells, on rows, and with genes left out."""
    dw.pp.size_factors(responding, by=["donor_id", "condition", "cell_type"])
    units = responding.uns["effective_depth"]["size_factors"].sort_values(["cell_type", "donor_id", "condition"])
    expected = _tests(responding, groupby="cell_type", depth="effective_depth", normalize="depth")
    rows = dw.pp.collapse(responding, ["donor_id", "condition", "cell_type"], counts_layer="counts", progress=False)
    numbers = ["estimate", "se", "p_value", "log_fc"]
    for adata in (responding, rows):
        found = _tests(adata, groupby="cell_type")
        np.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-8, atol=1e-12)
        factors = adata.uns["pseudobulk"]["size_factors"]["factor"]
        np.testing.assert_allclose(factors, units["factor"], rtol=1e-12)
        _tests(adata, groupby="cell_type", mask_var=(np.arange(adata.n_vars) % 2 == 0))
        np.testing.assert_array_equal(adata.uns["pseudobulk"]["size_factors"]["factor"], factors)


def test_influence_keeps_the_factors_of_all_donors(responding: ad.AnnData) -> None:
    dw.pp.size_factors(responding, by=["donor_id", "condition", "cell_type"])
    _tests(responding, groupby="cell_type")
    dw.tl.influence(responding, key="pseudobulk", variables="gene_0003", progress=False)
    found = dw.get.influence(responding, key="pseudobulk", by="donor").set_index(["donor", "group"])
    for donor in ("D02", "D05"):
        alone = responding[responding.obs["donor_id"] != donor].copy()
        expected = _tests(alone, groupby="cell_type", depth="effective_depth", normalize="depth")
        for group in ("B", "T"):
            one, other = found.loc[(donor, group)], expected.loc[(group, "gene_0003")]
            np.testing.assert_allclose(one["p_value"], other["p_value"], rtol=1e-6)
            np.testing.assert_allclose(one["estimate"], other["estimate"], rtol=1e-6)


def test_a_result_is_made_again_when_genes_were_left_out(responding: ad.AnnData) -> None:
    """Where depths do not hang on the genes, factors must not either: they are kept with the result."""
    responding.obs["total_counts"] = np.asarray(responding.layers["counts"].sum(axis=1)).ravel()
    _tests(responding, depth="total_counts")
    ranef = dw.get.ranef(responding, "gene_0003", key="pseudobulk")
    few = responding[:, :20].copy()
    pd.testing.assert_frame_equal(dw.get.ranef(few, "gene_0003", key="pseudobulk"), ranef)


def test_calibrate_has_the_factors_of_the_fit(responding: ad.AnnData) -> None:
    for method in ("tmm", "depth"):
        tests = _tests(responding, groupby="cell_type", normalize=method)
        dw.tl.calibrate(
            responding, FORMULA, CONTRAST, model="pseudobulk", normalize=method, groupby="cell_type", n_permutations=3,
            progress=False,
        )  # fmt: skip
        found = dw.get.calibration(responding, table="variables").set_index(["group", "variable"])
        np.testing.assert_allclose(found["estimate"], tests.loc[found.index, "estimate"], rtol=1e-6, atol=1e-9)
        assert responding.uns["calibration"]["params"]["normalize"] == method
    with pytest.raises(DonorwiseError, match="normalize= has no meaning with model='lmm'"):
        dw.tl.calibrate(responding, FORMULA, CONTRAST, normalize="tmm", progress=False)


def test_few_genes_keep_their_depths_which_is_told_once(
    responding: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    panel = responding[:, :60].copy()
    _tests(panel, groupby="cell_type")
    said = [r.getMessage() for r in caplog.records if "leaves depths" in r.getMessage()]
    assert said == ["'tmm' leaves depths as they are. B, T: 60 genes with counts are too few to compare units in."]
    assert (panel.uns["pseudobulk"]["size_factors"]["factor"] == 1).all()
    with pytest.raises(DonorwiseError, match="normalize='TMM' is not an option; choose one of 'tmm'"):
        _tests(panel, normalize="TMM")


# ---------------------------------------------------------------- the word about it


def table_of(log_fc: FloatArray, se: FloatArray, contrast: str = "c", group: str = "all") -> pd.DataFrame:
    columns = {"contrast": contrast, "group": group, "log_fc": log_fc, "estimate": log_fc * np.log(2), "se": se}
    return pd.DataFrame(columns | {"p_value": 0.5})


def test_log_fold_changes_that_are_shifted_as_a_whole_are_told() -> None:
    shifted = partial(after_fit.shifted, apart=(), advice=after_fit.UNCORRECTED)
    rng = np.random.default_rng(0)
    noise, se = rng.normal(0, 0.4, 1000), rng.uniform(0.1, 0.5, 1000)
    centred, moved = table_of(noise, se), table_of(noise - 0.2, se, group="B")
    assert shifted(centred) == {}
    assert list(shifted(pd.concat([centred, moved]))) == ["c, B"]
    assert list(shifted(moved.assign(group="all"))) == ["c"]
    assert "c, B: the middle of the genes' log_fc is -0.2" in shifted(moved)["c, B"]
    assert "dw.tl.pseudobulk(normalize='tmm') corrects that" in shifted(moved)["c, B"]
    assert shifted(moved, advice="Mind the depth.")["c, B"].endswith("Mind the depth.")
    assert shifted(moved, apart={"c"}) == {}
    assert shifted(moved[:199]) == {} and list(shifted(moved[:200])) == ["c, B"]
    # genes with few counts follow the depths of the arms
    scarce = table_of(np.full(900, -0.5), np.full(900, 2.0))
    assert shifted(pd.concat([centred, scarce])) == {}
    # nothing to see: an effect that is small in itself, estimates of zero, missing fold changes
    assert shifted(table_of(noise * 0.01 - 0.04, se)) == {}
    assert shifted(table_of(np.zeros(300), np.zeros(300))) == {}
    assert shifted(table_of(np.full(300, np.nan), se[:300])) == {}


def test_a_shift_is_logged_kept_and_reported(
    responding: ad.AnnData, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    _tests(responding, groupby="cell_type", normalize="depth")
    said = [r.getMessage() for r in caplog.records if "the middle of the genes' log_fc" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"{CONTRAST}, B: ")
    assert dw.get.tests(responding, key="pseudobulk").shape[0]
    responding.write_h5ad(tmp_path / "found.h5ad")
    assert said[0] in run("report", tmp_path / "found.h5ad", "--key", "pseudobulk").output
    for out in ("found.csv", "all.h5ad"):
        more = ("--formula", FORMULA, "--groupby", "cell_type", "--normalize", "depth", "--out", tmp_path / out)
        assert run("pseudobulk", tmp_path / "found.h5ad", *more).exit_code == 0
        assert run("report", tmp_path / out).output.count(said[0]) == 1


def test_a_shift_of_the_depth_itself_is_not_looked_for(responding: ad.AnnData) -> None:
    analysis = prepare_lmm(responding, "~ condition + sex + log_depth + (1 | donor_id)")
    assert of_covariates(analysis) == {"log_depth"}
