"""Two processes change one registry at the same time; afterwards its log is gone through by a second reading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from danlu.registry import Registry, State
from danlu.registry.store import open_store

# About a tenth of what `make soak` does; its figures are kept.
OPERATIONS = int(os.environ.get("DANLU_SOAK_REGISTRY") or 60)
LOG = os.environ.get("DANLU_SOAK_LOG")
_WRITER = Path(__file__).with_name("small_registry.py")


def race(url: str, folder: Path, writers: int = 2) -> dict[str, Any]:
    """Lets the writers run, watches every state that can be seen meanwhile, and compares what is left with their logs.

    Args:
        url: of a registry that is empty.
        folder: for the writers' files.

    Returns:
        Figures: `url`, `operations`, `events`, `refused`, `versions`, `states_seen`, `seconds`.
    """
    started = time.monotonic()
    words = [[sys.executable, str(_WRITER), url, str(n), str(OPERATIONS), str(folder)] for n in range(1, writers + 1)]
    running = [subprocess.Popen(one, stderr=(folder / f"{n}.err").open("wb")) for n, one in enumerate(words)]
    seen = _watch(url, running)
    for number, process in enumerate(running):
        assert process.wait() == 0, (folder / f"{number}.err").read_text()
    done = [json.loads(line) for path in sorted(folder.glob("writer-*.jsonl")) for line in path.open()]
    assert len(done) == writers * OPERATIONS
    registry = Registry.open(url)
    state = registry.state()
    events = _events(url, state.number)
    _compare_events(events, done)
    assert _replayed(events) == {name: _plain(state, name) for name in state.adapters}
    _compare_files(registry, state, done)
    figures = {
        "url": url.partition("://")[0] if "://" in url else "folder",
        "operations": len(done),
        "events": state.number,
        "refused": sum("refused" in one for one in done),
        "versions": sum(len(state.versions(name)) for name in state.names()),
        "states_seen": seen,
        "seconds": round(time.monotonic() - started, 1),
    }
    if LOG:
        Path(LOG).parent.mkdir(parents=True, exist_ok=True)
        with Path(LOG).open("a") as lines:
            lines.write(json.dumps(figures) + "\n")
    return figures


def _watch(url: str, running: list[subprocess.Popen[bytes]]) -> int:
    """Polls while the writers run: numbers only grow, and no alias names what is not there. How many states it saw."""
    registry, last, seen = Registry.open(url), 0, 0
    while any(process.poll() is None for process in running):
        state = registry.state()
        assert state.number >= last
        seen += state.number > last
        last = state.number
        for name in state.names():
            assert set(state.aliases(name).values()) <= {version.number for version in state.versions(name)}
        time.sleep(0.05)
    return seen


def _events(url: str, count: int) -> list[dict[str, Any]]:
    store = open_store(url)
    paths = sorted(path for path in store.find("events") if path.endswith(".json"))
    assert [path[-14:-5] for path in paths] == [f"{number:09d}" for number in range(1, count + 1)]
    return [json.loads(store.read(path) or b"") for path in paths]


def _compare_events(events: list[dict[str, Any]], done: list[dict[str, Any]]) -> None:
    """Each act that a writer was told is done is one event, each event is such an act, and says what was told."""
    acts = {one["event"]: one for one in done if one.get("event")}
    assert Counter(one["event"] for one in done if one.get("event")) == Counter(event["number"] for event in events)
    for event in events:
        act = acts[event["number"]]
        if event["kind"] == "added":
            assert act["added"] == f"{event['name']}@{event['version']['number']}"
            assert act["files"] == event["version"]["hash"]
        elif event["kind"] == "removed":
            assert act["removed"] == [f"{event['name']}@{number}" for number in event["versions"]]
        else:
            assert act["named"] == [f"{event['name']}@{event['version']}", event["alias"]]


def _replayed(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Versions and aliases of each name, from the events alone and without any code of the registry's."""
    names: dict[str, Any] = {}
    for event in events:
        versions, aliases = names.setdefault(event["name"], ({}, {}))
        if event["kind"] == "added":
            number = event["version"]["number"]
            assert number not in versions
            versions[number] = event["version"]["hash"]
            if event["alias"]:
                aliases[event["alias"]] = number
        elif event["kind"] == "removed":
            for number in event["versions"]:
                del versions[number]
            assert not set(event["versions"]) & set(aliases.values())
        else:
            assert event["version"] in versions
            aliases[event["alias"]] = event["version"]
    return names


def _plain(state: State, name: str) -> Any:
    return {version.number: version.hash for version in state.versions(name)}, state.aliases(name)


def _compare_files(registry: Registry, state: State, done: list[dict[str, Any]]) -> None:
    """All that was added and not removed is there, whole; of all else no file is left."""
    added = {one["added"]: one["files"] for one in done if "added" in one and one["event"]}
    removed = {reference for one in done for reference in one.get("removed", [])}
    left = {str(version): version for name in state.names() for version in state.versions(name)}
    assert left.keys() == added.keys() - removed
    assert {reference: version.hash for reference, version in left.items()} == {key: added[key] for key in left}
    for version in left.values():
        registry.fetch(version)
    assert set(open_store(registry.url).find("versions")) == {
        f"{version.place}/{path}" for version in left.values() for path in version.files
    }
