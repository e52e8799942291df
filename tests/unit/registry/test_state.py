"""Whatever is done in whatever order, the registry holds what a model of dictionaries says, for every reader."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from danlu.errors import RegistryError
from danlu.registry import State, Version
from danlu.registry.decisions import addition, promotion, pruning, removal, rollback
from danlu.registry.log import Log
from danlu.registry.names import split_reference
from danlu.registry.store import FolderStore

NAMES, ALIASES = ("support", "law"), ("production", "candidate")


def version(name: str, content: int) -> Version:
    hash = f"{content:064x}"
    return Version(
        name=name,
        number=1,
        hash=hash,
        base_name="tiny",
        base_sha256="ab" * 32,
        kind="lora",
        rank=4,
        size_bytes=10,
        added="2026-01-01T00:00:00Z",
        user="a",
        host="b",
        place=f"versions/{name}/{hash[:12]}-{hash[:32]}",
        files={"manifest.json": (hash, 10)},
    )


@dataclass
class Simple:
    """One name, as plainly as it can be said."""

    versions: dict[int, int] = field(default_factory=dict)  # content by number
    aliases: dict[str, list[int]] = field(default_factory=dict)
    last: int = 0

    def forget(self, number: int) -> None:
        del self.versions[number]
        for alias, history in list(self.aliases.items()):
            if history[-1] == number:
                del self.aliases[alias]
                continue
            kept = [one for one in history if one != number]
            self.aliases[alias] = [one for place, one in enumerate(kept) if place == 0 or one != kept[place - 1]]

    def old(self, keep_last: int) -> list[int]:
        needed = [number for history in self.aliases.values() for number in history[-2:]]
        return [number for number in sorted(self.versions)[:-keep_last] if number not in needed]


class Registries(RuleBasedStateMachine):
    """Two writers at one folder take turns; a third reader comes fresh each time."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.writers = [Log(FolderStore(Path(self.folder.name))) for _ in range(2)]
        self.model = {name: Simple() for name in NAMES}

    def teardown(self) -> None:
        self.folder.cleanup()

    def done(self, writer: int, decide: Any, allowed: bool) -> None:
        """The act is carried out or refused, as the model says."""
        if allowed:
            self.writers[writer].commit(decide)
        else:
            with pytest.raises(RegistryError):
                self.writers[writer].commit(decide)

    writer = st.integers(0, 1)
    name = st.sampled_from(NAMES)
    alias = st.sampled_from(ALIASES)
    number = st.integers(1, 12)

    @rule(w=writer, name=name, content=st.integers(0, 30), alias=st.none() | alias, keep=st.none() | st.integers(1, 3))
    def add(self, w: int, name: str, content: int, alias: str | None, keep: int | None) -> None:
        self.done(w, addition(version(name, content), alias, keep), True)
        model = self.model[name]
        if content in model.versions.values():
            return
        model.last += 1
        model.versions[model.last] = content
        if alias:
            model.aliases.setdefault(alias, []).append(model.last)
        for number in model.old(keep) if keep else []:
            model.forget(number)

    @rule(w=writer, name=name, number=number, alias=alias)
    def promote(self, w: int, name: str, number: int, alias: str) -> None:
        model = self.model[name]
        self.done(w, promotion(f"{name}@{number}", alias), number in model.versions)
        if number in model.versions and model.aliases.get(alias, [0])[-1] != number:
            model.aliases.setdefault(alias, []).append(number)

    @rule(w=writer, name=name, alias=alias)
    def rollback(self, w: int, name: str, alias: str) -> None:
        history = self.model[name].aliases.get(alias, [])
        self.done(w, rollback(name, alias), len(history) > 1)
        if len(history) > 1:
            history.pop()

    @rule(w=writer, name=name, number=number, force=st.booleans())
    def remove(self, w: int, name: str, number: int, force: bool) -> None:
        model = self.model[name]
        named = number in [history[-1] for history in model.aliases.values()]
        allowed = number in model.versions and (force or not named)
        self.done(w, removal(f"{name}@{number}", force), allowed)
        if allowed:
            model.forget(number)

    @rule(w=writer, name=name, keep=st.integers(1, 3))
    def prune(self, w: int, name: str, keep: int) -> None:
        model = self.model[name]
        self.done(w, pruning(name, keep), bool(model.versions))
        for number in model.old(keep):
            model.forget(number)

    @invariant()
    def all_see_the_same(self) -> None:
        fresh = Log(FolderStore(Path(self.folder.name)))
        for state in (log.state() for log in (*self.writers, fresh)):
            for name, model in self.model.items():
                contents = {one.number: int(one.hash, 16) for one in state.versions(name)}
                assert contents == model.versions
                assert state.aliases(name) == {alias: history[-1] for alias, history in model.aliases.items()}
                _resolves(state, name, model)


def _resolves(state: State, name: str, model: Simple) -> None:
    if not model.versions:
        with pytest.raises(RegistryError):
            state.resolve(name)
        return
    newest = max(model.versions)
    assert state.resolve(f"{name}@latest").number == newest
    assert state.resolve(name).number == model.aliases.get("production", [newest])[-1]
    for alias, history in model.aliases.items():
        assert state.resolve(f"{name}@{alias}").number == history[-1]


Registries.TestCase.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)
TestAnySequenceOfActs = Registries.TestCase


_TRICKS = ("", ".", "..", "../x", "a/b", "a\\b", "/etc", "a b", "-a", ".a", "名", "a\n", "a\0", "x" * 65, "a@b@c", "@3")
_TRICKS_BEHIND = ("", "..", "a/b", "9999999999", "٣", "²")


@pytest.mark.parametrize("word", [*_TRICKS, *(f"support@{which}" for which in _TRICKS_BEHIND)])
def test_a_name_that_could_be_a_trick_is_refused(word: str) -> None:
    with pytest.raises(RegistryError, match="can't be an"):
        split_reference(word)


def test_what_is_a_name_is_one() -> None:
    assert split_reference("support") == ("support", "")
    assert split_reference("qwen2.5_7B-law@12") == ("qwen2.5_7B-law", "12")
    assert split_reference(f"{'x' * 64}@latest") == ("x" * 64, "latest")


@pytest.mark.parametrize("alias", ["3", "latest", "", "a/b", "..", "x" * 65])
def test_an_alias_that_would_name_a_version_otherwise_is_refused(alias: str) -> None:
    with pytest.raises(RegistryError, match="can't be an alias"):
        promotion("support@1", alias)


def test_a_version_whose_event_names_a_file_elsewhere_is_no_version() -> None:
    good = version("support", 1).model_dump()
    for path in (
        "../x.json",
        "/etc/passwd",
        "adapter/../../x.json",
        "adapter/x.bin",
        "adapter/a/b.json",
        "adapter/.x.json",
    ):
        with pytest.raises(ValueError, match="pattern"):
            Version.model_validate({**good, "files": {path: ("0" * 64, 1)}})
    with pytest.raises(ValueError, match="pattern"):
        Version.model_validate({**good, "place": "versions/../../home"})
