"""Which program wrote a table of peptides, told by its columns, and what is taken of it where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from donorwise._core.wording import listing, suggestion
from donorwise.errors import DataError

Rule: TypeAlias = float | bool | str | tuple[float | None, float | None] | Sequence[str]
"""What rows are kept by: an upper limit, a flag, a label or several, or a lower and an upper limit."""

Names: TypeAlias = str | Sequence[str] | None
OneOf: TypeAlias = tuple[str, ...]
"""Names that a column has had in versions of a program; the first that is there is meant."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The columns of one program.

    Attributes
    ----------
    name
        The program.
    marks
        What its tables are known by: a column of every one of these.
    obs, var, values
        Runs, precursors (columns that name them together) and intensities; the first that is there. The values of a wide
        table are the columns that begin with the name of `values`, and `obs` is what their endings are called.
    layers, var_columns, obs_columns
        Taken where they are there. The first of `var_columns` holds the proteins.
    filters
        What rows are kept by, where the column is there.
    floor
        Intensities up to this one stand for none.
    wide
        Whether the table has a row for every precursor and a column for every run.
    """

    name: str
    marks: tuple[OneOf, ...]
    obs: OneOf
    var: tuple[tuple[str, ...], ...]
    values: OneOf
    layers: Mapping[str, OneOf] = field(default_factory=dict)
    var_columns: tuple[OneOf, ...] = ()
    obs_columns: tuple[OneOf, ...] = ()
    filters: Mapping[str, Rule] = field(default_factory=dict)
    floor: float = 0.0
    wide: bool = False


_OF_MAXQUANT: tuple[OneOf, ...] = (("Leading razor protein",), ("Proteins",), ("Gene names",))
_FLAGS_OF_MAXQUANT: Mapping[str, Rule] = {"Reverse": False, "Potential contaminant": False, "Contaminant": False}

KINDS = (
    Kind(
        "diann",
        marks=(("Precursor.Id",), ("Run", "File.Name")),
        obs=("Run", "File.Name"),
        var=(("Precursor.Id",),),
        values=("Precursor.Normalised", "Precursor.Quantity"),
        layers={"quality": ("Quantity.Quality",)},
        var_columns=(("Protein.Group",), ("Genes",), ("Stripped.Sequence",), ("Precursor.Charge",), ("Proteotypic",)),
        filters={"Q.Value": 0.01, "Global.Q.Value": 0.01, "Lib.Q.Value": 0.01, "Decoy": False},
    ),
    Kind(
        "spectronaut",
        marks=(("R.FileName", "R.Raw File Name"), ("EG.PrecursorId", "EG.ModifiedSequence", "EG.ModifiedPeptide")),
        obs=("R.FileName", "R.Raw File Name"),
        var=(("EG.PrecursorId",), ("EG.ModifiedSequence", "FG.Charge"), ("EG.ModifiedPeptide", "FG.Charge")),
        values=(
            "EG.TotalQuantity (Settings)",
            "EG.TargetQuantity (Settings)",
            "FG.Quantity",
            "FG.MS2Quantity",
            "F.NormalizedPeakArea",
            "F.PeakArea",
        ),
        var_columns=(
            ("PG.ProteinGroups", "PG.ProteinAccessions"),
            ("PG.Genes",),
            ("PEP.StrippedSequence",),
            ("FG.Charge",),
        ),
        obs_columns=(("R.Condition",), ("R.Replicate",)),
        filters={
            "EG.Qvalue": 0.01,
            "PG.Qvalue": 0.01,
            "EG.IsDecoy": False,
            "EG.IsImputed": False,
            "F.ExcludedFromQuantification": False,
        },
        floor=1.0,  # it writes 1 where it has measured nothing
    ),
    Kind(
        "maxquant",
        marks=(("Raw file",), ("Modified sequence",), ("Intensity",)),
        obs=("Raw file",),
        var=(("Modified sequence", "Charge"), ("Modified sequence",)),
        values=("Intensity",),
        var_columns=(*_OF_MAXQUANT, ("Sequence",)),
        obs_columns=(("Experiment",),),
        filters=_FLAGS_OF_MAXQUANT,
    ),
    Kind(
        "maxquant",
        marks=(("Sequence",), ("Proteins",), ("Intensity",)),
        obs=("Experiment",),
        var=(("Sequence", "Modifications"), ("Sequence",)),
        values=("Intensity",),
        var_columns=_OF_MAXQUANT,
        filters=_FLAGS_OF_MAXQUANT,
        wide=True,
    ),
    Kind(
        "msstats",
        marks=(("ProteinName",), ("PeptideSequence", "PeptideModifiedSequence"), ("Run",), ("Intensity",)),
        obs=("Run",),
        var=tuple(
            (name, *charge)
            for charge in (("PrecursorCharge",), ())
            for name in ("PeptideModifiedSequence", "PeptideSequence")
        ),
        values=("Intensity",),
        var_columns=(("ProteinName",),),
        obs_columns=(("Condition",), ("BioReplicate",)),
    ),
)
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is taken of one table: names of its columns, and what rows are kept by.

    `wide` names the endings of a wide table's columns of intensities (and of its layers), which are its runs.
    """

    kind: str
    obs: tuple[str, ...]
    var: tuple[str, ...]
    values: str
    layers: dict[str, str]
    var_columns: tuple[str, ...]
    obs_columns: tuple[str, ...]
    filters: dict[str, Rule]
    floor: float
    wide: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that are labels."""
        flags = tuple(name for name, rule in self.filters.items() if isinstance(rule, bool | str) or _is_labels(rule))
        own = () if self.wide else (*self.obs, *self.obs_columns)
        return tuple(dict.fromkeys((*own, *self.var, *self.var_columns, *flags)))

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that are numbers."""
        measured = [column for name in (self.values, *self.layers.values()) for column in self.columns_of(name)]
        return tuple(dict.fromkeys((*measured, *(name for name in self.filters if name not in self.labels))))

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns of intensities, or of a layer: one, or one for each run."""
        return tuple(f"{name} {run}" for run in self.wide) or (name,)


def _is_labels(rule: Rule) -> bool:
    return not isinstance(rule, int | float | tuple)


def plan_of(
    columns: Sequence[str],
    source: str,
    *,
    kind: str | None = None,
    obs: Names = None,
    var: Names = None,
    values: str | None = None,
    layers: Mapping[str, str] | None = None,
    var_columns: Names = None,
    obs_columns: Names = None,
    filters: Mapping[str, Rule | None] | None = None,
) -> Plan:
    """What to take of a table with these columns; `source` is what messages call it.

    Raises
    ------
    DataError
        It is not known what is a run, a precursor or an intensity, or a column that was named is not there.
    """
    found = _kind(columns, source, kind)
    needed = {"obs": obs, "var": var, "values": values}
    if found is None and (open_ := [name for name, given in needed.items() if given is None]):
        raise DataError(
            f"{source} has the columns of none of {', '.join(NAMES)}: name its runs, precursors and intensities with obs=, "
            f"var= and values= ({', '.join(open_)} {'is' if len(open_) == 1 else 'are'} missing). Columns: {listing(columns) or 'none'}."
        )
    own = found or Kind("", (), (), (), ())
    there = _finder(columns)
    wide = own.wide and not (obs is not None and set(_several(obs)) <= set(columns))
    chosen_values = values or _first(there, own.values, source, "values")
    several = _wide(columns, chosen_values, source) if wide else ()
    plan = Plan(
        kind=own.name,
        obs=_several(obs) or ((own.obs[0],) if wide else (_first(there, own.obs, source, "obs"),)),
        var=_several(var) or _combination(there, own.var, source),
        values=chosen_values,
        layers=dict(layers) if layers is not None else _known(there, own.layers),
        var_columns=_several(var_columns) if var_columns is not None else _all(there, own.var_columns),
        obs_columns=_several(obs_columns) if obs_columns is not None else _all(there, () if wide else own.obs_columns),
        filters=_filters(there, own.filters, filters),
        floor=own.floor,
        wide=several,
    )
    _check_there(plan, columns, source)
    return plan


def _kind(columns: Sequence[str], source: str, name: str | None) -> Kind | None:
    """The first kind whose marks are there."""
    there = _finder(columns)
    lacking = []
    for kind in (own for own in KINDS if name in (None, own.name)):
        missing = [mark for mark in kind.marks if not any(there(own) for own in mark)]
        if not missing:
            return kind
        lacking.append(missing)
    if name is None:
        return None
    if name not in NAMES:
        raise DataError(f"kind={name!r} is not known; choose one of {', '.join(map(repr, NAMES))}, or None.")
    fewest = min(lacking, key=len)
    wanted = ", ".join(" or ".join(f"`{own}`" for own in mark) for mark in fewest)
    raise DataError(
        f"{source} is no table of {name}: it has no column {wanted}. Columns: {listing(columns) or 'none'}."
    )


def _finder(columns: Sequence[str]) -> Callable[[str], str | None]:
    """Look a name up, exactly or in other capitals, which have changed between versions."""
    exact, folded = set(columns), {name.casefold(): name for name in reversed(columns)}
    return lambda name: name if name in exact else folded.get(name.casefold())


def _first(there: Callable[[str], str | None], names: OneOf, source: str, option: str) -> str:
    for name in names:
        if (found := there(name)) is not None:
            return found
    raise DataError(f"{source} has none of the columns {listing(names)}: say with {option}= which one is meant.")


def _combination(
    there: Callable[[str], str | None], alternatives: tuple[tuple[str, ...], ...], source: str
) -> tuple[str, ...]:
    for names in alternatives:
        found = [own for name in names if (own := there(name)) is not None]
        if len(found) == len(names):
            return tuple(found)
    raise DataError(f"{source} has no columns that name precursors: say with var= which they are.")


def _all(there: Callable[[str], str | None], columns: tuple[OneOf, ...]) -> tuple[str, ...]:
    found = (next((own for name in names if (own := there(name)) is not None), None) for names in columns)
    return tuple(name for name in found if name is not None)


def _known(there: Callable[[str], str | None], layers: Mapping[str, OneOf]) -> dict[str, str]:
    found = {name: _all(there, (names,)) for name, names in layers.items()}
    return {name: own[0] for name, own in found.items() if own}


def _filters(
    there: Callable[[str], str | None], usual: Mapping[str, Rule], given: Mapping[str, Rule | None] | None
) -> dict[str, Rule]:
    """The usual ones of columns that are there, and those that were given; None takes one away."""
    rules: dict[str, Rule | None] = {own: rule for name, rule in usual.items() if (own := there(name)) is not None}
    rules |= given or {}
    return {name: rule for name, rule in rules.items() if rule is not None}


def _wide(columns: Sequence[str], values: str, source: str) -> tuple[str, ...]:
    """The runs: endings of the columns that begin with the name of `values`."""
    found = tuple(name.removeprefix(f"{values} ") for name in columns if name.startswith(f"{values} "))
    if not found:
        raise DataError(
            f"{source} has no columns `{values} <run>`: give the runs names of experiments in MaxQuant, or take evidence.txt."
        )
    if {"L", "H"} <= set(found) and any(name.casefold().startswith("ratio h/l") for name in columns):
        raise DataError(
            f"{source} has labelled intensities (`{values} L`, `{values} H`): say which are meant, such as "
            f"values='{values} L'."
        )
    return found


def _several(names: Names) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _check_there(plan: Plan, columns: Sequence[str], source: str) -> None:
    options = {
        "obs": () if plan.wide else plan.obs,
        "var": plan.var,
        "values": plan.columns_of(plan.values),
        "layers": [name for layer in plan.layers.values() for name in plan.columns_of(layer)],
        "var_columns": plan.var_columns,
        "obs_columns": plan.obs_columns,
        "filters": plan.filters,
    }
    for option, names in options.items():
        for name in names:
            if name not in columns:
                raise DataError(
                    f"{source} has no column `{name}` ({option}=): {suggestion(name, columns, 'there are')}"
                )
