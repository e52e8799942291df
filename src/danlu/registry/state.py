"""What a registry holds at one moment, and what each event makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from danlu.errors import Fault, RegistryError
from danlu.registry.names import LATEST, NAME_PATTERN, PRODUCTION, split_reference

# What a version's folder may hold; nothing else is ever written from a registry to a disk.
_PATH = (
    r"^(adapter/[A-Za-z0-9_-][A-Za-z0-9._-]*\.(json|safetensors)|probes/(probes\.json|logits\.safetensors)"
    r"|recipe\.resolved\.yaml|manifest\.json|about\.json)$"
)
_REMEMBERED = 50  # versions that an alias named before

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FilePath = Annotated[str, Field(pattern=_PATH)]
Number = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Frozen):
    """One adapter as it was added; never changes.

    Attributes:
        name: of the adapter.
        number: counts from 1; never given twice.
        hash: SHA-256 over all that it holds, so that equal hashes mean the same adapter, base, recipe and probes.
        base_name: as the recipe names the base.
        base_sha256: of the base's weights, as `danlu.training.trained.base_hash` gives it.
        kind: `lora`, `ia3`, ...
        rank: the largest of any module; None for kinds without one.
        size_bytes: of all its files.
        added: when, in UTC.
        user: who added it.
        host: where.
        place: its folder in the registry.
        files: SHA-256 and size of each file, by path in that folder.
    """

    name: Name
    number: Number
    hash: Sha256
    base_name: str
    base_sha256: Sha256
    kind: str
    rank: int | None
    size_bytes: int
    added: str
    user: str
    host: str
    place: Annotated[str, Field(pattern=r"^versions/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9a-f]{12}-[0-9a-f]{32}$")]
    files: dict[FilePath, tuple[Sha256, int]]

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.model_dump(mode="json", exclude={"files", "place"}), "files": sorted(self.files)}


class Adapter(_Frozen):
    """The versions of one name.

    Attributes:
        versions: by number.
        aliases: for each, the versions that it named, the present one last.
        last_number: the highest number that was ever given.
    """

    versions: dict[int, Version] = {}
    aliases: dict[Name, tuple[int, ...]] = {}
    last_number: int = 0

    def named(self) -> dict[int, list[str]]:
        """The aliases that name each version, by its number."""
        found: dict[int, list[str]] = {}
        for alias, history in sorted(self.aliases.items()):
            found.setdefault(history[-1], []).append(alias)
        return found

    def beyond(self, keep_last: int) -> tuple[int, ...]:
        """Numbers of versions that are older than the newest `keep_last`, and that no alias names or goes back to."""
        kept = {number for history in self.aliases.values() for number in history[-2:]}
        return tuple(number for number in sorted(self.versions)[:-keep_last] if number not in kept)

    def with_version(self, version: Version) -> Adapter:
        """One more."""
        versions = {**self.versions, version.number: version}
        return self.model_copy(update={"versions": versions, "last_number": version.number})

    def with_alias(self, alias: str, number: int) -> Adapter:
        """The alias names another version from here on."""
        history = (*self.aliases.get(alias, ()), number)[-_REMEMBERED:]
        return self.model_copy(update={"aliases": {**self.aliases, alias: history}})

    def rolled_back(self, alias: str) -> Adapter:
        """The alias names what it named before."""
        return self.model_copy(update={"aliases": {**self.aliases, alias: self.aliases[alias][:-1]}})

    def without(self, numbers: Iterable[int]) -> Adapter:
        """Some fewer; an alias that names one of them is gone, and none can go back to one of them."""
        gone = set(numbers)
        versions = {number: version for number, version in self.versions.items() if number not in gone}
        aliases = {alias: _without(history, gone) for alias, history in self.aliases.items() if history[-1] not in gone}
        return self.model_copy(update={"versions": versions, "aliases": aliases})


def _without(history: tuple[int, ...], gone: set[int]) -> tuple[int, ...]:
    left: list[int] = []
    for number in history:
        if number not in gone and left[-1:] != [number]:
            left.append(number)
    return tuple(left)


class State(_Frozen):
    """All names, after some number of events.

    Attributes:
        number: of the last event; 0 before the first.
        hash: of the last event.
        adapters: by name; also names whose versions were all removed.
    """

    number: int = 0
    hash: Sha256 = "0" * 64
    adapters: dict[Name, Adapter] = {}

    def names(self) -> list[str]:
        """Those that have versions."""
        return sorted(name for name, adapter in self.adapters.items() if adapter.versions)

    def versions(self, name: str) -> list[Version]:
        """All of a name, oldest first; none if there is no such name."""
        return [version for _, version in sorted(self.adapter(name).versions.items())]

    def aliases(self, name: str) -> dict[str, int]:
        """The number of the version that each alias of a name names."""
        return {alias: history[-1] for alias, history in sorted(self.adapter(name).aliases.items())}

    def adapter(self, name: str) -> Adapter:
        """What is known of a name; an empty one if nothing is."""
        return self.adapters.get(name) or Adapter()

    def resolve(self, reference: str) -> Version:
        """The version that is meant.

        Args:
            reference: `NAME@NUMBER`, `NAME@ALIAS`, `NAME@latest`, or `NAME`: its `production`, else the newest.

        Raises:
            RegistryError: there is none; the message says which there are.
        """
        name, which = split_reference(reference)
        adapter = self.adapter(name)
        if not adapter.versions:
            has = ", ".join(self.names()) or "none yet"
            raise _unknown(f"there is no adapter {name}", reference, has, "danlu registry list")
        number = self._number(adapter, which)
        if number not in adapter.versions:
            has = ", ".join([*map(str, sorted(adapter.versions)), *sorted(adapter.aliases)])
            raise _unknown(f"{name} has no version or alias {which}", reference, has, f"danlu registry show {name}")
        return adapter.versions[number]

    @staticmethod
    def _number(adapter: Adapter, which: str) -> int:
        if which.isdigit():
            return int(which)
        history = adapter.aliases.get(which or PRODUCTION)
        if history:
            return history[-1]
        return max(adapter.versions) if which in ("", LATEST) else 0

    def with_adapter(self, name: str, adapter: Adapter) -> State:
        """The same with one name changed."""
        return self.model_copy(update={"adapters": {**self.adapters, name: adapter}})


def _unknown(what: str, where: str, allowed: str, hint: str) -> RegistryError:
    return RegistryError(Fault(what, where, allowed, hint))
