"""What a registry takes, keeps, gives and refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_registry import BASE_SHA256, RECIPE, write_run

from danlu.audit import audit_path, read_audit, verify
from danlu.errors import DamagedError, Fault, FolderError, InputError, RegistryError
from danlu.registry import Registry, Version
from danlu.registry.store import FolderStore
from danlu.runs import write_json, write_manifest

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DANLU_REGISTRY", raising=False)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(str(tmp_path / "registry"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(registry: Registry, version: Version, path: str) -> Path:
    return Path(registry.url) / version.place / path


def manifest_anew(run: Path) -> None:
    """As if the run had ended with what its folder holds now."""
    (run / "manifest.json").unlink()
    write_manifest(run, "run", {"result": {}, "base_sha256": BASE_SHA256})


def test_a_version_has_all_of_its_run_and_says_where_it_comes_from(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    report = {"metrics": {"base": {"loss": 2.0}, "tuned": {"loss": 1.0}}, "gate": None}
    for name, metrics in (("report", {"tuned": {"loss": 9.0}}), ("report-2", report["metrics"])):
        (run / name).mkdir()
        write_json(run / name / "manifest.json", {"kind": "report", "written": name, "metrics": metrics})
    for name, made_of in (("merged", sha256(run / WEIGHTS)), ("gguf", "0" * 64)):
        (run / "exports" / name).mkdir(parents=True)
        write_json(run / "exports" / name / "manifest.json", {"trained_sha256": made_of})
        write_json(run / "exports" / name / "parity.json", {"passed": True, "prompts": 20, "greedy_equal": 20})
    result = registry.add(run, "support", "candidate")
    assert (result["reference"], result["added"], result["event"]) == ("support@1", True, 1)
    assert any("exports/gguf is made of other weights" in note for note in result["notes"])
    version = registry.resolve("support@candidate")
    assert (version.base_name, version.base_sha256, version.kind, version.rank) == ("tiny", BASE_SHA256, "lora", 6)
    assert version.files[WEIGHTS] == (sha256(run / WEIGHTS), (run / WEIGHTS).stat().st_size)
    about = registry.about(version)
    assert about["recipe"]["adapter"]["rank"] == 4
    assert about["ledger"]["rows"] == {"read": 8, "kept": 6, "dropped": 2}
    assert "a row's text" not in json.dumps(about), "of the ledger only counts"
    assert about["metrics"] == report["metrics"], "of the newest report"
    assert about["parity"] == {"merged": {"passed": True, "prompts": 20, "greedy_equal": 20}}
    assert about["training"] == {"steps": 6, "train_loss": 0.5}


def test_what_is_fetched_is_a_run_folder_with_the_same_bytes(registry: Registry, tmp_path: Path) -> None:
    from danlu.training.probes import read_probes
    from danlu.training.trained import open_run

    run = write_run(tmp_path / "run")
    registry.add(run, "support")
    folder = registry.fetch(registry.resolve("support"))
    assert folder.is_relative_to(tmp_path / "home" / "registry-cache")
    for path in (WEIGHTS, "adapter/adapter_config.json", "probes/logits.safetensors", "recipe.resolved.yaml"):
        assert (folder / path).read_bytes() == (run / path).read_bytes()
    assert open_run(folder).about["base_sha256"] == BASE_SHA256
    assert read_probes(folder).stop_ids == [2]


def test_the_same_is_not_added_twice(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = registry.add(run, "support")
    again = registry.add(shutil.copytree(run, tmp_path / "copy"), "support", "production")
    assert (again["reference"], again["added"], again["version"]["hash"]) == (
        "support@1",
        False,
        first["version"]["hash"],
    )
    assert registry.state().aliases("support") == {"production": 1}
    assert registry.add(run, "law")["version"]["hash"] == first["version"]["hash"]
    registry.remove("support@1", force=True)
    registry.fetch(registry.resolve("law"))
    assert registry.add(run, "support")["reference"] == "support@2", "a number is never given again"


def test_a_tampered_file_is_refused_by_its_name_each_time(registry: Registry, tmp_path: Path) -> None:
    registry.add(write_run(tmp_path / "run"), "support")
    version = registry.resolve("support")
    for path in version.files:
        file = stored(registry, version, path)
        whole = file.read_bytes()
        shutil.rmtree(tmp_path / "home" / "registry-cache", ignore_errors=True)
        for other in (whole[:-1], whole + b" ", whole[:-1] + bytes([whole[-1] ^ 1])):
            file.write_bytes(other)
            with pytest.raises(DamagedError) as caught:
                registry.fetch(version)
            (fault,) = caught.value.faults
            assert (fault.where, fault.what) == (str(file), "this file is not what was added: its SHA-256 is another")
            if path == "about.json":
                with pytest.raises(DamagedError, match="not what was added"):
                    registry.about(version)
        file.write_bytes(whole)
        registry.fetch(version)
    file.unlink()
    shutil.rmtree(tmp_path / "home" / "registry-cache")
    with pytest.raises(DamagedError, match="a file of support@1 is missing"):
        registry.fetch(version)
    left = [path.name for path in (tmp_path / "home" / "registry-cache").iterdir()]
    assert left == [f"{version.hash}.lock"]


def test_a_copy_that_was_changed_on_this_disk_is_made_anew(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    registry.add(run, "support")
    version = registry.resolve("support")
    folder = registry.fetch(version)
    inode = (folder / WEIGHTS).stat().st_ino
    assert (registry.fetch(version) / WEIGHTS).stat().st_ino == inode, "what is whole stays"
    (folder / WEIGHTS).write_bytes(b"x")
    assert (registry.fetch(version) / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"pickle")
    assert not (registry.fetch(version) / "adapter" / "adapter_model.bin").exists()


def test_a_version_that_was_removed_meanwhile_is_said_to_be(registry: Registry, tmp_path: Path) -> None:
    registry.add(write_run(tmp_path / "run"), "support")
    version = registry.resolve("support")
    result = Registry.open(registry.url).remove("support@1")
    assert result["freed_bytes"] == version.size_bytes
    for call in (registry.fetch, registry.about):
        with pytest.raises(RegistryError, match="support@1 was removed meanwhile"):
            call(version)
    assert not list((Path(registry.url) / "versions").rglob("*"))


def refused(registry: Registry, run: Path) -> str:
    with pytest.raises(InputError) as caught:
        registry.add(run, "support")
    assert registry.state().number == 0
    assert not list(Path(registry.url).rglob("*")), "nothing was written"
    return str(caught.value)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "x.pkl", "model.ckpt", "code.py", "README"])
def test_what_is_not_safe_is_refused_by_its_name(registry: Registry, tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    torch.save({"a": torch.ones(1)}, run / "adapter" / name)
    manifest_anew(run)
    text = refused(registry, run)
    assert f"{name} is not of a safe format" in text
    assert "safetensors, JSON" in text


def test_a_pickle_that_is_called_safetensors_is_refused(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    torch.save({"a": torch.ones(1)}, run / WEIGHTS)
    manifest_anew(run)
    assert "the adapter is broken" in refused(registry, run)


def test_links_and_folders_among_the_adapter_s_files_are_refused(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "adapter" / "more").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (run / "adapter" / "link.json").symlink_to(tmp_path / "secret.json")
    text = refused(registry, run)
    assert "link.json is a link" in text
    assert "more is not of a safe format" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(registry: Registry, tmp_path: Path, value: float) -> None:
    run = write_run(tmp_path / "run")
    weights = load_file(run / WEIGHTS)
    next(iter(weights.values()))[0, 0] = value
    save_file(weights, run / WEIGHTS)
    manifest_anew(run)
    text = refused(registry, run)
    assert "NaN or infinite" in text
    assert str(run / WEIGHTS) in text


@pytest.mark.parametrize("path", [WEIGHTS, "adapter/adapter_config.json", "probes/probes.json", "recipe.resolved.yaml"])
def test_what_changed_since_the_run_ended_is_refused(registry: Registry, tmp_path: Path, path: str) -> None:
    run = write_run(tmp_path / "run")
    (run / path).write_bytes((run / path).read_bytes() + b" ")
    text = refused(registry, run)
    assert "changed since the run ended" in text
    assert str(run / path) in text


def test_what_is_no_finished_run_of_an_adapter_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such folder"):
        registry.add(tmp_path / "none", "support")
    run = write_run(tmp_path / "run")
    (run / "manifest.json").rename(tmp_path / "manifest.json")
    assert "not a complete run folder" in refused(registry, run)
    (tmp_path / "manifest.json").rename(run / "manifest.json")
    shutil.move(run / "probes", tmp_path / "probes")
    assert "the run has no probes/probes.json, probes/logits.safetensors" in refused(registry, run)
    shutil.move(tmp_path / "probes", run / "probes")
    (run / "recipe.resolved.yaml").write_text(RECIPE.partition("adapter:")[0] + "adapter: null\ntraining: {}\n")
    manifest_anew(run)
    assert "this run has no adapter" in refused(registry, run)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "-x"])
def test_a_name_that_is_a_path_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    with pytest.raises(RegistryError, match="can't be an adapter's name"):
        registry.add(write_run(tmp_path / "run"), name)
    assert not Path(registry.url).exists()


def test_keep_last_removes_old_versions_but_none_that_an_alias_needs(registry: Registry, tmp_path: Path) -> None:
    for number in range(1, 6):
        registry.add(write_run(tmp_path / str(number), number), "support")
    for reference in ("support@1", "support@3"):
        registry.promote(reference, "production")
    sizes = {version.number: version.size_bytes for version in registry.state().versions("support")}
    result = registry.add(write_run(tmp_path / "6", 6), "support", keep_last=2)
    assert result["removed"] == ["support@2", "support@4"]
    assert result["freed_bytes"] == sizes[2] + sizes[4]
    assert [version.number for version in registry.state().versions("support")] == [1, 3, 5, 6]
    assert registry.rollback("support", "production")["reference"] == "support@1"
    assert registry.prune("support", 1)["removed"] == ["support@3", "support@5"]
    for version in registry.state().versions("support"):
        registry.fetch(version)
    for name, keep_last in (("support", None), (None, 2), ("support", 0), ("none", 1)):
        with pytest.raises(RegistryError):
            registry.prune(name, keep_last)


def test_what_can_not_be_deleted_is_removed_all_the_same_and_said(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.add(write_run(tmp_path / "run"), "support")

    def refuse(self: FolderStore, paths: Any) -> None:
        raise RegistryError(Fault("no right to delete", "there"))

    monkeypatch.setattr(FolderStore, "remove", refuse)
    assert registry.remove("support@1")["freed_bytes"] == 0
    assert "stay until `danlu registry prune`: no right to delete (there)" in capsys.readouterr().err
    assert registry.state().names() == []


def test_prune_removes_what_was_left_a_day_ago_and_nothing_younger(registry: Registry, tmp_path: Path) -> None:
    registry.add(write_run(tmp_path / "run"), "support")
    left = Path(registry.url) / "versions" / "support" / "left" / WEIGHTS
    left.parent.mkdir(parents=True)
    left.write_bytes(b"1234567")
    assert registry.prune()["leftovers"] == 0
    for path in (left, *Path(registry.url).rglob("*.json")):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert registry.prune() == {"removed": [], "freed_bytes": 7, "event": None, "leftovers": 1}
    assert not left.parent.parent.exists()
    registry.fetch(registry.resolve("support"))


def test_each_act_is_in_the_audit_log(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    registry.add(run, "support", "candidate")
    registry.add(write_run(tmp_path / "run2", 2), "support")
    registry.promote("support@1", "production")
    registry.promote("support@1", "production")
    registry.promote("support@2", "production")
    registry.rollback("support", "production")
    registry.remove("support@2")
    entries = read_audit(audit_path()).entries
    assert [(entry["kind"], entry["adapter"], entry.get("alias"), entry["event"]) for entry in entries] == [
        ("adapter added", "support@1", "candidate", 1),
        ("adapter added", "support@2", None, 2),
        ("adapter promoted", "support@1", "production", 3),
        ("adapter promoted", "support@2", "production", 4),
        ("adapter rolled back", "support@1", "production", 5),
        ("adapter removed", "support@2", None, 6),
    ]
    assert entries[0]["trained_sha256"] == {WEIGHTS: sha256(run / WEIGHTS)}
    assert entries[0]["run_folder"] == str(run)
    assert all(entry["registry"] == registry.url for entry in entries)
    assert verify()["entries"] == 6


def test_the_registry_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Registry.open().url == str(tmp_path / "home" / "registry")
    monkeypatch.setenv("DANLU_REGISTRY", str(tmp_path / "other"))
    assert Registry.open().url == str(tmp_path / "other")
    assert Registry.open(f"file://{tmp_path}/third").url == str(tmp_path / "third")
    assert Registry.open("memory://key:secret@bucket/prefix/").url == "memory://bucket/prefix"
    with pytest.raises(RegistryError, match="can't be used"):
        Registry.open("nosuch://bucket")


def test_a_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry.open(str(tmp_path / "file"))
    calls: list[Any] = [registry.state, lambda: registry.add(write_run(tmp_path / "run"), "support")]
    for call in calls:
        with pytest.raises(RegistryError, match="the registry's folder says no: Not a directory"):
            call()


def test_an_object_storage_holds_what_a_folder_holds(registry: Registry, tmp_path: Path) -> None:
    stored = Registry.open("memory://whole/prefix")
    for place in (registry, stored):
        for number in range(1, 4):
            place.add(write_run(tmp_path / place.url.strip("/:").replace("/", "-") / str(number), number), "support")
        place.promote("support@1", "production")
        place.promote("support@2", "production")
        place.rollback("support", "production")
        place.remove("support@2")
    versions = [[(one.number, one.files) for one in place.state().versions("support")] for place in (registry, stored)]
    assert [number for number, _ in versions[1]] == [1, 3]
    assert stored.state().aliases("support") == registry.state().aliases("support") == {"production": 1}
    folder = Registry.open("memory://whole/prefix/").fetch(stored.resolve("support"))
    assert load_file(folder / WEIGHTS).keys() == load_file(registry.fetch(registry.resolve("support")) / WEIGHTS).keys()
    assert stored.about(stored.resolve("support"))["training"]["steps"] == 6
    assert stored.prune()["leftovers"] == 0


def test_a_storage_that_can_not_create_exclusively_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    whole = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, mode="": whole(self, path, value))
    registry = Registry.open("memory://deaf")
    with pytest.raises(RegistryError, match="overwrites what is there even when it is asked not to"):
        registry.add(write_run(tmp_path / "run"), "support")
    assert not MemoryFileSystem().find("/deaf")
