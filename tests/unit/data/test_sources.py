import json
import pickle

import pytest

from danlu.data.sources import BadRow, Row, Source, encoding_of, limits, read_rows
from danlu.data.sources.kinds import kind_of_name
from danlu.errors import DataError


@pytest.fixture
def file(tmp_path):
    def write(content, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def source_of(path):
    return Source(str(path), kind_of_name(path.name))


def faults_of(path):
    with pytest.raises(DataError) as caught:
        list(read_rows(source_of(path)))
    assert caught.value.exit_status == 2
    return caught.value.faults


def fault_of(path):
    faults = faults_of(path)
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def read(path):
    return [(row.value, row.where) for row in read_rows(source_of(path))]


def test_missing_file_is_named(tmp_path):
    fault = fault_of(tmp_path / "none.jsonl")
    assert (fault.what, fault.where) == ("no such data file", str(tmp_path / "none.jsonl"))
    assert fault.hint


def test_folder_is_not_read_as_a_data_file(tmp_path):
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


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_of_chinese_are_read_and_told(file, encoding):
    text = '{"a": "我想退货，请问应该怎么做？"}\n{"a": 2}\n'
    path = file(text.encode(encoding))
    assert read(path) == [({"a": "我想退货，请问应该怎么做？"}, f"{path}:1"), ({"a": 2}, f"{path}:2")]
    assert encoding_of(source_of(path)).startswith("GB18030" if encoding.startswith("gb") else encoding.upper()[:6])


def test_four_byte_characters_of_gb18030_are_read(file):
    path = file('{"a": "中文𠀀的😀"}\n'.encode("gb18030"))
    assert read(path) == [({"a": "中文𠀀的😀"}, f"{path}:1")]


def test_utf8_is_told_of_utf8(file):
    assert encoding_of(source_of(file('{"a": "中文"}\n'))) == "UTF-8"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("euc_kr", "안녕하세요. 이 제품을 반품하고 싶습니다. 어떻게 해야 하나요? 고객 센터에 문의하십시오."),
        ("big5", "您好，我想退貨，請問應該怎麼做？請聯絡客服中心。"),
        ("shift_jis", "こんにちは。返品したいのですが、どうすればいいですか。"),
        ("euc_jp", "こんにちは。返品したいのですが、どうすればいいですか。"),
        ("latin-1", "Où est le café ? J'ai été à l'école, ça va très bien."),
        ("cp1251", "Здравствуйте, я хочу вернуть товар. Как это сделать?"),
    ],
)
def test_encodings_that_are_not_known_are_refused_and_never_guessed(file, encoding, text):
    fault = fault_of(file(('{"a": "' + text + '"}\n').encode(encoding)))
    assert fault.what.startswith("not UTF-8: byte ")
    assert "iconv -f" in fault.hint


def test_the_first_byte_that_is_not_utf8_is_named(file):
    path = file(b'{"a": "' + b"x" * 600_000 + b'"}\n{"a": "\xff"}\n')
    fault = fault_of(path)
    assert (fault.what, fault.where) == ("not UTF-8: byte 600017 is 0xff", str(path))
    assert "iconv -f BIG5 -t UTF-8 rows.jsonl > utf8.jsonl" in fault.hint


def test_a_file_cut_within_a_character_is_said_to_be_cut_off(file):
    fault = fault_of(file('{"a": "中'.encode()[:-1]))
    assert fault.what == "not UTF-8: byte 7 is 0xe4"
    assert "cut off" in fault.hint


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
    assert (fault.what, fault.where) == ("this is not JSON: a number has too many digits", f"{path}, row 1")


