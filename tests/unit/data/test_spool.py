import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.spool import Spool


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=20), max_size=5), max_size=5))
def test_rows_come_back_in_order(tmp_path_factory, batches):
    spool = Spool(tmp_path_factory.mktemp("spool") / "rows")
    for batch in batches:
        spool.extend(batch)
    rows = [row for batch in batches for row in batch]
    assert [spool[index] for index in range(len(spool))] == rows
    assert [row for chunk in spool.chunks(range(len(spool)), 3, 40) for row in chunk] == rows
    spool.close()


def test_chunks_are_bounded_by_rows_and_by_bytes(tmp_path):
    spool = Spool(tmp_path / "rows")
    spool.extend([b"x" * 10] * 10)
    assert [len(chunk) for chunk in spool.chunks(range(10), 4, 1000)] == [4, 4, 2]
    assert [len(chunk) for chunk in spool.chunks(range(10), 100, 25)] == [3, 3, 3, 1]
    assert [len(chunk) for chunk in spool.chunks([5, 5, 1], 100, 1)] == [1, 1, 1]


def test_only_the_owner_can_read_it_and_closing_removes_it(tmp_path):
    spool = Spool(tmp_path / "rows")
    assert stat.S_IMODE((tmp_path / "rows").stat().st_mode) == 0o600
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("index", [-1, 1])
def test_a_row_that_is_not_there_is_an_error(tmp_path, index):
    spool = Spool(tmp_path / "rows")
    spool.extend([b"one"])
    with pytest.raises(IndexError):
        spool[index]
