"""The audit log: what was written stays as it was written, or it is seen and its place is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.audit import append, append_all, read_audit, rotate, verify
from danlu.errors import GateError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of five entries."""
    path = tmp_path / "log" / "audit.jsonl"
    monkeypatch.setenv("DANLU_AUDIT", str(path))
    for number in range(1, 6):
        append("tried", {"thing": f"thing {number}", "例": number})
    return path


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines(keepends=True)


def faults(log: Path) -> str:
    with pytest.raises(GateError) as caught:
        verify()
    assert all(fault.where and fault.hint for fault in caught.value.faults)
    return str(caught.value).replace(str(log), "LOG")


def test_an_untouched_log_is_a_chain_of_sha256_that_anyone_can_compute(log: Path) -> None:
    result = verify()
    assert (result["entries"], result["notes"]) == (5, [])
    previous = "0" * 64
    for number, line in enumerate(lines_of(log), 1):
        entry = json.loads(line)
        assert (entry["number"], entry["kind"], entry["thing"]) == (number, "tried", f"thing {number}")
        assert entry["user"]
        assert entry["host"]
        assert entry["previous"] == previous
        before_hash = line[: line.rindex(', "hash"')] + "}"  # the line as it was before its hash was put in
        assert entry["hash"] == hashlib.sha256(before_hash.encode()).hexdigest()
        previous = entry["hash"]
    assert result["head"] == previous


def test_without_a_log_there_is_nothing_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "none.jsonl"))
    assert verify()["entries"] == 0


@pytest.mark.parametrize("place", range(5))
def test_a_changed_entry_is_named(log: Path, place: int) -> None:
    lines = lines_of(log)
    lines[place] = lines[place].replace("thing ", "think ")
    log.write_text("".join(lines))
    assert f"this entry was changed: its hash is another\n  where: LOG:{place + 1}\n" in faults(log)


@pytest.mark.parametrize("place", range(5))
def test_an_entry_that_was_changed_and_hashed_anew_is_seen_behind_it(log: Path, place: int) -> None:
    lines = lines_of(log)
    entry = json.loads(lines[place])
    del entry["hash"]
    entry["thing"] = "another"
    entry["hash"] = hashlib.sha256(json.dumps(entry, ensure_ascii=False).encode()).hexdigest()
    lines[place] = json.dumps(entry, ensure_ascii=False) + "\n"
    log.write_text("".join(lines))
    found = faults(log)
    assert "its hash is another" not in found
    where = f"LOG:{place + 2}" if place < 4 else "LOG:6"  # the last one is missed by the note of it
    assert where in found


@pytest.mark.parametrize("place", range(5))
def test_a_removed_entry_is_missed(log: Path, place: int) -> None:
    lines = lines_of(log)
    del lines[place]
    log.write_text("".join(lines))
    found = faults(log)
    if place < 4:
        assert (
            f"entry {place + 2} does not follow entry {place}: 1 removed before it\n  where: LOG:{place + 1}\n" in found
        )
    else:
        assert "entry 5 was written here, and is missing" in found


def test_a_log_that_was_removed_is_missed(log: Path) -> None:
    log.unlink()
    assert "entry 5 was written here, and is missing" in faults(log)


@pytest.mark.parametrize("place", range(4))
def test_two_entries_in_another_order_are_seen(log: Path, place: int) -> None:
    lines = lines_of(log)
    lines[place : place + 2] = reversed(lines[place : place + 2])
    log.write_text("".join(lines))
    found = faults(log)
    assert f"LOG:{place + 1}" in found
    assert f"entry {place + 1} does not follow entry {place + 2}: it was moved, or put in" in found


def test_a_whole_other_history_is_seen_by_a_hash_that_was_kept(log: Path) -> None:
    kept = verify()["head"]
    assert verify(kept[:]) == verify()
    for path in (log, log.with_name("audit.head")):
        path.unlink()
    append("tried", {"thing": "another history"})
    assert verify()["entries"] == 1
    with pytest.raises(GateError, match=f"no entry has the hash {kept}"):
        verify(kept)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_line_that_was_cut_off_is_said_and_the_next_one_goes_on(log: Path, share: float) -> None:
    head = verify()["head"]
    whole = append("tried", {"thing": "cut"})
    lines = lines_of(log)
    torn = lines[5][: int(share * len(lines[5]))]
    log.write_text("".join(lines[:5]) + torn)
    log.with_name("audit.head").write_text(f"5 {head}\n")  # it is written after the line
    result = verify()
    assert (result["entries"], result["head"]) == (5, head)
    assert "the last line is torn" in result["notes"][0]
    assert append("tried", {"thing": "after"}) != whole
    assert verify()["entries"] == 6
    assert lines_of(log)[5] == torn + "\n"
    log.write_text(log.read_text().replace(torn + "\n", torn[:-1] + "\n"))
    assert "this line is no entry: it was changed\n  where: LOG:6" in faults(log)


