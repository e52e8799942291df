import bz2
import csv
import datetime
import decimal
import gzip
import json
import os
import tracemalloc

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from danlu.data.sources import BadRow, Source, encoding_of, limits, read_rows
from danlu.data.sources.kinds import kind_of_name
from danlu.errors import DataError


@pytest.fixture
def file(tmp_path):
    def write(content, name):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(path):
    return [(row.value, row.where) for row in read_rows(Source(str(path), kind_of_name(path.name)))]


def values(path):
    return [value for value, _ in read(path)]


def fault_of(path):
    with pytest.raises(DataError) as caught:
        read(path)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def zstd(content):
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(content)
    return target.getvalue().to_pybytes()


def test_cells_of_a_csv_are_text_and_empty_ones_null(file):
    path = file("question,answer,n\nHow?,So.,1\n你好,,\n", "rows.csv")
    assert read(path) == [
        ({"question": "How?", "answer": "So.", "n": "1"}, f"{path}:2"),
        ({"question": "你好", "answer": None, "n": None}, f"{path}:3"),
    ]


def test_quoted_cells_may_hold_delimiters_quotes_and_line_breaks(file):
    path = file('a,b\r\n"x,1","say ""hi""\r\nagain"\r\n\r\n3,4\r\n', "rows.csv")
    assert read(path) == [
        ({"a": "x,1", "b": 'say "hi"\r\nagain'}, f"{path}:2"),
        ({"a": "3", "b": "4"}, f"{path}:5"),
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ";"), ("rows.csv", "\t"), ("rows.tsv", "\t")])
def test_other_delimiters_are_seen(file, name, delimiter):
    path = file(f"a{delimiter}b\n1{delimiter}x, y\n", name)
    assert values(path) == [{"a": "1", "b": "x, y"}]


def test_rows_that_do_not_match_the_header_are_bad_rows(file):
    path = file("a,b\n1\n1,2,3\n1,2\n", "rows.csv")
    assert read(path) == [
        (BadRow("cells do not match the header: 1 cells, 2 columns"), f"{path}:2"),
        (BadRow("cells do not match the header: 3 cells, 2 columns"), f"{path}:3"),
        ({"a": "1", "b": "2"}, f"{path}:4"),
    ]


def test_a_row_of_empty_cells_is_a_row_and_a_blank_line_is_none(file):
    bad = BadRow("cells do not match the header: 3 cells, 2 columns")
    path = file("a,b\n1,2\n,,\n\n \t\n,\n", "rows.csv")
    assert read(path) == [
        ({"a": "1", "b": "2"}, f"{path}:2"),
        (bad, f"{path}:3"),
        ({"a": None, "b": None}, f"{path}:6"),
    ]
    path = file('text\none\n""\n\n" "\n  \n', "rows.csv")
    assert read(path) == [
        ({"text": "one"}, f"{path}:2"),
        ({"text": None}, f"{path}:3"),
        ({"text": " "}, f"{path}:5"),
    ]


def test_broken_quotes_within_a_line_make_a_bad_row(file):
    path = file('a,b\n"x"y,2\n1,2\n', "rows.csv")
    bad, good = values(path)
    assert bad.reason.startswith("broken quotes: ")
    assert good == {"a": "1", "b": "2"}


def test_broken_quotes_that_take_in_other_rows_are_an_error(file):
    path = file('a,b\n"x,2\n1,2\n3,"4"\n', "rows.csv")
    fault = fault_of(path)
    assert "takes in 3 lines" in fault.what
    assert fault.where == f"{path}:2"


def test_a_quote_that_is_never_closed_is_an_error_with_its_line(file):
    path = file('a,b\n1,2\n"x,2\n1,2\n', "rows.csv")
    fault = fault_of(path)
    assert fault.what == "a quote that is opened in this row is never closed"
    assert fault.where == f"{path}:3"


@pytest.mark.parametrize("header", ["a,b,a", "a, a", ",,"])
def test_a_column_that_stands_twice_is_refused(file, header):
    path = file(f"{header}\n1,2,3\n", "rows.csv")
    assert "stands twice in the header" in fault_of(path).what


