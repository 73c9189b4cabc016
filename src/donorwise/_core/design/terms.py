"""Terms of a formula, and the columns of obs that they read."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.bounds import check_terms
from donorwise._core.design.elsewhere import check_functions_of_others, check_powers
from donorwise._core.design.expressions import calls_in, check_expression, located, parse_expression, translate
from donorwise._core.design.names import STATEFUL, quote, shown, uncover
from donorwise._core.design.tokens import covered, nest, pointer
from donorwise._core.wording import suggestion
from donorwise.errors import DesignError, FormulaError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula
    from formulaic.parser.types import Factor, Term

    from donorwise._typing import BoolArray, IntArray

_WORDS = re.compile(r"[\w.]+([- ](?!\d+$)[\w.]+)+")


def parse_columns(text: str, source: str) -> SimpleFormula:
    """Parse a formula without bars and check what its Python may do.

    Parameters
    ----------
    text
        The part to parse; where it is padded with spaces, positions in it are positions in `source`.
    source
        The whole formula, for messages.
    """
    from formulaic import SimpleFormula
    from formulaic.errors import FormulaicError

    items = nest(text)
    check_terms(items, source)
    check_functions_of_others(items, source)
    check_powers(items, source)
    try:
        formula = SimpleFormula.from_spec(covered(text, items))
    except (FormulaicError, SyntaxError) as error:
        raise translate(located(error, text), source) from error
    except (RecursionError, MemoryError) as error:
        raise FormulaError(f"The formula is nested too deeply to be read; it begins {source[:60]!r}.") from error
    if not isinstance(formula, SimpleFormula):
        raise FormulaError(f"The formula has several parts where one is expected: {source}")
    for term in formula:
        for factor in term.factors:
            check_expression(factor, source)
    return formula


def column_terms(formula: SimpleFormula) -> tuple[str, ...]:
    """Terms as text that parses again, the intercept as ``"1"``."""
    return tuple(":".join(column_factors(term)) for term in formula)


def column_factors(term: Term) -> tuple[str, ...]:
    """Factors of a term as text that parses again."""
    return tuple(
        quote(uncover(factor.expr)) if factor.eval_method.name == "LOOKUP" else shown(factor.expr)
        for factor in term.factors
    )


def term_name(term: Term) -> str:
    """A term as the user writes it, names without backticks; the intercept is ``"1"``, and a column of that name is not."""
    return ":".join(shown(factor.expr) for factor in term.factors)


def is_intercept(term: Term) -> bool:
    """Whether a term is the intercept."""
    return all(factor.eval_method.name == "LITERAL" for factor in term.factors)


def variables(formula: SimpleFormula) -> tuple[str, ...]:
    """Names of the columns that a formula reads, in order of appearance."""
    return tuple(dict.fromkeys(v for term in formula for v in term_variables(term)))


def term_variables(term: Term) -> tuple[str, ...]:
    """Names of the columns that one term reads."""
    return tuple(dict.fromkeys(v for factor in term.factors for v in factor_variables(factor)))


def factor_variables(factor: Factor) -> tuple[str, ...]:
    """Names of the columns that one factor reads; formulaic's own list misses those inside calls."""
    method = factor.eval_method.name
    if method == "LITERAL":
        return ()
    if method == "LOOKUP":
        return (uncover(factor.expr),)
    return tuple(dict.fromkeys(uncover(name) for name in _identifiers(factor)))


def identifiers(formula: SimpleFormula) -> tuple[str, ...]:
    """What stands for columns in a formula, as formulaic looks it up; `uncover` gives the column."""
    return tuple(dict.fromkeys(i for term in formula for factor in term.factors for i in _identifiers(factor)))


def _identifiers(factor: Factor) -> list[str]:
    method = factor.eval_method.name
    if method != "PYTHON":
        return [factor.expr] if method == "LOOKUP" else []
    tree = parse_expression(factor.expr)
    code = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    code |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for call in calls_in(tree, "C"):  # how levels are coded, ``C(x, Sum)``
        code |= {id(node) for node in [*call.args[1:], *(k.value for k in call.keywords)]}
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in code]
    return [n.id for n in sorted(names, key=lambda n: n.col_offset)]


