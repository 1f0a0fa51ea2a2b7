"""Figures as a reader sees them: infinities and NaN in words, sizes and times in units."""

import math

_KIB = 1024


def figure(value: float) -> str:
    """A difference, three digits of it; exact zero, infinite and undefined values have words."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if 0.01 <= abs(value) < 1000:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:.2e}" if value else "0 (exact)"


def limit(value: float) -> str:
    """A limit as it was written: 1e-05, 0.999999."""
    return f"{value:g}" if value < 0.9 else f"{value:.7f}".rstrip("0").rstrip(".")


def cosine(value: float) -> str:
    """A cosine; what is below one never reads as one unless it rounds to it at seven digits."""
    return f"{value:.7f}" if math.isfinite(value) else figure(value)


def percent(share: float) -> str:
    """A share between 0 and 1. Only the whole reads as 100 %, only nothing as 0 %."""
    if not math.isfinite(share):
        return figure(share)
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def times(ratio: float) -> str:
    """How many times larger: 3.1, 52, 115 thousand."""
    if not math.isfinite(ratio):
        return "infinitely many"
    if ratio >= 1e6:
        return f"{ratio / 1e6:,.0f} million"
    if ratio >= 1e4:
        return f"{ratio / 1e3:.0f} thousand"
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def seconds(value: float) -> str:
    """A duration: 0.21 s, 8.4 s, 1 min 20 s, 2 h 5 min."""
    if value < 60:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes = int(value / 60)
    return f"{minutes} min {int(value % 60)} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def mebibytes(value: float) -> str:
    """A size that is given in MiB."""
    return f"{value:,.0f} MiB" if value < 10 * _KIB else f"{value / _KIB:,.1f} GiB"


def size(value: int) -> str:
    """A size that is given in bytes."""
    if value < _KIB:
        return f"{value} bytes"
    return f"{value / _KIB:,.0f} KiB" if value < _KIB**2 else mebibytes(value / _KIB**2)


FILTERS = {
    function.__name__: function for function in (figure, limit, cosine, percent, times, seconds, mebibytes, size)
}
