"""What is looked at in the kernels of a design before a fit: what keeps them from being used, and what to be told of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.binding import check_given
from donorwise._core.design.covariance import correlations
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import is_fixed, random_levels, spans_constant
from donorwise._core.design.rivals import check_rivals, gives_own, hardly_told, without_shared
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.covariance import Kernel
    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")

# Shares of the largest eigenvalue below zero: nothing, what rounding of a published matrix leaves, and more than that.
_ROUNDING = 1e-9
_CLIPPED = 1e-4
_TWINS = 0.999
_NEAR = 0.005  # squared distance of twins, relative to that of others
_CENTRED = 0.1  # variance of the mean of all effects, relative to that of independent ones
_SCALE = (0.1, 10.0)  # mean of the diagonal, outside which variances are on another scale


_ALIKE = 1e-9  # share of a kernel between levels below which it has none


def check_kernels(design: Design) -> None:
    """Raise where the kernels of a design cannot be used on its levels.

    Raises
    ------
    DesignError
        A kernel is not given, lacks levels, is no covariance, or cannot be told from other terms.
    """
    check_given(design.parsed)
    for kernel, levels in _in_use(design):
        K = kernel.on(levels)
        if not np.diag(K).any():
            raise DesignError(f"The kernel `{kernel.name}` is zero for all of the {len(levels):,} levels in use.")
        smallest, largest = kernel.extremes(levels)
        if smallest < -_CLIPPED * largest:
            raise DesignError(
                f"The kernel `{kernel.name}` is not positive semidefinite on the {len(levels):,} levels in use (its eigenvalues go "
                f"from {smallest:.3g} to {largest:.3g}), so it is the covariance of nothing. Matrices whose entries were computed "
                "from different variants or taxa (pairwise complete), edited or rounded do this: compute it from a complete "
                "table (dw.pp.relatedness fills gaps), or take the nearest covariance, without what is negative: "
                "`values, vectors = np.linalg.eigh(K); K = (vectors * values.clip(0)) @ vectors.T`."
            )
    check_rivals(design)
    for kernel, levels in _in_use(design):
        K = kernel.on(levels)
        if np.trace(K) - K.mean() * len(K) <= _ALIKE * np.trace(K):
            raise DesignError(
                f"The kernel `{kernel.name}` has the same number for every pair of the {len(levels):,} levels in use, which then "
                "share one effect: that is the intercept. Leave the term out, and keep the intercept of the formula."
            )


def kernel_warnings(design: Design) -> list[str]:
    """What deserves a second look in the matrices of a design that can be fitted, a sentence each."""
    return [*(text for kernel, levels in _in_use(design) for text in _said(kernel, levels)), *_centred(design)]


def _in_use(design: Design) -> list[tuple[Kernel, tuple[str, ...]]]:
    """Every kernel with the levels that it is used on, each once."""
    found: dict[tuple[str, tuple[str, ...]], Kernel] = {}
    for term in design.random_terms:
        if term.bar.kernel is not None:
            found.setdefault((term.bar.cov, term.levels), term.bar.kernel)
    return [(kernel, levels) for (_, levels), kernel in found.items()]


def kernels_of(designs: Iterable[Design]) -> list[tuple[Kernel, tuple[str, ...]]]:
    """Every kernel with the levels that any of some designs has, in its own order."""
    kernels: dict[str, Kernel] = {}
    used: dict[str, set[str]] = {}
    for kernel, levels in (found for design in designs for found in _in_use(design)):
        kernels[kernel.name] = kernel
        used.setdefault(kernel.name, set()).update(levels)
    return [(k, tuple(level for level in k.levels if level in used[name])) for name, k in kernels.items()]


def _said(kernel: Kernel, levels: tuple[str, ...]) -> Iterator[str]:
    K, (smallest, largest) = kernel.on(levels), kernel.extremes(levels)
    if smallest < -_ROUNDING * largest:
        yield (
            f"The kernel `{kernel.name}` has negative eigenvalues on the levels in use (down to {-smallest / largest:.1g} of the "
            "largest), as rounding leaves them; they are taken to be zero."
        )
    own = np.diag(K)
    none = [level for level, variance in zip(levels, own, strict=True) if variance <= 0]
    if none:
        yield (
            f"The kernel `{kernel.name}` has a variance of zero for {listing(none, 3)}, which {'have' if len(none) > 1 else 'has'} "
            "no effect then. If zeros stand for what is missing there, leave these levels out."
        )
    yield from _twins(kernel.name, K, levels)
    mean = float(own.mean())
    if not _SCALE[0] <= mean <= _SCALE[1]:
        yield (
            f"The kernel `{kernel.name}` has a mean diagonal of {mean:.3g} on the levels in use, and not about one: its variance is that of a "
            "unit of the kernel, and its share as it is (not that on the scale of the data) is on another scale than those of other "
            f"terms. Divide the kernel by {mean:.3g}."
        )


def _centred(design: Design) -> Iterator[str]:
    """Slopes whose mean over the levels a kernel takes to be known, though the levels are a sample: their own mean is tested.

    Of intercepts that is the fixed intercept's, which has no such test.
    """
    for term in design.random_terms:
        slopes = [column for column in term.columns if column != "(Intercept)"]
        if term.bar.kernel is None or not slopes:
            continue
        K, n = term.bar.kernel.on(term.levels), len(term.levels)
        if K.mean() * n < _CENTRED * np.diag(K).mean():
            yield (
                f"The kernel `{term.bar.cov}` is centred: the effects of its {n:,} levels add up to nothing, and with `{term.label}` "
                f"the average effect of {listing(slopes, 3)} is tested as that of these levels, without what it would be in "
                f"others; p-values are too small for those. Take off what unrelated pairs have (`K - np.median(K)`, where most pairs are "
                "unrelated): random intercepts stay as they are."
            )


def _twins(name: str, K: FloatArray, levels: tuple[str, ...]) -> Iterator[str]:
    """Levels that are one and the same; of a kernel of families, whose members all are, nothing is said.

    They are as near to each other beside the others, too, or what all have in common would make them so.
    """
    own, correlation = np.diag(K), correlations(K)
    apart = own[:, None] + own - 2 * K
    pairs = np.argwhere(np.triu((correlation >= _TWINS) & (apart <= _NEAR * apart.mean()), 1))
    shares = np.abs(correlation)
    if not len(pairs) or bool((np.minimum(shares, np.abs(1 - shares)) < 1e-6).all()):
        return
    named = ", ".join(f"`{levels[a]}` and `{levels[b]}`" for a, b in pairs[:3])
    more = f", and {len(pairs) - 3:,} more pairs" if len(pairs) > 3 else ""
    yield (
        f"The kernel `{name}` takes {named}{more} for the same (a correlation of {_TWINS} or more): twins, or one person under "
        "two names, who counts as two. Give one person one name."
    )


def without_own(design: Design, donors: Donors) -> Iterator[str]:
    """Donors with several rows whose only effects are those that a kernel ties together."""
    if not shares_levels(design, donors) or random_levels(without_shared(design), donors) or is_fixed(design, donors):
        return
    if np.bincount(donors.rows.donor, weights=donors.rows.n).max(initial=0) <= 1:
        return  # the residual is what is theirs alone
    term = next(t for t in design.random_terms if t.bar.cov and t.group == donors.name)
    group = ":".join(map(quote, donors.columns))
    short = ", and give the kernel with kernels= in place of relmat=" if term.bar.cov == donors.name else ""
    yield (
        f"`{donors.name}` has no random intercept of its own beside `{term.label}`: what else makes the rows of a donor alike "
        "(its environment, its handling) goes into the share of the kernel as far as it can, and counts as noise of the rows "
        f"where it cannot; add `(1 | {group})`{short}."
    )


def shares_levels(design: Design, donors: Donors) -> bool:
    """Whether a term with a kernel gives the donors random intercepts."""
    return any(t.bar.cov and t.group == donors.name and spans_constant(t) for t in design.random_terms)


def kernel_notes(design: Design) -> list[str]:
    """What is worth knowing of the kernels, a sentence each."""
    alone = [
        f"The kernel `{term.bar.cov}` is nearly the identity on the levels in use: `{term.label}` is what each level has of its "
        "own, whatever it comes from, and its share is no heritability."
        for term in design.random_terms
        if term.bar.cov and gives_own(term) and not hardly_told(design)
    ]
    return [*ignored([design]), *dict.fromkeys(alone)]


def ignored(designs: Iterable[Design]) -> list[str]:
    """Levels of kernels that none of some designs has, a sentence for each kernel."""
    return [text for kernel, used in kernels_of(designs) for text in _beyond(kernel, set(used))]


def _beyond(kernel: Kernel, used: set[str]) -> Iterator[str]:
    levels = [level for level in kernel.levels if level not in used]
    if levels:
        yield (
            f"The kernel `{kernel.name}` has {len(levels):,} level{'s' if len(levels) > 1 else ''} that no row in use has "
            f"({listing(levels, 3)}); {'they are' if len(levels) > 1 else 'it is'} ignored."
        )


def log_ignored(designs: Iterable[Design]) -> None:
    """Say in the log which levels of kernels are ignored."""
    for text in ignored(designs):
        logger.info(text)
