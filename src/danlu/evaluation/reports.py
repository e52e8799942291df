"""Report folders: what is written of each row, and reading it again to compare without any model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.errors import Fault, FolderError
from danlu.evaluation.metrics import Metric, Statistics
from danlu.evaluation.parts import AskedRow, RowSet
from danlu.runs import MANIFEST, read_manifest, write_text

REPORT, ANSWERS = "report.json", "answers.jsonl"
RowId = tuple[str, int]


@dataclass(frozen=True)
class MetricRows:
    """A metric of one model, row by row.

    Attributes:
        metric: what it is.
        asked: how it was measured; what is to be compared must have been asked in the same way.
        rows: statistics by row.
    """

    metric: Metric
    asked: str
    rows: dict[RowId, Statistics]


@dataclass(frozen=True)
class EarlierReport:
    """A report that was written before.

    Attributes:
        name: as it was asked for.
        folder: the report folder.
        content: its report.json.
        tuned: its metrics of the tuned model.
        base: those of its base.
    """

    name: str
    folder: Path
    content: dict[str, Any]
    tuned: dict[str, MetricRows]
    base: dict[str, MetricRows]


def write_answers(path: Path, sets: Sequence[RowSet]) -> None:
    """A line of JSON for each row: `row`, `set`, `where`, `messages`, `reference`, `base`, `tuned`, `scores`."""
    lines = [json.dumps(_line(row, of.name), ensure_ascii=False) + "\n" for of in sets for row in of.rows]
    write_text(path, "".join(lines))


def _line(row: AskedRow, of: str) -> dict[str, Any]:
    answers = {model: asdict(answer) for model, answer in row.answers.items()}
    scores = {
        metric: {model: statistics[0] if len(statistics) == 1 else list(statistics) for model, statistics in by.items()}
        for metric, by in row.scores.items()
    }
    return {
        "row": row.key,
        "set": of,
        "where": row.question.where,
        "messages": row.question.messages,
        "reference": row.question.reference,
        "base": answers.get("base"),
        "tuned": answers.get("tuned"),
        "scores": scores,
    }


def find_report(name: str | Path) -> Path:
    """The newest complete report of a run; or the folder itself, if it is a report.

    Raises:
        FolderError: there is none.
    """
    folder = Path(name)
    if (folder / REPORT).is_file():
        return folder
    found = [path.parent for path in folder.glob(f"report*/{MANIFEST}") if (path.parent / REPORT).is_file()]
    if not found:
        what = "there is no complete report of this run" if folder.is_dir() else "no such folder"
        hint = f"make one: danlu evaluate {name}" if folder.is_dir() else "check the path"
        raise FolderError(Fault(what, str(folder), "a run that was evaluated, or a report folder", hint))
    return max(found, key=lambda one: ((one / MANIFEST).stat().st_mtime_ns, one.name))


def read_report(name: str | Path) -> EarlierReport:
    """A report, with the scores of its rows.

    Raises:
        FolderError: there is none, or it can't be read.
    """
    folder = find_report(name)
    read_manifest(folder, "report")
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        lines = (folder / ANSWERS).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        metrics = {
            name: (Metric(name, one["kind"], one["better"], one["style"]), one["asked"])
            for name, one in content["comparison"].items()
        }
        by_model = [_metric_rows(metrics, rows, model) for model in ("tuned", "base")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "evaluate the run again; an older Danlu wrote reports without rows"
        raise FolderError(Fault("the report can't be read", str(folder), hint=hint)) from error
    return EarlierReport(str(name), folder, content, *by_model)


def _metric_rows(metrics: dict[str, tuple[Metric, str]], rows: list[Any], model: str) -> dict[str, MetricRows]:
    found: dict[str, dict[RowId, Statistics]] = {name: {} for name in metrics}
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for name, scores in row["scores"].items():
            value = scores[model]
            statistics = tuple(map(float, value)) if isinstance(value, list) else (float(value),)
            found[name][(row["row"], seen[name, row["row"]])] = statistics
            seen[name, row["row"]] += 1
    return {name: MetricRows(*metrics[name], found[name]) for name in metrics}


def rows_of(rows: Sequence[AskedRow], name: str, model: str) -> dict[RowId, Statistics]:
    """A metric's statistics of rows that were just measured."""
    found: dict[RowId, Statistics] = {}
    seen: Counter[str] = Counter()
    for row in rows:
        if name in row.scores:
            found[row.key, seen[row.key]] = row.scores[name][model]
            seen[row.key] += 1
    return found


def in_pairs(
    first: MetricRows, second: MetricRows, names: tuple[str, str]
) -> tuple[list[Statistics], list[Statistics]]:
    """The same rows of two models, in one order.

    Raises:
        FolderError: they were asked other rows, or in another way.
    """
    where = " and ".join(names)
    name = second.metric.name
    if first.asked != second.asked:
        what = f"`{name}` was measured in two different ways (task, longest answer)"
        hint = "evaluate one of them again, with the other's evaluation keys: danlu evaluate RUN evaluation.KEY=..."
        raise FolderError(Fault(what, where, hint=hint))
    only = len(first.rows.keys() - second.rows.keys()), len(second.rows.keys() - first.rows.keys())
    if any(only):
        shared = len(first.rows.keys() & second.rows.keys())
        what = f"`{name}` was not measured on the same rows: {shared} in both, {only[0]} only in the first, "
        what += f"{only[1]} only in the second"
        hint = "evaluate both on one file: danlu evaluate RUN evaluation.tasks='[{type: ..., file: rows.jsonl}]'"
        raise FolderError(Fault(what, where, hint=hint))
    return [first.rows[key] for key in second.rows], list(second.rows.values())
