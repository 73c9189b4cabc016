"""Draws what the page of plots shows, with the code that it shows: ``python docs/pictures.py``.

A build of the site does so where pictures are missing or older than the page.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PAGE = HERE / "plots.md"
PICTURES = HERE / "pictures"
_DPI = 100

_PARTS = re.compile(r"^#+ (?P<heading>.*?)$|^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


def outdated(page: Path = PAGE, folder: Path = PICTURES) -> bool:
    """Whether a picture that the page shows is missing, or older than the page."""
    shown = [folder / name for name in re.findall(r"pictures/(\w+\.png)", page.read_text(encoding="utf-8"))]
    return any(not picture.exists() or picture.stat().st_mtime < page.stat().st_mtime for picture in shown)


def draw(page: Path = PAGE, folder: Path = PICTURES) -> list[str]:
    """Run the page from top to bottom; the last figure under the heading of a function is its picture. Their names."""
    folder.mkdir(exist_ok=True)
    names: dict[str, Any] = {}
    heading, drawn = "", []
    for part in _PARTS.finditer(page.read_text(encoding="utf-8")):
        if part["heading"]:
            heading = part["heading"].strip("`")
            continue
        exec(compile(part["code"], f"{page.name}: {heading}", "exec"), names)
        if plt.get_fignums():
            plt.gcf().savefig(folder / f"{heading}.png", dpi=_DPI, bbox_inches="tight")
            plt.close("all")
            drawn.append(heading)
    return drawn


if __name__ == "__main__":
    mpl.use("agg")
    start = time.perf_counter()
    print(f"{len(draw())} pictures in {PICTURES}, {time.perf_counter() - start:.0f} s")
