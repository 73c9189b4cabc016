"""Running the batch commands, and stopping them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

import donorwise as dw
from donorwise._cli import main

ROOT = Path(dw.__file__).parents[1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def left_over(folder: Path) -> list[str]:
    """Files of a run other than its partial folder."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".partial"))


# Kills the process at the n-th time a file is about to take its final name, or sleeps then.
HARNESS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with Ctrl-C ignored
at, what = int(sys.argv.pop(1)), sys.argv.pop(1)
replace, seen = os.replace, []
def fault(*paths):
    seen.append(paths)
    if len(seen) == at and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if len(seen) == at and what == "sleep":
        time.sleep(60)
    replace(*paths)
os.replace = fault
from donorwise._cli import main
main()
"""


def start(at: int, what: str, arguments: list[str]) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", HARNESS, str(at), what, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
