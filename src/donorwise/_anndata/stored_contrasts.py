"""The contrasts of a stored result, for the analysis that it came from."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from donorwise._anndata.unchanged import changed
from donorwise._core.engine.contrast_tables import contrasts_from
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.tasks import Task

# "variable: level vs other", as contrasts of two levels are called
_LEVELS = re.compile(r"(?P<variable>.+?): (?P<level>.+) vs (?P<other>.+)")


def asking_again(
    made: Analysis[Any, Any], params: Mapping[str, Any], stored: pd.DataFrame | None, given: Any, key: str
) -> Analysis[Any, Any]:
    """The analysis with the contrasts of its result.

    Parameters
    ----------
    made
        The analysis.
    params, stored
        Params of the result, and the weights of its contrasts; None where it has none, as those of 0.1.
    given
        Contrasts as they were given to the tool; None for those of the result.
    key
        Entry of ``uns``, for messages.

    Raises
    ------
    DataError
        The model has other coefficients, `given` are other contrasts, or they have to be given.
    """
    if given is None and stored is not None:
        try:
            own = contrasts_from(stored, made.tasks)
        except DesignError as error:
            raise changed(key, str(error), params["method"]) from None
        return replace(made, names=tuple(params["contrasts"]), contrasts=tuple(own))
    if given is None:
        given = [_contrast(made.tasks, name, params["method"], key) for name in params["contrasts"]]
    asked = made.asking(given)
    if set(asked.names) != set(params["contrasts"]):
        raise DataError(
            f"contrasts= gives {list(asked.names)}, and {key!r} has {params['contrasts']}; give those of the fit."
        )
    return asked


def _contrast(tasks: Sequence[Task], name: str, tool: str, key: str) -> Any:
    """A contrast from its name: a coefficient, or the difference of two levels of a variable."""
    designs = [t.design for t in tasks if t.design is not None]
    if any(name in d.fixed_names for d in designs):
        return name
    match = _LEVELS.fullmatch(name)
    if match is not None and any(match["variable"] in d.frame.columns for d in designs):
        return (match["variable"], match["level"], match["other"])
    raise DataError(
        f"The weights of the contrast {name!r} are not stored in {key!r}: give contrasts= as they were given to tl.{tool}."
    )
