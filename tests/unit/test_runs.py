import hashlib
import json
import shlex
from pathlib import Path

import pytest

from danlu.errors import FolderError, ResourceError
from danlu.runs import (
    MANIFEST,
    create_folder,
    danlu_home,
    next_free_folder,
    read_manifest,
    require_disk,
    write_json,
    write_manifest,
    write_text,
)


def fault_of(error, call, *arguments):
    with pytest.raises(error) as caught:
        call(*arguments)
    assert caught.value.exit_status == 2
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_home_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    assert danlu_home() == tmp_path
    monkeypatch.setenv("DANLU_HOME", "")
    assert danlu_home() == Path.home() / ".cache" / "danlu"


def test_folder_is_made_with_its_parents(tmp_path):
    folder = create_folder(tmp_path / "a" / "b", "run folder", "run.folder")
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()


def test_empty_folder_is_taken(tmp_path):
    assert create_folder(tmp_path, "run folder", "run.folder") == tmp_path


def test_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "adapter.safetensors").write_bytes(b"precious")
    fault = fault_of(FolderError, create_folder, folder, "run folder", "run.folder")
    assert fault.what == "the run folder exists and is not empty"
    assert fault.where == str(folder)
    assert "run.folder" in fault.hint
    assert f"rm -r {shlex.quote(str(folder))}" in fault.hint
    assert (folder / "adapter.safetensors").read_bytes() == b"precious"


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("", encoding="utf-8")
    assert fault_of(FolderError, create_folder, path, "run folder", "run.folder").what.endswith("is a file")
    below = fault_of(FolderError, create_folder, path / "below", "run folder", "run.folder")
    assert below.what.startswith("can't make the run folder")


def test_folder_with_too_long_a_name_is_refused(tmp_path):
    fault = fault_of(FolderError, create_folder, tmp_path / ("x" * 300), "run folder", "run.folder")
    assert "run.folder" in fault.hint


def test_next_free_folder_counts_from_two(tmp_path):
    folder = tmp_path / "run"
    assert next_free_folder(folder) == folder
    folder.mkdir()
    assert next_free_folder(folder) == folder, "an empty folder is free"
    (folder / "file").write_text("", encoding="utf-8")
    assert next_free_folder(folder) == tmp_path / "run-2"
    (tmp_path / "run-2").write_text("a file", encoding="utf-8")
    assert next_free_folder(folder) == tmp_path / "run-3"


def test_absurd_need_of_disk_is_refused_before_anything_is_made(tmp_path):
    folder = tmp_path / "not" / "there"
    fault = fault_of(ResourceError, require_disk, folder, 10**18, "the run")
    assert fault.what.startswith("not enough disk for the run: 1000000000000 MB needed, ")
    assert fault.where == str(tmp_path)
    assert fault.hint
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("folder", [Path("nowhere/at/all"), Path("x" * 300)])
def test_little_need_of_disk_is_met_wherever_the_folder_will_be(folder):
    require_disk(folder, 1, "the run")
    assert not Path("nowhere").exists()


def test_manifest_lists_every_file_with_size_and_hash(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.txt").write_bytes(b"abc")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "b.txt").write_bytes(b"left out")
    write_manifest(tmp_path, "run", {"seed": 3}, skip=["logs"])
    manifest = read_manifest(tmp_path, "run")
    assert (manifest["kind"], manifest["seed"]) == ("run", 3)
    assert manifest["files"] == {"below/a.txt": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}


def test_manifest_does_not_list_itself_when_written_again(tmp_path):
    write_manifest(tmp_path, "run", {})
    write_manifest(tmp_path, "run", {})
    assert read_manifest(tmp_path, "run")["files"] == {}


@pytest.mark.parametrize("name", ["none", "x" * 300])
def test_folder_that_is_not_there_has_no_manifest(tmp_path, name):
    fault = fault_of(FolderError, read_manifest, tmp_path / name, "run")
    assert (fault.what, fault.where) == ("no such folder", str(tmp_path / name))


def test_folder_without_a_manifest_is_incomplete(tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes(b"half")
    fault = fault_of(FolderError, read_manifest, tmp_path, "run")
    assert fault.what == "this is not a complete run folder: it has no manifest.json"
    assert "make it anew" in fault.hint


def test_folder_of_another_kind_is_refused(tmp_path):
    write_manifest(tmp_path, "prepared", {})
    fault = fault_of(FolderError, read_manifest, tmp_path, "run")
    assert fault.what == "this is not a run folder but a prepared one"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"5", b"\xff\xfe"])
def test_broken_manifest_ends_in_a_message(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    fault = fault_of(FolderError, read_manifest, tmp_path, "run")
    assert fault.what == "the manifest can't be read"
    assert fault.where == str(tmp_path / MANIFEST)


def test_written_text_replaces_the_old_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    write_text(path, "\u4e39\u7089\n")
    assert path.read_bytes() == "\u4e39\u7089\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_half_a_character_is_written_as_json_writes_it(tmp_path):
    write_json(tmp_path / "a.json", {"name": "half \ud83d"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "half \ud83d"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_written_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"name": "\u4e39\u7089", "loss": 0.5})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "\u4e39\u7089", "loss": 0.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()
