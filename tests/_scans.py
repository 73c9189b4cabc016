"""Scans that are made here, by ordinary least squares: genotypes with LD, cells, and the tables that a scan leaves."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from donorwise._anndata.scan_results import write_scan
from donorwise._core.inference.genomic_control import genomic_lambda_of_p

WINDOW, LENGTH = 1_000_000, 6_000_000


class Scan(NamedTuple):
    """The tables of a scan, as attributes."""

    tests: pd.DataFrame
    results: pd.DataFrame
    counts: pd.DataFrame
    params: dict[str, object]


class Study(NamedTuple):
    """Cells with a scan in ``uns``, the genotypes, and the tables."""

    adata: ad.AnnData
    genotypes: ad.AnnData
    scan: Scan


@cache
def _study(groups: tuple[str, ...], n_genes: int, n_donors: int, p_max: float | None, interaction: bool) -> Study:
    rng = np.random.default_rng(n_genes + len(groups))
    genotypes = simulate_genotypes(rng, n_donors, 900)
    adata = simulate_cells(rng, genotypes, groups, n_genes, interaction=interaction)
    scan = cis_scan(adata, genotypes, groups, p_max=p_max, interaction=interaction)
    write_scan(adata, "scan", **scan._asdict())
    return Study(adata, genotypes, scan)


def study(
    groups: tuple[str, ...] = ("B", "T"),
    *,
    n_genes: int = 12,
    n_donors: int = 60,
    p_max: float | None = None,
    interaction: bool = False,
) -> Study:
    """Cells of some groups, half of whose genes have a variant that acts, and a cis scan of them."""
    made = _study(groups, n_genes, n_donors, p_max, interaction)
    return Study(made.adata.copy(), made.genotypes.copy(), made.scan)


def simulate_genotypes(rng: np.random.Generator, n_donors: int, n_variants: int) -> ad.AnnData:
    """Three chromosomes; neighbouring variants go together."""
    haplotypes = []
    for _ in range(2):
        z = rng.normal(size=(n_donors, n_variants))
        for j in range(1, n_variants):
            if j % (n_variants // 3):
                z[:, j] = 0.9 * z[:, j - 1] + np.sqrt(1 - 0.81) * z[:, j]
        haplotypes.append(z)
    cut = stats.norm.ppf(rng.uniform(0.2, 0.8, n_variants))
    values = sum((z < cut).astype(np.float32) for z in haplotypes)
    pos = np.concatenate([1 + np.sort(rng.choice(LENGTH, n_variants // 3, replace=False)) for _ in range(3)])
    alleles = np.array([rng.choice(list("ACGT"), 2, replace=False) for _ in range(n_variants)])
    var = pd.DataFrame(
        {"chrom": np.repeat(["chr2", "chr10", "chrX"], n_variants // 3), "pos": pos, "a0": alleles[:, 0], "a1": alleles[:, 1]},
        index=[f"rs{j}" for j in range(n_variants)],
    )  # fmt: skip
    return ad.AnnData(values, obs=pd.DataFrame(index=[f"D{i:02}" for i in range(n_donors)]), var=var)


def simulate_cells(
    rng: np.random.Generator, genotypes: ad.AnnData, groups: tuple[str, ...], n_genes: int, *, interaction: bool
) -> ad.AnnData:
    """Two conditions in every donor, 2 to 20 cells each and of each group; every second gene has a variant that acts."""
    near = np.linspace(50, genotypes.n_vars - 50, n_genes).astype(int)
    var = genotypes.var.iloc[near][["chrom", "pos"]].rename(columns={"pos": "start"})
    var = var.assign(end=var["start"] + 40_000, strand=np.resize(["+", "-"], n_genes))
    var.index = [f"gene_{i:02}" for i in range(n_genes)]
    effect = np.where(np.arange(n_genes) % 2, 0.0, np.linspace(0.4, 1.5, n_genes))
    rows, values = [], []
    for donor, x in zip(genotypes.obs_names, genotypes.X[:, near], strict=True):
        for group in groups:
            own = rng.normal(size=n_genes)
            for c, condition in enumerate(("rest", "treated")):
                n = int(rng.integers(2, 20))
                acts = effect * x * (c if interaction else 1)
                rows += [(donor, group, condition)] * n
                values.append(5 + own + acts + rng.normal(size=(n, n_genes)))
    obs = pd.DataFrame(rows, columns=["donor_id", "cell_type", "condition"]).astype("category")
    return ad.AnnData(np.concatenate(values), obs=obs.set_axis(obs.index.astype(str)), var=var)


def cis_scan(
    adata: ad.AnnData, genotypes: ad.AnnData, groups: tuple[str, ...], *, p_max: float | None, interaction: bool
) -> Scan:
    """Every gene against the variants of its window: donors' means (or their differences) on the genotype."""
    parts = []
    for group in groups:
        means = _donor_values(adata[adata.obs["cell_type"] == group], interaction).loc[genotypes.obs_names]
        for gene in adata.var_names:
            tss = adata.var.loc[gene, "start"]
            near = (genotypes.var["chrom"] == adata.var.loc[gene, "chrom"]) & (genotypes.var["pos"] - tss).abs().le(
                WINDOW
            )
            parts.append(tests_of(means[gene].to_numpy(), genotypes[:, near.to_numpy()], gene=gene, group=group))
    every = pd.concat(parts, ignore_index=True)
    leads, counts = lead_table(every), counts_of(every)
    if interaction:
        every = every.assign(beta_main=0.5, se_main=0.1, p_main=1e-6)
    kept = every if p_max is None else every[every["p_value"] <= p_max].reset_index(drop=True)
    params = {
        "formula": "~ 1 + (1 | donor_id)", "groupby": "cell_type", "donor": "donor_id", "response": "X", "mode": "cis",
        "window": WINDOW, "interaction": "condition" if interaction else "", "gene_test": "bonferroni", "out": "",
        "p_max": 1.0 if p_max is None else p_max, "n_tests": len(every),
        "lambda": every.groupby("group")["p_value"].agg(genomic_lambda_of_p).to_dict(),
    }  # fmt: skip
    return Scan(kept, leads, counts, params)


