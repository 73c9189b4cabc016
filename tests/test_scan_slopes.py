"""Interactions of variants: what the formula must have for donors to be the replicates, and nothing is said where it has."""

from __future__ import annotations

import warnings

import anndata as ad
import pytest

import donorwise as dw
from donorwise.errors import DonorwiseWarning

RANDOM = "(1 | donor_id)"


@pytest.fixture(scope="module")
def study() -> tuple[ad.AnnData, ad.AnnData]:
    """Cells of 20 donors under two conditions; `sample_id` is a donor's condition, `half` a part of such a sample."""
    cells, genotypes = dw.datasets.simulate_eqtls(
        n_donors=20, n_cells=1_200, n_genes=4, n_variants=60, n_chromosomes=1, condition=True, seed=2
    )
    cells.obs["stim"] = (cells.obs["condition"] == "stimulated").astype(float)
    part = (cells.obs.groupby("sample_id", observed=True).cumcount() % 2).astype(str)
    cells.obs["half"] = (cells.obs["sample_id"].astype(str) + "_" + part).astype("category")
    return cells, genotypes


CASES = [
    (f"~ condition + {RANDOM}", "condition", "add (1 | donor_id:condition)."),
    (f"~ condition + {RANDOM} + (1 | donor_id:condition)", "condition", ""),
    (f"~ condition + {RANDOM} + (1 | sample_id)", "condition", ""),
    (f"~ condition + {RANDOM} + (1 | half)", "condition", "add (1 | donor_id:condition)."),
    (f"~ condition + {RANDOM} + (1 | half) + (1 | sample_id)", "condition", ""),
    ("~ condition + (1 + condition | donor_id)", "condition", ""),
    (f"~ condition + {RANDOM} + (1 | donor_id:sex)", "condition", "add (1 | donor_id:condition)."),
    (f"~ stim + {RANDOM}", "stim", "add (0 + stim | donor_id)."),
    (f"~ stim + {RANDOM} + (1 | donor_id:condition)", "stim", ""),
    (f"~ stim + {RANDOM} + (0 + stim | donor_id)", "stim", ""),
    (f"~ log_depth + {RANDOM} + (1 | sample_id)", "log_depth", "add (0 + log_depth | donor_id)."),
    (f"~ sex + {RANDOM}", "sex", ""),
]


@pytest.mark.parametrize(("formula", "interaction", "advice"), CASES)
def test_terms_of_interactions(
    study: tuple[ad.AnnData, ad.AnnData], formula: str, interaction: str, advice: str
) -> None:
    hot = told_hot(*study, formula, interaction)
    assert len(hot) == bool(advice)
    assert all(text.endswith(advice) for text in hot)


def told_hot(adata: ad.AnnData, genotypes: ad.AnnData, formula: str, interaction: str) -> list[str]:
    """Warnings of a scan that cells count as replicates of an interaction."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dw.tl.scan(
            adata.copy(),
            genotypes,
            formula,
            interaction=interaction,
            mode="trans",
            p_max=1e-6,
            refit="none",
            progress=False,
        )
    said = [str(own.message) for own in told if issubclass(own.category, DonorwiseWarning)]
    return [text for text in said if "takes cells for replicates (hot p-values)" in text]


def test_one_row_for_each_value_needs_no_term() -> None:
    """The residual is what a donor's response differs by; of several such rows it is not."""
    rows, genotypes = dw.datasets.simulate_eqtls(
        n_donors=20, n_cells=None, n_genes=4, n_variants=60, n_chromosomes=1, condition=True, seed=2
    )
    formula = f"~ condition + {RANDOM}"
    assert told_hot(rows, genotypes, formula, "condition") == []
    assert len(told_hot(ad.concat([rows, rows], index_unique="-"), genotypes, formula, "condition")) == 1
