"""Peptides: type I error and power of mixed models of every protein, beside limma on what runs and donors are summed up to.

``python -m benchmarks.calibration.peptides null|power|robust|mixture [--seeds 12] [--proteins 1000] [--only 3v3] [--methods limma]``
prints a table in markdown. limma (with a trend of the variance) takes a number for each protein and donor: medians or weighted means
over the peptides of a run, as they are or after every peptide's mean is taken off, averaged over the runs of a donor. `--only` takes
settings, and `--methods` methods, whose names contain a text.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks import rscript
from benchmarks.calibration.metrics import found_at, measure

import donorwise as dw

Array = np.ndarray[Any, Any]
ALPHA, SMALL = 0.05, 1e-3
DE_FRACTION, EFFECT = 0.2, 0.8
RATIOS = {"HUMAN": 0.0, "YEAST": 1.0, "ECOLI": -2.0}


@dataclass(frozen=True)
class Setting:
    """Donors in an arm, runs of each, what is missing and what weights know; and what else the simulation is told."""

    donors: int
    runs: int
    missing: float
    missing_by: str
    weights: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the tables."""
        size = f"{self.donors}v{self.donors}, {self.runs} run{'s' * (self.runs > 1)}"
        return f"{size}, {self.missing:.0%} {self.missing_by}, {self.weights}"

    def study(self, seed: int, n_proteins: int, **effects: Any) -> ad.AnnData:
        """Peptides of one data set."""
        return dw.datasets.simulate_peptides(
            n_donors=self.donors,
            runs_per_donor=self.runs,
            missing=self.missing,
            missing_by=self.missing_by,
            weights=self.weights,
            n_proteins=n_proteins,
            seed=seed,
            **{**self.more, **effects},
        )


def settings(donors: Sequence[int] = (3, 5), missing: Sequence[float] = (0.3, 0.5), **more: Any) -> list[Setting]:
    """All of them."""
    shapes = product(donors, (1, 3), missing, ("random", "intensity"), ("informative", "noise"))
    return [Setting(*shape, more=more) for shape in shapes]


class Tested(NamedTuple):
    """Of the proteins of a data set, (proteins,): p-values, NaN where there is none, estimates, and which lost a term."""

    p: Array
    estimate: Array
    reduced: Array


Method = Callable[[Sequence[ad.AnnData]], list[Tested]]


def proteins(adata: ad.AnnData) -> pd.DataFrame:
    """A row per protein, in order."""
    return adata.var.drop_duplicates("protein").set_index("protein").sort_index()


def mixed(studies: Sequence[ad.AnnData], *, ddf: str, weights: str | None = "weights", **options: Any) -> list[Tested]:
    """Mixed models of donorwise; with weights `learned` the layer that is there is a score."""
    if weights == "learned":
        for adata in studies:
            dw.pp.quality_weights(adata, "weights", "score", features="protein", key_added=weights)
    return [_mixed(adata, ddf, weights, options) for adata in studies]


def _mixed(adata: ad.AnnData, ddf: str, layer: str | None, options: dict[str, Any]) -> Tested:
    formula = adata.uns["truth"]["formula"]
    dw.tl.lmm(adata, formula, features="protein", weights_layer=layer, ddf=ddf, n_jobs=1, progress=False, **options)
    found = adata.uns["lmm"]["results"]
    found = found[found["contrast"] == adata.uns["truth"]["contrast"]].set_index("variable")
    found = found.reindex(proteins(adata).index)
    p, estimate = (found[name].to_numpy(dtype=float) for name in ("p_value", "estimate"))
    return Tested(p, estimate, (found["status"] == "reduced").to_numpy())


_LIMMA = """
suppressMessages(library(limma))
for (file in list.files(pattern = "^levels")) {
  y <- as.matrix(read.csv(file, header = FALSE))
  case <- rep(0:1, each = ncol(y) / 2)
  use <- rowSums(!is.na(y[, case == 0])) > 0 & rowSums(!is.na(y[, case == 1])) > 0
  fit <- suppressWarnings(eBayes(lmFit(y[use, ], cbind(1, case)), trend = TRUE))
  found <- matrix(NA_real_, nrow(y), 2)
  found[use, ] <- cbind(fit$p.value[, 2], fit$coefficients[, 2])
  write.table(found, sub("levels", "found", file), sep = ",", row.names = FALSE, col.names = FALSE)
}
"""


