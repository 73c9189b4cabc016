"""Formulas that would take for ever are refused at once, with a message for each bound."""

from __future__ import annotations

import time
from string import ascii_lowercase as letters

import numpy as np
import pandas as pd
import pytest

from donorwise._core.design.build import build_design
from donorwise._core.design.formula import parse
from donorwise.errors import DesignError, FormulaError

SUM = "+".join(letters[:20])
TOO_LARGE = {
    "a number above 1e+15": [
        "~ I(9**9**9)", "~ I(x * 9**9**9)", "~ I(1 << 10**9)", "~ I(2**2**2**2**2**2)", "~ I(-9**9**9)", "~ {9**9**9}",
        "~ I(x**1e300)", "~ C(x, Treatment(9**9**9))", "~ (I(9**9**9) | g)", "~ I(1e308 * 10)",
    ],
    "calculates with texts or lists": ["~ I(x + 'a' * 10**9)", "~ C(x, levels=['a'] * 10**9)"],
    "more than 50 columns": ["~ bs(x, df=100000)", "~ poly(x, 5000)", "~ bs(x, 10**6)", "~ cr(x, df=51)"],
    "terms, and 1,000 are the most": [
        f"~ ({SUM})**20", f"~ ({SUM})^20", "~ (a+b)**99999999999", "~ " + "*".join(letters[:22]), "~ " + "*".join(letters[:12]),
        "~ " + "/".join(letters[:22]), f"~ ({SUM}):({SUM}):({SUM})", f"~ ({'*'.join(letters[:12])} | g)",
        "~ (a*b*c*d*e*f*g)**3", "~ " + " + ".join(f"a{i}" for i in range(1001)),
    ],
    "takes too long to expand": ["~ (a+b)**20", "~ (a+b)**(20)", "~ (a + b + c)**11", "~ (x)**1000000", "~ (x)^(10000000)"],
    "More than 50 brackets": ["~ " + "(" * 2000 + "x" + ")" * 2000, "~ (1 | " + "(" * 60 + "g" + ")" * 60 + ")", "~ I(" + "(" * 60 + "x" + ")" * 61],
    "characters, and 10,000 are the most": ["~ " + "x" * 100_000, "~ `" + "x" * 100_000 + "`", "~ (1 | `" + "x" * 100_000 + "`)"],
    "nested too deeply": ["~ I(" + "-" * 5000 + "x)", "~ I(" + "+".join("x" * 4000) + ")", "~ I(" + "not " * 2000 + "x)"],
}  # fmt: skip


@pytest.mark.parametrize(("message", "formula"), [(m, f) for m, formulas in TOO_LARGE.items() for f in formulas])
def test_too_large(message: str, formula: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FormulaError) as caught:
        parse(formula)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 25_000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("formula", "n"),
    [
        ("~ " + "*".join(letters[:9]), 512), ("~ (a+b+c+d+e)**3", 26), ("~ (a+b+c)**2", 7), ("~ a/b/c", 4), ("~ a:b:c + a", 3),
        ("~ " + " + ".join(f"a{i}" for i in range(900)), 901), ("~ " + "(" * 40 + "x" + ")" * 40, 2), ("~ I(x**2) + I(2**10 * x)", 3),
        ("~ `" + "x" * 5000 + "`", 2), ("~ bs(x, df=5) + poly(y, 2) + I(1000000 * x)", 4), ("~ (x)**2", 2), ("~ (x)**1000", 2),
    ],
)  # fmt: skip
def test_large_is_no_fault(formula: str, n: int) -> None:
    assert len(list(parse(formula).terms)) == n


def test_factors_of_too_many_levels() -> None:
    n = 8000
    obs = pd.DataFrame(
        {"donor": np.arange(n) % 40, "f": [f"l{i % 2000}" for i in range(n)], "g": [f"m{i % 60}" for i in range(n)]}
    )
    with pytest.raises(
        DesignError, match=r"`f` alone stands for 1,999 of 2,0\d\d coefficients, for 8,000 rows.*`\(1 \| f\)`"
    ):
        build_design("~ f + g + (1 | donor)", obs)
    with pytest.raises(DesignError, match="`f:g` alone stands for 117,941"):
        build_design("~ f:g + (1 | donor)", obs)
    with pytest.raises(DesignError, match="`g` alone stands for 59 of 60 correlated random effects"):
        build_design("~ 1 + (g | donor)", obs)
    build_design("~ g + (1 | donor) + (1 | f)", obs)
