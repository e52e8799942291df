"""Tasks of EleutherAI's lm-evaluation-harness on models that are loaded already, quantised ones too."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from danlu.errors import Fault, InputError, WorkError
from danlu.evaluation.statistics import mean_interval

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class HarnessTasks:
    """Tasks that were found and whose data were read.

    Attributes:
        names: as the harness takes them.
        manager: its own, which knows them.
    """

    names: list[str]
    manager: Any


def find_tasks(wanted: Sequence[str]) -> HarnessTasks:
    """Finds tasks and reads their data, before any model is loaded.

    Args:
        wanted: names of the harness' own tasks or groups, YAML files, or folders of such files.

    Raises:
        InputError: the harness is not installed, a task is unknown or wrong, or its data can't be reached.
    """
    if importlib.util.find_spec("lm_eval") is None:
        hint = "pip install 'danlu[harness]'"
        raise InputError(Fault("lm-evaluation-harness is not installed", "--harness", hint=hint))
    with _quiet():
        from lm_eval.tasks import TaskManager

        paths = {one: Path(one).expanduser() for one in wanted}
        folders = [path for path in paths.values() if path.is_dir()]
        manager = TaskManager(include_path=[*map(str, folders)], include_defaults=False)
        named = {one for one, path in paths.items() if not path.exists()} - set(manager.all_tasks)
        _require_files(one for one in named if one.endswith((*_YAML, "/")))
        if named:  # some ten thousand files are read for the harness' own tasks
            manager = TaskManager(include_path=[*map(str, folders)])
        names = [name for one, path in paths.items() for name in _names(one, path, manager)]
        for name in names:
            _read(manager, name)
    return HarnessTasks(list(dict.fromkeys(names)), manager)


def run_harness(
    models: Mapping[str, AbstractContextManager[Any]],
    tokenizer: Any,
    tasks: HarnessTasks,
    batch_size: int = 8,
    limit: int | None = None,
    chat_template: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs the tasks on each model.

    Args:
        models: by name, each what gives a Transformers model, with a PEFT adapter or without, while it is entered.
        tokenizer: theirs; it is copied, as the harness changes its padding.
        tasks: from `find_tasks`.
        batch_size: requests at once.
        limit: first rows of each task; None: all.
        chat_template: whether prompts go through the tokenizer's chat template.
        seed: of few-shot examples and of the intervals' resampling.

    Returns:
        `version` of the harness, `limit`, `chat_template`, `tasks`: by name `rows`, `num_fewshot`, `metrics`: by metric
        (as the harness names it, `acc`, or `exact_match (strict)` with a filter) `higher_is_better`, and by model
        `value` and `stderr` (null where it has none); with two models also `difference` (second less first) and, where
        rows were scored one by one, its `interval` (95 %, paired bootstrap).

    Raises:
        WorkError: the harness fails.
    """
    found = {
        name: _evaluate(entered, tokenizer, tasks, batch_size, limit, chat_template, seed)
        for name, entered in models.items()
    }
    first = next(iter(found.values()))
    return {
        "version": version("lm_eval"),
        "limit": limit,
        "chat_template": chat_template,
        "tasks": {task: _task(task, found, seed) for task in first["results"]},
    }


