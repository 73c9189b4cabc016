"""Small tables in the columns of programs of proteomics."""

from __future__ import annotations

import numpy as np
import pandas as pd


def diann(n_runs: int = 4, n_precursors: int = 9, seed: int = 0) -> pd.DataFrame:
    """Three precursors a protein, some missing."""
    rng = np.random.default_rng(seed)
    run, precursor = (own.ravel() for own in np.meshgrid(np.arange(n_runs), np.arange(n_precursors), indexing="ij"))
    table = pd.DataFrame(
        {
            "Run": [f"run_{i}" for i in run],
            "Precursor.Id": [f"PEPTIDE{i}2" for i in precursor],
            "Protein.Group": [f"P{i // 3}" for i in precursor],
            "Genes": [f"G{i // 3}" for i in precursor],
            "Precursor.Charge": 2,
            "Precursor.Normalised": np.exp2(rng.normal(20, 1, run.size)),
            "Quantity.Quality": rng.uniform(0.4, 1, run.size),
            "Q.Value": 0.001,
        }
    )
    return table[rng.random(run.size) < 0.8].reset_index(drop=True)


def spectronaut() -> pd.DataFrame:
    """One precursor is a decoy, one is imputed, one has the 1 that stands for nothing, one is "Filtered"."""
    return pd.DataFrame(
        {
            "R.FileName": ["a", "a", "a", "a", "b", "b"],
            "R.Condition": ["x", "x", "x", "x", "y", "y"],
            "EG.PrecursorId": ["_AAK_.2", "_CCK_.2", "_DDK_.2", "_EEK_.2", "_AAK_.2", "_CCK_.2"],
            "PG.ProteinGroups": ["P1", "P2", "P3", "P3", "P1", "P2"],
            "PG.Genes": ["G1", "G2", "G3", "G3", "G1", "G2"],
            "FG.Charge": 2,
            "EG.TotalQuantity (Settings)": ["4096", "1", "1024", "512", "8192", "Filtered"],
            "EG.Qvalue": [0.001] * 6,
            "EG.IsDecoy": ["False", "False", "True", "False", "False", "False"],
            "EG.IsImputed": ["False", "False", "False", "True", "False", "False"],
        }
    )


def evidence() -> pd.DataFrame:
    """With a contaminant by flag, one by name, a decoy, and zeros."""
    return pd.DataFrame(
        {
            "Sequence": ["AAK", "CCK", "DDK", "EEK", "AAK", "FFK"],
            "Modified sequence": ["_AAK_", "_CCK_", "_DDK_", "_EEK_", "_AAK_", "_FFK_"],
            "Charge": [2, 2, 3, 2, 2, 2],
            "Raw file": ["a", "a", "a", "a", "b", "b"],
            "Experiment": ["x", "x", "x", "x", "y", "y"],
            "Proteins": ["P1;P9", "P2", "CON__P3", "REV__P4", "P1;P9", "P5;CON__P6"],
            "Leading razor protein": ["P1", "P2", "CON__P3", "REV__P4", "P1", "CON__P6"],
            "Intensity": [4096.0, 0.0, 1024.0, 512.0, 2048.0, 64.0],
            "Reverse": ["", "", "", "+", "", ""],
            "Potential contaminant": ["", "", "+", "", "", ""],
        }
    )


def peptides() -> pd.DataFrame:
    """The wide table of MaxQuant."""
    return pd.DataFrame(
        {
            "Sequence": ["AAK", "CCK", "DDK"],
            "Proteins": ["P1", "P2", "P3"],
            "Leading razor protein": ["P1", "P2", "P3"],
            "Intensity": [0, 0, 0],
            "Intensity case 1": [4096, 0, 256],
            "Intensity control 1": [2048, 1024, 0],
            "LFQ intensity case 1": [64, 0, 0],
            "LFQ intensity control 1": [32, 16, 0],
            "MS/MS Count case 1": [3, 0, 1],
            "MS/MS Count control 1": [2, 1, 0],
            "Reverse": ["", "", "+"],
        }
    )


def msstats() -> pd.DataFrame:
    """Runs that are numbers, and one value that is missing."""
    return pd.DataFrame(
        {
            "ProteinName": ["P1", "P1", "P1", "P2"],
            "PeptideSequence": ["AAK", "AAK", "AAK", "CCK"],
            "PrecursorCharge": [2, 2, 3, 2],
            "Run": [1, 2, 1, 2],
            "Condition": ["x", "y", "x", "y"],
            "BioReplicate": [1, 2, 1, 2],
            "Intensity": [4096.0, 2048.0, np.nan, 1024.0],
        }
    )
