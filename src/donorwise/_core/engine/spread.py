"""Whether the donors of one arm spread more than those of another, where a fitted model gives all of them one variance.

Of each feature the model has the modes u_d of its donors (BLUPs), in units of their standard deviation tau. At the estimates
E[u_d²] = s_d (1 - h_d), with the reliability s_d = 1 - var(u_d | y) / tau² of what is known of the donor and the leverage
h_d of the fixed effects, and over all donors the squares add up to that in every feature: it is what REML solves. So the sums
over the donors of an arm and all features,

    m_a = sum_g sum_d u_gd² / sum_g sum_d s_gd (1 - h_d),

average to 1 where arms spread alike, however much is known of each donor, and the variance of a difference of arms is

    (m_a / n_a + m_b / n_b) / (1 / n_a + 1 / n_b)

times what the model takes it for. Features share their donors: they are worth as many independent ones as
K = (tr S)² / tr S², S being the covariance of features over donors, which the products of donors of different arms
estimate: mean |u_a|² mean |u_b|² / mean (u_a'u_b)². The more is known of the donors of an arm, the less of their modes is noise
that features do not share, so K is multiplied by r_b / r_a in arm a, r being sum s² / sum s of its donors. m_a / m_b has about the law
of F with K times the donors' degrees of freedom.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import f as f_law

from donorwise._core.design.advice import own_variances
from donorwise._core.design.findings import looks_technical
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import constant_within

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, IntArray

_LIBERAL = 1.25  # times the variance that the model takes a difference of arms to have
_CHANCE = 0.005  # of a word on arms that spread alike
_LEAST = 0.01  # variance, lest a ratio be infinite
_NO_DF = 0.5  # of a donor alone in its arm, but for what other fixed effects leave
_ENOUGH, _MOST = 100, 1000  # features
_DOUBLES = 20_000_000  # of the largest array (160 MB)
_ALONE = 0.5  # of an arm's squares: three donors or more that are alike have a third each, or less
_TEXT = (
    "Donors of {small} of `{name}` spread about {times:.1f} times as much as those of {large} (standard deviation over all "
    "features; {n_small:,} and {n_large:,} donors), and the model has one variance for both: standard errors of what compares "
    "them are about {se:.2f} of what they should be, and p-values too small. `(0 + {quoted} || {group})` in place of "
    "`(1 | {group})` gives each arm its own; where they are alike after all, that costs power far out (3 against 9 donors: "
    ".31 for .42 at .001, .87 for .88 at .05)."
)
_ONE_DONOR = " {share:.0%} of the squares of {small} are those of donor {donor}: look at it first."


class Spread(NamedTuple):
    """Sums over the donors of each of A arms.

    Attributes
    ----------
    n, df
        Shape (A,). Donors, and their degrees of freedom.
    found, expected
        Shape (A,). Squares of their modes, and what is expected of them with one variance for all.
    known
        Shape (A,). How much is expected more for each unit that the variance of the arm is larger.
    products
        Shape (A, A). Mean square of the products of donors of two arms.
    """

    n: FloatArray
    found: FloatArray
    expected: FloatArray
    known: FloatArray
    df: FloatArray
    products: FloatArray

    @property
    def ratio(self) -> FloatArray:
        """Squares relative to what is expected, m (A,)."""
        return self.found / self.expected

    @property
    def variance(self) -> FloatArray:
        """The donors' variance, relative to the one that the model has for all, a hundredth or more, (A,)."""
        return np.maximum(1 + (self.found - self.expected) / self.known, _LEAST)

    def excess(self, a: int, b: int) -> float:
        """Variance of a difference of two arms, relative to what the model takes it for."""
        return float((self.ratio[[a, b]] / self.n[[a, b]]).sum() / (1 / self.n[[a, b]]).sum())

    def chance(self, a: int, b: int) -> float:
        """How probable so large a ratio is where the arms spread alike."""
        independent = self.found[a] * self.found[b] / (self.n[a] * self.n[b] * self.products[a, b])
        reliable = self.known / self.expected  # what is not, is noise that features do not share
        first, second = independent * reliable[b] / reliable[a], independent * reliable[a] / reliable[b]
        return float(f_law.sf(self.ratio[a] / self.ratio[b], self.df[a] * first, self.df[b] * second))


def spread_of(modes: FloatArray, reliability: FloatArray, X: FloatArray, arm: IntArray) -> Spread:
    """Sums over features and the donors of each arm.

    Parameters
    ----------
    modes, reliability
        Shape (G, D). u and s of the module's text.
    X
        Shape (D, p). The fixed effects that compare donors.
    arm
        Shape (D,). The arm of each donor.
    """
    known, squares = reliability.sum(axis=0), (modes**2).sum(axis=0)
    free = 1 - known * np.einsum("dp,pq,dq->d", X, np.linalg.pinv(X.T @ (known[:, None] * X)), X)
    belongs = np.equal.outer(np.arange(arm.max() + 1), arm).astype(np.float64)
    n = belongs.sum(axis=1)
    products = belongs @ (modes.T @ modes) ** 2 @ belongs.T / np.outer(n, n)
    own = ((reliability**2).sum(axis=0) * free, known * free, squares, free)
    grown, expected, found, df = (belongs @ values for values in own)
    return Spread(n, found, expected, grown, df, products)


