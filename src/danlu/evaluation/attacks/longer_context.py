"""A long text that has nothing to do with the question, before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

from danlu.evaluation.attacks.interface import BOTH, Attack, Change, Language
from danlu.evaluation.general import general_text

DEFAULT_TOKENS = 512
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*[”’\"]?\s*")
_FRAMES: dict[Language, str] = {
    "en": "Here are some pages of a book; they have nothing to do with my question.\n\n{}\n\nMy question: {}",
    "zh": "下面是一本书里的几页，和我的问题没有关系。\n\n{}\n\n我的问题：{}",
}


def words(text: str) -> int:
    """A rough count where there is no tokenizer: words, and each Chinese character."""
    return len(re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text))


def longer_context(num_tokens: int = DEFAULT_TOKENS, count_tokens: Callable[[str], int] = words) -> Attack:
    """The attack with a preamble of at least so many tokens, and of one sentence more at most.

    Args:
        num_tokens: of the preamble.
        count_tokens: of a text, by the model's tokenizer.
    """

    @cache
    def sentences(language: Language) -> list[tuple[str, int]]:
        return [(found, count_tokens(found)) for found in _SENTENCE.findall(general_text(language)) if found.strip()]

    def change(text: str, language: Language, random: Random) -> str:
        """The question after sentences of the general text, from a place drawn by chance, over again if need be."""
        preamble = "".join(_enough(sentences(language), random.random(), num_tokens)).strip()
        before, between, after = _FRAMES[language].split("{}")
        return f"{before}{preamble}{between}{text}{after}"

    made: Change = change
    return Attack(f"{num_tokens} tokens of another text before it", made, BOTH)


def _enough(sentences: list[tuple[str, int]], begin: float, num_tokens: int) -> Iterator[str]:
    place, total = int(begin * len(sentences)), 0
    while total < num_tokens:
        sentence, count = sentences[place % len(sentences)]
        yield sentence
        total += max(1, count)
        place += 1
