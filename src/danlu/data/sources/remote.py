"""Files behind a URL: S3, Google Cloud Storage, HTTP and whatever else fsspec knows."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from danlu.data.sources.blocks import changed
from danlu.data.sources.kinds import Source, is_http
from danlu.errors import DataError, Fault
from danlu.runs import danlu_home, require_disk

_PACKAGES = {
    "s3": "danlu[s3]",
    "s3a": "danlu[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
# Errors of the libraries under fsspec that are not OSErrors; looked up where the library is loaded.
_FOREIGN_ERRORS = (
    ("asyncio", "TimeoutError"),  # an OSError from Python 3.11 on
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
_TAGS = ("ETag", "etag", "md5Hash", "checksum", "LastModified", "last_modified", "mtime", "created", "generation")


@contextmanager
def remote_files(url: str, shown: str) -> Iterator[tuple[Any, str]]:
    """The file system that a URL names, and the path in it.

    Raises:
        DataError: no package for it is installed, or whatever fails while it is in use.
    """
    protocol = url.partition("://")[0].lower()
    try:
        fsspec: Any = import_module("fsspec")
        system, path = fsspec.core.url_to_fs(url)
        # Listings are kept by some file systems; a changed file must be seen.
        system.invalidate_cache()
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        raise DataError(
            Fault(
                f"reading {protocol}:// needs a package that is not installed: {' '.join(str(error).split())}",
                shown,
                "a file on this disk, or a URL whose package is installed",
                f"pip install '{package}'" if package else "install the package, or copy the file here",
            )
        ) from error
    except _errors() as error:
        raise DataError(_fault(error, shown)) from error
    try:
        yield system, path
    except _errors() as error:
        raise DataError(_fault(error, shown)) from error


def list_remote(url: str, shown: str) -> tuple[list[str], bool]:
    """The URLs of all files that a URL stands for, and whether it is one file's own.

    A pattern gives what matches it, a folder all that is in it, however deep.

    Raises:
        DataError: the place can't be reached, or nothing is there.
    """
    with remote_files(url, shown) as (system, path):
        if is_http(url):  # there are no folders there
            system.info(path)
            return [url], True
        if any(mark in path for mark in "*?["):
            found = [item for item in system.glob(path) if not system.isdir(item)]
        elif system.isdir(path):
            found = system.find(path)
        else:
            system.info(path)
            return [url], True
        return sorted(system.unstrip_protocol(item) for item in found), False


def remote_tag(source: Source) -> str:
    """What changes when the file does: its size with its ETag or time of change; "" if the server tells neither."""
    with remote_files(source.path, source.shown) as (system, path):
        info = system.info(path)
        known = {key: str(info[key]) for key in _TAGS if info.get(key)}
        return f"{info.get('size')} {sorted(known.items())}" if known else ""


def remote_fingerprint(source: Source) -> str:
    """SHA-256 of the file's tag, or of its content if it has none."""
    tag = remote_tag(source)
    if tag:
        return "tag:" + hashlib.sha256(tag.encode()).hexdigest()
    digest = hashlib.sha256()
    with remote_files(source.path, source.shown) as (system, path), system.open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def fetched(source: Source) -> Iterator[Path]:
    """A copy on this disk, for as long as it is used.

    A copy, because the content is gone through more than once, and so that all rows are of one version of the file.

    Raises:
        DataError: it can't be fetched, or changed meanwhile.
        ResourceError: the disk can't hold it.
    """
    folder = danlu_home() / "downloads"
    before = remote_tag(source)
    with remote_files(source.path, source.shown) as (system, path):
        size = system.info(path).get("size") or 0
    require_disk(folder, int(size * 1.05), f"a copy of {source.shown}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        copy = Path(place) / (Path(source.shown).name or "data")
        with (
            remote_files(source.path, source.shown) as (system, path),
            system.open(path, "rb") as stream,
            copy.open("wb") as target,
        ):
            shutil.copyfileobj(stream, target, 1 << 20)
        # Over HTTP the size may be that of packed content.
        cut = bool(size) and not is_http(source.path) and copy.stat().st_size != size
        if cut or remote_tag(source) != before:
            raise changed(source.shown)
        yield copy


def _errors() -> tuple[type[BaseException], ...]:
    found = [getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN_ERRORS]
    return (OSError, ValueError, NotImplementedError, *(error for error in found if error))


def _fault(error: BaseException, shown: str) -> Fault:
    if isinstance(error, FileNotFoundError):
        return Fault("no such data file", shown, "a URL that can be read from here", "check the URL")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return Fault(
        f"can't read from there: {type(error).__name__}: {reason}",
        shown,
        "a URL that can be read from here",
        "check the URL, the network and the keys (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like for S3)",
    )
