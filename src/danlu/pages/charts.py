"""Geometry of the SVG charts; the templates draw it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def round_ticks(largest: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `largest`, at most six of them."""
    largest = max(largest, 1e-6)
    magnitude = 10.0 ** math.floor(math.log10(largest))
    step = next(size * magnitude for size in (0.2, 0.5, 1.0, 2.0) if math.ceil(largest / (size * magnitude)) <= 5)
    return [round(part * step, 9) for part in range(math.ceil(largest / step) + 1)]


_WIDTH, _HEIGHT, _TOP, _BOTTOM, _EDGE = 640.0, 260.0, 34.0, 36.0, 10.0
# Labels are 19 units high on a phone, where the whole drawing is shrunk.
_CHARACTER = 11.0
_FAR = 3


def histogram_chart(bins: list[tuple[int, int, int]], limit: int) -> dict[str, Any] | None:
    """A histogram as SVG geometry, with a line at `limit` if it is near enough to be drawn; None without bins.

    Args:
        bins: (low, high, count), low < value <= high, all of one width but the last, which may hold a long tail.
        limit: the value that the line marks.

    Returns:
        bars (x, y, width, height, low, high, count), ticks of both axes, `limit_x`, None if it is far to the right, and
        `break_x`, where the axis stops being to scale, None without a tail.
    """
    if not bins:
        return None
    width = bins[0][1] - bins[0][0]
    tail = bins[-1] if bins[-1][1] - bins[-1][0] > width else None
    end = bins[-1][0] if tail else bins[-1][1]
    if end < limit <= _FAR * end and not tail:
        end = limit
    counts = [int(value) for value in round_ticks(max(count for *_, count in bins)) if value == int(value)]
    left = 16 + _CHARACTER * len(f"{counts[-1]:,}")
    # The tail's bar stands apart: it has the width of two others but not their scale.
    tail_width = 2 * (_WIDTH - _EDGE - left) / (len(bins) + 3) if tail else 0.0
    right = _WIDTH - _EDGE - 1.5 * tail_width

    def across(value: float) -> float:
        if tail and value > tail[0]:
            part = (value - tail[0]) / (tail[1] - tail[0])
            return round(right + tail_width * (0.5 + part), 1)
        return round(left + (right - left) * value / end, 1)

    def down(count: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - count / counts[-1]), 1)

    bars = []
    for low, high, count in bins:
        begin = across(low) if (low, high, count) != tail else round(right + 0.5 * tail_width, 1)
        # A row that is alone among a million must still be seen.
        y = min(down(count), down(0) - 1.5) if count else down(0)
        bars.append(
            {"x": begin, "y": y, "width": round(max(across(high) - begin - 1, 0.5), 1), "height": round(down(0) - y, 1),
             "low": low + 1, "high": high, "count": count}
        )  # fmt: skip
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": left,
        "right": _WIDTH - _EDGE,
        "top": _TOP,
        "bottom": down(0),
        "bars": bars,
        "rows": [{"y": down(count), "text": f"{count:,}"} for count in counts],
        "columns": _column_ticks(end, across, tail[1] if tail else None),
        "break_x": round(right + 0.25 * tail_width, 1) if tail else None,
        "limit_x": across(limit) if limit <= max(end, bins[-1][1]) else None,
    }


def _column_ticks(end: int, across: Callable[[float], float], tail_end: int | None) -> list[dict[str, Any]]:
    """Labels under the bars, as many as have room, and the largest value of a tail."""
    values = [int(value) for value in round_ticks(end) if value == int(value) and value <= end]
    room = across(values[1]) - across(0) if len(values) > 1 else _WIDTH
    every = math.ceil(_CHARACTER * (len(f"{values[-1]:,}") + 1) / room)
    last = _WIDTH - _EDGE
    ticks: list[dict[str, Any]] = [
        {"x": across(value), "text": f"{value:,}", "anchor": "middle"} for value in values[::every]
    ]
    if tail_end is not None:
        last -= _CHARACTER * (len(f"{tail_end:,}") + 1)
    half = _CHARACTER / 2
    fitting = [tick for tick in ticks if tick["x"] + half * len(tick["text"]) <= last]
    if tail_end is None and len(fitting) < len(ticks):
        fitting.append({**ticks[-1], "anchor": "end"})
    if tail_end is not None:
        fitting.append({"x": _WIDTH - _EDGE, "text": f"{tail_end:,}", "anchor": "end"})
    return fitting


_CHART_HEIGHT = 240.0


def line_chart(series: list[tuple[str, list[tuple[float, float]]]]) -> dict[str, Any] | None:
    """Curves over the same steps as SVG geometry; None if none has a point.

    Args:
        series: name and points (x, y) of each; what is not finite is left out, and breaks the line.

    Returns:
        width, height, left, right, bottom, `ticks` (y, text), `first` and `last` (x as they are), and `lines` (name,
        path, dots).
    """
    finite = [(x, y) for _, points in series for x, y in points if math.isfinite(y)]
    if not finite:
        return None
    first, last = min(x for x, _ in finite), max(x for x, _ in finite)
    ticks = round_ticks(max(y for _, y in finite))
    left = 16 + _CHARACTER * max(3, *(len(f"{value:g}") for value in ticks))
    right = _WIDTH - 2 * _EDGE

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (right - left) * (x - first) / max(last - first, 1)
        return round(across, 1), round(_CHART_HEIGHT - 40 - (_CHART_HEIGHT - 70) * y / ticks[-1], 1)

    lines = []
    for name, points in series:
        path, pen = "", "M"
        for x, y in points:
            path += "{}{},{}".format(pen, *place(x, y)) if math.isfinite(y) else ""
            pen = "L" if math.isfinite(y) else "M"
        dots = [place(x, y) for x, y in points if math.isfinite(y)]
        lines.append({"name": name, "path": path, "dots": dots})
    return {
        "width": _WIDTH,
        "height": _CHART_HEIGHT,
        "left": left,
        "right": right,
        "bottom": _CHART_HEIGHT - 40,
        "ticks": [{"y": place(first, value)[1], "text": f"{value:g}"} for value in ticks],
        "first": first,
        "last": last,
        "lines": lines,
    }
