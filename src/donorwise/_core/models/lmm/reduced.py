"""The same features by a model with a kernel without some of its terms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.fit import fit_responses
from donorwise._core.models.lmm.ratios import Nodes
from donorwise._core.models.lmm.rays import Rays, energy_of
from donorwise._core.models.lmm.spectral import fit_spectral

if TYPE_CHECKING:
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import FloatArray


def loglik_without(equations: Equations, response: Responses, gone: tuple[int, ...]) -> FloatArray:
    """Restricted log-likelihoods (G,) at the optimum of a coupled block without the terms `gone`."""
    kept = np.flatnonzero(~np.isin(equations.blocks.parameter[:, 0], gone))
    if kept.size > 1:
        return fit_responses(_without(equations, gone), response, reml=True).loglik
    nu = equations.nu(reml=True)
    R, logdet = _on_ray(equations, response, kept[0], nu) if kept.size else (response.rss, np.zeros(response.rss.size))
    logdet = logdet + 2 * equations.fixed.log_det - equations.log_weight
    return np.asarray(-0.5 * (nu * (np.log(2 * np.pi * R / nu) + 1) + logdet))


def _on_ray(equations: Equations, response: Responses, k: int, nu: int) -> tuple[FloatArray, FloatArray]:
    """y'Py and log-determinants (G,) at the optimum of one variance alone."""
    assert equations.rays is not None
    ray = equations.rays.at(np.eye(len(equations.blocks.parameter))[k])
    lam = fit_spectral(ray.spectrum, response.zty, response.rss, nu, reml=True)[0]
    (energy, floor), scaled = energy_of(response.zty, response.rss, ray.turn), lam * ray.s
    return floor + (energy / (1 + scaled)).sum(axis=1), np.log1p(scaled).sum(axis=1)


def _without(equations: Equations, gone: tuple[int, ...]) -> Equations:
    """The equations without some terms; two parameters at least are left."""
    blocks, terms = equations.blocks, [t for t in range(len(equations.terms)) if t not in gone]
    rows = np.flatnonzero(~np.isin(blocks.parameter[:, 0], gone))
    parameter = blocks.parameter[rows].copy()
    parameter[:, 0] = np.searchsorted(terms, parameter[:, 0])
    smaller = replace(blocks, parameter=parameter, B=np.ascontiguousarray(blocks.B[rows]), partner=blocks.partner[rows])
    rays, information = Rays.of(smaller), equations.information[terms]
    two = len(terms) == 2 and rows.size == 2
    return replace(
        equations, terms=tuple(equations.terms[t] for t in terms), blocks=smaller, information=information, rays=rays,
        nodes=Nodes(rays, information) if two else None,
    )  # fmt: skip
