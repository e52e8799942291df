"""The report as self-contained HTML pages: English `index.html`, Chinese `index.zh.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.evaluation.wording import ENGLISH, NAMES, Language, Say, known, named, reteller, speaker, verdict_sentence
from danlu.pages.bars import bars
from danlu.pages.charts import line_chart
from danlu.pages.difference import difference
from danlu.pages.page import write_page

PAGES: dict[Language, str] = {"en": "index.html", "zh": "index.zh.html"}
_SHOWN_ANSWERS = 100
_TITLES = {
    "loss": "Loss per answer token (lower is better)",
    "compliance": "Answers that keep every house rule",
    "finished": "Answers that end by themselves",
}


def write_report(folder: Path, content: dict[str, Any]) -> None:
    """Writes the page in each language.

    Args:
        folder: the report folder.
        content: as in `report.json`.
    """
    for language, name in PAGES.items():
        write_page(folder / name, "danlu.evaluation", "report.html.j2", _view(content, language))


def write_comparison(folder: Path, content: dict[str, Any]) -> None:
    """Writes the page of several runs in each language.

    Args:
        folder: the comparison's.
        content: as in `compare.json`.
    """
    first, others = content["runs"][0], content["runs"][1:]
    for language, page in PAGES.items():
        say = speaker(language)
        said = [{**run, "sentence": verdict_sentence(run["comparison"], first["name"], say)} for run in others]
        table = [_across(name, content["runs"], others[0]["comparison"][name], say) for name in content["metrics"]]
        view = {"runs": [first, *said], "table": table, "say": say, "language": language}
        view["other_page"] = PAGES["zh" if language == "en" else "en"]
        write_page(folder / page, "danlu.evaluation", "compare.html.j2", view)


def _across(metric: str, runs: list[dict[str, Any]], kind: dict[str, Any], say: Say) -> dict[str, Any]:
    """A metric of all runs: title and cells; `kind`: a comparison, which knows how it is shown."""
    cells = []
    for run in runs:
        value = run["metrics"][metric]
        one = run["comparison"].get(metric, {"style": kind["style"]})
        row = _row(metric, "", one.get("first", value), value, one, say)
        cells.append({"value": row["tuned"], **{key: row[key] for key in ("verdict", "kind", "change", "interval")}})
    return {"title": _title(metric, "", None, say), "cells": cells}


def _view(content: dict[str, Any], language: Language) -> dict[str, Any]:
    """What the template shows."""
    say = speaker(language)
    confidence = content["confidence"]
    return {
        **content,
        "say": say,
        "retell": reteller(language),
        "named": lambda metric: named(metric, say),
        "language": language,
        "other_page": PAGES["zh" if language == "en" else "en"],
        "sentence": verdict_sentence(content["comparison"], say=say),
        "table": metric_table(content["metrics"], content["loss_rows"], content["comparison"], say),
        "against": [_against(one, say) for one in content["against"]],
        "percent": f"{100 * confidence:g}",
        "rules_asked": [{**rule, "asked": _asked(rule)} for rule in (content["gate"] or {"rules": []})["rules"]],
        "charts": curve_charts(content["curve"], say),
        "held_out": say("held out"),
        "attacked_score": " + ".join(named(name, say) for name in (content["robustness"] or {"score": ()})["score"]),
        "attacks": _attacks(content["robustness"]),
        "general": _general(content["forgetting"], say),
        "lengths": _lengths(content["latency"]),
        "shown": [_example(one) for one in content["examples"][:_SHOWN_ANSWERS]],
    }


def metric_table(
    metrics: dict[str, dict[str, float]],
    loss_rows: int | None = None,
    compared: dict[str, Any] | None = None,
    say: Say = ENGLISH,
) -> list[dict[str, Any]]:
    """Rows of title, base, tuned and difference, as text.

    Args:
        metrics: `base` and `tuned`, by name.
        loss_rows: on how many rows the loss was taken, if on fewer than all.
        compared: comparisons by metric, which know what kind each is; then each row has its `interval`, `verdict`,
            `outcomes` (wins, ties, losses) and `groups`, rows alike.
        say: gives the words.
    """
    rows = []
    for name, base in metrics["base"].items():
        one = (compared or {}).get(name, {})
        row = _row(name, _title(name, one.get("task", "field"), loss_rows, say), base, metrics["tuned"][name], one, say)
        groups = (one.get("groups") or {}).items()
        row["groups"] = [_group_row(name, group, each, say) for group, each in groups]
        rows.append(row)
    return rows


def _group_row(name: str, group: str, one: dict[str, Any], say: Say) -> dict[str, Any]:
    title = say("{group} (n = {rows})", group=group, rows=one["rows"])
    return _row(name, title, one["first"], one["second"], one, say)


def _row(name: str, title: str, base: float, tuned: float, one: dict[str, Any], say: Say) -> dict[str, Any]:
    style = one.get("style", "nats" if name == "loss" else "share")
    interval, verdict = one.get("interval"), one.get("verdict", "")
    low, high = (_signed(value, style) for value in interval) if interval else ("", "")
    return {
        "name": name,
        "title": title,
        "base": _shown(base, style),
        "tuned": _shown(tuned, style),
        "change": _changed(tuned - base, style, say),
        "interval": say("{low} to {high}", low=low, high=high) if interval else "",
        "verdict": say(verdict) if verdict else "",
        "kind": verdict,
        "outcomes": f"{one['wins']} / {one['ties']} / {one['losses']}" if "wins" in one else "",
    }


def _title(name: str, task: str, loss_rows: int | None, say: Say) -> str:
    if name == "loss" and loss_rows:
        return say("Loss per answer token, {rows} questions (lower is better)", rows=loss_rows)
    if name in _TITLES:
        return say(_TITLES[name])
    if name in NAMES:
        return NAMES[name]
    plain = named(name.replace(".", ": "), say)
    plain = plain[:1].upper() + plain[1:]
    return say("{name} equal to the reference's", name=plain) if task == "field" else plain


def _shown(value: float, style: str) -> str:
    return f"{value:.1%}" if style == "share" else f"{value:.3f}" if style == "nats" else f"{value:.1f}"


def _changed(difference: float, style: str, say: Say) -> str:
    text = _signed(difference, style)
    return say("{points} points", points=text) if style == "share" else text


def _signed(difference: float, style: str) -> str:
    return (
        f"{100 * difference:+.1f}"
        if style == "share"
        else f"{difference:+.3f}"
        if style == "nats"
        else f"{difference:+.1f}"
    )


def _asked(rule: dict[str, Any]) -> str:
    """A gate's rule as the recipe has it: `compliance of cards, min 0.95, max_drop 0.02 against base`."""
    bounds = [f"{name} {rule[name]:g}" for name in ("min", "max", "min_gain", "max_drop") if name in rule]
    of = f" of {rule['group']}" if rule.get("group") else ""
    against = f" against {rule['against']}" if "min_gain" in rule or "max_drop" in rule else ""
    return ", ".join([rule["metric"] + of, *bounds]) + against


