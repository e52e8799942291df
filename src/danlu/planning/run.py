"""`danlu plan`: a recipe in, what its run would take out, before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.targets import skeleton
from danlu.data.prepared import EVALUATION, TRAIN, Prepared
from danlu.data.run import prepare
from danlu.data.template import Document
from danlu.engines.local import local_answers
from danlu.errors import DanluError, InputError
from danlu.models.folder import is_encoder_decoder, weight_files
from danlu.models.loading import choose_device, choose_dtype
from danlu.models.source import find_model
from danlu.planning.devices import Device, find_device
from danlu.planning.forecast import (
    Shape,
    below_seconds,
    disk_bytes,
    draw_out,
    facts,
    loading_bytes,
    measure_shape,
    memory_parts,
    step_seconds,
)
from danlu.planning.ghost import Ghost, load_shape
from danlu.planning.neighbours import Neighbour, neighbours_of
from danlu.planning.speed import Speed, speed_of
from danlu.planning.workload import Workload, workload
from danlu.recipe import LoadedRecipe, Recipe
from danlu.recipe.model_schema import FourBitQuantization
from danlu.recipe.training_schema import FreezeSection
from danlu.training.assembly import plan_model
from danlu.training.feed import ALONE, Feed
from danlu.training.memory import usual_tokens
from danlu.training.regularisation import Regularisation

_ASSUMED_ROWS = 1000
_SHARE_OF_FREE = 0.9
_START_SECONDS, _READ_BYTES_PER_SECOND = 12.0, 5e8


@dataclass(frozen=True)
class Rows:
    """The rows that a run trains on.

    Attributes:
        num_steps: of the run.
        documents: gives those of a step, counted from 0.
        padded: whether the model is an encoder-decoder one.
        per_epoch: steps of one pass over the rows.
        held_tokens: tokens of the held-out rows that a loss is taken on.
        prepared_bytes: of prepared data on disk.
        assumed: what had to be assumed of them; empty if they were read.
    """

    num_steps: int
    documents: Callable[[int], Sequence[Document]]
    padded: bool
    per_epoch: float
    held_tokens: int
    prepared_bytes: int
    assumed: str = ""

    def work(self, micro_batch_tokens: int) -> Workload:
        """The run's steps, cut into micro-batches."""
        return workload(self.num_steps, self.documents, micro_batch_tokens, not self.padded, self.padded)


def plan(
    loaded: LoadedRecipe,
    device_name: str | None = None,
    probed: dict[str, Any] | None = None,
    base: Path | None = None,
    compare: bool = False,
    accurate: bool = True,
) -> dict[str, Any]:
    """Forecasts a run.

    Args:
        loaded: a checked recipe with one adapter, or none.
        device_name: of a card; None: this machine.
        probed: what `danlu.planning.probe` measured; the forecast is then led by it.
        base: folder with the base's `config.json`; None: it is looked for.
        compare: also the recipe's neighbours, and the table of full, LoRA and QLoRA.
        accurate: measure passes of several sizes; else times are rougher, and come sooner.

    Returns:
        `memory_bytes`, `seconds`, `disk_bytes`, `fits`; `memory` and `time` by part; `device`, `notes`; with `compare`,
        `neighbours`.

    Raises:
        InputError: the recipe does not fit the model, no card has the name, or the model can't be found.
    """
    recipe, device = loaded.recipe, find_device(device_name)
    base = base or find_model(recipe.model.name, recipe.model.revision)
    dtype = dtype_on(recipe.model.dtype, device)
    rows = read_rows(loaded, base)
    forecast = _Forecast(recipe, base, device, dtype, rows, accurate)
    found = forecast.to_json(probed)
    if compare:
        found["neighbours"] = [
            _neighbour(one, base, device, dtype, rows, found) for one in neighbours_of(recipe, forecast.tokens)
        ]
    return found


def dtype_on(name: str, device: Device) -> torch.dtype:
    """What a recipe's `model.dtype` is on a device."""
    if device.kind == "cpu" or name != "auto":
        return choose_dtype(name, choose_device())
    return torch.bfloat16 if device.bfloat16 else torch.float32


def read_rows(loaded: LoadedRecipe, base: Path) -> Rows:
    """The recipe's prepared rows as steps; assumed ones where they can't be had: streamed, or without a tokenizer."""
    recipe = loaded.recipe
    try:
        prepared = None if recipe.data.streaming else prepare(loaded, base, local_answers)
        assumed = "rows are streamed"
    except DanluError as error:
        prepared, assumed = None, error.faults[-1].what
    if prepared is None or not len(prepared.store(TRAIN)):
        return assumed_rows(recipe, base, assumed)
    feed = Feed(
        prepared.store(TRAIN),
        recipe.training.num_epochs,
        recipe.training.global_batch_size,
        recipe.run.seed,
        usual_tokens(torch.device("cpu")),
        True,
        torch.device("cpu"),
        recipe.training.max_steps,
        share=ALONE,
    )
    size = sum(path.stat().st_size for path in prepared.folder.iterdir() if path.is_file())
    held = _held_tokens(recipe, prepared)
    return Rows(feed.num_steps, feed.documents, is_encoder_decoder(base), feed.steps_per_epoch, held, size)


