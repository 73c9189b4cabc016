"""Kernels of abundances against plain twins and scipy, their scale, and what is refused."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial.distance import pdist, squareform

import donorwise as dw
from donorwise._typing import FloatArray
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

NAMES = [f"S{i}" for i in range(12)]


@pytest.fixture(scope="module")
def taxa() -> pd.DataFrame:
    """Counts of 40 taxa in 12 samples of different depth; half are zero, one taxon is in no sample."""
    rng = np.random.default_rng(0)
    shares = rng.gamma(0.3, 1, (12, 40))
    counts = rng.poisson(shares / shares.sum(axis=1, keepdims=True) * rng.uniform(200, 5000, (12, 1)))
    counts[:, 7] = 0
    return pd.DataFrame(counts, index=NAMES, columns=[f"t{j}" for j in range(40)])


def plain(distance: FloatArray) -> FloatArray:
    """Gower's kernel by matrices."""
    n = len(distance)
    J = np.eye(n) - 1 / n
    roots, vectors = np.linalg.eigh(-0.5 * J @ distance**2 @ J)
    K = vectors @ np.diag(np.maximum(roots, 0)) @ vectors.T
    return K * (n - 1) / np.trace(J @ K @ J)


def aitchison(counts: FloatArray, added: float) -> FloatArray:
    logs = np.log(counts + added)
    return squareform(pdist(logs - logs.mean(axis=1, keepdims=True)))


def bray_curtis(counts: FloatArray) -> FloatArray:
    """Sample by sample."""
    p = counts / counts.sum(axis=1, keepdims=True)
    return np.array([[np.abs(a - b).sum() / (a + b).sum() for b in p] for a in p])


def jaccard(counts: FloatArray) -> FloatArray:
    there = counts > 0
    return np.array([[1 - (a & b).sum() / (a | b).sum() for b in there] for a in there])


def test_is_what_a_plain_twin_gives(taxa: pd.DataFrame) -> None:
    counts = taxa.drop(columns="t7").to_numpy(dtype=float)
    for method, distance in {
        "aitchison": aitchison(counts, 0.5),
        "braycurtis": bray_curtis(counts),
        "jaccard": jaccard(counts),
        "euclidean": squareform(pdist(counts)),
    }.items():
        K = dw.pp.similarity(taxa, method=method)  # type: ignore[arg-type]
        np.testing.assert_allclose(K, plain(distance), rtol=0, atol=1e-12, err_msg=method)
        assert K.index.tolist() == K.columns.tolist() == NAMES
        assert np.linalg.eigvalsh(K).min() > -1e-12
        assert np.trace(K) == pytest.approx(11)
        np.testing.assert_allclose(K.sum(), 0, atol=1e-12)
        assert K.attrs["method"] == method and K.attrs["n_samples"] == 12


def test_attrs(taxa: pd.DataFrame) -> None:
    attrs = dw.pp.similarity(taxa).attrs
    assert attrs == {
        "method": "aitchison",
        "pseudocount": 0.5,
        "n_taxa": 39,
        "n_samples": 12,
        "negative": attrs["negative"],
    }
    assert attrs["negative"] < 1e-12
    assert dw.pp.similarity(taxa, pseudocount=2).attrs["pseudocount"] == 2
    assert dw.pp.similarity(taxa + 1).attrs["pseudocount"] == 0
    shares = taxa.div(taxa.sum(axis=1), axis=0)
    smallest = shares.to_numpy()[shares.to_numpy() > 0].min()
    assert dw.pp.similarity(shares).attrs["pseudocount"] == pytest.approx(smallest / 2)


def test_negative_eigenvalues_are_counted(taxa: pd.DataFrame) -> None:
    distance = bray_curtis(taxa.to_numpy(dtype=float))
    J = np.eye(12) - 1 / 12
    roots = np.linalg.eigvalsh(-0.5 * J @ distance**2 @ J)
    expected = -roots[roots < 0].sum() / np.abs(roots).sum()
    assert dw.pp.similarity(taxa, method="braycurtis").attrs["negative"] == pytest.approx(expected, rel=1e-9)
    far = np.array([[0, 1, 1, 5], [1, 0, 1, 1], [1, 1, 0, 1], [5, 1, 1, 0]], dtype=float)
    with pytest.warns(DonorwiseWarning, match=r"\d\d% of the eigenvalues' sum is negative"):
        dw.pp.similarity(far, method="precomputed")


def test_depth_plays_no_part(taxa: pd.DataFrame) -> None:
    deeper = taxa.mul(np.arange(1, 13), axis=0)
    for method in ("braycurtis", "jaccard"):
        np.testing.assert_allclose(
            dw.pp.similarity(deeper, method=method), dw.pp.similarity(taxa, method=method), atol=1e-12
        )
    np.testing.assert_allclose(
        dw.pp.similarity(deeper + np.arange(1, 13)[:, None]), dw.pp.similarity(taxa + 1), atol=1e-12
    )


