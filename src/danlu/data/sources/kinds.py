"""The kinds of data files, and how a file's kind is seen: by its ending, then by its first bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from danlu.pages.unseen import show_unseen

KIND_OF_ENDING = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSION_OF_ENDING = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
DATA_ENDINGS = [
    *KIND_OF_ENDING,
    *(f"{ending}{packed}" for ending, kind in KIND_OF_ENDING.items() for packed in COMPRESSION_OF_ENDING
      if kind not in ("parquet", "arrow")),
]  # fmt: skip

_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1\0\0", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # an Arrow stream: the mark that stands before each message
)
_COMPRESSION_MAGIC = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bz2"),
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV"),
    (b"%PDF", "a PDF", "take the text out first"),
    (b"FEA1", "a Feather file of version 1", "write it again with pyarrow.feather.write_feather"),
    (b"SQLite format 3\0", "an SQLite database", "write the table as CSV or JSON lines"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it: xz -d"),
)

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Source:
    """One data file.

    Attributes:
        path: local path, or URL.
        kind: json, csv, tsv, text, parquet, arrow; "unknown" if the name does not say (then the content does).
        note: what was chosen on the way to it (which split, what was left alone), for people; mostly empty.
    """

    path: str
    kind: str
    note: str = ""

    @property
    def remote(self) -> bool:
        """Whether it is read through fsspec."""
        return is_remote(self.path)

    @property
    def shown(self) -> str:
        """The path as it may be printed: without the password or signature of a URL, and with bytes that are no text,
        or control characters, of a file's name written out.
        """
        if not self.remote:
            return show_unseen(self.path)
        scheme, _, rest = _without_query(self.path).partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def is_remote(name: str) -> bool:
    """Whether a name is a URL."""
    return bool(_REMOTE.match(name))


def is_http(name: str) -> bool:
    """Whether a name is a URL of the web."""
    return name.lower().startswith(("http://", "https://"))


def _without_query(name: str) -> str:
    """A URL of the web without what follows `?` or `#`; elsewhere these are characters of names."""
    return re.split(r"[?#]", name, maxsplit=1)[0] if is_http(name) else name


def known_kinds() -> str:
    """The kinds of files that can be read, for messages."""
    return (
        "JSON, JSON lines (.json, .jsonl, .ndjson), CSV, TSV, text (.txt), each also as .gz, .zst, .bz2; "
        "Parquet, Arrow and Feather"
    )


def kind_of_name(name: str) -> str:
    """The kind that a file's name or a URL promises, or "unknown"."""
    stem = _without_query(name).lower()
    for ending in COMPRESSION_OF_ENDING:
        stem = stem.removesuffix(ending)
    return next((kind for ending, kind in KIND_OF_ENDING.items() if stem.endswith(ending)), "unknown")


def compression_of(head: bytes) -> str | None:
    """The compression that a file's first bytes show: "gzip", "zstd", "bz2" or none."""
    return next((name for magic, name in _COMPRESSION_MAGIC if magic.match(head)), None)


def kind_of_head(head: bytes) -> str | None:
    """The columnar kind that a file's first bytes show, if any."""
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def foreign_format(head: bytes) -> tuple[str, str] | None:
    """What a file that can't be read is, and what to do with it; none if its first bytes say nothing."""
    return next(((name, hint) for magic, name, hint in _FOREIGN if head.startswith(magic)), None)
