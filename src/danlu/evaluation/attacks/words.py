"""Which parts of a question may be spoilt, and which must stay because its meaning hangs on them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from random import Random

from danlu.data.augmentation.locks import CHINESE_NEGATIONS, NEGATIONS

# Code, template fields, placeholders and tags, links, e-mail addresses, and whatever has a digit in it: amounts, dates,
# order codes.
_KEPT = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{1,300}`|\{\{?[^{}\n]{1,80}\}?\}|<[^<>\s]{1,80}>|https?://[!-~]+"
    r"|[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+|(?<![!-~])[!-~]*\d[!-~]*",
    re.DOTALL | re.ASCII,
)
_ENGLISH = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_HAN = re.compile("[\u4e00-\u9fff]+")
CHINESE_KEPT = CHINESE_NEGATIONS | frozenset("零〇一二三四五六七八九十两百千万亿半几第")
"""Chinese characters that stay: numerals and negations."""

Span = tuple[int, int]


def parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it may change; joined they are the text."""
    end = 0
    for kept in _KEPT.finditer(text):
        yield text[end : kept.start()], True
        yield kept.group(), False
        end = kept.end()
    yield text[end:], True


def change_parts(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` done to each piece that may change."""
    return "".join(change(part) if free else part for part, free in parts(text))


def english_words(text: str) -> list[Span]:
    """Places of words that may be misspelt: of four letters or more if there are any, else of two; no negations."""
    found = [span for span in _spans(text, _ENGLISH) if not _negates(text[slice(*span)])]
    return [span for span in found if span[1] - span[0] >= 4] or [span for span in found if span[1] - span[0] >= 2]


def chinese_characters(text: str) -> list[int]:
    """Places of Chinese characters that may change: no numerals, no negations."""
    return [
        place for start, end in _spans(text, _HAN) for place in range(start, end) if text[place] not in CHINESE_KEPT
    ]


def some(places: list[Span] | list[int], share: float, random: Random) -> list[int]:
    """Numbers of a share of the places, drawn without order; one at least if there is any."""
    return random.sample(range(len(places)), min(len(places), max(1, round(share * len(places)))))


def _negates(word: str) -> bool:
    lower = word.lower().replace("’", "'")
    return lower in NEGATIONS or lower.endswith("n't")


def _spans(text: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    starts = itertools.accumulate((len(part) for part, _ in parts(text)), initial=0)
    for start, (part, free) in zip(starts, parts(text), strict=False):
        if free:
            yield from ((start + found.start(), start + found.end()) for found in pattern.finditer(part))