def test_a_table_without_rows_is_refused(file):
    assert fault_of(file("a,b\n\n", "rows.csv")).what == "the table has a header but no rows"


def test_lines_of_old_macs_are_named_for_what_they_are(file):
    assert "old Macs ended lines so" in fault_of(file("question,answer\rq,a\rr,b\r", "rows.csv")).what
    good, bad, last = values(file("question,answer\nq,a\nr\rs,b\nt,c\n", "mixed.csv"))
    assert (good, last) == ({"question": "q", "answer": "a"}, {"question": "t", "answer": "c"})
    assert bad.reason.startswith("a carriage return stands alone")


def test_a_million_columns_are_refused(file):
    path = file(",".join(map(str, range(1_000_000))) + "\n1,2\n", "rows.csv")
    assert fault_of(path).what == "the header has 1000000 columns, more than 10000"


def test_a_chinese_table_as_spreadsheets_save_it_is_read(file):
    path = file("问题,答案\r\n怎么退货？,请联系客服。\r\n".encode("gbk"), "rows.csv")
    assert values(path) == [{"问题": "怎么退货？", "答案": "请联系客服。"}]


def test_each_line_of_text_that_is_not_blank_is_a_row(file):
    path = file("one\r\n\n  two\u2028still two\n \nthree", "rows.txt")
    assert read(path) == [
        ({"text": "one"}, f"{path}:1"),
        ({"text": "  two\u2028still two"}, f"{path}:3"),
        ({"text": "three"}, f"{path}:5"),
    ]


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows", "rows.parquet", "rows.data", "rows.jsonl"])
def test_json_under_a_wrong_name_is_read_as_json(file, name):
    assert values(file('\n{"a": 1}\n{"a": 2}\n', name)) == [{"a": 1}, {"a": 2}]
    assert values(file('[{"a": 1},\n {"a": 2}]\n', name)) == [{"a": 1}, {"a": 2}]


def test_parquet_under_a_wrong_name_is_read_as_parquet(tmp_path):
    pa.parquet.write_table(pa.table({"a": [1, 2]}), tmp_path / "rows.json")
    assert values(tmp_path / "rows.json") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.parquet", b"hello", "this is not a parquet file"),
        ("rows.xlsx", b"PK\x03\x04....", "this is a zip archive or an Excel workbook"),
        ("rows", b"hello", "neither the ending nor the content tells"),
        ("rows.csv.xz", b"\xfd7zXZ\x00....", "this is an xz file"),
        ("rows.parquet.gz", gzip.compress(b"PAR1....", mtime=0), "a parquet file can't be read from within gzip"),
        ("rows.jsonl.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("rows.csv", b"", "the file is empty"),
        ("rows.parquet", b"", "the file is empty"),
        ("rows.txt", b" \n\n", "the file is empty"),
    ],
)
def test_files_that_are_no_data_are_named_for_what_they_are(file, name, content, what):
    path = file(content, name)
    fault = fault_of(path)
    assert fault.what.startswith(what)
    assert fault.where == str(path)
    assert fault.hint


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstd)])
class TestArchives:
    def test_they_are_unpacked(self, file, ending, pack):
        path = file(pack(b'{"a": 1}\n\n{"a": 2}\n'), f"rows.jsonl.{ending}")
        assert read(path) == [({"a": 1}, f"{path}:1"), ({"a": 2}, f"{path}:3")]
        assert values(file(pack(b"a,b\n1,2\n"), f"rows.csv.{ending}")) == [{"a": "1", "b": "2"}]
        assert values(file(pack("退货".encode("gbk")), f"rows.txt.{ending}")) == [{"text": "退货"}]

    def test_several_in_a_row_are_one_file(self, file, ending, pack):
        path = file(pack(b'{"a": 1}\n') + pack(b'{"a": 2}\n'), f"rows.jsonl.{ending}")
        assert values(path) == [{"a": 1}, {"a": 2}]

    def test_one_that_is_cut_off_is_refused(self, file, ending, pack):
        whole = pack(b"".join(b'{"a": %d}\n' % (n * 7919**5) for n in range(500)))
        for size in (len(whole) // 2, len(whole) - 1):
            assert "file is cut off: " in fault_of(file(whole[:size], f"rows.jsonl.{ending}")).what

    def test_one_with_something_behind_it_is_refused(self, file, ending, pack):
        path = file(pack(b'{"a": 1}\n') + b"hello world, hello", f"rows.jsonl.{ending}")
        assert "file is damaged" in fault_of(path).what


def test_an_ending_of_an_archive_on_a_plain_file_does_no_harm(file):
    assert values(file(b'{"a": 1}\n', "rows.jsonl.gz")) == [{"a": 1}]


NESTED = [
    {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}], "n": number, "x": None}
    for number in range(3000)
]


