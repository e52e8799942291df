"""Where adapters come from: the registry, or run folders as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from danlu.errors import Fault, InputError
from danlu.runs import MANIFEST, changed_files, file_hash, read_manifest


class Edition(Protocol):
    """One version of an adapter; `str()` gives `name@number`."""

    @property
    def name(self) -> str:
        """Of the adapter."""
        ...

    @property
    def number(self) -> int:
        """Counted from 1."""
        ...

    @property
    def hash(self) -> str:
        """Over everything in it."""
        ...


class Listing(Protocol):
    """What there is at one moment; never changes."""

    @property
    def number(self) -> int:
        """Another with each change."""
        ...

    def names(self) -> Sequence[str]:
        """All adapters."""
        ...

    def versions(self, name: str) -> Sequence[Edition]:
        """An adapter's, oldest first."""
        ...

    def aliases(self, name: str) -> Mapping[str, int]:
        """An adapter's, with their versions."""
        ...

    def resolve(self, text: str) -> Edition:
        """What `name`, `name@number` or `name@alias` means.

        Raises:
            InputError: nothing.
        """
        ...


class Catalogue(Protocol):
    """Where adapters come from."""

    def state(self) -> Listing:
        """What there is now; cheap, the same object if nothing changed."""
        ...

    def fetch(self, edition: Edition) -> Path:
        """A folder of this disk that holds it: `adapter/`, `probes/`, recipe and manifest; its files are checked."""
        ...


@dataclass(frozen=True)
class RunEdition:
    """A run folder, served under its own name as the first version of it."""

    folder: Path
    name: str
    hash: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class RunFolders:
    """Run folders as a catalogue, and as what is listed in it: they do not change."""

    runs: Mapping[str, RunEdition]
    number: int = 0

    def state(self) -> RunFolders:
        """Itself."""
        return self

    def fetch(self, edition: Edition) -> Path:
        """The run folder; its files must still be those of its manifest.

        Raises:
            InputError: a file of the adapter's or of the probes' has changed.
        """
        folder = self.runs[edition.name].folder
        files = read_manifest(folder, "run")["files"]
        served = [name for name in files if name.startswith(("adapter/", "probes/"))]
        for name in changed_files(folder, files, served):
            hint = "copy the run again, or train anew"
            raise InputError(Fault("this file is not what the run wrote", str(folder / name), hint=hint))
        return folder

    def names(self) -> list[str]:
        """Of the folders."""
        return list(self.runs)

    def versions(self, name: str) -> list[RunEdition]:
        """The one."""
        return [self.runs[name]]

    def aliases(self, name: str) -> dict[str, int]:
        """None."""
        return {}

    def resolve(self, text: str) -> RunEdition:
        """What `name` or `name@1` means."""
        name, _, number = text.partition("@")
        if name not in self.runs or number not in ("", "1", "latest"):
            raise InputError(Fault(f"no model {text}", allowed=", ".join(self.runs), hint="see /v1/models"))
        return self.runs[name]


def run_folders(folders: Sequence[str | Path]) -> RunFolders:
    """A catalogue of run folders.

    Raises:
        FolderError: one is no complete run.
        InputError: two have one name.
    """
    runs: dict[str, RunEdition] = {}
    for folder in map(Path, folders):
        read_manifest(folder, "run")
        name = folder.resolve().name
        if name in runs:
            hint = "rename one of the folders, or add both to the registry under names of their own"
            raise InputError(Fault(f"two runs are named {name}", f"{runs[name].folder}, {folder}", hint=hint))
        runs[name] = RunEdition(folder, name, file_hash(folder / MANIFEST))
    return RunFolders(runs)