def limma(
    studies: Sequence[ad.AnnData], *, summary: Callable[[pd.DataFrame, pd.DataFrame, Array], Array]
) -> list[Tested]:
    """Limma with a trend of the variance, on one number for each protein and donor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, adata in enumerate(studies):
            levels = pd.DataFrame(donor_levels(adata, summary))
            levels.to_csv(folder / f"levels{i}.csv", header=False, index=False, na_rep="NA")
        rscript.run(folder, _LIMMA)
        found = [pd.read_csv(folder / f"found{i}.csv", header=None).to_numpy() for i in range(len(studies))]
    return [Tested(p, estimate, np.zeros(p.size, dtype=bool)) for p, estimate in (table.T for table in found)]


def donor_levels(adata: ad.AnnData, summary: Callable[[pd.DataFrame, pd.DataFrame, Array], Array]) -> Array:
    """Proteins × donors, in order: means over the runs of a donor of what peptides are summed up to."""
    peptides, weights = (
        pd.DataFrame(values.T) for values in (np.asarray(adata.X), np.asarray(adata.layers["weights"]))
    )
    by_run = pd.DataFrame(summary(peptides, weights, adata.var["protein"].to_numpy()))
    return np.asarray(by_run.T.groupby(adata.obs["donor_id"].cat.codes.to_numpy()).mean().T)


def medians(peptides: pd.DataFrame, weights: pd.DataFrame, protein: Array, *, centred: bool) -> Array:
    """Proteins × runs."""
    values = peptides.sub(peptides.mean(axis=1), axis=0) if centred else peptides
    return np.asarray(values.groupby(protein).median())


def weighted_means(peptides: pd.DataFrame, weights: pd.DataFrame, protein: Array, *, centred: bool) -> Array:
    """Proteins × runs."""
    if centred:
        peptides = peptides.sub((weights * peptides).sum(axis=1) / weights.sum(axis=1), axis=0)
    total = weights.groupby(protein).sum()
    return np.asarray((weights * peptides).groupby(protein).sum() / total.where(total > 0))


LIMMA = {
    f"limma, {summary.__name__.replace('_', ' ')}{', centred' * centred}": partial(
        limma, summary=partial(summary, centred=centred)
    )
    for centred, summary in product((False, True), (medians, weighted_means))
}
TESTS = {"moderated": partial(mixed, ddf="moderated"), "Kenward-Roger": partial(mixed, ddf="kenward-roger")}
OWN = TESTS | {
    "moderated, Huber": partial(mixed, ddf="moderated", robust="huber"),
    "moderated, learned weights": partial(mixed, ddf="moderated", weights="learned"),
    "moderated, no weights": partial(mixed, ddf="moderated", weights=None),
}
ROBUST = {
    f"{ddf}{', Huber' * bool(robust)}": partial(mixed, ddf=ddf, robust=robust)
    for ddf, robust in product(("moderated", "kenward-roger"), (None, "huber"))
}


def run(
    cases: Sequence[Setting], methods: Mapping[str, Method], options: argparse.Namespace, **effects: Any
) -> Iterator[tuple[Setting, Array, dict[str, list[Tested]]]]:
    """Of each setting the true effects (seeds, proteins), and what the methods say of every data set."""
    chosen = {name: method for name, method in methods.items() if options.methods in name}
    for case in cases:
        if options.only in case.name:
            studies = [
                case.study(seed, options.proteins, **effects)
                for seed in range(options.seed, options.seed + options.seeds)
            ]
            truth = np.stack([proteins(adata)["true_log_fc"].to_numpy() for adata in studies])
            yield case, truth, {name: method(studies) for name, method in chosen.items()}


def share(p: Sequence[Array], level: float) -> str:
    """Of the p-values that are there, how many are up to a level: the mean over data sets, and its standard error."""
    values = np.array([(one <= level).mean() for one in (p[np.isfinite(p)] for p in p) if one.size])
    if not values.size:
        return ""
    digits = 4 if level >= ALPHA else 5
    pooled = np.mean(np.concatenate([one[np.isfinite(one)] for one in p]) <= level)
    return f"{pooled:.{digits}f} ± {values.std(ddof=1) / np.sqrt(values.size):.{digits}f}"


def null_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Type I error where no protein differs."""
    yield ["setting", "method", "tests", f"p ≤ {ALPHA}", f"p ≤ {SMALL}", "reduced", f"reduced, p ≤ {ALPHA}", f"reduced, p ≤ {SMALL}",
           "no test"]  # fmt: skip
    for case, _, found in run(settings(), TESTS | LIMMA, options, de_fraction=0.0):
        for name, tested in found.items():
            p, reduced = [one.p for one in tested], [one.p[one.reduced] for one in tested]
            n = sum(np.isfinite(one).sum() for one in p)
            yield [case.name, name, f"{n}", share(p, ALPHA), share(p, SMALL), f"{sum(one.size for one in reduced)}",
                   share(reduced, ALPHA), share(reduced, SMALL), f"{1 - n / sum(one.size for one in p):.3f}"]  # fmt: skip


