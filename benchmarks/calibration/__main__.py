"""Calibration and power in one command: ``python -m benchmarks.calibration``, from the root of the repository.

Prints what every method did and the aims beside it, and writes ``summary.csv``, ``data_sets.csv``
and ``calibration.png`` to ``--out``. Every result is kept there, so that a run that was stopped
goes on where it was; ``--again`` forgets those of some methods. About 40 minutes on two cores,
with ``--quick`` (small data, few of them, not to be judged by) about four.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from benchmarks.calibration.aims import WRONG, judge, judge_counts, judge_power
from benchmarks.calibration.figure import draw
from benchmarks.calibration.run import METHODS, forget, run, summarise
from benchmarks.calibration.scenarios import TITLES, data_sets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.calibration.aims import Verdict
    from benchmarks.calibration.methods import Method

_RESULTS = Path(__file__).parents[1] / "results" / "calibration"
_SHOWN = (
    "type1@0.05", "type1@0.05 q1", "type1@0.05 q4", "type1@0.05 <1", "type1@0.01", "type1@0.001", "type1@0.0001", "fdp",
    "power", "power_equal", "found_equal <1", "hits", "seconds",
)  # fmt: skip


def main() -> None:
    options = _options()
    out = options.out / "quick" if options.quick else options.out
    methods = _installed(options.methods)
    forget(out / "cache", [m for m in methods if m.name in options.again])
    scenarios = "".join(s for s in options.scenarios if s != "F" or _has_cells(options.data))
    sets = data_sets(scenarios, quick=options.quick)
    results = run(sets, methods, out / "cache", file=options.data, jobs=options.jobs)
    summary = summarise(results)
    _print_tables(summary)
    _print_verdicts(summary, results)
    results.to_csv(out / "data_sets.csv", index=False, float_format="%.5g")
    summary.to_csv(out / "summary.csv", index=False, float_format="%.5g")
    draw(summary, [m.name for m in methods], out / "calibration.png")
    print(f"written: {out}")


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [part.strip() for part in text.split(";") if part.strip()]

    parser = argparse.ArgumentParser(prog="benchmarks.calibration", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenarios", default="".join(TITLES), type=lambda s: "".join(sorted(set(s) & set(TITLES))))
    parser.add_argument(
        "--methods", default=[], type=names, help="names as in the tables, by semicolons; all if left out"
    )
    parser.add_argument("--again", default=[], type=names, help="methods to run again, by semicolons")
    parser.add_argument("--data", type=Path, help="h5ad of scenario F: CD4 T cells of donors, counts in a layer")
    parser.add_argument("--out", type=Path, default=_RESULTS)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def _installed(wanted: Sequence[str]) -> list[Method]:
    unknown = set(wanted) - {m.name for m in METHODS}
    if unknown:
        raise SystemExit(f"No such methods: {sorted(unknown)}; there are {[m.name for m in METHODS]}.")
    chosen = [m for m in METHODS if not wanted or m.name in wanted]
    for method in chosen:
        if method.missing:
            print(f"left out: {method.name} needs {method.missing}")
    return [m for m in chosen if not m.missing]


def _has_cells(file: Path | None) -> bool:
    if file is not None and file.exists():
        return True
    print("left out: scenario F needs --data FILE" + (f"; {file} is not there" if file else ""))
    return False


def _print_tables(summary: pd.DataFrame) -> None:
    for (scenario, variant, size), group in summary.groupby(["scenario", "variant", "size"], sort=False):
        wide = group.pivot(index="method", columns="measure", values="mean")
        wide = wide.reindex(columns=[c for c in _SHOWN if c in wide.columns])
        wide.insert(1, "sd", group.query("measure == 'type1@0.05'").set_index("method")["sd"])
        n = int(group["n"].max())
        order = [m.name for m in METHODS if m.name in wide.index]
        print(f"\n{scenario}. {TITLES[scenario]} {variant}, {size} a side, {n} data sets".replace(" ,", ","))
        print(wide.loc[order].rename_axis(index=None, columns=None).to_string(float_format="{:.3g}".format, na_rep=""))


def _print_verdicts(summary: pd.DataFrame, results: pd.DataFrame) -> None:
    own = judge(summary) + judge_power(results) + judge_counts(results)
    print(f"\nAims: {sum(v.met for v in own)} of {len(own)} met", _table(own), sep="\n")
    print("\nMethods that must miss the aims, or the benchmark has no teeth:")
    for name in WRONG:
        found = judge(summary, (name,))
        print(f"  {name}: misses {sum(not v.met for v in found)} of {len(found)}" if found else f"  {name}: not run")


def _table(verdicts: list[Verdict]) -> str:
    return pd.DataFrame([v.row() for v in verdicts]).to_string(index=False) if verdicts else "none"


if __name__ == "__main__":
    main()
