"""Files are whole whatever happens while they are written: renames that fail or are interrupted, links, two at once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests._batch import run

import donorwise as dw
from donorwise._anndata import open_source
from donorwise._anndata.origin import COLLAPSED
from donorwise._batch.report import read_any
from donorwise._core.files import aside, locked, replaced
from donorwise.errors import DataError, DonorwiseError, OutputError

BY = ["donor_id", "condition", "cell_type"]
FORMULA = "~ condition + (1 | donor_id)"


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, another one, and the collapsed rows of both."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate("ab"):
        adata = dw.datasets.simulate_cohort(n_donors=4, n_cells=200, n_genes=12, seed=seed)
        adata.write_h5ad(folder / f"{name}.h5ad")
        dw.pp.collapse(adata, BY, counts_layer="counts", progress=False).write_h5ad(folder / f"{name}_rows.h5ad")
    return folder


def _python_collapse(folder: Path, out: Path, name: str) -> None:
    dw.pp.collapse(folder / f"{name}.h5ad", BY, out=out, progress=False)


def _command(command: str, *options: str) -> Callable[[Path, Path, str], None]:
    def call(folder: Path, out: Path, name: str) -> None:
        inputs = [f"{name}.h5ad"] if command != "merge" else ["a_rows.h5ad", "b_rows.h5ad"][:: 1 if name == "a" else -1]
        result = run(command, *(folder / own for own in inputs), *options, "--out", out, "--resume", "--overwrite")
        if result.exit_code == 130:
            raise KeyboardInterrupt
        if result.exit_code:
            raise OutputError(result.stderr)

    return call


WRITERS = {
    "pp.collapse.zarr": (_python_collapse, ".zarr"),
    "pp.collapse.h5ad": (_python_collapse, ".h5ad"),
    "collapse": (_command("collapse", "--by", ",".join(BY)), ".h5ad"),
    "merge": (_command("merge"), ".h5ad"),
    "lmm": (_command("lmm", "--formula", FORMULA, "--ddf", "satterthwaite"), ".csv"),
    "pseudobulk": (_command("pseudobulk", "--formula", "~ condition", "--quiet"), ".h5ad"),
}


def _content(path: Path) -> pd.DataFrame:
    """What a reader of the file sees; fails where it is not whole."""
    if path.suffix == ".csv":
        return pd.read_csv(path)
    adata = open_source(path)
    if COLLAPSED in adata.uns:
        return adata[:].to_memory().to_df()
    adata, key = read_any(path)
    return dw.get.tests(adata, key=key)


def _break(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, *, after: bool, onward: bool) -> list[Any]:
    """The `at`-th rename fails, after it was made or before, and `onward` all later ones do."""
    replace, seen = os.replace, []

    def fault(*paths: Any) -> None:
        if ".zarr/" in str(paths[1]):  # by the zarr library, inside a store
            return replace(*paths)
        seen.append(paths)
        broken = len(seen) == at or (onward and len(seen) > at)
        if after or not broken:
            replace(*paths)
        if broken:
            raise error
        return None

    monkeypatch.setattr(os, "replace", fault)
    return seen


FAULTS = {
    "fails": (OSError(errno.EIO, "Input/output error"), False, False),
    "fails from then on": (OSError(errno.EIO, "Input/output error"), False, True),
    "Ctrl-C before": (KeyboardInterrupt(), False, False),
    "Ctrl-C after": (KeyboardInterrupt(), True, False),
    "killed": (KeyboardInterrupt(), False, True),
}


COMMAND_FAULTS = ("fails", "killed")


@pytest.mark.parametrize(
    ("writer", "fault"),
    [(w, f) for w in WRITERS for f in FAULTS if w == "pp.collapse.zarr" or f in COMMAND_FAULTS],
)
def test_every_rename(writer: str, fault: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old or the new is there, or where a message says; the next run gives the new and leaves nothing aside."""
    write, suffix = WRITERS[writer]
    error, after, onward = FAULTS[fault]
    whole = {}
    for name in "ab":
        (tmp_path / name).mkdir()
        write(folder, tmp_path / name / f"rows{suffix}", name)
        whole[name] = _content(tmp_path / name / f"rows{suffix}")
    old, new = whole.values()
    names = sorted(os.listdir(tmp_path / "a"))
    _forget(tmp_path / "a")
    for at in range(1, 12):
        place = tmp_path / str(at)
        shutil.copytree(tmp_path / "a", place)
        out = place / f"rows{suffix}"
        said = ""
        with monkeypatch.context() as patch:
            seen = _break(patch, at, error, after=after, onward=onward)
            try:
                write(folder, out, "b")
            except (KeyboardInterrupt, OutputError) as raised:
                said = str(raised)
        if len(seen) < at:
            break
        if not out.exists():
            assert str(aside(out)) in said or _refusal(out)
            os.replace(aside(out), out)
        found = _content(out)
        assert found.equals(old) or found.equals(new), (writer, fault, at)
        write(folder, out, "b")
        assert _content(out).equals(new)
        assert sorted(os.listdir(place)) == names
    assert at > 1


