"""Type I error of designs that look replicated and are not: as asked, what is said of them, and as recommended.

``python -m benchmarks.designs [--genes 4000] [--seed 0]`` prints a table in markdown. Every gene is null for the contrast:
donors differ in level (and in their response, slope or spread, which is what each design is about).
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import donorwise as dw

Floats = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Ask:
    """A tool, its formula and options, and the cells it is asked of (all for None)."""

    formula: str
    tool: str = "lmm"
    options: dict[str, Any] = field(default_factory=dict)
    cells: Callable[[pd.DataFrame], Any] | None = None


@dataclass(frozen=True)
class Design:
    """A study, what people ask of it, a text of the warning or note that is due, and what is right."""

    name: str
    make: Callable[[Rng, int], ad.AnnData]
    contrast: str
    asked: Ask
    due: str
    right: Ask


def grid(*sizes: int) -> list[NDArray[np.int64]]:
    """Codes of all combinations of factors, the last one fastest."""
    return [codes.ravel() for codes in np.meshgrid(*map(np.arange, sizes), indexing="ij")]


def table(donor: NDArray[np.int64], **columns: Any) -> pd.DataFrame:
    """Obs with names of donors."""
    obs = pd.DataFrame({"donor": [f"P{i:02d}" for i in donor], **columns})
    return obs.set_axis([f"c{i}" for i in range(donor.size)])


def of_counts(rng: Rng, log_mean: Floats, obs: pd.DataFrame, **roles: str) -> ad.AnnData:
    """Poisson counts, and their logarithms per thousand in X."""
    counts = rng.poisson(np.exp(log_mean)).astype(np.float64)
    adata = ad.AnnData(
        np.log1p(counts / counts.sum(axis=1, keepdims=True) * counts.shape[1]), obs=obs, layers={"counts": counts}
    )
    adata.donorwise.setup(donor="donor", **roles)
    return adata


def of_values(values: Floats, obs: pd.DataFrame, **roles: str) -> ad.AnnData:
    """Normal values."""
    adata = ad.AnnData(values, obs=obs)
    adata.donorwise.setup(donor="donor", **roles)
    return adata


def repeated_samples(rng: Rng, n: int) -> ad.AnnData:
    """8 donors x 2 conditions x 3 samples, all on lanes of their own; donors differ in their response."""
    d, c, s, _ = grid(8, 2, 3, 10)
    level, response = rng.normal(0, 0.4, (8, n)), rng.normal(0, 0.5, (16, n))
    noise = rng.normal(0, 0.05, (48, n))
    obs = table(
        d,
        condition=np.where(c, "stim", "ctrl"),
        sample=[f"S{i:02d}" for i in (d * 2 + c) * 3 + s],
        lane=[f"L{i}" for i in s],
    )
    obs["tube"] = [f"T{i:02d}" for i in d * 2 + c]
    return of_counts(rng, np.log(3) + level[d] + response[2 * d + c] + noise[(2 * d + c) * 3 + s], obs, sample="sample")


def lanes(rng: Rng, n: int) -> ad.AnnData:
    """The same, a tube for each donor and condition on three lanes."""
    adata = repeated_samples(rng, n)
    adata.donorwise.setup(donor="donor", sample="tube")
    return adata


def dates(rng: Rng, n: int) -> ad.AnnData:
    """12 donors x 4 visits on days of the calendar; donors differ in their slope."""
    d, v, _ = grid(12, 4, 25)
    start = rng.uniform(0, 60, 12).round()
    values = rng.normal(0, 0.3, (12, n))[d] + rng.normal(0, 0.006, (12, n))[d] * (30.0 * v)[:, None]
    return of_values(values + rng.normal(size=values.shape), table(d, date=737425 + 30.0 * v + start[d]))


def arms(*sizes: int, sd: tuple[float, ...]) -> Callable[[Rng, int], ad.AnnData]:
    """Arms a, b, ... of so many donors, each with a standard deviation of its own."""

    def make(rng: Rng, n: int) -> ad.AnnData:
        d, _ = grid(sum(sizes), 30)
        arm = np.repeat(np.arange(len(sizes)), sizes)
        level = rng.normal(size=(arm.size, n)) * np.array(sd)[arm, None]
        values = level[d] + rng.normal(size=(d.size, n))
        return of_values(values, table(d, arm=np.array(list("abc"))[arm[d]]))

    return make


def pairs(n_donors: int, control: float, stimulated: float) -> Callable[[Rng, int], ad.AnnData]:
    """Complete pairs whose response varies by these standard deviations in the two arms."""

    def make(rng: Rng, n: int) -> ad.AnnData:
        d, c, _ = grid(n_donors, 2, 30)
        own = rng.normal(size=(n_donors, 2, n)) * np.array([control, stimulated])[:, None]
        values = rng.normal(0, 0.4, (n_donors, n))[d] + own[d, c]
        return of_values(values + rng.normal(size=values.shape), table(d, condition=np.where(c, "stim", "ctrl")))

    return make


def cell_types(rng: Rng, n: int) -> ad.AnnData:
    """5 against 5 donors, two cell types that differ twofold to eightfold in level; a fifth of the genes change, alike in both."""
    d, k, _ = grid(10, 2, 40)
    case = d >= 5
    level = np.log(rng.uniform(0.3, 2, n)) + k[:, None] * rng.uniform(np.log(2), np.log(8), n) * rng.choice([-1, 1], n)
    effect = case[:, None] * rng.choice([-0.7, 0.7], n) * (rng.uniform(size=n) < 0.2)
    own = rng.normal(0, 0.2, (10, n))[d] + rng.normal(0, 0.2, (20, n))[2 * d + k]
    obs = table(d, condition=np.where(case, "case", "ctrl"), cell_type=np.where(k, "T", "B"))
    return of_counts(rng, level + effect + own, obs)


def wedge(rng: Rng, n: int) -> ad.AnnData:
    """12 donors x 5 periods; the treatment starts in period 1 to 4, and genes drift."""
    d, t, _ = grid(12, 5, 15)
    drift = rng.normal(0, 0.15, n)
    values = rng.normal(0, 0.4, (12, n))[d] + rng.normal(0, 0.15, (60, n))[5 * d + t] + t[:, None] * drift
    obs = table(d, condition=np.where(t > d % 4, "treated", "control"), period=[f"t{i}" for i in t])
    obs["sample"] = [f"S{i:02d}" for i in 5 * d + t]
    return of_values(values + rng.normal(size=values.shape), obs, sample="sample")


def doublets(rng: Rng, n: int) -> ad.AnnData:
    """4 against 4 donors; a tenth of the cells of each is called a doublet, and another tenth is not assigned."""
    d, i = grid(8, 60)
    values = rng.normal(0, 0.4, (8, n))[d] + rng.normal(size=(d.size, n))
    obs = table(d, arm=np.where(d < 4, "a", "b"))
    obs["donor"] = np.where(i < 6, "doublet", np.where(i < 12, "unassigned", obs["donor"]))
    return of_values(values, obs)


TWO_TERMS = "~ condition + (1 | donor) + (1 | donor:condition)"
DESIGNS = (
    Design("samples in one condition", repeated_samples, "condition[T.stim]", Ask("~ condition + (1 | donor) + (1 | sample)"),
           "takes the several levels", Ask(TWO_TERMS)),
    Design("the same, pseudobulk", repeated_samples, "condition[T.stim]", Ask("~ condition + (1 | donor)", "pseudobulk"),
           "takes the several units", Ask("~ condition + donor", "pseudobulk")),
    Design("the same, samples asked for", repeated_samples, "condition[T.stim]",
           Ask("~ condition + (1 | donor)", "pseudobulk", {"sample": "sample"}), "takes the several units",
           Ask("~ condition + donor + (1 | donor:condition)", "pseudobulk", {"sample": "sample"})),
    Design("lanes split units", lanes, "condition[T.stim]", Ask("~ condition + lane + (1 | donor)", "pseudobulk"),
           "takes the several units", Ask("~ condition + lane + donor + (1 | donor:condition)", "pseudobulk")),
    Design("slope on a date", dates, "date", Ask("~ date + (1 | donor) + (0 + date | donor)"), "second level",
           Ask("~ date + (1 | donor) + (0 + center(date) | donor)")),
    Design("cell means as slopes", pairs(10, 0.3, 0.3), "condition[T.stim]", Ask("~ condition + (0 + condition | donor)"),
           "no random intercept", Ask("~ condition + (condition | donor)")),
    Design("3 against 9, smaller arm spreads", arms(3, 9, sd=(0.8, 0.4)), "arm[T.b]", Ask("~ arm + (1 | donor)"), "one variance for both",
           Ask("~ arm + (0 + arm || donor)")),
    Design("4 against 8, smaller arm spreads", arms(4, 8, sd=(0.8, 0.4)), "arm[T.b]", Ask("~ arm + (1 | donor)"), "one variance for both",
           Ask("~ arm + (0 + arm || donor)")),
    Design("6 against 6, alike", arms(6, 6, sd=(0.4, 0.4)), "arm[T.b]", Ask("~ arm + (1 | donor)"), "one variance for both",
           Ask("~ arm + (0 + arm || donor)")),
    Design("9, 9 and 3, smallest arm spreads", arms(9, 9, 3, sd=(0.4, 0.4, 0.8)), "arm[T.c]", Ask("~ arm + (1 | donor)"),
           "one variance for both", Ask("~ arm + (0 + arm || donor)")),
    Design("6, 6 and 6, alike", arms(6, 6, 6, sd=(0.4, 0.4, 0.4)), "arm[T.c]", Ask("~ arm + (1 | donor)"), "one variance for both",
           Ask("~ arm + (0 + arm || donor)")),
    Design("interaction, equal fold changes", cell_types, "condition[T.ctrl]:cell_type[T.T]",
           Ask("~ condition * cell_type + (1 | donor) + (1 | donor:cell_type)"), "asks whether fold changes differ",
           Ask("~ condition * cell_type + (1 | donor)", "pseudobulk")),
    Design("five pairs, response in one arm", pairs(5, 0.0, 0.8), "condition[T.stim]", Ask(TWO_TERMS), "so few pairs",
           Ask("~ condition + donor + (1 | donor:condition)")),
    Design("stepped wedge without the period", wedge, "condition[T.treated]",
           Ask("~ condition + (1 | donor) + (1 | donor:condition) + (1 | sample)"), "goes with `period`",
           Ask("~ condition + period + (1 | donor) + (1 | donor:condition) + (1 | sample)")),
    Design("two pairs", pairs(2, 0.3, 0.3), "condition[T.stim]", Ask(TWO_TERMS), "nothing but the prior",
           Ask(TWO_TERMS, options={"ddf": "kenward-roger"})),
    Design("doublets and unassigned as donors", doublets, "arm[T.b]", Ask("~ arm + (1 | donor)"), "look like no donor",
           Ask("~ arm + (1 | donor)", cells=lambda obs: ~obs["donor"].isin(["doublet", "unassigned"]))),
)  # fmt: skip


def run(design: Design, ask: Ask, adata: ad.AnnData) -> tuple[Floats, list[str], list[str]]:
    """p-values of the contrast, and the warnings and notes before it."""
    adata = adata if ask.cells is None else adata[ask.cells(adata.obs)].copy()
    notes = [] if ask.tool == "pseudobulk" else list(adata.donorwise.audit(ask.formula).notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(dw.tl, ask.tool)(adata, ask.formula, progress=False, key_added="run", **ask.options)
    tests = dw.get.tests(adata, key="run", contrast=design.contrast)
    return tests["p_value"].dropna().to_numpy(), [str(w.message) for w in caught], notes


def said(due: str, warned: list[str], notes: list[str]) -> str:
    """Whether the text that is due is a warning, a note, or was not said."""
    if any(due in text for text in warned):
        return "warning"
    return "note" if any(due in text for text in notes) else "silent"


def rows(n_genes: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A row for every design: as asked, what was said, as recommended."""
    for number, design in enumerate(DESIGNS):
        adata = design.make(np.random.default_rng([seed, number]), n_genes)
        cells = [design.name]
        for ask in (design.asked, design.right):
            try:
                p, warned, notes = run(design, ask, adata)
                numbers = [
                    f"{(p < level).mean():.3f}" if level > 0.01 else f"{(p < level).mean():.5f}"
                    for level in (0.05, 0.001)
                ]
                words = [said(design.due, warned, notes)]
            except dw.errors.DonorwiseError as error:
                words, numbers = [f"refused: {error}".split(".")[0][:60].replace("|", "\\|")], ["", ""]
            name = f"`{ask.formula}`".replace("|", "\\|") + (f" {ask.tool}" if ask.tool != "lmm" else "")
            cells += [name, *words, *numbers]
        yield tuple(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("donorwise").setLevel(logging.ERROR)
    head = ("design", "asked", "said", ".05", ".001", "recommended", "said", ".05", ".001")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for cells in rows(options.genes, options.seed):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
