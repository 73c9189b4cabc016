"""Studies: who is sampled when and in which arm, and what acts on the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from donorwise._typing import FloatArray, IntArray

CohortDesign: TypeAlias = Literal["case-control", "paired", "longitudinal", "stepped-wedge", "crossed"]
COHORT_DESIGNS: tuple[str, ...] = get_args(CohortDesign)

N_VISITS = 5
VISIT_INTERVAL = 0.5
"""Planned time between visits; they take place up to 0.4 intervals earlier or later."""

N_BATCHES = 4
DROPOUT = 0.12
"""Probability that a donor leaves a longitudinal study before a visit (from the third on)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of the random effects, natural log of the mean count."""

    donor: float
    slope: float
    sample: float
    batch: float


@dataclass(frozen=True, slots=True)
class Variation:
    """One random effect: its level ``codes[s]`` moves sample s by ``values[s]`` × sd × a normal deviate.

    The deviates of its levels are independent, or have the covariance ``factor @ factor.T``.
    """

    name: str
    codes: IntArray
    values: FloatArray
    sd: float
    factor: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """S samples of a study and what acts on them.

    Attributes
    ----------
    samples
        S rows of obs columns; reference levels are the first categories.
    exposure
        Shape (S,). Multiplies the effect of interest.
    time
        Shape (S,). Multiplies a trend that everybody shares.
    variations
        The random effects.
    formula, contrast
        A model that matches how the data were made, and the coefficient of interest in it.
    """

    samples: pd.DataFrame
    exposure: FloatArray
    time: FloatArray
    variations: tuple[Variation, ...]
    formula: str
    contrast: str


def plan_study(design: str, n_donors: int, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """Sample table of one of `COHORT_DESIGNS`."""
    return _PLANNERS[design](_donors(n_donors, rng), spread, rng)


def _case_control(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    samples = donors.assign(condition=_alternate(len(donors), "control", "disease"), sample_id=donors["donor_id"])
    return StudyPlan(
        samples=samples,
        exposure=_is(samples["condition"], "disease"),
        time=np.zeros(len(samples)),
        variations=(intercept("donor", samples["donor_id"], spread.donor),),
        formula="~ condition + (1 | donor_id)",
        contrast="condition[T.disease]",
    )


def paired(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """Every donor gives a control and a stimulated sample."""
    samples = donors.merge(pd.DataFrame({"condition": categories(["control", "stimulated"])}), how="cross")
    samples["sample_id"] = _join(
        samples["donor_id"], samples["condition"].map({"control": "ctrl", "stimulated": "stim"})
    )
    exposure = _is(samples["condition"], "stimulated")
    return StudyPlan(
        samples=samples,
        exposure=exposure,
        time=np.zeros(len(samples)),
        variations=_within_donor(samples, exposure, spread),
        formula="~ condition + (1 | donor_id) + (1 | sample_id)",
        contrast="condition[T.stimulated]",
    )


def _longitudinal(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """Visits around their due dates; who drops out does not come back."""
    donors = donors.assign(arm=_alternate(len(donors), "placebo", "drug"))
    samples = donors.merge(pd.DataFrame({"visit": np.arange(N_VISITS)}), how="cross")
    late = rng.uniform(-0.4, 0.4, len(samples)) * (samples["visit"] > 0)
    samples["time"] = np.round((samples["visit"] + late) * VISIT_INTERVAL, 3)
    leaves = (rng.uniform(size=len(samples)) < DROPOUT) & (samples["visit"] >= 2)
    samples = samples[~leaves.groupby(samples["donor_id"], observed=True).cummax()].reset_index(drop=True)
    samples["sample_id"] = _join(samples["donor_id"], "v" + samples["visit"].astype(str))
    time = samples["time"].to_numpy(dtype=float)
    return StudyPlan(
        samples=samples,
        exposure=_is(samples["arm"], "drug") * time,
        time=time,
        variations=_within_donor(samples, time, spread),
        formula="~ time * arm + (1 + time | donor_id) + (1 | sample_id)",
        contrast="time:arm[T.drug]",
    )


def _stepped_wedge(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """Site k is treated from period k + 1 on; all donors of a site are sampled in every period."""
    n_sites = int(np.clip(len(donors) // 3, 2, 6))
    site = np.arange(len(donors)) % n_sites
    donors = donors.assign(site=categories([f"site_{k + 1}" for k in site]), switch=site + 1)
    samples = donors.merge(pd.DataFrame({"step": np.arange(n_sites + 1)}), how="cross")
    samples["period"] = categories([f"t{step}" for step in samples["step"]])
    treated = (samples["step"] >= samples["switch"]).to_numpy()
    samples["condition"] = categories(np.where(treated, "treated", "control"), ["control", "treated"])
    samples["sample_id"] = _join(samples["donor_id"], samples["period"])
    exposure = treated.astype(float)
    site_effect = intercept("batch", samples["site"], spread.batch)
    return StudyPlan(
        samples=samples.drop(columns=["step", "switch"]),
        exposure=exposure,
        time=samples["step"].to_numpy(dtype=float) / n_sites,
        variations=(*_within_donor(samples, exposure, spread), site_effect),
        formula="~ condition + period + (1 | site) + (1 | donor_id) + (1 | sample_id)",
        contrast="condition[T.treated]",
    )


def _crossed(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    """Every donor is spread over the batches; about half of them miss one batch."""
    donors = donors.assign(condition=_alternate(len(donors), "control", "disease"))
    skipped = np.where(rng.uniform(size=len(donors)) < 0.5, rng.integers(N_BATCHES, size=len(donors)), -1)
    samples = donors.assign(skipped=skipped).merge(pd.DataFrame({"slot": np.arange(N_BATCHES)}), how="cross")
    samples = samples[samples["slot"] != samples["skipped"]].reset_index(drop=True)
    samples["batch"] = categories([f"batch_{slot + 1}" for slot in samples["slot"]])
    samples["sample_id"] = _join(samples["donor_id"], "b" + (samples["slot"] + 1).astype(str))
    return StudyPlan(
        samples=samples.drop(columns=["slot", "skipped"]),
        exposure=_is(samples["condition"], "disease"),
        time=np.zeros(len(samples)),
        variations=(
            intercept("donor", samples["donor_id"], spread.donor),
            intercept("batch", samples["batch"], spread.batch),
        ),
        formula="~ condition + (1 | donor_id) + (1 | batch)",
        contrast="condition[T.disease]",
    )


_PLANNERS: dict[str, Callable[[pd.DataFrame, Spread, np.random.Generator], StudyPlan]] = {
    "case-control": _case_control,
    "paired": paired,
    "longitudinal": _longitudinal,
    "stepped-wedge": _stepped_wedge,
    "crossed": _crossed,
}


def _donors(n_donors: int, rng: np.random.Generator) -> pd.DataFrame:
    """One row per donor; sexes are balanced within arms that alternate."""
    width = max(2, len(str(n_donors)))
    sex = np.where(np.arange(n_donors) // 2 % 2 == 0, "female", "male")
    return pd.DataFrame(
        {
            "donor_id": categories([f"D{d + 1:0{width}d}" for d in range(n_donors)]),
            "sex": categories(sex, ["female", "male"]),
            "age": rng.integers(25, 76, n_donors),
        }
    )


def _within_donor(samples: pd.DataFrame, slope: FloatArray, spread: Spread) -> tuple[Variation, ...]:
    """Random effects where a donor gives several samples: level, response and the sample's own noise."""
    donor = samples["donor_id"].cat.codes.to_numpy(dtype=np.int64)
    return (
        intercept("donor", samples["donor_id"], spread.donor),
        Variation("slope", donor, slope, spread.slope),
        Variation("sample", np.arange(len(samples)), np.ones(len(samples)), spread.sample),
    )


def intercept(name: str, group: pd.Series, sd: float) -> Variation:
    """Random effect of the categories of `group`."""
    return Variation(name, group.cat.codes.to_numpy(dtype=np.int64), np.ones(len(group)), sd)


def _alternate(n: int, first: str, second: str) -> pd.Categorical:
    return categories([(first, second)[i % 2] for i in range(n)], [first, second])


def categories(values: Iterable[str], levels: list[str] | None = None) -> pd.Categorical:
    """Categorical whose levels keep the order in which they are given or first seen."""
    return pd.Categorical(values, categories=list(dict.fromkeys(values)) if levels is None else levels)


def _join(left: pd.Series, right: pd.Series) -> pd.Categorical:
    return categories(left.astype(str) + "_" + right.astype(str))


def _is(column: pd.Series, level: str) -> FloatArray:
    return (column == level).to_numpy(dtype=float)
