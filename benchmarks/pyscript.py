"""Python for competitors whose packages want an environment of their own: its interpreter is ``BENCHMARK_PYTHON``."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path


def _interpreter() -> str:
    return os.environ.get("BENCHMARK_PYTHON", sys.executable)


def run(folder: Path, code: str, n_jobs: int = 1) -> None:
    """Run code in a folder, in so many threads."""
    (folder / "run.py").write_text(code)
    limited = os.environ | {f"{library}_NUM_THREADS": str(n_jobs) for library in ("OPENBLAS", "OMP", "MKL")}
    limited.pop("PYTHONPATH", None)
    subprocess.run([_interpreter(), "run.py"], cwd=folder, check=True, capture_output=True, env=limited)


@cache
def missing(package: str) -> str:
    """The package where it is not installed; empty where it is."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(
        [_interpreter(), "-c", f"import {package}"], capture_output=True, check=False, env=environment
    ).returncode
    return "" if found == 0 else f"{package}, in the environment of BENCHMARK_PYTHON"
