"""The report as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.pages.charts import line_chart
from danlu.pages.page import write_page

HELD_OUT = "held out"
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
            "table": metric_table(content["metrics"], content["loss_rows"], content["comparison"]),
            "charts": curve_charts(content["curve"]),
            "held_out": HELD_OUT,
        },
    )


def metric_table(
    metrics: dict[str, dict[str, float]], loss_rows: int | None = None, compared: dict[str, Any] | None = None
) -> list[dict[str, str]]:
    """Rows of title, base, tuned and difference, as text.

    Args:
        metrics: `base` and `tuned`, by name.
        loss_rows: on how many rows the loss was taken, if on fewer than all.
        compared: comparisons by metric, which know what kind each is; then each row has its `interval` and `verdict`.
    """
    rows = []
    for name, base in metrics["base"].items():
        tuned = metrics["tuned"][name]
        one = (compared or {}).get(name, {})
        style = one.get("style", "nats" if name == "loss" else "share")
        title = _TITLES.get(name, _title(name, one.get("task", "field")))
        if name == "loss" and loss_rows:
            title = f"Loss per answer token, {loss_rows} questions (lower is better)"
        interval = one.get("interval")
        rows.append(
            {
                "name": name,
                "title": title,
                "base": _shown(base, style),
                "tuned": _shown(tuned, style),
                "change": _changed(tuned - base, style),
                "interval": f"{_changed(interval[0], style)} to {_changed(interval[1], style)}" if interval else "",
                "verdict": one.get("verdict", ""),
            }
        )
    return rows


def _title(name: str, task: str) -> str:
    plain = name.replace("_", " ").replace(".", ": ")
    return plain[:1].upper() + plain[1:] + " equal to the reference's" * (task == "field")


def _shown(value: float, style: str) -> str:
    return f"{value:.1%}" if style == "share" else f"{value:.3f}" if style == "nats" else f"{value:.1f}"


def _changed(difference: float, style: str) -> str:
    if style == "share":
        return f"{100 * difference:+.1f} points"
    return f"{difference:+.3f}" if style == "nats" else f"{difference:+.1f}"


def curve_charts(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What training did step by step: the losses, the learning rate, the gradient's norm; each that has points.

    Args:
        curve: lines of metrics.

    Returns:
        title, `label` for those who can't see it, and `chart` as `danlu.pages.charts.line_chart` gives it.
    """

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in curve if line.get(key) is not None]

    losses = [("training", points("loss")), (HELD_OUT, points("evaluation_loss"))]
    drawn = [
        ("Loss", "Loss by optimizer step", [one for one in losses if one[1]]),
        ("Learning rate", "Learning rate by optimizer step", [("learning rate", points("learning_rate"))]),
        ("Gradient norm", "Gradient norm before clipping", [("gradient norm", points("gradient_norm"))]),
    ]
    charts = [{"title": title, "label": label, "chart": line_chart(series)} for title, label, series in drawn]
    return [one for one in charts if one["chart"]]
