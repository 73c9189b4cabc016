"""The fast fits against the dense twin of tests/_dense.py, over random designs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

import donorwise as dw
from donorwise.collapse import collapse
from donorwise.design import build
from donorwise.design.patterns import combine, first_rows, varies
from donorwise.errors import DesignError
from donorwise.lmm.crossproducts import responses
from donorwise.lmm.fit import build_model, optimise_blocked
from donorwise.lmm.spectral import fit_spectral
from tests._dense import Dense, Term

# Random parts as (formula, grouping factor and columns of every term).
RANDOM = {
    "(1 | donor)": [("donor", "1")],
    "(0 + time | donor)": [("donor", "time")],
    "(1 | donor/sample)": [("donor", "1"), ("donor:sample", "1")],
    "(1 | donor) + (1 | batch)": [("donor", "1"), ("batch", "1")],
    "(time | donor)": [("donor", "1 time")],
    "(time || donor)": [("donor", "1"), ("donor", "time")],
    "(1 + cond | donor)": [("donor", "1 cond")],
    "(1 | donor) + (0 + x | donor)": [("donor", "1"), ("donor", "x")],
    "(time | donor) + (1 | batch)": [("donor", "1 time"), ("batch", "1")],
    "(1 | donor) + (1 | donor:sample) + (1 | batch)": [("donor", "1"), ("donor:sample", "1"), ("batch", "1")],
    "(x | donor) + (1 | donor:sample)": [("donor", "1 x"), ("donor:sample", "1")],
    "(time + x | donor)": [("donor", "1 time x")],
}
FIXED = {"1": [], "arm": ["arm"], "arm + cond": ["arm", "cond"], "arm + x": ["arm", "x"], "cond + time + x": ["cond", "time", "x"]}
G = 3


@dataclass(frozen=True)
class Example:
    """Data for one model, with its matrices made by hand."""

    formula: str
    obs: pd.DataFrame
    X: np.ndarray
    terms: list[Term]
    Y: np.ndarray
    weights: np.ndarray | None

    def twin(self, g: int) -> Dense:
        seen = np.isfinite(self.Y[:, g])
        weights = None if self.weights is None else self.weights[seen]
        terms = [Term(np.unique(t.codes[seen], return_inverse=True)[1].ravel(), t.columns[seen]) for t in self.terms]
        return Dense(self.Y[seen, g], self.X[seen], terms, weights)


@st.composite
def examples(draw: st.DrawFn, random: tuple[str, ...] = tuple(RANDOM)) -> Example:
    """Unbalanced donors, samples in donors, batches across them; variances from none to large."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    text, fixed = draw(st.sampled_from(random)), draw(st.sampled_from(list(FIXED)))
    ratios = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 10.0]), min_size=G, max_size=G))
    weighted, missing = draw(st.booleans()), draw(st.booleans())
    return example(rng, text, fixed, ratios, weighted=weighted, missing=missing)


def example(rng: np.random.Generator, text: str, fixed: str, ratios: list[float], *, weighted: bool, missing: bool) -> Example:
    values = _rows(rng)
    n = len(values["donor"])
    X = np.column_stack([np.ones(n), *(values[name] for name in FIXED[fixed])])
    terms = [Term(values[group], np.column_stack([values[c] for c in columns.split()])) for group, columns in RANDOM[text]]
    weights = rng.gamma(3, size=n) if weighted else None
    noise = rng.normal(size=(n, G)) / (1 if weights is None else np.sqrt(weights)[:, None])
    Y = X @ rng.normal(size=(X.shape[1], G)) + noise
    for term in terms:
        for g, ratio in enumerate(ratios):
            u = rng.normal(size=(term.codes.max() + 1, term.columns.shape[1])) * np.sqrt(ratio)
            Y[:, g] += (term.columns * u[term.codes]).sum(axis=1)
    if missing:
        Y[rng.random(Y.shape) < 0.1] = np.nan
    return Example(f"~ {fixed} + {text}", _obs(values), X, terms, Y, weights)


def _rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    n_donors = rng.integers(5, 9)
    samples = np.repeat(np.arange(n_donors), rng.integers(1, 4, n_donors))
    sample = np.repeat(np.arange(samples.size), rng.integers(2, 6, samples.size))
    donor, n = samples[sample], sample.size
    shuffled = rng.permutation(n)
    out = {"donor": donor, "donor:sample": sample, "batch": rng.integers(0, 3, n), "1": np.ones(n)}
    out |= {"arm": donor % 2, "cond": rng.integers(0, 2, samples.size)[sample]}
    out |= {"time": rng.integers(0, 4, n).astype(float), "x": rng.normal(size=n).round(3)}
    return {name: column[shuffled] for name, column in out.items()}


def _obs(values: dict[str, np.ndarray]) -> pd.DataFrame:
    labels = {"donor": "D", "batch": "b", "arm": "arm", "cond": "c"}
    obs = pd.DataFrame({name: [f"{prefix}{v}" for v in values[name]] for name, prefix in labels.items()})
    return obs.assign(sample=values["donor:sample"], time=values["time"], x=values["x"])


def numbers_inside_patterns(categorical, numeric, n_rows):
    """As find_patterns decides for many rows: patterns by categories alone, numbers that vary in them are covariates."""
    codes, size = combine(categorical, n_rows)
    first = first_rows(codes, size)
    return codes, size, tuple(sorted(name for name, values in numeric.items() if varies(values, codes, first)))
