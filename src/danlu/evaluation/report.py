"""The report as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.pages.charts import line_chart
from danlu.pages.page import write_page

HELD_OUT = "held out"
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
            "charts": curve_charts(content["curve"]),
            "held_out": HELD_OUT,
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
