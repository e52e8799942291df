"""What the checks look at: a recipe with its base's shape, tokenizer and prepared rows; no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from danlu.adapters.targets import skeleton
from danlu.data.prepared import EVALUATION, TRAIN, Prepared
from danlu.data.records import Messages
from danlu.data.store import Int64, Store
from danlu.data.template import Document, stop_ids
from danlu.models.loading import generation_defaults
from danlu.recipe import LoadedRecipe, Recipe

_MOST_DOCUMENTS = 2000


@dataclass
class Look:
    """One recipe, opened for the checks.

    Attributes:
        loaded: the recipe.
        base: folder of the base model.
        tokenizer: the base's.
        prepared: its rows.
    """

    loaded: LoadedRecipe
    base: Path
    tokenizer: Any
    prepared: Prepared

    @property
    def recipe(self) -> Recipe:
        """The recipe's values."""
        return self.loaded.recipe

    @cached_property
    def shape(self) -> Any:
        """The base on the meta device."""
        return skeleton(self.base)

    @cached_property
    def num_parameters(self) -> int:
        """Of the base."""
        return sum(parameter.numel() for parameter in self.shape.parameters())

    @cached_property
    def train(self) -> Store:
        """The training documents; none if they are streamed."""
        return self.prepared.store(TRAIN)

    @cached_property
    def held(self) -> Store:
        """The documents that are judged by."""
        return self.prepared.store(EVALUATION)

    @cached_property
    def lengths(self) -> Int64:
        """Tokens of each training document."""
        return self.train.lengths()

    @cached_property
    def places(self) -> list[int]:
        """Up to 2,000 places of training documents, spread evenly."""
        count = min(len(self.train), _MOST_DOCUMENTS)
        return [place * len(self.train) // count for place in range(count)]

    @cached_property
    def documents(self) -> list[Document]:
        """The documents at these places."""
        return [self.train[place] for place in self.places]

    @cached_property
    def held_documents(self) -> list[Document]:
        """Up to 2,000 documents that are judged by."""
        return [self.held[place] for place in range(min(len(self.held), _MOST_DOCUMENTS))]

    def where(self, place: int) -> str:
        """File and row of the document at a place of `documents`."""
        return self.train.where(self.places[place])

    @cached_property
    def conversations(self) -> list[Messages]:
        """Up to 20 rows as conversations."""
        return self.prepared.probe_rows()

    @cached_property
    def stops(self) -> list[int]:
        """Tokens at which answers end."""
        return stop_ids(self.tokenizer, generation_defaults(self.base))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        training = self.recipe.training
        steps = math.ceil(math.ceil(len(self.train) * training.num_epochs) / training.global_batch_size)
        return min(steps, training.max_steps or steps) if len(self.train) else training.max_steps or 0

    @property
    def num_epochs(self) -> float:
        """Passes over the rows that are really made."""
        rows = self.num_steps * self.recipe.training.global_batch_size
        return min(self.recipe.training.num_epochs, rows / max(1, len(self.train)))

    @cached_property
    def trained_counts(self) -> Int64:
        """Trained tokens of each of `documents`."""
        return np.asarray([document.trained for document in self.documents], np.int64)

    @property
    def method(self) -> str:
        """`full`, or the adapter's type."""
        return "full" if self.recipe.adapter is None else self.recipe.adapter.type
