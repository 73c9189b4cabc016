"""Donors in families: how much of a gene's variance is inherited, and which variants move it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import donorwise as dw
from donorwise._cli.demo.shown import FDR, found, say, write

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    import pandas as pd

FORMULA = "~ sex + (1 | gr(donor_id, cov=pedigree))"
N_DONORS, N_GENES = 150, 200


@cache
def _families(seed: int) -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """Log expression of donors, their genotypes, and how they are related."""
    import pandas as pd

    donors, genotypes = dw.datasets.simulate_eqtls(
        n_donors=N_DONORS, n_cells=None, n_genes=N_GENES, n_variants=2_000, n_chromosomes=4, families="nuclear",
        polygenic_sd=0.3, seed=seed,
    )  # fmt: skip
    people = genotypes.obs_names
    return donors, genotypes, pd.DataFrame(genotypes.obsp["pedigree"], people, people)


def heritability(out: Path, seed: int) -> None:
    """Shares of variance that follow relatedness."""
    donors, _, pedigree = _families(seed)
    dw.tl.lmm(donors, FORMULA, kernels={"pedigree": pedigree}, progress=False)
    shares = dw.get.heritability(donors)
    of_genes = donors.var.loc[shares["variable"].astype(str)]
    inherited = of_genes["polygenic_sd"].to_numpy() ** 2
    true = inherited / (inherited + of_genes["donor_sd"].to_numpy() ** 2)
    known = (of_genes["eqtl"] == "none").to_numpy()  # where no single variant adds to it
    covered = ((shares["ci_low"] <= true) & (true <= shares["ci_high"]))[known]
    verdict = (
        f"Mean h² of the {known.sum()} genes without an eQTL {shares['proportion'][known].mean():.2f}; the truth is "
        f"{true[known].mean():.2f}, and in the 95% interval of {covered.mean():.0%} of them."
    )
    call = f"dw.tl.lmm(donors, {FORMULA!r}, kernels={{'pedigree': pedigree}}); dw.get.heritability(donors)"
    columns = ["variable", "component", "proportion", "se", "ci_low", "ci_high", "p_value"]
    say(f"Heritability: {N_DONORS} donors in families, {N_GENES} genes", call, shares, columns, verdict)
    figure: Any = dw.pl.heritability(donors, show=False, return_fig=True)
    write(out, "heritability", shares, {"heritability": figure})


def eqtls(out: Path, seed: int) -> None:
    """Every variant near a gene, with relatives accounted for."""
    donors, genotypes, pedigree = _families(seed)
    dw.tl.scan(donors, genotypes, FORMULA, kernels={"pedigree": pedigree}, refit="none", progress=False)
    leads = dw.get.scan(donors)
    hits = leads[leads["q_value"] <= FDR]
    causal = donors.var.loc[hits["gene"].astype(str), "eqtl"].to_numpy()
    right = int((causal == hits["variant"].astype(str).to_numpy()).sum())
    verdict = found(causal != "none", int((donors.var["eqtl"] != "none").sum()), "genes with an eQTL")
    verdict += f" The lead is the causal variant itself in {right}."
    call = f"dw.tl.scan(donors, genotypes, {FORMULA!r}, kernels={{'pedigree': pedigree}}, refit='none')"
    columns = ["gene", "variant", "a1", "af", "beta", "se", "p_value", "n_variants", "q_value"]
    say(f"eQTLs: {genotypes.n_vars:,} variants, within a million bases of each gene", call, leads, columns, verdict)
    best: dict[str, Any] = {
        "gene": str(leads["gene"].iloc[0]),
        "genotypes": genotypes,
        "show": False,
        "return_fig": True,
    }
    write(out, "eqtls", leads, {"locus": dw.pl.locus(donors, **best), "genotype": dw.pl.genotype(donors, **best)})
