"""A fuzzer asks every route with bodies that reach new code: no server error, and memory that stays where it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soak

pytest.importorskip("atheris", reason="pip install 'danlu[dev]'")
FUZZER = Path(__file__).parents[1] / "fuzz_gateway.py"
RUNS = 200_000 if soak.ALL else 5_000


def fuzz(runs: int, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # The fuzzer reads the greatest size from the system, and a program begins with the greatest size of whoever started
    # it: here a pytest of several GB. A shell between them is small.
    small = ["sh", "-c", '"$@"; exit $?', "sh"]
    words = [sys.executable, str(FUZZER), f"-runs={runs}", "-max_len=4096", "-len_control=0", "-seed=1"]
    words.append(f"-artifact_prefix={folder}/")
    return subprocess.run(
        [*small, *words], capture_output=True, text=True, env={**os.environ, **variables}, timeout=1500
    )


def test_no_body_is_a_server_error_and_memory_is_bounded(tmp_path: Path) -> None:
    done = fuzz(RUNS, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (runs,) = re.findall(r"Done (\d+) runs", done.stderr)
    assert int(runs) >= RUNS
    begun, *_, ended = (int(found) for found in re.findall(r"rss: (\d+)Mb", done.stderr))
    assert ended < 1.1 * begun + 20


def test_a_server_error_would_be_found(tmp_path: Path) -> None:
    done = fuzz(500, tmp_path, DANLU_FUZZ_PLANTED="1")
    assert done.returncode != 0
    assert "KeyError: 'planted'" in done.stdout + done.stderr
