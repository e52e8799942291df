"""Serving: tokens a second and first tokens for many clients and adapters, one base in process.

    python benchmarks/serving.py --clients 1 8 32 --adapters 1 4 16 --seconds 20 --out results/NAME.json
    python benchmarks/serving.py --only arrivals      # first tokens with Poisson arrivals, prompts that share nothing
    python benchmarks/serving.py --engine llama.cpp --quantize q8_0
    python benchmarks/serving.py --engine llama-server --quantize q8_0    # llama.cpp's own server, nothing of ours
    python benchmarks/serving.py --engine vllm-server                     # vLLM's own server, nothing of ours

Adapters are random LoRAs of rank 16 on all linear layers. `one_by_one` is Transformers' `generate` with PEFT's model,
one prompt after another. Say on which machine, and that nothing else ran. The gateway itself: gateway_overhead.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import describe_run, write_result

from danlu.engines.openmp import no_team_left

ENGINES = ["transformers", "llama.cpp", "llama-server", "vllm-server"]
WORDS = ["river", "stone", "cloud", "lamp", "tiger", "paper", "green", "silver", "ocean", "maple", "candle", "bank"]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p95 in milliseconds."""
    ordered = sorted(seconds)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 1)  # noqa: E731
    return {"p50_ms": at(0.5), "p95_ms": at(0.95)}


def prompts(count: int, tokens: int, tokenizer: Any) -> list[tuple[int, ...]]:
    """Prompts of so many tokens that begin differently."""
    dice = random.Random(0)
    made = []
    for _ in range(count):
        text = " ".join(dice.choice(WORDS) for _ in range(2 * tokens))
        made.append(tuple(tokenizer(text)["input_ids"][:tokens]))
    return made


def random_adapters(base: Any, count: int) -> list[Any]:
    """LoRAs of rank 16 on all linear layers, small enough to leave the answers sensible."""
    from danlu.adapters.plain_lora import Pair, PlainLora
    from danlu.adapters.targets import linear_layers

    made = []
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, layer in linear_layers(base).items():
            down = torch.randn(16, layer.in_features, generator=draw) / layer.in_features**0.5
            up = torch.randn(16, layer.out_features, generator=draw) * 0.01
            pairs[name] = Pair(down.to(base.dtype), up.to(base.dtype))
        made.append(PlainLora(pairs))
    return made


def write_adapter(adapter: Any, folder: Path) -> None:
    """As PEFT writes it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, pair in adapter.pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = pair.down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = pair.up.t().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


class Bench:
    """An engine with adapters, and who asks it."""

    def __init__(self, model: str, dtype: str) -> None:
        from danlu.engines.batching import Limits
        from danlu.serving.loading import open_base

        self.model = model
        self.served = open_base(model, dtype, Limits(max_rows=64, prefix_bytes=0))
        self.engine: Any = self.served.engine
        self.tokenizer = self.engine.tokenizer
        gc.freeze()  # as `danlu serve` does

    @property
    def names(self) -> list[str | None]:
        """The adapters that are asked for in turn; the base where there is none."""
        return list(self.engine.bank.names) or [None]

    def figures(self) -> dict[str, int]:
        """What the engine has done, as far as it is worth telling."""
        return {"mixed_steps": self.engine.figures()["mixed_steps"]}

    def close(self) -> None:
        """Ends the engine."""
        self.engine.close()

    @no_team_left()
    def load(self, count: int) -> list[float]:
        """Seconds that each adapter took to be read from its file and put on."""
        from danlu.adapters.plain_lora import read_plain_lora

        seconds = []
        with tempfile.TemporaryDirectory() as place:
            for number, adapter in enumerate(random_adapters(self.engine.model, count)):
                folder = Path(place) / str(number)
                write_adapter(adapter, folder)
                began = time.perf_counter()
                model = self.engine.model
                self.engine.add(f"a{number}", read_plain_lora(folder, model.dtype, model.device))
                seconds.append(time.perf_counter() - began)
        self.bytes_of_one = adapter.num_bytes
        return seconds

    def unload(self) -> None:
        """Takes all adapters off."""
        for name in self.engine.bank.names:
            self.engine.remove(name)

    def ask(self, prompt: tuple[int, ...], adapter: str | None, tokens: int) -> tuple[float, float, int]:
        """Seconds to the first token and to the last, and how many came."""
        from danlu.engines.batching import Ask
        from danlu.engines.interface import Sampling

        began, first, done = time.perf_counter(), [0.0], threading.Event()
        count = [0]

        def hear(piece: Any) -> None:
            first[0] = first[0] or time.perf_counter() - began
            count[0] += len(piece.tokens)
            if piece.answer or piece.error:
                done.set()

        self.engine.submit(Ask(prompt, Sampling(tokens), adapter), hear)
        done.wait()
        return first[0], time.perf_counter() - began, count[0]

    def clients(self, count: int, seconds: float, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """So many clients, each asking anew when it is answered."""
        asked, names = prompts(256, prompt_tokens, self.tokenizer), self.names
        until = time.perf_counter() + seconds
        firsts: list[float] = []
        made = [0]

        def client(number: int) -> None:
            turn = number
            while time.perf_counter() < until:
                first, _, count_now = self.ask(asked[turn % 256], names[turn % len(names)], tokens)
                firsts.append(first)
                made[0] += count_now
                turn += count

        before = self.figures()
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(client, range(count)))
        took = time.perf_counter() - began
        done = {name: count - before[name] for name, count in self.figures().items()}
        return {"tokens_per_second": round(made[0] / took, 1), **percentiles(firsts), **done}

    def arrivals(self, per_second: float, seconds: float, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """Clients that come when they come, whatever the others do."""
        dice = random.Random(1)
        asked, names = prompts(512, prompt_tokens, self.tokenizer), self.names
        with ThreadPoolExecutor(64) as pool:
            waiting, began, number = [], time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                time.sleep(dice.expovariate(per_second))
                waiting.append(pool.submit(self.ask, asked[number % 512], names[number % len(names)], tokens))
                number += 1
            firsts = [one.result()[0] for one in waiting]
        return {"requests": number, "mean_ms": round(statistics.mean(firsts) * 1000, 1), **percentiles(firsts)}

    def one_by_one(self, seconds: float, prompt_tokens: int, tokens: int) -> float:
        """Tokens a second of `generate`, one prompt after another, with a model of its own as PEFT wraps it."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        from danlu.models.source import find_model

        base = AutoModelForCausalLM.from_pretrained(find_model(self.model), dtype=self.engine.model.dtype)
        base.to(self.engine.model.device)
        model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear")).eval()
        made, began = 0, time.perf_counter()
        for prompt in prompts(64, prompt_tokens, self.engine.tokenizer):
            ids = torch.tensor([prompt], device=model.device)
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=tokens,
                    do_sample=False,
                    eos_token_id=sorted(self.engine.stop_ids),
                    pad_token_id=min(self.engine.stop_ids),
                )
            made += out.shape[1] - len(prompt)
            if time.perf_counter() - began > seconds:
                break
        took = time.perf_counter() - began
        return round(made / took, 1)


