"""What each act may do to a state: the fields of its event, None if nothing is to be done, or a refusal.

Each is decided anew when another writer was faster, so what is checked here is true of the state that it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from danlu.errors import Fault, RegistryError
from danlu.registry.names import LATEST, require_alias, require_name, split_reference
from danlu.registry.state import State, Version

Decide = Callable[[State], dict[str, Any] | None]


def same_version(state: State, name: str, hash: str) -> Version | None:
    """The newest version of a name with a hash."""
    return next((version for version in reversed(state.versions(name)) if version.hash == hash), None)


def addition(version: Version, alias: str | None, keep_last: int | None) -> Decide:
    """The next version of its name, unless the same is there already.

    Args:
        version: with any number.
        alias: that names it from then on.
        keep_last: how many versions stay, beside those that an alias names or would go back to.
    """

    def decide(state: State) -> dict[str, Any] | None:
        if same_version(state, version.name, version.hash):
            return None
        adapter = state.adapter(version.name)
        next_one = version.model_copy(update={"number": adapter.last_number + 1})
        after = adapter.with_version(next_one)
        after = after.with_alias(alias, next_one.number) if alias else after
        removed = after.beyond(keep_last) if keep_last else ()
        return {"kind": "added", "name": version.name, "version": next_one, "alias": alias, "removed": removed}

    return decide


def promotion(reference: str, alias: str) -> Decide:
    """An alias names a version, unless it does already.

    Raises:
        RegistryError: no alias can be called so, or the reference says no version; the decision, that there is none.
    """
    require_alias(alias)
    _require_version(reference)

    def decide(state: State) -> dict[str, Any] | None:
        version = state.resolve(reference)
        if state.aliases(version.name).get(alias) == version.number:
            return None
        return {"kind": "promoted", "name": version.name, "alias": alias, "version": version.number}

    return decide


def rollback(name: str, alias: str) -> Decide:
    """An alias names what it named before.

    Raises:
        RegistryError: a name is no name; the decision, that there is nothing to go back to.
    """
    require_name(name)
    require_alias(alias)

    def decide(state: State) -> dict[str, Any]:
        state.resolve(f"{name}@{alias}")
        history = state.adapter(name).aliases[alias]
        if len(history) < 2:
            what = f"{alias} named nothing before {name}@{history[-1]} that is still there"
            raise RegistryError(Fault(what, f"{name}@{alias}", hint=f"danlu registry promote {name}@N {alias}"))
        return {"kind": "rolled back", "name": name, "alias": alias, "version": history[-2]}

    return decide


def removal(reference: str, force: bool) -> Decide:
    """A version is gone, and with `force` also the aliases that name it.

    Raises:
        RegistryError: the reference says no version; the decision, that there is none, or that an alias names it.
    """
    _require_version(reference)

    def decide(state: State) -> dict[str, Any]:
        version = state.resolve(reference)
        named = state.adapter(version.name).named().get(version.number, [])
        if named and not force:
            what = f"{version} is what {', '.join(named)} names"
            raise RegistryError(Fault(what, reference, hint="promote or roll back first, or add --force"))
        return {"kind": "removed", "name": version.name, "versions": [version.number]}

    return decide


def pruning(name: str, keep_last: int) -> Decide:
    """Older versions than the newest `keep_last` are gone, except those that an alias names or would go back to."""
    require_name(name)

    def decide(state: State) -> dict[str, Any] | None:
        state.resolve(f"{name}@{LATEST}")
        versions = state.adapter(name).beyond(keep_last)
        return {"kind": "removed", "name": name, "versions": versions} if versions else None

    return decide


def require_keep_last(keep_last: int | None) -> None:
    """Requires that something is kept.

    Raises:
        RegistryError: nothing would be.
    """
    if keep_last is not None and keep_last < 1:
        raise RegistryError(Fault(f"--keep-last {keep_last} keeps nothing", "command line", "1 or more", "raise it"))


def _require_version(reference: str) -> None:
    """Requires that a version is said: what a bare name means may change under a writer's hands."""
    name, which = split_reference(reference)
    if not which:
        what = f"{name} alone does not say which version"
        raise RegistryError(Fault(what, "command line", "NAME@NUMBER, NAME@ALIAS", f"danlu registry show {name}"))
