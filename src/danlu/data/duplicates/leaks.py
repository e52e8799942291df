"""Near-copies of evaluation rows, found without loss: every evaluation row is searched, by an inverted index.

A row with n shingles and Jaccard similarity t or more to an evaluation row shares at least t n of them with it, for
J = shared / all and there are at least n in all. So most rows are done with after looking their shingles up: fewer
than t n occur in any evaluation row. For the others the shared shingles are counted, rare ones first (prefix
filtering: Chaudhuri, Ganti and Kaushik 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from danlu.data.duplicates.shingles import Shingles, mixed


class LeakIndex:
    """The evaluation rows, to be asked for near-copies of a row.

    Holds 12 bytes for each different shingle, and 4 for each row in a list of rows that share shingles; shingles that
    occur in the same rows (a text that all rows have) share one list. Can be pickled.
    """

    def __init__(self, evaluation: Iterable[Shingles], threshold: float) -> None:
        """Index of the rows.

        Args:
            evaluation: shingles of each evaluation row, in order.
            threshold: Jaccard similarity from which on a row is a near-copy, above 0 up to 1.

        Raises:
            ValueError: the threshold is out of bounds.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}, must be above 0 and at most 1")
        self._threshold = threshold
        rows = list(evaluation)
        self._sizes = np.array([row.size for row in rows], np.int64)
        hashes = np.concatenate([np.empty(0, np.uint64), *rows])
        owners = np.repeat(np.arange(len(rows), dtype=np.int32), self._sizes)
        del rows
        order = np.argsort(hashes, kind="stable")  # stable: a shingle's owners ascend
        hashes, owners = hashes[order], owners[order]
        del order
        starts = np.flatnonzero(np.concatenate((np.ones(min(1, hashes.size), bool), hashes[1:] != hashes[:-1])))
        self._known = hashes[starts]
        self._list_of, self._list_starts, self._owners = _lists(owners, starts)

    def nearest(self, shingles: Shingles) -> tuple[int, float] | None:
        """The evaluation row with the highest Jaccard similarity, the first of equals; None if none has enough."""
        if not shingles.size or not self._known.size:
            return None
        places = self._known.searchsorted(shingles)
        found = places[self._known.take(places, mode="clip") == shingles]
        # A hair below the exact product, so that rounding can't lose a match.
        needed = max(1, math.ceil(self._threshold * shingles.size * (1 - 1e-12)))
        if found.size < needed:
            return None
        shared = self._num_shared(found, needed)
        if shared is None:
            return None
        similarity = shared / (self._sizes + shingles.size - shared)
        best = int(similarity.argmax())
        return (best, float(similarity[best])) if similarity[best] >= self._threshold else None

    def _num_shared(self, found: NDArray[np.intp], needed: int) -> NDArray[np.int64] | None:
        """How many of some known shingles each evaluation row has; None if that is below `needed` for all.

        The rarest are counted first, with enough of them that a match can't do without: a row that has `needed` of
        all lacks at most the others, so has at least `needed` less the number left among those counted.
        """
        lists, times = np.unique(self._list_of[found], return_counts=True)
        order = np.argsort(self._list_starts[lists + 1] - self._list_starts[lists], kind="stable")
        lists, times = lists[order], times[order]
        counted = np.cumsum(times)
        cut = int(counted.searchsorted(found.size - needed // 2)) + 1
        shared = self._count(lists[:cut], times[:cut])
        if shared.max() < needed - (found.size - int(counted[cut - 1])):
            return None
        return shared + self._count(lists[cut:], times[cut:])

    def _count(self, lists: NDArray[np.int32], times: NDArray[np.intp]) -> NDArray[np.int64]:
        """How often each evaluation row is in some lists, each list taken so many times."""
        starts = self._list_starts[lists]
        lengths = self._list_starts[lists + 1] - starts
        before = np.cumsum(lengths) - lengths
        places = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
        return np.bincount(self._owners[places], np.repeat(times, lengths), self._sizes.size).astype(np.int64)


def _lists(
    owners: NDArray[np.int32], starts: NDArray[np.intp]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Lists of owners, each once.

    Args:
        owners: rows that hold each shingle, shingle by shingle.
        starts: where each shingle's owners begin.

    Returns:
        The list of each shingle; where each list begins, and the end of the last; the rows in the lists.
    """
    if not owners.size:
        return np.empty(0, np.int32), np.zeros(1, np.int64), owners
    # Equal sums of random 64-bit numbers, one for each row, mean equal lists.
    sums = np.add.reduceat(mixed(owners.astype(np.uint64)), starts)
    _, examples, list_of = np.unique(sums, return_index=True, return_inverse=True)
    lengths = np.diff(starts, append=owners.size)[examples]
    list_starts = np.concatenate(([0], np.cumsum(lengths)))
    places = np.repeat(starts[examples] - list_starts[:-1], lengths) + np.arange(list_starts[-1])
    return list_of.astype(np.int32), list_starts, owners[places]