def _donor_values(cells: ad.AnnData, interaction: bool) -> pd.DataFrame:
    frame = cells.to_df().groupby([cells.obs["donor_id"], cells.obs["condition"]], observed=True).mean()
    wide = frame.unstack("condition")
    rest, treated = (wide.xs(level, axis=1, level="condition") for level in ("rest", "treated"))
    return treated - rest if interaction else (treated + rest) / 2


def tests_of(y: np.ndarray, genotypes: ad.AnnData, *, gene: str, group: str) -> pd.DataFrame:
    """Ordinary least squares of y on every variant."""
    x = np.asarray(genotypes.X, dtype=np.float64)
    n, centred = len(y), x - x.mean(0)
    beta = centred.T @ (y - y.mean()) / (centred**2).sum(0)
    residual = (y - y.mean())[:, None] - centred * beta
    se = np.sqrt((residual**2).sum(0) / (n - 2) / (centred**2).sum(0))
    log_p = (np.log(2) + stats.t.logsf(np.abs(beta / se), n - 2)) / np.log(10)
    var = genotypes.var
    return pd.DataFrame(
        {
            "gene": gene, "group": group, "variant": var.index, "chrom": var["chrom"].str.removeprefix("chr").to_numpy(),
            "pos": var["pos"].to_numpy(), "a0": var["a0"].to_numpy(), "a1": var["a1"].to_numpy(), "af": x.mean(0) / 2,
            "n": n, "beta": beta, "se": se, "statistic": beta / se, "df": n - 2.0, "p_value": 10**log_p,
            "neg_log10_p": -log_p, "status": "ok",
        }
    )  # fmt: skip


def lead_table(tests: pd.DataFrame) -> pd.DataFrame:
    """The best variant of every gene and group."""
    by = tests.groupby(["group", "gene"], sort=False)
    lead = tests.loc[by["neg_log10_p"].idxmax()].reset_index(drop=True)
    lead["n_variants"] = by.size().to_numpy()
    lead["p_gene"] = (lead["p_value"] * lead["n_variants"]).clip(upper=1.0)
    lead["adj_p_gene"] = lead.groupby("group")["p_gene"].transform(stats.false_discovery_control)
    return lead.assign(q_value=lead["adj_p_gene"], n_donors=lead["n"])


def counts_of(tests: pd.DataFrame) -> pd.DataFrame:
    """All tests in bins of their statistic."""
    edges = np.arange(12 * 64 + 1) / 64
    parts = []
    for group, own in tests.groupby("group", sort=False):
        place = np.minimum((own["statistic"].abs() * 64).astype(int), len(edges) - 1)
        p = 2 * stats.t.sf(edges, own["df"].iloc[0])
        count = np.bincount(place, minlength=len(edges))
        parts.append(pd.DataFrame({"group": group, "statistic": edges, "p_value": p, "count": count}))
    return pd.concat(parts, ignore_index=True)
