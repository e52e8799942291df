"""No tracker can stop a run: one that is down, hangs, raises, dies or has no disk is a line in the log and a count."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import RecipeError
from danlu.recipe.load import load_recipe
from danlu.tracking.journal import Journal
from danlu.tracking.metrics import read_metrics
from danlu.tracking.trackers import TRACKERS, require_trackers

ROOT = Path(__file__).parents[3]
# Stands for tensorboardX, so that it can be told to go wrong; what it is given it writes down.
LIBRARY = """
import json, os, sys, time
class SummaryWriter:
    def __init__(self, folder, purge_step=None):
        self.path = os.path.join(folder, "told.jsonl")
        if {at} == "open" and not os.path.exists(self.path + ".tried"):
            open(self.path + ".tried", "w").close()
            {fault}
    def add_text(self, *_): pass
    def add_scalar(self, name, value, step):
        if {at} == step and not os.path.exists(self.path + ".tried"):
            open(self.path + ".tried", "w").close()
            {fault}
        if name == "loss":
            with open(self.path, "a") as stream: print(step, file=stream)
    def flush(self): pass
    def close(self):
        if {at} == "close":
            {fault}
"""


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "learning_rate": 1e-3, "gradient_norm": 1.0, "tokens": 9, "seconds": 0.1}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a library that goes wrong in the place of tensorboardX, for the trackers' processes."""

    def put(at: str, fault: str) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir()
        (folder / "tensorboardX.py").write_text(LIBRARY.format(at=at, fault=fault))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return put


def track(
    folder: Path, steps: range, seconds: float = 3.0, type: str = "tensorboard", status: Any = "finished", **keys: Any
) -> tuple[dict[str, Any], float]:
    """What the tracker's side came to, and the longest time that one line took."""
    folder.mkdir(exist_ok=True)
    settings = {"type": type, "name": None, "timeout_seconds": seconds, **keys}
    journal = Journal(folder, {"a": 1}, [settings], steps.start - 1)
    longest = 0.0
    for step in steps:
        started = time.monotonic()
        journal.write(line(step), 10**9)
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.1)
    return journal.close(status, {"steps": steps.stop - 1})[0], longest


def told(folder: Path) -> list[int]:
    path = folder / "tracking" / "tensorboard" / "told.jsonl"
    return [int(text) for text in path.read_text().split()] if path.exists() else []


def steps_of(folder: Path) -> list[int]:
    return [one["step"] for one in read_metrics(folder)]


FAULTS = {
    "hangs": ("time.sleep(3600)", "has not answered for 3 s"),
    "raises": ("raise OSError(28, 'No space left on device')", "No space left on device"),
    "exits": ("sys.exit(3)", "its process ended too early"),
    "dies": ("os.kill(os.getpid(), 9)", "its process ended too early"),
}


