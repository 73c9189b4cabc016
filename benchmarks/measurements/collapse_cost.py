"""The pass over the matrix against the floor: loading every number once."""

from __future__ import annotations

import collapse_pass
from report import Aim, Section

JUDGED = "collapse, cells mixed"


def run(quick: bool) -> Section:
    found = collapse_pass.run(n_cells=20_000 if quick else 100_000, n_rounds=5 if quick else 15)
    rows = [
        {"threads": n, "pass": name, "min ms": 1e3 * s, "/ bare pass": found["ratios"][n, name]}
        for (n, name), s in found["times"].items()
    ]
    aims = [
        Aim(f"{JUDGED}, over a bare pass, {n} threads", ratio, 3.0)
        for (n, name), ratio in found["ratios"].items()
        if name == JUDGED
    ]
    size = "{n_cells:,} cells x {n_genes:,} genes, {n_stored:,} stored, {n_patterns} patterns".format(**found["size"])
    return Section("b", f"the pass over the data, CSR float32: {size}", rows, aims)
