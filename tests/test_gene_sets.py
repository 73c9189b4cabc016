"""Sets of genes: what donors contribute against dense algebra, every family of models, every source of sets, and what goes wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import linalg, sparse, stats
from tests._peptide_data import peptides

import donorwise as dw
from donorwise._core.engine.gene_sets import normal_scores
from donorwise._core.inference.competitive import competitive_tests, mean_correlation
from donorwise._core.inference.donor_scores import DonorScores, Working, replicated, working_covariance
from donorwise.errors import DataError, DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

CONTRAST = "condition[T.disease]"


# what donors contribute


def donor_scores(
    residuals: np.ndarray, weights: np.ndarray, X: np.ndarray, c: np.ndarray, donor: np.ndarray
) -> DonorScores:
    return replicated(residuals, weights, X, donor).scores(c)


def by_donors(donor: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array((donor == np.arange(donor.max() + 1)[:, None]).astype(float))


def unbalanced(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Residuals (G, K) with holes, weights, X, a contrast and donors of patterns: 1 to 3 patterns for each of 7 donors."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(7), [1, 2, 3, 2, 2, 1, 3])
    X = np.stack([np.ones(donor.size), donor % 2, rng.normal(size=donor.size)], axis=1)
    weights = rng.integers(2, 60, size=donor.size) * rng.uniform(0.5, 2, size=(40, 1))
    residuals = rng.normal(size=(40, 7))[:, donor] + rng.normal(size=weights.shape) / np.sqrt(weights)
    residuals[3, :] = np.nan
    residuals[5, donor == 2] = np.nan
    return residuals, np.where(np.isfinite(residuals), weights, 0.0), X, np.array([0.0, 1.0, 0.5]), donor


def test_contributions_are_those_of_dense_algebra() -> None:
    residuals, weights, X, c, donor = unbalanced()
    found = donor_scores(residuals, weights, X, c, donor)
    known = np.isfinite(residuals)
    A = (donor == np.arange(7)[:, None]).astype(float)
    own, shared = working_covariance(np.where(known, residuals, 0), known, weights, by_donors(donor))
    assert shared > 0
    V = np.diag(own) + shared * (donor[:, None] == donor)
    inverse = np.linalg.inv(V)
    to_beta = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    a = c @ to_beta
    for g in range(len(residuals)):
        e = np.where(known[g], residuals[g], 0)
        left = np.where(known[g], e - X @ (to_beta @ e), 0)
        expected = [sum(a[p] * left[p] for p in np.flatnonzero(donor == d)) for d in range(7)]
        np.testing.assert_allclose(found.values[g], expected, atol=1e-12)
    M = (A * a) @ (np.eye(donor.size) - X @ to_beta)
    B = M @ V @ M.T
    np.testing.assert_allclose(found.df, np.trace(B) ** 2 / (B**2).sum(), rtol=1e-10)
    assert (found.values[3] == 0).all()
    assert (found.values[5, 2] == 0).all()


def test_inverse_by_blocks() -> None:
    rng = np.random.default_rng(2)
    donor = np.array([0, 0, 1, 2, 2, 2])
    own, X = rng.uniform(1, 2, 6), rng.normal(size=(6, 2))
    V = np.diag(own) + 0.7 * (donor[:, None] == donor)
    np.testing.assert_allclose(Working(own, 0.7).solve(X, by_donors(donor)), np.linalg.solve(V, X), rtol=1e-12)


def test_working_covariance_finds_what_made_the_residuals() -> None:
    rng = np.random.default_rng(3)
    donor = np.repeat(np.arange(40), 2)
    weights = np.broadcast_to(rng.integers(5, 100, size=80), (300, 80)).astype(float)
    e = (
        rng.normal(size=(300, 40))[:, donor]
        + 0.5 * rng.normal(size=(300, 80))
        + 4 * rng.normal(size=(300, 80)) / np.sqrt(weights)
    )
    own, shared = working_covariance(e, np.ones(e.shape, dtype=bool), weights, by_donors(donor))
    truth = (0.25 + 16 / weights[0]) / 1.0
    np.testing.assert_allclose(own / shared, truth, rtol=0.2)


def test_one_pattern_a_donor_is_camera_on_donors() -> None:
    """Two arms, equally many cells: what is left of donor means in the directions that the design leaves free."""
    rng = np.random.default_rng(4)
    X = np.stack([np.ones(8), np.arange(8) % 2], axis=1)
    y = rng.normal(size=(50, 8)) + rng.normal(size=(1, 8))
    sets = sparse.csr_array(np.repeat([[1.0] * 20 + [0.0] * 30, [0.0] * 20 + [1.0] * 30], 1, axis=0))
    found = donor_scores(y, np.ones_like(y), X, np.array([0.0, 1.0]), np.arange(8))
    np.testing.assert_allclose(found.df, 6, rtol=1e-10)
    camera = mean_correlation(y @ linalg.null_space(X.T), sets)
    np.testing.assert_allclose(mean_correlation(found.values, sets), camera, rtol=1e-10)


def test_within_donors_their_levels_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    donor = np.repeat(np.arange(6), 2)
    X = np.stack([np.ones(12), np.arange(12) % 2], axis=1)
    y = rng.normal(size=(50, 12))
    level = 100 * rng.normal(size=6)[donor]
    whole = sparse.csr_array(np.ones((1, 50)))
    c = np.array([0.0, 1.0])
    plain, moved = (donor_scores(own, np.ones_like(y), X, c, donor) for own in (y, y + level))
    np.testing.assert_allclose([plain.df, moved.df], 5, rtol=1e-6)
    differences = y[:, 1::2] - y[:, ::2]
    centred = differences - differences.mean(axis=1, keepdims=True)
    expected = mean_correlation(centred, whole)
    np.testing.assert_allclose(mean_correlation(plain.values, whole), expected, rtol=1e-10)
    np.testing.assert_allclose(mean_correlation(moved.values, whole), expected, rtol=1e-6)
    # between them they do: all genes have them in common
    assert (
        mean_correlation(donor_scores(y + level, np.ones_like(y), X, np.array([1.0, 0.5]), donor).values, whole) > 0.99
    )


def test_nothing_is_left_of_two_donors() -> None:
    X = np.stack([np.ones(2), np.arange(2)], axis=1)
    assert (
        donor_scores(
            np.random.default_rng(0).normal(size=(9, 2)), np.ones((9, 2)), X, np.array([0.0, 1.0]), np.arange(2)
        ).df
        == 0
    )


@pytest.mark.parametrize("cells", [(20, 21), (3, 60)])
def test_the_level_with_four_donors_an_arm(cells: tuple[int, int]) -> None:
    """Nothing changes, and genes of a set go together in donors: cells in place of donors make every third set a hit."""
    rng = np.random.default_rng(6)
    D, G, m, rho, times = 8, 200, 25, 0.2, 250
    X = np.stack([np.ones(D), np.arange(D) % 2], axis=1)
    c, sets = np.array([0.0, 1.0]), sparse.csr_array(np.repeat([[1.0] * m + [0.0] * (G - m)], 1, axis=0))
    p = {"donors": [], "assumed": []}
    for _ in range(times):
        n = rng.integers(*cells, size=D)
        effect = rng.normal(size=(G, D))
        effect[:m] = np.sqrt(1 - rho) * effect[:m] + np.sqrt(rho) * rng.normal(size=D)
        y = 0.5 * effect + rng.normal(size=(G, D)) / np.sqrt(n)
        z = normal_scores(*stats.ttest_ind(y[:, 1::2], y[:, ::2], axis=1)[::-1])
        found = donor_scores(y, np.broadcast_to(n.astype(float), y.shape), X, c, np.arange(D))
        p["donors"].append(competitive_tests(z, sets, mean_correlation(found.values, sets), found.df).p_value[0])
        p["assumed"].append(competitive_tests(z, sets, np.array([0.01]), G - 2).p_value[0])
    assert stats.binom.sf((np.array(p["donors"]) < 0.05).sum() - 1, times, 0.05) > 0.01
    assert (np.array(p["assumed"]) < 0.05).mean() > 0.2


def test_normal_scores() -> None:
    np.testing.assert_allclose(
        normal_scores(np.array([0.05, 0.05, 1.0]), np.array([3.0, -2.0, 0.1])), [1.959964, -1.959964, 0], atol=1e-6
    )
    assert np.isfinite(normal_scores(np.array([0.0]), np.array([-50.0])))


# every family of models


def cells(**options: object) -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=8, n_cells=700, n_genes=110, seed=3, **options)


def lmm() -> tuple[ad.AnnData, str]:
    adata = cells()
    dw.tl.lmm(adata, "~ condition + sex + log_depth + (1 | donor_id)", groupby="cell_type", progress=False)
    return adata, "lmm"


def weighted_scores() -> tuple[ad.AnnData, str]:
    adata = cells()
    rng = np.random.default_rng(1)
    adata.obs["w"] = rng.uniform(0.5, 2, adata.n_obs)
    scores = pd.DataFrame(
        rng.normal(size=(adata.n_obs, 40)), index=adata.obs_names, columns=[f"s{i}" for i in range(40)]
    )
    scores.iloc[:50, :5] = np.nan
    adata.obsm["scores"] = scores
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", obsm="scores", weights="w", progress=False)
    return adata, "lmm"


def paired() -> tuple[ad.AnnData, str]:
    adata = dw.datasets.simulate_cohort("paired", n_donors=6, n_cells=500, n_genes=110, cell_types=("T cell",), seed=2)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id/sample_id)", progress=False)
    return adata, "lmm"


def counts() -> tuple[ad.AnnData, str]:
    adata = cells()
    dw.tl.glmm(adata, "~ condition + (1 | donor_id)", layer="counts", progress=False)
    return adata, "glmm"


def pseudobulk() -> tuple[ad.AnnData, str]:
    adata = cells()
    dw.tl.pseudobulk(adata, "~ condition", layer="counts", donor="donor_id", groupby="cell_type", progress=False)
    return adata, "pseudobulk"


def composition() -> tuple[ad.AnnData, str]:
    adata = cells(cell_types=tuple(f"type {i}" for i in range(14)))
    adata.donorwise.setup(donor="donor_id", cell_type="cell_type", sample="sample_id")
    dw.tl.composition(adata, "~ condition + (1 | donor_id)", progress=False)
    return adata, "composition"


def proteins() -> tuple[ad.AnnData, str]:
    adata = peptides(n_proteins=40)
    adata.obs["condition"] = np.where(adata.obs["condition"] == "case", "disease", "control")
    dw.tl.lmm(adata, "~ condition + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
    return adata, "lmm"


def kernel() -> tuple[ad.AnnData, str]:
    adata = cells()
    names = list(adata.obs["donor_id"].cat.categories)
    L = np.random.default_rng(0).normal(size=(8, 20))
    K = pd.DataFrame(L @ L.T / 20, index=names, columns=names)
    dw.tl.lmm(adata, "~ condition + (1 | gr(donor_id, cov=K)) + (1 | donor_id)", kernels={"K": K}, progress=False)
    return adata, "lmm"


FAMILIES = (lmm, weighted_scores, paired, counts, pseudobulk, composition, proteins, kernel)


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_every_family(make: Callable[[], tuple[ad.AnnData, str]]) -> None:
    adata, key = make()
    tests = dw.get.tests(adata, key=key, sort_by=None)
    names = list(dict.fromkeys(tests["variable"].astype(str)))
    third = len(names) // 3
    sets = {"first": names[:third], "others": names[third:], "few": names[:2], "all": names}
    dw.tl.gene_sets(adata, sets, key=key, min_size=3, progress=False)
    table = dw.get.gene_sets(adata, key=key, sort_by=None)
    asked = tests[["group", "contrast"]].drop_duplicates()
    assert len(table) == len(asked) * len(sets)
    assert list(table.loc[table["set"].isin(["few", "all"]), "status"].unique()) == ["too_few", "too_many"]
    done = table[table["status"] == "ok"]
    assert set(done["set"]) == {"first", "others"}
    assert done[["p_value", "statistic", "correlation", "df", "adj_p_value"]].notna().all().all()
    assert done["correlation"].between(-1, 1).all()
    n_donors = int(tests["n_donors"].max())
    assert (done["df"] > 1).all()
    assert (done["df"] < n_donors).all()
    # as camera would with these correlations
    for (group, contrast), own in done.groupby(["group", "contrast"], observed=True):
        rows = tests[(tests["group"] == group) & (tests["contrast"] == contrast) & tests["p_value"].notna()]
        z = np.sign(rows["statistic"]) * stats.norm.isf(rows["p_value"] / 2)
        for _, row in own.iterrows():
            inside = rows["variable"].isin(sets[row["set"]]).to_numpy()
            m, G = int(inside.sum()), len(z)
            delta = G / (G - m) * (z[inside].mean() - z.mean())
            pooled = ((G - 1) * z.var(ddof=1) - delta**2 * m * (G - m) / G) / (G - 2)
            vif = max(1, 1 + (m - 1) * row["correlation"])
            t = delta / np.sqrt(pooled * (vif / m + 1 / (G - m)))
            np.testing.assert_allclose(row["statistic"], t, rtol=1e-9)
            np.testing.assert_allclose(row["p_value"], 2 * stats.t.sf(abs(t), row["df"]), rtol=1e-9)
            assert row["direction"] == ("up" if t > 0 else "down")
            assert row["n_genes"] == m


def test_collapsed_rows_give_the_same() -> None:
    adata = cells()
    formula = "~ condition + (1 | donor_id)"
    rows = dw.pp.collapse(adata, ["donor_id", "condition", "cell_type"], progress=False)
    tables = []
    for own in (adata, rows):
        dw.tl.lmm(own, formula, groupby="cell_type", progress=False)
        dw.tl.gene_sets(own, {"a": adata.var_names[:30], "b": adata.var_names[20:60]}, progress=False)
        tables.append(dw.get.gene_sets(own, sort_by=None))
    pd.testing.assert_frame_equal(*tables, rtol=1e-8)


def test_an_order_of_features_does_not_matter() -> None:
    adata, _ = paired()
    sets = {"a": adata.var_names[:30], "b": adata.var_names[20:60]}
    dw.tl.gene_sets(adata, sets, progress=False)
    other = adata[:, ::-1].copy()
    dw.tl.lmm(other, "~ condition + (1 | donor_id/sample_id)", progress=False)
    dw.tl.gene_sets(other, sets, progress=False, n_jobs=2)
    pd.testing.assert_frame_equal(*(dw.get.gene_sets(own, sort_by=None) for own in (adata, other)), rtol=1e-6)


def test_a_correlation_that_is_given_needs_no_cells() -> None:
    adata, _ = lmm()
    bare = ad.AnnData(var=adata.var, uns={"lmm": adata.uns["lmm"]})
    sets = {"a": adata.var_names[:30], "b": adata.var_names[20:60]}
    for ranks in (False, True):
        dw.tl.gene_sets(bare, sets, inter_gene_cor=0.02, use_ranks=ranks)
        table = dw.get.gene_sets(bare, group="T cell", contrast=CONTRAST, sort_by=None)
        tests = dw.get.tests(adata, group="T cell", contrast=CONTRAST, sort_by=None)
        members = sparse.csr_array(np.stack([tests["variable"].isin(own) for own in sets.values()]).astype(float))
        df = np.inf if ranks else len(tests) - 2
        expected = competitive_tests(
            normal_scores(tests["p_value"].to_numpy(), tests["statistic"].to_numpy()),
            members,
            np.full(2, 0.02),
            df,
            use_ranks=ranks,
        )
        np.testing.assert_allclose(table["p_value"], expected.p_value, rtol=1e-12)
        assert (table["correlation"] == 0.02).all()
    assert "log_depth" in set(dw.get.gene_sets(bare)["contrast"])
    with pytest.raises(DataError, match="The cells are needed here"):
        dw.tl.gene_sets(bare, sets)


# where sets come from


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    adata = cells()
    adata.var["symbol"] = [f"GENE{i}" for i in range(adata.n_vars)]
    dw.tl.lmm(adata, "~ condition + log_depth + (1 | donor_id)", progress=False)
    return adata


SETS = {
    "a": [f"gene_{i:04d}" for i in range(1, 31)],
    "b": ["gene_0040", *(f"gene_{i:04d}" for i in range(50, 70)), "unknown"],
}


def test_dicts_files_and_networks_are_the_same(fitted: ad.AnnData, tmp_path: Path) -> None:
    lines = "".join(f"{name}\thttp://somewhere\t" + "\t".join(genes) + "\n" for name, genes in SETS.items())
    (tmp_path / "sets.gmt").write_text(lines + "\n")
    (tmp_path / "windows.gmt").write_text(lines.replace("\n", "\r\n"), newline="")
    with gzip.open(tmp_path / "sets.gmt.gz", "wt") as file:
        file.write(lines)
    network = pd.DataFrame(
        [(name, gene) for name, genes in SETS.items() for gene in genes], columns=["source", "target"]
    )
    symbols = {
        name: [f"GENE{int(gene[5:]) - 1}" for gene in genes if gene != "unknown"] for name, genes in SETS.items()
    }
    tables = []
    for sets, column in (
        (SETS, None),
        (str(tmp_path / "sets.gmt"), None),
        (tmp_path / "windows.gmt", None),
        (tmp_path / "sets.gmt.gz", None),
        (network, None),
        (network.assign(weight=2.0), None),
        (network.astype("category"), None),
        (symbols, "symbol"),
    ):
        dw.tl.gene_sets(fitted, sets, gene_symbols=column, progress=False)
        tables.append(dw.get.gene_sets(fitted, sort_by=None))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    assert tables[0]["n_genes"].tolist() == [30, 21] * 2


def test_negative_weights_turn_targets_around(fitted: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    """A source whose targets all have the other sign is the same set, going the other way."""
    network = pd.DataFrame({"source": "tf", "target": SETS["a"], "weight": -0.5})
    found = []
    with caplog.at_level("INFO", "donorwise"):
        for sign in (1, -1):
            dw.tl.gene_sets(fitted, network.assign(weight=sign * network["weight"]), inter_gene_cor=0.05)
            found.append(dw.get.gene_sets(fitted, contrast=CONTRAST).iloc[0])
    assert found[0]["direction"] != found[1]["direction"]
    assert "the signs count" in caplog.text
    mixed = network.assign(weight=np.where(np.arange(30) % 2, -1.0, 1.0))
    dw.tl.gene_sets(fitted, mixed, progress=False)
    assert dw.get.gene_sets(fitted)["status"].tolist() == ["ok", "ok"]


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({}, "sets= is empty"),
        (["gene_0001"], r"sets= is a list; give a dict of names and genes"),
        ({"a": "gene_0001"}, r"The set 'a' is 'gene_0001'; give a list"),
        ({"a": ["TP53"]}, r"None of the genes of sets= \(`TP53`\) is a feature of 'lmm' \(`gene_0001`, `gene_0002`, `gene_0003`, ...\)"),
        ({"a": ["GENE7"]}, r"1 names in var\['symbol'\] are genes of them: give gene_symbols='symbol'"),
        ({"a": ["GENE_0001"]}, "They differ in capitals"),
        ("nowhere.gmt", r"sets='nowhere.gmt' is no file"),
        (pd.DataFrame({"geneset": ["a"], "genesymbol": ["b"]}), r"lacks source and target and has `geneset`, `genesymbol`. Rename"),
        (pd.DataFrame({"source": ["a"], "target": ["b"], "weight": [0.0]}), "zero, missing or no numbers"),
        (pd.DataFrame({"source": ["a", "a"], "target": ["b", "b"], "weight": [1.0, -1.0]}), "twice, with weights of either sign"),
        (pd.DataFrame({"source": [], "target": []}), "sets= is empty"),
    ],
)  # fmt: skip
def test_sets_that_are_none(fitted: ad.AnnData, sets: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        dw.tl.gene_sets(fitted, sets, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b,c\n", "line 1, is not that of a GMT file"),
        ("a\tx\tgene_0001\nb\tx\n", "line 2, is not that of a GMT file"),
        ("a\tx\tgene_0001\na\tx\tgene_0002\n", "line 2: there is a set 'a' already"),
        ("", "sets= is empty"),
    ],
)
def test_files_that_are_no_gmt(fitted: ad.AnnData, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.gmt").write_text(text)
    with pytest.raises(DataError, match=told):
        dw.tl.gene_sets(fitted, tmp_path / "a.gmt", progress=False)
    (tmp_path / "b.gmt").write_bytes(b"\x89HDF\r\n\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as a GMT file"):
        dw.tl.gene_sets(fitted, tmp_path / "b.gmt", progress=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"inter_gene_cor": 1.0}, r"inter_gene_cor=1.0 must be a correlation"),
        ({"inter_gene_cor": "estimated"}, r"inter_gene_cor='estimated' must be a correlation"),
        ({"min_size": 0}, "min_size=0 must be a whole number"),
        ({"max_size": 2.5}, "max_size=2.5 must be a whole number"),
        ({"min_size": 10, "max_size": 5}, "max_size=5 is less than min_size=10"),
        ({"contrast": "nothing"}, "There is no contrast 'nothing'"),
        ({"group": "B"}, "There is no group 'B'"),
        ({"gene_symbols": "symbols"}, "adata.var has no column 'symbols'"),
        ({"key": "glmm"}, "no donorwise result 'glmm'"),
    ],
)
def test_options_that_are_none(fitted: ad.AnnData, options: dict[str, object], told: str) -> None:
    with pytest.raises(DonorwiseError, match=told):
        dw.tl.gene_sets(fitted, SETS, progress=False, **options)  # type: ignore[arg-type]


def test_other_values_are_told(fitted: ad.AnnData) -> None:
    other = fitted.copy()
    other.X = other.X[:, ::-1].copy()
    with pytest.raises(DataError, match="the same model gives other estimates"):
        dw.tl.gene_sets(other, SETS, progress=False)


def test_covariates_of_cells(caplog: pytest.LogCaptureFixture) -> None:
    """With more values than rows of a table may have, donors say nothing of their coefficient."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=2600, n_genes=30, seed=3)
    adata.obs["noise"] = np.random.default_rng(0).normal(size=adata.n_obs)
    dw.tl.lmm(adata, "~ condition + noise + (1 | donor_id)", progress=False)
    sets = {"a": adata.var_names[:12]}
    with caplog.at_level("INFO", "donorwise"):
        dw.tl.gene_sets(adata, sets, progress=False)
    assert "Left out: `noise`, covariates of cells" in caplog.text
    assert dw.get.gene_sets(adata)["contrast"].tolist() == [CONTRAST]
    with pytest.raises(DataError, match="`noise`: covariates that differ from cell to cell"):
        dw.tl.gene_sets(adata, sets, contrast="noise", progress=False)
    dw.tl.gene_sets(adata, sets, inter_gene_cor=0.01)
    assert len(dw.get.gene_sets(adata)) == 2


