"""Curves: points lie where their numbers say."""

from __future__ import annotations

import math
import re

import pytest

from danlu.evaluation.report import curve_charts
from danlu.pages.charts import line_chart


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+),([\d.]+)", path)]


def test_points_lie_on_the_scale_of_the_ticks() -> None:
    chart = line_chart([("a", [(1, 0.0), (3, 2.0), (5, 4.0)]), ("b", [(5, 1.0)])])
    assert chart is not None
    zero, top = chart["ticks"][0], chart["ticks"][-1]
    assert (zero["text"], top["text"]) == ("0", "4")
    (x1, y1), (x2, y2), (x3, y3) = points(chart["lines"][0]["path"])
    assert (x1, x3) == (chart["left"], chart["right"])
    assert x2 == pytest.approx((x1 + x3) / 2)
    assert (y1, y3) == (zero["y"], top["y"])
    assert y2 == pytest.approx((y1 + y3) / 2)
    assert chart["lines"][1]["dots"] == [(x3, pytest.approx(y1 + (y3 - y1) / 4))]
    assert (chart["first"], chart["last"]) == (1, 5)


def test_small_numbers_have_a_scale_of_their_own() -> None:
    chart = line_chart([("learning rate", [(1, 0.0), (2, 2e-4), (3, 1e-6)])])
    assert chart is not None
    assert [tick["text"] for tick in chart["ticks"]] == ["0", "5e-05", "0.0001", "0.00015", "0.0002"]


def test_what_is_not_finite_breaks_the_line() -> None:
    chart = line_chart([("a", [(1, 1.0), (2, math.nan), (3, 1.0), (4, math.inf), (5, 2.0)])])
    assert chart is not None
    assert chart["lines"][0]["path"].count("M") == 3
    assert line_chart([("a", [(1, math.nan)]), ("b", [])]) is None


def test_the_report_draws_losses_learning_rate_and_gradient_norm() -> None:
    lines = [
        {
            "step": step,
            "loss": 2.0,
            "learning_rate": 1e-4,
            "gradient_norm": 0.5,
            "evaluation_loss": 1.0 if step == 2 else None,
        }
        for step in (1, 2)
    ]
    charts = {one["title"]: [line["name"] for line in one["chart"]["lines"]] for one in curve_charts(lines)}
    assert charts == {
        "Loss": ["training", "held out"],
        "Learning rate": ["learning rate"],
        "Gradient norm": ["gradient norm"],
    }
    old = [{"step": 1, "loss": 2.0}]
    assert [one["title"] for one in curve_charts(old)] == ["Loss"], "a run of before has no others"


def test_a_step_without_a_loss_is_left_out_of_the_curve() -> None:
    lines = [{"step": step, "loss": 2.0, "evaluation_loss": None} for step in (1, 2, 3)]
    lines[1]["loss"] = None
    lines.append({"step": 4, "loss": None, "evaluation_loss": 1.5})
    (drawn,) = curve_charts(lines)
    whole = line_chart([("training", [(1, 2.0), (3, 2.0)]), ("held out", [(4, 1.5)])])
    assert drawn["chart"] == whole
