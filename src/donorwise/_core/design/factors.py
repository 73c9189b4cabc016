"""Grouping factors, right of the bar of a random term, and the known covariances of their levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from donorwise._core.design.tokens import Group, Items, Token, is_one, syntax_error


def grouping_factors(right: Items, source: str) -> list[tuple[str, ...]]:
    """Grouping factors: ``a/b`` is a and a:b."""
    nested: list[tuple[str, ...]] = []
    names: tuple[str, ...] = ()
    for i, item in enumerate(right):
        if i % 2 == 0:
            name = _group_name(item, source)
            if name in names:
                raise syntax_error(f"`{name}` appears twice in one grouping factor.", source, item.start, item.end)
            names = (*names, name)
        elif is_one(item, "/"):
            nested.append(names)
        elif not is_one(item, ":"):
            message = (
                "A grouping factor is a column, `a:b` or `a/b`; several factors are several terms: `(1 | a) + (1 | b)`."
            )
            whole = source[right[0].start : right[-1].end]
            before = right[i - 1]
            called = before.text if isinstance(item, Group) and item.called and isinstance(before, Token) else ""
            if called in ("C", "factor", "as.factor"):
                message += (
                    f" They are labels whatever they hold: write `(1 | {source[item.start + 1 : item.end - 1]})`."
                )
            elif not is_one(item, "+"):
                message += f" If `{whole}` is the name of one column, it goes in backticks: (1 | `{whole}`)."
            raise syntax_error(message, source, item.start, item.end)
    if len(right) % 2 == 0:
        raise syntax_error("A column name is missing after this.", source, right[-1].start, right[-1].end)
    return [*nested, names]


def _group_name(item: Token | Group, source: str) -> str:
    if isinstance(item, Token) and item.kind == "tick" and len(item.text) > 2:
        return item.text[1:-1]
    if isinstance(item, Token) and item.kind == "name" and not item.text[0].isdigit():
        return item.text
    message = "Right of the bar stands the name of a column (in backticks if it is not a plain name)."
    raise syntax_error(message, source, item.start, item.end)


_GR = "A known covariance is written `gr(donor, cov=name)`: a grouping factor, and the name that kernels= gives the matrix."


def known_covariance(right: Items, source: str) -> tuple[tuple[str, ...], str] | None:
    """Grouping factor and name of ``gr(group, cov=name)``; None for another right of a bar."""
    at = next((i for i, item in enumerate(right) if _is_gr(item, right[i + 1 : i + 2])), None)
    if at is None:
        return None
    called, start, end = right[at + 1], right[0].start, right[-1].end
    if len(right) > 2:
        message = f"{_GR} It stands alone right of the bar; several factors are several terms."
        raise syntax_error(message, source, start, end)
    arguments = list(_arguments(called.items)) if isinstance(called, Group) else []
    group = arguments[0] if arguments else ()
    if any(is_one(item, "=") for item in group[1:-1]) and not is_one(group[1], "="):
        raise syntax_error(f"{_GR} A comma stands between the two.", source, group[0].start, group[-1].end)
    if not group or any(is_one(item, "=") for item in group):
        raise syntax_error(f"{_GR} The grouping factor is missing.", source, start, end)
    groups = grouping_factors(group, source)
    if len(groups) > 1:
        raise syntax_error("A known covariance belongs to one grouping factor, `a` or `a:b`.", source, start, end)
    return groups[0], _cov(arguments[1:], source, start, end)


def _is_gr(item: Token | Group, after: Items) -> bool:
    """Whether an item is the ``gr`` of a call."""
    called = bool(after) and isinstance(after[0], Group) and after[0].called
    return called and isinstance(item, Token) and item.text == "gr"


def _arguments(items: Items) -> Iterator[Items]:
    """Split the inside of a call at its commas."""
    own: list[Token | Group] = []
    for item in items:
        if is_one(item, ","):
            yield tuple(own)
            own = []
        else:
            own.append(item)
    yield tuple(own)


def _cov(arguments: Sequence[Items], source: str, start: int, end: int) -> str:
    """The name in ``cov=name``, the only argument of ``gr`` but the grouping factor."""
    if not arguments:
        message = f"{_GR} Without one leave gr() out: `(1 | donor)`."
        raise syntax_error(message, source, start, end)
    for own in arguments:
        if len(own) < 2 or not isinstance(own[0], Token) or not is_one(own[1], "=") or own[0].text != "cov":
            where = own or (Token("op", "", start, end),)
            message = (
                f"{_GR} It has no other argument." if len(arguments) > 1 or len(own) > 1 else f"{_GR} Write `cov=`."
            )
            raise syntax_error(message, source, where[0].start, where[-1].end)
    if len(arguments) > 1:
        raise syntax_error(f"{_GR} One term has one covariance; two are two terms.", source, start, end)
    name = arguments[0][2:]
    if (
        len(name) == 1
        and isinstance(name[0], Token)
        and name[0].kind in ("name", "tick")
        and not name[0].text[0].isdigit()
    ):
        return _group_name(name[0], source)
    message = (
        "cov= is the name that kernels= gives the matrix, without quotes and nothing else (a sum or multiple of matrices is a "
        'matrix of its own): `(1 | gr(donor, cov=grm))` with kernels={"grm": K}.'
    )
    raise syntax_error(message, source, start, end)


def check_no_gr(items: Items, source: str) -> None:
    """Raise where a known covariance stands elsewhere than right of a bar."""
    bar = next((i for i, item in enumerate(items) if is_one(item, "|", "||")), len(items))
    for i, item in enumerate(items[:bar]):
        if isinstance(item, Group):
            check_no_gr(item.items, source)
        elif _is_gr(item, items[i + 1 : i + 2]):
            message = "A known covariance belongs to a random term, right of its bar: `(1 | gr(donor, cov=name))`."
            raise syntax_error(message, source, item.start, items[i + 1].end)
