import json

import pytest

from danlu.data.sources import read_rows
from danlu.errors import DataError


@pytest.fixture
def file(tmp_path):
    def write(content, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def faults_of(path):
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.exit_status == 2
    return caught.value.faults


def fault_of(path):
    faults = faults_of(path)
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def read(path):
    return [(row.value, row.where) for row in read_rows(path)]


def test_missing_file_is_named(tmp_path):
    fault = fault_of(tmp_path / "none.jsonl")
    assert (fault.what, fault.where) == ("no such data file", str(tmp_path / "none.jsonl"))
    assert fault.hint


def test_folder_is_not_a_data_file(tmp_path):
    fault = fault_of(tmp_path)
    assert "irectory" in fault.what
    assert fault.where == str(tmp_path)


@pytest.mark.parametrize("content", ["", " \n\t\n \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_file_without_anything_in_it_is_empty(file, content):
    fault = fault_of(file(content))
    assert fault.what == "the file is empty"
    assert fault.hint


@pytest.mark.parametrize("content", ["question,answer\n", "hello", "\x00\x00", "<rows/>"])
def test_file_that_is_not_json_says_what_json_starts_with(file, content):
    path = file(content)
    fault = fault_of(path)
    assert "starts with neither `{` nor `[`" in fault.what
    assert fault.where == str(path)


def test_rows_of_a_list_are_counted_from_one(file):
    path = file('\n [{"a": 1},\n {"a": 2}]\n', "rows.json")
    assert read(path) == [({"a": 1}, f"{path}, row 1"), ({"a": 2}, f"{path}, row 2")]


def test_list_that_is_cut_off_gives_the_line(file):
    path = file('[{"a": 1},\n {"a":')
    fault = fault_of(path)
    assert fault.what.startswith("this is not JSON")
    assert fault.where == f"{path}:2, column 7"
    assert "cut off" in fault.hint


def test_text_after_a_list_is_refused(file):
    path = file('[{"a": 1}]\n[{"a": 2}]\n')
    fault = fault_of(path)
    assert fault.where == f"{path}:2, column 1"
    assert "nothing after it" in fault.allowed


def test_list_without_rows_is_refused(file):
    assert fault_of(file("[]")).what == "the list has no rows"


def test_bad_line_in_the_middle_is_given_by_number(file):
    path = file('{"a": 1}\n\nnot json\n{"a": 2}\n')
    fault = fault_of(path)
    assert fault.what == "this line is not JSON: Expecting value"
    assert fault.where == f"{path}:3"
    assert fault.hint


def test_last_line_that_is_cut_off_is_given_by_number(file):
    path = file('{"a": 1}\n{"a": "x')
    assert fault_of(path).where == f"{path}:2"


@pytest.mark.parametrize(("bad", "more"), [(6, "1 more bad line follows"), (9, "4 more bad lines follow")])
def test_more_than_five_bad_lines_are_counted_not_listed(file, bad, more):
    path = file('{"a": 1}\n' + "x\n" * bad)
    faults = faults_of(path)
    assert [fault.where for fault in faults] == [f"{path}:{line}" for line in range(2, 7)]
    assert faults[-1].what.endswith(more)


def test_five_bad_lines_are_all_there_are(file):
    faults = faults_of(file('{"a": 1}\n' + "x\n" * 5))
    assert len(faults) == 5
    assert "more" not in faults[-1].what


def test_gbk_file_gives_the_byte_and_how_to_convert_it(file):
    path = file('{"a": "\u4e2d\u6587"}\n'.encode("gbk"))
    fault = fault_of(path)
    assert fault.what == "not UTF-8: byte 7 is 0xd6"
    assert fault.where == str(path)
    assert "iconv -f GB18030 -t UTF-8 rows.jsonl > utf8.jsonl" in fault.hint


def test_utf16_file_is_not_taken_for_chinese(file):
    fault = fault_of(file('{"a": 1}\n'.encode("utf-16"), "rows.json"))
    assert "iconv -f UTF-16 -t UTF-8 rows.json > utf8.json" in fault.hint


def test_utf8_byte_order_mark_is_accepted(file):
    path = file(b"\xef\xbb\xbf" + b'{"a": 1}\n')
    assert read(path) == [({"a": 1}, f"{path}:1")]


def test_blank_lines_are_skipped_and_still_counted(file):
    path = file('\n\n{"a": 1}\n   \n{"a": 2}')
    assert read(path) == [({"a": 1}, f"{path}:3"), ({"a": 2}, f"{path}:5")]


def test_windows_line_ends_are_read(file):
    path = file('{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert read(path) == [({"a": 1}, f"{path}:1"), ({"a": 2}, f"{path}:3")]


def test_line_separators_inside_text_end_no_line(file):
    value = {"a": "one\u2028two\u2029three\x85four"}
    path = file(json.dumps(value, ensure_ascii=False) + "\n" + '{"a": 2}\n')
    assert read(path) == [(value, f"{path}:1"), ({"a": 2}, f"{path}:2")]


def test_lines_need_not_all_be_objects_to_be_read(file):
    assert [value for value, _ in read(file('{"a": 1}\n[1]\nnull\n'))] == [{"a": 1}, [1], None]


def test_single_object_on_one_line_is_one_row(file):
    assert [value for value, _ in read(file('{"a": 1}'))] == [{"a": 1}]


def test_single_object_over_many_lines_gets_its_own_message(file):
    path = file('{\n  "a": 1,\n  "b": 2\n}\n', "rows.json")
    fault = fault_of(path)
    assert fault.what == "the file is one JSON object, not rows"
    assert fault.where == str(path)
    assert "[ ... ]" in fault.hint


def test_json_nested_too_deeply_ends_in_a_message(file):
    path = file('{"a": 1}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    fault = fault_of(path)
    assert (fault.what, fault.where) == ("this line is not JSON: it is nested too deeply", f"{path}:2")
    assert fault_of(file("[" * 100_000)).what == "this is not JSON: it is nested too deeply"


def test_number_of_too_many_digits_ends_in_a_message(file):
    path = file('[{"a": ' + "9" * 5000 + "}]")
    fault = fault_of(path)
    assert (fault.what, fault.where) == ("this is not JSON: a number has too many digits", str(path))
