"""The training stage: a recipe in, a run folder out."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.data.prepared import EVALUATION_ROWS, LEDGER, TRAIN, Prepared
from danlu.data.run import open_stream, prepare
from danlu.data.stream import RowStream
from danlu.engines.local import local_answers
from danlu.errors import DataError, Fault, RecipeError, Stopped
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import LoadedRecipe, Recipe, dump_recipe
from danlu.recipe.run_schema import LocalLauncher
from danlu.recipe.training_schema import TrainingSection
from danlu.runs import CHECKPOINTS, RESOLVED, require_disk, write_json, write_manifest, write_text
from danlu.tracking.journal import TRACKING, Journal, closed_at_the_end
from danlu.tracking.live import training_view
from danlu.tracking.memory import peak_gpu_memory_bytes, peak_memory_bytes
from danlu.tracking.metrics import cut_metrics, read_metrics
from danlu.tracking.progress import say
from danlu.tracking.trackers import require_trackers
from danlu.training.processes import Processes, first_before_others, joined
from danlu.training.quarantine import cut_quarantine
from danlu.training.recorded import recorded
from danlu.training.resources import want_said
from danlu.training.resuming import begin_run
from danlu.training.running import noted, read_note
from danlu.training.stopping import StopRequest, stop_on_signals
from danlu.training.verdict import judge

if TYPE_CHECKING:
    from danlu.training.shared_base import SharedBase


def run_training(loaded: LoadedRecipe, quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """Trains as the recipe says, in the processes that its launcher starts.

    Args:
        loaded: a checked recipe.
        quiet: no progress on stderr.
        resume: go on from the newest whole checkpoint of the run folder, or begin where there is none.

    Returns:
        `run_folder`, `steps`, `train_loss`, `evaluation_loss`, `tokens_per_second`, `peak_memory_bytes`,
        `peak_gpu_memory_bytes` (None without a GPU), `seconds`, `saved_step`, `best_step`, `best_evaluation_loss`,
        `stopped_early`, `verdict`, `trainable_parameters`, `total_parameters`, `trainable_share`, `guards` (what was
        set aside), `trackers` (what each of them lost), and what `danlu data` gives; nothing where another process
        writes the run folder.

    Raises:
        InputError: something in the recipe, data or model is wrong; the run folder is not left behind.
        DataError: streamed rows are found to be wrong on the way; what was trained so far is in the run folder.
        Stopped: Ctrl-C or SIGTERM; a checkpoint and what was trained so far are in the run folder.
        WorkError: another process of the run was lost.
    """
    if loaded.adapters:
        what, hint = "this recipe has several adapters, and this is for one", "danlu train RECIPE trains them all"
        raise RecipeError(Fault(what, "adapters", "null", hint))
    launcher = loaded.recipe.run.launcher
    if isinstance(launcher, LocalLauncher):
        return train_here(loaded, quiet, resume)
    from danlu.training.cluster import train_on_ray

    return train_on_ray(loaded, launcher, quiet, resume)


def train_here(loaded: LoadedRecipe, quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """As `run_training`, in this process; in a process group if it is one of several."""
    with joined() as processes:
        return train_one(loaded, processes, None, quiet, resume)


def train_one(
    loaded: LoadedRecipe,
    processes: Processes,
    shared: SharedBase | None,
    quiet: bool,
    resume: bool,
    gives_up: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """As `run_training`, by processes that have met, over a base that is given back if it is shared.

    After each loss on held-out rows, `gives_up` says whether to end here; then `pruned` in the result is true.
    """
    started = time.perf_counter()
    quiet = quiet or not processes.first
    folder = loaded.run_folder
    require_trackers(tracker_types(loaded.recipe))
    go_on = f"danlu train {loaded.path} --resume (with the same overrides)"
    with want_said(folder, go_on), ExitStack() as opened:
        note = read_note(folder) if resume else None
        goes_on = begin_run(loaded, folder, processes, resume)
        try:
            session, prepared, stream = _set_up(loaded, folder, opened, processes, shared)
            if goes_on:
                _go_on(session, folder, quiet)
        except BaseException:
            opened.close()
            if processes.first and not goes_on:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if not quiet:
            say(session.describe())
        from danlu.training import recovery  # imports torch, as the session does

        recovery.shrink_after(note, session, quiet)
        with recorded(loaded, session, prepared, processes.first), _journal(session, folder, loaded, quiet) as journal:
            try:
                with noted(folder, session.largest_micro_batch, processes.first):
                    result = _fit(session, folder, loaded, quiet, journal, gives_up)
            finally:
                if stream is not None:
                    opened.close()
                    write_json(folder / LEDGER, _streamed_ledger(prepared, stream))
                if processes.first:
                    recovery.add_to_ledger(session, folder)
            if journal:
                result |= _summary(prepared, stream) | {"guards": recovery.account(session, folder)}
                result = _close_folder(session, folder, result, started, journal)
                if loaded.recipe.training.checkpoints is None:
                    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # they were for going back alone
        if shared is not None:
            session.take_apart()
            shared.give_back(session.model)
        return result if processes.first else {}


def tracker_types(recipe: Recipe) -> list[str]:
    """The types of a recipe's trackers."""
    return [one.type for one in recipe.tracking.trackers] if recipe.tracking else []


