"""Columnar files: Parquet, and Arrow IPC files and streams (which Feather 2 and Hugging Face folders are)."""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.data.sources import limits
from danlu.data.sources.blocks import opened
from danlu.data.sources.rows import BadRow, Row, repeated_name
from danlu.errors import DataError, Fault

_MAX_BATCH_ROWS = 1024
_BATCH_BYTES = 4 << 20
_UNFIT = (ValueError, ArithmeticError, KeyError, NotImplementedError)  # of one cell; pyarrow's own derive from these
_END_MARK = b"\xff\xff\xff\xff\0\0\0\0"  # Arrow columnar format, "IPC Streaming Format"


def arrow_rows(path: Path, shown: str, kind: str) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file, counted from 1, with nested columns as lists and objects.

    Dates, times and decimals become text (ISO 8601 and plain digits); binary cells become text where they are UTF-8
    and stay bytes elsewhere. The file is read in pieces and never mapped into memory.

    Args:
        path: a local file.
        shown: its name in messages.
        kind: "parquet" or "arrow".

    Raises:
        DataError: the file is damaged, its header can't be used, or it has no rows.
    """
    number = 0
    with opened(path, shown) as stream:
        batches = _parquet_batches(stream, shown) if kind == "parquet" else _arrow_batches(stream, shown)
        while True:
            with _as_fault(shown, number):
                batch = next(batches, None)
                if batch is None:
                    break
                values = _values(batch)
            for value in values:
                number += 1
                yield Row(value, shown, number, "row")
    if not number:
        raise DataError(Fault("the table has no rows", shown, "", "take the file out of the recipe"))


@contextmanager
def _as_fault(shown: str, num_read: int) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into one kind of error."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, *_UNFIT, OSError, TypeError, IndexError, MemoryError, RecursionError) as error:
        reason = _reason(error)
        after = f", after row {num_read}" if num_read else ""
        raise DataError(
            Fault(
                f"the file can't be read as a table: {reason}",
                shown + after,
                "a whole Parquet, Arrow or Feather file",
                "fetch or write the file again",
            )
        ) from error


def _parquet_batches(stream: Any, shown: str) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    # pre_buffer would hold a whole row group, and a file may be a single one.
    file = ParquetFile(stream, memory_map=False, pre_buffer=False, buffer_size=limits.BLOCK_BYTES)
    _check_header(file.schema_arrow, shown)
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) // max(file.metadata.num_rows, 1)
    num_rows = min(max(_BATCH_BYTES // max(row_bytes, 1), 1), _MAX_BATCH_ROWS)
    yield from file.iter_batches(batch_size=num_rows, use_threads=False)


def _arrow_batches(stream: Any, shown: str) -> Iterator[Any]:
    from pyarrow import ipc

    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if is_file:
        file = ipc.open_file(stream)
        _check_header(file.schema, shown)
        batches: Iterator[Any] = (file.get_batch(index) for index in range(file.num_record_batches))
    else:
        _require_end(stream, shown)
        reader = ipc.open_stream(stream)
        _check_header(reader.schema, shown)
        batches = iter(reader)
    for batch in batches:
        for start in range(0, batch.num_rows, _MAX_BATCH_ROWS):
            yield batch.slice(start, _MAX_BATCH_ROWS)


def _require_end(stream: Any, shown: str) -> None:
    """A stream that is cut off between two batches reads without an error; the mark at its end is what tells."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - len(_END_MARK)))
    if stream.read() != _END_MARK:
        raise DataError(
            Fault(
                "the Arrow stream is cut off: its end mark is missing",
                shown,
                "a whole Parquet, Arrow or Feather file",
                "fetch or write the file again; a writer must be closed",
            )
        )
    stream.seek(0)


def _check_header(schema: Any, shown: str) -> None:
    if len(schema) > limits.MAX_COLUMNS:
        raise DataError(Fault(f"the table has {len(schema)} columns, more than {limits.MAX_COLUMNS}", shown))
    repeated = repeated_name(schema.names)
    if repeated is not None:
        raise DataError(Fault(f"the column `{repeated[:80]}` stands twice in the header", shown))


def _values(batch: Any) -> list[Any]:
    # Offsets of a damaged Arrow file may point anywhere; unchecked, they end the process.
    batch.validate(full=True)
    names = batch.schema.names
    plain = [_plainer(field.type) for field in batch.schema]
    bad = {}
    if batch.nbytes > limits.MAX_ROW_BYTES:
        sizes = [batch.slice(row, 1).nbytes for row in range(batch.num_rows)]
        bad = {row: BadRow(limits.too_large(size)) for row, size in enumerate(sizes) if size > limits.MAX_ROW_BYTES}
    columns = []
    for name, column, change in zip(names, batch.columns, plain, strict=True):
        items = _cells(column, name, bad)
        columns.append([change(item) for item in items] if change else items)
    values: list[Any] = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    for row, reason in bad.items():
        values[row] = reason
    return values


def _cells(column: Any, name: str, bad: dict[int, BadRow]) -> list[Any]:
    """A column's cells. Dates that Python has none for (to the nanosecond, far off) become text as Arrow writes it;
    a cell that can't be had at all goes to `bad` by its row. Arrow gives dates of pandas where that is installed; their
    text is the same.
    """
    try:
        cells: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    except _UNFIT:
        cells = []
        for row, scalar in enumerate(column):
            try:
                cells.append(_cell(scalar))
            except _UNFIT as error:
                bad.setdefault(row, BadRow(f"a cell can't be read: column `{name[:80]}`: {_reason(error)}"))
                cells.append(None)
    return cells


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except (ValueError, OverflowError):
        from pyarrow import types

        if not types.is_temporal(scalar.type):
            raise
        text = scalar.cast("string").as_py()
        return text.replace(" ", "T", 1) if types.is_timestamp(scalar.type) else text


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _plainer(kind: Any) -> Callable[[Any], Any] | None:
    """How cells of a type become JSON values; none if they are some already."""
    from pyarrow import types

    simple = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    if any(is_kind(kind) for is_kind in (*simple, types.is_null)):
        return None
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    if inner and all(_plainer(item) is None for item in inner):
        return None
    return _plain


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta) and not getattr(value, "nanoseconds", 0):
        return str(datetime.timedelta(value.days, value.seconds, value.microseconds))
    return str(value) if isinstance(value, decimal.Decimal | datetime.timedelta) else value