CONTAINERS: dict[str, Any] = {
    "array": lambda t: t.to_numpy(),
    "csr": lambda t: sparse.csr_matrix(t.to_numpy()),
    "adata": lambda t: ad.AnnData(t.astype(float)),
    "sparse adata": lambda t: ad.AnnData(
        sparse.csc_matrix(t.to_numpy(dtype=np.float32)), obs=pd.DataFrame(index=t.index)
    ),
    "layer": lambda t: ad.AnnData(np.zeros(t.shape), obs=pd.DataFrame(index=t.index), layers={"counts": t.to_numpy()}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(taxa: pd.DataFrame, container: str) -> None:
    K = dw.pp.similarity(CONTAINERS[container](taxa), layer="counts" if container == "layer" else None)
    np.testing.assert_allclose(K, dw.pp.similarity(taxa), rtol=0, atol=1e-12)
    assert K.index.tolist() == (NAMES if "ad" in container or container == "layer" else [str(i) for i in range(12)])


@pytest.mark.parametrize("method", ["precomputed", "unifrac-precomputed"])
def test_distances_from_elsewhere(taxa: pd.DataFrame, method: Any) -> None:
    distance = pd.DataFrame(jaccard(taxa.to_numpy()), index=NAMES, columns=NAMES)
    expected = dw.pp.similarity(taxa, method="jaccard")
    np.testing.assert_allclose(dw.pp.similarity(distance, method=method), expected, rtol=0, atol=1e-12)
    other = dw.pp.similarity(distance[NAMES[::-1]], method=method)
    pd.testing.assert_frame_equal(other, expected, rtol=0, atol=1e-12)
    assert dw.pp.similarity(distance.to_numpy(), method=method, donors=NAMES).index.tolist() == NAMES


def test_distances_of_scikit_bio(taxa: pd.DataFrame) -> None:
    stats = pytest.importorskip("skbio.diversity")
    found = stats.beta_diversity("jaccard", taxa.to_numpy() > 0, ids=NAMES)
    K = dw.pp.similarity(found, method="precomputed")
    pd.testing.assert_frame_equal(K, dw.pp.similarity(taxa, method="jaccard"), rtol=0, atol=1e-12)


def test_several_samples_of_a_donor(taxa: pd.DataFrame) -> None:
    donors = ["A", "B", "A", "C", "C", "C", *(f"D{i}" for i in range(6))]
    with pytest.raises(
        DataError, match=r"2 names more than once: `A`, `C`. Where donors have several samples, several='mean'"
    ):
        dw.pp.similarity(taxa, donors=donors)
    K = dw.pp.similarity(taxa, donors=donors, several="mean")
    assert K.index.tolist() == ["A", "B", "C", *(f"D{i}" for i in range(6))]
    assert np.trace(K) == pytest.approx(8)
    counts = taxa.drop(columns="t7").to_numpy(dtype=float)
    logs = np.log(counts + 0.5)
    places = pd.DataFrame(logs - logs.mean(axis=1, keepdims=True)).groupby(donors, sort=False).mean().to_numpy()
    np.testing.assert_allclose(K, plain(squareform(pdist(places))), rtol=0, atol=1e-12)
    adata = ad.AnnData(taxa.astype(float), obs=pd.DataFrame({"donor": pd.Categorical(donors)}, index=NAMES))
    pd.testing.assert_frame_equal(dw.pp.similarity(adata, donors="donor", several="mean"), K, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- what is refused


def changed(taxa: pd.DataFrame, row: Any, column: Any, value: float) -> pd.DataFrame:
    other = taxa.astype(float)
    other.loc[row, column] = value
    return other


@pytest.mark.parametrize("method", ["aitchison", "braycurtis", "jaccard"])
def test_samples_without_anything(taxa: pd.DataFrame, method: Any) -> None:
    with pytest.raises(DataError, match="2 samples have nothing in them: `S3`, `S9`"):
        dw.pp.similarity(changed(taxa, ["S3", "S9"], slice(None), 0), method=method)


def test_values_that_are_no_abundances(taxa: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"value -2 \(row 5, column 3\).*method='euclidean'"):
        dw.pp.similarity(changed(taxa, "S4", "t2", -2))
    dw.pp.similarity(changed(taxa, "S4", "t2", -2), method="euclidean")
    with pytest.raises(
        DataError, match=r"1 values that are missing or infinite \(the first in row 5, donor 'S4', column 3\)"
    ):
        dw.pp.similarity(changed(taxa, "S4", "t2", np.nan))
    with pytest.raises(DataError, match="Column 'genus' holds"):
        dw.pp.similarity(taxa.assign(genus="Bacteroides"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:, :-1], "Distances are square; this table has 4 rows and 3 columns"),
        (lambda d: d + np.triu(np.ones((4, 4)), 1), "not symmetric"),
        (lambda d: -d, "negative somewhere"),
        (lambda d: 1 - d, "not zero between a sample and itself"),
        (lambda d: d * np.nan, "missing or infinite"),
        (lambda d: d * 0, "All samples are the same"),
        (lambda d: d[:2, :2], "2 samples; a kernel needs three"),
    ],
)
def test_what_is_no_distance(change: Any, message: str) -> None:
    distance = 0.5 * (1 - np.eye(4))
    with pytest.raises(DataError, match=message):
        dw.pp.similarity(change(distance), method="precomputed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "unifrac"}, "choose one of .*'unifrac-precomputed'"),
        ({"pseudocount": 0}, "pseudocount=0"),
        ({"pseudocount": 1, "method": "jaccard"}, "is for method='aitchison'"),
        ({"several": "sum"}, "several='sum'"),
        ({"donors": ["A"]}, "12 rows and 1 names of donors"),
        ({"donors": "donor"}, "name parts of an AnnData"),
    ],
)
def test_options(taxa: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.pp.similarity(taxa, **options)
