"""Buckets of rows that share a band hash, in a few bytes a row, and the walk from a row to its candidates.

A row that shares no band with another takes one byte. The others have a line of 16 bucket numbers (int32). A bucket's
rows form a linked list that the walk builds as it goes; a row's line holds the bucket numbers before the row is
entered and the links to the rows entered before it afterwards, so that lists cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from danlu.data.duplicates.signatures import NO_BAND, NUM_BANDS, BandFiles

# A row meets at most this many of a bucket's latest entries, and so many different rows in all.
_MOST_PER_BUCKET = 50
_MOST_PER_ROW = 64
_NONE = -1


class CandidateLists:
    """Earlier rows that a row shares a band with.

    Rows are asked for and entered in order: `candidates(line)`, then perhaps `enter(line)`. What is walked is bounded:
    the smallest buckets first (shared by few, so telling), in each the 50 rows entered last, 64 different rows in all.
    So a row that shares bands with more than 50 entered rows may miss one that is like it.

    Attributes:
        rows: [lines] the rows that share a band with some other row, ascending; a row's line is its place here.
    """

    def __init__(self, bands: BandFiles) -> None:
        self.rows, self._lines, magnitudes = _buckets(bands)
        self._links = self._lines.reshape(-1).data
        self._newest = np.full(magnitudes.size, _NONE, np.int32).data
        self._magnitudes = magnitudes.data

    def candidates(self, line: int) -> Iterator[int]:
        """Lines of entered rows that share a band with this one, each once."""
        links = self._links
        seen: set[int] = set()
        for _, band, entry in sorted(self._entered_buckets(line)):
            for _ in range(_MOST_PER_BUCKET):
                if entry not in seen:
                    seen.add(entry)
                    yield entry
                    if len(seen) == _MOST_PER_ROW:
                        return
                entry = links[entry * NUM_BANDS + band]
                if entry == _NONE:
                    break

    def _entered_buckets(self, line: int) -> list[tuple[int, int, int]]:
        """Of the row's buckets that hold entered rows: size (as a power of two), band, newest entry."""
        newest, magnitudes = self._newest, self._magnitudes
        return [
            (magnitudes[bucket], band, newest[bucket])
            for band, bucket in enumerate(self._lines[line].tolist())
            if bucket != _NONE and newest[bucket] != _NONE
        ]

    def enter(self, line: int) -> None:
        """Makes the row a candidate for later ones. Its own candidates can't be asked for any more."""
        links, newest = self._links, self._newest
        for place in range(line * NUM_BANDS, (line + 1) * NUM_BANDS):
            bucket = links[place]
            if bucket != _NONE:
                links[place] = newest[bucket]
                newest[bucket] = line


def _buckets(bands: BandFiles) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """Rows that share a band; their buckets [rows, 16] or -1; each bucket's size as a power of two.

    Bands are read twice, for sorting again costs less than keeping what was sorted.
    """
    shares = np.zeros(bands.num_rows, bool)
    for band in range(NUM_BANDS):
        shares[_sharing(bands.band(band))[0]] = True
    rows = np.flatnonzero(shares).astype(np.int32)
    line_of = np.cumsum(shares, dtype=np.int32) - np.int32(1)
    lines = np.full((rows.size, NUM_BANDS), _NONE, np.int32)
    magnitudes = []
    num_buckets = 0
    for band in range(NUM_BANDS):
        members, bucket_of, sizes = _sharing(bands.band(band))
        bucket_of += np.int32(num_buckets)
        lines[line_of[members], band] = bucket_of
        magnitudes.append(np.frexp(sizes)[1].astype(np.uint8))
        num_buckets += sizes.size
    return rows, lines, np.concatenate(magnitudes)


def _sharing(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Rows whose hash some other row has too; the bucket of each, from 0; the size of each bucket."""
    order = np.argsort(hashes).astype(np.int32)
    hashes = hashes[order]
    same = np.zeros(hashes.size + 1, bool)
    same[1:-1] = (hashes[1:] == hashes[:-1]) & (hashes[1:] != np.uint64(NO_BAND))
    del hashes
    shared = same[1:] | same[:-1]
    first = ~same[:-1][shared]
    bucket_of = np.cumsum(first, dtype=np.int32) - np.int32(1)
    return order[shared], bucket_of, np.bincount(bucket_of).astype(np.int32)
