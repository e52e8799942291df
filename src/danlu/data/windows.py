"""A run of rows as read, worked on and shuffled: what a stream of rows consists of."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data.duplicates.leaks import LeakIndex
from danlu.data.duplicates.shingles import shingles, text_of_record
from danlu.data.item import Drop
from danlu.data.ledger import Step
from danlu.data.passes import CHUNK_ROWS, Int64, Rows
from danlu.data.records import Record
from danlu.data.selection import KINDS, LeakStage, leaked
from danlu.data.sources import Row, Source, read_rows
from danlu.data.stages import RowStage
from danlu.data.template import Document
from danlu.errors import DataError, Fault

_HELD = "evaluation.records.jsonl"
MAX_DOCUMENTS = 1 << 24


class Leaks:
    """Finds near-copies of evaluation rows, in a worker.

    Args:
        wheres: the places of the evaluation rows.
        records: the rows.
        compare: row, prompt or either.
        threshold: Jaccard similarity from which on.
    """

    def __init__(self, wheres: Sequence[str], records: Sequence[Record], compare: str, threshold: float) -> None:
        self._wheres = wheres
        self._stage = LeakStage(
            {
                kind: LeakIndex((shingles(text_of_record(record, kind)) for record in records), threshold)
                for kind in KINDS[compare]
            }
        )

    def find(self, items: Sequence[bytes]) -> tuple[Step, dict[int, Drop]]:
        """The step's counts, and by place the drop of each item that is a near-copy."""
        begun = time.process_time()
        drops = {}
        for place, copy_of, similarity in self._stage(list(enumerate(items))):
            drops[place] = leaked(json.loads(items[place])[1], self._wheres[copy_of], similarity)
        return Step("leaks", len(items), 0, len(drops), time.process_time() - begun), drops


def write_held(folder: Path, rows: Rows, numbers: Int64) -> None:
    """Writes evaluation rows down whole, for the leak check of a stream."""
    with (folder / _HELD).open("w", encoding="utf-8") as stream:
        for number in numbers.tolist():
            item = rows.item(number)
            stream.write(json.dumps([item.where, item.record.to_json()], ensure_ascii=False) + "\n")


def read_leaks(folder: Path, compare: str, threshold: float) -> Leaks | None:
    """The leak check against what `write_held` wrote; None if that is nothing."""
    lines = [json.loads(line) for line in (folder / _HELD).read_text(encoding="utf-8").split("\n") if line]
    records = [Record.from_json(record) for _, record in lines]
    return Leaks([where for where, _ in lines], records, compare, threshold) if lines else None


@dataclass(slots=True)
class Chunk:
    """Some rows of one file and one window.

    Attributes:
        epoch, window: whose they are.
        source: number of the entry in the recipe.
        shown: the file.
        rows: the rows; emptied when they are worked on.
        ends_window, ends_pass: whether the last of them is the window's or the pass's last.
    """

    epoch: int
    window: int
    source: int
    shown: str
    rows: list[Row]
    ends_window: bool
    ends_pass: bool


@dataclass(slots=True)
class KeptRow:
    """A row that survived.

    Attributes:
        file: the file it came from.
        form: its record form.
        flags: as in `StageResult`.
        data: its item, as bytes.
        batch: documents of its chunk, in Arrow.
        first: the row's first wanted document in the batch.
        count: number of its wanted documents.
    """

    file: str
    form: str
    flags: int
    data: bytes
    batch: Any
    first: int
    count: int

    def document(self, number: int) -> Document:
        """One of the batch's documents."""
        ids, edges = (self.batch.column(place)[number].values.to_pylist() for place in (0, 1))
        return Document(tuple(ids), tuple(zip(edges[::2], edges[1::2], strict=True)))


@dataclass(slots=True)
class Done:
    """A chunk after the work."""

    chunk: Chunk
    kept: list[KeptRow]
    drops: list[Drop]
    steps: list[Step]
    masked: Counter[str]
    writings: Counter[str]
    tokens: dict[str, str]


