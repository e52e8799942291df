"""Several adapters over one base in one run: each in turn, each in a run folder of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from danlu.data.run import prepare
from danlu.engines.local import local_answers
from danlu.errors import DanluError, Fault, InputError, Stopped
from danlu.models.source import find_model
from danlu.recipe import LoadedRecipe
from danlu.runs import MANIFEST, create_folder, read_manifest
from danlu.tracking.memory import peak_memory_bytes
from danlu.tracking.progress import say
from danlu.tracking.remote import losses
from danlu.tracking.trackers import require_trackers
from danlu.training.processes import Processes, first_before_others, joined
from danlu.training.resuming import require_resumable, require_same_recipe
from danlu.training.run import tracker_types, train_one


def run_several(loaded: LoadedRecipe, quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """Trains each of a recipe's `adapters` over one base that is loaded once.

    Args:
        loaded: a checked recipe.
        quiet: no progress on stderr.
        resume: leave out those that are complete, and go on with the one that is not.

    Returns:
        `run_folder`, `adapters` (for each what `run_training` gives, with its `name`, and `skipped` if it was complete
        before), `peak_memory_bytes`, `seconds`; nothing where another process writes the run folder. Peaks are those
        of the whole process so far.

    Raises:
        InputError: something in the recipe of any adapter, its data or the model is wrong; nothing was trained.
        Stopped: Ctrl-C or SIGTERM; as `run_training`, and says which adapters are left.
        WorkError: as `run_training`, and says which adapters are left.
    """
    started = time.perf_counter()
    with joined() as processes:
        folder, complete = loaded.run_folder, _complete(loaded) if resume else {}
        if processes.first and not resume:
            create_folder(folder, "run folder", "run.folder=NAME")
        todo = {name: own for name, own in loaded.adapters.items() if name not in complete}
        try:
            _of_each(todo, lambda own: require_trainable(own, processes))
            trained = _train_each(todo, loaded, processes, quiet or not processes.first, resume)
        except BaseException:
            if processes.first:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # nothing was begun, or it is not empty and stays
            raise
    if not processes.first:
        return {}
    results = {**{name: {**result, "skipped": True} for name, result in complete.items()}, **trained}
    return {
        "run_folder": str(folder),
        "adapters": [{"name": name, "skipped": False, **results[name]} for name in loaded.adapters],
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _of_each(adapters: Mapping[str, LoadedRecipe], ask: Callable[[LoadedRecipe], Any]) -> dict[str, Any]:
    """Asks for each adapter, by name; the faults of all at once, as the first one's kind of error."""
    found, errors = {}, []
    names: dict[Fault, list[str]] = {}
    for name, own in adapters.items():
        try:
            found[name] = ask(own)
        except InputError as error:
            errors.append(error)
            for fault in error.faults:
                names.setdefault(fault, []).append(name)
    if errors:
        raise type(errors[0])(
            *(
                fault if len(of) == len(adapters) else replace(fault, where=f"adapters.{', '.join(of)}: {fault.where}")
                for fault, of in names.items()
            )
        )
    return found


def _complete(loaded: LoadedRecipe) -> dict[str, dict[str, Any]]:
    """What the adapters that are complete came to; the others can be gone on with, or begun."""

    def result(own: LoadedRecipe) -> dict[str, Any] | None:
        if not (own.run_folder / MANIFEST).is_file():
            require_resumable(own, own.run_folder)
            return None
        require_same_recipe(own, own.run_folder)
        found: dict[str, Any] = read_manifest(own.run_folder, "run")["result"]
        return found

    return {name: found for name, found in _of_each(loaded.adapters, result).items() if found is not None}


def require_trainable(own: LoadedRecipe, processes: Processes) -> None:
    """Requires what can be required of an adapter before any weight is loaded; its rows are prepared then."""
    from danlu.training.session import plan_training

    recipe = own.recipe
    require_trackers(tracker_types(recipe))
    with first_before_others(processes):
        base = find_model(recipe.model.name, recipe.model.revision)
        plan_training(recipe, base, processes)
        prepare(own, base, local_answers, held_alone=recipe.data.streaming)


def _train_each(
    adapters: Mapping[str, LoadedRecipe], loaded: LoadedRecipe, processes: Processes, quiet: bool, resume: bool
) -> dict[str, dict[str, Any]]:
    from danlu.training.shared_base import SharedBase

    shared, left, results = SharedBase(), list(adapters), {}
    for name, own in adapters.items():
        if not quiet:
            say(f"== {name}: adapter {list(loaded.adapters).index(name) + 1} of {len(loaded.adapters)} ==")
        try:
            results[name] = train_one(own, processes, shared, quiet, resume)
        except KeyboardInterrupt as error:
            raise Stopped(_left(left, loaded)) from error
        except DanluError as error:
            if len(left) == 1:
                raise
            raise type(error)(*error.faults, _left(left[1:], loaded)) from error
        left.remove(name)
    return results


def _left(names: list[str], loaded: LoadedRecipe) -> Fault:
    return Fault(
        f"{len(names)} of {len(loaded.adapters)} adapters are left: {', '.join(names)}",
        str(loaded.run_folder),
        hint=f"go on with them: danlu train {loaded.path} --resume (with the same overrides)",
    )


def table(result: dict[str, Any]) -> str:
    """For people: what each adapter came to, and what to type next."""
    adapters = result["adapters"]
    width = max(len("adapter"), *(len(one["name"]) for one in adapters))
    lines = [f"{'adapter':<{width}}{'parameters':>12}{'steps':>7}{'loss':>8}{'held out':>10}{'seconds':>9}"]
    for one in adapters:
        held = one["evaluation_loss"]
        lines.append(
            f"{one['name']:<{width}}{one['trainable_parameters']:>12,}{one['steps']:>7}{one['train_loss']:>8.3f}"
            f"{'' if held is None else f'{held:.3f}':>10}{one['seconds']:>9.0f}"
            + ("  complete before" if one["skipped"] else "")
        )
    return "\n".join(
        [
            *lines,
            *(f"{one['name']}: {line}" for one in adapters for line in losses(one["trackers"])),
            f"{result['seconds']:.0f} s, peak {result['peak_memory_bytes'] / 1e9:.2f} GB",
            f"  runs    {result['run_folder']}/NAME\n  next    danlu evaluate {adapters[0]['run_folder']}",
        ]
    )
