"""What a generalised model refuses before anything long runs, in which words, and what it takes."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._anndata import prepare_counts
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

FORMULA = "~ condition + (1 | donor_id)"


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_cells=400, n_genes=20, n_donors=6, seed=1)
    rng = np.random.default_rng(0)
    obs, n = adata.obs, adata.n_obs
    obs["total"] = np.ravel(adata.layers["counts"].sum(axis=1)).astype(float)
    obs["k"] = rng.integers(0, 9, n)
    obs["m"] = 10
    obs["yes"] = obs["k"] > 3
    obs["share"] = obs["k"] / 10
    obs["x"], obs["y"] = rng.normal(size=(2, n))
    return adata


def _prepare(cells: ad.AnnData, formula: str = FORMULA, **options: Any) -> Any:
    if not {"layer", "obs_keys", "obsm"} & set(options):
        options["layer"] = "counts"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return prepare_glmm(cells, formula, **options)


def _total(cells: ad.AnnData) -> np.ndarray:
    return cells.obs["total"].to_numpy()


def _but(values: np.ndarray, bad: float, n: int = 3) -> np.ndarray:
    return np.where(np.arange(values.size) < n, bad, values)


@pytest.mark.parametrize("logged", [np.log, np.log1p, np.log2, np.log10])
def test_an_exposure_that_is_a_logarithm_is_refused(cells: ad.AnnData, logged: Any) -> None:
    with pytest.raises(DataError, match=r"exposure= looks like a logarithm: it goes from .* give offset= for"):
        _prepare(cells, exposure=logged(_total(cells)))


@pytest.mark.parametrize("scale", [1.0, 0.01, 1e-4])
def test_an_offset_that_is_no_logarithm_is_refused(cells: ad.AnnData, scale: float) -> None:
    with pytest.raises(DataError, match=r"offset= goes .* give them as exposure=, or their logarithm as offset="):
        _prepare(cells, offset=scale * _total(cells))
    with pytest.raises(DataError, match=r"offset= goes"):
        _prepare(cells, offset=_total(cells) / _total(cells).mean())


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_size_factors_and_depths_are_exposures_on_any_scale(cells: ad.AnnData, scale: float) -> None:
    rng = np.random.default_rng(1)
    own = scale * _total(cells) / _total(cells).mean() * np.exp(rng.normal(0, 0.2, cells.n_obs))
    assert _prepare(cells, exposure=own).exposure
    made = _prepare(cells, offset=np.log(own))
    np.testing.assert_allclose(made.source.exposure, own)
    assert _prepare(cells, exposure=np.full(cells.n_obs, 7.0)).exposure  # says nothing of depth, and is allowed


def test_exposures_that_have_nothing_to_do_with_depth_are_taken(cells: ad.AnnData) -> None:
    rng = np.random.default_rng(2)
    assert _prepare(cells, exposure=rng.uniform(2, 9, cells.n_obs)).exposure
    assert _prepare(cells, offset=rng.normal(size=cells.n_obs)).offset


def test_exposures_of_obs_are_checked_by_themselves(cells: ad.AnnData) -> None:
    cells = cells.copy()
    total = _total(cells)
    cells.obs["log_area"], cells.obs["count"] = total / total.mean(), np.arange(cells.n_obs) % 4
    for given in ({"exposure": np.log(total)}, {"exposure": np.log10(total)}, {"exposure": "log_area"}):
        with pytest.raises(DataError, match=r"exposure looks like logarithms .* Pass logarithms as offset= instead"):
            _prepare(cells, obs_keys="count", **given)
    for raw in (total, np.round(total / 100)):
        with pytest.raises(DataError, match=r"offset.* exposure="):
            _prepare(cells, obs_keys="count", offset=raw)
    for good in ({"exposure": total}, {"exposure": total / total.mean()}, {"offset": np.log(total)}):
        assert _prepare(cells, obs_keys="count", **good).variables == ("count",)


@pytest.mark.parametrize("name", ["exposure", "offset"])
def test_numbers_of_cells_are_checked(cells: ad.AnnData, name: str) -> None:
    total = np.log(_total(cells)) if name == "offset" else _total(cells)
    some = pd.Series(total, index=cells.obs_names)
    wrong = {
        rf"{name}= is missing or infinite in 3 of 400 cells \(the first is 'cell_001'\): leave": _but(total, np.nan),
        rf"{name}= is missing or infinite in 2 of": _but(total, np.inf, 2),
        rf"{name}= has shape \(10,\) for 400 cells": total[:10],
        rf"{name}= has shape \(400, 1\) for": total[:, None],
        rf"{name}='totl' is not a column of obs; did you mean `total`\?": "totl",
        rf"{name}= must be numbers": "donor_id",
        rf"The index of {name} holds the rows of obs in another order; use {name}.loc": some.iloc[::-1],
    }
    for text, given in wrong.items():
        with pytest.raises(DataError, match=text):
            _prepare(cells, **{name: given})


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_exposures_are_above_zero(cells: ad.AnnData, bad: float) -> None:
    with pytest.raises(DataError, match=r"exposure= is not above zero in 3 of 400 .* or give logarithms as offset="):
        _prepare(cells, exposure=_but(_total(cells), bad))
    with pytest.raises(DataError, match=r"not above zero in \d+ of"):
        _prepare(cells, exposure=np.log(_total(cells) / _total(cells).mean()))


def test_cells_that_are_not_in_use_need_no_exposure(cells: ad.AnnData) -> None:
    own = cells.copy()
    own.obs.loc[own.obs_names[:3], "condition"] = np.nan
    own.obs["total"] = _but(_total(own), np.nan)
    own.layers["counts"] = np.where(np.arange(400)[:, None] < 3, 0, own.layers["counts"].toarray())
    for options in ({"exposure": "total"}, {}):
        made = prepare_glmm(own, FORMULA, layer="counts", **options)
        assert made.warnings == ("3 of 400 cells are left out: a variable of the formula or the group is missing.",)


def test_a_cell_without_counts_has_no_exposure(cells: ad.AnnData) -> None:
    own = cells.copy()
    dense = own.layers["counts"].toarray()
    dense[5] = 0
    own.layers["counts"] = dense
    with pytest.raises(DataError, match=r"no counts at all, and so no exposure, in 1 of 400 .*'cell_006'.*: filter"):
        _prepare(own)
    assert _prepare(own, exposure=np.ones(own.n_obs)).exposure


def test_only_families_with_an_exposure_take_one(cells: ad.AnnData) -> None:
    for options in ({"exposure": "total"}, {"offset": np.zeros(400)}):
        with pytest.raises(DataError, match=r"link 'logit' has no exposure; use link='cloglog'"):
            _prepare(cells, family="binomial", response="detected", **options)


def test_trials(cells: ad.AnnData) -> None:
    of = {"obs_keys": "k", "family": "binomial"}
    assert _prepare(cells, **of, trials="m").trials == "m"
    with pytest.raises(
        DataError, match=r"obs has the value \d \('k' of cell 'cell_\d+'\), and successes .* are 5 there"
    ):
        _prepare(cells, **of, trials=np.full(400, 5))
    m = np.where(cells.obs["k"] > 7, 7, 20)  # each cell has its own
    with pytest.raises(DataError, match=r"has the value 8 .* from 0 to the trials, which are 7 there"):
        _prepare(cells, **of, trials=m)
    with pytest.raises(
        DataError, match=r"trials= is no whole number, zero or more, in 400 of 400 cells .*: give the number"
    ):
        _prepare(cells, **of, trials=cells.obs["m"].to_numpy() + 0.5)
    tried = cells.obs["k"].to_numpy() > 0  # cells without trials say nothing, and are left out
    made = _prepare(cells, **of, trials="k")
    assert made.cells_of(0) == tried.sum() < 400
    assert sum("cells are left out" in text for text in made.warnings) == 1
    with pytest.raises(DataError, match=r"trials= belongs to family='binomial'"):
        _prepare(cells, family="poisson", trials="m")
    with pytest.raises(DataError, match=r"response='detected' has one trial for each cell"):
        _prepare(cells, family="binomial", response="detected", trials="m")


def test_counts_are_no_yes_and_no(cells: ad.AnnData) -> None:
    with pytest.raises(DataError, match=r"layers/counts has the value \d+ \('gene_.*' of cell .* response='detected'"):
        _prepare(cells, family="binomial")
    with pytest.raises(
        DataError, match=r"has the value 0.\d \('share' .* give the successes, and their number as trials="
    ):
        _prepare(cells, family="binomial", obs_keys="share")
    with pytest.raises(DataError, match=r"response='detected' is yes or no: use family='binomial'"):
        _prepare(cells, response="detected")
    with pytest.raises(DonorwiseError, match=r"response='seen' is not an option; choose one of 'detected'"):
        _prepare(cells, family="binomial", response="seen")


def test_yes_and_no_in_any_container(cells: ad.AnnData) -> None:
    own = cells.copy()
    dense = own.layers["counts"].toarray() > 0
    own.layers["dense"], own.layers["sparse"], own.layers["small"] = dense, sparse.csr_matrix(dense), dense.astype("i1")
    own.obsm["table"] = pd.DataFrame(dense[:, :3], index=own.obs_names, columns=list("abc"))
    own.obsm["array"] = dense[:, :3]
    own.obs["nullable"] = pd.array(own.obs["yes"], dtype="boolean")
    own.obs["object"] = own.obs["yes"].astype(object)
    sources = [{"layer": name} for name in ("dense", "sparse", "small")]
    sources += [{"obsm": name} for name in ("table", "array")] + [
        {"obs_keys": c} for c in ("yes", "nullable", "object")
    ]
    own.X = dense
    for source in [*sources, {"layer": None}]:
        assert _prepare(own, family="binomial", **source).n_cells == 400
    with pytest.raises(DataError, match=r"layers/dense holds yes or no and not counts: use family='binomial'"):
        _prepare(own, layer="dense")


def test_labels_are_no_responses(cells: ad.AnnData) -> None:
    own = cells.copy()
    own.obs["label"] = pd.Categorical(np.where(own.obs["yes"], "S", "G1"))
    with pytest.raises(DataError, match=r"'label'. For yes or no, make it boolean: obs\['label'\] == 'S'"):
        _prepare(own, family="binomial", obs_keys="label")


def test_values_that_are_no_counts_name_the_layer_that_has_them(cells: ad.AnnData) -> None:
    with pytest.raises(
        DataError, match=r"X does not .* value \d\.\d+ \('gene_.* layer='counts' has them, or fit .*tl.lmm"
    ):
        _prepare(cells, layer=None)
    own = ad.AnnData(cells.layers["counts"], obs=cells.obs, layers={"normalised": cells.X})
    with pytest.raises(DataError, match=r"X has them, which layer=None takes"):
        _prepare(own, layer="normalised")
    for family in ("poisson", "nb"):
        with pytest.raises(DataError, match=r"obs does not hold raw counts: .* and not shares or logarithms of them"):
            _prepare(cells, obs_keys="share", family=family)


@pytest.mark.parametrize("family", ["nb", "binomial"])
def test_missing_responses_are_refused(cells: ad.AnnData, family: str) -> None:
    own = cells.copy()
    dense = np.minimum(own.layers["counts"].toarray(), 1).astype(float)
    dense[3, 4] = np.nan
    own.layers["dense"], own.obsm["array"] = dense, dense[:, :6]
    own.obsm["table"] = pd.DataFrame(dense[:, :6], index=own.obs_names, columns=list("abcdef"))
    own.obs["some"] = pd.array([None, *own.obs["yes"][1:].astype(int)], dtype="Int64")
    names = {"layer": ("dense", "gene_0005"), "obsm": ("table", "e")}
    for source, (name, variable) in names.items():
        with pytest.raises(
            DataError, match=rf"{name} has missing values \(the first is '{variable}' of cell 'cell_004'\)"
        ):
            _prepare(own, family=family, **{source: name})
    for source in ({"obsm": "array"}, {"obs_keys": "some"}):
        with pytest.raises(
            DataError, match=r"has missing values .* takes none: leave these cells out, or the features"
        ):
            _prepare(own, family=family, **source)
    mask = np.arange(own.n_vars) != 4
    assert _prepare(
        own, family=family, layer="dense", mask_var=mask, **({"exposure": "total"} if family == "nb" else {})
    )


def test_random_terms(cells: ad.AnnData) -> None:
    with pytest.raises(DesignError, match=r"has no random term, so it would take every cell for a replicate"):
        _prepare(cells, "~ condition")
    with pytest.raises(
        DesignError, match=r"has 6 variances and covariances \(6 of `\(1 \+ x \+ y \| donor_id\)`\).*`\|\|`"
    ):
        _prepare(cells, "~ condition + (x + y | donor_id)")
    with pytest.raises(DesignError, match=r"has 4 variances .* or a term; or fit single features with dw.fit_glmm"):
        _prepare(cells, "~ condition + (x | donor_id) + (1 | sample_id:cell_type)")
    for formula in ("(x + y || donor_id)", "(x | donor_id)"):
        assert _prepare(cells, f"~ condition + {formula}").tasks


def test_values_are_read_when_all_else_has_been_checked_and_once(
    cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    real = prepare_counts.examine_responses

    def look(*args: Any, **options: Any) -> Any:
        looks.append("values")
        return real(*args, **options)

    monkeypatch.setattr(prepare_counts, "examine_responses", look)
    wrong: list[dict[str, Any]] = [
        {"formula": "~ nothing + (1 | donor_id)"}, {"formula": "~ condition"}, {"contrasts": ["nothing"]},
        {"exposure": "nothing"}, {"offset": "nothing"}, {"formula": "~ condition + (x + y | donor_id)"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(DonorwiseError):
            _prepare(cells, **options)
    assert looks == []
    _prepare(cells)
    assert looks == ["values"]


def test_what_was_refused_leaves_nothing_behind(cells: ad.AnnData) -> None:
    own = cells.copy()
    with pytest.raises(DataError, match="raw counts"):
        dw.tl.glmm(own, FORMULA, progress=False)
    assert "glmm" not in own.uns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.glmm(own, FORMULA, layer="counts", progress=False, ddf="wald")
    assert "glmm" in own.uns
