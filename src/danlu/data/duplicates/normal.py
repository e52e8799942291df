"""Text as it is compared: what differs in case, width, spacing or punctuation alone is the same text.

The steps: NFKC; casefold; every run of whitespace, control characters and punctuation (Unicode categories Z, Cc and P,
so 。，！ as well as .,!) becomes one space, none at the ends; invisible format characters (category Cf: zero-width
space, byte order mark, soft hyphen) go. Symbols (category S: + = < > $ and emoji) stay, for they carry meaning. A
text of punctuation alone ("???") keeps it: else all such texts would be equal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SEPARATOR, OTHER, CJK, DROPPED = range(4)
_SPACE = 0x20
_BMP = 0x10000
_NOT_ALONE = 0xFFFFFFFF  # in the fold table: what this becomes is not one character, or depends on its neighbours
_CJK_RANGES = (
    (0x1100, 0x11FF),  # hangul jamo
    (0x3005, 0x3007),  # 々〆〇
    (0x3040, 0x3098),  # kana, but for the marks that join the one before
    (0x309B, 0x30FF),
    (0x3130, 0x318F),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),  # hangul
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),  # Han, extensions B and on
)


@dataclass(frozen=True)
class NormalTexts:
    """Several texts as they are compared, one after the other.

    Attributes:
        codes: code points.
        is_cjk: whether the code point is a Chinese, Japanese or Korean character.
        text_of: index of the text that the code point is of.
        lengths: code points of each text; 0 for a text that is empty or whitespace alone.
    """

    codes: NDArray[np.uint32]
    is_cjk: NDArray[np.bool_]
    text_of: NDArray[np.intp]
    lengths: NDArray[np.intp]


def normal_texts(texts: Sequence[str]) -> NormalTexts:
    """The texts as they are compared. Many at once are faster than one by one, and give the same."""
    folded = [_folded(text) for text in texts]
    codes = np.concatenate(folded) if folded else np.empty(0, np.uint32)
    text_of = np.repeat(np.arange(len(texts)), [part.size for part in folded])
    classes = _classes(codes)
    if (classes == DROPPED).any():
        kept = classes != DROPPED
        codes, classes, text_of = codes[kept], classes[kept], text_of[kept]
    separators = classes == SEPARATOR
    for index in np.flatnonzero(np.bincount(text_of[~separators], minlength=len(texts)) == 0).tolist():
        separators[text_of == index] = not texts[index].strip()
    kept = _without_runs(separators, text_of)
    codes = np.where(separators, np.uint32(_SPACE), codes)[kept]
    text_of = text_of[kept]
    return NormalTexts(codes, (classes == CJK)[kept], text_of, np.bincount(text_of, minlength=len(texts)))


def normal_text(text: str) -> str:
    """The text as it is compared."""
    return normal_texts([text]).codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _without_runs(separators: NDArray[np.bool_], text_of: NDArray[np.intp]) -> NDArray[np.bool_]:
    """What is kept: of each run of separators within a text the first, and none at the text's ends."""
    starts = np.ones(separators.size + 1, bool)
    starts[1:-1] = text_of[1:] != text_of[:-1]
    after_separator = np.ones(separators.size, bool)
    after_separator[1:] = separators[:-1]
    after_separator |= starts[:-1]
    kept = ~separators | ~after_separator
    # A run at the end of a text has kept its first separator: it is followed by separators up to the end.
    last_kept = np.flatnonzero(kept)
    ends = np.ones(last_kept.size, bool)
    ends[:-1] = text_of[last_kept[1:]] != text_of[last_kept[:-1]]
    trailing = last_kept[ends]
    kept[trailing[separators[trailing]]] = False
    return kept


def _folded(text: str) -> NDArray[np.uint32]:
    """Code points after NFKC and casefold."""
    folds = _tables()[0].take(_codes(text), mode="clip")
    if folds.size and folds.max() == _NOT_ALONE:
        return _codes(unicodedata.normalize("NFKC", text).casefold())
    return folds


def _classes(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    classes = _tables()[1].take(codes, mode="clip")
    for position in np.flatnonzero(codes >= _BMP).tolist():
        classes[position] = _class_of(int(codes[position]))
    return classes


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """For each code point below 65536 (and one entry for all above): what it folds to, and its class.

    The tables are a short cut: normalising a Chinese text with full-width punctuation takes longer than all the rest.
    They hold for a text of characters that each become one character whatever stands beside them.
    """
    folds = np.full(_BMP + 1, _NOT_ALONE, np.uint32)
    classes = np.full(_BMP + 1, OTHER, np.uint8)
    for code in range(_BMP):
        classes[code] = _class_of(code)
        folded = unicodedata.normalize("NFKC", chr(code)).casefold()
        if len(folded) == 1 and not _may_join(chr(code)) and not _may_join(folded):
            folds[code] = ord(folded)
    return folds, classes


def _may_join(character: str) -> bool:
    """Whether NFKC may compose or reorder it with what stands before: marks, and vowels and ends of hangul."""
    return unicodedata.category(character)[0] == "M" or 0x1100 <= ord(character) <= 0x11FF


def _class_of(code: int) -> int:
    category = unicodedata.category(chr(code))
    if category == "Cf":
        return DROPPED
    if category[0] in "ZP" or category == "Cc":
        return SEPARATOR
    return CJK if any(first <= code <= last for first, last in _CJK_RANGES) else OTHER