def unequal_spreads(fit: LMMFit, L: FloatArray) -> dict[str, str]:
    """What to say of donors with one variance in arms that do not spread alike, by the variable that makes the arms.

    Nothing is said where the larger arm spreads more, or arms have as many donors: tests are then conservative, or right.

    Parameters
    ----------
    fit
        The fitted model.
    L
        Shape (n, p). What is tested.
    """
    model = max(fit.models, key=lambda own: own.features.size, default=None)
    if model is None or model.usable.size < _ENOUGH:
        return {}
    terms = enumerate(model.design.random_terms)
    t = next((t for t, own in terms if own.name == fit.donor and own.columns == ("(Intercept)",)), None)
    arms = {} if t is None else _arms(model.design, model.design.random_terms[t], L)
    if t is None or not arms:
        return {}
    modes, reliability = _effects(model, t)
    return _looked_at(model.design, model.design.random_terms[t], arms, modes, reliability)


def _arms(design: Design, term: RandomTerm, L: FloatArray) -> dict[str, pd.Series]:
    """The level of each donor, by the variables that are tested and divide the donors of a term, without own variances."""
    first, own = np.unique(term.codes, return_index=True)[1], own_variances(design)
    found = {}
    for name, columns in ((design.reads[key], list(at)) for key, at in design.terms.items()):
        values = design.frame[name[0]]
        if len(name) > 1 or name[0] in own or looks_technical(name[0]):
            continue
        if not isinstance(values.dtype, pd.CategoricalDtype) or not (L[:, columns] != 0).any():
            continue
        codes = values.cat.codes.to_numpy()
        if (codes == codes[first][term.codes]).all():
            found[name[0]] = values.iloc[first].cat.remove_unused_categories()
    return found


def _effects(model: LMM, t: int) -> tuple[FloatArray, FloatArray]:
    """Modes of the donors in units of their standard deviation, and their reliability, (G, D), of features that have any."""
    size = int((np.diff(model.equations.blocks.start) ** 2).sum())
    n = int(np.clip(_DOUBLES // size, _ENOUGH, min(_MOST, model.usable.size)))
    some = model.take(model.usable[np.linspace(0, model.usable.size - 1, n).astype(np.int64)])
    variance = some.covariances()[t][:, 0, 0]
    modes, covariance = (values[variance > 0] for values in some.random_effects(t))
    variance = variance[variance > 0, None]
    return modes[:, :, 0] / np.sqrt(variance), 1 - covariance[:, :, 0, 0] / variance


def _looked_at(
    design: Design, term: RandomTerm, arms: dict[str, pd.Series], modes: FloatArray, reliability: FloatArray
) -> dict[str, str]:
    """What is said of the arms of each variable."""
    if len(modes) < _ENOUGH:
        return {}
    first = np.unique(term.codes, return_index=True)[1]
    between = (np.array(design.varying) < 0) & constant_within(design.X, term.codes)
    n_pairs = sum(len(arm.cat.categories) * (len(arm.cat.categories) - 1) / 2 for arm in arms.values())
    found = {}
    for name, arm in arms.items():
        codes = arm.cat.codes.to_numpy(dtype=np.int64)
        spread = spread_of(modes, reliability, design.X[first][:, between], codes)
        pair = worst_pair(spread, _CHANCE / n_pairs)
        if pair is not None:
            squares = (modes**2).sum(axis=0)
            found[f"spread of donors by {name}"] = _said(name, term, arm, spread, pair) + _one_donor(
                term, arm, squares, pair[0]
            )
    return found


def worst_pair(spread: Spread, chance: float) -> tuple[int, int] | None:
    """The arm that spreads more and the other, where the model takes their difference for much too sure."""
    pairs = [
        (a, b)
        for a, b in permutations(range(spread.n.size), 2)
        if min(spread.df[[a, b]]) > _NO_DF
        and spread.excess(a, b) >= _LIBERAL and spread.chance(a, b) < chance
    ]  # fmt: skip
    return max(pairs, key=lambda pair: spread.excess(*pair), default=None)


def _said(name: str, term: RandomTerm, arm: pd.Series, spread: Spread, pair: tuple[int, int]) -> str:
    a, b = pair
    small, large = (f"{arm.cat.categories[i]!s}" for i in pair)
    return _TEXT.format(
        small=small, large=large, name=name, times=np.sqrt(spread.variance[a] / spread.variance[b]),
        n_small=int(spread.n[a]), n_large=int(spread.n[b]), se=spread.excess(a, b) ** -0.5, quoted=quote(name),
        group=":".join(map(quote, term.bar.group)),
    )  # fmt: skip


def _one_donor(term: RandomTerm, arm: pd.Series, squares: FloatArray, a: int) -> str:
    """Who makes up most of what an arm of three donors or more spreads; empty for no one."""
    own = np.flatnonzero(arm.cat.codes == a)
    share = squares[own] / squares[own].sum()
    if own.size < 3 or share.max() < _ALONE:
        return ""
    donor = term.levels[own[share.argmax()]]
    return _ONE_DONOR.format(share=share.max(), small=arm.cat.categories[a], donor=donor)