def _evaluate(
    entered: AbstractContextManager[Any],
    tokenizer: Any,
    tasks: HarnessTasks,
    batch_size: int,
    limit: int | None,
    chat_template: bool,
    seed: int,
) -> dict[str, Any]:
    with entered as model, _quiet():
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            wrapped = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
            found: dict[str, Any] = simple_evaluate(
                model=wrapped,
                tasks=list(tasks.names),
                task_manager=tasks.manager,
                limit=limit,
                apply_chat_template=chat_template,
                fewshot_as_multiturn=chat_template,
                bootstrap_iters=1000,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except (ValueError, KeyError, TypeError, NotImplementedError, AssertionError, ImportError) as error:
            what = f"lm-evaluation-harness failed: {_first_line(error)}"
            raise WorkError(Fault(what, ", ".join(tasks.names), hint="try the task alone with --limit 4")) from error
    return found


def _task(task: str, found: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    first = next(iter(found.values()))
    better = first.get("higher_is_better", {}).get(task, {})
    metrics = {}
    for key, value in first["results"][task].items():
        name, _, kept = key.partition(",")
        if not kept or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        figures: dict[str, Any] = {"higher_is_better": better.get(name)}
        for model, results in found.items():
            own = results["results"][task]
            figures[model] = {"value": _finite(own[key]), "stderr": _finite(own.get(f"{name}_stderr,{kept}"))}
        if len(found) == 2:
            before, after = ((figures[model]["value"]) for model in found)
            if before is not None and after is not None:
                figures["difference"] = after - before
                figures["interval"] = _interval(task, name, kept, found, seed)
        metrics[name if kept == "none" else f"{name} ({kept})"] = figures
    rows = first.get("n-samples", {}).get(task, {}).get("effective")
    return {"rows": rows, "num_fewshot": first.get("n-shot", {}).get(task), "metrics": metrics}


def _interval(task: str, metric: str, kept: str, found: dict[str, dict[str, Any]], seed: int) -> list[float] | None:
    """Of the mean difference by rows; None where the metric is not a mean over rows."""
    scores = []
    for results in found.values():
        rows = [row for row in results.get("samples", {}).get(task, []) if row.get("filter", "none") == kept]
        values = {row["doc_id"]: row.get(metric) for row in rows}
        if not values or not all(isinstance(value, int | float) for value in values.values()):
            return None
        scores.append(values)
    return mean_interval([float(scores[1][row]) - float(scores[0][row]) for row in scores[0]], seed)


def _require_files(missing: Iterable[str]) -> None:
    faults = [Fault("no such task file or folder", one, hint="check the path") for one in sorted(missing)]
    if faults:
        raise InputError(*faults)


def _names(wanted: str, path: Path, manager: Any) -> list[str]:
    """What the harness calls a wanted task."""
    if path.is_dir():
        from lm_eval.tasks import TaskManager

        found: list[str] = TaskManager(include_path=str(path), include_defaults=False).all_subtasks
        if not found:
            hint = "name a folder with YAML files that have a key `task`"
            raise InputError(Fault("no tasks are in this folder", wanted, hint=hint))
        return found
    if path.is_file() and path.suffix in _YAML:
        return [str(path)]
    if wanted in manager.all_tasks:
        return [wanted]
    near = difflib.get_close_matches(wanted, manager.all_tasks, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists all of them"
    raise InputError(
        Fault(
            f"lm-evaluation-harness has no task {wanted!r}",
            "--harness",
            "names of its tasks, YAML files, folders of YAML files; separated by commas",
            hint,
        )
    )


def _read(manager: Any, name: str) -> None:
    """Reads a task's description and data once, so that what is missing is said before a model is loaded."""
    from yaml import YAMLError

    try:
        manager.load([name])
    except (ConnectionError, FileNotFoundError) as error:
        raise InputError(
            Fault(
                f"the data of the task {name} can't be reached: {_first_line(error)}",
                "--harness",
                "data that lie here or in the cache of `datasets`; or a network to the hub",
                "fetch them where there is a network and copy HF_HOME; or write a YAML file with dataset_path: json "
                "and dataset_kwargs: {data_files: {test: FILE}}, FILE as seen from where you start danlu",
            )
        ) from error
    except ImportError as error:
        hint = "install what it names, in the environment of danlu"
        raise InputError(Fault(f"the task {name} needs more: {_first_line(error)}", "--harness", hint=hint)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YAMLError) as error:
        what = f"the task {name} can't be used: {_first_line(error)}"
        raise InputError(Fault(what, "--harness", hint="see the harness' own guide to task files")) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the harness writes to stderr alone, and no advice; `HF_HUB_OFFLINE` holds for its data too."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "evaluate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
