"""Tests of terms of the models of an analysis: several coefficients together, and random terms; as long tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.design.contrasts import resolve_contrasts, resolve_term
from donorwise._core.engine.asking import ask
from donorwise._core.engine.joint import independent, joint_features
from donorwise._core.engine.random_parts import choose_parts
from donorwise._core.engine.results import told_reasons
from donorwise._core.engine.tables import dtype_of
from donorwise._core.engine.tasks import ddf_used
from donorwise._core.engine.variance_tests import variance_tests
from donorwise._core.inference.multiplicity import adjust
from donorwise._typing import STATUSES, is_number
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.design.design import Design
    from donorwise._core.engine.analysis import Analysis, F, S
    from donorwise._core.engine.tasks import Task
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")

JOINT_NUMBERS = ("statistic", "num_df", "den_df", "p_value")
VARIANCE_NUMBERS = ("statistic", "df", "p_value", "variance", "sd")


class Answer(NamedTuple):
    """Tests of one task: numbers and status (G,) by term, and how they were made."""

    tests: dict[str, dict[str, Any]]
    ddf: str = ""
    note: str = ""


class Asked(NamedTuple):
    """A table of tests, and the ddf by group."""

    table: pd.DataFrame
    ddf_used: dict[str, str]


def ask_jointly(
    analysis: Analysis[S, F],
    terms: Any,
    ddf: str | None = None,
    *,
    same: Callable[[pd.Series], None] | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> Asked:
    """Joint tests of terms for every group and feature; see :func:`resolve_terms`. `ddf` is None for that of the analysis.

    `same` is that of :func:`ask`.
    """
    names, wanted = resolve_terms(analysis.tasks, terms)

    def question(number: int, statistics: S, fit: F) -> Answer:
        used, note = ddf_used(fit, ddf or analysis.options.ddf)
        found = {}
        for name, L in wanted[number].items():
            tests = joint_features(fit, L, used, analysis.n_jobs)
            found[name] = {key: getattr(tests, key) for key in ("statistic", "den_df", "p_value", "status")}
            found[name]["num_df"] = np.full(len(fit.variables), len(L))
        return Answer(found, used, note)

    answers = ask(analysis, question, same=same, max_memory=max_memory, progress=progress)
    _tell_replaced(analysis, answers, ddf or analysis.options.ddf)
    return _asked(analysis, answers, names, JOINT_NUMBERS)


def _tell_replaced(analysis: Analysis[Any, Any], answers: Sequence[Answer | None], ddf: str) -> None:
    """Log why tests are not those asked for, once per reason."""
    notes = {
        task.name: f"{own.ddf} joint tests instead of {ddf} ones: {own.note}."
        for task, own in zip(analysis.tasks, answers, strict=True)
        if own is not None and own.note
    }
    for text in told_reasons(notes):
        logger.warning(text)


def resolve_terms(tasks: Sequence[Task], terms: Any) -> tuple[list[str], list[dict[str, FloatArray]]]:
    """Names of the questions, and the independent contrasts (r, p) that each task has for them.

    Parameters
    ----------
    tasks
        The tasks.
    terms
        A fixed term, or several; a dict of names and what is asked under each: contrasts, or terms. None for every term
        with more than one coefficient and, where there are none, for every term.

    Raises
    ------
    DesignError
        No task can answer one of them.
    """
    named = isinstance(terms, Mapping)
    items = dict(terms) if named else {term: term for term in _listed(tasks, terms)}
    if not items:
        raise DesignError("terms= asks for nothing; leave it out (None) to test every term of several coefficients.")
    names: dict[str, None] = {}
    found: list[dict[str, FloatArray]] = [{} for _ in tasks]
    for name, asked in items.items():
        errors, answered = [], False
        for own, task in zip(found, tasks, strict=True):
            if task.design is None:
                continue
            try:
                called, L = _resolved(task.design, str(name), asked) if named else _of_term(task.design, asked)
            except DesignError as error:
                errors.append(error)
                continue
            own[called], names[called], answered = L, None, True
        if not answered:
            raise errors[0]
    return list(names), found


def _listed(tasks: Sequence[Task], terms: Any) -> list[str]:
    """Names of terms."""
    if terms is not None:
        return [_checked(term) for term in _several(terms)]
    sizes: dict[str, int] = {}
    for task in tasks:
        for term, columns in ({} if task.design is None else task.design.terms).items():
            sizes[term] = max(sizes.get(term, 0), len(columns))
    if not sizes:
        raise DesignError("The model has no fixed term beside the intercept, so there is nothing to test jointly.")
    return [term for term, n in sizes.items() if n > 1] or list(sizes)


def _several(terms: Any) -> list[Any]:
    """One or several names as a list."""
    return [terms] if isinstance(terms, str) or not isinstance(terms, Iterable) else list(terms)


def _checked(term: object) -> str:
    if not isinstance(term, str):
        raise DesignError(
            f"{term!r} is not the name of a term; a joint test of contrasts has a name: terms={{'name': [contrast, ...]}}."
        )
    return term


def _of_term(design: Design, term: str) -> tuple[str, FloatArray]:
    """A term as the design calls it, and its coefficients."""
    L = resolve_term(design, term)
    columns = tuple(np.flatnonzero(L.any(axis=0)).tolist())
    return next((name for name, own in design.terms.items() if tuple(own) == columns), term), L


def _resolved(design: Design, name: str, asked: Any) -> tuple[str, FloatArray]:
    """What is asked under a name: contrasts, terms, or several of these."""
    several = asked if isinstance(asked, list) and any(not is_number(own) for own in asked) else [asked]
    rows = [
        resolve_term(design, own) if isinstance(own, str) and own in design.terms else resolve_contrasts(design, own)[1]
        for own in several
    ]
    return name, independent(np.concatenate(rows))


def ask_variances(
    analysis: Analysis[S, F],
    terms: Any,
    *,
    same: Callable[[pd.Series], None] | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> Asked:
    """Tests of random terms for every group and feature; see :func:`choose_parts`, and :func:`ask` for `same`."""
    each = [[] if task.design is None else analysis.random_parts(number) for number, task in enumerate(analysis.tasks)]
    names = choose_parts(each, None if terms is None else _several(terms))

    def question(number: int, statistics: S, fit: F) -> Answer:
        own = {part.name: part.part for part in each[number] if part.name in names}
        tested = variance_tests(fit, list(own.values()), analysis.n_jobs)
        found = {}
        for name, tests in zip(own, tested, strict=True):
            found[name] = {key: getattr(tests, key) for key in ("statistic", "p_value", "variance", "status")}
            found[name] |= {"df": np.full(len(fit.variables), tests.df), "sd": np.sqrt(tests.variance)}
        return Answer(found)

    answers = ask(analysis, question, same=same, max_memory=max_memory, progress=progress)
    return _asked(analysis, answers, names, VARIANCE_NUMBERS)


def _asked(
    analysis: Analysis[Any, Any], answers: Sequence[Answer | None], names: Sequence[str], numbers: Sequence[str]
) -> Asked:
    known = {task.name: own for task, own in zip(analysis.tasks, answers, strict=True) if own is not None}
    used = {name: own.ddf for name, own in known.items() if own.ddf}
    return Asked(_table(analysis, answers, names, numbers), used)


def _table(
    analysis: Analysis[Any, Any], answers: Sequence[Answer | None], names: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """A row for every feature, term and group, whatever happened; adjusted within a term and group."""
    groups, G = tuple(task.name for task in analysis.tasks), len(analysis.variables)
    parts = []
    for group, answer in zip(groups, answers, strict=True):
        for name in names:
            own = {} if answer is None else answer.tests.get(name, {})
            columns = {key: own.get(key, np.full(G, 0 if key in ("num_df", "df") else np.nan)) for key in numbers}
            columns["adj_p_value"] = adjust(columns["p_value"])
            status = own.get("status", np.full(G, "not_estimable"))
            parts.append(
                pd.DataFrame(
                    {"variable": analysis.variables, "group": group, "term": name, **columns, "status": status}
                )
            )
    table = pd.concat(parts, ignore_index=True)
    place = list(table.columns)
    place.insert(place.index("p_value") + 1, place.pop(place.index("adj_p_value")))
    levels = {"variable": tuple(analysis.variables), "group": groups, "term": tuple(names), "status": STATUSES}
    counts = {name: np.int64 for name in ("num_df", "df") if name in table}
    return table[place].astype({name: dtype_of(own) for name, own in levels.items()} | counts)
