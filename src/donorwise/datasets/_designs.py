"""Studies: who is sampled when, in which arm, and the counts of their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy import sparse

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
    """One random effect: its level ``codes[s]`` moves sample s by ``values[s]`` × sd × a normal deviate."""

    name: str
    codes: IntArray
    values: FloatArray
    sd: float


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
        variations=(_intercept("donor", samples["donor_id"], spread.donor),),
        formula="~ condition + (1 | donor_id)",
        contrast="condition[T.disease]",
    )


def _paired(donors: pd.DataFrame, spread: Spread, rng: np.random.Generator) -> StudyPlan:
    samples = donors.merge(pd.DataFrame({"condition": _categories(["control", "stimulated"])}), how="cross")
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
    donors = donors.assign(site=_categories([f"site_{k + 1}" for k in site]), switch=site + 1)
    samples = donors.merge(pd.DataFrame({"step": np.arange(n_sites + 1)}), how="cross")
    samples["period"] = _categories([f"t{step}" for step in samples["step"]])
    treated = (samples["step"] >= samples["switch"]).to_numpy()
    samples["condition"] = _categories(np.where(treated, "treated", "control"), ["control", "treated"])
    samples["sample_id"] = _join(samples["donor_id"], samples["period"])
    exposure = treated.astype(float)
    site_effect = _intercept("batch", samples["site"], spread.batch)
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
    samples["batch"] = _categories([f"batch_{slot + 1}" for slot in samples["slot"]])
    samples["sample_id"] = _join(samples["donor_id"], "b" + (samples["slot"] + 1).astype(str))
    return StudyPlan(
        samples=samples.drop(columns=["slot", "skipped"]),
        exposure=_is(samples["condition"], "disease"),
        time=np.zeros(len(samples)),
        variations=(
            _intercept("donor", samples["donor_id"], spread.donor),
            _intercept("batch", samples["batch"], spread.batch),
        ),
        formula="~ condition + (1 | donor_id) + (1 | batch)",
        contrast="condition[T.disease]",
    )


_PLANNERS: dict[str, Callable[[pd.DataFrame, Spread, np.random.Generator], StudyPlan]] = {
    "case-control": _case_control,
    "paired": _paired,
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
            "donor_id": _categories([f"D{d + 1:0{width}d}" for d in range(n_donors)]),
            "sex": _categories(sex, ["female", "male"]),
            "age": rng.integers(25, 76, n_donors),
        }
    )


def _within_donor(samples: pd.DataFrame, slope: FloatArray, spread: Spread) -> tuple[Variation, ...]:
    """Random effects where a donor gives several samples: level, response and the sample's own noise."""
    donor = samples["donor_id"].cat.codes.to_numpy(dtype=np.int64)
    return (
        _intercept("donor", samples["donor_id"], spread.donor),
        Variation("slope", donor, slope, spread.slope),
        Variation("sample", np.arange(len(samples)), np.ones(len(samples)), spread.sample),
    )


def _intercept(name: str, group: pd.Series, sd: float) -> Variation:
    return Variation(name, group.cat.codes.to_numpy(dtype=np.int64), np.ones(len(group)), sd)


def _alternate(n: int, first: str, second: str) -> pd.Categorical:
    return _categories([(first, second)[i % 2] for i in range(n)], [first, second])


def _categories(values: Iterable[str], categories: list[str] | None = None) -> pd.Categorical:
    """Categorical whose levels keep the order in which they are given or first seen."""
    return pd.Categorical(values, categories=list(dict.fromkeys(values)) if categories is None else categories)


def _join(left: pd.Series, right: pd.Series) -> pd.Categorical:
    return _categories(left.astype(str) + "_" + right.astype(str))


def _is(column: pd.Series, level: str) -> FloatArray:
    return (column == level).to_numpy(dtype=float)


SHARED = 0.5
"""Share of a random effect's variance that all cell types of a donor (sample, batch) have in common."""

SPECIFIC_FRACTION = 0.2
"""Share of the differential genes that react in one cell type only."""

MARKER_FRACTION = 0.05
TIME_FRACTION = 0.1
CHUNK = 2_000
"""Rows drawn at a time: bounds the dense working memory."""


@dataclass(frozen=True, slots=True)
class Genes:
    """True parameters of G genes in T cell types.

    Attributes
    ----------
    log_mean
        Shape (T, G). Natural log of a gene's expected share of a cell's counts, without any effect.
    dispersion
        Shape (G,). Variance of a count is ``mean + dispersion * mean**2``.
    variability
        Shape (G,). Multiplies the standard deviation of every random effect; averages 1.
    marker_of
        Shape (G,). Cell type that the gene marks, -1 for none.
    de_in
        Shape (G,). Cell type that reacts, -1 for none, T for all of them.
    log_fc
        Shape (T, G). True log2 fold change of the expected count per unit of exposure.
    time_log_fc
        Shape (G,). True log2 fold change per unit of time, whatever the exposure.
    """

    log_mean: FloatArray
    dispersion: FloatArray
    variability: FloatArray
    marker_of: IntArray
    de_in: IntArray
    log_fc: FloatArray
    time_log_fc: FloatArray


