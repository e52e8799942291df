"""What can't be exported or checked: one clear message, exit status 2, nothing half written."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_exports import Trained, make_trained

from danlu.cli import main
from danlu.export.origin import origin_faults
from danlu.runs import read_manifest, write_manifest


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tiny_base, tmp_path_factory.mktemp("refusals"), tied=True)


def other_weights_in_the_base(run: Path, base: Path) -> None:
    path = base / "model.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def adapter_of_another_shape(run: Path, base: Path) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    wider = {
        name: torch.cat([tensor, tensor], -1) if "lora_A" in name else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(wider, path)


def not_a_number_in_the_adapter(run: Path, base: Path) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path)


def pickle_in_place_of_the_adapter(run: Path, base: Path) -> None:
    (run / "adapter" / "adapter_model.safetensors").rename(run / "adapter" / "adapter_model.bin")


def no_tokenizer_in_the_base(run: Path, base: Path) -> None:
    (base / "tokenizer.json").unlink()


def adapter_that_adds_no_weights(run: Path, base: Path) -> None:
    path = run / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["query_key_value"]}))


FAULTS: dict[Callable[[Path, Path], None], str] = {
    other_weights_in_the_base: "the base's weights are not those that this run was trained on",
    adapter_of_another_shape: "the adapter does not fit this base",
    not_a_number_in_the_adapter: "the adapter has NaN or infinite values, first in",
    pickle_in_place_of_the_adapter: "the adapter has no adapter_model.safetensors",
    no_tokenizer_in_the_base: "the folder has no tokenizer",
    adapter_that_adds_no_weights: "the adapter does not fit this base",
}


def export(*words: str) -> tuple[int, str]:
    """Exit status of `danlu export`, in this process, and all that it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(["export", *words])
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def refused(*words: str) -> str:
    status, text = export(*words)
    assert status == 2, text
    assert "Traceback" not in text
    assert "hint:" in text
    return text


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_run_that_can_not_be_exported(trained: Trained, tmp_path: Path, fault: Callable[[Path, Path], None]) -> None:
    base = shutil.copytree(trained.base, tmp_path / "base")
    run = shutil.copytree(trained.run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    recipe = run / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text().replace(str(trained.base), str(base)))
    fault(run, base)
    assert FAULTS[fault] in refused(str(run), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["no tokenizer", "pickle"])
def test_a_folder_that_can_not_be_checked(trained: Trained, tmp_path: Path, fault: str) -> None:
    folder = shutil.copytree(trained.merged, tmp_path / "merged")
    if fault == "pickle":
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        torch.save({}, folder / "pytorch_model.bin")
    else:
        (folder / "tokenizer.json").unlink()
    assert ("pickle files" if fault == "pickle" else "no tokenizer") in refused(
        str(trained.run.folder), "--check", str(folder)
    )


def test_a_folder_with_something_in_it_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "not empty" in refused(str(trained.run.folder), "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.runs.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert "not enough disk" in refused(str(trained.run.folder), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_none_is_refused(trained: Trained, tmp_path: Path) -> None:
    out = refused(str(trained.run.folder), "--out", str(tmp_path / "out"), "--max-shard-size", "big")
    assert "big is no size" in out
    assert not (tmp_path / "out").exists()


def test_shards_are_as_large_as_was_asked(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, text = export(str(trained.run.folder), "--out", str(out), "--max-shard-size", "200KB")
    assert status == 0, text
    names = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert json.loads((out / "parity.json").read_text())["passed"]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)


def test_a_folder_of_another_adapter_is_named_by_its_manifest(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.merged, tmp_path / "merged")
    write_manifest(folder, "export", {"base_sha256": "0" * 64, "trained_sha256": "1" * 64})
    faults = origin_faults(trained.run, read_manifest(folder, "export"))
    assert [fault.split(":")[0] for fault in faults] == ["base", "adapter"]


def test_an_adapter_that_was_changed_by_hand_is_named_where_its_export_is_not_what_was_trained(
    trained: Trained, tmp_path: Path
) -> None:
    run = shutil.copytree(trained.run.folder, tmp_path / "run")
    config = run / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1000}))
    status, said = export(str(run), "--out", str(tmp_path / "out"))
    assert status == 1
    assert "run: adapter/adapter_config.json changed since the run ended" in said
