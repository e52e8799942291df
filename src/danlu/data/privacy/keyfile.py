"""The key file of a reversible masking: the secret that makes the tokens, and what each token stands for."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from danlu.errors import DataError, Fault

_SECRET_BYTES = 32
# A folder with one of these is a run, prepared data, a registry or a repository: all of them are passed on to others.
_FOLDER_MARKS = (".git", "manifest.json", "registry.json", "registry.sqlite")
_HINT = "set data.masking.key_file to a path in a folder of your own, such as ~/.danlu-keys/NAME.json"


class KeyFile:
    """A key file, made with a new secret where there is none.

    Args:
        path: the file; its folder is made with mode 0700, the file with mode 0600.
        outside: folders that it must not lie in, such as the prepared folder that is being made.

    Attributes:
        path: the file.
        secret: 32 bytes.
        tokens: token → original, of every masking that used this file.

    Raises:
        DataError: others may read it, it lies in a folder that is passed on, it is no key file, or can't be written.
    """

    def __init__(self, path: Path, *, outside: Sequence[Path] = ()) -> None:
        self.path = path.expanduser().resolve()
        _require_private_folder(self.path, outside)
        self.secret, self.tokens = self._read_or_create()

    @property
    def secret_fingerprint(self) -> str:
        """16 hexadecimal digits that tell secrets apart and give nothing of them away; for cache keys."""
        return hashlib.sha256(b"danlu masking secret\0" + self.secret).hexdigest()[:16]

    def add(self, tokens: Mapping[str, str]) -> None:
        """Adds tokens to those in the file, in one step: a reader sees the file before or after.

        Raises:
            DataError: a token stands for something else already, or the file can't be written.
        """
        with _locked(self.path.parent):
            # Read again: another masking may have added tokens since.
            secret, there = self._read_existing()
            clash = next((token for token, value in tokens.items() if there.get(token, value) != value), None)
            if secret != self.secret or clash:
                what = f"{clash} stands for something else already" if clash else "its secret was changed"
                raise DataError(
                    Fault(f"the key file does not belong to this masking: {what}", str(self.path), hint=_HINT)
                )
            self.tokens = {**there, **tokens}
            self._write_anew()

    def _read_or_create(self) -> tuple[bytes, dict[str, str]]:
        try:
            return self._read()
        except FileNotFoundError:
            pass
        secret = secrets.token_bytes(_SECRET_BYTES)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(self.path, _as_json(secret, {}))
        except FileExistsError:  # another process was quicker; its secret counts
            return self._read()
        except OSError as error:
            raise self._unwritable(error) from error
        return secret, {}

    def _read_existing(self) -> tuple[bytes, dict[str, str]]:
        try:
            return self._read()
        except FileNotFoundError as error:
            raise DataError(
                Fault("the key file is gone", str(self.path), hint="put it back: it alone can restore")
            ) from error

    def _read(self) -> tuple[bytes, dict[str, str]]:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(Fault(f"the key file can't be read: {error.strerror}", str(self.path))) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DataError(
                Fault(
                    "others can read the key file",
                    str(self.path),
                    allowed="mode 0600: its owner alone",
                    hint=f"chmod 600 {self.path} - and make a new key if someone may have read it",
                )
            )
        try:
            content = json.loads(text)
            secret = base64.b64decode(content["secret"], validate=True)
            tokens = dict(content["tokens"])
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise DataError(
                Fault("this is not a key file of a masking", str(self.path), allowed="JSON: secret, tokens", hint=_HINT)
            ) from error
        if len(secret) < _SECRET_BYTES:
            raise DataError(Fault("the key file's secret is too short", str(self.path), hint=_HINT))
        return secret, tokens

    def _write_anew(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            try:
                _write_new(beside, _as_json(self.secret, self.tokens))
                os.replace(beside, self.path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(Fault(f"the key file can't be written: {error.strerror}", str(self.path), hint=_HINT))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock is on the folder, for the file itself is replaced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _as_json(secret: bytes, tokens: Mapping[str, str]) -> bytes:
    content = {"secret": base64.b64encode(secret).decode(), "tokens": dict(sorted(tokens.items()))}
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _write_new(path: Path, content: bytes) -> None:
    """Writes a file that was not there, readable by the owner alone from its first byte on."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _require_private_folder(path: Path, outside: Sequence[Path]) -> None:
    forbidden = {folder.expanduser().resolve() for folder in outside}
    for folder in path.parents:
        mark = next((mark for mark in _FOLDER_MARKS if (folder / mark).exists()), None)
        if mark or folder in forbidden:
            raise DataError(
                Fault(
                    f"the key file would lie in a folder that is passed on: {folder}{f' has {mark}' if mark else ''}",
                    str(path),
                    allowed="a folder outside repositories, prepared, run and registry folders",
                    hint=_HINT,
                )
            )