def write_stream(table, path):
    with pa.OSFile(str(path), "wb") as target, pa.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.parquet", pa.parquet.write_table),
        ("rows.feather", pa.feather.write_feather),
        ("rows.arrow", write_stream),
    ],
)
def test_columnar_files_give_nested_rows_in_order(tmp_path, name, write):
    path = tmp_path / name
    write(pa.Table.from_pylist(NESTED), path)
    assert read(path) == [(value, f"{path}, row {number}") for number, value in enumerate(NESTED, 1)]
    assert encoding_of(Source(str(path), kind_of_name(name))) == ""


def test_dates_that_python_has_none_for_become_text_and_never_stop_a_file(tmp_path):
    table = pa.table(
        {
            "at": pa.array([1, None], pa.timestamp("ns")),
            "far": pa.array([2**62, 0], pa.timestamp("s")),
            "day": pa.array([2**30, 0], pa.date32()),
            "took": pa.array([61_500_000_000, 0], pa.duration("ns")),
        }
    )
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as target, pa.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)
    first, second = values(tmp_path / "rows.arrow")
    assert first["at"] == "1970-01-01T00:00:00.000000001"
    assert str(2**62) in first["far"]
    assert str(2**30) in first["day"]
    assert first["took"] == "0:01:01.500000"
    assert second == {"at": None, "far": "1970-01-01T00:00:00", "day": "1970-01-01", "took": "0:00:00"}


def test_a_cell_that_can_not_be_had_makes_a_bad_row(tmp_path):
    twice = pa.array([[("k", "a")], [("k", "a"), ("k", "b")]], pa.map_(pa.string(), pa.string()))
    pa.parquet.write_table(pa.table({"map": twice}), tmp_path / "rows.parquet")
    good, bad = values(tmp_path / "rows.parquet")
    assert good == {"map": {"k": "a"}}
    assert bad.reason.startswith("a cell can't be read: column `map`: ")


def test_dates_decimals_and_binary_text_become_text(tmp_path):
    table = pa.table(
        {
            "day": [datetime.date(2026, 1, 2)],
            "at": [datetime.datetime(2026, 1, 2, 3, 4, 5)],
            "price": [decimal.Decimal("1.50")],
            "old_text": pa.array(["退货".encode()], pa.binary()),
            "picture": pa.array([b"\xff\x00"], pa.binary()),
            "inner": [[{"day": datetime.date(2026, 1, 2)}]],
        }
    )
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    assert values(tmp_path / "rows.parquet") == [
        {
            "day": "2026-01-02",
            "at": "2026-01-02T03:04:05",
            "price": "1.50",
            "old_text": "退货",
            "picture": b"\xff\x00",
            "inner": [{"day": "2026-01-02"}],
        }
    ]


def test_columnar_files_with_unusable_headers_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    write_stream(twice, tmp_path / "rows.arrow")
    assert fault_of(tmp_path / "rows.arrow").what == "the column `a` stands twice in the header"
    pa.parquet.write_table(pa.table({f"c{n}": [1] for n in range(10_001)}), tmp_path / "rows.parquet")
    assert fault_of(tmp_path / "rows.parquet").what == "the table has 10001 columns, more than 10000"
    pa.parquet.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "none.parquet")
    assert fault_of(tmp_path / "none.parquet").what == "the table has no rows"


