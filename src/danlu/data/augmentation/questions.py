"""What the word augmenters share: only questions change, by a share of their words, and numbers and negations stay."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from random import Random

from danlu.data.augmentation.locks import CHINESE_NEGATIONS, NEGATIONS
from danlu.data.augmentation.pieces import Piece, cut, join
from danlu.data.records import Record

QUESTION_ROLES = ("user", "prompt")
Change = Callable[[list[Piece], int, Random], list[Piece] | None]

_NUMBER = re.compile(r"\d+")
_NEGATION = re.compile(f"[{''.join(sorted(CHINESE_NEGATIONS))}]|[a-z]*n['’]t|[a-z]+", re.IGNORECASE)


def change_questions(record: Record, rate: float, random: Random, change: Change) -> Record | None:
    """The record with each question changed; None if none could be.

    A question is what role `user` says, and a raw `prompt`; plain text (`text`) is what is learned, so it stays.

    Args:
        record: the parent.
        rate: share of a question's words that is changed; at least one is, in each question.
        random: decides which; asked only for the words of this record.
        change: pieces, number of words → new pieces, or None.
    """

    def new_text(role: str, text: str) -> str:
        return _changed(text, rate, random, change) if role in QUESTION_ROLES else text

    changed = record.with_texts(new_text)
    return changed if changed.messages != record.messages else None


def replacements(piece: Piece) -> tuple[str, ...]:
    """Synonyms of a free word, in its capitals."""
    if piece.kind == "chinese":
        from danlu.data.augmentation import chinese

        return chinese.synonyms(piece.text)
    from danlu.data.augmentation import english

    found = english.synonyms(piece.text.lower())
    return tuple(other[:1].upper() + other[1:] for other in found) if piece.text[0].isupper() else found


def numbers(text: str) -> Counter[str]:
    """Each run of digits in a text, and how often it is there."""
    return Counter(_NUMBER.findall(text))


def _numbers_and_negations(text: str) -> Counter[str]:
    words = (word.lower() for word in _NEGATION.findall(text))
    return numbers(text) + Counter(
        word for word in words if word in NEGATIONS or word in CHINESE_NEGATIONS or word.endswith(("n't", "n’t"))
    )


def _changed(text: str, rate: float, random: Random, change: Change) -> str:
    """The changed text, or the same where nothing could be changed without touching what must stay."""
    pieces = cut(text)
    num_words = sum(piece.is_word for piece in pieces)
    if not any(piece.is_free for piece in pieces):
        return text
    new_pieces = change(pieces, max(1, round(rate * num_words)), random)
    if new_pieces is None:
        return text
    new_text = join(new_pieces)
    # What must stay is locked piece by piece; this catches what a joint between two pieces could still make.
    return new_text if _numbers_and_negations(new_text) == _numbers_and_negations(text) else text
