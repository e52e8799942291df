"""What trackers were told is in their own files, read by their own libraries, offline."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.recipe.tracking_schema import TrackingSection
from danlu.tracking.interface import measures
from danlu.tracking.journal import Journal

RECIPE = {"training": {"learning_rate": 1e-3}, "data": {"train": ["客服.jsonl"]}}
RESULT = {"steps": 6, "train_loss": 0.125, "rows": {"read": 40}}
Points = dict[str, dict[int, float]]


def line(step: int) -> dict[str, Any]:
    held = {"evaluation_loss": 3 / step} if step % 2 == 0 else {}
    norm, rate = 0.5 + step, 1e-3 / step
    return {
        "step": step,
        "loss": 1 / step,
        "learning_rate": rate,
        "gradient_norm": norm,
        "tokens": 90,
        "seconds": 0.5,
        **held,
    }


def expected(last: int) -> Points:
    points: Points = {}
    for step in range(1, last + 1):
        for name, value in measures({**line(step), "peak_memory_bytes": 1e9}).items():
            points.setdefault(name, {})[step] = value
    return points


def settings(type: str, **keys: Any) -> dict[str, Any]:
    offline = {"mode": "offline"} if type in ("wandb", "swanlab") else {}
    section = TrackingSection.model_validate(
        {"trackers": ({"type": type, "timeout_seconds": 120.0, **offline, **keys},)}
    )
    return section.trackers[0].model_dump(mode="json")


def track(folder: Path, steps: range, *trackers: dict[str, Any], status: Any = "finished") -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, RECIPE, trackers, steps.start - 1, quiet=True)
    for step in steps:
        journal.write(line(step), 10**9)
    return journal.close(status, RESULT)


def read_tensorboard(folder: Path) -> tuple[Points, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tracking" / "tensorboard")).Reload()
    texts = [events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]]
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert all(len({event.step for event in found}) == len(found) for found in scalars.values()), "each step once"
    return {tag: {event.step: event.value for event in found} for tag, found in scalars.items()}, "".join(texts)


def read_wandb(folder: Path) -> tuple[Points, str]:
    points: Points = {}
    text, ids = "", set()
    for path in sorted((folder / "tracking" / "wandb" / "wandb").glob("offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
        records = [json.loads(line) for line in said.splitlines()]
        ids |= {record["run"]["run_id"] for record in records if record["type"] == "run"}
        text += json.dumps([one for one in records if one["type"] in ("run", "summary")], ensure_ascii=False)
        for record in records:
            if record["type"] == "history":
                item = record["history"]["item"]
                for key in item.keys() - {"step"}:
                    if not key.startswith("_"):
                        points.setdefault(key, {})[item["step"]] = item[key]
    assert len(ids) == 1
    return points, text


def read_mlflow(folder: Path) -> tuple[Points, str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("danlu").experiment_id])
    assert run.info.run_name == folder.name
    assert run.info.status == "FINISHED"
    points = {
        key: {one.step: one.value for one in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
    }
    return points, str(run.data.params) + str(run.data.tags)


def read_swanlab(folder: Path) -> tuple[Points, str]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    points: Points = {}
    paths = sorted((folder / "tracking" / "swanlab").glob("run-*/*.swanlab"))
    for path in paths:
        reader = DataStoreReader()
        reader.open(str(path))
        for data in reader:
            record = Record.FromString(data)
            if record.HasField("scalar"):
                points.setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
    assert len({path.name for path in paths}) == 1
    return points, "".join((path.parent / "files" / "config.yaml").read_text() for path in paths)


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow, "swanlab": read_swanlab}
KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(kind) is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"),
            reason=f"{kind} is not installed",
        ),
    )
    for kind in READERS
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_resumed_is_one_run_with_every_number_of_every_step(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "客服 run"
    (first,) = track(folder, range(1, 5), settings(kind), status="failed")
    (second,) = track(folder, range(4, 7), settings(kind))  # step 4 is told again, as after a checkpoint of step 3
    for report in (first, second):
        assert (report["lost"], report["finished"], report["problem"]) == (0, True, None), report
    points, text = READERS[kind](folder)
    assert points.keys() == expected(6).keys()
    for name, values in expected(6).items():
        assert points[name] == pytest.approx(values, rel=1e-6), name
    assert "0.001" in text
    assert "客服.jsonl" in text.encode().decode("unicode_escape", "ignore") or "客服.jsonl" in text
    assert "0.125" in text, "the result"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0] == "swanlab"])
def test_what_swanlab_could_not_send_is_no_success(kind: str, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom danlu.tracking.interface import TrackedRun\n"
        "from danlu.tracking.trackers import open_tracker\n"
        "keys = {'mode': 'offline', 'project': 'p', 'workspace': None, 'host': None}\n"
        "tracker = open_tracker('swanlab', TrackedRun('n', {}, Path(sys.argv[1])), keys)\n"
        "from swanlab.sdk.internal.pkg import console\n"
        "finish = type(tracker._run).finish\n"
        "type(tracker._run).finish = lambda *a, **k: (console.error('upload failed'), finish(*a, **k))\n"
        "tracker.finish('finished', {})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ConnectionError: upload failed"
