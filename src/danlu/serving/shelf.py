"""Which adapter answers a name: loaded when it is asked for, proven first, swapped while others are answered.

A name or an alias goes over to another version only once that one is loaded and proven; what is refused leaves the
version before in its place. A request keeps the version that it began with. What no request uses stays loaded until
others need the room, so that going back is at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from danlu.errors import DanluError, Fault, InputError
from danlu.serving.catalogue import Catalogue, Edition, Listing
from danlu.tracking.progress import say


class Loads(Protocol):
    """Puts what a folder holds on an engine, or takes it off."""

    def load(self, name: str, folder: Path, proven: bool) -> None:
        """Loads under a name, and proves it unless that was done before.

        Raises:
            DanluError: it is broken, not of this base, or not as it was trained.
        """
        ...

    def unload(self, name: str) -> None:
        """Takes it off."""
        ...


@runtime_checkable
class LoadsTogether(Protocol):
    """Loads several at less cost than one after another."""

    def expect(self, folders: Mapping[str, Path]) -> None:
        """Prepares for what `load` will be asked for next; what is wrong with one is said by that."""
        ...


@dataclass
class _Book:
    """A version that is loaded."""

    edition: Edition
    users: int = 0
    used: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Lease:
    """A version that stays loaded while a request uses it.

    Attributes:
        label: `name@number`, or the base's name.
        hash: of the version; of the base's weights for the base.
        adapter: its name in the engine; None for the base.
    """

    label: str
    hash: str
    adapter: str | None


class Shelf:
    """The adapters that are served.

    Args:
        catalogue: where they come from.
        loads: what puts them on the engine.
        base: the base's name, and the hash of its weights.
        max_loaded: so many stay loaded; more only while requests use them.
        on_swap: is told `swapped` or `refused` for each name that goes over to another version, or does not.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        loads: Loads,
        base: tuple[str, str],
        max_loaded: int = 16,
        on_swap: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.catalogue = catalogue
        self._loads, self._base = loads, base
        self._max_loaded, self._on_swap = max_loaded, on_swap
        self._listing: Listing | None = None
        self._serving: dict[str, Edition] = {}
        self._books: dict[str, _Book] = {}
        self._proven: set[str] = set()
        self._faults: dict[str, str] = {}  # by name: what should be served and is not
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @property
    def ready(self) -> bool:
        """Whether all that is to be served was looked at once."""
        return self._listing is not None

    @property
    def faults(self) -> list[str]:
        """What should be served and is not, each with its reason."""
        with self._lock:
            return list(self._faults.values())

    @property
    def loaded(self) -> list[str]:
        """Versions that are loaded."""
        with self._lock:
            return [str(book.edition) for book in self._books.values()]

    def served(self) -> dict[str, str]:
        """What may be asked for, and which version answers."""
        with self._lock:
            return {self._base[0]: self._base[0], **{name: str(edition) for name, edition in self._serving.items()}}

    def refresh(self, strict: bool = False) -> bool:
        """Looks whether names mean other versions now, and swaps those that do; whether anything changed.

        Args:
            strict: raise what is wrong with a version, instead of noting it.

        Raises:
            DanluError: the catalogue can't be read; what is served stays.
        """
        with self._refreshing:
            listing = self.catalogue.state()
            if self._listing is not None and listing.number == self._listing.number:
                return False
            self._go_over(listing, strict)
        self.make_room()
        return True

    @contextmanager
    def leased(self, text: str) -> Iterator[Lease]:
        """The version that a name means now, loaded; it stays so until the end."""
        lease = self.take(text)
        try:
            yield lease
        finally:
            self.give_back(lease)

    def is_loaded(self, text: str) -> bool:
        """Whether `take` would answer at once."""
        with self._lock:
            edition = self._meaning(text)
            return edition is None or edition.hash in self._books

    def take(self, text: str) -> Lease:
        """The version that a name means now; loads it if it is not loaded.

        Raises:
            InputError: the name means nothing.
            DanluError: it can't be loaded.
        """
        while True:
            with self._lock:
                edition = self._meaning(text)
            if edition is None:
                return Lease(*self._base, None)
            try:
                return self._load(edition)
            except DanluError:
                # It may have been removed since the last look, and the name mean another now.
                if not self.refresh() or self._meaning(text) == edition:
                    raise

    def give_back(self, lease: Lease) -> None:
        """The request has ended."""
        if lease.adapter is None:
            return
        with self._lock:
            self._books[lease.adapter].users -= 1

    def _go_over(self, listing: Listing, strict: bool) -> None:
        wanted = {
            key: listing.resolve(key)
            for name in listing.names()
            for key in (name, *(f"{name}@{alias}" for alias in listing.aliases(name)))
        }
        self._expect(list(wanted.values()))
        for key, edition in wanted.items():
            self._swap(key, edition, strict)
        with self._lock:
            for key in self._serving.keys() - wanted.keys():
                del self._serving[key]
            self._faults = {key: why for key, why in self._faults.items() if key in wanted}
            self._listing = listing

    def _expect(self, wanted: Sequence[Edition]) -> None:
        """Tells an engine that loads several at less cost than one after another."""
        editions = {edition.hash: edition for edition in wanted if edition.hash not in self._books}
        if isinstance(self._loads, LoadsTogether) and len(editions) > 1:
            folders = {}
            for key, edition in list(editions.items())[: self._max_loaded]:
                with contextlib.suppress(DanluError):  # said when it is loaded by itself
                    folders[key] = self.catalogue.fetch(edition)
            self._loads.expect(folders)

    def _meaning(self, text: str) -> Edition | None:
        """The version; None is the base."""
        if text == self._base[0]:
            return None
        if text in self._serving:
            return self._serving[text]
        if self._listing is None:
            raise InputError(Fault(f"no model {text} yet", hint="the adapters are being loaded"))
        if text in self._faults:
            raise InputError(Fault(f"{text} is not served: {self._faults[text]}"))
        return self._listing.resolve(text)

    def _swap(self, key: str, edition: Edition, strict: bool) -> None:
        before = self._serving.get(key)
        if before is not None and before.hash == edition.hash:
            with self._lock:
                self._serving[key] = edition
                self._faults.pop(key, None)
            return
        try:
            lease = self._load(edition)
        except DanluError as error:
            if strict:
                raise
            fault = error.faults[0]
            why = f"{edition} is refused: {fault.what}" + (f" ({fault.where})" if fault.where else "")
            self._faults[key] = f"{why}; {before or 'nothing'} answers {key}"
            say(f"warning: {self._faults[key]}")
            self._on_swap("refused")
            return
        with self._lock:
            self._serving[key] = edition
            self._faults.pop(key, None)
        self.give_back(lease)
        say(f"{key} is answered by {edition}" + (f", no longer by {before}" if before else ""))
        self._on_swap("swapped")

    def _load(self, edition: Edition) -> Lease:
        """A version, loaded and proven, once however many ask for it.

        Raises:
            DanluError: it can't be.
        """
        lease = Lease(str(edition), edition.hash, edition.hash)
        if self._used(edition):
            return lease
        with self._loading[edition.hash]:
            if self._used(edition):
                return lease
            folder = self.catalogue.fetch(edition)
            self._loads.load(edition.hash, folder, edition.hash in self._proven)
            with self._lock:
                self._proven.add(edition.hash)
                self._books[edition.hash] = _Book(edition, users=1)
        self.make_room()
        return lease

    def _used(self, edition: Edition) -> bool:
        """Notes one more user of a version, if it is loaded."""
        with self._lock:
            book = self._books.get(edition.hash)
            if book is not None:
                book.users += 1
                book.used = time.monotonic()
            return book is not None

    def make_room(self) -> None:
        """Unloads what was not used for longest, first what no name means any more, until as many are left as may."""
        while True:
            with self._lock:
                meant = {edition.hash for edition in self._serving.values()}
                idle = [key for key, book in self._books.items() if not book.users]
                if len(self._books) <= self._max_loaded or not idle:
                    return
                key = min(idle, key=lambda key: (key in meant, self._books[key].used))
                del self._books[key]
            with self._loading[key]:
                if key not in self._books:
                    self._loads.unload(key)
