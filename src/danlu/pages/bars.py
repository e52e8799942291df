"""Geometry of horizontal bars in a table, in percent of a cell's width; the templates draw it."""

from __future__ import annotations

from collections.abc import Sequence

_EDGE = 3.0


def bars(rows: Sequence[tuple[float, float | None, float | None]]) -> list[dict[str, float | None]]:
    """Bars on one scale that holds 0, each with the interval around its end.

    Args:
        rows: value, and low and high of its interval, or None.

    Returns:
        For each: `zero`, `left` and `width` of the bar, `low` and `high` of the interval (None without one).
    """
    values = [value for row in rows for value in row if value is not None]
    least, most = min(0.0, *values), max(0.0, *values)
    if most == least:
        most = least + 1.0

    def place(value: float) -> float:
        return round(_EDGE + (100 - 2 * _EDGE) * (value - least) / (most - least), 2)

    return [
        {
            "zero": place(0.0),
            "left": min(place(0.0), place(value)),
            "width": round(abs(place(value) - place(0.0)), 2),
            "low": None if low is None else place(low),
            "high": None if high is None else place(high),
        }
        for value, low, high in rows
    ]
