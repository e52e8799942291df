"""What a GPU computes is what the processor computes; what only a GPU has (FlashAttention, paging) is held to it too.

Each test trains small random models. Without a GPU they are skipped: the rest of the tests is the same code on a
processor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import answers_one_by_one, make_base, save_adapters
from small_runs import TRAIN, assert_same, numbers_of, train, write_recipe

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.plain_lora import read_plain_lora
from danlu.data.template import stop_ids
from danlu.engines.batching import Ask, BatchingEngine, Limits
from danlu.engines.interface import Sampling
from danlu.kernels import gpu
from danlu.kernels.chosen_loss import chosen_loss, plain_loss
from danlu.kernels.gated import gated
from danlu.kernels.packed_attention import causal_attention, plain_attention
from danlu.kernels.rms_norm import rms_norm
from danlu.models.loading import load_base
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization
from danlu.serving.loading import open_base
from danlu.training.trained import open_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def with_gradients(output: torch.Tensor, given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    seen = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output)
    return [output.detach(), *torch.autograd.grad(output, given, seen)]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_()


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("queries", "keys"), [(4, 2), (3, 3)])
def test_packed_attention_is_the_reference(
    window: int | None, dtype: torch.dtype, bound: float, queries: int, keys: int
) -> None:
    query, key, value = (
        random(3, n, 300, 64, dtype=dtype, seed=place) for place, n in enumerate((queries, keys, keys))
    )
    rows, columns = torch.arange(300, device="cuda")[:, None], torch.arange(300, device="cuda")
    allowed = (columns <= rows) & (columns > rows - (window or 300))
    exact = [one.detach().double().requires_grad_() for one in (query, key, value)]
    wanted = with_gradients(plain_attention(*exact, allowed, 0.3).transpose(1, 2), tuple(exact))
    found = with_gradients(causal_attention(query, key, value, 0.3, window), (query, key, value))
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_chunked_loss_is_the_reference(
    dtype: torch.dtype, bound: float, softcap: float | None, smoothing: float
) -> None:
    hidden, weight = random(700, 64, dtype=dtype), random(3000, 64, dtype=dtype, seed=1).detach()
    targets = torch.randint(3000, (700,), device="cuda")
    exact = hidden.detach().double().requires_grad_()
    wanted = plain_loss(exact, weight.double(), targets, softcap=softcap, label_smoothing=smoothing)
    for chunk in (None, 3000 * 100):
        loss = chosen_loss(hidden, weight, targets, softcap=softcap, label_smoothing=smoothing, max_logits=chunk)
        assert loss.item() == pytest.approx(wanted.item(), rel=bound / 5)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert apart(gradient, torch.autograd.grad(wanted, exact, retain_graph=True)[0]) < bound


@pytest.mark.skipif(not gpu._liger_installed(), reason="needs liger-kernel")
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_ligers_norm_and_gated_product_are_the_reference(activation: str) -> None:
    x, weight = random(2, 33, 64, dtype=torch.float32), random(64, dtype=torch.float32, seed=1)
    gate, up = (random(2, 33, 96, dtype=torch.float32, seed=n) for n in (2, 3))
    for style in ("llama", "gemma"):
        scale = 1 + weight if style == "gemma" else weight
        wanted = torch.nn.functional.rms_norm(x.double(), (64,), scale.double(), 1e-6)
        assert apart(rms_norm(x, weight.detach(), 1e-6, style), wanted) < 1e-5
    act = (
        torch.nn.functional.silu if activation == "silu" else lambda t: torch.nn.functional.gelu(t, approximate="tanh")
    )
    assert apart(gated(gate, up, activation), act(gate.double()) * up.double()) < 1e-5


@pytest.fixture(scope="module")
def on_processor(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and its run by a process that sees no GPU."""
    folder = tmp_path_factory.mktemp("cuda")
    recipe = write_recipe(folder, tiny_base)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    words = [*TRAIN, str(recipe), f"run.folder={folder / 'processor'}", "--json"]
    done = subprocess.run(words, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["peak_gpu_memory_bytes"] is None
    return recipe, folder / "processor"


def test_a_run_on_the_gpu_is_the_run_on_the_processor(on_processor: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, expected = on_processor
    result = train(recipe, tmp_path / "gpu")
    assert result["peak_gpu_memory_bytes"] > 0
    manifest = json.loads((tmp_path / "gpu" / "manifest.json").read_text())
    assert manifest["engine"] == "packed attention, fused layers, chunked loss"
    assert_same(tmp_path / "gpu", expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_stay_near_it(on_processor: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    recipe, expected = on_processor
    train(recipe, tmp_path / dtype, f"model.dtype={dtype}")
    found, wanted = numbers_of(tmp_path / dtype)[0], numbers_of(expected)[0]
    assert found == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_bitsandbytes_optimizers_stay_near_it(on_processor: tuple[Path, Path], tmp_path: Path, optimizer: str) -> None:
    pytest.importorskip("bitsandbytes")
    recipe, expected = on_processor
    train(recipe, tmp_path / optimizer, f"training.optimizer={optimizer}")
    found, wanted = numbers_of(tmp_path / optimizer)[0], numbers_of(expected)[0]
    assert found == pytest.approx(wanted, rel=1e-2)


def test_a_run_that_goes_on_ends_where_the_whole_one_does(on_processor: tuple[Path, Path], tmp_path: Path) -> None:
    """To rounding: a GPU adds up in no fixed order, so not even the same run twice has the same bits."""
    recipe, _ = on_processor
    words = ("adapter.dropout=0.1", "training.checkpoints.every_steps=2")
    train(recipe, tmp_path / "whole", *words)
    train(recipe, tmp_path / "again", *words)
    again = tmp_path / "again"
    (again / "manifest.json").unlink()
    for folder in (again / "adapter", again / "probes"):
        shutil.rmtree(folder)
    train(recipe, again, *words, "--resume")
    assert_same(again, tmp_path / "whole")


QUANTIZED: list[Any] = [FourBitQuantization(type="nf4", double=True), EightBitQuantization(type="int8")]


@pytest.mark.parametrize("quantization", QUANTIZED, ids=["nf4", "int8"])
def test_gradients_on_quantised_weights_are_the_same_after_an_evaluation(tiny_base: Path, quantization: Any) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(tiny_base, torch.bfloat16, quantization=quantization)
    assert next(base.parameters()).is_cuda
    model = add_adapter(base, Lora(4, 8.0, 0.0), ["q_proj", "v_proj", "up_proj"], 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(20, 60, device="cuda").reshape(2, 20)

    def gradients() -> list[torch.Tensor]:
        model.train()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found = [one.grad.clone() for one in model.parameters() if one.grad is not None]
        model.zero_grad()
        return found

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    for one, other in zip(gradients(), before, strict=True):
        assert float(other.norm()) > 0
        assert torch.equal(one, other)


def test_max_memory_is_that_of_the_gpu(on_processor: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = on_processor
    refused = train(recipe, tmp_path / "refused", "training.max_memory=1MB", check=False)
    assert refused["status"] == 2
    assert "allowed are 0.00 GB" in refused["stderr"]


def test_exports_of_a_gpu_run_pass_the_gate(on_processor: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = on_processor
    train(recipe, tmp_path / "run", "model.dtype=bfloat16")
    words = [sys.executable, "-m", "danlu", "export", str(tmp_path / "run"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["parity"]["passed"]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_base_and_three_adapters_in_one_batch_answer_as_on_the_processor(
    family: str, tokenizer: Any, tmp_path: Path
) -> None:
    base = make_base(family, len(tokenizer))
    folders = save_adapters(family, base, tmp_path)
    served = make_base(family, len(tokenizer)).to("cuda")
    engine = BatchingEngine(served, tokenizer, stop_ids(tokenizer, {}), Limits(chunk_tokens=16))
    for name, folder in folders.items():
        engine.add(name, read_plain_lora(folder, torch.float32, served.device))
    drawn = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(3, 300, (size,), generator=drawn).tolist()) for size in (1, 9, 30, 61)]
    asks = [Ask(prompt, Sampling(24), name) for prompt in prompts for name in (None, *folders)]
    with ThreadPoolExecutor(len(asks)) as pool:
        found = [list(answer.ids) for answer in pool.map(engine.answer, asks)]
    engine.close()
    expected = {
        name: answers_one_by_one(base, folders.get(name or ""), prompts, 24, sorted(engine.stop_ids))
        for name in (None, *folders)
    }
    assert found == [expected[one.adapter][prompts.index(one.prompt)] for one in asks]
    assert engine.counters.most_adapters == 4


def test_a_gpu_run_is_served_by_the_gpu_and_proven(on_processor: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = on_processor
    train(recipe, tmp_path / "run", "model.dtype=bfloat16")
    base = open_base(open_run(tmp_path / "run"), "auto", Limits())
    assert base.engine.model.device.type == "cuda"
    base.loads.load("helper", tmp_path / "run", proven=False)  # raises where the probes are missed
    assert len(base.engine.answer(Ask((5, 6, 7), Sampling(4), "helper")).ids) > 0
    base.engine.close()
