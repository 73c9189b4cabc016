"""What a measurement returns, and how it is shown; two stored runs side by side.

python benchmarks/report.py benchmarks/versions/0.1.json benchmarks/versions/0.2.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
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


def side_by_side(before: dict[str, Any], after: dict[str, Any]) -> list[Section]:
    """Sections of two stored runs of `speed.py` that both have at the same size, a row per number."""
    olds = {section["key"]: section for section in before["sections"]}
    pairs = [(olds[new["key"]], new) for new in after["sections"] if new["key"] in olds]
    return [Section(new["key"], new["title"], _changes(old, new)) for old, new in pairs if _is_same(old, new)]


def _is_same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old["title"] == new["title"] and [_label(r) for r in old["rows"]] == [_label(r) for r in new["rows"]]


def _label(row: dict[str, Any]) -> str:
    """The text of a row, which says what its numbers are of."""
    return ", ".join(value for value in row.values() if isinstance(value, str))


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for b, a in zip(old["rows"], new["rows"], strict=True):
        for name in (n for n, value in a.items() if isinstance(value, float) and isinstance(b.get(n), float)):
            change = a[name] / b[name] if b[name] else float("nan")
            rows.append({"of": _label(a), "": name, "before": b[name], "after": a[name], "after/before": change})
    return rows


def main() -> None:
    """Print what two runs have in common."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    files = parser.parse_args()
    before, after = (json.loads(file.read_text()) for file in (files.before, files.after))
    for name in ("processor", "python", "versions"):
        if before[name] != after[name]:
            print(f"{name}: {before[name]} before, {after[name]} after")
    shared = side_by_side(before, after)
    for section in shared:
        print(section, end="\n\n")
    every = {s["key"] for run in (before, after) for s in run["sections"]}
    if left_out := sorted(every - {s.key for s in shared}):
        print(f"in one of them only, or of other sizes: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
