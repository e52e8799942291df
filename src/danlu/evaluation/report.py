"""The report as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.pages.charts import round_ticks
from danlu.pages.page import write_page

_WIDTH, _HEIGHT, _MARGIN = 640.0, 240.0, 48.0
_SHORT = {"rouge_l": "ROUGE-L", "compliance": "keeping the house rules", "finished": "ending its answers"}
_TITLES = {
    "loss": "Loss per answer token (lower is better)",
    "rouge_l": "ROUGE-L",
    "compliance": "Answers that keep every house rule",
    "finished": "Answers that end by themselves",
}


def write_report(path: Path, content: dict[str, Any]) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        content: as in `report.json`.
    """
    write_page(
        path,
        "danlu.evaluation",
        "report.html.j2",
        {
            **content,
            "table": metric_table(content["metrics"], content["loss_rows"]),
            "chart": curve_chart(content["curve"]),
            "verdict": verdict(content["metrics"]),
        },
    )


def metric_table(metrics: dict[str, dict[str, float]], loss_rows: int | None = None) -> list[dict[str, str]]:
    """Rows of title, base, tuned and difference, as text; `loss_rows` if the loss was taken on fewer rows."""
    rows = []
    for name, base in metrics["base"].items():
        tuned = metrics["tuned"][name]
        style = ".3f" if name == "loss" else ".1%"
        title = _TITLES.get(name, f"{name.replace('_', ' ').capitalize()} equal to the reference's")
        if name == "loss" and loss_rows:
            title = f"Loss per answer token, {loss_rows} questions (lower is better)"
        change = f"{tuned - base:+.3f}" if name == "loss" else f"{100 * (tuned - base):+.1f} points"
        rows.append(
            {"name": name, "title": title, "base": format(base, style), "tuned": format(tuned, style), "change": change}
        )
    return rows


def verdict(metrics: dict[str, dict[str, float]]) -> str:
    """What changed from base to tuned, in one sentence and without adjectives."""
    better: list[str] = []
    worse: list[str] = []
    for name, base in metrics["base"].items():
        gain = metrics["tuned"][name] - base
        if gain:
            (better if (gain < 0) == (name == "loss") else worse).append(_SHORT.get(name, name.replace("_", " ")))
    parts = [f"better in {', '.join(better)}"] * bool(better) + [f"worse in {', '.join(worse)}"] * bool(worse)
    return f"The tuned model is {' and '.join(parts) or 'no different from its base'} on the held-out questions."


def curve_chart(curve: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The loss curves as SVG geometry: two paths, axis labels; None without steps."""
    points = [(line["step"], line["loss"]) for line in curve if line["loss"] is not None]
    held = [(line["step"], line["evaluation_loss"]) for line in curve if line["evaluation_loss"] is not None]
    if not points:
        return None
    last = max(step for step, _ in points + held)
    ticks = round_ticks(max(value for _, value in points + held))
    top = ticks[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - 1.5 * _MARGIN) * (step - 1) / max(last - 1, 1)
        return round(x, 1), round(_HEIGHT - _MARGIN - (_HEIGHT - 1.5 * _MARGIN) * value / top, 1)

    def path(series: list[tuple[int, float]]) -> str:
        return "M" + "L".join(f"{x},{y}" for x, y in (place(*point) for point in series)) if series else ""

    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _MARGIN,
        "right": _WIDTH - _MARGIN / 2,
        "last": last,
        "bottom": _HEIGHT - _MARGIN,
        "training": path(points),
        "held": path(held),
        "dots": [place(*point) for point in held],
        "ticks": [{"y": place(1, value)[1], "text": f"{value:g}"} for value in ticks],
    }
