"""Random proteins of peptides with their matrices made by hand, protein by protein, for the dense twin of tests/_dense.py."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import anndata as ad
import numpy as np
import pandas as pd
from tests._dense import Dense, Term

from donorwise._anndata.prepare_peptides import prepare_peptides
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.peptides import PeptideFit
from donorwise._core.models.lmm.ragged_model import RaggedLMM
from donorwise.errors import DonorwiseWarning

# Random parts as (grouping factor and column of every term), in the order of the formula.
RANDOM = {
    "(1 | peptide)": ["peptide 1"],
    "(1 | donor)": ["donor 1"],
    "(0 + x | donor)": ["donor x"],
    "(1 | peptide) + (1 | donor)": ["peptide 1", "donor 1"],
    "(1 | peptide) + (1 | peptide:donor)": ["peptide 1", "peptide:donor 1"],
    "(1 | peptide) + (0 + x | donor)": ["peptide 1", "donor x"],
    "(1 | donor) + (0 + x | donor)": ["donor 1", "donor x"],
    "(1 | peptide) + (1 | donor) + (1 | run)": ["peptide 1", "donor 1", "run 1"],
    "(1 | donor) + (1 | peptide) + (1 | peptide:donor)": ["donor 1", "peptide 1", "peptide:donor 1"],
    "(1 | peptide) + (1 | donor) + (0 + x | donor)": ["peptide 1", "donor 1", "donor x"],
    "(1 | donor) + (1 | run) + (0 + x | run)": ["donor 1", "run 1", "run x"],
}
# Fixed parts as columns of X after the intercept.
FIXED = {
    "1": "",
    "arm": "arm",
    "arm + x": "arm x",
    "phase + arm": "phase2 phase3 arm",
    "arm * site": "arm site arm:site",
    "arm + charge + x": "arm charge x",
    "phase + arm + charge": "phase2 phase3 arm charge",
}


@dataclass(frozen=True)
class Protein:
    """The measurements of one protein in long form, and what the formula makes of them."""

    y: np.ndarray
    w: np.ndarray
    X: np.ndarray
    terms: tuple[Term, ...]

    @cached_property
    def rows(self) -> np.ndarray:
        """Orthonormal basis of the rows of X, (p, rank)."""
        if not self.X.size:
            return np.empty((self.X.shape[1], 0))
        _, values, vectors = np.linalg.svd(self.X, full_matrices=False)
        return vectors[values > 1e-9 * values.max(initial=0.0)].T

    def twin(self, which: np.ndarray | None = None) -> Dense:
        """The dense model in the directions of X that have rows, with some of the random terms (all if None)."""
        terms = self.terms if which is None else [t for t, kept in zip(self.terms, which, strict=True) if kept]
        return Dense(self.y, self.X @ self.rows, terms, self.w)

    def estimable(self, L: np.ndarray) -> np.ndarray:
        """Which contrasts (n, p) are combinations of rows of X."""
        return np.abs(L @ self.rows @ self.rows.T - L).max(axis=1) <= 1e-8

    def leaves_nothing(self, which: np.ndarray) -> bool:
        """Whether fixed and random effects (of some of the terms) together explain every measurement."""
        Z = [t.effects()[0] for t, kept in zip(self.terms, which, strict=True) if kept]
        columns = np.column_stack([self.X, *Z])
        rest = self.y - columns @ np.linalg.lstsq(columns, self.y, rcond=None)[0]
        return bool(np.abs(rest).max() <= 1e-9 * np.abs(self.y).max())

    def kept(self, order: list[int]) -> tuple[np.ndarray, bool]:
        """Terms with a covariance of rows of their own, and whether one is left out that is the residual's.

        Neither none, nor one level's, the residual's, or an earlier one's; and where they fit any response together, not
        that with most levels without which they do not.
        """
        residual = np.eye(len(self.y))
        found, merged = [residual], False
        out = np.zeros(len(self.terms), dtype=bool)
        for t in order:
            Z = self.terms[t].effects()[0]
            E, levels = Z @ Z.T, int(Z.any(axis=0).sum())
            merged |= levels > 1 and _proportional(E, residual)
            out[t] = levels > 1 and not any(_proportional(E, other) for other in found)
            if out[t]:
                found.append(E)
        if len(self.y) and self._fits_all(out):
            sizes = {t: len(set(self.terms[t].codes)) for t in reversed(order) if out[t]}
            able = [t for t in sizes if not self._fits_all(out & (np.arange(out.size) != t))]
            if able:
                out[max(able, key=lambda t: sizes[t])] = False
                merged = True
        return out, merged

    def _fits_all(self, which: np.ndarray) -> bool:
        Z = [t.effects()[0] for t, own in zip(self.terms, which, strict=True) if own]
        return int(np.linalg.matrix_rank(np.column_stack([self.X, *Z]))) == len(self.y)

    def weighed(self, order: list[int]) -> Protein:
        """With equal weights where a term is the residual's."""
        if not len(self.y) or not self.kept(order)[1]:
            return self
        return replace(self, w=np.full(len(self.w), np.exp(np.log(self.w).mean())))