def _against(one: dict[str, Any], say: Say) -> dict[str, Any]:
    compared = one["comparison"]
    metrics = {
        model: {name: each[place] for name, each in compared.items()}
        for model, place in (("base", "first"), ("tuned", "second"))
    }
    table = metric_table(metrics, None, compared, say)
    return {"name": one["name"], "table": table, "sentence": verdict_sentence(compared, one["name"], say)}


def curve_charts(curve: list[dict[str, Any]], say: Say = ENGLISH) -> list[dict[str, Any]]:
    """What training did step by step: the losses, the learning rate, the gradient's norm; each that has points.

    Args:
        curve: lines of metrics.
        say: gives the words.

    Returns:
        title, `label` for those who can't see it, and `chart` as `danlu.pages.charts.line_chart` gives it.
    """

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in curve if line.get(key) is not None]

    losses = [(say("training"), points("loss")), (say("held out"), points("evaluation_loss"))]
    drawn = [
        ("Loss", "Loss by optimizer step", [one for one in losses if one[1]]),
        ("Learning rate", "Learning rate by optimizer step", [(say("learning rate"), points("learning_rate"))]),
        ("Gradient norm", "Gradient norm before clipping", [(say("gradient norm"), points("gradient_norm"))]),
    ]
    charts = [{"title": say(title), "label": say(label), "chart": line_chart(lines)} for title, label, lines in drawn]
    return [one for one in charts if one["chart"]]


def _attacks(robustness: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Attacks, the worst first, each with the bar of its drop."""
    if not robustness:
        return []
    base, tuned = (robustness["models"][model]["attacks"] for model in ("base", "tuned"))
    found = sorted(tuned.items(), key=lambda one: -one[1]["drop"])
    drawn = bars([(one["drop"], *(one["drop_interval"] or (None, None))) for _, one in found])
    return [
        {"name": name, **one, "base_drop": base[name]["drop"], "bar": bar}
        for (name, one), bar in zip(found, drawn, strict=True)
    ]


def _general(forgetting: dict[str, Any] | None, say: Say) -> list[dict[str, Any]]:
    """Rows of the table of what was forgotten."""
    if not forgetting:
        return []
    names = {"en": say("English"), "zh": say("Chinese")}
    rows = []
    for language, change in forgetting["change"].items():
        before, after = (forgetting["accuracy"][model][language] for model in ("base", "tuned"))
        for kind, value in before.items():
            whole = kind == "all"
            title = say("General questions, {language}", language=names[language])
            one = {"interval": change["interval"] if whole else None}
            title = title if whole else known(say, kind.replace("_", " "))
            rows.append({**_row("general", title, value, after[kind], one, say), "part": not whole})
    for language in forgetting["change"] if forgetting["perplexity"] else ():
        title = say("Perplexity of general text, {language} (lower is better)", language=names[language])
        before, after = (forgetting["perplexity"][language][model] for model in ("base", "tuned"))
        rows.append({**_row("perplexity", title, before, after, {"style": "number"}, say), "part": False})
    return rows


def _lengths(latency: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Lengths of prompts, each with the bar of its median time to the first token."""
    if not latency:
        return []
    times = [one["first_token_seconds"] for one in latency["lengths"]]
    drawn = bars([(one["p50"], one["p50"], one["p99"]) for one in times])
    return [{**one, "bar": bar} for one, bar in zip(latency["lengths"], drawn, strict=True)]


def _example(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "pieces": difference(one["base"]["text"], one["tuned"]["text"])}
