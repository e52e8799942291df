"""What a report says, as plain values, from rows that have been answered and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from danlu.evaluation.combining import row_scores
from danlu.evaluation.comparison import Resampling, compare_metric, with_verdicts
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.parts import MODELS, AskedRow, Part, RowSet
from danlu.evaluation.reports import EarlierReport, MetricRows, in_pairs, rows_of
from danlu.evaluation.wording import verdict_sentence
from danlu.recipe.evaluation_schema import FINISHED

Compared = dict[str, dict[str, Any]]


def score_endings(parts: Sequence[Part]) -> None:
    """Notes of each generated answer whether it ended by itself."""
    for part in parts:
        for row in part.rows if part.generates else ():
            row.scores[FINISHED] = {model: (float(row.answers[model].finish == "stop"),) for model in MODELS}


def sets_of(parts: Sequence[Part]) -> list[RowSet]:
    """Each set once, with the rows that some part is measured on."""
    sets = {part.of.key: part.of for part in parts}
    wanted = {id(row) for part in parts for row in part.rows}
    return [RowSet(one.name, one.key, [row for row in one.rows if id(row) in wanted]) for one in sets.values()]


def metrics_of(parts: Sequence[Part], max_new_tokens: int) -> dict[str, tuple[MetricRows, MetricRows]]:
    """Each metric of base and tuned model, row by row, in the order of the recipe."""
    found: dict[str, tuple[MetricRows, MetricRows]] = {}
    for part in parts:
        section = part.section.model_dump(mode="json", exclude={"file", "name", "group_by"})
        asked = _hash([section, max_new_tokens])
        for metric in part.task.metrics:
            found[metric.name] = _both(metric, asked, part.rows)
    rows = [row for one in sets_of(parts) for row in one.rows if FINISHED in row.scores]
    if rows:
        found[FINISHED] = _both(Metric(FINISHED), _hash([max_new_tokens]), rows)
    return found


def _both(metric: Metric, asked: str, rows: Sequence[AskedRow]) -> tuple[MetricRows, MetricRows]:
    base, tuned = (MetricRows(metric, asked, rows_of(rows, metric.name, model)) for model in MODELS)
    return base, tuned


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def compare_with_base(
    parts: Sequence[Part], measured: dict[str, tuple[MetricRows, MetricRows]], resampling: Resampling
) -> Compared:
    """Base against tuned: each metric as `compare_metric` gives it, with verdict, `asked` and `groups`."""
    compared: Compared = {}
    for name, (base, tuned) in measured.items():
        first, second = in_pairs(base, tuned, MODELS)
        told = {"asked": tuned.asked, "task": None}
        compared[name] = {**compare_metric(tuned.metric, first, second, resampling), **told}
    compared = with_verdicts(compared, resampling.confidence)
    for part in parts:
        for metric in part.task.metrics:
            compared[metric.name]["task"] = part.section.type
            if part.groups:
                compared[metric.name]["groups"] = _by_group(part, metric, resampling)
    return compared


def _by_group(part: Part, metric: Metric, resampling: Resampling) -> Compared:
    groups: dict[str, list[AskedRow]] = {}
    for group, row in zip(part.groups or (), part.rows, strict=True):
        groups.setdefault(group, []).append(row)
    found = {}
    for group, rows in groups.items():
        first, second = ([row.scores[metric.name][model] for row in rows] for model in MODELS)
        found[group] = compare_metric(metric, first, second, resampling)
    return with_verdicts(found, resampling.confidence)


def compare_with_earlier(
    earlier: EarlierReport, measured: dict[str, tuple[MetricRows, MetricRows]], name: str, resampling: Resampling
) -> dict[str, Any]:
    """An earlier run's tuned model against this one, on the metrics that both have.

    Raises:
        FolderError: they share no metric, or were not asked the same.
    """
    compared: Compared = {}
    for metric, (_, tuned) in measured.items():
        if metric in earlier.tuned:
            first, second = in_pairs(earlier.tuned[metric], tuned, (str(earlier.folder), name))
            compared[metric] = {**compare_metric(tuned.metric, first, second, resampling), "asked": tuned.asked}
    compared = with_verdicts(compared, resampling.confidence)
    return {
        "name": earlier.name,
        "run_folder": earlier.content["run_folder"],
        "report_folder": str(earlier.folder),
        "comparison": compared,
        "verdict": verdict_sentence(compared, f"that of {earlier.name}"),
    }


def figures(compared: Compared) -> dict[str, dict[str, float]]:
    """`base` and `tuned`: each metric's figure."""
    return {
        model: {name: one[place] for name, one in compared.items()}
        for model, place in (("base", "first"), ("tuned", "second"))
    }


def tasks_content(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Each task: its section, set, rows, metrics, and details of both models."""
    found = []
    for part in parts:
        answered = [row for row in part.rows if all(model in row.answers for model in MODELS)]
        details = {
            model: part.task.details([row.question for row in answered], [row.answers[model] for row in answered])
            for model in MODELS
        }
        found.append(
            {
                "task": part.section.model_dump(mode="json"),
                "set": part.of.name,
                "rows": len(part.rows),
                "metrics": [metric.name for metric in part.task.metrics],
                "details": details if any(details.values()) else None,
            }
        )
    return found


def examples_content(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Rows with both answers, those where the tuned model is worst first."""
    kinds = {metric.name: metric for part in parts for metric in part.task.metrics} | {FINISHED: Metric(FINISHED)}
    shown = {name for name, metric in kinds.items() if metric.style == "share" and metric.kind in ("mean", "macro_f1")}
    examples = []
    for one in sets_of(parts):
        for row in one.rows:
            if all(model in row.answers for model in MODELS):
                examples.append(_example(row, one.name, {name: kinds[name] for name in row.scores if name in shown}))
    return sorted(examples, key=lambda example: sum(example["tuned"]["scores"].values()))


def _example(row: AskedRow, of: str, metrics: dict[str, Metric]) -> dict[str, Any]:
    def side(model: str) -> dict[str, Any]:
        answer: Given = row.answers[model]
        scores = {
            name: row_scores(metric.kind, [row.scores[name][model]])[0]
            for name, metric in metrics.items()
            if name != FINISHED and metric.kind == "mean" and metric.better != "neither"
        }
        return {"text": answer.text, "finish": answer.finish, "scores": scores}

    return {
        "row": row.key,
        "set": of,
        "where": row.question.where,
        "messages": row.question.messages,
        "reference": row.question.reference,
        **{model: side(model) for model in MODELS},
    }
