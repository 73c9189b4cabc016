"""Plots of scans along the genome show what the tables say, from wherever the scan is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from tests._scan import write_folder
from tests._scans import study

import donorwise as dw
from donorwise._anndata import read_scan
from donorwise._core.inference.genomic_control import genomic_lambda_of_p
from donorwise.errors import DataError, DonorwiseError
from donorwise.pl._manhattan_data import genome_of, thin
from donorwise.pl._scan_genotypes import dosages, r_squared
from donorwise.pl._scan_quantiles import scan_shape
from donorwise.pl._style import VERMILION

PLOTS: dict[str, Any] = {
    "manhattan": dw.pl.manhattan,
    "qq": lambda source, **options: dw.pl.qq(source, **{"key": "scan", **options}),
    "pvalues": lambda source, **options: dw.pl.pvalues(source, **{"key": "scan", **options}),
    "locus": lambda source, **options: dw.pl.locus(source, "gene_08", **options),
}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before, "a plot changed the user's settings"


@pytest.fixture
def adata() -> ad.AnnData:
    return study().adata


def _points(ax: Axes, *colors: str) -> np.ndarray:
    """Places of the points, of some colours or of all."""
    drawn = [c for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_offsets())]
    chosen = [c for c in drawn if not colors or to_hex(c.get_facecolors()[0]).upper() in colors]
    return np.concatenate([np.empty((0, 2)), *(np.asarray(c.get_offsets()) for c in chosen)])


def _texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


@pytest.mark.parametrize("plot", PLOTS)
def test_what_comes_back(adata: ad.AnnData, plot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = PLOTS[plot]
    _, ax = plt.subplots()
    assert draw(adata, group="B", ax=ax) is ax
    assert isinstance(draw(adata, group="B"), Axes)
    assert isinstance(draw(adata, return_fig=True), Figure)
    assert len(draw(adata)) == 2
    monkeypatch.setattr(plt, "show", lambda: None)
    assert draw(adata, show=True) is None
    with pytest.raises(DonorwiseError, match="ax= holds one panel and this plot has 2; choose one group"):
        draw(adata, ax=ax)
    with pytest.raises(DonorwiseError, match="no group 'NK'"):
        draw(adata, group="NK")


@pytest.mark.parametrize("plot", PLOTS)
def test_any_source_gives_the_same_picture(adata: ad.AnnData, plot: str, tmp_path: Path) -> None:
    scan = study().scan
    places = [_points(ax) for ax in PLOTS[plot](adata)]
    for source in (scan, write_folder(scan, tmp_path / "scan"), str(tmp_path / "scan")):
        for ax, expected in zip(PLOTS[plot](source), places, strict=True):
            np.testing.assert_allclose(np.sort(_points(ax), axis=0), np.sort(expected, axis=0))


def test_genes_are_those_of_the_lead_table(adata: ad.AnnData) -> None:
    lead = study().scan.results
    for group, ax in zip(("B", "T"), dw.pl.manhattan(adata, n_labels=3), strict=True):
        own = lead[lead["group"] == group]
        np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), np.sort(-np.log10(own["p_gene"])))
        hits = own[own["adj_p_gene"] <= 0.05].sort_values("p_gene")
        assert len(_points(ax, VERMILION)) == len(hits) > 0
        assert set(hits["gene"].head(3)) <= set(_texts(ax))
        assert "FDR 5% " in _texts(ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "10", "X"]


def test_genes_without_a_p_value_have_that_of_their_lead_variant() -> None:
    scan = study().scan
    bare = scan._replace(results=scan.results.assign(p_gene=np.nan, adj_p_gene=np.nan, q_value=np.nan))
    ax = dw.pl.manhattan(bare, group="B")
    own = scan.results[scan.results["group"] == "B"]
    np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), np.sort(own["neg_log10_p"]))
    assert ax.get_ylabel() == "$-\\log_{10}$ p of the lead variant"
    assert len(_points(ax, VERMILION)) == 0


def test_variants_of_one_gene_are_in_their_places(adata: ad.AnnData) -> None:
    tests = study().scan.tests
    own = tests[(tests["group"] == "B") & (tests["gene"] == "gene_10")]
    ax = dw.pl.manhattan(adata, group="B", gene="gene_10", level="variant", threshold=1e-4)
    np.testing.assert_allclose(
        _points(ax)[np.argsort(_points(ax)[:, 1])], own.sort_values("neg_log10_p")[["pos", "neg_log10_p"]]
    )
    assert ax.get_xlabel() == "chromosome X (Mb)"
    best = own.loc[own["neg_log10_p"].idxmax()]
    assert best["variant"] in _texts(ax)
    assert "p = 1e-4 " in _texts(ax)
    assert ax.get_title(loc="left") == "B, gene_10"


def test_labels_that_are_asked_for_are_written(adata: ad.AnnData) -> None:
    adata.var["symbol"] = [f"SYM{i}" for i in range(adata.n_vars)]
    ax = dw.pl.manhattan(adata, group="B", n_labels=0, labels=["gene_01", "gene_08"])
    assert {"gene_01", "gene_08"} <= set(_texts(ax))
    ax = dw.pl.manhattan(adata, group="B", n_labels=1, labels="SYM1", gene_symbols="symbol")
    assert {"SYM1", "SYM10"} <= set(_texts(ax))
    variant = study().scan.tests["variant"].iloc[3]
    ax = dw.pl.manhattan(adata, group="B", level="variant", n_labels=0, labels=variant)
    assert f"{variant} (gene_00)" in _texts(ax)
    with pytest.raises(DataError, match="no gene of the scan and no variant that is drawn is called 'rs_no'"):
        dw.pl.manhattan(adata, labels="rs_no")
    with pytest.raises(DataError, match="gene_symbols='symbol' is a column of adata.var: give the AnnData"):
        dw.pl.manhattan(study().scan, gene_symbols="symbol")


def _genome_wide(n: int) -> SimpleNamespace:
    """A trait against many variants of 24 chromosomes, with four peaks."""
    rng = np.random.default_rng(0)
    chrom = np.sort(rng.integers(0, 24, n))
    pos, y = rng.integers(1, 100_000_000, n), rng.exponential(1 / np.log(10), n)
    for c, p, height in ((1, 2e7, 30), (1, 8e7, 20), (9, 5e7, 400), (22, 1e7, 12)):
        near = np.flatnonzero((chrom == c) & (np.abs(pos - p) < 400_000))
        y[near] += height * (1 - np.abs(pos[near] - p) / 5e5)
    names = np.array([f"chr{c}" for c in [*range(1, 23), "X", "Y"]])
    tests = pd.DataFrame(
        {"gene": "height", "group": "all", "variant": [f"rs{i}" for i in range(n)], "chrom": names[chrom]}
    )
    tests = tests.assign(a0="A", a1="G", pos=pos, neg_log10_p=y, p_value=10.0**-y, beta=0.1, status="ok")
    results = tests.loc[[y.argmax()]].assign(p_gene=np.nan, adj_p_gene=np.nan)
    counts = pd.DataFrame({"group": ["all"], "statistic": [0.0], "p_value": [1.0], "count": [n]})
    return SimpleNamespace(tests=tests, results=results, counts=counts, params={"mode": "gwas"})


def test_many_variants_are_thinned_and_the_best_stay() -> None:
    scan = _genome_wide(200_000)
    ax = dw.pl.manhattan(scan)
    points, y = _points(ax), scan.tests["neg_log10_p"].to_numpy()
    assert 20_000 < len(points) < 80_000
    np.testing.assert_allclose(np.sort(_points(ax, VERMILION)[:, 1]), np.sort(y[y >= -np.log10(5e-8)]))
    assert points[:, 1].max() == y.max() > 300, "no underflow"
    assert all(c.get_rasterized() for c in ax.collections)
    named = [name for name in _texts(ax) if name.startswith("rs")]
    peaks = scan.tests.set_index("variant").loc[named]
    assert sorted(peaks["chrom"]) == ["chr10", "chr2", "chr2", "chrX"], "one name for a peak"
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert shown[:3] == ["1", "2", "3"] and "X" in shown


@pytest.mark.parametrize("n_blocks", [1, 7])
def test_thinning_keeps_the_highest_of_every_spot(n_blocks: int) -> None:
    rng = np.random.default_rng(1)
    n = 50_000
    table = pd.DataFrame(
        {"gene": "g", "variant": [f"v{i}" for i in range(n)], "chrom": "1", "y": rng.exponential(0.6, n)}
    )
    table["pos"] = rng.integers(0, 10_000_000, n).astype(float)
    kept = table.iloc[:0]
    for block in np.array_split(np.arange(n), n_blocks):
        kept = thin(pd.concat([kept, table.iloc[block]]), line=4.0, labels=["v17"])
    assert len(kept) < n
    assert set(table["variant"][table["y"] >= 4]) | {"v17"} <= set(kept["variant"])
    for low in np.arange(0, 10_000_000, 500_000):  # naive twin: the envelope of all points
        own, all_of = (t[t["pos"].between(low, low + 500_000)]["y"].max() for t in (kept, table))
        assert own == all_of


def test_chromosomes_are_in_their_natural_order() -> None:
    names = ["X", "10", "2", "MT", "1", "Y", "GL000"]
    genome = genome_of([pd.DataFrame({"chrom": names, "pos": [100.0] * 7})])
    assert genome.names == ("1", "2", "10", "X", "Y", "MT", "GL000")
    assert (genome.starts[1:] > genome.ends[:-1]).all()


@pytest.mark.parametrize("p_max", [None, 1e-3])
def test_quantiles_are_those_of_all_tests(p_max: float | None) -> None:
    made, every = study(n_genes=24, p_max=p_max), study(n_genes=24).scan.tests
    scan = read_scan(made.scan)
    for group in ("B", "T"):
        p = np.sort(every["p_value"][every["group"] == group])
        shape = scan_shape(scan, group)
        assert shape is not None
        assert shape.n == p.size
        # exact where tests were kept; elsewhere a point lies between the p-values of its rank and the next
        n_kept = int((made.scan.tests["group"] == group).sum())
        exact = shape.rank <= min(n_kept, 1_000)
        np.testing.assert_allclose(shape.neg_log10_p[exact], -np.log10(p[shape.rank[exact] - 1]))
        later = shape.rank[~exact]
        p_drawn = 10.0 ** -shape.neg_log10_p[~exact]
        assert later.size > 50
        assert (p_drawn >= p[later - 1] * (1 - 1e-9)).all()
        assert (p_drawn <= np.append(p, 1.0)[later] * (1 + 1e-9)).all()
        assert shape.histogram.sum() == pytest.approx(p.size)
        np.testing.assert_allclose(shape.histogram, np.histogram(p, 20, (0, 1))[0], atol=0.02 * p.size)


def test_quantiles_say_how_many_tests_and_lambda(adata: ad.AnnData) -> None:
    counts, tests = study().scan.counts, study().scan.tests
    for group, ax in zip(("B", "T"), dw.pl.qq(adata, key="scan"), strict=True):
        own = counts[counts["group"] == group]
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["95% of independent tests", f"{own['count'].sum():,} tests"]
        (text,) = (text for text in _texts(ax) if "lambda" in text)
        expected = genomic_lambda_of_p(tests["p_value"][tests["group"] == group].to_numpy())
        assert float(text.split("=")[1]) == pytest.approx(expected, abs=0.03)
        assert ax.get_title() == group
    assert dw.pl.pvalues(adata, key="scan", group="B").get_ylabel() == "tests"
    with pytest.raises(DataError, match="contrast='x': a scan has one test of a variant"):
        dw.pl.qq(adata, key="scan", contrast="x")


def test_locus_shows_the_tests_of_its_gene(adata: ad.AnnData) -> None:
    made = study()
    ax = dw.pl.locus(adata, "gene_10", made.genotypes, group="B", threshold=1e-4)
    tests = made.scan.tests
    own = tests[(tests["group"] == "B") & (tests["gene"] == "gene_10")].sort_values("neg_log10_p")
    points = _points(ax)
    np.testing.assert_allclose(
        points[np.argsort(points[:, 1])], np.column_stack([own["pos"] / 1e6, own["neg_log10_p"]])
    )
    best = own.iloc[-1]
    np.testing.assert_allclose(_points(ax, VERMILION), [[best["pos"] / 1e6, best["neg_log10_p"]]])
    assert {best["variant"], "gene_10", "p = 1e-4 "} <= set(_texts(ax))
    assert ax.get_xlabel() == "position on chromosome X (Mb)"
    assert ax.get_ylim()[0] < 0 <= min(ax.get_yticks()), "the gene stands below zero"
    assert [a.get_ylabel() for a in ax.figure.axes[1:]] == ["r² with the lead variant"]
    assert dw.pl.locus(made.scan, "gene_10", group="B").get_ylim()[0] == 0, "no var, no gene"


@pytest.mark.parametrize("column", ["start", "tss"])
def test_arrow_of_the_gene_is_that_of_its_strand(adata: ad.AnnData, column: str) -> None:
    adata.var = adata.var.rename(columns={"start": column, "chrom": "Chromosome"})
    if column == "tss":
        del adata.var["end"]
    heads = {}
    for gene in ("gene_08", "gene_09"):
        ax = dw.pl.locus(adata, gene, group="B")
        heads[gene] = [line.get_marker() for line in ax.lines if line.get_marker() in ("<", ">")]
    assert heads == {"gene_08": [">"], "gene_09": ["<"]}


def test_a_locus_of_a_scan_of_the_whole_genome_is_around_its_best_variant() -> None:
    scan = _genome_wide(20_000)
    best = scan.tests.loc[scan.tests["neg_log10_p"].idxmax()]
    for window, reach in ((None, 1_000_000), (300_000, 300_000)):
        ax = dw.pl.locus(scan, "height", window=window)
        near = (scan.tests["chrom"] == best["chrom"]) & ((scan.tests["pos"] - best["pos"]).abs() <= reach)
        np.testing.assert_allclose(np.sort(_points(ax)[:, 1]), np.sort(scan.tests["neg_log10_p"][near]))
        assert best["variant"] in _texts(ax)
        assert ax.get_xlabel() == "position on chromosome 10 (Mb)"


def test_direction_is_that_of_the_estimates(adata: ad.AnnData) -> None:
    made = study()
    ax = dw.pl.locus(adata, "gene_10", group="B", direction=True)
    tests = made.scan.tests
    own = tests[(tests["group"] == "B") & (tests["gene"] == "gene_10")]
    up, down = (len(c.get_offsets()) for c in ax.collections[:2])
    assert up + down == len(own) - 1
    assert abs(up - (own["beta"] > 0).sum()) <= 1


def _named(genotypes: ad.AnnData, *names: str) -> pd.DataFrame:
    """Tests of some variants."""
    return genotypes.var.loc[list(names)].rename_axis("variant").reset_index()


def test_linkage_is_the_squared_correlation() -> None:
    genotypes = study().genotypes
    genotypes.X[3, 4] = np.nan
    names = [f"rs{i}" for i in (700, 2, 4, 100)]
    values = dosages(genotypes, _named(genotypes, *names)).to_numpy().copy()
    full = genotypes.to_df()[names]
    np.testing.assert_array_equal(values, full)
    expected = full.fillna(full.mean()).corr()["rs4"] ** 2
    np.testing.assert_allclose(r_squared(values, 2), expected, rtol=1e-6)
    values[:, 1] = 1.0
    assert np.isnan(r_squared(values, 2)[1])


def test_genotypes_are_those_of_the_allele_that_was_counted() -> None:
    genotypes = study().genotypes
    tests, x = _named(genotypes, "rs5", "rs6"), genotypes.X[:, [5, 6]].copy()
    genotypes.var.loc["rs5", ["a0", "a1"]] = genotypes.var.loc["rs5", ["a1", "a0"]].to_numpy()
    np.testing.assert_array_equal(dosages(genotypes, tests), np.column_stack([2 - x[:, 0], x[:, 1]]))
    # one name for two variants of one place: the one with these alleles
    genotypes.var_names = ["rs6" if name == "rs7" else name for name in genotypes.var_names]
    genotypes.var.iloc[7, genotypes.var.columns.get_loc("a1")] = "TTT"
    np.testing.assert_array_equal(dosages(genotypes, tests.iloc[1:])[0], x[:, 1])
    other = tests.iloc[1:].assign(a0="N", a1="TTT")
    with pytest.raises(DataError, match="has none of the variants asked for, such as 'rs6'"):
        dosages(genotypes, other)
    del genotypes.var["a0"], genotypes.var["a1"]
    np.testing.assert_array_equal(dosages(genotypes, tests.iloc[1:])[0], x[:, 1])


def test_linkage_needs_the_lead_variant(adata: ad.AnnData) -> None:
    genotypes = study().genotypes
    best = study().scan.results.set_index(["gene", "group"]).loc[("gene_08", "B"), "variant"]
    with pytest.raises(DataError, match=f"genotypes do not have the lead variant {best!r}"):
        dw.pl.locus(adata, "gene_08", genotypes[:, genotypes.var_names != best], group="B")
    for others in (genotypes[:, :5], np.asarray(genotypes.X)):
        with pytest.raises(DataError, match="has none of the variants asked for, such as 'rs"):
            dw.pl.locus(adata, "gene_08", others)


def test_what_was_not_kept_is_said() -> None:
    made = study(p_max=1e-3)
    panels = dw.pl.locus(made.scan, "gene_08")
    assert all(" p above 0.001: not kept" in _texts(ax) for ax in panels)
    with pytest.raises(
        DataError, match=r"No test of 'gene_01' was kept: its smallest p-value, of 'rs\d+', is .*p_max=0.001"
    ):
        dw.pl.locus(made.scan, "gene_01", group="B")
    results = made.scan.results.copy()
    results.loc[results["gene"] == "gene_01", ["p_value", "neg_log10_p", "p_gene"]] = np.nan
    results.loc[results["gene"] == "gene_01", "status"] = "no_variants"
    with pytest.raises(DataError, match=r"No variant was tested for 'gene_01' \(status: no_variants\)"):
        dw.pl.locus(made.scan._replace(results=results), "gene_01")


def test_errors(adata: ad.AnnData, tmp_path: Path) -> None:
    for draw in (lambda s: dw.pl.locus(s, "gene_99"), lambda s: dw.pl.manhattan(s, gene="gene_99")):
        with pytest.raises(DataError, match="no gene 'gene_99' in this scan. Did you mean"):
            draw(adata)
    with pytest.raises(DataError, match="no scan 'other'"):
        dw.pl.manhattan(adata, key="other")
    with pytest.raises(DataError, match="is not the folder of a scan"):
        dw.pl.manhattan(tmp_path)
    with pytest.raises(DonorwiseError, match="level='trait' is not an option"):
        dw.pl.manhattan(adata, level="trait")  # type: ignore[arg-type]
    for wrong in (0, 5, "FDR"):
        with pytest.raises(DonorwiseError, match=r"threshold=.* must be a p-value between 0 and 1, such as 0.05"):
            dw.pl.manhattan(adata, threshold=wrong)
    with pytest.raises(DonorwiseError, match="threshold=0 must be a p-value"):
        dw.pl.locus(adata, "gene_08", threshold=0)
    with pytest.raises(DonorwiseError, match="window=-1 must be a number of base pairs"):
        dw.pl.locus(adata, "gene_08", window=-1)
    with pytest.raises(DataError, match="no test of 'gene_08' with the variant 'rs_no' was kept"):
        dw.pl.locus(adata, "gene_08", labels="rs_no")
    scan = study().scan
    nowhere = {name: getattr(scan, name).assign(pos=np.nan) for name in ("tests", "results")}
    for level in ("gene", "variant"):
        with pytest.raises(DataError, match="no chromosomes and positions, which a Manhattan plot needs"):
            dw.pl.manhattan(scan._replace(**nowhere), level=level)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="have no positions"):
        dw.pl.locus(scan._replace(**nowhere), "gene_08")
    with pytest.raises(DataError, match="level='gene' draws the lead variants"):
        dw.pl.manhattan(study(p_max=1e-30).scan, level="variant")


@pytest.mark.parametrize("plot", ["manhattan", "locus"])
def test_words_are_on_nothing_else(plot: str) -> None:
    groups = ("CD8-positive, alpha-beta memory T cell of the blood", "B", "monocyte")
    adata = study(groups).adata
    for ax in PLOTS[plot](adata, threshold=0.01, labels=[]):
        ax.figure.draw_without_rendering()
        words = [text for text in [*ax.texts, ax.title] if text.get_text()]
        boxes = [Text.get_window_extent(text) for text in words]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2)), [text.get_text() for text in words]
        ticks = [Text.get_window_extent(t) for t in ax.get_xticklabels() if t.get_text()]
        assert not any(a.overlaps(b) for a, b in combinations(ticks, 2))
        names = [t for t in ax.texts if isinstance(t, Annotation) and t.get_text().startswith(("gene", "rs"))]
        assert names
