from __future__ import annotations

import warnings

import pytest

import donorwise as dw
from donorwise._core.design import formula as formula_module
from donorwise._core.design.formula import parse
from donorwise.errors import FormulaError

FORMULA = "~ condition + (1 | donor_id)"

BARS = [
    ("~ x + (1|g)", [("1", "g")]),
    ("~ (1 + x | g)", [("1 + x", "g")]),
    ("~ (x|g)", [("x", "g")]),
    ("~ (0+x|g) - 1", [("0+x", "g")]),
    ("~ (x-1|g)", [("x-1", "g")]),
    ("~ (x || g)", [("1", "g"), ("0 + x", "g")]),
    ("~ (0 + x*z || g)", [("0 + x", "g"), ("0 + z", "g"), ("0 + x:z", "g")]),
    ("~ (0 + `q r` || g)", [("0 + `q r`", "g")]),
    ("~ (1|a/b)", [("1", "a"), ("1", "a:b")]),
    ("~ (1|a/b/c)", [("1", "a"), ("1", "a:b"), ("1", "a:b:c")]),
    ("~ (1|a:b) + (1|a) + (x|c)", [("1", "a:b"), ("1", "a"), ("x", "c")]),
    ("~ (x + (1|g))", [("1", "g")]),
    ("~ ((1|g))", [("1", "g")]),
    ("~\n x +\n (1|g)", [("1", "g")]),
    ("~ C(d, Treatment('a|b')) + `a|b` + (poly(t, 2)|`my donor`)", [("poly(t, 2)", "my donor")]),
    ("~ x", []),
]


@pytest.mark.parametrize(("formula", "expected"), BARS)
def test_bars(formula, expected):
    assert [(bar.columns, ":".join(bar.group)) for bar in parse(formula).bars] == expected


FIXED = [
    ("~ (1|g)", "1"),
    ("~ x + (1|g)", "x"),
    ("~ 0 + x + (1|g)", "0 + x"),
    ("~ (1|g) + x*y", "+ x*y"),
    ("~ `a|b` + bs(x, df=4)", "`a|b` + bs(x, df=4)"),
    ("~ ((1|g) + (1|h))", "1"),
]


@pytest.mark.parametrize(("formula", "expected"), FIXED)
def test_fixed_part(formula, expected):
    assert parse(formula).fixed == expected


# Formula, a piece of the message, and what the carets point at (None where there is no place to point at).
ERRORS = [
    ("x + (1|g)", "starts with `~`", "x"),
    ("y ~ x", "the responses come from the AnnData", "y "),
    ("~ x ~ y", "one `~`", "~"),
    ("~", "Nothing follows", "~"),
    ("", "empty", None),
    (3, "a string", None),
    ("~ x + 1 | g", "in parentheses: write `(1 | g)`", "|"),
    ("~ x*(1|g)", "can only be added", "x*(1|g)"),
    ("~ x:(1|g)", "can only be added", "x:(1|g)"),
    ("~ (1|g)^2", "can only be added", "(1|g)^2"),
    ("~ x - (1|g)", "not subtracted", "- (1|g)"),
    ("~ x + log(1|g)", "inside a function call", "|"),
    ("~ x[(1|g)]", "inside a function call", "|"),
    ("~ x (1|g)", "`+` is missing before `(1|g)`", "(1|g)"),
    ("~ (1|g", "not closed", "("),
    ("~ (1|g))", "closes nothing", ")"),
    ("~ x + 'abc", "string is not closed", "'"),
    ("~ `abc", "backtick name is not closed", "`"),
    ("~ ()", "Nothing stands", "()"),
    ("~ (|g)", "Nothing stands left", "|"),
    ("~ (1|)", "grouping factor is missing", "|"),
    ("~ (1|g|h)", "one bar", "|"),
    ("~ (1|a+b)", "(1 | a) + (1 | b)", "+"),
    ("~ (1|a/)", "missing after", "/"),
    ("~ (1|2)", "name of a column", "2"),
    ("~ (1|g:g)", "twice in one grouping factor", "g"),
    ("~ (0|g)", "there is no column", "0"),
    ("~ (1|g) + (1|g)", "`(1 | g)` is in the formula twice", "(1|g)"),
    ("~ (1|g) + (x|g)", "`(1 | g)` is in the formula twice", "(x|g)"),
    ("~ (1|a:b) + (1|b:a)", "twice", "(1|b:a)"),
    ("~ x +", "A term is missing", "+"),
    ("~ x y + (1|g)", "Missing operator between `x` and `y`", "x y"),
    ("~ (x y|g)", "Missing operator between `x` and `y`", "x y"),
    ("~ log(x y)", "not a valid expression", "log(x y)"),
    ("~ . + (1|g)", "name the columns", None),
    ("~ offset(x)", "not a function that formulas know", "offset"),
    ("~ lag(x)", "not a function that formulas know", "lag"),
]


@pytest.mark.parametrize(("formula", "message", "marked"), ERRORS)
def test_errors_point_at_the_place(formula, message, marked):
    with pytest.raises(FormulaError) as caught:
        parse(formula)
    text = str(caught.value)
    assert message in text
    if marked is not None:
        source, carets = text.split("\n")[1:]
        assert source[4:] == formula
        assert source[carets.index("^") : carets.rindex("^") + 1] == marked


@pytest.mark.parametrize(
    "formula",
    [
        "~ __import__('os').getcwd()",
        "~ {__import__('os').getcwd()}",
        "~ I(open('f'))",
        "~ (open('f')|g)",
        "~ `open`('f')",
        "~ I(x.__class__)",
        "~ log.__class__(x)",
        "~ np.fromfile('f')",
        "~ np.add.at(x, 0, 1)",
        "~ np.frompyfunc(x, 1, 1)",
        "~ I([i for i in x])",
        "~ I((lambda: 1)())",
        "~ I(f'{x}')",
        "~ I(x if x else y)",
        "~ I(log(*x))",
        "~ x[0]",
    ],
)
def test_a_formula_runs_no_python_but_arithmetic(formula):
    with pytest.raises(FormulaError):
        parse(formula)


def _lmm(adata):
    dw.tl.lmm(adata, FORMULA, groupby="cell_type", progress=False)


def _calibrate(adata):
    dw.tl.calibrate(adata, FORMULA, "condition[T.disease]", n_permutations=20, progress=False)


def _pseudobulk(adata):
    dw.tl.pseudobulk(adata, FORMULA, groupby="cell_type", progress=False)


def _audit(adata):
    adata.donorwise.audit(FORMULA)


@pytest.mark.parametrize("call", [_lmm, _calibrate, _pseudobulk, _audit])
@pytest.mark.parametrize("collapsed", [False, True])
def test_a_formula_is_parsed_once_per_call(call, collapsed, monkeypatch):
    """Neither groups, nor permutations, nor the audit read the text again."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=5, seed=1)
    if collapsed:
        adata = dw.pp.collapse(adata, ["donor_id", "condition", "cell_type"], counts_layer="counts", progress=False)
    read: list[str] = []
    nest = formula_module.nest
    monkeypatch.setattr(formula_module, "nest", lambda source: (read.append(source), nest(source))[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(adata)
    assert len(read) == 1


def test_a_formula_with_fewer_random_terms_reads_as_its_text_does():
    parsed = parse("~ x + (1 | a/`b c`) + (0 + x | d)")
    kept = parsed.keep(parsed.bars[1:])
    assert kept.source == "~ x + (1 | a:`b c`) + (0 + x | d)"
    assert kept == parse(kept.source)
