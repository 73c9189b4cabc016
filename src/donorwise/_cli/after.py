"""The commands for what is asked after a fit, of the cells and the result of another command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.files import write_table
from donorwise._cli import options
from donorwise._cli.answers import answer, table
from donorwise._cli.options import PATH
from donorwise._typing import DDF, GLMM_DDF
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

_TABLES_ALONE = (".parquet", ".csv")

KEY = click.option("--key", help="Entry of uns that holds the result, where there are several.")
RESULT = options.add(
    click.option(
        "--results",
        type=PATH,
        metavar="PATH",
        help="The .h5ad of the fit; absent where SOURCE itself holds the result.",
    ),
    KEY,
)
MODEL_DDF = click.option(
    "--ddf",
    type=click.Choice(list(dict.fromkeys([*DDF, *GLMM_DDF]))),
    help="Degrees of freedom; as in the fit if absent.",
)
VARIABLES = click.option(
    "--variables", metavar="A,B,…", multiple=True, callback=options.names_or_none, help="Features; all if absent."
)
GROUPS = click.option(
    "--group", multiple=True, callback=options.one_or_several, help="A group. Repeatable; all if absent."
)
MODELLED = options.add(
    options.N_JOBS,
    options.COUNTS_LAYER,
    options.LOG_DEPTH,
    options.DONOR,
    options.CONFIG,
    options.QUIET,
    options.LOG_JSON,
)
RUN = options.add(options.OUT_TABLE, MODELLED)
TERM = click.option(
    "--term", "terms", multiple=True, help="A term of the formula. Repeatable; see above for the usual ones."
)


@click.command()
@options.add(options.SOURCE, RESULT, options.CONTRAST, MODEL_DDF)
@click.option("--min-log-fc", type=click.FloatRange(min=0), help="Test whether a log2 fold change is larger than this.")
@click.option("--min-effect", type=click.FloatRange(min=0), help="The same in units of the estimates.")
@options.add(options.MAX_MEMORY, RUN)
@click.pass_context
def test(ctx: click.Context, /, **given: Any) -> None:
    """Test further contrasts of the models that another command fitted to SOURCE; with --ddf or a minimal effect anew."""
    from donorwise import get, tl
    from donorwise._batch.run import parse_contrast

    other = given["ddf"] or given["min_log_fc"] is not None or given["min_effect"] is not None

    def ask(adata: ad.AnnData, key: str, progress: bool) -> str:
        asked = [parse_contrast(text, adata.obs) for text in given["contrast"]]
        if not asked and not other:
            raise DataError("Nothing is asked: give --contrast, --ddf or a minimal effect.")
        beside = f"{key}_test" if other else key  # of other tests, which are no further contrasts
        tl.test(
            adata, asked or None, key=key, key_added=beside, progress=progress,
            **_of(given, "ddf", "min_log_fc", "min_effect", "n_jobs", "max_memory"),
        )  # fmt: skip
        return beside

    answer(ctx, given, table(ask, lambda adata, key: get.tests(adata, key=key, sort_by=None)))


@click.command(name="joint-test")
@options.add(options.SOURCE, RESULT, TERM, MODEL_DDF, options.MAX_MEMORY, RUN)
@click.pass_context
def joint_test(ctx: click.Context, /, **given: Any) -> None:
    """Test all coefficients of terms at once, of the models that another command fitted to SOURCE (those with several)."""
    from donorwise import get, tl

    def ask(adata: ad.AnnData, key: str, progress: bool) -> None:
        tl.joint_test(
            adata, list(given["terms"]) or None, key=key, progress=progress,
            **_of(given, "ddf", "n_jobs", "max_memory"),
        )  # fmt: skip

    answer(ctx, given, table(ask, lambda adata, key: get.joint_tests(adata, key=key, sort_by=None)))


@click.command(name="test-variance")
@options.add(options.SOURCE, RESULT, TERM, options.MAX_MEMORY, RUN)
@click.pass_context
def test_variance(ctx: click.Context, /, **given: Any) -> None:
    """Test random terms (all of them) of the models that another command fitted to SOURCE, such as whether donors differ."""
    from donorwise import get, tl

    def ask(adata: ad.AnnData, key: str, progress: bool) -> None:
        tl.test_variance(
            adata, list(given["terms"]) or None, key=key, progress=progress, **_of(given, "n_jobs", "max_memory")
        )

    answer(ctx, given, table(ask, lambda adata, key: get.variance_tests(adata, key=key, sort_by=None)))


@click.command()
@options.add(options.SOURCE, RESULT)
@click.option(
    "--of",
    metavar="A,B,…",
    multiple=True,
    callback=options.split_names,
    required=True,
    help="Variables whose levels means are of.",
)
@click.option(
    "--by",
    metavar="A,B,…",
    multiple=True,
    callback=options.names_or_none,
    help="Variables in whose levels they are taken.",
)
@click.option(
    "--at",
    metavar="NAME=VALUE,…",
    multiple=True,
    callback=options.named_texts,
    help="Values of a variable. Repeatable.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Coverage of the intervals.",
)
@click.option(
    "--scale",
    type=click.Choice(["response", "link"]),
    default="response",
    show_default=True,
    help="Of the response, or of the coefficients.",
)
@click.option(
    "--averaged",
    "weights",
    type=click.Choice(["equal", "proportional"]),
    default="equal",
    show_default=True,
    help="How levels that are not named are averaged.",
)
@options.add(MODEL_DDF, VARIABLES, GROUPS, options.MAX_MEMORY, RUN)
@click.pass_context
def means(ctx: click.Context, /, **given: Any) -> None:
    """Estimated marginal means of the models that another command fitted to SOURCE, with intervals."""
    from donorwise import get
    from donorwise._batch.run import parse_values

    names = ("by", "level", "scale", "weights", "ddf", "variables", "group", "n_jobs", "max_memory")

    def make(adata: ad.AnnData, key: str, progress: bool, out: Path) -> int:
        at = {name: parse_values(text, name, adata.obs) for name, text in (given["at"] or {}).items()}
        found = get.means(adata, given["of"], at=at or None, key=key, progress=progress, **_of(given, *names))
        write_table(found, out)
        return len(found)

    answer(ctx, given, make, ending=_TABLES_ALONE)


@click.command()
@click.argument("source", metavar="RESULTS", type=PATH)
@options.add(KEY, options.OUT_TABLE, options.CONFIG, options.QUIET, options.LOG_JSON)
@click.pass_context
def shrink(ctx: click.Context, /, **given: Any) -> None:
    """Shrunken estimates and local false sign rates of the tests in RESULTS (.h5ad), as further columns."""
    from donorwise import get, tl

    def ask(adata: ad.AnnData, key: str, progress: bool) -> None:
        tl.shrink(adata, key=key)

    answer(ctx, given, table(ask, lambda adata, key: get.tests(adata, key=key, sort_by=None)))


@click.command(name="gene-sets")
@options.add(options.SOURCE, RESULT)
@click.option(
    "--sets",
    type=PATH,
    required=True,
    help="Sets of genes: a .gmt file, or a table with the columns source and target.",
)
@click.option(
    "--contrast",
    multiple=True,
    callback=options.one_or_several,
    help="A contrast of the result. Repeatable; all if absent.",
)
@GROUPS
@click.option(
    "--min-size",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Genes of a set that is tested, at least.",
)
@click.option("--max-size", type=click.IntRange(min=2), help="And at most.")
@click.option(
    "--inter-gene-cor", type=float, help="Correlation between genes of a set; estimated from donors if absent."
)
@click.option("--use-ranks", is_flag=True, help="Compare ranks of the statistics.")
@options.add(options.GENE_SYMBOLS, options.MAX_MEMORY, RUN)
@click.pass_context
def gene_sets(ctx: click.Context, /, **given: Any) -> None:
    """Test sets of genes on the tests that another command made of SOURCE, allowing for correlation between genes."""
    from donorwise import get, tl

    names = (
        "contrast",
        "group",
        "min_size",
        "max_size",
        "inter_gene_cor",
        "use_ranks",
        "gene_symbols",
        "n_jobs",
        "max_memory",
    )

    def ask(adata: ad.AnnData, key: str, progress: bool) -> None:
        tl.gene_sets(adata, _sets(given["sets"]), key=key, progress=progress, **_of(given, *names))

    answer(ctx, given, table(ask, lambda adata, key: get.gene_sets(adata, key=key, sort_by=None)))


@click.command(name="variance-partition")
@options.add(options.SOURCE, RESULT, VARIABLES)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Coverage of the intervals.",
)
@click.option(
    "--n-draws", type=click.IntRange(min=100), default=2000, show_default=True, help="Draws that they come from."
)
@click.option("--random-state", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@options.add(options.MAX_MEMORY, RUN)
@click.pass_context
def variance_partition(ctx: click.Context, /, **given: Any) -> None:
    """Shares of the variance by term of the models that another command fitted to SOURCE, with intervals."""
    from donorwise import get, tl

    names = ("variables", "level", "n_draws", "random_state", "n_jobs", "max_memory")

    def ask(adata: ad.AnnData, key: str, progress: bool) -> None:
        tl.variance_partition(adata, key=key, progress=progress, **_of(given, *names))

    def read(adata: ad.AnnData, key: str) -> pd.DataFrame:
        return get.variance_partition(adata, key=key, variables=given["variables"])

    answer(ctx, given, table(ask, read))


@click.command()
@options.add(options.SOURCE, RESULT)
@click.option(
    "--remove",
    metavar="A,B,…",
    multiple=True,
    callback=options.terms_or_none,
    help='Terms to take out, such as donor_id or "(1 | batch)"; everything if absent, which leaves residuals.',
)
@VARIABLES
@click.option("--fitted", is_flag=True, help="Add the layer fitted, with fitted values.")
@click.option("-o", "--out", type=PATH, required=True, help="The .h5ad or .zarr to write, with the layer residuals.")
@options.add(options.MAX_MEMORY, MODELLED)
@click.pass_context
def residuals(ctx: click.Context, /, **given: Any) -> None:
    """The cells of SOURCE with terms of the models that another command fitted taken out, written block by block."""
    from donorwise._batch.residuals import write_residuals

    names = ("remove", "variables", "fitted", "n_jobs", "max_memory")

    def make(adata: ad.AnnData, key: str, progress: bool, out: Path) -> int:
        return write_residuals(adata, key, out, progress=progress, **_of(given, *names))

    answer(ctx, given, make, ending=(".h5ad", ".zarr"))


def _of(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some of the options."""
    return {name: given[name] for name in names}


def _sets(path: Path) -> Any:
    """What :func:`donorwise.tl.gene_sets` takes: the path of a GMT file, or a network."""
    if path.name.endswith((".gmt", ".gmt.gz")):
        return path
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep=None, engine="python")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table of sets: {error}") from error
