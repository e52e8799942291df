"""The registry on a real S3 server: two writers, a server that can't keep them apart, keys, a tampered object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_storage import PROGRAM, REQUIRED, object_storage
from registry_race import race
from small_registry import write_run

from danlu.errors import DamagedError, RegistryError
from danlu.registry import Registry
from danlu.registry.object_store import ObjectStore

pytestmark = pytest.mark.skipif(PROGRAM is None and not REQUIRED, reason="SeaweedFS is not installed (make backends)")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with object_storage(tmp_path_factory.mktemp("storage")) as environment:
        yield environment


@pytest.fixture(autouse=True)
def _environment(storage: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in storage.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    folders = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))


def test_two_writers_at_an_s3_server_lose_no_version_and_tear_no_alias(tmp_path: Path) -> None:
    figures = race("s3://registries/race", tmp_path)
    assert figures["events"] > figures["operations"] / 2


def test_a_version_goes_to_s3_and_comes_back_as_it_was(tmp_path: Path) -> None:
    run, registry = write_run(tmp_path / "run"), Registry.open("s3://registries/whole")
    registry.add(run, "support", "production")
    registry.add(write_run(tmp_path / "other", 1), "support")
    folder = Registry.open("s3://registries/whole/").fetch(registry.resolve("support"))
    for path in ("adapter/adapter_model.safetensors", "probes/logits.safetensors", "manifest.json"):
        assert (folder / path).read_bytes() == (run / path).read_bytes()
    assert registry.about(registry.resolve("support"))["training"]["train_loss"] == 0.5
    removed = registry.remove("support@2")
    assert removed["removed"] == ["support@2"]
    store = ObjectStore("s3://registries/whole")
    assert {path.split("/")[2] for path in store.find("versions")} == {registry.resolve("support@1").place[-45:]}
    assert registry.prune()["leftovers"] == 0


def test_a_tampered_object_is_refused_by_its_name(tmp_path: Path) -> None:
    registry = Registry.open("s3://registries/tampered")
    registry.add(write_run(tmp_path / "run"), "support")
    version = registry.resolve("support")
    path = f"{version.place}/adapter/adapter_model.safetensors"
    store = ObjectStore(registry.url)
    store.replace(path, (store.read(path) or b"")[:-1] + b"x")
    with pytest.raises(DamagedError, match="SHA-256") as caught:
        registry.fetch(version)
    assert caught.value.faults[0].where == f"s3://registries/tampered/{path}"
    store.remove([path])
    with pytest.raises(DamagedError, match="is missing"):
        registry.fetch(version)


def test_a_server_that_overwrites_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    whole: Any = s3fs.S3FileSystem._call_s3

    async def deaf(self: Any, method: str, *words: Any, **fields: Any) -> Any:
        fields.pop("IfNoneMatch", None)
        return await whole(self, method, *words, **fields)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", deaf)
    registry = Registry.open("s3://registries/deaf")
    with pytest.raises(RegistryError, match="overwrites what is there"):
        registry.add(write_run(tmp_path / "run"), "support")
    with pytest.raises(RegistryError, match="overwrites what is there"):
        registry.rollback("support", "production")
    assert not ObjectStore("s3://registries/deaf").find("")


def test_wrong_keys_and_no_server_are_said_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RegistryError, match="can't be used: PermissionError") as caught:
        Registry.open("s3://registries/whole").state()
    assert "AWS_ACCESS_KEY_ID" in caught.value.faults[0].hint
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RegistryError, match="can't be used: EndpointConnectionError"):
        Registry.open("s3://registries/whole").state()
    s3fs.S3FileSystem.clear_instance_cache()
