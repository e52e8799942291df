"""The export stage: a run folder in, a proven export folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from danlu.data.run import prepare
from danlu.engines.exported import engine_for
from danlu.engines.local import local_answers
from danlu.errors import Fault, FolderError, GateError, InputError
from danlu.export.agreement import agreement
from danlu.export.card import Exported, write_card
from danlu.export.formats.interface import Format, Subject
from danlu.export.formats.table import FORMATS
from danlu.export.merge import write_merged
from danlu.export.parity import BOUNDS, Comparison, Parity, check_parity
from danlu.models.folder import weight_files
from danlu.recipe import load_recipe
from danlu.runs import (
    ADAPTER,
    MANIFEST,
    RESOLVED,
    create_folder,
    read_manifest,
    require_disk,
    write_json,
    write_manifest,
)
from danlu.training.probes import Probes, read_probes
from danlu.training.trained import TrainedRun, open_run

MERGED = "merged"
COMPARED = ("max_logit_difference", "argmax_agreement", "greedy_equal", "prompts", "positions", "against")


def run_export(
    run_folder: str | Path,
    to: str = MERGED,
    out: str | Path | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
) -> dict[str, Any]:
    """Exports a run and compares the result with the run's probes.

    Args:
        run_folder: a complete run.
        to: `merged`, or a key of `FORMATS`.
        out: where to write; default `RUN/exports/FORMAT`.
        dtype: of the merged weights; default the recipe's `export.dtype`.
        quantize: the type within the format, where it has several.

    Returns:
        `export_folder`, `parity`, `seconds`.

    Raises:
        GateError: the export differs from what was trained; the folder stays, for a look.
        FolderError: the run is not complete, or the folder is not empty.
    """
    started = time.perf_counter()
    _require_known("--to", to, [MERGED, *FORMATS])
    _require_known("--dtype", dtype, [None, *BOUNDS])
    if to != MERGED:
        return _export_format(open_run(run_folder), FORMATS[to], out, dtype, quantize)
    _require_known("--quantize", quantize, [None])
    run = open_run(run_folder)
    probes = read_probes(run.folder)
    dtype = dtype or run.recipe.export.dtype
    base = run.base_folder()
    folder = Path(out) if out else run.folder / "exports" / to
    stored_bytes = sum(path.stat().st_size for path in weight_files(base))
    require_disk(folder, (2 if dtype == "float32" else 1) * stored_bytes + 32 * 2**20, "the export")
    create_folder(folder, "export folder", "--out FOLDER")
    try:
        write_merged(run, folder, dtype)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    parity = check_parity(folder, probes)
    write_json(folder / "parity.json", parity.to_json())
    about = {"run_folder": str(run.folder), "format": to, "parity": parity.to_json()}
    write_manifest(folder, "export", about, skip=["parity.json"])
    return _verdict(run, folder, parity, started)


def _export_format(
    run: TrainedRun, format: Format, out: str | Path | None, dtype: str | None, quantize: str | None
) -> dict[str, Any]:
    """Everything but a merged folder: made from one, or from the adapter, and judged by the engine that runs it."""
    started = time.perf_counter()
    if dtype:
        raise InputError(Fault("--dtype is for --to merged", "command line", hint=_quantize_hint(format)))
    _require_known("--quantize", quantize, [None, *format.quantize])
    quantize = quantize or next(iter(format.quantize), None)
    probes, base = read_probes(run.folder), run.base_folder()
    subject = _subject(run, base, probes.stop_ids)
    if refused := format.refusal(subject, quantize):
        raise InputError(refused)
    folder = Path(out) if out else run.folder / "exports" / "-".join(filter(None, (format.name, quantize)))
    merged_bytes = 2 * sum(path.stat().st_size for path in weight_files(base))  # in float32
    needed_bytes = (int(format.from_merged) + format.size_factor) * merged_bytes
    require_disk(folder, int(needed_bytes) + 32 * 2**20, "the export")
    create_folder(folder, "export folder", "--out FOLDER")
    merged = folder / ".merged"
    try:
        if format.from_merged:
            merged.mkdir()
            write_merged(run, merged, "float32")
        written = format.write(subject, merged, folder, quantize)
        shutil.rmtree(merged, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    parity = _proven(folder, probes, quantize or format.name)
    write_json(folder / "parity.json", parity.to_json())
    recipe = run.recipe.model
    exported = Exported(run.folder, run.about, base, recipe.name, recipe.revision)
    how = (format.name, f"{format.title} {quantize or ''}".strip(), format.usage)
    write_card(folder, exported, how, parity.to_json(), written.get("notes", []))
    about = {"run_folder": str(run.folder), "format": format.name, "quantize": quantize, "written": written}
    write_manifest(folder, "export", about | {"parity": parity.to_json()}, skip=["parity.json"])
    return _verdict(run, folder, parity, started) | {"format_about": written}


def _proven(folder: Path, probes: Probes, name: str) -> Parity:
    """The verdict on a folder by the engine that runs it."""
    figures = agreement(engine_for(folder), probes)
    return Parity(name, {name: Comparison(**{key: figures[key] for key in COMPARED})}, figures["faults"])


def _made_as(folder: Path) -> str | None:
    """The type that a folder's manifest names, or its format; None for a merged folder, or one without a manifest."""
    about = read_manifest(folder, "export") if (folder / MANIFEST).is_file() else {}
    return None if about.get("format", MERGED) == MERGED else about.get("quantize") or about["format"]


def _quantize_hint(format: Format) -> str:
    return f"choose with --quantize {', '.join(format.quantize)}" if format.quantize else "leave it out"


def _subject(run: TrainedRun, base: Path, stop_ids: list[int]) -> Subject:
    recipe = run.recipe

    def calibration(count: int) -> list[list[int]]:
        loaded = load_recipe(run.folder / RESOLVED)
        store = prepare(loaded, base, local_answers).store("train")
        return [list(store[index].ids) for index in range(min(count, len(store)))]

    bits = recipe.model.quantization.type if recipe.model.quantization else None
    return Subject(base, run.folder / ADAPTER if recipe.adapter else None, bits, stop_ids, calibration)


def run_check(run_folder: str | Path, folder: str | Path) -> dict[str, Any]:
    """The same gate on a folder that exists; nothing in it is changed."""
    started = time.perf_counter()
    if not Path(folder).is_dir():
        raise FolderError(Fault("no such folder", str(folder), "a folder that an export wrote", "check the path"))
    run = open_run(run_folder)
    probes, made = read_probes(run.folder), _made_as(Path(folder))
    parity = check_parity(Path(folder), probes) if made is None else _proven(Path(folder), probes, made)
    return _verdict(run, Path(folder), parity, started)


def _require_known(option: str, value: str | None, known: Collection[str | None]) -> None:
    if value not in known:
        allowed = ", ".join(name for name in known if name)
        raise InputError(Fault(f"{option} {value} is not known", "command line", allowed, "take one of those"))


def _verdict(run: TrainedRun, folder: Path, parity: Parity, started: float) -> dict[str, Any]:
    result = {
        "export_folder": str(folder),
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
