"""Whatever bytes a file holds, reading it gives rows or a DataError, and no row is lost or made up."""

import bz2
import csv
import gzip
import io
import json
import os
import tempfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from danlu.data.sources import BadRow, Row, Source, read_rows
from danlu.data.sources.kinds import DATA_ENDINGS, kind_of_name
from danlu.errors import DataError

BOUNDED = settings(max_examples=150, deadline=None)
ENDINGS = [*DATA_ENDINGS, "", ".bin"]
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=8)


def read(content, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows" + ending)
        with open(path, "wb") as stream:
            stream.write(content)
        return list(read_rows(Source(path, kind_of_name(path))))


def read_or_refuse(content, ending):
    """The rows, or none where the file is refused; any other exception fails the test."""
    refusal, rows = None, None
    try:
        rows = read(content, ending)
    except DataError as error:
        refusal = error
    if refusal:
        assert all(fault.what and fault.where for fault in refusal.faults)
        assert refusal.exit_status == 2
        return None
    assert rows
    assert all(isinstance(row, Row) and row.line >= 1 for row in rows)
    return rows


# White space to Unicode but not to bytes: a file of it alone has no rows.
UNICODE_SPACE = ["\x1c", "\x85", "\u2028", "\u3000"]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv", ".txt", ""])
@pytest.mark.parametrize("space", UNICODE_SPACE)
def test_a_file_of_white_space_alone_is_empty(space, ending):
    with pytest.raises(DataError, match="the file is empty"):
        read((space * 3 + "\n " + space).encode(), ending)


@BOUNDED
@given(st.binary(max_size=300), st.sampled_from(ENDINGS))
def test_any_bytes_give_rows_or_a_data_error(content, ending):
    read_or_refuse(content, ending)


SYNTAX = st.lists(
    st.sampled_from(
        [
            *[space.encode() for space in UNICODE_SPACE],
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b",",
            b":",
            b"\n",
            b"\r",
            b"\\",
            b"\\u",
            b"a",
            b"1",
            b"-",
            b".",
            b"e",
            b"null",
            b" ",
            b"\t",
            b";",
            b"\0",
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b"\xd6\xd0",
            "退".encode(),
            "\u2028".encode(),
            b'{"a":',
        ]
    ),
    max_size=40,
).map(b"".join)


@BOUNDED
@given(SYNTAX, st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt", ""]))
def test_any_order_of_syntax_gives_rows_or_a_data_error(content, ending):
    read_or_refuse(content, ending)


@BOUNDED
@given(
    st.binary(max_size=200), st.sampled_from([b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\x1f\x8b\x08", b"BZh9"])
)
def test_any_bytes_behind_a_known_beginning_give_rows_or_a_data_error(content, magic):
    read_or_refuse(magic + content, ".jsonl")
    read_or_refuse(magic + content + magic, ".parquet")


def arrow_stream(table):
    target = pa.BufferOutputStream()
    with pa.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table)
    return target.getvalue().to_pybytes()


def columnar(write):
    def pack(table):
        target = pa.BufferOutputStream()
        write(table, target)
        return target.getvalue().to_pybytes()

    return pack


def zstd(content):
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(content)
    return target.getvalue().to_pybytes()


ROWS = [{"question": f"怎么退货？{n}", "tags": ["a", "b"], "inner": {"n": n, "text": "x" * n}} for n in range(20)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
TABLE = pa.Table.from_pylist(ROWS)
VALID = {
    ".jsonl": LINES,
    ".json": json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
    ".csv": 'question,answer\n"怎么退货？\n再问",请联系客服\n'.encode() * 1 + "你好,你好\n".encode() * 20,
    ".tsv": b"question\tanswer\n" + "你好\t你好\n".encode() * 20,
    ".txt": "你好，世界\n".encode("gbk") * 20,
    ".jsonl.gz": gzip.compress(LINES),
    ".jsonl.bz2": bz2.compress(LINES),
    ".jsonl.zst": zstd(LINES),
    ".parquet": columnar(pa.parquet.write_table)(TABLE),
    ".feather": columnar(pa.feather.write_feather)(TABLE),
    ".ipc": columnar(lambda table, target: pa.feather.write_feather(table, target, compression="uncompressed"))(TABLE),
    ".arrow": arrow_stream(TABLE),
}


@pytest.mark.parametrize("ending", list(VALID))
def test_the_files_that_are_damaged_below_are_whole_before(ending):
    assert len(read(VALID[ending], ending)) == (21 if ending == ".csv" else 20)


@pytest.mark.parametrize("ending", list(VALID))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_files_give_rows_or_a_data_error(ending, data):
    content = bytearray(VALID[ending])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        how = data.draw(st.sampled_from(["cut", "flip", "insert", "remove"]))
        if how == "cut":
            del content[place:]
        elif how == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        elif how == "remove":
            del content[place : place + data.draw(st.integers(1, 8))]
        elif place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
    read_or_refuse(bytes(content), ending)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.bz2", ".jsonl.zst", ".json", ".parquet", ".feather", ".arrow"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_that_is_cut_off_never_passes_for_whole(ending, data):
    content = VALID[ending]
    size = data.draw(st.integers(0, len(content) - 1))
    assert read_or_refuse(content[:size], ending) is None


@BOUNDED
@given(OBJECTS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]), st.booleans())
def test_json_lines_come_back_in_order_with_their_lines(values, ascii_only, line_end, last):
    text = line_end.join(json.dumps(value, ensure_ascii=ascii_only) for value in values) + (line_end if last else "")
    step = line_end.count("\n")
    expected = [(value, 1 + step * number, "line") for number, value in enumerate(values)]
    assert [(row.value, row.line, row.unit) for row in read(text.encode(), ".jsonl")] == expected


@BOUNDED
@given(st.lists(VALUES, min_size=1, max_size=8), st.sampled_from([None, 0, 2]), st.booleans())
def test_json_lists_come_back_in_order_with_their_numbers(values, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    expected = [(value, number, "row") for number, value in enumerate(values, 1)]
    assert [(row.value, row.line, row.unit) for row in read(text.encode(), ".json")] == expected


CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0\ufeff"), max_size=12)


@BOUNDED
@given(st.integers(2, 4), st.data(), st.sampled_from([(".csv", ","), (".tsv", "\t"), (".csv", ";")]))
def test_tables_come_back_in_order_with_their_lines(num_columns, data, form):
    ending, delimiter = form
    table = data.draw(st.lists(st.lists(CELLS, min_size=num_columns, max_size=num_columns), min_size=1, max_size=6))
    header = [f"c{n}" for n in range(num_columns)]
    target = io.StringIO()
    writer = csv.writer(target, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    expected, line = [], 2
    for cells in table:
        writer.writerow(cells)
        expected.append(({name: cell or None for name, cell in zip(header, cells, strict=True)}, line))
        line += 1 + sum(cell.count("\n") for cell in cells)
    assert [(row.value, row.line) for row in read(target.getvalue().encode(), ending)] == expected


@BOUNDED
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_lines_of_text_come_back_in_order(texts):
    texts = [text.replace("\n", " ").replace("\r", " ") for text in texts]
    content = "\n".join(texts)
    assume(content.strip() and not content.lstrip().startswith(("{", "[", "\ufeff")) and "\0" not in content)
    expected = [(text, number) for number, text in enumerate(texts, 1) if text.strip()]
    assume(not any(content.encode().startswith(magic) for magic in (b"PAR1", b"PK", b"BZh", b"FEA1", b"%PDF", b"7z")))
    assert [(row.value["text"], row.line) for row in read(content.encode(), ".txt")] == expected


@BOUNDED
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": TEXTS,
                "n": st.integers(-(2**60), 2**60),
                "turns": st.lists(st.fixed_dictionaries({"role": TEXTS})),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([".parquet", ".feather", ".arrow"]),
)
def test_columnar_rows_come_back_in_order(values, ending):
    turns = pa.list_(pa.struct({"role": pa.string()}))
    table = pa.Table.from_pylist(values, schema=pa.schema({"text": pa.string(), "n": pa.int64(), "turns": turns}))
    pack = {
        ".parquet": columnar(pa.parquet.write_table),
        ".feather": columnar(pa.feather.write_feather),
        ".arrow": arrow_stream,
    }[ending]
    expected = [(value, number) for number, value in enumerate(values, 1)]
    assert [(row.value, row.line) for row in read(pack(table), ending)] == expected


@BOUNDED
@given(OBJECTS, st.data())
def test_a_repeated_key_is_never_lost_in_silence(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    lines = [json.dumps(value) for value in values]
    lines[place] = '{"key": {"k": 1, "x": [], "k": 1}}'
    for content, ending in (("\n".join(lines), ".jsonl"), (f"[{', '.join(lines)}]", ".json")):
        rows = read(content.encode(), ending)
        assert [row.value for row in rows if isinstance(row.value, BadRow)] == [BadRow("a key stands twice: `k`")]
        assert isinstance(rows[place].value, BadRow)
