"""Intensities of peptides with known truth."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import anndata as ad
import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import ndtr

from donorwise._typing import BoolArray, FloatArray, check_option
from donorwise.datasets._checks import check_counts, check_shares, check_sizes
from donorwise.datasets._proteins import MOST, Spreads, draw_peptides, draw_proteins
from donorwise.errors import DonorwiseError

Errors: TypeAlias = Literal["normal", "t3"]
Missing: TypeAlias = Literal["random", "intensity"]
Quality: TypeAlias = Literal["informative", "noise"]

REPORTED = 0.3
"""Standard deviation of the natural log of a variance that is reported, about the true one."""

DETECTION = 1.5
"""Standard deviation, log2, of the intensity below which a measurement is lost."""


def simulate_peptides(
    *,
    n_donors: int = 4,
    runs_per_donor: int = 1,
    n_proteins: int = 200,
    n_peptides: float = 6.0,
    de_fraction: float = 0.1,
    effect_size: float = 1.0,
    species: Mapping[str, float] | None = None,
    donor_sd: float = 0.3,
    run_sd: float = 0.0,
    noise_sd: float = 0.3,
    peptide_sd: float = 2.0,
    noise_spread: float = 1.0,
    errors: Errors = "normal",
    weights: Quality | None = "informative",
    missing: float = 0.3,
    missing_by: Missing = "random",
    seed: int = 0,
) -> ad.AnnData:
    r"""Simulate log2 intensities of peptides, as a mass spectrometer measures proteins of donors of two arms.

    Of peptide j of protein g in run i of donor d, the log2 intensity is

    .. math:: m_g + a_{gj} + \beta_g x_d + u_{gd} + r_{gi} + e_{gji}

    with :math:`a` the peptide's effect, :math:`x` 0 in controls and 1 in cases, :math:`u` the donor's own level of the protein,
    :math:`r` that of the run, and :math:`e` an error whose variance differs between measurements.

    Parameters
    ----------
    n_donors, runs_per_donor
        Number of donors in each arm, and of runs for each donor.
    n_proteins
        Number of proteins.
    n_peptides
        Mean number of peptides of a protein; the numbers are from 1 to 20, with probabilities that fall geometrically. With 6, one
        protein in seven has a single peptide, and half have four or fewer.
    de_fraction, effect_size
        Fraction of the proteins that differ between the arms, and their mean absolute log2 fold change (between 0.5 and 1.5 times
        this).
    species
        A mixture of species in place of proteins that differ: names, and log2 ratios between the arms of all their proteins,
        such as ``{"HUMAN": 0.0, "YEAST": 1.0, "ECOLI": -2.0}``. Half of the proteins are of the first species.
    donor_sd, run_sd, noise_sd
        Standard deviations of :math:`u`, :math:`r` and :math:`e` for the average protein, log2; proteins differ (their logs by
        0.3). That of :math:`e` is the geometric mean over the measurements of a protein.
    peptide_sd
        Standard deviation of :math:`a`. Levels of proteins are normal, 20 ± 2.
    noise_spread
        Standard deviation of the natural log of the variance of :math:`e`, within a protein: one half of it (of its variance) from
        the peptide's intensity, as faint peptides are measured worse, one half the measurement's own. 0: all are alike.
    errors
        ``"normal"``, or ``"t3"``: of Student's t with 3 degrees of freedom, of the same variance.
    weights
        What ``layers["weights"]`` know of the variance of :math:`e`. ``"informative"``: its reciprocal, from a variance that is
        reported with an error (sd .3 of its natural log). ``"noise"``: values that are spread as widely, and know nothing.
        None: there is no such layer.
    missing
        Expected fraction of the measurements that are missing.
    missing_by
        ``"random"``, or ``"intensity"``: the probability is :math:`\Phi((c - y) / 1.5)` of what would be measured, so that faint
        peptides are lost, more often in the arm that has less.
    seed
        Seed of :func:`numpy.random.default_rng`; equal arguments give equal data. What is not missing, and what weights say, does
        not change what would be measured.

    Returns
    -------
    Runs × peptides, with

    - ``X``: log2 intensities, NaN where missing. Peptides that were never measured are there, too.
    - ``layers["weights"]``: precision weights, in reciprocals of squared log2 units, NaN where missing.
      ``layers["true_variance"]``: variance of :math:`e`.
    - ``obs``: `run`, `donor_id`, `condition` (control, case).
    - ``var``: `protein`, `gene`, `species` of a mixture; the truth: `is_de`, `true_log_fc` (log2), `level` (expected log2
      intensity in controls), `donor_sd`, `run_sd`, `noise_sd`. Names are those of precursors: a sequence and its charge.
    - ``uns["truth"]``: the arguments, a `formula` that matches the simulation and the `contrast` of interest in it.

    Raises
    ------
    DonorwiseError
        An argument is out of range.

    See Also
    --------
    diann_report : The same measurements as a long table in DIA-NN's columns.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_peptides(n_donors=3, n_proteins=50)
    >>> adata.n_obs, adata.var["protein"].nunique()
    (6, 50)
    >>> adata.uns["truth"]["formula"]
    '~ condition + (1 | peptide) + (1 | donor_id)'

    Species in known amounts, as they are mixed to try methods out, where differences between runs are small:

    >>> ratios = {"HUMAN": 0.0, "YEAST": 1.0, "ECOLI": -2.0}
    >>> mixture = dw.datasets.simulate_peptides(species=ratios, donor_sd=0.05, missing_by="intensity")
    >>> mixture.var.groupby("species", observed=True)["true_log_fc"].first().to_dict()
    {'HUMAN': 0.0, 'YEAST': 1.0, 'ECOLI': -2.0}
    """
    arguments: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    _check(arguments)
    of_proteins, of_levels, of_noise, of_weights, of_missing = np.random.default_rng(seed).spawn(5)

    spreads = Spreads(donor_sd, run_sd, noise_sd, peptide_sd)
    proteins = draw_proteins(n_proteins, spreads, (de_fraction, effect_size), species, of_proteins)
    var = draw_peptides(proteins, n_peptides, peptide_sd, of_proteins)
    obs = _runs(n_donors, runs_per_donor)
    variance = _variances(len(obs), var, noise_spread, of_noise)
    levels = _levels(obs, var, proteins, of_levels) + np.sqrt(variance) * _deviates(variance.shape, errors, of_noise)

    adata = ad.AnnData(X=levels, obs=obs, var=var, layers={"true_variance": variance})
    lost = _missing(levels, missing, missing_by, of_missing)
    adata.X[lost] = np.nan
    if weights is not None:
        reported = variance if weights == "informative" else np.full_like(variance, noise_sd**2)
        error = REPORTED if weights == "informative" else noise_spread
        adata.layers["weights"] = 1 / (reported * np.exp(error * of_weights.standard_normal(variance.shape)))
        adata.layers["weights"][lost] = np.nan
    run_term = " + (1 | run)" if run_sd > 0 and runs_per_donor > 1 else ""
    formula = f"~ condition + (1 | peptide) + (1 | donor_id){run_term}"
    adata.uns["truth"] = arguments | {"formula": formula, "contrast": "condition[T.case]"}
    return adata


def _check(arguments: dict[str, Any]) -> None:
    check_counts(arguments, {"n_donors": 1, "runs_per_donor": 1, "n_proteins": 1})
    check_sizes(
        arguments, (name for name in arguments if name.endswith("_sd") or name in {"effect_size", "noise_spread"})
    )
    if not arguments["noise_sd"] > 0:
        raise DonorwiseError(f"noise_sd={arguments['noise_sd']!r}: must be positive.")
    check_shares(arguments, ("de_fraction", "missing"))
    if arguments["missing"] == 1:
        raise DonorwiseError(f"missing={arguments['missing']!r}: must be below 1.")
    if not 1 <= arguments["n_peptides"] <= MOST:
        raise DonorwiseError(f"n_peptides={arguments['n_peptides']!r}: must be from 1 to {MOST}.")
    for name, options in (("errors", Errors), ("missing_by", Missing), ("weights", Quality)):
        if name in arguments:
            check_option(name, arguments[name], get_args(options))
    species: Mapping[str, Any] = arguments.get("species", {"": 0.0})
    if not species or not all(isinstance(ratio, Real) and np.isfinite(float(ratio)) for ratio in species.values()):
        raise DonorwiseError(f"species={species!r}: needs names, and a log2 ratio for each, such as {{'YEAST': 1.0}}.")


def _runs(n_donors: int, runs_per_donor: int) -> pd.DataFrame:
    """A row per run: donors of the first arm, then of the second."""
    donor = np.repeat(np.arange(2 * n_donors), runs_per_donor)
    runs = [f"run{i + 1}" for i in range(len(donor))]
    return pd.DataFrame(
        {
            "run": pd.Categorical(runs, categories=runs),
            "donor_id": pd.Categorical.from_codes(donor, [f"D{i + 1}" for i in range(2 * n_donors)]),
            "condition": pd.Categorical.from_codes((donor >= n_donors).astype(int), ["control", "case"]),
        },
        index=pd.Index(runs),
    )


def _levels(obs: pd.DataFrame, var: pd.DataFrame, proteins: pd.DataFrame, rng: np.random.Generator) -> FloatArray:
    """Log2 intensities without error, (runs, peptides)."""
    donor = obs["donor_id"].cat.codes.to_numpy()
    own = rng.standard_normal((donor.max() + 1, len(proteins)))[donor] * proteins["donor_sd"].to_numpy()
    own += rng.standard_normal((len(obs), len(proteins))) * proteins["run_sd"].to_numpy()
    own += np.outer(obs["condition"] == "case", proteins["true_log_fc"])
    of = pd.Index(proteins["protein"]).get_indexer(var["protein"])
    return np.asarray(var["level"].to_numpy() + own[:, of])


def _variances(n_runs: int, var: pd.DataFrame, spread: float, rng: np.random.Generator) -> FloatArray:
    """Of the errors, (runs, peptides): the fainter the peptide the larger, and each its own."""
    level = var["level"].to_numpy()
    faint = (level.mean() - level) / max(level.std(), np.finfo(float).tiny)
    log_ratio = spread * np.sqrt(0.5) * (faint + rng.standard_normal((n_runs, len(var))))
    return np.asarray(var["noise_sd"].to_numpy() ** 2 * np.exp(log_ratio))


def _deviates(shape: tuple[int, ...], errors: Errors, rng: np.random.Generator) -> FloatArray:
    """Of mean 0 and variance 1."""
    return rng.standard_normal(shape) if errors == "normal" else rng.standard_t(3, shape) / np.sqrt(3)


def _missing(levels: FloatArray, fraction: float, by: Missing, rng: np.random.Generator) -> BoolArray:
    """Which measurements are lost."""
    if by == "random":
        return rng.random(levels.shape) < fraction

    def lost(limit: float) -> FloatArray:
        return np.asarray(ndtr((limit - levels) / DETECTION))

    far = 40 * DETECTION  # where nothing is lost, or all
    limit = brentq(lambda x: lost(x).mean() - fraction, levels.min() - far, levels.max() + far, xtol=1e-6)
    return rng.random(levels.shape) < lost(limit)
