"""`danlu sweep`: trials of one recipe, each a run of its own over a base that is loaded once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.errors import DanluError, Fault, FolderError, InputError, RecipeError, ResourceError, Stopped, WorkError
from danlu.pages.unseen import one_line
from danlu.recipe import Recipe
from danlu.recipe.run_schema import LocalLauncher
from danlu.recipe.sweep import LoadedSweep
from danlu.runs import MANIFEST, create_folder, read_manifest, write_json, write_manifest
from danlu.tracking.memory import peak_memory_bytes
from danlu.tracking.metrics import read_metrics
from danlu.tracking.progress import say
from danlu.training.processes import THIS_ALONE, processes_of_environment
from danlu.training.resuming import require_same_recipe
from danlu.training.run import train_one
from danlu.training.several import require_trainable
from danlu.workflows.answers import base_answers, trial_answers
from danlu.workflows.search import Outcome, Search, falls_behind, make_search
from danlu.workflows.sweep_page import write_sweep_page

STATE, PAGE = "sweep.json", "index.html"
_ON_THE_PAGE = ("answers", "losses")
Trial = dict[str, Any]


def run_sweep(loaded: LoadedSweep, quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """Trains each trial, prunes those that fall behind, and puts all side by side on a page.

    Args:
        loaded: a checked sweep.
        quiet: no progress on stderr.
        resume: leave out the trials that are finished, and go on with the one that is not.

    Returns:
        `sweep_folder`, `page`, `trials` (for each `name`, `parameters`, `state`, `run_folder`, and what training
        gives), `best` (the complete one with the least loss on held-out rows), `seconds`.

    Raises:
        InputError: something in the sweep, the recipe of a trial, its data or the model is wrong; nothing was trained.
        Stopped: Ctrl-C or SIGTERM; says which trials are left.
        WorkError: no trial came to its end.
    """
    started = time.perf_counter()
    folder, search = loaded.folder, make_search(loaded.sweep)
    known = _begun(loaded, search) if resume and (folder / STATE).is_file() else {}
    _require_trials(loaded, search)
    if not known:
        create_folder(folder, "sweep folder", "sweep.folder=NAME")
    trials = _run_trials(loaded, search, known, quiet)
    if not any(trial["state"] == "complete" for trial in trials):
        what, hint = "no trial came to its end", "see what each of them said, and try other values"
        raise WorkError(Fault(what, str(folder), hint=hint))
    shown = [{key: value for key, value in trial.items() if key not in _ON_THE_PAGE} for trial in trials]
    best = min((t for t in shown if t["state"] == "complete"), key=lambda trial: float(trial["evaluation_loss"]))
    result = {
        "sweep_folder": str(folder),
        "page": str(folder / PAGE),
        "trials": shown,
        "best": best,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_manifest(folder, "sweep", {"best": best["name"]}, skip=search.names)
    return result


def _require_trials(loaded: LoadedSweep, search: Search) -> None:
    """Requires what can be required of the trials before any weight is loaded; their rows are prepared then.

    Raises:
        InputError: a fault for each thing wrong, said once.
    """
    if processes_of_environment().world_size > 1:
        raise RecipeError(Fault("a sweep runs in one process", "command line", hint="start it without torchrun"))
    faults: dict[Fault, type[DanluError]] = {}
    for name, parameters in search.samples():
        try:
            own = loaded.trial(name, parameters)
            _require_judged(own.recipe)
            require_trainable(own, THIS_ALONE)
        except InputError as error:
            shown = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in parameters.items())
            for fault in error.faults:
                by_line = str(loaded.path) in fault.where
                faults.setdefault(
                    fault if by_line else replace(fault, where=f"{fault.where}, with {shown}"), type(error)
                )
    if faults:
        raise next(iter(faults.values()))(*faults)


def _require_judged(recipe: Recipe) -> None:
    if recipe.data.evaluation is None:
        hint = "set data.evaluation, for example {share: 0.1}"
        raise RecipeError(Fault("trials are judged on held-out rows, and none are held out", "data", hint=hint))
    if not isinstance(recipe.run.launcher, LocalLauncher):
        hint = "set run.launcher={type: local}"
        raise RecipeError(Fault("a sweep trains its trials in this process", "run.launcher", "local", hint))


def _begun(loaded: LoadedSweep, search: Search) -> dict[str, Trial]:
    """The trials that were begun, by name.

    Raises:
        RecipeError: by another sweep.
        FolderError: what was noted of them can't be read.
    """
    path = loaded.folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        begun: dict[str, Trial] = {trial["name"]: trial for trial in state["trials"]}
        odd = [key for key, value in _asked(loaded).items() if state["sweep"].get(key) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(Fault("what was noted of the sweep can't be read", str(path), hint="begin anew")) from error
    if odd:
        hint = "resume with the file and overrides that it was begun with, or set sweep.folder=NAME"
        raise RecipeError(Fault(f"the sweep was begun with another `{', '.join(odd)}`", str(path), hint=hint))
    for trial in begun.values():
        if (loaded.folder / trial["name"] / MANIFEST).is_file():
            require_same_recipe(loaded.trial(trial["name"], trial["parameters"]), loaded.folder / trial["name"])
    return begun


def _asked(loaded: LoadedSweep) -> dict[str, Any]:
    """What makes a sweep the same when it goes on."""
    asked: dict[str, Any] = loaded.sweep.model_dump(mode="json", exclude={"folder", "recipe"})
    return asked


def _run_trials(loaded: LoadedSweep, search: Search, known: dict[str, Trial], quiet: bool) -> list[Trial]:
    from danlu.training.shared_base import SharedBase

    shared, answers = SharedBase(), None
    trials: list[Trial] = []
    outcomes: list[Outcome] = []
    for number, name in enumerate(search.names):
        parameters = known[name]["parameters"] if name in known else search.propose(number, outcomes)
        trial = {"name": name, "parameters": parameters, "run_folder": str(loaded.folder / name), "state": "begun"}
        _note(loaded, [*trials, trial, *(known[left] for left in search.names[number + 1 :] if left in known)])
        if not quiet:
            say(f"== {name} ({number + 1} of {len(search.names)}): {_in_words(parameters)} ==")
        try:
            trial = _run_trial(loaded, trial, shared, outcomes, quiet)
        except (KeyboardInterrupt, Stopped) as error:
            raise Stopped(*getattr(error, "faults", ()), _left(loaded, search.names[number:])) from error
        trials.append(trial)
        curve = {int(step): loss for step, loss in trial["curve"]} if trial["state"] != "failed" else {}
        outcomes.append(Outcome(parameters, trial["state"], trial.get("evaluation_loss"), curve))
        _note(loaded, [*trials, *(known[left] for left in search.names[number + 1 :] if left in known)])
        answers = answers or base_answers(loaded.trial(name, parameters), shared, trial)
        write_sweep_page(loaded.folder / PAGE, loaded.path.stem, trials, answers)
    return trials


def _run_trial(loaded: LoadedSweep, trial: Trial, shared: Any, before: Sequence[Outcome], quiet: bool) -> Trial:
    """Trains a trial, or takes what it came to before."""
    own = loaded.trial(trial["name"], trial["parameters"])
    folder = own.run_folder
    try:
        if (folder / MANIFEST).is_file():
            result = read_manifest(folder, "run")["result"]
        else:
            alone = own.recipe.adapter is None  # it changes the base itself
            if alone:
                shared.let_go()
            rule = _pruning(loaded, folder, before)
            result = train_one(own, THIS_ALONE, None if alone else shared, quiet, folder.exists(), rule)
    except (Stopped, ResourceError):
        raise
    except DanluError as error:
        if not quiet:
            say(f"{trial['name']} failed: {error.faults[0].what}")
        return {**trial, "state": "failed", "error": error.faults[0].what}
    state = "pruned" if result.get("pruned") else "complete"
    if state == "pruned" and not quiet:
        say(f"{trial['name']} fell behind: ended after step {result['steps']}")
    curve = [[line["step"], line["evaluation_loss"]] for line in _held(folder)]
    losses = [[line["step"], line["loss"]] for line in read_metrics(folder)]
    return {**trial, **result, "state": state, "curve": curve, "losses": losses, **trial_answers(own)}


def _held(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if line.get("evaluation_loss") is not None]


def _pruning(loaded: LoadedSweep, folder: Path, before: Sequence[Outcome]) -> Any:
    """What training asks after each loss on held-out rows; None without pruning."""
    pruning = loaded.sweep.pruning
    if pruning is None:
        return None

    def gives_up() -> bool:
        curve = {line["step"]: line["evaluation_loss"] for line in _held(folder)}
        return falls_behind(curve, before, pruning.after_trials, pruning.after_steps)

    return gives_up


def _note(loaded: LoadedSweep, trials: Sequence[Trial]) -> None:
    noted = [{key: trial[key] for key in ("name", "parameters", "state")} for trial in trials]
    write_json(loaded.folder / STATE, {"sweep": _asked(loaded), "recipe": str(loaded.recipe_path), "trials": noted})


def _left(loaded: LoadedSweep, names: Sequence[str]) -> Fault:
    return Fault(
        f"{len(names)} trials are left, from {names[0]} on",
        str(loaded.folder),
        hint=f"go on: danlu sweep {loaded.path} --resume (with the same overrides)",
    )


def _in_words(parameters: dict[str, Any]) -> str:
    return one_line(", ".join(f"{key.split('.', 1)[-1]}={_short(value)}" for key, value in parameters.items()), 200)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(result: dict[str, Any]) -> str:
    """For people: what each trial came to, the best first, and what to type next."""
    order = sorted(
        result["trials"], key=lambda trial: (trial["state"] == "failed", trial.get("evaluation_loss") or 0.0)
    )
    width = max(len("trial"), *(len(trial["name"]) for trial in order))
    lines = [f"{'trial':<{width}}{'steps':>7}{'loss':>8}{'held out':>10}{'seconds':>9}  "]
    for trial in order:
        if trial["state"] == "failed":
            figures = f"{'':>7}{'':>8}{'failed':>10}{'':>9}"
        else:
            figures = f"{trial['steps']:>7}{trial['train_loss']:>8.3f}{trial['evaluation_loss']:>10.3f}"
            figures += f"{trial['seconds']:>9.0f}"
        mark = "  pruned" if trial["state"] == "pruned" else ""
        lines.append(f"{trial['name']:<{width}}{figures}  {_in_words(trial['parameters'])}{mark}")
    return "\n".join(
        [
            *lines,
            f"{result['seconds']:.0f} s, peak {result['peak_memory_bytes'] / 1e9:.2f} GB",
            f"  page    {result['page']}\n  next    danlu evaluate {result['best']['run_folder']}",
        ]
    )
