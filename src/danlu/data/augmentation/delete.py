"""Words of a question are left out (Wei and Zou 2019, https://aclanthology.org/D19-1670).

There every word is as likely to go. Here the words that carry least (particles, articles, politeness) go first, and
others only from questions that are long enough to be understood without one.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from danlu.data.augmentation.locks import CHINESE_LIGHT, ENGLISH_LIGHT
from danlu.data.augmentation.pieces import Piece
from danlu.data.augmentation.questions import change_questions
from danlu.data.records import Record

_LONG_ENOUGH = 12  # words


def augment(record: Record, rate: float, random: Random) -> Record | None:
    """The record with a share of its questions' words left out; at least half of the words stay."""
    return change_questions(record, rate, random, _delete)


def _delete(pieces: list[Piece], num_words: int, random: Random) -> list[Piece] | None:
    light = [index for index, piece in enumerate(pieces) if piece.is_free and _is_light(piece)]
    others = [index for index, piece in enumerate(pieces) if piece.is_free and not _is_light(piece)]
    random.shuffle(light)
    random.shuffle(others)
    total = sum(piece.is_word for piece in pieces)
    goes = set(([*light, *others] if total >= _LONG_ENOUGH else light)[: min(num_words, total // 2)])
    return _without(pieces, goes) if goes else None


def _is_light(piece: Piece) -> bool:
    return piece.text in CHINESE_LIGHT or piece.text.lower() in ENGLISH_LIGHT


def _without(pieces: list[Piece], goes: set[int]) -> list[Piece]:
    """The pieces less some words, with one blank between the words that are left."""
    left: list[Piece] = []
    begins = False
    for index, piece in enumerate(pieces):
        if index in goes:
            begins = begins or (piece.begins and piece.text[0].isupper())
        elif piece.kind == "gap" and index - 1 in goes and piece.text.startswith(" "):
            # The blank after the word goes with it, unless one on the left went already.
            rest = piece.text[1:]
            left += [replace(piece, text=rest)] if rest else []
        else:
            if begins and piece.kind == "english":
                piece = replace(piece, text=piece.text[0].upper() + piece.text[1:], begins=True)
            begins = begins and piece.kind == "gap"
            if index - 1 in goes and left and _would_merge(left[-1], piece):
                left.append(Piece(" ", "gap"))
            left.append(piece)
    return left


def _would_merge(one: Piece, other: Piece) -> bool:
    """Latin words on both sides of a Chinese one would become one word."""
    ends = one.text[-1] + other.text[0]
    return ends.isascii() and ends.isalnum()
