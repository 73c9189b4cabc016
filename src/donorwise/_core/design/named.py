"""Terms of a model by the names that a user has for them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.wording import suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import IntArray

logger = logging.getLogger("donorwise")

_INTERCEPT = ("1", "intercept", "(intercept)")


@dataclass(frozen=True, slots=True)
class Named:
    """Some terms of a formula: names of fixed ones (see `Design.reads`), and numbers of random ones."""

    fixed: tuple[str, ...]
    random: tuple[int, ...]

    def columns(self, design: Design) -> IntArray:
        """Columns of X of the fixed terms; a term that a group has no columns of has none."""
        return np.array([c for name in self.fixed for c in design.terms.get(name, ())], dtype=np.int64)


def terms_named(design: Design, names: Sequence[str]) -> Named:
    """The terms of these names.

    A fixed term goes by its own name, ``"sex"``, ``"bs(age, df=3)"`` or ``"disease:sex"`` (in any order), and by that of a
    variable, which stands for all terms that read no other one; random terms by their grouping factor, or one by one as they
    are written or as lme4 writes them, ``"(1 | donor)"``.

    Raises
    ------
    DesignError
        There is no such term, or it is the intercept.
    """
    fixed: list[str] = []
    random: list[int] = []
    for name in names:
        own = [term for term, reads in design.reads.items() if _is_fixed(name, term, reads)]
        bars = [t for t, term in enumerate(design.random_terms) if _is_random(name, term)]
        if not own and not bars:
            raise _unknown(design, name)
        fixed += own
        random += bars
    found = Named(tuple(dict.fromkeys(fixed)), tuple(dict.fromkeys(random)))
    _tell_interactions(design, found)
    return found


def plain(text: object) -> str:
    """A name without what may be written in several ways: spaces, and backticks."""
    return "".join(str(text).replace("`", "").split())


def _is_fixed(name: str, term: str, reads: tuple[str, ...]) -> bool:
    """Whether a fixed term has this name, or reads this variable and no other."""
    if not reads:  # the intercept
        return False
    same = sorted(plain(term).split(":")) == sorted(plain(name).split(":"))
    return same or reads == (name,)


def _is_random(name: str, term: RandomTerm) -> bool:
    return plain(name) in {plain(own) for own in (term.group, term.name, term.label, term.bar.text)}


def _unknown(design: Design, name: str) -> DesignError:
    if plain(name).lower() in _INTERCEPT:
        return DesignError(
            "The intercept is the level of the response, which stays where terms are taken out; with all of them (remove=None) "
            "it is taken out too."
        )
    there = [*(n for n, reads in design.reads.items() if reads), *(t.name for t in design.random_terms)]
    return DesignError(f"{design.formula!r} has no term {name!r}; {suggestion(name, there, 'it has')}")


def _tell_interactions(design: Design, found: Named) -> None:
    """Log which interactions stay of variables whose main effects are taken out."""
    out = {v for name in found.fixed for v in design.reads[name] if design.reads[name] == (v,)}
    left = [
        n for n, reads in design.reads.items() if len(reads) > 1 and n not in found.fixed and out.intersection(reads)
    ]
    if left:
        logger.warning(
            "%s %s left in, while the main effect of %s is taken out: name %s too for all that hangs on it.",
            " and ".join(map(repr, left)), "is" if len(left) == 1 else "are", " and ".join(sorted(out)),
            "it" if len(left) == 1 else "them",
        )  # fmt: skip
