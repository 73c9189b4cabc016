"""What the audit, and the warnings before a fit, say of formulas with kernels."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.audit import Audit, audit
from donorwise._core.design.binding import bind
from donorwise._core.design.formula import parse
from donorwise.errors import DesignError, DonorwiseWarning

N = 16
DONORS = [f"D{i:02d}" for i in range(N)]
KINSHIP = np.kron(np.eye(4), np.full((4, 4), 0.5)) + 0.5 * np.eye(N)
GR = "gr(donor_id, cov=grm)"
OWN = "has no random intercept of its own beside"
WITHIN = "no random term lets"


def named(K: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(K, DONORS, DONORS)


@pytest.fixture
def cells() -> ad.AnnData:
    """Every donor has both sides of a stimulus, in two visits; arms of four and twelve donors."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(N), 24)
    obs = pd.DataFrame(
        {
            "donor_id": pd.Categorical([DONORS[i] for i in donor]),
            "condition": np.where(donor % 2, "case", "control"),
            "few": np.where(donor < 4, "rare", "common"),
            "stim": np.tile(np.repeat(["no", "yes"], 12), N),
            "sample_id": [f"{DONORS[i]}_{k}" for i, k in zip(donor, np.tile(np.repeat(range(4), 6), N), strict=True)],
            "time": np.tile(np.repeat(np.arange(4.0), 6), N),
            "cell_type": np.tile(["T", "B"], 12 * N),
        },
        index=[f"c{i}" for i in range(24 * N)],
    )
    effects = np.linalg.cholesky(KINSHIP) @ rng.normal(size=(N, 5)) + rng.normal(size=(N, 5))
    return ad.AnnData(effects[donor] + rng.normal(size=(len(donor), 5)), obs=obs)


def report(cells: ad.AnnData, formula: str, K: np.ndarray = KINSHIP, **more: object) -> Audit:
    return cells.donorwise.audit(formula, kernels={"grm": named(K)}, **more)


