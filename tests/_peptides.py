"""Small sets of peptides for tests, and a plain dense model of one protein."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

FORMULA = "~ arm + (1 | peptide) + (1 | donor)"


@dataclass(frozen=True)
class Peptides:
    """Runs x peptides, (N, P), of proteins (P,), with weights; NaN is missing."""

    Y: pd.DataFrame
    W: pd.DataFrame
    obs: pd.DataFrame
    proteins: list[str]


def peptides(
    n_proteins: int = 12, arms: tuple[str, ...] = ("ctrl", "case"), per_arm: int = 3, runs: int = 2, seed: int = 0
) -> Peptides:
    """Proteins of one to six peptides, a quarter of the measurements missing."""
    rng = np.random.default_rng(seed)
    n_donors = per_arm * len(arms)
    donor = np.repeat(np.arange(n_donors), runs)
    obs = pd.DataFrame(
        {
            "donor": [f"d{i}" for i in donor],
            "arm": pd.Categorical(np.repeat(arms, per_arm * runs), categories=list(arms)),
        }
    )
    obs["x"] = rng.normal(size=donor.size)
    obs.index = [f"run{i}" for i in range(donor.size)]
    protein = np.repeat(np.arange(n_proteins), rng.integers(1, 7, n_proteins))
    size = (donor.size, protein.size)
    W = np.exp(rng.normal(0, 0.6, size))
    Y = 20 + rng.normal(0, 2, protein.size) + rng.normal(0, 0.4, (n_donors, n_proteins))[donor][:, protein]
    Y = Y + rng.normal(0, 0.4, size) / np.sqrt(W)
    Y[rng.random(size) < 0.25] = np.nan
    names = [f"pep{i}" for i in range(protein.size)]
    return Peptides(
        pd.DataFrame(Y, obs.index, names), pd.DataFrame(W, obs.index, names), obs, [f"P{i}" for i in protein]
    )


@dataclass(frozen=True)
class Dense:
    """y, X, W⁻¹ and the ZZ' of every term, of the measurements of one protein."""

    y: np.ndarray
    X: np.ndarray
    R: np.ndarray
    Z: dict[str, np.ndarray]
    levels: dict[str, list[str]]

    def V(self, ratios: dict[str, float]) -> np.ndarray:
        """V / sigma2."""
        return self.R + sum(ratio * self.Z[name] @ self.Z[name].T for name, ratio in ratios.items())


def dense(data: Peptides, protein: str, columns: list[str]) -> Dense:
    """One protein, with columns of X by name: "1", a category of `arm`, or `x`."""
    own = [name for name, label in zip(data.Y.columns, data.proteins, strict=True) if label == protein]
    long = data.Y[own].stack().dropna() if own else pd.Series(dtype=float)
    run, peptide = long.index.get_level_values(0), long.index.get_level_values(1)
    w = np.array([data.W.loc[r, p] for r, p in long.index])
    obs = data.obs.loc[run]
    X = [
        np.ones(len(long)) if c == "1" else obs["x"].to_numpy() if c == "x" else (obs["arm"] == c).to_numpy(float)
        for c in columns
    ]
    Z, levels = {}, {}
    for name, labels in (("donor", obs["donor"].to_numpy()), ("peptide", peptide.to_numpy())):
        levels[name] = sorted(set(labels))
        Z[name] = (labels[:, None] == np.array(levels[name])).astype(float)
    return Dense(long.to_numpy(), np.stack(X, axis=1), np.diag(1 / w), Z, levels)
