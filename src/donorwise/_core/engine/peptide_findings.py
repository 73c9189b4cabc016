"""What is found in the data of peptides before a fit, a sentence each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.peptide_labels import of_several, unlabelled, without_protein
from donorwise._core.engine.peptide_loss import depends_on_intensity
from donorwise._core.engine.peptide_pass import LARGEST, Measurements, Seen, look_at
from donorwise.errors import DataError

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_RAW_MEDIAN, _RAW_SPREAD = 1e4, 20.0  # of intensities; between the 5th and the 95th percentile, as ratio
_RATIOS = 0.01  # share of values below zero, from which on they are ratios, or centred
_APART = 1.0  # of the nonzero values 99% are above, where a zero is no measurement
_SOME_ZEROS = 0.005  # share of zeros that ratios do not have by chance
_COARSE = 0.5  # share of values with no more than two decimals, above which equal values are no surprise
_FILLED, _FEWEST_FILLED = 0.01, 5  # of the values of a run that are one and the same
_FEWEST_EQUAL = 3  # values that two peptides have in common to be one twice
_HUGE = 1e6  # largest by smallest weight
_ERRORS_BELOW, _VARIANCES_BELOW = 0.05, 1e-4  # median of q-values; largest of inverse variances of raw intensities


def peptide_warnings(
    matrix: Any,
    *,
    proteins: Any,
    peptides: Sequence[str],
    runs: Sequence[str],
    weights: Any = None,
    run_weights: FloatArray | None = None,
    rows: IntArray | None = None,
    columns: IntArray | None = None,
    text: str = "X",
    features: str = "features",
) -> tuple[str, ...]:
    """What deserves a second look in the data of peptides, and errors where they cannot be analysed.

    Parameters
    ----------
    matrix
        Logarithms of intensities, runs x peptides; NaN where a peptide was not measured.
    proteins
        Shape (P,). Protein of each peptide; missing or empty for none.
    peptides, runs
        Names of the P peptides and N runs.
    weights
        Precision weights, like `matrix`; NaN or 0 leaves a measurement out.
    run_weights
        Shape (N,). Weights of runs, which multiply these.
    rows, columns
        The runs that are looked at, and the P columns of the matrix; all for None.
    text
        What messages call the values.
    features
        What they call the labels of proteins.

    Raises
    ------
    DataError
        Peptides share a name, none has a protein, nothing was measured, values are infinite or raw intensities, or weights
        are negative or infinite.
    """
    _check_names(peptides)
    known = np.flatnonzero(~unlabelled(proteins))
    if not known.size:
        raise DataError(f"{features} names a protein for none of the {len(peptides):,} peptides.")
    rows = np.arange(len(runs)) if rows is None else rows
    labels = np.asarray(proteins, dtype=object)[known]
    names, own = [str(peptides[int(k)]) for k in known], [str(runs[int(i)]) for i in rows]
    measured = Measurements(matrix, weights, run_weights, rows, known if columns is None else columns[known])
    seen = look_at(measured, own, names, text)
    if not seen.n_values:
        why = " with a weight above zero" if weights is not None or run_weights is not None else ""
        raise DataError(f"{text} has no value{why} in any of the {len(rows):,} runs: nothing can be analysed.")
    return (
        *without_protein(proteins, peptides, features),
        *of_several(proteins, features),
        *_scale(seen, text, own),
        *_zeros(seen, text),
        *_filled(seen, text),
        *_twice(measured, seen, names, labels),
        *_unmeasured(seen, names, labels),
        *depends_on_intensity(measured, seen, pd.factorize(labels)[0]),
        *_weights(seen),
    )


def _check_names(peptides: Sequence[str]) -> None:
    names = pd.Index(peptides)
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(
            f"{len(twice):,} peptides share a name with another, such as {twice[0]!r}. If they are one peptide twice keep one "
            "of them; if not, such as the charges of one sequence, make names unique: `adata.var_names_make_unique()`."
        )


def _scale(seen: Seen, text: str, runs: Sequence[str]) -> Iterator[str]:
    """Values that are no logarithms: all, those of some runs, or a few."""
    n_large, known = int(seen.large_of_run.sum()), seen.sample[np.isfinite(seen.sample)]
    n_other = seen.n_of_run - seen.zeros_of_run  # zeros are as raw as they are logarithms
    known = known[known != 0]
    raw = np.flatnonzero(2 * seen.large_of_run > n_other)
    advice = "take their logarithm first, such as `X = np.log2(X)`, with NaN for zeros"
    if 2 * len(raw) > np.sum(n_other > 0):
        median = float(np.median(known))
        message = (
            f"{text} has a median of {median:.3g} (zeros apart), so these are no logarithms of intensities. A mixed model takes differences for "
            f"effects, with the same spread at every level, and log_fc takes them for logarithms: {advice}."
        )
        if median > _RAW_MEDIAN or _spread(known) > _RAW_SPREAD:
            raise DataError(message)
        yield message
    elif raw.size:
        raise DataError(
            f"{len(raw):,} of {len(runs):,} runs hold raw intensities (the first is {runs[raw[0]]!r}), and the others logarithms: "
            f"bring all to one scale; of those that are raw {advice}."
        )
    elif _are_counts(known):
        yield (
            f"{text} holds whole numbers, which look like counts of spectra: a linear mixed model takes differences of them for "
            "effects, with the same spread at every level. Take logarithms of intensities in their place; where there are none, "
            "add counts up by protein and use `dw.tl.glmm`."
        )
    elif n_large:
        large = known[known > LARGEST]
        example = f", such as {large[0]:.4g}" if large.size else ""
        yield (
            f"{n_large:,} of {seen.n_values:,} values of {text} {'is' if n_large == 1 else 'are'} above {LARGEST:g}{example}, which no logarithm of an intensity is: "
            "set them to NaN, or take their logarithm if they were forgotten."
        )


def _spread(values: FloatArray) -> float:
    """Ratio of the 95th to the 5th percentile of the values above zero."""
    low, high = np.quantile(values[values > 0], [0.05, 0.95])
    return float(high / low)


def _is_coarse(values: FloatArray) -> bool:
    """Whether values are rounded, so that equal ones are nothing odd."""
    return bool(values.size) and float(np.mean(values == np.round(values, 2))) > _COARSE


def _are_counts(values: FloatArray) -> bool:
    """Whether values are whole numbers, and more than yes and no."""
    return bool((values >= 0).all() and (values == np.round(values)).all() and len(np.unique(values)) > 2)


def _zeros(seen: Seen, text: str) -> Iterator[str]:
    """Zeros that stand for missing values: outside of what else there is, or too many; not those of a reference run."""
    known = seen.sample[np.isfinite(seen.sample)]
    n = int(seen.zeros_of_run[seen.zeros_of_run < seen.n_of_run].sum())
    other = known[known != 0]
    if not n or not other.size or _are_counts(known):
        return
    apart = seen.n_negative <= _RATIOS * seen.n_values and np.quantile(other, 0.01) > _APART
    if apart or (n > _SOME_ZEROS * seen.n_values and not _is_coarse(other)):
        yield (
            f"{n:,} of {seen.n_values:,} values of {text} {'is' if n == 1 else 'are'} exactly 0, which is what missing values are often written as: they would "
            "count as very low intensities. Set them to NaN: `X[X == 0] = np.nan`."
        )


def _filled(seen: Seen, text: str) -> Iterator[str]:
    """Values that were put in for missing ones: one value in many peptides of a run."""
    if _is_coarse(seen.sample[np.isfinite(seen.sample)]):
        return
    modes = [_mode(row[np.isfinite(row) & (row != 0)]) for row in seen.sample]
    found = [(n, value, size) for n, value, size in modes if n >= max(_FEWEST_FILLED, _FILLED * size) and n < size]
    if 2 * len(found) > sum(size > 0 for *_, size in modes):
        n, value, size = max(found)
        yield (
            f"Runs hold one and the same value of {text} for many peptides ({value:.4g} for {n:,} of {size:,}), as missing values that "
            "were filled in do: they count as measurements, and make differences and their errors too small. Leave them NaN; a "
            "mixed model needs no imputation."
        )


def _mode(values: FloatArray) -> tuple[int, float, int]:
    """How often the most frequent value occurs, that value, and how many values there are."""
    if not values.size:
        return 0, np.nan, 0
    levels, n = np.unique(values, return_counts=True)
    return int(n.max()), float(levels[n.argmax()]), values.size


def _twice(measured: Measurements, seen: Seen, names: Sequence[str], labels: np.ndarray) -> Iterator[str]:
    """Peptides that have all values of another: one peptide twice."""
    if _is_coarse(seen.sample[np.isfinite(seen.sample)]):
        return
    same = list(_equal(measured, seen))
    within = [pair for pair in same if labels[pair[0]] == labels[pair[1]]]
    across = [pair for pair in same if labels[pair[0]] != labels[pair[1]]]
    if within:
        a, b = within[0]
        yield (
            f"{len(within):,} peptide{'s have' if len(within) > 1 else ' has'} exactly the values of another of the same protein, "
            f"such as {names[b]!r} those of {names[a]!r} in {labels[a]!r}: they count twice, and make the protein look more certain "
            "than it is. Keep one of each."
        )
    if across:
        a, b = across[0]
        yield (
            f"{len(across):,} peptide{'s have' if len(across) > 1 else ' has'} exactly the values of one of another protein, such as "
            f"{names[b]!r} of {labels[b]!r} those of {names[a]!r} of {labels[a]!r}: a peptide that is listed for each of its "
            "proteins says the same of all, whichever changes. Leave shared peptides out, or give them a label for the group "
            "(`P1;P2`)."
        )


def _equal(measured: Measurements, seen: Seen) -> Iterator[tuple[int, int]]:
    """Pairs of peptides with the same values: the first of each set, and another."""
    sums = pd.DataFrame({"n": seen.n, "total": seen.total})[seen.n >= _FEWEST_EQUAL]
    alike = sums[sums.duplicated(keep=False)]
    for _, own in alike.groupby(["n", "total"], sort=False):
        first, *others = own.index
        _, y, _ = measured.read(own.index.to_numpy())
        for k, other in enumerate(others, 1):
            if np.array_equal(y[:, 0], y[:, k], equal_nan=True):
                yield first, other


def _unmeasured(seen: Seen, names: Sequence[str], labels: np.ndarray) -> Iterator[str]:
    """Peptides without a value, and proteins of which all are so."""
    empty = seen.n == 0
    if not empty.any():
        return
    never = pd.Series(seen.n).groupby(labels, sort=False).sum()
    gone = never.index[never == 0]
    proteins = (
        f" Of {len(gone):,} protein{'s' if len(gone) > 1 else ''} (such as {gone[0]!r}) nothing was measured; they keep their rows, "
        "without numbers."
        if len(gone)
        else ""
    )
    yield (
        f"{int(empty.sum()):,} of {len(empty):,} peptides were measured in no run (the first is {names[int(np.flatnonzero(empty)[0])]!r}) and left "
        f"out.{proteins}"
    )


def _weights(seen: Seen) -> Iterator[str]:
    """Weights that leave measurements out, that a few measurements carry all of, or that are no weights."""
    if seen.n_unweighted:
        n = seen.n_unweighted
        yield (
            f"{n:,} measurement{'s have' if n > 1 else ' has'} no weight, or one of zero, and {'are' if n > 1 else 'is'} left out like "
            "missing values."
        )
    low, high, total, squares = seen.weights
    if low == high:
        return
    median = float(np.median(seen.weights_sample)) if seen.weights_sample.size else high
    if high <= 1 and median < _ERRORS_BELOW and high > _VARIANCES_BELOW:
        yield (
            f"All weights lie between {low:.3g} and {high:.3g}, most near 0 (median {median:.3g}), as q-values and error "
            "probabilities do. Those are small for what is certain, and as weights they would count it least: filter by them, and "
            "give weights that are large for what is precise."
        )
    elif high > _HUGE * low:
        yield (
            f"Weights reach from {low:.3g} to {high:.3g}, so that {seen.n_values:,} measurements say no more than "
            f"{max(1, round(total**2 / squares)):,} of equal weight would: a few carry all. Look at the largest and smallest, and "
            "bound them."
        )
