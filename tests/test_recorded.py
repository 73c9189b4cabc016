"""What must not change: every scenario gives and says what was recorded; see ``tests/_recorded.py``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests._recorded import FOLDER, RECORDED_AS, RTOL, differences, dump, load, record
from tests._scenarios import SCENARIOS

EXAMPLE = "lmm_paired"


@pytest.mark.parametrize("name", SCENARIOS)
def test_as_recorded(name: str) -> None:
    found = differences(load(name), json.loads(dump(record(SCENARIOS[name]))))
    assert not found, f"{len(found)} differences in {name}:\n" + "\n".join(found[:20])


def test_every_recording_has_a_scenario() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCENARIOS) - set(RECORDED_AS)


def _results(recording: Any) -> Any:
    return recording["found"]["uns"]["lmm"]["results"]


def _cell(recording: Any, row: int, column: str, change: Callable[[Any], Any]) -> None:
    table = _results(recording)
    at = table["columns"].index(column)
    table["rows"][row][at] = change(table["rows"][row][at])


CHANGES: dict[str, Callable[[Any], object]] = {
    "an estimate": lambda r: _cell(r, 0, "estimate", lambda v: v + 10 * RTOL),
    "a p-value": lambda r: _cell(r, 3, "p_value", lambda v: v * (1 + 2 * RTOL)),
    "degrees of freedom": lambda r: _cell(r, 2, "df", lambda v: v * (1 + 2 * RTOL) + 1e-8),
    "a number that is missing": lambda r: _cell(r, 1, "se", lambda v: float("nan")),
    "a whole number": lambda r: _cell(r, 1, "n_obs", lambda v: v + 1),
    "a whole number as a float": lambda r: _cell(r, 1, "n_obs", float),
    "a status": lambda r: _cell(r, 1, "status", lambda v: "not_estimable"),
    "a row that is not kept": lambda r: _results(r)["sums"]["se"].__setitem__(1, _results(r)["sums"]["se"][1] * 1.001),
    "a text that is not kept": lambda r: _results(r).__setitem__("texts", 1),
    "a row": lambda r: _results(r)["rows"].pop(),
    "the order of rows": lambda r: _results(r)["rows"].reverse(),
    "a column": lambda r: _results(r)["columns"].__setitem__(3, "effect"),
    "the levels": lambda r: _results(r)["levels"].__setitem__("status", ["ok"]),
    "a table": lambda r: r["found"]["uns"]["lmm"].pop("icc"),
    "a param": lambda r: r["found"]["uns"]["lmm"]["params"].__setitem__("reml", False),
    "another param": lambda r: r["found"]["uns"]["lmm"]["params"].__setitem__("new", ""),
    "a letter of a warning": lambda r: r["warnings"].__setitem__(0, r["warnings"][0][:-1]),
    "a warning more": lambda r: r["warnings"].append(r["warnings"][0]),
    "a message": lambda r: r["log"].append("WARNING: new"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(what: str) -> None:
    was = load(EXAMPLE)
    now = copy.deepcopy(was)
    assert not differences(was, now)
    CHANGES[what](now)
    assert len(differences(was, now)) >= 1


def test_rounding_is_not_a_change() -> None:
    was = load(EXAMPLE)
    now = copy.deepcopy(was)
    for name in ("estimate", "p_value", "df"):
        _cell(now, 0, name, lambda v: v * (1 + RTOL / 2))
    assert not differences(was, now)
