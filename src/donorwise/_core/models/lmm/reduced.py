"""The same features by a model without some of its variances and covariances."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from donorwise._core.models.lmm.fit import fit_responses
from donorwise._core.models.lmm.ratios import Nodes
from donorwise._core.models.lmm.rays import Rays, energy_of
from donorwise._core.models.lmm.spectral import fit_spectral, spectrum

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Columns, Responses, TermBasis
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import BoolArray, FloatArray, IntArray


def loglik_without(equations: Equations, response: Responses, gone: BoolArray) -> FloatArray:
    """Restricted log-likelihoods (G,) at the optimum without the parameters `gone` (K,): those of terms, or of their last columns."""
    kept = np.flatnonzero(~gone)
    if kept.size and not equations.blocks.coupled:
        return fit_responses(*_narrowed(equations, response, kept), reml=True).loglik
    if kept.size > 1:
        return fit_responses(_without(equations, kept), response, reml=True).loglik
    nu, usable = equations.nu(reml=True), ~(response.constant | response.explained)
    R, logdet = _on_ray(equations, response, kept[0], nu) if kept.size else (response.rss, np.zeros(response.rss.size))
    logdet = logdet + 2 * equations.fixed.log_det - equations.log_weight
    with np.errstate(divide="ignore"):
        loglik = -0.5 * (nu * (np.log(2 * np.pi * R / nu) + 1) + logdet)
    return np.where(usable, loglik, np.nan)


def _on_ray(equations: Equations, response: Responses, k: int, nu: int) -> tuple[FloatArray, FloatArray]:
    """y'Py and log-determinants (G,) at the optimum of one variance alone."""
    assert equations.rays is not None
    ray = equations.rays.at(np.eye(len(equations.blocks.parameter))[k])
    lam = fit_spectral(ray.spectrum, response.zty, response.rss, nu, reml=True)[0]
    (energy, floor), scaled = energy_of(response.zty, response.rss, ray.turn), lam * ray.s
    return floor + (energy / (1 + scaled)).sum(axis=1), np.log1p(scaled).sum(axis=1)


def _without(equations: Equations, kept: IntArray) -> Equations:
    """The equations of a coupled block with the parameters `kept`, two at least."""
    blocks, parameter, terms = equations.blocks, *_left(equations, kept)
    smaller = replace(blocks, parameter=parameter, B=np.ascontiguousarray(blocks.B[kept]), partner=blocks.partner[kept])
    rays, information = Rays.of(smaller), equations.information[np.unique(blocks.parameter[kept, 0])]
    two = len(terms) == 2 and kept.size == 2
    return replace(
        equations, terms=terms, blocks=smaller, information=information, rays=rays,
        nodes=Nodes(rays, information) if two else None,
    )  # fmt: skip


def _left(equations: Equations, kept: IntArray) -> tuple[IntArray, tuple[TermBasis, ...]]:
    """Parameters, whose terms are numbered anew, and the terms with the columns that they have."""
    parameter = equations.blocks.parameter[kept].copy()
    numbers, parameter[:, 0] = np.unique(parameter[:, 0], return_inverse=True)
    widths = [int(parameter[parameter[:, 0] == t, 1].max()) + 1 for t in range(numbers.size)]
    return parameter, tuple(_first(equations.terms[t], r) for t, r in zip(numbers, widths, strict=True))


def _first(basis: TermBasis, r: int) -> TermBasis:
    """The first r columns of a term, of which none has anything of those after it."""

    def some(columns: Columns) -> Columns:
        return replace(columns, mean=columns.mean[:, :r], deviation=columns.deviation[:, :r])

    return replace(
        basis, columns=some(basis.columns), factor=basis.factor[:r, :r], back=basis.back[:r, :r],
        names=basis.names[:r], scale=basis.scale[:r],
    )  # fmt: skip


def _narrowed(equations: Equations, response: Responses, kept: IntArray) -> tuple[Equations, Responses]:
    """The equations without a kernel that have the parameters `kept`, and responses to them."""
    blocks, terms = equations.blocks, np.unique(equations.blocks.parameter[kept, 0])
    parameter, bases = _left(equations, kept)
    has = np.zeros((len(equations.terms), int(blocks.component.max(initial=0)) + 1), dtype=bool)
    has[tuple(blocks.parameter[kept, :2].T)] = True
    at, smaller = _select(blocks, np.flatnonzero(has[blocks.term, blocks.component]))
    place = np.full(blocks.order.size + 1, -1)  # the last is that of no partner
    place[at] = np.arange(at.size)
    smaller = replace(
        smaller, parameter=parameter, partner=place[blocks.partner[kept][:, at]], term=np.searchsorted(terms, smaller.term),
        lead=place[smaller.lead],
    )  # fmt: skip
    own = replace(
        equations, terms=bases, blocks=smaller, information=equations.information[terms],
        spectrum=spectrum(smaller) if kept.size == 1 else None,
    )  # fmt: skip
    return own, replace(response, zty=np.ascontiguousarray(response.zty[:, at]))


def _select(blocks: Blocks, columns: IntArray) -> tuple[IntArray, Blocks]:
    """Some of the columns in blocks of their own, and which these are; places of others are still the old ones."""
    row, column = blocks.places
    place = np.full(blocks.order.size, -1)
    place[columns] = np.arange(columns.size)
    own = (place[row] >= 0) & (place[column] >= 0) & ((blocks.S != 0) | (blocks.lead[row] == blocks.lead[column]))
    row, column, S = place[row[own]], place[column[own]], blocks.S[own]
    n_blocks, block = connected_components(coo_matrix((np.ones(row.size), (row, column)), shape=(columns.size,) * 2))
    at = np.argsort(block, kind="stable")
    new = np.argsort(at, kind="stable")
    start = np.searchsorted(block[at], np.arange(n_blocks + 1)).astype(np.int64)
    sizes = np.diff(start)
    S_start = np.concatenate([[0], np.cumsum(sizes**2)]).astype(np.int64)
    filled, b = np.zeros(int(S_start[-1])), block[row]
    filled[S_start[b] + (new[row] - start[b]) * sizes[b] + new[column] - start[b]] = S
    chosen = columns[at]
    return chosen, replace(
        blocks, order=np.argsort(np.argsort(blocks.order[chosen])), start=start, S=filled, S_start=S_start, A=blocks.A[chosen],
        term=blocks.term[chosen], component=blocks.component[chosen], lead=blocks.lead[chosen],
    )  # fmt: skip
