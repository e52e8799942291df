"""One seeded split into training and evaluation rows, disjoint by construction."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence


def split_rows(
    keys: Sequence[Hashable], seed: int, *, rows: int | None = None, share: float | None = None
) -> tuple[list[int], list[int]]:
    """Holds rows out, each stratum in the same proportion.

    Args:
        keys: the stratum of each row; all equal for a plain split.
        seed: the same seed and keys give the same split.
        rows: how many to hold out; or
        share: which share to hold out.

    Returns:
        Indices of the training rows and of the evaluation rows, each ascending. Together they are all rows.

    Raises:
        ValueError: nothing would be left to train on, or nothing to evaluate on.
    """
    total = len(keys)
    wanted = rows if rows is not None else round((share or 0.0) * total)
    if not 0 < wanted < total:
        raise ValueError(f"{wanted} of {total} rows can't be held out")
    strata: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        strata.setdefault(key, []).append(index)
    generator = random.Random(seed)
    # Systematic sampling over the shuffled strata laid end to end: each gets its proportion, rounded up or down.
    line: list[int] = []
    for members in strata.values():
        generator.shuffle(members)
        line += members
    start = generator.random()
    held = {line[min(int((start + position) * total / wanted), total - 1)] for position in range(wanted)}
    return [index for index in range(total) if index not in held], sorted(held)