def bench_of(chosen: argparse.Namespace) -> Bench:
    """The engine that was chosen."""
    if chosen.engine == "transformers":
        return Bench(chosen.model, chosen.dtype)
    if chosen.engine == "vllm-server":
        from serving_vllm import VllmBench

        return VllmBench(chosen.model, chosen.dtype)
    from serving_llama import DirectBench, LlamaBench

    kind = DirectBench if chosen.engine == "llama-server" else LlamaBench
    return kind(chosen.model, chosen.quantize, chosen.slots, chosen.prompt_tokens + chosen.tokens, chosen.threads)


def main() -> None:
    """Measures what is asked for, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--engine", choices=ENGINES, default="transformers")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantize", default="q8_0")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp; 0: its own choice")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--arrivals-adapters", type=int, default=4)
    parser.add_argument("--only", choices=["clients", "arrivals", "one_by_one"])
    parser.add_argument("--out")
    chosen = parser.parse_args()
    kind = chosen.quantize if chosen.engine.startswith("llama") else chosen.dtype
    found: dict[str, Any] = {**describe_run(torch.get_num_threads()), "engine": chosen.engine, "kind": kind}

    def note(name: str, work: Callable[[], Any]) -> None:
        if chosen.only in (None, name.split(" ")[0]):
            found[name] = work()
            print(f"{name}: {json.dumps(found[name])}", flush=True)

    bench = bench_of(chosen)
    bench.clients(2, 2, 16, 8)
    for adapters in chosen.adapters if chosen.only in (None, "clients") else []:
        bench.unload()
        found[f"load {adapters}"] = {**percentiles(bench.load(adapters)), "megabytes_each": bench.bytes_of_one / 1e6}
        print(f"load {adapters}: {found[f'load {adapters}']}", flush=True)
        for clients in chosen.clients:
            size = (chosen.seconds, chosen.prompt_tokens, chosen.tokens)
            note(f"clients {clients} adapters {adapters}", lambda n=clients, s=size: bench.clients(n, *s))
    bench.unload()
    bench.load(chosen.arrivals_adapters)
    note("arrivals", lambda: bench.arrivals(1.0, chosen.seconds * 3, 200, 32))
    bench.close()  # its threads too, which would slow down what follows
    if chosen.engine == "transformers":
        note("one_by_one", lambda: bench.one_by_one(chosen.seconds, chosen.prompt_tokens, chosen.tokens))
    if chosen.out:
        write_result(Path(chosen.out), found)


if __name__ == "__main__":
    main()
