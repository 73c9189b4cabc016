"""The whole of a scan against loops of fit_lmm over pairs of a gene and a variant, which is in the formula."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise.errors import DonorwiseWarning

D = 20
DONORS = [f"d{i:02d}" for i in range(D)]
GENES = ["g0", "g1", "g2"]
WINDOW = 2000
FORMULAS = {
    "donor": "~ male + age + (1 | donor_id)",
    "kernel": "~ male + age + (1 | gr(donor_id, cov=K))",
    "kernel and donor": "~ male + age + (1 | gr(donor_id, cov=K)) + (1 | donor_id)",
    "two kernels": "~ male + age + (1 | gr(donor_id, cov=K)) + (1 | gr(donor_id, cov=M))",
    "crossed": "~ male + (1 | donor_id) + (1 | batch)",
    "slopes": "~ male + state + (state | donor_id)",
    "slopes apart": "~ male + state + (1 | donor_id) + (0 + state | donor_id)",
    "slopes by a kernel": "~ male + state + (1 | donor_id) + (0 + state | gr(donor_id, cov=K))",
    "state": "~ male + state + (1 | donor_id)",
}
BETWEEN = {"donor": 3, "kernel": 3, "kernel and donor": 3, "two kernels": 3}
"""Fixed effects that do not differ within donors, where that is not two."""


@cache
def study() -> tuple[ad.AnnData, ad.AnnData, dict[str, pd.DataFrame]]:
    """Rows of two groups, of which one lacks three donors; genotypes with gaps; two kernels."""
    rng = np.random.default_rng(7)
    of = np.concatenate(
        [np.repeat(np.arange(D), rng.integers(2, 5, D)), np.repeat(np.arange(3, D), rng.integers(2, 5, D - 3))]
    )
    n = len(of)
    age = rng.normal(50, 10, D).round(1)
    group = np.repeat(["A", "B"], [(np.diff(of) >= 0).argmin() + 1, n - (np.diff(of) >= 0).argmin() - 1])
    obs = pd.DataFrame({
        "donor_id": np.array(DONORS)[of], "male": rng.integers(0, 2, D)[of].astype(float), "age": age[of], "type": group,
        "batch": np.array(list("xyz"))[rng.integers(0, 3, n)], "state": rng.normal(size=n).round(1),
    }, index=[f"c{i}" for i in range(n)])  # fmt: skip
    kernels = {name: _kernel(rng) for name in ("K", "M")}
    X = rng.binomial(2, 0.4, (D, 8)).astype(float)
    Y = (
        rng.normal(size=(n, 3))
        + rng.normal(size=(D, 3))[of]
        + 0.5 * rng.normal(size=(D, 3))[of] * obs["state"].to_numpy()[:, None]
    )
    Y[:, 0] += X[of, 1] * (0.5 + 0.3 * obs["state"].to_numpy())
    X[rng.random(X.shape) < 0.06] = np.nan
    var = pd.DataFrame({"chrom": ["1", "1", "2"], "tss": [3000, 9000, 2500]}, index=GENES)
    table = pd.DataFrame(
        {"chrom": ["1"] * 5 + ["2"] * 3, "pos": [1000, 3000, 5000, 5001, 11000, 100, 500, 4500], "a0": "A", "a1": "C"},
        index=[f"rs{i}" for i in range(8)],
    )
    return ad.AnnData(Y, obs, var), ad.AnnData(X, pd.DataFrame(index=DONORS), table), kernels


def _kernel(rng: np.random.Generator) -> pd.DataFrame:
    L = rng.normal(size=(D, 2 * D))
    return pd.DataFrame(L @ L.T / (2 * D), DONORS, DONORS)


def used(formula: str) -> dict[str, pd.DataFrame] | None:
    return {name: K for name, K in study()[2].items() if f"cov={name}" in formula} or None


def genotype(variant: str, donors: pd.Series) -> np.ndarray | None:
    """Of rows, gaps being the mean of these donors; None where they are all the same."""
    genotypes = study()[1]
    own = pd.Series(np.asarray(genotypes[:, variant].X)[:, 0], DONORS).loc[sorted(set(donors))]
    own = own.fillna(own.mean())
    return None if own.nunique() == 1 else own.loc[donors].to_numpy()


def is_near(gene: str, variant: str) -> bool:
    cells, genotypes, _ = study()
    g, v = cells.var.loc[gene], genotypes.var.loc[variant]
    return bool(g["chrom"] == v["chrom"] and abs(g["tss"] - v["pos"]) <= WINDOW)


def naive(formula: str, interaction: str | None, *, near: bool) -> pd.DataFrame:
    """One fit for each pair and group."""
    cells, genotypes, _ = study()
    rows = []
    for group in ("A", "B"):
        part = cells[cells.obs["type"] == group]
        for variant in genotypes.var_names:
            x = genotype(variant, part.obs["donor_id"])
            genes = [gene for gene in GENES if not near or is_near(gene, variant)]
            if x is None or not genes:
                continue
            fixed = formula.replace("~ ", f"~ x + {'x:' + interaction + ' + ' if interaction else ''}", 1)
            fit = dw.fit_lmm(np.asarray(part[:, genes].X), part.obs.assign(x=x), fixed, kernels=used(formula))
            names = list(fit.fixed_names)
            at = next(
                j
                for j, name in enumerate(names)
                if set(name.split(":")) == {"x", *([interaction] if interaction else [])}
            )
            for g, gene in enumerate(genes):
                beta, se = fit.beta[g], np.sqrt(np.diagonal(fit.models[0].vcov_beta[g]))
                main = names.index("x")
                rows.append([group, gene, variant, beta[at], se[at], beta[main], se[main]])
    return pd.DataFrame(rows, columns=["group", "gene", "variant", "beta", "se", "beta_main", "se_main"])


def scanned(formula: str, **options: Any) -> dict[str, Any]:
    cells, genotypes, _ = study()
    cells = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.scan(
            cells,
            genotypes,
            formula,
            groupby="type",
            kernels=used(formula),
            maf=0,
            missing=0.5,
            progress=False,
            **options,
        )
    return dict(cells.uns["scan"])


KEY = ["group", "gene", "variant"]


def check(found: dict[str, Any], expected: pd.DataFrame) -> None:
    tests = found["tests"].astype(dict.fromkeys(KEY, str)).set_index(KEY).sort_index()
    expected = expected.set_index(KEY).sort_index()
    assert tests.index.equals(expected.index)
    kept = tests["status"] == "ok"
    assert kept.mean() > 0.95
    for name in expected.columns.intersection(tests.columns):
        scale = expected["se_main" if name.endswith("main") else "se"][kept]
        np.testing.assert_array_less(np.abs(tests[name] - expected[name])[kept] / scale, 1e-6, err_msg=name)


CASES = [(name, None) for name in FORMULAS] + [
    ("donor", "male"), ("kernel and donor", "male"), ("state", "state"), ("slopes", "state"), ("slopes apart", "state"),
    ("slopes by a kernel", "state"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize(("name", "interaction"), CASES)
def test_every_pair_is_the_fit_with_the_variant(name: str, interaction: str | None) -> None:
    expected = naive(FORMULAS[name], interaction, near=False)
    for mode in ("trans", "gwas"):
        found = scanned(FORMULAS[name], mode=mode, refit="all", interaction=interaction)
        check(found, expected if interaction else expected.drop(columns=["beta_main", "se_main"]))
        tests = found["tests"]
        ok = tests["status"] == "ok"
        p = 2 * stats.t.sf(np.abs(tests["beta"] / tests["se"]), tests["df"])
        np.testing.assert_allclose(tests["p_value"][ok], p[ok], rtol=1e-9)
        if interaction is None:
            n = tests["group"].astype(str).map({"A": D, "B": D - 3})
            assert (tests["df"] == n - BETWEEN.get(name, 2) - 1).all()


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("name", ["donor", "kernel and donor"])
def test_windows_and_leads(name: str) -> None:
    """Windows have their ends in them; the lead has the smallest p-value of its gene and group.

    Genes are tested at the variances without variants.
    """
    null = scanned(FORMULAS[name], mode="cis", window=WINDOW, refit="none")["tests"]
    found = scanned(FORMULAS[name], mode="cis", window=WINDOW, refit="all")
    check(found, naive(FORMULAS[name], None, near=True).drop(columns=["beta_main", "se_main"]))
    tests, leads = found["tests"], found["results"]
    assert set(tests.loc[tests["gene"] == "g0", "variant"].astype(str)) == {"rs0", "rs1", "rs2"}
    for lead in leads.itertuples():
        own = tests[(tests["gene"] == lead.gene) & (tests["group"] == lead.group)]
        assert lead.n_variants == len(own) and lead.n_donors == {"A": D, "B": D - 3}[lead.group]
        best = own.loc[own["p_value"].idxmin()]
        for column in ("variant", "beta", "se", "statistic", "df", "p_value", "af", "n", "pos"):
            assert getattr(lead, column) == best[column], column
        p = null.loc[(null["gene"] == lead.gene) & (null["group"] == lead.group), "p_value"]
        T = np.tan((0.5 - p) * np.pi).mean()
        np.testing.assert_allclose(lead.p_gene, 0.5 - np.arctan(T) / np.pi, rtol=1e-9)
    counts = found["counts"].groupby("group", observed=True)["count"].sum()
    assert counts.to_dict() == tests.groupby("group", observed=True).size().to_dict()


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("name", ["donor", "kernel", "kernel and donor", "crossed", "slopes"])
def test_likelihood_ratios(name: str) -> None:
    """Twice the difference of log-likelihoods of fit_lmm, by maximum likelihood."""
    cells, genotypes, _ = study()
    found = scanned(FORMULAS[name], mode="gwas", refit="all", test="lrt")
    tests = found["tests"].astype(dict.fromkeys(KEY, str)).set_index(KEY)
    part = cells[cells.obs["type"] == "B"]
    Y, kernels = np.asarray(part.X), used(FORMULAS[name])
    null = dw.fit_lmm(Y, part.obs, FORMULAS[name], kernels=kernels, reml=False)
    for variant in genotypes.var_names[:4]:
        obs = part.obs.assign(x=genotype(variant, part.obs["donor_id"]))
        full = dw.fit_lmm(Y, obs, FORMULAS[name].replace("~ ", "~ x + "), kernels=kernels, reml=False)
        own = tests.loc["B"].xs(variant, level="variant").loc[GENES]
        np.testing.assert_allclose(own["statistic"] ** 2, 2 * (full.loglik - null.loglik), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(own["beta"], full.beta[:, list(full.fixed_names).index("x")], rtol=1e-5, atol=1e-8)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("refit", ["screen", "all"])
def test_random_part_that_is_not_of_donors(refit: str) -> None:
    """One row for each donor, and batches: what these leave of a variant is not nothing."""
    cells, genotypes, _ = study()
    obs = cells.obs.drop_duplicates("donor_id").assign(batch=np.arange(D) % 5)
    rng = np.random.default_rng(3)
    Y = pd.DataFrame(rng.normal(size=(D, 3)) + 2 * rng.normal(size=(5, 3))[obs["batch"]], columns=GENES)
    formula = "~ age + (1 | batch)"
    found = dw.scan_variants(
        Y, obs, genotypes, formula, donor="donor_id", maf=0, missing=0.5, mode="gwas", refit=refit, screen=1.0
    )
    assert found.tests is not None
    tests = found.tests.astype(dict.fromkeys(KEY, str)).set_index("variant")
    for variant in genotypes.var_names:
        fit = dw.fit_lmm(Y, obs.assign(x=genotype(variant, obs["donor_id"])), formula.replace("~", "~ x +"))
        at = list(fit.fixed_names).index("x")
        se = np.sqrt([fit.models[0].vcov_beta[g, at, at] for g in range(3)])
        own = tests.loc[variant].set_index("gene").loc[GENES]
        np.testing.assert_array_less(np.abs(own["beta"] - fit.beta[:, at]) / se, 1e-6)
        np.testing.assert_allclose(own["se"], se, rtol=1e-6)
