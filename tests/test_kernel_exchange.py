"""Which labels a permutation may move where donors are related."""

from __future__ import annotations

from itertools import permutations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design import kernel_exchange
from donorwise._core.design.binding import bind
from donorwise._core.design.build import assemble_design
from donorwise._core.design.exchange import Exchange, find_exchange
from donorwise._core.design.formula import parse
from donorwise._core.design.permutations import arrange
from donorwise.errors import DesignError, DonorwiseError

FORMULA = "~ arm + (1 | gr(donor, cov=grm))"


def related(sizes: list[int], share: float = 0.5) -> np.ndarray:
    family = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(family[:, None] == family, share, 0.0) + (1 - share) * np.eye(len(family))


def of(K: np.ndarray, arms: str, formula: str = FORMULA, per_donor: int = 2, **more: np.ndarray) -> Exchange:
    """What moves when donors with these arms have this covariance."""
    donors = [f"d{i}" for i in range(len(K))]
    obs = pd.DataFrame({"donor": donors, "arm": list(arms)}).loc[np.repeat(np.arange(len(K)), per_donor)]
    obs["time"] = np.resize(["early", "late"], len(obs))
    obs["sample"] = obs["donor"] + obs["time"]
    given = {"grm": pd.DataFrame(K, donors, donors)} | {
        name: pd.DataFrame(own, donors, donors) for name, own in more.items()
    }
    design = assemble_design(bind(parse(formula), given), obs.reset_index(drop=True))  # whatever can be told apart
    L = np.array([float("arm" in name or "time" in name) for name in design.fixed_names])
    return find_exchange(design, obs.reset_index(drop=True), L)


def invariant(K: np.ndarray, found: Exchange, labels: np.ndarray) -> bool:
    """The naive twin: some permutation of donors gives these labels and leaves K as it is, by trying all."""
    own, new = found.labels[found.unit], labels[found.unit]  # a pattern for every donor
    return any(
        np.array_equal(own[list(p)], new) and np.allclose(K[np.ix_(p, p)], K) for p in permutations(range(len(K)))
    )


def arrangements(found: Exchange, n: int = 200) -> list[np.ndarray]:
    return [*arrange(found, n, np.random.default_rng(0), lambda labels: True).labels]


RAGGED = related([3, 2, 1])
RAGGED[2, 2] = 1.5  # no sibling of the others any more
CASES = [
    (np.eye(6), "aababb", "between-donor", 20),
    (related([2, 2, 2]), "abbbab", "between-donor", 4),
    (related([2, 2, 2]), "aabbbb", "between-family", 3),
    (related([2, 2, 1, 1]), "aabbba", "between-donor", 2),  # the two without relatives, and nobody else
    (related([3, 1, 1, 1]), "aaaabb", "between-donor", 3),
    (RAGGED, "abaabb", "between-donor", 4),
    (np.full((6, 6), 0.5) + 0.5 * np.eye(6), "aababb", "between-donor", 20),  # equally related
]


