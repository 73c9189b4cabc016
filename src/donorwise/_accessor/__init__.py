"""``adata.donorwise``: the package at the hand of whoever holds an AnnData."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad

from donorwise import _anndata as slots
from donorwise._accessor.models import Models
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from donorwise._core.design.audit import Audit
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")


class DonorwiseAccessor(Models):
    """Columns, tables and models of one AnnData, as ``adata.donorwise``.

    The accessor holds nothing but the AnnData: it is made anew at every access, and what
    :meth:`setup` declares is kept in ``adata.uns["donorwise"]``.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> adata.donorwise
    donorwise on 300 cells x 20 features
      donor:     'donor_id' (guessed), 6 levels
      cell_type: 'cell_type' (guessed), 3 levels
      sample:    'sample_id' (guessed), 6 levels
    """

    def __init__(self, adata: ad.AnnData) -> None:
        self._adata = adata

    def setup(
        self,
        *,
        donor: str | None = None,
        cell_type: str | None = None,
        sample: str | None = None,
        condition: str | None = None,
        batch: str | None = None,
    ) -> None:
        """Declare which columns of obs play which role.

        Parameters
        ----------
        donor
            The donor of each cell: the replicate.
        cell_type, sample, condition, batch
            Further columns; all are optional.

        Raises
        ------
        DesignError
            A column is not in obs, or the donor column has one level, or one level per cell.

        Notes
        -----
        Roles declared earlier stay unless they are named again. Without any argument the columns with
        usual names (``donor_id``, ``patient``, ``cell_type``, …) are declared.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.setup(donor="donor_id", condition="condition")
        >>> adata.uns["donorwise"]["condition"]
        'condition'
        """
        given = {"donor": donor, "cell_type": cell_type, "sample": sample, "condition": condition, "batch": batch}
        named = {role: column for role, column in given.items() if column is not None}
        settings = slots.read_settings(self._adata) | (named or self.settings)
        slots.check_setup(self._adata, settings)
        slots.write_settings(self._adata, settings)

    @property
    def settings(self) -> dict[str, str]:
        """The column of obs for each role, declared or guessed.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.settings
        {'donor': 'donor_id', 'cell_type': 'cell_type', 'sample': 'sample_id'}
        """
        return {name: role.column for name, role in slots.find_roles(self._adata).items() if role.column}

    @property
    def donors(self) -> pd.DataFrame:
        """One row per donor, with cells, samples, mean depth, and every column of obs that is constant within donors.

        Raises
        ------
        DesignError
            Which column holds the donor is not known.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.donors["condition"].value_counts().to_dict()
        {'control': 3, 'disease': 3}
        """
        donor = self._column("donor")
        obs = slots.cell_frame(self._adata)
        return slots.donor_table(
            obs, donor=donor, sample=self.settings.get("sample"), depth=slots.cell_depth(self._adata)
        )

    @property
    def cell_types(self) -> pd.DataFrame:
        """Number of cells, donors x cell types.

        Raises
        ------
        DesignError
            Which column holds the donor, or the cell type, is not known.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.cell_types.shape
        (6, 3)
        """
        donor, cell_type = self._column("donor"), self._column("cell_type")
        obs = slots.cell_frame(self._adata, [donor, cell_type])
        return obs.groupby([donor, cell_type], observed=True).size().unstack(fill_value=0)

    def audit(
        self,
        formula: str,
        *,
        features: str | None = None,
        weights_layer: str | None = None,
        family: Literal["nb", "poisson", "binomial"] | None = None,
        link: Literal["log", "logit", "cloglog"] | None = None,
        layer: str | None = None,
        obsm: str | None = None,
        obs_keys: str | Sequence[str] | None = None,
        response: Literal["detected"] | None = None,
        exposure: str | FloatArray | None = None,
        offset: str | FloatArray | None = None,
        trials: str | FloatArray | None = None,
        kernels: Mapping[str, Any] | None = None,
        relmat: Mapping[str, Any] | None = None,
        levels: Any = None,
    ) -> Audit:
        """Say what the design can answer, before any fit.

        Parameters
        ----------
        formula
            As for :func:`donorwise.tl.lmm`. The replicate is the donor declared by :meth:`setup`, else the
            column of obs or the grouping factor with the name of one.
        features, weights_layer
            Of peptides, as they will be given to :func:`donorwise.tl.lmm`, with `layer` where the values are one: what the
            runs can answer, and what is odd about the values, the weights and the proteins' names, which are looked at.
        family, link, layer, obsm, obs_keys, response, exposure, offset, trials
            Of a generalised model, as they will be given to :func:`donorwise.tl.glmm`; without a family the model is
            that of :func:`donorwise.tl.lmm`. They say how the model takes the depth of cells. Where one of `layer`, `obsm`,
            `obs_keys` and `response` says what is modelled, the values are looked at, too: whether they are counts, or
            yes and no, and in how many features an arm has no response, or nothing else.
        kernels, relmat, levels
            Of a linear mixed model with known covariances, as they will be given to :func:`donorwise.tl.lmm`.

        Returns
        -------
        A report that prints readably: for every contrast whether it lies between or within donors, the
        donors per arm, the difference in depth, and what is confounded.

        Raises
        ------
        FormulaError
            The formula does not parse.
        DesignError
            A column is missing, or a kernel that the formula names. A design that the data cannot answer is a warning of
            the report.
        DataError
            There is no such family or link, or one without an exposure is given one; or a kernel cannot be used.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.audit("~ condition + (1 | donor_id)").notes[0]
        'condition[T.disease]: these 300 cells are 6 replicates: 3 against 3.'
        """
        if features is not None or weights_layer is not None:
            from donorwise._anndata.prepare import prepare_lmm
            from donorwise._anndata.prepare_peptides import audit_peptides

            if family is not None:
                raise DesignError(
                    f"family={family!r} and features=: generalised models take counts feature by feature, and no peptides by protein. "
                    "Leave features= and weights_layer= out, or leave family= out to look at dw.tl.lmm, which takes them."
                )
            named = {
                "layer": layer,
                "obsm": obsm,
                "obs_keys": obs_keys,
                "kernels": kernels,
                "relmat": relmat,
                "levels": levels,
            }
            made = prepare_lmm(self._adata, formula, features=features, weights_layer=weights_layer, **named)
            return audit_peptides(self._adata, made)
        if family is None:
            from donorwise._anndata.prepare import audit_cells

            return audit_cells(self._adata, formula, kernels=kernels, relmat=relmat, levels=levels)
        from donorwise._anndata.prepare_counts import audit_counts

        if kernels or relmat:
            raise DesignError(
                f"family={family!r} and kernels=: generalised models take no known covariance between levels. Leave kernels= and "
                "relmat= out, or leave family= out to look at dw.tl.lmm, which takes them."
            )

        return audit_counts(
            self._adata, formula, family=family, link=link, layer=layer, obsm=obsm, obs_keys=obs_keys,
            response=response, exposure=exposure, offset=offset, trials=trials,
        )  # fmt: skip

    def __repr__(self) -> str:
        n_cells = slots.cell_count(self._adata)
        rows = f" (collapsed to {self._adata.n_obs:,} rows)" if slots.is_collapsed(self._adata) else ""
        lines = [f"donorwise on {n_cells:,} cells{rows} x {self._adata.n_vars:,} features"]
        lines += [f"  {name + ':':<11}{self._describe(role)}" for name, role in slots.find_roles(self._adata).items()]
        lines += [
            f"  {'result:':<11}{key!r}, {slots.read_params(self._adata, key)['formula']}"
            for key in slots.list_results(self._adata)
        ]
        if len(lines) == 1:
            lines.append("  no column declared or recognised: adata.donorwise.setup(donor=...)")
        return "\n".join(lines)

    def _describe(self, role: slots.Role) -> str:
        if not role.column:
            return f"{' or '.join(map(repr, role.candidates))}? Declare it with setup()"
        if role.column not in self._adata.obs.columns:
            return f"{role.column!r}, which is no longer in obs"
        levels = slots.obs_frame(self._adata, [role.column])[role.column].nunique()
        return f"{role.column!r}{' (guessed)' if role.guessed else ''}, {levels:,} levels"

    def _column(self, name: str) -> str:
        """Return the column that plays a role.

        Raises
        ------
        DesignError
            None or several could be meant, or the declared one is no longer there.
        """
        role = slots.find_roles(self._adata).get(name)
        remedy = f"Declare it with adata.donorwise.setup({name}=...)."
        if role is None:
            raise DesignError(f"No column of obs is known to hold the {name.replace('_', ' ')}. {remedy}")
        if not role.column:
            several = " and ".join(map(repr, role.candidates))
            raise DesignError(f"{several} could hold the {name.replace('_', ' ')}, and they differ. {remedy}")
        slots.check_obs_columns(self._adata, [role.column])
        if role.guessed:
            logger.info("%s: using obs column %r. %s", name, role.column, remedy)
        return role.column


class _Uncached:
    """Builds the accessor at every access.

    anndata's own descriptor keeps the accessor on the AnnData: a reference cycle, a class inside every
    pickle, and a copy that speaks for the original.
    """

    def __get__(self, adata: ad.AnnData | None, owner: type | None = None) -> Any:
        return DonorwiseAccessor if adata is None else DonorwiseAccessor(adata)

    def __set__(self, adata: ad.AnnData, value: object) -> None:
        raise AttributeError("adata.donorwise cannot be replaced; use adata.donorwise.setup(...).")


def register() -> None:
    """Make ``adata.donorwise`` available on every AnnData."""
    if not isinstance(ad.AnnData.__dict__.get("donorwise"), _Uncached):
        # anndata's decorator checks the name and the signature
        ad.register_anndata_namespace("donorwise")(DonorwiseAccessor)
        ad.AnnData.donorwise = _Uncached()


register()
