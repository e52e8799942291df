"""Numbers as people read them."""

from __future__ import annotations


def number(value: float) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """A part as a percentage; what is not all or nothing is never shown as all or nothing."""
    if not whole:
        return "0.0%"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%"


def duration(seconds: float) -> str:
    """0.42 s, 12.3 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(num_bytes: int) -> str:
    """999 B, 1.2 kB, 3.4 MB (powers of 1000)."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} TB"
