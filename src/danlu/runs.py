"""Folders that a stage writes: made once, filled, and closed with a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from danlu.errors import Fault, FolderError, ResourceError

MANIFEST = "manifest.json"
# What else lies in a run folder: the recipe as it was resolved, what was trained beside the base or instead of it,
# and what a run goes on from.
RESOLVED, ADAPTER, MODEL, CHECKPOINTS = "recipe.resolved.yaml", "adapter", "model", "checkpoints"


def danlu_home() -> Path:
    """Where Danlu keeps converted models and prepared data: `DANLU_HOME`, or `~/.cache/danlu`."""
    return Path(os.environ.get("DANLU_HOME") or "~/.cache/danlu").expanduser()


def create_folder(folder: Path, purpose: str, key: str) -> Path:
    """Makes a new, empty folder.

    Args:
        folder: must not exist, or be empty.
        purpose: what it is for, as in "run folder".
        key: what the user can set to choose another one.

    Raises:
        FolderError: it holds something already, or can't be made.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FolderError(
                Fault(
                    f"the {purpose} exists and is {'not empty' if folder.is_dir() else 'a file'}",
                    str(folder),
                    "a folder that is new or empty; nothing is overwritten",
                    f"choose another with {key}, or remove it: rm -r {shlex.quote(str(folder))}",
                )
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(
            Fault(f"can't make the {purpose}: {error.strerror}", str(folder), hint=f"choose another with {key}")
        ) from error
    return folder


def next_free_folder(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ...: the first that is new or empty."""
    candidate, number = folder, 1
    while os.path.exists(candidate) and (not candidate.is_dir() or any(candidate.iterdir())):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def require_disk(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Stops before anything is written if the disk can't hold it.

    Raises:
        ResourceError: fewer than `needed_bytes` bytes are free where `folder` is or will be.
    """
    place = folder
    while not os.path.exists(place):  # Path.exists() raises for a name that is too long
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            Fault(
                f"not enough disk for {purpose}: {needed_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free",
                str(place),
                hint="free some space, or choose a folder on another disk",
            )
        )


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Half characters, as file names can hold, are written as escapes: in JSON they are its own.
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def changed_files(folder: Path, files: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Which of the names are no file in the folder, or another one than `files` of a manifest has."""

    def is_there(name: str) -> bool:
        path = folder / name
        return name in files and path.is_file() and file_hash(path) == files[name]["sha256"]

    return [name for name in names if not is_there(name)]


def write_manifest(folder: Path, kind: str, about: dict[str, Any], skip: Iterable[str] = ()) -> None:
    """Closes a folder: its files with size and SHA-256, and what it is. Written last, so it means complete."""
    skipped = {MANIFEST, *skip}
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in skipped
    }
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(folder / MANIFEST, {"kind": kind, "written": written, **about, "files": files})


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a complete folder.

    Raises:
        FolderError: the folder is missing, incomplete, or of another kind.
    """
    if not os.path.isdir(folder):
        raise FolderError(Fault("no such folder", str(folder), f"a {kind} folder", "check the path"))
    path = folder / MANIFEST
    if not path.is_file():
        raise FolderError(
            Fault(
                f"this is not a complete {kind} folder: it has no {MANIFEST}",
                str(folder),
                hint=f"name a {kind} folder; if it is one, its making was stopped or failed: make it anew",
            )
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["kind"]
    except (ValueError, KeyError, TypeError) as error:
        hint = "move the folder aside, and make it anew"
        raise FolderError(Fault("the manifest can't be read", str(path), hint=hint)) from error
    if found != kind:
        raise FolderError(
            Fault(f"this is not a {kind} folder but a {found} one", str(folder), hint=f"name a {kind} folder")
        )
    return manifest
