"""Simulated peptides as DIA-NN reports them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from donorwise.errors import DonorwiseError


def diann_report(adata: ad.AnnData) -> pd.DataFrame:
    """Write peptides of :func:`simulate_peptides` as a long table in the columns of DIA-NN's main report.

    Parameters
    ----------
    adata
        Runs × precursors, ``X`` in log2, with columns `protein` and `gene` of var.

    Returns
    -------
    A row for each measurement that is not missing, by run:

    - `Run`, `Precursor.Id`, `Protein.Group`, `Genes`.
    - `Precursor.Normalised`: the intensity, not in logs.
    - `Quantity.Quality`: 1 / (1 + SD), with SD the standard deviation of the relative error of the intensity (of its natural
      log), as DIA-NN writes it where QuantUMS quantifies; where there is ``layers["weights"]``.
    - `Q.Value`: below .01, the smaller the more intense; `Proteotypic`: 1.

    Raises
    ------
    DonorwiseError
        var has no `protein` or `gene`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_peptides(n_donors=2, n_proteins=3)
    >>> report = dw.datasets.diann_report(adata)
    >>> list(report)[:4]
    ['Run', 'Precursor.Id', 'Protein.Group', 'Genes']
    >>> wide = report.pivot(index="Run", columns="Precursor.Id", values="Precursor.Normalised")
    >>> wide.shape[0]
    4
    """
    absent = [name for name in ("protein", "gene") if name not in adata.var]
    if absent:
        raise DonorwiseError(f"adata.var has no column {absent[0]!r}: takes what dw.datasets.simulate_peptides makes.")
    levels = np.asarray(adata.X)
    run, precursor = np.nonzero(np.isfinite(levels))
    rank = pd.Series(levels[run, precursor]).rank(pct=True)
    table = pd.DataFrame(
        {
            "Run": adata.obs_names.to_numpy()[run],
            "Precursor.Id": adata.var_names.to_numpy()[precursor],
            "Protein.Group": adata.var["protein"].to_numpy()[precursor],
            "Genes": adata.var["gene"].to_numpy()[precursor],
            "Precursor.Normalised": np.exp2(levels[run, precursor]),
            "Q.Value": 0.01 * (1 - rank) ** 2,
            "Proteotypic": 1,
        }
    )
    if "weights" in adata.layers:
        sd = np.log(2) / np.sqrt(np.asarray(adata.layers["weights"])[run, precursor])
        table.insert(5, "Quantity.Quality", 1 / (1 + sd))
    return table
