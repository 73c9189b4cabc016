"""Tests of many variants in models of many features, given the variances of the models without variants, or with variances anew.

With P of a feature's null model (whose variances hardly change for one variant more; Kang et al. 2010, Nat Genet 42:348) and
n = x'Py, s = x'Px of a variant x,

    b = n / s,   R₁ = R - n²/s,   se² = R₁ / (nu s),   R = y'Py,   nu = rows - fixed effects, the variant among them.

What a variant explains it takes from the variance between its replicates, which are donors, with df degrees of freedom. Where
a donor has many rows sigma² is that of the rows, and what is between donors is in the ratios, which stay as they were; so

    se² = max( ((df + 1) / (nu + 1) R - n²/s) / (df s),   R₁ / (nu x'Mx) ),

M the projection of least squares: what comes of ratios that are estimated again where donors have equal numbers of rows. With
one row for each donor, or ratios of zero, df is nu, and it is the first equation; which for many rows would hardly ever give
small p-values by chance.

A variant that interacts makes two columns, and n and s are a vector and a 2 x 2 matrix. `refitted` estimates the variances of
a pair again with the variant in the model: the F statistic is that of GEMMA's Wald test (Zhou and Stephens 2012, Nat Genet
44:821).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.denominators import FeatureByFeature, NoVariances, OneRatio, as_slice
from donorwise._core.models.lmm.donor_columns import donor_columns
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.fit import fit_responses, newton_from
from donorwise._core.models.lmm.ratio_pairs import PairProducts
from donorwise._core.models.lmm.variant_kernels import ROUNDING
from donorwise._core.models.lmm.variant_tests import Refits, Scores, Tests, pairs_of_scores, wald_two

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.models.lmm.crossproducts import Columns, Responses
    from donorwise._core.models.lmm.denominators import Products, Variances
    from donorwise._core.models.lmm.donor_columns import DonorColumns
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import BoolArray, FloatArray, IntArray

_ALIASED = 1e-9  # share of the squared length of a variant that the fixed effects leave where they explain it


@dataclass(frozen=True)
class VariantBlock:
    """Variants in the coordinates of a model; lists have an entry for each column that they make.

    Attributes
    ----------
    x
        Shape (V, D). Genotypes.
    turned
        Shape (V, q). Cross-products with the random part, as variances take them.
    rss
        Shape (V,) each. Cross-products of two columns that the fixed part leaves.
    aliased
        Shape (V,). The fixed part explains the (last) column.
    products
        Of two columns, at the variances of features.
    """

    x: FloatArray
    turned: tuple[FloatArray, ...]
    rss: dict[tuple[int, int], FloatArray]
    aliased: BoolArray
    products: dict[tuple[int, int], Products]


@dataclass(frozen=True)
class NullModels:
    """Models without variants of G features that share their rows.

    Attributes
    ----------
    equations
        What they share.
    response
        Cross-products of the features.
    gamma, R
        Shapes (G, K), (G,). Variance ratios, and y'Py.
    columns
        What variants are in the model.
    variances
        How they are weighed.
    sums
        Shape (D, G) for each column: x @ sums = x'Py.
    turned
        Shape (D, q) for each column: x @ turned are its cross-products with the random part, as `variances` take them.
    df
        Degrees of freedom of the variance between the replicates of a test.
    together
        Whether the two columns of a variant that interacts have the same replicates.
    """

    equations: Equations
    response: Responses
    gamma: FloatArray
    R: FloatArray
    columns: DonorColumns
    variances: Variances
    sums: tuple[FloatArray, ...]
    turned: tuple[FloatArray, ...]
    df: float
    together: bool

    @property
    def n_columns(self) -> int:
        """Columns that a variant makes: one, or with an interaction two."""
        return len(self.columns.axes)

    @cached_property
    def at_zero(self) -> BoolArray:
        """Features whose replicates do not vary beyond their rows, (G,)."""
        return np.asarray((self.gamma == 0.0).all(axis=1))

    @property
    def nu(self) -> int:
        """Rows less fixed effects, those of the variant among them."""
        return self.equations.nu(reml=True) - self.n_columns

    def block(self, x: FloatArray) -> VariantBlock:
        """Variants (V, D), ready to be tested."""
        axes, lengths = self.columns.axes, self.columns.lengths
        turned, ols = tuple(x @ own for own in self.turned), [x @ axis.ols for axis in axes]
        squares = x**2
        rss = {
            (a, b): squares @ lengths[a, b] - np.einsum("vp,vp->v", ols[a], ols[b])
            for a in range(self.n_columns)
            for b in range(a + 1)
        }
        left = _left(rss, self.n_columns)
        whole = squares @ lengths[-1, -1]
        aliased = ~(left > _ALIASED * whole) | ~(rss[0, 0] > _ALIASED * (squares @ lengths[0, 0]))
        products = {(a, b): self.variances.products(turned[a], turned[b], own, (a, b)) for (a, b), own in rss.items()}
        return VariantBlock(x, turned, rss, aliased, products)

    def whitened(
        self, block: VariantBlock, variants: slice, feature: int
    ) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """Variants (V, m) and a feature (m,) as independent numbers, without what the fixed part explains.

        The third is what was taken out, (m, p), where the m numbers are the donors'; else None. Of one variance at most, and of
        one column: the squared correlation of the two is what a test knows.
        """
        x, y, Q = self.variances.whitened(self.columns, block.x[variants], block.turned[0][variants], feature)
        return np.where(block.aliased[variants, None], 0.0, x), y, Q

    def score(self, block: VariantBlock, features: IntArray, variants: slice = slice(None)) -> Tests:
        """Tests of some variants of a block for some features, at the variances of the null models."""
        if self.n_columns == 1:
            own = self.scores(block, features, variants)
            return Tests(*own.at(*np.ogrid[: own.n.shape[0], : own.n.shape[1]]))
        n, s = self._scored(block, features, variants)
        rss = {at: left[variants] for at, left in block.rss.items()}
        df, zero = self._df(features), self.at_zero[features]
        return wald_two(n, s, rss, self.R[features], block.aliased[variants], self.nu, df, zero | self.together)

    def scores(self, block: VariantBlock, features: IntArray, variants: slice = slice(None)) -> Scores:
        """What :meth:`score` is worked out from where a variant makes one column."""
        (n,), s = self._scored(block, features, variants)
        R, df = self.R[features], self._df(features)
        with np.errstate(divide="ignore"):
            per_row = 1 / (self.nu * block.rss[0, 0][variants])
        return Scores(n, s[0, 0], R, R * ((df + 1) / (self.nu + 1) / df), 1 / df, per_row, block.aliased[variants])

    def _df(self, features: IntArray) -> FloatArray:
        """Degrees of freedom of the variance between the replicates of a test of each feature."""
        return np.where(self.at_zero[features], float(self.nu), self.df)

    def _scored(
        self, block: VariantBlock, features: IntArray, variants: slice
    ) -> tuple[list[FloatArray], dict[tuple[int, int], FloatArray]]:
        """n of each column and s of each two."""
        own = as_slice(features)
        n = [block.x[variants] @ sums.T[own].T for sums in self.sums]
        return n, {pair: products(variants, features) for pair, products in block.products.items()}

    def refitted(self, block: VariantBlock, variants: IntArray, features: IntArray, *, reml: bool = True) -> Refits:
        """Pairs (n,) of a variant of a block and a feature with variances of their own; those of a variant side by side."""
        if reml and not self.gamma.shape[1]:
            return self._least_squares(block, variants, features)
        if not reml or self.n_columns > 1:
            return self._by_newton(block, variants, features, reml=reml)
        response = self.response
        pairs = PairProducts(block.turned[0], response.zty, response.rss, self.gamma, variants, features)
        own = self.variances.refitted(pairs, self.nu)
        if own is None:
            return self._by_newton(block, variants, features, reml=True)
        out = Refits(own.estimate[:, None], own.se[:, None], own.gamma, np.full(variants.size, np.nan))
        rest = np.flatnonzero(~own.found)
        if rest.size:
            again = self._by_newton(block, variants[rest], features[rest], reml=True)
            for values, others in zip(out, again, strict=True):
                values[rest] = others
        return out

    def _by_newton(self, block: VariantBlock, variants: IntArray, features: IntArray, *, reml: bool) -> Refits:
        """Pairs by Newton's method over all variances, a variant at a time."""
        used, start = np.unique(variants, return_index=True)
        found = [
            self._refit(block, int(v), at, reml=reml) for v, at in zip(used, np.split(features, start[1:]), strict=True)
        ]
        return Refits(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def likelihood_ratio(
        self, block: VariantBlock, variants: IntArray, features: IntArray
    ) -> tuple[Refits, FloatArray]:
        """Pairs as in :meth:`refitted`, by maximum likelihood, and the signed root of 2 log(likelihood with / without the variant)."""
        found = self.refitted(block, variants, features, reml=False)
        square = 2 * (found.loglik - self._loglik[features])
        return found, np.copysign(np.sqrt(np.clip(square, 0, None)), found.estimate[:, -1])

    @cached_property
    def _loglik(self) -> FloatArray:
        """Maximum log-likelihood (G,) of the models without variants."""
        return fit_responses(self.equations, self.response, reml=False).loglik

    def _least_squares(self, block: VariantBlock, variants: IntArray, features: IntArray) -> Refits:
        """Without variances the tests are exact as they are."""
        n = np.column_stack([
            np.einsum("nd,nd->n", block.x[variants], sums.T[features]) for sums in self.sums
        ])  # fmt: skip
        S = self._information(block, variants)
        return pairs_of_scores(n, S, self.R[features], self.nu, np.zeros((variants.size, 0)))

    def _information(self, block: VariantBlock, variants: IntArray) -> FloatArray:
        """Cross-products of the columns that the fixed part leaves, (n, columns, columns)."""
        S = np.empty((variants.size, self.n_columns, self.n_columns))
        for (a, b), rss in block.rss.items():
            S[:, a, b] = S[:, b, a] = rss[variants]
        return S

    def _refit(self, block: VariantBlock, v: int, at: IntArray, *, reml: bool) -> Refits:
        """One variant, orthonormalised, as further columns of the fixed effects."""
        equations, m = self.equations, self.n_columns
        S = self._information(block, np.array([v]))[0]
        factor = np.linalg.cholesky(S)
        back = np.linalg.inv(factor).T  # columns @ back are orthonormal
        along = np.column_stack([block.x[v] @ axis.y[:, at] for axis in self.columns.axes]) @ back
        columns = np.column_stack([block.x[v] @ axis.zty for axis in self.columns.axes]) @ back
        blocks = replace(equations.blocks, A=np.column_stack([equations.blocks.A, columns]))
        response = self.response.take(at)
        left = replace(
            response,
            ols=np.column_stack([response.ols, along]),
            zty=response.zty - along @ columns.T,
            rss=response.rss - (along**2).sum(axis=1),
        )
        nu = equations.nu(reml=reml) - m * int(reml)
        gamma, converged = newton_from(equations, blocks, left, self.gamma[at], nu, reml=reml)
        found = evaluate_block(blocks, gamma, left, nu, reml=reml)
        estimate = (along + found.delta[:, -m:]) @ back.T
        Phi = back @ found.Phi[:, -m:, -m:] @ back.T
        R = np.maximum(found.R, ROUNDING * self.R[at])
        se = np.sqrt(R[:, None] / nu * np.einsum("gii->gi", Phi))
        loglik = -0.5 * (nu * (np.log(2 * np.pi * R / nu) + 1) + found.logdet_V - equations.log_weight)
        if reml:
            loglik -= 0.5 * found.logdet_X + equations.fixed.log_det + np.log(np.diag(factor)).sum()
        lost = np.where(converged, 0.0, np.nan)
        return Refits(estimate + lost[:, None], se + lost[:, None], gamma + lost[:, None], loglik + lost)


def _left(rss: dict[tuple[int, int], FloatArray], n_columns: int) -> FloatArray:
    """Squared length of the last column that the fixed part and the column before it leave."""
    if n_columns == 1:
        return rss[0, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return rss[1, 1] - np.where(rss[0, 0] > 0, rss[1, 0] ** 2 / rss[0, 0], 0.0)


def null_models(
    model: LMM,
    collapsed: Collapsed,
    codes: IntArray,
    n_donors: int,
    columns: Sequence[Columns],
    *,
    df: float | None = None,
    together: bool = True,
) -> NullModels:
    """The usable features of a fitted model, ready for variants of donors.

    Parameters
    ----------
    model
        The model without variants; all of its features are usable.
    collapsed
        Their statistics, on its patterns.
    codes, n_donors
        Shape (patterns,). The donor of every pattern, and how many there are.
    columns
        What a donor's genotype is multiplied by in the rows, a column (patterns, 1) each: a 1, and what it interacts with.
    df, together
        See :class:`NullModels`; None for the degrees of freedom of rows.
    """
    equations, estimates = model.equations, model.estimates
    response, gamma = estimates.responses, estimates.gamma
    own = donor_columns(equations, collapsed, response, codes, n_donors, columns)
    turned, variances = _weighed(model, own)
    sums = [variances.sums(axis, t) for axis, t in zip(own.axes, turned, strict=True)]
    R = estimates.sigma2 * equations.nu(reml=estimates.reml)
    df = float(equations.nu(reml=True) - len(columns)) if df is None else df
    by_feature = tuple(map(np.asfortranarray, sums))  # what are some features' is side by side
    return NullModels(equations, response, gamma, R, own, variances, by_feature, turned, df, together)


def _weighed(model: LMM, columns: DonorColumns) -> tuple[tuple[FloatArray, ...], Variances]:
    """The variances of features, and the cross-products (D, q) of donors' columns in the coordinates that these take."""
    equations, response, gamma = model.equations, model.estimates.responses, model.estimates.gamma
    turned = tuple(axis.zty for axis in columns.axes)
    if gamma.shape[1] == 0:
        return turned, NoVariances()
    spectrum = equations.spectrum
    if spectrum is None:
        return turned, FeatureByFeature.of(equations, gamma, response.zty, model.coefficients - response.ols, columns)
    basis = spectrum.vectors / np.sqrt(spectrum.s)
    turned = tuple(t @ basis for t in turned)
    return turned, OneRatio.of(spectrum, gamma[:, 0], response.zty @ basis, columns, turned)
