"""Nothing depends on the scale of weights, on the cells of a donor, or on the units of a random slope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._dense import Dense, Term

import donorwise as dw
from donorwise._core.cells.measures import Collapsed
from donorwise._core.design.build import build_design
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Pass, Statistics

CORRELATED = "(1 + time | donor)"
RANDOM = {
    "(1 | donor)": [[0]],
    "(0 + time | donor)": [[1]],
    "(time || donor)": [[0], [1]],
    CORRELATED: [[0, 1]],
}
DONORS, VISITS = 12, 4
INVARIANT = 1e-6  # of an estimate in standard errors, of these and of p-values themselves


@dataclass(frozen=True)
class Study:
    """Visits of donors with many or few cells, known by their means: no cell is needed."""

    random: str
    cells: float  # a donor
    sd: float  # of a donor's effects, in standard errors of one that its cells leave
    seed: int
    weight: float = 1.0
    unit: float = 1.0  # of time
    origin: float = 0.0
    n_features: int = 6

    def patterns(self) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
        """One row per visit: its variables, cells, means and sums of squares about them, in units of the sd of a cell."""
        rng = np.random.default_rng(self.seed)
        donor, visit = np.repeat(np.arange(DONORS), VISITS), np.tile(np.arange(VISITS), DONORS)
        n = np.maximum(2, self.cells / VISITS * rng.uniform(0.3, 1.7, donor.size)).astype(np.int64)
        centred = visit - visit.mean()
        effects = self.sd / np.sqrt(self.cells) * rng.normal(size=(2, DONORS, self.n_features))
        mean = effects[0][donor] + centred[:, None] * effects[1][donor]
        mean = mean + rng.normal(size=mean.shape) / np.sqrt(n)[:, None]
        frame = pd.DataFrame({"donor": donor, "arm": donor % 2, "visit": visit})
        return frame, n, mean, rng.chisquare(n[:, None] - 1.0, mean.shape)

    def fit(self) -> dw.LMMFit:
        """The model of all features."""
        frame, n, mean, ss = self.patterns()
        obs = pd.DataFrame(
            {
                "donor": [f"d{i:02}" for i in frame["donor"]],
                "arm": np.where(frame["arm"], "case", "control"),
                "time": frame["visit"] * self.unit + self.origin,
            }
        )
        design = build_design(f"~ arm + time + {self.random}", obs)
        order = np.argsort(design.codes)
        n, mean, ss = n[order], mean[order], ss[order]
        nothing = np.zeros((n.size, 0))
        collapsed = Collapsed(
            n_obs=n, weight=n * self.weight, log_weight=n * np.log(self.weight), mean=mean, within_ss=ss * self.weight,
            covariate_mean=nothing, covariate_ss=nothing[:, :, None], covariate_y=np.zeros((n.size, 0, self.n_features)),
            abundance=nothing,
        )  # fmt: skip
        statistics = Statistics(design, (Pass(np.arange(self.n_features), collapsed),))
        return fit_statistics(statistics, tuple(f"g{i}" for i in range(self.n_features)))

    def twin(self, g: int) -> Dense:
        """By n x n matrices, in units of visits and without weights."""
        frame, n, mean, ss = self.patterns()
        arm, visit, donor = (frame[name].to_numpy() for name in ("arm", "visit", "donor"))
        X = np.column_stack([np.ones(len(n)), 1 - arm, visit])
        columns = np.column_stack([np.ones(len(n)), visit])
        terms = [Term(donor, columns[:, own]) for own in RANDOM[self.random]]
        return Dense(mean[:, g], X, terms, n.astype(float), n_obs=int(n.sum()), within=float(ss[:, g].sum()))


def studies(
    random: tuple[str, ...] = tuple(RANDOM), sd: tuple[float, ...] = (0.0, 0.3, 1.0, 10.0, 300.0)
) -> st.SearchStrategy[Study]:
    return st.builds(
        Study,
        random=st.sampled_from(random),
        cells=st.floats(1, 6).map(lambda power: 10.0**power),
        sd=st.sampled_from(sd),
        seed=st.integers(0, 2**32 - 1),
    )


@settings(max_examples=60)
@given(study=studies())
def test_the_optimum_is_found_with_any_number_of_cells(study: Study) -> None:
    own, rng = study.fit(), np.random.default_rng(study.seed)
    assert set(own.status) <= {"ok", "boundary"}
    for g in range(study.n_features):
        twin, theta = study.twin(g), own.theta[g]
        point = twin.at(twin.gamma(theta), reml=True)
        np.testing.assert_allclose(own.sigma2[g], point.sigma2, rtol=1e-8)
        np.testing.assert_allclose(own.vcov_beta[g], point.vcov, rtol=1e-6, atol=1e-6 * point.vcov[1, 1])
        noise = 1 / np.sqrt(study.cells)
        for size in (0.1, 1.0, 10.0):  # nothing is higher nearby, or within a few standard errors
            for near in (
                theta * (1 + 0.1 * size * rng.normal(size=theta.size)),
                theta + size * noise * rng.normal(size=theta.size),
            ):
                assert twin.at(twin.gamma(near), reml=True).loglik <= point.loglik + 1e-7 + 1e-12 * abs(point.loglik)


@settings(max_examples=60)
@given(
    study=studies(),
    weight=st.floats(-8, 8).map(lambda power: 10.0**power),
    unit=st.floats(-6, 6).map(lambda power: 10.0**power),
)
def test_units_of_weights_and_slopes(study: Study, weight: float, unit: float) -> None:
    single, other = study.fit(), replace(study, weight=weight, unit=unit).fit()
    np.testing.assert_allclose(other.sigma2, single.sigma2 * weight, rtol=INVARIANT)
    check_same(single, other, unit, 1 / study.cells)


@settings(max_examples=20)
@given(study=studies((CORRELATED,), sd=(0.0, 0.3, 1.0, 10.0)), years=st.integers(0, 3000))
def test_origin_of_a_correlated_slope(study: Study, years: int) -> None:
    """Dates are as good as visits: the variance of the intercept is another one, and nothing else."""
    single, other = study.fit(), replace(study, origin=365.25 * years).fit()
    check_same(single, other, 1.0, 1 / study.cells, names=["arm[T.control]", "time"], columns=["time"])


def check_same(
    single: dw.LMMFit,
    other: dw.LMMFit,
    unit: float,
    noise: float,
    names: Sequence[str] = ("Intercept", "arm[T.control]", "time"),
    columns: Sequence[str] = ("(Intercept)", "time"),
) -> None:
    """Statuses, estimates, tests and variances; those of time are per `unit` in the other fit."""
    assert list(other.status) == list(single.status)
    for ddf in ("kenward-roger", "satterthwaite"):
        mine, theirs = (
            fit.test({n: n for n in names}, ddf).set_index(["variable", "contrast"]) for fit in (single, other)
        )
        per = np.where(mine.index.get_level_values("contrast") == "time", unit, 1.0)
        assert ((theirs["estimate"] * per - mine["estimate"]).abs() / mine["se"]).max() < INVARIANT
        np.testing.assert_allclose(theirs["se"] * per, mine["se"], rtol=INVARIANT)
        for name in ("df", "p_value"):
            np.testing.assert_allclose(theirs[name], mine[name], rtol=INVARIANT, atol=1e-300)
    for column in columns:
        per = unit**2 if column == "time" else 1.0
        mine, theirs = (_variances(fit, column) for fit in (single, other))
        np.testing.assert_allclose(theirs * per, mine, rtol=INVARIANT, atol=INVARIANT * noise)


def _variances(fit: dw.LMMFit, column: str) -> np.ndarray:
    table = fit.varcomp()
    return table.loc[(table["column1"] == column) & (table["column2"] == ""), "variance"].to_numpy()


@pytest.mark.parametrize("random", [text for text in RANDOM if text != CORRELATED])
@pytest.mark.parametrize("weight", [1e-8, 1e3, 1e8])
def test_moderated_tests(random: str, weight: float) -> None:
    """The grid of ratios and the prior on it are relative to what a level says, too."""
    study = Study(random, 200.0, 2.0, seed=3, n_features=120)
    single, other = (s.fit().test("arm[T.control]", "moderated") for s in (study, replace(study, weight=weight)))
    for name in ("estimate", "se", "df", "p_value"):
        np.testing.assert_allclose(other[name], single[name], rtol=INVARIANT)


@pytest.mark.parametrize("weight", [1e3, 1e4, 1e5])
def test_raw_depths_as_weights(weight: float) -> None:
    """As `fit_lmm` takes them: correlated slopes had no optimum, or a wrong one."""
    rng = np.random.default_rng(0)
    donor, time = np.repeat(np.arange(12), 20), np.tile(np.arange(4), 60)
    u = rng.normal(size=(2, 12, 30))
    Y = 0.5 * u[0][donor] + 0.2 * u[1][donor] * time[:, None] + rng.normal(size=(240, 30))
    obs = pd.DataFrame({"donor": donor.astype(str), "time": time, "arm": np.where(donor % 2, "case", "control")})
    depth = rng.gamma(3, size=240)
    single = dw.fit_lmm(Y, obs, "~ arm + time + (1 + time | donor)", weights=depth)
    other = dw.fit_lmm(Y, obs, "~ arm + time + (1 + time | donor)", weights=depth * weight)
    assert list(other.status) == list(single.status) and set(single.status) <= {"ok", "boundary"}
    check_same(single, other, 1.0, 1e-3)