def test_rows_before_the_first_bad_line_are_given_and_none_after_it(file):
    rows = read_rows(source_of(file('{"a": 1}\nx\n{"a": 2}\n')))
    assert next(rows).value == {"a": 1}
    with pytest.raises(DataError):
        next(rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_stands_twice_is_a_bad_row(file, name):
    text = '{"a": 1, "b": {"c": 1, "c": 2}}'
    path = file(text + '\n{"a": 2}\n' if name == "rows.jsonl" else f'[{text}, {{"a": 2}}]', name)
    assert [value for value, _ in read(path)] == [BadRow("a key stands twice: `c`"), {"a": 2}]


@pytest.mark.parametrize("depth", [limits.MAX_DEPTH, limits.MAX_DEPTH + 1])
def test_nesting_is_allowed_up_to_a_bound(file, depth):
    path = file("{" + '"a": {' * (depth - 1) + "}" * depth + "\n")
    if depth == limits.MAX_DEPTH:
        assert len(read(path)) == 1
    else:
        assert fault_of(path).what == "this line is not JSON: it is nested too deeply"


def test_many_brackets_beside_each_other_are_not_nesting(file):
    assert len(read(file(json.dumps({"a": [[]] * 1000, "b": "[" * 1000}) + "\n"))) == 1


def test_an_object_around_a_list_is_refused_with_the_lists_name(file):
    fault = fault_of(file('{\n  "version": 1,\n  "data": [{"a": 1}]\n}\n', "rows.json"))
    assert fault.what == "the file is one JSON object, not rows"
    assert "`data`" in fault.hint


def test_lone_surrogates_written_as_escapes_are_kept_for_the_conversion_to_judge(file):
    assert [value for value, _ in read(file('{"a": "\\ud800"}\n'))] == [{"a": "\ud800"}]


def test_zero_bytes_make_a_bad_line(file):
    assert fault_of(file(b'{"a": "x\0y"}\n')).what.startswith("this line is not JSON: Invalid control character")


def test_rows_of_a_list_that_cross_blocks_are_whole(file, monkeypatch):
    monkeypatch.setattr(limits, "BLOCK_BYTES", 7)
    values = [{"text": "退货" * n, "n": [1.5e-7, -12, True, None, '\\"]']} for n in range(30)] + [3, "x", -1.25, False]
    for indent in (None, 2):
        path = file(json.dumps(values, ensure_ascii=False, indent=indent), "rows.json")
        assert read(path) == [(value, f"{path}, row {number}") for number, value in enumerate(values, 1)]


def test_the_place_of_a_fault_in_a_list_is_right_however_it_is_cut_into_blocks(file, monkeypatch):
    path = file('[\n {"a": "退货"},\n {"a": "x"},  {"b" 1},\n {"a": 1}]')
    for size in (3, 8, 1 << 18):
        monkeypatch.setattr(limits, "BLOCK_BYTES", size)
        assert fault_of(path).where == f"{path}:3, column 20"


@pytest.mark.parametrize(
    ("text", "column"), [('[{"a": 1} {"a": 2}]', 11), ('[{"a": 1},]', 11), ("[1, 2", 6), ("[1,", 4)]
)
def test_lists_with_a_fault_between_rows_are_refused_there(file, text, column):
    path = file(text)
    assert fault_of(path).where == f"{path}:1, column {column}"


@pytest.mark.parametrize("size", [5, 1 << 18])
def test_lines_are_whole_whatever_the_blocks(file, monkeypatch, size):
    monkeypatch.setattr(limits, "BLOCK_BYTES", size)
    values = [{"text": "退货" * n} for n in range(40)]
    path = file("\n\n".join(json.dumps(value, ensure_ascii=False) for value in values))
    assert read(path) == [(value, f"{path}:{2 * number + 1}") for number, value in enumerate(values)]


def test_a_row_comes_through_pickle_equal():
    for row in (Row({"a": 1}, "x.jsonl", 3), Row(BadRow("why: so"), "x.json", 4, "row")):
        again = pickle.loads(pickle.dumps(row))
        assert again == row
        assert again.where == row.where


def test_a_file_that_grows_while_it_is_read_is_refused(file):
    path = file('{"a": 1}\n' * 3)
    rows = read_rows(source_of(path))
    next(rows)
    with path.open("a") as stream:
        stream.write('{"a": 2}\n')
    with pytest.raises(DataError, match="the file changed while it was read"):
        list(rows)


def test_a_file_that_is_replaced_or_removed_while_it_is_read_is_refused(file):
    for change in (lambda path: path.unlink(), lambda path: file('{"a": 9}\n', "new").replace(path)):
        path = file('{"a": 1}\n' * 3)
        rows = read_rows(source_of(path))
        next(rows)
        change(path)
        with pytest.raises(DataError, match="the file changed while it was read"):
            list(rows)
