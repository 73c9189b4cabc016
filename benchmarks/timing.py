"""How things are timed: in turn, several times, medians and ratios of pairs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

Task = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of every round of one task: on the clock, and of processors, which other work on the machine spares."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, task: Task) -> None:
        """Run a task once more."""
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        task()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def medians(self) -> dict[str, float]:
        """Columns of a table."""
        return {"median s": median(self.wall), "min s": min(self.wall), "median CPU s": median(self.cpu)}

    def ratios(self, other: Seconds) -> dict[str, float]:
        """The same columns as shares of another task's, by pairs."""
        return {
            "median s": ratio(self.wall, other.wall),
            "min s": min(self.wall) / min(other.wall),
            "median CPU s": ratio(self.cpu, other.cpu),
        }


def interleave(tasks: Mapping[str, Task], *, repeats: int, warmup: int = 1) -> dict[str, Seconds]:
    """Time every task in every round, A B A B ..., so that a drift of the machine hits all alike."""
    for task in [t for _ in range(warmup) for t in tasks.values()]:
        task()
    found = {name: Seconds() for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            found[name].time(task)
    return found


def one_core(tasks: Mapping[str, Task], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Processor seconds of tasks that run in one thread: what they take of a core that they have to themselves."""
    with threadpool_limits(1):
        return {name: s.cpu for name, s in interleave(tasks, repeats=repeats, warmup=warmup).items()}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within the round."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size: 1 is proportional growth."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