def test_a_last_line_without_its_end_is_whole(log: Path) -> None:
    log.write_text(log.read_text().rstrip("\n"))
    append("tried", {})
    assert verify()["entries"] == 6


def test_the_last_entry_made_unreadable_is_no_mere_torn_line(log: Path) -> None:
    lines = lines_of(log)
    log.write_text("".join(lines[:4]) + lines[4][:30])
    assert "entry 5 was written here, and is missing" in faults(log)


def test_entries_longer_than_what_is_read_from_behind_are_found(log: Path) -> None:
    append("tried", {"long": "x" * 300_000})
    append("tried", {})
    assert verify()["entries"] == 7


def test_a_field_can_not_pass_for_the_log_s_own(log: Path) -> None:
    with pytest.raises(ValueError, match="previous"):
        append("tried", {"previous": "0" * 64})
    assert verify()["entries"] == 5


def test_many_writers_at_once_make_one_chain(log: Path) -> None:
    code = "from danlu.audit import append\nfor n in range(20): append('tried', {'n': n})"
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert verify()["entries"] == 85


def test_the_commands_show_and_verify(log: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "danlu", "audit", *words], capture_output=True, text=True)

    shown = run("show", "--last", "2")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["4", "5"]
    assert len(json.loads(run("show", "--json").stdout)["entries"]) == 5
    good = run("verify")
    assert good.returncode == 0
    assert "5 entries, none changed, removed or moved" in good.stdout
    log.write_text(log.read_text().replace("thing 2", "thing 7"))
    bad = run("verify", "--json")
    assert bad.returncode == 1
    result = json.loads(bad.stdout.splitlines()[-1])
    assert (result["error"], result["entries"]) == ("GateError", 5)
    assert result["faults"][0]["where"] == f"{log}:2"
    assert "Traceback" not in bad.stderr
    assert read_audit(log).entries[1]["thing"] == "thing 7"


def test_a_file_that_is_put_aside_stays_in_the_chain(log: Path) -> None:
    aside = rotate()
    assert aside == log.with_name("audit-000000000001.jsonl")
    assert not log.exists()
    append("tried", {"thing": "in a new file"})
    assert rotate() == log.with_name("audit-000000000006.jsonl")
    assert rotate() is None
    append_all([("tried", {"thing": f"one of three: {number}"}) for number in range(3)])
    assert verify()["entries"] == 9
    assert [json.loads(line)["number"] for line in lines_of(log)] == [7, 8, 9]
    lines = aside.read_text().splitlines(keepends=True)
    aside.write_text("".join(lines[:2] + lines[3:]))
    assert f"1 removed before it\n  where: {aside}:3\n" in faults(log)


def test_a_whole_file_that_is_taken_away_is_missed(log: Path) -> None:
    aside = rotate()
    append("tried", {"thing": "in a new file"})
    assert aside is not None
    aside.unlink()
    assert "entry 6 does not follow entry 0: 5 removed before it\n  where: LOG:1" in faults(log)


def test_a_large_file_is_put_aside_by_itself(log: Path) -> None:
    append_all([("tried", {"thing": "large"})], large_bytes=log.stat().st_size)
    assert len(list(log.parent.glob("audit-*.jsonl"))) == 1
    assert verify()["entries"] == 6


def test_a_log_that_is_taken_away_under_a_writer_is_missed_though_it_goes_on(log: Path) -> None:
    log.unlink()
    append("tried", {"thing": "later"})
    append("tried", {"thing": "and later"})
    found = faults(log)
    assert "entry 6 does not follow entry 0: 5 removed before it\n  where: LOG:1" in found


def test_lines_that_are_taken_away_under_a_writer_are_missed_though_it_goes_on(log: Path) -> None:
    log.write_text("".join(lines_of(log)[:3]))
    append("tried", {"thing": "later"})
    assert "entry 6 does not follow entry 3: 2 removed before it\n  where: LOG:4" in faults(log)


def test_a_last_line_that_is_replaced_under_a_writer_is_seen_though_it_goes_on(log: Path) -> None:
    lines = lines_of(log)
    entry = json.loads(lines[4])
    del entry["hash"]
    entry["thing"] = "another"
    entry["hash"] = hashlib.sha256(json.dumps(entry, ensure_ascii=False).encode()).hexdigest()
    log.write_text("".join(lines[:4]) + json.dumps(entry, ensure_ascii=False) + "\n")
    append("tried", {"thing": "later"})
    assert "entry 6 does not follow entry 5: the one before it was changed or replaced\n  where: LOG:6" in faults(log)
