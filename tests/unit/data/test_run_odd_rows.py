"""Rows and files that are no text as files can hold it, and what of a row the ledger shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from accounting import assert_adds_up, changes_of, write_jsonl

from danlu.data import run
from danlu.errors import DataError
from danlu.runs import danlu_home

GOOD = [{"question": f"问题 {number}", "answer": f"answer {number}", "topic": f"t{number % 2}"} for number in range(8)]
HALF = "\ud83d"


@pytest.mark.parametrize(
    "row",
    [
        {"question": HALF, "answer": "a"},
        {f"quest{HALF}ion": "q", "answer": "a"},
        {"messages": [{"role": HALF, "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"question": "q", "answer": "", "note": [{HALF: HALF}]},
    ],
)
def test_half_a_character_drops_its_row_alone(make: Any, row: dict[str, Any]) -> None:
    prepared = make({"max_dropped_share": 0.5}, [*GOOD, row])
    assert_adds_up(prepared, 9)
    assert prepared.about["rows"]["dropped"] == 1


def test_half_a_character_in_a_class_is_a_class(make: Any) -> None:
    rows = [{**row, "topic": HALF if number % 2 else "a"} for number, row in enumerate(GOOD)]
    data = {"evaluation": {"share": 0.5, "stratify_by": "topic"}, "balance": {"by": "topic"}, "leaks": None}
    prepared = make(data, rows)
    assert_adds_up(prepared, 8)
    assert prepared.about["splits"]["evaluation"]["rows"] == 4


def test_a_file_whose_name_is_no_text_is_read_and_named(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_jsonl(tmp_path / "folder/rows.jsonl", GOOD).rename(os.fsdecode(os.fsencode(folder) + b"/\xff.jsonl"))
    prepared = make({"train": [str(folder)]})
    assert_adds_up(prepared, 8)
    assert prepared.store("train").where(0) == f"{folder}/[U+DCFF].jsonl:1"


@pytest.mark.parametrize("before", ["\n", "\t", "\u0001"])
def test_a_number_behind_an_escape_is_masked_in_what_is_said_of_a_dropped_row(make: Any, before: str) -> None:
    rows = [*GOOD, {"question": f"我的电话：{before}13900139000", "answer": ""}, {"phone": 13900139000}]
    prepared = make({"masking": {"names": False}, "max_dropped_share": 0.5}, rows)
    assert [entry["step"] for entry in changes_of(prepared)] == ["read", "read"]
    assert not any(b"139001" in path.read_bytes() for path in prepared.folder.iterdir())


def test_a_number_that_a_step_takes_out_leaves_no_piece_where_its_excerpt_is_cut(make: Any) -> None:
    rows = [
        {"question": f"问{size}", "answer": f"<p title='{'长' * size}13900139000'>答</p>{number}"}
        for number, size in enumerate(range(70, 130))
    ]
    rows += [{"question": f"前{'长' * size}13900139000{'短' * 22}<b>{size}</b>", "answer": "答"} for size in range(9)]
    prepared = make({"cleaning": ["html"], "masking": {"names": False}}, rows)
    assert prepared.about["rows"]["changed"] == len(rows)
    assert b"139" not in (prepared.folder / "changes.jsonl").read_bytes()


def test_a_person_in_a_reason_is_masked_and_no_reason_rules_the_terminal(make: Any) -> None:
    roles = [{"role": "13900139000\u001b[2J", "content": "q"}, {"role": "assistant", "content": "a"}]
    prepared = make({"masking": {"names": False}, "max_dropped_share": 0.5}, [*GOOD, {"messages": roles}])
    assert changes_of(prepared)[0]["reason"] == "unknown role: `<MOBILE_1>[U+001B][2J`"


def test_a_file_that_changes_before_it_is_read_is_not_taken_for_what_it_was(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed_then_written(source: Any) -> str:
        content = fingerprint(source)
        write_jsonl(Path(source.path), GOOD[:3])
        return content

    fingerprint = run.fingerprint
    monkeypatch.setattr(run, "fingerprint", hashed_then_written)
    before = set((danlu_home() / "prepared").glob("*"))
    with pytest.raises(DataError, match="the file changed while it was read"):
        make({}, GOOD)
    assert set((danlu_home() / "prepared").glob("*")) == before


def test_evaluation_files_without_a_good_row_stop_the_run(make: Any, tmp_path: Path) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", [{"question": "q", "answer": ""}])
    with pytest.raises(DataError, match=r"1 of 9 rows would be dropped \(11.1%\) and none is left to judge by"):
        make({"evaluation": [str(held)], "max_dropped_share": 0.5}, GOOD)


@pytest.mark.parametrize(
    "folder", ["folder", "a folder with a name that is as long as names of folders can become " * 3]
)
def test_what_of_a_folder_was_left_alone_is_told(make: Any, tmp_path: Path, folder: str) -> None:
    tmp_path = tmp_path / folder
    (tmp_path / "folder").mkdir(parents=True)
    write_jsonl(tmp_path / "folder/rows.jsonl", GOOD)
    (tmp_path / "folder/more.xlsx").touch()
    (tmp_path / "folder/elsewhere").symlink_to(tmp_path)
    prepared = make({"train": [str(tmp_path / "folder")]})
    note = "left alone: elsewhere/ (a link), more.xlsx"
    assert prepared.summary()["notes"] == {str(tmp_path / "folder/rows.jsonl"): note}
    assert f"rows.jsonl: {note}" in prepared.describe()


def test_word_lists_count_as_code() -> None:
    assert {path.name for path in run._code_files()} >= {"run.py", "names_zh.txt", "names_en.txt", "report.html.j2"}