def test_what_was_not_tested_does_not_count() -> None:
    """Genes without a test are in no set and in no comparison; a group without any says so."""
    adata = cells()
    adata.X = adata.X.toarray()
    adata.X[:, :10] = 1.0
    adata.obs["group"] = np.where(adata.obs["condition"] == "control", "controls", "all the others")
    adata.obs.loc[adata.obs_names[:80], "group"] = "all the others"
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="group", progress=False)
    dw.tl.gene_sets(adata, SETS, progress=False)
    table = dw.get.gene_sets(adata, sort_by=None)
    assert table["group"].unique().tolist() == ["all the others", "controls"]
    assert table.loc[table["group"] == "controls", "status"].tolist() == ["not_tested"] * 2
    assert table.loc[table["group"] == "controls", "n_genes"].tolist() == [0, 0]
    assert table.loc[(table["group"] != "controls") & (table["set"] == "a"), "n_genes"].tolist() == [20]


def test_sizes(fitted: ad.AnnData) -> None:
    dw.tl.gene_sets(fitted, SETS, min_size=25, inter_gene_cor=0.01)
    assert dw.get.gene_sets(fitted, contrast=CONTRAST, sort_by=None)["status"].tolist() == ["ok", "too_few"]
    dw.tl.gene_sets(fitted, SETS, max_size=25, inter_gene_cor=0.01)
    assert dw.get.gene_sets(fitted, contrast=CONTRAST, sort_by=None)["status"].tolist() == ["too_many", "ok"]
    assert dw.get.gene_sets(fitted, contrast=CONTRAST, status="ok")["set"].tolist() == ["b"]
    assert len(dw.get.gene_sets(fitted, contrast=CONTRAST, sets="a")) == 1


