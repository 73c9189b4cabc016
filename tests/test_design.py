from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix

from donorwise._core.design.build import build_design
from donorwise._core.design.independence import split_columns
from donorwise.errors import DesignError


def cells(n: int = 600, n_donors: int = 6, seed: int = 0) -> pd.DataFrame:
    """Donors D0 ... of which the first half is MS; three cell types, two samples a donor."""
    rng = np.random.default_rng(seed)
    donor = np.arange(n) % n_donors
    return pd.DataFrame(
        {
            "donor": [f"D{i}" for i in donor],
            "disease": np.where(donor < n_donors // 2, "MS", "control"),
            "sex": np.where(donor % 2 == 0, "M", "F"),
            "ct": rng.choice(["A", "B", "C"], n),
            "sample": [f"s{i}" for i in rng.integers(0, 2, n)],
            "age": donor * 3.0 + 40,
            "year": 2020 + donor % 3,
            "number": donor,
            "depth": rng.normal(size=n),
            "cell": [f"c{i}" for i in range(n)],
        },
        index=["cell"] * n,  # obs_names need not be unique
    )


def rows_of(design, values, varying):
    """The rows that a design stands for, from its patterns and covariates."""
    used = design.codes >= 0
    full = values[design.codes[used]]
    for j, k in enumerate(varying):
        if k >= 0:
            full[:, j] = design.covariates[used, k]
    return full


@pytest.mark.parametrize(
    ("fixed", "slope", "patterns"),
    [
        ("disease*ct + age", "1", 18),
        ("disease + depth", "1 + depth", 6),
        ("disease*depth + ct:depth + bs(age, df=3)", "depth*ct", 18),
        ("poly(depth, 2) + scale(age) + C(number, Treatment(1))", "0 + C(sample)", 12),
        ("np.log(year) + exp(depth) + C(sample, Treatment('s1'))", "year", 12),
        ("0 + ct", "poly(year, 2)", 18),
        ("C(year) + C(sample)", "year", 12),
    ],
)
def test_patterns_hold_the_rows_of_formulaic(fixed, slope, patterns):
    obs = cells(5000).assign(number=lambda o: o["number"] % 3)
    design = build_design(f"~ {fixed} + ({slope} | donor)", obs)
    assert design.n_patterns == patterns
    expected = model_matrix(fixed, obs)
    np.testing.assert_allclose(rows_of(design, design.X, design.varying), expected.to_numpy(float), atol=1e-12)
    term = design.random_terms[0]
    expected = model_matrix(slope, obs).to_numpy(float)
    np.testing.assert_allclose(rows_of(design, term.Z, term.varying), expected, atol=1e-12)
    levels = np.array(term.levels)[term.codes[design.codes]]
    np.testing.assert_array_equal(levels, obs["donor"])


@pytest.mark.parametrize("seed", range(3))
def test_row_order_does_not_matter(seed):
    obs = cells(300)
    order = np.random.default_rng(seed).permutation(len(obs))
    formula = "~ disease*ct + age + (age | donor:sample)"
    design, other = build_design(formula, obs), build_design(formula, obs.iloc[order])
    np.testing.assert_array_equal(other.codes, design.codes[order])
    np.testing.assert_array_equal(other.X, design.X)
    assert other.random_terms[0].levels == design.random_terms[0].levels


def test_names_and_terms():
    design = build_design("~ disease * ct + age + (1 + age | donor/sample)", cells())
    assert design.fixed_names[:3] == ("Intercept", "disease[T.control]", "ct[T.B]")
    assert design.terms == {"disease": (1,), "ct": (2, 3), "age": (4,), "disease:ct": (5, 6)}
    assert [t.label for t in design.random_terms] == ["(1 + age | donor)", "(1 + age | donor:sample)"]
    assert design.random_terms[1].levels[:2] == ("D0:s0", "D0:s1")
    assert design.numeric_means == {"age": 47.5}
    assert build_design("~ (1 | donor)", cells()).fixed_names == ("Intercept",)


def test_an_equal_cell_level_column_is_kept_once():
    design = build_design("~ depth + (depth | donor) + (0 + depth | sample)", cells(5000))
    assert design.covariates.shape == (5000, 1)
    assert design.varying == (-1, 0)
    assert [t.varying for t in design.random_terms] == [(-1, 0), (0,)]


LABELS = np.array(["a", "b", "c"])[np.arange(60) % 3]
NUMBERS = np.arange(60) % 3


@pytest.mark.parametrize(
    ("values", "names", "n_dropped"),
    [
        (NUMBERS.astype("int8"), ["v"], 0),
        (pd.array([None, *NUMBERS[1:]], dtype="Int64"), ["v"], 1),
        (np.array([None, *map(int, NUMBERS[1:])], dtype=object), ["v"], 1),
        (NUMBERS > 0, ["v[T.True]"], 0),
        (pd.array([None, *(NUMBERS[1:] > 0)], dtype="boolean"), ["v[T.True]"], 1),
        (LABELS, ["v[T.b]", "v[T.c]"], 0),
        (np.array([None, *LABELS[1:]], dtype=object), ["v[T.b]", "v[T.c]"], 1),
        (pd.array([None, *LABELS[1:]], dtype="string"), ["v[T.b]", "v[T.c]"], 1),
        (pd.Categorical(LABELS, categories=["c", "unused", "b", "a"]), ["v[T.b]", "v[T.a]"], 0),
        (pd.Categorical(LABELS, categories=["c", "b", "a"], ordered=True), ["v[T.b]", "v[T.a]"], 0),
        (pd.Categorical(np.where(NUMBERS == 0, None, LABELS)), ["v[T.c]"], 20),
        (1.6e9 + NUMBERS, ["v"], 0),  # seconds since 1970 beside an intercept are no alias of it
    ],
)
def test_types_of_columns(values, names, n_dropped):
    obs = pd.DataFrame({"g": np.repeat(np.arange(6), 10), "v": values})
    design = build_design("~ v + (1 | g)", obs)
    assert list(design.fixed_names) == ["Intercept", *names]
    assert design.n_dropped == n_dropped == np.sum(design.codes < 0)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.where(NUMBERS == 0, np.nan, NUMBERS), ("1", "2")),
        (NUMBERS + 0.5, ("0.5", "1.5", "2.5")),
        (NUMBERS > 0, ("False", "True")),
        (np.array(["a", 1, 2.5] * 20, dtype=object), ("1", "2.5", "a")),
    ],
)
def test_a_grouping_factor_is_categorical(values, levels):
    assert build_design("~ (1 | v)", pd.DataFrame({"v": values})).random_terms[0].levels == levels


