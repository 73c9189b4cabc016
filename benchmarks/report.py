"""What a measurement returns, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Aim:
    """A number and the most that it should be."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT MET"
        return f"{self.what}: {self.value:.3g}{self.unit} (aim: at most {self.limit:.3g}{self.unit}) - {verdict}"


@dataclass(frozen=True, slots=True)
class Section:
    """One table, with the aims that it speaks to."""

    key: str
    title: str
    rows: list[dict[str, Any]]
    aims: list[Aim] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"({self.key}) {self.title}", *_table(self.rows), *(f"    -> {a}" for a in self.aims)])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_text(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(not isinstance(row.get(name, 0.0), str) for row in rows) for name in columns]
    return ["    " + "  ".join(_pad(*cell) for cell in zip(line, widths, numeric, strict=True)) for line in cells]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
