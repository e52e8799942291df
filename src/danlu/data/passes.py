"""From files to labelled rows, pass by pass: rows one by one in the workers, duplicates here between two passes."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.cleaning import RowStep
from danlu.data.duplicates.near import find_near_duplicates
from danlu.data.duplicates.shingles import Shingles, shingles, text_of_record
from danlu.data.duplicates.signatures import BandFiles
from danlu.data.item import Item
from danlu.data.ledger import Ledger
from danlu.data.sources import Row, Source, read_rows
from danlu.data.spool import Spool
from danlu.data.stages import LeavingStage, MadeStage, Make, RowStage, StageResult
from danlu.data.store import StoreWriter
from danlu.data.workers import Workers

Int64 = npt.NDArray[np.int64]

CHUNK_ROWS, CHUNK_BYTES = 512, 1 << 20


@dataclass(frozen=True)
class Pass:
    """Steps done row by row, then searches for duplicates among the rows that are left.

    Attributes:
        steps: cleaning steps.
        exact: drop equal rows after them.
        near: (threshold, compare) of each search for near-duplicates after that.
    """

    steps: tuple[RowStep, ...] = ()
    exact: bool = False
    near: tuple[tuple[float, str], ...] = ()


class Rows:
    """The labelled rows of some sources, numbered from 0; N of them.

    Args:
        folder: where they are set aside.
        name: of the split.
        wanted_fields: fields whose values are kept.
        compare: kinds of text whose marks are kept.
        first_document: number of the first document that will be theirs.

    Attributes:
        fields: by name, N numbers that stand for values; -1 where a row has no such field.
        sources: N numbers of the recipe's entries.
        forms: N numbers that stand for record forms.
        names: by field (and `form`), the values that the numbers stand for, in order.
        flags: N flags (`stages.CHANGED`, `stages.CUT`).
        bands: by what is compared.
    """

    def __init__(
        self, folder: Path, name: str, wanted_fields: Sequence[str], compare: Sequence[str], first_document: int
    ) -> None:
        self.spool = Spool(folder / f"{name}.rows")
        self.fields = {field: array("i") for field in wanted_fields}
        self.names: dict[str, dict[str, int]] = {field: {} for field in (*wanted_fields, "form")}
        self.sources, self.forms, self.flags = array("i"), array("b"), bytearray()
        self.bands = {kind: BandFiles(folder / f"{name}.{kind}") for kind in compare}
        # Row i has the documents from `_ends[i]` to `_ends[i + 1]`; the last `_rejected[i]` of them are not wanted.
        self._ends, self._rejected = array("i", [first_document]), array("i")

    def __len__(self) -> int:
        return len(self.spool)

    def item(self, row: int) -> Item:
        """A row."""
        return Item.from_bytes(self.spool[row])

    def extend(self, result: StageResult) -> None:
        """Takes the rows of a labelled chunk in."""
        self.spool.extend(result.items)
        self.flags += result.flags
        for name, numbers in self.fields.items():
            numbers.extend(self._numbers(name, [fields.get(name) for fields in result.fields]))
        self.forms.extend(self._numbers("form", result.forms))
        self.sources.extend(result.sources)
        for wanted, rejected in result.documents:
            self._ends.append(self._ends[-1] + wanted + rejected)
            self._rejected.append(rejected)
        for kind, marks in result.marks.items():
            self.bands[kind].append(marks.bands, marks.sketches, marks.sizes)

    def _numbers(self, name: str, values: Sequence[str | None]) -> list[int]:
        known = self.names[name]
        return [-1 if value is None else known.setdefault(value, len(known)) for value in values]

    def documents(self, rows: Int64) -> Int64:
        """Numbers of the wanted documents of some rows, in their order."""
        ends, rejected = np.asarray(self._ends), np.asarray(self._rejected)
        return _ranges(ends[rows], ends[rows + 1] - rejected[rows])

    def rejected(self, rows: Int64) -> Int64:
        """Numbers of the rejected documents of some rows, in their order."""
        ends, rejected = np.asarray(self._ends), np.asarray(self._rejected)
        return _ranges(ends[rows + 1] - rejected[rows], ends[rows + 1])

    def close(self) -> None:
        """Removes the files."""
        self.spool.close()


def _ranges(starts: Int64, ends: Int64) -> Int64:
    """The numbers from each start to its end, one after another."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    numbers: Int64 = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return numbers


