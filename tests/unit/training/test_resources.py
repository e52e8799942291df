"""What a machine lacks is one message, whoever finds it out; what is another fault stays that."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from danlu.errors import WorkError
from danlu.training.resources import want_said


def test_a_device_that_is_always_full_is_named_whoever_writes() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(WorkError) as caught,
        want_said(Path("run"), "danlu train r.yaml --resume"),
        full.open("wb", 0) as stream,
    ):
        stream.write(b"x")
    (fault,) = caught.value.faults
    assert fault.what.startswith("the disk is full")
    assert fault.hint == "free some space there, and go on: danlu train r.yaml --resume"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded", "run/metrics.jsonl"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_used_up_quota_and_what_safetensors_says_are_a_full_disk(error: Exception) -> None:
    with pytest.raises(WorkError, match="the disk is full"), want_said(Path("run"), "again"):
        raise error


def test_memory_that_is_not_enough_is_no_traceback() -> None:
    said = "memory is not enough\n  where: run\n  hint: close other programs"
    with pytest.raises(WorkError, match=said), want_said(Path("run"), "again"):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [PermissionError("no"), RuntimeError("shapes"), SafetensorError("header")])
def test_another_fault_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, want_said(Path("run"), "again"):
        raise error
    assert caught.value is error


def test_safetensors_still_says_the_number_of_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises((SafetensorError, OSError)) as caught:
        save_file({"a": torch.zeros(1)}, tmp_path / "nowhere" / "file")
    assert isinstance(caught.value, OSError) or "os error 2" in str(caught.value)
