"""The main calls of two versions, side by side in one run: ``python benchmarks/ci.py ../base/src src``.

A process for each folder of sources makes the same small data, compiles, and then times a call when it is its turn,
A B A B ..., so that a drift of the machine hits both alike. What counts is the median over the rounds of after / before,
in processor seconds of one thread; seconds hold for this machine only. With --limit the exit status is 1 where the ratio of
a call is above it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

Call = Callable[[], object]


def calls() -> dict[str, Call]:
    """The calls by name, each on small data of its own."""
    import donorwise as dw

    cells = dw.datasets.simulate_cohort(n_cells=4_000, n_genes=400, seed=0)
    donors, genotypes = dw.datasets.simulate_eqtls(
        n_donors=120, n_cells=None, n_genes=200, n_variants=2_000, families="nuclear", seed=0
    )
    grm = dw.pp.relatedness(genotypes, method="vanraden", progress=False)
    peptides = dw.datasets.simulate_peptides(n_proteins=200, seed=0)
    one: dict[str, Any] = {"n_jobs": 1, "progress": False}
    fixed, related = "~ condition + sex + log_depth + (1 | donor_id)", "~ sex + (1 | gr(donor_id, cov=grm))"
    kernels, proteins = {"grm": grm}, {"features": "protein", "weights_layer": "weights"}
    of_peptides = "~ condition + (1 | peptide) + (1 | donor_id)"
    return {
        "tl.lmm, moderated": lambda: dw.tl.lmm(cells, fixed, groupby="cell_type", **one),
        "tl.lmm, Kenward–Roger": lambda: dw.tl.lmm(cells, fixed, ddf="kenward-roger", **one),
        "tl.lmm, kernel": lambda: dw.tl.lmm(donors, related, kernels=kernels, **one),
        "tl.lmm, peptides": lambda: dw.tl.lmm(peptides, of_peptides, **proteins, **one),
        "tl.glmm, counts": lambda: dw.tl.glmm(cells, "~ condition + (1 | donor_id)", layer="counts", **one),
        "tl.pseudobulk": lambda: dw.tl.pseudobulk(cells, "~ condition + sex", donor="donor_id", **one),
        "tl.scan": lambda: dw.tl.scan(donors, genotypes, related, kernels=kernels, **one),
        "pp.collapse": lambda: dw.pp.collapse(cells, ["donor_id", "cell_type", "condition"], progress=False),
    }


def serve() -> None:
    """Say which calls there are; then time the one that a line of input names: seconds, or the text of an error."""
    from timing import Seconds

    answer, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    warnings.simplefilter("ignore")
    found = calls()
    print(json.dumps(list(found)), file=answer, flush=True)
    for line in sys.stdin:
        seconds = Seconds()
        try:
            seconds.time(found[line.strip()])
            print(json.dumps(seconds.cpu[0]), file=answer, flush=True)
        except (AttributeError, TypeError, ValueError) as error:  # what only one of the versions knows
            print(json.dumps(f"{type(error).__name__}: {error}"), file=answer, flush=True)


class Version:
    """A process that has one folder of sources, and kernels compiled from these alone."""

    def __init__(self, source: Path, stack: ExitStack) -> None:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = os.environ | threads | {"PYTHONPATH": str(source.resolve()), "NUMBA_CACHE_DIR": cache}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = stack.enter_context(
            subprocess.Popen([sys.executable, __file__, "--serve"], env=environment, **pipes)
        )
        stack.callback(self.process.stdin.close)

    def ask(self, name: str) -> None:
        print(name, file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        return json.loads(self.process.stdout.readline())

    def seconds(self, name: str) -> float:
        self.ask(name)
        return float(self.answer())


def compare(before: Version, after: Version, name: str, rounds: int) -> dict[str, Any]:
    """Seconds and ratio of a call, or what went wrong with it: both compile at the same time, then each has its turns."""
    for version in (before, after):
        version.ask(name)
    first = [version.answer() for version in (before, after)]
    if wrong := [text for text in first if isinstance(text, str)]:
        return {
            "call": name,
            "before": first[0],
            "after": first[1],
            "failed": isinstance(first[1], str),
            "why": wrong[0],
        }
    pairs = [(before.seconds(name), after.seconds(name)) for _ in range(rounds)]
    ratio = median(two / one for one, two in pairs)
    return {
        "call": name,
        "before": median(one for one, _ in pairs),
        "after": median(two for _, two in pairs),
        "ratio": ratio,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of a table in Markdown."""
    lines = ["| call | before, s | after, s | after / before |", "|---|---|---|---|"]
    for row in rows:
        if "ratio" in row:
            lines.append(f"| {row['call']} | {row['before']:.3f} | {row['after']:.3f} | {row['ratio']:.2f} |")
        else:
            lines.append(f"| {row['call']} | {row['why']} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, nargs="?", help="src of the version that is compared with")
    parser.add_argument("after", type=Path, nargs="?", default=Path("src"), help="src of the version that is judged")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, help="ratio above which the exit status is 1")
    parser.add_argument("--markdown", type=Path, help="file to which the table is added")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if not all(path and (path / "donorwise").is_dir() for path in (options.before, options.after)):
        parser.error("give two folders that hold donorwise: before, after")
    with ExitStack() as stack:
        before, after = (Version(path, stack) for path in (options.before, options.after))
        _, names = before.answer(), after.answer()
        rows = [compare(before, after, name, options.rounds) for name in names]
    print(table(rows))
    if options.markdown:
        with options.markdown.open("a", encoding="utf-8") as file:
            file.write(f"{table(rows)}\n")
    slow = [row["call"] for row in rows if row.get("failed") or row.get("ratio", 0) > (options.limit or float("inf"))]
    if slow:
        sys.exit(f"slower than {options.limit} times the version before, or failed: {', '.join(slow)}")


if __name__ == "__main__":
    main()
