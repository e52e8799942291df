"""The export stage: a run folder in, a proven export folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from danlu.data.run import prepare
from danlu.engines.exported import engine_for
from danlu.engines.local import local_answers
from danlu.errors import Fault, FolderError, GateError, InputError, ModelError
from danlu.export.card import CARD, Exported, write_card
from danlu.export.formats.interface import Format, Subject
from danlu.export.formats.table import FORMATS
from danlu.export.merge import tuned_source, write_merged
from danlu.export.origin import changed_since_trained, origin_faults, origin_of
from danlu.export.parity import Parity, check_engine, check_parity, file_faults
from danlu.export.tensors import Source
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
_DTYPES = ("float32", "bfloat16")
_MERGED_TITLE, _MERGED_USAGE = "merged safetensors", "transformers.{auto}.from_pretrained('{folder}')"
_SPARE_BYTES = 32 << 20


@dataclass(frozen=True)
class _Wanted:
    """What was asked for: a format, and the type within it.

    Attributes:
        name: of the format.
        format: None for a merged folder.
        kind: dtype of the merged weights, or `--quantize`; None where the format leaves no choice.
        shard_bytes: largest file of merged weights; None: the recipe's.
    """

    name: str
    format: Format | None
    kind: str | None
    shard_bytes: int | None

    @property
    def bounds(self) -> str:
        """What the gate knows it by; see `danlu.export.comparison.BOUNDS`."""
        return self.kind or self.name

    @property
    def folder_name(self) -> str:
        """In the run's `exports`."""
        return "-".join(filter(None, (self.name, self.kind if self.format else None)))


