"""Random effects, courses over time, designs and calibrations: what is drawn is what the numbers say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests._models import LINES, SLOPES, model

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseError

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


@pytest.fixture
def visits() -> ad.AnnData:
    return model("visits")


@pytest.fixture(scope="module")
def calibrated() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=500, n_genes=40, cell_types=("T", "B"), seed=1)
    dw.tl.calibrate(
        adata, "~ condition + (1 | donor_id)", "condition[T.disease]", groupby="cell_type", n_permutations=15,
        progress=False,
    )  # fmt: skip
    return adata


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before, "a plot changed the user's settings"


def _points(ax: Axes) -> list[PathCollection]:
    """Scattered points, not the handles of a legend."""
    return [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]


def _is_cross(points: PathCollection) -> bool:
    """Whether the markers are crosses, for donors without cells."""
    return len(points.get_paths()[0].vertices) == 4


def _areas(ax: Axes) -> dict[tuple[float, float], float]:
    """Area of every marker of cells by its place."""
    found = {}
    for points in _points(ax):
        sizes = np.broadcast_to(points.get_sizes(), len(points.get_offsets()))
        if not _is_cross(points):
            found |= {(x, y): s for (x, y), s in zip(points.get_offsets().tolist(), sizes, strict=True)}
    return found


@pytest.mark.parametrize("plot", ["ranef", "trajectories", "design", "calibration"])
def test_what_comes_back(
    visits: ad.AnnData, calibrated: ad.AnnData, plot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(**options: Any) -> Any:
        match plot:
            case "ranef":
                return dw.pl.ranef(visits, "gene_0001", **options)
            case "trajectories":
                return dw.pl.trajectories(visits, "gene_0001", x="time", **options)
            case "design":
                return dw.pl.design(visits, LINES, **options)
        return dw.pl.calibration(calibrated, table="levels", **options)

    _, ax = plt.subplots()
    before = visits.obs.copy(), list(visits.uns)
    assert draw(ax=ax) is ax
    assert isinstance(draw(), Axes)
    assert isinstance(draw(return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert draw(show=True) is None
    assert shown
    pd.testing.assert_frame_equal(visits.obs, before[0])
    assert list(visits.uns) == before[1]


@pytest.mark.parametrize("key", ["lmm", "slopes"])
def test_ranef_draws_modes_and_intervals(visits: ad.AnnData, key: str) -> None:
    table = dw.get.ranef(visits, "gene_0002", key=key)
    axes = np.atleast_1d(dw.pl.ranef(visits, "gene_0002", key=key))
    assert len(axes) == table["column"].nunique() == {"lmm": 1, "slopes": 2}[key]
    order = table[table["column"] == "(Intercept)"].sort_values("value")["level"].tolist()
    for ax, column in zip(axes, table["column"].unique(), strict=True):
        own = table[table["column"] == column].set_index("level").loc[order]
        assert [label.get_text() for label in ax.get_yticklabels()] == order
        np.testing.assert_allclose(_points(ax)[0].get_offsets(), np.column_stack([own["value"], range(len(own))]))
        bars = np.array([path.vertices[:, 0] for path in ax.collections[0].get_paths()])
        np.testing.assert_allclose(bars, own[["value"]].to_numpy() + np.outer(own["cond_sd"], [-1.96, 1.96]))


def test_ranef_of_groups_and_terms(visits: ad.AnnData) -> None:
    axes = dw.pl.ranef(visits, "gene_0001", key="by_type")
    assert [ax.get_title() for ax in axes] == ["gene_0001, T: intercept", "gene_0001, B: intercept"]
    dw.tl.lmm(visits, "~ time + (1 | sample_id) + (1 | donor_id)", progress=False, key_added="nested")
    names = {
        term: len(dw.pl.ranef(visits, "gene_0001", key="nested", term=term).get_yticks())
        for term in (None, "sample_id")
    }
    assert names == {None: 8, "sample_id": visits.obs["sample_id"].nunique()}


def test_many_levels_are_counted_and_not_named(visits: ad.AnnData) -> None:
    _, ax = plt.subplots(figsize=(4, 0.7))
    dw.pl.ranef(visits, "gene_0001", ax=ax)
    assert ax.get_yticks().size == 0
    assert ax.get_ylabel() == "8 levels of donor_id"


def _line(ax: Axes, color: str) -> np.ndarray:
    """The population's line of a colour: the thick one."""
    (line,) = [one for one in ax.lines if one.get_linewidth() > 2 and to_hex(one.get_color()) == color]
    return np.asarray(line.get_xydata())


