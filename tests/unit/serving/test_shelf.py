"""Names go over to other versions when these are proven, requests keep theirs, what is refused changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from danlu.errors import DanluError, Fault, GateError, InputError
from danlu.serving.shelf import Shelf


@dataclass(frozen=True)
class Edition:
    name: str
    number: int

    @property
    def hash(self) -> str:
        return f"{self.name}-{self.number}"

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Listing:
    number: int
    counts: Mapping[str, int]
    named: Mapping[str, Mapping[str, int]]

    def names(self) -> Sequence[str]:
        return list(self.counts)

    def versions(self, name: str) -> Sequence[Edition]:
        return [Edition(name, number + 1) for number in range(self.counts[name])]

    def aliases(self, name: str) -> Mapping[str, int]:
        return self.named.get(name, {})

    def resolve(self, text: str) -> Edition:
        name, _, what = text.partition("@")
        if name not in self.counts:
            raise InputError(Fault(f"no {text}"))
        number = self.aliases(name).get(what or "production", self.counts[name] if not what else 0)
        return Edition(name, int(what) if what.isdigit() else number)


@dataclass
class Store:
    """A catalogue whose listing a test changes."""

    counts: dict[str, int] = field(default_factory=lambda: {"law": 3})
    named: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: int = 0

    def state(self) -> Listing:
        return Listing(self.changes, dict(self.counts), {name: dict(one) for name, one in self.named.items()})

    def promote(self, name: str, number: int, alias: str = "production") -> None:
        self.named.setdefault(name, {})[alias] = number
        self.changes += 1

    def fetch(self, edition: Edition) -> Path:
        return Path(str(edition))


@dataclass
class Engine:
    """Notes what is loaded."""

    loaded: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    proofs: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def load(self, name: str, folder: Path, proven: bool) -> None:
        time.sleep(self.seconds)
        if name in self.broken:
            raise GateError(Fault("logits: differ by up to 3", str(folder)), result={})
        assert name not in self.loaded
        self.proofs += [] if proven else [name]
        self.loaded.append(name)

    def unload(self, name: str) -> None:
        self.loaded.remove(name)


def make(max_loaded: int = 16) -> tuple[Store, Engine, Shelf, list[str]]:
    store, engine, swaps = Store(), Engine(), []  # type: ignore[var-annotated]
    return store, engine, Shelf(store, engine, ("base", "b" * 64), max_loaded, swaps.append), swaps


def test_a_promotion_is_seen_and_a_request_keeps_the_version_that_it_began_with() -> None:
    store, engine, shelf, swaps = make()
    store.promote("law", 1)
    assert shelf.refresh()
    before = shelf.take("law")
    store.promote("law", 2)
    assert shelf.take("law").label == "law@1", "nobody has looked yet"
    assert shelf.refresh()
    assert not shelf.refresh()
    assert shelf.take("law").label == "law@2"
    assert before.adapter in engine.loaded
    store.promote("law", 1)
    shelf.refresh()
    assert shelf.take("law").label == "law@1"
    assert engine.proofs == ["law-1", "law-2"], "what was proven is not proven again"
    assert swaps.count("swapped") == 6  # law and law@production, each time


def test_a_version_that_is_refused_leaves_the_one_before_in_its_place() -> None:
    store, engine, shelf, swaps = make()
    store.promote("law", 1)
    shelf.refresh()
    engine.broken.add("law-2")
    store.promote("law", 2)
    shelf.refresh()
    assert shelf.take("law").label == "law@1"
    assert "law@2 is refused: logits: differ by up to 3" in shelf.faults[0]
    assert "law@1 answers law" in shelf.faults[0]
    assert swaps[-1] == "refused"
    with pytest.raises(GateError):
        shelf.take("law@2")
    store.promote("law", 3)
    shelf.refresh()
    assert shelf.take("law").label == "law@3"
    assert shelf.faults == []


def test_what_is_refused_from_the_start_says_why() -> None:
    _, engine, shelf, _ = make()
    engine.broken.add("law-3")
    shelf.refresh()
    with pytest.raises(InputError, match="law is not served: law@3 is refused"):
        shelf.take("law")
    with pytest.raises(GateError):
        make_strict(engine)


def make_strict(engine: Engine) -> None:
    Shelf(Store(), engine, ("base", "b")).refresh(strict=True)


def test_only_so_many_stay_loaded_and_none_that_is_used_goes() -> None:
    store, engine, shelf, _ = make(max_loaded=2)
    store.counts = {"a": 1, "b": 1, "c": 1}
    shelf.refresh()
    assert len(engine.loaded) == 2
    leases = [shelf.take(name) for name in "abc"]
    assert sorted(engine.loaded) == ["a-1", "b-1", "c-1"]
    shelf.give_back(leases[1])
    shelf.make_room()
    assert sorted(engine.loaded) == ["a-1", "c-1"]
    with shelf.leased("b") as lease:
        assert lease.label == "b@1"


def test_versions_that_no_name_means_go_first() -> None:
    store, engine, shelf, _ = make(max_loaded=2)
    store.promote("law", 1)
    shelf.refresh()
    shelf.give_back(shelf.take("law@2"))
    shelf.give_back(shelf.take("law"))
    shelf.give_back(shelf.take("law@2"))
    shelf.give_back(shelf.take("law@3"))
    assert sorted(engine.loaded) == ["law-1", "law-3"]


def test_many_who_ask_at_once_load_it_once() -> None:
    _, engine, shelf, _ = make()
    shelf.refresh()
    engine.seconds = 0.05
    labels: list[str] = []
    threads = [threading.Thread(target=lambda: labels.append(shelf.take("law@1").label)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels == ["law@1"] * 8
    assert engine.loaded.count("law-1") == 1


def test_a_name_that_is_removed_is_asked_for_in_vain() -> None:
    store, _, shelf, _ = make()
    shelf.refresh()
    del store.counts["law"]
    store.changes += 1
    shelf.refresh()
    for text in ("law", "law@1", "", "../law", "law@@1"):
        with pytest.raises(DanluError):
            shelf.take(text)
    assert shelf.take("base").adapter is None
    assert shelf.served() == {"base": "base"}


def test_who_asks_between_a_removal_and_the_next_look_gets_what_the_name_means_by_then() -> None:
    store, engine, shelf, _ = make(max_loaded=1)
    store.promote("law", 2)
    shelf.refresh()
    shelf.give_back(shelf.take("law@1"))
    with shelf.leased("law@1"), shelf.leased("law@3"):
        shelf.make_room()
        assert "law-2" not in engine.loaded, "others needed the room"
        engine.broken.add("law-2")  # as a version is that was removed
        store.promote("law", 3)
        assert shelf.take("law").label == "law@3"
