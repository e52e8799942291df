"""New rows made from rows: the glue between the augmenters and the passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from danlu.data.augmentation import WORD_AUGMENTERS, BackTranslator
from danlu.data.item import Item
from danlu.data.records import Record


@dataclass(frozen=True)
class WordMaker:
    """Makes rows by changing words of their questions.

    Attributes:
        type: a name of `WORD_AUGMENTERS`.
        rate: share of the words that changes.
        seed: with a row's number it decides which.
    """

    type: str
    rate: float
    seed: str

    def __call__(self, parents: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
        """The new rows, each with its number; fewer where nothing could be changed."""
        augment = WORD_AUGMENTERS[self.type]
        # A seed of text gives the same numbers in every process and on every machine.
        made = [
            (number, parent, augment(parent.record, self.rate, random.Random(f"{self.seed}:{number}")))
            for number, parent in parents
        ]
        return [(number, _child(parent, record, self.type)) for number, parent, record in made if record is not None]


@dataclass(frozen=True)
class TranslationMaker:
    """Makes rows by putting their questions into another language and back.

    Attributes:
        through: the language in between.
        translate: builds what translates, at the first use: a model takes time to load.
    """

    through: str | None
    translate: Callable[[], Callable[[list[str]], list[str]]]
    _built: list[BackTranslator] = field(default_factory=list)

    def __call__(self, parents: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
        """The new rows, each with its number; fewer where none came back usable."""
        if not self._built:
            self._built.append(BackTranslator(self.translate(), self.through))
        made = self._built[0].augment([parent.record for _, parent in parents])
        return [
            (number, _child(parent, record, "back_translation"))
            for (number, parent), record in zip(parents, made, strict=True)
            if record is not None
        ]


def _child(parent: Item, record: Record, name: str) -> Item:
    return Item(record, f"{parent.where} ({name})", parent.source, parent.form, parent.fields, parent=parent.where)
