"""Words of a question change places (Wei and Zou 2019, https://aclanthology.org/D19-1670).

There any two words do. Here only neighbours do, with nothing but a blank between them: words that jump over a number,
a comma or a negation can turn the meaning round.
"""

from __future__ import annotations

from random import Random

from danlu.data.augmentation.locks import CHINESE_LIGHT
from danlu.data.augmentation.pieces import Piece
from danlu.data.augmentation.questions import change_questions
from danlu.data.records import Record


def augment(record: Record, rate: float, random: Random) -> Record | None:
    """The record with neighbouring words of its questions swapped, each word once; a swap changes two words."""
    return change_questions(record, rate, random, _swap)


def _swap(pieces: list[Piece], num_words: int, random: Random) -> list[Piece] | None:
    pairs = [pair for pair in _neighbours(pieces) if _is_swappable(pieces[pair[0]], pieces[pair[1]])]
    random.shuffle(pairs)
    new_pieces = list(pieces)
    moved: set[int] = set()
    for left, right in pairs:
        if len(moved) >= 2 and len(moved) + 2 > num_words:
            break
        if left not in moved and right not in moved:
            new_pieces[left], new_pieces[right] = _exchanged(pieces[left], pieces[right])
            moved.update((left, right))
    return new_pieces if moved else None


def _neighbours(pieces: list[Piece]) -> list[tuple[int, int]]:
    """Free words side by side: Chinese ones touch, English ones have one blank between them."""
    pairs = []
    for index, piece in enumerate(pieces):
        distance = 1 if piece.kind == "chinese" else 2
        other = pieces[index + distance] if index + distance < len(pieces) else None
        if other is None or not (piece.is_free and other.is_free and other.kind == piece.kind):
            continue
        if distance == 1 or pieces[index + 1].text == " ":
            pairs.append((index, index + distance))
    return pairs


def _is_swappable(left: Piece, right: Piece) -> bool:
    if left.text.lower() == right.text.lower():
        return False
    # A single character or a particle binds to its neighbour: 的, 了, 我.
    return left.kind == "english" or all(
        len(piece.text) > 1 and piece.text not in CHINESE_LIGHT for piece in (left, right)
    )


def _exchanged(left: Piece, right: Piece) -> tuple[Piece, Piece]:
    """The pair in the other order; a sentence's capital letter stays at its start."""
    first, second = right.text, left.text
    if left.begins and second[0].isupper() and second != "I":
        second = second[0].lower() + second[1:]
        first = first[0].upper() + first[1:]
    elif left.begins and second == "I":
        first = first[0].upper() + first[1:]
    return Piece(first, right.kind, begins=left.begins), Piece(second, left.kind)
