"""Shares of cell types: type I error and power of the mixed model, of tests of arcsines, and of quasi-binomial models.

``python -m benchmarks.composition [--studies 20] [--seed 0]`` prints a table in markdown. Eight types, samples of about 600 cells
whose numbers and shares scatter; every study has its own numbers of cells, and 40 draws of the shares. `pairs` give a sample to
each arm, and differ from each other by a standard deviation of .4 besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from donorwise._anndata.prepare_composition import prepare_composition
from donorwise._core.engine.tasks import test_features

Array = np.ndarray[Any, Any]
SHARES = np.array([0.35, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
CHANGED, RARE = 3, 7  # types whose odds double where power is measured
DRAWS = 40
SCATTER = {"normal, sd .4": 0.4, "normal, sd .2": 0.2, "Dirichlet, 50": None}
METHODS = ("mixed model", "arcsine t", "quasi-binomial", "binomial")


class Study(NamedTuple):
    """Cells of every type, (draws, types, samples), arms and donors (samples,)."""

    counts: Array
    arm: Array
    donor: Array

    @property
    def cells(self) -> Array:
        """Cells of each sample."""
        return self.counts[0].sum(axis=0)


def study(
    rng: np.random.Generator, n: int, sd: float | None, *, pairs: bool = False, effect: float = 0.0, of: int = CHANGED,
    draws: int = DRAWS,
) -> Study:  # fmt: skip
    """A study of n samples an arm (or n pairs), whose logits scatter by `sd`, or shares as Dirichlet's."""
    arm, number = np.repeat([0, 1], n), np.arange(2 * n)
    donor = number % n if pairs else number
    cells = np.round(np.exp(rng.normal(np.log(600), 0.5, 2 * n))).astype(int)
    level = np.log(SHARES) + rng.normal(0, 0.4 * pairs, (draws, 2 * n, 8))[:, donor]
    level[:, arm == 1, of] += effect
    p = np.exp(level + rng.normal(0, sd or 0, level.shape))
    p = rng.standard_gamma(50 * p / p.sum(axis=2, keepdims=True)) if sd is None else p
    p /= p.sum(axis=2, keepdims=True)
    return Study(np.stack([rng.multinomial(m, p[:, i]) for i, m in enumerate(cells)], axis=2), arm, donor)


def mixed_model(made: Study) -> Array:
    """P-values (draws, types): all types of all draws are features of one fit."""
    n = made.cells.size
    names = np.array([f"S{i:03d}" for i in range(n)])
    obs = pd.DataFrame({"sample_id": names, "donor_id": [f"D{i:03d}" for i in made.donor], "arm": made.arm.astype(str)})
    obs = obs.loc[obs.index.repeat(made.cells)].assign(cell_type=lambda t: np.arange(len(t)) % 2)
    obs.index = [f"c{i}" for i in range(len(obs))]
    paired = len(np.unique(made.donor)) < n
    formula = "~ arm + (1 | sample_id)" + (" + (1 | donor_id)" if paired else "")
    analysis = prepare_composition(ad.AnnData(obs=obs), formula, cell_type="cell_type")
    (own,) = analysis.statistics()
    assert own is not None
    term = next(t for t in own.design.random_terms if t.group == "sample_id")
    place = np.searchsorted(names, np.array(term.levels)[term.codes])
    total = made.counts[:, :, place].reshape(-1, n).T.astype(np.float64)
    none = np.zeros((n, 0, total.shape[1]))
    counts = replace(own.counts, counted=replace(own.counts.counted, total=total, own=none, tail=none))
    many = replace(analysis, variables=tuple(map(str, range(total.shape[1]))))
    fit = many.fit(0, replace(own, counts=counts), lambda n: None)
    tested = test_features(fit, np.array([[0.0, 1.0]]), "between-within", 0.95)
    return np.asarray(tested.numbers["p_value"].reshape(made.counts.shape[:2]))


def arcsine_t(made: Study) -> Array:
    """As propeller without moderation: t of the arcsines of the roots of shares."""
    y = np.arcsin(np.sqrt(made.counts / made.cells))
    first, second = y[..., made.arm == 0], y[..., made.arm == 1]
    paired = len(np.unique(made.donor)) < made.arm.size
    test = stats.ttest_rel if paired else stats.ttest_ind
    return np.asarray(test(first, second, axis=-1).pvalue)


def binomial(made: Study, *, quasi: bool) -> Array:
    """Logistic regression on the arm, with Pearson's dispersion and t, or without; in closed form."""
    arms = [made.arm == a for a in (0, 1)]
    m = np.array([made.cells[own].sum() for own in arms])
    y = np.stack([made.counts[..., own].sum(axis=-1) for own in arms], axis=-1)
    p = (y + 1e-9) / (m + 2e-9)
    mean = np.where(arms[1], p[..., 1:], p[..., :1])
    df = made.arm.size - 2
    dispersion = ((made.counts - made.cells * mean) ** 2 / (made.cells * mean * (1 - mean))).sum(axis=-1) / df
    difference = np.diff(np.log(p / (1 - p)), axis=-1)[..., 0]
    z = np.abs(difference) / np.sqrt((1 / (m * p * (1 - p))).sum(axis=-1) * (dispersion if quasi else 1.0))
    return np.asarray(2 * (stats.t.sf(z, df) if quasi else stats.norm.sf(z)))


def p_values(made: Study) -> dict[str, Array]:
    """Of every method, (draws, types)."""
    found = mixed_model(made), arcsine_t(made), binomial(made, quasi=True), binomial(made, quasi=False)
    return dict(zip(METHODS, found, strict=True))


def rows(n_studies: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A row for every case and method: type I error at .05 and .01, power for a common and a rare type."""
    cases = [(n, scatter, False) for n, scatter in product((3, 4, 6), SCATTER)]
    cases += [(n, "normal, sd .2", True) for n in (4, 8)]
    for number, (n, scatter, pairs) in enumerate(cases):
        parts: dict[str, list[Array]] = {}
        for name, effect, of in (("null", 0.0, CHANGED), ("changed", np.log(2), CHANGED), ("rare", np.log(2), RARE)):
            rng = np.random.default_rng([seed, number, len(parts)])
            made = [
                p_values(study(rng, n, SCATTER[scatter], pairs=pairs, effect=effect, of=of)) for _ in range(n_studies)
            ]
            parts[name] = [np.concatenate([own[m] for own in made]) for m in METHODS]
        for m, method in enumerate(METHODS):
            null, power = parts["null"][m], [parts["changed"][m][:, CHANGED], parts["rare"][m][:, RARE]]
            shares = [(null < 0.05).mean(), (null < 0.01).mean(), *((p < 0.05).mean() for p in power)]
            yield f"{n} {'pairs' if pairs else f'against {n}'}", scatter, method, *(f"{x:.3f}" for x in shares)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| samples | logits | method | p < .05 | p < .01 | power | power, rare type |\n|---|---|---|---|---|---|---|")
    for cells in rows(options.studies, options.seed):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
