"""Tables of a scan as ``dw.tl.scan`` leaves them, with made-up numbers, and the folder that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._anndata.keys import COUNT_COLUMNS, SCAN_COLUMNS, TEST_COLUMNS
from donorwise._core.engine.scan_folder import group_folder

GROUPS = ["CD4 T/naive & co", "B", "100%"]
GENES = [f"ENSG{i}" for i in range(6)]
CHROMS = ["2", "10", "X", "1"]
DF = 30.0


class Tables(NamedTuple):
    results: pd.DataFrame
    counts: pd.DataFrame
    params: dict[str, Any]
    tests: pd.DataFrame


def scan_tables(groups: list[str] = GROUPS, *, n_variants: int = 20, interaction: str = "", seed: int = 0) -> Tables:
    """A scan of six genes, the last without variants, the one before without a null model in the first group."""
    rng = np.random.default_rng(seed)
    variants = _variants(n_variants, rng)
    parts = [_tests(gene, group, variants, rng) for group in groups for gene in GENES[:5]]
    tests = pd.concat(parts, ignore_index=True)
    failed = (tests["gene"] == GENES[4]) & (tests["group"] == groups[0])
    tests.loc[failed, ["beta", "se", "statistic", "p_value", "neg_log10_p"]] = np.nan
    tests.loc[failed, "status"] = "not_estimable"
    if interaction:
        tests = tests.assign(beta_main=rng.normal(size=len(tests)), se_main=0.5, p_main=rng.uniform(size=len(tests)))
    params = {
        "method": "scan", "formula": "~ sex + PC1 + (1 | donor_id)", "groupby": "cell_type" if len(groups) > 1 else "",
        "response": "X", "mode": "cis", "window": 1_000_000, "interaction": interaction, "gene_test": "acat", "p_max": None,
        "out": None, "n_tests": len(tests), "lambda": {group: 1.0 + i / 100 for i, group in enumerate(groups)},
        "left_out": {"lacking": 2, "alike": 0}, "effect_allele": "a1", "version": "0.1.0",
    }  # fmt: skip
    return Tables(_lead(tests, groups), _counts(groups), params, tests)


def _variants(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """In the order of a file: by chromosome and position, the chromosomes in no order of numbers."""
    chrom = np.repeat(CHROMS, -(-n // len(CHROMS)))[:n]
    pos = np.concatenate([np.sort(rng.integers(1_000, 90_000, (chrom == c).sum())) for c in CHROMS])
    names = [f"rs{i}" if i % 3 else f"{c}:{p}:A:G" for i, (c, p) in enumerate(zip(chrom, pos, strict=True))]
    a0 = np.where(np.arange(n) % 5 == 4, "AT", "A")
    return pd.DataFrame(
        {"variant": names, "chrom": chrom, "pos": pos, "a0": a0, "a1": "G", "af": rng.uniform(0.05, 0.95, n)}
    )


def _tests(gene: str, group: str, variants: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    beta, se = rng.normal(size=len(variants)), rng.uniform(0.2, 1.0, len(variants))
    t = beta / se
    log_p = (np.log(2) + stats.t.logsf(np.abs(t), DF)) / -np.log(10)
    own = variants.assign(
        gene=gene,
        group=group,
        n=40,
        beta=beta,
        se=se,
        statistic=t,
        df=DF,
        p_value=10**-log_p,
        neg_log10_p=log_p,
        status="ok",
    )
    return own[list(TEST_COLUMNS)]


def _lead(tests: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    rows = []
    for gene in GENES:
        for group in groups:
            own = tests[(tests["gene"] == gene) & (tests["group"] == group)]
            row = {"gene": gene, "group": group, "status": "no_variants" if own.empty else own["status"].iloc[0]}
            if own["p_value"].notna().any():
                row |= own.loc[own["p_value"].idxmin()].to_dict()
                row["p_gene"] = min(1.0, row["p_value"] * len(own))
                row["adj_p_gene"] = row["q_value"] = min(1.0, 2 * row["p_gene"])
            rows.append(row | {"n_variants": len(own), "n_donors": 40})
    return pd.DataFrame(rows).reindex(columns=list(SCAN_COLUMNS))


def _counts(groups: list[str]) -> pd.DataFrame:
    edges = np.arange(0, 12 + 1 / 64, 1 / 64)
    rows = [(g, s, 2 * stats.t.sf(s, DF), int(100 * np.exp(-s))) for g in groups for s in edges]
    return pd.DataFrame(rows, columns=list(COUNT_COLUMNS))


def write_folder(tables: Tables, folder: Path, *, rows: int = 25, with_group: bool = False) -> Path:
    """The folder of `tables`, row groups of `rows` tests, in two parts where there are enough."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for group, own in tables.tests.groupby("group", sort=False):
        inside = folder / group_folder(str(group))
        inside.mkdir()
        table = own.reset_index(drop=True) if with_group else own.drop(columns="group").reset_index(drop=True)
        for number, low in enumerate(range(0, len(table), max(len(table) // 2, 1))):
            part = pa.Table.from_pandas(table.iloc[low : low + max(len(table) // 2, 1)], preserve_index=False)
            pq.write_table(part, inside / f"part-{number:05}.parquet", row_group_size=rows)
    tables.results.to_parquet(folder / "_lead.parquet", index=False)
    tables.counts.to_parquet(folder / "_counts.parquet", index=False)
    (folder / "_params.json").write_text(json.dumps(tables.params | {"out": str(folder), "format": 1}))
    return folder
