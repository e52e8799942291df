"""`danlu compare`: reports of several runs side by side, each against the first; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.errors import Fault, FolderError, InputError
from danlu.evaluation.comparison import Resampling, compare_metric, with_verdicts
from danlu.evaluation.report import write_comparison
from danlu.evaluation.reports import EarlierReport, in_pairs, read_report
from danlu.evaluation.wording import verdict_sentence
from danlu.runs import create_folder, next_free_folder, write_json, write_manifest

COMPARISON = "compare.json"


def run_compare(names: Sequence[str], out: str | Path | None = None) -> dict[str, Any]:
    """Compares the tuned models of runs on the rows that all of them were judged by.

    Args:
        names: runs, or report folders, at least two.
        out: folder to write; None: `comparison` beside the first run, or the next that is free.

    Returns:
        `comparison_folder`, `metrics` (names), `runs`: each `name`, `report_folder`, `metrics`, `base`, `comparison`
        with the first run (empty for the first), `verdict`.

    Raises:
        InputError: fewer than two runs.
        FolderError: a run has no report; they share no metric; or a metric was measured otherwise, or on other rows.
    """
    if len(names) < 2:
        raise InputError(Fault("one run alone can't be compared", "command line", "two runs or more", "name another"))
    reports = [read_report(name) for name in names]
    metrics = [name for name in reports[0].tuned if all(name in one.tuned for one in reports[1:])]
    if not metrics:
        what = "the runs were not judged by one metric in common"
        raise FolderError(Fault(what, " and ".join(names), hint="evaluate them by the same evaluation.tasks"))
    first, *others = reports
    runs = [_run(first, {}, ""), *(_against(first, one, metrics) for one in others)]
    folder = Path(out) if out else next_free_folder(Path(first.content["run_folder"]).parent / "comparison")
    create_folder(folder, "comparison folder", "--out")
    result = {"metrics": metrics, "runs": runs}
    write_json(folder / COMPARISON, result)
    write_comparison(folder, result)
    write_manifest(folder, "comparison", {"runs": [str(one.folder) for one in reports]})
    return {"comparison_folder": str(folder), **result}


def _against(first: EarlierReport, other: EarlierReport, metrics: Sequence[str]) -> dict[str, Any]:
    section = first.content["recipe"].get("evaluation") or {}
    confidence = first.content["confidence"]
    resampling = Resampling(confidence, section.get("resamples", 2000), section.get("seed", 0))
    compared = {}
    for name in metrics:
        pairs = in_pairs(first.tuned[name], other.tuned[name], (str(first.folder), str(other.folder)))
        compared[name] = compare_metric(other.tuned[name].metric, *pairs, resampling)
    compared = with_verdicts(compared, confidence)
    return _run(other, compared, verdict_sentence(compared, first.name))


def _run(report: EarlierReport, compared: dict[str, dict[str, Any]], verdict: str) -> dict[str, Any]:
    return {
        "name": report.name,
        "run_folder": report.content["run_folder"],
        "report_folder": str(report.folder),
        "metrics": report.content["metrics"]["tuned"],
        "base": report.content["metrics"]["base"],
        "comparison": compared,
        "verdict": verdict,
    }
