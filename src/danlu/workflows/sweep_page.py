"""The page of a sweep: a table, curves, and the same questions answered by every trial side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.pages.charts import line_chart
from danlu.pages.page import write_page

# Told apart by those who see red and green alike too (Okabe and Ito, 2008); more trials than these share colours.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a8699")
_TITLES = {"rouge_l": "ROUGE-L", "compliance": "Keeps the rules"}


def write_sweep_page(path: Path, name: str, trials: Sequence[dict[str, Any]], base: dict[str, Any] | None) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        name: of the sweep.
        trials: what each came to, in their order.
        base: the base's answers, as `danlu.workflows.answers.base_answers` gives them.
    """
    colours = {trial["name"]: _COLOURS[place % len(_COLOURS)] for place, trial in enumerate(trials)}
    done = [trial for trial in trials if trial["state"] != "failed"]
    order = sorted(done, key=lambda trial: (trial["state"] == "pruned", trial["evaluation_loss"]))
    failed = [trial for trial in trials if trial["state"] == "failed"]
    values = {
        "name": name,
        "keys": list(dict.fromkeys(key for trial in trials for key in trial["parameters"])),
        "trials": [*order, *failed],
        "best": next((trial for trial in order if trial["state"] == "complete"), None),
        "colours": colours,
        "titles": _TITLES,
        "metrics": list(dict.fromkeys(metric for trial in done for metric in trial["metrics"])),
        "charts": _charts(done),
        "palette": [colours[trial["name"]] for trial in done],
        "questions": _questions(order, base),
        "base": base,
    }
    write_page(path, "danlu.workflows", "sweep.html.j2", values)


def _charts(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    drawn = [("Loss on held-out rows", "curve"), ("Training loss", "losses")]
    charts = [
        {"title": title, "chart": line_chart([(trial["name"], [(x, y) for x, y in trial[key]]) for trial in trials])}
        for title, key in drawn
    ]
    return [one for one in charts if one["chart"]]


def _questions(trials: Sequence[dict[str, Any]], base: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each question that all trials answered, with every answer; trials with other rows have other questions."""
    by_trial = {trial["name"]: {_key(one["messages"]): one for one in trial["answers"]} for trial in trials}
    if not by_trial:
        return []
    first = next(iter(by_trial.values()))
    return [
        {
            "messages": one["messages"],
            "reference": one["reference"],
            "base": base["texts"].get(key) if base else None,
            "answers": [{"name": name, "text": found[key]["text"]} for name, found in by_trial.items()],
        }
        for key, one in first.items()
        if all(key in found for found in by_trial.values())
    ]


def _key(messages: Any) -> str:
    return json.dumps(messages, sort_keys=True)
