"""Variables that are read as something else than they are: numbers and dates kept as text, labels kept as numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.names import quote
from donorwise._core.design.terms import categorical_only, is_categorical, variables

if TYPE_CHECKING:
    from donorwise._core.design.design import Design

_FEW = 3  # values below which a number is as good as two labels
_MOST_CODES = 50
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_AROUND = re.compile(rf"(?P<before>[<>=≤≥~]*)\s*(?P<number>{_NUMBER.pattern})\s*(?P<after>\D*)")
_DATE = re.compile(r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3\d{2,4})([ T]\d{1,2}:\d{2}.*)?")
_DAY_OR_MONTH = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.]")
_MISSING = re.compile(r"(na|n/a|nan|none|null|missing|unknown|not[ _](known|available|reported)|[-.?]*)", re.IGNORECASE)
_MEASURED = re.compile(
    r"(?<![a-z])(age|bmi|weight|height|dose|time|days?|weeks?|months?|years?|hours?|score|concentration|pmi|dates?)(?![a-z])",
    re.IGNORECASE,
)
_LABELS = re.compile(
    r"(?<![a-z])(batch|lane|plate|chip|pool|flow_?cell|chemistry|assay|protocol|run|site|cent(er|re)|hospital|cohort|stud(y|ie)|"
    r"librar(y|ie)|well|slide|array|channel|replicate|cluster|sample|donor|patient|subject|individual)(e?s)?(_?(id|no|number))?(?![a-z])",
    re.IGNORECASE,
)


def kept_as_text(design: Design, labels: Collection[str | None] = ()) -> Iterator[str]:
    """Variables of which every value is a number or a date, and that have a coefficient for each.

    `labels` are columns whose numbers are known to be names, as the donor's.
    """
    for name in _bare(design):
        column = design.frame[name]
        if is_categorical(column) and name not in labels and not _LABELS.search(name):
            text = _as_text(name, list(column.cat.categories))
            if text:
                yield text


def kept_as_numbers(design: Design, batch: str | None = None) -> Iterator[str]:
    """Variables with the name of a label and few whole numbers, of which a slope is asked; not the declared batch."""
    yield from _as_slopes(design, [name for name in _bare(design) if name != batch and _LABELS.search(name)])


def batch_as_number(design: Design, batch: str | None) -> Iterator[str]:
    """The declared batch where a slope is asked of it, as in ``scale(batch)``."""
    yield from _as_slopes(design, [name for name in _bare(design) if name == batch])


def _as_slopes(design: Design, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        column = design.frame[name]
        if is_categorical(column):
            continue
        values = np.unique(column.to_numpy(dtype=np.float64))
        if 2 < len(values) <= _MOST_CODES and np.array_equal(values, np.round(values)):
            yield (
                f"`{name}` is a number to the formula, with one slope over {_few([f'{v:.0f}' for v in values])}; if these are "
                f"labels, write `C({quote(name)})`, or make them text: {_stored(name)} = {_stored(name)}.astype(str)."
            )


def _bare(design: Design) -> list[str]:
    """Variables of the fixed part that are not read through ``C(...)`` alone, which says that they are labels."""
    terms = design.parsed.terms
    return [name for name in variables(terms) if name not in categorical_only(terms)]


def _as_text(name: str, levels: Sequence[Hashable]) -> str:
    """What to do about levels that are numbers or dates; empty where they are neither, or too few to matter."""
    every = [str(level).strip() for level in levels]
    texts = [text for text in every if not _MISSING.fullmatch(text)]
    if len(texts) < _FEW and not _MEASURED.search(name):
        return ""
    column, labels = _stored(name), f"if they are labels, write `C({quote(name)})`"
    each = f"so each of the {len(every)} has a coefficient of its own"
    if texts and all(_DATE.fullmatch(text) for text in texts):
        return f"`{name}` holds dates as text ({_few(texts)}), {each}; {_in_days(column, texts, len(every))}; {labels}."
    found = [_AROUND.fullmatch(text) for text in texts]
    numbers = [float(match["number"].replace(",", ".")) for match in found if match]
    if (
        len(numbers) < len(texts)
        or len(set(numbers)) < len(texts)
        or (_are_codes(numbers) and not _MEASURED.search(name))
    ):
        return ""
    start = (
        f"`{name}` holds numbers as {'text' if isinstance(levels[0], str) else 'categories'} ({_few(texts)}), {each}; "
    )
    odd = [text for text in texts if not _NUMBER.fullmatch(text)]
    if not odd and len(texts) < len(every):
        missing = _few([text or "''" for text in every if text not in texts])
        return (
            f"{start}{missing} would be missing: `{column} = pd.to_numeric({column}.astype(str), errors='coerce')`; "
            f"{labels}."
        )
    if not odd:
        comma = ".astype(str).str.replace(',', '.')" if any("," in text for text in texts) else ""
        return f"{start}make it a number: `{column} = {column}{comma}.astype(float)`; {labels}."
    return (
        f"{start}{_few(odd)} {'is' if len(odd) == 1 else 'are'} no plain number{'' if len(odd) == 1 else 's'}, so say which it "
        f"stands for, for instance the number in it: `{column} = {column}.astype(str).str.extract(r'(\\d+\\.?\\d*)')[0].astype(float)`; "
        f"{labels}."
    )


def _are_codes(numbers: Sequence[float]) -> bool:
    """Whether numbers are 0, 1, 2 ... or 1, 2, 3 ..., as labels are numbered."""
    first = min(numbers)
    return first in (0.0, 1.0) and sorted(numbers) == list(np.arange(first, first + len(numbers)))


def _in_days(column: str, texts: Sequence[str], n: int) -> str:
    """The line that makes a number of dates, of which some of the n levels are none."""
    first, doubt = _day_first(texts)
    parsed = pd.to_datetime(pd.Series(texts), errors="coerce", format="mixed", dayfirst=first)
    start = str(parsed.min().date()) if parsed.notna().any() else texts[0]
    how = (", dayfirst=True" if first else "") + (", errors='coerce'" if len(texts) < n else "")
    return (
        f"make it a number of days: `{column} = (pd.to_datetime({column}.astype(str){how}) - pd.Timestamp('{start}')).dt.days`"
        + (" (without `dayfirst` where the month comes first)" if doubt else "")
    )


def _day_first(texts: Sequence[str]) -> tuple[bool, bool]:
    """Whether the day stands before the month, and whether no date tells."""
    pairs = [match for text in texts if (match := _DAY_OR_MONTH.match(text))]
    ahead, behind = (max((int(match[k]) for match in pairs), default=0) for k in (1, 2))
    return bool(pairs) and behind <= 12, bool(pairs) and max(ahead, behind) <= 12


def _stored(name: str) -> str:
    return f"obs[{name!r}]".replace("'", '"') if "'" not in name and '"' not in name else f"obs[{name!r}]"


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f", ... {texts[-1]}" if len(texts) > 3 else "")
