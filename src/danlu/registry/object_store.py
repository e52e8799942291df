"""Object storage through fsspec: S3 and what speaks like it; others whose file systems can create conditionally."""

from __future__ import annotations

import contextlib
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from danlu.errors import Fault, RegistryError
from danlu.registry.store import Found

_PACKAGES = {"s3": "danlu[s3]", "s3a": "danlu[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# Errors of the libraries under fsspec that are not OSErrors; looked up where the library is loaded.
_FOREIGN_ERRORS = (
    ("asyncio", "TimeoutError"),  # an OSError from Python 3.11 on
    ("fsspec.exceptions", "FSTimeoutError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
)
_TAKEN = (409, 412)  # another is writing it; it is there
_REACH = "check the URL, the network and the keys (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like for S3)"


class ObjectStore:
    """A prefix of a bucket. Objects appear whole, and `create` is a put that the server makes only if none is there.

    Args:
        url: as in `s3://bucket/prefix`.
    """

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"//[^/@]*@", "//", url).rstrip("/")  # no keys in messages
        protocol = url.partition("://")[0]
        try:
            fsspec: Any = import_module("fsspec")
            options = {"use_listings_cache": False} if protocol in ("s3", "s3a", "gs", "gcs") else {}
            with self._told(""):
                self._system, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            package = _PACKAGES.get(protocol, "")
            what = f"a registry on {protocol}:// needs a package that is not installed"
            hint = f"pip install '{package}'" if package else "install it, or take a folder"
            raise RegistryError(Fault(what, self.url, "a folder, s3://BUCKET/PREFIX", hint)) from error

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with self._told(path):
            try:
                content: bytes = self._system.cat_file(self._place(path))
            except FileNotFoundError:
                return None
            return content

    def create(self, path: str, data: bytes) -> bool:
        """See `Store`."""
        with self._told(path):
            try:
                self._system.pipe_file(self._place(path), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _status(error) in _TAKEN:
                    return False
                raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        """See `Store`."""
        with self._told(path):
            self._system.pipe_file(self._place(path), data)

    def upload(self, sources: Mapping[str, Path]) -> None:
        """See `Store`; several at once."""
        with self._told(""):
            self._system.put([str(source) for source in sources.values()], [self._place(path) for path in sources])

    def download(self, path: str, target: Path) -> bool:
        """See `Store`."""
        with self._told(path):
            try:
                self._system.get_file(self._place(path), str(target))
            except FileNotFoundError:
                return False
        return True

    def find(self, folder: str) -> dict[str, Found]:
        """See `Store`."""
        with self._told(folder):
            self._system.invalidate_cache()
            found = self._system.find(self._place(folder), detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: Found(about.get("size") or 0, _written(about)) for path, about in found.items()}

    def remove(self, paths: Iterable[str]) -> None:
        """See `Store`."""
        places = [self._place(path) for path in paths]
        with self._told(places[0] if places else ""), contextlib.suppress(FileNotFoundError):
            if places:
                self._system.rm(places)

    def require_exclusive(self) -> None:
        """Creates an object twice: the second time must be refused."""
        path = f"trials/{uuid.uuid4().hex}"
        try:
            first, second = self.create(path, b"1"), self.create(path, b"2")
            if not first or second or self.read(path) != b"1":
                what = "this storage overwrites what is there even when it is asked not to (If-None-Match: *)"
                hint = "take a server that honours conditional puts, or a folder: two writers would lose changes here"
                raise RegistryError(Fault(what, self.url, "AWS S3, SeaweedFS, MinIO, Ceph of late", hint))
        finally:
            with contextlib.suppress(RegistryError):
                self.remove([path])

    def _place(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except _errors() as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            what = f"the registry's storage can't be used: {type(error).__name__}: {reason}"
            where = f"{self.url}/{path}".rstrip("/")
            raise RegistryError(
                Fault(what, where, "a bucket that can be read and written from here", _REACH)
            ) from error


def _status(error: BaseException) -> int | None:
    """The HTTP status under an error of fsspec's."""
    response = getattr(error.__cause__, "response", None)
    status: int | None = (response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _written(about: dict[str, Any]) -> float:
    moment: Any = about.get("LastModified") or about.get("updated") or about.get("created")
    if moment is None:
        return float("inf")  # never old enough to go
    return float(moment.timestamp()) if hasattr(moment, "timestamp") else float(moment)


def _errors() -> tuple[type[BaseException], ...]:
    found = [getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN_ERRORS]
    return (OSError, ValueError, NotImplementedError, *(error for error in found if error))
