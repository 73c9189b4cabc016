"""What becomes of kernels that users give: their names, their matrices, and what is said of them before a fit."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._core.design.binding import bind
from donorwise._core.design.build import build_design
from donorwise._core.design.covariance import Kernel, semidefinite
from donorwise._core.design.formula import parse
from donorwise._core.design.given import as_kernel
from donorwise._core.design.replicates import between_within_df, known_df
from donorwise.errors import DataError, DesignError, DonorwiseWarning, FormulaError

N = 40
DONORS = [f"D{i:02d}" for i in range(N)]
ONE = "~ arm + (1 | gr(donor, cov=grm))"
OWN = f"{ONE} + (1 | donor)"
TWO = "~ arm + (1 | gr(donor, cov=grm)) + (1 | gr(donor, cov=mrm))"
RNG = np.random.default_rng(7)
MARKERS = RNG.normal(size=(N, 300))
NOISE = RNG.normal(size=(N, N))


def families(within: float = 0.5, size: int = 4) -> np.ndarray:
    family = np.arange(N) // size
    return np.where(np.eye(N) == 1, 1.0, within * (family[:, None] == family[None]))


def named(K: np.ndarray, names: list = DONORS) -> pd.DataFrame:
    return pd.DataFrame(np.array(K, dtype=float), names, names)


def table(rows: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "donor": np.repeat(DONORS, rows),
            "number": np.repeat(np.arange(N), rows),
            "arm": np.repeat(["a", "b"] * (N // 2), rows),
            "x": np.tile(np.arange(rows) % 2, N).astype(float),
            "visit": np.tile(np.where(np.arange(rows) % 2, "u", "v"), N),
        }
    )


def response(obs: pd.DataFrame, n: int = 2) -> np.ndarray:
    rng = np.random.default_rng(1)
    effects = np.linalg.cholesky(families()) @ rng.normal(size=(N, n)) + rng.normal(size=(N, n))
    return np.repeat(effects, len(obs) // N, axis=0) + rng.normal(size=(len(obs), n))


def said(formula: str, *, rows: int = 5, obs: pd.DataFrame | None = None, **given: object) -> list[str]:
    """Warnings of a fit."""
    obs = table(rows) if obs is None else obs
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dw.fit_lmm(response(obs), obs, formula, **given)
    return [str(w.message) for w in found if issubclass(w.category, DonorwiseWarning)]


def refused(formula: str, K: object, *, rows: int = 5) -> str:
    given = K if isinstance(K, dict) else {"grm": named(K)}
    obs = table(rows)
    with pytest.raises((DesignError, DataError)) as error:
        dw.fit_lmm(response(obs), obs, formula, kernels=given)
    return str(error.value)


def estimates(formula: str, obs: pd.DataFrame, **given: object) -> np.ndarray:
    return dw.fit_lmm(response(obs), obs, formula, **given).varcomp()["variance"].to_numpy()


# names


class Labelled:
    """What is used of an xarray.DataArray."""

    def __init__(self, values: pd.DataFrame, dims: tuple[str, ...] = ("donor", "donor2")) -> None:
        self.values, self.dims = values, dims

    def to_pandas(self) -> pd.DataFrame:
        return self.values


def test_every_form_of_a_matrix_gives_the_same_kernel():
    K, order = named(families()), np.random.default_rng(0).permutation(N)
    shuffled = K.iloc[order, order[::-1]]
    forms = {
        "DataFrame": (K, None),
        "columns in another order": (K.iloc[:, ::-1], None),
        "rows and columns in other orders": (shuffled, None),
        "array": (K.to_numpy(), DONORS),
        "nested lists": (K.to_numpy().tolist(), DONORS),
        "sparse": (sparse.csr_array(K.to_numpy()), {"grm": DONORS}),
        "sparse DataFrame": (K.astype(pd.SparseDtype(float, 0.0)), None),
        "table of an array": (pd.DataFrame(K.to_numpy()), DONORS),
        "float32": (K.astype(np.float32), None),
        "integers": (pd.DataFrame(np.eye(N, dtype=int), DONORS, DONORS), None),
        "xarray": (Labelled(K), None),
        "xarray without names": (Labelled(pd.DataFrame(K.to_numpy())), DONORS),
    }
    for name, (values, levels) in forms.items():
        kernel = as_kernel("grm", values, levels)
        own = np.eye(N) if name == "integers" else K.to_numpy()
        assert np.array_equal(kernel.on(DONORS), own), name


def test_an_xarray():
    xarray = pytest.importorskip("xarray")
    values = xarray.DataArray(families(), dims=("a", "b"), coords={"a": DONORS, "b": DONORS})
    assert np.array_equal(as_kernel("grm", values).on(DONORS), families())


@pytest.mark.parametrize(
    "labels", [np.arange(N), np.arange(N) * 1.0, [str(i) for i in range(N)], pd.CategoricalIndex(range(N))]
)
@pytest.mark.parametrize("kind", ["int64", "float64", "str", "category"])
def test_levels_match_as_text(labels, kind):
    obs = table().assign(number=table()["number"].astype(kind))
    K = pd.DataFrame(families(), labels, labels)
    found = estimates("~ arm + (1 | gr(number, cov=grm))", obs, kernels={"grm": K})
    np.testing.assert_allclose(found, estimates(ONE, obs, kernels={"grm": named(families())}), rtol=1e-6)


@pytest.mark.parametrize("how", ["text", "pairs"])
def test_combinations_of_two_columns(how):
    obs, levels = table(), [(d, v) for d in DONORS for v in "uv"]
    K = np.kron(families(), [[1.0, 0.5], [0.5, 1.0]])
    index = pd.MultiIndex.from_tuples(levels) if how == "pairs" else [f"{d}:{v}" for d, v in levels]
    K = pd.DataFrame(K, index, index)
    own = estimates("~ arm + (1 | gr(donor:visit, cov=grm))", obs, kernels={"grm": K})
    np.testing.assert_array_equal(own, estimates("~ arm + (1 | donor:visit)", obs, relmat={"donor:visit": K}))


def test_short_form_is_that_of_all_terms_of_its_factor():
    obs, K = table(), named(families())
    own = estimates("~ x + (1 | gr(donor, cov=k)) + (0 + x | gr(donor, cov=k))", obs, kernels={"k": K})
    np.testing.assert_array_equal(own, estimates("~ x + (1 | donor) + (0 + x | donor)", obs, relmat={"donor": K}))
    parsed = bind(parse("~ arm + (0 + arm || donor)"), relmat={"donor": K})
    assert parse(parsed.source).bars == parsed.bars


BAD_NAMES = {
    "is an array without names: pass levels=": (families(), None),
    "levels= has 39 names for the 40 rows": (families(), DONORS[1:]),
    "is given as the text 'grm'": ("grm", None),
    "other names on its rows": (pd.DataFrame(families(), DONORS, [f"{d}x" for d in DONORS]), None),
    "has two rows named 'D00'": (named(families(), [*DONORS[:-1], "D00"]), None),
    "has a row or column without a name": (named(families(), [None, *DONORS[1:]]), None),
    "make it the index: K.set_index('iid')": (named(families()).rename_axis("iid").reset_index(), None),
    "has shape (39, 40)": (named(families()).iloc[1:], None),
    "has shape (2, 2, 2)": (np.zeros((2, 2, 2)), None),
    "has the dimensions ('a',)": (Labelled(named(families()), ("a",)), None),
}


@pytest.mark.parametrize("text", BAD_NAMES)
def test_names_that_cannot_be_used(text):
    with pytest.raises(DataError) as error:
        as_kernel("grm", *BAD_NAMES[text])
    assert text in str(error.value)
    assert "'grm'" in str(error.value)


def changed(at: tuple[int, int], value: float, *, both: bool = True) -> pd.DataFrame:
    K = families()
    K[at] = value
    if both:
        K[at[::-1]] = value
    return named(K)


DISTANCES = np.sqrt(((MARKERS[:, None] - MARKERS[None]) ** 2).sum(axis=2))
BAD_VALUES = {
    "not symmetric: 'D00' and 'D01' have 0.9, and the other way round 0.5": changed((0, 1), 0.9, both=False),
    "if it is a triangle, add the other one": named(np.tril(families())),
    "missing or infinite for 'D01' and 'D02'": changed((1, 2), np.nan),
    "holds values that are not numbers": named(families()).astype(object).replace(1.0, "one"),
    "is zero throughout": named(0 * families()),
    "zeros on its diagonal, as distances have": named(DISTANCES),
}


@pytest.mark.parametrize("text", BAD_VALUES)
def test_values_that_cannot_be_used(text):
    with pytest.raises(DataError) as error:
        as_kernel("grm", BAD_VALUES[text])
    assert text in str(error.value)


def test_nothing_of_what_is_given_is_changed():
    K = named(families())
    kernel = as_kernel("grm", K)
    before = K.copy()
    kernel.values[0, 0] = 7.0
    pd.testing.assert_frame_equal(K, before)


# what the formula names, and what is given


GIVEN = {
    "names the covariance `grm`, which is not given: pass kernels={'grm': K}": (ONE, {}),
    "which is not given (did you mean `GRM`?)": (ONE, {"kernels": {"GRM": named(families())}}),
    "does not name; a random term with it is written `(1 | gr(donor, cov=grm))`": (
        "~ arm + (1 | donor)",
        {"kernels": {"grm": named(families())}},
    ),
    "written `(1 | gr(donor_id, cov=grm))`": ("~ arm", {"kernels": {"grm": named(families())}}),
    "kernels= is a dict of matrices by name": (ONE, {"kernels": named(families())}),
    "relmat= is a dict of matrices by name": ("~ arm + (1 | donor)", {"relmat": families()}),
    "there are `donor`": ("~ arm + (1 | donor)", {"relmat": {"sample": named(families())}}),
    "name covariances of their own; give these with kernels=": (ONE, {"relmat": {"donor": named(families())}}),
    "is the name of a kernel and a grouping factor": (
        "~ arm + (1 | donor) + (1 | gr(visit, cov=donor))",
        {"relmat": {"donor": named(families())}, "kernels": {"donor": named(families())}},
    ),
}


@pytest.mark.parametrize("text", GIVEN)
def test_what_is_named_and_what_is_given(text):
    formula, given = GIVEN[text]
    with pytest.raises((DesignError, DataError)) as error:
        bind(parse(formula), **given)
    assert text in str(error.value)


MISWRITTEN = {
    "~ gr(donor, cov=grm)": "right of its bar: `(1 | gr(donor, cov=name))`",
    "~ arm * gr(donor, cov=grm) + (1 | donor)": "right of its bar",
    "~ arm + (gr(donor, cov=grm) | donor)": "right of its bar",
    "~ arm + (1 | gr(donor))": "Without one leave gr() out: `(1 | donor)`",
    "~ arm + (1 | gr(donor, grm))": "Write `cov=`",
    "~ arm + (1 | gr(donor, by=sex))": "no other argument",
    "~ arm + (1 | gr(donor, cov=grm, by=sex))": "no other argument",
    "~ arm + (1 | gr(donor, cov=a, cov=b))": "two are two terms",
    "~ arm + (1 | gr(donor, cov=))": "cov= is the name that kernels= gives the matrix",
    "~ arm + (1 | gr(donor, cov=2*grm))": "a sum or multiple of matrices is a matrix of its own",
    "~ arm + (1 | gr(donor, cov=a + b))": "a sum or multiple of matrices is a matrix of its own",
    "~ arm + (1 | gr(donor, cov='grm'))": "without quotes",
    "~ arm + (1 | gr(donor, cov=1))": "cov= is the name",
    "~ arm + (1 | gr(cov=grm))": "The grouping factor is missing",
    "~ arm + (1 | gr())": "The grouping factor is missing",
    "~ arm + (1 | gr(a/b, cov=grm))": "belongs to one grouping factor",
    "~ arm + (1 | gr(a, cov=grm)/b)": "stands alone right of the bar",
    "~ arm + (1 | a:gr(b, cov=grm))": "stands alone right of the bar",
    "~ arm + (1 | gr(a, cov=x) + gr(a, cov=y))": "several factors are several terms",
    "~ arm + (1 | gr(a, cov=x)) + (1 | gr(a, cov=x))": "is in the formula twice",
}


@pytest.mark.parametrize("formula", MISWRITTEN)
def test_formulas_that_are_miswritten(formula):
    with pytest.raises(FormulaError) as error:
        parse(formula)
    assert MISWRITTEN[formula] in str(error.value)
    assert "^" in str(error.value)


def test_a_column_may_be_called_gr():
    assert parse("~ gr + (1 | gr)").bars[0].group == ("gr",)
    assert parse("~ 1 + (1 | gr(a:b, cov=`my k`))").bars[0].factor == "gr(a:b, cov=`my k`)"


# levels


def test_levels_that_a_kernel_lacks():
    text = refused(ONE, {"grm": named(families()).iloc[3:, 3:]})
    assert "lacks 3 of the 40 levels in use: `D00`, `D01`, `D02`. It has 37" in text
    assert "is there as" not in text
    for rename, close in {
        str.lower: "`D00` is there as `d00`",
        lambda d: f" {d}": "`D00` is there as ` D00`",
        lambda d: d.replace("D", "D_"): "`D00` is there as `D_00`",
    }.items():
        assert close in refused(ONE, {"grm": named(families(), [rename(d) for d in DONORS])})
    padded = named(families(), [f"{i:02d}" for i in range(N)])
    with pytest.raises(DesignError, match="lacks 10 of the 40 levels.*`0` is there as `00`"):
        dw.fit_lmm(response(table()), table(), "~ arm + (1 | gr(number, cov=grm))", kernels={"grm": padded})


def test_levels_that_no_row_has_are_counted_once(caplog):
    more = [*DONORS, "E1", "E2"]
    K = pd.DataFrame(np.eye(N + 2) + 0.3, more, more)
    K.loc[DONORS, DONORS] = families()
    with caplog.at_level(logging.INFO, "donorwise"):
        assert not said(ONE, kernels={"grm": K})
    assert [r.getMessage() for r in caplog.records if "kernel" in r.getMessage()] == [
        "The kernel `grm` has 2 levels that no row in use has (`E1`, `E2`); they are ignored."
    ]


# matrices on the levels in use


def test_nearly_semidefinite_is_clipped_and_said():
    centred = MARKERS - MARKERS.mean(axis=0)
    G = centred @ centred.T / 300
    low = G - 1e-6 * np.eye(N)
    (text,) = said(ONE, kernels={"grm": named(low)})
    assert "negative eigenvalues on the levels in use" in text
    assert "taken to be zero" in text
    values = np.linalg.eigvalsh(semidefinite(low))
    assert values[0] > -1e-12
    np.testing.assert_allclose(semidefinite(low), low, atol=1e-5)
    assert semidefinite(G) is G
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clipped = estimates(OWN, table(), kernels={"grm": named(low)})
    np.testing.assert_allclose(clipped, estimates(OWN, table(), kernels={"grm": named(G)}), rtol=1e-4, atol=1e-6)


def test_what_is_no_covariance_is_refused():
    text = refused(ONE, {"grm": changed((0, 1), 1.9)})
    assert "not positive semidefinite on the 40 levels in use (its eigenvalues go from -0.9 to 3.4" in text
    assert "values.clip(0)" in text
    holes = np.random.default_rng(0).random(MARKERS.shape) < 0.8
    seen = np.where(holes, MARKERS, np.nan)
    pairwise = pd.DataFrame(seen.T[:60]).corr(min_periods=5)
    assert "pairwise complete" in refused(ONE, {"grm": named(pairwise.to_numpy())})


def test_only_the_levels_in_use_are_looked_at():
    more = [*DONORS, "E1", "E2"]
    K = pd.DataFrame(np.eye(N + 2), more, more)
    K.loc[DONORS, DONORS] = families()
    K.loc["E1", "E2"] = K.loc["E2", "E1"] = 3.0
    assert not said(ONE, kernels={"grm": K})


def test_eigenvalues_are_those_of_the_levels_and_computed_once(monkeypatch):
    kernel = as_kernel("grm", named(families()))
    calls, values = [], np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda K: calls.append(len(K)) or values(K))
    for _ in range(3):
        assert kernel.extremes(DONORS[:10]) == pytest.approx((0.5, 2.5))
    kernel.extremes(tuple(DONORS))
    assert calls == [10, N]


def test_one_person_twice():
    G = MARKERS @ MARKERS.T / 300
    copies = MARKERS.copy()
    copies[[9, 17]] = copies[[3, 20]]
    assert not said(ONE, kernels={"grm": named(G)})
    (text,) = said(ONE, kernels={"grm": named(copies @ copies.T / 300)})
    assert "takes `D03` and `D09`, `D17` and `D20` for the same" in text
    assert not said(ONE, kernels={"grm": named(families(1.0))})  # families
    (text,) = said(ONE, kernels={"grm": named(G + 5000)})  # what all have in common makes nobody a twin
    assert "mean diagonal of 5e+03" in text
    (text,) = said(ONE, kernels={"grm": named(copies @ copies.T / 300 + 1)})
    assert "takes `D03` and `D09`, `D17` and `D20` for the same" in text


def test_zero_rows_and_other_scales():
    K = families()
    K[0] = K[:, 0] = 0.0
    assert any("variance of zero for `D00`" in text for text in said(ONE, kernels={"grm": named(K)}))
    (text,) = said(OWN, kernels={"grm": named(200 * families())})
    assert "mean diagonal of 200" in text
    assert "Divide the kernel by 200" in text
    assert "mean diagonal of 0.05" in said(OWN, kernels={"grm": named(0.05 * families())})[0]
    assert not said(OWN, kernels={"grm": named(0.5 * families())})


@pytest.mark.parametrize(
    ("K", "rank"),
    [(np.ones((N, N)), 1), ((np.arange(N)[:, None] % 2 == np.arange(N)[None] % 2) * 1.0, 2)],
    ids=["all alike", "the arms"],
)
def test_kernels_that_fixed_effects_give(K, rank):
    text = refused(ONE, K)
    assert f"where its rank is {rank}, so nothing is left" in text
    assert "(1 | gr(donor, cov=grm))" in text


# what can be told apart


def test_an_identity_is_the_donors_own_effect():
    assert not said(ONE, kernels={"grm": named(np.eye(N))})
    for K in (np.eye(N), 3 * np.eye(N), np.eye(N) + 0.4):  # what all share is the intercept
        assert "cannot be told from `(1 | donor)`" in refused(OWN, K)
        assert "cannot be told from the residual, of which each level has one row" in refused(ONE, K, rows=1)
    slopes = "~ x + (0 + x | gr(donor, cov=grm)) + (0 + x | donor) + (1 | donor)"
    assert "`(0 + x | gr(donor, cov=grm))` cannot be told from `(0 + x | donor)`" in refused(slopes, np.eye(N))
    both = "~ x + (1 + x | gr(donor, cov=grm)) + (1 + x | donor)"
    assert "cannot be told from `(1 + x | donor)`" in refused(both, np.eye(N))
    by_another_name = table().assign(person=table()["donor"])
    with pytest.raises(DesignError, match=r"cannot be told from `\(1 \| person\)`"):
        dw.fit_lmm(
            response(by_another_name), by_another_name, f"{ONE} + (1 | person)", kernels={"grm": named(np.eye(N))}
        )


def test_nearly_an_identity():
    unrelated = np.eye(N) + 0.01 * (NOISE + NOISE.T)
    assert not said(ONE, kernels={"grm": named(unrelated)})
    for formula, rows, other in ((OWN, 5, "`(1 | donor)`"), (ONE, 1, "the residual")):
        (text,) = said(formula, rows=rows, kernels={"grm": named(unrelated)})
        assert f"`(1 | gr(donor, cov=grm))` can hardly be told from {other}" in text
        assert "nearly the identity" in text
    tiny = np.eye(N) + 0.002 * (NOISE + NOISE.T)
    assert "no two levels are related (at most 0.0" in said(OWN, kernels={"grm": named(tiny)})[0]
    for formula, rows in ((OWN, 5), (ONE, 1)):
        assert not said(formula, rows=rows, kernels={"grm": named(families())})


def test_the_standard_error_that_is_said_is_that_of_a_fit():
    """With one row a level, sigma2 = 1 and K of unit mean eigenvalue beside the intercept: the information of a dense model."""
    K = np.eye(N) + 0.02 * (NOISE + NOISE.T)
    P = np.eye(N) - 1 / N - np.outer(sign := np.tile([1.0, -1.0], N // 2), sign) / N
    M = P @ K @ P
    M *= (N - 2) / np.trace(M)
    information = 0.5 * np.array([[np.sum(a * b) for a in (M, P)] for b in (M, P)])
    # K's variance and the residual's are h and 1 - h: their difference at a sum that is free
    expected = np.sqrt(np.linalg.inv(information)[0, 0])
    (text,) = said(ONE, rows=1, kernels={"grm": named(K)})
    assert f"is {expected:.1g} at best" in text


def test_two_kernels_that_are_the_same():
    low = MARKERS[:, :20] @ MARKERS[:, :20].T / 20
    G = MARKERS @ MARKERS.T / 300
    for formula in (TWO, f"{TWO} + (1 | donor)"):
        assert "correlation 1 of their entries" in refused(formula, {"grm": named(low), "mrm": named(2 * low)})
        (text,) = said(formula, kernels={"grm": named(low), "mrm": named(0.7 * low + 0.6 * G)})
        assert "`grm` and `mrm` are nearly the same on the levels in use (correlation 0.9" in text
        assert not said(formula, kernels={"grm": named(families()), "mrm": named(low)})
    own = {"grm": named(low), "mrm": named(low + np.eye(N))}
    assert "correlation 1" in refused(f"{TWO} + (1 | donor)", own)
    (text,) = said(TWO, kernels=own)
    assert "correlation 1.00" in text
    three = f"{TWO} + (1 | gr(donor, cov=both))"
    sums = {"grm": named(families()), "mrm": named(low), "both": named(families() + low)}
    assert "is made up of theirs" in refused(three, sums)


def test_beside_one_row_the_residual_is_the_own_effect():
    obs = table(1)
    with pytest.raises(DesignError, match=r"`\(1 \| donor\)` has one level per row.*leave the term out"):
        dw.fit_lmm(response(obs), obs, OWN, kernels={"grm": named(families())})


# degrees of freedom


def test_a_kernel_of_families_has_the_degrees_of_freedom_of_families():
    obs = table().assign(family=lambda t: t["number"] // 4, arm=lambda t: np.where(t["number"] // 4 % 2, "a", "b"))
    plain = build_design("~ arm + (1 | family)", obs)
    L, n = np.eye(2), len(obs)
    tied = {cov: build_design(bind(parse(ONE), {"grm": named(K)}), obs) for cov, K in
            {"families": families(1.0), "relatives": families(), "own": np.eye(N)}.items()}  # fmt: skip
    expected = between_within_df(plain, n, L)
    np.testing.assert_array_equal(between_within_df(tied["families"], n, L), expected)
    donors = between_within_df(build_design("~ arm + (1 | donor)", obs), n, L)
    for name in ("relatives", "own"):
        np.testing.assert_array_equal(known_df(tied[name], n, L), donors)
    both = build_design(bind(parse(OWN), {"grm": named(families(1.0))}), obs)
    two = build_design("~ arm + (1 | family) + (1 | donor)", obs)
    np.testing.assert_array_equal(between_within_df(both, n, L), between_within_df(two, n, L))


# through an AnnData


@pytest.fixture
def cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=16, n_cells=800, n_genes=8, seed=1)
    dw.pp.log_depth(adata)
    return adata


def of_cells(adata: ad.AnnData) -> pd.DataFrame:
    donors = list(adata.obs["donor_id"].cat.categories)
    K = np.kron(np.eye(4), np.full((4, 4), 0.5)) + 0.5 * np.eye(16)
    return pd.DataFrame(K, donors, donors)


CELLS = "~ condition + log_depth + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"


def results(adata: ad.AnnData, formula: str = CELLS, **given: object) -> pd.DataFrame:
    dw.tl.lmm(adata, formula, progress=False, **given)
    return dw.get.tests(adata).drop(columns=["group"], errors="ignore")


def test_a_kernel_by_all_its_ways_into_tl(cells):
    K, donors = of_cells(cells), list(of_cells(cells).index)
    expected = results(cells, kernels={"grm": K})
    people = ad.AnnData(np.zeros((16, 1), dtype=np.float32), obs=pd.DataFrame(index=donors))
    people.obsp["grm"] = sparse.csr_matrix(K.to_numpy())
    ways = {
        "array": {"kernels": {"grm": K.to_numpy()}, "levels": donors},
        "an AnnData of donors": {"kernels": {"grm": people}},
        "reordered": {"kernels": {"grm": K.iloc[::-1, ::-1]}},
    }
    for name, given in ways.items():
        pd.testing.assert_frame_equal(results(cells, **given), expected, obj=name)
    accessor = cells.copy()
    accessor.donorwise.lmm(CELLS, kernels={"grm": K.to_numpy()}, levels={"grm": donors}, progress=False)
    pd.testing.assert_frame_equal(dw.get.tests(accessor).drop(columns=["group"], errors="ignore"), expected)
    cells.uns["grm"] = K
    pd.testing.assert_frame_equal(results(cells), expected)
    cells.uns["other"] = cells.uns.pop("grm")
    pd.testing.assert_frame_equal(results(cells, kernels={"grm": "other"}), expected)
    with pytest.raises(DataError, match=r"no kernel 'none' in obsp or uns of adata \(`other`\)"):
        results(cells, kernels={"grm": "none"})


def test_an_entry_of_obsp(cells):
    K = of_cells(cells)
    first = cells[~cells.obs["donor_id"].duplicated()].copy()
    first.obsp["grm"] = K.loc[first.obs["donor_id"].astype(str), first.obs["donor_id"].astype(str)].to_numpy()
    formula = "~ condition + (1 | gr(donor_id, cov=grm))"
    by_name = results(first, formula)
    pd.testing.assert_frame_equal(by_name, results(first, formula, kernels={"grm": K}))
    cells.obsp["grm"] = sparse.eye_array(cells.n_obs).tocsr()
    with pytest.raises(DataError, match=r"a kernel has one row for each level. Keep it in an AnnData of donors"):
        results(cells)


def test_a_group_whose_donors_the_kernel_lacks_is_not_fitted(cells):
    types = cells.obs["cell_type"].cat.categories
    alone = cells[(cells.obs["cell_type"] == types[0]) | (cells.obs["donor_id"] != "D01")].copy()
    K = of_cells(cells).drop(index="D01", columns="D01")
    with pytest.warns(DonorwiseWarning, match="lacks 1 of the 16 levels in use: `D01`"):
        dw.tl.lmm(alone, CELLS, groupby="cell_type", kernels={"grm": K}, progress=False)
    tests = dw.get.tests(alone)
    lost = tests[tests["group"] == types[0]]
    assert (lost["status"] == "not_estimable").all()
    assert (tests.loc[tests["group"] != types[0], "status"] != "not_estimable").all()
    assert "lacks 1 of the" in str(alone.uns["lmm"]["params"]["reasons"])


OTHERS = {
    "dw.tl.glmm": lambda a, f: dw.tl.glmm(a, f, layer="counts", progress=False),
    "dw.tl.composition": lambda a, f: dw.tl.composition(a, f, progress=False),
    "dw.tl.pseudobulk": lambda a, f: dw.tl.pseudobulk(a, f, progress=False),
    "dw.fit_glmm": lambda a, f: dw.fit_glmm(a.layers["counts"], a.obs, f, family="poisson"),
    "dw.tl.glmm ": lambda a, f: a.donorwise.audit(f, family="nb"),
}


@pytest.mark.parametrize("door", OTHERS)
def test_other_models_take_no_kernel(cells, door):
    cells.uns["grm"] = of_cells(cells)
    with pytest.raises(DesignError) as error:
        OTHERS[door](cells, "~ condition + (1 | gr(donor_id, cov=grm))")
    text = str(error.value)
    assert text.startswith(f"{door.strip()} takes no known covariance")
    assert f"dw.{'fit' if 'fit' in door else 'tl.'}" in text.split("with ")[1]
    assert text.endswith("independent: `(1 | donor_id)`.")


def test_the_audit_of_another_family_takes_no_kernel(cells):
    with pytest.raises(DesignError, match="family='nb' and kernels="):
        cells.donorwise.audit("~ condition + (1 | donor_id)", family="nb", kernels={"grm": of_cells(cells)})


def test_a_bound_formula_keeps_its_kernel(cells):
    from donorwise._anndata.kernels import with_kernels

    bound = with_kernels(cells, CELLS, {"grm": of_cells(cells)})
    cells.uns["grm"] = 2 * of_cells(cells)
    assert with_kernels(cells, bound).bars[0].kernel is bound.bars[0].kernel
    assert isinstance(bound.bars[0].kernel, Kernel)


@pytest.mark.parametrize(
    ("values", "levels", "text"),
    [
        (Path("study.csv"), None, "is PosixPath.*not a matrix.*read_relatedness"),
        (None, None, "is None, and not a matrix"),
        (np.eye(3), "donor_id", "levels='donor_id' is a text"),
        (np.eye(3), {"gmr": ["a", "b", "c"]}, "without names .levels= has those of `gmr`."),
    ],
)
def test_what_is_no_matrix_or_has_no_names(values: object, levels: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        as_kernel("grm", values, levels)


@pytest.mark.parametrize("between", [";", " "])
def test_gr_without_its_comma(between: str) -> None:
    with pytest.raises(FormulaError, match="A comma stands between"):
        parse(f"~ age + (1 | gr(donor{between}cov=grm))")


def test_a_constant_kernel_without_an_intercept() -> None:
    """All levels share one effect: nothing is between them, with the intercept or without."""
    obs = pd.DataFrame({"d": np.repeat(list("abcdef"), 4), "x": np.arange(24.0)})
    K = pd.DataFrame(np.ones((6, 6)), list("abcdef"), list("abcdef"))
    with pytest.raises(DesignError, match="same number for every pair of the 6 levels"):
        dw.fit_lmm(np.random.default_rng(0).normal(size=(24, 2)), obs, "~ 0 + x + (1 | gr(d, cov=K))", kernels={"K": K})
