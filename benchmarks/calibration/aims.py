"""What is asked of the methods, and whether they meet it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

MODERATED, PSEUDOBULK = "LMM moderated", "pseudobulk"
COMPETITORS = ("edgeR-QL", "limma-trend", "voom")
WRONG = ("naive t (scanpy)", "LMM z", "LMM satterthwaite")
_TYPE1 = "type1@0.05"
_POWER = "power_equal"


@dataclass(frozen=True, slots=True)
class Aim:
    """A measure that should lie in an interval; `each`: on every data set, not on average."""

    scenario: str
    measure: str
    low: float
    high: float
    methods: tuple[str, ...] = (MODERATED, PSEUDOBULK)
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
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim beside the number that was measured."""

    where: str
    method: str
    measure: str
    low: float
    high: float
    smallest: float
    largest: float

    @property
    def met(self) -> bool:
        return self.low <= self.smallest and self.largest <= self.high

    def row(self) -> dict[str, object]:
        """For the table."""
        same = self.smallest == self.largest
        found = _short(self.smallest) if same else f"{_short(self.smallest)} to {_short(self.largest)}"
        aim = f">= {_short(self.low)}" if np.isinf(self.high) else f"{_short(self.low)} to {_short(self.high)}"
        return {
            "where": self.where, "method": self.method, "measure": self.measure, "aim": aim, "found": found,
            "": "met" if self.met else "MISSED",
        }  # fmt: skip


def _short(value: float) -> str:
    return f"{value:.3g}"


def judge(summary: pd.DataFrame, methods: tuple[str, ...] | None = None) -> list[Verdict]:
    """Every aim at every size and variant; for other methods than the aims' own where `methods` is given."""
    return [
        _verdict(aim, row)
        for aim in AIMS
        for row in summary.itertuples()
        if (row.scenario, row.measure) == (aim.scenario, aim.measure) and row.method in (methods or aim.methods)
    ]


def _verdict(aim: Aim, row: object) -> Verdict:
    smallest, largest = (row.min, row.max) if aim.each else (row.mean, row.mean)
    return Verdict(_where(row), row.method, aim.measure, aim.low, aim.high, smallest, largest)


def _where(row: object) -> str:
    size = f"{row.size} donors" if row.scenario == "E" else f"{row.size}v{row.size}"
    return f"{row.scenario} {size} {row.variant}".strip()


def judge_power(summary: pd.DataFrame) -> list[Verdict]:
    """Power at equal false discovery proportion as a share of the best of edgeR-QL, limma-trend and voom."""
    return list(_power(summary[summary["measure"] == _POWER]))


def _power(table: pd.DataFrame) -> Iterator[Verdict]:
    for (scenario, _, size), group in table.groupby(["scenario", "variant", "size"], sort=False):
        power = group.set_index("method")["mean"]
        rivals = power.reindex(COMPETITORS).dropna()
        wanted = {PSEUDOBULK: 1.0 if scenario == "E" else 0.97, MODERATED: 0.90}
        if scenario not in "BE" or rivals.empty or (size < 5 and scenario == "B"):
            continue
        row = next(group.itertuples())
        for method, low in wanted.items():
            if method in power and (size >= 5 or method == PSEUDOBULK):
                ratio = power[method] / rivals.max()
                yield Verdict(_where(row), method, f"power / {rivals.idxmax()}", low, np.inf, ratio, ratio)
