"""The cases of emmeans: the data, fits of it, and what R found."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd

import donorwise as dw

HERE = Path(__file__).parent / "reference" / "emmeans"
BOTH = "~ disease * ct + age + sex + (1 | donor)"
SLOPES = "~ disease * age + ct * age + sex + (1 | donor)"
CUBIC = "~ disease * poly(age, 3) + ct + (1 | donor)"
SPLINE = "~ disease + ct + bs(age, df=4) + (1 | donor)"


@cache
def data() -> pd.DataFrame:
    table = pd.read_csv(HERE / "data.csv")
    return table.assign(disease=pd.Categorical(table["disease"], categories=["control", "MS", "other"]))


@cache
def fitted(formula: str) -> dw.LMMFit:
    return dw.fit_lmm(data()[["y"]], data(), formula)


def in_r(name: str, formula: str, family: str = "gaussian") -> pd.DataFrame:
    """The rows of a case."""
    cases, wanted = (
        json.loads((HERE / "expected.json").read_text())["cases"],
        (name, formula.replace("=", " = "), family),
    )
    return pd.DataFrame(next(c["rows"] for c in cases if (c["name"], c["formula"], c["family"]) == wanted))