@pytest.mark.parametrize(("K", "arms", "kind", "n"), CASES)
def test_arrangements_leave_the_kernel_as_it_is(K: np.ndarray, arms: str, kind: str, n: int) -> None:
    found = of(K, arms)
    made = arrangements(found)
    assert found.kind == kind
    assert len(made) + 1 == (n if found.swap is None else n // 2)
    assert all(invariant(K, found, labels) for labels in made)


def test_every_kernel_counts() -> None:
    """A household of two in another matrix ties what genes do not."""
    household = related([1, 2, 2, 1])
    one = of(np.eye(6), "aababb", FORMULA)
    both = of(np.eye(6), "aababb", "~ arm + (1 | gr(donor, cov=grm)) + (1 | gr(donor, cov=house))", house=household)
    assert len(arrangements(both)) < len(arrangements(one))
    assert all(invariant(household, both, labels) for labels in arrangements(both))
    ragged = np.diag([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    with pytest.raises(DesignError, match="related differently"):
        of(np.eye(6), "aabbcc", "~ arm + (1 | gr(donor, cov=grm)) + (1 | gr(donor, cov=house))", house=ragged)


def test_estimates_from_genotypes_are_refused() -> None:
    rng = np.random.default_rng(1)
    G = rng.normal(size=(8, 200))
    with pytest.raises(DesignError, match=r"related differently.*Draw responses.*\(1 \| donor\) in place"):
        of(G @ G.T / 200, "aaaabbbb")


def test_labels_inside_donors() -> None:
    """What relatives share stays with the donor; their slopes on the variable do not, unless they are nobody's relatives."""
    K = related([2, 2, 2])
    found = of(K, "aabbaa", "~ time + (1 | gr(donor, cov=grm)) + (1 | sample)", per_donor=4)
    assert found.kind == "within-donor" and len(arrangements(found)) == 2**5 - 1
    slope = "~ time + (1 + time | gr(donor, cov=grm))"
    with pytest.raises(DesignError, match="share them"):
        of(K, "aabbaa", slope, per_donor=4)
    assert of(np.eye(6), "aabbaa", slope, per_donor=4).kind == "within-donor"


def test_a_kernel_of_parts_of_donors_is_refused() -> None:
    donors = [f"d{i}" for i in range(6)]
    obs = pd.DataFrame({"donor": np.repeat(donors, 4), "arm": np.repeat(list("aabbab"), 4)})
    obs["sample"] = obs["donor"] + np.resize(list("xxyy"), len(obs))
    names = obs["sample"].unique()
    K = pd.DataFrame(np.eye(len(names)) + 0.1, names, names)
    parsed = bind(parse("~ arm + (1 | donor) + (1 | gr(sample, cov=grm))"), {"grm": K})
    design = assemble_design(parsed, obs)
    with pytest.raises(DesignError, match="covariance between levels of `sample`"):
        find_exchange(design, obs, np.array([0.0, 1.0]))


def test_families_of_equal_structure_in_any_order() -> None:
    """A parent and two children, whoever comes first."""
    trio = np.array([[1.0, 0.5, 0.5], [0.5, 1.2, 0.25], [0.5, 0.25, 1.2]])
    moved = trio[np.ix_([2, 0, 1], [2, 0, 1])]
    C = np.zeros((1, 9, 9))
    for i, own in enumerate((trio, moved, related([3]))):
        C[0, 3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = own
    family = kernel_exchange.families(C)
    assert family.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert kernel_exchange.same_structure(C, family).tolist() == [0, 0, 1]
    assert kernel_exchange.alike(C).tolist() == [0, 1, 1, 2, 3, 2, 4, 4, 4]


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Three donors of each of eight families, which have one arm each."""
    rng = np.random.default_rng(0)
    K = related([3] * 8)
    donors = np.array([f"d{i:02d}" for i in range(24)])
    code = np.repeat(np.arange(24), 6)
    u = np.linalg.cholesky(K) @ rng.normal(size=(24, 120))
    obs = pd.DataFrame(
        {"donor_id": donors[code], "arm": np.repeat(list("ab"), 72), "sex": np.resize(list("fm"), 24)[code]}
    )
    obs.index = [f"c{i}" for i in range(len(obs))]
    adata = ad.AnnData(u[code] + rng.normal(size=(len(code), 120)), obs=obs)
    adata.uns["grm"] = pd.DataFrame(K, donors, donors)
    return adata


def test_calibrate_moves_families(cells: ad.AnnData) -> None:
    adata = cells.copy()
    formula = "~ arm + (1 | gr(donor_id, cov=grm))"
    dw.tl.calibrate(adata, formula, "arm[T.b]", n_permutations=20, ddf="kenward-roger", progress=False, n_jobs=1)
    (group,) = dw.get.calibration(adata, table="groups").to_dict("records")
    assert group["kind"] == "between-family" and group["n_units"] == 8 and group["n_distinct"] == 35
    given = {"relmat": {"donor_id": adata.uns.pop("grm")}}
    other = cells.copy()
    dw.tl.calibrate(
        other, "~ arm + (1 | donor_id)", "arm[T.b]", n_permutations=20, ddf="kenward-roger", progress=False, n_jobs=1, **given
    )  # fmt: skip
    pd.testing.assert_frame_equal(
        dw.get.calibration(other, table="variables"), dw.get.calibration(adata, table="variables")
    )
    with pytest.raises(DonorwiseError, match="kernels= has no meaning with model='pseudobulk'"):
        dw.tl.calibrate(other, "~ arm", "arm[T.b]", model="pseudobulk", kernels={}, progress=False)


def test_calibrate_keeps_to_strata_and_relatives(cells: ad.AnnData) -> None:
    adata = cells.copy()
    adata.obs["arm"] = np.resize(list("aab"), 24)[np.repeat(np.arange(24), 6)]
    formula = "~ arm + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"
    options = {"n_permutations": 5, "progress": False, "n_jobs": 1}
    dw.tl.calibrate(adata, formula, "arm[T.b]", **options)
    assert dw.get.calibration(adata, table="groups")["n_distinct"].tolist() == [3.0**8]
    dw.tl.calibrate(adata, formula, "arm[T.b]", strata="sex", key_added="strata", **options)
    assert dw.get.calibration(adata, key="strata", table="groups")["n_distinct"].tolist() == [2.0**8]
