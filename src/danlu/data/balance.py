"""Classes and sources brought to even or to wanted numbers, by repeating rows or leaving rows out."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def balance_rows(keys: Sequence[Hashable], method: str, rows_per_class: int | None, seed: int) -> list[int]:
    """Row numbers, some repeated or left out, so that each class has the same number.

    Args:
        keys: the class of each row.
        method: "oversample" repeats rows of classes that have too few, "undersample" leaves out rows of those that
            have too many; neither does the other's work.
        rows_per_class: the number; None: the largest class's (oversample) or the smallest's (undersample).
        seed: decides which.

    Returns:
        Row numbers: those kept in their order, then the repeated ones. All rows are taken before one comes twice.
    """
    classes = _members(keys)
    if not classes:
        return []
    sizes = [len(members) for members in classes.values()]
    target = rows_per_class or (max(sizes) if method == "oversample" else min(sizes))
    bound = max if method == "oversample" else min
    return resample(keys, {key: bound(len(members), target) for key, members in classes.items()}, seed)


def mix_rows(keys: Sequence[Hashable], shares: Mapping[Any, float], total_rows: int | None, seed: int) -> list[int]:
    """Row numbers such that each source has its share.

    Args:
        keys: the source of each row.
        shares: wanted share of some or all sources; those without one divide the rest by their size.
        total_rows: rows after mixing; None: the most that needs no row twice.
        seed: decides which rows.

    Raises:
        ValueError: the shares can't be had.
    """
    classes = _members(keys)
    empty = [name for name in shares if name not in classes]
    if empty:
        raise ValueError(f"no rows are left of {', '.join(map(str, empty))}")
    named = sum(shares.values())
    others = {key: len(members) for key, members in classes.items() if key not in shares}
    if named > 1 + 1e-9 or (others and named > 1 - 1e-9) or (not others and named < 1 - 1e-9):
        wanted = "less than 1, as other sources have none" if others else "1"
        raise ValueError(f"the shares sum to {named:g}; they must sum to {wanted}")
    rest = sum(others.values())
    wanted_shares = {key: shares[key] if key in shares else (1 - named) * others[key] / rest for key in classes}
    total = total_rows or int(min(len(classes[key]) / share for key, share in wanted_shares.items()) + 1e-9)
    return resample(keys, _whole_numbers(wanted_shares, total), seed)


def resample(keys: Sequence[Hashable], targets: Mapping[Hashable, int], seed: int) -> list[int]:
    """Row numbers with `targets[key]` rows of each class: a random choice, or all and some again."""
    generator = random.Random(seed)
    kept: list[int] = []
    repeated: list[int] = []
    for key, members in _members(keys).items():
        target = targets[key]
        if target < len(members):
            kept += generator.sample(members, target)
            continue
        kept += members
        missing = target - len(members)
        for _ in range(missing // len(members)):
            repeated += members
        repeated += generator.sample(members, missing % len(members))
    return sorted(kept) + sorted(repeated)


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    classes: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        classes.setdefault(key, []).append(index)
    return classes


def _whole_numbers(shares: Mapping[Hashable, float], total: int) -> dict[Hashable, int]:
    """Whole numbers in proportion to the shares that sum to the total (largest remainders first)."""
    exact = {key: share * total for key, share in shares.items()}
    whole = {key: int(np.floor(value + 1e-9)) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: whole[key] - exact[key])
    for key in by_remainder[: total - sum(whole.values())]:
        whole[key] += 1
    return whole
