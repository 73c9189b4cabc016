"""What is asked of the methods, and whether they meet it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

MODERATED, PSEUDOBULK = "LMM moderated", "pseudobulk"
DONOR_FIXED = "pseudobulk, donor fixed"  # where every donor has both conditions
COUNTS = ("GLMM nb", "GLMM poisson")
DETECTED = ("GLMM detected, logit", "GLMM detected, cloglog")
COMPETITORS = ("edgeR-QL", "limma-trend", "voom")
COUNT_COMPETITORS = (PSEUDOBULK, DONOR_FIXED, "edgeR-QL")  # of the models of counts
WRONG = ("naive t (scanpy)", "LMM z", "LMM satterthwaite", "NEBULA")
_TYPE1 = "type1@0.05"


@dataclass(frozen=True, slots=True)
class Aim:
    """A measure that should lie in an interval; `each`: on every data set, not on average."""

    scenario: str
    measure: str
    low: float
    high: float
    methods: tuple[str, ...] = (MODERATED, PSEUDOBULK, DONOR_FIXED)
    each: bool = False


AIMS = (
    *(
        Aim("A", f"type1@{level:g}", low * level, high * level, (MODERATED,))
        for level, low, high in ((0.05, 0.95, 1.05), (0.01, 0.9, 1.1), (1e-3, 0.8, 1.25), (1e-4, 0.5, 1.6))
    ),
    Aim("B", _TYPE1, 0.044, 0.056),
    Aim("B", "fdp", 0, 0.06),
    Aim("C", _TYPE1, 0.03, 0.075, each=True),
    Aim("D", _TYPE1, 0.04, 0.06),
    Aim("E", _TYPE1, 0.04, 0.056),
    Aim("E", "fdp", 0, 0.06),
    Aim("F", _TYPE1, 0.04, 0.055, (MODERATED,)),
    Aim("F", "type1@0.001", 0.0003, 0.0016, (MODERATED,)),
    Aim("F", _TYPE1, 0.04, 0.056, (PSEUDOBULK,)),
    *(
        Aim(scenario, measure, low, high, methods)
        for scenario, methods in (
            ("B", COUNTS + DETECTED),
            ("C", (*COUNTS, DETECTED[1])),
            ("E", COUNTS),
            ("F", (*COUNTS, DETECTED[1])),
        )
        for measure, (low, high) in {
            _TYPE1: (0.044, 0.056),
            "type1@0.001": (5e-4, 1.6e-3),
            "fdp": (0.0, 0.06),
            **{f"{_TYPE1} q{i}": (0.03, 0.065) for i in (1, 2, 3, 4)},
        }.items()
    ),
    Aim("D", _TYPE1, 0.04, 0.06, COUNTS),
    Aim("D", f"{_TYPE1} <1", 0.03, 0.065, COUNTS + DETECTED),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim beside the number that was measured, from `smallest` to `largest`, and its standard error."""

    where: str
    method: str
    measure: str
    low: float
    high: float
    smallest: float
    largest: float
    se: float

    @property
    def met(self) -> bool:
        """Whether all that was measured lies within the aim."""
        return self.low <= self.smallest and self.largest <= self.high

    @property
    def text(self) -> str:
        """Whether the aim is met; a miss of less than two standard errors may be chance."""
        if self.met:
            return "met"
        miss = max(self.low - self.smallest, self.largest - self.high)
        return "missed, by < 2 se" if miss < 2 * self.se else "MISSED"

    def row(self) -> dict[str, object]:
        """For the table."""
        one = self.smallest == self.largest
        found = f"{self.smallest:.3g} +- {self.se:.1g}" if one else f"{self.smallest:.3g} to {self.largest:.3g}"
        aim = f">= {self.low:.3g}" if np.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"
        about = {"where": self.where, "method": self.method, "measure": self.measure}
        return {**about, "aim": aim, "found": found, "": self.text}


