"""Proportions of variance: h2, m2 and the like, of models in which a covariance between levels is known.

A term of the model adds a_t'v to the variance of a response, a_t the mean over the rows of what a unit of its variances v
gives; of all that, with the residual, it has the proportion

    h = a_t'v / (sum_s a_s'v + sigma2).

On the scale ``"trace"`` the variance of a term is that between its levels: K is multiplied by c = tr(PKP) / (n - 1), the mean
variance of its n levels after centring (P takes off their mean), which for independent levels is one, so that proportions of
differently scaled kernels can be compared (Speed and Balding 2015, Nat Rev Genet 16:33; Kang et al. 2010, Nat Genet 42:348).
``"as-is"`` takes variances as they are, sigma2_k / sum of sigma2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.curvature import expected_covariance, free, ratio_covariance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._typing import BoolArray, FloatArray

SUM = "sum"
_OPPOSITE = -0.95  # correlation of two estimates below which the data can hardly say which of two a variance is


@dataclass(frozen=True, slots=True)
class Component:
    """What a proportion is of.

    Attributes
    ----------
    name
        The kernel, or the grouping factor of a term without one, or the sum of the kernels.
    terms
        Positions of its random terms.
    """

    name: str
    terms: tuple[int, ...]


def components_of(design: Design) -> tuple[Component, ...]:
    """Kernels, other terms of their grouping factors, and the sum of the kernels where there are several."""
    terms = design.random_terms
    kernels = tuple(t for t, term in enumerate(terms) if term.bar.cov)
    groups = {terms[t].group for t in kernels}
    others = tuple(t for t, term in enumerate(terms) if not term.bar.cov and term.group in groups)
    own = [
        Component(name, (t,))
        for name, t in zip(_names([terms[t] for t in (*kernels, *others)]), kernels + others, strict=True)
    ]
    return (*own, Component(SUM, kernels)) if len(kernels) > 1 else tuple(own)


def _names(terms: list[RandomTerm]) -> list[str]:
    """The kernel or the grouping factor; where several are called the same, or as their sum, the whole term."""
    short = [term.bar.cov or term.group for term in terms]
    return [
        name if short.count(name) == 1 and name != SUM else term.label for name, term in zip(short, terms, strict=True)
    ]


def weights_of(equations: Equations, scale: str) -> FloatArray:
    """What a unit of each covariance parameter adds to the variance of a response, (K,)."""
    out = np.zeros(len(equations.blocks.parameter))
    for k, (t, i, j) in enumerate(equations.blocks.parameter):
        basis = equations.terms[t]
        if i == j:  # internal columns are orthonormal, so that covariances add nothing
            kernel = basis.kernel if scale == "trace" else None
            out[k] = 1 / basis.size if kernel is None else centred_size(kernel)  # it is K / size
    return out


def centred_size(kernel: FloatArray) -> float:
    """tr(PKP) / (n - 1), P = I - 11'/n."""
    n = len(kernel)
    return float((np.trace(kernel) - kernel.sum() / n) / (n - 1))


def numerators(equations: Equations, components: Sequence[Component], weights: FloatArray) -> FloatArray:
    """Weights of the parameters of each component, and zero for the others, (components, K)."""
    term = equations.blocks.parameter[:, 0]
    return np.stack([np.where(np.isin(term, c.terms), weights, 0.0) for c in components])


def proportions(gamma: FloatArray, numerator: FloatArray, weights: FloatArray) -> FloatArray:
    """Proportions (G, n) at ratios `gamma` (G, K), for the `numerator` (n, K) out of `weights` (K,)."""
    return np.asarray((gamma @ numerator.T) / (1 + gamma @ weights)[:, None])


def standard_errors(
    gamma: FloatArray, covariance: FloatArray, numerator: FloatArray, weights: FloatArray
) -> FloatArray:
    """Standard errors (G, n) of proportions by the delta method, from the `covariance` (G, K, K) of the ratios."""
    own = _gradient(gamma, numerator, weights)
    return np.sqrt(np.clip(np.einsum("gnk,gkj,gnj->gn", own, covariance, own), 0, None))


def correlations(gamma: FloatArray, covariance: FloatArray, numerator: FloatArray, weights: FloatArray) -> FloatArray:
    """Correlations (G, n, n) of estimated proportions."""
    own = _gradient(gamma, numerator, weights)
    products = own @ covariance @ own.swapaxes(1, 2)
    sd = np.sqrt(np.clip(np.einsum("gnn->gn", products), 0, None))
    scale = sd[:, :, None] * sd[:, None, :]
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def _gradient(gamma: FloatArray, numerator: FloatArray, weights: FloatArray) -> FloatArray:
    """Derivatives (G, n, K) of proportions with respect to the ratios."""
    total = (1 + gamma @ weights)[:, None, None]
    return np.asarray((numerator - proportions(gamma, numerator, weights)[:, :, None] * weights) / total)


def estimated(
    equations: Equations,
    estimates: Estimates,
    components: Sequence[Component],
    scale: str,
    covariance: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Proportions and their standard errors, (G, n) each; no error for one that is zero.

    `covariance` is that of the ratios; None for that of :func:`ratio_covariance`.
    """
    if covariance is None:
        covariance = ratio_covariance(equations, estimates)
    weights = weights_of(equations, scale)
    numerator = numerators(equations, components, weights)
    value = proportions(estimates.gamma, numerator, weights)
    se = standard_errors(estimates.gamma, covariance, numerator, weights)
    return value, np.where(any_free(equations, estimates.gamma, components), se, np.nan)


def any_free(equations: Equations, gamma: FloatArray, components: Sequence[Component]) -> BoolArray:
    """Which components have a variance that is not at zero, (G, n)."""
    own = numerators(equations, components, np.ones(gamma.shape[1]))
    return np.asarray(free(equations, gamma).astype(np.float64) @ own.T > 0)


def confounded(equations: Equations, components: Sequence[Component]) -> tuple[tuple[int, int], ...]:
    """Pairs of components whose estimated proportions are all but opposites, were all terms to vary as much as the residual.

    By the expected information, which depends on the design alone.
    """
    weights = weights_of(equations, "trace")
    equal = np.where(weights > 0, 1 / np.where(weights > 0, weights, 1.0), 0.0)[None]
    own = [k for k, c in enumerate(components) if c.name != SUM]
    covariance, numerator = expected_covariance(equations, equal), numerators(equations, components, weights)
    found = correlations(equal, covariance, numerator, weights)[0]
    return tuple((i, j) for i in own for j in own if i < j and not found[i, j] > _OPPOSITE)
