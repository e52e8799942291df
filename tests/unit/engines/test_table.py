"""Which engine answers by what a model's files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.engines.table import choose_engine
from danlu.errors import InputError


def folder_with(parent: Path, name: str, text: str = "{}") -> str:
    (parent / name).write_text(text, encoding="utf-8")
    return str(parent)


@pytest.mark.parametrize(
    ("name", "text", "engine"),
    [
        ("model.gguf", "", "llama.cpp"),
        ("adapter.gguf", "", "llama.cpp"),
        ("decoder_model.onnx", "", "onnxruntime"),
        ("config.json", '{"quantization_config": {"quant_method": "compressed-tensors"}}', "compressed-tensors"),
        ("config.json", '{"model_type": "llama"}', "transformers"),
    ],
)
def test_the_files_of_a_folder_choose_the_engine(tmp_path: Path, name: str, text: str, engine: str) -> None:
    folder = folder_with(tmp_path, name, text)
    assert choose_engine("auto", folder) == engine
    assert choose_engine(engine, folder) == engine


def test_a_short_name_and_a_gguf_file_are_read_by_transformers_unless_llama_cpp_is_asked_for() -> None:
    assert choose_engine("auto", "smollm2-135m-instruct") == "transformers"
    assert choose_engine("auto", "some/model.gguf") == "transformers"
    assert choose_engine("llama.cpp", "some/model.gguf") == "llama.cpp"


@pytest.mark.parametrize(("engine", "allowed"), [("vllm", "auto, transformers"), ("onnxruntime", "llama.cpp")])
def test_an_engine_that_is_none_or_does_not_read_it_is_refused(tmp_path: Path, engine: str, allowed: str) -> None:
    folder = folder_with(tmp_path, "model.gguf")
    with pytest.raises(InputError) as refused:
        choose_engine(engine, folder)
    assert engine in str(refused.value)
    assert allowed in str(refused.value)
