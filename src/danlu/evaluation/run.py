"""The evaluation stage: a run folder in, a report folder out."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.data.plan import leak_rule
from danlu.data.questions import Question
from danlu.errors import Fault, FolderError, GateError, InputError, RecipeError, Stopped
from danlu.evaluation.asking import ask_all
from danlu.evaluation.attacked import AttackedRows
from danlu.evaluation.comparison import Resampling
from danlu.evaluation.content import (
    compare_with_base,
    compare_with_earlier,
    examples_content,
    figures,
    metrics_of,
    score_endings,
    sets_of,
    tasks_content,
)
from danlu.evaluation.gates import check_gates, gate_faults
from danlu.evaluation.journal import JOURNAL, Journal
from danlu.evaluation.overlap import require_no_overlap
from danlu.evaluation.parts import HELD_OUT, Part, make_parts
from danlu.evaluation.report import PAGES, write_report
from danlu.evaluation.reports import ANSWERS, REPORT, EarlierReport, read_report, write_answers
from danlu.evaluation.stress import attack, stress_models
from danlu.evaluation.trained_rows import held_questions, trained_rows
from danlu.evaluation.wording import verdict_sentence
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.recipe.load import LoadedRecipe, load_recipe
from danlu.runs import MANIFEST, RESOLVED, create_folder, next_free_folder, write_json, write_manifest
from danlu.tracking.metrics import read_metrics
from danlu.tracking.progress import say
from danlu.training.trained import TrainedRun, open_run

_DRAWN = ("step", "loss", "evaluation_loss", "learning_rate", "gradient_norm")
_OWN = "evaluation."


@dataclass(frozen=True)
class _Asked:
    """What is to be done, read and checked before any weight is loaded."""

    run: TrainedRun
    settings: EvaluationSection
    parts: list[Part]
    earlier: list[EarlierReport]
    notes: list[str]
    attacked: AttackedRows | None
    fingerprint: str


def run_evaluation(
    run_folder: str | Path, quiet: bool = False, out: str | Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Puts the tasks' questions to the base and to the tuned model, and writes a report.

    Args:
        run_folder: written by `danlu train`.
        quiet: no progress on stderr.
        out: the report folder; None: `report` in the run folder, or the next that is free.
        overrides: `evaluation.key=value` words, in place of what the run's recipe says.

    Returns:
        `report_folder`, `metrics` {`base`, `tuned`}, `gate`, `comparison`, `against`, `verdict`, `rows`, `loss_rows`,
        `notes`, `seconds`, `examples` (the worst, the middle one, the best).

    Raises:
        InputError: the run, the recipe or a file of rows is not what is needed; nothing was written.
        GateError: one of evaluation.gates says no; the report is written.
        WorkError: the judge can't be reached; what was done is kept, and gone on from.
        Stopped: Ctrl-C; likewise.
    """
    started = time.perf_counter()
    asked = _prepare(run_folder, overrides)
    if not quiet:
        for note in asked.notes:
            say(f"warning: {note}")
    folder = _report_folder(asked, out)
    journal = Journal(folder / JOURNAL, asked.fingerprint)
    try:
        engine = asked.run.engine(asked.run.dtype)
        engine.batch_size = asked.settings.batch_size
        ask_all(engine, asked.parts, asked.settings.max_new_tokens, journal, quiet)
        content = _content(asked) | _stress(engine, asked, journal, quiet)
        content["seconds"] = round(time.perf_counter() - started, 3)
        write_answers(folder / ANSWERS, sets_of(asked.parts))
        write_json(folder / REPORT, content)
        write_report(folder, content)
        journal.remove()
        about = {"run_folder": str(asked.run.folder), "metrics": content["metrics"], "gate": content["gate"]}
        write_manifest(folder, "report", about)
    except BaseException as error:
        journal.close()
        _leave(folder, error, len(journal), run_folder)
        raise
    return _result(folder, content)


def require_task_files(loaded: LoadedRecipe) -> None:
    """Requires that the files of the recipe's tasks are there and that their rows can be asked; no model is needed.

    Raises:
        DataError: faults of all files.
    """
    settings = loaded.recipe.evaluation
    if settings:
        on_files = [task for task in settings.tasks if task.file is not None]
        make_parts(on_files, [], loaded.find, settings.max_new_tokens)


def _prepare(run_folder: str | Path, overrides: Sequence[str]) -> _Asked:
    run = open_run(run_folder)
    loaded = _with_overrides(run, overrides)
    run = replace(run, recipe=loaded.recipe)
    settings = loaded.recipe.evaluation or EvaluationSection()
    held = held_questions(run)[: settings.max_rows]
    if not held and any(task.file is None for task in settings.tasks):
        raise FolderError(
            Fault(
                "this run held no rows out, so there is nothing to judge it on",
                str(run.folder),
                hint="set data.evaluation, for example {share: 0.1}, and train again; or name a file in each task",
            )
        )
    parts = make_parts(settings.tasks, held, loaded.find, settings.max_new_tokens)
    foreign = [row.question for one in sets_of(parts) for row in one.rows if one.name != HELD_OUT]
    notes = _check_overlap(run, loaded, foreign)
    earlier = [read_report(name) for name in settings.compare_with]
    asked = settings.model_dump(mode="json", exclude={"gates", "compare_with", "confidence", "resamples", "seed"})
    keys = [row.key for part in parts for row in part.rows]
    text = json.dumps([asked, keys, run.about.get("files", {})], sort_keys=True)
    attacked = _attacked(run, settings, parts)
    return _Asked(run, settings, parts, earlier, notes, attacked, hashlib.sha256(text.encode()).hexdigest())


