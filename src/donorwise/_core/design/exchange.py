"""What a permutation may move: the labels of donors, or those of the units inside each donor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.design import kernel_exchange
from donorwise._core.design.arms import describe
from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.evaluate import RowsInUse, evaluate, evaluate_rows
from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.design.terms import is_categorical, is_rowwise, variables
from donorwise._core.wording import listing, suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.design.names import StandIns
    from donorwise._typing import BoolArray, FloatArray, IntArray

ExchangeKind: TypeAlias = Literal["between-donor", "between-family", "within-donor"]

# A symmetry of the design is looked for among so few labels only.
_MAX_LABELS = 8
_CELL_LEVEL = "differs from cell to cell"


@dataclass(frozen=True, slots=True)
class Exchange:
    """The labels that a permutation moves.

    Attributes
    ----------
    variable
        The column whose labels move.
    kind
        Whether donors exchange labels with each other, or families of donors do, or units inside each donor.
    unit
        Shape (K,). Unit (a donor, a family, or a sample of a donor) of each pattern.
    labels
        Shape (U,). Label of each unit, as codes.
    example
        Shape (labels,). A pattern that has each label.
    block
        Shape (U,). Units exchange labels inside their block: the stratum, the donor, those that no kernel tells apart.
    swap
        Two labels that can be exchanged for each other everywhere without changing ``|t|``, or None.
    """

    variable: str
    kind: ExchangeKind
    unit: IntArray
    labels: IntArray
    example: IntArray
    block: IntArray
    swap: tuple[int, int] | None


def find_exchange(
    design: Design,
    obs: pd.DataFrame,
    weights: FloatArray,
    *,
    donor: str = "",
    donors: IntArray | None = None,
    permute: str | None = None,
    strata: Sequence[str] = (),
) -> Exchange:
    """Find out what a permutation test of a contrast may move.

    Parameters
    ----------
    design
        The design, its donor a grouping factor unless `donors` are given.
    obs
        N rows, with the columns `strata`.
    weights
        Shape (p,). The contrast.
    donor
        Column declared as the donor, if any.
    donors
        Shape (K,). Donor of each pattern, where that is known.
    permute
        Which variable of a contrast of several.
    strata
        Columns within which labels are exchanged.

    Raises
    ------
    DesignError
        When the contrast does not belong to one variable whose labels can move, or nothing can.
    """
    donors = donor_codes(design, donor) if donors is None else donors
    variable = tested_variable(design, weights, donors, permute)
    _check_movable(design, obs, variable, donors, donor)
    values = pd.factorize(design.frame[variable], sort=True)[0].astype(np.int64)
    kind, unit, alike = _with_kernels(design, variable, values, *_units(design, variable, donors, values))
    first = first_rows(unit, int(unit.max()) + 1)
    factors = [alike, _strata(design, obs, unit, strata)]
    if kind == "within-donor":
        factors.append(donors[first])
    block, _ = combine([(own, int(own.max()) + 1) for own in factors], first.size)
    found = Exchange(variable, kind, unit, values[first], first_rows(values, int(values.max()) + 1), block, None)
    return Exchange(variable, kind, unit, found.labels, found.example, block, _symmetry(design, found, weights))


def relabel(design: Design, exchange: Exchange, labels: IntArray) -> Design:
    """The design with other labels (U,) of the units; whatever else the formula reads stays where it is."""
    frame = design.frame.copy(deep=False)
    column = frame[exchange.variable].array
    frame[exchange.variable] = column[exchange.example[labels[exchange.unit]]]
    X = evaluate_rows(design, frame)
    terms = tuple(_moved_term(term, exchange.variable, frame, design.lost.stand_ins) for term in design.random_terms)
    return replace(design, X=X, random_terms=terms, frame=frame)


def estimable(design: Design) -> bool:
    """Whether a relabelled design still has full column rank (labels can fall together with a covariate)."""
    X = design.X[:, _constant_columns(design)]
    norms = np.linalg.norm(X, axis=0)
    return bool(norms.min(initial=1.0) > 0 and np.linalg.matrix_rank(X / norms) == X.shape[1])


def donor_codes(design: Design, donor: str = "") -> IntArray:
    """The donor of each pattern: the declared column, or the grouping factor that is the replicate."""
    groups = [bar.group for bar in design.parsed.bars]
    if not groups or (donor and not any(donor in group for group in groups)):
        raise DesignError(
            f"The formula {design.formula!r} has no random term for the donor{f' `{donor}`' if donor else ''}: its "
            f"cells fall together with those of other donors, so no donor's labels can move. Add (1 | {donor or 'donor'})"
            f"{', or declare the donor with adata.donorwise.setup(donor=...)' if donor else ''}."
        )
    columns = replicate(groups, donor)
    if donor in columns:
        columns = columns[: columns.index(donor) + 1]
    factors = [pd.factorize(design.frame[column])[0].astype(np.int64) for column in columns]
    return combine([(codes, int(codes.max()) + 1) for codes in factors], design.n_patterns)[0]


def tested_variable(design: Design, weights: FloatArray, donors: IntArray, permute: str | None = None) -> str:
    """Name the one variable that all terms of a contrast share.

    Where they share several (``arm:time``), it is `permute`, or else the one that differs between donors only.
    """
    touched = {term for term, columns in design.terms.items() if np.any(weights[list(columns)] != 0)}
    reads = design.reads
    shared = [v for v in reads[min(touched)] if all(v in reads[t] for t in touched)] if touched else []
    if permute is not None and shared and permute not in shared:
        raise DesignError(f"permute={permute!r} is not what the contrast is about; it is about {listing(shared)}.")
    between = [v for v in shared if not _varies_within(design.frame[v], donors).any()]
    chosen = [permute] if permute in shared else between if len(shared) > 1 else shared
    if len(chosen) == 1:
        return chosen[0]
    if not touched:
        raise DesignError("The contrast is about the intercept alone: there are no labels to permute.")
    if not shared:
        raise DesignError(
            f"The contrast is about {listing(sorted(touched))}, which share no variable; calibrate contrasts of one "
            "variable, such as ('disease', 'MS', 'control')."
        )
    raise DesignError(
        f"The contrast is about {listing(shared)} together, and which of them is to be permuted cannot be told; "
        f"say which with permute={shared[0]!r}."
    )


def _varies_within(column: pd.Series, donors: IntArray) -> BoolArray:
    """Which donors have several values."""
    pairs = pd.DataFrame({"donor": donors, "value": pd.factorize(column)[0]}).drop_duplicates()
    return np.asarray(np.bincount(pairs["donor"], minlength=int(donors.max()) + 1) > 1)


def _check_movable(design: Design, obs: pd.DataFrame, variable: str, donors: IntArray, donor: str) -> None:
    """Raise where the labels of a variable are not those of donors or of units inside them."""
    reads = design.reads
    for term, columns in design.terms.items():
        if variable in reads[term] and any(design.varying[j] >= 0 for j in columns):
            with_other = len(reads[term]) > 1
            reason = f"stands in `{term}` with a number that differs from cell to cell" if with_other else _CELL_LEVEL
            raise DesignError(f"`{variable}` {reason}: there are no labels of donors or samples to permute.")
    if not is_categorical(design.frame[variable]):
        arms = describe(design, find_donors(design, obs, donor or None))
        if any(a.cell_level for a in arms if a.variables == (variable,)):
            raise DesignError(f"`{variable}` {_CELL_LEVEL}: there are no labels of donors or samples to permute.")
    for random in design.random_terms:
        if variable in random.bar.group and not _nested(random.codes, donors):
            raise DesignError(
                f"`{variable}` is also the grouping factor of `{random.bar.text}`, which would change with its labels."
            )


def _nested(inner: IntArray, outer: IntArray) -> bool:
    """Whether each level of `inner` lies in one level of `outer`."""
    return (
        combine([(inner, int(inner.max()) + 1), (outer, int(outer.max()) + 1)], inner.size)[1] == int(inner.max()) + 1
    )


def _units(design: Design, variable: str, donors: IntArray, values: IntArray) -> tuple[ExchangeKind, IntArray]:
    """What carries the labels: donors, or all that a donor has of one label.

    Samples of a donor with the same label share the donor's response to it, and so move together.
    """
    several = _varies_within(design.frame[variable], donors)
    if not several.any():
        return "between-donor", donors
    if several.mean() < 0.5:
        raise DesignError(
            f"`{variable}` differs between donors for {int((~several).sum())} donors and within the donor for "
            f"{int(several.sum())}; a permutation test is for one or the other. Keep the donors with several values "
            "(paired), or one value of each donor."
        )
    by_label = combine([(donors, int(donors.max()) + 1), (values, int(values.max()) + 1)], donors.size)[0]
    return "within-donor", by_label


def _with_kernels(
    design: Design, variable: str, values: IntArray, kind: ExchangeKind, unit: IntArray
) -> tuple[ExchangeKind, IntArray, IntArray]:
    """The units, and sets of those that no kernel can tell apart (all in one without kernels).

    Where that leaves donors of one label to each set, whole families exchange their labels.
    """
    C = kernel_exchange.covariances(design, unit, variable)
    labels = values[first_rows(unit, int(unit.max()) + 1)]
    alike = kernel_exchange.alike(C) if len(C) else np.zeros_like(labels)
    if not len(C) or _differ(labels, alike):
        return kind, unit, alike
    family = kernel_exchange.families(C)
    same = kernel_exchange.same_structure(C, family)
    first = first_rows(family, same.size)
    if kind == "between-donor" and not _differ(labels, family) and _differ(labels[first], same):
        return "between-family", family[unit], same
    if np.unique(labels).size > 1:
        raise DesignError(kernel_exchange.told_apart(design, variable))
    return kind, unit, alike


def _differ(labels: IntArray, block: IntArray) -> bool:
    """Whether any block has several labels."""
    return np.unique(np.stack([labels, block]), axis=1).shape[1] > int(block.max()) + 1


def _strata(design: Design, obs: pd.DataFrame, unit: IntArray, strata: Sequence[str]) -> IntArray:
    """The stratum of each unit (all zero without strata)."""
    used = design.codes >= 0
    rows = unit[design.codes[used]]
    n_units = int(unit.max()) + 1
    factors = []
    for name in strata:
        if name not in obs.columns:
            raise DesignError(
                f"strata: `{name}` is not a column of obs; {suggestion(name, map(str, obs), 'these are')}"
            )
        codes = pd.factorize(obs[name][used], sort=True)[0].astype(np.int64)
        if (codes < 0).any():
            raise DesignError(f"strata: `{name}` is missing in {int((codes < 0).sum()):,} of the rows in use.")
        own = codes[first_rows(rows, n_units)]
        wrong = np.unique(rows[codes != own[rows]]).size
        if wrong:
            raise DesignError(
                f"strata: `{name}` takes several values inside {wrong} of the {n_units} units whose labels are "
                "permuted; a stratum is a set of whole units."
            )
        factors.append((own, int(codes.max()) + 1))
    return combine(factors, n_units)[0]


def _moved_term(term: RandomTerm, variable: str, frame: pd.DataFrame, stand_ins: StandIns) -> RandomTerm:
    """A random term whose slopes follow the labels."""
    bar = term.bar
    if variable not in variables(bar.terms):
        return term
    numeric = frozenset(n for n in frame.columns if not is_categorical(frame[n]))
    if any(k >= 0 for k in term.varying) or not is_rowwise(bar.terms, numeric):
        raise DesignError(f"The slopes of `{bar.text}` cannot follow permuted labels of `{variable}`; simplify them.")
    rows = np.arange(len(frame))
    Z = evaluate(bar.terms, RowsInUse(frame, rows, rows, frozenset(), stand_ins)).values
    return replace(term, Z=Z[:, list(term.at)])


def _constant_columns(design: Design) -> BoolArray:
    return np.array(design.varying, dtype=np.int64) < 0


def _symmetry(design: Design, exchange: Exchange, weights: FloatArray) -> tuple[int, int] | None:
    """Two labels whose exchange gives a design of the same columns in which the contrast changes at most its sign."""
    n_labels, n_blocks = exchange.example.size, int(exchange.block.max()) + 1
    pairs = exchange.labels * n_blocks + exchange.block
    counts = np.bincount(pairs, minlength=n_labels * n_blocks).reshape(n_labels, n_blocks)
    for u, v in combinations(range(n_labels), 2) if n_labels <= _MAX_LABELS else ():
        if not np.array_equal(counts[u], counts[v]):
            continue
        if _same_test(design, relabel(design, exchange, swapped(exchange.labels, (u, v))), weights):
            return u, v
    return None


def swapped(labels: IntArray, pair: tuple[int, int]) -> IntArray:
    """Labels with two of them exchanged for each other."""
    u, v = pair
    return np.where(labels == u, v, np.where(labels == v, u, labels))


def _same_test(design: Design, other: Design, weights: FloatArray) -> bool:
    kept = _constant_columns(design)
    M = _change_of_basis(design.X[:, kept], other.X[:, kept])
    if M is None or any(
        _change_of_basis(a.Z, b.Z) is None for a, b in zip(design.random_terms, other.random_terms, strict=True)
    ):
        return False
    own = weights[kept]
    tolerance = 1e-8 * np.abs(own).max()
    return bool(np.abs(own @ M - own).max() < tolerance or np.abs(own @ M + own).max() < tolerance)


def _change_of_basis(old: Any, new: Any) -> FloatArray | None:
    """M with new = old M, if there is one."""
    M: FloatArray = np.linalg.lstsq(old, new, rcond=None)[0]
    return M if np.abs(old @ M - new).max(initial=0.0) <= 1e-8 * np.abs(new).max(initial=1.0) else None