def _forget(place: Path) -> None:
    """Remove the record, or the same run would return at once."""
    for record in place.glob("*.run.yaml"):
        record.unlink()


def _refusal(out: Path) -> bool:
    with pytest.raises(DataError, match=r"is set aside, as .*\.old\.zarr"):
        _content(out)
    return True


@pytest.mark.parametrize("writer", ["pp.collapse.zarr", "pp.collapse.h5ad", "collapse", "lmm"])
def test_a_link_stays_a_link(writer: str, folder: Path, tmp_path: Path) -> None:
    """What it leads to is written, and what belongs to it (lock, record, parts) lies there."""
    write, suffix = WRITERS[writer]
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / f"t{suffix}", tmp_path / f"link{suffix}"
    link.symlink_to(target)
    for _ in range(2):  # it leads nowhere at first
        write(folder, link, "a")
        assert link.is_symlink() and not target.is_symlink()
        assert [p.name for p in tmp_path.iterdir() if p.name != "store"] == [link.name]
        _forget(target.parent)
    assert _content(link).equals(_content(target))


def test_links_that_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "circle.zarr").symlink_to(tmp_path / "circle.zarr")
    (tmp_path / "other.zarr").symlink_to(tmp_path / "data.bin")
    for name, words in [("circle.zarr", "leads in a circle"), ("other.zarr", "must end in .h5ad or .zarr")]:
        with pytest.raises(DonorwiseError, match=words):
            _python_collapse(folder, tmp_path / name, "a")


def test_two_at_once(folder: Path, tmp_path: Path) -> None:
    """The second is refused before it reads, under whatever name."""
    out, link = tmp_path / "r.zarr", tmp_path / "link.zarr"
    link.symlink_to(out)
    with locked(out):
        for name in (out, link):
            with pytest.raises(OutputError, match="Another run .* is writing"):
                _python_collapse(folder, name, "a")
    assert [p.name for p in tmp_path.iterdir()] == ["link.zarr"]


@pytest.mark.parametrize(("name", "words"), [("r.zarr", "is not a zarr store"), ("r.h5ad", "is not a file")])
def test_a_folder_of_something_else_is_not_replaced(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match=words):
        _python_collapse(folder, tmp_path / name, "a")
    assert (tmp_path / name / "thesis.tex").read_text() == "years"


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    store = tmp_path / "r.zarr"
    store.mkdir()

    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        with replaced(store) as temporary:
            temporary.mkdir()
            (temporary / "new").touch()
    assert (store / "new").exists()
    assert f"{aside(store)} is not needed any more and could not be removed (Permission denied)" in caplog.text
    with replaced(store) as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path) == ["r.zarr"]
