"""The one way in which files and folders are written: a complete one takes the place of a complete one, under a lock."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from donorwise.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("donorwise")


def at_home(path: Path) -> Path:
    """The path, from the home folder where it begins with ``~/``, as in a shell."""
    return path.expanduser() if path.parts[:1] == ("~",) else path


def real(path: Path) -> Path:
    """What is written where `path` is asked for: of a symbolic link what it leads to, which the link keeps leading to.

    Raises
    ------
    OutputError
        The link leads in a circle.
    """
    path = at_home(path)
    if not path.is_symlink():
        return path
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        target = path
    if target.is_symlink():
        raise OutputError(f"{path} is a symbolic link that leads in a circle; remove it.")
    return target


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; what is written under it takes the place of `path` when it is whole.

    At every moment the old or the new is there, whole. A folder cannot be replaced in one step: the old one is set aside
    under another name (see `settle`), and removed when the new one has its name.

    Raises
    ------
    OutputError
        Writing failed, and `path` is as it was; or the new one could not be named, and stays under its temporary name.
    """
    target = real(path)
    temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")
    try:
        settle(target)
        remove(temporary)
        yield temporary
        _sync_all(temporary)
    except OSError as error:
        _discard(temporary)
        raise OutputError(f"{path} could not be written: {reason(error)}. There is no partial file.") from error
    except BaseException:
        _discard(temporary)
        raise
    _name(temporary, target)
    _discard(aside(target))


def _name(temporary: Path, target: Path) -> None:
    """Rename what is complete; the old one is where it was if that fails."""
    try:
        if target.is_dir():
            os.replace(target, aside(target))
        os.replace(temporary, target)
    except OSError as error:
        _settle_if_possible(target)
        raise OutputError(
            f"{target} could not be replaced: {reason(error)}. What was written is whole, as {temporary}; what was there "
            f"before is {target if target.exists() or not aside(target).exists() else aside(target)}."
        ) from error
    except BaseException:
        _settle_if_possible(target)
        if target.exists():
            _discard(temporary)
        else:
            logger.warning("%s was interrupted on its way to its name; it is whole, as %s.", target, temporary)
        raise
    with suppress(OSError):  # some file systems cannot
        _sync(target.parent)


def aside(path: Path) -> Path:
    """Where a folder is while another one takes its place."""
    return path.with_name(f".{path.stem}.old{path.suffix}")


def settle(path: Path) -> None:
    """End what an interruption left half done: a folder that was set aside has its name again, unless the new one has it.

    Raises
    ------
    OSError
        It could not be renamed, or removed.
    """
    old = aside(path)
    if not old.exists():
        return
    if path.exists():
        remove(old)
    else:
        os.replace(old, path)
        logger.warning("%s was set aside by a run that was interrupted while it replaced it; it is back.", path)


def _settle_if_possible(path: Path) -> None:
    with suppress(OSError):  # the next run tries again
        if not path.exists() and aside(path).exists():
            os.replace(aside(path), path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Remove what nobody needs; say so if it stays."""
    try:
        remove(path)
    except OSError as error:
        logger.warning("%s is not needed any more and could not be removed (%s): remove it.", path, reason(error))


def _sync_all(path: Path) -> None:
    """Wait until the data is on the disk: a rename must not overtake it when the power goes."""
    if not path.is_dir():
        _sync(path)
    elif hasattr(os, "sync"):
        os.sync()  # a store has thousands of files, and to wait for each takes long


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    """The first line of an error, in the words of the system where it has any."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    return text.rstrip(".")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock`` for the length of a run; the log says if a run that died had left it.

    The system drops the lock of a process that dies, so a file left behind does not stop anyone. Its
    text (process and host) is for people and for the message of the run that comes second.

    Raises
    ------
    OutputError
        Another run holds it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    target = real(path)
    name = target.with_name(f"{target.name}.lock")
    lock = FileLock(name, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"Another run{_holder(name)} is writing {path}; wait for it, or choose another name."
        ) from None
    except OSError as error:
        raise OutputError(f"{name} could not be made: {reason(error)}.") from error
    try:
        if _holder(name):
            logger.warning("%s was left by a run that died%s; it is taken over.", name, _holder(name))
        with suppress(OSError):  # Windows lets nobody write to a file that is locked
            name.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield
    finally:
        # While it is still held: after that the file may be another run's.
        with suppress(OSError):
            name.unlink()
        lock.release()


def _holder(lock: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(lock.read_text())
        return f" (process {held['pid']} on {held['host']})"
    return ""
