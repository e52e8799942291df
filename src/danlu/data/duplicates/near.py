"""Rows that are nearly equal among a million, on disk: which to drop, and which belong together.

Candidates come from the bands of `signatures`; each is then compared exactly, so that no row is named that is not
within the threshold. A pair at the threshold may be missed as often as `signatures` says. Results depend on the rows
and their order alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from danlu.data.duplicates.buckets import CandidateLists
from danlu.data.duplicates.shingles import Shingles, jaccard
from danlu.data.duplicates.signatures import SKETCH_PARTS, SKETCH_WORDS, BandFiles, least_agreement

_CACHE_BYTES = 1 << 24
_SKETCH_BYTES = 8 * SKETCH_WORDS
_LOW_BITS = int.from_bytes(b"\x11" * _SKETCH_BYTES, "little")
_MANY_SHINGLES = 2048  # from here on the number of shingles hardly matters to a sketch
_ENTRY_BYTES = 300  # what an array in the cache takes besides its content


def find_near_duplicates(
    bands: BandFiles, num_rows: int, shingles_of: Callable[[int], Shingles], threshold: float
) -> NDArray[np.int64]:
    """The earlier row that each row is a near-duplicate of.

    Greedy in row order: a row is dropped when a kept earlier row among its candidates has at least the threshold's
    Jaccard similarity with it. Takes up to about 130 bytes a row where every row shares bands with others in small
    buckets, less than 50 where few do, and 16 MiB of cache.

    Args:
        bands: signatures of all rows.
        num_rows: number of rows.
        shingles_of: a row's shingles, read again from where the row lies; called for rows with candidates alone.
        threshold: Jaccard similarity from which on rows are nearly equal, above 0 up to 1.

    Returns:
        [num_rows] -1 for a kept row, else the index of a kept earlier row that is nearly equal to it.

    Raises:
        ValueError: the signatures are of another number of rows, or the threshold is out of bounds.
    """
    _check(bands, num_rows, threshold)
    kept_for = np.full(num_rows, -1, np.int64)
    lists = CandidateLists(bands)
    compared = _Comparison(bands, shingles_of, threshold)
    for line, row in enumerate(lists.rows):
        compared.begin(int(row))
        for candidate in lists.candidates(line):
            other = int(lists.rows[candidate])
            if compared.similarity(other) >= threshold:
                kept_for[row] = other
                break
        else:
            lists.enter(line)
    return kept_for


def near_groups(
    bands: BandFiles, num_rows: int, shingles_of: Callable[[int], Shingles], threshold: float
) -> NDArray[np.int64]:
    """Groups of rows that hang together by near-copies: a split that keeps groups whole keeps copies on one side.

    Two rows are in one group when a chain of candidate pairs within the threshold leads from one to the other. Rows
    that are in one group already are not compared again. Memory as for `find_near_duplicates`, and 4 bytes a row.

    Args:
        bands: signatures of all rows.
        num_rows: number of rows.
        shingles_of: a row's shingles; called for rows with candidates alone.
        threshold: Jaccard similarity from which on two rows belong together, above 0 up to 1.

    Returns:
        [num_rows] the smallest row index of the row's group: its own for a row that is like no other.

    Raises:
        ValueError: the signatures are of another number of rows, or the threshold is out of bounds.
    """
    _check(bands, num_rows, threshold)
    lists = CandidateLists(bands)
    compared = _Comparison(bands, shingles_of, threshold)
    groups = _Groups(len(lists.rows))
    for line, row in enumerate(lists.rows):
        compared.begin(int(row))
        group = line
        equal = False
        for candidate in lists.candidates(line):
            other_group = groups.first_of(candidate)
            if other_group == group:
                continue
            similarity = compared.similarity(int(lists.rows[candidate]))
            if similarity >= threshold:
                group = groups.join(group, other_group)
                equal = similarity == 1.0
                if equal:
                    break
        # An equal row is in all buckets of its twin and like the same rows, so the twin finds them for both.
        if not equal:
            lists.enter(line)
    labels = np.arange(num_rows, dtype=np.int64)
    labels[lists.rows] = lists.rows[groups.all_firsts()]
    return labels


def _check(bands: BandFiles, num_rows: int, threshold: float) -> None:
    if bands.num_rows != num_rows:
        raise ValueError(f"there are signatures of {bands.num_rows} rows, must be {num_rows}")
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}, must be above 0 and at most 1")


class _Comparison:
    """Exact similarity of one row with others; reads shingles only where sizes and sketches leave it open.

    Rows that were compared with lately are remembered, as they tend to come again, up to 16 MiB.
    """

    def __init__(self, bands: BandFiles, shingles_of: Callable[[int], Shingles], threshold: float) -> None:
        self._sizes = bands.sizes().data
        self._sketches = bands.sketches().reshape(-1).view(np.uint8).data
        self._least = [least_agreement(threshold, size) for size in range(_MANY_SHINGLES + 1)]
        self._shingles_of = shingles_of
        self._threshold = threshold
        self._row = -1
        self._shingles: Shingles | None = None
        self._others: OrderedDict[int, Shingles] = OrderedDict()
        self._free_bytes = _CACHE_BYTES

    def begin(self, row: int) -> None:
        """The row that is compared next."""
        self._row = row
        self._sketch = self._sketch_of(row)
        self._shingles = None

    def similarity(self, other: int) -> float:
        """Jaccard similarity with another row; something lower where it is known to be below the threshold."""
        small, large = sorted((self._sizes[self._row], self._sizes[other]))
        if small / large < self._threshold:
            return float(small / large)
        apart = self._sketch ^ self._sketch_of(other)
        apart |= apart >> 2
        agreement = SKETCH_PARTS - ((apart | apart >> 1) & _LOW_BITS).bit_count()
        if agreement < self._least[min(large, _MANY_SHINGLES)]:
            return 0.0
        if self._shingles is None:
            self._shingles = self._shingles_of(self._row)
        return jaccard(self._shingles, self._remembered(other))

    def _sketch_of(self, row: int) -> int:
        return int.from_bytes(self._sketches[row * _SKETCH_BYTES : (row + 1) * _SKETCH_BYTES], "little")

    def _remembered(self, other: int) -> Shingles:
        found = self._others.get(other)
        if found is not None:
            self._others.move_to_end(other)
            return found
        found = self._shingles_of(other)
        self._others[other] = found
        self._free_bytes -= found.nbytes + _ENTRY_BYTES
        while self._free_bytes < 0 and len(self._others) > 1:
            self._free_bytes += self._others.popitem(last=False)[1].nbytes + _ENTRY_BYTES
        return found


class _Groups:
    """Union-find whose representative is the first member."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int32)
        self._view = self._parent.data

    def first_of(self, member: int) -> int:
        parent = self._view
        while parent[member] != member:
            parent[member] = parent[parent[member]]  # halves the path
            member = parent[member]
        return member

    def join(self, a: int, b: int) -> int:
        """Joins the groups of two first members; the first member of both."""
        first, second = min(a, b), max(a, b)
        self._view[second] = first
        return first

    def all_firsts(self) -> NDArray[np.int32]:
        for member in range(len(self._view)):  # a parent is smaller than its child, so is final when it is met
            self._view[member] = self._view[self._view[member]]
        return self._parent
