"""The models of ``adata.donorwise``: those of :mod:`donorwise.tl`, on the AnnData at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import BoolArray, Ddf, FloatArray, GlmmDdf, GroupBy, Robust


class Models:
    """What the accessor fits."""

    _adata: ad.AnnData

    def lmm(
        self,
        formula: str,
        *,
        groupby: GroupBy = None,
        features: str | None = None,
        layer: str | None = None,
        obsm: str | None = None,
        obs_keys: str | Sequence[str] | None = None,
        mask_var: str | BoolArray | None = None,
        weights: str | FloatArray | None = None,
        weights_layer: str | None = None,
        log_base: str | float | None = None,
        kernels: Mapping[str, Any] | None = None,
        relmat: Mapping[str, Any] | None = None,
        levels: Any = None,
        contrasts: Any = None,
        ddf: Ddf = "moderated",
        reml: bool = True,
        robust: Robust | None = None,
        key_added: str = "lmm",
        n_jobs: int | None = None,
        max_memory: float | None = None,
        progress: bool = True,
        copy: bool = False,
    ) -> ad.AnnData | None:
        """Fit and test a linear mixed model for every feature.

        Parameters, results and errors are those of :func:`donorwise.tl.lmm`.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.lmm("~ condition + (1 | donor_id)", progress=False)
        >>> len(dw.get.tests(adata))
        20
        """
        from donorwise.tl import lmm

        return lmm(
            self._adata,
            formula,
            groupby=groupby,
            features=features,
            layer=layer,
            obsm=obsm,
            obs_keys=obs_keys,
            mask_var=mask_var,
            weights=weights,
            weights_layer=weights_layer,
            log_base=log_base,
            kernels=kernels,
            relmat=relmat,
            levels=levels,
            contrasts=contrasts,
            ddf=ddf,
            reml=reml,
            robust=robust,
            key_added=key_added,
            n_jobs=n_jobs,
            max_memory=max_memory,
            progress=progress,
            copy=copy,
        )

    def glmm(
        self,
        formula: str,
        *,
        family: Literal["nb", "poisson", "binomial"] = "nb",
        link: Literal["log", "logit", "cloglog"] | None = None,
        layer: str | None = None,
        obsm: str | None = None,
        obs_keys: str | Sequence[str] | None = None,
        response: Literal["detected"] | None = None,
        exposure: str | FloatArray | None = None,
        offset: str | FloatArray | None = None,
        trials: str | FloatArray | None = None,
        groupby: GroupBy = None,
        mask_var: str | BoolArray | None = None,
        contrasts: Any = None,
        ddf: GlmmDdf = "moderated",
        key_added: str = "glmm",
        n_jobs: int | None = None,
        max_memory: float | None = None,
        progress: bool = True,
        copy: bool = False,
    ) -> ad.AnnData | None:
        """Fit and test a mixed model of counts, or of yes and no, for every feature.

        Parameters, results and errors are those of :func:`donorwise.tl.glmm`.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.glmm("~ condition + (1 | donor_id)", layer="counts", progress=False)
        >>> len(dw.get.tests(adata, key="glmm"))
        20
        """
        from donorwise.tl import glmm

        return glmm(
            self._adata,
            formula,
            family=family,
            link=link,
            layer=layer,
            obsm=obsm,
            obs_keys=obs_keys,
            response=response,
            exposure=exposure,
            offset=offset,
            trials=trials,
            groupby=groupby,
            mask_var=mask_var,
            contrasts=contrasts,
            ddf=ddf,
            key_added=key_added,
            n_jobs=n_jobs,
            max_memory=max_memory,
            progress=progress,
            copy=copy,
        )

    def composition(
        self,
        formula: str,
        *,
        cell_type: str | None = None,
        sample: str | None = None,
        groupby: GroupBy = None,
        contrasts: Any = None,
        ddf: GlmmDdf = "moderated",
        key_added: str = "composition",
        n_jobs: int | None = None,
        progress: bool = True,
        copy: bool = False,
    ) -> ad.AnnData | None:
        """Test whether cell types have other shares of the samples.

        Parameters, results and errors are those of :func:`donorwise.tl.composition`.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> adata.donorwise.composition("~ condition + (1 | donor_id)", progress=False)
        >>> len(dw.get.tests(adata, key="composition"))
        3
        """
        from donorwise.tl import composition

        return composition(
            self._adata,
            formula,
            cell_type=cell_type,
            sample=sample,
            groupby=groupby,
            contrasts=contrasts,
            ddf=ddf,
            key_added=key_added,
            n_jobs=n_jobs,
            progress=progress,
            copy=copy,
        )

    def scan(
        self,
        genotypes: Any,
        formula: str,
        *,
        mode: str = "cis",
        window: float | None = 1_000_000,
        groupby: GroupBy = None,
        layer: str | None = None,
        obsm: str | None = None,
        obs_keys: str | Sequence[str] | None = None,
        mask_var: str | BoolArray | None = None,
        weights: str | FloatArray | None = None,
        kernels: Mapping[str, Any] | None = None,
        relmat: Mapping[str, Any] | None = None,
        levels: Any = None,
        donor: str | None = None,
        variants: pd.DataFrame | None = None,
        interaction: str | None = None,
        test: str = "wald",
        refit: str = "screen",
        screen: float = 1e-3,
        gene_test: str | None = None,
        n_permutations: int = 1000,
        loco: bool = False,
        maf: float = 0.01,
        missing: float = 0.05,
        out: str | os.PathLike[str] | None = None,
        p_max: float | None = None,
        seed: int = 0,
        key_added: str = "scan",
        n_jobs: int | None = None,
        max_memory: float | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: bool = True,
        copy: bool = False,
    ) -> ad.AnnData | None:
        """Test genetic variants of the donors in the mixed models of many features.

        Parameters, results and errors are those of :func:`donorwise.tl.scan`.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=1500, n_genes=10, n_variants=200, seed=1)
        >>> adata.donorwise.scan(genotypes, "~ sex + (1 | donor_id)", progress=False)
        >>> len(adata.uns["scan"]["results"])
        10
        """
        from donorwise.tl import scan

        return scan(
            self._adata,
            genotypes,
            formula,
            mode=mode,
            window=window,
            groupby=groupby,
            layer=layer,
            obsm=obsm,
            obs_keys=obs_keys,
            mask_var=mask_var,
            weights=weights,
            kernels=kernels,
            relmat=relmat,
            levels=levels,
            donor=donor,
            variants=variants,
            interaction=interaction,
            test=test,
            refit=refit,
            screen=screen,
            gene_test=gene_test,
            n_permutations=n_permutations,
            loco=loco,
            maf=maf,
            missing=missing,
            out=out,
            p_max=p_max,
            seed=seed,
            key_added=key_added,
            n_jobs=n_jobs,
            max_memory=max_memory,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            copy=copy,
        )