def assumed_rows(recipe: Recipe, base: Path, reason: str) -> Rows:
    """Rows as long as they may be, half of each trained."""
    length, batch = recipe.data.max_sequence_tokens, recipe.training.global_batch_size
    per_epoch = _ASSUMED_ROWS / batch
    steps = recipe.training.max_steps or max(1, round(per_epoch * recipe.training.num_epochs))

    def documents(_: int) -> list[Document]:  # no two begin alike, or they would share their beginning
        return [Document((place + 1, *range(1, length)), ((length // 2, length),)) for place in range(batch)]

    note = f"the rows could not be read ({reason}): {_ASSUMED_ROWS:,} rows of {length} tokens are assumed"
    return Rows(steps, documents, is_encoder_decoder(base), per_epoch, 0, 0, note)


def _held_tokens(recipe: Recipe, prepared: Prepared) -> int:
    lengths = prepared.store(EVALUATION).lengths()
    count = min(len(lengths), recipe.training.evaluation_max_rows or len(lengths))
    return int(lengths.mean() * count) if count else 0


class _Forecast:
    """One recipe on one device.

    Args:
        recipe: the recipe.
        base: folder with the base's `config.json`.
        device: where.
        dtype: that is computed in.
        rows: what is trained on.
        accurate: measure passes of several sizes.
    """

    def __init__(
        self, recipe: Recipe, base: Path, device: Device, dtype: torch.dtype, rows: Rows, accurate: bool
    ) -> None:
        self.recipe, self.device, self.rows, self._base, self._dtype = recipe, device, rows, base, dtype
        asked = recipe.training.micro_batch_tokens
        self.tokens = asked or usual_tokens(torch.device("cuda" if device.kind == "gpu" else "cpu"))
        self._measure(base, accurate)
        while asked is None and self._is_halved():
            self.tokens //= 2  # on a card, training takes as many as fit
            self._measure(base, accurate)

    def _measure(self, base: Path, accurate: bool) -> None:
        self.work = self.rows.work(self.tokens)
        self.shape: Shape = shape_of(self.recipe, base, self._dtype, self.work, accurate)
        self.sizes, self.passes = self.shape.sizes, self.shape.passes
        self.parts = memory_parts(self.shape, self.recipe.training.optimizer, self.device)

    def _is_halved(self) -> bool:
        """Whether a smaller micro-batch would be taken, and make a difference."""
        largest = self.work.groups()[0]
        fits = sum(self.parts.values()) <= _SHARE_OF_FREE * self.device.memory_bytes
        return self.device.kind == "gpu" and not fits and len(largest) > 1

    def to_json(self, probed: dict[str, Any] | None) -> dict[str, Any]:
        """See `plan`."""
        speed = speed_of(self.device, self._dtype, self.recipe.model.quantization is not None)
        time, parts = self._seconds(speed), dict(self.parts)
        if probed:
            parts["overhead"] += probed["peak_bytes"] - sum(parts.values())
            time["steps"] *= self._slower(speed, probed)
        loading = self.loading_bytes()
        memory = max(sum(parts.values()), loading)
        disk = disk_bytes(self.sizes, self._num_checkpoints(), self.rows.prepared_bytes)
        return {
            "memory_bytes": memory,
            "seconds": round(sum(time.values()), 1),
            "disk_bytes": disk,
            "fits": memory <= self.device.memory_bytes,
            "device": {"name": self.device.name, "memory_bytes": self.device.memory_bytes},
            "memory": {"parts": parts, "training": sum(parts.values()), "loading": loading},
            "time": {name: round(value, 2) for name, value in time.items()},
            "steps": self.work.num_steps,
            "micro_batch_tokens": self.tokens,
            "probed": bool(probed),
            "notes": self._notes(),
            "facts": facts(self.shape),
        }

    def _seconds(self, speed: Speed) -> dict[str, float]:
        work, sizes, training = self.work, self.sizes, self.recipe.training
        known = [step_seconds(work, self.passes, speed, sizes["gradients"], place) for place in range(len(work.steps))]
        steps = sum(known) / len(known) * work.num_steps
        steps += below_seconds(work, self.passes, speed, min(work.num_steps, self.rows.per_epoch))
        forward = self.passes.seconds(self.passes.tokens[0], speed, "forward") / max(1, self.passes.tokens[0])
        every = training.evaluate_every_steps or max(1.0, self.rows.per_epoch)
        times = max(1, int(work.num_steps / every))
        return {
            "start": _START_SECONDS + sizes["weights"] / _READ_BYTES_PER_SECOND,
            "steps": steps,
            "evaluation": times * self.rows.held_tokens * forward,
        }

    def _slower(self, speed: Speed, probed: dict[str, Any]) -> float:
        """By how much the probe's last step took longer than was forecast: the first one also makes all warm."""
        work = self.work
        expected = step_seconds(
            work, self.passes, speed, self.sizes["gradients"], work.numbers.index(probed["numbers"][-1])
        )
        expected += below_seconds(work, self.passes, speed, 1)
        measured = probed["processor_seconds"] if self._alone(probed) else probed["seconds"]
        return float(measured[-1] / expected)

    @staticmethod
    def _alone(probed: dict[str, Any]) -> bool:
        """Whether one thread computed: its own time is then not that of others on the machine."""
        return torch.get_num_threads() == 1 and not torch.cuda.is_available()

    def loading_bytes(self) -> int:
        """While the base is loaded; where its shape alone is known, files with two bytes a weight are assumed."""
        files = sum(path.stat().st_size for path in weight_files(self._base))
        files = files or 2 * sum(weight.numel() for weight in skeleton(self._base).parameters())
        return loading_bytes(self.parts, files, self.shape.four_bits, self.device)

    def _num_checkpoints(self) -> int:
        section = self.recipe.training.checkpoints
        if section is None:
            return 0
        every = section.every_steps or (section.every_epochs or math.inf) * max(1.0, self.rows.per_epoch)
        return min(section.keep_last, 1 + int(self.work.num_steps / every)) + section.keep_best

    def _notes(self) -> list[str]:
        notes = [self.rows.assumed] if self.rows.assumed else []
        if self.device.kind == "gpu":
            notes.append("of a card: memory was 15 to 35 % more in two runs on an H200, time is a rough figure")
        return notes


def shape_of(recipe: Recipe, base: Path, dtype: torch.dtype, work: Workload, accurate: bool) -> Shape:
    """Sizes and passes of the model that a recipe would train; of many equal layers, by the line through a few.

    Raises:
        RecipeError: the recipe does not fit the model.
        ModelError: Transformers does not know the architecture, or the base is quantised already.
    """
    config = skeleton(base).config
    texts = config.get_text_config()
    layers, alike = texts.num_hidden_layers, len(set(getattr(texts, "layer_types", None) or [""])) == 1
    patterns = {**getattr(recipe.adapter, "rank_pattern", {}), **getattr(recipe.adapter, "alpha_pattern", {})}
    own = getattr(recipe.adapter, "layers_to_transform", None) is not None or recipe.training.freeze != FreezeSection()
    # Of half of the layers, two are the fewest.
    count = 2 if 0 < recipe.training.activation_checkpointing < 1 else 1
    if layers <= 4 * count or not alike or own or patterns or config.is_encoder_decoder:
        return measure_shape(make_ghost(recipe, base, dtype), work, accurate)
    few, more = (measure_shape(make_ghost(recipe, base, dtype, n), work, accurate) for n in (count, 2 * count))
    return draw_out(few, more, layers / count - 1)


def make_ghost(recipe: Recipe, base: Path, dtype: torch.dtype, num_layers: int | None = None) -> Ghost:
    """The model that a recipe would train, on the meta device.

    Args:
        recipe: the recipe.
        base: folder with `config.json`.
        dtype: that is computed in.
        num_layers: fewer layers than the model has; None: all.

    Raises:
        RecipeError: the recipe does not fit the model.
        ModelError: Transformers does not know the architecture, or the base is quantised already.
    """
    adapter = recipe.adapter
    if adapter is not None and getattr(adapter, "init_lora_weights", "default") != "default":
        # What starts from the weights is trained beside a copy of itself: as much as twice the rank holds.
        adapter = adapter.model_copy(update={"init_lora_weights": "default"})
        recipe = recipe.model_copy(update={"adapter": adapter})
    planned = plan_model(recipe, base, partial(load_shape, num_layers=num_layers))
    quantization = recipe.model.quantization
    bits = None
    if quantization is not None:
        bits = quantization.type, isinstance(quantization, FourBitQuantization) and quantization.double
    with torch.device("meta"):  # first values of adapters are not drawn
        model = planned.load(dtype)
    training = recipe.training
    varies = Regularisation(training.label_smoothing, training.neftune_noise_alpha, planned.dropout).varies(model)
    ghost = Ghost.of(model, bits, freezes=not varies and not recipe.data.streaming)
    ghost.checkpoint(training.activation_checkpointing)
    return ghost


def _neighbour(
    one: Neighbour, base: Path, device: Device, dtype: torch.dtype, rows: Rows, found: dict[str, Any]
) -> dict[str, Any]:
    """What a neighbour of a recipe would take; time as this recipe's, by the work of a pass."""
    try:
        other = _Forecast(one.recipe, base, device, dtype, rows, accurate=False)
    except InputError as error:
        return {"name": one.name, "change": one.change, "failed": error.faults[0].what}
    memory = max(sum(other.parts.values()), other.loading_bytes())
    speed = speed_of(device, dtype, one.recipe.model.quantization is not None)
    return {
        "name": one.name,
        "change": one.change,
        "memory_bytes": memory,
        "parts": other.parts,
        "seconds": round(sum(other._seconds(speed).values()), 1),
        "fits": memory <= device.memory_bytes,
    }
