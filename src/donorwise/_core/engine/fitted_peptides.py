"""The fitted models of proteins that each have the rows of their peptides, and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.tables import which_group
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._core.engine.peptide_rows import Grouping
    from donorwise._core.models.lmm.ragged_model import RaggedLMM
    from donorwise._typing import Ddf, IntArray, Scale

N_PEPTIDES, N_MISSING, FORMULA = PEPTIDE_COLUMNS = ("n_peptides", "n_missing", "formula")
_EFFECTS = ("variable", "level", "column", "value", "cond_sd")


@dataclass(frozen=True, repr=False)
class PeptideFit(LMMFit):
    """Linear mixed models of G proteins with one formula, each on the measurements of its own peptides.

    What it has beside the attributes and methods of :class:`donorwise.LMMFit`, whose features are proteins here and whose
    rows are measurements:

    Attributes
    ----------
    n_peptides
        Shape (G,). Peptides that were measured.
    n_missing
        Shape (G,). Measurements that are missing of those that the peptides could have had.
    formulas
        The formula that was used for each protein: without the terms that it cannot tell, for which `theta` is NaN.
    status
        Shape (G,). As in :class:`donorwise.LMMFit`, and ``"reduced"`` for a fit without some of the random terms.
    groupings
        Levels of every grouping factor, by its columns.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 2), "arm": np.repeat(["ctrl", "case"], 6)})
    >>> Y = 20 + rng.normal(size=(12, 5)) + rng.normal(size=(6, 1)).repeat(2, axis=0)
    >>> fit = dw.fit_lmm(Y, obs, "~ arm + (1 | peptide) + (1 | donor)", features=["P1", "P1", "P1", "P2", "P2"])
    >>> fit.variables, fit.n_peptides.tolist()
    (('P1', 'P2'), [3, 2])
    """

    n_peptides: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_missing: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    formulas: tuple[str, ...] = ()
    groupings: Mapping[tuple[str, ...], Grouping] = field(default_factory=dict)

    def __repr__(self) -> str:
        n, possible = int(self.n_obs.sum()), int(self.n_obs.sum() + self.n_missing.sum())
        missing = f" ({1 - n / possible:.0%} missing)" if possible else ""
        rows = f"{n:,} measurements of {int(self.n_peptides.sum()):,} peptides{missing}"
        donors = f" in up to {self.n_donors.max(initial=0):,} {self.donor}" if self.donor else ""
        return self._described("proteins", rows + donors)

    def test(
        self, contrasts: Any = None, ddf: Ddf = "moderated", level: float = 0.95, *, min_effect: float = 0.0
    ) -> pd.DataFrame:
        """t tests of contrasts of the fixed effects, as :meth:`donorwise.LMMFit.test`.

        Returns
        -------
        DataFrame
            As there, with the columns ``n_peptides, n_missing, formula`` at the end.

        Notes
        -----
        The variances of the moderated test are those of all random terms, whatever a protein can tell of them: what it
        cannot, the prior says. A contrast that a protein has no measurements for is ``"not_estimable"``.

        Examples
        --------
        >>> import numpy as np, pandas as pd, donorwise as dw
        >>> rng = np.random.default_rng(0)
        >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 2), "arm": np.repeat(["ctrl", "case"], 6)})
        >>> Y, proteins = 20 + rng.normal(size=(12, 5)), ["P1", "P1", "P1", "P2", "P2"]
        >>> fit = dw.fit_lmm(Y, obs, "~ arm + (1 | peptide) + (1 | donor)", features=proteins)
        >>> fit.test("arm[T.ctrl]", ddf="kenward-roger")["n_peptides"].tolist()
        [3, 2]
        """
        tested = super().test(contrasts, ddf, level, min_effect=min_effect)
        return with_peptides(tested, self.n_peptides, self.n_missing, self.formulas)

    def ranef(self, group: str | None = None) -> pd.DataFrame:
        """Conditional modes of the random effects, as :meth:`donorwise.LMMFit.ranef`.

        Returns
        -------
        DataFrame
            ``variable, level, column, value, cond_sd``: of every protein the levels that it has measurements of, such as
            its peptides. NaN where the term is left out.

        Raises
        ------
        DesignError
            If `group` is not a grouping factor of the model.

        Examples
        --------
        >>> import numpy as np, pandas as pd, donorwise as dw
        >>> rng = np.random.default_rng(0)
        >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 2), "arm": np.repeat(["ctrl", "case"], 6)})
        >>> Y, proteins = 20 + rng.normal(size=(12, 5)), ["P1", "P1", "P1", "P2", "P2"]
        >>> fit = dw.fit_lmm(Y, obs, "~ arm + (1 | peptide) + (1 | donor)", features=proteins)
        >>> len(fit.ranef("peptide")), len(fit.ranef("donor"))
        (5, 12)
        """
        group, labels, parts = which_group(self.design, group), np.array(self.variables, dtype=object), []
        for t, term in enumerate(self.design.random_terms):
            if term.name == group:
                level = self.groupings[term.bar.group].level
                parts += [_effects(model, t, term.columns, level, labels) for model in self.models]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_EFFECTS))

    def heritability(self, scale: Scale = "trace") -> pd.DataFrame:
        """Not of proteins whose peptides are rows.

        Raises
        ------
        DesignError
            Always.

        Examples
        --------
        >>> import numpy as np, pandas as pd, donorwise as dw
        >>> obs = pd.DataFrame({"donor": list("abcdef"), "arm": ["ctrl", "case"] * 3})
        >>> Y = np.random.default_rng(0).normal(size=(6, 2))
        >>> dw.fit_lmm(Y, obs, "~ arm + (1 | peptide) + (1 | donor)", features=["P1", "P1"]).heritability()
        Traceback (most recent call last):
        donorwise.errors.DesignError: There is no heritability of proteins whose rows are peptides: ...
        """
        raise DesignError(
            "There is no heritability of proteins whose rows are peptides: the proportions would hang on how many peptides "
            "were measured. Summarise each protein to one value per run, and fit those with a kernel (dw.fit_lmm, dw.tl.lmm "
            "without features=)."
        )

    def _parameters(self) -> IntArray:
        """See :class:`LMMFit`: those that a protein can tell."""
        out = np.zeros((len(self.variables), 3), dtype=np.int64)
        for model in self.models:
            out[model.features] = cast("RaggedLMM", model).n_parameters
        return out


def with_peptides(
    table: pd.DataFrame, n_peptides: IntArray, n_missing: IntArray, formulas: tuple[str, ...]
) -> pd.DataFrame:
    """Tests with :data:`PEPTIDE_COLUMNS`, which are given for every protein, (G,)."""
    own = table["variable"].cat.codes.to_numpy()
    names, codes = np.unique(formulas, return_inverse=True)
    used = pd.Categorical.from_codes(codes.ravel()[own], names.tolist())
    return table.assign(**{N_PEPTIDES: n_peptides[own], N_MISSING: n_missing[own], FORMULA: used})


def _effects(model: Any, t: int, columns: tuple[str, ...], level: Any, labels: np.ndarray) -> pd.DataFrame:
    """The random effects of a term, a row for each level and column."""
    found = model.effects(t)
    r = len(columns)
    names = np.array([level(int(code)) for code in found.code], dtype=object)
    made = (
        np.repeat(labels[model.features[found.feature]], r), np.repeat(names, r), np.tile(np.array(columns, dtype=object), names.size),
        found.mode.ravel(), found.sd.ravel(),
    )  # fmt: skip
    return pd.DataFrame(dict(zip(_EFFECTS, made, strict=True)))
