"""One seeded split into training and evaluation rows: disjoint by construction, groups kept together."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def split_rows(
    keys: Sequence[Hashable],
    seed: int,
    *,
    rows: int | None = None,
    share: float | None = None,
    groups: Sequence[Hashable] | Int64 | None = None,
) -> tuple[Int64, Int64]:
    """Holds rows out, each stratum in the same proportion.

    Args:
        keys: the stratum of each of N rows; all equal for a plain split.
        seed: the same arguments give the same split.
        rows: how many to hold out; or
        share: which share to hold out.
        groups: rows with the same value stay on one side (near-copies, one customer); None: each by itself. A group
            belongs to the stratum of its first row.

    Returns:
        Indices of the training rows and of the evaluation rows, each ascending. Together they are all rows. With
        groups of more than one row the number held out may differ from what was asked, by less than such a group.

    Raises:
        ValueError: nothing would be left to train on, or nothing to evaluate on.
    """
    total = len(keys)
    wanted = rows if rows is not None else round((share or 0.0) * total)
    if not 0 < wanted < total:
        raise ValueError(f"{wanted} of {total} rows can't be held out")
    unit_of_row = _codes(groups) if groups is not None else np.arange(total)
    sizes = np.bincount(unit_of_row)
    _, first_rows = np.unique(unit_of_row, return_index=True)
    stratum_of_unit = _codes(keys)[first_rows]
    line = np.argsort(stratum_of_unit, kind="stable")
    generator = random.Random(seed)
    # Systematic sampling over the shuffled strata laid end to end: each gets its proportion, rounded up or down.
    for stratum in np.split(line, np.cumsum(np.bincount(stratum_of_unit))[:-1]):
        generator.shuffle(stratum)  # type: ignore[arg-type]  # an array can be written to as a list can
    chosen = np.zeros(len(sizes), bool)
    chosen[_sample(line, sizes, wanted, generator.random())] = True
    held = chosen[unit_of_row]
    if held.all() or not held.any():
        raise ValueError(f"{wanted} of {total} rows can't be held out: they form {len(sizes)} group(s)")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _sample(line: Int64, sizes: Int64, wanted: int, start: float) -> list[int]:
    """The units in which the sampling points fall, each taken whole, or left out whole and made up for by the next."""
    total = int(sizes.sum())
    chosen: list[int] = []
    num_held = end = upcoming = 0
    for unit in line:
        size = int(sizes[unit])
        end += size
        while upcoming < wanted and min(int((start + upcoming) * total / wanted), total - 1) < end:
            upcoming += 1
        due = upcoming - num_held
        if due > 0 and 2 * due >= size:
            chosen.append(int(unit))
            num_held += size
    return chosen


def _codes(values: Sequence[Hashable] | Int64) -> Int64:
    """Whole numbers for values, counted in the order in which they first come."""
    known: dict[Hashable, int] = {}
    return np.fromiter((known.setdefault(value, len(known)) for value in values), np.int64, len(values))