def power_rows(
    options: argparse.Namespace, cases: Sequence[Setting] = (), methods: Mapping[str, Method] = OWN
) -> Iterator[list[str]]:
    """Share of the effects found, and as a share of what the better of limma's ways finds."""
    yield [
        "setting",
        "method",
        f"type I {ALPHA}",
        *(f"{name}{of}" for name in FOUND for of in ("", " / limma")),
        "false",
    ]
    for case, truth, found in run(
        cases or settings(), {**methods, **LIMMA}, options, de_fraction=DE_FRACTION, effect_size=EFFECT
    ):
        shares = {name: powers(tested, truth) for name, tested in found.items()}
        for name, tested in found.items():
            nulls = [one.p[of == 0] for one, of in zip(tested, truth, strict=True)]
            cells = [cell for of in FOUND for cell in (f"{shares[name][of].mean():.3f}", against(shares, name, of))]
            yield [case.name, name, share(nulls, ALPHA), *cells, f"{shares[name]['fdp'].mean():.3f}"]


FOUND = {
    f"p ≤ {ALPHA}": lambda nulls, effects: (effects <= ALPHA).mean(),
    f"at type I {ALPHA}": lambda nulls, effects: found_at(nulls, effects, ALPHA),
    f"at type I {SMALL * 10:g}": lambda nulls, effects: found_at(nulls, effects, SMALL * 10),
    "power": None,
}
"""Shares of the effects: with a p-value below a level, below the cut that a share of the nulls is below, and at 5% false discoveries."""


def powers(tested: Sequence[Tested], truth: Array) -> dict[str, Array]:
    """Of every data set, (seeds,): shares of the effects found, and of the discoveries that are false."""
    rows = []
    for one, effect in zip(tested, truth, strict=True):
        p = np.nan_to_num(one.p, nan=1.0)
        row = {name: how(p[effect == 0], p[effect != 0]) for name, how in FOUND.items() if how}
        rows.append(row | {name: measure(p, effect, np.full(p.size, np.nan))[name] for name in ("power", "fdp")})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def against(shares: Mapping[str, Mapping[str, Array]], name: str, of: str) -> str:
    """What a method finds as a share of what the better of limma's ways does, and its standard error."""
    best = max((other for other in shares if other in LIMMA), key=lambda other: shares[other][of].mean())
    own, other = shares[name][of], shares[best][of]
    ratio = own.mean() / other.mean()
    return f"{ratio:.3f} ± {(own - ratio * other).std(ddof=1) / (other.mean() * np.sqrt(own.size)):.3f}"


def robust_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Power and type I error with errors of t with 3 degrees of freedom, and with normal ones."""
    for number, errors in enumerate(("t3", "normal")):
        cases = [Setting(n, 1, 0.3, "random", "informative", {"errors": errors}) for n in (3, 5)]
        for row in list(power_rows(options, cases, ROBUST))[min(number, 1) :]:
            yield ["errors" if row[0] == "setting" else errors, *row]


def mixture_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Species of known log2 ratios, where runs differ little: estimates, and shares with p-values below a level."""
    yield [
        "setting",
        "method",
        *(
            f"{name} ({ratio:+g}): {what}"
            for name, ratio in RATIOS.items()
            for what in ("median", "rmse", f"p ≤ {ALPHA}")
        ),
    ]
    cases = [Setting(n, 1, 0.3, "intensity", "informative", {"species": RATIOS, "donor_sd": 0.05}) for n in (3, 5)]
    for case, truth, found in run(cases, OWN | LIMMA, options):
        for name, tested in found.items():
            cells = []
            for ratio in RATIOS.values():
                estimate = np.concatenate([one.estimate[of == ratio] for one, of in zip(tested, truth, strict=True)])
                estimate = estimate[np.isfinite(estimate)]
                p = [np.nan_to_num(one.p[of == ratio], nan=1.0) for one, of in zip(tested, truth, strict=True)]
                cells += [
                    f"{np.median(estimate):+.3f}",
                    f"{np.sqrt(((estimate - ratio) ** 2).mean()):.3f}",
                    share(p, ALPHA),
                ]
            yield [case.name, name, *cells]


TABLES = {"null": null_rows, "power": power_rows, "robust": robust_rows, "mixture": mixture_rows}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.calibration.peptides", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--proteins", type=int, default=1_000)
    parser.add_argument("--only", default="", help="settings with this in their name")
    parser.add_argument("--methods", default="", help="methods with this in their name")
    options = parser.parse_args()
    logging.getLogger("donorwise").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", dw.errors.DonorwiseWarning)
    for number, row in enumerate(TABLES[options.table](options)):
        print("| " + " | ".join(row) + " |", flush=True)
        if number == 0:
            print("|---" * len(row) + "|")


if __name__ == "__main__":
    main()