def test_columnar_files_that_are_cut_off_are_refused(tmp_path):
    for name, write in (("rows.parquet", pa.parquet.write_table), ("rows.feather", pa.feather.write_feather)):
        path = tmp_path / name
        write(pa.Table.from_pylist(NESTED), path)
        path.write_bytes(path.read_bytes()[:-400])
        assert fault_of(path).what.startswith("the file can't be read as a table")


def test_rows_over_the_bound_are_bad_rows_in_every_format(file, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ROW_BYTES", 1 << 16)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1 << 12)
    rows = [{"text": "a"}, {"text": '退"\\' * (1 << 16)}, {"text": "b"}]
    bad = "row is larger than 0.0625 MiB: "
    for name, content in (
        ("rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)),
        ("rows.json", json.dumps(rows, ensure_ascii=False)),
        ("rows.txt", "a\n" + "x" * (2 << 16) + "\nb"),
        ("rows.csv", 'text\na\n"' + "x\n" * (2 << 16) + '"\nb\n'),
        ("more.csv", 'text\na\n"' + 'x""' * (2 << 16) + '"\nb\n'),
    ):
        first, large, last = values(file(content, name))
        assert (first, last) == (rows[0], rows[2]), name
        assert large.reason.startswith(bad), name
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, large, last = values(tmp_path / "rows.parquet")
    assert (first, last) == (rows[0], rows[2])
    assert large.reason.startswith(bad)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_row_over_the_bound_is_never_held_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr(limits, "MAX_ROW_BYTES", 1 << 20)
    before, after = {
        "rows.jsonl": (b'{"text": "', b'"}\n{"text": "b"}\n'),
        "rows.json": (b'[{"text": "', b'"}, {"text": "b"}]'),
        "rows.csv": (b'text\n"', b'"\nb\n'),
        "rows.txt": (b"", b"\nb\n"),
    }[name]
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.write(before)
        for _ in range(20):
            stream.write(b"x" * (1 << 20))
        stream.write(after)
    rows = read_rows(Source(str(path), kind_of_name(name)))
    tracemalloc.start()
    try:
        large, last = [row.value for row in rows]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert large.reason.startswith("row is larger than 1 MiB: 20.0 MiB")
    assert last == {"text": "b"}
    assert peak < 6 << 20


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt", "rows.parquet"])
def test_many_rows_are_not_held_together(tmp_path, name):
    path = tmp_path / name
    text = "x" * 1000
    many = 12_000
    if name == "rows.parquet":
        pa.parquet.write_table(pa.table({"text": [f"{n}{text}" for n in range(many)]}), path)
    else:
        with path.open("w", newline="") as stream:
            if name == "rows.csv":
                csv.writer(stream).writerows([["text"], *([f"{n}{text}"] for n in range(many))])
            elif name == "rows.json":
                json.dump([{"text": f"{n}{text}"} for n in range(many)], stream)
            else:
                stream.writelines(json.dumps({"text": f"{n}{text}"}) + "\n" for n in range(many))
    rows = read_rows(Source(str(path), kind_of_name(name)))
    next(rows)
    tracemalloc.start()
    allocated = pa.total_allocated_bytes()
    try:
        count = 1 + sum(1 for _ in rows)
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - allocated
    finally:
        tracemalloc.stop()
    assert count == many
    assert peak < 6 << 20


def test_an_arrow_stream_that_ends_between_two_batches_is_refused(tmp_path):
    path = tmp_path / "rows.arrow"
    table = pa.table({"a": [1, 2]})
    with pa.OSFile(str(path), "wb") as target, pa.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes()[:-8])
    assert fault_of(path).what == "the Arrow stream is cut off: its end mark is missing"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_a_failing_disk_is_an_error_with_the_file():
    with pytest.raises(DataError, match="can't read the data file: Input/output error"):
        list(read_rows(Source("/proc/self/mem", "json")))
