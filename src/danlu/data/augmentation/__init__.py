"""New training rows made from others: word changes (EDA) in Chinese and English, and back-translation.

The word augmenters are functions `augment(record, rate, random)` that give the new record, or None where nothing
could change; the same record, rate and random seed give the same result in any process. Synonyms come from packages
and files on this machine, loaded at the first row that needs them and once per process. What a question's meaning
hangs on stays: see `pieces`.

Questions that hold a text to work on (`Correct this sentence: ...`) are changed as any other, unless the text is
quoted or in a code fence; for such data, word augmentation is the wrong tool.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from danlu.data.augmentation import delete, insert, swap, synonym
from danlu.data.augmentation.back_translation import BackTranslator
from danlu.data.records import Record

__all__ = ["AUGMENTERS", "WORD_AUGMENTERS", "BackTranslator", "WordAugmenter"]

WordAugmenter = Callable[[Record, float, Random], Record | None]

WORD_AUGMENTERS: dict[str, WordAugmenter] = {
    "synonym": synonym.augment,
    "swap": swap.augment,
    "insert": insert.augment,
    "delete": delete.augment,
}

AUGMENTERS: dict[str, WordAugmenter | type[BackTranslator]] = {**WORD_AUGMENTERS, "back_translation": BackTranslator}
