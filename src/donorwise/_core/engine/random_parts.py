"""What random terms are called where they are tested: as the formula has them, and their slopes beside an intercept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from donorwise._core.design.named import plain
from donorwise._core.design.terms import column_terms
from donorwise._core.models.law import Part
from donorwise._core.wording import suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design, RandomTerm

_INTERCEPT = "(Intercept)"


class RandomPart(NamedTuple):
    """A part of the random effects, what it is called, and what else it may be called."""

    name: str
    part: Part
    others: tuple[str, ...] = ()


def random_parts(design: Design) -> list[RandomPart]:
    """Every random term of a design, ``"(1 | donor)"``, and of those with several columns ``"x in (x | donor)"``.

    The latter are the columns beside the constant: whether the response to x differs between donors.
    """
    texts = [" ".join(term.bar.text.split()) for term in design.random_terms]
    groups = [term.name for term in design.random_terms]
    found = []
    for t, (term, text) in enumerate(zip(design.random_terms, texts, strict=True)):
        name = text if texts.count(text) == 1 else term.label
        alone = (term.name,) if groups.count(term.name) == 1 else ()
        found.append(RandomPart(name, Part(t), (term.label, *alone)))
        if slopes := _slopes(term):
            others = (f"{slopes} in {term.label}", f"(0 + {slopes} | {term.name})")
            found.append(RandomPart(f"{slopes} in {name}", Part(t, 1), others))
    return found


def _slopes(term: RandomTerm) -> str:
    """The columns of a term beside its constant; empty where it has no constant, or nothing else."""
    if len(term.columns) == 1 or (term.columns[0] != _INTERCEPT and not _constant(term)):
        return ""
    return " + ".join(own for own in column_terms(term.bar.terms) if own != "1")


def _constant(term: RandomTerm) -> bool:
    """Whether the columns add up to one, as those of all levels of a category do."""
    return bool(max(term.varying) < 0 and (abs(term.Z.sum(axis=1) - 1) < 1e-9).all())


def choose_parts(each: Sequence[Sequence[RandomPart]], terms: Sequence[str] | None) -> list[str]:
    """Names of the parts that are asked for, of those that tasks have; None for all.

    Raises
    ------
    DesignError
        There is no random term, or none that is called so.
    """
    every = list(dict.fromkeys(own.name for parts in each for own in parts))
    if not every:
        raise DesignError(
            "The model has no random term, so there is no variance between donors to test; fit one with (1 | donor)."
        )
    if terms is None:
        return every
    if not terms:
        raise DesignError("terms=[] asks for nothing; leave it out (None) to test every random term.")
    own_names = [(text, own.name) for parts in each for own in parts for text in own.others]
    called = {plain(text): name for text, name in [*own_names, *((name, name) for name in every)]}
    found = []
    for term in terms:
        if plain(term) not in called:
            raise DesignError(f"`{term}` is not a random term; {suggestion(str(term), every, 'these are')}")
        found.append(called[plain(term)])
    return list(dict.fromkeys(found))
