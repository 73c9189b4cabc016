"""From an AnnData and genotypes to a scan: everything that can be wrong is found before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import cell_depth, examined, find_roles, is_collapsed, resolve_response
from donorwise._anndata.gene_positions import gene_positions, told_unplaced
from donorwise._anndata.kernels import with_kernels
from donorwise._anndata.obs import as_frame
from donorwise._anndata.prepare import assemble_lmm, collapsed_response, scale_of_rows
from donorwise._anndata.roles import known_columns, said_of_labels
from donorwise._core.design.formula import parse
from donorwise._core.engine import cautions
from donorwise._core.engine.arrays import check_weights
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.scan import EVERY
from donorwise._core.engine.scan_setup import (
    about_weights,
    build_scan,
    check_options,
    donor_factor,
    donor_names,
    one_row_each,
    without_own,
)
from donorwise._core.kinship.donors import matched, told_unmatched
from donorwise._core.kinship.labels import bare_chromosomes
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._anndata.roles import Role
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.scan import Genes, Scan, ScanOptions
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, FloatArray, GroupBy, StrArray


def prepare_scan(
    adata: ad.AnnData,
    genotypes: Genotypes,
    formula: str,
    options: ScanOptions,
    *,
    donor: str | None = None,
    groupby: GroupBy = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    n_jobs: int | None = None,
    genes_text: str = "adata.var",
) -> Scan:
    """Check all that :func:`donorwise.tl.scan` is given; `genes_text` is what messages call the table of genes.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.scan`.
    """
    roles = find_roles(adata)
    columns = donor_factor(parse(formula), donor, roles["donor"].column if "donor" in roles else "")
    match = matched(genotypes, donor_names(as_frame(adata.obs), columns))
    check_options(options, genotypes)
    if not match.rows_used.all():
        weights = weights if weights is None or isinstance(weights, str) else np.asarray(weights)[match.rows_used]
        adata = adata[match.rows_used]
    named: dict[str, Any] = {"layer": layer, "obsm": obsm, "obs_keys": obs_keys, "mask_var": mask_var}
    collapsed = is_collapsed(adata)
    response, scale = (
        (collapsed_response(adata, **named), scale_of_rows(adata))
        if collapsed
        else examined(adata, resolve_response(adata, **named))
    )
    groups = group_columns(groupby)
    by_chromosome = _by_chromosome(kernels, options.loco)
    first = next(iter(by_chromosome.values()))
    parsed = with_kernels(adata, formula, first, relmat, levels)
    names = donor_names(as_frame(adata.obs), columns)
    alone = not collapsed and one_row_each(as_frame(adata.obs), names, groups, names != "")
    w = check_weights(weights, as_frame(adata.obs)) if alone else None
    unequal = w is not None and bool(np.ptp(w) > 0)  # (1 | donor) is told from the residual, whose variances are 1 / w
    parsed = without_own(parsed, columns, names) if alone and not unequal else parsed
    analysis = assemble_lmm(
        adata, parsed, response, groupby=groups, weights=weights, roles=roles, columns=columns, n_jobs=n_jobs,
        residual=not unequal,
    )  # fmt: skip
    analyses = {
        chrom: _with_kernels(analysis, with_kernels(adata, formula, own, relmat, levels))
        for chrom, own in by_chromosome.items()
    }
    known = genotypes.chromosomes
    chrom = np.full(genotypes.n_variants, "") if known is None else bare_chromosomes(known)
    _check_chromosomes(by_chromosome, chrom)
    genes = _genes(adata, response, chrom, genes_text) if options.mode == "cis" else None
    said = [*told_unmatched(match), *said_of_labels(adata, roles, parsed)]
    said += [] if genes is None else told_unplaced(genes, response.variables)
    if alone:
        said += [scale] if scale else []
        said += [] if w is None else about_weights(w, parsed, columns)
    else:
        said += _of_cells(adata, analysis, response, scale, roles)
    cell_names = donor_names(analysis.obs, columns) if collapsed else names
    return build_scan(analyses, genotypes, chrom, genes, columns, cell_names, options, said)


def _of_cells(
    adata: ad.AnnData, analysis: LmmAnalysis, response: Response, scale: str, roles: Mapping[str, Role]
) -> tuple[str, ...]:
    """What models of several rows of a donor are warned of."""
    depth = cell_depth(adata) if response.aligned_to_var else None
    known = known_columns(roles, analysis.obs)
    return cautions.of_cells(analysis, raw_counts=False, scale=scale, depth=depth, roles=known)


def _genes(adata: ad.AnnData, response: Response, chrom: StrArray, text: str) -> Genes:
    """Where the features of a response are."""
    if not response.aligned_to_var:
        raise DesignError(
            f"mode='cis' needs positions in adata.var, to which {response.text} does not belong: take mode='gwas'."
        )
    return gene_positions(as_frame(adata.var).loc[list(response.variables)], chrom, text=text)


def _check_chromosomes(by_chromosome: Mapping[str, Any], chrom: StrArray) -> None:
    """Raise where variants are on chromosomes that no kernel leaves out."""
    if EVERY in by_chromosome:
        return
    if missing := [name for name in dict.fromkeys(chrom.tolist()) if name not in by_chromosome]:
        raise DesignError(
            f"loco=True: there are variants on {listing(missing)}, which no kernel leaves out; those given leave out "
            f"{listing(by_chromosome)}. Add them to the dict (of X, the kernel of all other chromosomes), or leave these variants out."
        )


def _by_chromosome(kernels: Mapping[str, Any] | None, loco: bool) -> dict[str, Mapping[str, Any] | None]:
    """Kernels by the chromosome that they leave out, as ``dw.pp.relatedness(..., loco=True)`` gives them."""
    given = dict(kernels or {})
    several = {name: value for name, value in given.items() if isinstance(value, dict)}
    if not loco:
        if several:
            raise DesignError(
                f"The kernel {next(iter(several))!r} is one for each chromosome: loco=True takes the one that leaves out that of "
                "the variant."
            )
        return {EVERY: kernels}
    if not several:
        raise DesignError(
            "loco=True needs a kernel for each chromosome: kernels={'grm': dw.pp.relatedness(genotypes, loco=True)}, with "
            "(1 | gr(donor_id, cov=grm)) in the formula."
        )
    chromosomes = list(dict.fromkeys(c for value in several.values() for c in value))
    plain = bare_chromosomes(np.array(chromosomes, dtype=str))
    return {
        str(name): {k: v[chrom] if isinstance(v, dict) else v for k, v in given.items()}
        for name, chrom in zip(plain, chromosomes, strict=True)
    }


def _with_kernels(analysis: LmmAnalysis, parsed: ParsedFormula) -> LmmAnalysis:
    """The same analysis with the kernels of another formula of the same terms."""
    kernels = {bar.cov: bar.kernel for bar in parsed.bars if bar.kernel is not None}
    if not kernels:
        return analysis
    tasks = [
        task
        if task.design is None
        else replace(task, design=replace(task.design, random_terms=tuple(
            replace(t, bar=replace(t.bar, kernel=kernels.get(t.bar.cov, t.bar.kernel))) for t in task.design.random_terms
        )))
        for task in analysis.tasks
    ]  # fmt: skip
    return replace(analysis, formula=analysis.formula.with_kernels(kernels), tasks=tasks)