def told(cells: ad.AnnData, formula: str, K: np.ndarray = KINSHIP, **options: object) -> list[str]:
    """Warnings of the tool."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dw.tl.lmm(cells, formula, kernels={"grm": named(K)}, progress=False, **options)
    return [str(w.message) for w in found if issubclass(w.category, DonorwiseWarning)]


def test_a_kernel_and_an_own_effect_say_different_things(cells):
    for formula in (f"~ condition + (1 | {GR}) + (1 | donor_id)", f"~ condition + (1 | donor_id) + (1 | {GR})"):
        found = report(cells, formula)
        assert not found.warnings
        assert any("these 384 cells are 16 replicates: 8 against 8" in note for note in found.notes)
    two = "~ condition + (1 | gr(donor_id, cov=grm)) + (1 | gr(donor_id, cov=mrm)) + (1 | donor_id)"
    markers = np.random.default_rng(0).normal(size=(N, 5))
    both = {"grm": named(KINSHIP), "mrm": named(markers @ markers.T / 5)}
    assert not cells.donorwise.audit(two, kernels=both).warnings


def test_what_is_redundant_within_a_kernel_is_said(cells):
    slopes = f"~ stim + (1 | donor_id) + (1 | {GR}) + (0 + stim | {GR})"
    (text,) = [w for w in report(cells, slopes).warnings if "says nothing that" in w]
    assert text.startswith(f"`(1 | {GR})` says nothing that `(0 + stim | {GR})`")
    own = f"~ stim + (1 | donor_id) + (0 + stim | donor_id) + (1 | {GR})"
    (text,) = [w for w in report(cells, own).warnings if "says nothing that" in w]
    assert text.startswith("`(1 | donor_id)` says nothing that `(0 + stim | donor_id)`")


def test_donors_need_an_effect_of_their_own(cells):
    """The kernel says what relatives share, and not what else makes the cells of a donor alike."""
    (text,) = report(cells, f"~ condition + (1 | {GR})").warnings
    assert text.startswith(f"`donor_id` {OWN} `(1 | {GR})`")
    assert text.endswith("add `(1 | donor_id)`.")
    assert told(cells, f"~ condition + (1 | {GR})") == [text]
    with_samples = report(cells, f"~ condition + (1 | {GR}) + (1 | sample_id)").warnings
    assert [OWN in w for w in with_samples] == [True]
    short = cells.donorwise.audit("~ condition + (1 | donor_id)", relmat={"donor_id": named(KINSHIP)})
    assert short.warnings[0].endswith("add `(1 | donor_id)`, and give the kernel with kernels= in place of relmat=.")
    assert not any(OWN in w for w in report(cells, f"~ donor_id + stim + (0 + stim | {GR})").warnings)


def test_the_identity_is_an_effect_of_their_own(cells):
    found = report(cells, f"~ condition + (1 | {GR})", np.eye(N))
    assert not found.warnings
    (note,) = [n for n in found.notes if "identity" in n]
    assert note.startswith("The kernel `grm` is nearly the identity")
    assert note.endswith("its share is no heritability.")
    assert not told(cells, f"~ condition + (1 | {GR})", np.eye(N))


def test_with_one_row_of_a_donor_the_residual_is_its_own(cells):
    one = cells[~cells.obs["donor_id"].duplicated()].copy()
    assert not report(one, f"~ condition + (1 | {GR})").warnings
    each = cells[~cells.obs.duplicated(["donor_id", "cell_type"])].copy()
    assert [OWN in w for w in told(each, f"~ condition + (1 | {GR})")] == [True]
    assert not told(each, f"~ condition + (1 | {GR})", groupby="cell_type")  # a model of one row of each donor
    (text,) = told(cells, f"~ condition + (1 | {GR})", groupby="cell_type")
    assert text.startswith("B, T: `donor_id` has no random intercept of its own") or text.startswith("T, B: ")


def test_a_kernel_that_is_hardly_told_is_said_of_the_groups_that_it_is_true_of(cells):
    noise = np.random.default_rng(0).normal(size=(N, N)) * 0.01
    nearly = np.eye(N) + noise + noise.T
    each = cells[~cells.obs.duplicated(["donor_id", "cell_type"])].copy()
    (text,) = told(each, f"~ condition + (1 | {GR})", nearly, groupby="cell_type")
    assert "can hardly be told from the residual, of which each level has one row" in text
    (text,) = told(cells, f"~ condition + (1 | {GR}) + (1 | donor_id)", nearly)
    assert "can hardly be told from `(1 | donor_id)`" in text
    assert text in report(cells, f"~ condition + (1 | {GR}) + (1 | donor_id)", nearly).warnings


def test_a_contrast_within_donors_needs_a_term_of_its_own(cells):
    (text,) = report(cells, f"~ stim + (1 | {GR}) + (1 | donor_id)").warnings
    assert WITHIN in text
    assert "add `(1 | donor_id:stim)`, or `(0 + stim | gr(donor_id, cov=grm))`, in place of" in text
    (text,) = report(cells, f"~ time + (1 | {GR}) + (1 | donor_id)").warnings
    assert "`(0 + time | donor_id)`, which with `(1 | donor_id)` is `(time || donor_id)`, or `(0 + time | " in text
    numbers = [w for w in report(cells, f"~ time + (1 | {GR})").warnings if WITHIN in w]
    assert "add `(time || donor_id)`, or" in numbers[0]  # with the intercept that is missing
    for term in (f"(0 + time | {GR})", "(0 + time | donor_id)"):
        assert not report(cells, f"~ time + (1 | {GR}) + (1 | donor_id) + {term}").warnings
    assert not report(cells, f"~ stim + (1 | {GR}) + (1 | donor_id) + (1 | donor_id:stim)").warnings
    frame = report(cells, f"~ stim + (0 + stim | {GR}) + (1 | donor_id)").to_frame()
    assert frame[["kind", "covered"]].values.tolist() == [["within-donor", True]]


def test_samples_that_a_kernel_ties_together_are_no_replicates(cells):
    """Unless the kernel leaves each of them an effect of its own."""
    cells.obs["tube"] = cells.obs["donor_id"].astype(str) + cells.obs["stim"]
    tubes = [f"{donor}{stim}" for donor in DONORS for stim in ("no", "yes")]
    tied = np.kron(np.eye(N), [[1.0, 0.9], [0.9, 1.0]]) + 0.1
    formula = "~ stim + (1 | donor_id) + (1 | gr(tube, cov=k))"
    for K, covered in ((tied, False), (np.eye(2 * N), True)):
        found = cells.donorwise.audit(formula, kernels={"k": pd.DataFrame(K, tubes, tubes)})
        assert found.to_frame()["covered"].tolist() == [covered]


def test_advice_keeps_the_kernels(cells):
    unequal = report(cells, f"~ few + (1 | {GR}) + (1 | donor_id)")
    assert any("`(0 + few || donor_id)` in place of `(1 | donor_id)`" in text for text in unequal.notes)
    alone = report(cells, f"~ few + (1 | {GR})")
    assert not any("in place of `(1 | donor_id)`" in text for text in (*alone.notes, *alone.warnings))
    pairs = cells[cells.obs["donor_id"].isin(DONORS[:6])].copy()
    pairs.layers["counts"] = np.ones(pairs.shape)
    for formula in (
        f"~ stim + (1 | {GR}) + (1 | donor_id) + (1 | donor_id:stim)",
        f"~ condition * stim + (1 | {GR}) + (1 | donor_id)",
    ):
        found = report(pairs, formula)
        assert not any(word in text for text in found.notes for word in ("tl.glmm", "tl.pseudobulk", "so few pairs"))


def test_kernels_that_cannot_be_used_are_a_warning_of_the_report(cells):
    lacking = named(KINSHIP).iloc[2:, 2:]
    found = cells.donorwise.audit(f"~ condition + (1 | {GR})", kernels={"grm": lacking})
    assert found.warnings[0].startswith("The kernel `grm` lacks 2 of the 16 levels in use: `D00`, `D01`.")
    broken = KINSHIP.copy()
    broken[0, 1] = broken[1, 0] = 1.9
    assert "not positive semidefinite" in report(cells, f"~ condition + (1 | {GR})", broken).warnings[0]
    same = report(cells, f"~ condition + (1 | {GR}) + (1 | donor_id)", np.eye(N))
    assert "cannot be told from `(1 | donor_id)`" in same.warnings[0]
    with pytest.raises(DesignError, match="which is not given"):
        cells.donorwise.audit(f"~ condition + (1 | {GR})")
    unbound = audit(f"~ condition + (1 | {GR})", cells.obs)
    assert "which is not given: pass kernels=" in unbound.warnings[0]


def test_what_is_said_of_matrices_is_said_by_every_door(cells):
    twins = KINSHIP.copy()
    twins[1], twins[:, 1] = twins[0], twins[:, 0]
    twins[1, 1] = twins[0, 1] = twins[1, 0] = 1.0
    formula = f"~ condition + (1 | {GR}) + (1 | donor_id)"
    (text,) = report(cells, formula, 20 * twins).warnings[:-1]
    assert "takes `D00` and `D01` for the same" in text
    found = report(cells, formula, 20 * twins)
    assert "mean diagonal of 20" in found.warnings[1]
    assert told(cells, formula, 20 * twins) == list(found.warnings)
    assert told(cells, formula, 20 * twins, groupby="cell_type") == list(found.warnings)
    with pytest.warns(DonorwiseWarning) as arrays:
        dw.fit_lmm(cells.X, cells.obs, formula, kernels={"grm": named(20 * twins)})
    assert [str(w.message) for w in arrays] == list(found.warnings)


def test_collapsed_rows_are_told_what_cells_are(cells):
    rows = dw.pp.collapse(cells, by=["donor_id", "condition", "cell_type"])
    for formula in (f"~ condition + (1 | {GR})", f"~ condition + (1 | {GR}) + (1 | donor_id)"):
        for options in ({}, {"groupby": "cell_type"}):
            assert told(rows, formula, 20 * KINSHIP, **options) == told(cells, formula, 20 * KINSHIP, **options)
        assert report(rows, formula).warnings == report(cells, formula).warnings


def test_levels_that_no_row_has_are_a_note(cells):
    more = [*DONORS, "E1"]
    K = pd.DataFrame(np.eye(N + 1), more, more)
    K.loc[DONORS, DONORS] = KINSHIP
    formula = f"~ condition + (1 | {GR}) + (1 | donor_id)"
    found = cells.donorwise.audit(formula, kernels={"grm": K})
    assert found.notes[0] == "The kernel `grm` has 1 level that no row in use has (`E1`); it is ignored."
    assert not found.warnings


def test_the_design_is_drawn(cells):
    axes = dw.pl.design(cells, f"~ condition + (1 | {GR})", kernels={"grm": named(KINSHIP)}, show=False)
    assert OWN in " ".join(axes.get_xlabel().split())


def test_kernels_change_no_arms(cells):
    plain = audit("~ condition * stim + time + (1 | donor_id)", cells.obs).to_frame().drop(columns="covered")
    tied = bind(parse(f"~ condition * stim + time + (1 | {GR})"), {"grm": named(KINSHIP)})
    pd.testing.assert_frame_equal(audit(tied, cells.obs).to_frame().drop(columns="covered"), plain)


CENTRED = "is centred: the effects of its 16 levels add up to nothing"
P = np.eye(N) - 1 / N


@pytest.mark.parametrize("random", [f"(stim | {GR})", f"(1 | {GR}) + (0 + time | {GR})", f"(0 + stim | {GR})"])
def test_slopes_that_have_no_mean_are_said(cells: ad.AnnData, random: str) -> None:
    formula = f"~ stim + time + {random} + (1 | donor_id)"
    (text,) = [text for text in told(cells, formula, P @ KINSHIP @ P) if CENTRED in text]
    assert ("of `time` is" if "time |" in random else "of `stim[") in text and "np.median(K)" in text
    centred = P @ KINSHIP @ P
    for K in (KINSHIP, centred - np.median(centred)):
        assert not [text for text in told(cells, formula, K) if CENTRED in text]


def test_centred_intercepts_are_as_others(cells: ad.AnnData) -> None:
    formula = f"~ stim + (1 | {GR}) + (1 | donor_id)"
    assert not [text for text in told(cells, formula, P @ KINSHIP @ P) if CENTRED in text]


def test_a_pair_of_twins_in_two_arms_leaves_the_test(cells: ad.AnnData) -> None:
    """Twins who are one level of the kernel divide nobody else: one pair in two arms costs no more than itself."""
    rng = np.random.default_rng(1)
    K = np.cov(rng.normal(size=(N, 60)))
    K[1], K[:, 1] = K[0], K[:, 0]  # D00 is a control, and D01 a case
    formula = f"~ condition + (1 | {GR}) + (1 | donor_id)"
    with pytest.warns(DonorwiseWarning, match="twins"):
        dw.tl.lmm(cells, formula, kernels={"grm": named(K)}, ddf="between-within", progress=False)
    tests = dw.get.tests(cells)
    assert set(tests["status"]) <= {"ok", "boundary"} and (tests["df"] == N - 2).all()


def test_families_of_one_covariance_divide_their_members(cells: ad.AnnData) -> None:
    """A kernel of sets is the factor of these: arms within families have the donors less families to go by."""
    families = np.kron(np.eye(4), np.ones((4, 4)))
    formula = f"~ condition + (1 | {GR}) + (1 | donor_id)"
    dw.tl.lmm(cells, formula, kernels={"grm": named(families)}, ddf="between-within", progress=False)
    assert (dw.get.tests(cells)["df"] == N - 4 - 1).all()
