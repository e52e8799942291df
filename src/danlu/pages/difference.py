"""What changed between two texts, in pieces short enough to show."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from os.path import commonprefix

from danlu.pages.unseen import show_unseen

SAME, GONE, NEW, LEFT_OUT = "same", "gone", "new", "left out"
Piece = tuple[str, str]

_CONTEXT_CHARACTERS, _CHANGE_CHARACTERS = 60, 180
# The matcher is quadratic; this bounds one comparison to some milliseconds.
_MIDDLE_CHARACTERS = 600
_ALIKE = 0.35
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = re.compile(rf"[^\W{_CJK}]")
_LONGEST_WORD = 40
_WORD = re.compile(rf"[^\W{_CJK}]+|\s+|.", re.DOTALL)


def difference(before: str, after: str) -> list[Piece]:
    """Pieces of the two texts around what differs, by words, and by characters for Chinese.

    Args:
        before: the first text.
        after: the second.

    Returns:
        (kind, text) with kind `same`, `gone` (only in the first), `new` (only in the second) or `left out` (text "…").
        Where nothing is left out, `same` and `gone` make up the first text, `same` and `new` the second. Texts in
        `gone` and `new` show characters that can't be seen, and line breaks as ↵. The length is bounded.
    """
    begin = _common_prefix(before, after)
    end = _common_suffix(before, after, begin)
    first, second = before[begin : len(before) - end], after[begin : len(after) - end]
    whole = max(len(first), len(second)) <= _MIDDLE_CHARACTERS
    pieces: list[Piece] = [(SAME, before[:begin])]
    pieces += _middle(first[:_MIDDLE_CHARACTERS], second[:_MIDDLE_CHARACTERS])
    pieces += [(SAME, before[len(before) - end :])] if whole else [(LEFT_OUT, "…")]
    return _shortened([piece for piece in pieces if piece[1]])


def _common_prefix(first: str, second: str) -> int:
    """Number of equal characters that the two begin with; a word that differs is not cut in two."""
    length = len(commonprefix([first, second]))  # noqa: RUF071 - these are texts, not paths
    if not (_LETTER.match(first, length) and _LETTER.match(second, length)):
        return length
    nearest = max(0, length - _LONGEST_WORD)
    begin = length
    while begin > nearest and _LETTER.match(first, begin - 1):
        begin -= 1
    return begin if begin > nearest or not nearest else length


def _common_suffix(before: str, after: str, begin: int) -> int:
    return _common_prefix(before[begin:][::-1], after[begin:][::-1])


def _middle(first: str, second: str) -> list[Piece]:
    """The two in pieces; as a whole each if they have too little in common to be read woven together."""
    first_words, second_words = _WORD.findall(first), _WORD.findall(second)
    matcher = SequenceMatcher(None, first_words, second_words, autojunk=False)
    if not first or not second or matcher.ratio() < _ALIKE:
        return [(GONE, _shown(first)), (NEW, _shown(second))]
    pieces: list[Piece] = []
    for action, low, high, new_low, new_high in matcher.get_opcodes():
        if action == "equal":
            pieces.append((SAME, "".join(first_words[low:high])))
        else:
            pieces.append((GONE, _shown("".join(first_words[low:high]))))
            pieces.append((NEW, _shown("".join(second_words[new_low:new_high]))))
    return pieces


def _shown(text: str) -> str:
    return show_unseen(text.replace("\r\n", "[U+000D]\n"), joiners=True).replace("\n", "↵\n")


def _shortened(pieces: list[Piece]) -> list[Piece]:
    """Long stretches cut: equal ones to what stands next to a change, others to their ends."""
    short: list[Piece] = []
    for place, (kind, text) in enumerate(pieces):
        head, tail = _CHANGE_CHARACTERS, _CONTEXT_CHARACTERS
        if kind == SAME and len(pieces) > 1:
            head = _CONTEXT_CHARACTERS if place > 0 else 0
            tail = _CONTEXT_CHARACTERS if place < len(pieces) - 1 else 0
        if len(text) <= head + tail:
            short.append((kind, text))
            continue
        parts = [(kind, text[:head]), (LEFT_OUT, "…"), (kind, text[len(text) - tail :])]
        short += [part for part in parts if part[1]]
    return short
