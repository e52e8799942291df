"""A GGUF file, run by llama.cpp itself, answers as the run did: weights, template, end tokens, and adapters alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("xllamacpp")

from small_runs import train, write_recipe

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter, save_adapter
from danlu.data.records import Messages
from danlu.data.template import prompt_ids, stop_ids
from danlu.engines.exported import engine_for
from danlu.engines.interface import Sampling
from danlu.engines.llama_cpp import LlamaCppEngine
from danlu.engines.transformers_engine import TransformersEngine
from danlu.export.formats import gguf, gguf_lora
from danlu.export.formats.interface import Subject
from danlu.models.loading import generation_defaults, load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.serving.batch import run_generate

LENGTH = 8
TALKS: list[Messages] = [
    [{"role": "user", "content": "What is 7 and 9?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Name three colours."},
    ],
]


def subject_of(base: Path, adapter: Path | None = None, stops: tuple[int, ...] = (2,)) -> Subject:
    return Subject(base, adapter, None, stops, lambda count: [])


def export(run: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "danlu", "export", str(run), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def run_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf_run")
    train(write_recipe(folder, tiny_base), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def plain(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaCppEngine, TransformersEngine]:
    """The tiny base as a float32 GGUF file, and in Transformers."""
    folder = tmp_path_factory.mktemp("gguf")
    gguf.write(subject_of(tiny_base), tiny_base, folder, "f32")
    engine = engine_for(folder)
    assert isinstance(engine, LlamaCppEngine)
    tokenizer = load_tokenizer(tiny_base)
    stops = stop_ids(tokenizer, generation_defaults(tiny_base))
    return engine, TransformersEngine(load_base(tiny_base, torch.float32), tokenizer, stops)


def assert_alike(engine: LlamaCppEngine, referee: TransformersEngine) -> None:
    for messages in TALKS:
        prompt = prompt_ids(referee.tokenizer, messages)
        assert engine.prompt_ids(messages) == prompt
        logits = referee.logits(prompt, [50, 60, 70, 80])
        asked = logits.topk(16).indices
        found = engine.next_tokens(prompt, [50, 60, 70, 80], asked)
        assert torch.equal(found.likeliest, logits.argmax(-1))
        off = (found.log_probabilities - logits.log_softmax(-1).gather(-1, asked)).abs()
        assert not off.isnan().any()
        assert off.max() < 1e-3
    answers = engine.generate(TALKS, Sampling(LENGTH))
    assert [answer.ids for answer in answers] == [one.ids for one in referee.generate(TALKS, Sampling(LENGTH))]


def test_llama_cpp_says_what_transformers_says(plain: tuple[LlamaCppEngine, TransformersEngine]) -> None:
    engine, referee = plain
    assert_alike(engine, referee)
    assert engine.stop_ids == referee.stop_ids
    for messages in TALKS:
        text = engine.generate([messages], Sampling(LENGTH))[0].text
        assert "".join(engine.stream(messages, Sampling(LENGTH))) == text


def test_of_the_likeliest_token_alone_the_dice_choose_it(plain: tuple[LlamaCppEngine, TransformersEngine]) -> None:
    engine, _ = plain
    hot = engine.generate(TALKS, Sampling(LENGTH, temperature=5.0, top_k=1))
    assert hot == engine.generate(TALKS, Sampling(LENGTH))
    assert hot != engine.generate(TALKS, Sampling(LENGTH, temperature=5.0))


def test_it_tells_the_likeliest_tokens_and_owns_to_the_rest(plain: tuple[LlamaCppEngine, TransformersEngine]) -> None:
    engine, referee = plain
    prompt = engine.prompt_ids(TALKS[0])
    order = referee.logits(prompt, [50])[0].argsort(descending=True)
    asked = torch.stack([order[0], order[10], order[-1]])[None]
    found = engine.next_tokens(prompt, [50], asked).log_probabilities
    assert found.isnan().tolist() == [[False, False, True]]


def test_an_end_token_that_the_tokenizer_does_not_call_its_end_is_in_the_file(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    template = (base / "chat_template.jinja").read_text().replace("<|im_end|>", "<jupyter_text>")
    (base / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(base)
    stops = stop_ids(tokenizer, {})
    assert len(stops) == 2
    folder = tmp_path / "export"
    folder.mkdir()
    gguf.write(subject_of(base, stops=tuple(stops)), base, folder, "f16")
    assert LlamaCppEngine(folder / "model.gguf").stop_ids == stops
    lines = (folder / "Modelfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("PARAMETER")] == [
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<jupyter_text>"',
    ]


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_alone_scales_as_it_was_trained(tiny_base: Path, tmp_path: Path, rslora: bool) -> None:
    kind = Lora(4, 8.0, use_rslora=rslora, rank_pattern={} if rslora else {"q_proj": 8})
    tuned = add_adapter(load_base(tiny_base, torch.float32), kind, ["q_proj", "v_proj", "down_proj"], 0).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(tuned, tmp_path / "adapter", "base")
    subject = subject_of(tiny_base, tmp_path / "adapter")
    assert gguf_lora.refusal(subject, "f32") is None
    (tmp_path / "export").mkdir()
    gguf_lora.write(subject, tmp_path, tmp_path / "export", "f32")
    engine = engine_for(tmp_path / "export")
    assert isinstance(engine, LlamaCppEngine)
    referee = TransformersEngine(tuned, load_tokenizer(tiny_base), [2])
    assert_alike(engine, referee)
    base_says = engine.generate(TALKS, Sampling(LENGTH), tuned=False)
    assert base_says == referee.generate(TALKS, Sampling(LENGTH), tuned=False)


@pytest.mark.parametrize("quantize", ["f32", "q8_0"])
def test_a_run_is_exported_and_proven(run_folder: Path, tmp_path: Path, quantize: str) -> None:
    status, result, stderr = export(run_folder, "--to", "gguf", "--quantize", quantize, "--out", str(tmp_path / "out"))
    assert status == 0, stderr
    parity = result["parity"]
    assert parity["argmax_agreement"] >= (0.99 if quantize == "f32" else 0.9)
    assert parity["greedy_equal"] >= parity["prompts"] - (0 if quantize == "f32" else 2)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Passed: **yes**" in card
    assert "40 kept" in card
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"model.gguf", "Modelfile", "README.md", "parity.json", "manifest.json"}
    status, again, stderr = export(run_folder, "--check", str(tmp_path / "out"))
    assert status == 0, stderr
    assert again["parity"]["argmax_agreement"] == parity["argmax_agreement"]
    if quantize == "f32":
        assert_it_generates_as_the_run_does(run_folder, tmp_path)


def assert_it_generates_as_the_run_does(run: Path, folder: Path) -> None:
    """`danlu generate` by the exported folder: llama.cpp is chosen by its files."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": one[-1]["content"]}) + "\n" for one in TALKS), encoding="utf-8")
    said = []
    for model in (run, folder / "out"):
        out = folder / f"{model.name}.jsonl"
        run_generate(str(model), str(rows), out, Sampling(LENGTH), quiet=True)
        said.append([json.loads(line)["answer"] for line in out.read_text(encoding="utf-8").splitlines()])
    assert said[0] == said[1]
    assert json.loads((folder / "out.jsonl.generation.json").read_text())["engine"] == "llama.cpp"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "gguf", "--quantize", "q9"], "--quantize q9 is not known"),
        (["--to", "gguff"], "--to gguff is not known"),
        (["--to", "gguf", "--dtype", "bfloat16"], "--dtype is for --to merged"),
    ],
)
def test_a_wrong_choice_is_one_message_and_writes_nothing(
    run_folder: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    status, result, stderr = export(run_folder, *words, "--out", str(tmp_path / "out"))
    assert status == 2
    assert said in result["faults"][0]["what"]
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()
