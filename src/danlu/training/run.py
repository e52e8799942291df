"""The training stage: a recipe in, a run folder out."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from danlu.data.run import EVALUATION_ROWS, prepare
from danlu.errors import Fault, Stopped
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import LoadedRecipe, dump_recipe
from danlu.recipe.schema import TrainingSection
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
        `seconds`, and what `danlu data` gives.

    Raises:
        InputError: something in the recipe, data or model is wrong; the run folder is not left behind.
        Stopped: Ctrl-C; the adapter as far as it came is in the run folder.
    """
    started = time.perf_counter()
    folder = create_folder(loaded.run_folder, "run folder", "run.folder=NAME")
    try:
        require_disk(folder, 128 * 2**20, "the run")
        base = find_model(loaded.recipe.model.name, loaded.recipe.model.revision)
        tokenizer = load_tokenizer(base)
        prepared = prepare(loaded, tokenizer)
        write_text(folder / "recipe.resolved.yaml", dump_recipe(loaded.recipe))
        from danlu.training.session import Session  # imports torch, after the resolved recipe is on disk

        session = Session(loaded.recipe, base, tokenizer, prepared)
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.copyfile(prepared.folder / "ledger.json", folder / "ledger.json")
    shutil.copyfile(prepared.folder / EVALUATION_ROWS, folder / EVALUATION_ROWS)
    write_json(folder / "environment.json", session.environment)
    if not quiet:
        say(session.describe())
    result = _fit(session, folder, loaded.recipe.training, quiet)
    session.write_probes(folder / "probes")
    result |= {
        "run_folder": str(folder),
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": round(time.perf_counter() - started, 3),
        **prepared.summary(),
    }
    write_manifest(
        folder, "run", {"result": result, "base_sha256": session.base_sha256, "attention": session.attention}
    )
    return result


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
                    "epoch": round(step.number / session.feed.steps_per_epoch, 4),
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
        session.save_adapter(folder / "adapter")
        raise Stopped(
            Fault(
                f"stopped after step {len(losses)} of {session.feed.num_steps}; the adapter so far is saved",
                str(folder / "adapter"),
                hint=f"try it: danlu chat {folder}; it has no probes, so no export",
            )
        ) from stop
    finally:
        metrics.close()
    session.save_adapter(folder / "adapter")
    return {
        "steps": len(losses),
        "train_loss": losses[-1],
        "evaluation_loss": list(evaluated.values())[-1] if evaluated else None,
        "tokens_per_second": tokens / seconds,
    }


def _evaluation_due(step: int, feed: Any, every: int | None) -> bool:
    """At the last step, and every so many steps or at each epoch's end."""
    if step == feed.num_steps:
        return True
    if every:
        return step % every == 0
    return int(step / feed.steps_per_epoch) > int((step - 1) / feed.steps_per_epoch)
