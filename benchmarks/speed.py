"""Speed and memory of donorwise, in one command: ``python benchmarks/speed.py [--quick] [--only a,c] [--json FILE]``.

Everything is timed in one process after a warm-up (memory and the first call in processes of their
own), competitors in turn, and reported as medians and ratios: absolute times hold for this machine
only, ratios travel. The full run takes about five minutes, ``--quick`` half of it: smaller data, not
judged by the aims.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measurements import (
    beyond_memory,
    collapse_cost,
    end_to_end,
    first_call,
    fit_alone,
    growth,
    memory,
    million,
    models,
    shared_prior,
    stored,
)
from report import Section

MEASUREMENTS = {
    "a": end_to_end,
    "b": collapse_cost,
    "c": fit_alone,
    "d": memory,
    "e": growth,
    "f": models,
    "g": first_call,
    "h": shared_prior,
    "i": stored,
    "j": beyond_memory,
    "k": million,
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    sections = []
    for key in options.only:
        start = time.perf_counter()
        section = MEASUREMENTS[key].run(options.quick)
        sections.append(replace(section, aims=[]) if options.quick else section)  # aims are for the full sizes
        print(sections[-1], f"    [{time.perf_counter() - start:.0f} s]\n", sep="\n", flush=True)
    _write(options.json, sections, options.quick)
    _summary(sections)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small data, few repeats")
    parser.add_argument("--only", default="".join(MEASUREMENTS), help="letters of the measurements, such as a,c")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    options.only = [key for key in options.only if key in MEASUREMENTS]
    if options.json is None:
        complete = len(options.only) == len(MEASUREMENTS) and not options.quick
        options.json = RESULTS / "speed.json" if complete else None
    return options


def _write(file: Path | None, sections: list[Section], quick: bool) -> None:
    if file is None:
        return
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "numba", "pandas", "anndata", "scanpy")},
    }
    content = about | {"sections": [_rounded(asdict(s)) for s in sections]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {file}")


def _rounded(value: Any) -> Any:
    """Four digits: more would be noise."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _summary(sections: list[Section]) -> None:
    for section in sections:
        for aim in section.aims:
            print(f"({section.key}) {aim}")


if __name__ == "__main__":
    main()
