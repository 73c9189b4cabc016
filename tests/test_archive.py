"""Files that earlier versions wrote stay readable, and mean what they meant; see ``tests/archive/README.md``."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from tests._archive import ARCHIVES, files, made_of
from tests._recorded import differences, dump

CASES = [(archive, name) for archive in ARCHIVES for name in files(archive)]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The folder of each archive."""
    folders = {archive: tmp_path_factory.mktemp("archive") for archive in ARCHIVES}
    for archive, folder in folders.items():
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return folders


@pytest.mark.parametrize(("archive", "name"), CASES, ids=[f"{a.parent.name}-{a.name[:12]}-{n}" for a, n in CASES])
def test_still_read(archive: Path, name: str, unpacked: dict[Path, Path]) -> None:
    expected = json.loads((archive.parent / "expected.json").read_text(encoding="utf-8"))[name]
    found = differences(expected, json.loads(dump(made_of(unpacked[archive] / name))))
    assert not found, f"{len(found)} differences in {name}:\n" + "\n".join(found[:20])


def test_nothing_is_missing() -> None:
    assert len(CASES) == 22
