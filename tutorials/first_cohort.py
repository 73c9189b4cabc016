"""A first cohort: case against control per cell type, from the audit to the plots.

Run with ``python tutorials/first_cohort.py``; the figures go to the working directory.
"""

from __future__ import annotations

import donorwise as dw

FORMULA = "~ condition + sex + log_depth + (1 | donor_id)"
CONTRAST = "condition[T.disease]"


def main() -> None:
    """Audit, fit, read and draw."""
    adata = dw.datasets.simulate_cohort("case-control")  # or scanpy.read_h5ad("cohort.h5ad")
    adata.donorwise.setup(donor="donor_id", cell_type="cell_type", sample="sample_id")
    print(adata.donorwise.audit(FORMULA))

    dw.tl.lmm(adata, FORMULA, groupby="cell_type")
    table = dw.get.lmm(adata, contrast=CONTRAST)
    print(table.head(10).to_string(index=False))

    dw.pl.volcano(adata, contrast=CONTRAST, return_fig=True, show=False).savefig("volcano.png")
    top = table.iloc[0]
    figure = dw.pl.donors(adata, top["variable"], group=top["group"], contrast=CONTRAST, return_fig=True, show=False)
    figure.savefig("donors.png")


if __name__ == "__main__":
    main()
