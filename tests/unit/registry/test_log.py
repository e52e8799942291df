"""The log: who comes second decides again, only what is new is read, and what is not as it was written is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_state import version

from danlu.errors import DamagedError, Fault, RegistryError
from danlu.registry.decisions import addition, promotion, removal, rollback
from danlu.registry.log import EVENTS_PER_SNAPSHOT, Log, event_path
from danlu.registry.state import State
from danlu.registry.store import FolderStore


class Counted(FolderStore):
    """A folder that remembers what was read of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    def read(self, path: str) -> bytes | None:
        self.asked.append(path)
        return super().read(path)


def log_at(folder: Path) -> Log:
    return Log(FolderStore(folder))


def filled(folder: Path, count: int) -> Log:
    log = log_at(folder)
    for content in range(count):
        log.commit(addition(version("support", content), None, None))
    return log


def while_another(log: Log, act: Callable[[], Any], decide: Any) -> Any:
    """Commits `decide`; between its decision and its writing, another does something the first time."""
    acts = [act]

    def decided(state: State) -> Any:
        fields = decide(state)
        if acts:
            acts.pop()()
        return fields

    return log.commit(decided)


def test_who_loses_the_race_for_a_number_takes_the_next_version(tmp_path: Path) -> None:
    first, second = log_at(tmp_path), log_at(tmp_path)
    done = while_another(
        first,
        lambda: second.commit(addition(version("support", 2), "production", None)),
        addition(version("support", 1), "production", None),
    )
    assert (done[0].number, done[0].version.number) == (2, 2)
    state = log_at(tmp_path).state()
    assert [(one.number, int(one.hash, 16)) for one in state.versions("support")] == [(1, 2), (2, 1)]
    assert state.aliases("support") == {"production": 2}


def test_a_rollback_that_lost_the_race_is_judged_by_what_it_follows(tmp_path: Path) -> None:
    log, other = filled(tmp_path, 3), log_at(tmp_path)
    for number in (1, 2):
        log.commit(promotion(f"support@{number}", "production"))
    while_another(log, lambda: other.commit(promotion("support@3", "production")), rollback("support", "production"))
    assert log.state().aliases("support") == {"production": 2}


def test_what_an_alias_came_to_name_meanwhile_is_not_removed(tmp_path: Path) -> None:
    log, other = filled(tmp_path, 1), log_at(tmp_path)
    with pytest.raises(RegistryError, match="is what production names"):
        while_another(
            log, lambda: other.commit(promotion("support@1", "production")), removal("support@1", force=False)
        )
    assert log.state().number == 2


@pytest.mark.parametrize("is_made", [True, False])
def test_an_answer_that_is_lost_on_the_way_makes_no_second_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    whole = FolderStore.create

    def lossy(self: FolderStore, path: str, data: bytes) -> bool:
        if is_made or not path.startswith("events"):
            whole(self, path, data)
        if path.startswith("events"):
            raise RegistryError(Fault("the line was cut"))
        return True

    log = filled(tmp_path, 1)
    monkeypatch.setattr(FolderStore, "create", lossy)
    if is_made:
        log.commit(promotion("support@1", "production"))
    else:
        with pytest.raises(RegistryError, match="the line was cut"):
            log.commit(promotion("support@1", "production"))
    assert log_at(tmp_path).state().number == 1 + is_made


def test_an_answer_that_says_taken_of_the_own_event_makes_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, whole = filled(tmp_path, 3), FolderStore.create
    for number in (1, 2, 3):
        log.commit(promotion(f"support@{number}", "production"))
    monkeypatch.setattr(FolderStore, "create", lambda self, path, data: whole(self, path, data) and False)
    done = log.commit(rollback("support", "production"))
    assert done is not None
    assert done[0].number == log_at(tmp_path).state().number == 7
    assert log_at(tmp_path).state().aliases("support") == {"production": 2}


def test_many_threads_of_one_log_make_one_chain(tmp_path: Path) -> None:
    log = log_at(tmp_path)

    def write(start: int) -> None:
        for content in range(start, start + 10):
            log.commit(addition(version("support", content), None, None))

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.number for one in log_at(tmp_path).state().versions("support")] == list(range(1, 41))


def test_a_poll_asks_for_the_next_event_alone(tmp_path: Path) -> None:
    log, store = filled(tmp_path, 3), Counted(tmp_path)
    reader = Log(store)
    before = reader.state()
    store.asked.clear()
    assert reader.state() is before
    assert store.asked == [event_path(4)]
    log.commit(promotion("support@1", "production"))
    store.asked.clear()
    assert reader.state().number == 4
    assert store.asked == [event_path(4), event_path(5)]


