"""What a version is made of: the parts of a finished run that serving and proving need, checked and copied aside."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.adapters.lora import check_adapter_folder
from danlu.audit import user_name
from danlu.errors import Fault, FolderError, RegistryError
from danlu.registry.state import Version
from danlu.runs import ADAPTER, MANIFEST, RESOLVED, changed_files, file_hash, write_json
from danlu.training.probes import read_probes
from danlu.training.trained import TrainedRun, open_run

ABOUT = "about.json"
_PROBES = ("probes/probes.json", "probes/logits.safetensors")
_SAFE = (".json", ".safetensors")
_WEIGHTS = f"{ADAPTER}/adapter_model.safetensors"
_OF_TRAINING = ("steps", "train_loss", "evaluation_loss", "saved_step", "tokens", "splits", "trainable_parameters")


@dataclass(frozen=True)
class Content:
    """A version's files, copied to a folder that nobody else writes to.

    Attributes:
        folder: where they are.
        files: SHA-256 and size of each, by path.
        fields: `base_name`, `base_sha256`, `kind`, `rank`, as `Version` has them.
        notes: what a user should know of it, a sentence each.
    """

    folder: Path
    files: dict[str, tuple[str, int]]
    fields: dict[str, Any]
    notes: list[str]

    @property
    def hash(self) -> str:
        """SHA-256 over all of it."""
        hashes = {path: sha256 for path, (sha256, _) in self.files.items()}
        return hashlib.sha256(json.dumps([hashes, self.fields], sort_keys=True).encode()).hexdigest()

    def version(self, name: str) -> Version:
        """The first version of a name that holds it, in a place of its own."""
        return Version(
            name=name,
            number=1,
            hash=self.hash,
            size_bytes=sum(size for _, size in self.files.values()),
            added=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            user=user_name(),
            host=socket.gethostname(),
            place=f"versions/{name}/{self.hash[:12]}-{uuid.uuid4().hex}",
            files=self.files,
            **self.fields,
        )


def take(run_folder: str | Path, folder: Path) -> Content:
    """Copies a run's adapter, probes, recipe and figures to an empty folder, and checks the copies.

    Rows are not copied, and of the ledger only counts; the probes' twenty questions are.

    Raises:
        FolderError: the run is not complete, or its adapter or probes can't be used.
        RegistryError: it has no adapter, a file in it is not safe, or it changed since it was trained.
    """
    run = open_run(run_folder)
    _require_adapter(run)
    paths = [RESOLVED, MANIFEST, *_PROBES, *_adapter_paths(run.folder)]
    for path in paths:
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(run.folder / path, folder / path)
    _require_as_trained(run, folder, paths)
    try:
        check_adapter_folder(folder / ADAPTER)
        read_probes(folder)
    except FolderError as error:
        faults = [replace(one, where=one.where.replace(str(folder), str(run.folder))) for one in error.faults]
        raise FolderError(*faults) from error
    fields = _fields(run, folder)
    about, notes = _about(run, folder)
    write_json(folder / ABOUT, about)
    files = {path: (file_hash(folder / path), (folder / path).stat().st_size) for path in sorted([*paths, ABOUT])}
    return Content(folder, files, fields, notes)


def _require_adapter(run: TrainedRun) -> None:
    if run.recipe.adapter is None:
        hint = f"a whole model is served from its export: danlu export {run.folder} --to merged"
        raise RegistryError(Fault("this run has no adapter", str(run.folder), "a run of an adapter", hint))
    if not run.about.get("base_sha256"):
        raise RegistryError(Fault("the run's manifest names no base", str(run.folder / MANIFEST), hint="train again"))
    missing = [path for path in (ADAPTER, *_PROBES) if not (run.folder / path).exists()]
    if missing:
        hint = "add a run folder as `danlu train` left it"
        raise RegistryError(Fault(f"the run has no {', '.join(missing)}", str(run.folder), hint=hint))


def _adapter_paths(run: Path) -> list[str]:
    """The adapter's files; refuses what is neither safetensors nor JSON, a folder, or a link to somewhere else."""
    faults, paths = [], []
    for path in sorted((run / ADAPTER).iterdir()):
        if path.is_symlink() or not path.is_file() or path.suffix not in _SAFE:
            what = f"{path.name} is a link" if path.is_symlink() else f"{path.name} is not of a safe format"
            hint = "files such as pickles can run code when they are loaded: remove it, or save as safetensors"
            faults.append(Fault(what, str(path), "safetensors, JSON", hint))
        paths.append(f"{ADAPTER}/{path.name}")
    if faults:
        raise RegistryError(*faults)
    return paths


def _require_as_trained(run: TrainedRun, folder: Path, paths: list[str]) -> None:
    changed = changed_files(folder, run.about.get("files", {}), [path for path in paths if path != MANIFEST])
    if changed:
        hint = "add a run folder as `danlu train` left it; what was changed by hand has no proof"
        faults = [Fault("this file changed since the run ended", str(run.folder / path)) for path in changed[:-1]]
        last = Fault(
            "this file changed since the run ended", str(run.folder / changed[-1]), "as in manifest.json", hint
        )
        raise RegistryError(*faults, last)


def _fields(run: TrainedRun, folder: Path) -> dict[str, Any]:
    config = _read(folder / ADAPTER / "adapter_config.json")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    assert run.recipe.adapter is not None
    return {
        "base_name": run.recipe.model.name.encode("utf-8", "backslashreplace").decode(),
        "base_sha256": run.about["base_sha256"],
        "kind": run.recipe.adapter.type,
        "rank": max((rank for rank in ranks if isinstance(rank, int)), default=None),
    }


def _about(run: TrainedRun, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the run's own files, its newest report and its exports say; and what is missing among it."""
    result = run.about.get("result", {})
    parity, notes = _parity(run.folder, file_hash(folder / _WEIGHTS))
    report = _newest_report(run.folder)
    if not report:
        notes.append("no report: the version has no metrics; `danlu evaluate` first, then add again")
    if not parity:
        notes.append("no export: the version has no parity; `danlu export` first, then add again")
    about = {
        "recipe": run.recipe.model_dump(mode="json"),
        "ledger": _ledger(run.folder),
        "training": {key: result[key] for key in _OF_TRAINING if key in result},
        "metrics": report.get("metrics"),
        "gate": report.get("gate"),
        "parity": parity,
    }
    return about, notes


def _ledger(run: Path) -> dict[str, Any]:
    """The counts; examples hold texts of rows."""
    ledger = _read(run / "ledger.json")
    reasons = [{key: one.get(key) for key in ("outcome", "step", "count")} for one in ledger.get("reasons", [])]
    return {"rows": ledger.get("rows"), "masked": ledger.get("masked", {}), "reasons": reasons}


def _newest_report(run: Path) -> dict[str, Any]:
    manifests = [_read(path) for path in run.glob(f"report*/{MANIFEST}")]
    reports = [about for about in manifests if about.get("kind") == "report"]
    return max(reports, key=lambda about: str(about.get("written", "")), default={})


def _parity(run: Path, weights_sha256: str) -> tuple[dict[str, Any], list[str]]:
    """What the gate said of each export of these very weights, by the export's folder."""
    found, notes = {}, []
    for path in sorted(run.glob("exports/*/parity.json")):
        made_of = _read(path.with_name(MANIFEST)).get("trained_sha256")
        if made_of != weights_sha256:
            which = "other weights" if made_of else "weights that its manifest does not tell"
            notes.append(f"exports/{path.parent.name} is made of {which}: its parity is left out")
            continue
        found[path.parent.name] = _read(path)
    return found, notes


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
