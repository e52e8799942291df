import json

import pytest

from danlu.data.item import Drop, Item
from danlu.data.ledger import CHANGES, Ledger
from danlu.data.records import Record, known_formats
from danlu.errors import DataError

HELLO = Record([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as ledger:
        yield ledger


def fill(ledger, kept, reasons=(), unasked=True):
    ledger.read += kept + len(reasons)
    ledger.keep_plain("alpaca", kept)
    for line, reason in enumerate(reasons, 1):
        ledger.drop(Drop(f"rows.jsonl:{line}", "read", reason), unasked)
    return ledger


def faults_of(ledger, share):
    with pytest.raises(DataError) as caught:
        ledger.check(ledger.kept, share)
    assert caught.value.exit_status == 2
    return caught.value.faults


def lines_of(folder):
    return [json.loads(line) for line in (folder / CHANGES).read_text(encoding="utf-8").splitlines()]


def test_totals_add_up(ledger):
    totals = fill(ledger, 7, ["missing answer", "missing question"]).rows()
    assert (totals["read"], totals["kept"], totals["dropped"]) == (9, 7, 2)
    assert totals["read"] + totals["added"] == totals["kept"] + totals["dropped"]


def test_row_that_is_nowhere_is_a_defect(ledger):
    fill(ledger, 3, ["missing answer"]).read += 1
    with pytest.raises(AssertionError):
        ledger.rows()


def test_each_row_that_is_not_simply_kept_has_its_line(tmp_path):
    changes = [{"step": "unicode", "before": "ＡＢ", "after": "AB"}]
    with Ledger(tmp_path) as ledger:
        fill(ledger, 2, ["missing answer"])
        ledger.read += 1
        ledger.keep(Item(HELLO, "rows.jsonl:9", 0, "alpaca", changes=changes, cut="answer cut: from 9 to 8 tokens"), 1)
        ledger.add("swap", "rows.jsonl:9 (swap)", "rows.jsonl:9", "q", "Q")
        ledger.keep_plain("alpaca", 1)
        totals = ledger.rows()
    assert totals == {"read": 4, "added": 1, "kept": 4, "dropped": 1, "changed": 1, "cut": 1}
    assert [(line["outcome"], line["where"]) for line in lines_of(tmp_path)] == [
        ("dropped", "rows.jsonl:1"),
        ("changed", "rows.jsonl:9"),
        ("cut", "rows.jsonl:9"),
        ("added", "rows.jsonl:9 (swap)"),
    ]
    assert lines_of(tmp_path)[1]["before"] == "ＡＢ"
    assert lines_of(tmp_path)[3]["parent"] == "rows.jsonl:9"


def test_a_repeated_row_is_counted_as_often_as_it_comes(ledger):
    ledger.read, ledger.added = 1, 2
    ledger.keep(Item(HELLO, "rows.jsonl:1", 0, "alpaca", changes=[{"step": "s", "before": "", "after": ""}]), 3)
    assert ledger.rows()["kept"] == ledger.rows()["changed"] == ledger.formats["alpaca"] == 3


def test_json_has_a_count_and_a_few_examples_of_each_reason(ledger):
    fill(ledger, 1, [f"longer than 8: {size} tokens" for size in range(9, 30)])
    (reason,) = ledger.to_json()["reasons"]
    assert (reason["outcome"], reason["step"], reason["reason"], reason["count"]) == (
        "dropped",
        "read",
        "longer than 8",
        21,
    )
    assert [example["where"] for example in reason["examples"]] == [f"rows.jsonl:{line}" for line in range(1, 6)]


def test_check_is_silent_when_nothing_is_dropped(ledger):
    fill(ledger, 3).check(3, 0.0)


def test_check_lists_the_first_dropped_rows_and_counts_the_reasons(ledger):
    faults = faults_of(fill(ledger, 10, ["missing answer"] * 6 + ["missing question"] * 2), 0.05)
    assert [fault.where for fault in faults[:-1]] == [f"rows.jsonl:{line}" for line in range(1, 6)]
    assert {fault.what for fault in faults[:-1]} == {"missing answer"}
    assert faults[-1].what == "8 of 18 rows would be dropped (44.4%): 6 × missing answer, 2 × missing question"
    assert faults[-1].allowed == "at most data.max_dropped_share = 0.05"
    assert "data.max_dropped_share" in faults[-1].hint


def test_rows_left_out_because_the_recipe_wants_fewer_do_not_stop_the_run(ledger):
    fill(ledger, 1, ["left out by data.balance"] * 9, unasked=False).check(1, 0.0)


def test_reasons_with_figures_are_counted_together(ledger):
    reasons = [f"longer than data.max_sequence_tokens = 8: {size} tokens" for size in (9, 10, 11)]
    assert faults_of(fill(ledger, 1, reasons), 0.1)[-1].what.endswith("3 × longer than data.max_sequence_tokens = 8")


def test_unknown_format_lists_the_accepted_forms(ledger):
    last = faults_of(fill(ledger, 0, ["unknown format: keys a, b"]), 1.0)[-1]
    assert last.allowed == known_formats()
    assert "alpaca (instruction, output)" in last.allowed
    assert "columns: {question: YOUR FIELD" in last.hint


def test_check_stops_when_nothing_is_left_whatever_the_share(ledger):
    last = faults_of(fill(ledger, 0, ["missing answer"] * 2), 1.0)[-1]
    assert "2 of 2 rows would be dropped (100.0%) and none is left to train on" in last.what


@pytest.mark.parametrize(
    ("dropped", "total", "share"), [(5, 100, 0.05), (29, 100, 0.29), (57, 100, 0.57), (1, 3, 1 / 3)]
)
def test_share_itself_is_still_allowed(ledger, dropped, total, share):
    fill(ledger, total - dropped, ["missing answer"] * dropped).check(total - dropped, share)


@pytest.mark.parametrize(("dropped", "total", "share"), [(6, 100, 0.05), (30, 100, 0.29), (1, 1000, 0.0)])
def test_one_row_more_than_the_share_stops(ledger, dropped, total, share):
    assert faults_of(fill(ledger, total - dropped, ["missing answer"] * dropped), share)


def test_small_share_is_not_rounded_in_the_message(ledger):
    assert faults_of(fill(ledger, 99, ["missing answer"]), 0.005)[-1].allowed.endswith("= 0.005")