def is_column(term: Term) -> bool:
    """Whether a term is a column as it stands."""
    return [factor.eval_method.name for factor in term.factors] == ["LOOKUP"]


def is_rowwise(formula: SimpleFormula, numeric: frozenset[str]) -> bool:
    """Whether every factor of a row depends on that row alone.

    Splines and scalings learn from the whole column; so does ``C(...)`` of a `numeric` variable, its levels.
    """
    for factor in (f for term in formula for f in term.factors if f.eval_method.name == "PYTHON"):
        calls = {ast.unparse(call.func) for call in calls_in(parse_expression(factor.expr))}
        if not STATEFUL.isdisjoint(calls) or ("C" in calls and not numeric.isdisjoint(factor_variables(factor))):
            return False
    return True


def categorical_only(formula: SimpleFormula) -> set[str]:
    """Columns that are read through ``C(...)`` and in no other way."""
    wrapped: set[str] = set()
    bare: set[str] = set()
    for factor in (f for term in formula for f in term.factors):
        (wrapped if coded_variable(factor) else bare).update(factor_variables(factor))
    return wrapped - bare


def coded_variable(factor: Factor) -> str:
    """The column of a factor that is ``C(column, ...)``; empty for other factors."""
    call = coding_call(factor)
    return uncover(call.args[0].id) if call is not None and isinstance(call.args[0], ast.Name) else ""


def coding_call(factor: Factor) -> ast.Call | None:
    """The call of a factor that is ``C(...)``, if it is one."""
    if factor.eval_method.name != "PYTHON":
        return None
    node = parse_expression(factor.expr).body
    return node if isinstance(node, ast.Call) and node in calls_in(node, "C") and node.args else None


def smooth_call(factor: Factor) -> str:
    """A factor that is a cubic spline without constraints, as it is written; empty for other factors."""
    if factor.eval_method.name != "PYTHON":
        return ""
    node = parse_expression(factor.expr).body
    if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("cr", "cs", "cc"):
        return ""
    return "" if "constraints" in {k.arg for k in node.keywords} else shown(factor.expr)


_TIMES = {
    **dict.fromkeys(("datetime", "datetime64", "date"), "date"),
    **dict.fromkeys(("timedelta", "timedelta64"), "duration"),
    "period": "period",
    "time": "time",
}


def check_column(obs: pd.DataFrame, argument: str, name: str) -> None:
    """Raise unless the value of an argument is the name of a column of obs."""
    if not isinstance(name, str):
        raise DesignError(f"{argument} must be the name of one column of obs, not {name!r}.")
    if name not in obs.columns:
        hint = suggestion(name, map(str, obs.columns), "it has")
        raise DesignError(f"{argument}={name!r} is not a column of obs; {hint}")


def check_obs(obs: object, names: Sequence[str], source: str) -> None:
    """Raise unless `obs` is a DataFrame that holds each of `names` once."""
    if not isinstance(obs, pd.DataFrame):
        raise DesignError(f"obs must be a pandas DataFrame with one row per observation, not {type(obs).__name__}.")
    check_plain_names([str(c) for c in obs.columns], source)
    for name in names:
        count = int(np.sum(obs.columns == name))
        if count > 1:
            raise DesignError(f"obs has {count} columns named `{name}`; names in a formula must be unique.")
        if count == 0:
            raise DesignError(missing_column(name, [str(c) for c in obs.columns], source))


"""What the constant is called among the fixed effects, and among the columns of a random term."""


