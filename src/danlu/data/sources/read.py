"""From a source to its rows."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from danlu.data.sources.arrow_rows import arrow_rows
from danlu.data.sources.blocks import Identity, blocks, changed, fault_of, identity, opened, unchanged
from danlu.data.sources.csv_rows import csv_rows
from danlu.data.sources.encoding import encoding_of_file, utf8_blocks
from danlu.data.sources.json_lines import Content, json_line_rows
from danlu.data.sources.json_list import json_list_rows
from danlu.data.sources.kinds import Source, compression_of, foreign_format, kind_of_head, known_kinds
from danlu.data.sources.remote import fetched, remote_fingerprint, remote_tag
from danlu.data.sources.rows import Row
from danlu.data.sources.text_rows import text_rows
from danlu.errors import DataError, Fault
from danlu.runs import file_hash

_COLUMNAR = ("parquet", "arrow")
# A table or text whose first line looks so is JSON under a wrong name.
_LOOKS_LIKE_JSON = re.compile(rb'\s*(\{\s*"(?:[^"\\]|\\.)*"\s*:|\[\s*\{\s*")')
_HEAD_BYTES = 1 << 16


def read_rows(source: Source) -> Iterator[Row]:
    """The rows of a file in order, read as they are asked for, in bounded memory.

    A remote file is first copied to this disk, and the copy removed afterwards. The kind is taken from the ending
    unless the content contradicts it.

    Raises:
        DataError: the file is missing, empty, damaged, in an unknown encoding, changed while it was read, or has bad
            lines (the first are listed). Rows before a fault are given first, so that all rows count only once the
            iterator has ended.
        ResourceError: the disk can't hold the copy of a remote file.
    """
    with _on_disk(source) as path, unchanged(path, source.shown) as seen:
        yield from _rows(source, path, seen)


def encoding_of(source: Source) -> str:
    """The encoding of a text file, such as "UTF-8" or "GB18030"; "" for Parquet and Arrow.

    For a local file that was read just before, the answer is remembered; a remote one is fetched again.

    Raises:
        DataError: as `read_rows`.
    """
    with _on_disk(source) as path, unchanged(path, source.shown) as seen:
        head = _head(path, source.shown)
        return "" if _columnar_kind(source, path, head) else encoding_of_file(path, source.shown, seen)


def fingerprint(source: Source) -> str:
    """What stays the same exactly as long as the content does.

    SHA-256 of a local file; of a remote one the server's ETag or time of change and its size, hashed.

    Raises:
        DataError: it can't be read.
    """
    if source.remote:
        return remote_fingerprint(source)
    try:
        return file_hash(Path(source.path))
    except (OSError, ValueError) as error:
        raise DataError(fault_of(error, source.shown)) from error


Version = tuple[int, ...] | str


def version(source: Source) -> Version:
    """What differs once something was written to the file; cheap, unlike `fingerprint`.

    Raises:
        DataError: it can't be reached.
    """
    return remote_tag(source) if source.remote else identity(Path(source.path), source.shown)


def require_versions(sources: Sequence[Source], before: Sequence[Version]) -> None:
    """Requires that files are what they were when `version` gave this.

    Raises:
        DataError: one of them changed.
    """
    for source, known in zip(sources, before, strict=True):
        if version(source) != known:
            raise changed(source.shown)


def _on_disk(source: Source) -> AbstractContextManager[Path]:
    return fetched(source) if source.remote else nullcontext(Path(source.path))


def _rows(source: Source, path: Path, seen: Identity) -> Iterator[Row]:
    shown = source.shown
    head = _head(path, shown)
    columnar = _columnar_kind(source, path, head)
    if columnar:
        return arrow_rows(path, shown, columnar)
    encoding = encoding_of_file(path, shown, seen)
    content: Content = partial(utf8_blocks, path, shown, encoding)
    start = _start(content)
    if not start:
        raise _empty(shown)
    kind = "json" if _LOOKS_LIKE_JSON.match(start) else source.kind
    if kind in ("csv", "tsv"):
        return csv_rows(content, shown, kind)
    if kind == "text":
        return text_rows(content, shown)
    if start.startswith(b"["):
        return json_list_rows(content, shown)
    if start.startswith(b"{"):
        return json_line_rows(content, shown)
    raise _not_rows(source)


def _head(path: Path, shown: str) -> bytes:
    head = next(blocks(path, shown), b"")[:_HEAD_BYTES]
    if not head:
        raise _empty(shown)
    return head


def _columnar_kind(source: Source, path: Path, head: bytes) -> str | None:
    """The kind of a file that is not text; none for one that is."""
    kind = kind_of_head(head)
    if kind:
        with opened(path, source.shown) as stream:
            packed = compression_of(stream.read(16))
        if packed:
            raise DataError(
                Fault(f"a {kind} file can't be read from within {packed}", source.shown, "", "unpack it first")
            )
        return kind
    foreign = foreign_format(head)
    if foreign:
        raise DataError(Fault(f"this is {foreign[0]}", source.shown, known_kinds(), foreign[1]))
    if source.kind in _COLUMNAR and not _LOOKS_LIKE_JSON.match(head):
        raise DataError(
            Fault(
                f"this is not a {source.kind} file: it does not begin like one",
                source.shown,
                known_kinds(),
                "fetch or write the file again, or give it the ending of what it is",
            )
        )
    return None


def _start(content: Content) -> bytes:
    """The file from its first character that is not white space on, to the end of that block; nothing if it has none.

    White space is what Unicode calls so, as in the readers: a line of U+2028 alone is no row.
    """
    decoder = getincrementaldecoder("utf-8")()
    for block in content():
        if start := decoder.decode(block).lstrip():
            return start.encode()
    return b""


def _empty(shown: str) -> DataError:
    return DataError(
        Fault(
            "the file is empty",
            shown,
            "one JSON object per line, or one JSON list; or another of " + known_kinds(),
            "put the rows in, or take the file out of the recipe",
        )
    )


def _not_rows(source: Source) -> DataError:
    what = "this is not JSON: it starts with neither `{` nor `[`"
    if source.kind == "unknown":
        what = "neither the ending nor the content tells what kind of data file this is"
    return DataError(
        Fault(
            what,
            source.shown,
            "one JSON object per line (JSONL), or one JSON list of objects"
            if source.kind != "unknown"
            else known_kinds(),
            "convert the file, one object for each row, or give it the ending of what it is",
        )
    )
