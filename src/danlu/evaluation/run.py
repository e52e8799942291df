"""The evaluation stage: a run folder in, a report folder out."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danlu.data.records import Messages
from danlu.data.template import label
from danlu.engines.interface import Answer, Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import Fault, FolderError
from danlu.evaluation.report import write_report
from danlu.evaluation.stress import stress_models
from danlu.evaluation.tasks import TaskResult, run_task
from danlu.recipe.evaluation_schema import EvaluationSection, LossTask, RougeTask
from danlu.runs import create_folder, next_free_folder, write_json, write_manifest
from danlu.tracking.metrics import read_metrics
from danlu.tracking.progress import progress
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.loop import mean_loss
from danlu.training.trained import TrainedRun, open_run

MODELS = ("base", "tuned")
_DRAWN = ("step", "loss", "evaluation_loss", "learning_rate", "gradient_norm")
_LOSS_TOKENS = 1024


def run_evaluation(run_folder: str | Path, quiet: bool = False) -> dict[str, Any]:
    """Puts the held-out questions to the base and to the tuned model, and writes a report.

    Returns:
        `report_folder`, `metrics` {`base`, `tuned`}, `gate`, `rows`, `seconds`,
        `examples` (the worst, the middle one, the best).

    Raises:
        FolderError: the run is not complete, or it held no rows out.
    """
    started = time.perf_counter()
    run = open_run(run_folder)
    settings = run.recipe.evaluation or EvaluationSection()
    rows = run.evaluation_rows()[: settings.max_rows]
    if not rows:
        raise FolderError(
            Fault(
                "this run held no rows out, so there is nothing to judge it on",
                str(run.folder),
                hint="set data.evaluation, for example {share: 0.1}, and train again",
            )
        )
    folder = create_folder(next_free_folder(run.folder / "report"), "report folder", "--out")
    try:
        engine = run.engine(run.dtype)
        answers, results = _judge(engine, settings, rows, quiet)
        content = _content(run, rows, answers, results)
        questions = [messages[:-1] for messages in rows]
        content |= stress_models(engine, settings, questions, _scoring(settings, rows), quiet)
        content["seconds"] = round(time.perf_counter() - started, 3)
        write_json(folder / "report.json", content)
        write_report(folder / "index.html", content)
        write_manifest(folder, "report", {"run_folder": str(run.folder), "metrics": content["metrics"]})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    by_score = content["examples"]
    spread = [by_score[place * (len(by_score) - 1) // 2] for place in range(min(3, len(by_score)))]
    return {
        "report_folder": str(folder),
        "metrics": content["metrics"],
        "gate": None,
        "rows": len(rows),
        "loss_rows": content["loss_rows"],
        "seconds": content["seconds"],
        "examples": spread,
    }


def _scoring(settings: EvaluationSection, rows: list[Messages]) -> Callable[[list[str], Sequence[int]], list[float]]:
    """What scores answers to some of the rows: by row, the mean of the tasks that score rows."""
    references = [messages[-1]["content"] for messages in rows]
    tasks = [task for task in settings.tasks if not isinstance(task, LossTask)] or [RougeTask(type="rouge_l")]

    def score(texts: list[str], chosen: Sequence[int]) -> list[float]:
        answers = [Answer((), text, "stop") for text in texts]
        results = [run_task(task, answers, [references[row] for row in chosen], math.nan) for task in tasks]
        return [math.fsum(scores) / len(scores) for scores in zip(*(result.scores for result in results), strict=True)]

    return score


def _judge(
    engine: TransformersEngine, settings: EvaluationSection, rows: list[Messages], quiet: bool
) -> tuple[dict[str, list[Answer]], dict[str, list[TaskResult]]]:
    """Answers and metrics of both models."""
    engine.batch_size = settings.batch_size
    questions = [messages[:-1] for messages in rows]
    references = [messages[-1]["content"] for messages in rows]
    task = next((task for task in settings.tasks if isinstance(task, LossTask)), None)
    losses = _losses(engine, rows, task.max_rows) if task else dict.fromkeys(MODELS, math.nan)
    answers, results = {}, {}
    for model in MODELS:
        tuned = model == "tuned"
        with progress(f"answers of the {model} model", len(rows), quiet) as bar:
            answers[model] = engine.generate(questions, Sampling(settings.max_new_tokens), tuned, bar.update)
        results[model] = [run_task(task, answers[model], references, losses[model]) for task in settings.tasks]
    return answers, results


def _losses(engine: TransformersEngine, rows: list[Messages], max_rows: int | None) -> dict[str, float]:
    """Mean cross-entropy per answer token of both models, packed as in training."""
    count = min(len(rows), max_rows or len(rows))
    picked = [rows[place * len(rows) // count] for place in range(count)]
    documents = [document for messages in picked for document in label(engine.tokenizer, messages)]
    losses = {}
    for name in MODELS:
        with engine.chosen(name == "tuned") as model:
            chosen = choose_engine(model, documents)
            try:
                most, device = _LOSS_TOKENS if chosen.packs else 1, model.device
                batches = to_batches(documents, most, chosen.shares_prefix, device, padded=chosen.padded)
                losses[name] = mean_loss(model, chosen.objective, batches)
            finally:
                chosen.off()
    return losses


def _content(
    run: TrainedRun,
    rows: list[Messages],
    answers: dict[str, list[Answer]],
    results: dict[str, list[TaskResult]],
) -> dict[str, Any]:
    """Everything that the report shows, as plain values; examples where the tuned model is worst come first."""
    examples = []
    for index, messages in enumerate(rows):
        example: dict[str, Any] = {"messages": messages[:-1], "reference": messages[-1]["content"]}
        for model in MODELS:
            answer = answers[model][index]
            scores = {result.name: result.scores[index] for result in results[model] if result.scores}
            example[model] = {"text": answer.text, "finish": answer.finish, "scores": scores}
        examples.append(example)
    examples.sort(key=lambda example: sum(example["tuned"]["scores"].values()))
    return {
        "run_folder": str(run.folder),
        "model": run.recipe.model.name,
        "rows": len(rows),
        "loss_rows": _loss_rows(run.recipe.evaluation, len(rows)),
        "metrics": {model: _metrics(results[model], answers[model]) for model in MODELS},
        "rules": {model: next((r.parts for r in results[model] if r.parts), None) for model in MODELS},
        "training": run.about.get("result", {}),
        "curve": [{key: line.get(key) for key in _DRAWN} for line in read_metrics(run.folder)],
        "recipe": run.recipe.model_dump(mode="json"),
        "examples": examples,
    }


def _metrics(results: list[TaskResult], answers: list[Answer]) -> dict[str, float]:
    values = {result.name: result.value for result in results}
    values["finished"] = sum(answer.finish == "stop" for answer in answers) / len(answers)
    return values


def _loss_rows(settings: EvaluationSection | None, rows: int) -> int | None:
    """On how many rows the loss was taken, if on fewer than all."""
    tasks = settings.tasks if settings else ()
    most = next((task.max_rows for task in tasks if isinstance(task, LossTask)), None)
    return most if most and most < rows else None