def _proportional(A: np.ndarray, B: np.ndarray) -> bool:
    a, b = A / np.abs(A).max(), B / np.abs(B).max()
    return bool(np.abs(a - b).max() <= 1e-9)


@dataclass(frozen=True)
class Recipe:
    """What proteins are made from: short enough to read in a failure."""

    seed: int
    random: str
    fixed: str
    spread: float = 1.0  # standard deviation of the logarithms of the weights
    missing: float = 0.3
    G: int = 6
    most: int = 6  # peptides of a protein
    ratio: float = 1.0  # variance of the random effects, the residual's being 1

    @property
    def formula(self) -> str:
        return f"~ {self.fixed} + {self.random}"

    @cached_property
    def adata(self) -> ad.AnnData:
        """Runs x peptides; runs in unbalanced donors, a protein that one arm may lack."""
        rng = np.random.default_rng(self.seed)
        obs, var = _runs(rng), _peptides(rng, self.G, self.most)
        N, P = len(obs), len(var)
        W = np.exp(self.spread * rng.normal(size=(N, P)))
        Y = 20 + rng.normal(size=(N, P)) / np.sqrt(W) + rng.normal(size=P)
        for names, column in (term.split() for term in RANDOM[self.random]):
            labels = np.array([_labels(names, obs, var, j) for j in range(P)]).T
            levels, codes = np.unique(labels, return_inverse=True)
            effects = np.sqrt(self.ratio) * rng.normal(size=levels.size)[codes.reshape(N, P)]
            Y += effects * (obs["x"].to_numpy()[:, None] if column == "x" else 1.0)
        Y[rng.random(Y.shape) < self.missing] = np.nan
        lost = rng.random(self.G) < 0.15
        lacking = (obs["arm"].to_numpy() == "a1")[:, None] & lost[var["protein"].str[1:].astype(int).to_numpy()]
        Y[lacking] = np.nan
        W[rng.random(W.shape) < 0.03] = 0
        return ad.AnnData(Y, obs=obs, var=var, layers={"weights": W})

    @cached_property
    def proteins(self) -> list[Protein]:
        """By hand: loops over the peptides of a protein and the runs."""
        adata, out = self.adata, []
        for name in dict.fromkeys(adata.var["protein"]):
            frames, y, w = [], [], []
            for column in np.flatnonzero(adata.var["protein"] == name):
                for run in range(adata.n_obs):
                    if np.isfinite(adata.X[run, column]) and adata.layers["weights"][run, column] > 0:
                        row = {**adata.obs.iloc[run], **adata.var.iloc[column], "peptide": adata.var_names[column]}
                        frames.append(row)
                        y.append(adata.X[run, column])
                        w.append(adata.layers["weights"][run, column])
            terms = [term.split() for term in RANDOM[self.random]]
            replicate = "donor" if any(name == "donor" for name, _ in terms) else "peptide:donor"
            keys = [(name != replicate, column != "1", f"({column} | {name})") for name, column in terms]
            order = sorted(range(len(terms)), key=lambda t: keys[t])  # the replicates first, and intercepts
            out.append(_protein(frames, np.array(y), np.array(w), self).weighed(order))
        return out

    def fit(self, *, reml: bool = True) -> tuple[PeptideFit, RaggedLMM]:
        """As :func:`donorwise.tl.lmm` would."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DonorwiseWarning)
            analysis = prepare_peptides(
                self.adata, self.formula, features="protein", weights_layer="weights", options=Options(reml=reml)
            )
        (statistics,) = analysis.statistics()
        fit = analysis.fit(0, statistics, lambda _: None)
        return fit, fit.models[0]


def _runs(rng: np.random.Generator) -> pd.DataFrame:
    n_donors = rng.integers(4, 9)
    donor = np.repeat(np.arange(n_donors), rng.integers(1, 4, n_donors))
    donor = rng.permutation(donor)
    N = donor.size
    obs = pd.DataFrame({"donor": [f"d{d}" for d in donor], "run": [f"r{i:02}" for i in rng.permutation(N)]})
    obs["arm"] = pd.Categorical([f"a{d % 2}" for d in donor])
    obs["phase"] = pd.Categorical([f"f{k}" for k in np.concatenate([[1, 2, 3], rng.integers(1, 4, N - 3)])])
    obs["x"] = rng.normal(size=N).round(2)
    return obs.set_index(pd.Index([f"o{i}" for i in range(N)]))


def _peptides(rng: np.random.Generator, G: int, most: int) -> pd.DataFrame:
    protein = rng.permutation(np.repeat(np.arange(G), rng.integers(1, most + 1, G)))
    P = protein.size
    var = pd.DataFrame({"protein": [f"P{g}" for g in protein]}, index=[f"pep{i:04}" for i in rng.permutation(P)])
    var["charge"] = rng.integers(2, 5, P).astype(float)
    var["site"] = pd.Categorical([f"s{k}" for k in np.concatenate([[0, 1], rng.integers(0, 2, max(P - 2, 0))])[:P]])
    return var


def _labels(names: str, obs: pd.DataFrame, var: pd.DataFrame, column: int) -> list[str]:
    """Levels of a grouping factor in every run of a peptide, one per protein."""
    parts = [[str(var.index[column])] * len(obs) if name == "peptide" else list(obs[name]) for name in names.split(":")]
    return [var["protein"].iloc[column] + ":".join(part) for part in zip(*parts, strict=True)]


def _protein(rows: list[dict[str, object]], y: np.ndarray, w: np.ndarray, recipe: Recipe) -> Protein:
    frame = pd.DataFrame(rows, columns=["donor", "run", "arm", "phase", "x", "protein", "charge", "site", "peptide"])
    columns = {
        "1": np.ones(len(frame)),
        "arm": (frame["arm"] == "a1").to_numpy(float),
        "x": frame["x"].to_numpy(float),
        "phase2": (frame["phase"] == "f2").to_numpy(float),
        "phase3": (frame["phase"] == "f3").to_numpy(float),
        "charge": frame["charge"].to_numpy(float),
        "site": (frame["site"] == "s1").to_numpy(float),
    }
    columns["arm:site"] = columns["arm"] * columns["site"]
    X = np.column_stack([columns[name] for name in ("1", *FIXED[recipe.fixed].split())])
    terms = []
    for term in RANDOM[recipe.random]:
        group, column = term.split()
        labels = frame[group.split(":")].astype(str).agg(":".join, axis=1) if len(frame) else pd.Series(dtype=str)
        terms.append(Term(pd.factorize(labels)[0], columns[column][:, None]))
    return Protein(y, w, X, tuple(terms))


def recipe(seed: int, random: tuple[str, ...] = tuple(RANDOM), **more: int) -> Recipe:
    """One of every kind of recipes."""
    rng = np.random.default_rng(seed)
    return Recipe(
        seed,
        str(rng.choice(random)),
        str(rng.choice(list(FIXED))),
        spread=float(rng.choice([0.0, 0.7, 2.3])),
        missing=float(rng.choice([0.0, 0.3, 0.6])),
        ratio=float(rng.choice([0.0, 0.1, 1.0, 30.0])),
        **more,
    )
