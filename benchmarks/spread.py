"""How often arms are said to differ in their donors' spread: where they do, and where they do not.

``python -m benchmarks.spread [--studies 200] [--seed 0]`` prints a table in markdown. Genes share factors of the donors, so that
hundreds of them are worth a few; `K` of these factors carry 70% of the donors' variance.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

import donorwise as dw
from donorwise._core.engine.spread import unequal_spreads

SIZES = ((3, 9), (4, 8), (2, 8), (6, 6))
CELLS = {"12": (12, 12), "6 and 40": (6, 40), "80 and 8": (80, 8)}  # a donor of the first arm and of the second
CASES = (*product((1.0,), (10, 3), CELLS), *product((1.5, 2.0), (10, 3), ("12",)))
SHARED = 0.7


def study(
    rng: np.random.Generator,
    sizes: tuple[int, int],
    times: float,
    factors: int,
    cells: tuple[int, int],
    n_genes: int = 300,
) -> tuple[np.ndarray[Any, Any], pd.DataFrame]:
    """Null genes; donors of the first arm spread `times` as much as those of the second."""
    first = np.arange(sum(sizes)) < sizes[0]
    scores, loadings = rng.normal(size=(first.size, factors)), rng.normal(size=(factors, n_genes))
    own = rng.normal(size=(first.size, n_genes))
    level = np.sqrt(SHARED / factors) * scores @ loadings + np.sqrt(1 - SHARED) * own
    level *= np.where(first, times, 1.0)[:, None] * 0.4 * np.sqrt(rng.gamma(2, 0.5, n_genes))
    d = np.repeat(np.arange(first.size), np.where(first, *cells))
    obs = pd.DataFrame({"donor": [f"P{i:02d}" for i in d], "arm": np.where(first[d], "a", "b")})
    return level[d] + rng.normal(size=(d.size, n_genes)), obs


def said(Y: np.ndarray[Any, Any], obs: pd.DataFrame) -> bool:
    """Whether anything is said of the arms."""
    return bool(unequal_spreads(dw.fit_lmm(Y, obs, "~ arm + (1 | donor)"), np.array([[0.0, 1.0]])))


def rows(n_studies: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A row for every case: donors, standard deviations, factors, cells, share of studies."""
    for number, (sizes, (times, factors, cells)) in enumerate(product(SIZES, CASES)):
        rng = np.random.default_rng([seed, number])
        found = [said(*study(rng, sizes, times, factors, CELLS[cells])) for _ in range(n_studies)]
        yield f"{sizes[0]} and {sizes[1]}", f"{times:g}", str(factors), cells, f"{np.mean(found):.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("donorwise").setLevel(logging.ERROR)
    print("| donors | sd of the first arm, times | K | cells | said |\n| --- | --- | --- | --- | --- |")
    for cells in rows(options.studies, options.seed):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
