"""Workers that Ray Train starts, here or on a cluster: each trains as one of several processes does.

When a worker is lost, Ray ends the others and starts all of them again; they go on from the newest checkpoint of the
run folder, which all of them, and this process, must see under the same path.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import errors
from danlu.errors import Fault, InputError, RecipeError, Stopped, WorkError
from danlu.recipe import LoadedRecipe
from danlu.recipe.run_schema import RayLauncher
from danlu.runs import MANIFEST, read_manifest, write_json
from danlu.training.processes import LONGEST_WAIT, THIS_ALONE, processes_of_environment
from danlu.training.resuming import begin_run

_KEY = "run.launcher"
# Nothing is sent anywhere or measured; workers stay in the folder that a recipe's paths begin in; Ray itself is silent.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_COLOR_PREFIX": "0",
}
# A Ray of our own keeps to the loopback address on Linux too; whoever reaches its ports could run anything.
_OWN_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_CLUSTER_SETTINGS = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # of half a minute each, not twenty
_OBJECT_STORE_BYTES = 128 << 20  # nothing large goes through it


@dataclass(frozen=True)
class Task:
    """What every worker gets.

    Attributes:
        loaded: the checked recipe.
        folder: that its relative paths begin in.
        wrong: the file that says what is wrong with the input, once a worker has found it.
        quiet: no progress on stderr.
    """

    loaded: LoadedRecipe
    folder: Path
    wrong: Path
    quiet: bool


def train_on_ray(loaded: LoadedRecipe, launcher: RayLauncher, quiet: bool, resume: bool) -> dict[str, Any]:
    """Trains in Ray's workers, and gives what the run came to, as `run_training` does.

    Raises:
        RecipeError: Ray is not installed, or this is itself one of several processes.
        InputError: something in the recipe, data or model is wrong.
        Stopped: Ctrl-C; the checkpoints are kept.
        WorkError: workers were lost or failed more often than the recipe allows, or Ray can't be reached.
    """
    _require_ray()
    folder = loaded.run_folder.absolute()
    begin_run(loaded, folder, THIS_ALONE, resume)
    rays_own = folder.parent / f".{folder.name}.ray"
    shutil.rmtree(rays_own, ignore_errors=True)
    try:
        with _connected(launcher):
            _fit(launcher, Task(loaded, Path.cwd(), rays_own / "wrong.json", quiet), folder)
    finally:
        shutil.rmtree(rays_own, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty
    result: dict[str, Any] = read_manifest(folder, "run")["result"]
    return result


def _require_ray() -> None:
    if processes_of_environment().world_size > 1:
        what = "Ray starts the workers, and this is one of several processes already"
        raise RecipeError(Fault(what, _KEY, hint="leave --nproc or torchrun out, or set run.launcher={type: local}"))
    if importlib.util.find_spec("ray") is None:
        raise RecipeError(Fault("Ray is not installed", _KEY, "local without it", "pip install 'danlu[ray]'"))


@contextlib.contextmanager
def _connected(launcher: RayLauncher) -> Iterator[None]:
    """A cluster's Ray, or one of our own that sees nothing but this machine and ends with the run."""
    address = _address(launcher)
    for name, value in {**_SETTINGS, **(_CLUSTER_SETTINGS if address else _OWN_SETTINGS)}.items():
        os.environ.setdefault(name, value)
    import ray

    own = {
        "num_cpus": launcher.num_workers * _cpus(launcher),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    try:
        ray.init(address or "local", logging_config=ray.LoggingConfig(log_level="CRITICAL"), **({} if address else own))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        what = f"Ray can't be reached: {(str(error).splitlines() or [''])[0]}"
        hint = "see `ray status` there, and RAY_AUTH_MODE" if address else "leave run.launcher out to train without Ray"
        raise WorkError(Fault(what, address or _KEY, hint=hint)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _address(launcher: RayLauncher) -> str | None:
    return launcher.address or os.environ.get("RAY_ADDRESS")


def _cpus(launcher: RayLauncher) -> int:
    """Cores of each worker."""
    if launcher.cpus_per_worker is not None:
        return launcher.cpus_per_worker
    if _address(launcher):
        return 1
    from danlu.training.machine import usable_cores

    return max(1, usable_cores() // launcher.num_workers)


def _fit(launcher: RayLauncher, task: Task, folder: Path) -> None:
    """Runs the workers to the end; what Ray itself keeps lies beside the run folder meanwhile."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(timeout_s=int(LONGEST_WAIT.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=launcher.num_workers,
            use_gpu=launcher.use_gpu,
            resources_per_worker={"CPU": _cpus(launcher), **({"GPU": 1} if launcher.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=task.wrong.parent.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=launcher.max_failures),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )
    go_on = f"go on from the newest checkpoint: danlu train {task.loaded.path} --resume (with the same overrides)"
    try:
        trainer.fit()
    except TrainingFailedError as error:
        _require_right(task.wrong)
        raise WorkError(_failure(error, launcher, folder, go_on)) from error
    except SystemExit as error:  # so Ray ends a program that is interrupted or terminated
        raise Stopped(Fault("stopped", str(folder), hint=go_on)) from error
    _require_right(task.wrong)


def _require_right(wrong: Path) -> None:
    """Raises what a worker found wrong with the input."""
    if wrong.is_file():
        found = json.loads(wrong.read_text(encoding="utf-8"))
        raise getattr(errors, found["error"])(*(Fault(**fault) for fault in found["faults"]))


def _failure(error: Any, launcher: RayLauncher, folder: Path, go_on: str) -> Fault:
    """What the last of the workers' failures was, with what the lowest of the workers said."""
    said = [str(one) for _, one in sorted(getattr(error, "worker_failures", {}).items())] or [str(error)]
    lines = [line for line in said[0].splitlines() if line.strip()]
    what = f"workers failed, after {launcher.max_failures} new starts" if launcher.max_failures else "workers failed"
    said_last = textwrap.shorten(lines[-1], 160, placeholder=" ...") if lines else type(error).__name__
    return Fault(f"{what}: {said_last}", str(folder), hint=go_on)


def _work(config: dict[str, Task]) -> None:
    """One worker's part; what is wrong with the input is noted, so that it is not tried again."""
    from danlu.training.run import train_here

    task = config["task"]
    os.chdir(task.folder)
    if task.wrong.is_file() or (task.loaded.run_folder / MANIFEST).is_file():
        return  # all was found or done when a worker was lost
    try:
        train_here(task.loaded, task.quiet, resume=True)
    except InputError as error:
        write_json(task.wrong, error.to_json())
