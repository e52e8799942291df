"""`danlu verify-resume`: a shortened recipe is killed at random moments and must end with the bits it has unbroken."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from danlu.errors import Fault, GateError, InputError, RecipeError
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.runs import CHECKPOINTS, create_folder, next_free_folder
from danlu.tracking.metrics import read_metrics
from danlu.tracking.progress import say
from danlu.workflows.kills import Train, draw, run_killed, run_whole, train

_KEPT_ROWS, _EVALUATE_EVERY, _CHECKPOINT_EVERY = 4, 3, 2
_COMPARED = [
    f"{place}/{name}"
    for place in ("adapter", "model", f"{CHECKPOINTS}/step-*")
    for name in ("*.safetensors", "state.json")
]
_TRIES = 4  # to meet a checkpoint while it is written
_NUMBERS = ("loss", "learning_rate", "gradient_norm", "tokens", "evaluation_loss")


def run_verify_resume(
    path: str,
    overrides: Sequence[str] = (),
    kills: int = 3,
    steps: int = 8,
    log: Path | None = None,
    quiet: bool = False,
    target: Train = train,
) -> dict[str, Any]:
    """Trains a shortened recipe once unbroken; then, for each kill, until it is killed and with `--resume` to the end.

    Every second kill comes while a checkpoint is being written.

    Args:
        path: of the recipe.
        overrides: `section.key=value` words.
        kills: how often.
        steps: the most optimizer steps.
        log: a line of JSON is added to it for each kill.
        quiet: no progress on stderr.
        target: trains.

    Returns:
        `identical`, `kills`, `kills_while_writing`, `identical_kills`, `steps`, `differences`, `seconds`.

    Raises:
        InputError: the recipe is wrong.
        GateError: a run that was killed and went on ended with other bits; the folder stays.
    """
    started = time.perf_counter()
    loaded = load_recipe(path, overrides)
    words = [*overrides, *shortened(loaded, steps)]
    work = create_folder(
        next_free_folder(loaded.run_folder.with_name(f"{loaded.run_folder.name}-verify-resume")), "folder", "run.folder"
    )
    done, random = [], Random()
    try:
        whole = [*words, f"run.folder={work / 'whole'}"]
        run_whole(path, whole, work / "whole.log", fresh=True, target=target)
        for number in range(1, kills + 1):
            done.append(_round(path, words, work, number, random, target))
            _report(done[-1], kills, log, quiet)
    except (InputError, KeyboardInterrupt):
        shutil.rmtree(work, ignore_errors=True)
        raise
    result = _sum_up(done, work) | {"seconds": round(time.perf_counter() - started, 3)}
    if not result["identical"]:
        raise GateError(*_faults(done, work), result=result)
    shutil.rmtree(work)
    return result


def _report(one: dict[str, Any], kills: int, log: Path | None, quiet: bool) -> None:
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(one) + "\n")
    if not quiet:
        say(f"kill {one['kill']} of {kills}: {one['moment']}; {one['went_on']}; {_said(one)}")


def _sum_up(done: Sequence[dict[str, Any]], work: Path) -> dict[str, Any]:
    return {
        "identical": all(one["identical"] for one in done),
        "kills": len(done),
        "kills_while_writing": sum(one["writing"] for one in done),
        "identical_kills": sum(one["identical"] for one in done),
        "steps": read_metrics(work / "whole")[-1]["step"],
        "differences": [difference for one in done for difference in one["differences"]],
    }


def shortened(loaded: LoadedRecipe, steps: int) -> list[str]:
    """Overrides that make a recipe a matter of few steps, with checkpoints and evaluations among them.

    Raises:
        RecipeError: it has several adapters.
    """
    recipe = loaded.recipe
    if loaded.adapters:
        hint = "name what is to be verified: adapters=null, and the keys of one of them"
        raise RecipeError(Fault("this recipe has several adapters, and this is for one", "adapters", "null", hint))
    training = recipe.training
    best = bool(training.checkpoints and training.checkpoints.keep_best)
    return [
        "run.launcher={type: local}",
        f"training.max_steps={min(steps, training.max_steps or steps)}",
        f"training.checkpoints={{every_steps: {_CHECKPOINT_EVERY}, keep_last: 3, keep_best: {str(best).lower()}}}",
        f"training.evaluate_every_steps={_EVALUATE_EVERY}",
        f"training.evaluation_max_rows={min(_KEPT_ROWS, training.evaluation_max_rows or _KEPT_ROWS)}",
        "evaluation.max_new_tokens=1",
    ]


def _round(path: str, words: Sequence[str], work: Path, number: int, random: Random, target: Train) -> dict[str, Any]:
    """One run that is killed and goes on to the end."""
    started = time.perf_counter()
    folder, log, wants_writing = work / f"kill-{number}", work / f"kill-{number}.log", number % 2 == 0
    here, killed, writing, tries = [*words, f"run.folder={folder}"], False, False, 0
    while not killed or (wants_writing and not writing and tries < _TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        moment = draw(random, work / "whole", wants_writing)
        killed, tries = run_killed(path, here, folder, moment, log, target), tries + 1
        writing = any((folder / CHECKPOINTS).glob(".step-*.writing"))
    run_whole(path, here, log, resume=True, target=target)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = differences(folder, work / "whole")
    if not found:
        shutil.rmtree(folder)
    return {
        "kill": number,
        "moment": str(moment),
        "writing": writing,
        "went_on": next((line for line in said if line.startswith(("goes on", "no checkpoint"))), "began anew"),
        "identical": not found,
        "differences": found,
        "seconds": round(time.perf_counter() - started, 3),
    }


def differences(run: Path, whole: Path) -> list[str]:
    """In what one run differs from another, bit for bit: weights, every checkpoint, and the numbers of each step."""
    names = [
        sorted(str(path.relative_to(folder)) for pattern in _COMPARED for path in folder.glob(pattern))
        for folder in (run, whole)
    ]
    if names[0] != names[1]:
        odd = sorted({*names[0]} ^ {*names[1]})
        return [f"not in both: {', '.join(odd)}"]
    found = [text for name in names[0] if (text := _tensors_differ(run / name, whole / name, name))]
    if len(read_metrics(run)) != len(read_metrics(whole)):
        return [*found, f"{len(read_metrics(run))} lines of metrics, not {len(read_metrics(whole))}"]
    for line, wanted in zip(read_metrics(run), read_metrics(whole), strict=True):
        odd = [name for name in _NUMBERS if line.get(name) != wanted.get(name)]
        if odd:
            return [*found, f"step {line['step']}: {odd[0]} is {line.get(odd[0])}, not {wanted.get(odd[0])}"]
    return found


def _tensors_differ(path: Path, wanted_path: Path, name: str) -> str:
    if path.read_bytes() == wanted_path.read_bytes():
        return ""
    if path.suffix != ".safetensors":
        return f"{name}: {path.read_text(encoding='utf-8')!r}, not {wanted_path.read_text(encoding='utf-8')!r}"
    import torch
    from safetensors.torch import load_file

    found, wanted = load_file(path), load_file(wanted_path)
    if found.keys() != wanted.keys():
        return f"{name}: other tensors"
    odd = [
        key
        for key in wanted
        if not torch.equal(found[key].reshape(-1).view(torch.uint8), wanted[key].reshape(-1).view(torch.uint8))
    ]
    if not odd:
        return ""
    largest = max((found[key].double() - wanted[key].double()).abs().max().item() for key in odd)
    return f"{name}: {len(odd)} of {len(wanted)} tensors differ, by {largest:.2g} at most"


def _said(one: dict[str, Any]) -> str:
    return "the same bits" if one["identical"] else "; ".join(one["differences"])


def _faults(done: Sequence[dict[str, Any]], work: Path) -> list[Fault]:
    hint = (
        f"both runs are kept: compare {work / 'whole'} with it; a GPU's sums may differ from run to run by themselves"
    )
    return [
        Fault(
            f"killed {one['moment']} and resumed, it is another run: {_said(one)}",
            str(work / f"kill-{one['kill']}"),
            hint=hint,
        )
        for one in done
        if not one["identical"]
    ]
