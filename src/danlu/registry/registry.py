"""A registry of adapters: what is in it, and what may be changed in it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from danlu.errors import DamagedError, Fault, RegistryError
from danlu.registry import cache
from danlu.registry.decisions import (
    Decide,
    addition,
    promotion,
    pruning,
    removal,
    require_keep_last,
    rollback,
    same_version,
)
from danlu.registry.events import Event, told
from danlu.registry.log import Log
from danlu.registry.names import require_alias, require_name
from danlu.registry.state import State, Version
from danlu.registry.store import Store, open_store, require_same
from danlu.runs import danlu_home
from danlu.tracking.progress import say
from danlu.tracking.recorded import record

Committed = tuple[Event, State, State]
ENVIRONMENT = "DANLU_REGISTRY"
# What no event names is taken for what a writer left that was cut off; a writer that takes half of this long gives up.
_LEFTOVER_SECONDS = 24 * 3600.0


class Registry:
    """The adapters at one place; safe to use from several threads, and beside any number of other writers.

    Attributes:
        url: of the place, to be shown.
    """

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self._store = store
        self._log = Log(store)

    @classmethod
    def open(cls, url: str | None = None) -> Registry:
        """The registry at a folder or URL (`s3://BUCKET/PREFIX`); nothing is read or made yet.

        Args:
            url: default the environment's `DANLU_REGISTRY`, else `registry` in Danlu's home.

        Raises:
            RegistryError: a package for such a URL is missing.
        """
        return cls(open_store(url or os.environ.get(ENVIRONMENT) or str(danlu_home() / "registry")))

    def state(self) -> State:
        """What it holds now. Asks for new events only: one look at a file or one request if there are none.

        Raises:
            RegistryError: it can't be reached.
            DamagedError: an event is missing, torn or changed.
        """
        return self._log.state()

    def resolve(self, reference: str) -> Version:
        """`state().resolve(reference)`; see there."""
        return self.state().resolve(reference)

    def fetch(self, version: Version) -> Path:
        """The version as a folder on this disk, which `danlu.training.trained.open_run` opens.

        It has `adapter/`, `probes/`, `recipe.resolved.yaml`, `manifest.json`, `about.json`. Every file's SHA-256 is
        compared each time.

        Raises:
            DamagedError: a stored file is not what was added; `where` names it.
            RegistryError: it can't be reached, or the version was removed meanwhile.
        """
        try:
            return cache.fetch(self._store, version)
        except DamagedError:
            self._require_present(version)
            raise

    def about(self, version: Version) -> dict[str, Any]:
        """What is known of a version: `recipe`, `ledger`, `training`, `metrics`, `gate`, `parity`.

        Raises:
            DamagedError: what is stored is not what was added.
            RegistryError: it can't be reached, or the version was removed meanwhile.
        """
        with tempfile.TemporaryDirectory() as folder:
            path, stored = Path(folder, "about.json"), f"{version.place}/about.json"
            if not self._store.download(stored, path):
                self._require_present(version)
                raise DamagedError(Fault(f"a file of {version} is missing", f"{self.url}/{stored}"))
            require_same(path, version.files["about.json"], f"{self.url}/{stored}")
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def add(
        self, run_folder: str | Path, name: str, alias: str | None = None, keep_last: int | None = None
    ) -> dict[str, Any]:
        """Adds a finished run as the next version of a name. What is there already is not added twice.

        Args:
            run_folder: written by `danlu train`.
            name: of the adapter.
            alias: that names it from then on.
            keep_last: remove older versions than this many, except those that an alias names or would go back to.

        Returns:
            `reference`, `version` (its fields), `added` (false if it was there), `alias`, `removed` (references),
            `freed_bytes`, `notes`, `event`.

        Raises:
            InputError: the run, the name or the alias can't be taken; nothing of it is visible.
        """
        from danlu.registry.intake import take

        require_name(name)
        if alias is not None:
            require_alias(alias)
        require_keep_last(keep_last)
        with tempfile.TemporaryDirectory(prefix="danlu-registry-") as folder:
            content = take(run_folder, Path(folder))
            if (known := same_version(self.state(), name, content.hash)) is None:
                version = content.version(name)
                done = self._add(version, content.folder, Path(run_folder), alias, keep_last)
                if done is not None:
                    event, before, after = done
                    added = after.versions(name)[-1]
                    freed = self._freed(before, after, name)
                    return _added(added, True, alias, event.number) | freed | {"notes": content.notes}
                known = self._of_another_writer(version)
        event_number = self.promote(str(known), alias)["event"] if alias else None
        freed = self.prune(name, keep_last) if keep_last else {"removed": [], "freed_bytes": 0}
        notes = [f"the same was added before, as {known}", *content.notes]
        return freed | _added(known, False, alias, event_number) | {"notes": notes}

    def promote(self, reference: str, alias: str) -> dict[str, Any]:
        """Lets an alias name a version.

        Args:
            reference: `NAME@NUMBER` or `NAME@ALIAS`.
            alias: any valid one; made if it is new.

        Returns:
            `reference`, `alias`, `before` (what it named, or None), `changed`, `event`.

        Raises:
            RegistryError: there is no such version, or no alias can be called so.
        """
        done = self._commit(promotion(reference, alias))
        if done is None:
            named = str(self.resolve(reference))
            return {"reference": named, "alias": alias, "before": named, "changed": False, "event": None}
        return _renamed(done, alias)

    def rollback(self, name: str, alias: str) -> dict[str, Any]:
        """Lets an alias name what it named before.

        Returns:
            As `promote`.

        Raises:
            RegistryError: there is no such alias, or it named nothing before that is still there.
        """
        return _renamed(self._commit(rollback(name, alias)), alias)

    def remove(self, reference: str, force: bool = False) -> dict[str, Any]:
        """Removes a version and its files.

        Args:
            reference: `NAME@NUMBER` or `NAME@ALIAS`.
            force: also if an alias names it, which then names nothing.

        Returns:
            `removed` (references), `freed_bytes`, `aliases` (that name nothing now), `event`.

        Raises:
            RegistryError: there is no such version, or an alias names it.
        """
        done = self._commit(removal(reference, force))
        assert done is not None
        event, before, after = done
        aliases = sorted(before.aliases(event.name).keys() - after.aliases(event.name).keys())
        return {**self._freed(before, after, event.name), "aliases": aliases, "event": event.number}

    def prune(self, name: str | None = None, keep_last: int | None = None) -> dict[str, Any]:
        """Removes old versions of a name, and what writers left that were cut off more than a day ago.

        Args:
            name: of the adapter; None: leftovers alone.
            keep_last: versions that stay; those that an alias names or would go back to stay too.

        Returns:
            `removed` (references), `freed_bytes`, `leftovers` (files), `event`.

        Raises:
            RegistryError: there is no such adapter, or one is given without the other.
        """
        require_keep_last(keep_last)
        result: dict[str, Any] = {"removed": [], "freed_bytes": 0, "event": None}
        if name is not None and keep_last is not None:
            if (done := self._commit(pruning(name, keep_last))) is not None:
                result = {**self._freed(done[1], done[2], name), "event": done[0].number}
        elif name is not None or keep_last is not None:
            raise RegistryError(Fault("a name and --keep-last go together", "command line", hint="name both, or none"))
        leftovers = self._leftovers()
        self._store.remove(leftovers)
        freed = result["freed_bytes"] + sum(leftovers.values())
        return {**result, "freed_bytes": freed, "leftovers": len(leftovers)}

    def _add(
        self, version: Version, folder: Path, run: Path, alias: str | None, keep_last: int | None
    ) -> Committed | None:
        """Writes the version's files, then the event that names them; None if the same was added meanwhile."""
        self._log.require_writable()
        started = time.monotonic()
        stored = {f"{version.place}/{path}": folder / path for path in version.files}
        try:
            self._store.upload(stored)
        except BaseException:
            with contextlib.suppress(RegistryError):
                self._store.remove(stored)
            raise
        if time.monotonic() - started > _LEFTOVER_SECONDS / 2:
            raise RegistryError(Fault("the files took so long to write that they may have been tidied away", self.url))
        done = self._commit(addition(version, alias, keep_last), {"run_folder": str(run.resolve())})
        if done is None:
            self._store.remove(stored)
        return done

    def _commit(self, decide: Decide, audited: dict[str, Any] | None = None) -> Committed | None:
        """Adds the event that is decided on, and writes it to the audit log."""
        done = self._log.commit(decide)
        if done is not None:
            event = done[0]
            about = {"registry": self.url, **(audited or {}), **told(event)}
            record(f"adapter {event.kind}", {**about, "event": event.number, "event_sha256": event.hash})
        return done

    def _freed(self, before: State, after: State, name: str) -> dict[str, Any]:
        """Removes the files of versions that no state knows any more; they are gone whether that succeeds or not."""
        left = after.adapter(name).versions
        gone = [version for version in before.versions(name) if version.number not in left]
        freed = sum(version.size_bytes for version in gone)
        try:
            self._store.remove([f"{version.place}/{path}" for version in gone for path in version.files])
        except RegistryError as error:
            say(f"their files stay until `danlu registry prune`: {error.faults[0].what} ({error.faults[0].where})")
            freed = 0
        return {"removed": [str(version) for version in gone], "freed_bytes": freed}

    def _leftovers(self) -> dict[str, int]:
        """Sizes of files that writers left, and of versions that no state has; written more than a day ago."""
        found = self._store.find("versions") | self._store.find("trials")
        for folder in ("events", "snapshots"):
            files = self._store.find(folder)
            found |= {path: files[path] for path in files if path.rpartition("/")[2].startswith(".")}
        state = self.state()  # read after the files were listed: what was added meanwhile is known
        versions = [version for name in state.names() for version in state.versions(name)]
        known = {f"{version.place}/{path}" for version in versions for path in version.files}
        oldest = time.time() - _LEFTOVER_SECONDS
        return {path: one.size_bytes for path, one in found.items() if path not in known and one.written < oldest}

    def _of_another_writer(self, version: Version) -> Version:
        known = same_version(self.state(), version.name, version.hash)
        if known is None:
            what = f"another writer added the same to {version.name} and removed it again meanwhile"
            raise RegistryError(Fault(what, self.url, hint="add it once more if it is wanted"))
        return known

    def _require_present(self, version: Version) -> None:
        if self.state().adapter(version.name).versions.get(version.number) != version:
            raise RegistryError(Fault(f"{version} was removed meanwhile", self.url, hint="danlu registry list"))


def _added(version: Version, added: bool, alias: str | None, event: int | None) -> dict[str, Any]:
    return {
        "reference": str(version),
        "version": version.summary(),
        "added": added,
        "alias": alias,
        "event": event,
    }


def _renamed(done: Committed | None, alias: str) -> dict[str, Any]:
    assert done is not None
    event, before, after = done
    name, named = event.name, before.aliases(event.name).get(alias)
    return {
        "reference": f"{name}@{after.aliases(name)[alias]}",
        "alias": alias,
        "before": named and f"{name}@{named}",
        "changed": True,
        "event": event.number,
    }