def draw_genes(
    n_types: int, n_genes: int, *, de_fraction: float, effect_size: float, has_time: bool, rng: np.random.Generator
) -> Genes:
    """Draw all gene-level parameters."""
    marker_of = np.where(rng.uniform(size=n_genes) < MARKER_FRACTION * n_types, rng.integers(n_types, size=n_genes), -1)
    log_mean = rng.normal(0.0, 1.5, n_genes) + rng.normal(0.0, 0.3, (n_types, n_genes))
    log_mean[:, marker_of >= 0] -= 0.5
    log_mean[marker_of[marker_of >= 0], np.flatnonzero(marker_of >= 0)] += 2.5
    log_mean -= np.log(np.exp(log_mean).sum(axis=1, keepdims=True))
    de_in = _choose_de(n_types, n_genes, de_fraction, rng)
    trend = rng.uniform(size=n_genes) < (TIME_FRACTION if has_time else 0.0)
    return Genes(
        log_mean=log_mean,
        dispersion=np.exp(rng.normal(np.log(0.3), 0.4, n_genes)),
        variability=np.exp(rng.normal(-0.08, 0.4, n_genes)),
        marker_of=marker_of,
        de_in=de_in,
        log_fc=_draw_effects(log_mean, de_in, effect_size, rng),
        time_log_fc=np.where(trend, rng.choice([-0.5, 0.5], n_genes), 0.0),
    )


def _choose_de(n_types: int, n_genes: int, de_fraction: float, rng: np.random.Generator) -> IntArray:
    """Which cell types react in each gene: -1 none, T all."""
    de_in = np.full(n_genes, -1, dtype=np.int64)
    chosen = rng.permutation(n_genes)[: round(de_fraction * n_genes)]
    n_specific = round(SPECIFIC_FRACTION * len(chosen)) if n_types > 1 else 0
    de_in[chosen] = n_types
    de_in[chosen[:n_specific]] = rng.integers(n_types, size=n_specific)
    return de_in


def _draw_effects(log_mean: FloatArray, de_in: IntArray, effect_size: float, rng: np.random.Generator) -> FloatArray:
    """Log2 fold changes (T, G): sizes around `effect_size`, signs that leave a cell's total count alone."""
    n_types, n_genes = log_mean.shape
    size = effect_size * rng.uniform(0.5, 1.5, size=(n_genes,))
    log_fc = np.zeros((n_types, n_genes))
    for scope in range(n_types + 1):
        types = np.arange(n_types) if scope == n_types else np.array([scope])
        genes = np.flatnonzero(de_in == scope)
        block = np.ix_(types, genes)
        share: FloatArray = np.exp(log_mean[block]).mean(axis=0)
        log_fc[block] = size[genes] * _balanced_signs(share, size[genes])
    return log_fc


def _balanced_signs(share: FloatArray, size: FloatArray) -> FloatArray:
    """Signs of log2 effects such that what goes up in a cell's total is what goes down.

    Otherwise normalising by the total would turn every other gene slightly differential.
    """
    signs = np.ones(len(share))
    total = 0.0
    for g in np.argsort(-share, kind="stable"):
        up, down = share[g] * (2.0 ** size[g] - 1.0), share[g] * (2.0 ** -size[g] - 1.0)
        signs[g] = 1.0 if abs(total + up) < abs(total + down) else -1.0
        total += up if signs[g] > 0 else down
    return signs


def draw_counts(
    plan: StudyPlan,
    genes: Genes,
    sample_codes: IntArray,
    type_codes: IntArray,
    depth: FloatArray,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Counts (cells, G) as float32 CSR.

    Parameters
    ----------
    plan, genes
        What acts on the S samples; the true parameters.
    sample_codes, type_codes
        Shape (N,). Sample (sorted) and cell type of each cell.
    depth
        Shape (N,). Expected total count of each cell.
    rng
        Source of randomness.

    Returns
    -------
    Sparse matrix with sorted indices.
    """
    effects = [_draw_levels(v, genes, rng) for v in plan.variations]
    starts = np.searchsorted(sample_codes, np.arange(len(plan.samples) + 1))
    blocks = []
    for s, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        mean = np.exp(_log_means(plan, genes, effects, s))
        for rows in _chunks(start, stop):
            blocks.append(_draw_block(depth[rows, None] * mean[type_codes[rows]], genes.dispersion, rng))
    return sparse.vstack(blocks, format="csr", dtype=np.float32)


def _draw_levels(variation: Variation, genes: Genes, rng: np.random.Generator) -> FloatArray:
    """Effects (levels, T, G) of one random term, correlated between cell types."""
    n_levels = int(variation.codes.max()) + 1
    n_types, n_genes = genes.log_mean.shape
    common = rng.standard_normal((n_levels, 1, n_genes))
    own = rng.standard_normal((n_levels, n_types, n_genes))
    return variation.sd * genes.variability * (np.sqrt(SHARED) * common + np.sqrt(1.0 - SHARED) * own)


def _log_means(plan: StudyPlan, genes: Genes, effects: list[FloatArray], s: int) -> FloatArray:
    """Natural log of the expected share of each gene in sample s, shape (T, G)."""
    log2_shift = plan.exposure[s] * genes.log_fc + plan.time[s] * genes.time_log_fc
    log_mean = genes.log_mean + np.log(2.0) * log2_shift
    for variation, effect in zip(plan.variations, effects, strict=True):
        log_mean = log_mean + variation.values[s] * effect[variation.codes[s]]
    return log_mean


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, CHUNK):
        yield slice(first, min(first + CHUNK, stop))


def _draw_block(mean: FloatArray, dispersion: FloatArray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Negative binomial as a Poisson of gamma-distributed means."""
    mean *= rng.standard_gamma(np.broadcast_to(1.0 / dispersion, mean.shape)) * dispersion
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
