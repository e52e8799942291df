"""Shingles: the set of short pieces that a text is compared by (Broder 1997).

At each position a shingle of 5 characters begins, or of 3 where the position holds a Chinese, Japanese or Korean
character: a Chinese character says about as much as half an English word, and no word segmentation is needed. A text
shorter than its first shingle is one shingle. An empty text has none, and is like no other text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from danlu.data.duplicates.normal import NormalTexts, normal_texts
from danlu.data.records import Record

Shingles = NDArray[np.uint64]

_WIDTH = 5
_CJK_WIDTH = 3
_BASE_BITS = np.uint64(21)  # of a code point
_PAIR_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_NO_PAIR = np.uint64(1 << 42)  # stands for the last two characters of a shingle that has three
_BATCH_CHARACTERS = 1 << 15  # texts that are worked on together: their arrays fit a core's cache

_ROLES = {
    "row": ("user", "assistant", "tool", "text", "prompt", "completion"),
    "prompt": ("user", "text", "prompt"),
}


def text_of_record(record: Record, compare: str) -> str:
    """The text that a row is compared by, turns joined by line breaks.

    Args:
        record: the row.
        compare: `row`: all its texts (contents, reasoning, tool arguments, the rejected answer) but the system turn,
            which all rows tend to share. `prompt`: its user turns, or raw prompt, or plain text.

    Raises:
        ValueError: `compare` is neither.
    """
    if compare not in _ROLES:
        raise ValueError(f"compare is {compare!r}, must be one of {', '.join(_ROLES)}")
    return "\n".join(record.texts(*_ROLES[compare]))


def shingles(text: str) -> Shingles:
    """The text's shingles as 64-bit hashes, sorted, each once; empty for an empty text.

    Two given shingles that differ have the same hash with a likelihood of about 2⁻⁶³. Equal on every machine.
    """
    return _batch_shingles([text])[0]


def shingles_of_texts(texts: Sequence[str]) -> list[Shingles]:
    """`shingles` of each text; several times faster than one by one."""
    found: list[Shingles] = []
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            found += _batch_shingles(batch)
            batch, characters = [], 0
    return found + (_batch_shingles(batch) if batch else [])


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared shingles over all shingles of the two, exactly; 0.0 where one is empty."""
    if not a.size or not b.size:
        return 0.0
    both = np.concatenate((a, b))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (both.size - shared)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one map of 64-bit values that looks random: the output function of SplitMix64.

    Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _batch_shingles(texts: Sequence[str]) -> list[Shingles]:
    normal = normal_texts(texts)
    ends = np.cumsum(normal.lengths)
    left = np.repeat(ends, normal.lengths) - np.arange(normal.codes.size)  # characters up to the text's end
    complete = left >= np.where(normal.is_cjk, _CJK_WIDTH, _WIDTH)
    hashes = _rolling(normal)[complete]
    text_of = normal.text_of[complete]
    counts = np.bincount(text_of, minlength=len(texts))
    stops = np.cumsum(counts).tolist()
    starts = [0, *stops[:-1]]
    for start, stop in zip(starts, stops, strict=True):
        hashes[start:stop].sort()
    again = (hashes[1:] == hashes[:-1]) & (text_of[1:] == text_of[:-1])
    if again.any():
        once = np.concatenate(([True], ~again))
        hashes = hashes[once]
        counts = np.bincount(text_of[once], minlength=len(texts))
        stops = np.cumsum(counts).tolist()
        starts = [0, *stops[:-1]]
    found = [hashes[start:stop] for start, stop in zip(starts, stops, strict=True)]
    for index in np.flatnonzero((counts == 0) & (normal.lengths > 0)).tolist():
        found[index] = _whole(normal.codes[ends[index] - normal.lengths[index] : ends[index]])
    return found


def _rolling(normal: NormalTexts) -> NDArray[np.uint64]:
    """At each position the hash of the shingle that begins there, as if all the texts were one.

    Three code points fill 63 bits exactly; the other two are added times a large odd number (a polynomial modulo 2⁶⁴).
    """
    padded = np.zeros(normal.codes.size + _WIDTH - 1, np.uint64)
    padded[: normal.codes.size] = normal.codes
    pairs = (padded[:-1] << _BASE_BITS) | padded[1:]
    size = normal.codes.size
    first_three = (pairs[:size] << _BASE_BITS) | padded[2 : size + 2]
    last_two: NDArray[np.uint64] = np.where(normal.is_cjk, _NO_PAIR, pairs[3 : size + 3])
    return mixed(first_three + last_two * _PAIR_FACTOR)


def _whole(codes: NDArray[np.uint32]) -> Shingles:
    """The one shingle of a text that is shorter than a shingle."""
    alone = NormalTexts(codes, np.zeros(codes.size, bool), np.zeros(codes.size, np.intp), np.array([codes.size]))
    return _rolling(alone)[:1]
