"""R for competitors that are there only: whether its packages are installed, and a script run in a folder."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path


def run(folder: Path, code: str) -> None:
    """Run R code in a folder."""
    (folder / "run.R").write_text(code)
    subprocess.run(["Rscript", "--vanilla", "run.R"], cwd=folder, check=True, capture_output=True)


@cache
def missing(packages: tuple[str, ...]) -> str:
    """What of R is not installed; empty where all is."""
    wanted = " and ".join(packages)
    if shutil.which("Rscript") is None:
        return f"R with {wanted}"
    loads = "; ".join(f"loadNamespace('{p}')" for p in packages)
    found = subprocess.run(["Rscript", "--vanilla", "-e", loads], capture_output=True, check=False).returncode == 0
    return "" if found else f"R packages {wanted}"
