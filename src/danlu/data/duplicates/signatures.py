"""Short signatures of shingle sets: rows with an equal band are candidates for being nearly equal.

MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998): 64 samples of the set in 16 bands of 4.
Two sets of Jaccard similarity J agree in a sample with probability J, so in at least one whole band with
1 - (1 - J⁴)¹⁶: 0.9998 at 0.8, 0.988 at 0.7, 0.64 at 0.5.

The samples are drawn from rings (one permutation hashing: Li, Owen and Zhang 2012; densified by rotation: Shrivastava
and Li 2014), which costs a sort where 64 permutations would cost 64 passes. The hashes of a set stand on a ring of 2⁶⁴
places; a sample is the first hash at or after a fixed random place. A band takes one place on each of four rings, on
which the same hashes stand in independent orders. On one ring two sets with m shingles between them agree over a share
of the places that is Beta(J m, (1 - J) m) distributed instead of J exactly, so small sets lose a little: at J = 0.8 the
probability is 0.9994 for 50 shingles, 0.995 for 10; at 0.7 it is 0.982 and 0.956.

Four bits of each sample make a sketch (b-bit minwise hashing: Li and König 2010). Two sketches tell of most candidates
that they can't be nearly equal, without a look at the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.data.duplicates.shingles import Shingles, mixed, shingles_of_texts

NUM_BANDS = 16
NO_BAND = 0  # the hash of an empty set, which is like nothing

SKETCH_WORDS = 4
SKETCH_PARTS = 64

_NUM_RINGS = 4
_DEVIATIONS = 4.3
_NIBBLE_SHIFTS = np.arange(NUM_BANDS, dtype=np.uint64) * np.uint64(4)
_CONSTANTS = mixed(np.arange(_NUM_RINGS * (NUM_BANDS + 2), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
_PLACES = _CONSTANTS[: _NUM_RINGS * NUM_BANDS].reshape(_NUM_RINGS, NUM_BANDS)
_TURNS = _CONSTANTS[-2 * _NUM_RINGS : -_NUM_RINGS] | np.uint64(1)  # odd, so that multiplying is one-to-one
_TURNS[0] = 1  # the shingles come in that order
_WEIGHTS = _CONSTANTS[-_NUM_RINGS:] | np.uint64(1)


def band_hashes(shingles: Shingles) -> NDArray[np.uint64]:
    """The 16 band hashes of a sorted set of shingles; all `NO_BAND` for an empty set. Equal on every machine."""
    return signatures_of_sets([shingles])[0].reshape(NUM_BANDS)


def signatures(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
    """Band hashes [texts, 16], sketches [texts, 4] and numbers of shingles [texts], to be put into `BandFiles`."""
    return signatures_of_sets(shingles_of_texts(texts))


def signatures_of_sets(
    sets: Sequence[Shingles],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
    """As `signatures`, of sorted sets of shingles."""
    samples = np.zeros((len(sets), _NUM_RINGS, NUM_BANDS), np.uint64)
    for row, one in enumerate(sets):
        if one.size == 0:
            continue
        rings = one * _TURNS[1:, None]
        rings.sort(axis=1)
        for ring, places, sample in zip((one, *rings), _PLACES, samples[row], strict=True):
            ring.take(ring.searchsorted(places), mode="wrap", out=sample)
    hashes = mixed(np.einsum("rsb,s->rb", samples, _WEIGHTS))
    hashes[[one.size == 0 for one in sets]] = NO_BAND
    nibbles = (mixed(samples) >> np.uint64(60)) << _NIBBLE_SHIFTS
    return hashes, np.bitwise_or.reduce(nibbles, axis=2), np.array([one.size for one in sets], np.uint32)


def least_agreement(threshold: float, num_shingles: int) -> int:
    """How many of the 64 parts of two sketches are equal at least, but for one pair in a hundred thousand or so.

    Two sets at the threshold agree in a part with probability p = t + (1 - t) / 16. The variance has two terms: the
    drawing of 64 parts, and what a ring of that many shingles does (the Beta distribution above), four times averaged.

    Args:
        threshold: Jaccard similarity t.
        num_shingles: of the two sets together.
    """
    same = threshold + (1 - threshold) / 16
    ring = threshold * (1 - threshold) / (num_shingles + 1) * (15 / 16) ** 2 / _NUM_RINGS
    deviation = math.sqrt(SKETCH_PARTS * same * (1 - same) + SKETCH_PARTS**2 * ring)
    return math.floor(SKETCH_PARTS * same - _DEVIATIONS * deviation)


class BandFiles:
    """Signatures of the rows, on disk: a file per band, 16 x 8 bytes a row, sketches, 32 bytes, and sizes, 4 bytes.

    Chunks of rows may be written in any order and size; what is read is the same.
    """

    def __init__(self, folder: Path) -> None:
        """Files in a folder, which is made if it is missing; rows that are there already stay."""
        folder.mkdir(parents=True, exist_ok=True)
        self._bands = [folder / f"band-{band:02d}.u64" for band in range(NUM_BANDS)]
        self._sketches = folder / "sketches.u64"
        self._sizes = folder / "sizes.u32"

    @property
    def num_rows(self) -> int:
        """Rows up to the last one written."""
        return self._sizes.stat().st_size // 4 if self._sizes.exists() else 0

    def append(self, hashes: NDArray[np.uint64], sketches: NDArray[np.uint64], sizes: NDArray[np.uint32]) -> None:
        """Adds the signatures of the next rows; see `signatures`."""
        self.write(self.num_rows, hashes, sketches, sizes)

    def write(
        self,
        first_row: int,
        hashes: NDArray[np.uint64],
        sketches: NDArray[np.uint64],
        sizes: NDArray[np.uint32],
    ) -> None:
        """Writes the signatures of the rows from `first_row` on.

        Args:
            first_row: index of the first row.
            hashes: [rows, 16] as `signatures` gives them.
            sketches: [rows, 4], the same.
            sizes: [rows] number of shingles.
        """
        if hashes.shape != (len(sizes), NUM_BANDS):
            raise ValueError(f"hashes have shape {hashes.shape}, must be ({len(sizes)}, {NUM_BANDS})")
        for path, column in zip(self._bands, hashes.T, strict=True):
            _write_at(path, 8 * first_row, column.astype("<u8").tobytes())
        _write_at(self._sketches, 8 * SKETCH_WORDS * first_row, sketches.astype("<u8").tobytes())
        _write_at(self._sizes, 4 * first_row, sizes.astype("<u4").tobytes())

    def select(self, rows: NDArray[np.int64], folder: Path) -> BandFiles:
        """The signatures of some rows, in their order, in a folder of their own."""
        chosen = BandFiles(folder)
        if not self.num_rows:
            return chosen
        for path, copy in zip(self._bands, chosen._bands, strict=True):
            np.fromfile(path, "<u8")[rows].tofile(copy)
        self.sketches()[rows].tofile(chosen._sketches)
        self.sizes()[rows].tofile(chosen._sizes)
        return chosen

    def band(self, band: int) -> NDArray[np.uint64]:
        """One band's hash of each row."""
        return np.fromfile(self._bands[band], "<u8") if self.num_rows else np.empty(0, np.uint64)

    def sketches(self) -> NDArray[np.uint64]:
        """The sketch of each row, [rows, 4]."""
        words = np.fromfile(self._sketches, "<u8") if self.num_rows else np.empty(0, np.uint64)
        return words.reshape(-1, SKETCH_WORDS)

    def sizes(self) -> NDArray[np.uint32]:
        """Number of shingles of each row."""
        return np.fromfile(self._sizes, "<u4") if self.num_rows else np.empty(0, np.uint32)


def _write_at(path: Path, offset_bytes: int, content: bytes) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.seek(offset_bytes)
        file.write(content)
