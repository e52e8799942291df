"""For serving.py: llama.cpp behind Danlu, and llama.cpp's own server with the same files, slots and questions."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import Bench, random_adapters, write_adapter

from danlu.runs import danlu_home
from danlu.serving.backends.llama import LlamaBackend, adapter_file, open_llama
from danlu.serving.backends.llama_server import Size

_LONGEST = 264  # 200 tokens of prompt and 32 of answer, and some room


class LlamaBench(Bench):
    """llama.cpp as `danlu serve` starts it.

    Args:
        model: by name.
        kind: of its weights.
        slots: answers at once.
        context_tokens: of a prompt and its answer.
        threads: that compute.
    """

    def __init__(self, model: str, kind: str, slots: int, context_tokens: int, threads: int) -> None:
        self.served = open_llama(model, kind, Size(slots, max(context_tokens, _LONGEST), 128, threads=threads), 2 << 30)
        assert isinstance(self.served.engine, LlamaBackend)
        self.engine: Any = self.served.engine
        self.tokenizer, self.slots = self.engine.tokenizer, slots
        self.files = gguf_adapters(model, 16)

    @property
    def names(self) -> list[str | None]:
        """The adapters that are asked for in turn; the base where there is none."""
        return list(self.engine.adapters) or [None]

    def figures(self) -> dict[str, int]:
        """How often an answer was asked for on, and the turn went over to another adapter."""
        return {name: self.engine.figures()[name] for name in ("slices", "turns")}

    def load(self, count: int) -> list[float]:
        """Seconds that a server took to start with so many adapters and take over, for each of them."""
        self.bytes_of_one = self.files[0].stat().st_size
        began = time.perf_counter()
        self.engine.take_over(
            self.engine.beside({f"a{number}": path for number, path in enumerate(self.files[:count])})
        )
        return [(time.perf_counter() - began) / count] * count

    def unload(self) -> None:
        """A server without adapters."""
        self.engine.take_over(self.engine.beside({}))


class DirectBench(LlamaBench):
    """llama.cpp's own server, asked by HTTP as its users do, streamed, nothing of Danlu's in between."""

    def load(self, count: int) -> list[float]:
        """As with `LlamaBench`."""
        seconds = super().load(count)
        self._server = self.engine.server
        return seconds

    def figures(self) -> dict[str, int]:
        """It tells none of its own."""
        return {}

    def ask(self, prompt: tuple[int, ...], adapter: str | None, tokens: int) -> tuple[float, float, int]:
        """Seconds to the first token and to the last, and how many came."""
        server = self.engine.server
        connection = http.client.HTTPConnection(server._place)
        lora = [{"id": number, "scale": float(name == adapter)} for name, number in server._numbers.items()]
        body = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "lora": lora, "stream": True}
        headers = {"content-type": "application/json", "authorization": f"Bearer {server._key}"}
        began, first, last = time.perf_counter(), 0.0, {}
        connection.request("POST", "/completion", json.dumps(body), headers)
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                last = json.loads(line[6:])
                first = first or time.perf_counter() - began
        connection.close()
        return first, time.perf_counter() - began, int(last["tokens_predicted"])


def gguf_adapters(model: str, count: int) -> list[Path]:
    """Random LoRAs of rank 16 as GGUF files; one is converted, the others have its form and other numbers."""
    from gguf import GGUFReader

    from danlu.export.formats.interface import Subject
    from danlu.models.loading import load_base
    from danlu.models.source import find_model

    place = danlu_home() / "benchmarks" / f"gguf-adapters-{Path(model).name}"
    paths = [place / f"{number}.gguf" for number in range(count)]
    if all(path.is_file() for path in paths):
        return paths
    place.mkdir(parents=True, exist_ok=True)
    base = find_model(model)
    (adapter,) = random_adapters(load_base(base, dtype_of("float32")), 1)
    write_adapter(adapter, place)
    made = adapter_file(Subject(base, place, None, [2], lambda count: []), "q8_0")
    for number, path in enumerate(paths):
        shutil.copyfile(made, path)
        draw = np.random.default_rng(number)
        for tensor in GGUFReader(path, "r+").tensors:
            tensor.data[:] = draw.permutation(tensor.data.reshape(-1)).reshape(tensor.data.shape)
    return paths


def dtype_of(name: str) -> Any:
    """Torch's."""
    import torch

    return getattr(torch, name)
