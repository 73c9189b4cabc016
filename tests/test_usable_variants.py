"""Which variants can be tested in which donors, against a plain twin; and donors of the data found among genotypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from donorwise._core.kinship.donors import Matched, matched, told_unmatched
from donorwise._core.kinship.genotypes import Genotypes, of_matrix
from donorwise._core.kinship.labels import VariantLabels, texts
from donorwise._core.kinship.usable import REASONS, usable_variants
from donorwise._typing import FloatArray
from donorwise.errors import DataError


def plain(genotypes: FloatArray, maf: float, missing: float) -> tuple[list[Any], dict[str, int]]:
    """Variant by variant: position, imputed genotypes, frequency, donors known."""
    kept: list[Any] = []
    left_out = dict.fromkeys(REASONS, 0)
    for j, x in enumerate(genotypes.T):
        seen = [v for v in x if not np.isnan(v)]
        if not seen or (len(x) - len(seen)) / len(x) > missing:
            left_out["mostly_missing"] += 1
        elif max(seen) == min(seen):
            left_out["all_alike"] += 1
        elif min(sum(seen), 2 * len(seen) - sum(seen)) / (2 * len(seen)) < maf:
            left_out["rare"] += 1
        else:
            mean = sum(seen) / len(seen)
            kept.append((j, [mean if np.isnan(v) else v for v in x], mean / 2, len(seen)))
    return kept, left_out


def drawn(kind: str, n: int, seed: int) -> FloatArray:
    """200 variants of all frequencies, up to a fifth of each missing; some never seen, some the same in all."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 1, 200) ** 3
    x = rng.binomial(1 if kind == "haploid" else 2, p, (n, 200)).astype(float)
    if kind == "dosages":
        x = np.clip(x + rng.normal(0, 0.1, x.shape), 0, 2)
    x[:, :5] = 2.0
    x[:, 5:8] = np.nan
    x[rng.random(x.shape) < rng.uniform(0, 0.2, 200)] = np.nan
    return x