@contextlib.contextmanager
def _journal(session: Any, folder: Path, loaded: LoadedRecipe, quiet: bool) -> Iterator[Journal | None]:
    """Where the run's metrics go; None where another process writes them."""
    recipe = loaded.recipe
    if not session.processes.first:
        yield None
        return
    trackers = [one.model_dump(mode="json") for one in recipe.tracking.trackers] if recipe.tracking else []
    journal = Journal(folder, recipe.model_dump(mode="json"), trackers, session.first_step, quiet)
    with closed_at_the_end(journal):
        yield journal


def _close_folder(
    session: Any, folder: Path, result: dict[str, Any], started: float, journal: Journal
) -> dict[str, Any]:
    """Writes probes and manifest, and ends the journal; what the run came to."""
    session.write_probes(folder)
    trainable, total = session.counts
    result |= {
        "run_folder": str(folder),
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_share": round(trainable / total, 6),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_gpu_memory_bytes": peak_gpu_memory_bytes(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    verdict = judge(read_metrics(folder), result["splits"][TRAIN]["rows"], trainable, result["saved_step"])
    result["verdict"] = verdict.to_json()
    result["trackers"] = journal.close("finished", result)
    about = {"result": result, "base_sha256": session.base_sha256, "engine": session.engine.name}
    write_manifest(folder, "run", about, skip=[CHECKPOINTS, TRACKING])
    return result


def _set_up(
    loaded: LoadedRecipe, folder: Path, opened: ExitStack, processes: Processes, shared: SharedBase | None
) -> tuple[Any, Prepared, RowStream | None]:
    """All that training needs; a stream of rows, if they are streamed, is closed with `opened`."""
    recipe = loaded.recipe
    if processes.first:
        require_disk(folder, 128 * 2**20, "the run")
    with first_before_others(processes):
        base = find_model(recipe.model.name, recipe.model.revision)
        tokenizer = load_tokenizer(base)
        prepared = prepare(loaded, base, local_answers, held_alone=recipe.data.streaming)
    stream = opened.enter_context(open_stream(loaded, base, prepared, folder)) if recipe.data.streaming else None
    if processes.first:
        write_text(folder / RESOLVED, dump_recipe(recipe))
        shutil.copyfile(prepared.folder / LEDGER, folder / LEDGER)
        shutil.copyfile(prepared.folder / EVALUATION_ROWS, folder / EVALUATION_ROWS)
    from danlu.training.session import Session  # imports torch, after the resolved recipe is on disk

    session = Session(recipe, base, tokenizer, prepared, stream, processes, shared)
    if processes.first:
        write_json(folder / "environment.json", session.environment)
    return session, prepared, stream


def _go_on(session: Any, folder: Path, quiet: bool) -> None:
    """Puts a session where its newest whole checkpoint left off, and takes back what was noted after that."""
    from danlu.training.checkpoint import newest_checkpoint

    checkpoint, faults = newest_checkpoint(folder, with_best=session.recipe.training.save == "best")
    if not quiet:
        for fault in faults:
            say(str(fault))
    if checkpoint is not None:
        session.resume(checkpoint)
    if session.processes.first:
        lines = cut_metrics(folder, session.first_step)
        cut_quarantine(folder, session.first_step)
        if lines < session.first_step and not quiet:
            say(f"the metrics of {session.first_step - lines} steps before that were lost; training does not need them")
    if not quiet:
        say(f"goes on after step {session.first_step}" if checkpoint else "no checkpoint is whole: begins anew")


def _streamed_ledger(prepared: Prepared, stream: RowStream) -> dict[str, Any]:
    """The account of the training rows that were taken, and under `evaluation` that of the evaluation rows."""
    return {**stream.to_json(), "evaluation": json.loads((prepared.folder / LEDGER).read_text(encoding="utf-8"))}


def _summary(prepared: Prepared, stream: RowStream | None) -> dict[str, Any]:
    """What `danlu data` gives; streamed rows are those that were taken."""
    summary = prepared.summary()
    if stream is None:
        return summary
    split, rows, tokens = stream.split(), stream.ledger.rows(), summary["tokens"]
    return summary | {
        "rows": {name: count + rows[name] for name, count in summary["rows"].items()},
        "tokens": {"total": tokens["total"] + split["tokens"], "trained": tokens["trained"] + split["trained_tokens"]},
        "splits": summary["splits"] | {TRAIN: split},
    }


def _fit(
    session: Any,
    folder: Path,
    loaded: LoadedRecipe,
    quiet: bool,
    journal: Journal | None,
    gives_up: Callable[[], bool] | None,
) -> dict[str, Any]:
    """Steps, evaluation losses, checkpoints and metrics; what was trained is saved however it ends."""
    from danlu.training.keeping import Keeper

    training = loaded.recipe.training
    pruned = False
    keeper = Keeper(session, folder, training)

    def cut(step: int) -> None:
        if journal:
            journal.cut(folder, step)

    try:
        num_steps = session.feed.num_steps
        with training_view(num_steps, session.first_step, quiet) as view, stop_on_signals() as request:
            for step in keeper.steps(cut, quiet):
                line = _line(step, session, training)
                if journal:
                    journal.write(line, peak_memory_bytes())
                view.update(line, peak_memory_bytes())
                keeper.note(step.number, line.get("evaluation_loss"))
                stops = _asked_to_stop(session, request) and not keeper.over
                keeper.keep(stops)
                if stops:
                    raise Stopped(_save_unfinished(session, folder, keeper.done, loaded))
                if gives_up and "evaluation_loss" in line and keeper.goes_on and gives_up():
                    pruned = True
                    break
    except DataError as error:  # only rows that are read on the way are found to be wrong this late
        if keeper.done > session.first_step:
            keeper.checkpoint()
        raise DataError(*error.faults, _save_unfinished(session, folder, keeper.done, loaded)) from error
    saved_step = keeper.choose_weights()
    _save(session, folder)
    if not session.processes.first:
        return {}
    return _came_to(keeper, saved_step, read_metrics(folder)) | ({"pruned": pruned} if gives_up else {})


def _came_to(keeper: Any, saved_step: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the steps came to; the evaluation loss is that of the weights that are saved."""
    held = [line for line in lines if line.get("evaluation_loss") is not None and line["step"] <= saved_step]
    seconds = sum(line["seconds"] for line in lines)
    return {
        "steps": keeper.done,
        "train_loss": next((line["loss"] for line in reversed(lines) if not line.get("fault")), None),
        "evaluation_loss": held[-1]["evaluation_loss"] if held else None,
        "tokens_per_second": sum(line["tokens"] for line in lines) / seconds if seconds else None,
        "saved_step": saved_step,
        "best_step": keeper.best.step,
        "best_evaluation_loss": keeper.best.evaluation_loss,
        "stopped_early": keeper.stopped_early,
    }


def _line(step: Any, session: Any, training: TrainingSection) -> dict[str, Any]:
    """What the metrics say of a step; with the loss on held-out rows where it is due."""
    line = {
        "step": step.number,
        "epoch": round(session.feed.epoch(step.number), 4),
        "loss": step.loss if math.isfinite(step.loss) else None,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm if math.isfinite(step.gradient_norm) else None,
        "tokens": step.tokens,
        "trained_tokens": step.trained_tokens,
        "seconds": step.seconds,
        "micro_batch_tokens": step.micro_batch_tokens,
    }
    if step.fault:
        line["fault"] = step.fault
    if _evaluation_due(step.number, session.feed, training.evaluate_every_steps):
        line["evaluation_loss"] = session.evaluation_loss()
    return line


def _asked_to_stop(session: Any, request: StopRequest) -> bool:
    """Whether any of the processes was."""
    return bool(session.backend.total(float(request.asked)))


def _save(session: Any, folder: Path) -> None:
    """Saves what was trained, whole or not at all; every process must call."""
    aside = folder / ".trained.writing"
    if session.processes.first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    try:
        session.save(aside)
        for path in aside.iterdir() if session.processes.first else ():
            shutil.rmtree(folder / path.name, ignore_errors=True)
            path.rename(folder / path.name)
    finally:
        if session.processes.first:
            shutil.rmtree(aside, ignore_errors=True)


def _save_unfinished(session: Any, folder: Path, steps: int, loaded: LoadedRecipe) -> Fault:
    """Saves what a run that ends early has trained, and says so."""
    _save(session, folder)
    return Fault(
        f"stopped after step {steps} of {session.feed.num_steps}; what was trained so far is saved",
        str(folder),
        hint=f"go on: danlu train {loaded.path} --resume (with the same overrides); or try it: danlu chat {folder}",
    )


def _evaluation_due(step: int, feed: Any, every: int | None) -> bool:
    """At the last step, and every so many steps or at each epoch's end."""
    if step == feed.num_steps:
        return True
    if every:
        return step % every == 0
    return int(feed.epoch(step)) > int(feed.epoch(step - 1))
