"""Formulas in lme4's notation: bars ``(x | donor)`` are split off, the rest is left to formulaic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from donorwise._core.design.bounds import check_length
from donorwise._core.design.factors import check_no_gr, grouping_factors, known_covariance
from donorwise._core.design.names import quote
from donorwise._core.design.terms import coded_variable, column_terms, factor_variables, parse_columns, variables
from donorwise._core.design.tokens import Group, Items, Token, is_one, is_operator, nest, syntax_error
from donorwise.errors import FormulaError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula

    from donorwise._core.design.covariance import Kernel

_SPACE = re.compile(r"`[^`]*`|\s")


@dataclass(frozen=True, slots=True)
class Bar:
    """One random-effects term, after ``a/b`` and ``||`` are expanded.

    Attributes
    ----------
    columns
        Formula of the left of the bar, for instance ``"1 + Days"``.
    group
        Columns whose combination is the grouping factor, ``("donor", "sample")`` for ``donor:sample``.
    text
        The term as the user wrote it.
    start
        Where it starts in the formula.
    terms
        `columns`, parsed.
    uncorrelated
        Whether it comes from ``||``; then each level of a category on its left has a variance of its own.
    cov
        Name of the known covariance between its levels, of ``gr(donor, cov=name)``; empty for none.
    kernel
        That covariance, once it is given (see :meth:`ParsedFormula.with_kernels`).
    """

    columns: str
    group: tuple[str, ...]
    text: str
    start: int
    terms: SimpleFormula = field(repr=False, compare=False)
    uncorrelated: bool = False
    cov: str = ""
    kernel: Kernel | None = field(default=None, repr=False, compare=False)

    @property
    def factor(self) -> str:
        """The right of the bar, as it is written."""
        group = ":".join(map(quote, self.group))
        return f"gr({group}, cov={quote(self.cov)})" if self.cov else group


@dataclass(frozen=True, slots=True)
class ParsedFormula:
    """A formula that is read once and handed on.

    Attributes
    ----------
    source
        The formula as the user wrote it.
    fixed
        Its fixed part, without ``~``.
    terms
        The fixed part, parsed.
    bars
        Its random terms.
    """

    source: str
    fixed: str
    terms: SimpleFormula = field(repr=False, compare=False)
    bars: tuple[Bar, ...]

    @property
    def parts(self) -> tuple[SimpleFormula, ...]:
        """The fixed part, then the left of every bar."""
        return (self.terms, *(bar.terms for bar in self.bars))

    @property
    def variables(self) -> list[str]:
        """Columns that the fixed part and the slopes read."""
        return list(dict.fromkeys(name for part in self.parts for name in variables(part)))

    @property
    def groups(self) -> list[str]:
        """Columns of the grouping factors."""
        return list(dict.fromkeys(name for bar in self.bars for name in bar.group))

    @property
    def columns(self) -> list[str]:
        """All columns that are read: variables, then grouping factors."""
        return list(dict.fromkeys([*self.variables, *self.groups]))

    def reads_alone(self, name: str) -> bool:
        """Whether the formula reads a column, and wherever it does, as it stands or through ``C(...)``."""
        factors = [factor for part in self.parts for term in part for factor in term.factors]
        own = [factor for factor in factors if name in factor_variables(factor)]
        return bool(own) and all(f.eval_method.name == "LOOKUP" or coded_variable(f) == name for f in own)

    def keep(self, bars: Sequence[Bar]) -> ParsedFormula:
        """The formula with these of its random terms only."""
        source, kept = f"~ {self.fixed}", []
        for bar in bars:
            text = f"({bar.columns.strip()} {'||' if bar.uncorrelated else '|'} {bar.factor})"
            kept.append(replace(bar, text=text, start=len(source) + 3))
            source += f" + {text}"
        return replace(self, source=source, bars=tuple(kept))

    @property
    def covs(self) -> tuple[str, ...]:
        """Names of the known covariances."""
        return tuple(dict.fromkeys(bar.cov for bar in self.bars if bar.cov))

    def with_kernels(self, kernels: Mapping[str, Kernel]) -> ParsedFormula:
        """The formula whose known covariances are these, as far as they are among them."""
        return replace(self, bars=tuple(replace(bar, kernel=kernels.get(bar.cov, bar.kernel)) for bar in self.bars))

    def with_relatives(self, groups: Mapping[tuple[str, ...], str]) -> ParsedFormula:
        """The formula whose random terms of these grouping factors have the covariances of these names."""
        return self.keep([bar if bar.cov else replace(bar, cov=groups.get(bar.group, "")) for bar in self.bars])

    def with_intercept(self, group: tuple[str, ...]) -> ParsedFormula:
        """The formula with one more random intercept."""
        return self.keep([*self.bars, Bar("1", group, "", 0, parse_columns("1", "1"))])


def parse(formula: str | ParsedFormula) -> ParsedFormula:
    """Split a formula into its fixed part and its random terms; one that is parsed comes back as it is.

    Parameters
    ----------
    formula
        Such as ``"~ disease * sex + (1 + time | donor) + (1 | batch)"``. Random terms may be written
        ``(1 | g)``, ``(x | g)``, ``(0 + x | g)``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``, and, as in brms, with a
        known covariance between the levels, ``(1 | gr(g, cov=name))``. With ``||`` nothing is correlated: for a category,
        ``(0 + condition || donor)`` is one variance per level, as MixedModels.jl's ``zerocorr`` has it (lme4's ``||``
        leaves the levels of a category correlated), and ``(condition || donor)`` is that and ``(1 | donor)``.

    Raises
    ------
    FormulaError
        When the formula does not parse; the message points at the place.
    """
    if isinstance(formula, ParsedFormula):
        return formula
    if not isinstance(formula, str):
        raise FormulaError(f"A formula is a string such as '~ disease + (1 | donor)', not {type(formula).__name__}.")
    check_length(formula)
    if not formula.strip():
        raise FormulaError("The formula is empty; write '~ 1' for an intercept only.")
    source = _SPACE.sub(lambda found: found[0] if found[0][0] == "`" else " ", formula).strip()
    items = _right_hand_side(nest(source), source)
    check_no_gr(items, source)
    blanks: list[tuple[int, int]] = []
    bars = tuple(_random_terms(items, source, blanks))
    _check_overlap(bars, source)
    fixed = _blank(source, [(0, items[0].start), *blanks])
    terms = parse_columns(fixed if fixed.strip() else "1", source)
    return ParsedFormula(source, fixed.strip() or "1", terms, bars)


def _right_hand_side(items: Items, source: str) -> Items:
    tildes = [i for i, item in enumerate(items) if is_one(item, "~")]
    if not tildes:
        raise syntax_error(f"A formula starts with `~`: write '~ {source}'.", source, 0)
    if tildes[0] > 0:
        message = (
            "A formula has no left-hand side here: the responses come from the AnnData (or Y), so start it with `~`."
        )
        raise syntax_error(message, source, items[0].start, items[tildes[0]].start)
    if len(tildes) > 1:
        raise syntax_error("A formula has one `~`.", source, items[tildes[1]].start)
    if len(items) == 1:
        raise syntax_error("Nothing follows the `~`; write '~ 1' for an intercept only.", source, items[0].start)
    return items[1:]


def _random_terms(items: Items, source: str, blanks: list[tuple[int, int]]) -> Iterator[Bar]:
    """Yield the bars of an additive expression and note the stretches of source they take up."""
    for signs, term in _additive(items, source):
        bar = next(_bars(term), None)
        if bar is None:
            continue
        group = term[0]
        if len(term) > 1 or not isinstance(group, Group) or group.called:
            raise _misplaced(term, bar, source)
        minus = [s for s in signs if s.text == "-"]
        if minus:
            raise syntax_error("A random term can only be added, not subtracted.", source, minus[0].start, group.end)
        if any(is_one(item, "|", "||") for item in group.items):
            yield from _expand(group, source)
            blanks.append((signs[0].start if signs else group.start, group.end))
            continue
        inner: list[tuple[int, int]] = []
        yield from _random_terms(group.items, source, inner)
        blanks.extend(inner)
        if not _blank(source, inner)[group.start + 1 : group.end - 1].strip():
            blanks.append((signs[0].start if signs else group.start, group.end))


def _additive(items: Items, source: str) -> Iterator[tuple[list[Token], Items]]:
    """Split at ``+`` and ``-``; each term comes with the signs before it."""
    signs: list[Token] = []
    term: list[Token | Group] = []
    for item in items:
        if not is_one(item, "+", "-"):
            term.append(item)
            continue
        if term:
            yield signs, tuple(term)
            signs, term = [], []
        signs.append(item)  # type: ignore[arg-type]
    if not term:
        raise syntax_error("A term is missing here.", source, signs[-1].start if signs else 0)
    yield signs, tuple(term)


def _bars(items: Items) -> Iterator[Token]:
    """Yield every bar, at any depth."""
    for item in items:
        if isinstance(item, Group):
            yield from _bars(item.items)
        elif is_one(item, "|", "||"):
            yield item


def _misplaced(term: Items, bar: Token, source: str) -> FormulaError:
    """Say what is wrong with a bar that is not a term of its own."""
    if bar in term:
        text = source[term[0].start : term[-1].end]
        return syntax_error(f"A random term stands in parentheses: write `({text})`.", source, bar.start, bar.end)
    for before, item in zip((None, *term), term, strict=False):
        if not isinstance(item, Group) or bar not in set(_bars((item,))):
            continue
        text = source[item.start : item.end]
        if item.called:
            message = "A bar cannot stand inside a function call or an index; a random term is added: `+ (1 | group)`."
            return syntax_error(message, source, bar.start, bar.end)
        if before is not None and not is_operator(before):
            return syntax_error(f"A `+` is missing before `{text}`.", source, item.start, item.end)
        message = (
            f"A random term can only be added: write `+ {text}`. (A slope goes on the left of the bar: `(x | group)`.)"
        )
        return syntax_error(message, source, term[0].start, term[-1].end)
    return syntax_error("A random term is added: `+ (1 | group)`.", source, bar.start, bar.end)


def _expand(group: Group, source: str) -> Iterator[Bar]:
    """Turn one parenthesised term into Bars: ``||`` by column, ``a/b`` by nesting level."""
    text, inside = source[group.start : group.end], group.items
    at = [i for i, item in enumerate(inside) if is_one(item, "|", "||")]
    bar, left, right = inside[at[0]], inside[: at[0]], inside[at[0] + 1 :]
    extra = next(_bars((*left, *right)), None)
    if extra is not None:
        raise syntax_error("A random term has one bar.", source, extra.start, extra.end)
    if not left:
        raise syntax_error("Nothing stands left of the bar; a random intercept is `(1 | group)`.", source, bar.start)
    if not right:
        raise syntax_error("The grouping factor is missing right of the bar: `(1 | group)`.", source, bar.start)
    columns, split = _columns(left, source, split=is_one(bar, "||")), is_one(bar, "||")
    covariance = known_covariance(right, source)
    for names in grouping_factors(right, source) if covariance is None else [covariance[0]]:
        for column, terms in columns:
            yield Bar(column, names, text, group.start, terms, split, covariance[1] if covariance else "")


def _columns(left: Items, source: str, *, split: bool) -> list[tuple[str, SimpleFormula]]:
    """Formulas of the columns left of a bar, as text and parsed: one, or one per term for ``||``."""
    start, end = left[0].start, left[-1].end
    whole = parse_columns(" " * start + source[start:end], source)
    terms = column_terms(whole)
    if not terms:
        raise syntax_error("Left of the bar there is no column; write `(1 | group)`.", source, start, end)
    if not split:
        return [(source[start:end], whole)]
    texts = ["1" if term == "1" else f"0 + {term}" for term in terms]
    return [(text, parse_columns(text, source)) for text in texts]


def _check_overlap(bars: tuple[Bar, ...], source: str) -> None:
    """Refuse the same column twice for the same grouping factor: the two could not be told apart."""
    seen: dict[tuple[frozenset[str], str, str], Bar] = {}
    for bar in bars:
        for term in column_terms(bar.terms):
            key = (frozenset(bar.group), bar.cov, term)
            if key in seen:
                name = f"({term} | {bar.factor})"
                message = f"The random effect `{name}` is in the formula twice."
                raise syntax_error(message, source, bar.start, bar.start + len(bar.text))
            seen[key] = bar


def _blank(source: str, stretches: list[tuple[int, int]]) -> str:
    """Replace stretches by spaces, so that positions in what is left are positions in the source."""
    for start, end in stretches:
        source = source[:start] + " " * (end - start) + source[end:]
    return source
