"""Memory that is not enough for a step: done again in smaller pieces, unless that can't help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.data.template import Document
from danlu.errors import Fault, FolderError, Stopped, WorkError, is_out_of_memory
from danlu.training import running
from danlu.training.running import note_running, noted, read_note
from danlu.training.shrinking import fewer_tokens, within_memory


class Counting:
    """As much of a backend as is asked for: another process may have failed, and what is dropped is counted."""

    def __init__(self, others: float = 0.0, exchanges: bool = False) -> None:
        self.others, self.equal_shares, self.dropped = others, exchanges, 0

    def total(self, value: float) -> float:
        return value + self.others

    def drop(self) -> None:
        self.dropped += 1


def allocate(num_bytes: int) -> torch.Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


def test_torch_s_own_refusal_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        allocate(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(OSError("out of memory"))


def test_a_failed_allocation_gives_nothing_and_drops_the_gradients() -> None:
    backend = Counting()
    assert within_memory(lambda: allocate(1 << 60), backend, able=True) is None
    assert backend.dropped == 1
    assert within_memory(lambda: 7, backend, able=True) == 7
    assert backend.dropped == 1


def test_where_another_process_failed_this_one_begins_anew_too() -> None:
    backend = Counting(others=1.0)
    assert within_memory(lambda: 7, backend, able=True) is None
    assert backend.dropped == 1


@pytest.mark.parametrize(("exchanges", "able"), [(True, True), (False, False)])
def test_where_passes_exchange_or_the_guard_is_off_the_error_goes_on(exchanges: bool, able: bool) -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        within_memory(lambda: allocate(1 << 60), Counting(exchanges=exchanges), able)


def test_another_error_is_no_want_of_memory() -> None:
    def broken() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(broken, Counting(), able=True)


def documents(*lengths: int) -> list[Document]:
    return [Document(tuple(range(length)), ((length - 1, length),)) for length in lengths]


def test_micro_batches_are_halved_from_what_a_step_has() -> None:
    assert fewer_tokens(documents(300, 300, 300), 512) == 256
    assert fewer_tokens(documents(30, 30, 30), 4096) == 45
    rows, tokens = documents(300, 40, 100), 4096
    for fewer in (220, 110, 55, 27):
        tokens = fewer_tokens(rows, tokens)
        assert tokens == fewer
    with pytest.raises(WorkError, match="memory is not enough for a row of 300 tokens alone"):
        fewer_tokens(rows, tokens)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the system counts, as the kernel writes it."""
    counts, boot = tmp_path / "vmstat", tmp_path / "boot_id"
    counts.write_text("nr_free_pages 17\noom_kill 3\n")
    boot.write_text("this boot\n")
    monkeypatch.setattr(running, "_COUNTS", counts)
    monkeypatch.setattr(running, "_BOOT", boot)
    return counts


def test_a_run_that_the_system_ended_for_want_of_memory_is_known_by_its_note(kills: Path, tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    note_running(tmp_path, 512)
    note = read_note(tmp_path)
    assert note is not None
    assert (note["micro_batch_tokens"], note["killed_for_memory"]) == (512, False)
    kills.write_text("oom_kill 4\n")
    note = read_note(tmp_path)
    assert note is not None
    assert note["killed_for_memory"]
    (tmp_path / "boot_id").write_text("another boot\n")  # it counts from nothing again
    note = read_note(tmp_path)
    assert note is not None
    assert not note["killed_for_memory"]


def test_a_system_that_does_not_count_is_no_evidence(kills: Path, tmp_path: Path) -> None:
    kills.unlink()
    note_running(tmp_path, 512)
    kills.write_text("oom_kill 4\n")
    note = read_note(tmp_path)
    assert note is not None
    assert not note["killed_for_memory"]


def test_a_note_that_is_broken_is_none(tmp_path: Path) -> None:
    (tmp_path / running.FILE).write_text('{"micro_batch')
    assert read_note(tmp_path) is None


def test_the_note_goes_when_a_run_is_done(tmp_path: Path) -> None:
    with noted(tmp_path, 64, writes=True):
        assert json.loads((tmp_path / running.FILE).read_text())["micro_batch_tokens"] == 64
    assert not (tmp_path / running.FILE).exists()
    with noted(tmp_path, 64, writes=False):
        assert not (tmp_path / running.FILE).exists()


@pytest.mark.parametrize("error", [Stopped(Fault("stop")), FolderError(Fault("no")), OSError(), KeyboardInterrupt()])
def test_the_note_goes_where_the_program_can_speak_for_itself(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), noted(tmp_path, 64, writes=True):
        raise error
    assert not (tmp_path / running.FILE).exists()


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_the_note_stays_where_memory_or_another_process_was_lost(error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error), noted(tmp_path, 64, writes=True):
        raise error
    assert (tmp_path / running.FILE).is_file()