@pytest.mark.parametrize("key", ["lmm", "slopes"])
def test_population_line_is_the_prediction(visits: ad.AnnData, key: str) -> None:
    ax = dw.pl.trajectories(visits, "gene_0003", x="time", key=key)
    formula = {"lmm": LINES, "slopes": SLOPES}[key]
    fit = dw.fit_lmm(visits[:, ["gene_0003"]].X.toarray(), visits.obs, formula)
    age, names = visits.obs["age"].mean(), fit.fixed_names
    bands = [c for c in ax.collections if not isinstance(c, PathCollection)]
    for i, (arm, color) in enumerate(zip(visits.obs["arm"].cat.categories, visits.uns["arm_colors"], strict=True)):
        seen = visits.obs["time"][visits.obs["arm"] == arm]
        line = _line(ax, color)
        t, drug = line[:, 0], float(arm == "drug")
        assert (t.min(), t.max()) == (seen.min(), seen.max())
        terms = {"Intercept": 1 + 0 * t, "time": t, "arm[T.drug]": drug + 0 * t, "time:arm[T.drug]": drug * t}
        X = np.column_stack([terms.get(name, age + 0 * t) for name in names])
        np.testing.assert_allclose(line[:, 1], X @ fit.beta[0], rtol=1e-6)
        # the band is t times a standard error that Kenward and Roger make somewhat larger than sqrt(x'Vx)
        edges = bands[i].get_paths()[0].vertices
        half = np.array([np.ptp(edges[np.isclose(edges[:, 0], at), 1]) for at in t]) / 2
        ratio = half / np.sqrt(np.einsum("ij,jk,ik->i", X, fit.vcov_beta[0], X))
        assert np.all((ratio > 1.95) & (ratio < 4))


def test_courses_are_the_means_of_cells(visits: ad.AnnData) -> None:
    ax = dw.pl.trajectories(visits, "gene_0001", x="time")
    value = visits[:, "gene_0001"].X.toarray()[:, 0]
    cells = visits.obs.assign(value=value).groupby(["donor_id", "time"], observed=True)
    means = cells.agg(value=("value", "mean"), n=("value", "size"), arm=("arm", "first")).reset_index()
    thin = sorted(line.get_xydata().tolist() for line in ax.lines if line.get_linewidth() < 2)
    expected = [own[["time", "value"]].to_numpy() for _, own in means.groupby("donor_id", observed=True)]
    np.testing.assert_allclose(
        np.concatenate(thin), np.concatenate(sorted(own.tolist() for own in expected)), rtol=1e-5
    )
    (points,) = _points(ax)
    np.testing.assert_allclose(points.get_offsets(), means[["time", "value"]], rtol=1e-5)
    area = points.get_sizes() / points.get_sizes().max()
    np.testing.assert_allclose(area, np.maximum(means["n"] / means["n"].max(), area.min()))
    own = dict(zip(visits.obs["arm"].cat.categories, visits.uns["arm_colors"], strict=True))
    assert [to_hex(color) for color in points.get_facecolor()] == means["arm"].map(own).tolist()