def run_export(
    run_folder: str | Path,
    to: str = MERGED,
    out: str | Path | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    quantize: str | None = None,
) -> dict[str, Any]:
    """Exports a run and compares the result with the run's probes.

    Args:
        run_folder: a complete run.
        to: `merged`, or a key of `FORMATS`.
        out: where to write; default `RUN/exports/FORMAT`.
        dtype: of merged weights; default the recipe's `export.dtype`.
        max_shard_size: of a file of merged weights, such as `2GB`; default the recipe's `export.max_shard_size`.
        quantize: the type within the format, where it has several.

    Returns:
        `export_folder`, `written` (what the format's writer gives), `parity`, `seconds`.

    Raises:
        GateError: the export differs from what was trained; the folder stays, for a look.
        FolderError: the run is not complete, or the folder is not empty.
        InputError: what was asked for does not exist, or can't be made of this run.
    """
    started = time.perf_counter()
    wanted = _wanted(to, dtype, max_shard_size, quantize)
    run = open_run(run_folder)
    probes, base = read_probes(run.folder), run.base_folder()
    if wanted.format is None and wanted.kind is None:
        wanted = _Wanted(MERGED, None, run.recipe.export.dtype, wanted.shard_bytes)
    subject = _subject(run, base, probes.stop_ids)
    if wanted.format and (refused := wanted.format.refusal(subject, wanted.kind)):
        raise InputError(refused)
    folder = Path(out) if out else run.folder / "exports" / wanted.folder_name
    require_disk(folder, _disk_bytes(wanted, base), "the export")
    create_folder(folder, "export folder", "--out FOLDER")
    try:
        written = _write(run, wanted, subject, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    parity = _judge(folder, wanted, probes, None)
    if wanted.format is None and not parity.passed:
        parity = _judge(folder, wanted, probes, tuned_source(run, base))  # which says what is wrong
    if not parity.passed:
        parity.faults[:0] = changed_since_trained(run)
    write_json(folder / "parity.json", parity.to_json())
    _write_card(run, base, wanted, folder, parity, written)
    about = {"run_folder": str(run.folder), "format": wanted.name, "quantize": wanted.kind, **origin_of(run)}
    about |= {"written": written, "parity": parity.to_json()}
    write_manifest(folder, "export", about, skip=["parity.json"])
    return _verdict(run, folder, wanted.name, parity, started, written)


def run_check(run_folder: str | Path, folder: str | Path) -> dict[str, Any]:
    """The same gate on a folder that exists; nothing in it is changed."""
    started, folder = time.perf_counter(), Path(folder)
    if not folder.is_dir():
        raise FolderError(Fault("no such folder", str(folder), "a folder that an export wrote", "check the path"))
    run = open_run(run_folder)
    probes, about = read_probes(run.folder), {}
    if (folder / MANIFEST).is_file():
        about = read_manifest(folder, "export")
    format = FORMATS.get(about.get("format", MERGED))
    tuned, notes = (None, []) if format else _at_hand(run)
    wanted = _Wanted(about.get("format", MERGED), format, about.get("quantize"), None)
    parity = _judge(folder, wanted, probes, tuned)
    parity.faults[:0] = origin_faults(run, about) + (file_faults(folder) if format else [])
    if not parity.passed:
        parity.faults[:0] = changed_since_trained(run)
    return _verdict(run, folder, wanted.name, parity, started, {"notes": notes})


def _wanted(to: str, dtype: str | None, max_shard_size: str | None, quantize: str | None) -> _Wanted:
    _require_known("--to", to, [MERGED, *FORMATS])
    format = FORMATS.get(to)
    if format is None:
        _require_known("--dtype", dtype, [None, *_DTYPES])
        if quantize:
            hint = "choose the format too, as in --to gguf; of merged weights, --dtype"
            raise InputError(Fault("--quantize is not for --to merged", "command line", hint=hint))
        return _Wanted(MERGED, None, dtype, _bytes_of(max_shard_size))
    for option, value in (("--dtype", dtype), ("--max-shard-size", max_shard_size)):
        if value:
            kinds = ", ".join(format.quantize)
            hint = f"choose with --quantize {kinds}" if kinds and option == "--dtype" else "leave it out"
            raise InputError(Fault(f"{option} is for --to merged", "command line", hint=hint))
    _require_known("--quantize", quantize, [None, *format.quantize])
    return _Wanted(to, format, quantize or next(iter(format.quantize), None), None)


def _disk_bytes(wanted: _Wanted, base: Path) -> int:
    stored = sum(path.stat().st_size for path in weight_files(base))
    if wanted.format is None:
        return (2 if wanted.kind == "float32" else 1) * stored + _SPARE_BYTES
    parts = int(wanted.format.from_merged) + wanted.format.size_factor  # of the merged model in float32
    return int(parts * 2 * stored) + _SPARE_BYTES


def _write(run: TrainedRun, wanted: _Wanted, subject: Subject, folder: Path) -> dict[str, Any]:
    """Fills the folder; gives what is worth telling of it."""
    shard_bytes = wanted.shard_bytes or run.recipe.export.max_shard_size
    if wanted.format is None:
        return write_merged(run, folder, str(wanted.kind), shard_bytes)
    merged, notes = folder / ".merged", []
    if wanted.format.from_merged:
        merged.mkdir()
        notes = write_merged(run, merged, "float32", shard_bytes).get("notes", [])
    written = wanted.format.write(subject, merged, folder, wanted.kind)
    shutil.rmtree(merged, ignore_errors=True)
    return {**written, "notes": [*notes, *written.get("notes", [])]}


def _judge(folder: Path, wanted: _Wanted, probes: Probes, tuned: Source | None) -> Parity:
    if wanted.format is None:
        return check_parity(folder, probes, tuned)
    return check_engine(engine_for(folder), probes, wanted.bounds, tells_all=wanted.format.tells_all)


def _subject(run: TrainedRun, base: Path, stop_ids: list[int]) -> Subject:
    recipe = run.recipe

    def calibration(count: int) -> list[list[int]]:
        store = prepare(load_recipe(run.folder / RESOLVED), base, local_answers).store("train")
        return [list(store[index].ids) for index in range(min(count, len(store)))]

    bits = recipe.model.quantization.type if recipe.model.quantization else None
    return Subject(base, run.folder / ADAPTER if recipe.adapter else None, bits, stop_ids, calibration)


def _write_card(
    run: TrainedRun, base: Path, wanted: _Wanted, folder: Path, parity: Parity, written: dict[str, Any]
) -> None:
    title, usage = (wanted.format.title, wanted.format.usage) if wanted.format else (_MERGED_TITLE, _MERGED_USAGE)
    exported = Exported(run.folder, run.about, base, run.recipe.model.name, run.recipe.model.revision)
    how = (wanted.name, f"{title} {wanted.kind or ''}".strip(), usage)
    (folder / CARD).unlink(missing_ok=True)  # the base's own may have come along with its tokenizer
    write_card(folder, exported, how, parity.to_json(), written.get("notes", []))


def _at_hand(run: TrainedRun) -> tuple[Source | None, list[str]]:
    """What to compare weights with; or why there is nothing, in which case the probes alone judge."""
    try:
        return tuned_source(run), []
    except ModelError as error:
        return None, [f"weights not compared tensor by tensor: {error.faults[0].what}"]


def _bytes_of(size: str | None) -> int | None:
    try:
        return None if size is None else max(100_000, int(TypeAdapter(ByteSize).validate_python(size)))
    except ValidationError as error:
        raise InputError(Fault(f"{size} is no size", "--max-shard-size", "2GB, 500MB", "give it so")) from error


def _require_known(option: str, value: str | None, known: Collection[str | None]) -> None:
    if value not in known:
        allowed = ", ".join(name for name in known if name) or "nothing: the format leaves no choice"
        raise InputError(Fault(f"{option} {value} is not known", "command line", allowed, "take one of those"))


def _verdict(
    run: TrainedRun, folder: Path, to: str, parity: Parity, started: float, written: dict[str, Any]
) -> dict[str, Any]:
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
            f"do not serve this folder; export again: danlu export {run.folder} --to {to} --out NEW",
        )
        raise GateError(*faults, last, result=result)
    return result