def test_rows_and_missing_values_are_counted_within_rows():
    obs = cells()
    obs.iloc[:10, obs.columns.get_loc("donor")] = None
    obs.iloc[5:20, obs.columns.get_loc("depth")] = np.nan
    rows = (obs["disease"] == "MS").to_numpy()
    design = build_design("~ depth + (1 | donor)", obs, rows=rows)
    missing = (obs["donor"].isna() | obs["depth"].isna()).to_numpy()
    assert design.n_dropped == np.sum(rows & missing) > 0
    np.testing.assert_array_equal(design.codes >= 0, rows & ~missing)
    assert len(design.random_terms[0].levels) == 3
    np.testing.assert_array_equal(design.covariates[~rows], 0)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~ Disease + (1 | donor)", "`Disease` is not a column of obs; did you mean `disease`?"),
        ("~ disease + (1 | donr)", "did you mean `donor`?"),
        ("~ bs(depht, df=4) + (1 | donor)", "did you mean `depth`?"),
        ("~ zzz", "`zzz` is not a column of obs; it has `donor`, `disease`"),
        (
            "~ log_depth + (1 | donor)",
            "`log_depth` is not a column of obs; `dw.pp.log_depth(adata)` adds it (commands: --log-depth).",
        ),
        ("~ when + (1 | donor)", "`when` holds date values"),
        ("~ things + (1 | donor)", "`things` mixes types"),
        ("~ one + (1 | donor)", "`one` has one level ('x')"),
        ("~ disease + (1 | one)", "The grouping factor `one` has one level ('x')"),
        ("~ disease + (1 | cell)", "one level per row (600 of each)"),
        ("~ depth + (ct | half)", "900 random effects (300 levels x 3) for 600 rows"),
        ("~ 0 + (1 | donor)", "no fixed effect"),
        ("~ log(depth) + (1 | donor)", "`log(depth)` is not finite"),
        ("~ infinite + (1 | donor)", "`infinite` is infinite in 1 rows"),
        ("~ nothing + (1 | donor)", "No row is left: each of the 600 rows misses a value"),
        ("~ C(ct, Treatment('Z')) + (1 | donor)", "is not a level of `ct`; its levels are `A`, `B`, `C`"),
        ("~ C(depth) + (1 | donor)", "600 fixed effects need more than 600 rows"),
        # what is aliased, and with what
        ("~ disease + batch + (1 | donor)", "`batch[T.2]` is exactly the cells outside `disease[T.control]`"),
        ("~ disease + arm + (1 | donor)", "`arm[T.y]` is the same cells as `disease[T.control]`"),
        ("~ donor + disease + (1 | sample)", "`disease` never varies within a level of `donor`"),
        ("~ disease + donor + (1 | sample)", "`disease` never varies within a level of `donor`"),
        ("~ x1 + x2 + x3 + (1 | donor)", "`x3` = x1 + 2*x2"),
        ("~ x1 + x4 + (1 | donor)", "`x4` = 1 - 0.5*x1"),
        ("~ zero + (1 | donor)", "`zero` is zero in every cell"),
        ("~ constant + (1 | donor)", "`constant` has the same value in every cell"),
        ("~ disease * gap + (1 | donor)", "No cell has disease=MS and gap=B"),
        ("~ disease * hole + (1 | donor)", "No cell has disease=control and hole=A"),
        ("~ donor + (1 | donor)", "nothing is left to estimate `(1 | donor)` from"),
        ("~ disease + sex + age + year + ct*disease + C(number) + (1 | donor)", "cannot be told apart"),
    ],
)
def test_errors_name_the_column_and_the_reason(formula, message):
    obs = cells()
    ms = obs["disease"] == "MS"
    rng = np.random.default_rng(1)
    obs = obs.assign(
        when=pd.Timestamp("2020-01-01"),
        things=[{} for _ in range(len(obs))],
        one="x",
        half=np.arange(len(obs)) // 2,
        infinite=np.r_[np.inf, np.zeros(len(obs) - 1)],
        nothing=np.nan,
        batch=np.where(ms, "2", "1"),
        arm=np.where(ms, "x", "y"),
        x1=rng.normal(size=len(obs)),
        x2=rng.normal(size=len(obs)),
        zero=0,
        constant=7.0,
        gap=np.where(ms & (obs["ct"] == "B"), "A", obs["ct"]),
        hole=np.where(~ms & (obs["ct"] == "A"), "B", obs["ct"]),
    )
    obs["x3"], obs["x4"] = obs["x1"] + 2 * obs["x2"], 1 - obs["x1"] / 2
    with pytest.raises(DesignError) as caught:
        build_design(formula, obs)
    assert message in str(caught.value)