def test_collapsed_rows_draw_as_their_cells(visits: ad.AnnData) -> None:
    rows = dw.pp.collapse(visits, by=["donor_id", "arm", "time", "age"])
    dw.tl.lmm(rows, SLOPES, progress=False)
    for draw in (dw.pl.ranef, lambda adata, name, **o: dw.pl.trajectories(adata, name, x="time", **o)):
        axes = [np.atleast_1d(draw(a, "gene_0002", key=key)) for a, key in ((visits, "slopes"), (rows, "lmm"))]
        for one, other in zip(*axes, strict=True):
            for a, b in zip(_points(one), _points(other), strict=True):
                np.testing.assert_allclose(a.get_offsets(), b.get_offsets(), rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(a.get_sizes(), b.get_sizes())
            for a, b in zip(one.lines, other.lines, strict=True):
                np.testing.assert_allclose(a.get_xydata(), b.get_xydata(), rtol=1e-4)


def test_visits_as_levels_and_donors_that_switch() -> None:
    adata = dw.datasets.simulate_cohort("stepped-wedge", n_donors=6, n_cells=500, n_genes=4, cell_types=("T",), seed=2)
    dw.tl.lmm(adata, "~ condition + period + (1 | donor_id)", progress=False)
    ax = dw.pl.trajectories(adata, "gene_0001", x="period")
    periods = list(adata.obs["period"].cat.categories)
    assert [label.get_text() for label in ax.get_xticklabels()] == periods
    for level, color in zip(adata.obs["condition"].cat.categories, ("#0072b2", "#d55e00"), strict=True):
        seen = adata.obs["period"][adata.obs["condition"] == level].unique()
        assert _line(ax, color)[:, 0].tolist() == sorted(periods.index(p) for p in seen)
    thin = [line for line in ax.lines if line.get_linewidth() < 2]
    assert len(thin) == 6, "one line for a donor that changes arms"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": "visit"}, DesignError, "'visit' is not in the fixed effects"),
        ({"x": "time", "condition": "no_such"}, DesignError, "no column 'no_such'"),
        ({"x": "time", "condition": "total_counts"}, DataError, "values: name a column with a few levels"),
        ({"x": "time", "group": "NK"}, DataError, "no group 'NK'"),
        ({"x": "log_depth", "key": "depth"}, DataError, "differs from cell to cell"),
        ({"x": "time", "key": "by_type", "ax": True}, DonorwiseError, "ax= holds one panel"),
    ],
)
def test_trajectories_explain(visits: ad.AnnData, options: dict[str, Any], error: type, message: str) -> None:
    if options.get("key") == "depth":
        dw.tl.lmm(visits, "~ log_depth + (1 | donor_id)", progress=False, key_added="depth")
    if "ax" in options:
        options = options | {"ax": plt.subplots()[1]}
    with pytest.raises(error, match=message):
        dw.pl.trajectories(visits, "gene_0001", **options)


def test_what_has_no_random_effects_is_refused(visits: ad.AnnData) -> None:
    counted = {"method": "pseudobulk", "observations": "units", "units": "donor_id"}
    visits.uns["pseudobulk"] = visits.uns["lmm"] | {"params": visits.uns["lmm"]["params"] | counted}
    with pytest.raises(DataError, match="is a result of dw.tl.pseudobulk"):
        dw.pl.trajectories(visits, "gene_0001", x="time", key="pseudobulk")
    with pytest.raises(DataError, match="no term 'site'"):
        dw.pl.ranef(visits, "gene_0001", term="site")
    visits.X = visits.X.toarray() * 0
    with pytest.raises(DataError, match="No model could be fitted"):
        dw.pl.ranef(visits, "gene_0001")