@dataclass(frozen=True)
class ChunkStage:
    """The work on a chunk, in a worker."""

    rows: RowStage
    leaks: Leaks | None

    def __call__(self, chunk: Chunk) -> Done:
        """The rows that survive, and what became of the others."""
        result = self.rows((chunk.source, chunk.rows))
        chunk.rows = []
        kept: list[KeptRow] = []
        first = 0
        for place, (wanted, rejected) in enumerate(result.documents):
            kept.append(
                KeptRow(
                    chunk.shown,
                    result.forms[place],
                    result.flags[place],
                    result.items[place],
                    result.batch,
                    first,
                    wanted,
                )
            )
            first += wanted + rejected
        if self.leaks is not None:
            step, leaked = self.leaks.find(result.items)
            result.steps.append(step)
            result.drops += leaked.values()
            kept = [row for place, row in enumerate(kept) if place not in leaked]
        return Done(chunk, kept, result.drops, result.steps, result.masked, result.writings, result.tokens)


@dataclass
class Window:
    """A window that is being given out.

    Attributes:
        chunks: its parts, in order.
        order: row and number of the document in the row's batch, shuffled by row.
    """

    chunks: list[Done]
    order: list[tuple[KeptRow, int]] = field(default_factory=list)

    @property
    def last(self) -> Chunk:
        """The last part's chunk."""
        return self.chunks[-1].chunk

    @property
    def kept(self) -> list[KeptRow]:
        """The rows that survived, as read."""
        return [row for done in self.chunks for row in done.kept]

    def shuffle(self, seed: int) -> None:
        """Puts the documents into the order in which they are given out; those of one row stay together."""
        rows = self.kept
        order = np.random.default_rng([seed, self.last.epoch, self.last.window]).permutation(len(rows)).tolist()
        self.order = [
            (rows[place], number)
            for place in order
            for number in range(rows[place].first, rows[place].first + rows[place].count)
        ]
        if len(self.order) >= MAX_DOCUMENTS:
            where, hint = self.last.shown, "lower data.shuffle_window_rows"
            raise DataError(Fault(f"a window gives {len(self.order):,} documents", where, "16 million", hint))


def read_chunks(
    sources: Sequence[tuple[int, Source]], window_rows: int, epoch: int, window: int, endless: bool
) -> Iterator[Chunk]:
    """The rows from a window on, pass after pass; none of them is of two files or two windows.

    Raises:
        DataError: a file is wrong, or there are fewer rows than before that window.
    """
    while True:
        rows = _rows(sources)
        place = sum(1 for _ in itertools.islice(rows, window * window_rows))
        entry = next(rows, None)
        if entry is None:
            raise changed(sources) if place or window or epoch else no_rows(sources)
        some: list[Row] = []
        while entry is not None:
            number, source, row = entry
            some.append(row)
            place += 1
            entry = next(rows, None)
            ends = entry is None or place % window_rows == 0
            if ends or len(some) == CHUNK_ROWS or (entry is not None and entry[1] is not source):
                yield Chunk(epoch, (place - 1) // window_rows, number, source.shown, some, ends, entry is None)
                some = []
        if not endless:
            return
        epoch, window = epoch + 1, 0


def _rows(sources: Iterable[tuple[int, Source]]) -> Iterator[tuple[int, Source, Row]]:
    for number, source in sources:
        for row in read_rows(source):
            yield number, source, row


def changed(sources: Sequence[tuple[int, Source]]) -> DataError:
    """The error for files that are not what they were."""
    return DataError(
        Fault(
            "there are fewer rows than were read before",
            _few(sources),
            "files that stay as they are between the passes over them",
            "put the files back, or begin again in a new run folder",
        )
    )


def no_rows(sources: Sequence[tuple[int, Source]]) -> DataError:
    """The error for files without any row."""
    return DataError(Fault("there are no rows", _few(sources), "at least one training row", "check data.train"))


def _few(sources: Sequence[tuple[int, Source]]) -> str:
    return ", ".join(source.shown for _, source in sources[:3]) + (", ..." if len(sources) > 3 else "")
