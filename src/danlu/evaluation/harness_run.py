"""`danlu evaluate TARGET --harness TASKS`: a run or a model in, a folder with figures and a page out."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from danlu.engines.local import local_engine
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import Fault, InputError
from danlu.evaluation.harness import find_tasks, run_harness
from danlu.pages.page import write_page
from danlu.runs import RESOLVED, create_folder, next_free_folder, write_json, write_manifest
from danlu.training.trained import open_run


def run_harness_evaluation(
    target: str, tasks: str, limit: int | None = None, chat_template: bool = False, out: str | None = None
) -> dict[str, Any]:
    """Runs tasks of lm-evaluation-harness on a run's base and tuned model, or on a model alone.

    Args:
        target: a run folder, or a model by folder, file, short name or id.
        tasks: names, YAML files or folders, separated by commas.
        limit: first rows of each task; None: all.
        chat_template: whether prompts go through the chat template.
        out: folder to write; None: `harness` in the run folder, or `harness-NAME` here for a model.

    Returns:
        `report_folder`, `seconds`, and what `danlu.evaluation.harness.run_harness` gives.

    Raises:
        InputError: the target, a task or its data can't be used.
    """
    started = time.perf_counter()
    wanted = [name.strip() for name in tasks.split(",") if name.strip()]
    if not wanted:
        raise InputError(Fault("no task is named", "--harness", hint="name one or more, separated by commas"))
    found = find_tasks(wanted)
    is_run = (Path(target) / RESOLVED).is_file()
    default = Path(target) / "harness" if is_run else Path(f"harness-{Path(target).name}")
    folder = create_folder(Path(out) if out else next_free_folder(default), "report folder", "--out")
    try:
        engine, models = _models_of_run(target) if is_run else _model(target)
        results = run_harness(models, engine.tokenizer, found, engine.batch_size, limit, chat_template)
        content = {"target": target, "seconds": round(time.perf_counter() - started, 3), **results}
        write_json(folder / "harness.json", content)
        write_page(folder / "index.html", "danlu.evaluation", "harness.html.j2", {**content, "models": list(models)})
        write_manifest(folder, "harness", {"target": target})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"report_folder": str(folder), **content}


def harness_lines(result: dict[str, Any]) -> list[str]:
    """A line for each metric: values of each model, and the difference with its interval."""
    lines = []
    for task, about in result["tasks"].items():
        for metric, figures in about["metrics"].items():
            values = [(model, each["value"]) for model, each in figures.items() if isinstance(each, dict)]
            shown = " → ".join(
                f"{model} {'none' if value is None else format(value, '.4f')}" for model, value in values
            )
            change = f", difference {figures['difference']:+.4f}" if "difference" in figures else ""
            if figures.get("interval"):
                change += " [{:+.4f}, {:+.4f}]".format(*figures["interval"])
            lines.append(f"{task} ({about['rows']} rows) {metric}: {shown}{change}")
    return lines


def _models_of_run(target: str) -> tuple[TransformersEngine, dict[str, AbstractContextManager[Any]]]:
    run = open_run(target)
    engine = run.engine(run.dtype)
    return engine, {"base": engine.chosen(False), "tuned": engine.chosen(True)}


def _model(target: str) -> tuple[TransformersEngine, dict[str, AbstractContextManager[Any]]]:
    engine = local_engine(target)
    return engine, {"model": engine.chosen(True)}
