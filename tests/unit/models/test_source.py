"""A model's name becomes a checked folder, or one message that says every place tried."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from danlu.errors import ModelError
from danlu.models import embedded
from danlu.models.folder import check_model_folder, weight_files
from danlu.models.loading import choose_dtype, load_base
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.runs import read_manifest


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    return folder


def test_the_short_name_gives_the_same_weights_everywhere(model_folder: Path) -> None:
    manifest = read_manifest(model_folder, "model")
    assert find_model("smollm2-135m-instruct") == model_folder
    assert manifest["licence"] == "Apache-2.0"
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == manifest["files"]["model.safetensors"]["sha256"]


def test_the_converted_weights_are_those_of_the_gguf(model_folder: Path) -> None:
    model = load_base(model_folder, torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    tokenizer = load_tokenizer(model_folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids.shape[1] :])


def test_a_damaged_download_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but not the one")
    with pytest.raises(ModelError, match="is not the expected file"):
        embedded._verify(path, embedded.EMBEDDED["smollm2-135m-instruct"].member_sha256, "model.gguf")


def test_a_name_that_is_nowhere_lists_every_place_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        find_model("nobody/no-such-model")
    text = str(caught.value)
    for place in ("folder nobody/no-such-model", ".gguf file", "short name", "hub id", "ModelScope id", "hint:"):
        assert place in text, place


def test_a_name_that_is_no_id_is_not_asked_of_a_hub() -> None:
    with pytest.raises(ModelError, match="hub id: not of the form owner/name"):
        find_model("no such model!")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match="this file is not a model"):
        find_model(str(path))


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="first bytes are not `GGUF`"):
        find_model(str(path))


def test_a_folder_without_config_tokenizer_and_weights_says_all_three(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(str(tmp_path))
    assert len(caught.value.faults) == 3


def test_pickle_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle files \(pytorch_model.bin\)"):
        check_model_folder(copied)


def test_broken_safetensors_are_named(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[:-3])
    with pytest.raises(ModelError, match="this safetensors file is broken"):
        check_model_folder(copied)


def test_a_missing_shard_is_named(copied: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names model-00002-of-00002\.safetensors, which is not there"):
        check_model_folder(copied)


def test_broken_config_json_is_named(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json can't be read"):
        check_model_folder(copied)


def test_weights_that_lack_tensors_are_refused_at_load(copied: Path) -> None:
    assert weight_files(check_model_folder(copied))
    with pytest.raises(ModelError, match="tensors are missing from the weights"):
        load_base(copied, torch.float32)


def test_a_tokenizer_without_template_is_refused(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(copied)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.", "line 1: "),
        ("{{ messages | nosuch }}", "line 1: No filter named 'nosuch'"),
        ([{"name": "other", "template": "{{ messages }}"}], "This model has multiple chat templates with no default"),
        (5, "it is not text but int"),
    ],
)
def test_a_template_that_nothing_can_be_written_with_is_refused(copied: Path, template: Any, reason: str) -> None:
    (copied / "chat_template.jinja").unlink()
    path = copied / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    with pytest.raises(ModelError, match=re.escape(f"the chat template can't be used: {reason}")):
        load_tokenizer(copied)


def test_a_template_that_refuses_one_conversation_may_write_others(copied: Path) -> None:
    path = copied / "chat_template.jinja"
    path.write_text("{{ raise_exception('no system turn') if messages[0].role != 'system' }}" + path.read_text())
    assert load_tokenizer(copied).chat_template


def test_a_tokenizer_that_is_no_object_is_refused(copied: Path) -> None:
    (copied / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match="the tokenizer can't be read: "):
        load_tokenizer(copied)


@pytest.mark.parametrize(("flag", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_auto_is_bf16_only_where_the_processor_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, flag: str, dtype: Any
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert choose_dtype("auto", torch.device("cpu")) == dtype