def test_one_donor_an_arm_has_no_replicates():
    obs = cells()
    with pytest.raises(DesignError, match="fit each of the 2 levels of `donor` exactly"):
        build_design("~ disease + (1 | donor)", obs, rows=obs["donor"].isin(["D1", "D4"]).to_numpy())
    with pytest.raises(DesignError, match="selection is empty"):
        build_design("~ disease + (1 | donor)", obs, rows=np.zeros(len(obs), dtype=bool))


@pytest.mark.parametrize("seed", range(20))
def test_rank(seed):
    """The columns that are kept span what all span, with offsets and scales that hide it from a naive check."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(40), rng.integers(0, 3, (40, 6)), rng.normal(size=(40, 2))])
    X = np.column_stack([X, X @ rng.integers(-1, 2, (9, 3))])[:, [0, *(1 + rng.permutation(11))]]
    rank = np.linalg.matrix_rank(X)
    X[:, 1:] = (X[:, 1:] + rng.choice([0, 2020, 1e6], 11)) * 10 ** rng.uniform(-4, 4, 11)
    names = ["Intercept", *(f"x{i}" for i in range(11))]
    independent, aliased = split_columns(X, names)
    assert len(independent) == rank
    assert sorted([*independent, *aliased]) == list(range(12))


def test_covariates_of_cells_do_not_use_up_donors():
    """As many cell-level columns as donors span the first rows of the patterns, but not the donors."""
    obs = cells(5000)
    rng = np.random.default_rng(2)
    obs = obs.assign(**{f"x{i}": rng.normal(size=len(obs)) for i in range(6)})
    design = build_design("~ x0 + x1 + x2 + x3 + x4 + x5 + (1 | donor)", obs)
    assert design.n_patterns == 6


def test_columns_not_in_the_formula_are_not_touched():
    class Forbidden(pd.DataFrame):
        def __getitem__(self, key):
            assert key in ("disease", "donor")
            return super().__getitem__(key)

    build_design("~ disease + (1 | donor)", Forbidden(cells()))
