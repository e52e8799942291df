"""Everything one training run holds in memory, put together from the recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import load_adapter, parameter_counts, save_adapter
from danlu.data.prepared import EVALUATION, TRAIN, Prepared
from danlu.data.records import Messages
from danlu.data.store import Store
from danlu.data.stream import RowStream
from danlu.data.template import stop_ids
from danlu.engines.transformers_engine import TransformersEngine
from danlu.models.loading import choose_device, choose_dtype, dtype_name, generation_defaults, load_base, require_dtype
from danlu.models.quantization import compute_in
from danlu.models.saving import save_model
from danlu.recipe import Recipe
from danlu.recipe.guards_schema import GuardsSection
from danlu.recipe.training_schema import (
    ConstantSchedule,
    CosineSchedule,
    CosineWithRestartsSchedule,
    LinearSchedule,
    ThreePhaseSchedule,
    TrainingSection,
)
from danlu.runs import ADAPTER, MODEL
from danlu.training import schedules
from danlu.training.assembly import ModelPlan, plan_model
from danlu.training.backends import make_backend, require_backend, shards
from danlu.training.backends.replicated import MakeOptimizer
from danlu.training.best import Best
from danlu.training.checkpoint import Checkpoint
from danlu.training.engine import choose_engine
from danlu.training.environment import describe_environment
from danlu.training.feed import Feed, Share, StreamFeed
from danlu.training.frozen import choose_frozen, first_trained_layer
from danlu.training.guards import Guard, Limits
from danlu.training.loop import Course, Step, mean_loss, train
from danlu.training.machine import prepare_machine, release_memory
from danlu.training.memory import (
    MemoryPlan,
    checkpoint_activations,
    close_holes_on_the_way,
    plan_memory,
    usual_tokens,
)
from danlu.training.optimizers import make_optimizer
from danlu.training.probes import expect, write_probes
from danlu.training.processes import THIS_ALONE, Processes
from danlu.training.regularisation import Regularisation
from danlu.training.shared_base import SharedBase
from danlu.training.trained import base_hash
from danlu.training.watchdog import Patience

_NUM_FIRST_ROWS = 20  # of a stream: for the probes, and to choose the attention by


class Session:
    """Model, feed, optimizer and schedule of one run.

    Args:
        recipe: the resolved recipe.
        base: folder of the base model.
        tokenizer: the base's.
        prepared: the labelled data.
        stream: the training rows, if they are streamed; then `prepared` has evaluation rows alone.
        processes: of the run, this one among them.
        shared: the base, if it is that of several runs in turn.

    Raises:
        RecipeError: the recipe does not fit the model, the machine or the processes; found before any weight is loaded.
        ModelError: the base is quantised already; found as early.
        DataError: the first streamed rows can't be used; found before any weight is loaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        tokenizer: Any,
        prepared: Prepared,
        stream: RowStream | None = None,
        processes: Processes = THIS_ALONE,
        shared: SharedBase | None = None,
    ) -> None:
        training = recipe.training
        prepare_machine(processes.local_world_size)
        self.recipe, self.base, self.tokenizer, self.prepared = recipe, base, tokenizer, prepared
        self.processes, self.first_step, self.best = processes, 0, Best()
        self.guard, self.patience = Guard(_limits_of(training.guards)), _patience_of(training.guards)
        device = choose_device()
        self.dtype, planned = plan_training(recipe, base, processes, shared.load if shared else load_base)
        self._shards = shards(training.backend)
        self.regularisation = Regularisation(training.label_smoothing, training.neftune_noise_alpha, planned.dropout)
        first_rows, first_documents = stream.first_rows(_NUM_FIRST_ROWS) if stream else ([], [])
        self._probe_rows: list[Messages] = prepared.probe_rows() or first_rows
        self.base_sha256 = shared.sha256(base) if shared else base_hash(base)
        release_memory(loading=True)
        self.model = planned.load(self.dtype)
        release_memory()  # while it is proven, too: what is freed would stay, in holes
        self.environment = describe_environment(self.dtype)
        self.held = prepared.store(EVALUATION)
        train_store = prepared.store(TRAIN)
        engine = choose_engine(self.model, first_documents or train_store)
        # Chunks of logits read the head's weights outside of the model's forward pass, where shards are not gathered.
        self.engine = replace(engine, objective=engine.plain) if self._shards else engine
        self._dropout_off = planned.dropout.put_in(self.model)
        release_memory()
        prepare_machine(processes.local_world_size)
        self.memory = plan_memory(
            self.model,
            self.engine,
            first_documents or train_store,
            MemoryPlan(training.micro_batch_tokens or usual_tokens(device), training.activation_checkpointing),
            training.max_memory,
        )
        self._holes_open = close_holes_on_the_way(self.model) if recipe.model.quantization else lambda: None
        self.objective = self.engine.objective
        # What is kept for one document would hold traces of others where these can't lie side by side; and streamed
        # documents are too many to keep anything for each. Noise and dropout are other ones in each epoch.
        self.frozen = (
            choose_frozen(self.model, [train_store, self.held], self.objective, self.engine.shares_prefix)
            if self.engine.packs and stream is None and not self._shards and not self.regularisation.varies(self.model)
            else None
        )
        self.counts = parameter_counts(self.model)
        self.backend = make_backend(
            training.backend, self.model, _optimizer_of(training), processes, training.max_gradient_norm
        )
        self._share = Share(processes, self.backend.equal_shares)
        self.feed = self._make_feed(stream or train_store, device)
        self.micro_batch_tokens = self.feed.micro_batch_tokens

    def _make_feed(self, rows: RowStream | Store, device: torch.device) -> Feed | StreamFeed:
        training, engine = self.recipe.training, self.engine
        packed_tokens = self.memory.micro_batch_tokens if engine.packs else 1
        batch_size, shares = training.global_batch_size, engine.shares_prefix
        if isinstance(rows, RowStream):
            assert training.max_steps is not None, "the data stage asks for it"
            return StreamFeed(rows, training.max_steps, batch_size, packed_tokens, shares, device, padded=engine.padded)
        return Feed(
            rows,
            training.num_epochs,
            batch_size,
            self.recipe.run.seed,
            packed_tokens,
            shares,
            device,
            training.max_steps,
            self.frozen,
            self._share,
            engine.padded,
            self.guard.left_out,
        )

    def checkpoint(self, step: int, best: Best, good: bool = False) -> Checkpoint:
        """All that is needed to go on after a step; every process must ask, the first one writes it down.

        Args:
            step: that is done.
            best: evaluation so far.
            good: whether the run may go back to here, unless its last step went wrong.
        """
        position = self.feed.position(step) if isinstance(self.feed, StreamFeed) else None
        if good and not self.guard.streak:
            self.guard.good_step = step
        tokens = {"planned": self.memory.micro_batch_tokens, "now": self.feed.micro_batch_tokens}
        guards = {**self.guard.state(), "micro_batch_tokens": tokens}
        return Checkpoint(step, position, self.backend.state(), best, guards)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint. What is kept of frozen layers is made again as it was made then."""
        self.backend.load(checkpoint.trained)
        self.first_step, self.best = checkpoint.step, checkpoint.best
        self.guard.load(checkpoint.guards)
        tokens = checkpoint.guards.get("micro_batch_tokens", {})
        if tokens.get("planned") == self.memory.micro_batch_tokens:
            self.shrink_to(tokens["now"])
        if isinstance(self.feed, StreamFeed):
            assert checkpoint.position is not None, "a streamed run wrote it"
            self.feed.go_to(checkpoint.step, checkpoint.position)
        elif self.frozen is not None:
            for step in range(min(checkpoint.step, -int(-self.feed.steps_per_epoch // 1))):
                self.feed.batches(step)

    def shrink_to(self, micro_batch_tokens: int) -> None:
        """Cuts steps into micro-batches of at most so many tokens, if they are larger."""
        self.feed.micro_batch_tokens = min(self.feed.micro_batch_tokens, micro_batch_tokens)

    @property
    def largest_micro_batch(self) -> int:
        """Most tokens that a forward pass can have, as steps are cut now."""
        if isinstance(self.feed, StreamFeed):
            return self.feed.micro_batch_tokens
        longest: list[int] = sorted(self.feed.store.lengths().tolist())[-self.feed.global_batch_size :]
        return max(longest[-1], min(self.feed.micro_batch_tokens, sum(longest)))

    @property
    def trained(self) -> Any:
        """What the loop calls: the model, or the part of it above the frozen layers."""
        return self.frozen or self.backend.model

    def describe(self) -> str:
        """What is about to run, in a few words."""
        trainable, total = self.counts
        return (
            f"{trainable:,} of {total:,} parameters trained ({trainable / total:.2%}), "
            f"{self.feed.size}, {self.feed.num_steps} steps, "
            f"{str(self.dtype).removeprefix('torch.')}"
            + (f" on {quantization.type} weights" if (quantization := self.recipe.model.quantization) else "")
            + f", {self.engine.name}"
            + (f", {self.processes.world_size} processes" if self.processes.world_size > 1 else "")
            + (f", layers below {self.frozen.first} computed once" if self.frozen else self._not_frozen)
            + (f", {share:.0%} of the layers checkpointed" if (share := self.memory.checkpointed_share) else "")
        )

    @property
    def _not_frozen(self) -> str:
        """Why layers that could have been computed once are not."""
        first, reason = first_trained_layer(self.model), self.regularisation.varies(self.model)
        return f", layers below {first} computed in every epoch ({reason})" if first and reason else ""

    def steps(self) -> Iterator[Step]:
        """Runs the training loop, from the first step or from the checkpoint's."""
        training = self.recipe.training
        schedule = make_schedule(training, self.feed.num_steps)
        feed: Any = self.feed  # either kind: the loop asks for no more than num_steps, rank and batches
        shrinks = training.guards is not None and training.guards.shrink_micro_batch
        course = Course(schedule, training.max_gradient_norm, self.recipe.run.seed, self.first_step, shrinks)
        objective = self.regularisation.objective(self.objective)
        for step in train(self.trained, objective, feed, self.backend, course, self.guard):
            self.micro_batch_tokens = step.micro_batch_tokens
            yield step

    def losses_of_rows(self, index: int) -> list[float]:
        """The loss of each document of a step, counted from 0, by itself; every process must ask."""
        documents, first = self.feed.documents(index), self.processes.first
        losses = [mean_loss(self.trained, self.objective, self.feed.pack([document])) for document in documents]
        return [self.backend.total(loss if first else 0.0) for loss in losses]  # the last bit may be another elsewhere

    def evaluation_loss(self) -> float | None:
        """Mean loss per answer token of held-out rows; None if there are none."""
        if not len(self.held):
            return None
        count = min(len(self.held), self.recipe.training.evaluation_max_rows or len(self.held))
        documents = [self.held[place * len(self.held) // count] for place in range(count)]
        batches = self.feed.pack(documents, self._share)
        return mean_loss(self.trained, self.objective, batches, self.backend.total)

    def save(self, folder: Path) -> None:
        """Writes what was trained: the adapter in PEFT's format, or the whole model; every process must call."""
        whole = self.backend.state().parameters if self._shards else None
        if not self.processes.first:
            return
        if self.recipe.adapter is not None:
            save_adapter(self.model, folder / ADAPTER, self.recipe.model.name, whole)
            return
        model = self.model
        if whole is not None:
            model = load_base(self.base, self.dtype)
            model.load_state_dict(whole, strict=False)  # what is not there was frozen
        save_model(model, self.tokenizer, folder / MODEL, stop_ids(self.tokenizer, generation_defaults(self.base)))

    def take_apart(self) -> None:
        """Leaves the model as PEFT and Transformers compute it, and nothing beside it; once more does nothing."""
        self._dropout_off()
        self._holes_open()
        self.engine.off()
        checkpoint_activations(self.model, 0.0)
        self.frozen = None
        for kept in ("backend", "feed"):  # the optimizer's moments and the kept states
            vars(self).pop(kept, None)
        release_memory()

    def write_probes(self, folder: Path) -> None:
        """Answers the probe questions in the run's dtype and in float32, and writes everything down."""
        self.take_apart()
        if self._shards:
            self.model = self._load_saved(folder)
        questions = [messages[:-1] for messages in self._probe_rows]
        stops = stop_ids(self.tokenizer, generation_defaults(self.base))
        longest = self.recipe.evaluation.max_new_tokens if self.recipe.evaluation else 64
        self.model.eval()
        by_dtype = {}
        for dtype in dict.fromkeys((self.dtype, torch.float32)):
            model = self.model if dtype == self.dtype else compute_in(self.model, dtype)
            engine = TransformersEngine(model, self.tokenizer, stops, batch_size=len(questions))
            by_dtype[dtype_name(dtype)] = expect(engine, questions, longest)
        write_probes(folder / "probes", self.tokenizer, stops, questions, longest, by_dtype)

    def _load_saved(self, folder: Path) -> Any:
        """What `save` wrote, whole: the shards of other processes are not here."""
        if self.recipe.adapter is None:
            return load_base(folder / MODEL, self.dtype)
        base = load_base(self.base, self.dtype, quantization=self.recipe.model.quantization)
        return load_adapter(base, folder / ADAPTER)


def plan_training(
    recipe: Recipe, base: Path, processes: Processes, load: Callable[..., Any] = load_base
) -> tuple[torch.dtype, ModelPlan]:
    """Checks that this machine and these processes can train the model as the recipe says, before a weight is loaded.

    Returns:
        What is computed in, and the model's plan.

    Raises:
        RecipeError: the recipe does not fit the model, the machine or the processes.
        ModelError: as `plan_model`.
    """
    device = choose_device()
    require_dtype(recipe.model.dtype, device)
    dtype = choose_dtype(recipe.model.dtype, device)
    require_backend(recipe, processes, dtype)
    return dtype, plan_model(recipe, base, load)


def _limits_of(guards: GuardsSection | None) -> Limits | None:
    if guards is None:
        return None
    return Limits(
        guards.spike_factor,
        guards.window_steps,
        guards.max_quarantined_steps,
        guards.max_retries,
        guards.learning_rate_factor or 1.0,
    )


def _patience_of(guards: GuardsSection | None) -> Patience | None:
    if guards is None or guards.stuck_step_seconds is None:
        return None
    return Patience(guards.stuck_step_seconds, guards.stuck_step_factor, guards.abort_stuck_step)


def _optimizer_of(training: TrainingSection) -> MakeOptimizer:
    return functools.partial(
        make_optimizer,
        name=training.optimizer,
        learning_rate=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
        loraplus_lr_ratio=training.loraplus_lr_ratio,
    )


def make_schedule(training: TrainingSection, num_steps: int) -> schedules.Schedule:
    """The learning rate by step."""
    chosen, peak = training.schedule, training.learning_rate
    warmup = schedules.warmup_steps_of(num_steps, chosen.warmup_share, chosen.warmup_steps)
    if isinstance(chosen, ConstantSchedule):
        return schedules.constant(num_steps, peak, warmup)
    if isinstance(chosen, ThreePhaseSchedule):
        return schedules.three_phase(num_steps, peak, warmup, chosen.floor_share, chosen.floor_learning_rate)
    lowest = chosen.min_learning_rate
    if isinstance(chosen, LinearSchedule):
        return schedules.linear(num_steps, peak, warmup, lowest)
    if isinstance(chosen, CosineSchedule):
        return schedules.cosine(num_steps, peak, warmup, lowest)
    if isinstance(chosen, CosineWithRestartsSchedule):
        return schedules.cosine_with_restarts(num_steps, peak, warmup, lowest, chosen.num_cycles)
    return schedules.wsd(num_steps, peak, warmup, lowest, chosen.decay_share, chosen.decay_type)
