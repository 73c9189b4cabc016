"""``<out>.run.yaml``: how a result was made, in the form that ``--config`` reads."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from donorwise._batch.outputs import replaced

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIBRARIES = ("donorwise", "anndata", "formulaic", "numba", "numpy", "pandas", "scipy")


def run_manifest(command: str, chosen: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """What must be the same for a stopped run to be resumed; files may move between stop and resume."""
    computed = {name: value for name, value in chosen.items() if name not in ("source", "out")}
    inputs = source if isinstance(source, list) else [source]
    told = [{name: value for name, value in one.items() if name != "path"} for one in inputs]
    return {"command": command, "version": version("donorwise"), "options": computed, "input": told}


def run_record(command: str, chosen: Mapping[str, Any], source: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Options, versions, the input (or inputs) and what came of it, as plain values."""
    return {
        "command": command,
        "options": {name: _plain(value) for name, value in chosen.items() if value not in (None, (), [], "")},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "input": source,
        "result": {"finished": datetime.now(tz=UTC).isoformat(timespec="seconds"), **result},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_record(record: Mapping[str, Any], out: Path) -> None:
    """Write the record beside its output."""
    import yaml

    with replaced(out.with_name(f"{out.name}.run.yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True), encoding="utf-8")