class Preparation:
    """Runs the passes over the sources of one split.

    Args:
        folder: for files that are needed in between.
        name: of the split.
        workers: who works.
        ledger: where every row is accounted for.
        writer: where documents go.
        tokens: where reversible tokens are gathered.
    """

    def __init__(
        self, folder: Path, name: str, workers: Workers, ledger: Ledger, writer: StoreWriter, tokens: dict[str, str]
    ) -> None:
        self._folder, self._name, self._workers = folder, name, workers
        self._ledger, self._writer, self._tokens = ledger, writer, tokens

    def run(self, sources: Sequence[tuple[int, Source]], passes: Sequence[Pass], last: RowStage) -> Rows:
        """All passes.

        Args:
            sources: files with the number of their entry in the recipe.
            passes: all but the last end with a search for duplicates.
            last: the stage of the last pass, which masks and labels; its steps are put in here.
        """
        chunks: Iterable[Any] = self._read(sources)
        before: Spool | None = None
        for number, some in enumerate(passes[:-1]):
            compare = tuple(dict.fromkeys(kind for _, kind in some.near))
            stage = replace(last, steps=some.steps, masks=False, labels=None, exact=some.exact, compare=compare)
            spool, alive = self._between(number, chunks, stage, some)
            if before is not None:
                before.close()
            before = spool
            chunks = spool.chunks(map(int, alive), CHUNK_ROWS, CHUNK_BYTES)
        final = replace(last, steps=passes[-1].steps)
        rows = self._label(chunks, final)
        if before is not None:
            before.close()
        return rows

    def _label(self, chunks: Iterable[Any], stage: RowStage) -> Rows:
        """The last pass: labelled documents are written, and the rows set aside."""
        rows = Rows(self._folder, self._name, stage.wanted_fields, stage.compare, self._writer.num_documents)
        for result in self._workers.map(stage, chunks):
            self._take(result, rows)
        return rows

    def add(self, rows: Rows, name: str, make: Make, parents: Int64, stage: RowStage, workers: Workers) -> None:
        """Makes a row from each of some rows, one after another, and appends those that can be made."""
        step = self._ledger.step(name)
        step.rows_in += len(parents)
        chunks = numbered(rows.spool.chunks(map(int, parents), CHUNK_ROWS, CHUNK_BYTES))
        # All are made before the first is appended: they come from rows in the same file.
        for result, entries in list(workers.map(MadeStage(make, stage), chunks)):
            step.changed += len(entries)
            for entry in entries:
                self._ledger.add(name, *entry)
            self._take(result, rows)

    def _take(self, result: StageResult, rows: Rows) -> None:
        self._account(result)
        rows.extend(result)
        self._writer.append(result.batch)

    def _account(self, result: StageResult) -> None:
        self._ledger.take(result.steps, result.drops, result.writings, result.masked)
        self._tokens.update(result.tokens)

    def _read(self, sources: Sequence[tuple[int, Source]]) -> Iterator[tuple[int, list[Row]]]:
        for number, source in sources:
            rows: list[Row] = []
            for row in read_rows(source):
                rows.append(row)
                if len(rows) == CHUNK_ROWS:
                    yield self._count(source, number, rows)
                    rows = []
            if rows:
                yield self._count(source, number, rows)

    def _count(self, source: Source, number: int, rows: list[Row]) -> tuple[int, list[Row]]:
        self._ledger.read += len(rows)
        self._ledger.files[source.shown] += len(rows)
        return number, rows

    def _between(self, number: int, chunks: Iterable[Any], stage: RowStage, some: Pass) -> tuple[Spool, Int64]:
        """One pass and its search for duplicates: the rows, and the numbers of those that go on."""
        spool = Spool(self._folder / f"{self._name}.{number}.rows")
        bands = {kind: BandFiles(self._folder / f"{self._name}.{number}.{kind}") for kind in stage.compare}
        digests = [np.empty(0, np.uint64)]
        for result in self._workers.map(stage, chunks):
            self._account(result)
            spool.extend(result.items)
            if result.digests is not None:
                digests.append(result.digests)
            for kind, marks in result.marks.items():
                bands[kind].append(marks.bands, marks.sketches, marks.sizes)
        alive = np.arange(len(spool))
        if some.exact:
            kept_for = find_equal(np.concatenate(digests), lambda row: Item.from_bytes(spool[row]).record)
            alive = self._leave("exact_duplicates", "exact duplicate", spool, alive, kept_for, stage)
        del digests
        for threshold, kind in some.near:
            chosen = bands[kind].select(alive, self._folder / f"{self._name}.{number}.chosen")
            kept_for = find_near_duplicates(chosen, len(alive), partial(_shingles, spool, alive, kind), threshold)
            alive = self._leave("near_duplicates", "near-duplicate", spool, alive, kept_for, stage)
        return spool, alive

    def _leave(self, name: str, reason: str, spool: Spool, alive: Int64, kept_for: Int64, stage: RowStage) -> Int64:
        """Drops rows for which another is kept: `kept_for` has, for each alive row, the place of that one or -1."""
        step = self._ledger.step(name)
        step.rows_in += len(alive)
        leaving = np.flatnonzero(kept_for >= 0)
        pairs = ((spool[int(alive[place])], spool[int(alive[kept_for[place]])]) for place in leaving)
        chunks = iter(lambda: list(itertools.islice(pairs, CHUNK_ROWS)), [])
        for drop in itertools.chain.from_iterable(self._workers.map(LeavingStage(name, reason, stage.masker), chunks)):
            self._ledger.drop(drop)
            step.dropped += 1
        return alive[kept_for < 0]


def numbered(chunks: Iterable[list[bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """The rows of chunks, each with its place among all of them."""
    place = 0
    for rows in chunks:
        yield list(enumerate(rows, place))
        place += len(rows)


def find_equal(digests: npt.NDArray[np.uint64], content: Callable[[int], Any]) -> Int64:
    """For each of N rows the first row with equal content, or -1 if it is the first itself.

    Args:
        digests: `[N]`, equal for rows of equal content.
        content: a row's content; asked for only where digests are equal, so that a chance of equal digests loses
            no row.
    """
    kept_for = np.full(len(digests), -1, np.int64)
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    first = -1
    for place in same.tolist():
        row = int(order[place])
        if first < 0 or digests[first] != digests[row]:
            first = int(order[place - 1])
        if content(row) == content(first):
            kept_for[row] = first
    return kept_for


def _shingles(spool: Spool, alive: Int64, compare: str, place: int) -> Shingles:
    return shingles(text_of_record(Item.from_bytes(spool[int(alive[place])]).record, compare))
