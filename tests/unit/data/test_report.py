from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from danlu.data.report import (
    DataFacts,
    aligned,
    checks,
    class_table,
    length_histogram,
    length_reached,
    summary_table,
    write_report,
)
from danlu.pages.charts import histogram_chart
from danlu.pages.difference import difference
from danlu.pages.numbers import duration, share, size
from danlu.pages.unseen import show_unseen


def facts(**changed):
    given_facts = {
        "recipe": "r.yaml",
        "rows": {"read": 10_000, "added": 100, "kept": 9_950, "dropped": 150, "changed": 40, "cut": 5},
        "tokens": {"total": 1_234_567, "trained": 400_000},
        "max_sequence_tokens": 512,
        "prepared_folder": "/prepared/abc",
        "seconds": 12.34,
        "created": "2025-11-22",
        "inputs": [{"path": "data/rows.jsonl", "encoding": "utf-8", "rows": 10_000, "bytes": 1_500_000}],
        "splits": {"train": {"rows": 9_950, "documents": 9_951, "tokens": 1_234_567, "trained_tokens": 400_000}},
        "steps": [{"step": "exact_duplicates", "rows_in": 10_000, "changed": 0, "dropped": 150, "seconds": 0.5}],
        "reasons": [reason("dropped", "equal to an earlier row", 150)],
    }
    return DataFacts(**{**given_facts, **changed})


def reason(outcome, text, count, **example):
    examples = [{"where": "a.jsonl:3", **example}] if example else []
    return {"outcome": outcome, "step": "some_step", "reason": text, "count": count, "examples": examples}


def page_of(some_facts, folder):
    write_report(folder / "report.html", some_facts)
    return (folder / "report.html").read_text(encoding="utf-8")


# The page


def test_page_says_that_every_row_is_accounted_for(tmp_path):
    page = page_of(facts(), tmp_path)
    assert "Every row is accounted for: 10,000 read + 100 added = 9,950 kept + 150 dropped." in page
    assert "✗" not in page


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"rows": {"read": 10_000, "added": 99, "kept": 9_950, "dropped": 150, "changed": 0, "cut": 0}}, "rows"),
        ({"inputs": []}, "inputs"),
        ({"splits": {}, "tokens": {"total": 0, "trained": 0}}, "splits"),
        ({"reasons": [reason("dropped", "x", 149), reason("changed", "y", 1)]}, "reasons"),
        ({"tokens": {"total": 1_234_566, "trained": 0}}, "tokens"),
    ],
)
def test_each_sum_that_does_not_hold_is_named(wrong, name, tmp_path):
    wrong_facts = facts(**wrong)
    assert [check["name"] for check in checks(wrong_facts) if not check["holds"]] == [name]
    page = page_of(wrong_facts, tmp_path)
    assert "do not add up" in page
    assert "Every row is accounted for" not in page
    assert "do not add up" in summary_table(wrong_facts)


def test_markup_in_rows_is_shown_and_not_obeyed(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    page = page_of(
        facts(
            recipe=evil,
            reasons=[reason("dropped", evil, 150, before=evil, after="b"), reason("changed", evil, 1, before=evil)],
            classes={evil: {"before": 1, "after": 1}},
            formats={evil: 1},
            splits={evil: facts().splits["train"]},
        ),
        tmp_path,
    )
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_page_has_no_address_outside_itself(tmp_path):
    page = page_of(facts(), tmp_path)
    assert "default-src 'none'" in page
    assert not [word for word in ("http:", "https:", " src=", "@import", "url(") if word in page]


def test_unseen_and_half_characters_are_written_out(tmp_path):
    page = page_of(facts(reasons=[reason("dropped", "x", 150, before="a\u202eb\x00c\ud800d\u200be\tf")]), tmp_path)
    assert "a[U+202E]b[U+0000]c[U+D800]d[U+200B]e\tf" in page
    assert "\u202e" not in page


def test_a_huge_row_makes_no_huge_page(tmp_path):
    huge = reason("changed", "长" * 100_000, 1, before="x" * 100_000, after="y" + "x" * 100_000 + "z")
    many = [reason("dropped", f"r{number:03}" + "长" * 10_000, 1) for number in range(150)]
    page = page_of(facts(reasons=[huge, *many]), tmp_path)
    assert len(page) < 60_000
    assert "120 more reasons" in page


def test_changes_are_marked(tmp_path):
    changed = reason("changed", "x", 1, before="金额５００元", after="金额500元")
    page = page_of(facts(reasons=[*facts().reasons, changed]), tmp_path)
    assert "金额<del>５００</del><ins>500</ins>元" in page


def test_a_reason_that_is_its_step_s_name_is_said_once(tmp_path):
    page = page_of(facts(reasons=[reason("dropped", "some_step", 150)]), tmp_path)
    assert '<span class="soft">some_step</span>' not in page


def test_a_dropped_row_stands_beside_the_one_it_resembles(tmp_path):
    page = page_of(facts(reasons=[reason("dropped", "x", 150, before="one two three", after="one 2 three")]), tmp_path)
    assert "one <del>two</del> three" in page
    assert "one <ins>2</ins> three" in page


def test_only_the_largest_classes_are_listed_and_the_rest_summed(tmp_path):
    classes = {f"class {number}": {"before": 2 * number, "after": number} for number in range(1, 1001)}
    page = page_of(facts(classes=classes), tmp_path)
    assert "class 981" in page
    assert "class 980" not in page
    assert "980 more classes" in page
    assert f"{sum(range(981)):,}" in page
    assert f"{sum(range(1001)):,}" in page


def test_balance_is_the_largest_class_over_the_smallest_that_has_rows():
    table = class_table(
        {"a": {"before": 30, "after": 10}, "b": {"before": 3, "after": 5}, "c": {"before": 1, "after": 0}}
    )
    assert table["ratios"] == {"before": 30.0, "after": 2.0}
    assert table["gone"] == 1


def test_a_page_of_no_rows_says_so(tmp_path):
    none = dict.fromkeys(("read", "added", "kept", "dropped", "changed", "cut"), 0)
    page = page_of(DataFacts("r.yaml", none, {"total": 0, "trained": 0}, 512, "/p", 0.0, "now"), tmp_path)
    assert "No rows were read." in page


# Lengths


@settings(deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=200), st.integers(8, 1_048_576))
def test_every_document_is_in_the_bin_of_its_length(lengths, limit):
    bins = length_histogram(np.array(lengths, dtype=np.int64), limit)
    assert len(bins) <= 25
    assert sum(count for *_, count in bins) == len(lengths)
    for place, (low, high, count) in enumerate(bins):
        assert low == (bins[place - 1][1] if place else 0)
        assert count == sum(low < length <= high or (not low and not length) for length in lengths)