@pytest.mark.parametrize("at", ['"open"', "3", '"close"'])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_goes_wrong_anywhere_loses_nothing_else_and_says_so(
    at: str, fault: str, tmp_path: Path, library: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    library(at, FAULTS[fault][0])
    folder = tmp_path / "run"
    started = time.monotonic()
    report, longest = track(folder, range(1, 6))
    assert steps_of(folder) == [1, 2, 3, 4, 5]
    assert longest < 1.0, "a line never waits for a tracker"
    assert time.monotonic() - started < 30
    recovers = fault == "raises" and at != '"close"'
    if recovers:
        assert (report["lost"], report["problem"], report["finished"]) == (0, None, True)
        assert told(folder)[-3:] == [3, 4, 5]
        return
    assert FAULTS[fault][1] in report["problem"], report
    assert not report["finished"]
    fewest = {'"open"': 5, "3": 3, '"close"': 0}[at]
    assert fewest <= report["lost"] <= (5 if fewest else 0)
    assert report["lost"] >= 5 - len(told(folder)), "what is not known to have arrived is counted"
    assert "metrics.jsonl" in report["hint"]
    assert not running(folder), "nothing of it is left"


def running(folder: Path) -> list[str]:
    """Tracker processes of this run folder."""
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [text for text in shown.splitlines() if "danlu.tracking.worker" in text and str(folder) in text]


def test_what_went_wrong_is_a_line_in_the_log(tmp_path: Path, library: Any, capfd: pytest.CaptureFixture[str]) -> None:
    library("3", "raise ConnectionError('the server is\\ngone ' + 'x' * 999)")
    track(tmp_path / "run", range(1, 60), status="stopped")
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("tracker tensorboard: ConnectionError: the server is gone xxx")
    assert said[0].endswith("…; the run goes on")
    assert said[1:] == ["tracker tensorboard: is there again"]


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"),
    reason="mlflow is not installed",
)
@pytest.mark.parametrize("what", ["refuses", "hangs"])
def test_a_server_that_is_down_costs_a_run_no_more_than_the_timeout(what: str, tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if what == "hangs":
            server.listen(99)
        keys = {"uri": f"http://127.0.0.1:{server.getsockname()[1]}", "experiment": "danlu"}
        started = time.monotonic()
        report, longest = track(tmp_path / "run", range(1, 4), 20.0, "mlflow", **keys)
        assert time.monotonic() - started < 60
    assert (report["lines"], report["lost"], report["finished"]) == (3, 3, False)
    assert "127.0.0.1" in report["problem"] or "has not answered" in report["problem"]
    assert longest < 1.0
    assert steps_of(tmp_path / "run") == [1, 2, 3]


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking").write_text("in the way")
    report, _ = track(tmp_path / "run", range(1, 4))
    assert report["lost"] == 3
    assert "could not be started" in report["problem"]
    assert steps_of(tmp_path / "run") == [1, 2, 3]


def test_a_run_that_goes_on_tells_what_was_not_told_before(tmp_path: Path, library: Any) -> None:
    library("3", "os.kill(os.getpid(), 9)")
    folder = tmp_path / "run"
    report, _ = track(folder, range(1, 6), status="stopped")
    assert report["lost"] > 0
    assert 5 not in told(folder)
    report, _ = track(folder, range(6, 8))
    assert report["lost"] == 0
    assert sorted(set(told(folder))) == [1, 2, 3, 4, 5, 6, 7]


def test_a_tracker_ends_by_itself_when_the_process_that_trains_is_killed(tmp_path: Path, library: Any) -> None:
    library('"close"', "open(self.path + '.closed', 'w').close()")
    folder = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom danlu.tracking.journal import Journal\n"
        f"folder = Path({str(folder)!r}); folder.mkdir()\n"
        "journal = Journal(folder, {}, [{'type': 'tensorboard', 'name': None, 'timeout_seconds': 5.0}])\n"
        f"journal.write({line(1)!r}, 1); print('told', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    deadline = time.monotonic() + 60
    while not told(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told(folder) == [1]
    assert (folder / "tracking" / "tensorboard" / "told.jsonl.closed").exists()


def test_what_is_not_installed_is_said_at_once_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for type, kind in TRACKERS.items():
        monkeypatch.setitem(TRACKERS, type, type_without_library(kind))
    with pytest.raises(RecipeError) as raised:
        require_trackers(["wandb", "mlflow", "wandb"])
    assert [fault.what for fault in raised.value.faults] == [
        "Weights & Biases is not installed",
        "MLflow is not installed",
    ]
    assert "pip install 'danlu[wandb]'" in raised.value.faults[0].hint
    require_trackers([])


def type_without_library(kind: Any) -> Any:
    from dataclasses import replace

    return replace(kind, library="a_library_that_is_not_there")


def test_a_folder_of_the_librarys_name_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    (tmp_path / "wandb_like").mkdir()  # as W&B leaves in the working folder
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "wandb", replace(TRACKERS["wandb"], library="wandb_like"))
    with pytest.raises(RecipeError):
        require_trackers(["wandb"])


def test_every_tracker_has_an_extra_of_its_name() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(TRACKERS) <= set(extras)
    assert extras["trackers"] == [f"danlu[{','.join(TRACKERS)}]"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[{type: tensorbord}]", "did you mean `tensorboard`?"),
        ("[{type: wandb, mode: ofline}]", "'online' or 'offline'"),
        ("[{type: mlflow, uri: 'http://me:secret@host'}]", "leave the password out"),
        ("[{type: mlflow, timeout_seconds: 0}]", "greater than 0"),
    ],
)
def test_a_wrong_tracker_is_refused(words: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(ROOT / "recipes" / "smollm2_135m_lora.yaml", [f"tracking.trackers={words}"])
    assert said in str(raised.value)
