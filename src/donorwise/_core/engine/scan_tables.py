"""The tables of a scan: pairs, leads of every feature, and counts of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.engine.scan import NO_VARIANTS
from donorwise._core.engine.scan_kernels import BINS_PER_UNIT
from donorwise._core.engine.scan_tiles import STATUS
from donorwise._core.engine.tables import categorical
from donorwise._core.inference.beta import beta_approximation
from donorwise._core.inference.multiplicity import adjust, q_values
from donorwise._core.inference.student import log_two_sided, two_sided
from donorwise._core.kinship.labels import UNKNOWN
from donorwise._typing import FITTED, STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.scan import Scan, TaskResult
    from donorwise._core.engine.scan_tiles import Pairs
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

LOG_10 = float(np.log(10))
LEAD_STATUS = (*STATUSES, NO_VARIANTS)


def pairs_table(scan: Scan, pairs: Pairs) -> pd.DataFrame:
    """A row for each pair; see :func:`donorwise.tl.scan`."""
    named = {"gene": categorical(pairs.feature, scan.analysis.variables)} | _sites(scan.genotypes, pairs.variant)
    numbers = {
        "af": pairs.frequency, "n": pairs.n, "beta": pairs.estimate, "se": pairs.se, "statistic": pairs.statistic,
        "df": pairs.df, "p_value": np.exp(pairs.log_p), "neg_log10_p": -pairs.log_p / LOG_10,
        "status": pd.Categorical.from_codes(pairs.status, categories=list(STATUS)),
    }  # fmt: skip
    if pairs.main.size or (scan.options.interaction and not pairs.feature.size):
        with np.errstate(divide="ignore", invalid="ignore"):
            se = pairs.main / pairs.main_statistic
        numbers |= {"beta_main": pairs.main, "se_main": se, "p_main": two_sided(pairs.main_statistic, pairs.df)}
    return pd.DataFrame(named | numbers)


def _sites(genotypes: Genotypes, variants: IntArray) -> dict[str, Any]:
    """Name, chromosome, position and alleles of variants; -1 for none."""
    known = variants >= 0
    table = genotypes.described(np.where(known, variants, 0))
    labels = {name: pd.Categorical(table[name].where(known, None)) for name in ("variant", "chrom", "a0", "a1")}
    return {"variant": labels["variant"], "chrom": labels["chrom"], "pos": np.where(known, table["pos"], UNKNOWN),
            "a0": labels["a0"], "a1": labels["a1"]}  # fmt: skip


def results_table(scan: Scan, results: Sequence[TaskResult]) -> pd.DataFrame:
    """A row for each feature and group: the variant with the smallest p-value, and the p-value of all of them together."""
    return stacked([_leads(scan, number, own) for number, own in enumerate(results)])


def stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables with the same columns one under the other; texts have the categories of all of them."""
    if len(tables) == 1:
        return tables[0]
    known = {}
    for name, column in tables[0].items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            own = [table[name].cat.categories for table in tables]
            same = all(names.equals(own[0]) for names in own)
            known[name] = list(own[0]) if same else sorted(set().union(*own))
    texts = [{name: table[name].cat.set_categories(names) for name, names in known.items()} for table in tables]
    return pd.concat([table.assign(**own) for table, own in zip(tables, texts, strict=True)], ignore_index=True)


def _leads(scan: Scan, number: int, own: TaskResult) -> pd.DataFrame:
    summary, variables = own.summary, scan.analysis.variables
    groups = tuple(task.name for task in scan.analysis.tasks)
    G, there = len(variables), summary.variant >= 0
    log_p = log_two_sided(summary.statistic, own.df)
    of_gene = _P_GENE[scan.options.gene_test](own, log_p)
    p_gene = of_gene.pop("p_gene")
    return pd.DataFrame(
        {"gene": categorical(np.arange(G), variables), "group": categorical(np.full(G, number), groups)}
        | _sites(scan.genotypes, summary.variant)
        | {
            "af": summary.frequency, "n": np.where(there, summary.n, 0), "beta": summary.estimate, "se": summary.se,
            "statistic": summary.statistic, "df": np.where(there, own.df, np.nan), "p_value": np.exp(log_p),
            "neg_log10_p": -log_p / LOG_10, "n_variants": summary.n_variants, "p_gene": p_gene,
            "adj_p_gene": adjust(p_gene), "q_value": q_values(p_gene),
            "status": pd.Categorical(_status(own, there), categories=list(LEAD_STATUS)), "n_donors": own.n_donors,
        }
        | of_gene
    )  # fmt: skip


def _status(own: TaskResult, there: BoolArray) -> StrArray:
    """Statuses of features: those of their models, and of those with a model whether variants could be tested."""
    fitted = np.isin(own.status.astype(str), FITTED)
    return np.where(~fitted, own.status, np.where(there, "ok", NO_VARIANTS)).astype(object)


def cauchy_p(own: TaskResult, log_p: FloatArray) -> dict[str, FloatArray]:
    """ACAT of all variants of a gene."""
    return {"p_gene": own.summary.cauchy.p_value()}


def bonferroni_p(own: TaskResult, log_p: FloatArray) -> dict[str, FloatArray]:
    """The smallest p-value times the number of tests."""
    with np.errstate(divide="ignore"):
        return {"p_gene": np.exp(np.minimum(log_p + np.log(own.summary.n_variants), 0.0))}


def permuted_p(own: TaskResult, log_p: FloatArray) -> dict[str, FloatArray]:
    """Beta-approximated permutations, and what they are made of."""
    out = {name: np.full(log_p.size, np.nan) for name in _PERMUTED}
    for at, largest in own.summary.resampled.items():
        found = beta_approximation(float(largest[0]), largest[1:], float(own.df[at]))
        values = (found.p_beta, found.p_perm, found.shape1, found.shape2, found.df)
        for name, value in zip(_PERMUTED, values, strict=True):
            out[name][at] = value
    return out


_PERMUTED = ("p_gene", "p_perm", "beta_shape1", "beta_shape2", "true_df")
_P_GENE = {"acat": cauchy_p, "bonferroni": bonferroni_p, "permutations": permuted_p}


def counts_table(scan: Scan, results: Sequence[TaskResult]) -> pd.DataFrame:
    """Histogram of the |t| of all tests, group by group; see :func:`donorwise.tl.scan`."""
    tables = []
    groups = tuple(task.name for task in scan.analysis.tasks)
    for number, own in enumerate(results):
        filled = np.flatnonzero(own.summary.counts)
        edges = filled / BINS_PER_UNIT
        tables.append(pd.DataFrame({
            "group": categorical(np.full(filled.size, number), groups), "statistic": edges,
            "p_value": two_sided(edges, usual(own.df)), "count": own.summary.counts[filled],
        }))  # fmt: skip
    return stacked(tables)


def usual(df: FloatArray) -> float:
    """Degrees of freedom of most features."""
    values, n = np.unique(df[np.isfinite(df)], return_counts=True)
    return float(values[n.argmax()]) if values.size else np.inf
