"""The training stage: a recipe in, a run folder out."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from danlu.data.prepared import EVALUATION_ROWS, LEDGER, TRAIN, Prepared
from danlu.data.run import open_stream, prepare
from danlu.data.stream import RowStream
from danlu.engines.local import local_answers
from danlu.errors import DataError, Fault, Stopped
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import LoadedRecipe, dump_recipe
from danlu.recipe.training_schema import TrainingSection
from danlu.runs import create_folder, require_disk, write_json, write_manifest, write_text
from danlu.tracking.memory import peak_memory_bytes
from danlu.tracking.metrics import MetricsFile
from danlu.tracking.progress import progress, say


def run_training(loaded: LoadedRecipe, quiet: bool = False) -> dict[str, Any]:
    """Trains as the recipe says.

    Args:
        loaded: a checked recipe.
        quiet: no progress on stderr.

    Returns:
        `run_folder`, `steps`, `train_loss`, `evaluation_loss`, `tokens_per_second`, `peak_memory_bytes`,
        `seconds`, `trainable_parameters`, `total_parameters`, `trainable_share`, and what `danlu data` gives.

    Raises:
        InputError: something in the recipe, data or model is wrong; the run folder is not left behind.
        DataError: streamed rows are found to be wrong on the way; the adapter as far as it came is in the run folder.
        Stopped: Ctrl-C; the adapter as far as it came is in the run folder.
    """
    started = time.perf_counter()
    folder = create_folder(loaded.run_folder, "run folder", "run.folder=NAME")
    with ExitStack() as opened:
        try:
            session, prepared, stream = _set_up(loaded, folder, opened)
        except BaseException:
            opened.close()
            shutil.rmtree(folder)
            raise
        shutil.copyfile(prepared.folder / LEDGER, folder / LEDGER)
        shutil.copyfile(prepared.folder / EVALUATION_ROWS, folder / EVALUATION_ROWS)
        write_json(folder / "environment.json", session.environment)
        if not quiet:
            say(session.describe())
        try:
            result = _fit(session, folder, loaded.recipe.training, quiet)
        finally:
            if stream is not None:
                opened.close()
                write_json(folder / LEDGER, _streamed_ledger(prepared, stream))
    session.write_probes(folder / "probes")
    result |= {
        "run_folder": str(folder),
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": round(time.perf_counter() - started, 3),
        **session.sizes(),
        **_summary(prepared, stream),
    }
    write_manifest(folder, "run", {"result": result, "base_sha256": session.base_sha256, "engine": session.engine.name})
    return result


def _set_up(loaded: LoadedRecipe, folder: Path, opened: ExitStack) -> tuple[Any, Prepared, RowStream | None]:
    """All that training needs; a stream of rows, if they are streamed, is closed with `opened`."""
    recipe = loaded.recipe
    require_disk(folder, 128 * 2**20, "the run")
    base = find_model(recipe.model.name, recipe.model.revision)
    tokenizer = load_tokenizer(base)
    prepared = prepare(loaded, base, local_answers, held_alone=recipe.data.streaming)
    stream = opened.enter_context(open_stream(loaded, base, prepared, folder)) if recipe.data.streaming else None
    write_text(folder / "recipe.resolved.yaml", dump_recipe(recipe))
    from danlu.training.session import Session  # imports torch, after the resolved recipe is on disk

    return Session(recipe, base, tokenizer, prepared, stream), prepared, stream


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


def _fit(session: Any, folder: Path, training: TrainingSection, quiet: bool) -> dict[str, Any]:
    """Steps, evaluation losses and metrics; the adapter is saved however it ends."""
    metrics = MetricsFile(folder)
    every = training.evaluate_every_steps
    losses: list[float] = []
    evaluated: dict[int, float] = {}
    tokens, seconds = 0, 0.0
    try:
        with progress("training", session.feed.num_steps, quiet) as bar:
            for step in session.steps():
                tokens, seconds = tokens + step.tokens, seconds + step.seconds
                losses.append(step.loss)
                line = {
                    "step": step.number,
                    "epoch": round(session.feed.epoch(step.number), 4),
                    "loss": step.loss,
                    "learning_rate": step.learning_rate,
                    "gradient_norm": step.gradient_norm,
                    "tokens": step.tokens,
                    "trained_tokens": step.trained_tokens,
                    "seconds": step.seconds,
                }
                if _evaluation_due(step.number, session.feed, every):
                    evaluated[step.number] = line["evaluation_loss"] = session.evaluation_loss()
                metrics.write(line)
                bar.update(
                    step.number,
                    f"loss {step.loss:.3f}  {tokens / seconds:.0f} tokens/s  {peak_memory_bytes() / 1e9:.1f} GB",
                )
    except KeyboardInterrupt as stop:
        raise Stopped(_save_unfinished(session, folder, len(losses))) from stop
    except DataError as error:  # only rows that are read on the way are found to be wrong this late
        raise DataError(*error.faults, _save_unfinished(session, folder, len(losses))) from error
    finally:
        metrics.close()
    session.save_adapter(folder / "adapter")
    return {
        "steps": len(losses),
        "train_loss": losses[-1],
        "evaluation_loss": list(evaluated.values())[-1] if evaluated else None,
        "tokens_per_second": tokens / seconds,
    }


def _save_unfinished(session: Any, folder: Path, steps: int) -> Fault:
    """Saves the adapter of a run that ends early, and says so."""
    session.save_adapter(folder / "adapter")
    return Fault(
        f"stopped after step {steps} of {session.feed.num_steps}; the adapter so far is saved",
        str(folder / "adapter"),
        hint=f"try it: danlu chat {folder}; it has no probes, so no export",
    )


def _evaluation_due(step: int, feed: Any, every: int | None) -> bool:
    """At the last step, and every so many steps or at each epoch's end."""
    if step == feed.num_steps:
        return True
    if every:
        return step % every == 0
    return int(feed.epoch(step)) > int(feed.epoch(step - 1))
