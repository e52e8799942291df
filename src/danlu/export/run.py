"""The export stage: a run folder in, a proven export folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from danlu.errors import Fault, FolderError, GateError, InputError, ModelError
from danlu.export.merge import tuned_source, write_merged
from danlu.export.parity import Parity, check_parity
from danlu.export.tensors import Source
from danlu.models.folder import weight_files
from danlu.runs import (
    ADAPTER,
    MANIFEST,
    MODEL,
    create_folder,
    file_hash,
    read_manifest,
    require_disk,
    write_json,
    write_manifest,
)
from danlu.training.probes import read_probes
from danlu.training.trained import TrainedRun, base_hash, open_run

FORMATS = {"merged": write_merged}


def run_export(
    run_folder: str | Path,
    to: str = "merged",
    out: str | Path | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
) -> dict[str, Any]:
    """Exports a run and compares the result with the run's probes.

    Args:
        run_folder: a complete run.
        to: a key of `FORMATS`.
        out: where to write; default `RUN/exports/FORMAT`.
        dtype: of the written weights; default the recipe's `export.dtype`.
        max_shard_size: of a file of weights, such as `2GB`; default the recipe's `export.max_shard_size`.

    Returns:
        `export_folder`, `written` (what the format's writer gives), `parity`, `seconds`.

    Raises:
        GateError: the export differs from what was trained; the folder stays, for a look.
        FolderError: the run is not complete, or the folder is not empty.
    """
    started = time.perf_counter()
    _require_known("--to", to, FORMATS)
    _require_known("--dtype", dtype, [None, "float32", "bfloat16"])
    shard_bytes = _bytes_of(max_shard_size)
    run = open_run(run_folder)
    probes = read_probes(run.folder)
    dtype = dtype or run.recipe.export.dtype
    base = run.base_folder()
    folder = Path(out) if out else run.folder / "exports" / to
    stored_bytes = sum(path.stat().st_size for path in weight_files(base))
    require_disk(folder, (2 if dtype == "float32" else 1) * stored_bytes + 32 * 2**20, "the export")
    create_folder(folder, "export folder", "--out FOLDER")
    try:
        written = FORMATS[to](run, folder, dtype, shard_bytes or run.recipe.export.max_shard_size)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    parity = check_parity(folder, probes)
    if not parity.passed:
        parity = check_parity(folder, probes, tuned_source(run, base))
    write_json(folder / "parity.json", parity.to_json())
    about = {
        "run_folder": str(run.folder),
        "format": to,
        "base_sha256": run.about.get("base_sha256"),
        "trained_sha256": _trained_hash(run),
        "written": written,
        "parity": parity.to_json(),
    }
    write_manifest(folder, "export", about, skip=["parity.json"])
    return _verdict(run, folder, parity, started, written)


def run_check(run_folder: str | Path, folder: str | Path) -> dict[str, Any]:
    """The same gate on a folder that exists; nothing in it is changed."""
    started = time.perf_counter()
    if not Path(folder).is_dir():
        raise FolderError(Fault("no such folder", str(folder), "a folder that an export wrote", "check the path"))
    run = open_run(run_folder)
    tuned, why_not = _at_hand(run)
    parity = check_parity(Path(folder), read_probes(run.folder), tuned)
    parity.faults[:0] = _other_origin(run, Path(folder))
    return _verdict(run, Path(folder), parity, started, {"notes": why_not})


def _at_hand(run: TrainedRun) -> tuple[Source | None, list[str]]:
    """What to compare weights with; or why there is nothing, in which case the probes alone judge."""
    try:
        return tuned_source(run), []
    except ModelError as error:
        return None, [f"weights not compared tensor by tensor: {error.faults[0].what}"]


def _other_origin(run: TrainedRun, folder: Path) -> list[str]:
    """Faults of a folder whose manifest says that it was made of another base or adapter than the run has now."""
    if not (folder / MANIFEST).is_file():
        return []
    about, faults = read_manifest(folder, "export"), []
    if about.get("base_sha256") not in (None, run.about.get("base_sha256")):
        faults.append("base: the folder was made from another base than this run was trained on")
    if about.get("trained_sha256") not in (None, _trained_hash(run)):
        faults.append("adapter: the folder was made from other trained weights than this run has now")
    return faults


def _trained_hash(run: TrainedRun) -> str:
    """SHA-256 of what the run trained."""
    if run.recipe.adapter is None:
        return base_hash(run.folder / MODEL)
    return file_hash(run.folder / ADAPTER / "adapter_model.safetensors")


def _bytes_of(size: str | None) -> int | None:
    try:
        return None if size is None else max(100_000, int(TypeAdapter(ByteSize).validate_python(size)))
    except ValidationError as error:
        raise InputError(Fault(f"{size} is no size", "--max-shard-size", "2GB, 500MB", "give it so")) from error


def _require_known(option: str, value: str | None, known: Collection[str | None]) -> None:
    if value not in known:
        allowed = ", ".join(name for name in known if name)
        raise InputError(Fault(f"{option} {value} is not known", "command line", allowed, "take one of those"))


def _verdict(run: TrainedRun, folder: Path, parity: Parity, started: float, written: dict[str, Any]) -> dict[str, Any]:
    result = {
        "export_folder": str(folder),
        "written": written,
        "parity": parity.to_json(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if not parity.passed:
        faults = [Fault(fault, str(folder)) for fault in parity.faults[:-1]]
        last = Fault(
            parity.faults[-1],
            str(folder),
            "what the run's probes recorded",
            f"do not serve this folder; export again: danlu export {run.folder} --to merged --out NEW",
        )
        raise GateError(*faults, last, result=result)
    return result
