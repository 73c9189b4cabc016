"""How things are timed: in turn, several times, medians and ratios of pairs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

Task = Callable[[], object]
Clock = Callable[[], float]


def timed(task: Task, clock: Clock = time.perf_counter) -> float:
    """Seconds of one run."""
    gc.collect()
    start = clock()
    task()
    return clock() - start


def interleave(
    tasks: Mapping[str, Task], *, repeats: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every task in every round, A B A B ..., so that a drift of the machine hits all alike."""
    for task in [t for _ in range(warmup) for t in tasks.values()]:
        task()
    rounds = [{name: timed(task, clock) for name, task in tasks.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in tasks}


def one_core(tasks: Mapping[str, Task], *, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of tasks that run in one thread: what they take of a core that they have to themselves."""
    with threadpool_limits(1):
        return interleave(tasks, repeats=repeats, clock=time.process_time)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within the round."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size: 1 is proportional growth."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
