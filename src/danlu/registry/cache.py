"""Copies of versions on this disk, under `DANLU_HOME/registry-cache`, proven each time that one is asked for."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from danlu.errors import DamagedError, Fault, RegistryError
from danlu.registry.state import Version
from danlu.registry.store import Store, require_same
from danlu.runs import danlu_home, require_disk


def fetch(store: Store, version: Version) -> Path:
    """A folder with the version's files, each with the SHA-256 that it had when it was added.

    A copy that was changed here is made anew; one that others have open stays theirs.

    Raises:
        DamagedError: a stored file is another or missing; `where` names it.
        RegistryError: the store can't be reached.
    """
    from filelock import FileLock

    folder = danlu_home() / "registry-cache" / version.hash
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{version.hash}.lock")):
        if _is_whole(folder, version):
            return folder
        require_disk(folder, version.size_bytes, f"a copy of {version}")
        aside = folder.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            _download(store, version, aside)
            if folder.exists():
                old = aside.with_suffix(".old")
                folder.rename(old)
                shutil.rmtree(old, ignore_errors=True)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _download(store: Store, version: Version, folder: Path) -> None:
    for path, expected in version.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        where = f"{store.url}/{version.place}/{path}"
        if not store.download(f"{version.place}/{path}", folder / path):
            hint = "if the version was not removed just now: promote or roll back to another, and add the run again"
            raise DamagedError(Fault(f"a file of {version} is missing", where, hint=hint))
        require_same(folder / path, expected, where)


def _is_whole(folder: Path, version: Version) -> bool:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if there != set(version.files):
        return False
    try:
        for path, expected in version.files.items():
            require_same(folder / path, expected, path)
    except (DamagedError, RegistryError, OSError):
        return False
    return True
