"""Names of people, Chinese and in Latin letters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from danlu.data.privacy.names_en import find_english
from danlu.data.privacy.names_zh import find_chinese
from danlu.data.privacy.names_zh_words import DOTS

_DOTS = frozenset(DOTS)
_HAN = re.compile("[\u4e00-\u9fff]{2}")


def find_names(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each name; may overlap."""
    if _HAN.search(text):
        yield from find_chinese(text)
    yield from find_english(text)


def names_again(texts: Sequence[str], found: Sequence[list[tuple[int, int, str]]]) -> list[list[tuple[int, int, str]]]:
    """Where whole names found in one text of a row stand in others without the words that gave them away."""
    names = {
        text[start:end]
        for text, places in zip(texts, found, strict=True)
        for start, end, kind in places
        if kind == "name"
    }
    whole = sorted(
        (name for name in names if len(name) >= 3 and (" " in name or not name.isascii())),
        key=lambda name: (-len(name), name),
    )
    if not whole:
        return [[] for _ in texts]
    pattern = re.compile(
        "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" if name.isascii() else re.escape(name) for name in whole)
    )
    # 艾德琳 is not taken out of 艾德琳·拜伦.
    return [
        [(*match.span(), "name") for match in pattern.finditer(text) if not _is_beside_dot(text, *match.span())]
        for text in texts
    ]


def _is_beside_dot(text: str, start: int, end: int) -> bool:
    return text[end : end + 1] in _DOTS or text[max(0, start - 1) : start] in _DOTS
