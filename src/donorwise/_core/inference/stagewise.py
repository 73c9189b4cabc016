"""Stage-wise testing: which genes change at all, and in which groups each of them does.

The procedure of the R package stageR (Van den Berge et al. 2017, Genome Biol 18:151), after Heller et al. (2009, Bioinformatics
25:1019), for G genes that are tested in up to n groups each. *Screening*: one p-value of a gene for the hypothesis that nothing
holds in any group, adjusted by Benjamini and Hochberg; R of the m genes pass at alpha. *Confirmation*: the groups of those at the
level R alpha / m, by Holm's procedure with Shaffer's modification (1986, J Am Stat Assoc 81:826): of a gene that passed for a
reason one hypothesis is false at least, so that no more than n - 1 are true,

    p_(1) (n - 1), p_(2) (n - 1), p_(3) (n - 2), ..., p_(n) 1,   made monotone, times m / R.

That bounds the overall false discovery rate, the expected share of genes with any false rejection (that of the screening
included) among those that pass, whatever the dependence between the groups of a gene, if the screening p-value is valid.

It is that of Simes (1986, Biometrika 73:751), min_i p_(i) n / i, which donors whom groups share do not make invalid: it is
proven for positive dependence (Sarkar 1998, Ann Stat 26:494), and conservative for two-sided tests of correlated statistics
otherwise. In simulations of t tests with correlations from -1/(n - 1) to .95 and shared variances the rate at .05 was .02 to .06 (standard error .01);
that of the Cauchy combination, which finds a little more, up to .08.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.inference.multiplicity import adjust

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray


class Stages(NamedTuple):
    """Adjusted p-values of both stages, and how many genes passed the first of how many.

    Attributes
    ----------
    screening
        Shape (G,). Adjusted p-values of the genes; NaN for those that were tested nowhere.
    confirmation
        Shape (G, n). Stage-wise adjusted p-values of the groups: at most alpha where both stages reject, and valid at that alpha
        alone; NaN where a gene was not tested.
    n_passed, n_genes
        R and m.
    """

    screening: FloatArray
    confirmation: FloatArray
    n_passed: int
    n_genes: int


def stagewise(p_values: FloatArray, alpha: float) -> Stages:
    """Test genes, and then their groups, at an overall false discovery rate of `alpha`.

    The numbers of genes that pass are those of stageR. For a gene that does not pass, or is tested in one group alone, where the
    screening says all, they are no smaller than that of the screening (stageR gives NA, and zero).

    Parameters
    ----------
    p_values
        Shape (G, n); NaN where a gene was not tested in a group, which does not count.
    alpha
        The level, that of both stages.

    Examples
    --------
    >>> found = stagewise(np.array([[0.001, 0.02, 0.9], [0.3, 0.5, np.nan]]), alpha=0.05)
    >>> found.n_passed, found.screening.round(3).tolist()
    (1, [0.006, 0.5])
    >>> found.confirmation.round(3).tolist()
    [[0.004, 0.08, 1.0], [0.6, 1.0, nan]]
    """
    screening = adjust(simes(p_values))
    n_genes, passed = int(np.isfinite(screening).sum()), screening <= alpha
    within, n = holm_shaffer(p_values)
    confirmation = np.minimum(within * (n_genes / max(int(passed.sum()), 1)), 1.0)
    settled = passed & (n > 1)
    confirmation = np.where(settled[:, None], confirmation, np.maximum(confirmation, screening[:, None]))
    return Stages(screening, confirmation, int(passed.sum()), n_genes)


def simes(p_values: FloatArray) -> FloatArray:
    """P-values (G,) of Simes for the hypothesis that all of a row (G, n) are null; NaN does not count, and is that of an empty row."""
    ordered, rank, n = _ordered(p_values)
    out = np.min(ordered * n[:, None] / (rank + 1), axis=1, initial=np.inf, where=np.isfinite(ordered))
    return np.where(n > 0, out, np.nan)


def holm_shaffer(p_values: FloatArray) -> tuple[FloatArray, IntArray]:
    """Adjusted p-values (G, n) of each row, of which one hypothesis is known to be false, and how many (G,) it has; NaN stays.

    Of a row with one hypothesis, which is the false one, it is zero.
    """
    ordered, rank, n = _ordered(p_values)
    true_at_most = np.minimum(n[:, None] - 1, n[:, None] - rank)
    stepped = np.maximum.accumulate(np.minimum(ordered * true_at_most, 1.0), axis=1)
    out = np.empty_like(ordered)
    np.put_along_axis(out, np.argsort(p_values, axis=1, kind="stable"), stepped, axis=1)
    return np.where(np.isfinite(p_values), out, np.nan), n


def _ordered(p_values: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
    """Each row in increasing order, NaN last; ranks (n,) from 0; and numbers (G,) of p-values."""
    return np.sort(p_values, axis=1), np.arange(p_values.shape[1]), np.isfinite(p_values).sum(axis=1)
