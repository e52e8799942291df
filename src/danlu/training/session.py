"""Everything one training run holds in memory, put together from the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import add_lora, parameter_counts, save_adapter
from danlu.adapters.targets import require_layers, resolve_targets, skeleton
from danlu.data.prepared import EVALUATION, TRAIN, Prepared
from danlu.data.records import Messages
from danlu.data.store import Store
from danlu.data.stream import RowStream
from danlu.data.template import stop_ids
from danlu.engines.transformers_engine import TransformersEngine
from danlu.models.loading import choose_device, choose_dtype, generation_defaults, load_base
from danlu.recipe import Recipe
from danlu.recipe.training_schema import ConstantSchedule, TrainingSection
from danlu.training import schedules
from danlu.training.backends import SingleProcess
from danlu.training.engine import choose_engine
from danlu.training.environment import describe_environment
from danlu.training.feed import Feed, StreamFeed
from danlu.training.frozen import choose_frozen
from danlu.training.loop import Step, mean_loss, train
from danlu.training.machine import prepare_machine, release_memory
from danlu.training.memory import MemoryPlan, checkpoint_activations, plan_memory
from danlu.training.probes import expect, write_probes
from danlu.training.trained import base_hash

_NUM_FIRST_ROWS = 20  # of a stream: for the probes, and to choose the attention by


class Session:
    """Model, feed, optimizer and schedule of one run.

    Args:
        recipe: the resolved recipe.
        base: folder of the base model.
        tokenizer: the base's.
        prepared: the labelled data.
        stream: the training rows, if they are streamed; then `prepared` has evaluation rows alone.

    Raises:
        RecipeError: the adapter does not fit the model; found before any weight is loaded.
        DataError: the first streamed rows can't be used; found before any weight is loaded.
    """

    def __init__(
        self, recipe: Recipe, base: Path, tokenizer: Any, prepared: Prepared, stream: RowStream | None = None
    ) -> None:
        adapter, training = recipe.adapter, recipe.training
        prepare_machine()
        shape = skeleton(base)
        targets = resolve_targets(shape, adapter.target_modules, adapter.rank)
        require_layers(shape, adapter.layers_to_transform)
        self.recipe, self.base, self.tokenizer, self.prepared = recipe, base, tokenizer, prepared
        first_rows, first_documents = stream.first_rows(_NUM_FIRST_ROWS) if stream else ([], [])
        self._probe_rows: list[Messages] = prepared.probe_rows() or first_rows
        device = choose_device()
        self.dtype = choose_dtype(recipe.model.dtype, device)
        self.base_sha256 = base_hash(base)
        self.model = add_lora(
            load_base(base, self.dtype),
            adapter.rank,
            adapter.alpha,
            adapter.dropout,
            targets,
            recipe.run.seed,
            adapter.layers_to_transform,
        )
        self.environment = describe_environment(self.dtype)
        self.held = prepared.store(EVALUATION)
        train_store = prepared.store(TRAIN)
        self.engine = choose_engine(self.model, first_documents or train_store)
        release_memory()  # of the proof, which computed by the model's own code
        prepare_machine()
        self.memory = plan_memory(
            self.model,
            self.engine,
            first_documents or train_store,
            MemoryPlan(training.micro_batch_tokens, training.activation_checkpointing),
            training.max_memory,
        )
        # What is kept for one document would hold traces of others where these can't lie side by side; and streamed
        # documents are too many to keep anything for each.
        self.frozen = (
            choose_frozen(self.model, [train_store, self.held], self.engine.objective, self.engine.shares_prefix)
            if self.engine.packs and stream is None
            else None
        )
        self.feed = self._make_feed(stream or train_store, device)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
        )
        self.backend = SingleProcess(self.model.parameters(), optimizer)

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
            padded=engine.padded,
        )

    @property
    def trained(self) -> Any:
        """What the loop calls: the model, or the part of it above the frozen layers."""
        return self.frozen or self.model

    def describe(self) -> str:
        """What is about to run, in a few words."""
        trainable, total = parameter_counts(self.model)
        return (
            f"{trainable:,} of {total:,} parameters trained ({trainable / total:.2%}), "
            f"{self.feed.size}, {self.feed.num_steps} steps, "
            f"{str(self.dtype).removeprefix('torch.')}, {self.engine.name}"
            + (f", layers below {self.frozen.first} computed once" if self.frozen else "")
            + (f", {share:.0%} of the layers checkpointed" if (share := self.memory.checkpointed_share) else "")
        )

    def steps(self) -> Iterator[Step]:
        """Runs the training loop."""
        torch.manual_seed(self.recipe.run.seed)
        training = self.recipe.training
        schedule = make_schedule(training, self.feed.num_steps)
        feed: Any = self.feed  # either kind: the loop asks for no more than num_steps and batches
        return train(self.trained, self.engine.objective, feed, self.backend, schedule, training.max_gradient_norm)

    def evaluation_loss(self) -> float | None:
        """Mean loss per answer token of held-out rows; None if there are none."""
        if not len(self.held):
            return None
        count = min(len(self.held), self.recipe.training.evaluation_max_rows or len(self.held))
        documents = [self.held[place * len(self.held) // count] for place in range(count)]
        return mean_loss(self.trained, self.engine.objective, self.feed.pack(documents))

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter in PEFT's format."""
        save_adapter(self.model, folder, self.recipe.model.name)

    def write_probes(self, folder: Path) -> None:
        """Answers the probe questions in the run's dtype and in float32, and writes everything down."""
        self.engine.off()
        checkpoint_activations(self.model, 0.0)
        self.frozen = None
        del self.backend, self.feed  # the optimizer's moments and the kept states
        release_memory()
        questions = [messages[:-1] for messages in self._probe_rows]
        stops = stop_ids(self.tokenizer, generation_defaults(self.base))
        longest = self.recipe.evaluation.max_new_tokens if self.recipe.evaluation else 64
        self.model.eval()
        by_dtype = {}
        for dtype in dict.fromkeys((self.dtype, torch.float32)):
            model = self.model if dtype == self.dtype else self.model.to(dtype)
            engine = TransformersEngine(model, self.tokenizer, stops, batch_size=len(questions))
            by_dtype[str(dtype).removeprefix("torch.")] = expect(engine, questions, longest)
        write_probes(folder, self.tokenizer, stops, questions, longest, by_dtype)


def make_schedule(training: TrainingSection, num_steps: int) -> schedules.Schedule:
    """The learning rate by step."""
    chosen = training.schedule
    if isinstance(chosen, ConstantSchedule):
        return schedules.constant(num_steps, training.learning_rate, chosen.warmup_share)
    return schedules.three_phase(
        num_steps, training.learning_rate, chosen.warmup_share, chosen.floor_share, chosen.floor_learning_rate
    )