def test_who_opens_a_long_log_reads_from_the_newest_snapshot_on(tmp_path: Path) -> None:
    filled(tmp_path, 3 * EVENTS_PER_SNAPSHOT + 2)
    assert sorted(path.stem for path in (tmp_path / "snapshots").iterdir()) == ["000000050", "000000075"]
    store = Counted(tmp_path)
    state = Log(store).state()
    assert state.number == 77
    assert [path for path in store.asked if path.startswith("events")] == [event_path(n) for n in (76, 77, 78)]
    shutil.rmtree(tmp_path / "snapshots")
    assert log_at(tmp_path).state() == state


@pytest.mark.parametrize("change", ["torn", "other", "older"])
def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, change: str) -> None:
    state = filled(tmp_path, 2 * EVENTS_PER_SNAPSHOT).state()
    newest = tmp_path / "snapshots" / "000000050.json"
    content = newest.read_text()
    older = (tmp_path / "snapshots" / "000000025.json").read_text()
    newest.write_text(
        {"torn": content[:99], "other": content.replace('"last_number": 50', '"last_number": 9')}.get(change, older)
    )
    assert newest.read_text() != content
    assert log_at(tmp_path).state() == state


def damaged(folder: Path, log: Log | None = None) -> str:
    """What is said, of reading and of writing; nothing more is in the log then."""
    log, before = log or log_at(folder), sorted((folder / "events").rglob("*.json"))
    with pytest.raises(DamagedError) as caught:
        log.state()
    assert caught.value.exit_status == 1
    with pytest.raises(DamagedError):
        log.commit(addition(version("support", 99), None, None))
    assert sorted((folder / "events").rglob("*.json")) == before
    (fault,) = caught.value.faults
    return f"{fault.where.removeprefix(str(folder))}: {fault.what}"


def test_a_torn_event_is_refused_by_its_name_and_nothing_is_written_past_it(tmp_path: Path) -> None:
    reader = filled(tmp_path, 2)
    filled_more = log_at(tmp_path)
    filled_more.commit(promotion("support@1", "production"))
    path = tmp_path / event_path(3)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:length])
        assert (
            damaged(tmp_path) == "/events/000000/000000003.json: the registry's log is damaged: it is torn or no event"
        )
    assert "it is torn" in damaged(tmp_path, reader), "and by who has read the others before"
    path.write_bytes(whole)
    assert log_at(tmp_path).state().number == reader.state().number == 3


def test_a_changed_event_is_refused_by_its_name(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    path = tmp_path / event_path(2)
    path.write_text(path.read_text().replace('"name": "support"', '"name": "sapport"'))
    assert damaged(tmp_path).startswith("/events/000000/000000002.json: the registry's log is damaged: it was changed")


def test_an_event_that_was_replaced_by_a_valid_one_is_seen_behind_it(tmp_path: Path) -> None:
    filled(tmp_path / "a", 3)
    other = filled(tmp_path / "b", 1)
    other.commit(addition(version("support", 55), None, None))
    shutil.copyfile(tmp_path / "b" / event_path(2), tmp_path / "a" / event_path(2))
    assert "does not follow" in damaged(tmp_path / "a")


def test_a_missing_event_is_named_before_another_takes_its_number(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    (tmp_path / event_path(2)).unlink()
    assert "/events/000000/000000002.json: the registry's log is damaged: it is missing" in damaged(tmp_path)


def test_an_event_that_can_not_be_is_refused_though_its_hashes_are_right(tmp_path: Path) -> None:
    from danlu.registry.events import make_event

    log = filled(tmp_path, 1)
    fields = {"operation": "o", "time": "t", "user": "u", "host": "h", "name": "support"}
    _, data = make_event(log.state(), {**fields, "kind": "promoted", "alias": "production", "version": 7})
    (tmp_path / event_path(2)).write_bytes(data)
    assert "support has no version 7" in damaged(tmp_path)


def test_a_registry_of_a_later_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / "registry.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(RegistryError, match="no registry that this version of Danlu knows"):
        log_at(tmp_path).state()


def test_where_nothing_is_there_is_nothing_and_reading_makes_nothing(tmp_path: Path) -> None:
    assert log_at(tmp_path / "none").state() == State()
    assert not (tmp_path / "none").exists()
