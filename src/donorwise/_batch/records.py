"""What is written beside a result: the options, versions and inputs it was made with, and all that was warned of."""

from __future__ import annotations

import json
import logging
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from donorwise._batch.files import files_in
from donorwise._batch.partial import Partial
from donorwise._core.files import real, replaced
from donorwise._core.wording import differences
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PATHS = ("source", "out", "kernel", "relmat", "genotypes")  # options of files, which may move between stop and resume
LIBRARIES = ("donorwise", "anndata", "formulaic", "numba", "numpy", "pandas", "scipy")

logger = logging.getLogger("donorwise")


def run_manifest(command: str, chosen: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """What must be the same for a stopped run to be resumed; files may move between stop and resume.

    Inputs, kernels and genotypes among them, are told by what is in them.
    """
    computed = {name: value for name, value in chosen.items() if name not in _PATHS}
    inputs = source if isinstance(source, list) else [source]
    told = [{name: value for name, value in one.items() if name != "path"} for one in inputs]
    return {"command": command, "version": version("donorwise"), "options": computed, "input": told}


def run_record(
    command: str, chosen: Mapping[str, Any], source: Any, result: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """Options, versions, the input (or inputs), what came of it and what was warned of, as plain values."""
    return {
        "command": command,
        "options": _given(chosen),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "input": source,
        "result": {"finished": datetime.now(tz=UTC).isoformat(timespec="seconds"), **result},
        "warnings": list(dict.fromkeys(warnings)),
    }


def _given(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were left open."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    return {name: value for name, value in plain.items() if value not in (None, [], "")}


def _record_of(out: Path) -> Path:
    out = real(out)
    return out.with_name(f"{out.name}.run.yaml")


def write_record(record: Mapping[str, Any], out: Path) -> None:
    """Write the record beside its output, a file or a folder, whose size it notes."""
    import yaml

    noted = {**record, "result": {**record["result"], "bytes": _bytes(real(out))}}
    with replaced(_record_of(out)) as temporary:
        temporary.write_text(yaml.safe_dump(noted, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in files_in(path))


def read_record(out: Path) -> dict[str, Any] | None:
    """The record of a result; None where there is none that can be read, or it is that of another file."""
    import yaml

    try:
        content = yaml.safe_load(_record_of(out).read_text(encoding="utf-8"))
        size = content["result"].get("bytes")
        return content if size in (None, _bytes(real(out))) else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def finished_run(out: Path, manifest: Mapping[str, Any], *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The record of the run that made `out`, if it was the run that `manifest` describes and `resume` asks for it.

    Raises
    ------
    DataError
        `out` is of another run, or nobody knows of which, and may not be replaced.
    """
    if not out.exists() or Partial.of(out).is_there():
        return None
    if not resume:
        logger.info("%s is there already and is replaced when this run has finished.", out)
        return None
    record = read_record(out)
    if record is None:
        changed = ["the record beside it is missing, or is that of another file"]
    else:
        changed = differences(_comparable(_manifest_of(record)), _comparable(manifest))
    if not changed:
        return record
    if overwrite:
        return None
    raise DataError(
        f"{out} is finished, and was made by another run: {'; '.join(changed)}. --overwrite replaces it, another --out keeps it."
    )


def _manifest_of(record: Mapping[str, Any]) -> dict[str, Any]:
    versions = record.get("versions") or {}
    own = run_manifest(str(record.get("command")), record.get("options") or {}, record.get("input") or [])
    return own | {"version": versions.get("donorwise")}


def _comparable(manifest: Mapping[str, Any]) -> Any:
    """In the form in which files keep it."""
    return json.loads(json.dumps({**manifest, "options": _given(manifest["options"])}))
