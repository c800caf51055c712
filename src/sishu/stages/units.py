"""Large numbers and times as people read them."""

from __future__ import annotations


def si(x: float) -> str:
    """Three digits and a prefix: 12,345,678 -> 12.3M."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= limit:
            return f"{x / limit:.3g}{prefix}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """90 -> 1.5min."""
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * limit or (unit == "min" and seconds >= limit):
            return f"{seconds / limit:,.1f}{unit}"
    return f"{seconds:.2g}s" if seconds < 10 else f"{seconds:.0f}s"
