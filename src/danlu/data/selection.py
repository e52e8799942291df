"""Which rows train and which judge: the split, leaks, shares of sources, balance of classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from danlu.data.duplicates.leaks import LeakIndex
from danlu.data.duplicates.near import near_groups
from danlu.data.duplicates.shingles import Shingles, shingles, text_of_record
from danlu.data.item import Drop, Item
from danlu.data.ledger import Ledger
from danlu.data.passes import CHUNK_BYTES, CHUNK_ROWS, Rows, numbered
from danlu.data.split import split_rows
from danlu.data.workers import Workers
from danlu.errors import DataError, Fault

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """What is held out.

    Attributes:
        rows: a number of rows; or
        share: a share of them.
        stratify_by: field whose values are held out in proportion, or None.
        group_by: field whose values stay on one side, or None.
    """

    rows: int | None
    share: float | None
    stratify_by: str | None = None
    group_by: str | None = None


KINDS = {"row": ("row",), "prompt": ("prompt",), "either": ("row", "prompt")}


def require_field(rows: Rows, name: str, key: str) -> None:
    """Stops if a row lacks a field.

    Raises:
        DataError: with the first such row.
    """
    without = [row for row, value in enumerate(rows.fields[name]) if value < 0]
    if without:
        raise DataError(
            Fault(
                f"{len(without)} rows have no field `{name}`",
                rows.item(without[0]).where,
                "a field that every row has",
                f"change {key}, or leave it out",
            )
        )


def hold_out(rows: Rows, split: Split, seed: int, threshold: float) -> tuple[Int64, Int64]:
    """Row numbers that train and row numbers that are held out; near-copies stay on one side.

    Args:
        rows: all rows, with marks of what is compared.
        split: what is wanted.
        seed: of the split.
        threshold: Jaccard similarity of near-copies.

    Raises:
        DataError: a field is missing, or nothing would be left on one side.
    """
    for name, key in ((split.stratify_by, "stratify_by"), (split.group_by, "group_by")):
        if name:
            require_field(rows, name, f"data.evaluation.{key}")
    labels = [np.asarray(rows.fields[split.group_by])] if split.group_by else []
    for kind, bands in rows.bands.items():
        labels.append(near_groups(bands, len(rows), partial(_shingles, rows, kind), threshold))
    keys: Sequence[int] = rows.fields[split.stratify_by] if split.stratify_by else [0] * len(rows)
    try:
        return split_rows(keys, seed, rows=split.rows, share=split.share, groups=join_groups(labels, len(rows)))
    except ValueError as error:
        raise DataError(
            Fault(
                str(error),
                "data.evaluation",
                f"1 to {len(rows) - 1} rows",
                "change data.evaluation; near-copies (data.leaks) stay together",
            )
        ) from error


def join_groups(labels: Sequence[Int64], total: int) -> Int64:
    """One label for each of N rows: rows that share a label in any of the lists get the same (union-find)."""
    parent = np.arange(total)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for label in labels:
        _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
        leader = first[inverse]
        for row in np.flatnonzero(leader != np.arange(total)).tolist():
            mine, other = root(row), root(int(leader[row]))
            parent[max(mine, other)] = min(mine, other)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return parent


@dataclass(frozen=True)
class LeakStage:
    """Finds rows that are near-copies of evaluation rows; a chunk is places and items as bytes.

    Attributes:
        index: of the evaluation rows, by what is compared.
    """

    index: dict[str, LeakIndex]

    def __call__(self, chunk: Sequence[tuple[int, bytes]]) -> list[tuple[int, int, float]]:
        """Place of the row, place of the evaluation row, and their similarity."""
        found = []
        for place, data in chunk:
            record = Item.from_bytes(data).record
            hits = [index.nearest(shingles(text_of_record(record, kind))) for kind, index in self.index.items()]
            best = max((hit for hit in hits if hit is not None), key=lambda hit: hit[1], default=None)
            if best is not None:
                found.append((place, *best))
        return found


def leaked(where: str, copy_of: str, similarity: float) -> Drop:
    """The drop of a training row for an evaluation row that it is a near-copy of."""
    return Drop(where, "leaks", f"near-copy of an evaluation row: similarity {similarity:.2f}", kept=copy_of)


class LeakCheck:
    """Keeps near-copies of evaluation rows out of training.

    Args:
        held: where evaluation rows are.
        numbers: which of them judge.
        compare: row, prompt or either.
        threshold: Jaccard similarity from which on.
    """

    def __init__(self, held: Rows, numbers: Int64, compare: str, threshold: float) -> None:
        self._held, self._numbers = held, numbers
        self._stage = LeakStage(
            {
                kind: LeakIndex((_shingles(held, kind, int(row)) for row in numbers), threshold)
                for kind in KINDS[compare]
            }
        )

    def drop(self, rows: Rows, numbers: Int64, workers: Workers, ledger: Ledger) -> Int64:
        """The numbers without those of near-copies, each of which is written down as dropped."""
        if not len(self._numbers):
            return numbers
        step = ledger.step("leaks")
        step.rows_in += len(numbers)
        copies: list[int] = []
        chunks = numbered(rows.spool.chunks(map(int, numbers), CHUNK_ROWS, CHUNK_BYTES))
        for place, copy_of, similarity in itertools.chain.from_iterable(workers.map(self._stage, chunks)):
            kept = self._held.item(int(self._numbers[copy_of])).where
            ledger.drop(leaked(rows.item(int(numbers[place])).where, kept, similarity))
            step.dropped += 1
            copies.append(place)
        return np.delete(numbers, copies)


def apply_order(rows: Rows, numbers: Int64, chosen: Sequence[int], name: str, ledger: Ledger) -> Int64:
    """Rows repeated or left out by choice, each written down.

    Args:
        rows: where rows are.
        numbers: which of them train, in order.
        chosen: places in `numbers`, some twice or not at all.
        name: of the step, and of the recipe's section.
        ledger: where it is written.
    """
    step = ledger.step(name)
    step.rows_in += len(numbers)
    counts = np.bincount(np.asarray(chosen, np.int64), minlength=len(numbers))
    for place in np.flatnonzero(counts != 1).tolist():
        where = rows.item(int(numbers[place])).where
        if not counts[place]:
            step.dropped += 1
            ledger.drop(Drop(where, name, f"left out by data.{name}"), unasked=False)
        for _ in range(counts[place] - 1):
            step.changed += 1
            ledger.add(name, where, where)
    return numbers[chosen]


def _shingles(rows: Rows, compare: str, row: int) -> Shingles:
    return shingles(text_of_record(rows.item(row).record, compare))