def test_marker_areas_are_cells(visits: ad.AnnData) -> None:
    ax = dw.pl.design(visits, "~ arm + sex + (1 | donor_id)")
    donors = dict(zip([label.get_text() for label in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    columns = dict(zip([label.get_text() for label in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert list(columns) == ["T", "B", "sex"]
    counts = visits.obs.groupby(["donor_id", "cell_type"], observed=True).size()
    drawn = _areas(ax)
    area = np.array([drawn[columns[kind], donors[donor]] for donor, kind in counts.index])
    assert len(drawn) == len(counts)
    np.testing.assert_allclose(area / area.max(), counts / counts.max())
    texts = {text.get_text(): text for text in ax.texts}
    for arm, color in zip(visits.obs["arm"].cat.categories, visits.uns["arm_colors"], strict=True):
        own = visits.obs[visits.obs["arm"] == arm]
        head = texts[f"{arm}: {own['donor_id'].nunique()} donors, {len(own):,} cells"]
        assert to_hex(head.get_color()) == color
        rows = [donors[d] for d in own["donor_id"].unique()]
        place = ax.transData.inverted().transform(head.get_window_extent())[:, 1].mean()
        assert place < min(rows), "a heading stands above its donors"
        others = [place for donor, place in donors.items() if donor not in set(own["donor_id"])]
        assert not any(place < other < max(rows) for other in others)


def test_arms_within_donors_have_columns_of_their_own() -> None:
    adata = dw.datasets.simulate_cohort("paired", n_donors=5, n_cells=400, n_genes=2, cell_types=("T", "B"), seed=2)
    ax = dw.pl.design(adata, "~ condition + (1 | donor_id)")
    assert len({x for x, _ in _areas(ax)}) == 4
    assert [t.get_text() for t in ax.get_legend().get_texts()][:2] == ["control", "stimulated"]
    assert ax.texts[0].get_text() == "control + stimulated: 5 donors, 400 cells"


def test_confounding_is_seen() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=500, n_genes=2, cell_types=("T", "B"), seed=1)
    adata.obs["centre"] = adata.obs["condition"].map({"control": "Leiden", "disease": "Basel"})
    adata.obs["run"] = adata.obs["donor_id"].map(
        dict(zip(sorted(adata.obs["donor_id"].unique()), "aabbcc", strict=True))
    )
    adata.obs.loc[adata.obs["donor_id"] == adata.obs["donor_id"].iloc[0], "run"] = "d"
    adata = adata[~((adata.obs["cell_type"] == "B") & (adata.obs["condition"] == "disease"))].copy()
    ax = dw.pl.design(adata, "~ condition + run + centre + (1 | donor_id)")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T", "! B", "run", "! centre"]
    bold = {text.get_text() for text in ax.texts if text.get_weight() == "bold"}
    arms = adata.obs.groupby("run", observed=True)["condition"].nunique()
    assert {"Leiden", "Basel", *arms.index[arms == 1]} <= bold
    assert not set(arms.index[arms == 2]) & bold
    words = " ".join(ax.get_xlabel().split())
    assert "`centre`: every level with one level of `condition` only" in words
    assert "No cell of 'B' has `condition` disease." in words
    assert "The fixed effects cannot be told apart" in words, "the audit's words"
    crosses = [points for points in _points(ax) if _is_cross(points)]
    assert sum(len(c.get_offsets()) for c in crosses) == 3


def test_design_of_collapsed_rows_and_defaults(visits: ad.AnnData) -> None:
    rows = dw.pp.collapse(visits, by=["donor_id", "arm", "cell_type"])
    draw = {"cell_type": "cell_type", "condition": "arm", "covariates": []}
    assert _areas(dw.pl.design(visits, **draw)) == _areas(dw.pl.design(rows, **draw))
    assert len(_areas(dw.pl.design(visits, cell_type=""))) == 8, "one column and no arms"
    for options, error in (
        ({"condition": "no_such"}, "no column 'no_such'"),
        ({"condition": "total_counts"}, "name a column with a few levels"),
        ({"formula": "~ (1 | no_such)"}, "no_such"),
    ):
        with pytest.raises(DesignError, match=error):
            dw.pl.design(visits, **options)
    del visits.obs["donor_id"]
    with pytest.raises(DesignError, match="Which column of obs is the donor"):
        dw.pl.design(visits, condition="arm")


@pytest.mark.parametrize(("n", "design"), [(5, "crossed"), (60, "stepped-wedge")])
def test_nothing_overlaps(n: int, design: Any) -> None:
    types = tuple(f"type {i}" for i in range(12)) if n == 5 else ("T", "B")
    adata = dw.datasets.simulate_cohort(design, n_donors=n, n_cells=1500, n_genes=2, cell_types=types, seed=1)
    ax = dw.pl.design(adata, adata.uns["truth"]["formula"])
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.draw_without_rendering()
    for labels in (ax.get_yticklabels(), ax.get_xticklabels()):
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    frame = ax.figure.bbox
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and b.y1 <= frame.y1 for b in boxes)
    per_pixel = 72 / ax.figure.dpi
    step = np.min(np.abs(np.diff(ax.transData.transform([(0, y) for y in ax.get_yticks()])[:, 1]))) * per_pixel
    assert max(_areas(ax).values()) <= step**2, "markers of neighbours touch"


def test_numbers_and_samples_are_no_covariates(visits: ad.AnnData) -> None:
    ax = dw.pl.design(visits, "~ arm + age + time + (1 | donor_id) + (1 | sample_id)")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T", "B"]


@pytest.mark.parametrize("draw", [dw.pl.ranef, dw.pl.trajectories])
def test_one_feature_at_a_time(visits: ad.AnnData, draw: Any) -> None:
    with pytest.raises(DataError, match="names one feature"):
        draw(visits, ["gene_0001", "gene_0002"], **({"x": "time"} if draw is dw.pl.trajectories else {}))


def test_calibration_draws_the_table(calibrated: ad.AnnData) -> None:
    levels, hits = dw.pl.calibration(calibrated)
    table = dw.get.calibration(calibrated)
    runs = dw.get.calibration(calibrated, table="permutations")
    assert [label.get_text() for label in levels.get_xticklabels()] == ["0.05", "0.01", "0.001", "0.0001"]
    bars = [c for c in levels.collections if not isinstance(c, PathCollection)]
    for points, bar, group in zip(_points(levels), bars, ["T", "B"], strict=True):
        own = table[table["group"] == group]
        np.testing.assert_allclose(points.get_offsets()[:, 1], own["ratio"])
        ends = np.array([path.vertices[:, 1] for path in bar.get_paths()])
        n = np.sum((runs["group"] == group) & ~runs["observed"])
        assert np.all(ends[:, 1] >= own["ratio"] + 1.96 * own["ratio_sd"] / np.sqrt(n) - 1e-9)
        # no p-value below 1e-4 among n x 40 tests: exact Poisson, -log(.025) over the expectation
        if own["ratio"].iloc[-1] == 0:
            np.testing.assert_allclose(ends[-1], [0, -np.log(0.025) / (n * 40 * 1e-4)])
    for i, group in enumerate(["T", "B"]):
        own = runs[runs["group"] == group]
        permuted, observed = own["hits"][~own["observed"]], int(own["hits"][own["observed"]].iloc[0])
        assert sorted(_points(hits)[i].get_offsets()[:, 1]) == sorted(permuted)
        assert hits.lines[i].get_ydata().tolist() == [observed]
        p = (1 + (permuted >= observed).sum()) / (1 + len(permuted))
        assert hits.texts[i].get_text() == f"{observed}\np = {p:.2g}"


def test_calibration_explains(calibrated: ad.AnnData, visits: ad.AnnData) -> None:
    with pytest.raises(DonorwiseError, match="choose table="):
        dw.pl.calibration(calibrated, ax=plt.subplots()[1])
    with pytest.raises(DonorwiseError, match="table"):
        dw.pl.calibration(calibrated, table="curves")
    with pytest.raises(DataError, match="no group 'NK'"):
        dw.pl.calibration(calibrated, group="NK")
    with pytest.raises(DataError, match=r"run dw\.tl\.calibrate first"):
        dw.pl.calibration(visits)
