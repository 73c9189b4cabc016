"""The kernel's results for a block of features, as arrays with names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise.lmm import kernels
from donorwise.lmm.single import evaluate_single

if TYPE_CHECKING:
    from donorwise._typing import FloatArray
    from donorwise.lmm.crossproducts import Responses
    from donorwise.lmm.structure import Blocks


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Likelihood and fixed effects of G features at given variances (see the kernel).

    Attributes
    ----------
    deviance, R, logdet_V, logdet_X
        Shape (G,). Profiled deviance without constants, y'Py, log|V|, log|X̃'V⁻¹X̃|.
    Phi, delta
        Shapes (G, p, p), (G, p). (X̃'V⁻¹X̃)⁻¹ and the step from least squares to beta.
    P, Q, tr1, tr2, quad1, quad2
        Derivative pieces per covariance parameter (K) and pair of them; no rows unless asked for.
    u, D
        Z'Py (G, q) and the blocks of Z'V⁻¹Z (G, size of S); no rows unless asked for.
    """

    deviance: FloatArray
    R: FloatArray
    logdet_V: FloatArray
    logdet_X: FloatArray
    Phi: FloatArray
    delta: FloatArray
    P: FloatArray
    Q: FloatArray
    tr1: FloatArray
    tr2: FloatArray
    quad1: FloatArray
    quad2: FloatArray
    u: FloatArray
    D: FloatArray


def evaluate_block(
    blocks: Blocks,
    gamma: FloatArray,
    response: Responses,
    nu: int,
    *,
    reml: bool = True,
    pieces: bool = False,
    posterior: bool = False,
) -> Evaluation:
    """Evaluate G features at relative covariances `gamma` (G, K)."""
    G, K = gamma.shape
    q, p = blocks.A.shape
    g, h = G * pieces, G * posterior
    likelihood, Phi, delta = np.empty((G, 4)), np.empty((G, p, p)), np.empty((G, p))
    derived = (
        np.zeros((g, K, p, p)), np.zeros((g, K, K, p, p)), np.zeros((g, K)), np.zeros((g, K, K)),
        np.zeros((g, K)), np.zeros((g, K, K)),
    )  # fmt: skip
    modes = (np.zeros((h, q)), np.zeros((h, blocks.S.size)))
    if K == 1:
        results = (likelihood, Phi, delta)
        evaluate_single(
            blocks.S, blocks.A, gamma[:, 0], response.zty, response.rss, float(nu), reml, results, derived, modes
        )
    else:
        kernels.evaluate_features(
            blocks.arrays(), gamma, response.zty, response.rss, float(nu), reml, int(pieces or posterior),
            likelihood, Phi, delta, derived, modes,
        )  # fmt: skip
    deviance, R, logdet_V, logdet_X = likelihood.T
    return Evaluation(deviance, R, logdet_V, logdet_X, Phi, delta, *derived, *modes)
