"""Rows for training as they are read: never prepared on disk, shuffled window by window, resumable at any document.

Window k of a pass over the data is its k-th run of W rows as read, over all files in order; the rows of it that
survive are shuffled by (seed, pass, k). A place in the stream is one integer, see `position_of`; what comes after it
depends on it alone. To go on from there, the files are read up to its window (from the first file on: reading is
cheap), and nothing before that window is converted or tokenized.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from danlu.data.item import Item
from danlu.data.ledger import Ledger
from danlu.data.prepared import as_question, conversation_of
from danlu.data.records import Messages
from danlu.data.sources import Source
from danlu.data.stages import RowStage
from danlu.data.template import Document
from danlu.data.windows import MAX_DOCUMENTS, ChunkStage, Done, KeptRow, Leaks, Window, changed, read_chunks
from danlu.data.workers import Workers

_WINDOW_BITS = 32
_ENOUGH_TO_JUDGE = 1000


def position_of(epoch: int, window: int, taken: int) -> int:
    """A place in a stream: `epoch * 2**56 + window * 2**24 + taken`, which fits 64 bits for the first 128 passes.

    Args:
        epoch: passes over the data that are done.
        window: windows of this pass that are done.
        taken: documents taken of the next window, in its shuffled order.
    """
    return (epoch << _WINDOW_BITS | window) * MAX_DOCUMENTS + taken


def parts_of(position: int) -> tuple[int, int, int]:
    """Epoch, window and documents taken."""
    rest, taken = divmod(position, MAX_DOCUMENTS)
    return *divmod(rest, 1 << _WINDOW_BITS), taken


@dataclass(frozen=True)
class StreamPlan:
    """What is streamed and how.

    Attributes:
        sources: the files, each with the number of its entry in the recipe.
        rows: converts, cleans, masks and labels.
        leaks: finds near-copies of evaluation rows, or None.
        window_rows: W, rows as read that are held and shuffled at once.
        seed: of the shuffling.
        max_dropped_share: the stream stops when a larger share of the rows is dropped.
        note_tokens: given the reversible tokens of a window before its first document is.
    """

    sources: Sequence[tuple[int, Source]]
    rows: RowStage
    leaks: Leaks | None
    window_rows: int
    seed: int
    max_dropped_share: float = 1.0
    note_tokens: Callable[[dict[str, str]], None] | None = None


class RowStream:
    """Documents without end, pass after pass over the files, and the account of their rows.

    A row is counted as read and kept when its first document is taken, and as read and dropped when its window is
    opened; rows of the open window that nobody took yet are `waiting` and not among those read. Steps, writings and
    masked items are counted when the window is opened, for all its rows. A stream that begins inside a window leaves
    what was dropped there to whoever opened it before, so that the accounts of a stream's parts sum up to that of
    the whole. A row is counted anew in each pass.

    Args:
        plan: what is streamed.
        workers: who works; the result is the same for any number.
        ledger: where rows are accounted for.
        position: where to begin.

    Attributes:
        rows, documents, tokens, trained_tokens: taken so far.
    """

    def __init__(self, plan: StreamPlan, workers: Workers, ledger: Ledger, position: int = 0) -> None:
        self._plan, self._workers, self.ledger = plan, workers, ledger
        self.rows = self.documents = self.tokens = self.trained_tokens = 0
        self._num_kept = 0
        self._last: list[KeptRow] = []
        self._windows: Generator[Window, None, None] | None = None
        self.seek(position)

    def seek(self, position: int) -> None:
        """Goes to a place; what is taken from there on is counted, also if it was taken before."""
        self.close()
        self._epoch, self._number, self._taken = parts_of(position)
        self._window: Window | None = None

    def close(self) -> None:
        """Closes the files."""
        if self._windows is not None:
            self._windows.close()
            self._windows = None

    @property
    def position(self) -> int:
        """The place of the next document."""
        return position_of(self._epoch, self._number, self._taken)

    @property
    def wheres(self) -> list[str]:
        """The place of the row of each document that was taken last."""
        return [Item.from_bytes(row.data).where for row in self._last]

    @property
    def waiting(self) -> int:
        """Rows that are ready and were not taken."""
        return len(self._not_taken())

    def take(self, count: int, counted: bool = True) -> list[Document]:
        """The next documents.

        Args:
            count: how many; there is no end.
            counted: whether their rows are written down.

        Raises:
            DataError: a file is wrong, or too many rows are dropped.
        """
        taken: list[Document] = []
        self._last = []
        while len(taken) < count:
            window = self._window or self._open(counted)
            if window is None:
                continue
            row, number = window.order[self._taken]
            document = row.document(number)
            taken.append(document)
            self._last.append(row)
            if counted:
                self._count(row, number, document)
            self._taken += 1
            if self._taken == len(window.order):
                self._leave(window)
        return taken

    def pass_through(self) -> Iterator[Document]:
        """The documents from here to the end of this pass over the data."""
        epoch = self._epoch
        while self._epoch == epoch:
            window = self._window or self._open(True, endless=False)
            if window is not None:
                yield from self.take(len(window.order) - self._taken)
        self.close()

    def first_rows(self, count: int) -> tuple[list[Messages], list[Document]]:
        """Up to so many rows of the window at hand, as read, that can be asked and answered, and their documents."""
        window = self._window
        while window is None:
            window = self._open(True)
        rows = window.kept[:count]
        records = [as_question(Item.from_bytes(row.data).record) for row in rows]
        return [conversation_of(record.to_json()) for record in records], [row.document(row.first) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """The ledger, with the rows that wait and the place that was reached."""
        return {**self.ledger.to_json(), "waiting": self.waiting, "position": self.position}

    def split(self) -> dict[str, int]:
        """Rows, documents and tokens taken so far, as of a prepared split."""
        return {
            "rows": self.rows,
            "documents": self.documents,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
        }

    def _not_taken(self) -> list[KeptRow]:
        order = self._window.order[self._taken :] if self._window else []
        return [row for row, number in order if number == row.first]

    def _open(self, counted: bool, endless: bool = True) -> Window | None:
        """The next window; None if none of its rows survived, or all documents of it were taken before."""
        if self._windows is None:
            self._windows = self._read_windows(self._epoch, self._number, endless)
        window = next(self._windows)
        window.shuffle(self._plan.seed)
        if self._plan.note_tokens is not None:
            self._plan.note_tokens({key: text for done in window.chunks for key, text in done.tokens.items()})
        if self._taken > len(window.order):
            raise changed(self._plan.sources)
        self._window = window
        self._num_kept += len(window.kept)
        if counted and not self._taken:
            self._account(window)
        self._judge(window)
        if self._taken == len(window.order):
            self._leave(window)
        return self._window

    def _leave(self, window: Window) -> None:
        """The window is used up: the place is the beginning of the next."""
        last = window.last
        self._epoch, self._number = (last.epoch + 1, 0) if last.ends_pass else (last.epoch, last.window + 1)
        self._window, self._taken = None, 0

    def _read_windows(self, epoch: int, window: int, endless: bool) -> Generator[Window, None, None]:
        stage = ChunkStage(self._plan.rows, self._plan.leaks)
        chunks = read_chunks(self._plan.sources, self._plan.window_rows, epoch, window, endless)
        # Both are closed with this one: a file or a copy of a remote one may be open below.
        with closing(chunks), closing(self._workers.map(stage, chunks)) as results:  # type: ignore[type-var]
            done: list[Done] = []
            for result in results:
                done.append(result)
                if result.chunk.ends_window:
                    ready, done = Window(done), []
                    yield ready
                    del ready

    def _account(self, window: Window) -> None:
        """Writes down what was dropped in a window and done to its rows."""
        ledger = self.ledger
        for done in window.chunks:
            ledger.take(done.steps, done.drops, done.writings, done.masked)
            ledger.read += len(done.drops)
            ledger.files[done.chunk.shown] += len(done.drops)

    def _judge(self, window: Window) -> None:
        """Stops if too many of the rows were dropped, once there are enough rows to tell."""
        waiting, ledger = len(window.kept), self.ledger
        total = ledger.read + waiting
        # Nothing may be counted yet where documents are passed over; that no row is any good must end that too.
        if (total < _ENOUGH_TO_JUDGE and not window.last.ends_pass) or (self._num_kept and not total):
            return
        ledger.read += waiting  # they were read, and are counted when they are taken
        try:
            ledger.check(self._num_kept, self._plan.max_dropped_share)
        finally:
            ledger.read -= waiting

    def _count(self, row: KeptRow, number: int, document: Document) -> None:
        self.documents += 1
        self.tokens += len(document.ids)
        self.trained_tokens += document.trained
        if number != row.first:
            return
        self.rows += 1
        self.ledger.read += 1
        self.ledger.files[row.file] += 1
        if row.flags:
            self.ledger.keep(Item.from_bytes(row.data), 1)
        else:
            self.ledger.keep_plain(row.form, 1)
