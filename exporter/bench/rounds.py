"""Calls measured in turns, so that a machine that drifts or has other work hits everything that is compared alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..session import Timing

# A lane's turn is several calls: one alone would be measured on the caches and spinning threads of the lane before it.
TURN = 5

Call = Callable[[], Timing | None]
clock = time.perf_counter


@dataclass
class Samples:
    """Wall seconds of the calls of one lane: the first one apart, then the measured ones in order, and their parts
    where the session can tell."""

    first: float
    seconds: list[float] = field(default_factory=list)
    parts: list[Timing] = field(default_factory=list)


def measure(calls: Sequence[Call], warmup: int, iterations: int, duration: float) -> list[Samples]:
    """Samples of every call. The first calls and `warmup` more are not among the measured ones; those are at least
    `iterations`, and at least `duration` seconds of the slowest lane.

    Lanes take turns of TURN calls, in an order that rotates; where there are several, a turn begins with a call that
    is not measured.
    """
    found = [Samples(_seconds(call)[0]) for call in calls]
    for call in calls:
        for _ in range(warmup):
            call()
    turn, start = min(TURN, iterations), 0
    while min(len(each.seconds) for each in found) < iterations or max(sum(e.seconds) for e in found) < duration:
        for lane in (*range(start, len(calls)), *range(start)):
            if len(calls) > 1:
                calls[lane]()
            for _ in range(turn):
                seconds, parts = _seconds(calls[lane])
                found[lane].seconds.append(seconds)
                if parts:
                    found[lane].parts.append(parts)
        start = (start + 1) % len(calls)
    return found


def _seconds(call: Call) -> tuple[float, Timing | None]:
    begin = clock()
    parts = call()
    return clock() - begin, parts
