"""Metrics survive what a crash leaves of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.tracking.metrics import FILE, MetricsFile, cut_metrics, read_metrics


def write(folder: Path, steps: range) -> None:
    metrics = MetricsFile(folder)
    for step in steps:
        metrics.write({"step": step, "loss": step / 7, "rates": {"a": 1e-3}})
    metrics.close()


def test_cut_at_any_byte_all_lines_that_are_whole_are_read(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    content = (tmp_path / FILE).read_bytes()
    for size in range(len(content) + 1):
        (tmp_path / FILE).write_bytes(content[:size])
        whole = content[:size].count(b"\n") + (size < len(content) and content[size : size + 1] == b"\n")
        assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3][:whole]


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b"\x00" * 40, b"\xff\xfe{", b"4", b'"step"'])
def test_what_was_torn_is_left_out_and_written_anew(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, range(1, 4))
    with (tmp_path / FILE).open("ab") as stream:
        stream.write(torn)
    cut_metrics(tmp_path, 2)
    write(tmp_path, range(3, 6))
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(n, n / 7) for n in range(1, 6)]
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 5
