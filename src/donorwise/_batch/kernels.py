"""Kernels that commands take from files of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from donorwise._core.design.formula import parse
from donorwise.pp._read_relatedness import read_relatedness

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


@dataclass(frozen=True)
class KernelFiles:
    """Files with kernels, each of which is read once, when it is first asked for.

    Attributes
    ----------
    kernels, relmat
        Path of the file by the name of the kernel, and by the grouping factor.
    """

    kernels: Mapping[str, str] = field(default_factory=dict)
    relmat: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> KernelFiles:
        """Those that the options of a command name."""
        return cls(options.get("kernel") or {}, options.get("relmat") or {})

    @cached_property
    def given(self) -> dict[str, dict[str, pd.DataFrame]]:
        """The tables, as the tools take them."""
        named = {"kernels": self.kernels, "relmat": self.relmat}
        return {option: {name: read_relatedness(path) for name, path in own.items()} for option, own in named.items()}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All of them by name."""
        return self.given["kernels"] | self.given["relmat"]

    def entries(self, formula: str) -> list[str]:
        """Names of the kernels of a formula that the input itself must hold."""
        return [name for name in parse(formula).covs if name not in self.kernels]