# where they go


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_tables_survive(fitted: ad.AnnData, tmp_path: Path, kind: str) -> None:
    adata = dw.tl.gene_sets(fitted, {**SETS, "a/b": ["gene_0001"]}, progress=False, copy=True)
    assert adata is not None
    before = dw.get.gene_sets(adata)
    getattr(adata, f"write_{kind}")(tmp_path / "a")
    again = getattr(ad, f"read_{kind}")(tmp_path / "a")
    pd.testing.assert_frame_equal(dw.get.gene_sets(again), before, check_dtype=False, check_categorical=False)
    pd.testing.assert_frame_equal(
        dw.get.gene_sets(again[:, :5].copy()), before, check_dtype=False, check_categorical=False
    )
    assert again.uns["lmm_gene_sets"]["params"]["inter_gene_cor"] == "estimated"
    # of another result they would be wrong
    dw.tl.lmm(again, "~ condition + (1 | donor_id)", progress=False)
    with pytest.raises(DataError, match="No sets of genes were tested for 'lmm': run dw.tl.gene_sets first"):
        dw.get.gene_sets(again)


def test_reader(fitted: ad.AnnData) -> None:
    dw.tl.gene_sets(fitted, SETS, progress=False)
    table = dw.get.gene_sets(fitted)
    assert table["p_value"].is_monotonic_increasing
    assert (dw.get.gene_sets(fitted, alpha=0.9)["adj_p_value"] <= 0.9).all()
    with pytest.raises(DataError, match="There is no set 'c'"):
        dw.get.gene_sets(fitted, sets="c")
    with pytest.raises(DataError, match="sort_by: there is no column 'p'"):
        dw.get.gene_sets(fitted, sort_by="p")
    with pytest.raises(DonorwiseError, match="status='good' is not an option"):
        dw.get.gene_sets(fitted, status="good")


def test_further_names_of_a_contrast_are_not_tested_again() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=40, seed=0)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    dw.tl.test(adata, dw.pairwise("condition"), progress=False)
    sets = {"some": adata.var_names[:9]}
    dw.tl.gene_sets(adata, sets, progress=False)
    assert dw.get.gene_sets(adata)["contrast"].tolist() == ["condition[T.disease]"]
    dw.tl.gene_sets(adata, sets, contrast="condition: disease vs control", progress=False)
    assert dw.get.gene_sets(adata)["contrast"].tolist() == ["condition: disease vs control"]