def read_column(column: pd.Series, name: str, *, categorical: bool) -> pd.Series:
    """Return a column as float64 (missing values NaN) or as an unordered categorical.

    Parameters
    ----------
    categorical
        Whether numbers are labels too, as in a grouping factor.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return column.cat.as_unordered() if dtype.ordered else column
    kind = _kind(column)
    if kind in ("complex", *_TIMES.values()) and not categorical:
        raise DesignError(f"`{name}` holds {kind} values, which a model cannot use; {_as_days(name, kind)}.")
    if kind == "boolean":
        codes = column.astype("boolean").to_numpy(dtype=np.int8, na_value=-1)
        return pd.Series(pd.Categorical.from_codes(codes, categories=[False, True]), index=column.index)
    if kind == "number":
        values = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
        return _labels_of_numbers(values) if categorical else values
    if kind != "string" and not categorical:
        advice = "convert it to numbers or to text (`obs[...].astype(str)`)"
        raise DesignError(f"`{name}` mixes types of values ({kind}); {advice}.")
    text = column if kind == "string" else column.where(column.isna(), column.astype(str))
    return text.astype("category")


def _as_days(name: str, kind: str) -> str:
    """How values of a kind become numbers."""
    column = f"obs[{name!r}]"
    days = {
        "date": f"`{column} = (pd.to_datetime({column}) - pd.to_datetime({column}).min()).dt.days`",
        "duration": f"`{column} = {column}.dt.total_seconds() / 86400`",
    }
    return (
        f"make it a number first, such as days since the first: {days[kind]}"
        if kind in days
        else "make it a number first"
    )


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise when a numeric column in use holds an infinite value."""
    n_infinite = int(np.isinf(values).sum())
    if n_infinite:
        raise DesignError(f"`{name}` is infinite in {n_infinite:,} rows; make these missing (NaN), or repair them.")


def complete_rows(columns: Sequence[pd.Series], n_rows: int) -> BoolArray:
    """Mark the rows in which no column misses a value."""
    complete = np.ones(n_rows, dtype=bool)
    for column in columns:
        complete &= column.notna().to_numpy()
    return complete


def is_categorical(column: pd.Series) -> bool:
    """Whether a column has categories."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def used_categories(values: pd.Categorical) -> pd.Categorical:
    """Labels without the categories that no row has; none is missing."""
    seen = np.bincount(values.codes, minlength=len(values.categories)) > 0
    if seen.all():
        return values
    return pd.Categorical.from_codes((np.cumsum(seen) - 1)[values.codes], categories=values.categories[seen])


def label_codes(column: pd.Series) -> tuple[IntArray, int]:
    """Codes in the order of categories or values, missing values last, and their number."""
    if is_categorical(column):
        codes, n = column.cat.codes.to_numpy().astype(np.int64), len(column.cat.categories)
    else:
        found, uniques = pd.factorize(column, sort=True)
        codes, n = found.astype(np.int64), len(uniques)
    return np.where(codes < 0, n, codes), n + 1


def _kind(column: pd.Series) -> str:
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_complex_dtype(dtype):
        return "complex"
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
        return "number"
    if inferred == "empty":
        return "number"
    return _TIMES.get(inferred, inferred)


def _labels_of_numbers(values: pd.Series) -> pd.Series:
    """Turn numbers into labels; whole numbers that became floats for lack of a value are whole again."""
    codes, levels = pd.factorize(values, sort=True)
    levels = np.asarray(levels, dtype=np.float64)
    if np.all(np.isfinite(levels)) and np.all(levels == np.round(levels)) and np.all(np.abs(levels) < 2**53):
        levels = levels.astype(np.int64)
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(levels)), index=values.index)


def check_plain_names(available: list[str], source: str) -> None:
    """Raise where a name of words with dashes or spaces stands in a formula as it is: it would be read as several."""
    plain = re.sub("`[^`]*`|'[^']*'|\"[^\"]*\"", lambda quoted: " " * len(quoted[0]), source)
    for name in available:
        place = _WORDS.fullmatch(name) and re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", plain)
        if place:
            message = f"The name of the column `{name}` goes in backticks, for a formula reads it as several."
            raise DesignError(message + pointer(source, place.start(), place.end()))


def missing_column(name: str, available: list[str], source: str, table: str = "obs") -> str:
    """Say that a column is not in a table, with the names that come close and the place in the formula."""
    hint = (
        "`dw.pp.log_depth(adata)` adds it (commands: --log-depth)."
        if name == "log_depth"
        else suggestion(name, available, "it has" if table == "obs" else "they have")
    )
    return f"`{name}` is not a column of {table}; {hint}{pointing_at(name, source)}"


def pointing_at(name: str, source: str) -> str:
    """Further lines of a message: the formula, with marks under a name."""
    place = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", source)
    return pointer(source, place.start(), place.end()) if place else f"\n    {source}"
