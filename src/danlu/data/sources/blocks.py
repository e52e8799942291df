"""The bytes of a file, unpacked, in blocks of bounded size; and whether the file stayed what it was meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from danlu.data.sources import limits
from danlu.data.sources.kinds import compression_of
from danlu.errors import DataError, Fault


@contextmanager
def opened(path: Path, shown: str) -> Iterator[BinaryIO]:
    """A local file, open for reading.

    Raises:
        DataError: it is missing, a folder, a pipe, or may not be read.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise DataError(
                Fault("this is a pipe: it can be read only once", shown, "a file", "write the rows to a file first")
            )
        stream = path.open("rb")
    except (OSError, ValueError) as error:
        raise DataError(fault_of(error, shown)) from error
    with stream:
        yield stream


def fault_of(error: OSError | ValueError, shown: str) -> Fault:
    """A failure to open or read a file, as a fault."""
    if isinstance(error, FileNotFoundError):
        return Fault("no such data file", shown, hint="paths are taken from here, then from beside the recipe")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return Fault(f"can't read the data file: {reason}", shown, "", "check the file and your rights: ls -l")


def blocks(path: Path, shown: str) -> Iterator[bytes]:
    """The bytes of a file in order; those of a .gz, .zst or .bz2 file (seen from its content) unpacked.

    Raises:
        DataError: it can't be read, or the archive is cut off or damaged.
    """
    compression = None
    with opened(path, shown) as stream:
        try:
            compression = compression_of(stream.read(16))
            stream.seek(0)
            yield from _read(_unpacked(stream, compression) if compression else stream)
        except (OSError, ValueError) as error:
            if not compression:
                raise DataError(fault_of(error, shown)) from error
            cut = "truncated" in str(error).lower()
            raise DataError(
                Fault(
                    f"the {compression} file is {'cut off' if cut else 'damaged'}: {' '.join(str(error).split())}",
                    shown,
                    "a whole archive",
                    "fetch or pack the file again",
                )
            ) from error


def _read(stream: Any) -> Iterator[bytes]:
    while block := stream.read(limits.BLOCK_BYTES):
        yield block


def _unpacked(stream: BinaryIO, compression: str) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), compression)


Identity = tuple[int, int, int, int]


def identity(path: Path, shown: str) -> Identity:
    """Device, inode, size in bytes and time of last change in nanoseconds.

    Raises:
        DataError: there is no such file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(fault_of(error, shown)) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def unchanged(path: Path, shown: str) -> Iterator[Identity]:
    """Checks on the way out, also from an error, that the file is the one it was on the way in.

    Raises:
        DataError: it changed, which also explains whatever other fault was found in it.
    """
    before = identity(path, shown)
    try:
        yield before
    except DataError as error:
        _require_same(path, shown, before, error)
        raise
    _require_same(path, shown, before, None)


def _require_same(path: Path, shown: str, before: Identity, cause: DataError | None) -> None:
    try:
        if identity(path, shown) == before:
            return
    except DataError:
        pass
    raise changed(shown) from cause


def changed(shown: str) -> DataError:
    """The error for a file that did not hold still."""
    return DataError(
        Fault(
            "the file changed while it was read",
            shown,
            "a file that nothing writes to meanwhile",
            "wait until it is complete, or copy it, and run again",
        )
    )
