"""How sure a share is that was counted on a few questions, and the difference of two such shares."""

import math
from collections.abc import Sequence

# Of a normal distribution, for 95 %.
_Z = 1.959964


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    share, z2 = right / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    # Of none and of all, rounding may end beyond.
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """The difference of two shares on the same questions, `second - first`, and the half width of its 95 % interval
    (Agresti and Min 2005: half a question is added to each of the four cells, so that a few questions on which both
    agree do not look like certainty)."""
    total = len(first)
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    parted = won + lost + 1
    return (won - lost) / total, _Z * math.sqrt(parted - (won - lost) ** 2 / (total + 2)) / (total + 2)
