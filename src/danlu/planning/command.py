"""`danlu plan`: the forecast of a recipe, or of each of its adapters, with its neighbours and a probe if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.errors import Fault, InputError
from danlu.planning.probe import probe
from danlu.planning.run import plan
from danlu.planning.sizes import folder_for_size, write_size
from danlu.recipe import LoadedRecipe

# The tutorials' words on QLoRA, beside which the table is put.
CLAIM = "70B on one card, 92 % less memory"


def run_plan(
    loaded: LoadedRecipe, overrides: Sequence[str], device: str | None, size: str | None, probes: bool
) -> dict[str, Any]:
    """Forecasts a recipe.

    Args:
        loaded: a checked recipe.
        overrides: with which it was loaded.
        device: of a card; None: this machine.
        size: of a model that takes the place of the recipe's base.
        probes: run two steps here.

    Returns:
        As `danlu.planning.run.plan`, with `saved_share`: how much less QLoRA takes than full fine-tuning; of several
        adapters the one that takes the most memory, all under `adapters`, their times added.

    Raises:
        InputError: as `plan`; a probe of another device, of a size or of several adapters.
        WorkError: the probe ended badly.
    """
    if probes and (device or size or loaded.adapters):
        what = "a probe runs the recipe's own base, on this machine, with one adapter"
        raise InputError(Fault(what, "--probe", hint="leave --device and --size out, or --probe"))
    if loaded.adapters:
        return _several(loaded, device, size)
    probed = probe(loaded.path, overrides) if probes else None
    return _one(loaded, device, size, probed)


def _one(loaded: LoadedRecipe, device: str | None, size: str | None, probed: dict[str, Any] | None) -> dict[str, Any]:
    name = Path(loaded.recipe.model.name).expanduser()
    with folder_for_size() as folder:
        base = name if (name / "config.json").is_file() else None  # its shape is enough: weights may be missing
        if size:
            base = write_size(size, Path(folder))
        found = plan(loaded, device, probed, base, compare=True)
    by_name = {one["name"]: one for one in found["neighbours"]}
    full, qlora = (by_name[method].get("memory_bytes") for method in ("full", "qlora"))
    found["saved_share"] = round(1 - qlora / full, 3) if full and qlora else None
    found["model"] = size or loaded.recipe.model.name
    return found


def _several(loaded: LoadedRecipe, device: str | None, size: str | None) -> dict[str, Any]:
    each = {name: _one(own, device, size, None) for name, own in loaded.adapters.items()}
    largest = max(each.values(), key=lambda found: found["memory_bytes"])
    return {
        **largest,
        "seconds": round(sum(found["seconds"] for found in each.values()), 1),
        "disk_bytes": sum(found["disk_bytes"] for found in each.values()),
        "adapters": [{"name": name, **found} for name, found in each.items()],
    }
