"""Speed and memory of donorwise, in one command: ``python benchmarks/speed.py [--quick] [--only a,c] [--json FILE]``.

Everything is timed in one process after a warm-up (memory and the first call in processes of their
own), competitors in turn, and reported as medians and ratios: absolute times hold for this machine
only, ratios travel. The full run takes about a quarter of an hour, ``--quick`` a third of it: smaller
data, not judged by the aims.

``versions/`` keeps the numbers of each version, ``python benchmarks/speed.py --json benchmarks/versions/0.1.json``;
sections that such a file has and that are not run again stay in it. ``python benchmarks/report.py`` puts two of
them side by side. To measure an older version in the same hour, put its ``src`` first on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from report import Section

# Imported when they run: some look inside the package, and the others must run with an older one on the path, too.
MEASUREMENTS = {
    "a": "end_to_end",
    "b": "collapse_cost",
    "c": "fit_alone",
    "d": "memory",
    "e": "growth",
    "f": "models",
    "g": "first_call",
    "h": "shared_prior",
    "i": "stored",
    "j": "beyond_memory",
    "k": "million",
    "l": "permutations",
    "m": "influence",
    "n": "blas_threads",
    "o": "other_packages",
    "p": "influence_full",
    "q": "counts",
    "r": "kernels",
    "s": "scan_trans",
    "t": "scan_cis",
    "u": "scan_relatives",
    "v": "scan_memory",
    "w": "peptides",
}
PACKAGES = (
    "donorwise",
    "numpy",
    "scipy",
    "numba",
    "pandas",
    "anndata",
    "scanpy",
    "edgepython",
    "pymatrixeqtl",
    "tensorqtl",
    "fastlmm",
)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    sections = []
    for key in options.only:
        start = time.perf_counter()
        section = import_module(f"measurements.{MEASUREMENTS[key]}").run(options.quick)
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
        "quick": quick,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
    }
    found = _stored(file, about) | {s.key: _rounded(asdict(s)) | {"date": _today()} for s in sections}
    content = about | {"sections": [found[key] for key in MEASUREMENTS if key in found]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {file}")


def _stored(file: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of an earlier run, by key, if it was one of the same kind."""
    if not file.exists():
        return {}
    before = json.loads(file.read_text())
    different = [name for name, value in about.items() if before[name] != value]
    if different:
        raise SystemExit(f"{file} is of another {' and '.join(different)}: write to another file.")
    return {section["key"]: section for section in before["sections"]}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


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