@pytest.mark.parametrize("kind", ["calls", "dosages", "haploid"])
@pytest.mark.parametrize(("maf", "missing"), [(0.01, 0.05), (0.0, 1.0), (0.1, 0.0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_is_what_a_plain_twin_gives(kind: str, maf: float, missing: float, order: Any) -> None:
    x = np.asarray(drawn(kind, 40, 1), order=order)
    before = x.copy()
    found = usable_variants(x, maf=maf, missing=missing)
    kept, left_out = plain(x, maf, missing)
    assert found.at.tolist() == [own[0] for own in kept] and found.at.size
    np.testing.assert_allclose(found.x, [own[1] for own in kept], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.frequency, [own[2] for own in kept], rtol=0, atol=1e-15)
    assert found.n.tolist() == [own[3] for own in kept]
    assert found.left_out.tolist() == list(left_out.values())
    assert found.n_imputed == sum(40 - own[3] for own in kept)
    assert found.x.flags.c_contiguous and found.x.dtype == np.float64
    np.testing.assert_array_equal(x, before)


def test_limits_are_shares_of_donors() -> None:
    """At a limit a variant is used, whichever allele is counted: 1 - 19/20 and 2 - 1.6 are not what they are in writing."""
    rng = np.random.default_rng(0)
    for n in (20, 40, 60, 100, 140):
        x = np.repeat([0.0, 1.0], [n - n // 5 * 2, n // 5 * 2])[:, None]  # a fifth of the alleles
        rng.shuffle(x)
        for own in (x, 2 - x):
            assert usable_variants(own, maf=0.2, missing=0).at.size == 1
            assert usable_variants(own, maf=0.2000001, missing=0).left_out.tolist() == [0, 0, 1]
        x[: n // 20] = np.nan
        assert usable_variants(x, maf=0, missing=0.05).at.size == 1
        assert usable_variants(x, maf=0, missing=0.0499).left_out.tolist() == [1, 0, 0]


def test_what_can_be_tested_depends_on_the_donors() -> None:
    x = np.array([[0, 0, 1], [1, 0, np.nan], [2, 1, 1], [1, 2, 2]], dtype=float)
    assert usable_variants(x, maf=0.01, missing=0.3).at.tolist() == [0, 1, 2]
    assert usable_variants(x[:2], maf=0.01, missing=0.3).at.tolist() == [0]
    assert usable_variants(x[[0, 2, 3]], maf=0.01, missing=0.0).at.tolist() == [0, 1, 2]
    nothing = usable_variants(x[:, :0], maf=0.01, missing=0.1)
    assert nothing.x.shape == (0, 4) and nothing.left_out.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [-9.0, -0.002, 2.002, 3.0, np.inf, -np.inf])
def test_values_that_are_no_genotypes(value: float) -> None:
    x = drawn("calls", 12, 3)
    x[7, 60] = value
    names = VariantLabels(texts([f"rs{i}" for i in range(200)]))
    genotypes = of_matrix(x, [f"D{i}" for i in range(12)], labels=names, text="The matrix")
    genotypes.checked(0, 60)
    with pytest.raises(
        DataError, match=rf"the value {value:g} \(variant 'rs60' of donor 'D7'\); genotypes are numbers"
    ):
        genotypes.checked(50, 70)
    x[7, 60] = 2.0005
    genotypes.checked(50, 70)


# ---------------------------------------------------------------- donors


def of_donors(*names: str, text: str = "study.bed") -> Genotypes:
    return Genotypes(tuple(names), 0, lambda low, high: np.zeros((len(names), high - low)), text)


def test_rows_find_their_genotypes() -> None:
    genotypes = of_donors("D4", "D1", "X", "D3", "D2")
    found = matched(genotypes, np.array(["D1", "D2", "", "D1", "D9", "D3"], dtype=object))
    assert found.rows.tolist() == [1, 4, -1, 1, -1, 3]
    assert found.rows_used.tolist() == [True, True, False, True, False, True]
    assert (found.n, found.without_genotypes, found.without_data) == (3, ("D9",), ("D4", "X"))
    assert told_unmatched(found) == [
        "1 of 4 donors has no genotypes, so that their rows are left out: `D9`.",
        "2 of 5 donors with genotypes are not in the data: `D4`, `X`.",
    ]
    assert matched(of_donors("1", "2", "3"), [3, 2, 1, 1]).rows.tolist() == [2, 1, 0, 0]
    assert told_unmatched(matched(genotypes, genotypes.donors)) == []


def test_spelling_of_those_that_are_missing() -> None:
    genotypes = of_donors("D1", "D2", "D3", "d-4")
    (lacking, more) = told_unmatched(matched(genotypes, ["D1", "D2", "D3", "D4"]))
    assert lacking.endswith(
        "left out: `D4`. `D4` is there as `d-4`: names must be the same, with spaces, zeros and capitals."
    )
    assert more == "1 of 4 donors with genotypes is not in the data: `d-4`."


@pytest.mark.parametrize(
    ("donors", "names", "message"),
    [
        ("a1 a2 a3 a4", "b1 b2 b3", r"None of the 3 donors of the data \(`b1`, `b2`, `b3`\) has genotypes, which are of `a1`, `a2`, `a3`, ...; a scan needs 3"),
        ("a1 a2 a3 a4", "b1 b2 b3", r"needs 3 or more. Names must be the same .* IID, .*not FID_IID"),
        ("a1 a2 a3 a4", "a1 a2 b3", r"2 of the 3 donors of the data \(`a1`, `a2`, `b3`\) have genotypes"),
        ("a1 a2 a3 a4", "a1", r"1 of the 1 donors of the data \(`a1`\) has genotypes"),
        ("a-1 a-2 a-3", "A1 A2 A3", r"`A1` is there as `a-1`, `A2` is there as `a-2`, `A3` is there as `a-3`: names must"),
        ("F1_d1 F1_d2 F2_d3", "d1 d2 d3", r"`F1_d1` of the genotypes has behind its first `_` the name `d1` of the other side"),
        ("d_1_d_1 d_2_d_2", "x d_1 d_2", "None of the 3 donors"),
        ("d1 d2 d3", "d1-lib1 d2-lib1 d3-lib2", r"`d1-lib1` of the data has before its first `-` the name `d1` of the other"),
        ("d1_x_3 d2_x_3 d3_x_1", "d1 d2 d3", r"`d1_x_3` of the genotypes has before its first `_` the name `d1`"),
        ("rs1 rs2 rs3", "d1 d2 d3", r"These are names of variants: rows are donors, so give its transpose"),
        ("0 1 2 3", "d1 d2 d3", r"These rows have no names: give a DataFrame with"),
        ("d1 d1 d2 d3", "d1 d2 d3", r"study.bed has 1 name more than once: `d1`. Of a person who was genotyped twice"),
    ],
)  # fmt: skip
def test_donors_that_are_not_found(donors: str, names: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        matched(of_donors(*donors.split()), names.split())


def test_doubled_names_of_plink() -> None:
    """--double-id makes FID_IID of one name."""
    with pytest.raises(DataError, match=r"`870_870` of the genotypes has behind its first `_` the name `870`"):
        matched(of_donors("870_870", "871_871", "872_872"), ["870", "871", "872"])


def test_a_million_rows_are_matched_by_their_donors() -> None:
    rng = np.random.default_rng(0)
    donors = [f"D{i}" for i in range(300)]
    which = rng.integers(0, 400, 1_000_000)
    names = np.array([*donors, *[f"E{i}" for i in range(100)]], dtype=object)[which]
    found: Matched = matched(replace(of_donors(*donors)), names)
    assert (found.rows == np.where(which < 300, which, -1)).all() and len(found.without_genotypes) == 100
