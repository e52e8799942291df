"""Where a registry lies: a folder, or whatever object storage fsspec knows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from danlu.errors import DamagedError, Fault, RegistryError
from danlu.runs import file_hash, require_disk

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Found:
    """A stored file: its size in bytes, and when it was written, in seconds since 1970."""

    size_bytes: int
    written: float


class Store(Protocol):
    """Files by path below one place. Each appears whole or not at all.

    Every call raises a `RegistryError` that says what is wrong if the place can't be reached or says no.

    Attributes:
        url: of the place, to be shown.
    """

    url: str

    def read(self, path: str) -> bytes | None:
        """A small file's content; None if there is none."""

    def create(self, path: str, data: bytes) -> bool:
        """Writes a small file, unless there is one: then False. Of several who try, one alone succeeds."""

    def replace(self, path: str, data: bytes) -> None:
        """Writes a small file, whether there is one or not."""

    def upload(self, sources: Mapping[str, Path]) -> None:
        """Writes files that are on this disk, by the path that each will have."""

    def download(self, path: str, target: Path) -> bool:
        """Copies a file to this disk; False if there is none."""

    def find(self, folder: str) -> dict[str, Found]:
        """All files in a folder, however deep, by path."""

    def remove(self, paths: Iterable[str]) -> None:
        """Removes files; what is gone already is no fault."""

    def require_exclusive(self) -> None:
        """Requires that `create` does what it says.

        Raises:
            RegistryError: it does not, so that several writers would overwrite each other.
        """


def open_store(url: str) -> Store:
    """The store at a folder or URL; nothing is made yet.

    Raises:
        RegistryError: it is no place that can be one, or a package for it is missing.
    """
    if re.match(r"^[a-z][a-z0-9+.-]*://", url) and not url.startswith("file://"):
        from danlu.registry.object_store import ObjectStore

        return ObjectStore(url)
    return FolderStore(Path(url.removeprefix("file://")).expanduser().absolute())


class FolderStore:
    """A folder on a disk, or on a file system that several machines share.

    Files are written aside, synced and linked to their place, which the system does for one of several alone; so a
    writer that is killed leaves at most a file beside it whose name begins with a dot.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, str(folder)

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with self._told(path):
            try:
                return (self.folder / path).read_bytes()
            except FileNotFoundError:
                return None

    def create(self, path: str, data: bytes) -> bool:
        """See `Store`."""
        with self._told(path), self._aside(path) as (aside, stream):
            stream.write(data)
            _sync(stream)
            try:
                os.link(aside, self.folder / path)
            except FileExistsError:
                return False
        self._sync_folders([path])
        return True

    def replace(self, path: str, data: bytes) -> None:
        """See `Store`."""
        with self._told(path), self._aside(path) as (aside, stream):
            stream.write(data)
            _sync(stream)
            aside.replace(self.folder / path)
        self._sync_folders([path])

    def upload(self, sources: Mapping[str, Path]) -> None:
        """See `Store`."""
        require_disk(self.folder, sum(source.stat().st_size for source in sources.values()), "a copy of the adapter")
        for path, source in sources.items():
            self._upload(path, source)
        self._sync_folders(sources)

    def _upload(self, path: str, source: Path) -> None:
        with self._told(path), self._aside(path) as (aside, stream):
            with source.open("rb") as content:
                while block := content.read(_BLOCK):
                    stream.write(block)
            _sync(stream)
            aside.replace(self.folder / path)

    def download(self, path: str, target: Path) -> bool:
        """See `Store`."""
        with self._told(path):
            try:
                with (self.folder / path).open("rb") as content, target.open("wb") as stream:
                    while block := content.read(_BLOCK):
                        stream.write(block)
            except FileNotFoundError:
                return False
        return True

    def find(self, folder: str) -> dict[str, Found]:
        """See `Store`; also what writers that were cut off left aside."""
        found = {}
        with self._told(folder):
            for place, _, names in os.walk(self.folder / folder):
                for name in names:
                    path = Path(place, name)
                    with contextlib.suppress(FileNotFoundError):  # another writer's, gone meanwhile
                        about = path.lstat()
                        key = path.relative_to(self.folder).as_posix()
                        found[key] = Found(about.st_size, about.st_mtime)
        return found

    def remove(self, paths: Iterable[str]) -> None:
        """See `Store`; folders that are empty then go too."""
        for path in paths:
            with self._told(path):
                (self.folder / path).unlink(missing_ok=True)
            for parent in (self.folder / path).parents:
                if parent == self.folder:
                    break
                try:
                    parent.rmdir()
                except OSError:  # it holds something still
                    break

    def require_exclusive(self) -> None:
        """Nothing to ask: `os.link` is so by POSIX, or says that it can't."""

    @contextlib.contextmanager
    def _aside(self, path: str) -> Iterator[tuple[Path, BinaryIO]]:
        """A file beside `path` that is open for writing, and gone afterwards unless it was moved."""
        aside = (self.folder / path).with_name(f".{uuid.uuid4().hex}.tmp")
        for _ in range(3):  # the folder may be removed, as empty, by another writer
            aside.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                stream = aside.open("xb")
                break
        else:
            raise FileNotFoundError(2, "its folder vanishes", str(aside.parent))
        try:
            with stream:
                yield aside, stream
        finally:
            aside.unlink(missing_ok=True)

    def _sync_folders(self, paths: Iterable[str]) -> None:
        """So that the files' names, and those of folders made for them, outlive a power cut."""
        for folder in sorted({parent for path in paths for parent in Path(path).parents}, reverse=True):
            with self._told(str(folder)):
                place = os.open(self.folder / folder, os.O_RDONLY)
                try:
                    os.fsync(place)
                finally:
                    os.close(place)

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "check the path, the free space and your rights there"
            what = f"the registry's folder says no: {error.strerror or error}"
            raise RegistryError(
                Fault(what, str(self.folder / path), "a folder that can be written to", hint)
            ) from error


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def hash_of(data: bytes) -> str:
    """SHA-256, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def require_same(path: Path, expected: tuple[str, int], where: str) -> None:
    """Requires that a file that was copied here is what was stored.

    Raises:
        DamagedError: it is another, naming `where`.
    """
    if path.stat().st_size == expected[1] and file_hash(path) == expected[0]:
        return
    what = "this file is not what was added: its SHA-256 is another"
    hint = "don't use this version: promote or roll back to another, and add the run again"
    raise DamagedError(Fault(what, where, f"SHA-256 {expected[0]}, {expected[1]} bytes", hint))
