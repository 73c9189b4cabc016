"""The mixed model by its n x n matrices: slow and naive, from the textbook and not from the package.

Components are the entries of the terms' relative covariances (lower triangles, column by
column, the order of theta), so that V = I + sum_k gamma_k E_k, and the residual comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize


@dataclass(frozen=True)
class Term:
    """A random term: level of every row (n,), its columns (n, r), and the covariance of its levels (None: the identity)."""

    codes: np.ndarray
    columns: np.ndarray
    kernel: np.ndarray | None = None

    @property
    def K(self) -> np.ndarray:
        """Known covariance of the levels."""
        return np.eye(self.codes.max() + 1) if self.kernel is None else self.kernel

    def effects(self) -> np.ndarray:
        """Z by column of the term, (r, n, levels)."""
        indicators = np.eye(self.codes.max() + 1)[self.codes]
        return self.columns.T[:, :, None] * indicators


@dataclass(frozen=True)
class Point:
    """The model at one set of relative variances."""

    V: np.ndarray
    inverse: np.ndarray  # V⁻¹
    P: np.ndarray  # V⁻¹ - V⁻¹X (X'V⁻¹X)⁻¹ X'V⁻¹
    beta: np.ndarray
    sigma2: float
    vcov: np.ndarray
    loglik: float


class Dense:
    """One response with its rows scaled by the square roots of their weights.

    Rows may be means of patterns, weighted by their cells: then `n_obs` are the cells and `within` is their sum of
    squares about the means.
    """

    def __init__(
        self,
        y: np.ndarray,
        X: np.ndarray,
        terms: Sequence[Term],
        weights: np.ndarray | None = None,
        *,
        n_obs: int | None = None,
        within: float = 0.0,
    ):
        self.n_obs, self.within = n_obs or len(y), within
        root = np.sqrt(np.ones(len(y)) if weights is None else weights)
        self.y, self.X, self.terms = y * root, X * root[:, None], tuple(terms)
        self.log_weight = 2 * np.log(root).sum()
        self.Z = [term.effects() * root[:, None] for term in terms]
        self.index = [(t, i, j) for t, Z in enumerate(self.Z) for j in range(len(Z)) for i in range(j, len(Z))]
        self.E = [self._component(*k) for k in self.index]

    def _component(self, t: int, i: int, j: int) -> np.ndarray:
        cross = self.Z[t][i] @ self.terms[t].K @ self.Z[t][j].T
        return cross if i == j else cross + cross.T

    # ------------------------------------------------------------ parametrisations

    def factors(self, theta: np.ndarray) -> list[np.ndarray]:
        """Lower triangles L of every term from the stacked entries."""
        out = [np.zeros((len(Z), len(Z))) for Z in self.Z]
        for (t, i, j), value in zip(self.index, theta, strict=True):
            out[t][i, j] = value
        return out

    def entries(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([matrices[t][i, j] for t, i, j in self.index])

    def gamma(self, theta: np.ndarray) -> np.ndarray:
        return self.entries([L @ L.T for L in self.factors(theta)])

    def symmetric(self, values: np.ndarray, *, off_diagonal: float = 1.0) -> list[np.ndarray]:
        """Symmetric matrices from their lower triangles."""
        lower = self.factors(values)
        return [np.diag(np.diag(L)) + off_diagonal * (np.tril(L, -1) + np.tril(L, -1).T) for L in lower]

    # ------------------------------------------------------------ likelihood

    def at(self, gamma: np.ndarray, *, reml: bool) -> Point:
        n, p = self.X.shape
        V = np.eye(n) + sum((g * E for g, E in zip(gamma, self.E, strict=True)), np.zeros((n, n)))
        inverse = np.linalg.inv(V)
        information = self.X.T @ inverse @ self.X
        Phi = np.linalg.inv(information)
        beta = Phi @ self.X.T @ inverse @ self.y
        P = inverse - inverse @ self.X @ Phi @ self.X.T @ inverse
        residual = self.y - self.X @ beta
        nu = self.n_obs - p if reml else self.n_obs
        sigma2 = (float(residual @ inverse @ residual) + self.within) / nu
        logdet = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(information)[1] if reml else 0.0)
        loglik = -0.5 * (nu * (np.log(2 * np.pi * sigma2) + 1) + logdet - self.log_weight)
        return Point(V, inverse, P, beta, sigma2, sigma2 * Phi, float(loglik))

    def gradient(self, gamma: np.ndarray, *, reml: bool) -> np.ndarray:
        """Of the profiled deviance, -2 log-likelihood, in gamma."""
        point = self.at(gamma, reml=reml)
        M, Py = (point.P if reml else point.inverse), point.P @ self.y
        return np.array([(M * E).sum() - Py @ E @ Py / point.sigma2 for E in self.E])

    def optimality(self, gamma: np.ndarray, *, reml: bool) -> tuple[float, float]:
        """How far gamma is from a stationary point on the cone of covariances, in standard errors of the variances.

        With G the gradient as a matrix and T the relative covariance, G must have no negative
        eigenvalue (no descent into the cone) and GT must vanish. Returns (-smallest eigenvalue, largest |GT|).
        """
        point = self.at(gamma, reml=reml)
        slope = self.symmetric(self.gradient(gamma, reml=reml), off_diagonal=0.5)
        descent, complement = 0.0, 0.0
        for t, (G, T) in enumerate(zip(slope, self.symmetric(gamma), strict=True)):
            own = [self.E[self.index.index((t, i, i))] for i in range(len(G))]
            unit = np.array([np.sqrt(2 / np.trace(point.P @ E @ point.P @ E)) for E in own])
            scaled = G * np.sqrt(np.outer(unit, unit))
            descent = max(descent, -float(np.linalg.eigvalsh(scaled).min()))
            complement = max(complement, float(np.abs(G @ T).max() / max(1.0, np.abs(T).max())))
        return descent, complement

    def minimise(self, theta: np.ndarray, *, reml: bool) -> float:
        """Highest log-likelihood that a general optimiser finds from a start."""

        def deviance(x: np.ndarray) -> tuple[float, np.ndarray]:
            factors, gamma = self.factors(x), self.gamma(x)
            slope = self.symmetric(self.gradient(gamma, reml=reml), off_diagonal=0.5)
            return -2 * self.at(gamma, reml=reml).loglik, self.entries(
                [2 * G @ L for G, L in zip(slope, factors, strict=True)]
            )

        return -0.5 * float(minimize(deviance, theta, jac=True, method="L-BFGS-B", bounds=[(-50, 50)] * len(theta)).fun)

    # ------------------------------------------------------------ random effects

    def modes(self, t: int, gamma: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """Conditional modes (levels, r) of a term and their covariances (levels, r, r) given beta."""
        point, T, K = self.at(gamma, reml=reml), self.symmetric(gamma)[t], self.terms[t].K
        M = np.einsum("ij,lk,jnk->inl", T, K, self.Z[t])  # covariance of y with the effects
        modes = np.einsum("inl,n->li", M, point.inverse @ (self.y - self.X @ point.beta))
        shrunk = np.einsum("inl,jnl->lij", M, point.inverse @ M)
        return modes, point.sigma2 * (np.diag(K)[:, None, None] * T - shrunk)

    # ------------------------------------------------------------ inference

    def derivatives(self, gamma: np.ndarray, *, reml: bool) -> Derivatives:
        point = self.at(gamma, reml=reml)
        E = [*self.E, np.eye(len(self.y))]
        inverse, P = point.inverse / point.sigma2, point.P / point.sigma2
        left = [self.X.T @ inverse @ e @ inverse for e in E]
        M, Py = (P if reml else inverse), P @ self.y
        return Derivatives(
            beta=point.beta,
            Phi=point.vcov,
            first=np.array([a @ self.X for a in left]),
            second=np.array([[a @ e @ inverse @ self.X for e in E] for a in left]),
            hessian=np.array([[2 * Py @ a @ P @ b @ Py - np.trace(M @ a @ M @ b) for b in E] for a in E]),
            trace=np.array([[np.trace(inverse @ a @ inverse @ b) for b in E] for a in E]),
        )


@dataclass(frozen=True)
class Derivatives:
    """Of the covariance of beta and of the deviance in the C variance components (in units of y squared)."""

    beta: np.ndarray
    Phi: np.ndarray  # (X'V⁻¹X)⁻¹
    first: np.ndarray  # X'V⁻¹E_iV⁻¹X: minus the P_i of Kenward and Roger
    second: np.ndarray  # X'V⁻¹E_iV⁻¹E_jV⁻¹X: their Q_ij
    hessian: np.ndarray  # of -2 log-likelihood
    trace: np.ndarray  # tr V⁻¹E_iV⁻¹E_j

    def satterthwaite(self, c: np.ndarray, kept: np.ndarray) -> float:
        """df of one contrast by the components that are `kept` (those not at zero)."""
        gradient = np.array([c @ self.Phi @ D @ self.Phi @ c for D in self.first[kept]])
        A = 2 * np.linalg.inv(self.hessian[np.ix_(kept, kept)])
        return float(2 * (c @ self.Phi @ c) ** 2 / (gradient @ A @ gradient))

    def satterthwaite_f(self, L: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
        """F and its df by the eigenvectors of the covariance of L beta (Fai and Cornelius 1996); of one row, those of t."""
        values, vectors = np.linalg.eigh(L @ self.Phi @ L.T)
        rows = vectors.T @ L
        squared_t = (rows @ self.beta) ** 2 / values
        df = np.array([self.satterthwaite(row, kept) for row in rows])
        if len(L) == 1:
            return float(squared_t[0]), float(df[0])
        E = (df / (df - 2)).sum()
        return float(squared_t.mean()), float(2 * E / (E - len(L))) if (df > 2).all() else 2.0

    def information(self) -> np.ndarray:
        """Expected information of the components (their I_E)."""
        PhiP = np.array([self.Phi @ D for D in self.first])
        cross = np.einsum("ab,jkba->jk", self.Phi, self.second)
        return 0.5 * (self.trace - 2 * cross + np.einsum("jab,kba->jk", PhiP, PhiP))

    @property
    def identified(self) -> bool:
        """Whether the data tell the components apart (in a random design they need not)."""
        information = self.information()
        unit = 1 / np.sqrt(np.diag(information))
        return bool(np.linalg.eigvalsh(information * np.outer(unit, unit)).min() > 1e-6)

    def W(self) -> np.ndarray:
        return np.linalg.inv(self.information())

    def adjusted(self) -> np.ndarray:
        """Phi_A = Phi + 2 Phi (sum_ij W_ij (Q_ij - P_i Phi P_j)) Phi."""
        W, inner = self.W(), np.zeros_like(self.Phi)
        for i, j in np.ndindex(W.shape):
            inner += W[i, j] * (self.second[i, j] - self.first[i] @ self.Phi @ self.first[j])
        return self.Phi + 2 * self.Phi @ inner @ self.Phi

    def kenward_roger(self, L: np.ndarray) -> tuple[float, float, float]:
        """(scaled F, denominator df, scaling) of L beta = 0: section 3 of Kenward and Roger (1997)."""
        W, rank = self.W(), len(L)
        Theta = L.T @ np.linalg.inv(L @ self.Phi @ L.T) @ L
        R = [Theta @ self.Phi @ D @ self.Phi for D in self.first]
        A1 = sum(W[i, j] * np.trace(R[i]) * np.trace(R[j]) for i, j in np.ndindex(W.shape))
        A2 = sum(W[i, j] * np.trace(R[i] @ R[j]) for i, j in np.ndindex(W.shape))
        value = L @ self.beta
        F = float(value @ np.linalg.inv(L @ self.adjusted() @ L.T) @ value) / rank
        if rank == 1:  # the general expression is 0/0 in balanced designs; it reduces to this
            return F, 2 / A2, 1.0
        B = (A1 + 6 * A2) / (2 * rank)
        g = ((rank + 1) * A1 - (rank + 4) * A2) / ((rank + 2) * A2)
        c1, c2, c3 = np.array([g, rank - g, rank + 2 - g]) / (3 * rank + 2 * (1 - g))
        E = 1 / (1 - A2 / rank)
        V = 2 / rank * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
        m = 4 + (rank + 2) / (rank * V / (2 * E**2) - 1)
        scaling = m / (E * (m - 2))
        return scaling * F, m, scaling