def test_the_limit_falls_on_an_edge():
    bins = length_histogram(np.arange(1, 513), 512)
    assert bins[-1] == (480, 512, 32)
    bins = length_histogram(np.arange(1, 301), 1000)
    assert (bins[0], bins[-1]) == ((0, 20, 20), (280, 300, 20))


def test_one_very_long_document_does_not_flatten_the_others():
    bins = length_histogram(np.array([*range(1, 1001), 100_000]), 131_072)
    assert sum(count > 0 for *_, count in bins) > 10
    assert bins[-1][1:] == (100_000, 1)


def test_lengths_reached_are_bin_edges():
    bins = [(0, 10, 50), (10, 20, 45), (20, 30, 0), (30, 40, 5)]
    assert [length_reached(bins, part) for part in (0.5, 0.51, 0.95, 1.0)] == [10, 20, 20, 40]
    assert length_reached([], 0.5) == 0


def test_the_limit_is_drawn_where_its_value_is():
    chart = histogram_chart([(0, 100, 3), (100, 200, 1)], 400)
    assert chart["bars"][0]["x"] == chart["left"]
    assert chart["limit_x"] == chart["right"]
    middle = chart["bars"][1]["x"] - chart["left"]
    assert middle == pytest.approx((chart["limit_x"] - chart["left"]) / 4, abs=0.2)


def test_a_limit_far_away_is_not_drawn():
    assert histogram_chart([(0, 100, 3)], 10_000)["limit_x"] is None


def test_bars_are_as_high_as_their_counts_and_one_row_is_seen():
    chart = histogram_chart([(0, 1, 1_000_000), (1, 2, 500_000), (2, 3, 1), (3, 4, 0)], 4)
    heights = [bar["height"] for bar in chart["bars"]]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert heights[2] > 1
    assert heights[3] == 0


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=50), st.integers(8, 1_048_576))
def test_nothing_in_the_chart_sticks_out(lengths, limit):
    chart = histogram_chart(length_histogram(np.array(lengths), limit), limit)
    for bar in chart["bars"]:
        assert chart["left"] <= bar["x"] <= bar["x"] + bar["width"] <= chart["right"] + 0.2
        assert bar["y"] >= chart["top"]
    assert all(0 <= tick["x"] <= chart["right"] for tick in chart["columns"])
    assert chart["limit_x"] is None or chart["left"] <= chart["limit_x"] <= chart["right"]


# Differences


@settings(deadline=None)
@given(*[st.text(alphabet="ab好的 .", max_size=80)] * 2)
def test_pieces_make_up_both_texts(before, after):
    pieces = difference(before, after)
    if all(kind != "left out" for kind, _ in pieces):
        assert "".join(text for kind, text in pieces if kind != "new") == before
        assert "".join(text for kind, text in pieces if kind != "gone") == after