def judge(summary: pd.DataFrame, methods: tuple[str, ...] | None = None) -> list[Verdict]:
    """Every aim at every size and variant; for other methods than the aims' own where `methods` is given."""
    return [
        _verdict(aim, row)
        for aim in AIMS
        for row in summary.itertuples()
        if (row.scenario, row.measure) == (aim.scenario, aim.measure) and row.method in (methods or aim.methods)
    ]


def _verdict(aim: Aim, row: Any) -> Verdict:
    smallest, largest = (row.min, row.max) if aim.each else (row.mean, row.mean)
    where = _where(row.scenario, row.variant, row.size)
    se = 0.0 if aim.each else row.sd / np.sqrt(row.n)
    return Verdict(where, row.method, aim.measure, aim.low, aim.high, smallest, largest, se)


def _where(scenario: str, variant: str, size: int) -> str:
    return f"{scenario} {size} pairs {variant}" if scenario == "E" else f"{scenario} {size}v{size} {variant}".strip()


def judge_power(results: pd.DataFrame) -> list[Verdict]:
    """Power as a share of that of the best of edgeR-QL, limma-trend and voom on the same data sets.

    Both at a nominal false discovery rate (`power`) and at an equal false share of the hits (`power_equal`).
    """
    groups = results[results["scenario"].isin(["B", "E"])].groupby(["scenario", "variant", "size"], sort=False)
    return [
        verdict
        for (scenario, variant, size), group in groups
        for measure in ("power_equal", "power")
        for method, low in _wanted(scenario, size).items()
        for verdict in _ratio(group, measure, method, low, _where(scenario, variant, size))
    ]


def _wanted(scenario: str, size: int) -> dict[str, float]:
    """Shares of the best rival's power: from 5 against 5 donors, and for pseudobulk in every paired design."""
    own = {MODERATED: 0.90} if size >= 5 else {}
    if scenario == "E":
        return own | {PSEUDOBULK: 1.0, DONOR_FIXED: 1.0}
    return own | ({PSEUDOBULK: 0.97} if size >= 5 else {})


def _ratio(group: pd.DataFrame, measure: str, method: str, low: float, where: str) -> Iterator[Verdict]:
    power = group.pivot(index="replicate", columns="method", values=measure)
    rivals = power.reindex(columns=list(COMPETITORS)).dropna(axis=1).mean()
    if method not in power or rivals.empty or rivals.max() == 0:
        return
    own, other = power[method], power[rivals.idxmax()]
    ratio = own.mean() / other.mean()
    se = (own - ratio * other).std() / (other.mean() * np.sqrt(len(power)))
    yield Verdict(where, method, f"{measure} / {rivals.idxmax()}", low, np.inf, ratio, ratio, se)


def judge_counts(results: pd.DataFrame) -> list[Verdict]:
    """Power of models of counts less that of the better of pseudobulk and edgeR-QL on the same data sets.

    At a nominal false discovery rate and at an equal false share of the hits; no less in paired designs and,
    at an equal type I error, for genes with less than one count in a sample.
    """
    keys = ["scenario", "variant", "size"]
    return [
        verdict
        for (scenario, variant, size), group in results.groupby(keys, sort=False)
        for measure, low in (("power", -0.01), ("power_equal", -0.01), ("found_equal <1", 0.0))
        for method in COUNTS
        for verdict in _lead(group, measure, method, 0.0 if scenario == "E" else low, _where(scenario, variant, size))
    ]


def _lead(group: pd.DataFrame, measure: str, method: str, low: float, where: str) -> Iterator[Verdict]:
    power = group.pivot(index="replicate", columns="method", values=measure) if measure in group else pd.DataFrame()
    rivals = [name for name in COUNT_COMPETITORS if name in power]
    if method not in power or not rivals:
        return
    power = power[[method, *rivals]].dropna()  # data sets in which all of them say something
    if power.empty:
        return
    best = power[rivals].mean().idxmax()
    lead = power[method] - power[best]
    mean, se = lead.mean(), lead.std() / np.sqrt(len(lead))
    yield Verdict(where, method, f"{measure} - {best}", low, np.inf, mean, mean, se)
