"""Several writers at one folder, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registry_race import race
from small_registry import write_run

from danlu.registry import Registry


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *_inherited()])))


def _inherited() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def test_two_writers_at_a_folder_lose_no_version_and_tear_no_alias(tmp_path: Path) -> None:
    figures = race(str(tmp_path / "registry"), tmp_path)
    assert figures["events"] > figures["operations"] / 2


_SLOW = """
import sys, time
from danlu.registry import Registry
from danlu.registry.store import FolderStore
whole = FolderStore._upload
def upload(self, path, source):
    if path.endswith(sys.argv[3]):
        with self._aside(path) as (aside, stream):
            stream.write(source.read_bytes()[:100])
            stream.flush()
            print("half", flush=True)
            time.sleep(60)
    whole(self, path, source)
FolderStore._upload = upload
Registry.open(sys.argv[1]).add(sys.argv[2], "support", "production")
"""


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "recipe.resolved.yaml"])
def test_of_a_writer_that_is_killed_in_mid_upload_nothing_is_visible(tmp_path: Path, file: str) -> None:
    url, run = str(tmp_path / "registry"), write_run(tmp_path / "run")
    registry = Registry.open(url)
    registry.add(write_run(tmp_path / "first", 1), "support", "production")
    words = [sys.executable, "-c", _SLOW, url, str(run), file]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.SIGKILL)
    left = list((tmp_path / "registry" / "versions").rglob("*.tmp"))
    assert len(left) == 1, "the killed writer had half a file"
    state = registry.state()
    assert (state.number, [version.number for version in state.versions("support")]) == (1, [1])
    assert registry.add(run, "support", "production")["reference"] == "support@2"
    registry.fetch(registry.resolve("support"))
    assert registry.prune()["leftovers"] == 0, "another writer may be at work there"
    day_ago = time.time() - 25 * 3600
    for path in (tmp_path / "registry" / "versions").rglob("*"):
        os.utime(path, (day_ago, day_ago))
    assert registry.prune()["leftovers"] >= 1
    assert not list((tmp_path / "registry" / "versions").rglob("*.tmp"))
    registry.fetch(registry.resolve("support@1"))
    registry.fetch(registry.resolve("support@2"))
