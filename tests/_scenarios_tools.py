"""Scenarios of the tools on cells in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tests._peptide_data import FORMULA as PEPTIDES
from tests._peptide_data import WEIGHTED, peptides
from tests._scenarios import DDF, FORMULA, QUIET, SCENARIOS, Scenario, lmm, pseudobulk, scenario, simulated, troubled

import donorwise as dw

# ---------------------------------------------------------------- tl.lmm


@scenario
def lmm_case_control(folder: Path) -> Any:
    return lmm(simulated(), groupby="cell_type")


@scenario
def lmm_paired(folder: Path) -> Any:
    adata = simulated("paired")
    return lmm(adata, adata.uns["truth"]["formula"])


@scenario
def lmm_longitudinal(folder: Path) -> Any:
    adata = simulated("longitudinal", 24)
    return lmm(adata, adata.uns["truth"]["formula"])


@scenario
def lmm_stepped_wedge(folder: Path) -> Any:
    adata = simulated("stepped-wedge", 24)
    return lmm(adata, adata.uns["truth"]["formula"], contrasts="condition[T.treated]")


@scenario
def lmm_crossed(folder: Path) -> Any:
    adata = simulated("crossed")
    return lmm(adata, adata.uns["truth"]["formula"])


@scenario
def lmm_troubled(folder: Path) -> Any:
    """Every status, moderated where there are donors for it."""
    return lmm(troubled(), "~ condition + sex + (1 | donor_id)", groupby="cell_type")


def _with_ddf(ddf: str) -> Scenario:
    def run(folder: Path) -> Any:
        return lmm(troubled(30), groupby="cell_type", ddf=ddf, reml=ddf != "satterthwaite")

    return run


SCENARIOS |= {f"lmm_ddf_{ddf.replace('-', '_')}": _with_ddf(ddf) for ddf in DDF}


@scenario
def lmm_one_term_every_ddf(folder: Path) -> Any:
    adata = simulated("paired", 8)
    for ddf in DDF:
        lmm(adata, "~ condition + sex + age + (1 | donor_id)", ddf=ddf, key_added=ddf)
    return adata


@scenario
def lmm_contrasts(folder: Path) -> Any:
    adata = simulated("longitudinal", 20)
    formula = "~ arm * time + sex + (1 | donor_id)"
    at = [dw.cond(arm=arm, time=2) for arm in ("drug", "placebo")]
    asked = ["sex[T.male]", ("arm", "drug", "placebo"), {"time": 1.0, "arm[T.drug]:time": 1.0}, at[0] - at[1]]
    lmm(adata, formula, contrasts=asked[:2], ddf="kenward-roger", groupby="cell_type")
    for i, contrast in enumerate(asked[2:]):
        lmm(adata, formula, contrasts=contrast, ddf="kenward-roger", key_added=f"own_{i}")
    return adata


@scenario
def lmm_covariate_and_weights(folder: Path) -> Any:
    adata = simulated()
    lmm(adata, "~ condition + log_depth + (1 | donor_id)", key_added="covariate")
    lmm(
        adata, "~ condition * scale(mito) + (1 | donor_id)", weights="quality", groupby="cell_type", key_added="weights"
    )
    few = adata.var_names.isin(adata.var_names[:10])
    array = adata.obs["quality"].to_numpy()
    lmm(adata, "~ bs(age, df=3) + center(log_depth) + (1 | donor_id)", weights=array, mask_var=few, reml=False)
    return adata


@scenario
def lmm_missing_responses(folder: Path) -> Any:
    """Columns of obs with gaps of three patterns; one has no donors of an arm left."""
    adata = simulated(n_genes=12)
    rng = np.random.default_rng(8)
    names = [f"score_{i}" for i in range(6)]
    for i, name in enumerate(names):
        values = np.round(rng.normal(size=adata.n_obs) + 0.5 * adata.obs["donor_id"].cat.codes, 6)
        adata.obs[name] = np.where(np.arange(adata.n_obs) % 7 == i // 2, np.nan, values)
    adata.obs.loc[adata.obs["condition"] == "disease", names[5]] = np.nan
    adata.obs.loc[adata.obs["donor_id"].cat.codes > 1, names[4]] = np.nan
    lmm(adata, obs_keys=names, ddf="kenward-roger")
    return lmm(adata, obs_keys=names[:2], groupby="cell_type", ddf="satterthwaite", key_added="groups")


@scenario
def lmm_scores_in_obsm(folder: Path) -> Any:
    adata = simulated("paired", 12)
    values = np.round(np.random.default_rng(2).normal(size=(adata.n_obs, 4)), 6)
    adata.obsm["pathways"] = pd.DataFrame(values, index=adata.obs_names, columns=[f"pathway {i}" for i in range(4)])
    adata.obsm["X_pca"] = values[:, :3]
    lmm(adata, obsm="pathways", groupby="cell_type", key_added="pathways")
    return lmm(adata, obsm="X_pca", ddf="satterthwaite")


@scenario
def lmm_peptides(folder: Path) -> Any:
    """Proteins of all sorts of designs: moderated, in groups and with weights, each by itself, and with terms of peptides."""
    adata = peptides(110)
    lmm(adata, PEPTIDES, **WEIGHTED, key_added="moderated")
    lmm(adata, PEPTIDES, **WEIGHTED, key_added="groups", groupby="instrument", weights="quality", ddf="kenward-roger")
    terms = "~ condition * charge + (1 | peptide) + (1 | peptide:instrument) + (1 | donor_id)"
    lmm(
        adata,
        terms,
        features="protein",
        mask_var="some",
        ddf="satterthwaite",
        reml=False,
        log_base="e",
        key_added="terms",
    )
    return adata


@scenario
def lmm_raw_counts(folder: Path) -> Any:
    """Warned of, from cells and from collapsed rows."""
    adata = simulated(n_genes=12)
    lmm(adata, layer="counts")
    rows = dw.pp.collapse(adata, ["donor_id", "condition"], layer="counts", progress=False)
    return {"cells": adata, "rows": lmm(rows)}


@scenario
def lmm_several_passes(folder: Path) -> Any:
    adata = troubled(20)
    adata.var["some"] = np.arange(adata.n_vars) % 2 == 0
    return lmm(adata, groupby="cell_type", mask_var="some", max_memory=1e-5)


@scenario
def lmm_slopes(folder: Path) -> Any:
    adata = simulated("longitudinal", 12)
    for key, term in {
        "correlated": "(time | donor_id)",
        "apart": "(time || donor_id)",
        "only": "(0 + time | donor_id)",
    }.items():
        lmm(adata, f"~ time * arm + {term}", key_added=key, ddf="kenward-roger")
    return lmm(adata, "~ time * arm + (time | donor_id)", ddf="satterthwaite")


@scenario
def lmm_nested(folder: Path) -> Any:
    adata = simulated("stepped-wedge", 12)
    lmm(adata, "~ condition + (1 | site/donor_id)", groupby="cell_type")
    return lmm(adata, "~ condition + (1 | site) + (1 | site:donor_id)", key_added="written_out")


@scenario
def lmm_few_donors(folder: Path) -> Any:
    adata = simulated()
    adata = adata[adata.obs["donor_id"].cat.codes < 4].copy()
    lmm(adata, groupby="cell_type")
    return lmm(adata[adata.obs["donor_id"].cat.codes < 3].copy(), ddf="between-within")


# ---------------------------------------------------------------- tl.pseudobulk


@scenario
def pseudobulk_case_control(folder: Path) -> Any:
    return pseudobulk(simulated(), groupby="cell_type")


@scenario
def pseudobulk_of_depths(folder: Path) -> Any:
    """Depths as they are: what pseudobulk gave before they were normalised."""
    paired, formula = simulated("paired"), "~ condition + (1 | donor_id)"
    return {
        "case-control": pseudobulk(simulated(), groupby="cell_type", normalize="depth"),
        "paired": pseudobulk(paired, formula, sample="sample_id", groupby="cell_type", normalize="depth"),
    }


@scenario
def pseudobulk_paired(folder: Path) -> Any:
    adata = simulated("paired")
    pseudobulk(adata, "~ condition", key_added="no_donor_term")
    pseudobulk(adata, "~ condition + donor_id", key_added="fixed", contrasts="condition[T.stimulated]")
    return pseudobulk(adata, "~ condition + (1 | donor_id)", sample="sample_id", groupby="cell_type")


@scenario
def pseudobulk_designs(folder: Path) -> Any:
    """One formula for each of the other designs, with few genes."""
    formulas = {
        "longitudinal": "~ time * arm + (1 | donor_id)",
        "stepped-wedge": "~ condition + period + (1 | donor_id)",
        "crossed": "~ condition + sex",
    }
    return {design: pseudobulk(simulated(design, 12), formula) for design, formula in formulas.items()}


@scenario
def pseudobulk_few_genes(folder: Path) -> Any:
    adata = simulated(n_genes=40)
    adata.var["some"] = np.arange(adata.n_vars) < 9
    asked: list[Any] = [("condition", "disease", "control"), "sex[T.male]"]
    return pseudobulk(adata, "~ condition + sex", depth="total_counts", mask_var="some", contrasts=asked)


@scenario
def pseudobulk_troubled(folder: Path) -> Any:
    return pseudobulk(troubled(), "~ condition + sex", groupby="cell_type")


# ---------------------------------------------------------------- what follows a fit


@scenario
def calibrate(folder: Path) -> Any:
    adata = simulated()
    asked: dict[str, Any] = {"groupby": "cell_type", "n_permutations": 5}
    dw.tl.calibrate(adata, FORMULA, "condition[T.disease]", **asked, **QUIET)
    return adata


@scenario
def calibrate_designs(folder: Path) -> Any:
    paired, wedge, longitudinal = (simulated(d, 14) for d in ("paired", "stepped-wedge", "longitudinal"))
    kr: dict[str, Any] = {"ddf": "kenward-roger", "n_permutations": 6, **QUIET}
    dw.tl.calibrate(paired, paired.uns["truth"]["formula"], "condition[T.stimulated]", strata="sex", **kr)
    dw.tl.calibrate(wedge, "~ condition + (1 | donor_id)", "condition[T.treated]", **kr)
    dw.tl.calibrate(longitudinal, "~ time * arm + (1 | donor_id)", "time:arm[T.drug]", permute="arm", **kr)
    return {"paired": paired, "wedge": wedge, "longitudinal": longitudinal}


@scenario
def influence_moderated(folder: Path) -> Any:
    adata = lmm(simulated(), groupby="cell_type")
    dw.tl.influence(adata, group="T cell", alpha=0.1, **QUIET)
    return adata


@scenario
def influence_kenward_roger(folder: Path) -> Any:
    adata = simulated("paired", 20)
    weights = adata.obs["quality"].to_numpy()
    asked = {"effect": {"condition[T.stimulated]": 1.0, "sex[T.male]": 0.5}}
    lmm(adata, "~ condition + sex + log_depth + (1 | donor_id)", ddf="kenward-roger", weights=weights, contrasts=asked)
    dw.tl.influence(adata, contrasts=asked, weights=weights, **QUIET)
    lmm(adata, "~ condition + log_depth + (1 | donor_id)", ddf="satterthwaite", key_added="all")
    dw.tl.influence(adata, key="all", alpha=0.2, **QUIET)
    return adata


@scenario
def influence_arm_of_one(folder: Path) -> Any:
    adata = simulated(n_genes=12)
    adata = adata[~adata.obs["donor_id"].cat.codes.isin([1, 3, 5])].copy()
    lmm(adata, ddf="kenward-roger")
    dw.tl.influence(adata, variables=list(adata.var_names[:3]), **QUIET)
    return adata


STUDIES: dict[str, Any] = {"n_donors": (2, 6, 16), "n_cells": (20, 100), "alpha": (0.05, 0.001)}


@scenario
def power(folder: Path) -> Any:
    adata = lmm(simulated(), groupby="cell_type")
    dw.tl.power(adata, effect=tuple(np.log(2) * np.array([0.5, 1.0])), group=["T cell", "B cell"], **STUDIES, **QUIET)
    paired = lmm(simulated("paired", 20), ddf="kenward-roger")
    dw.tl.power(paired, **STUDIES, **QUIET)
    return {"case-control": adata.uns["lmm_power"], "paired": paired.uns["lmm_power"]}


@scenario
def power_of_fits(folder: Path) -> Any:
    found = {}
    for design in ("case-control", "longitudinal", "crossed"):
        adata = simulated(design, 110 if design == "crossed" else 15)
        fit = dw.fit_lmm(adata.X, adata.obs, adata.uns["truth"]["formula"])
        found[design] = dw.tl.power(fit, effect=(0.2, 0.5), contrast=adata.uns["truth"]["contrast"], **STUDIES, **QUIET)
    return found


@scenario
def after_the_fit(folder: Path) -> Any:
    """What is fitted again or laid out anew by ``get``."""
    adata = lmm(simulated("paired", 20), groupby="cell_type", weights="quality", ddf="kenward-roger")
    two = list(adata.var_names[:2])
    dw.get.to_varm(adata, contrast="condition[T.stimulated]")
    return {
        "ranef": dw.get.ranef(adata, two, group="T cell"),
        "matrix": dw.get.matrix(adata, contrast="condition[T.stimulated]"),
        "varm": {k: pd.DataFrame(np.asarray(v)) for k, v in adata.varm.items() if k != "true_log_fc"},
    }


@scenario
def audits(folder: Path) -> Any:
    """The text for every design, and for designs with something to say."""
    found = {}
    for design in ("case-control", "paired", "longitudinal", "stepped-wedge", "crossed"):
        adata = simulated(design, 12)
        found[design] = str(adata.donorwise.audit(adata.uns["truth"]["formula"])).splitlines()
        if "condition" in adata.obs:
            found[f"{design}, donors only"] = str(adata.donorwise.audit(FORMULA)).splitlines()
    found["troubled"] = str(troubled(12).donorwise.audit("~ condition + sex + (1 | donor_id)")).splitlines()
    return found
