"""The general set that comes with Danlu: questions with unambiguous checks, and plain text, English and Chinese.

Written for the project; nothing in it comes from a benchmark, so that a base cannot have learnt the answers there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from danlu.shipped import shipped

Language = Literal["en", "zh"]
KINDS = ("facts", "arithmetic", "language", "common_sense", "instructions")

_LETTERS = "ABCDEFGH"
# Not the article, as in "A dog".
_LETTER = re.compile(r"(?<![A-Za-z'’])([B-D](?![A-Za-z'’])|A(?![A-Za-z'’]|\s+[a-z]))")
_ASK = {
    "en": "{}\n{}\nAnswer with the letter of the right choice alone.",
    "zh": "{}\n{}\n只回答正确选项的字母。",
}


@dataclass(frozen=True)
class Item:
    """One question with its check.

    Attributes:
        name: as in `en-facts-01`.
        language: of the question.
        kind: one of `KINDS`.
        question: as it is asked; choices stand below it, one a line.
        choices: texts of the choices A, B, ...; empty where the answer is free.
        answer: letter of the right choice; else a regular expression.
        whole: whether a free answer must match as a whole, blanks and a last full stop aside, or only somewhere.
    """

    name: str
    language: Language
    kind: str
    question: str
    choices: tuple[str, ...]
    answer: str
    whole: bool

    def is_right(self, text: str) -> bool:
        """Whether an answer is right.

        Of a choice, the first letter A to D that stands alone counts; where there is none, the one choice whose text is
        in the answer. A free answer matches without regard to capitals.
        """
        if self.choices:
            return self._chosen(text) == self.answer
        if self.whole:
            return bool(re.fullmatch(self.answer, text.strip().rstrip(".。").strip(), re.IGNORECASE))
        return bool(re.search(self.answer, text, re.IGNORECASE))

    def expected(self) -> str:
        """What is right, to be shown."""
        return f"{self.answer}. {self.choices[_LETTERS.index(self.answer)]}" if self.choices else self.answer

    def _chosen(self, text: str) -> str | None:
        found = _LETTER.search(text)
        if found:
            return found.group(1)
        named = [
            letter for letter, choice in zip(_LETTERS, self.choices, strict=False) if choice.lower() in text.lower()
        ]
        return named[0] if len(named) == 1 else None


@cache
def general_items(language: Language) -> tuple[Item, ...]:
    """The questions of one language.

    Raises:
        FolderError: this installation lacks them.
    """
    lines = shipped(f"examples/general/{language}.jsonl").read_text(encoding="utf-8").splitlines()
    counts: dict[str, int] = {}
    items = []
    for row in map(json.loads, lines):
        counts[row["kind"]] = counts.get(row["kind"], 0) + 1
        items.append(_item(row, language, counts[row["kind"]]))
    return tuple(items)


@cache
def general_text(language: Language) -> str:
    """Plain text of one language, some 1,700 words or 2,900 characters.

    Raises:
        FolderError: this installation lacks it.
    """
    return shipped(f"examples/general/text_{language}.txt").read_text(encoding="utf-8")


def _item(row: dict[str, Any], language: Language, number: int) -> Item:
    question, choices = row["question"], tuple(row.get("choices", ()))
    if choices:
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
        question = _ASK[language].format(question, listed)
    answer = row["answer"] if choices else row.get("pattern") or row["whole"]
    return Item(
        f"{language}-{row['kind']}-{number:02d}", language, row["kind"], question, choices, answer, "whole" in row
    )