def test_words_are_compared_whole_and_chinese_by_character():
    assert difference("a good cat sat", "a great cat sits") == [
        ("same", "a "), ("gone", "good"), ("new", "great"), ("same", " cat "), ("gone", "sat"), ("new", "sits"),
    ]  # fmt: skip
    assert difference("请问年费是多少", "请问年费多少") == [("same", "请问年费"), ("gone", "是"), ("same", "多少")]


def test_texts_with_nothing_in_common_are_not_woven_together():
    assert difference("ä½ å¥½", "你好") == [("gone", "ä½ å¥½"), ("new", "你好")]


def test_what_can_not_be_seen_is_seen_where_it_changed():
    assert difference("a\u200db\u200b\n", "ab") == [
        ("same", "a"), ("gone", "[U+200D]"), ("same", "b"), ("gone", "[U+200B]↵\n"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [("x" * 100_000, "y" * 100_000), ("a b " * 50_000, "b a " * 50_000), ("长" * 100_000, "长" * 99_999 + "短")],
)
def test_a_difference_of_long_texts_is_short(before, after):
    assert sum(len(text) for _, text in difference(before, after)) < 1_500


def test_emoji_stay_whole():
    family = "👨\u200d👩\u200d👧"
    assert show_unseen(family) == family


# The table for the terminal


def test_the_table_holds_totals_steps_and_folders():
    assert summary_table(facts()).split("\n") == [
        "10,000 rows read + 100 added = 9,950 kept + 150 dropped (40 changed, 5 cut)",
        "  step              rows in  changed  dropped    time",
        "  exact_duplicates   10,000        0      150  0.50 s",
        "dropped: 150 × equal to an earlier row",
        "train 9,950 rows; 1,234,567 tokens, 400,000 of them trained; 12.3 s",
        "  prepared  /prepared/abc",
        f"  report    {Path('/prepared/abc/report.html')}",
    ]


def test_files_that_were_left_alone_are_told_in_the_table_and_on_the_page(tmp_path):
    inputs = [{"path": "d/a.jsonl", "encoding": "UTF-8", "rows": 10_000, "bytes": 9, "note": "left alone: cat\x1b.png"}]
    assert "d/a.jsonl: left alone: cat[U+001B].png" in summary_table(facts(inputs=inputs)).split("\n")
    write_report(tmp_path / "report.html", facts(inputs=inputs))
    assert "left alone: cat[U+001B].png" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_rows_that_could_not_be_made_are_told_in_the_table_and_on_the_page(tmp_path):
    made = {"outcome": "added", "step": "synonym", "reason": "synonym", "count": 64, "examples": []}
    short = facts(reasons=[*facts().reasons, made], asked={"synonym": 862})
    assert "synonym: 64 of 862 rows asked for; the others can't be changed" in summary_table(short).split("\n")
    assert "synonym made 64 of the 862 rows asked for" in page_of(short, tmp_path).replace("&#39;", "'")
    assert "asked for" not in summary_table(facts(reasons=[made], asked={"synonym": 64}))


def test_columns_are_aligned_with_chinese_names():
    lines = aligned([["step", "rows"], ["去掉广告", "5"], ["plain", "1,000"]])
    assert {cell_len(line) for line in lines} == {2 + 8 + 2 + 5}


def test_a_hundred_steps_fit_a_screen_and_none_is_lost():
    step = {"rows_in": 10, "changed": 1, "dropped": 2, "seconds": 1.0}
    table = summary_table(facts(steps=[{"step": f"s{number}", **step} for number in range(100)]))
    assert len(table.split("\n")) <= 25
    assert "  88 more steps       10       88      176  1 min 28 s" in table


def test_the_terminal_is_not_obeying_a_row():
    evil = "\x1b[2J\nnew line"
    table = summary_table(
        facts(
            reasons=[reason("dropped", evil, 150)],
            steps=[{**facts().steps[0], "step": evil}],
            prepared_folder=f"/p/{evil}",
        )
    )
    assert "\x1b" not in table
    assert len(table.split("\n")) == 7


# Numbers


def test_a_share_that_is_not_all_or_nothing_does_not_look_like_it():
    assert [share(*pair) for pair in ((0, 9), (1, 10**6), (10**6 - 1, 10**6), (1, 1), (1, 8), (0, 0))] == [
        "0.0%", "<0.1%", ">99.9%", "100.0%", "12.5%", "0.0%",
    ]  # fmt: skip


def test_durations_and_sizes_have_the_unit_that_fits():
    assert [duration(value) for value in (0, 0.42, 12.34, 59.97, 200, 7500)] == [
        "0.00 s", "0.42 s", "12.3 s", "1 min 0 s", "3 min 20 s", "2 h 5 min",
    ]  # fmt: skip
    assert [size(value) for value in (0, 999, 1200, 999_960, 3_400_000, 5 * 10**15)] == [
        "0 B", "999 B", "1.2 kB", "1.0 MB", "3.4 MB", "5,000.0 TB",
    ]  # fmt: skip
