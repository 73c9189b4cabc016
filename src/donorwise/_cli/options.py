"""Options that commands share, and the file they can be kept in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from donorwise._core.cells.size_factors import METHODS
from donorwise._core.models.glmm.families import LINKS
from donorwise._typing import ROBUST
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")
PATH: click.Path = click.Path(path_type=Path)
# Options that say how a run talks, not what it computes.
MANNERS = ("config", "resume", "overwrite", "dry_run", "quiet", "log_json")


def split_names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Names with commas between them, of a repeatable option."""
    return [name.strip() for text in value for name in text.split(",") if name.strip()]


def names_or_none(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    """The same; None if nothing was given."""
    return split_names(ctx, param, value) or None


def terms_or_none(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    """Terms of a formula with commas between them, of a repeatable option; commas within brackets are the terms' own."""
    found = [part.strip() for text in value for part in re.findall(r"(?:[^,(]|\((?:[^()]|\([^()]*\))*\)|\()+", text)]
    return [name for name in found if name] or None


def one_or_several(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """What was given of a repeatable option: nothing, a text, or several."""
    return value[0] if len(value) == 1 else value or None


def named_texts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str] | None:
    """Texts by name, from ``NAME=TEXT`` of a repeatable option; None if nothing was given."""
    found: dict[str, str] = {}
    for text in value:
        name, _, own = (part.strip() for part in text.partition("="))
        if not name or not own:
            raise DataError(f"{param.opts[0]} {text}: give {param.metavar}, such as {_EXAMPLE[str(param.name)]}.")
        if name in found:
            raise DataError(f"{param.opts[0]} names {name!r} twice.")
        found[name] = own
    return found or None


def named_paths(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str] | None:
    """The same of paths."""
    found = named_texts(ctx, param, value)
    return found and {name: str(Path(path).resolve()) for name, path in found.items()}


_EXAMPLE = {
    "kernel": "grm=relatedness.csv",
    "relmat": "donor_id=relatedness.csv",
    "layers": "quality=Quantity.Quality",
    "filters": "Q.Value=0.01",
    "at": "age=40,60",
}


def _configure(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Let the values of a file be the defaults of the other options."""
    if path is None:
        return None
    known = {p.name: p for p in ctx.command.params if p.name and p.name not in ("config", "help")}
    values = _read_options(path, ctx.command.name)
    unknown = [name for name in values if name not in known]
    if unknown:
        options = ", ".join(sorted(known))
        raise DataError(
            f"{path}: {', '.join(unknown)}: not an option of {ctx.command.name}; its options are {options}."
        )
    given = {name: value for name, value in values.items() if value is not None}
    ctx.default_map = {name: _as_given(known[name], value, f"{path}: {name}") for name, value in given.items()}
    return path


def _as_given(param: click.Parameter, value: Any, what: str) -> Any:
    """As the command line would have it: a repeatable option as a list, a list of names with commas.

    Raises
    ------
    DataError
        The value is of a kind that the option does not take; the message begins with `what`.
    """
    if isinstance(param, click.Option) and param.is_flag:
        if not isinstance(value, bool):
            raise DataError(f"{what} is true or false, not {value!r:.60}.")
        return value
    several = param.multiple if isinstance(param, click.Option) else param.nargs == -1
    if isinstance(value, dict) and "=" in (param.metavar or ""):
        value = [f"{name}={own}" for name, own in value.items()]
    listed = several or "," in (param.metavar or "")
    values = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and not listed) or any(not _is_plain(own) for own in values):
        takes = "texts or numbers" if listed else "one text or number"
        raise DataError(f"{what} takes {takes}, not {value!r:.60}; put a text in quotes.")
    return values if several else ",".join(map(str, values)) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _read_options(path: Path, command: str | None) -> dict[str, Any]:
    """The options in a file: at its top, or below ``options:`` as ``<out>.run.yaml`` has them."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise DataError(f"{path} is nested too deeply; options are `name: value`, a line each.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold options as `name: value`, a line each.")
    written_for = content.get("command", command)
    if written_for != command:
        raise DataError(f"{path} was written for donorwise {written_for}, not for donorwise {command}.")
    values = content.get("options", {k: v for k, v in content.items() if k != "command"})
    if not isinstance(values, dict):
        raise DataError(f"{path}: `options` must hold `name: value` pairs.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def add(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help text."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


SOURCE = click.argument("source", type=PATH)
SOURCES = click.argument("source", type=PATH, nargs=-1, required=True)
FORMULA = click.option(
    "--formula", required=True, help='Fixed and random effects, such as "~ disease + sex + (1 | donor_id)".'
)
DONOR = click.option("--donor", metavar="COLUMN", help="Column of obs that holds the donor, if its name does not tell.")
GROUPBY = click.option(
    "--groupby",
    metavar="COLUMN",
    multiple=True,
    callback=one_or_several,
    help="Column of obs, such as the cell type: a model for each. Several (repeated, or with commas) make groups together.",
)
LOG_BASE = click.option(
    "--log-base", metavar="e|2|10", help="Base of the logarithm that a layer holds; X has that of uns['log1p']."
)
MASK_VAR = click.option("--mask-var", metavar="COLUMN", help="Boolean column of var: which features to test.")
ROBUST_FIT = click.option("--robust", type=click.Choice(ROBUST), help="Weigh outlying measurements of peptides down.")
PEPTIDES = add(
    click.option(
        "--features",
        metavar="COLUMN",
        help="Column of var with the protein of each peptide: a model for every protein.",
    ),
    click.option(
        "--weights-layer", metavar="LAYER", help="Layer with a precision weight for each measurement of a peptide."
    ),
)
KERNELS = add(
    click.option(
        "--kernel",
        metavar="NAME=PATH",
        multiple=True,
        callback=named_paths,
        help="Known covariance between donors, by its name in (1 | gr(donor, cov=NAME)): a file of GCTA, PLINK or GEMMA, or a "
        "square table (.csv, .tsv, .parquet) named by the donors. Repeatable; what is absent is taken from uns or obsp of SOURCE.",
    ),
    click.option(
        "--relmat",
        metavar="COLUMN=PATH",
        multiple=True,
        callback=named_paths,
        help="Short form of one kernel: all random terms of this grouping factor have the covariance.",
    ),
)
NORMALIZE = click.option(
    "--normalize",
    type=click.Choice(METHODS),
    default="tmm",
    show_default=True,
    help="How depths are made comparable, whatever responds.",
)
COUNTS_LAYER = click.option(
    "--counts-layer", default="counts", show_default=True, help="Layer of raw counts, for --log-depth."
)
LOG_DEPTH = add(
    click.option("--log-depth", is_flag=True, help="Make the covariate log_depth from raw counts, and use it."),
    click.option(
        "--depth-normalize",
        type=click.Choice(METHODS),
        default="depth",
        show_default=True,
        help="How the depths of --log-depth are made comparable.",
    ),
)
GENE_SYMBOLS = click.option(
    "--gene-symbols", metavar="COLUMN", help="Column of var with symbols of the features, a column of the results too."
)
LINK = click.option(
    "--link", type=click.Choice(LINKS), help="Of binomial: logit (the default), or cloglog with an exposure."
)
OF_OBS = add(
    click.option("--obsm", help="Table in obsm, to be modelled instead of X."),
    click.option(
        "--obs-keys",
        metavar="A,B,…",
        multiple=True,
        callback=names_or_none,
        help="Columns of obs, to be modelled instead of X.",
    ),
)
OF_VALUES = add(
    click.option("--layer", help="Layer of raw counts, or of yes and no; X if absent."),
    click.option("--response", type=click.Choice(["detected"]), help="Ask whether a count is above zero."),
    click.option("--trials", metavar="COLUMN", help="Column of obs: the m of k of m."),
)
EXPOSURE = add(
    click.option("--exposure", metavar="COLUMN", help="Column of obs on the scale of counts; total counts if absent."),
    click.option("--offset", metavar="COLUMN", help="Column of obs: the same on the logarithmic scale."),
)
CONTRAST = click.option(
    "--contrast",
    multiple=True,
    help='A coefficient, such as "disease[T.MS]", or VARIABLE:LEVEL:REFERENCE, "pairwise(disease)", '
    '"pairwise(disease | cell_type)" for all pairs of levels (at each cell type), or "slope(age | disease)". Repeatable; all '
    "coefficients if absent.",
)
N_JOBS = click.option("--n-jobs", type=int, default=1, show_default=True, help="Threads; -1 for all cores.")
OUT_TABLE = click.option("--out", type=PATH, required=True, help="Results: .parquet, .csv or .h5ad (all tables).")
OUT_H5AD = click.option("-o", "--out", type=PATH, required=True, help="The .h5ad to write.")
MAX_MEMORY = click.option(
    "--max-memory",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="GB for statistics of patterns; groups that need more are read in several passes.",
)
RESUME = click.option(
    "--resume",
    is_flag=True,
    help="Go on with a stopped run of the same input and options; if it is finished, that is all.",
)
OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace what another run left unfinished; with --resume what cannot be resumed, finished or not.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print audit, plan and estimates; write nothing.")
CONFIG = click.option(
    "--config",
    type=PATH,
    is_eager=True,
    callback=_configure,
    help="YAML file of options; those on the command line win.",
)
BLOCK_SIZE = click.option(
    "--block-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cells (merge: features; scan: variants) between two stops.",
)
QUIET = click.option("--quiet", is_flag=True, help="Say nothing but errors.")
LOG_JSON = click.option("--log-json", is_flag=True, help="Log as one JSON object a line.")
