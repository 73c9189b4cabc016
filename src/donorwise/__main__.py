"""``python -m donorwise``: the command where its script is not on the path, as in notebooks."""

from __future__ import annotations

from donorwise._cli import main

if __name__ == "__main__":
    main(prog_name="donorwise")
