from pathlib import Path

import pytest

from danlu.data.ledger import Ledger
from danlu.data.records import known_formats
from danlu.data.sources import Row
from danlu.errors import DataError

ROWS = Path("rows.jsonl")


def ledger_of(kept, reasons=()):
    ledger = Ledger(read=kept + len(reasons))
    for _ in range(kept):
        ledger.keep("alpaca")
    for line, reason in enumerate(reasons, 1):
        ledger.drop(Row({}, ROWS, line), reason)
    return ledger


def faults_of(ledger, share):
    with pytest.raises(DataError) as caught:
        ledger.check(share)
    assert caught.value.exit_status == 2
    return caught.value.faults


def test_totals_add_up():
    ledger = ledger_of(7, ["missing answer", "missing question"])
    totals = ledger.rows()
    assert (totals["read"], totals["kept"], totals["dropped"]) == (9, 7, 2)
    assert totals["read"] + totals["added"] == totals["kept"] + totals["dropped"]


def test_row_that_is_nowhere_is_a_defect():
    ledger = ledger_of(3, ["missing answer"])
    ledger.read += 1
    with pytest.raises(AssertionError):
        ledger.rows()


def test_json_holds_totals_forms_and_each_dropped_row():
    ledger = ledger_of(2, ["missing answer"])
    ledger.keep("messages")
    ledger.read += 1
    assert ledger.to_json() == {
        "rows": ledger.rows(),
        "formats": {"alpaca": 2, "messages": 1},
        "entries": [{"where": "rows.jsonl:1", "outcome": "dropped", "reason": "missing answer"}],
    }


def test_check_is_silent_when_nothing_is_dropped():
    assert ledger_of(3).check(0.0) is None


def test_check_lists_the_first_dropped_rows_and_counts_the_reasons():
    faults = faults_of(ledger_of(10, ["missing answer"] * 6 + ["missing question"] * 2), 0.05)
    assert [fault.where for fault in faults[:-1]] == [f"rows.jsonl:{line}" for line in range(1, 6)]
    assert {fault.what for fault in faults[:-1]} == {"missing answer"}
    assert faults[-1].what == "8 of 18 rows would be dropped (44.4%): 6 × missing answer, 2 × missing question"
    assert faults[-1].allowed == "at most data.max_dropped_share = 0.05"
    assert "data.max_dropped_share" in faults[-1].hint


def test_reasons_with_figures_are_counted_together():
    reasons = [f"longer than data.max_sequence_tokens = 8: {size} tokens" for size in (9, 10, 11)]
    assert faults_of(ledger_of(1, reasons), 0.1)[-1].what.endswith("3 × longer than data.max_sequence_tokens = 8")


def test_unknown_format_lists_the_accepted_forms():
    last = faults_of(ledger_of(0, ["unknown format: keys a, b"]), 1.0)[-1]
    assert last.allowed == known_formats()
    assert "alpaca (instruction, output)" in last.allowed


def test_check_stops_when_nothing_is_left_whatever_the_share():
    last = faults_of(ledger_of(0, ["missing answer"] * 2), 1.0)[-1]
    assert "2 of 2 rows would be dropped (100.0%), all of them" in last.what


@pytest.mark.parametrize(
    ("dropped", "total", "share"), [(5, 100, 0.05), (29, 100, 0.29), (57, 100, 0.57), (1, 3, 1 / 3)]
)
def test_share_itself_is_still_allowed(dropped, total, share):
    assert ledger_of(total - dropped, ["missing answer"] * dropped).check(share) is None


@pytest.mark.parametrize(("dropped", "total", "share"), [(6, 100, 0.05), (30, 100, 0.29), (1, 1000, 0.0)])
def test_one_row_more_than_the_share_stops(dropped, total, share):
    assert faults_of(ledger_of(total - dropped, ["missing answer"] * dropped), share)


def test_small_share_is_not_rounded_in_the_message():
    assert faults_of(ledger_of(99, ["missing answer"]), 0.005)[-1].allowed.endswith("= 0.005")
