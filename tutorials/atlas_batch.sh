#!/usr/bin/env bash
# From a folder of cohorts to results: collapse each, merge, test, report.
#
#   bash tutorials/atlas_batch.sh [COHORTS [WORK]]
#
# COHORTS holds one .h5ad per cohort: log1p-normalised X, raw counts in layers["counts"], and in obs the columns named
# below. Without it three small cohorts are simulated. Everything that is made goes to WORK (atlas/ if not given).
#
# Run it again after a time limit, a crash or Ctrl-C: what is finished is not done again, and a step that was stopped
# goes on at its last finished block or group. A cohort whose file is newer than its rows is collapsed again.
set -euo pipefail

work=${2:-atlas}
cohorts=${1:-$work/cohorts}
columns=donor_id,cell_type,condition,sex,cohort
formula="~ condition + sex + cohort + log_depth + (1 | donor_id)"
counts_formula="~ condition + sex + cohort" # pseudobulk takes care of donors and depth itself
mkdir -p "$work/rows"

if [[ ! -d $cohorts ]]; then
    echo "Simulating three cohorts of 8 donors in $cohorts"
    mkdir -p "$cohorts.tmp"
    python - "$cohorts.tmp" << 'PYTHON'
import sys

import pandas as pd

import donorwise as dw

cells = dw.datasets.simulate_cohort(n_donors=24, n_cells=6_000, n_genes=600)
site = cells.obs["donor_id"].cat.codes % 3
cells.obs["cohort"] = pd.Categorical(site.map({0: "Basel", 1: "Leiden", 2: "Lund"}))
for name in cells.obs["cohort"].cat.categories:
    cells[cells.obs["cohort"] == name].copy().write_h5ad(f"{sys.argv[1]}/{name}.h5ad", compression="gzip")
PYTHON
    mv "$cohorts.tmp" "$cohorts" # all of them, or none
fi

# Run a step unless its output is there and newer than all its inputs: step OUTPUT INPUT... -- COMMAND...
step() {
    local out=$1 input done=yes
    shift
    [[ -e $out ]] || done=no
    while [[ $1 != -- ]]; do
        input=$1
        shift
        [[ ! $input -nt $out ]] || done=no
    done
    shift
    [[ $done == yes ]] && return
    # 3: written, although some groups could not be fitted; the report says which
    "$@" --out "$out" --resume --overwrite || [[ $? == 3 ]]
}

# 1. Every cohort, where it lies: one row per donor, cell type and so on. The rows hold no cells and may travel.
rows=()
for cohort in "$cohorts"/*.h5ad; do
    out=$work/rows/$(basename "$cohort")
    step "$out" "$cohort" -- donorwise collapse "$cohort" --by "$columns" --covariates log_depth --counts-layer counts
    rows+=("$out")
done

# 2. One table of all cohorts, exactly as if their cells had been collapsed together.
step "$work/atlas.h5ad" "${rows[@]}" -- donorwise merge "${rows[@]}"

# 3. What will be fitted, what it needs, and what the design can answer.
donorwise lmm "$work/atlas.h5ad" --formula "$formula" --groupby cell_type --out "$work/lmm.csv" --dry-run

# 4. Two models: of log-normalised values, and of counts.
step "$work/lmm.csv" "$work/atlas.h5ad" -- \
    donorwise lmm "$work/atlas.h5ad" --formula "$formula" --groupby cell_type --contrast "condition[T.disease]"
step "$work/pseudobulk.csv" "$work/atlas.h5ad" -- \
    donorwise pseudobulk "$work/atlas.h5ad" --formula "$counts_formula" --groupby cell_type \
    --contrast "condition[T.disease]"

# 5. Read it.
for model in lmm pseudobulk; do
    donorwise report "$work/$model.csv" --plots "$work/plots/$model" > "$work/$model.md"
done
echo "Results: $work/lmm.csv and $work/pseudobulk.csv; summaries: $work/lmm.md and $work/pseudobulk.md"
