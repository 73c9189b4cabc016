"""Estimated marginal means of fitted arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from donorwise._core.engine.mean_scale import MeanScale
from donorwise._core.engine.means import MEAN_SCALES, WEIGHTS, counted, grid_rows, make_grid, means_table, spread
from donorwise._typing import ALL, check_level, check_option
from donorwise.errors import DesignError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import pandas as pd

    from donorwise._core.design.design import Design
    from donorwise._core.engine.tasks import FeatureTests
    from donorwise._typing import FloatArray


class FittedMeans(ABC):
    """Fits of arrays whose means can be asked for."""

    variables: tuple[str, ...]
    design: Design
    donor: str

    @abstractmethod
    def _levels(self, L: FloatArray, ddf: str | None, level: float) -> FeatureTests:
        """What is known of levels L beta (n, p) of the linear predictor; `ddf` None as :meth:`test` has it."""

    @abstractmethod
    def _mean_scale(self, exposure: float) -> MeanScale:
        """How means are told."""

    def means(
        self,
        of: str | Sequence[str] | None,
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Hashable | Sequence[Hashable]] | None = None,
        *,
        level: float = 0.95,
        scale: Literal["response", "link"] = "response",
        weights: Literal["equal", "proportional"] = "equal",
        ddf: str | None = None,
        exposure: float = 1.0,
    ) -> pd.DataFrame:
        """Estimated marginal means: what the model expects at levels of its variables, with intervals.

        Parameters
        ----------
        of, by, at, level, weights
            As in :func:`donorwise.get.means`.
        scale
            ``"response"``, or ``"link"`` for the linear predictor.
        ddf
            As in the method ``test``; None for its default.
        exposure
            Of models with one: the exposure that means are at. For counts they are rates per unit of it by default.

        Returns
        -------
        DataFrame
            One row per variable and condition: variable, a column for each variable of `of`, `by` and `at`, mean, se, df,
            ci_low, ci_high, status, and n_donors, the donors that have these levels (0 where the model has none).

        Raises
        ------
        DesignError
            If a name is no variable of the fixed part, or a level is not in the data.
        DonorwiseError
            If an option is none.

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition * cell_type + (1 | donor_id)")
        >>> fit.means("condition", by="cell_type", ddf="kenward-roger").shape
        (120, 10)
        """
        check_option("scale", scale, MEAN_SCALES)
        check_option("weights", weights, WEIGHTS)
        check_level(level)
        told = self._mean_scale(exposure)
        grid = make_grid([self.design], by, of, at, proportional=weights == "proportional")
        donors = next((t.codes for t in self.design.random_terms if t.group == self.donor), None)
        places, L = grid_rows(self.design, grid, donors)
        tested = self._levels(L, ddf, level)
        found = spread(grid, places, tested.numbers, tested.status, counted(self.design, grid, donors))
        table = means_table(
            {ALL: found}, self.variables, grid, [self.design], told if scale == "response" else MeanScale()
        )
        return table.drop(columns="group")


def only_of_exposures(link: str, exposure: Any) -> None:
    """Raise where an exposure is given to a model that has none, or is none."""
    if exposure == 1:
        return
    if link not in ("log", "cloglog"):
        raise DesignError(f"exposure={exposure!r}: a model with the link {link!r} has no exposure; leave it out.")
    if not (isinstance(exposure, int | float) and exposure > 0):
        raise DonorwiseError(f"exposure={exposure!r} is no positive number.")