def _with_overrides(run: TrainedRun, overrides: Sequence[str]) -> LoadedRecipe:
    other = [word for word in overrides if not word.startswith(_OWN)]
    if other:
        what = f"`{other[0]}` can't be set: the run is trained, only its evaluation can be asked anew"
        raise RecipeError(Fault(what, "command line", f"{_OWN}KEY=VALUE", f"as in {_OWN}max_new_tokens=64"))
    return load_recipe(run.folder / RESOLVED, overrides)


def _check_overlap(run: TrainedRun, loaded: LoadedRecipe, questions: list[Question]) -> list[str]:
    """Requires that files of questions hold nothing that was trained on; what could not be looked at, in words."""
    if not questions:
        return []
    known, notes = trained_rows(run, loaded)
    require_no_overlap(questions, known, *leak_rule(run.recipe.data))
    return notes


def _attacked(run: TrainedRun, settings: EvaluationSection, parts: list[Part]) -> AttackedRows | None:
    """The rows that are attacked, once each attack was seen to change enough of them."""
    if settings.robustness is None:
        return None
    section, rows = settings.robustness, AttackedRows(parts, settings.robustness.max_rows)
    attack(load_tokenizer(run.base_folder()), rows.questions, section.attacks, section.context_tokens, section.seed)
    return rows


def _stress(engine: Any, asked: _Asked, journal: Journal, quiet: bool) -> dict[str, Any]:
    """Robustness, forgetting and latency; what is in the journal is not measured again."""

    def note(name: str, measure: Callable[[], Any]) -> Any:
        if journal.get("stress", name) is None:
            journal.put({("stress", name): measure()})
        return journal.get("stress", name)

    rows = asked.attacked
    questions, score = (rows.questions, rows.score) if rows else ([], lambda _: [])
    found = stress_models(engine, asked.settings, questions, score, note, quiet)
    if rows and found["robustness"]:
        found["robustness"] = {**found["robustness"], "rows": rows.keys, "score": rows.metrics}
    return found


def _report_folder(asked: _Asked, out: str | Path | None) -> Path:
    """The folder of an evaluation of the same that was stopped; else a new one."""
    own = asked.run.folder / "report"
    candidates = [Path(out)] if out else sorted(own.parent.glob("report*"))
    for folder in candidates:
        if not (folder / MANIFEST).exists() and Journal.is_about(folder / JOURNAL, asked.fingerprint):
            return folder
    return create_folder(Path(out) if out else next_free_folder(own), "report folder", "--out")


def _leave(folder: Path, error: BaseException, answers: int, run_folder: str | Path) -> None:
    """Keeps answers that can be gone on from, and removes the rest.

    Raises:
        Stopped: the user stopped it; says how to go on.
    """
    if not answers or isinstance(error, InputError):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (ANSWERS, REPORT, *PAGES.values()):
        (folder / name).unlink(missing_ok=True)
    if isinstance(error, KeyboardInterrupt):
        hint = f"go on: danlu evaluate {run_folder} (with the same words)"
        raise Stopped(Fault(f"stopped; {answers} answers are kept", str(folder), hint=hint)) from error


def _content(asked: _Asked) -> dict[str, Any]:
    """Everything that the report shows, as plain values."""
    run, settings, parts = asked.run, asked.settings, asked.parts
    score_endings(parts)
    resampling = Resampling(settings.confidence, settings.resamples, settings.seed)
    measured = metrics_of(parts, settings.max_new_tokens)
    compared = compare_with_base(parts, measured, resampling)
    against = [compare_with_earlier(one, measured, str(run.folder), resampling) for one in asked.earlier]
    tasks = tasks_content(parts)
    rules = next((one["details"] for one in tasks if one["details"] and "rules" in one["details"]["base"]), None)
    examples = examples_content(parts)
    rows = max(len(examples), max(len(part.rows) for part in parts))
    by_name = {"base": compared} | {one["name"]: one["comparison"] for one in against}
    return {
        "run_folder": str(run.folder),
        "model": run.recipe.model.name,
        "rows": rows,
        "loss_rows": compared["loss"]["rows"] if "loss" in compared and compared["loss"]["rows"] < rows else None,
        "metrics": figures(compared),
        "comparison": compared,
        "verdict": verdict_sentence(compared),
        "against": against,
        "gate": check_gates(settings.gates, by_name),
        "tasks": tasks,
        "rules": {model: rules[model]["rules"] if rules else None for model in ("base", "tuned")},
        "confidence": settings.confidence,
        "notes": asked.notes,
        "training": run.about.get("result", {}),
        "environment": json.loads((run.folder / "environment.json").read_text(encoding="utf-8")),
        "curve": [{key: line.get(key) for key in _DRAWN} for line in read_metrics(run.folder)],
        "recipe": run.recipe.model_dump(mode="json"),
        "examples": examples,
    }


def _result(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What the command gives.

    Raises:
        GateError: a gate says no.
    """
    by_score = content["examples"]
    spread = [by_score[place * (len(by_score) - 1) // 2] for place in range(min(3, len(by_score)))]
    told = ("metrics", "gate", "comparison", "against", "verdict", "rows", "loss_rows", "notes", "seconds")
    result = {"report_folder": str(folder), **{key: content[key] for key in told}, "examples": spread}
    gate = content["gate"]
    if gate and not gate["passed"]:
        raise GateError(*gate_faults(gate, str(folder / "index.html")), result=result)
    return result
