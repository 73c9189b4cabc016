"""Python for competitors whose packages want an environment of their own: its interpreter is ``BENCHMARK_PYTHON``."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path


def _interpreter() -> str:
    return os.environ.get("BENCHMARK_PYTHON", sys.executable)


def run(folder: Path, code: str) -> None:
    """Run code in a folder, in one thread."""
    (folder / "run.py").write_text(code)
    one = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    one.pop("PYTHONPATH", None)
    subprocess.run([_interpreter(), "run.py"], cwd=folder, check=True, capture_output=True, env=one)


@cache
def missing(package: str) -> str:
    """The package where it is not installed; empty where it is."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(
        [_interpreter(), "-c", f"import {package}"], capture_output=True, check=False, env=environment
    ).returncode
    return "" if found == 0 else f"{package}, in the environment of BENCHMARK_PYTHON"
