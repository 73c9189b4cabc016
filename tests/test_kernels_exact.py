"""Models with known covariances between levels against the dense twin of tests/_dense.py, over random designs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests._twins import (
    COUPLED,
    COUPLED_SCALAR,
    Recipe,
    check_estimates,
    check_kenward_roger,
    check_random_effects,
    check_satterthwaite,
    check_that_no_start_leads_higher,
    recipes,
)

KNOWN = recipes(tuple(COUPLED))


@settings(max_examples=40)
@given(recipe=KNOWN, reml=st.booleans())
def test_estimates(recipe: Recipe, reml: bool) -> None:
    check_estimates(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=recipes(COUPLED_SCALAR), reml=st.booleans())
def test_no_start_leads_higher(recipe: Recipe, reml: bool) -> None:
    check_that_no_start_leads_higher(recipe, reml=reml)


@settings(max_examples=20)
@given(recipe=KNOWN)
def test_kenward_roger(recipe: Recipe) -> None:
    check_kenward_roger(recipe)


@settings(max_examples=20)
@given(recipe=KNOWN, reml=st.booleans())
def test_satterthwaite(recipe: Recipe, reml: bool) -> None:
    check_satterthwaite(recipe, reml=reml)


@settings(max_examples=20)
@given(recipe=KNOWN, reml=st.booleans())
def test_random_effects(recipe: Recipe, reml: bool) -> None:
    check_random_effects(recipe, reml=reml)
